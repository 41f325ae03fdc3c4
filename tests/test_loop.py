"""The loop: the numbers of a plain PyTorch loop, of one large batch, and of a run that was never stopped."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ExponentialLR, OneCycleLR, ReduceLROnPlateau
from torch.testing import assert_close

from meanings import meaning_of
from trainer.data.batches import Batch, ResidentBatches
from trainer.data.images import Augmentation
from trainer.disk.checkpoint import Checkpoints
from trainer.errors import NonFinite, RunStopped
from trainer.evaluate import evaluate
from trainer.loop import Autograd, InParts, Plan, Wish, fit
from trainer.losses.criteria import Composite, L1Penalty, L2Penalty, SumSquaredError
from trainer.losses.function import Losses, LossFunction
from trainer.optim.manual_sgd import ManualSGD
from trainer.optim.schedulers import Schedule
from trainer.state import Store, TrainingState

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
NAMES = {"loss": "chosen", "model": "net", "data": "numbers"}
NUM_SAMPLES, BATCH_SIZE, NUM_CLASSES = 11, 4, 3
PLAN = Plan(
    max_steps=10,
    num_samples=NUM_SAMPLES,
    samples_per_step=BATCH_SIZE,
    log_every=1,
    show_every=None,
    draw_every=None,
    eval_every=None,
    save_every=None,
    check_every=1,
)


class Net(nn.Module):
    def __init__(self, seed: int = 0, dropout: float = 0.0, has_norm: bool = False) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.second = nn.Linear(16, 5), nn.Linear(5, NUM_CLASSES)
        self.norm = nn.BatchNorm1d(5) if has_norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.second(self.dropout(torch.tanh(self.norm(self.first(inputs.flatten(1))))))


def samples(dtype: torch.dtype = torch.float32, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Images of 4x4 in three classes."""
    inputs = torch.randn(NUM_SAMPLES, 1, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return inputs.to(device, dtype), (torch.arange(NUM_SAMPLES) % NUM_CLASSES).to(device)


@dataclass
class Watcher:
    """Writes down when it is called and what it is told; validates and saves where it is given the means to."""

    state: TrainingState
    validate: Callable[[], float | None] = lambda: 0.0
    is_best: bool = False
    checkpoints: Checkpoints | None = None
    calls: list[tuple[str, int]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    terms: list[dict[str, Tensor]] = field(default_factory=list)
    gradients: list[Tensor] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)
    saved: list[Tensor] = field(default_factory=list)

    def tick(self, step: int) -> None:
        self.calls.append(("tick", step))

    def before_forward(self, step: int) -> None:
        self.calls.append(("forward", step))

    def before_update(self, step: int, losses: Losses) -> None:
        assert not losses.total.requires_grad
        self.calls.append(("before", step))
        self.losses.append(losses.total.item())
        self.terms.append(losses.terms)
        self.gradients.append(self.state.store.grads[0].clone())
        self.weights.append(self.state.store.values[0].clone())

    def after_update(self, step: int) -> None:
        self.calls.append(("after", step))

    def skipped(self, step: int) -> None:
        self.calls.append(("skipped", step))

    def evaluate(self, step: int) -> tuple[float, bool] | None:
        self.calls.append(("evaluate", step))
        loss = self.validate()
        return None if loss is None else (loss, self.is_best)

    def save(self, step: int, is_best: bool) -> None:
        self.calls.append(("best" if is_best else "save", step))
        self.saved.append(self.state.store.values[0].clone())
        if self.checkpoints is not None:
            self.checkpoints.save(self.state.state_dict(), is_best)


def never() -> Wish:
    return Wish()


def built(
    model: nn.Module,
    make: Callable[..., Optimizer] = ManualSGD,
    schedule: Callable[[Optimizer], Schedule] = lambda optimizer: Schedule(None),
    scaler: GradScaler | None = None,
    **arguments: Any,
) -> TrainingState:
    store = Store(model)
    optimizer = make([store.flat], **{"lr": 0.1, **arguments})
    return TrainingState(model, store, optimizer, schedule(optimizer), scaler or GradScaler("cpu", enabled=False))


def ordinary(
    state: TrainingState,
    loss_fn: LossFunction,
    precision: Callable[[], AbstractContextManager[object]] = nullcontext,
    part_size: int = BATCH_SIZE,
) -> InParts:
    """Forward, loss and backward of a batch in the ordinary way."""
    model = state.model.train()
    return InParts(Autograd(model, loss_fn, precision, state.scaler), loss_fn, state.store, part_size, model)


def trained(
    state: TrainingState,
    plan: Plan = PLAN,
    criterion: nn.Module | None = None,
    precision: Callable[[], AbstractContextManager[object]] = nullcontext,
    batches: Iterator[Batch] | None = None,
    part_size: int = BATCH_SIZE,
    **watcher: Any,
) -> Watcher:
    dtype = state.store.values.dtype
    loss_fn = LossFunction(criterion or nn.CrossEntropyLoss(), state.model, meaning_of(NUM_CLASSES), NAMES).to(dtype)
    batches = batches or ResidentBatches(*samples(dtype)).training(BATCH_SIZE, 0, state.step + 1)
    watching = Watcher(state, **watcher)
    fit(state, ordinary(state, loss_fn, precision, part_size), batches, plan, watching, never)
    return watching


class TestPlainLoop:
    """The same weights, bit for bit, as from the loop of every PyTorch tutorial."""

    @pytest.mark.parametrize("precision", ["float32", "float64", "bfloat16"])
    @pytest.mark.parametrize(
        ("make", "plain", "arguments"),
        [
            (ManualSGD, torch.optim.SGD, {}),
            (torch.optim.SGD, torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.01}),
            (torch.optim.Adam, torch.optim.Adam, {}),
        ],
        ids=["manual_sgd", "momentum", "adam"],
    )
    def test_is_reproduced(self, make, plain, arguments, precision):
        dtype = torch.float64 if precision == "float64" else torch.float32
        context = (lambda: torch.autocast("cpu", torch.bfloat16)) if precision == "bfloat16" else nullcontext

        model = Net(has_norm=True).to(dtype)
        watcher = trained(built(model, make, **arguments), precision=context)

        expected = Net(has_norm=True).to(dtype)
        optimizer = plain(expected.parameters(), lr=0.1, **arguments)
        losses = []
        for _, (inputs, targets) in zip(
            range(10), ResidentBatches(*samples(dtype)).training(BATCH_SIZE, 0, 1), strict=False
        ):
            optimizer.zero_grad()
            with context():
                loss = nn.functional.cross_entropy(expected(inputs), targets)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())

        assert watcher.losses == losses
        assert losses[-1] < losses[0]
        for (name, tensor), other in zip(model.state_dict().items(), expected.state_dict().values(), strict=True):
            assert tensor.dtype == other.dtype
            assert tensor.equal(other), name

    def test_with_a_schedule_of_epochs_is_reproduced(self):
        model, expected = Net(), Net()
        trained(built(model, schedule=lambda optimizer: Schedule(ExponentialLR(optimizer, 0.5), "epoch", 3)))
        optimizer = torch.optim.SGD(expected.parameters(), lr=0.1)
        scheduler = ExponentialLR(optimizer, 0.5)
        batches = ResidentBatches(*samples()).training(BATCH_SIZE, 0, 1)
        for step, (inputs, targets) in zip(range(1, 11), batches, strict=False):
            optimizer.zero_grad()
            nn.functional.cross_entropy(expected(inputs), targets).backward()
            optimizer.step()
            if step % 3 == 0:
                scheduler.step()
        assert all(map(torch.equal, model.parameters(), expected.parameters()))

    def test_gradients_are_clipped_after_they_were_shown(self):
        model, expected = Net().double(), Net().double()
        watcher = trained(built(model), replace(PLAN, max_steps=1, clip_norm=0.05))
        inputs, targets = next(ResidentBatches(*samples(torch.float64)).training(BATCH_SIZE, 0, 1))
        nn.functional.cross_entropy(expected(inputs), targets).backward()
        gradient = torch.cat([p.grad.flatten() for p in expected.parameters()])
        assert gradient.norm() > 0.05
        assert_close(watcher.gradients[0], gradient, rtol=1e-12, atol=0)
        nn.utils.clip_grad_norm_(expected.parameters(), 0.05)
        torch.optim.SGD(expected.parameters(), lr=0.1).step()
        assert_close(dict(model.named_parameters()), dict(expected.named_parameters()), rtol=1e-12, atol=1e-15)


