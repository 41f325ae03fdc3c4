"""A loss is a class, a plain function, or the model's own: each trains as a plain loop with it would."""

import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from trainer.disk import checkpoint
from trainer.errors import RunStopped, UserError
from trainer.run.loss_kind import unlike

Train = Callable[..., dict[str, Any]]
MINE = '''
import random
from collections import deque
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainer import Data, Samples


class Coder(nn.Module):
    def __init__(self, in_features):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(in_features, 6), nn.Linear(3, in_features)

    def forward(self, x):
        mean, log_var = self.encoder(x.flatten(1)).chunk(2, 1)
        return {"x": self.decoder(mean), "mean": mean, "log_var": log_var}


def elbo(outputs, inputs, power=2):
    difference = (outputs["x"] - inputs.flatten(1)).abs() ** power
    variance = outputs["log_var"].exp()
    kl = (outputs["mean"].square() + variance - 1 - outputs["log_var"]) / 2
    return {"reconstruction": difference.sum(1).mean(), "kl": kl.sum(1).mean()}


class Elbo(nn.Module):
    """The same as one number, kl with a weight."""

    def forward(self, outputs, targets, inputs):
        terms = elbo(outputs, inputs)
        return terms["reconstruction"] + 0.1 * terms["kl"]


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, losses):
        self.calls += losses.requires_grad
        return losses * self.log_scale.exp() - self.log_scale


def scaled(outputs, targets, scale):
    return scale(F.cross_entropy(outputs, targets))


def of_logs(outputs, targets, sharpness=200.0):
    """The log of a softmax: of 0 where the network is sure of another class."""
    probabilities = (sharpness * outputs.float()).softmax(1)
    return -probabilities[torch.arange(len(targets)), targets].log().mean()


def smooth(outputs, targets, how_much=0.0):
    return F.cross_entropy(outputs, targets, label_smoothing=how_much)


def unclear(outputs, y):
    return F.cross_entropy(outputs, y)


def words(outputs, targets):
    return {"a": F.cross_entropy(outputs, targets), "b": 0.0}


def silent(outputs, targets):
    F.cross_entropy(outputs, targets)


def turned(outputs, targets):
    return torch.complex(outputs.mean(), outputs.mean())


def torchs(input, target):
    return F.cross_entropy(input, target)


class Kinds:
    @classmethod  # is a loss like a function
    def total(cls, outputs, targets):
        loss = F.cross_entropy(outputs, targets)
        return {"loss": loss + outputs.square().mean(), "squares": outputs.square().mean()}


class Plain(nn.Module):
    def __init__(self, in_features, num_classes):
        super().__init__()
        self.layer = nn.Linear(in_features, num_classes)

    def forward(self, x):
        return self.layer(x.flatten(1))


@dataclass
class Output:
    hidden: Tensor
    logits: Tensor
    loss: Tensor | None = None
    size: Tensor | None = None


class Itself(Plain):
    """Computes its own loss; `form` is how it gives that."""

    def __init__(self, in_features, num_classes, form="object"):
        super().__init__(in_features, num_classes)
        self.form = form

    def forward(self, x, labels=None):
        logits = super().forward(x)
        loss = None if labels is None else F.cross_entropy(logits, labels)
        if self.form == "tuple":
            return (loss, logits)
        output = Output(logits * 2, logits, loss, logits.square().mean())
        return vars(output) if self.form == "dict" else output


def times():
    t = torch.linspace(0, 1, 60).unsqueeze(1)
    splits = [Samples(t[i::3], (-t[i::3]).exp()) for i in range(3)]
    return Data(*splits, description="times")


class Curve(nn.Module):
    def __init__(self, in_features):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(in_features, 16), nn.Tanh(), nn.Linear(16, 1))

    def forward(self, t):
        return self.layers(t)


class Says(Plain):
    """Says that it gives what it does not."""

    def __init__(self, in_features, num_classes, gives):
        super().__init__(in_features, num_classes)
        self.gives = gives

    def forward(self, x):
        outputs = super().forward(x)
        return outputs.sigmoid() if self.gives == "probabilities" else outputs


class Mine(nn.CrossEntropyLoss):
    """Torch's under a name of one's own."""


class Cooled(nn.CrossEntropyLoss):
    """With a forward of its own, which is the same at 1."""

    def __init__(self, weight=None, temperature: float = 1.0, **keys):
        super().__init__(weight=weight, **keys)
        self.temperature = temperature

    def forward(self, outputs, targets):
        return super().forward(outputs / self.temperature, targets)


class Held(nn.Module):
    def __init__(self, weight: Tensor):
        super().__init__()
        self.criterion = nn.CrossEntropyLoss(weight)

    def forward(self, outputs, targets):
        return self.criterion(outputs, targets)


def by_tensor(outputs, targets, weight: Tensor | None = None):
    return F.cross_entropy(outputs, targets, weight)


def leaves_out(outputs, targets, label: int = 9):
    return F.cross_entropy(outputs, targets, ignore_index=label)


def weighs(outputs, targets):
    return F.cross_entropy(outputs, targets, 1 + 2 * (torch.arange(10) == 9).to(outputs))


def spread(outputs, targets):
    """With a small term that looks at all samples at once."""
    return F.cross_entropy(outputs, targets) + 0.01 * outputs.softmax(1).mean(0).square().sum()


def difference(outputs, targets, in_shape=False):
    return ((outputs.reshape(targets.shape) if in_shape else outputs) - targets).square().mean()


class Twins(Plain):
    """Two vectors of a sample, whose distance a loss compares."""

    def forward(self, x):
        return super().forward(x), super().forward(-x)


def contrast(outputs, targets, in_shape=False):
    distance = F.pairwise_distance(*outputs)
    targets = targets.flatten() if in_shape else targets
    return (targets * distance.square() + (1 - targets) * (1 - distance).clamp_min(0).square()).mean()


class Critic(nn.Module):
    """What speaks for each picture, and for noise: nothing that names a digit."""

    def __init__(self, in_features: int):
        super().__init__()
        self.layer = nn.Linear(in_features, 1)

    def forward(self, x):
        return {"real": self.layer(x.flatten(1)), "fake": self.layer(torch.zeros_like(x).flatten(1))}


def critic(outputs):
    return F.softplus(-outputs["real"]).mean() + F.softplus(outputs["fake"]).mean()


def of_real(outputs, targets):
    return F.softplus(-outputs["real"]).mean() + 0 * targets.sum()


class Flat(Plain):
    def forward(self, x):
        return super().forward(x)[:, 0]


def two():
    x = torch.randn(90, 6, generator=torch.Generator().manual_seed(0))
    splits = [Samples(x[i::3], (x[i::3, 0] > 0).long()) for i in range(3)]
    return Data(*splits, description="two classes", num_classes=2)


def padded():
    """Sequences with the longest first, as they are sorted."""
    x = torch.randint(5, (90, 4), generator=torch.Generator().manual_seed(0)).float()
    mask = torch.arange(4) < 4 - torch.arange(90).div(40, rounding_mode="floor")[:, None]
    splits = [Samples({"x": x[i::3], "mask": mask[i::3]}, x[i::3].long()) for i in range(3)]
    return Data(*splits, description="padded", num_classes=5)


class Tags(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.layer = nn.Linear(1, num_classes)

    def forward(self, x, mask):
        return self.layer(x[..., None])


def over_mask(outputs, targets, inputs):
    losses = F.cross_entropy(outputs.movedim(2, 1), targets, reduction="none")
    return losses[inputs["mask"]].mean()


class Reduced(nn.Module):
    reduction = "mean"

    def forward(self, outputs, targets):
        return {"some": F.cross_entropy(outputs[targets < 5], targets[targets < 5]), "all": outputs.square().mean()}


class Lazy(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.LazyLinear(10)

    def forward(self, outputs, targets):
        return F.cross_entropy(self.layer(outputs), targets)


class Counts(nn.Module):
    """What changes with every step of training, in each of the places where a class may keep it."""

    def __init__(self):
        super().__init__()
        self.register_buffer("average", torch.ones(()))
        self.tensor, self.number, self.list = torch.ones(()), 1, [1]

    def forward(self, outputs, targets):
        if self.training:
            self.average = self.average * 1.1
            self.tensor *= 1.1
            self.number += 1
            self.list.append(1)
        return F.cross_entropy(outputs, targets) * self.average * self.tensor * self.number * len(self.list)


class Keeps(nn.Module):
    """Keeps what it has seen where no checkpoint has it, and draws from a generator of its own."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = {"a": 1.0}, deque([1.0], 9), np.ones(2), {"a": torch.ones(())}
        self.e, self.f, self.g = torch.Generator(), random.Random(0), np.random.default_rng(0)
        self.words = {"a": "b"}

    def forward(self, outputs, targets):
        drawn = float(torch.rand((), generator=self.e)) + self.f.random() + self.g.random()
        held = self.a["a"] + sum(self.b) + self.c[0] + float(self.d["a"])
        self.a["a"], self.c[0] = self.a["a"] + 1, self.c[0] + 1
        self.b.append(1.0)
        self.d["a"] += 1
        self.kept.append((held, drawn))
        return F.cross_entropy(outputs, targets)

    kept = []


class Slope(nn.Module):
    """The slope of a network, by `torch.func` within forward."""

    def __init__(self, in_features):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(in_features, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, t):
        return torch.vmap(torch.func.grad(lambda x: self.net(x)[0]))(t)[:, :1]


def decay(outputs, inputs, model):
    slope = torch.autograd.grad(outputs.sum(), inputs, create_graph=True)[0]
    start = model(torch.zeros_like(inputs[:1])) - 1
    return {"equation": (slope + outputs).square().mean(), "start": start.square().mean()}
'''
QUIET = ("monitor=off", "threads=1", "trust=[own_losses]", "max_steps=8", "data.limit=200", "dtype=float64")


