"""Modules of every kind train as a plain loop trains them; they are told of the data, and start from any weights."""

import copy
import importlib
import sys
from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.testing import assert_close

import trainer
from trainer.command import main as cli
from trainer.command.composing import composer
from trainer.command.words import Words
from trainer.config.settings import settings_of
from trainer.disk import checkpoint
from trainer.errors import UserError
from trainer.models.weights import fit_in, read_weights
from trainer.run.parts import Parts, build
from trainer.trees import called

Train = Callable[..., dict[str, Any]]
MINE = """
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils import parametrizations

from trainer import Data, Samples


class Plain(nn.Module):
    def __init__(self, in_features, num_classes, width=8):
        super().__init__()
        self.a, self.b = nn.Linear(in_features, width), nn.Linear(width, num_classes)

    def forward(self, x):
        return self.b(self.a(x.flatten(1)).relu())

    @classmethod
    def wide(cls, in_features, num_classes):
        return cls(in_features, num_classes, width=20)


class Lazy(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.a, self.norm, self.b = nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.LazyLinear(num_classes)

    def forward(self, x):
        return self.b(self.norm(self.a(x.flatten(1))).relu())


class MadeLater(Plain):
    '''Buffers that get numbers, and sizes, in the forward pass.'''

    def __init__(self, in_features, num_classes):
        super().__init__(in_features, num_classes)
        self.register_buffer("scale", None)
        self.register_buffer("seen", torch.empty(0, 8))

    def forward(self, x):
        hidden = self.a(x.flatten(1)).relu()
        if self.scale is None:
            self.scale = 1 / (1 + hidden.detach().amax(0))
        if self.training:
            self.seen = torch.cat([self.seen.to(hidden), hidden.detach().mean(0, keepdim=True)])[-4:]
        return self.b(hidden * self.scale - self.seen.sum(0))


class Grows(Plain):
    '''A layer that is made, and sized, in the first forward pass.'''

    def forward(self, x):
        hidden = self.a(x.flatten(1)).relu()
        if not hasattr(self, "late"):
            self.late = nn.Linear(hidden.shape[1], 8).to(hidden)
        return self.b(self.late(hidden))


class GrowsOfTokens(Grows):
    def __init__(self, vocab_size, num_classes):
        super().__init__(8, num_classes)
        self.table = nn.Embedding(vocab_size, 8)

    def forward(self, x):
        return super().forward(self.table(x).mean(1))


class PartlySaved(Plain):
    '''A state dict of its own, without the part that is frozen.'''

    def __init__(self, in_features, num_classes):
        super().__init__(in_features, num_classes)
        self.a.requires_grad_(False)

    def state_dict(self, *args, **named):
        return {n: tensor for n, tensor in super().state_dict(*args, **named).items() if not n.startswith("a.")}


class Kept(Plain):
    '''Numbers that no state dict has, and that its outputs depend on.'''

    def __init__(self, in_features, num_classes):
        super().__init__(in_features, num_classes)
        self.register_buffer("mean", torch.zeros(8), persistent=False)
        self.last = None

    def forward(self, x):
        hidden = self.a(x.flatten(1)).relu()
        if self.training:
            self.mean, self.last = 0.9 * self.mean + 0.1 * hidden.detach().mean(0), hidden.detach()
        return self.b(hidden - self.mean)


class Unsaved(Plain):
    def __init__(self, in_features, num_classes):
        super().__init__(in_features, num_classes)
        self._register_state_dict_hook(lambda module, state, prefix, _: [state.pop(prefix + "b.bias"), None][1])


class Dropping(Plain):
    def __init__(self, in_features, num_classes, how="right"):
        super().__init__(in_features, num_classes)
        self.how, self.layer = how, nn.Dropout(0.5)

    def train(self, mode=True):
        return super().train(mode or self.how == "always training")

    def forward(self, x):
        hidden = self.a(x.flatten(1)).relu()
        match self.how:
            case "right":
                hidden = nn.functional.dropout(hidden, 0.5, self.training)
            case "by name":
                hidden = nn.functional.dropout(hidden, 0.5, training=self.training)
            case "none":
                hidden = nn.functional.dropout(hidden, p=0.0)
            case "as it is":
                hidden = nn.functional.dropout(hidden, p=0.5)
            case "attention":
                hidden = nn.functional.scaled_dot_product_attention(*[hidden[:, None]] * 3, dropout_p=0.5)[:, 0]
            case "always training":
                hidden = self.layer(hidden)
        return self.b(hidden)


@dataclass
class Settings:
    width: int = 4


class Configured(nn.Module):
    def __init__(self, config: Settings, in_features, num_classes):
        super().__init__()
        self.net = Plain(in_features, num_classes, config.width)

    def forward(self, x):
        return self.net(x)


class Uncalled(Lazy):
    def forward(self, x):
        return self.a(x.flatten(1))[:, :2]


class Parametrized(Plain):
    def __init__(self, in_features, num_classes):
        super().__init__(in_features, num_classes)
        parametrizations.weight_norm(self.a)
        parametrizations.orthogonal(self.b)


class Tied(nn.Module):
    '''Tokens by an embedding, back to a token by the same weights.'''

    def __init__(self, vocab_size, num_classes, width=6):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        self.head = nn.Linear(width, vocab_size, bias=False)
        self.head.weight = self.embedding.weight
        self.num_classes = num_classes

    def forward(self, tokens):
        return self.head(self.embedding(tokens).mean(1))[:, : self.num_classes]


class Defaults(nn.Module):
    def __init__(self, in_features, num_classes, vocab_size=7, image_size=9):
        super().__init__()
        self.sizes, self.layer = (vocab_size, image_size), nn.Linear(in_features, num_classes)

    def forward(self, x):
        return self.layer(x)


class Recurrent(nn.Module):
    def __init__(self, num_tokens, sequence_length, num_classes):
        super().__init__()
        assert sequence_length == 5
        self.embedding = nn.Embedding(num_tokens, 4)
        self.lstm, self.head = nn.LSTM(4, 6, batch_first=True), nn.Linear(6, num_classes)

    def forward(self, tokens):
        outputs, (hidden, cell) = self.lstm(self.embedding(tokens))
        return hidden, self.head(outputs[:, -1])


class Open(nn.Module):
    '''Says what it is told, and takes no `in_features`.'''

    def __init__(self, num_classes, **facts):
        super().__init__()
        if "in_features" in facts:
            raise TypeError("Open.__init__() got an unexpected keyword argument 'in_features'")
        self.facts = {"num_classes": num_classes, **facts}
        self.a = nn.LazyLinear(num_classes)

    def forward(self, x):
        return self.a(x.flatten(1))


class Picky(Plain):
    '''Refuses in its own words what it does not know.'''

    def __init__(self, **sizes):
        super().__init__(sizes.pop("in_features"), sizes.pop("num_classes"), sizes.pop("width", 5))
        if sizes:
            raise ValueError(f"unknown arguments: {sizes}")


class Signals(nn.Module):
    def __init__(self, in_channels, sequence_length, num_classes):
        super().__init__()
        assert sequence_length == 9
        self.conv, self.head = nn.Conv1d(in_channels, 4, 3), nn.Linear(4, num_classes)

    def forward(self, x):
        return self.head(self.conv(x).relu().mean(2))


class Tutorial(nn.Module):
    '''As a tutorial has it: for images of 32 pixels a side and no others.'''

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.fc = nn.Conv2d(1, 6, 5), nn.Conv2d(6, 16, 5), nn.Linear(16 * 5 * 5, 10)

    def forward(self, x):
        x = torch.max_pool2d(self.conv2(torch.max_pool2d(self.conv1(x).relu(), 2)).relu(), 2)
        return self.fc(x.flatten(1))


def data(kind="tokens"):
    draw = torch.Generator().manual_seed(0)
    splits = []
    for size in (60, 20, 20):
        x = torch.randint(0, 11, (size, 5), generator=draw)
        y = (x[:, 0] > 5).long()
        if kind == "signals":
            x = torch.randn(size, 3, 9, generator=draw)
            y = (x[:, 0].mean(1) > 0).long()
        if kind == "rows":
            x = torch.randn(size, 7, generator=draw)
            y = (x[:, 0] > 0).long()
        splits.append(Samples(x, y))
    return Data(*splits, description=kind, num_classes=2)
"""
QUIET = ("monitor=off", "threads=1", "trust=[own_models]", "dtype=float64", "batch_size=16", "optimizer.lr=0.02")


