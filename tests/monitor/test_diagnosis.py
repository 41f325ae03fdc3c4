"""The diagnosis: for every rule a run that was made ill in that way and one that was not; silence where all is well."""

import json
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from trainer.command.folders import CONFIGS
from trainer.data.batches import ResidentBatches, samples_of
from trainer.errors import RunStopped
from trainer.monitor import causes
from trainer.monitor.diagnosis import Diagnosis
from trainer.monitor.facts import Facts, chance_loss, squashed_layers
from trainer.monitor.finding import Finding
from trainer.monitor.symptoms import RULES

Train = Callable[..., dict[str, Any]]
SHORT = ("monitor.every=10", "monitor.histograms=false", "monitor.graph=false", "checkpoint.every=null")


def layers(*functions: str, width: int = 16, last: str = "") -> str:
    """A `model.layers=` of Flatten, a linear layer and a function of `torch.nn` for each name, and a linear layer."""

    def made(name: str, **arguments: int) -> str:
        return "{" + ",".join([f"_target_:torch.nn.{name}", *(f"{k}:{v}" for k, v in arguments.items())]) + "}"

    made_layers, size = [made("Flatten")], 64
    for function in functions:
        made_layers += [made("Linear", in_features=size, out_features=width), made(function)]
        size = width
    made_layers += [made("Linear", in_features=size, out_features=10), *([made(last)] if last else [])]
    return f"model.layers=[{','.join(made_layers)}]"


NETWORK = ("model=sequential", "loss=cross_entropy")
LEAKY = (*NETWORK, layers("LeakyReLU", "LeakyReLU", "LeakyReLU"))
SIGMOID_OUTPUTS = ("model=sequential", layers("ReLU", "ReLU", last="Sigmoid"), "loss=mse")
OWN = ("model=own", "trust=[mine]")
REGRESSION = ("experiment=seed_two_layer",)
TABLE = ("data=arrays", "model=two_layer", "loss=mse", "optimizer.lr=0.01", "eval_every=50", "data.task=regression")
WATCHED = "monitor.activations=true"

# Rule: (words of an ill run, the layer that is to be named, words of a healthy run as near to it as can be)
CASES: dict[str, list[tuple[tuple[str, ...], str | None, tuple[str, ...]]]] = {
    "loss far from chance": [
        (("model=two_layer", "model.init=normal", "max_steps=2"), None, ("model=two_layer", "max_steps=2")),
    ],
    "frozen layer": [
        ((*OWN, "model._target_=mine.Frozen", "max_steps=2"), "first", (*OWN, "model._target_=mine.Net", "max_steps=2"))
    ],
    "no gradient": [
        (
            (*OWN, "model._target_=mine.Detached", "max_steps=30"),
            "first",
            (*OWN, "model._target_=mine.Net", "max_steps=30"),
        )
    ],
    "vanishing gradient": [
        (
            (*NETWORK, layers(*["Sigmoid"] * 9), "max_steps=20"),
            "3",
            (*NETWORK, layers(*["ReLU"] * 9), "model.init=kaiming", "max_steps=20"),
        )
    ],
    "exploding gradient on the way back": [
        (
            (*OWN, "model._target_=mine.Recurrent", "model.scale=4", "max_steps=60"),
            "rnn",
            (*OWN, "model._target_=mine.Recurrent", "max_steps=60"),
        )
    ],
    "exploding gradient": [((*LEAKY, "optimizer.lr=3", "max_steps=50"), "1", (*LEAKY, "max_steps=50"))],
    "first update too large": [
        (("model=two_layer", "optimizer.lr=0.1", "max_steps=1"), "w2", ("model=two_layer", "max_steps=1"))
    ],
    "learning rate too small": [
        (
            ("model=two_layer", "optimizer=sgd", "optimizer.lr=1e-5", "max_steps=120"),
            "w2",
            ("model=two_layer", "optimizer=sgd", "optimizer.lr=0.1", "max_steps=120"),
        )
    ],
    "dead ReLUs": [
        (("model=two_layer", "optimizer.lr=1", "max_steps=30"), "b1", ("model=two_layer", "max_steps=30")),
        (
            ("model=two_layer", "optimizer.lr=1", "max_steps=30", WATCHED),
            "relu",
            ("model=two_layer", "max_steps=30", WATCHED),
        ),
        (("optimizer.lr=0.1", "max_steps=30", WATCHED), "conv2", ("max_steps=30", WATCHED)),
    ],
    "saturated outputs": [
        (
            (*SIGMOID_OUTPUTS, "model.init=normal", "model.init_std=5", "max_steps=30"),
            "5",
            (*SIGMOID_OUTPUTS, "model.init=kaiming", "max_steps=30"),
        ),
        (
            (*SIGMOID_OUTPUTS, "model.init=normal", "model.init_std=5", "max_steps=30", WATCHED),
            "5",
            (*SIGMOID_OUTPUTS, "model.init=kaiming", "max_steps=30", WATCHED),
        ),
        (
            (*NETWORK, layers("Tanh", "Tanh", "Tanh"), "optimizer.lr=0.3", "max_steps=60"),
            "1",
            (*NETWORK, layers("Tanh", "Tanh", "Tanh"), "max_steps=60"),
        ),
        (
            (*NETWORK, layers("Tanh", "Tanh", "Tanh"), "optimizer.lr=0.3", "max_steps=60", WATCHED),
            "3",
            (*NETWORK, layers("Tanh", "Tanh", "Tanh"), "max_steps=60", WATCHED),
        ),
    ],
    "loss not falling": [
        (
            ("model=two_layer", "optimizer.lr=1e-6", "max_steps=120"),
            None,
            ("model=two_layer", "max_steps=120"),
        )
    ],
    "overfitting": [
        (
            ("model=two_layer", "optimizer.lr=0.01", "data.limit=20", "max_steps=600", "eval_every=20"),
            None,
            ("model=two_layer", "optimizer.lr=0.01", "max_steps=100", "eval_every=20"),
        )
    ],
    "nothing carries over": [
        ((*REGRESSION, "max_steps=300"), None, (*REGRESSION, "max_steps=40")),
        (
            (*TABLE, "data.path=noise.npz", "max_steps=600"),
            None,
            (*TABLE, "data.path=lines.npz", "max_steps=600"),
        ),
        (
            ("data=arrays", "model=two_layer", "data.path=noisy_labels.npz", "optimizer.lr=0.01", "max_steps=300"),
            None,
            ("data=arrays", "model=two_layer", "data.path=true_labels.npz", "optimizer.lr=0.01", "max_steps=300"),
        ),
    ],
}