@pytest.fixture(autouse=True)
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_losses.py").write_text(MINE)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("own_losses", None)


def state(name: str) -> dict[str, Any]:
    found: dict[str, Any] = checkpoint.read(Path("runs", name, "checkpoints/last.pt"))
    return found


def of(model: str, loss: str) -> tuple[str, ...]:
    is_shipped = loss in ("of_model", "composite", "cross_entropy", "nll")
    loss = f"loss={loss}" if is_shipped else f"loss._target_=own_losses.{loss}"
    return (f"model._target_=own_losses.{model}", loss)


def test_the_terms_of_a_function_are_added_by_their_weights(train: Train) -> None:
    found = train(*QUIET, *of("Coder", "elbo"), "loss.weights={kl: 0.1}", "name=a")
    same = train(*QUIET, *of("Coder", "Elbo"), "name=b")
    assert_close(state("a")["model"], state("b")["model"], rtol=1e-12, atol=0)
    assert found["val/loss"] == pytest.approx(same["val/loss"], rel=1e-12)
    terms = found["val/loss/reconstruction"], found["val/loss/kl"]
    assert found["val/loss"] == pytest.approx(terms[0] + 0.1 * terms[1], rel=1e-12)


def test_parts_of_a_batch_are_the_batch(train: Train) -> None:
    train(*QUIET, *of("Coder", "elbo"), "batch_size=32", "name=a")
    train(*QUIET, *of("Coder", "elbo"), "batch_size=8", "gradient.accumulate=4", "name=b")
    assert_close(state("a")["model"], state("b")["model"], rtol=1e-10, atol=1e-14)


