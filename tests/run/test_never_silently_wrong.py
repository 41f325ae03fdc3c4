"""What a user's model, loss, optimizer or data may do, and the numbers are still those of a plain PyTorch loop.

Each class stands for a kind of fault; its cases are neighbours within the kind.
"""

import importlib
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from trainer.command.composing import own_classes
from trainer.command.folders import config_folders
from trainer.command.reading import hydra_at
from trainer.config.compose import Alike
from trainer.config.settings import settings_of
from trainer.data.batches import ResidentBatches
from trainer.data.prepare import on_device
from trainer.disk import checkpoint
from trainer.errors import UserError
from trainer.run.parts import Parts, build
from trainer.stack.architecture import stacked_network
from trainer.stack.refusal import CannotStack
from trainer.stack.store import StackedStore

Train = Callable[..., dict[str, Any]]
QUIET = ("monitor=off", "threads=1", "trust=[mine]", "test=last")

MINE = """
import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from trainer.data.source import Data, Samples


class Plain(nn.Module):
    def __init__(self, in_features, num_classes, width=8):
        super().__init__()
        self.a, self.b = nn.Linear(in_features, width), nn.Linear(width, num_classes)

    def forward(self, x):
        return self.b(self.a(x.flatten(1)).relu())


class Shifts(Plain):
    def forward(self, x):
        x -= 0.5
        return super().forward(x)


class Scales(Plain):
    def forward(self, x):
        x.data.mul_(2)  # counts up no version
        return super().forward(x)


class Leaks(Plain):
    def __init__(self, in_features, num_classes):
        super().__init__(in_features, num_classes)
        self.first = nn.LeakyReLU(0.1, inplace=True)

    def forward(self, x):
        return super().forward(self.first(x))


class Branches(Plain):
    '''Uses a part in every fourth step alone, and another one never.'''

    def __init__(self, in_features, num_classes):
        super().__init__(in_features, num_classes)
        self.extra, self.never, self.calls = nn.Linear(8, 8), nn.Linear(3, 3), 0

    def forward(self, x):
        hidden = self.a(x.flatten(1)).relu()
        self.calls += self.training
        if self.training and self.calls % 4 == 0:
            hidden = hidden + self.extra(hidden)
        return self.b(hidden)


class Rebinds(torch.optim.SGD):
    '''Gives parameters other memory.'''

    def step(self, closure=None):
        super().step(closure)
        for group in self.param_groups:
            for p in group["params"]:
                p.data = p.data.clone()


class Forgets(torch.optim.SGD):
    '''Sets the gradients to None when it is done.'''

    def step(self, closure=None):
        super().step(closure)
        self.zero_grad()


class Replaces(torch.optim.SGD):
    '''Gives gradients other memory.'''

    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = p.grad.sign()
        super().step(closure)


class Sum(nn.Module):
    def forward(self, outputs, targets):
        return F.cross_entropy(outputs, targets, reduction="none").sum()


class Mean(nn.Module):
    def forward(self, outputs, targets):
        return F.cross_entropy(outputs, targets, reduction="none").mean()


class Root(nn.Module):
    def forward(self, outputs, targets):
        return (outputs - F.one_hot(targets, outputs.shape[1])).square().mean().sqrt()


class Contrasts(nn.Module):
    '''Each sample with all others of the batch.'''

    def forward(self, outputs, targets):
        near = outputs @ outputs.T
        return F.cross_entropy(near - 9 * torch.eye(len(near)), (torch.arange(len(near)) + 1) % len(near))


def numbers(kind="float32", size=90, shape=(4,)):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(size, *shape, generator=generator)
    y = (x.flatten(1)[:, 0] > 0).long()
    if kind == "int64":
        x = torch.randint(0, 2**24 + 50, (size, *shape), generator=generator)
    if kind == "complex64":
        x = torch.complex(x, x.flip(0))
    return Data(*(Samples(x[i::3], y[i::3]) for i in range(3)), description=kind, num_classes=2)


def draws(source="torch"):
    '''Draws from a global generator.'''
    drawn = {"torch": lambda: torch.randn(90, 4), "numpy": lambda: torch.from_numpy(np.random.randn(90, 4)).float()}
    x = drawn[source]()
    y = (x[:, 0] > 0).long()
    return Data(*(Samples(x[i::3], y[i::3]) for i in range(3)), description="drawn", num_classes=2)


def hangs(on="targets"):
    '''Tensors that come from a computation.'''
    x = torch.randn(90, 4, generator=torch.Generator().manual_seed(0))
    given = (x @ torch.ones(4, 4, requires_grad=True)).tanh()
    inputs, targets = {"targets": (x, given), "inputs": (given, x), "bfloat16": (x, x.bfloat16())}[on]
    return Data(*(Samples(inputs[i::3], targets[i::3]) for i in range(3)), description=on)


def fits(limit=None, normalize=True):
    '''Has arguments of the names of keys that the run reads itself.'''
    data = numbers(size=limit or 90)
    return Data(data.train, data.val, data.test, description=f"limit={limit} normalize={normalize}", num_classes=2)


def open_to_all(name, **more):
    return Plain(**more)


class Regression(nn.Linear):
    def __init__(self, in_features, out_features):
        super().__init__(in_features, out_features)


class Spectral(nn.Module):
    '''Complex weights.'''

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(9, dtype=torch.cfloat))
        self.register_buffer("i", torch.tensor([1j]))

    def forward(self, x):
        return torch.fft.irfft(torch.fft.rfft(x) * self.w * self.i / 1j, n=16)


def waves():
    t = torch.arange(16) / 16 * 2 * math.pi + 6.28 * torch.rand(90, 1, generator=torch.Generator().manual_seed(0))
    return Data(*(Samples(t[i::3].cos(), t[i::3].sin()) for i in range(3)), description="cosines to sines")


class Slope(nn.Module):
    '''A network of which the derivative by its input is wanted.'''

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, t):
        t = t.detach().requires_grad_()
        u = 1 + t * self.net(t)
        return torch.autograd.grad(u.sum(), t, create_graph=True)[0] + u


class Net1(Slope):
    def forward(self, t):
        return 1 + t * self.net(t)


class Residual(nn.Module):
    '''The same by the loss.'''

    def forward(self, outputs, targets, inputs):
        slope = torch.autograd.grad(outputs.sum(), inputs, create_graph=True)[0]
        return (slope + outputs - targets).square().mean()


def times():
    t = torch.linspace(0, 1, 90)[:, None]
    return Data(*(Samples(t[i::3], 0 * t[i::3]) for i in range(3)), description="times")


class Pair(Plain):
    def forward(self, x):
        y = super().forward(x)
        return {"hidden": y * 2, "logits": y}


class PairLoss(nn.Module):
    def forward(self, outputs, targets):
        return F.cross_entropy(outputs["logits"], targets)


class Probable(Plain):
    def forward(self, x):
        return super().forward(x).softmax(1)


class Marked(Plain):
    def __init__(self, in_features, num_classes):
        super().__init__(in_features, num_classes)
        self.marker = nn.Parameter(torch.empty(0))


class Joined(Plain):
    def forward(self, x):
        return super().forward(x[:1] + x[1].expand(2, -1))


class Turned(Plain):
    def forward(self, x):
        return super().forward(x).T


class Signals(nn.Module):
    def __init__(self, in_channels, num_classes, dims=1):
        super().__init__()
        self.conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1](in_channels, 3, 2)
        self.head = nn.Linear(3, num_classes)

    def forward(self, x):
        return self.head(self.conv(x).flatten(2).mean(2))


def masks(channels=True):
    '''A bright pixel is a pixel of the mask.'''
    y = torch.zeros(60, 1, 8, 8)
    y[:, :, :3, :2] = 1
    x = (200 * y).to(torch.uint8)
    return Data(*(Samples(x[i::3], y[i::3]) for i in range(3)), description="masks")


class Pixels(nn.Module):
    def __init__(self, in_channels):
        super().__init__()
        self.layer = nn.Conv2d(in_channels, 1, 1)

    def forward(self, x):
        return self.layer(x)
"""