@pytest.fixture(autouse=True)
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_models.py").write_text(MINE)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("own_models", None)


def words(model: str, kind: str = "rows") -> tuple[str, ...]:
    return (f"model._target_=own_models.{model}", "data._target_=own_models.data", f"data.kind={kind}")


def parts_of(*typed: str) -> Parts:
    with composer([], Words(overrides=[*QUIET, *typed])) as made:
        return build(settings_of(made.request()))


def weights(name: str) -> dict[str, Tensor]:
    state: dict[str, Tensor] = checkpoint.read(Path("runs", name, "checkpoints/last.pt"))["model"]
    return state


def by_hand(*typed: str, num_steps: int) -> dict[str, Tensor]:
    """A tutorial's loop with torch's Adam, from the same start on the same batches."""
    parts = parts_of(*typed)
    model = copy.deepcopy(parts.model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    model.train()
    batches = parts.splits.train.training(16, 0, 1)
    for _, (x, y) in zip(range(num_steps), batches, strict=False):
        optimizer.zero_grad()
        outputs = called(model, x)
        nn.functional.cross_entropy(outputs if isinstance(outputs, Tensor) else outputs[1], y).backward()
        optimizer.step()
    return nn.Module.state_dict(model)


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ("Plain.wide", "rows"),
        ("Lazy", "rows"),
        ("Parametrized", "rows"),
        ("Tied", "tokens"),
        ("Recurrent", "tokens"),
        ("Signals", "signals"),
        ("MadeLater", "rows"),
        ("Grows", "rows"),
        ("GrowsOfTokens", "tokens"),
        ("PartlySaved", "rows"),
    ],
)
def test_a_module_trains_as_in_a_plain_loop_and_goes_on_exactly(model: str, kind: str, train: Train) -> None:
    typed = words(model, kind)
    found = train(*QUIET, *typed, "max_steps=9", "name=whole")
    assert "val/accuracy" in found
    train(*QUIET, *typed, "max_steps=5", "name=halves")
    train(*QUIET, *typed, "max_steps=9", "name=halves")
    assert_close(weights("halves"), weights("whole"), rtol=0, atol=0)
    assert_close(weights("whole"), by_hand(*typed, num_steps=9), rtol=1e-9, atol=1e-11)
    used = trainer.load("runs/whole/checkpoints/last.pt", trust=["own_models"]).network
    assert_close(nn.Module.state_dict(used), weights("whole"), rtol=0, atol=0)