def test_the_keys_of_a_function_are_keys_and_modules_among_them_train(train: Train) -> None:
    found = train(*QUIET, *of("Plain", "smooth"), "loss.how_much=0.2", "name=a")
    same = train(*QUIET, *of("Plain", "cross_entropy"), "loss.label_smoothing=0.2", "name=b")
    assert found["val/loss"] == pytest.approx(same["val/loss"], rel=1e-12)
    words = (*of("Plain", "scaled"), "loss.scale._target_=own_losses.Scaled")
    train(*QUIET, *words, "name=whole")
    train(*QUIET, *words, "max_steps=3", "name=halves")
    train(*QUIET, *words, "name=halves")
    whole, halves = state("whole"), state("halves")
    assert whole["loss"]["parts.0.criterion.kept.scale.calls"] == 8
    assert whole["loss"]["parts.0.criterion.kept.scale.log_scale"] != 0
    for part in ("model", "loss"):
        assert_close(halves[part], whole[part], rtol=0, atol=0)


@pytest.mark.parametrize("form", ["object", "dict", "tuple"])
def test_the_loss_of_a_model_is_that_loss(form: str, train: Train) -> None:
    words = (*of("Itself", "of_model"), f"model.form={form}", "batch_size=8", "gradient.accumulate=4")
    found = train(*QUIET, *words, "name=a")
    same = train(*QUIET, *of("Plain", "cross_entropy"), "batch_size=32", "name=b")
    assert_close(state("a")["model"], state("b")["model"], rtol=1e-10, atol=1e-14)
    for tag in ("val/loss", "val/accuracy", "test/accuracy"):
        assert found[tag] == pytest.approx(same[tag], rel=1e-10)
    assert ("val/loss/size" in found) == (form != "tuple")


