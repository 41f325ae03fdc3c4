"""Which parameters train, when and how fast: as a plain PyTorch loop with parameter groups has it."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from plain import cut_loose, losses, parts_of, plain_losses, weights
from trainer import load as load_run
from trainer.errors import UserError
from trainer.models.finetune import Finetune
from trainer.models.lenet import LeNet
from trainer.models.resnet import resnet18
from trainer.optim.groups import depths_of, grouped, refuse_unknown_parts

Train = Callable[..., dict[str, Any]]
# 113 samples: three steps of 40, 40 and 33 an epoch.
WORDS = ("data.limit=113", "batch_size=40", "max_steps=9", "monitor=off", "monitor.every=1", "optimizer.lr=0.01")


def assert_near(name: str, model: nn.Module) -> None:
    """The weights of a run are those of the model."""
    for key, value in weights(name).items():
        torch.testing.assert_close(value, model.state_dict()[key], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("optimizer", "fast"), [("adamw", "true"), ("adamw", "false"), ("sgd", "true")])
def test_groups_are_those_of_torch(optimizer: str, fast: str, train: Train) -> None:
    words = (*WORDS, f"optimizer={optimizer}", "optimizer.weight_decay=0.1", "model=lenet")
    asked = ("optimizer.decay=weights", "optimizer.layer_decay=0.5", "optimizer.lr_times={conv*:0.1,*.bias:2}")
    train(*words, *asked, f"fast={fast}", "name=it")
    parts = parts_of(*words, "fast=false")
    model = cut_loose(parts)
    depth = {"conv1": 4, "conv2": 3, "fc1": 2, "fc2": 1, "fc3": 0}
    groups = []
    for name, parameter in model.named_parameters():
        layer, _, kind = name.partition(".")
        lr = 0.01 * 0.5 ** depth[layer] * (0.1 if "conv" in layer else 1) * (2 if kind == "bias" else 1)
        groups.append({"params": [parameter], "lr": lr, "weight_decay": 0.0 if kind == "bias" else 0.1})
    make = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[optimizer]
    assert losses("it") == pytest.approx(plain_losses(parts, make(groups, lr=0.01)), rel=1e-5)
    assert_near("it", model)


def test_layers_are_counted_in_the_order_of_their_definition() -> None:
    assert sorted(set(depths_of(LeNet(num_classes=10)).values())) == [0, 1, 2, 3, 4]
    depths = depths_of(Finetune(resnet18(num_classes=5), 3))
    assert depths["backbone.conv1.weight"] == depths["backbone.bn1.weight"] == 0
    assert depths["backbone.layer1.1.conv2.weight"] == 2
    assert depths["backbone.layer4.1.bn2.bias"] == 8
    assert depths["head.weight"] == 9


def test_a_schedule_keeps_their_ratio_and_the_tab_lists_them(train: Train) -> None:
    asked = ("optimizer.lr_times={fc3:0.1}", "scheduler=one_cycle", "optimizer=sgd")
    train(*WORDS, *asked, "monitor=full", "monitor.every=1", "name=it")
    lines = map(json.loads, Path("runs/it/metrics.jsonl").read_text().splitlines())
    rates = [(line["lr/0"], line["lr/1"]) for line in lines if "lr/0" in line]
    assert len({rate for rate, _ in rates}) > 5
    assert all(b == pytest.approx(a / 10, rel=1e-3) for a, b in rates)
    assert b"about/optimizer" in next(Path("runs/it").glob("events*")).read_bytes()


OWN = "scheduler._target_=torch.optim.lr_scheduler."
GOES_TO = {
    "cosine": ("scheduler=cosine", "scheduler.eta_min=0.02"),
    "restarts": (OWN + "CosineAnnealingWarmRestarts", "scheduler.T_0=4", "scheduler.eta_min=0.02"),
    "plateau": ("scheduler=plateau", "scheduler.patience=0", "scheduler.factor=0.5", "+scheduler.min_lr=0.02"),
    "cyclic": (OWN + "CyclicLR", "scheduler.base_lr=0.02", "scheduler.max_lr=0.2", "scheduler.step_size_up=3"),
    "one cycle": ("scheduler=one_cycle", "scheduler.max_lr=0.5"),
}


@pytest.mark.parametrize("scheduler", GOES_TO)
def test_a_rate_that_a_schedule_goes_to_is_that_of_the_whole(scheduler: str) -> None:
    """A group with a smaller rate was taken up to `eta_min`, `min_lr`, `base_lr` by torch: that is one rate for all."""
    words = ("model=lenet", "data.limit=40", "optimizer=sgd", "optimizer.lr=0.1", "optimizer.momentum=0.9")
    words = (*words, "max_steps=10", *GOES_TO[scheduler])
    alike = parts_of(*words).state
    grouped, again = (parts_of(*words, "optimizer.lr_times={fc3:0.1,conv1:4}").state for _ in range(2))
    seen = set()
    for step in range(1, 10):
        rate = alike.optimizer.param_groups[0]["lr"]
        rates = [group["lr"] for group in grouped.optimizer.param_groups]
        assert rates == pytest.approx([4 * rate, rate, rate / 10], rel=1e-12)
        seen.add(rate)
        again.optimizer.load_state_dict(grouped.optimizer.state_dict())
        again.schedule.load_state_dict(grouped.schedule.state_dict())
        for state in (alike, grouped, again):
            state.optimizer.step()
            state.schedule.step(step)
            state.schedule.evaluated(1.0)
        lrs = [[group["lr"] for group in state.optimizer.param_groups] for state in (again, grouped)]
        assert lrs[0] == lrs[1]
    assert len(seen) > 3


@pytest.mark.parametrize("fast", ["true", "false"])
def test_a_part_is_unfrozen_with_its_epoch(fast: str, train: Train) -> None:
    words = (*WORDS, "optimizer=adamw", "model=lenet", "optimizer.weight_decay=0.1")
    train(*words, "model.unfreeze_at={conv*:2,fc1:1}", f"fast={fast}", "name=it")
    parts = parts_of(*words, "fast=false")
    model = cut_loose(parts)

    def begin(epoch: int) -> None:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(epoch >= (2 if "conv" in name else 1 if "fc1" in name else 0))

    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    assert losses("it") == pytest.approx(plain_losses(parts, optimizer, begin), rel=1e-5)
    assert_near("it", model)


NESTED = """
from torch import nn


