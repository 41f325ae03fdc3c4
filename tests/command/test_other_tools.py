"""What people of other tools type: one line with the right word, and what it says to type works.

The tables are the documentation. Synonyms come first, then the same letters in any case, then the nearest word.
"""

import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trainer.command import main as cli
from trainer.config import synonyms
from trainer.config.schema import RULES
from trainer.errors import UserError

Train = Callable[..., dict[str, Any]]

# What is typed, and what the line says to type.
KEYS = """
--lr 0.1                            -> optimizer.lr=0.1
--lr=0.1                            -> optimizer.lr=0.1
--learning-rate 0.1                 -> optimizer.lr=0.1
--epochs 5                          -> max_epochs=5
--batch-size 32                     -> batch_size=32
-b 32                               -> batch_size=32
--seed 3                            -> seed=3
--model ResNet18                    -> model=resnet18
--optimizer SGD                     -> optimizer=sgd
--momentum 0.9                      -> optimizer=sgd optimizer.momentum=0.9
--weight-decay 0.1                  -> optimizer.weight_decay=0.1
--no-cuda                           -> device=cpu
--gpu 0                             -> device=auto
--bf16                              -> precision=bfloat16
--max_grad_norm 1.0                 -> gradient.clip_norm=1.0
--sweep optimizer.lr=0.1,0.2        -> --multirun optimizer.lr=0.1,0.2
epochs=5                            -> max_epochs=5
num_train_epochs=5                  -> max_epochs=5
trainer.max_epochs=5                -> max_epochs=5
steps=5                             -> max_steps=5
learning_rate=0.1                   -> optimizer.lr=0.1
optimizer.learning_rate=0.1         -> optimizer.lr=0.1
lr=0.1                              -> optimizer.lr=0.1
model.lr=0.1                        -> optimizer.lr=0.1
optim.lr=0.1                        -> optimizer.lr=0.1
batch=32                            -> batch_size=32
batchsize=32                        -> batch_size=32
data.batch_size=32                  -> batch_size=32
per_device_train_batch_size=32      -> batch_size=32
gpu=0                               -> device=auto
gpus=1                              -> device=auto
cuda=false                          -> device=cpu
fp16=true                           -> precision=float16
amp=true                            -> precision=bfloat16
random_seed=3                       -> seed=3
grad_clip=1                         -> gradient.clip_norm=1
gradient_accumulation_steps=2       -> gradient.accumulate=2
dropout=0.5                         -> model.dropout=0.5
dataset=MNIST                       -> data=mnist
criterion=mse                       -> loss=mse
optim=SGD                           -> optimizer=sgd
lr_scheduler=cosine                 -> scheduler=cosine
arch=resnet18                       -> model=resnet18
experiment_name=x                   -> name=x
output_dir=x                        -> run_dir=x
tensorboard=false                   -> monitor=off
BATCH_SIZE=32                       -> batch_size=32
Optimizer.LR=0.1                    -> optimizer.lr=0.1
batch-size=32                       -> batch_size=32
Model=lenet                         -> model=lenet
model.hidden=64                     -> model=two_layer model.hidden_features=64
hidden_size=64                      -> model=two_layer model.hidden_features=64
optimizer.momentum=0.9              -> optimizer=sgd optimizer.momentum=0.9
optimizer.name=SGD                  -> optimizer=sgd
seed_everything=3                   -> seed=3
trainer.devices=1                   -> device=auto
momentum=0.9                        -> optimizer=sgd optimizer.momentum=0.9
patience=3                          -> early_stopping.patience=3
pretrained=true                     -> model=resnet18 model.weights=imagenet
data.path=iris.csv                  -> data=arrays data.path=iris.csv data.targets=[species] model=two_layer
data.root=photos                    -> data=image_folder data.root=photos
"""
OPTIONS = """
optimizer=SGD                       -> optimizer=sgd
optimizer=torch.optim.Adam          -> optimizer=adam
data=MNIST                          -> data=mnist
data=Fashion-MNIST                  -> data=fashion_mnist
data=CIFAR                          -> data=cifar10
loss=ce                             -> loss=cross_entropy
loss=CrossEntropyLoss               -> loss=cross_entropy
loss=nn.MSELoss                     -> loss=mse
loss=mae                            -> loss=l1
loss=SmoothL1Loss                   -> loss=smooth_l1
loss=kl_divergence                  -> loss=kl_div
loss=categorical_hinge              -> loss=multi_margin
scheduler=none                      -> scheduler=constant
scheduler=null                      -> scheduler=constant
scheduler=CosineAnnealingLR         -> scheduler=cosine
scheduler=ReduceLROnPlateau         -> scheduler=plateau
model=mlp                           -> model=two_layer
model=LeNet-5                       -> model=lenet
model=ResNet                        -> model=resnet18
monitor=none                        -> monitor=off
model=mynet.Net                     -> model._target_=mynet.Net trust=[mynet]
model=mynet.py                      -> model._target_=mynet.Net trust=[mynet]
model=./mynet.py                    -> model._target_=mynet.Net trust=[mynet]
model=nets.LeNet                    -> model._target_=nets.LeNet trust=[nets]
data=iris.csv                       -> data=arrays data.path=iris.csv data.targets=[species] model=two_layer
data=numbers.npz                    -> data=arrays data.path=numbers.npz model=two_layer
data=./photos                       -> data=image_folder data.root=./photos
data=photos                         -> data=image_folder data.root=photos
experiment=lenet-digits             -> experiment=lenet_digits
experiment=conf/experiment/mine.yaml -> --config-dir conf experiment=mine
LeNet                               -> model=lenet
fashion-mnist                       -> data=fashion_mnist
"""
VALUES = """
device=gpu                          -> device=auto
device=GPU                          -> device=auto
device=0                            -> device=auto
device=CPU                          -> device=cpu
precision=bf16                      -> precision=bfloat16
precision=16-mixed                  -> precision=float16
precision=FP32                      -> precision=float32
dtype=double                        -> dtype=float64
fast=no                             -> fast=false
compile=0                           -> compile=false
max_epochs=None                     -> max_epochs=null
batch_size=all                      -> batch_size=full
on_nan=ignore                       -> on_nan=skip
trust=mynet                         -> trust=[mynet]
optimizer.lr==0.1                   -> optimizer.lr=0.1
optimizer.lr=[0.1]                  -> optimizer.lr=0.1
optimizer.lr=[0.1,0.2]              -> --multirun optimizer.lr=0.1,0.2
--multirun lr=[0.1,0.2]             -> optimizer.lr=0.1,0.2
--multirun optimizer.lr=[0.1,0.2]   -> --multirun optimizer.lr=0.1,0.2
optimizer.lr=0.1,0.2                -> --multirun optimizer.lr=0.1,0.2
optimizer.betas=0.8,0.9             -> optimizer.betas=[0.8,0.9]
optimizer=adam,sgd                  -> --multirun optimizer=adam,sgd
resume=runs/d1/checkpoints/best.pt  -> resume=runs/d1
resume=runs/d1/config.yaml          -> resume=runs/d1
resume=d1                           -> resume=runs/d1
resume=runs/d2                      -> resume=runs/d1
"""
SHAPES = """
"model=lenet optimizer=sgd"         -> model=lenet optimizer=sgd
"lr=0.1 epochs=5"                   -> optimizer.lr=0.1 max_epochs=5
"--multirun lr=0.1,0.2"             -> --multirun optimizer.lr=0.1,0.2
optimizer.lr= 0.1                   -> optimizer.lr=0.1
optimizer.lr = 0.1                  -> optimizer.lr=0.1
optimizer.lr =0.1                   -> optimizer.lr=0.1
"optimizer.lr = 0.1"                -> optimizer.lr=0.1
lr 0.1                              -> optimizer.lr=0.1
lr= 0.1                             -> optimizer.lr=0.1
batch_size:32                       -> batch_size=32
name=“try1”                         -> name=try1
“optimizer.lr=0.1”                  -> optimizer.lr=0.1
‘lr=0.1’                            -> optimizer.lr=0.1
—multirun seed=0,1                  -> --multirun seed=0,1
–multirun seed=0,1                  -> --multirun seed=0,1
"""
NO_WORKERS = "data=digits has no num_workers; hf, image_folder, image_table, torchvision have it. Leave it out."
# What has nothing to be typed instead.
ALONE = {
    "seed=0,1": "seed=0,1: several values are a sweep. Type --multirun seed=0,1.",
    "device=0,1": "Type torchrun --nproc-per-node=2 -m trainer device=cuda for one run on all of them;",
    "predict model=d1 source=x.png": "have no key. Type them alone: train predict RUN FILE.",
    "resume=True": "Type resume=auto for the newest of its kind.",
    "num_workers=2": f"num_workers: {NO_WORKERS}",
    "shuffle=true": "shuffle: nothing reads this key. Training samples come in another order in every epoch",
    "validation_split=0.2": "validation_split: data=digits has no val_fraction; arrays, cifar10, fashion_mnist, hf, "
    "image_folder, image_table, mnist, table, torchvision have it. Leave it out.",
    "--workers 2": f"--workers: a key has no dashes. {NO_WORKERS}",
    "data=iris.tsv": "data=iris.tsv: there is no such data.",
    "'name=x optimizer=sgd'": "is one word, because it stands in one pair of quotes. Type name=x optimizer=sgd.",
    "hydra.run.dir=x": "hydra.run.dir=x: Hydra runs nothing here but the plugins of a sweep. Type run_dir=x.",
    "hydra/launcher=ray": "Type --multirun hydra/launcher=ray.",
    "hydra.callbacks.x._target_=os.getcwd": "Hydra runs nothing here but the plugins of a sweep.",
    "--experimental-rerun x": "--experimental-rerun: there is no such flag. It would unpickle a file.",
}