def test_a_prediction_among_other_outputs_goes_to_torchs_losses(train: Train) -> None:
    found = train(*QUIET, *of("Itself", "cross_entropy"), "name=a", "monitor=full", "monitor.every=4")
    same = train(*QUIET, *of("Plain", "cross_entropy"), "name=b")
    assert {tag: found[tag] for tag in ("val/loss", "test/accuracy")} == pytest.approx(
        {tag: same[tag] for tag in ("val/loss", "test/accuracy")}, rel=1e-12
    )


def test_a_function_may_differentiate_by_the_inputs(train: Train) -> None:
    """u' = -u, u(0) = 1: the whole curve is exp(-t)."""
    from own_losses import Curve  # the user's

    words = (*of("Curve", "decay"), "data._target_=own_losses.times", "max_steps=400", "optimizer.lr=0.02")
    found = train(*(word for word in QUIET if "limit" not in word and "steps" not in word), *words, "name=a")
    assert found["val/loss"] < 1e-4
    model = Curve(1).double()
    model.load_state_dict(state("a")["model"])
    assert model(torch.ones(1, 1).double()).item() == pytest.approx(0.3679, rel=0.01)


def test_a_term_that_may_be_the_sum_of_the_others_is_said(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("model._target_=own_losses.Plain", "loss._target_=own_losses.Kinds.total", *QUIET, "max_steps=1")
    train(*words)
    assert "its terms loss, squares are added up. If loss is their sum already, leave it out" in capsys.readouterr().out
    train(*words, "loss.weights.loss=0")
    assert "are added up" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((*of("Plain", "unclear"),), r"^loss\.y: is missing\..* Type loss\.y=\.\.\., or call the parameter targets"),
        ((*of("Plain", "silent"),), r"^loss=silent: can't be taken of .*: it gives None; one number in a tensor"),
        ((*of("Plain", "turned"),), r"^loss=turned: gives a complex number"),
        (
            (*of("Plain", "torchs"),),
            r"^loss\.input: is missing\. No parameter of torchs is called outputs.* call the",
        ),
        ((*of("Plain", "smooth"), "loss.outputs=1"), r"^loss\.outputs: is what the run gives to a loss"),
        (
            (*of("Plain", "smooth"), "loss.hw_much=1"),
            r"^loss\.hw_much: nothing reads this key. Did you mean loss.how",
        ),
        ((*of("Plain", "words"),), r"^loss=words: can't be taken of .*term b is a float; one number in a tensor"),
        ((*of("Coder", "elbo"), "loss.weights.k=1"), r"^loss\.weights\.k: loss=elbo has the terms reconstruction, kl"),
        ((*of("Coder", "elbo"), "loss.weights.kl=x"), r"^loss\.weights=\{kl:x\}: must be names with a number each"),
        ((*of("Plain", "smooth"), "loss.weights.k=1"), r"^loss\.weights\.k: loss=smooth gives one number and no terms"),
        ((*of("Plain", "of_model"),), r"^loss=of_model: .* but a tensor of shape \[2, 10\] as its loss"),
        (
            (*of("Plain", "composite"), "+loss.weights={l1: 2}"),
            r"^loss.weights.l1: loss=composite has weights of its own. Type loss.terms.l1.weight=",
        ),
    ],
)
def test_what_does_not_fit_is_a_line(words: tuple[str, ...], message: str, train: Train) -> None:
    with pytest.raises(UserError, match=message):
        train(*QUIET, *words)
    assert not Path("runs").exists()


def test_features_of_a_frozen_backbone_are_no_inputs(train: Train) -> None:
    """A loss that asks for inputs gets the pictures, so the backbone runs in every step."""
    words = ("model=frozen_resnet", "model.backbone._target_=own_losses.Plain", "model.backbone.weights=null")
    with pytest.raises(UserError):
        train(*QUIET, *words, "loss._target_=own_losses.elbo")


def test_a_batch_of_which_no_sample_counts_is_what_is_named(train: Train) -> None:
    words = (*QUIET, "model=two_layer", "loss.ignore_index=1", "batch_size=1", "max_steps=60")
    with pytest.raises(RunStopped, match=r"no sample of it counts .* Try on_nan=skip or a larger batch_size"):
        train(*words)
    assert train(*words, "on_nan=skip", "name=other")["status"] == "finished"
    assert train(*words, "batch_size=64", "name=larger")["status"] == "finished"


