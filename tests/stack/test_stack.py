"""Runs in a stack: the losses, weights, draws and checkpoints of the same runs alone."""

import copy
import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
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
from trainer.draws import random_state, seed_all, set_random_state
from trainer.errors import NonFinite
from trainer.evaluate import evaluate
from trainer.fast import updates
from trainer.loop import Autograd, InParts, Plan, Wish, fit
from trainer.losses.criteria import Composite, L1Penalty, L2Penalty, SumSquaredError
from trainer.losses.function import Losses, LossFunction
from trainer.models.finetune import Finetune
from trainer.models.lenet import LeNet
from trainer.models.sequential import Sequential
from trainer.models.two_layer import TwoLayer
from trainer.optim.average import Average
from trainer.optim.schedulers import Schedule
from trainer.stack.batches import stacked_batches
from trainer.stack.evaluate import evaluate as evaluate_all
from trainer.stack.fit import fit_stack, refuse_plan
from trainer.stack.member import Member
from trainer.stack.refusal import CannotStack
from trainer.stack.stack import Stack
from trainer.state import Store, TrainingState

CPU = torch.device("cpu")
NAMES = {"loss": "chosen", "model": "net", "data": "numbers"}
NUM_SAMPLES, BATCH_SIZE, NUM_CLASSES, SIDE = 26, 8, 10, 16  # the last batch of an epoch has two samples
PLAN = Plan(
    max_steps=200,
    num_samples=NUM_SAMPLES,
    samples_per_step=BATCH_SIZE,
    log_every=1,
    show_every=None,
    draw_every=None,
    eval_every=40,
    save_every=None,
    check_every=1,
)