def test_layers_made_of_inputs_that_nobody_knows_again_are_told_where_they_go(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grown = """
import torch
from torch import nn

def items():
    return [{"x": torch.randn(4), "y": torch.ones(4), "label": torch.tensor(i % 2)} for i in range(40)]

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        # here

    def forward(self, x, y):
        if not hasattr(self, "late"):
            self.late = nn.Linear(x.shape[1], 2)
        return self.late(x * y)
"""
    (tmp_path / "grown.py").write_text(grown)
    train("monitor=off", "trust=[grown]", "model._target_=grown.Net", "data._target_=grown.items", "max_steps=2")
    run = next(Path("runs").glob("*/*"))
    with pytest.raises(UserError, match=r"late\.weight.* go into its __init__, as nn\.LazyLinear\.$"):
        trainer.load(str(run), trust=["grown"])
    (tmp_path / "grown.py").write_text(grown.replace("# here", "self.late = nn.LazyLinear(2)"))
    monkeypatch.delitem(sys.modules, "grown")
    assert trainer.load(str(run), trust=["grown"]).network.late.weight.shape == (2, 4)


def test_an_object_of_settings_is_made_for_a_model_that_takes_one() -> None:
    typed = (*words("Configured"), "model.config._target_=own_models.Settings")
    assert parts_of(*typed, "model.config.width=6").model.net.a.out_features == 6  # type: ignore[union-attr]
    with pytest.raises(
        UserError, match=r"^model\.config\.widht: nothing reads this key\. Did you mean model\.config\.w"
    ):
        parts_of(*typed, "model.config.widht=6")
    with pytest.raises(UserError, match=r"own_models\.dataclass: comes from dataclasses\.$"):
        parts_of(*words("Configured"), "model.config._target_=own_models.dataclass")


def test_numbers_that_no_checkpoint_keeps_are_said_where_the_model_is_used(
    train: Train, capfd: pytest.CaptureFixture[str]
) -> None:
    train(*QUIET, *words("Kept"), "max_steps=5", "name=x")
    mean = checkpoint.read(Path("runs/x/checkpoints/last.pt"))["plain"]["model.mean"]
    capfd.readouterr()
    trainer.load("x", trust=["own_models"])
    of_last, of_mean = capfd.readouterr().err.splitlines()
    said = "changed in the training, and no checkpoint keeps it: it is"
    assert of_mean.startswith(f"warning: model.mean {said} 0 here, and was {mean:.6g}. If outputs depend on it")
    assert of_last.startswith(f"warning: model.last {said} None here, and was ")
    train(*QUIET, *words("Kept"), "max_steps=6", "name=x")
    assert "warning: model.last changes while it trains, and no checkpoint keeps it: it goes on from None, not" in (
        capfd.readouterr().out
    )


def test_what_trains_and_no_state_dict_has_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"^model=Unsaved: its state dict leaves b\.bias out, which trains, and no check"
    ):
        parts_of(*words("Unsaved"))


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("right", ""),
        ("by name", ""),
        ("none", ""),
        ("as it is", "dropout(training=True)"),
        ("always training", "dropout(training=True)"),
        ("attention", "scaled_dot_product_attention(dropout_p=...)"),
    ],
)
def test_units_that_are_dropped_in_evaluation_are_said(how: str, said: str) -> None:
    found = [line for line in parts_of(*words("Dropping"), f"model.how={how}").warnings if "drops units" in line]
    assert len(found) == (said != "")
    assert all(f"in evaluation mode, too: {said}. Then val/*" in line for line in found)