def test_a_loss_that_takes_the_log_of_0_is_what_is_named_and_not_the_learning_rate(train: Train) -> None:
    words = (*QUIET, "model=two_layer", "loss._target_=own_losses.of_logs")
    with pytest.raises(RunStopped) as error:
        train(*words, "optimizer.lr=1e-6", "name=run")
    assert "The first value that is not finite: the loss itself, of outputs that are finite" in str(error.value)
    finding = json.loads(Path("runs/run/result.json").read_text())["diagnosis"][0]
    assert finding["rule"] == "loss not finite"
    assert "torch.log_softmax" in finding["advice"]
    assert train(*words, "loss.sharpness=1", "name=other")["status"] == "finished"


def test_a_number_that_stands_for_what_is_missing_is_among_the_samples_that_are_tried() -> None:
    targets = torch.randn(5000, 3, generator=torch.Generator().manual_seed(0))
    targets[[1, 4000]] = 0
    assert {1, 4000} & set(unlike(targets).tolist())


@pytest.mark.parametrize(
    "words",
    [
        *(of("Plain", loss) for loss in ("leaves_out", "weighs", "Reduced", "spread")),
        ("data._target_=own_losses.padded", "~data.limit", *of("Tags", "over_mask")),
    ],
)
def test_a_mean_over_some_samples_is_said_to_be_none(
    words: tuple[str, ...], train: Train, capfd: pytest.CaptureFixture[str]
) -> None:
    train(*QUIET, *words, "max_steps=1")
    assert "is no mean and no sum over samples" in capfd.readouterr().out


@pytest.mark.parametrize(("gives", "end"), [("log_probabilities", "log_softmax"), ("probabilities", "softmax")])
def test_outputs_that_are_no_probabilities_of_the_classes_are_told(
    gives: str, end: str, train: Train, capfd: pytest.CaptureFixture[str]
) -> None:
    train(*QUIET, *of("Says", "nll"), f"model.gives={gives}", "max_steps=1")
    assert f"not 1. End it with a {end} over the classes; or with none" in capfd.readouterr().out


def test_outputs_that_are_compared_with_the_targets_of_all_samples_are_refused(train: Train) -> None:
    """`[N]` less `[N, 1]` is `[N, N]`, without a word."""
    words = (*QUIET, "data=random_regression", "data.limit=null", "data.out_features=1", "max_steps=2")
    with pytest.raises(UserError, match=r"outputs = outputs\.reshape\(targets\.shape\)"):
        train(*words, *of("Flat", "difference"))
    found = train(*words, *of("Flat", "difference"), "loss.in_shape=true")
    same = train(*words, "model._target_=own_losses.Plain", "loss=mse")
    assert found["test/loss"] == pytest.approx(same["test/loss"], rel=1e-12)


def test_distances_of_two_outputs_that_are_compared_with_all_targets_are_refused(train: Train) -> None:
    """`[N]` times `[N, 1]`: a Siamese net with its usual loss was trained on each pair's label with each distance."""
    words = (*QUIET, "data=random_regression", "data.limit=null", "data.out_features=1", "max_steps=2")
    message = r"is given targets \[N, 1\], and compares .* Write targets = targets\.flatten\(\) into it\.$"
    with pytest.raises(UserError, match=message):
        train(*words, *of("Twins", "contrast"))
    train(*words, *of("Twins", "contrast"), "loss.in_shape=true")


@pytest.mark.parametrize(("loss", "classes"), [("critic", 10), ("critic", 2), ("of_real", 10)])
def test_outputs_that_no_class_can_be_read_of_have_no_accuracy(loss: str, classes: int, train: Train) -> None:
    data = () if classes == 10 else ("data._target_=own_losses.two",)
    found = train(*QUIET, *of("Critic", loss), *data, "max_steps=1")
    assert "test/loss" in found
    assert not [name for name in found if "accuracy" in name]