@pytest.fixture(autouse=True)
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's classes, where the command is typed."""
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "mine", raising=False)


def parts_of(*words: str, is_alone: bool = True) -> Parts:
    """What the command is made of before its first step."""
    with hydra_at(config_folders([])):
        return build(settings_of(Alike("train").composed(own_classes([*QUIET, *words]))), is_alone=is_alone)


def by_hand(*words: str, clip: float | None = None, **changed: Any) -> dict[str, Tensor]:
    """The weights after the loop of a tutorial on the same batches, from the same start."""
    parts = parts_of(*words)
    first = {name: tensor.clone() for name, tensor in parts.model.state_dict().items()}
    settings, length = parts.settings, parts.length
    options = dict(settings.group("optimizer"))
    target = options.pop("_target_")
    kind = getattr(importlib.import_module(target.rpartition(".")[0]), target.rpartition(".")[2])
    model = type(parts.model)(**changed) if changed else type(parts.model)(4, 2)
    model.load_state_dict(first)
    optimizer = kind(model.parameters(), **options)
    criterion = parts.loss_fn.parts[0].criterion
    inputs, targets = parts.data.train.inputs.clone(), parts.data.train.targets
    split = ResidentBatches(inputs, targets)
    model.train()
    for _, (x, y) in zip(
        range(length.max_steps), split.training(length.samples_per_step, settings.order_seed, 1), strict=False
    ):
        optimizer.zero_grad()
        criterion(model(x.clone()), y).backward()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
    return model.state_dict()