def term(criterion: nn.Module, weight: float = 1.0) -> dict[str, Any]:
    return {"weight": weight, "criterion": criterion}


class TestAccumulation:
    """A batch in parts is the batch: loss, terms, gradients and weights, whatever the parts."""

    @pytest.mark.parametrize("part_size", [1, 3, 4, 10])
    @pytest.mark.parametrize(
        "criterion",
        [
            nn.CrossEntropyLoss(),
            nn.CrossEntropyLoss(reduction="sum"),
            SumSquaredError(),
            Composite({"a": term(nn.MSELoss()), "l2": term(L2Penalty(), 0.1)}),
            Composite({"a": term(SumSquaredError()), "l1": term(L1Penalty(), 0.1)}),
            Composite({"a": term(SumSquaredError(), 0.5), "b": term(nn.CrossEntropyLoss(), 2.0)}),
        ],
        ids=["mean", "sum", "sum of squares", "mean and penalty", "sum and penalty", "sum and mean"],
    )
    def test_is_one_large_batch(self, criterion, part_size):
        plan = replace(PLAN, max_steps=3)
        whole, parts = (
            trained(
                built(Net().double(), lr=0.01),
                plan,
                criterion,
                part_size=size,
                batches=ResidentBatches(*samples(torch.float64)).training(NUM_SAMPLES, 0, 1),
            )
            for size in (NUM_SAMPLES, part_size)
        )
        assert parts.losses == pytest.approx(whole.losses, rel=1e-12)
        assert_close(parts.terms, whole.terms, rtol=1e-12, atol=0)
        assert_close(parts.gradients, whole.gradients, rtol=1e-12, atol=1e-14)
        assert_close(parts.state.store.values, whole.state.store.values, rtol=1e-12, atol=1e-14)


