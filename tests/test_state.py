"""The parameters as one buffer, and what a checkpoint holds: the same memory, the same numbers, the same next draw."""

import io
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.testing import assert_close

from trainer.distributed import ALONE
from trainer.optim.schedulers import Schedule
from trainer.state import Store, TrainingState, random_state, set_random_state

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


class Net(nn.Module):
    """Weights, biases, a number, a tied weight, a norm layer with buffers, and a layer in the middle that is frozen."""

    def __init__(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.norm, self.frozen = nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, 7)
        self.frozen.requires_grad_(False)
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.second, self.tied = nn.Linear(7, 7), nn.Linear(7, 7)
        self.tied.weight = self.second.weight
        self.dropout = nn.Dropout(0.5)
        self.to(dtype)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.frozen(torch.relu(self.norm(self.first(inputs)))) * self.scale
        return self.tied(self.dropout(torch.tanh(self.second(hidden))))


INPUTS = torch.randn(6, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def loss_of(model: nn.Module) -> Tensor:
    p = next(model.parameters())
    return model(INPUTS.to(p.device, p.dtype)).square().sum()


@pytest.mark.parametrize("device", DEVICES)
class TestStore:
    def test_the_model_does_not_notice(self, device):
        plain, stored = Net().to(device).eval(), Net().to(device).eval()
        before = dict(stored.named_parameters())
        Store(stored)
        after = dict(stored.named_parameters())
        assert [*before] == [*after]
        assert all(before[name] is after[name] for name in before)
        for (name, expected), (_, tensor) in zip(plain.state_dict().items(), stored.state_dict().items(), strict=True):
            assert expected.equal(tensor), name
        assert loss_of(plain).equal(loss_of(stored))

    def test_the_buffer_holds_each_trainable_parameter_once_and_in_order(self, device):
        model = Net().to(device)
        expected = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
        store = Store(model)
        assert store.names == [*expected]
        assert [name for name in store.names if "frozen" in name or "tied.weight" in name] == []
        assert store.values.shape == store.grads.shape == (1, sum(p.numel() for p in expected.values()))
        assert store.values[0].equal(torch.cat([p.flatten() for p in expected.values()]))
        assert store.bounds[-1] == store.values.shape[1]
        for (start, end), p in zip(pairwise(store.bounds), expected.values(), strict=True):
            assert store.values[0, start:end].equal(p.flatten())

    def test_the_buffer_and_the_parameters_are_the_same_memory(self, device):
        model = Net().to(device)
        store = Store(model)
        frozen = model.frozen.weight.clone()
        store.values.fill_(2.0)
        assert all((p == 2.0).all() for p in store.parameters)
        with torch.no_grad():
            model.scale.fill_(3.0)
        assert (store.flat == 3.0).sum() == 1
        assert (store.values == 3.0).sum() == 1
        assert model.frozen.weight.equal(frozen)

    def test_gradients_go_to_the_buffer_and_add_up_and_begin_again_at_zero(self, device):
        model = Net().to(device).eval()
        store = Store(model)
        expected = torch.cat([g.flatten() for g in torch.autograd.grad(loss_of(model), store.parameters)])
        for count in (1, 2):
            loss_of(model).backward()
            assert_close(store.grads[0], count * expected, rtol=1e-12, atol=0)
        store.zero_grad()
        assert not store.grads.any()
        loss_of(model).backward()
        assert store.grads[0].equal(store.flat.grad)
        assert_close(store.grads[0], expected, rtol=1e-12, atol=0)
        for (start, end), p in zip(pairwise(store.bounds), store.parameters, strict=True):
            assert p.grad.equal(store.grads[0, start:end].view(p.shape))
        assert model.frozen.weight.grad is None

    def test_what_is_loaded_goes_into_the_buffer(self, device):
        model, other = Net().to(device), Net(seed=1).to(device)
        store = Store(model)
        model.load_state_dict(other.state_dict())
        assert store.values[0].equal(Store(other).values[0])

    @pytest.mark.parametrize("limit", [0.01, 1.0, 1e6])
    def test_clips_as_torch_does(self, device, limit):
        """By norm, by value, and by both, value first."""
        for norm, value in ((limit, None), (None, limit), (limit, limit / 2)):
            stored, plain = Net().to(device).eval(), Net().to(device).eval()
            store = Store(stored)
            loss_of(stored).backward()
            loss_of(plain).backward()
            trainable = [p for p in plain.parameters() if p.requires_grad]
            store.clip(norm, value)
            if value is not None:
                torch.nn.utils.clip_grad_value_(trainable, value)
            if norm is not None:
                torch.nn.utils.clip_grad_norm_(trainable, norm)
            expected = torch.cat([p.grad.flatten() for p in trainable])
            assert_close(store.grads[0], expected, rtol=1e-12, atol=0)

    def test_clips_nothing_where_nothing_is_asked(self, device):
        model = Net().to(device).eval()
        store = Store(model)
        loss_of(model).backward()
        before = store.grads.clone()
        store.clip(None, None)
        assert store.grads.equal(before)


def test_a_model_that_cannot_learn_is_refused():
    with pytest.raises(ValueError, match="no trainable parameter"):
        Store(Net().requires_grad_(False))


def test_parameters_of_two_dtypes_are_refused_and_both_are_named():
    model = Net()
    model.first.float()
    with pytest.raises(ValueError, match=r"torch\.float32.*torch\.float64"):
        Store(model)


def training_state(seed: int, device: str = "cpu") -> TrainingState:
    model = Net(seed).to(device)
    store = Store(model)
    optimizer = torch.optim.Adam([store.flat], lr=0.1)
    schedule = Schedule(torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0), "evaluation")
    return TrainingState(model, store, optimizer, schedule, GradScaler(device, init_scale=4.0, growth_interval=2))


def train(state: TrainingState, num_steps: int) -> list[Tensor]:
    """The losses of so many steps with dropout."""
    losses = []
    for _ in range(num_steps):
        loss = loss_of(state.model)
        losses.append(loss.detach())
        state.scaler.scale(loss).backward()
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.schedule.evaluated(loss.item())
        state.store.zero_grad()
        state.step += 1
    return losses


@pytest.mark.parametrize("device", DEVICES)
class TestTrainingState:
    def test_goes_on_from_its_file_bit_for_bit(self, device):
        first, second = training_state(0, device), training_state(1, device)
        train(first, 3)
        first.seconds, first.last = 1.5, {"train/loss": 0.5}
        file = io.BytesIO()
        torch.save(first.state_dict(), file)
        expected = train(first, 3)

        train(second, 5)
        file.seek(0)
        second.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
        assert (second.step, second.seconds, second.last) == (3, 1.5, {"train/loss": 0.5})
        assert train(second, 3) == expected
        assert second.scaler.get_scale() == first.scaler.get_scale() == 32.0  # doubled after every second step
        assert second.store.values.equal(first.store.values)
        for name, tensor in first.model.state_dict().items():
            assert tensor.equal(second.model.state_dict()[name]), name

    def test_the_next_draw_is_the_same(self, device):
        state = random_state(torch.device(device))
        drawn = [torch.rand(3), torch.rand(3, device=device)]
        set_random_state(state, torch.device(device))
        assert all(map(torch.equal, drawn, [torch.rand(3), torch.rand(3, device=device)]))


def test_what_no_gradient_reaches_is_known_without_asking_the_device() -> None:
    """Of one process alone; a tensor of the device meta can't be read."""
    store = Store(Net().to("meta"))
    store.watch(ALONE)
    store.reach([i != 1 for i in range(len(store.parameters))])
    assert store.unreached() == [1]