def weights(name: str = "a") -> dict[str, Tensor]:
    state: dict[str, Tensor] = checkpoint.read(Path("runs", name, "checkpoints/last.pt"))["model"]
    return state


DATA = ("data._target_=mine.numbers",)


class TestSamplesThatAModelWritesInto:
    @pytest.mark.parametrize("batch_size", ["16", "full"])
    @pytest.mark.parametrize("fast", ["true", "false"])
    @pytest.mark.parametrize("net", ["Shifts", "Scales", "Leaks"])
    def test_are_handed_out_as_they_are(self, net: str, fast: str, batch_size: str, train: Train) -> None:
        words = (f"model._target_=mine.{net}", *DATA, f"batch_size={batch_size}", "max_steps=12", "eval_every=3")
        found = train(*QUIET, *words, f"fast={fast}", "optimizer=sgd", "name=a", "test=last")
        expected = by_hand(*words, "optimizer=sgd")
        assert_close(weights(), expected, rtol=1e-5, atol=1e-6)
        parts = parts_of(*words)
        parts.model.load_state_dict(expected)
        with torch.no_grad():
            loss = F.cross_entropy(parts.model.eval()(parts.data.test.inputs.clone()), parts.data.test.targets)
        assert found["test/loss"] == pytest.approx(loss.item(), rel=1e-5)

    @pytest.mark.parametrize("fast", ["true", "false"])
    def test_shipped_parts_do_so_too(self, fast: str, train: Train) -> None:
        """A dropout in place on the whole split, which is handed out as it lies there."""
        layers = (
            "[{_target_:torch.nn.Flatten},{_target_:torch.nn.Dropout,p:0.2,inplace:%s},"
            "{_target_:torch.nn.Linear,in_features:64,out_features:10}]"
        )
        words = ("model=sequential", "data.limit=100", "batch_size=full", "max_steps=20", f"fast={fast}")
        here, there = (
            train(*QUIET, *words, f"model.layers={layers % is_there}", f"name=in_place_{is_there}")
            for is_there in ("true", "false")
        )
        assert here["test/loss"] == there["test/loss"]
        assert_close(weights("in_place_true"), weights("in_place_false"), rtol=0, atol=0)


class TestParametersWithoutAGradient:
    """torch leaves them alone in such a step."""

    @pytest.mark.parametrize("fast", ["true", "false"])
    @pytest.mark.parametrize(
        "optimizer",
        [
            ("optimizer=adamw",),
            ("optimizer=adam", "optimizer.weight_decay=0.1"),
            ("optimizer=sgd", "optimizer.momentum=0.9", "optimizer.weight_decay=0.1", "optimizer.dampening=0.3"),
            ("optimizer=rmsprop", "optimizer.momentum=0.5"),
            ("optimizer=adagrad",),
        ],
        ids=" ".join,
    )
    def test_are_left_alone(self, optimizer: tuple[str, ...], fast: str, train: Train) -> None:
        words = ("model._target_=mine.Branches", *DATA, "batch_size=8", "max_steps=21", *optimizer)
        train(*QUIET, *words, f"fast={fast}", "name=a")
        found, expected = weights(), by_hand(*words)
        assert_close(found, expected, rtol=1e-5, atol=1e-7)
        start = parts_of(*words).model.state_dict()
        assert torch.equal(found["never.weight"], start["never.weight"])
        assert not torch.equal(found["extra.weight"], start["extra.weight"])

    def test_a_run_goes_on_exactly(self, train: Train, capfd: pytest.CaptureFixture[str]) -> None:
        words = ("model._target_=mine.Branches", *DATA, "batch_size=8", "optimizer=adamw")
        train(*QUIET, *words, "max_steps=24", "name=whole")
        for max_steps in (12, 24):  # the model counts in fours, and begins anew
            assert "no checkpoint keeps it" not in capfd.readouterr().out
            train(*QUIET, *words, f"max_steps={max_steps}", "name=broken")
        said = capfd.readouterr().out
        assert "warning: model.calls changes while it trains, and no checkpoint keeps it" in said
        assert_close(weights("broken"), weights("whole"), rtol=0, atol=0)

    def test_a_stack_refuses_them(self, train: Train, capfd: pytest.CaptureFixture[str]) -> None:
        words = ("model._target_=mine.Branches", *DATA)
        parts = [parts_of(*words, f"seed={seed}", is_alone=False) for seed in range(2)]
        models = [each.model for each in parts]
        store = StackedStore(models, [each.state.store for each in parts])
        generators = [torch.Generator() for _ in parts]
        with pytest.raises(CannotStack, match="no gradient reaches it"):
            stacked_network(models, store, generators, parts[0].sample.inputs)