class TestScaler:
    def test_a_scaled_loss_makes_no_difference(self):
        """The scale is a power of two: exact both ways; clipping and what is logged see the true gradients."""
        plan = replace(PLAN, clip_norm=0.05)
        plain = trained(built(Net()), plan)
        scaled = trained(built(Net(), scaler=GradScaler("cpu", init_scale=2.0**10)), plan)
        assert scaled.losses == plain.losses
        assert all(map(torch.equal, scaled.gradients, plain.gradients))
        assert scaled.state.store.values.equal(plain.state.store.values)

    def test_a_step_whose_scaled_gradients_overflow_leaves_the_weights_and_halves_the_scale(self):
        state = built(Net(), scaler=GradScaler("cpu", init_scale=2.0**127))
        before = state.store.values.clone()
        thousandfold = Composite({"a": term(nn.CrossEntropyLoss(), 1000.0)})
        trained(state, replace(PLAN, max_steps=1), thousandfold)
        assert state.store.values.equal(before)
        assert state.scaler.get_scale() == 2.0**126
        assert state.step == 1


class TestOrder:
    def test_of_what_is_due(self):
        plan = replace(PLAN, max_steps=5, log_every=2, eval_every=3, save_every=4)
        state = built(Net())
        assert trained(state, plan).calls == [
            *[("forward", 1), ("before", 1), ("after", 1), ("tick", 1)],
            *[("forward", 2), ("before", 2), ("after", 2), ("tick", 2)],
            *[("evaluate", 3), ("tick", 3)],
            *[("forward", 4), ("before", 4), ("after", 4), ("save", 4), ("tick", 4)],
            *[("forward", 5), ("before", 5), ("after", 5), ("evaluate", 5), ("save", 5), ("tick", 5)],
        ]
        assert state.step == 5

    def test_the_best_is_saved_when_it_is_found(self):
        plan = replace(PLAN, max_steps=2, log_every=None, eval_every=1, save_every=None)
        calls = trained(built(Net()), plan, is_best=True).calls
        assert calls == [(name, step) for step in (1, 2) for name in ("evaluate", "best", "tick")]

    def test_what_is_logged_before_an_update_is_of_the_weights_before_it(self):
        state = built(Net())
        first = state.store.values[0].clone()
        watcher = trained(state, replace(PLAN, max_steps=2))
        assert watcher.weights[0].equal(first)
        assert watcher.weights[1].equal(first.add(watcher.gradients[0], alpha=-0.1))
        assert state.store.values[0].equal(watcher.weights[1].add(watcher.gradients[1], alpha=-0.1))

    def test_the_loss_of_each_validation_goes_to_the_schedule(self):
        state = built(Net(), schedule=SCHEDULES["plateau"])
        losses = iter([3.0, 2.0, 2.5, 1.0, 1.0])
        trained(state, replace(PLAN, eval_every=2), validate=lambda: next(losses))
        assert state.optimizer.param_groups[0]["lr"] == 0.1 / 2 / 2  # two of the five were no better than the best

    def test_no_batch_is_drawn_that_is_not_used(self):
        drawn = []

        def batches() -> Iterator[Batch]:
            for batch in ResidentBatches(*samples()).training(BATCH_SIZE, 0, 1):
                drawn.append(batch)
                yield batch

        state = built(Net())
        state.step = 7
        trained(state, PLAN, batches=batches())
        assert len(drawn) == 3
        trained(state, PLAN, batches=batches())
        assert len(drawn) == 3

    def test_a_stop_ends_it_after_the_whole_step(self):
        state = built(Net())
        watcher = Watcher(state)
        loss_fn = LossFunction(nn.CrossEntropyLoss(), state.model, meaning_of(NUM_CLASSES), NAMES)
        batches = ResidentBatches(*samples()).training(BATCH_SIZE, 0, 1)
        is_over = fit(state, ordinary(state, loss_fn), batches, PLAN, watcher, lambda: Wish(stop=state.step == 3))
        assert not is_over
        assert watcher.calls[-1] == ("tick", 3)
        expected = built(Net())
        trained(expected, replace(PLAN, max_steps=3))
        assert state.store.values.equal(expected.store.values)

    def test_a_validation_that_is_broken_off_is_made_up_for_before_the_next_step(self):
        """With a schedule that looks at it: the weights are those of a run without a stop."""

        def schedule(optimizer: Optimizer) -> Schedule:
            return Schedule(ReduceLROnPlateau(optimizer, factor=0.1, patience=0), "evaluation")

        plan = replace(PLAN, eval_every=3)
        whole, state = built(Net(), schedule=schedule), built(Net(), schedule=schedule)
        expected = trained(whole, plan, validate=lambda: 1.0)
        watcher = trained(state, plan, validate=lambda: None if state.step == 6 else 1.0)
        assert (state.step, state.evaluated, watcher.calls[-1]) == (6, 3, ("evaluate", 6))
        again = trained(state, plan, validate=lambda: 1.0)
        assert again.calls[:2] == [("evaluate", 6), ("tick", 6)]
        assert watcher.calls[:-1] + again.calls == expected.calls
        assert state.store.values.equal(whole.store.values)

    def test_a_checkpoint_that_is_overdue_is_saved_after_the_step(self):
        state = built(Net())
        watcher = Watcher(state)
        loss_fn = LossFunction(nn.CrossEntropyLoss(), state.model, meaning_of(NUM_CLASSES), NAMES)
        batches = ResidentBatches(*samples()).training(BATCH_SIZE, 0, 1)
        assert fit(state, ordinary(state, loss_fn), batches, PLAN, watcher, lambda: Wish(save=state.step in (2, 7)))
        assert [step for name, step in watcher.calls if name == "save"] == [2, 7]

    def test_what_a_shorter_run_adds_at_its_end_does_not_change_a_longer_one(self):
        """A run of 4 steps validates once more after its last; one that goes on must not be told of it."""

        def schedule(optimizer: Optimizer) -> Schedule:
            return Schedule(ReduceLROnPlateau(optimizer, factor=0.1, patience=0), "evaluation")

        whole, state = built(Net(), schedule=schedule), built(Net(), schedule=schedule)
        trained(whole, replace(PLAN, eval_every=3))
        for max_steps in (4, 10):
            trained(state, replace(PLAN, eval_every=3, max_steps=max_steps))
        assert state.store.values.equal(whole.store.values)

    def test_trains_in_training_mode_from_wherever_it_starts(self):
        model = Net(dropout=0.5).eval()
        modes = []
        model.first.register_forward_pre_hook(lambda module, _: modes.append(module.training))
        trained(built(model), replace(PLAN, max_steps=3))
        assert modes == [True] * 3