def test_a_lazy_layer_that_is_never_called_is_refused(train: Train) -> None:
    with pytest.raises(UserError, match=r"^model=Uncalled: has a lazy layer that it does not call. Leave it out.$"):
        train(*QUIET, *words("Uncalled"))


def test_tokens_of_a_file_stay_whole_numbers_where_that_is_typed(train: Train) -> None:
    np.savez("tokens.npz", inputs=np.arange(300).reshape(60, 5) % 11, targets=np.arange(60) % 2)
    typed = ("data=arrays", "data.path=tokens.npz", "model._target_=own_models.Tied", "model.vocab_size=11")
    with pytest.raises(UserError, match=r"Long, Int; .* type data.standardize=false\.$"):
        train(*QUIET, *typed)
    train(*QUIET, *typed, "max_steps=2", "data.standardize=false")


def test_tokens_of_few_bits_are_asked_for_as_long_ones(tmp_path: Path) -> None:
    (tmp_path / "short_tokens.py").write_text(
        "import torch\nfrom trainer import Data, Samples\n\n"
        "def short(kind):\n    x = (torch.arange(60).view(15, 4) % 10).to(getattr(torch, kind))\n"
        "    part = Samples(x, torch.arange(15) % 2)\n    return Data(part, part, part, 'short', num_classes=2)\n"
    )
    typed = ("data._target_=short_tokens.short", "model._target_=own_models.Tied", "trust=[own_models,short_tokens]")
    assert parts_of(*typed, "data.kind=int32").splits.vocab_size == 10
    with pytest.raises(UserError, match=r"If they are whole numbers such as tokens, give inputs\.long\(\)\.$"):
        parts_of(*typed, "data.kind=int16")
    with pytest.raises(UserError, match=r"inputs\.long\(\) for whole numbers such as tokens\.$"):
        parts_of(*typed, "data.kind=uint8")


def test_an_open_class_is_told_what_it_takes_of_images_as_well() -> None:
    typed = ("data=digits", "model._target_=own_models.Open")
    facts: Any = {"num_classes": 10, "out_features": 10, "in_channels": 1, "image_size": 8}
    assert parts_of(*typed).model.facts == facts
    asked = parts_of(*typed, "model.in_channels=3", "model.image_size=6").model.facts
    assert asked == facts | {"in_channels": 3, "image_size": 6}


def test_the_size_of_images_that_a_model_takes_is_found_and_said() -> None:
    typed = ("data=digits", "model._target_=own_models.Tutorial")
    for size in ([], ["data.image_size=28"]):  # too small for its kernels, and another number of features
        with pytest.raises(UserError, match=r"\. Type data\.image_size=32\.$"):
            parts_of(*typed, *size)
    assert parts_of(*typed, "data.image_size=32").splits.input_shape == (1, 32, 32)


def test_an_open_class_may_refuse_in_its_own_words_what_it_does_not_know() -> None:
    assert parts_of(*words("Picky"), "model.width=3").model.a.weight.shape == (3, 7)  # type: ignore[union-attr]
    with pytest.raises(UserError, match=r"unknown arguments: \{'widht': 3\}"):
        parts_of(*words("Picky"), "model.widht=3")