# What is learnt there are random numbers: it is no false alarm to say so.
EXPECTED = {"seed_two_layer": ["nothing carries over"]}


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package of the user's own: a network, and what one may do wrong in it."""
    (tmp_path / "mine.py").write_text(
        """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, in_features, num_classes):
        super().__init__()
        self.first, self.second = nn.Linear(in_features, 20), nn.Linear(20, num_classes)

    def forward(self, inputs):
        return self.second(self.between(torch.relu(self.first(inputs.flatten(1)))))

    def between(self, hidden):
        return hidden

class Frozen(Net):
    def __init__(self, in_features, num_classes):
        super().__init__(in_features, num_classes)
        self.first.requires_grad_(False)

class Detached(Net):
    def between(self, hidden):
        return hidden.detach()

class Recurrent(nn.Module):
    def __init__(self, num_classes, scale=1.0):
        super().__init__()
        self.rnn, self.out = nn.RNN(1, 16, batch_first=True), nn.Linear(16, num_classes)
        with torch.no_grad():
            self.rnn.weight_hh_l0.copy_(scale * nn.init.orthogonal_(torch.empty(16, 16)))

    def forward(self, inputs):
        return self.out(self.rnn(inputs.flatten(1).unsqueeze(2))[0][:, -1])
"""
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    labels = np.arange(200) % 10
    np.savez(tmp_path / "labels.npz", inputs=np.eye(10, dtype=np.float32)[labels], targets=labels)
    random = np.random.default_rng(0)
    x = random.normal(size=(300, 20))
    y = x @ random.normal(size=(20, 2))
    np.savez(tmp_path / "lines.npz", inputs=x, targets=y)
    np.savez(tmp_path / "noise.npz", inputs=x, targets=random.permutation(y))
    np.savez(tmp_path / "true_labels.npz", inputs=x, targets=(y[:, 0] > 0).astype(int))
    np.savez(tmp_path / "noisy_labels.npz", inputs=x, targets=random.permutation(y[:, 0] > 0).astype(int))


def rules(result: dict[str, Any]) -> list[str]:
    return [finding["rule"] for finding in result["diagnosis"]]


def test_every_rule_has_its_cases_and_its_source() -> None:
    assert CASES.keys() == {rule.name for rule in RULES}
    for rule in causes.RULES:
        assert re.search(r"Sources?: ", rule.check.__doc__ or ""), rule.name


@pytest.mark.slow
@pytest.mark.usefixtures("mine")
@pytest.mark.parametrize(
    ("rule", "ill", "layer", "healthy"),
    [pytest.param(rule, *case, id=f"{rule}-{i}") for rule, cases in CASES.items() for i, case in enumerate(cases)],
)
def test_an_ill_run_and_a_healthy_one(
    rule: str,
    ill: tuple[str, ...],
    layer: str | None,
    healthy: tuple[str, ...],
    train: Train,
    capsys: pytest.CaptureFixture[str],
) -> None:
    result = train(*ill, *SHORT)
    found = [finding for finding in result["diagnosis"] if finding["rule"] == rule]
    assert len(found) == 1, result["diagnosis"]
    (finding,) = found
    assert finding["layer"] == layer
    assert 1 <= finding["step"] <= result["steps"]
    assert finding["numbers"]
    assert all(isinstance(number, int | float) for number in finding["numbers"].values())

    # What is said on the console as it appears is what is kept; and once more in the summary.
    out = capsys.readouterr().out
    lines = [line for line in out.splitlines() if line.startswith("warning: step=")]
    told = [Finding(**{**one, "follows": ""}).line() for one in result["diagnosis"]]  # now what explains the rest first
    assert sorted(lines) == sorted(told)
    assert finding["advice"] in out.splitlines()[-1] or f"{Finding(**finding).where} " in out.rsplit("warning:", 1)[-1]

    # What is to be typed can be typed.
    for word in re.findall(r"[\w.]+=[\w.+-]+\w", finding["advice"]):
        train(*ill, *SHORT, word, "max_steps=1")

    assert train(*healthy, *SHORT)["diagnosis"] == []


def test_findings_reach_the_text_tab(train: Train) -> None:
    result = train("model=two_layer", "optimizer.lr=1", "max_steps=30", *SHORT, "name=ill")
    assert rules(result) == ["learning rate too large", "first update too large", "dead ReLUs"]
    assert [finding["follows"] for finding in result["diagnosis"]] == ["", *["learning rate too large"] * 2]
    (text,) = EventAccumulator("runs/ill", size_guidance={"tensors": 0}).Reload().Tensors("about/diagnosis")
    assert text.step == 30
    last = text.tensor_proto.string_val[0].decode()
    for finding in result["diagnosis"]:
        assert f"**{Finding(**finding).where}**, step {finding['step']}" in last

    train("model=two_layer", "max_steps=30", *SHORT, "name=healthy")
    (text,) = EventAccumulator("runs/healthy", size_guidance={"tensors": 0}).Reload().Tensors("about/diagnosis")
    assert (text.step, text.tensor_proto.string_val[0]) == (30, b"Nothing is amiss.")


def test_a_loss_that_overflows_is_a_finding_too(train: Train) -> None:
    """Seen on the way where it is logged at every step; where the run ends before any record, said at its end."""
    for every in (1, 50):
        with pytest.raises(RunStopped):
            train(*REGRESSION, "optimizer.lr=1e-5", f"monitor.every={every}", f"name=every{every}")
        text = Path(f"runs/every{every}/result.json").read_text()
        result = json.loads(text)
        assert "NaN" not in text
        assert "Infinity" not in text
        assert rules(result) == ["learning rate too large", "first update too large", "exploding gradient"]
        assert result["diagnosis"][0]["advice"] == "Try optimizer.lr=1e-06 or gradient.clip_norm=1."
        assert result["diagnosis"][0]["step"] <= result["steps"] + 1
    assert result["diagnosis"][-1]["step"] == result["steps"] + 1  # the one that it did not make


def words_of(experiment: str | None, sources: dict[str, tuple[str, ...]]) -> list[str]:
    """The words that run an experiment without the network: what it would fetch is there as a few random images."""
    if experiment is None:
        return []
    text = (CONFIGS / "experiment" / f"{experiment}.yaml").read_text()
    words = [f"experiment={experiment}"]
    if "override /model: hf\n" in text:
        pytest.importorskip("transformers")
    fetched = {data: where for data, where in sources.items() if data != "digits"}
    words += [word for data, where in fetched.items() if f"override /data: {data}\n" in text for word in where]
    return words + (["model.backbone.weights=null"] if "frozen_resnet" in text else [])


EXPERIMENTS = sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml"))


@pytest.mark.parametrize(
    "words",
    [
        pytest.param((), id="as shipped"),
        pytest.param((WATCHED,), id="watched", marks=pytest.mark.slow),
        pytest.param(("monitor.every=1",), id="every step", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("experiment", [None, *EXPERIMENTS])
def test_no_false_alarm(
    experiment: str | None, words: tuple[str, ...], train: Train, sources: dict[str, tuple[str, ...]]
) -> None:
    length = f"max_steps={ {'frozen_resnet_cifar10': 12, 'seed_two_layer': 500}.get(experiment or '', 120) }"
    assert rules(train(*words_of(experiment, sources), *words, length)) == EXPECTED.get(experiment or "", [])


@pytest.mark.long
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("words", [(), (WATCHED, "monitor.every=7")], ids=["as shipped", "watched"])
@pytest.mark.parametrize("experiment", [None, *EXPERIMENTS])
def test_no_false_alarm_in_whole_runs(
    experiment: str | None, words: tuple[str, ...], seed: int, train: Train, sources: dict[str, tuple[str, ...]]
) -> None:
    result = train(*words_of(experiment, sources), *words, f"seed={seed}")
    assert rules(result) == EXPECTED.get(experiment or "", [])


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "adagrad", "adadelta", "nadam", "radam"])
def test_no_false_alarm_of_a_learning_rate_that_works(optimizer: str, train: Train) -> None:
    """SGD with 0.1 moves the weights by more than a hundredth for long, and learns: whoever learns is left alone."""
    words = ["optimizer.lr=0.1"] if optimizer == "sgd" else []
    result = train("model=two_layer", f"optimizer={optimizer}", *words, *SHORT, "max_epochs=15")
    assert result["val/accuracy"] > 0.9
    assert result["diagnosis"] == []


@pytest.mark.parametrize("watched", ["true", "false"])
def test_units_that_a_small_batch_does_not_reach_are_not_taken_for_dead(watched: str, train: Train) -> None:
    """A single sample reaches about half of the units, whatever their state."""
    words = ("batch_size=1", "max_steps=60", f"monitor.activations={watched}", *SHORT, "name=small")
    assert train(*words)["diagnosis"] == []
    read = EventAccumulator("runs/small", size_guidance={"scalars": 0}).Reload()
    tag = "watch_dead_units/fc2" if watched == "true" else "watch_grad_zeros/fc2.bias"
    assert max(event.value for event in read.Scalars(tag)) > 0.5


@pytest.mark.slow
def test_a_run_that_goes_on_finds_what_an_unbroken_one_finds(train: Train) -> None:
    words = ("model=two_layer", "optimizer.lr=1", "optimizer=sgd", "model.init=normal", "eval_every=10", *SHORT)
    whole = train(*words, "max_steps=200", "name=whole")
    assert len(rules(whole)) >= 2
    for stop in (10, 60, 130):
        first = train(*words, f"max_steps={stop}", f"name=broken{stop}")
        assert len(rules(first)) <= len(rules(whole))
        broken = train(*words, "max_steps=200", f"name=broken{stop}")
        assert broken["diagnosis"] == whole["diagnosis"]


def facts(**changes: Any) -> Facts:
    parameters = {"a.weight": 2, "a.bias": 1, "b.weight": 2, "b.bias": 1}
    return Facts(
        **{
            "settings": {"optimizer.lr": 0.1, "model.init": "default"},
            "parameters": parameters,
            "max_steps": 400,
            "num_samples": 1000,
            "samples_per_step": 64,
            "chance": {"train/loss": math.log(10)},
            **changes,
        }
    )


def record(loss: float, **changes: float) -> dict[str, float]:
    numbers = {"train/loss": loss, "lr": 0.1, "grad_norm": 1.0}
    for name in facts().parameters:
        numbers |= {f"grad_norm/{name}": 0.5, f"grad_zeros/{name}": 0.0, f"weight_norm/{name}": 1.0}
        numbers[f"update_ratio/{name}"] = 1e-3
    return numbers | changes


def test_the_state_is_plain_and_whole() -> None:
    """Broken off and taken up after every record, through JSON, a diagnosis finds the same."""
    records: list[tuple[int, dict[str, float]]] = []
    for i in range(40):
        step = 1 + 10 * i
        dead = {"grad_zeros/a.bias": 0.8} if i > 5 else {}
        records.append((step, record(2.3, **dead, **updates(1e-5))))
        records.append((step, {"val/loss": 1.0 + 0.1 * i}))
    whole, broken = Diagnosis(facts(), RULES), Diagnosis(facts(), RULES)
    for step, numbers in records:
        at_once = whole.observe(step, numbers)
        state = json.loads(json.dumps(broken.state_dict(), allow_nan=False))
        broken = Diagnosis(facts(), RULES)
        broken.load_state_dict(state)
        assert broken.observe(step, numbers) == at_once
    assert broken.findings == whole.findings
    assert {finding.rule for finding in whole.findings} == {"dead ReLUs", "loss not falling"}


def test_what_is_reported_once_is_not_reported_again() -> None:
    diagnosis = Diagnosis(facts(), RULES)
    found = [diagnosis.observe(step, record(2.3, **{"grad_zeros/a.bias": 0.9})) for step in range(1, 60)]
    assert [len(x) for x in found].count(1) == 1
    assert found[1][0].rule == "dead ReLUs"  # at the second record, not the first
    assert diagnosis.markdown().count("dead ReLUs") == 1


def test_what_comes_and_goes_is_not_reported() -> None:
    diagnosis = Diagnosis(facts(), RULES)
    for step in range(1, 60):
        diagnosis.observe(step, record(2.3 / step, **{"grad_zeros/a.bias": 0.9 * (step % 2)}))
    assert diagnosis.findings == []


def test_of_dead_layers_the_last_is_named() -> None:
    """Nothing in front of it gets a gradient, dead or not."""
    parameters = {"a.weight": 2, "a.bias": 1, "b.weight": 2, "b.bias": 1, "c.weight": 2, "c.bias": 1}
    diagnosis = Diagnosis(facts(parameters=parameters), RULES)
    for step in (1, 2, 3):
        dead = {"grad_zeros/a.bias": 1.0, "grad_zeros/b.bias": 1.0} if step > 1 else {}
        diagnosis.observe(step, record(2.3) | {"grad_norm/c.weight": 1.0} | dead)
    (finding,) = diagnosis.findings
    assert (finding.rule, finding.layer) == ("dead ReLUs", "b")


@pytest.mark.parametrize("missing", ["statistics", "first step", "chance", "optimizer"])
def test_what_is_not_known_is_not_judged(missing: str) -> None:
    """No rule fails over a number, a key or a fact that is not there."""
    settings: dict[str, Any] = {} if missing == "optimizer" else {"optimizer.lr": 0.1}
    diagnosis = Diagnosis(facts(settings=settings, chance={} if missing == "chance" else facts().chance), RULES)
    for step in range(2 if missing == "first step" else 1, 400, 7):
        numbers = {"train/loss": 1e9} if missing == "statistics" else record(1e9)
        numbers = {k: v for k, v in numbers.items() if missing != "optimizer" or k != "lr"}
        diagnosis.observe(step, numbers)
        diagnosis.observe(step, {"val/loss": 1e9 * step})
    diagnosis.stopped(400)
    names = {finding.rule for finding in diagnosis.findings}
    assert names <= {"loss far from chance", "loss not falling", "exploding gradient"}
    assert Diagnosis(facts(), RULES).markdown() == "Nothing is amiss."


def updates(ratio: float) -> dict[str, float]:
    return {f"update_ratio/{name}": ratio for name in facts().parameters}


NO_GRADIENT = {"grad_norm/a.weight": 0.0, "grad_norm/a.bias": 0.0, "grad_zeros/a.bias": 1.0}
NO_PULL = {"grad_norm/b.weight": 1e-9, "grad_norm/b.bias": 1e-9}


@pytest.mark.parametrize(
    ("known", "first", "later", "expected"),
    [
        ({}, {}, {"train/loss": 2.0}, set()),
        # updates
        ({}, {}, {"train/loss": 2.0, **updates(0.05)}, set()),
        ({}, {}, {"train/loss": 2.4, **updates(0.05)}, {"learning rate too large", "loss not falling"}),
        ({}, {}, {"train/loss": 2.29, **updates(0.05)}, {"loss not falling"}),  # labels may have no pattern
        ({}, {}, {"train/loss": 2.0, **updates(0.5)}, {"learning rate too large"}),
        ({}, {}, {"train/loss": 0.2, **updates(0.5)}, set()),
        ({}, updates(2.0), {"train/loss": 0.2}, {"first update too large", "learning rate too large"}),
        ({"searches": True}, updates(2.0), {"train/loss": 0.2}, set()),  # a step of L-BFGS is many
        ({"searches": True}, updates(2.0), {"train/loss": 2.0, **updates(0.5)}, {"learning rate too large"}),
        ({}, {}, {"train/loss": 0.2, **updates(2.0)}, set()),
        # units without a gradient
        ({}, {}, {"train/loss": 0.2, "grad_zeros/a.bias": 0.9}, {"dead ReLUs"}),
        ({}, {}, {"train/loss": 0.2, "grad_zeros/b.bias": 0.9}, set()),  # the outputs
        ({"samples_per_step": 31}, {}, {"train/loss": 0.2, "grad_zeros/a.bias": 0.9}, set()),
        ({"squashed": ["a"]}, {}, {"train/loss": 2.0, "grad_zeros/a.bias": 0.9}, {"saturated outputs"}),
        ({"squashed": ["a"]}, {}, {"train/loss": 0.2, "grad_zeros/a.bias": 0.9}, set()),
        ({}, {}, {"train/loss": 0.2, "dead_units/body.a": 0.9}, {"dead ReLUs"}),
        ({"frozen_on_purpose": ["body"]}, {}, {"train/loss": 0.2, "dead_units/body.a": 0.9}, set()),
        ({"frozen_on_purpose": ["bod"]}, {}, {"train/loss": 0.2, "dead_units/body.a": 0.9}, {"dead ReLUs"}),
        # layers without a gradient
        ({}, NO_GRADIENT, {"train/loss": 0.2, **NO_GRADIENT}, {"no gradient"}),
        ({}, NO_GRADIENT, {"train/loss": 0.2}, set()),
        ({}, {}, {"train/loss": 0.2, **NO_GRADIENT, "grad_zeros/a.bias": 0.0}, set()),  # not from the start
        ({"frozen": ["a"]}, {}, {"train/loss": 0.2}, {"frozen layer"}),
        ({}, {}, {"train/loss": 0.2, "grad_norm/a.weight": 1e-6, "grad_norm/a.bias": 1e-6}, {"vanishing gradient"}),
        ({}, {}, {"train/loss": 2.0, "grad_norm/a.weight": 1e5}, {"exploding gradient on the way back"}),
        ({}, {}, {"train/loss": 0.2, "grad_norm/a.weight": 1e5}, set()),
        ({}, {}, {"train/loss": 0.2, "grad_norm/a.weight": 1e-6}, set()),  # the bias of that layer has one
        # outputs
        ({"gives": "probabilities"}, {}, {"train/loss": 2.0, **NO_PULL}, {"saturated outputs"}),
        ({"gives": "probabilities"}, {}, {"train/loss": 0.2, **NO_PULL}, set()),
        ({}, {}, {"train/loss": 2.0, **NO_PULL}, set()),
        ({}, {}, {"train/loss": 2.0, "saturated_units/a": 0.6}, {"saturated outputs"}),
        ({}, {}, {"train/loss": 0.2, "saturated_units/a": 0.6}, set()),
        # the start
        ({}, {"train/loss": 0.2}, {"train/loss": 0.05}, set()),  # it was trained before, whoever loaded its weights
        ({}, {"train/loss": 0.2}, {"train/loss": 0.19, **updates(1e-5)}, set()),
        ({}, {"train/loss": 7.0}, {"train/loss": 0.05}, set()),  # as deep networks begin
        ({}, {"train/loss": 12.0}, {"train/loss": 0.05}, {"loss far from chance"}),
        ({}, {"train/loss": 2.6}, {"train/loss": 2.3}, {"loss not falling"}),  # below its start, but a guess
        # explosions
        (
            {},
            {},
            {"train/loss": 9.0, "grad_norm": 200.0},
            {"learning rate too large", "exploding gradient", "loss not falling"},
        ),
        ({}, {}, {"train/loss": 9.0}, {"loss not falling"}),
        ({}, {}, {"train/loss": 2.0, "grad_norm": 200.0}, set()),
        (
            {},
            {},
            {"train/loss": 0.2, "nonfinite_gradients": 3.0},
            {"learning rate too large", "exploding gradient"},  # seen before much is learnt
        ),
        ({"is_scaled": True}, {}, {"train/loss": 0.2, "nonfinite_gradients": 3.0}, set()),
    ],
)
def test_what_is_amiss_and_what_only_looks_like_it(
    known: dict[str, Any], first: dict[str, float], later: dict[str, float], expected: set[str]
) -> None:
    diagnosis = Diagnosis(facts(**known), causes.RULES)
    for step in range(1, 400, 10):
        diagnosis.observe(step, record(2.3) | (first if step == 1 else later))
    assert {finding.rule for finding in diagnosis.findings} == expected


@pytest.mark.parametrize(
    ("changes", "is_found"),
    [
        ({}, True),
        ({"lr": 0.01}, False),  # a schedule holds it down
        ({"grad_norm": 0.01}, False),  # a minimum is reached
        ({"train/loss": 0.5}, False),  # most is learnt
    ],
)
def test_small_updates_are_a_fault_where_there_is_far_to_go(changes: dict[str, float], is_found: bool) -> None:
    diagnosis = Diagnosis(facts(), RULES)
    for step in range(1, 300, 10):
        diagnosis.observe(step, record(2.2, **updates(1e-5)) | (changes if step > 1 else {}))
    assert ("learning rate too small" in {finding.rule for finding in diagnosis.findings}) == is_found


@pytest.mark.parametrize(
    ("val", "train_loss", "is_found"),
    [
        ([1.0, 0.5, 0.7, 0.8, 0.9, 1.0], [1.0, 0.8, 0.6, 0.4, 0.2, 0.1], True),
        ([1.0, 0.5, 0.51, 0.52, 0.53, 0.54], [1.0, 0.8, 0.6, 0.4, 0.2, 0.1], False),  # by less than a tenth of itself
        ([1.0, 0.05, 0.1, 0.15, 0.2, 0.2], [1.0, 0.8, 0.6, 0.4, 0.2, 0.1], False),  # by less than a tenth of the gain
        ([1.0, 0.5, 0.9, 0.5, 0.9, 0.5], [1.0, 0.8, 0.6, 0.4, 0.2, 0.1], False),  # to and fro
        ([1.0, 0.5, 0.7, 0.8, 0.9, 1.0], [0.4, 0.4, 0.5, 0.5, 0.5, 0.5], False),  # the training loss rises as well
        ([2.0, 1.5, 1.8, 1.9, 2.1, 2.2], [2.0, 2.0, 1.9, 1.9, 1.8, 1.8], False),  # nothing is known by heart
        ([2.2, 2.2, 2.2, 2.2, 2.2, 2.2], [2.0, 1.0, 0.6, 0.4, 0.2, 0.1], False),  # there is nothing to lose
    ],
)
@pytest.mark.parametrize("max_steps", [400, 4000])
def test_overfitting_is_a_loss_of_what_was_gained(
    max_steps: int, val: list[float], train_loss: list[float], is_found: bool
) -> None:
    is_found = is_found and max_steps == 400  # in 4000 steps, 200 after the best are no time
    diagnosis = Diagnosis(facts(max_steps=max_steps), RULES)
    diagnosis.observe(1, record(2.3))
    for i, (of_val, of_train) in enumerate(zip(val, train_loss, strict=True)):
        for step in range(50 * i + 10, 50 * i + 60, 10):
            diagnosis.observe(step, record(of_train))
        diagnosis.observe(50 * i + 50, {"val/loss": of_val})
    assert ("overfitting" in {finding.rule for finding in diagnosis.findings}) == is_found
    if is_found:
        (finding,) = (x for x in diagnosis.findings if x.rule == "overfitting")
        assert (finding.numbers["best_step"], finding.step) == (100, 250)  # at the third validation above the best


@pytest.mark.parametrize(("num_samples", "batch_size"), [(1000, 64), (10, 64), (128, 64), (65, 64), (7, 1)])
def test_the_samples_of_a_step_are_those_of_its_batch(num_samples: int, batch_size: int) -> None:
    split = ResidentBatches(torch.zeros(num_samples, 1), torch.zeros(num_samples, 1))
    per_step = min(num_samples, batch_size)
    known = facts(num_samples=num_samples, samples_per_step=per_step)
    for step, batch in zip(range(1, 40), split.training(per_step, 0, 1), strict=False):
        assert known.samples(step) == len(batch.inputs)


@pytest.mark.parametrize("is_balanced", [False, True])
@pytest.mark.parametrize("batch_size", [8, 40])
def test_the_samples_that_a_replay_names_are_those_of_the_batch(is_balanced: bool, batch_size: int) -> None:
    split = ResidentBatches(torch.arange(40.0)[:, None], torch.zeros(40, 1))
    split.weights = torch.linspace(0, 1, 40, dtype=torch.float64) if is_balanced else None
    for step, batch in zip(range(1, 12), split.training(batch_size, 3, 1), strict=False):
        assert samples_of(split, batch_size, 3, step).tolist() == batch.inputs.flatten().tolist()


def test_chance_is_the_loss_of_an_even_guess() -> None:
    targets = torch.arange(12) % 4
    even = torch.zeros(12, 4)
    for criterion, outputs in (
        (nn.CrossEntropyLoss(), even),
        (nn.CrossEntropyLoss(label_smoothing=0.1), even),
        (nn.NLLLoss(), even.log_softmax(1)),
    ):
        assert chance_loss(criterion, 4) == pytest.approx(criterion(outputs, targets).item())
    assert chance_loss(nn.CrossEntropyLoss(reduction="sum"), 4) is None
    assert chance_loss(nn.MSELoss(), 4) is None
    assert chance_loss(nn.CrossEntropyLoss(), None) is None


def test_layers_in_front_of_flat_ends() -> None:
    def linear() -> nn.Linear:
        return nn.Linear(2, 2)

    model = nn.Sequential(linear(), nn.Tanh(), linear(), nn.ReLU6(), linear(), nn.Dropout(), nn.Sigmoid(), linear())
    assert squashed_layers(model) == ["0", "4"]


@pytest.mark.parametrize(
    ("known", "rule"),
    [
        ({"outputs_are": "between 0 and 1"}, "probabilities into a loss of logits"),
        ({"outputs_are": "0 and more", "out_of_reach": 0.3, "guess": {"train/loss": 1.0}}, "targets out of reach"),
        ({"outputs_are": "0 and more", "out_of_reach": 0.02, "guess": {"train/loss": 1.0}}, None),
        ({"is_linear": True}, "no non linearity"),
        ({"telling_columns": [3]}, "a column tells the target"),
    ],
)
def test_what_was_seen_before_the_first_step_is_told(known: dict[str, Any], rule: str | None) -> None:
    diagnosis = Diagnosis(facts(**known), causes.RULES)
    for step in range(1, 400, 10):
        diagnosis.observe(step, record(2.3 if step == 1 else 0.9))
    diagnosis.concluded(400)
    assert [finding.rule for finding in diagnosis.findings] == ([rule] if rule else [])
    linear = Diagnosis(facts(is_linear=True), causes.RULES)  # all was learnt: a line is enough
    for step in range(1, 400, 10):
        linear.observe(step, record(0.1))
    linear.concluded(400)
    assert linear.findings == []


@pytest.mark.parametrize(
    ("key", "limit", "is_found"),
    [("clip_norm", 1e-3, True), ("clip_norm", 0.5, False), ("clip_value", 1e-4, True), ("clip_value", 0.1, False)],
)
def test_clipping_that_throttles(key: str, limit: float, is_found: bool) -> None:
    diagnosis = Diagnosis(facts(settings={f"gradient.{key}": limit}), causes.RULES)
    for step in range(1, 150, 10):
        diagnosis.observe(step, record(2.2, **updates(1e-5), **{"grad_max/a.weight": 0.05, "grad_max/b.weight": 0.05}))
    first, *_ = diagnosis.findings
    assert (first.rule == "clipping throttles") == is_found
    assert (f"gradient.{key}=null" in first.advice) == is_found


@pytest.mark.parametrize(("ratio", "lr"), [(5e-5, "1"), (5e-6, "10"), (1e-9, "1e+02")])
def test_a_learning_rate_too_small_is_told_on_the_way_with_one_that_is_large_enough(ratio: float, lr: str) -> None:
    diagnosis = Diagnosis(facts(), causes.RULES)
    for step in range(1, 150, 10):
        diagnosis.observe(step, record(2.2, **updates(ratio)))
    first, *_ = diagnosis.findings
    assert (first.rule, first.advice) == ("learning rate too small", f"Try optimizer.lr={lr}.")


@pytest.mark.parametrize(
    ("known", "val", "train_loss", "rule"),
    [
        ({}, [1.5, 2.3], [1.5, 2.3], "learning rate too large"),
        ({"has_attention": True}, [1.5, 2.3], [1.5, 2.3], "warm up missing"),
        ({"settings": {"optimizer.momentum": 0.99}}, [1.5, 2.3], [1.5, 2.3], "momentum too high"),
        ({}, [1.5, 1.7], [1.5, 1.6], None),
        ({}, [1.5, 2.3], [1.5, 1.4], None),  # that is no fault of steps
        ({}, [2.25, 2.3], [2.25, 2.3], None),  # there was nothing to lose
    ],
)
def test_what_had_been_learnt_and_is_lost(
    known: dict[str, Any], val: list[float], train_loss: list[float], rule: str | None
) -> None:
    guess = {"train/loss": math.log(10), "val/loss": math.log(10)}
    diagnosis = Diagnosis(facts(guess=guess, **known), causes.RULES)
    diagnosis.observe(1, record(2.3))
    for i, (of_val, of_train) in enumerate(zip(val, train_loss, strict=True)):
        for step in range(50 * i + 10, 50 * i + 60, 10):
            diagnosis.observe(step, record(of_train))
        diagnosis.observe(50 * i + 50, {"val/loss": of_val})
    diagnosis.concluded(100)
    assert [finding.rule for finding in diagnosis.findings][:1] == ([rule] if rule else [])


@pytest.mark.parametrize(("best", "is_found"), [(2.31, True), (2.28, False)])
def test_a_signal_that_is_weak_is_one(best: float, is_found: bool) -> None:
    """Accuracies of some validations are above a guess, as by chance; the loss says whether one was."""
    known = {"guess": {"train/loss": math.log(10), "val/loss": math.log(10)}, "largest_share": 0.1, "num_val": 200}
    diagnosis = Diagnosis(facts(steps_per_epoch=16, **known), causes.RULES)
    for step in range(1, 400, 10):
        diagnosis.observe(step, record(2.3))
        diagnosis.observe(step, {"val/loss": best, "val/accuracy": 0.2 if step == 101 else 0.1})
    diagnosis.concluded(400)
    assert ("labels without a pattern" in [finding.rule for finding in diagnosis.findings]) == is_found


def test_a_loss_that_falls_below_a_guess_is_a_pattern_before_the_accuracy_is() -> None:
    """As of 170 parameters after 100 steps on the digits: 2.234, with an accuracy of 0.11."""
    known = {"guess": {"train/loss": math.log(10), "val/loss": math.log(10)}, "largest_share": 0.1, "num_val": 180}
    diagnosis = Diagnosis(facts(steps_per_epoch=20, **known), causes.RULES)
    for step, val_loss in ((60, 2.275), (100, 2.234)):
        diagnosis.observe(step - 50, record(2.4))
        diagnosis.observe(step, {"val/loss": val_loss, "val/accuracy": 0.11})
    diagnosis.concluded(100)
    assert diagnosis.findings == []


@pytest.mark.parametrize(
    ("recalls", "is_found"),
    [([0.9] * 9 + [0.3], True), ([0.95, 0.9, 0.5, 0.7, 0.6, 0.95, 0.8, 0.7, 0.99, 0.35], False), ([0.9, 0.3], True)],
)
def test_of_many_classes_the_worst_is_a_fault_where_it_lies_far_from_all(recalls: list[float], is_found: bool) -> None:
    diagnosis = Diagnosis(facts(shares=[1 / len(recalls)] * len(recalls)), causes.RULES)
    for step in range(1, 400, 10):
        diagnosis.observe(step, record(0.1))
    rows = [{"name": str(i), "support": 20, "recall": recall} for i, recall in enumerate(recalls)]
    diagnosis.concluded(400, rows)
    assert [finding.rule for finding in diagnosis.findings] == (["one class far worse"] if is_found else [])


@pytest.mark.parametrize(
    ("known", "accuracy", "is_found"),
    [
        ({"are_labels": True, "num_val": 100}, 0.17, True),
        ({"are_labels": True, "num_val": 100}, 0.40, False),
        ({"are_labels": True, "num_val": 12}, 0.17, False),
        ({"num_val": 100}, 0.17, False),
    ],
)
def test_ones_and_zeros_that_change_their_places_in_validation(
    known: dict[str, Any], accuracy: float, is_found: bool
) -> None:
    diagnosis = Diagnosis(facts(**known), causes.RULES)
    for step in range(1, 400, 10):
        diagnosis.observe(step, record(0.69 if step == 1 else 0.37))
        diagnosis.observe(step, {"val/loss": 0.6, "val/accuracy": accuracy})
    diagnosis.concluded(400)
    assert ("labels differ between the splits" in [finding.rule for finding in diagnosis.findings]) == is_found


MASKS = """
from torch import nn


class Masks(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(1, 2, 1))
"""


ADVICE = "Try loss=cross_entropy loss.class_weights=balanced or loss=dice."


@pytest.mark.parametrize(("noise", "is_found"), [(5.0, True), (0.1, False)])
def test_pixels_of_one_class_that_is_always_said(
    noise: float, is_found: bool, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "always_said.py").write_text(MASKS)
    monkeypatch.syspath_prepend(tmp_path)
    draw = np.random.default_rng(0)
    targets = (draw.random((60, 8, 8)) > 0.95).astype(np.int64)
    inputs = targets[:, None] + draw.normal(0, noise, (60, 1, 8, 8))
    np.savez("masks.npz", inputs=inputs.astype(np.float32), targets=targets)
    own = ("model._target_=always_said.Masks", "trust=[always_said]", "data.num_classes=2", "max_steps=150")
    result = train("data=arrays", "data.path=masks.npz", *own, "eval_every=25", "optimizer.lr=0.1", *SHORT)
    assert rules(result) == ["one class nearly alone"] * is_found
    assert {found["advice"] for found in result["diagnosis"]} <= {ADVICE}
    assert result["val/iou"] > (0.4 if is_found else 0.9)