def splits(dtype: torch.dtype, augment: Augmentation | None = None) -> tuple[ResidentBatches, ResidentBatches]:
    """Images in ten classes: of training and of validation."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(NUM_SAMPLES + 9, 1, SIDE, SIDE, generator=generator, dtype=torch.float64).to(dtype)
    targets = torch.randint(0, NUM_CLASSES, (len(inputs),), generator=generator)
    train, val = (slice(NUM_SAMPLES), slice(NUM_SAMPLES, None))
    return ResidentBatches(inputs[train], targets[train], None, augment), ResidentBatches(inputs[val], targets[val])


def two_layer(**arguments: Any) -> nn.Module:
    return TwoLayer(in_features=SIDE * SIDE, hidden_features=6, out_features=NUM_CLASSES, **arguments)


def sequential(dropout: float = 0.3) -> nn.Module:
    layers = [nn.Flatten(), nn.Linear(SIDE * SIDE, 7), nn.ReLU(), nn.Dropout(dropout), nn.Linear(7, 8), nn.Tanh()]
    return Sequential([*layers, nn.Linear(8, NUM_CLASSES, bias=False), nn.Dropout(dropout), nn.Softmax(dim=1)])


def lenet(dropout: float = 0.2) -> nn.Module:
    return LeNet(num_classes=NUM_CLASSES, image_size=SIDE, dropout=dropout)


class Convolutional(nn.Module):
    """The user's own, with a norm layer that keeps running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(1, 3, 5, stride=3), nn.BatchNorm2d(3)
        self.last = nn.Linear(48, NUM_CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(torch.relu(self.norm(self.convolution(inputs))).flatten(1))


torch.manual_seed(5)
BODY = Convolutional()


def finetune(**arguments: Any) -> nn.Module:
    return Finetune(copy.deepcopy(BODY), NUM_CLASSES, **arguments)


@dataclass(frozen=True)
class Run:
    """What a run is built of."""

    make: Callable[[], nn.Module] = two_layer
    update: type[updates.Update] = updates.SGD
    options: dict[str, Any] = field(default_factory=lambda: {"lr": 0.01})
    seed: int = 0
    order: int = 0
    loss: Callable[[], nn.Module] = nn.CrossEntropyLoss
    schedule: Callable[[Optimizer], Schedule] = lambda optimizer: Schedule(None)
    dtype: torch.dtype = torch.float64

    def built(self) -> tuple[TrainingState, LossFunction]:
        """Leaves torch's generators where the run's training begins."""
        seed_all(self.seed)
        model = self.make().to(self.dtype)
        store = Store(model)
        optimizer = self.update(store.values, store.grads, **self.options)
        scaler = GradScaler("cpu", enabled=False)
        state = TrainingState(model, store, optimizer, self.schedule(optimizer), scaler)
        return state, LossFunction(self.loss(), model, meaning_of(NUM_CLASSES), NAMES).to(self.dtype)


@dataclass
class Watcher:
    """Writes down what it is told."""

    state: TrainingState
    loss_fn: LossFunction
    val: ResidentBatches
    losses: list[float] = field(default_factory=list)
    terms: list[dict[str, float]] = field(default_factory=list)
    gradients: list[Tensor] = field(default_factory=list)
    validations: list[dict[str, float]] = field(default_factory=list)
    saved: list[dict[str, Any]] = field(default_factory=list)
    next_draw: Tensor = field(default_factory=torch.get_rng_state)

    def before_forward(self, step: int) -> None: ...

    def tick(self, step: int) -> None: ...

    def before_update(self, step: int, losses: Losses) -> None:
        self.losses.append(losses.total.item())
        self.terms.append({name: term.item() for name, term in losses.terms.items()})
        self.gradients.append(self.state.store.grads[0].clone())

    def after_update(self, step: int) -> None:
        assert self.state.step == step

    def skipped(self, step: int) -> None: ...

    def evaluate(self, step: int) -> tuple[float, bool] | None:
        numbers = evaluate(self.state.model, self.loss_fn, self.val, CPU, nullcontext)
        assert numbers is not None
        return self.evaluated(step, numbers)

    def evaluated(self, step: int, numbers: dict[str, float]) -> tuple[float, bool]:
        self.validations.append(numbers)
        return numbers["loss"], False

    def save(self, step: int, is_best: bool) -> None:
        self.saved.append(copy.deepcopy(self.state.state_dict()))


def never() -> Wish:
    return Wish()


def ordinary(state: TrainingState, loss_fn: LossFunction) -> InParts:
    model = state.model.train()
    return InParts(Autograd(model, loss_fn), loss_fn, state.store, NUM_SAMPLES, model)


def alone(run: Run, plan: Plan = PLAN, begun: dict[str, Any] | None = None) -> Watcher:
    """The run by the ordinary loop, from a checkpoint where there is one."""
    train, val = splits(run.dtype)
    state, loss_fn = run.built()
    if begun is not None:
        state.load_state_dict(begun)
    watcher = Watcher(state, loss_fn, val)
    batches = train.training(plan.samples_per_step, run.order, state.step + 1)
    fit(state, ordinary(state, loss_fn), batches, plan, watcher, never)
    watcher.next_draw = torch.get_rng_state()
    return watcher


def members_of(runs: Sequence[Run], begun: Sequence[dict[str, Any]] | None = None) -> list[Member]:
    members = []
    for i, run in enumerate(runs):
        state, loss_fn = run.built()
        if begun is not None:
            state.load_state_dict(begun[i])
        watcher = Watcher(state, loss_fn, splits(run.dtype)[1])
        members.append(Member(state, state.model, loss_fn, watcher, run.order, random_state(CPU)))
    return members


def stacked(
    members: Sequence[Member], plan: Plan = PLAN, asked: Callable[[], Wish] = never, part_size: int | None = None
) -> bool:
    train, val = splits(members[0].state.store.values.dtype)
    return fit_stack(members, train, val, train.inputs[:2], plan, part_size or plan.samples_per_step, asked)


def together(runs: Sequence[Run], plan: Plan = PLAN) -> list[Watcher]:
    """The runs as a stack; what each of their watchers has seen."""
    members = members_of(runs)
    assert stacked(members, plan)
    assert [member.error for member in members] == [None] * len(runs)
    return [member.observer for member in members]


def assert_same(runs: Sequence[Run], plan: Plan = PLAN) -> None:
    """Losses, terms and validations within 1e-5 of the runs' alone in float32, 1e-12 in float64; weights likewise."""
    for run, watcher in zip(runs, together(runs, plan), strict=True):
        expected, rel = alone(run, plan), 1e-5 if run.dtype == torch.float32 else 1e-12
        assert len(expected.losses) == plan.max_steps
        assert watcher.losses == pytest.approx(expected.losses, rel=rel)
        assert watcher.terms == [pytest.approx(terms, rel=rel) for terms in expected.terms]
        assert watcher.validations == [pytest.approx(numbers, rel=rel) for numbers in expected.validations]
        for name, tensor in watcher.state.model.state_dict().items():
            scale = expected.state.model.state_dict()[name].double().norm().item()
            assert_close(tensor, expected.state.model.state_dict()[name], rtol=0, atol=100 * rel * scale, msg=name)


# Where every third step of a run has another learning rate than in the run beside it.
RATES = (1.0, 0.5, 0.1)
OPTIMIZERS = [
    (updates.SGD, {"lr": 0.005, "momentum": 0.9}),
    (updates.Adam, {"lr": 1e-3}),
    (updates.RMSprop, {"lr": 3e-4}),
    (updates.Adagrad, {"lr": 3e-3}),
]


@pytest.mark.parametrize(
    ("dtype", "steps"),
    [
        pytest.param(torch.float32, 60, id="float32"),
        pytest.param(torch.float32, 200, id="float32, 200 steps", marks=pytest.mark.slow),
        pytest.param(torch.float64, 200, id="float64, 200 steps", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(("update", "options"), OPTIMIZERS, ids=[update.__name__ for update, _ in OPTIMIZERS])
@pytest.mark.parametrize("make", [two_layer, sequential, lenet, finetune], ids=lambda make: make.__name__)
def test_a_stack_is_its_runs_alone(make, update, options, dtype, steps):
    """The runs differ in learning rate, initialisation, dropout's draws and order of the data."""
    loss = nn.NLLLoss if make is sequential else nn.CrossEntropyLoss
    numbers = [(seed, {**options, "lr": options["lr"] * rate}) for seed, rate in enumerate(RATES)]
    runs = [Run(make, update, o, seed, seed, loss, dtype=dtype) for seed, o in numbers]
    assert_same(runs, replace(PLAN, max_steps=steps))


SHORT = replace(PLAN, max_steps=12, eval_every=5)


class TestNumbersThatDiffer:
    def test_the_shares_of_dropout_down_to_none_and_up_to_all(self):
        shares = (0.0, 0.3, 0.8, 1.0)
        assert_same([Run(lambda p=p: sequential(p), loss=nn.NLLLoss, seed=7) for p in shares], SHORT)

    @pytest.mark.parametrize("orders", [(0, 0, 0, 0), (0, 1, 0, 1), (0, 1, 2, 3), (0, 0, 0, 1)])
    def test_the_order_of_the_data(self, orders):
        assert_same([Run(seed=seed, order=order) for seed, order in enumerate(orders)], SHORT)

    def test_a_batch_of_the_whole_split(self):
        plan = replace(SHORT, samples_per_step=NUM_SAMPLES)
        assert_same([Run(seed=seed, order=seed) for seed in range(3)], plan)

    def test_all_numbers_of_the_optimizer(self):
        adam = [{"lr": 0.01, "betas": (b, 0.9 + b / 20), "eps": 1e-8 + b / 100, "weight_decay": b} for b in (0, 0.1)]
        assert_same([Run(update=updates.AdamW, options=options) for options in adam], SHORT)
        sgd = [{"lr": 0.01, "momentum": m, "weight_decay": m / 10, "dampening": m / 3} for m in (0.0, 0.5, 0.9)]
        assert_same([Run(options=options) for options in sgd], SHORT)

    def test_the_weights_of_the_loss_terms_penalties_among_them(self):
        def loss(i: int) -> nn.Module:
            terms = {"ce": nn.CrossEntropyLoss(), "sse": SumSquaredError(), "l1": L1Penalty(), "l2": L2Penalty()}
            weights = {"ce": 1.0 - i / 4, "sse": 0.01 * i, "l1": 1e-3 * i, "l2": 0.01}
            return Composite({n: {"weight": weights[n], "criterion": term} for n, term in terms.items()})

        assert_same([Run(loss=lambda i=i: loss(i), seed=i) for i in range(3)], SHORT)

    def test_each_has_its_own_schedule(self):
        schedules = [
            lambda optimizer: Schedule(ExponentialLR(optimizer, 0.8)),
            lambda optimizer: Schedule(ExponentialLR(optimizer, 0.5), "epoch", 4),
            lambda optimizer: Schedule(OneCycleLR(optimizer, 0.1, total_steps=12)),  # cycles the momentum, too
            lambda optimizer: Schedule(ReduceLROnPlateau(optimizer, patience=0, threshold=1.0), "evaluation"),
            lambda optimizer: Schedule(None),
        ]
        options = {"lr": 0.05, "momentum": 0.5}
        assert_same([Run(schedule=schedule, options=options) for schedule in schedules], SHORT)


CRITERIA = {
    "mse": nn.MSELoss,
    "summed": lambda: nn.MSELoss(reduction="sum"),
    "sum of squares": SumSquaredError,
    "l1": nn.L1Loss,
    "huber": lambda: nn.HuberLoss(delta=0.3),
    "bce with logits": nn.BCEWithLogitsLoss,
    "cross-entropy summed": lambda: nn.CrossEntropyLoss(reduction="sum"),
    "smoothed": lambda: nn.CrossEntropyLoss(label_smoothing=0.1),
    "class weights": lambda: nn.CrossEntropyLoss(weight=1 + torch.arange(10.0)),
    "the user's own": lambda: Margin(),
}


class Margin(nn.Module):
    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.multi_margin_loss(outputs, targets)


class TestWhatStacks:
    @pytest.mark.parametrize("loss", CRITERIA.values(), ids=CRITERIA.keys())
    def test_any_criterion(self, loss):
        assert_same([Run(loss=loss, seed=seed, order=seed, options={"lr": 1e-3}) for seed in range(2)], SHORT)

    @pytest.mark.parametrize(
        "make",
        [
            lambda: two_layer(bias=False, gradient="tensors"),
            lambda: lenet(0.0),
            lambda: finetune(unfreeze=["convolution"]),
            Convolutional,
            lambda: partly_frozen(),
        ],
        ids=["two_layer by hand", "lenet", "unfrozen", "by torch.func", "frozen layers"],
    )
    def test_other_models(self, make):
        assert_same([Run(make, seed=seed, order=seed) for seed in range(3)], SHORT)

    def test_one_run(self):
        assert_same([Run(sequential, loss=nn.NLLLoss)], SHORT)

    def test_clipping_is_each_run_s_own(self):
        plan = replace(SHORT, clip_norm=0.4, clip_value=0.1)
        runs = [Run(options={"lr": lr}, seed=seed) for seed, lr in enumerate((0.01, 0.1, 0.5))]
        norms = torch.stack([torch.stack(watcher.gradients).norm(dim=1) for watcher in together(runs, plan)])
        assert (norms > 0.4).any()
        assert_same(runs, plan)


def partly_frozen() -> nn.Module:
    layers = [nn.Flatten(), nn.Linear(256, 5), nn.ELU(), nn.Linear(5, 5), nn.ReLU(inplace=True), nn.Linear(5, 10)]
    layers[3].requires_grad_(False)
    layers[1].bias.requires_grad_(False)
    return nn.Sequential(*layers)


class TestARow:
    """Of a stack is a run: whoever looks at the run's own objects sees it."""

    def test_is_where_the_run_s_parameters_gradients_and_moments_lie(self):
        runs = [Run(Convolutional, updates.Adam, {"lr": 0.01}, seed) for seed in (2, 0, 1)]
        members = members_of(runs)
        parameters = [list(member.state.model.parameters()) for member in members]
        stacked(members, SHORT)
        for run, member, before in zip(runs, members, parameters, strict=True):
            state, expected = member.state, alone(run, SHORT).state
            assert all(map(lambda a, b: a is b, state.model.parameters(), before))
            weights = torch.cat([p.detach().flatten() for p in state.model.parameters()])
            assert state.store.values[0].equal(weights)
            assert state.store.flat.equal(weights)
            assert state.store.values.shape == state.store.grads.shape == (1, len(weights))
            with torch.no_grad():
                next(state.model.parameters()).fill_(3.0)
            assert (state.store.values == 3.0).sum() == before[0].numel()
            assert_close(state.optimizer.state_dict(), expected.optimizer.state_dict(), rtol=1e-12, atol=1e-15)

    def test_goes_on_alone_from_its_checkpoint_and_back_in_a_stack(self):
        """Weights, moments, schedule and the next draws of dropout."""
        half = replace(PLAN, max_steps=6, save_every=6)

        def schedule(optimizer: Optimizer) -> Schedule:
            return Schedule(ExponentialLR(optimizer, 0.9))

        def run(seed: int) -> Run:
            return Run(sequential, updates.Adam, {"lr": 0.01}, seed, seed, nn.NLLLoss, schedule)

        runs = [run(seed) for seed in range(3)]
        checkpoints = [watcher.saved[-1] for watcher in together(runs, half)]
        unbroken = [alone(run) for run in runs]
        for one, checkpoint, expected in zip(runs, checkpoints, unbroken, strict=True):
            again = alone(one, begun=checkpoint)
            assert again.losses == pytest.approx(expected.losses[6:], rel=1e-10)
            assert again.next_draw.equal(expected.next_draw)
        members = members_of(runs, checkpoints)
        stacked(members)
        for member, expected in zip(members, unbroken, strict=True):
            assert member.observer.losses == pytest.approx(expected.losses[6:], rel=1e-10)
            assert member.generator.get_state().equal(expected.next_draw)

    def test_is_saved_for_a_history_as_when_alone(self):
        runs, plan = [Run(seed=seed) for seed in range(2)], replace(PLAN, max_steps=20, eval_every=None, history=4)
        for watcher in [*together(runs, plan), alone(runs[0], plan)]:
            assert [state["step"] for state in watcher.saved] == [2, 4, 6, 8, 12, 16]

    def test_leaves_torch_s_own_generators_as_they_were(self):
        members = members_of([Run(sequential, loss=nn.NLLLoss, seed=seed) for seed in range(2)])
        before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
        stacked(members, replace(SHORT, save_every=3))
        assert torch.get_rng_state().equal(before[0])
        assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]


class Broken(Exception):
    pass


class TestLeaving:
    """What ends one run is nothing to the others."""

    @pytest.mark.parametrize(("make", "loss"), [(two_layer, nn.CrossEntropyLoss), (sequential, nn.BCELoss)])
    def test_a_loss_that_is_not_finite(self, make, loss):
        good = [Run(make, options={"lr": 0.01 + seed / 100}, seed=seed, order=seed, loss=loss) for seed in range(3)]
        bad = Run(make, options={"lr": 1e200}, seed=1, order=1, loss=loss)
        expected = together(good, SHORT)
        members = members_of([good[0], bad, *good[1:]])
        assert stacked(members, SHORT)
        left = members.pop(1)
        with pytest.raises(NonFinite) as error:
            alone(bad, SHORT)
        assert str(left.error) == str(error.value)
        assert 0 < left.state.step < SHORT.max_steps
        assert [member.error for member in members] == [None] * 3
        for member, watcher in zip(members, expected, strict=True):
            assert member.observer.losses == pytest.approx(watcher.losses, rel=1e-12)
            assert_close(member.state.store.values, watcher.state.store.values, rtol=1e-10, atol=1e-14)

    def test_its_state_is_that_of_the_step_before(self):
        """Of the same run alone, where it stopped: what is said of it afterwards is true."""
        bad = Run(options={"lr": 1e200}, dtype=torch.float64)
        members = members_of([bad, Run(seed=1)])
        stacked(members, SHORT)
        state, loss_fn = bad.built()
        train, val = splits(bad.dtype)
        watcher = Watcher(state, loss_fn, val)
        with pytest.raises(NonFinite):
            fit(state, ordinary(state, loss_fn), train.training(8, 0, 1), SHORT, watcher, never)
        left = members[0].state
        assert left.step == state.step
        assert_close(left.store.values, state.store.values, rtol=1e-12, atol=0)
        assert_close(left.store.grads, state.store.grads, rtol=1e-12, atol=0, equal_nan=True)

    def test_takes_its_own_memory_along_and_no_other_s(self):
        bad = Run(Convolutional, updates.Adam, {"lr": math.inf})
        members = members_of([bad, Run(Convolutional, updates.Adam, {"lr": 0.01})])
        stacked(members, SHORT)
        assert members[0].error is not None
        state = members[0].state
        moments = state.optimizer.state_dict()["state"][0]
        tensors = [state.store.values, state.store.grads, *state.model.buffers(), moments["exp_avg"]]
        assert [tensor.untyped_storage().nbytes() for tensor in tensors] == [tensor.nbytes for tensor in tensors]

    def test_all_at_once(self):
        members = members_of([Run(options={"lr": 1e200}, seed=seed) for seed in range(2)])
        assert stacked(members, SHORT)
        assert [type(member.error) for member in members] == [NonFinite, NonFinite]

    def test_a_validation_that_is_not_finite(self):
        members = members_of([Run(seed=seed) for seed in range(2)])
        train, val = splits(torch.float64)
        val.inputs.fill_(math.nan)
        fit_stack(members, train, val, train.inputs[:2], SHORT, BATCH_SIZE, never)
        assert [str(m.error).partition(" at")[2] for m in members] == [" step 5: the validation loss is not finite"] * 2

    @pytest.mark.parametrize("when", ["before_update", "after_update", "evaluated", "save"])
    def test_an_observer_that_fails(self, when, monkeypatch):
        runs = [Run(seed=seed) for seed in range(3)]
        expected, members = together(runs, SHORT), members_of(runs)

        def fail(step: int, *_: Any) -> None:
            if step == 5:
                raise Broken

        monkeypatch.setattr(members[1].observer, when, fail)
        stacked(members, replace(SHORT, save_every=5))
        assert [type(member.error) for member in members] == [type(None), Broken, type(None)]
        assert members[1].state.step == 5
        assert members[2].observer.losses == pytest.approx(expected[2].losses, rel=1e-12)

    def test_who_has_left_may_go_on_alone_and_is_the_same_run(self):
        """The stack reaches it no more, nor it the stack."""
        runs = [Run(Convolutional, updates.Adam, {"lr": 0.01}, seed) for seed in range(2)]
        members = members_of(runs)
        stacked(members, replace(SHORT, max_steps=6))
        leaving, staying = members
        leaving.leave()
        kept = staying.state.model.state_dict()
        kept = {name: tensor.clone() for name, tensor in kept.items()}
        train, val = splits(torch.float64)
        set_random_state(leaving.random, CPU)
        watcher = Watcher(leaving.state, leaving.loss_fn, val)
        batches = train.training(BATCH_SIZE, 0, 7)
        fit(leaving.state, ordinary(leaving.state, leaving.loss_fn), batches, SHORT, watcher, never)
        assert watcher.losses == pytest.approx(alone(runs[0], SHORT).losses[6:], rel=1e-10)
        for name, tensor in staying.state.model.state_dict().items():
            assert tensor.equal(kept[name]), name


class TestStopping:
    def test_is_after_the_whole_step_and_goes_on(self):
        runs = [Run(seed=seed) for seed in range(2)]
        members = members_of(runs)
        assert not stacked(members, SHORT, lambda: Wish(stop=members[0].state.step == 7))
        assert [member.state.step for member in members] == [7, 7]
        assert stacked(members, SHORT)
        for run, member in zip(runs, members, strict=True):
            assert member.observer.losses == pytest.approx(alone(run, SHORT).losses, rel=1e-12)

    def test_breaks_a_validation_off_which_is_made_up_for(self):
        train, val = splits(torch.float64)
        members = members_of([Run(seed=seed) for seed in range(2)])
        plan, sample = SHORT, train.inputs[:2]

        def asked() -> Wish:  # nine samples of validation are two parts
            return Wish(members[0].state.step == 5)

        assert not fit_stack(members, train, val, sample, plan, BATCH_SIZE, asked)
        assert [(m.state.step, m.state.evaluated, m.observer.validations) for m in members] == [(5, 0, [])] * 2
        assert stacked(members, plan)
        expected = together([Run(seed=seed) for seed in range(2)], plan)
        for member, watcher in zip(members, expected, strict=True):
            assert member.observer.validations == [pytest.approx(v, rel=1e-12) for v in watcher.validations]
            assert member.state.evaluated == SHORT.max_steps

    def test_a_wish_to_save_is_everybody_s(self):
        members = members_of([Run(seed=seed) for seed in range(2)])
        stacked(members, SHORT, lambda: Wish(save=members[0].state.step == 7))
        assert [[saved["step"] for saved in member.observer.saved] for member in members] == [[7], [7]]


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(SIDE * SIDE, NUM_CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        return nn.functional.dropout(self.last(inputs.flatten(1)), 0.5, self.training)


class Undecided(Noisy):
    def forward(self, inputs: Tensor) -> Tensor:
        outputs = self.last(inputs.flatten(1))
        return outputs if outputs.sum() > 0 else -outputs


class Scaled(Noisy):
    """With a number of its own that is no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.rand(())

    def forward(self, inputs: Tensor) -> Tensor:
        return self.scale * self.last(inputs.flatten(1))


class OwnPenalty(L2Penalty):
    pass


def tied() -> nn.Module:
    twice = nn.Linear(256, 256)
    return nn.Sequential(nn.Flatten(), twice, nn.Tanh(), twice, nn.Linear(256, 10))


def composite(*criteria: nn.Module) -> Callable[[], nn.Module]:
    return lambda: Composite({str(i): {"weight": 1.0, "criterion": c} for i, c in enumerate(criteria)})


REFUSED = {
    "w1 (256, 5)": (Run(), Run(lambda: TwoLayer(in_features=256, hidden_features=5, out_features=10))),
    "different layers": (Run(partly_frozen), Run(lambda: partly_frozen().append(nn.ReLU()))),
    "gradient: autograd in one model, numpy": (Run(), Run(lambda: two_layer(gradient="numpy"))),
    "Noisy: draws random numbers": (Run(Noisy), Run(Noisy)),
    "Undecided: ": (Run(Undecided), Run(Undecided)),
    "Scaled: gives other outputs in a stack than alone": (Run(Scaled), Run(Scaled, seed=1)),
    "1.weight is 3.weight, too": (Run(tied), Run(tied)),
    "SGD and Adam": (Run(), Run(update=updates.Adam)),
    "optimizer.nesterov: False in one run, True": (
        Run(options={"lr": 0.1, "momentum": 0.9}),
        Run(options={"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    ),
    "other terms": (Run(loss=composite(nn.MSELoss())), Run(loss=composite(nn.MSELoss(), L1Penalty()))),
    "a penalty of the user's own": (Run(loss=composite(nn.MSELoss(), OwnPenalty())),) * 2,
}


class TestRefused:
    @pytest.mark.parametrize(("reason", "runs"), REFUSED.items(), ids=REFUSED)
    def test_with_the_reason_and_each_is_as_good_as_before(self, reason, runs):
        members = members_of(runs)
        with pytest.raises(CannotStack, match=reason.replace("(", r"\(").replace(")", r"\)")) as error:
            stacked(members, SHORT)
        assert "\n" not in str(error.value)
        for run, member in zip(runs, members, strict=True):
            member.leave()
            set_random_state(member.random, CPU)
            train, val = splits(run.dtype)
            watcher = Watcher(member.state, member.loss_fn, val)
            batches = train.training(BATCH_SIZE, run.order, 1)
            fit(member.state, ordinary(member.state, member.loss_fn), batches, SHORT, watcher, never)
            assert watcher.losses == alone(run, SHORT).losses

    def test_an_optimizer_that_has_no_rows(self):
        members = members_of([Run(), Run()])
        members[1].state.optimizer = torch.optim.Rprop([members[1].state.store.flat])
        with pytest.raises(CannotStack, match="optimizer Rprop"):
            stacked(members)

    @pytest.mark.parametrize(
        ("part_size", "changes", "reason"), [(4, {}, "accumulate"), (None, {"skips_non_finite": True}, "on_nan=skip")]
    )
    def test_what_the_loop_can_do_for_one_run_alone(self, part_size, changes, reason):
        with pytest.raises(CannotStack, match=reason):
            stacked(members_of([Run(), Run()]), replace(PLAN, **changes), part_size=part_size)

    def test_batch_norms_of_an_average_that_are_measured(self):
        for average, says in ((Average, "average.last: each run measures"), (partial(Average, decay=0.9), None)):
            members = members_of([Run(), Run()])
            for member in members:
                member.state.average = average(member.state.store.values.clone())
                member.state.model.train().add_module("norm", nn.BatchNorm1d(3))
            with pytest.raises(CannotStack, match=says) if says else nullcontext():
                refuse_plan(members, PLAN, BATCH_SIZE)

    def test_runs_at_different_steps(self):
        members = members_of([Run(), Run()])
        members[0].state.step = 3
        with pytest.raises(CannotStack, match=r"different steps: \[0, 3\]"):
            stacked(members)


class TestBatches:
    @pytest.mark.parametrize("augment", [None, Augmentation(crop_padding=2)], ids=["plain", "augmented"])
    @pytest.mark.parametrize("batch_size", [BATCH_SIZE, NUM_SAMPLES])
    @pytest.mark.parametrize(("seeds", "count"), [((5, 5), 1), ((1, 1, 2, 2), 2), ((1, 2, 2), 3), ((4, 3), 2)])
    def test_are_each_run_s_own(self, augment, batch_size, seeds, count):
        train, _ = splits(torch.float32, augment)
        first = 3  # in the middle of an epoch; the next begins with the fifth
        found = stacked_batches(train, batch_size, seeds, first)
        each: list[Iterator[Batch]] = [train.training(batch_size, seed, first) for seed in seeds]
        for _, batch in zip(range(6), found, strict=False):
            is_whole = batch_size == NUM_SAMPLES and augment is None
            assert len(batch.inputs) == len(batch.targets) == (1 if is_whole else count)
            for run, own in enumerate(each):
                expected, row = next(own), run * len(batch.inputs) // len(seeds)
                assert batch.inputs[row].equal(expected.inputs)
                assert batch.targets[row].equal(expected.targets)

    def test_that_are_large_are_gathered_one_by_one(self, monkeypatch):
        monkeypatch.setattr("trainer.stack.batches.GATHERED_BYTES", 1)
        self.test_are_each_run_s_own(None, BATCH_SIZE, (1, 2, 2), 3)


def test_a_validation_is_that_of_each_run_alone():
    """Parts of a few samples, the last of one: every sample counts once."""
    runs = [Run(seed=seed, loss=composite(nn.CrossEntropyLoss(), SumSquaredError(), L2Penalty())) for seed in (0, 1)]
    members = members_of(runs)
    train, val = splits(torch.float64)
    stack = Stack(members, train, BATCH_SIZE, train.inputs[:2])
    found = evaluate_all(stack.network, stack.loss_fn, val, 4)
    for run, numbers in zip(runs, found, strict=True):
        state, loss_fn = run.built()
        expected = evaluate(state.model, loss_fn, val, CPU, nullcontext)
        assert numbers == pytest.approx(expected, rel=1e-12)
        assert math.isfinite(numbers["loss"])
        assert numbers["accuracy"] == expected["accuracy"]
