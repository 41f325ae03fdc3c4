"""The two-layer network's four ways to a gradient: the same numbers, from the same memory."""

import pytest
import torch
from torch import Tensor
from torch.autograd.profiler import profile
from torch.testing import assert_close

from trainer.models.gradients import autograd, custom_function, numpy, tensors

WAYS = [
    pytest.param(way.two_layer, id=way.__name__.rpartition(".")[2])
    for way in (autograd, tensors, numpy, custom_function)
]
BY_HAND = WAYS[1:]
IN_FORMULAS = WAYS[1:3]  # both passes by hand
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def arguments(
    sizes: tuple[int, int, int, int] = (7, 11, 5, 3),
    bias: bool = True,
    dtype: torch.dtype = torch.float64,
    device: str = "cpu",
) -> list[Tensor]:
    """inputs, w1, w2 (and b1, b2) from a standard normal, all wanting a gradient; sizes are N, in, hidden, out."""
    n, features, hidden, outputs = sizes
    shapes = [(n, features), (features, hidden), (hidden, outputs), (hidden,), (outputs,)]
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(shape, generator=generator, dtype=dtype).to(device) for shape in shapes[: 5 if bias else 3]]
    return [tensor.requires_grad_() for tensor in made]


def curve(two_layer, sizes: tuple[int, int, int, int], lr: float, num_steps: int, bias: bool) -> Tensor:
    """The sum of squares at each step of gradient descent in float32."""
    inputs, *weights = arguments(sizes, bias, torch.float32)
    inputs = inputs.detach()
    targets = torch.randn(sizes[0], sizes[3], generator=torch.Generator().manual_seed(1))
    losses = []
    for _ in range(num_steps):
        loss = (two_layer(inputs, *weights) - targets).square().sum()
        losses.append(loss.item())
        for weight, grad in zip(weights, torch.autograd.grad(loss, weights), strict=True):
            weight.data -= lr * grad
    return torch.tensor(losses)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("sizes", [(7, 11, 5, 3), (1, 4, 6, 1), (64, 100, 20, 10)], ids=str)
@pytest.mark.parametrize("two_layer", BY_HAND)
def test_values_and_gradients_are_those_of_autograd(two_layer, sizes, bias, device):
    given = arguments(sizes, bias, device=device)
    expected, outputs = autograd.two_layer(*given), two_layer(*given)
    assert (outputs - expected).norm() <= 1e-12 * expected.norm()
    grad_outputs = torch.randn_like(expected)
    expected_grads = torch.autograd.grad(expected, given, grad_outputs)
    for grad, expected_grad in zip(torch.autograd.grad(outputs, given, grad_outputs), expected_grads, strict=True):
        assert grad.device == expected_grad.device
        assert (grad - expected_grad).norm() <= 1e-12 * expected_grad.norm()


@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("two_layer", WAYS)
def test_gradients_are_finite_differences(two_layer, bias):
    assert torch.autograd.gradcheck(two_layer, arguments((3, 4, 5, 2), bias))