class TestOptimizersOfTheUsers:
    @pytest.mark.parametrize("fast", ["true", "false"])
    @pytest.mark.parametrize("kind", ["Rebinds", "Forgets", "Replaces"])
    def test_may_give_parameters_and_gradients_other_memory(self, kind: str, fast: str, train: Train) -> None:
        words = (
            "model._target_=mine.Plain",
            *DATA,
            f"optimizer._target_=mine.{kind}",
            "optimizer.lr=0.1",
            "optimizer.momentum=0.9",
            "batch_size=8",
            "max_steps=20",
        )
        train(*QUIET, *words, f"fast={fast}", "gradient.clip_norm=0.2", "name=a")
        assert_close(weights(), by_hand(*words, clip=0.2), rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize("more", ["optimizer.decay=all", "optimizer.decay=weights"])
    def test_a_run_continues_without_the_short_cuts_and_with_them(self, more: str, train: Train) -> None:
        """Of a model of one's own nobody knows which parameters get a gradient: each has a state of its own then."""
        words = ("model._target_=mine.Plain", *DATA, "optimizer=adamw", more, "dtype=float64")
        train(*QUIET, *words, "max_steps=6", "fast=false", "name=whole")
        for fast, other in (("true", "false"), ("false", "true")):
            train(*QUIET, *words, "max_steps=3", f"fast={fast}", f"name={fast}")
            train(*QUIET, *words, "max_steps=6", f"fast={other}", f"name={fast}")
            assert_close(weights(fast), weights("whole"), rtol=1e-10, atol=1e-14)


class TestLossesOfTheUsers:
    @pytest.mark.parametrize("accumulate", [1, 3])
    @pytest.mark.parametrize(("loss", "how"), [("Sum", "sum"), ("Mean", "mean")])
    def test_are_a_sum_or_a_mean_as_they_are(self, loss: str, how: str, accumulate: int, train: Train) -> None:
        words = ("model._target_=mine.Plain", *DATA, f"loss._target_=mine.{loss}", "optimizer=sgd", "max_steps=8")
        words = (*words, "optimizer.lr=0.001", f"batch_size={8 // accumulate}", f"gradient.accumulate={accumulate}")
        found = train(*QUIET, *words, "data.size=270", "name=a")
        parts = parts_of(*words, "data.size=270")
        parts.model.load_state_dict(weights())
        test = parts.data.test
        with torch.no_grad():
            expected = F.cross_entropy(parts.model(test.inputs), test.targets, reduction=how)
        assert found["test/loss"] == pytest.approx(expected.item(), rel=1e-5)
        assert parts.loss_fn.terms[0].kind == how

    @pytest.mark.parametrize("loss", ["Root", "Contrasts"])
    def test_that_are_neither_are_taken_over_the_whole_split(
        self, loss: str, train: Train, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("trainer.data.batches.EVALUATION_BATCH", 7)
        words = ("model._target_=mine.Plain", *DATA, f"loss._target_=mine.{loss}", "max_steps=8", "batch_size=8")
        found = train(*QUIET, *words, "name=a")
        assert "is no mean and no sum over samples" in capfd.readouterr().out
        parts = parts_of(*words)
        parts.model.load_state_dict(weights())
        with torch.no_grad():
            criterion = parts.loss_fn.parts[0].criterion
            expected = criterion(parts.model(parts.data.test.inputs), parts.data.test.targets)
        assert found["test/loss"] == pytest.approx(expected.item(), rel=1e-5)

    @pytest.mark.parametrize(
        "words",
        [("model._target_=mine.Slope", "loss=mse"), ("model._target_=mine.Net1", "loss._target_=mine.Residual")],
    )
    def test_and_models_may_differentiate_by_the_inputs(self, words: tuple[str, ...], train: Train) -> None:
        """u' = -u, u(0) = 1: u(1) = 1/e."""
        found = train(*QUIET, *words, "data._target_=mine.times", "max_steps=400", "optimizer.lr=0.02", "eval_every=50")
        assert found["test/loss"] < 1e-3

    @pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
    def test_samples_second_are_refused(self, loss: str, train: Train) -> None:
        """With two classes, two samples do not show it."""
        words = ("data._target_=mine.numbers", "model._target_=mine.Turned", f"loss={loss}")
        with pytest.raises(
            UserError, match=r"^model=Turned: gives outputs of shape \[2, 3\] for three samples; .*movedim"
        ):
            train(*QUIET, *words)

    def test_rows_that_are_no_samples_are_refused(self, train: Train) -> None:
        """A model that takes the samples for parts of one met a single sample, which ended in a traceback."""
        words = ("data._target_=mine.numbers", "model._target_=mine.Joined")
        with pytest.raises(
            UserError, match=r"gives outputs of shape \[2, 2\] for three samples; .*a row for each sample"
        ):
            train(*QUIET, *words)

    def test_one_output_for_two_classes_is_of_another_loss(self, train: Train) -> None:
        words = ("data._target_=mine.numbers", "model._target_=mine.Regression", "model.out_features=1", "max_steps=1")
        with pytest.raises(UserError, match=r"takes one output per class: \[N, 2\]\. Or type (\S+)\.") as error:
            train(*QUIET, *words, "loss=cross_entropy")
        assert "test/accuracy" in train(
            *QUIET, *words, str(error.value).split("Or type ")[1].split(". ")[0].rstrip(".")
        )

    def test_a_model_may_give_a_dict(self, train: Train) -> None:
        words = ("model._target_=mine.Pair", "loss._target_=mine.PairLoss", *DATA, "max_steps=8")
        found = train(*QUIET, *words, "monitor=full", "name=a")
        same = train(*QUIET, "model._target_=mine.Plain", *DATA, "max_steps=8", "name=b")
        assert {tag: found[tag] for tag in ("test/loss", "test/accuracy")} == {
            tag: same[tag] for tag in ("test/loss", "test/accuracy")
        }


class TestWeightsOfClasses:
    """By parts, over several batches of a validation: what the whole gives."""

    @pytest.mark.parametrize("loss", ["cross_entropy", "nll"])
    def test_count_as_in_one_batch(self, loss: str, train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
        model = "model=sequential" if loss == "nll" else "model=two_layer"
        numbers = ",".join(str(0.1 + i) for i in range(10))
        words = (model, f"loss={loss}", f"loss.weight=[{numbers}]", "loss.ignore_index=3", "data.limit=100")
        words = (*words, "max_steps=6", "optimizer=sgd", "dtype=float64")
        if loss == "nll":
            words = (
                *words,
                "~model.layers",
                "+model.layers=[{_target_:torch.nn.Flatten},{_target_:torch.nn.Linear,"
                "in_features:64,out_features:10},{_target_:torch.nn.LogSoftmax,dim:1}]",
            )
        whole = train(*QUIET, *words, "batch_size=40", "name=whole")
        monkeypatch.setattr("trainer.data.batches.EVALUATION_BATCH", 7)
        parts = train(*QUIET, *words, "batch_size=5", "gradient.accumulate=8", "name=parts")
        assert_close(weights("parts"), weights("whole"), rtol=1e-10, atol=1e-12)
        assert parts["test/loss"] == pytest.approx(whole["test/loss"], rel=1e-10)

    def test_of_another_length_are_refused(self, train: Train) -> None:
        with pytest.raises(UserError, match=r"^loss.weight: has 3 numbers; 10 are needed"):
            train(*QUIET, "model=two_layer", "loss.weight=[1,2,3]")
        for key in ("weight", "pos_weight"):
            with pytest.raises(UserError, match=rf"^loss.{key}: has 2 numbers; 10 are needed"):
                train(*QUIET, "model=two_layer", "loss=bce_with_logits", f"loss.{key}=[1,2]")

    def test_one_number_is_of_all_outputs(self, train: Train) -> None:
        words = ("model=two_layer", "loss=bce_with_logits", "data.limit=100", "max_steps=1")
        with pytest.raises(UserError, match=r" Type loss\.pos_weight=\[3\]\.$"):
            train(*QUIET, *words, "loss.pos_weight=3")
        found, same = (train(*QUIET, *words, f"loss.pos_weight=[{three}]") for three in ("3", "3,3,3,3,3,3,3,3,3,3"))
        assert found["test/loss"] == pytest.approx(same["test/loss"], rel=1e-6)
        with pytest.raises(UserError, match=r"^loss\.weight=3: must be a list.* Try loss\.weight=\[1,2\]\.$"):
            train(*QUIET, "model=two_layer", "loss.weight=3")


class TestKindsOfNumbers:
    def test_whole_numbers_stay_whole(self) -> None:
        """Ids above 2^24, which float32 does not have."""
        ids = torch.tensor([2**24 + 1, 2**24 + 3])
        assert torch.equal(on_device(ids, torch.device("cpu"), torch.float32), ids)
        flags = torch.tensor([True, False])
        assert on_device(flags, torch.device("cpu"), torch.float64).dtype == torch.bool
        assert on_device(torch.ones(1, dtype=torch.cfloat), torch.device("cpu"), torch.float64).dtype == torch.cdouble

    @pytest.mark.parametrize("optimizer", ["adam", "sgd", "adamw", "rmsprop"])
    def test_complex_weights_train_as_torch_trains_them(self, optimizer: str, train: Train) -> None:
        words = ("model._target_=mine.Spectral", "data._target_=mine.waves", "loss=mse", f"optimizer={optimizer}")
        words = (*words, "max_steps=30", "batch_size=8")
        result = train(*QUIET, *words, "name=a")
        assert result["num_trainable"] == result["num_parameters"]
        parts = parts_of(*words)
        model = type(parts.model)()
        options = {key: value for key, value in parts.settings.group("optimizer").items() if key != "_target_"}
        kind = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}
        update = kind.get(optimizer, torch.optim.RMSprop)(model.parameters(), **options)
        for _, (x, y) in zip(
            range(30), ResidentBatches(*vars(parts.data.train).values()).training(8, 0, 1), strict=False
        ):
            update.zero_grad()
            F.mse_loss(model(x), y).backward()
            update.step()
        assert weights()["w"].is_complex()
        assert_close(weights()["w"], model.w.detach(), rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("on", ["targets", "inputs", "bfloat16"])
    def test_tensors_that_come_from_a_computation_are_its_numbers(self, on: str, train: Train) -> None:
        words = ("model._target_=mine.Regression", "data._target_=mine.hangs", f"data.on={on}", "loss=mse")
        assert math.isfinite(train(*QUIET, *words, "max_steps=3", "batch_size=8")["test/loss"])

    def test_a_parameter_without_numbers_is_none(self, train: Train, capfd: pytest.CaptureFixture[str]) -> None:
        train(*QUIET, "model._target_=mine.Marked", "max_steps=6", "monitor=scalars", "monitor.every=2")
        assert "marker" not in capfd.readouterr().out


class TestWhatIsToldOfTheData:
    @pytest.mark.parametrize(("dims", "shape"), [(1, "[2,9]"), (2, "[3,6,6]"), (3, "[4,5,5,5]")])
    def test_channels_of_signals_images_and_volumes(self, dims: int, shape: str, train: Train) -> None:
        words = ("model._target_=mine.Signals", f"model.dims={dims}", "data._target_=mine.numbers")
        assert train(*QUIET, *words, f"data.shape={shape}", "max_steps=1")["steps"] == 1

    def test_a_function_that_takes_anything_is_told_what_it_can_use(self, train: Train) -> None:
        words = ("model._target_=mine.open_to_all", "model.name=tiny", "data._target_=mine.numbers", "max_steps=1")
        assert train(*QUIET, *words, "model.width=5")["num_parameters"] == 4 * 5 + 5 + 5 * 2 + 2

    def test_what_was_typed_is_never_dropped(self, train: Train) -> None:
        words = ("model._target_=mine.Slope", "loss=mse", "data._target_=mine.times", "max_steps=1")
        with pytest.raises(UserError, match=r"^model.num_classes: nothing reads this key"):
            train(*QUIET, *words, "model.num_classes=7")
        with pytest.raises(UserError, match="unexpected keyword argument 'out_features'"):
            train(
                *QUIET,
                "model._target_=mine.open_to_all",
                "model.name=x",
                "model.out_features=3",
                "data._target_=mine.numbers",
            )

    def test_keys_of_ours_that_a_function_names_are_its_own(
        self, train: Train, capfd: pytest.CaptureFixture[str]
    ) -> None:
        words = ("model._target_=mine.Plain", "data._target_=mine.fits", "data.limit=30", "data.normalize=false")
        train(*QUIET, *words, "max_steps=1", "batch_size=4")
        assert "limit=30 normalize=False" in capfd.readouterr().out
        assert len(parts_of(*words).splits.train) == 10


class TestDataOfTheUsers:
    @pytest.mark.parametrize("source", ["torch", "numpy"])
    def test_what_they_draw_is_seeded(self, source: str, train: Train) -> None:
        words = ("model._target_=mine.Plain", "data._target_=mine.draws", f"data.source={source}", "max_steps=4")
        a, b = (train(*QUIET, *words, f"name={name}")["test/loss"] for name in "ab")
        c = train(*QUIET, *words, "name=c", "seed=1")["test/loss"]
        assert a == b != c
        assert train(*QUIET, *words, "max_steps=8", "name=a")["steps"] == 8

    def test_other_inputs_under_the_same_targets_are_noticed(self, train: Train, tmp_path: Path) -> None:
        words = ("model._target_=mine.Plain", "data._target_=mine.numbers")
        train(*QUIET, *words, "max_steps=2", "name=a")
        text = (
            (tmp_path / "mine.py")
            .read_text()
            .replace(
                "y = (x.flatten(1)[:, 0] > 0).long()\n    if kind",
                "y = (x.flatten(1)[:, 0] > 0).long()\n    x = x.flip(1)\n    if kind",
            )
        )
        (tmp_path / "mine.py").write_text(text)
        del sys.modules["mine"]
        with pytest.raises(UserError, match=r"the train split has other inputs than the run began with"):
            train(*QUIET, *words, "max_steps=4", "name=a")

    def test_masks_are_turned_with_their_images(self, train: Train) -> None:
        words = ("model._target_=mine.Pixels", "data._target_=mine.masks", "loss=bce_with_logits", "optimizer.lr=0.3")
        augment = ("data.augment.horizontal_flip=true", "data.augment.crop_padding=2", "batch_size=8", "max_steps=100")
        assert train(*QUIET, *words, *augment)["train/loss"] < 0.05


class TestWhatIsSaid:
    def test_probabilities_for_logits(self, train: Train, capfd: pytest.CaptureFixture[str]) -> None:
        words = (*QUIET, "model._target_=mine.Probable", "max_steps=1")
        train(*words)
        (said,) = [line for line in capfd.readouterr().out.splitlines() if line.startswith("warning: ")]
        assert said.startswith("warning: step=1 probabilities into a loss of logits: ")
        train(*words, "dry_run=true")
        assert "its outputs look like probabilities" in capfd.readouterr().out
        train(*QUIET, "model._target_=mine.Plain", "max_steps=1")
        assert "probabilities" not in capfd.readouterr().out

    @pytest.mark.parametrize(
        ("start", "factor", "said"),
        [
            (1, 1, ""),
            (1, 50, ""),
            (1, 1000, "Divide them by 10,000 in"),
            (1, -300_000, "Divide them by 1,000,000 in"),
            (2005, 1, "Subtract 2,005 from them in"),  # years: divided by 10,000 they would be 0.2005 and 0.2006
            (500, 1000, "from them and divide them by 1,000 in"),
        ],
    )
    def test_targets_far_from_the_outputs(
        self, start: int, factor: int, said: str, train: Train, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        rows = "".join(f"{i},{factor * (start + i % 7 / 7)}\n" for i in range(60))
        (tmp_path / "t.csv").write_text("a,b\n" + rows)
        train(
            "monitor=off",
            "data=arrays",
            "data.path=t.csv",
            "data.targets=[b]",
            "model=two_layer",
            "loss=mse",
            "max_steps=1",
        )
        out = capfd.readouterr().out
        assert ("the targets are large" in out) is bool(said)
        assert said in out