def net():
    inner = nn.Sequential(nn.BatchNorm1d(64), nn.Linear(64, 8))
    return nn.Sequential(nn.Flatten(), inner, nn.ReLU(), nn.Linear(8, 10))
"""


@pytest.mark.parametrize(
    ("words", "norm", "linear"),
    [
        (["model.unfreeze_at={'1':1,'1.1':2}"], 1, 2),  # the linear layer was trained with the rest of its part
        (["model.freeze=['1.1']", "model.unfreeze_at={'1':1}"], 1, 9),  # as if it were not frozen
        (["model.freeze=['1']", "model.unfreeze_at={'1.1':1}"], 9, 1),
        (["model.unfreeze_at={'1.1':2,'1*':1}"], 1, 2),
        (["model.freeze=['1*']", "model.unfreeze_at={'1.0*':2}"], 2, 9),
        (["model.freeze=['1']", "model.unfreeze_at={'1':2}"], 2, 2),
    ],
)
def test_of_parts_within_parts_the_innermost_decides(
    words: list[str], norm: int, linear: int, train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The epoch from which each trains, by what has moved at the end of it; of a norm its statistics, too."""
    (tmp_path / "nested_parts.py").write_text(NESTED)
    monkeypatch.syspath_prepend(str(tmp_path))
    own = ("model._target_=nested_parts.net", "trust=[nested_parts]", "data.limit=8", "batch_size=8", "optimizer=sgd")
    train(*WORDS, *own, *words, "max_steps=3", "checkpoint.every=1", "checkpoint.keep=5", "name=it")
    paths = [f"runs/it/checkpoints/step_{step:08d}.pt" for step in (1, 2, 3)]
    states = [load_run(path, trust=["nested_parts"]).network.state_dict() for path in paths]
    epochs = {"1.0.weight": norm, "1.0.running_mean": norm, "1.1.weight": linear, "3.weight": 0}
    for name, epoch in epochs.items():
        moved = [not torch.equal(before[name], after[name]) for before, after in pairwise(states)]
        assert moved == [epoch <= 1, epoch <= 2], name