def test_a_default_of_the_class_stands_where_the_data_tell_nothing() -> None:
    """It was told None."""
    assert parts_of(*words("Defaults")).model.sizes == (7, 9)
    assert parts_of(*words("Defaults"), "model.vocab_size=3").model.sizes == (3, 9)


@pytest.mark.parametrize(
    ("model", "kind", "key"), [("Recurrent", "rows", "num_tokens"), ("Tied", "rows", "vocab_size")]
)
def test_what_nothing_tells_of_the_data_is_asked_for(model: str, kind: str, key: str) -> None:
    with pytest.raises(UserError, match=rf"^model\.{key}=null: data=data does not tell it\. Type model\.{key}=<a num"):
        parts_of(*words(model))


class Moods(Enum):
    GOOD = 1


def whole(state: dict[str, Tensor]) -> nn.Module:
    model = nn.Sequential(nn.ModuleDict({"a": nn.Linear(2, 3)}))
    model.load_state_dict(state)
    return model


class TestWeightsFromAnywhere:
    """`model.weights`: of a run, of a file, wrapped or not; what does not fit is said."""

    @pytest.mark.parametrize("form", ["run", "pack", "state dict", "wrapped", "safetensors"])
    def test_are_where_the_run_starts(
        self,
        form: str,
        train: Train,
        tmp_path: Path,
        capfd: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        typed = words("Plain")
        train(*QUIET, *typed, "max_steps=5", "name=first")
        state, path = weights("first"), "some.pt"
        if form == "run":
            path = "runs/first"
        elif form == "pack":
            pytest.importorskip("safetensors")
            monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
            path = "first.zip"
            assert cli.run_command(["pack", "first", "trust=[own_models]"]) == 0
        elif form == "safetensors":
            path = "some.safetensors"
            pytest.importorskip("safetensors.torch").save_file(state, path)
        else:
            wrapped = {f"module.{name}": tensor for name, tensor in state.items()}
            torch.save({"epoch": 3, "model_state_dict": wrapped} if form == "wrapped" else state, path)
        assert_close(parts_of(*typed, f"model.weights={path}").model.state_dict(), state, rtol=0, atol=0)
        train(*QUIET, *typed, f"model.weights={path}", "max_steps=1", "name=second")
        assert f"model.weights={path}: 4 of 4 tensors are taken from it." in capfd.readouterr().out

    @pytest.mark.parametrize(
        "wrapped",
        [
            lambda state: {"ema": state},
            lambda state: {"net": state, "opt": {"state": {0: {"step": torch.ones(1)}}}, "epoch": 3},
            lambda state: {"state_dict": {f"net.{name}": part for name, part in state.items()}},
            lambda state: {f"module.backbone.{name}": part for name, part in state.items()},
            lambda state: {"head.weight": torch.ones(5, 2), **{f"net.{name}": part for name, part in state.items()}},
            lambda state: {name.removeprefix("0."): part for name, part in state.items()},
            # Averages and metrics beside them; more levels, or others; torch's wrappers inside; a part; plain values.
            lambda state: {
                f"{kind}.{n}": part * (kind == "model") for kind in ("ema_model", "model") for n, part in state.items()
            },
            lambda state: {"n_averaged": torch.tensor(3), **{f"module.module.{n}": part for n, part in state.items()}},
            lambda state: {"f1.total": torch.ones(1), **{f"model.net.{n}": part for n, part in state.items()}},
            lambda state: {
                "f1.total": torch.ones(1),
                **{n.replace("0.", "model.net."): part for n, part in state.items()},
            },
            lambda state: {n.replace("a.", "a._orig_mod."): part for n, part in state.items()},
            lambda state: {"net.0.a.weight": state["0.a.weight"], "0.a.bias": state["0.a.bias"]},
            lambda state: {"state_dict": {**state, "epoch": 3}},
            # Objects of other classes beside them, which are not made; a whole model.
            lambda state: {"state_dict": state, "args": Namespace(lr=0.1), "at": Path("a"), "metric": np.float64(3)},
            lambda state: {**state, "epoch": np.float32(3)},
            lambda state: {"net": state, "seen": defaultdict(list, {"a": [Namespace()]}), Moods.GOOD: Moods.GOOD},
            lambda state: {"epoch": 3, "net": whole(state)},
            lambda state: {**state, "0.a.weight": nn.Parameter(state["0.a.weight"].T.clone()).T, "at": Path("a")},
        ],
    )
    def test_are_found_in_whatever_somebody_has_wrapped_them(self, wrapped: Callable[..., Any], tmp_path: Path) -> None:
        state = {"0.a.weight": torch.rand(3, 2), "0.a.bias": torch.rand(3)}
        torch.save(wrapped(state), tmp_path / "some.pt")
        model = nn.Sequential(nn.ModuleDict({"a": nn.Linear(2, 3)}))
        found = fit_in(model, read_weights(str(tmp_path / "some.pt")), "some.pt")
        assert found[0] == "2 of 2 tensors are taken from it"
        assert_close(model.state_dict(), state, rtol=0, atol=0)

    def test_of_a_parameter_with_two_names_the_file_needs_one(self) -> None:
        model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
        model[1].weight = model[0].weight
        for name in ("0.weight", "1.weight"):
            tensor = torch.rand(3, 3)
            assert fit_in(model, {name: tensor}, "some.pt") == ["2 of 2 tensors are taken from it"]
            assert torch.equal(model[0].weight, tensor)

    def test_of_several_networks_none_is_chosen(self) -> None:
        one = nn.Linear(2, 3).state_dict()
        both = {f"{who}.{name}": tensor.clone() for who in ("student", "teacher") for name, tensor in one.items()}
        with pytest.raises(UserError, match=r"^weights=a: holds several networks that fit: student, teacher\. Save"):
            fit_in(nn.Linear(2, 3), both, "a")

    def test_of_another_type_or_without_numbers_are_told(self) -> None:
        model, bias = nn.Linear(2, 3), torch.tensor([1, torch.nan, 2])
        for weight in (torch.ones(3, 2, dtype=torch.int8), torch.ones(3, 2, dtype=torch.complex64)):
            start = model.weight.clone()
            assert fit_in(model, {"weight": weight, "bias": bias}, "some.pt") == [
                "1 of 2 tensors are taken from it",
                f"of another type, left as they start: weight ({weight.dtype}, here torch.float32)",
                "has numbers that are not finite: bias",
            ]
            assert torch.equal(model.weight, start)

    def test_of_fractions_are_none_for_whole_numbers(self) -> None:
        """They were cut off."""
        norm = nn.BatchNorm1d(1)
        own = copy.deepcopy(norm.state_dict())
        for number, is_taken in ((2.0, True), (2.5, False), (torch.nan, False)):
            found = fit_in(norm, own | {"num_batches_tracked": torch.tensor(number)}, "some.pt")
            assert found[0] == f"{4 + is_taken} of 5 tensors are taken from it"
            assert norm.num_batches_tracked == 2
        small = nn.Module()
        small.register_buffer("codes", torch.zeros(1, dtype=torch.int8))
        with pytest.raises(UserError, match=r"nothing in it fits: codes \(torch\.int64, here torch\.int8\)"):
            fit_in(small, {"codes": torch.tensor([300])}, "some.pt")

    def test_of_several_in_a_file_none_is_chosen(self, tmp_path: Path) -> None:
        torch.save({name: {"a": torch.ones(1)} for name in ("first", "second")}, tmp_path / "some.pt")
        with pytest.raises(UserError, match=r"holds several state dicts: first, second\. Save one of them alone\."):
            read_weights(str(tmp_path / "some.pt"))

    def test_fill_what_they_fit_and_the_rest_is_named(self, train: Train, capfd: pytest.CaptureFixture[str]) -> None:
        torch.save({"a.weight": torch.ones(8, 7), "b.weight": torch.ones(5, 8), "c": torch.ones(1)}, "some.pt")
        parts = parts_of(*words("Plain"), "model.weights=some.pt")
        start = parts_of(*words("Plain")).model.state_dict()
        assert torch.equal(parts.model.state_dict()["a.weight"], torch.ones(8, 7).double())
        assert torch.equal(parts.model.state_dict()["b.weight"], start["b.weight"])
        assert [line for line in parts.warnings if "some.pt" in line] == [
            "model.weights=some.pt: 1 of 4 tensors are taken from it.",
            "warning: model.weights=some.pt: of another size, left as they start: b.weight ([5, 8], here [2, 8]).",
            "warning: model.weights=some.pt: not in the file, left as they start: a.bias, b.bias.",
            "warning: model.weights=some.pt: in the file, and nothing here: c.",
        ]

    def test_of_another_model_are_refused(self, train: Train) -> None:
        torch.save({"conv.weight": torch.ones(3)}, "some.pt")
        with pytest.raises(UserError, match=r"^model\.weights=some\.pt: nothing in it fits: it has conv\.weight"):
            train(*QUIET, *words("Plain"), "model.weights=some.pt")
        with pytest.raises(UserError, match=r"^model\.weights=none\.pt: no such file"):
            train(*QUIET, *words("Plain"), "model.weights=none.pt")
        with pytest.raises(UserError, match=r"^model\.init=xavier: would overwrite model\.weights"):
            train(*QUIET, *words("Plain"), "model.weights=some.pt", "model.init=xavier")


def test_any_backbone_may_be_frozen(train: Train, capfd: pytest.CaptureFixture[str]) -> None:
    body = ("model=frozen", "model.backbone._target_=own_models.Plain", "model.backbone.in_features=7")
    typed = (*words("")[1:], *body, "model.backbone.num_classes=3", "model.backbone.width=5")
    found = train(*QUIET, *typed, "max_epochs=3", "name=a")
    assert found["num_trainable"] == 5 * 2 + 2
    assert "features of the frozen backbone: computed once for each of 60 samples" in capfd.readouterr().out
    start = parts_of(*typed).model.state_dict()
    for name, tensor in weights("a").items():
        assert torch.equal(tensor, start[name]) == name.startswith("backbone."), name
    with pytest.raises(UserError, match=r"^model\.backbone\.widt: nothing reads this key. Did you mean"):
        train(*QUIET, *typed, "model.backbone.widt=5")


NAMESAKES = """
import torch
from torch import nn

GOT = {}


class Net(nn.Linear):
    def __init__(self, in_features, num_classes, init="orthogonal", init_std=0.02, weights="none"):
        GOT["model"] = [init, init_std, weights]
        super().__init__(in_features, num_classes)

    def forward(self, images):
        return super().forward(images.flatten(1))


class Loss(nn.CrossEntropyLoss):
    def __init__(self, weights=(1, 2), temperature=0.07):
        GOT["loss"] = [weights, temperature]
        super().__init__()


class Steps(torch.optim.lr_scheduler.StepLR):
    def __init__(self, optimizer, interval=3):
        GOT["scheduler"] = interval
        super().__init__(optimizer, interval)
"""


def test_arguments_that_are_called_like_keys_of_every_option_keep_their_own_values(
    train: Callable[..., Any], tmp_path: Path
) -> None:
    """A network's `init_std=0.02` was 1.0, since the option for classes of the user's had a value for that key."""
    (tmp_path / "namesakes.py").write_text(NAMESAKES)
    words = ["model._target_=namesakes.Net", "loss._target_=namesakes.Loss", "scheduler._target_=namesakes.Steps"]
    words += ["trust=[namesakes]", "monitor=off", "max_steps=1"]
    train(*words)
    got = importlib.import_module("namesakes").GOT
    assert got == {"model": ["orthogonal", 0.02, "none"], "loss": [(1, 2), 0.07], "scheduler": 3}
    typed = [
        "model.init=sparse",
        "model.init_std=1.0",
        "model.weights=mine",
        "loss.weights=[3]",
        "loss.temperature=0.5",
    ]
    train(*words, *typed)
    assert got == {"model": ["sparse", 1.0, "mine"], "loss": [[3], 0.5], "scheduler": 3}


def test_a_run_whose_config_has_values_for_what_is_not_listed_any_more_continues(
    train: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "listed.py").write_text(
        NAMESAKES.replace(', init="orthogonal", init_std=0.02, weights="none"', "").replace(
            "[init, init_std, weights]", "0"
        )
    )
    words = ["model._target_=listed.Net", "trust=[listed]", "monitor=off", "name=x"]
    train(*words, "max_steps=1")
    path = Path("runs/x/config.yaml")
    config = yaml.safe_load(path.read_text())
    assert not {"init", "init_std", "weights"} & set(config["model"])
    config["model"] |= {"init": "default", "init_std": 1.0, "weights": None}
    path.write_text(yaml.safe_dump(config))
    assert train(*words, "max_steps=2")["steps"] == 2
    with pytest.raises(UserError, match=r"model.init=kaiming \(was default\)"):
        train(*words, "max_steps=3", "model.init=kaiming")