@pytest.mark.parametrize("two_layer", WAYS)
def test_the_gradient_is_zero_where_the_relu_is_given_zero(two_layer):
    _, w1, w2 = arguments(bias=False)
    inputs = torch.zeros(7, 11, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(two_layer(inputs, w1, w2).sum(), inputs)
    assert_close(grad, torch.zeros_like(grad), rtol=0, atol=0)


@pytest.mark.parametrize("two_layer", WAYS)
def test_an_infinite_gradient_does_not_pass_a_unit_that_is_off(two_layer):
    inputs, w1, w2 = torch.ones(1, 1), torch.tensor([[-1.0, 1.0]], requires_grad=True), torch.ones(2, 1)
    (grad,) = torch.autograd.grad(two_layer(inputs, w1, w2), w1, torch.tensor([[torch.inf]]))
    assert grad.tolist() == [[0.0, torch.inf]]


@pytest.mark.parametrize("two_layer", WAYS)
def test_only_what_wants_a_gradient_gets_one(two_layer):
    given = arguments()
    everything = torch.autograd.grad(two_layer(*given).square().sum(), given)
    for i, wanted in enumerate(given):
        alone = [tensor.detach().requires_grad_(tensor is wanted) for tensor in given]
        two_layer(*alone).square().sum().backward()
        assert [tensor.grad is not None for tensor in alone] == [tensor is wanted for tensor in given]
        assert_close(alone[i].grad, everything[i], rtol=1e-12, atol=0)


@pytest.mark.parametrize(("wants", "num_products"), [(True, 6), (False, 5)])
def test_the_gradient_of_the_inputs_costs_nothing_where_nobody_wants_it(wants, num_products):
    inputs, *weights = arguments()
    with profile() as ran:
        outputs = tensors.two_layer(inputs.detach().requires_grad_(wants), *weights)
        outputs.backward(torch.ones_like(outputs))
    assert sum(event.name in ("aten::mm", "aten::addmm") for event in ran.function_events) == num_products


def test_numpy_works_in_the_memory_of_the_tensors():
    for tensor in arguments():
        assert numpy.as_array(tensor).ctypes.data == tensor.data_ptr()
    given = arguments()
    grad_outputs = torch.ones(7, 3, dtype=torch.float64)
    with profile() as ran:
        torch.autograd.grad(numpy.two_layer(*given), given, grad_outputs)
    names = {event.name for event in ran.function_events}
    assert any("TwoLayer" in name for name in names), "the profiler saw nothing"
    assert not names & {"aten::copy_", "aten::clone", "aten::_to_copy", "aten::contiguous"}


@pytest.mark.parametrize("two_layer", WAYS)
def test_a_weight_changed_between_the_passes_is_noticed(two_layer):
    inputs, w1, w2 = arguments(bias=False)
    outputs = two_layer(inputs, w1, w2)
    with torch.no_grad():
        w2.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        outputs.sum().backward()


@pytest.mark.parametrize("two_layer", WAYS)
def test_no_arguments_are_written_to(two_layer):
    given = arguments()
    before = [tensor.detach().clone() for tensor in given]
    outputs = two_layer(*given)
    grad_outputs = torch.ones_like(outputs)
    torch.autograd.grad(outputs, given, grad_outputs)
    assert all(torch.equal(tensor, old) for tensor, old in zip(given, before, strict=True))
    assert torch.equal(grad_outputs, torch.ones_like(outputs))


@pytest.mark.parametrize("two_layer", WAYS)
def test_without_gradients_the_values_are_the_same(two_layer):
    given = arguments()
    expected = two_layer(*given)
    with torch.no_grad():
        outputs = two_layer(*given)
    assert torch.equal(outputs, expected)
    assert not outputs.requires_grad


@pytest.mark.parametrize("two_layer", IN_FORMULAS)
def test_a_gradient_of_a_gradient_is_refused_by_the_formulas(two_layer):
    inputs, w1, w2 = arguments(bias=False)
    (grad,) = torch.autograd.grad(two_layer(inputs, w1, w2).square().sum(), w1, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_the_custom_relu_can_be_differentiated_twice():
    given = arguments()
    expected, found = (
        torch.autograd.grad(
            torch.autograd.grad(way.two_layer(*given).square().sum(), given[1], create_graph=True)[0].square().sum(),
            given,
        )
        for way in (autograd, custom_function)
    )
    for grad, expected_grad in zip(found, expected, strict=True):
        assert_close(grad, expected_grad, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("two_layer", WAYS)
def test_under_autocast_it_trains_in_half_precision_and_numpy_in_float32(two_layer, device):
    given = arguments((64, 100, 20, 10), dtype=torch.float32, device=device)
    expected = torch.autograd.grad(autograd.two_layer(*given).square().sum(), given)
    with torch.autocast(device, torch.bfloat16):
        outputs = two_layer(*given)
    assert outputs.dtype == (torch.float32 if two_layer is numpy.two_layer else torch.bfloat16)
    for grad, expected_grad in zip(torch.autograd.grad(outputs.float().square().sum(), given), expected, strict=True):
        assert grad.dtype == torch.float32
        assert (grad - expected_grad).norm() < 0.02 * expected_grad.norm()  # bfloat16 has 8 bits


def test_autocast_leaves_float64_alone():
    given = arguments()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(tensors.two_layer(*given), autograd.two_layer(*given))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_numpy_widens_half_precision(dtype):
    given = arguments(dtype=dtype)
    outputs = numpy.two_layer(*given)
    assert outputs.dtype == torch.float32
    assert_close(outputs, autograd.two_layer(*(tensor.float() for tensor in given)))
    assert [grad.dtype for grad in torch.autograd.grad(outputs.sum(), given)] == [dtype] * 5


@pytest.mark.parametrize("two_layer", WAYS)
def test_an_overflow_is_an_infinity_and_no_warning(two_layer):
    inputs, w1, w2 = torch.full((1, 1), 1e30), torch.full((1, 1), 1e30, requires_grad=True), torch.ones(1, 1)
    outputs = two_layer(inputs, w1, w2)
    assert outputs.item() == torch.inf
    assert not torch.autograd.grad(outputs.square().sum(), w1)[0].isfinite().any()


@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("two_layer", BY_HAND)
def test_500_steps_in_float32_follow_the_same_curve(two_layer, bias):
    expected = curve(autograd.two_layer, (16, 20, 10, 3), 1e-4, 500, bias)
    assert expected[-1] < expected[0] / 50
    assert_close(curve(two_layer, (16, 20, 10, 3), 1e-4, 500, bias), expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("two_layer", BY_HAND)
def test_the_tutorials_sizes_follow_the_same_curve(two_layer):
    expected = curve(autograd.two_layer, (64, 1000, 100, 10), 1e-6, 30, bias=False)
    assert 2e7 < expected[0] < 5e7
    assert expected[-1] < expected[0] / 50
    assert_close(curve(two_layer, (64, 1000, 100, 10), 1e-6, 30, bias=False), expected, rtol=1e-4, atol=0)