def test_a_part_may_be_called_by_its_place(train: Train) -> None:
    layers = "{_target_:torch.nn.Flatten},{_target_:torch.nn.Linear,in_features:64,out_features:8}"
    words = (
        *WORDS,
        "model=sequential",
        f"model.layers=[{layers},{{_target_:torch.nn.Linear,in_features:8,out_features:10}}]",
    )
    train(*words, "max_steps=3", 'model.unfreeze_at={"1":2}', "optimizer.lr_times={2:3}", "name=it")
    train(*words, "max_steps=3", "model.freeze=[1]", "optimizer.lr=0.03", "name=same")
    assert all(torch.equal(value, weights("same")[name]) for name, value in weights("it").items())


def test_a_frozen_part_keeps_its_statistics_too(train: Train) -> None:
    words = (*WORDS, "model=resnet18", "data.limit=20", "max_steps=2", "batch_size=10", "optimizer=sgd")
    train(*words, "model.freeze=[bn1,layer1,layer2]", "name=it")
    before, after = parts_of(*words).model.state_dict(), weights("it")
    frozen = [name for name in before if name.startswith(("bn1", "layer1", "layer2"))]
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    assert not torch.equal(before["layer3.0.bn1.running_mean"], after["layer3.0.bn1.running_mean"])


def test_a_name_that_is_read_as_a_number_is_one_part() -> None:
    """Hydra reads [1.10] as 1.1, and with it the tenth layer would be taken for the first."""
    layers = [nn.Linear(1, 1) for _ in range(11)]
    model = nn.Sequential(nn.Identity(), nn.Sequential(*layers))
    with pytest.raises(UserError, match=r"\[1.1\]: is read as a number, and may mean 1.1 or 1.10. Type .*\[\"1.10\"\]"):
        refuse_unknown_parts("model.freeze", model, [1.10])
    assert refuse_unknown_parts("model.freeze", model, ["1.10", 1.2, 1]) == {
        "1.10": layers[10],
        "1.2": layers[2],
        "1": model[1],
    }
    known = dict(model.named_parameters())
    with pytest.raises(UserError, match=r"\{1.1:2\}: is .* may mean 1.1 or 1.10. Type .*=\{1.1.\*:2\}' or"):
        grouped(model, known, False, 1.0, {1.10: 2})
    groups = grouped(model, known, False, 1.0, {"1.10.*": 2, 1.2: 3, 1.30: 4})
    assert [(group.times, group.names) for group in groups if group.times > 1] == [
        (3, ["1.2.weight", "1.2.bias"]),
        (4, ["1.3.weight", "1.3.bias"]),
        (2, ["1.10.weight", "1.10.bias"]),
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["optimizer.lr_times={conv:2}"],
            r"^optimizer.lr_times=conv: matches no parameter; .* Did you mean conv2\?",
        ),
        (["model.freeze=[conv]"], "^model.freeze=conv: the model's parts are conv1, conv2, fc1, fc2 or fc3. Did you"),
        (
            ["model.freeze=[layer1]", "model=two_layer"],
            "the model holds its parameters itself, without parts. Leave",
        ),
        (["optimizer.lr_times={'conv':2}"], r"^optimizer.lr_times=conv: matches no parameter; they are in"),
        (['optimizer.lr_times={"*.bas" : 2}'], r"^optimizer.lr_times=\*.bas: matches no parameter; they are in"),
        (["optimizer=manual_sgd", "optimizer.decay=weights"], "manual_sgd has no weight_decay. Try optimizer=adamw."),
        (["optimizer._target_=torch.optim.SparseAdam"], "takes sparse gradients alone, .* Type optimizer=adam."),
        (["model.unfreeze_at={conv1:1}", "compile=true"], "Type compile=false."),
        (
            ["model.freeze=[layer1.*]", "model.unfreeze_at={layer1:1}", "model=resnet18"],
            r"^model\.unfreeze_at=\{layer1:1\}: other words of model\.freeze .* Leave one of them out\.$",
        ),
        (["model.unfreeze_at={conv1:0}"], "must be names with a whole number >= 1 each"),
    ],
)
def test_what_can_not_be_is_refused(words: list[str], message: str, train: Train) -> None:
    with pytest.raises(UserError, match=message):
        train(*words)
    assert not Path("runs").exists()