@pytest.mark.parametrize("loss", [pytest.param("Mine", marks=pytest.mark.long), "Cooled"])
def test_a_criterion_of_torchs_under_another_name_is_the_same(
    loss: str, train: Train, capfd: pytest.CaptureFixture[str]
) -> None:
    keys = ("loss.ignore_index=3", "loss.weight=[1,1,1,1,1,1,1,1,1,5]", "max_steps=2", "loss.label_smoothing=0.1")
    whole = train(*QUIET, "model=two_layer", *keys, "batch_size=48", "name=a")
    words = (f"loss._target_=own_losses.{loss}", "batch_size=4", "gradient.accumulate=12")
    parts = train(*QUIET, "model=two_layer", *keys, *words, "name=b")
    assert_close(state("a")["model"], state("b")["model"], rtol=1e-10, atol=1e-14)
    assert parts["test/loss"] == pytest.approx(whole["test/loss"], rel=1e-10)
    assert "is no mean" not in capfd.readouterr().out


@pytest.mark.parametrize("loss", ["Held", "by_tensor"])
def test_a_list_is_a_tensor_where_a_loss_says_that_it_takes_one(loss: str, train: Train) -> None:
    weights = "loss.weight=[1,1,1,1,1,1,1,1,1,5]"
    found, same = (train(*QUIET, *of("Plain", name), weights, "max_steps=1") for name in (loss, "cross_entropy"))
    assert found["test/loss"] == pytest.approx(same["test/loss"], rel=1e-12)


def test_a_lazy_layer_of_a_loss_trains(train: Train) -> None:
    found = [train(*QUIET, *of("Plain", "Lazy"), f"max_steps={n}", "name=a")["test/loss"] for n in (1, 3)]
    assert state("a")["loss"]["parts.0.criterion.layer.weight"].shape == (10, 10)
    assert found[1] < found[0]


def test_what_a_loss_holds_in_lists_and_generators_is_told_and_no_trial_changes_it(
    train: Train, capfd: pytest.CaptureFixture[str]
) -> None:
    import own_losses

    words = (*QUIET, *of("Plain", "Keeps"), "name=a", "fast=false")
    train(*words, "max_steps=2")
    drawn = torch.rand((), generator=torch.Generator()).item() + random.Random(0).random()
    drawn += np.random.default_rng(0).random()
    steps = [i for i, found in enumerate(own_losses.Keeps.kept) if found == pytest.approx((4.0, drawn))]
    assert len(steps) > 1  # each trial leaves what it found, and so does the first step begin
    capfd.readouterr()
    train(*words, "max_steps=3")
    said = capfd.readouterr().out
    assert all(f"warning: loss.{name} changes while it trains, and no checkpoint" in said for name in "abcdefg")
    assert "loss.words" not in said


@pytest.mark.long
def test_what_a_loss_keeps_changes_in_steps_of_training_alone(train: Train, capfd: pytest.CaptureFixture[str]) -> None:
    words = (*QUIET, *of("Plain", "Counts"), "eval_every=1")
    train(*words, "max_steps=2", "name=a")
    kept = state("a")
    assert kept["loss"] == {"parts.0.criterion.average": torch.tensor(1.1**2, dtype=torch.float64)}
    assert kept["plain"] == {"loss.tensor": pytest.approx(1.1**2), "loss.number": 3, "loss.list": pytest.approx(3**0.5)}
    words = (*QUIET, "model._target_=own_losses.Plain", "optimizer.lr=1e-12", "eval_every=1")
    expected = train(*words, "max_steps=2", "name=b")["val/loss"]
    words = (*words, *of("Plain", "Counts"), "name=c")
    found = train(*words, "max_steps=2")
    assert found["val/loss"] == pytest.approx(expected * 1.1**4 * 3 * 3, rel=1e-6)
    capfd.readouterr()
    train(*words, "max_steps=3")
    said = capfd.readouterr().out
    assert "warning: loss.tensor changes while it trains, and no checkpoint keeps it: it goes on from 1, not" in said


@pytest.mark.long
def test_a_model_with_torch_func_in_forward_trains_and_is_watched(train: Callable[..., dict[str, Any]]) -> None:
    """Hooks on its layers see tensors that stand for others: kept longer, they ended the run in an assertion."""
    words = (
        "data=random_regression",
        "loss=mse",
        "max_steps=4",
        "trust=[own_losses]",
        "threads=1",
        "data.out_features=1",
    )
    model = ("model._target_=own_losses.Slope",)
    watched = train(*words, *model, "monitor.activations=true", "name=watched")
    plain = train(*words, *model, "monitor=off", "fast=false", "name=plain")
    assert watched["train/loss"] == plain["train/loss"] > 0
    assert "bytes_activations" not in train(*words, *model, "dry_run=true")  # torch can't count them