PAIRS = [
    tuple(part.strip() for part in row.split("->")) for row in (KEYS + OPTIONS + VALUES + SHAPES).split("\n") if row
]


# What is typed then, once each; a line about a sweep leads to a sweep.
PROPOSED = dict.fromkeys(
    f"--multirun {right}" if "--multirun" in typed and "--multirun" not in right else right for typed, right in PAIRS
)


RUN = ("model=two_layer", "monitor=off", "data.limit=40", "max_steps=1", "name=d1")


@pytest.fixture
def folder(train: Train, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the words of the tables are typed: with a table, pictures, a network and a run."""
    here = Path.cwd()
    lines = [f"{i},{i * 2},{i % 3}" for i in range(30)]
    (here / "iris.csv").write_text("\n".join(["width,length,species", *lines]) + "\n")
    np.savez(here / "numbers.npz", inputs=np.arange(90.0).reshape(30, 3), targets=np.arange(30) % 3)
    for name in ("cat", "dog"):
        (here / "photos" / name).mkdir(parents=True)
        for i in range(10):
            Image.new("RGB", (8, 8), (i, 9 * i, 0)).save(here / "photos" / name / f"{i}.png")
    (here / "mynet.py").write_text(
        "from torch import nn\nclass Net(nn.Sequential):\n"
        "    def __init__(self, in_features, num_classes):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(in_features, num_classes))\n"
    )
    (here / "nets.py").write_text((here / "mynet.py").read_text().replace("Net(", "LeNet("))  # an option's name, too
    (here / "conf/experiment").mkdir(parents=True)
    (here / "conf/experiment/mine.yaml").write_text("max_steps: 1\n")
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield here
    for module in ("mynet", "nets", "wide"):
        sys.modules.pop(module, None)


def refusal(words: list[str]) -> str:
    with pytest.raises(UserError) as caught:
        cli.run_command(words)
    line = str(caught.value)
    assert "\n" not in line
    return line


def proposed(line: str, words: list[str]) -> list[str]:
    """What a line says to type in place of the words that it is about."""
    typed = re.search(r"Type (.+?)(?: without spaces| for a sweep)?\.$", line)
    if typed is not None:
        return shlex.split(typed[1].partition(", or ")[0])
    meant = re.search(r"Did you mean (\S+)\?", line)
    assert meant is not None, line
    if "=" in meant[1]:
        return [meant[1]]
    key, _, value = words[-1].partition("=")
    is_choice = f"there is no such {key}." in line or "there is no run" in line
    return [f"{key}={meant[1]}" if is_choice else f"{meant[1]}={value}"]


@pytest.mark.parametrize(("typed", "right"), PAIRS, ids=[typed for typed, _ in PAIRS])
def test_the_right_word_is_said(train: Train, folder: Path, typed: str, right: str) -> None:
    if typed.startswith("resume="):
        train(*RUN)
    words = shlex.split(typed)
    found = proposed(refusal(words), words)
    if found == ["--multirun"]:  # in place of the flag alone
        found += words[1:]
    assert " ".join(found) == right


@pytest.mark.parametrize(
    "right", [pytest.param(right, marks=[pytest.mark.slow] * (i % 4 > 0)) for i, right in enumerate(PROPOSED)]
)
def test_and_works(train: Train, folder: Path, right: str, sources: dict[str, tuple[str, ...]]) -> None:
    found = shlex.split(right)
    if "model.weights=imagenet" in found:
        pytest.skip("that would be fetched")
    if right.startswith("resume="):
        train(*RUN)
    rest = [] if any(word.startswith("max_") for word in found) else ["max_steps=2"]
    rest += sources.get(right.removeprefix("data="), ())  # not fetched either
    rest += ["data=random_regression", "model=two_layer"] if right in ("loss=mse", "loss=l1") else []
    if "--multirun" in found:
        assert cli.run_command([*found, *rest, "dry_run=true"]) == 0
    else:
        train(*found, *rest, *([] if right.startswith("monitor=") else ["monitor=off"]))


VERBS = {
    "train lr=0.1 max_steps=1": "train optimizer.lr=0.1 max_steps=1",
    "fit max_steps=1": "train max_steps=1",
    "sweep lr=0.1,0.2 dry_run=true": "train --multirun optimizer.lr=0.1,0.2 dry_run=true",
    "val d1": "train evaluate d1",
    "test d1": "train evaluate d1",
    "ls": "train runs",
    "version": "train --version",
}


def test_verbs_of_other_tools_lead_to_those_here(folder: Path) -> None:
    for typed, right in VERBS.items():
        words = shlex.split(typed)
        assert proposed(refusal(words), words) == right.split()
        assert "=" in right or "d1" in right or right == "train runs" or cli.run_command(right.split()[1:]) == 0


@pytest.mark.parametrize("typed", ALONE)
def test_a_word_without_a_better_one_is_explained(folder: Path, typed: str) -> None:
    assert ALONE[typed] in refusal(shlex.split(typed))


def test_what_is_near_in_letters_is_found_after_the_synonyms() -> None:
    """`momentun` is no word of the tables."""
    assert "Did you mean optimizer.lr?" in refusal(["optimizr.lr=0.1"])
    assert "Did you mean max_epochs?" in refusal(["max_epoch=3"])
    assert "Did you mean resnet18?" in refusal(["model=resent18"])
    assert "Did you mean mnist?" in refusal(["data=MNITS"])


def test_the_tables_lead_to_keys_that_there_are() -> None:
    """Or to such as another release may have: those are left out until then."""
    later = {"max_time", "early_stopping.patience", "data.targets", "experiment"}
    for right in synonyms._KEYS:
        assert right in RULES or right in synonyms._VALUES or right in later, right


def test_a_class_that_has_changed_since_is_told_with_what_does_not_fit(train: Train, folder: Path) -> None:
    words = ("model._target_=mynet.Net", "trust=[mynet]", "monitor=off", "name=x")
    train(*words, "max_steps=1")
    code = (folder / "mynet.py").read_text()
    (folder / "mynet.py").write_text(
        code.replace("nn.Flatten(), ", "nn.Flatten(), nn.Linear(in_features, in_features), ")
    )
    sys.modules.pop("mynet")
    line = refusal([*words, "max_steps=2"])
    assert "runs/x: the checkpoint does not fit: " in line
    assert "1.weight" in line
    assert line.endswith("If a class of yours or the data has changed since, type another name= for a new run.")


def test_model_own_takes_the_keys_of_the_class(train: Train, folder: Path) -> None:
    (folder / "wide.py").write_text(
        "from torch import nn\nclass Net(nn.Sequential):\n"
        "    def __init__(self, in_features, num_classes, width=4):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(in_features, width), nn.Linear(width, num_classes))\n"
    )
    words = ("model=own", "model._target_=wide.Net", "trust=[wide]", "monitor=off", "max_steps=1")
    assert train(*words, "model.width=16")["num_parameters"] == 64 * 16 + 16 + 16 * 10 + 10
    assert train(*words[1:], "model.width=8")["num_parameters"] == 64 * 8 + 8 + 8 * 10 + 10
    assert "model.widht: nothing reads this key. Did you mean model.width?" in refusal([*words, "model.widht=8"])