class Root(nn.Module):
    """The square root of 0 is finite, its slope is not."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - outputs.detach()).abs().sum().sqrt()


class TestNonFinite:
    def batches(self, bad_step: int, value: float) -> Iterator[Batch]:
        for step, (inputs, targets) in enumerate(ResidentBatches(*samples()).training(BATCH_SIZE, 0, 1), 1):
            yield Batch(inputs * (value if step == bad_step else 1.0), targets)

    @pytest.mark.parametrize("check_every", [1, 2, 1000])
    @pytest.mark.parametrize("bad_step", [1, 3, 5])
    def test_a_loss_that_is_not_finite_stops_the_run_and_names_its_step(self, bad_step, check_every):
        plan = replace(PLAN, max_steps=5, log_every=None, check_every=check_every, save_every=2)
        state = built(Net())
        watcher = Watcher(state)
        loss_fn = LossFunction(nn.CrossEntropyLoss(), state.model, meaning_of(NUM_CLASSES), NAMES)
        with pytest.raises(RunStopped, match=rf"^train/loss=nan at step {bad_step}: the loss is not finite$"):
            fit(state, ordinary(state, loss_fn), self.batches(bad_step, float("nan")), plan, watcher, never)
        assert [step for name, step in watcher.calls if name == "save"] == [*range(2, bad_step, 2)]
        assert all(weights.isfinite().all() for weights in watcher.saved)

    def test_the_bad_step_itself_changes_no_weight_where_every_loss_is_looked_at(self):
        state, expected = built(Net()), built(Net())
        with pytest.raises(RunStopped):
            trained(state, PLAN, batches=self.batches(3, float("inf")))
        assert state.step == 2
        trained(expected, replace(PLAN, max_steps=2))
        assert state.store.values.equal(expected.store.values)

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_a_skipped_step_makes_no_update_and_the_rest_goes_on(self, value):
        plan = replace(PLAN, skips_non_finite=True)
        schedule: Any = lambda optimizer: Schedule(ExponentialLR(optimizer, 0.9))  # noqa: E731
        state, expected = (built(Net(), torch.optim.SGD, schedule, momentum=0.9) for _ in range(2))
        watcher = trained(state, plan, batches=self.batches(3, value))
        assert (state.step, state.num_skipped, state.num_skipped_in_row) == (10, 1, 0)
        assert ("skipped", 3) in watcher.calls
        # The same by hand: step 3 takes no part but in the schedule.
        loss_fn = LossFunction(nn.CrossEntropyLoss(), expected.model, meaning_of(NUM_CLASSES), NAMES)
        for step, (inputs, targets) in zip(
            range(1, 11), ResidentBatches(*samples()).training(BATCH_SIZE, 0, 1), strict=False
        ):
            if step != 3:
                loss_fn(expected.model(inputs), targets).total.backward()
                expected.optimizer.step()
                expected.store.zero_grad()
            expected.schedule.step(step)
        assert state.store.values.equal(expected.store.values)

    def test_a_gradient_that_is_not_finite_under_a_finite_loss_is_skipped_too(self):
        state = built(Net())
        before = state.store.values.clone()
        trained(state, replace(PLAN, max_steps=5, skips_non_finite=True), Root())
        assert state.num_skipped == 5
        assert state.store.values.equal(before)

    def test_where_nothing_but_skipped_steps_is_left_the_run_stops(self):
        state = built(Net())
        with pytest.raises(NonFinite, match=r"at step 101: 100 steps in a row were skipped"):
            trained(state, replace(PLAN, max_steps=200, skips_non_finite=True), Root())

    def test_weights_that_became_non_finite_under_a_finite_loss_are_never_saved(self):
        state = built(Net())
        watcher = Watcher(state)
        loss_fn = LossFunction(Root(), state.model, meaning_of(NUM_CLASSES), NAMES)
        batches = ResidentBatches(*samples()).training(BATCH_SIZE, 0, 1)
        with pytest.raises(RunStopped, match="not finite"):
            fit(state, ordinary(state, loss_fn), batches, replace(PLAN, save_every=1), watcher, never)
        assert all(weights.isfinite().all() for weights in watcher.saved)


SCHEDULES = {
    "constant": lambda optimizer: Schedule(None),
    "one_cycle": lambda optimizer: Schedule(OneCycleLR(optimizer, 0.5, 12)),
    "plateau": lambda optimizer: Schedule(ReduceLROnPlateau(optimizer, factor=0.5, patience=0), "evaluation"),
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    ("make", "arguments"),
    [(torch.optim.SGD, {"momentum": 0.9}), (torch.optim.AdamW, {"amsgrad": True})],
    ids=["momentum", "adamw"],
)
def test_a_run_that_goes_on_from_its_checkpoint_ends_as_if_never_stopped(tmp_path, make, arguments, schedule, device):
    """Bit for bit, from every step of three epochs, with dropout, norm layers, augmentation and validations.

    Each continuation starts in a network of other weights, after other random draws, and reads all it needs from files.
    """
    plan = replace(PLAN, max_steps=12, eval_every=2, save_every=1)

    def run(seed: int, folder: Path, plan: Plan, stored: dict[str, Any] | None = None) -> Watcher:
        model = Net(seed, dropout=0.5, has_norm=True).to(device)
        state = built(model, make, SCHEDULES[schedule], GradScaler(device, enabled=False), **arguments)
        loss_fn = LossFunction(nn.CrossEntropyLoss(), model, meaning_of(NUM_CLASSES), NAMES).to(device)
        train = ResidentBatches(*samples(device=device), augment=Augmentation(1, True, 10.0))
        val = ResidentBatches(*samples(device=device))
        watcher = Watcher(
            state,
            lambda: evaluate(model, loss_fn, val, torch.device(device), nullcontext)["loss"],
            checkpoints=Checkpoints(folder, keep=100),
        )
        torch.manual_seed(seed)
        if stored is not None:
            state.load_state_dict(stored)
        batches = train.training(BATCH_SIZE, 0, state.step + 1)
        fit(state, ordinary(state, loss_fn), batches, plan, watcher, never)
        return watcher

    unbroken = run(0, tmp_path, plan)
    assert len(set(unbroken.losses)) == 12
    for path in Checkpoints(tmp_path, keep=100).files()[1:]:
        whole = Checkpoints(tmp_path / path.stem, keep=100)
        whole.folder.mkdir()
        (whole.folder / path.name).hardlink_to(path)
        stored = whole.newest(pytest.fail)
        assert stored is not None
        resumed = run(1, whole.folder, replace(plan, save_every=None), stored)
        assert resumed.losses == unbroken.losses[stored["step"] :]
        assert resumed.state.store.values.equal(unbroken.state.store.values)
        assert_close(
            resumed.state.optimizer.state_dict(),
            unbroken.state.optimizer.state_dict(),
            rtol=0,
            atol=0,
            check_dtype=True,
        )
        assert_close(resumed.state.model.state_dict(), unbroken.state.model.state_dict(), rtol=0, atol=0)
