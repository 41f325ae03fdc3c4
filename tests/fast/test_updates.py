"""Updates on the matrix: the numbers of `torch.optim`, in every row of a stack, without what makes it slow to start."""

import functools
import inspect
import io
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR

from trainer.disk import checkpoint
from trainer.fast import updates
from trainer.fast.updates import Update
from trainer.optim import manual_sgd as optimizers
from trainer.optim.lion import Lion

NUM_PARAMETERS = 1003  # some beyond a multiple of every vector register
NUM_STEPS = 100
SHIPPED = Path(__file__).parents[2] / "configs" / "optimizer"
OF_TORCH_ALONE = {"params", "foreach", "capturable", "differentiable", "fused"}
ROUNDED = ("Adam", "AdamW")  # by a kernel that rounds less often

# Every option away from its default, in every combination that makes another formula.
CASES: list[tuple[str, dict[str, Any]]] = [
    ("ManualSGD", {"lr": 0.03}),
    ("SGD", {"lr": 0.03}),
    ("SGD", {"lr": 0.03, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.03, "momentum": 0.9}),
    ("SGD", {"lr": 0.03, "momentum": 0.8, "dampening": 0.3, "weight_decay": 0.1, "maximize": True}),
    ("SGD", {"lr": 0.03, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    ("Adam", {"lr": 0.03}),
    ("Adam", {"lr": 0.03, "betas": (0.5, 0.8), "eps": 1e-3, "weight_decay": 0.1, "amsgrad": True, "maximize": True}),
    ("Adam", {"lr": 0.03, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("AdamW", {"lr": 0.03}),
    ("AdamW", {"lr": 0.03, "betas": (0.5, 0.8), "eps": 1e-3, "weight_decay": 0.1, "amsgrad": True, "maximize": True}),
    ("Lion", {"lr": 0.03}),
    ("Lion", {"lr": 0.03, "betas": (0.5, 0.8), "weight_decay": 0.1}),
    ("NAdam", {"lr": 0.03}),
    ("NAdam", {"lr": 0.03, "betas": (0.5, 0.8), "eps": 1e-3, "weight_decay": 0.1, "momentum_decay": 0.1}),
    ("NAdam", {"lr": 0.03, "weight_decay": 0.1, "decoupled_weight_decay": True, "maximize": True}),
    ("RAdam", {"lr": 0.03}),
    ("RAdam", {"lr": 0.03, "betas": (0.5, 0.95), "eps": 1e-3, "weight_decay": 0.1}),
    ("RAdam", {"lr": 0.03, "weight_decay": 0.1, "decoupled_weight_decay": True, "maximize": True}),
    ("RMSprop", {"lr": 0.03}),
    ("RMSprop", {"lr": 0.03, "alpha": 0.5, "eps": 1e-3, "weight_decay": 0.1, "momentum": 0.9}),
    ("RMSprop", {"lr": 0.03, "centered": True, "maximize": True}),
    ("Adagrad", {"lr": 0.03}),
    ("Adagrad", {"lr": 0.03, "lr_decay": 0.01, "weight_decay": 0.1, "initial_accumulator_value": 0.1, "eps": 1e-3}),
    ("Adagrad", {"lr": 0.03, "maximize": True}),
    ("Adadelta", {"lr": 0.3}),
    ("Adadelta", {"lr": 0.3, "rho": 0.5, "eps": 1e-3, "weight_decay": 0.1, "maximize": True}),
]


def case_id(case: tuple[str, dict[str, Any]]) -> str:
    return f"{case[0]}-{','.join(case[1])}"


every_case = pytest.mark.parametrize("case", CASES, ids=case_id)
both_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


@functools.cache
def draws(num_runs: int, dtype: torch.dtype) -> Tensor:
    """`[1 + NUM_STEPS, num_runs, NUM_PARAMETERS]`: first values, then the gradients of every step."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1 + NUM_STEPS, num_runs, NUM_PARAMETERS, dtype=dtype, generator=generator)


def draw(num_runs: int, dtype: torch.dtype) -> tuple[Tensor, Callable[[int], Tensor]]:
    """First values, and the gradients of a step."""
    numbers = draws(num_runs, dtype)
    return numbers[0], numbers.__getitem__


def class_named(name: str) -> Any:
    return {"ManualSGD": optimizers.ManualSGD, "Lion": Lion}.get(name) or getattr(torch.optim, name)


def of_torch(name: str, options: dict[str, Any], values: Tensor, **more: Any) -> Optimizer:
    """Over the one row of `values`, in place."""
    kind = class_named(name)
    made: Optimizer = kind([nn.Parameter(values[0])], **options, **more)
    return made


def ours(name: str, options: dict[str, Any], values: Tensor) -> Update:
    return updates.CLASSES[name](values, torch.zeros_like(values), **options)


def run(
    optimizer: Optimizer,
    gradients: Callable[[int], Tensor],
    steps: range = range(1, NUM_STEPS + 1),
    schedule: LRScheduler | None = None,
    runs: slice = slice(None),
) -> Tensor:
    """The values after these steps, of the runs among those whose gradients there are."""
    for step in steps:
        if isinstance(optimizer, Update):
            optimizer.grads.copy_(gradients(step)[runs])
        else:
            optimizer.param_groups[0]["params"][0].grad = gradients(step)[0]
        optimizer.step()
        if schedule is not None:
            schedule.step()
    rows = [group["params"][0].detach().clone() for group in optimizer.param_groups]
    return torch.stack(rows)


class TestTheSameAsTorch:
    @both_dtypes
    @every_case
    def test_over_a_hundred_steps(self, case, dtype):
        (name, options), (begin, gradients) = case, draw(1, dtype)
        found = run(ours(name, options, begin.clone()), gradients)
        wanted = run(of_torch(name, options, begin.clone()), gradients)
        assert not torch.allclose(found, begin)
        if name in ROUNDED:
            assert torch.equal(found, run(of_torch(name, options, begin.clone(), fused=True), gradients))
            largest = 4 * torch.finfo(dtype).eps * wanted.abs().max()
            assert (found - wanted).abs().max() <= largest
        else:
            assert torch.equal(found, wanted)

    @pytest.mark.parametrize("name", sorted(updates.CLASSES))
    def test_in_the_names_and_defaults_of_all_options(self, name):
        """An option that a later torch adds is either taken up here or given to torch."""
        kind = class_named(name)
        of_theirs = {
            key: parameter.default
            for key, parameter in inspect.signature(kind).parameters.items()
            if key not in OF_TORCH_ALONE
        }
        options = dict(updates.CLASSES[name].options)
        if name == "AdamW":
            assert options.pop("decoupled_weight_decay")
        assert options == of_theirs

    @pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.yaml")), ids=lambda path: path.stem)
    def test_in_every_shipped_config(self, path):
        config = OmegaConf.to_container(OmegaConf.load(path))
        if path.stem not in ("own", "muon", "lbfgs", "schedule_free"):
            name = config.pop("_target_").rpartition(".")[2]
            assert updates.standing_for(name, config) is updates.CLASSES[name]
            assert updates.standing_for(name, [*config, "foreach"]) is None
            assert updates.standing_for("Adafactor", config) is None

    @pytest.mark.parametrize("name", ["SGD", "Adam", "RMSprop"])
    def test_under_a_schedule_that_moves_the_momentum_too(self, name):
        options = {"lr": 0.01} if name == "Adam" else {"lr": 0.01, "momentum": 0.9}
        begin, gradients = draw(1, torch.float64)
        ways = [ours(name, options, begin.clone()), of_torch(name, options, begin.clone())]
        ends = [run(way, gradients, schedule=OneCycleLR(way, 0.1, NUM_STEPS)) for way in ways]
        assert torch.allclose(*ends, rtol=1e-13, atol=1e-15)
        numbers = [{k: v for k, v in way.param_groups[0].items() if k not in OF_TORCH_ALONE} for way in ways]
        assert numbers[0] == {key: numbers[1][key] for key in numbers[0]}
        assert numbers[0]["betas" if name == "Adam" else "momentum"] != (0.9, 0.999)

    def test_under_a_scaler_that_leaves_steps_out(self):
        begin, gradients = draw(1, torch.float32)
        ends = []
        for way in (ours("SGD", {"momentum": 0.9}, begin.clone()), of_torch("SGD", {"momentum": 0.9}, begin.clone())):
            scaler = GradScaler("cpu", init_scale=1024.0)
            parameter = way.param_groups[0]["params"][0]
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            for step in range(1, 9):
                parameter.grad.copy_(scaler.scale(gradients(step)[0]))
                if step in (1, 5):
                    parameter.grad[3] = torch.inf
                scaler.unscale_(way)
                scaler.step(way)
                scaler.update()
            assert scaler.get_scale() == 256.0
            ends.append(parameter.detach().clone())
        assert torch.equal(*ends)
        assert ends[0].isfinite().all()

    def test_with_the_gradients_left_as_they_are_and_zeroed_in_place(self):
        begin, gradients = draw(1, torch.float32)
        for name, options in CASES:
            update = ours(name, options, begin.clone())
            run(update, gradients, range(1, 3))
            assert torch.equal(update.grads, gradients(2))
            update.zero_grad()
            assert not update.grads.any()
            assert update.param_groups[0]["params"][0].grad.data_ptr() == update.grads.data_ptr()


def columns_of(options: dict[str, Any], num_runs: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """All numbers a little other in each run: as columns, and as the options of each run alone; flags as they are."""

    def column(number: float) -> Tensor:
        return torch.linspace(number, 0.9 * number, num_runs, dtype=torch.float64).unsqueeze(1)

    stack: dict[str, Any] = {}
    for key, value in options.items():
        fixed = isinstance(value, bool) or key in ("dampening", "initial_accumulator_value")
        stack[key] = value if fixed else tuple(map(column, value)) if key == "betas" else column(value)

    def alone(value: Any, i: int) -> Any:
        return tuple(alone(x, i) for x in value) if isinstance(value, tuple) else getattr(value, "tolist", list)()[i][0]

    alones = [
        {k: alone(v, i) if isinstance(v, Tensor | tuple) else v for k, v in stack.items()} for i in range(num_runs)
    ]
    return stack, alones


class TestAStack:
    @both_dtypes
    @every_case
    def test_of_runs_with_other_numbers_has_the_bits_of_each_alone(self, case, dtype):
        (name, options), (begin, gradients) = case, draw(3, dtype)
        columns, alones = columns_of(options, 3)
        stack = run(ours(name, columns, begin.clone()), gradients)
        for i, options in enumerate(alones):
            lone = run(ours(name, options, begin[i : i + 1].clone()), gradients, runs=slice(i, i + 1))
            assert torch.equal(stack[i], lone[0])
        assert not torch.allclose(stack[0], stack[1])

    def test_takes_what_is_zero_in_some_runs_only(self):
        """Momentum or decay in one run must not touch another."""
        begin, gradients = draw(2, torch.float64)
        for name, key, value in [
            ("SGD", "momentum", 0.9),
            ("SGD", "weight_decay", 0.1),
            ("AdamW", "weight_decay", 0.1),
            ("NAdam", "weight_decay", 0.1),
            ("RMSprop", "momentum", 0.9),
        ]:
            more = {"decoupled_weight_decay": True} if name == "NAdam" else {}
            more |= {"dampening": 0.3} if key == "momentum" and name == "SGD" else {}
            stack = run(
                ours(name, {key: torch.tensor([[0.0], [value]], dtype=torch.float64), **more}, begin.clone()), gradients
            )
            for i, number in enumerate((0.0, value)):
                lone = run(ours(name, {key: number, **more}, begin[i : i + 1].clone()), gradients, runs=slice(i, i + 1))
                if name == "RMSprop":
                    torch.testing.assert_close(stack[i], lone[0], rtol=1e-14, atol=1e-15)
                else:
                    assert torch.equal(stack[i], lone[0])

    def test_takes_a_schedule_for_each_run(self):
        begin, gradients = draw(2, torch.float32)
        update = ours("NAdam", {"lr": torch.tensor([[0.1], [0.01]])}, begin.clone())
        stack = run(update, gradients, schedule=CosineAnnealingLR(update, 50))
        for i, lr in enumerate(torch.tensor([0.1, 0.01]).tolist()):
            lone = ours("NAdam", {"lr": lr}, begin[i : i + 1].clone())
            end = run(lone, gradients, schedule=CosineAnnealingLR(lone, 50), runs=slice(i, i + 1))
            assert torch.equal(stack[i], end[0])


def through_a_file(state: Any) -> Any:
    """That may hold no code."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def ways_to_go_on(name: str) -> Iterator[tuple[Callable[..., Optimizer], Callable[..., Optimizer]]]:
    yield ours, ours
    yield ours, of_torch
    yield of_torch, ours


class TestGoingOn:
    @every_case
    def test_with_ours_or_with_torchs_is_as_if_never_stopped(self, case):
        (name, options), (begin, gradients) = case, draw(1, torch.float32)
        unbroken = run(ours(name, options, begin.clone()), gradients)
        for first, second in ways_to_go_on(name):
            for cut in (0, 1, 40):
                before = first(name, options, begin.clone())
                middle = run(before, gradients, range(1, cut + 1))
                after = second(name, {**options, "lr": 1.0}, middle)
                after.load_state_dict(through_a_file(before.state_dict()))
                end = run(after, gradients, range(cut + 1, NUM_STEPS + 1))
                if name in ROUNDED and of_torch in (first, second):
                    assert torch.allclose(end, unbroken, rtol=1e-5, atol=1e-6)
                else:
                    assert torch.equal(end, unbroken)

    @every_case
    def test_alone_after_a_stack_and_together_after_being_alone(self, case):
        (name, options), (begin, gradients) = case, draw(3, torch.float32)
        columns, alones = columns_of(options, 3)
        whole = run(ours(name, columns, begin.clone()), gradients)
        stack = ours(name, columns, begin.clone())
        middle = run(stack, gradients, range(1, 41))
        saved = through_a_file(stack.state_dict())
        lone = ours(name, alones[1], middle[1:2].clone())
        lone.load_state_dict(updates.of_run(saved, 1))
        rest = range(41, NUM_STEPS + 1)
        assert torch.equal(run(lone, gradients, rest, runs=slice(1, 2))[0], whole[1])
        # The first run leaves the stack, the others go on.
        two = ours(name, {}, middle[1:].clone())
        for key in two.defaults.keys() & {k for k, v in options.items() if isinstance(v, bool)}:
            two.defaults[key] = options[key]
        two.load_state_dict(updates.stacked([updates.of_run(saved, 1), updates.of_run(saved, 2)]))
        assert torch.equal(run(two, gradients, rest, runs=slice(1, None)), whole[1:])

    def test_with_a_state_that_does_not_fit_is_refused(self):
        begin, gradients = draw(2, torch.float32)
        one, two, other = (ours("Adam", {}, values.clone()) for values in (begin[:1], begin, begin[:1, :7]))
        run(other, lambda s: gradients(s)[:1, :7], range(1, 3))
        with pytest.raises(ValueError, match="state is of 2 runs, not 1"):
            one.load_state_dict(two.state_dict())
        with pytest.raises(ValueError, match="has 7 numbers; there are 1,003 parameters"):
            one.load_state_dict(other.state_dict())
        sgd = ours("SGD", {"momentum": 0.9}, begin[:1].clone())
        run(sgd, gradients, range(1, 3), runs=slice(1))
        with pytest.raises(ValueError, match="momentum_buffer: it is of another optimizer"):
            one.load_state_dict(sgd.state_dict())


@pytest.mark.parametrize(
    ("name", "options", "line"),
    [
        ("SGD", {"lr": -1}, "lr=-1.0: must be at least 0"),
        ("SGD", {"weight_decay": float("nan")}, "weight_decay=nan: must be at least 0"),
        ("SGD", {"momentum": torch.tensor([[0.5], [-0.5]])}, "momentum=-0.5: must be at least 0"),
        ("SGD", {"nesterov": True}, "nesterov=true: needs a momentum above 0, and dampening=0"),
        ("SGD", {"nesterov": True, "momentum": 0.9, "dampening": 0.1}, "nesterov=true: needs a momentum above 0"),
        ("Adam", {"betas": (0.9, 1.0)}, r"betas=\(0.9, 1.0\): must be below 1"),
        ("Adadelta", {"rho": 1}, "rho=1.0: must be below 1"),
    ],
)
def test_a_number_out_of_its_range_is_refused(name, options, line):
    with pytest.raises(ValueError, match=f"^{line}"):
        ours(name, options, torch.zeros(2, 3))


def test_an_option_that_there_is_not_is_refused():
    with pytest.raises(TypeError, match=r"^SGD has no option foreach$"):
        ours("SGD", {"foreach": True}, torch.zeros(1, 3))


SHORT = ("monitor=off", "model=two_layer", "data.limit=40", "batch_size=16", "name=it")


@pytest.mark.parametrize("name", ["manual_sgd", "sgd", "adam", "rmsprop"])
def test_a_run_is_the_same_fast_and_plain_and_may_go_on_either_way(name, train):
    words = (*SHORT, f"optimizer={name}", "scheduler=one_cycle", "scheduler.total_steps=6")
    fast = train(*words, "max_steps=6", "name=fast")
    plain = train(*words, "max_steps=6", "name=plain", "fast=false")
    train(*words, "max_steps=3", "fast=false")
    mixed = train(*words, "max_steps=6")
    tags = [tag for tag in fast if tag.startswith(("train/", "val/", "test/"))]
    assert len(tags) > 3
    for tag in tags:
        tolerance = 1e-5 if name == "adam" else 0.0
        assert plain[tag] == pytest.approx(fast[tag], rel=tolerance, abs=0)
        assert mixed[tag] == pytest.approx(fast[tag], rel=tolerance, abs=0)


@pytest.mark.parametrize(
    ("words", "is_torchs"),
    [
        ((), False),
        (("fast=false",), True),
        (("+optimizer.foreach=true",), True),
        (("optimizer=own", "optimizer._target_=torch.optim.Adamax"), True),
    ],
)
def test_what_an_update_here_does_not_do_goes_to_torch(words, is_torchs, train):
    train(*SHORT, "max_steps=1", *words)
    (group,) = checkpoint.read(Path("runs/it/checkpoints/last.pt"))["optimizer"]["param_groups"]
    assert ("foreach" in group) is is_torchs


@pytest.mark.slow
@pytest.mark.parametrize("model", ["lenet", "two_layer"])
def test_a_run_imports_no_compiler(tmp_path, model):
    script = f"""
import sys
from trainer.command import main as cli
cli.run_command(["model={model}", "max_steps=2", "data.limit=40", "scheduler=one_cycle", "name=it"])
print(*(name for name in ("torch._dynamo", "torch._inductor", "sympy") if name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=600, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == ""
    assert (tmp_path / "runs/it/result.json").exists()


@pytest.mark.slow
def test_no_compiler_is_imported():
    """Not by an update, nor by the schedulers, scaler and checkpoint that go with it."""
    script = """
import io, sys, torch
from torch.amp import GradScaler
from torch.optim import lr_scheduler as of
from trainer.optim import schedulers
from trainer.fast import updates
for name, kind in updates.CLASSES.items():
    update = kind(torch.zeros(1, 5), torch.ones(1, 5), lr=0.1)
    schedules = [of.CosineAnnealingLR(update, 9), of.ExponentialLR(update, 0.9), of.MultiStepLR(update, [1, 2])]
    schedules += [of.OneCycleLR(update, 1.0, 9, cycle_momentum=False), of.StepLR(update, 1)]
    schedules += [schedulers.warmup_cosine(update, 2, 9)]
    plateau = of.ReduceLROnPlateau(update)
    scaler = GradScaler("cpu")
    for _ in range(3):
        scaler.scale(torch.ones(1))
        scaler.unscale_(update)
        scaler.step(update)
        scaler.update()
        for schedule in schedules:
            schedule.step()
        plateau.step(1.0)
    file = io.BytesIO()
    torch.save([update.state_dict(), [schedule.state_dict() for schedule in schedules]], file)
    file.seek(0)
    update.load_state_dict(torch.load(file, weights_only=True)[0])
    update.zero_grad()
    assert update.values.any() and repr(update)
print(*(name for name in ("torch._dynamo", "torch._inductor", "sympy") if name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=600)
    assert (done.stdout, done.stderr) == ("\n", "")
