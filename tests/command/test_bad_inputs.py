"""Every mistake that a person can make: one line that says what is wrong and what to type, exit code 2, no file.

The tables are the documentation. A row is what is typed, what the line must say, and what lies in the folder.
"""

import gzip
import os
import pickle
import shlex
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from trainer.command import main as cli

Prepare = Callable[[Path], object]


class Row(NamedTuple):
    """A mistake.

    Args:
        typed: the words after `train`.
        says: parts of the line, in their order, with ` ... ` between; `{folder}` is where it is typed.
        prepare: puts files into that folder.
        is_slow: typed with `-m slow`, since the row before it, and test_schema.py, hold the same every day.
    """

    typed: str
    says: str
    prepare: Prepare | None = None
    is_slow: bool = False


def values(key: str, bad: str, says: str) -> list[Row]:
    """A row for each of the bad values, written with a space between; words before the key are typed, too."""
    is_rule = says.startswith("must be")
    return [
        Row(f"{key}={value}", f"{key.split()[-1]}={value}: {says}", is_slow=is_rule and i > 0)
        for i, value in enumerate(bad.split(" "))
    ]


def own(typed: str, says: str) -> Row:
    """A row about one of the classes in `MINE`."""
    return Row(f"{typed} {OWN}", says, mine)


# --- what may lie in the folder ------------------------------------------------------------------------------------


def file(name: str, content: str | bytes = b"") -> Prepare:
    def prepare(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    return prepare


def directory(name: str) -> Prepare:
    return lambda folder: (folder / name).mkdir(parents=True)


def link(name: str, to: str) -> Prepare:
    def prepare(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(to)

    return prepare


def without_permission(name: str) -> Prepare:
    def prepare(folder: Path) -> None:
        if os.geteuid() == 0:
            pytest.skip("root may read and write everything")
        (folder / name).mkdir()
        (folder / name).chmod(0)

    return prepare


def table(*lines: str, rows: int = 30) -> Prepare:
    """mine.csv with the columns x and y, in which one line after the other is replaced."""
    whole = ["x,y", *(f"{i},{i % 3}" for i in range(rows))]
    return file("mine.csv", "\n".join([*lines, *whole[len(lines) :]]) + "\n")


INPUTS = np.random.default_rng(0).normal(size=(30, 5))
HOLED = np.where(np.arange(150).reshape(30, 5) == 77, np.nan, INPUTS)
CLASSES = np.arange(30) % 3


def npz(**arrays: Any) -> Prepare:
    """mine.npz with 30 rows of 5 numbers and three classes, but for these arrays."""
    return lambda folder: np.savez(folder / "mine.npz", **{"inputs": INPUTS, "targets": CLASSES, **arrays})


def cut(prepare: Prepare, name: str, keep: float) -> Prepare:
    """Only the beginning of the file."""

    def cut_off(folder: Path) -> None:
        prepare(folder)
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: int(keep * len(whole))])

    return cut_off


def npy(inputs: np.ndarray = INPUTS, x: str | bytes | None = None) -> Prepare:
    """x.npy, or what is not one, and y.npy."""

    def prepare(folder: Path) -> None:
        np.save(folder / "y.npy", CLASSES)
        np.save(folder / "x.npy", inputs, allow_pickle=True)
        if x is not None:
            file("x.npy", x)(folder)

    return prepare


class Bomb:
    """Makes a folder when it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, ("exploded",)


def mnist(folder: Path) -> None:
    for part in ("train", "t10k"):
        for kind, magic, array in (
            ("images-idx3", 2051, np.zeros((20, 28, 28), np.uint8)),
            ("labels-idx1", 2049, np.arange(20, dtype=np.uint8) % 10),
        ):
            header = struct.pack(f">{1 + array.ndim}i", magic, *array.shape)
            (folder / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(header + array.tobytes()))


def pictures(folder: Path) -> None:
    for name in ("cat", "dog"):
        (folder / "pics" / name).mkdir(parents=True)
        for i in range(10):
            Image.new("RGB", (8, 8), (i, i, i)).save(folder / "pics" / name / f"{i}.png")


# A user's own classes, mine.py: each with a mistake of its own.
MINE = """
import os, shutil, torch
from torch import nn
from trainer.data.source import Data, Samples

class Net(nn.Module):
    def __init__(self, in_features, num_classes):
        super().__init__()
        self.layer = nn.Linear(in_features, num_classes)
    def forward(self, x): return self.layer(x.flatten(1))
class Typo(Net):
    def forward(self, x): return self.leyer(x)
class Pair(Net):
    def forward(self, x): return super().forward(x).repeat(1, 7), 1
class Flat(Net):
    def forward(self, x): return super().forward(x).squeeze(1)
class Detached(Net):
    def forward(self, x): return super().forward(x).detach()
class Frozen(Net):
    def __init__(self, in_features, num_classes):
        super().__init__(in_features, num_classes)
        self.requires_grad_(False)
class Failing(Net):
    def __init__(self, in_features, num_classes): {}["no such key"]
class Late(Net):
    steps = 0
    def forward(self, x):
        self.steps += self.training
        return {1: super().forward(x)}[min(self.steps, 2) or 1]
class Tidy(Net):
    '''Takes the checkpoints away while it trains.'''
    steps = 0
    def forward(self, x):
        self.steps += self.training
        if self.steps == 2: shutil.rmtree("runs/one/checkpoints")
        return super().forward(x)

class Vector(nn.Module):
    def forward(self, outputs, targets): return outputs
class Words(nn.Module):
    def forward(self, outputs, targets): return {"loss": "high"}
class Constant(nn.Module):
    def forward(self, outputs, targets): return torch.tensor(1.0)

class Plain: pass

def data(inputs=None, targets=None, num_classes=None, **more):
    inputs = torch.randn(30, 4) if inputs is None else inputs
    targets = torch.arange(30) % 3 if targets is None else targets
    train = Samples(inputs, targets)
    return Data(train, more.get("val", train), train, "mine", num_classes=num_classes)
def words(): return {"train": [1, 2, 3]}
def lists(): return Data([1], [1], [1], "mine", num_classes=3)
def short(): return data(targets=torch.arange(29) % 3, num_classes=3)
def ten(): return data(targets=torch.full((30,), 10), num_classes=10)
def minus(): return data(targets=torch.full((30,), -100), num_classes=10)
def holes(): return data(val=Samples(torch.full((3, 4), float("nan")), torch.arange(3)), num_classes=3)
def empty(): return data(val=Samples(torch.randn(0, 4), torch.arange(0)), num_classes=3)
def other(): return data(val=Samples(torch.randn(9, 5), torch.arange(9) % 3), num_classes=3)
def failing(): raise RuntimeError("no data today")
"""
mine = file("mine.py", MINE)
QUICK = "model=two_layer data.limit=40 monitor=off"


def ran(*then: Prepare, data: str = QUICK) -> Prepare:
    """A run that was trained before, and what was done to its files since."""

    def prepare(folder: Path) -> None:
        assert cli.run_command(f"{data} monitor=off max_steps=2 name=one".split()) == 0
        for change in then:
            change(folder / "runs/one")

    return prepare


def ran_on(**arrays: Any) -> Prepare:
    """A run whose data has become other arrays since."""

    def prepare(folder: Path) -> None:
        npz()(folder)
        ran(data=NPZ)(folder)
        npz(**arrays)(folder)

    return prepare


def weights(state: Any) -> Prepare:
    return lambda folder: torch.save(state, folder / "net.pth")


def remove(name: str) -> Prepare:
    return lambda run: (run / name).unlink()


def save(state: Any) -> Prepare:
    """In place of all that the run has saved."""

    def prepare(run: Path) -> None:
        for path in (run / "checkpoints").iterdir():
            path.unlink()
        torch.save(state, run / "checkpoints/step_00000002.pt")

    return prepare


def config(group: str, content: str | bytes) -> Prepare:
    if group == "experiment":
        content = f"# @package _global_\n{content!s}"
    return file(f"conf/{group}/my.yaml", content)


HOSTILE = "!!python/object/apply:os.mkdir [exploded]"
CSV = "model=two_layer data=arrays data.path=mine.csv data.targets=[y]"
NPZ = "model=two_layer data=arrays data.path=mine.npz"
NPY = "model=two_layer data=arrays data.path=x.npy data.targets=y.npy"
PICS = "model=lenet data=image_folder data.root=pics data.image_size=32"
OWN = "trust=[mine] monitor=off max_steps=3"
DROPOUT = "{_target_:torch.nn.Dropout,p:1.5}"
GO_ON = "resume=runs/one max_steps=9"

# --- the table -----------------------------------------------------------------------------------------------------

MISTAKES: list[Row] = [
    # Words
    Row("optimzer.lr=0.1", "optimzer.lr: nothing reads this key. Did you mean optimizer.lr?"),
    Row("model.kernelsize=3", "model.kernelsize: nothing reads this key. Did you mean model.kernel_size?"),
    Row("model.widht=4", "model.widht: nothing reads this key. model has dropout, freeze, image_size, in_channels"),
    Row("epochs=3", "epochs: nothing reads this key. Did you mean max_epochs?"),
    Row("optimizer/lr=0.1", "optimizer/lr: nothing reads this key. Did you mean optimizer.lr?"),
    Row("data.augment.crop=4", "data.augment has color_jitter, crop_padding, erase, horizontal_flip"),
    Row(
        "data.path=mine.csv",
        "data.path: data=digits has no path; arrays, hf, image_table, table have it. Type data=arrays data.path=",
    ),
    Row("lr=0.1", "lr: nothing reads this key. Did you mean optimizer.lr?"),
    Row(
        "--multirun seed=0,1 sweep.stack=false",
        "sweep.stack=false: must be auto, always or never. Type sweep.stack=never.",
    ),
    Row("weights=runs/a", "weights: nothing reads this key. Did you mean model.weights?"),
    Row("optimizer.lr.x=3", "optimizer.lr.x: nothing reads this key. Did you mean optimizer.lr?"),
    Row("+foo=1", "foo: nothing reads this key. The top level has batch_size, cache_limit, channels_last, compile"),
    Row("++foo=1", "foo: nothing reads this key. The top level has batch_size, cache_limit, channels_last, compile"),
    Row("+optimizer.foo=1", "optimizer.foo: nothing reads this key. optimizer has amsgrad, betas"),
    Row("optimizer=adam +optimizer.momentum=0.9", "optimizer.momentum: nothing reads this key"),
    Row("+batch_size=3", "+batch_size: is there already. Type batch_size=... without +."),
    Row("++model=lenet", "++model=lenet: takes the name of an option. Type model=lenet."),
    Row("+model=lenet", "+model=...: is there already. Type model=... without +."),
    Row("~foo", "foo: nothing reads this key."),
    Row("~batch_size", "batch_size: is missing; it must be a whole number >= 1, full or auto. Try batch_size=64."),
    Row("~batch_size=3", "~batch_size=3: its value is 64."),
    Row("~model", "model=null: holds keys of its own."),
    Row("early_stopping=5", "early_stopping=5: holds keys of its own. Type early_stopping.patience=5."),
    Row("average=true", "average=true: holds keys of its own. They are average.decay, .last."),
    Row("~average", "average=null: holds keys of its own. For none type average.decay=null."),
    Row("model=lent", "model=lent: there is no such model. Did you mean lenet? There is frozen, frozen_resnet"),
    *values("model", "mpl null 3 lenet/x ../x", "there is no"),
    *values("experiment", "nope", "there is no such experiment. There is autoencoder_digits, frozen_resnet_cifar10"),
    Row("monitor=nope", "there is no such monitor. There is full, off, scalars."),
    Row("monitor=null", "there is no such monitor. Did you mean off? There is full, off, scalars."),
    Row("scheduler=warmup_cosin", "scheduler=warmup_cosin: there is no such scheduler. Did you mean warmup_cosine?"),
    Row("model=", "model=: there is no such model. There is frozen, frozen_resnet"),
    Row(
        "model=[lenet,two_layer]",
        "model=[lenet,two_layer]: takes one option ... Type --multirun model=lenet,two_layer for",
    ),
    Row("optimizer=[1,2]", "optimizer=[1,2]: takes one option; there is adadelta"),
    Row("optimizer.lr_times={0:0.1,0:0.2}", "optimizer.lr_times={0:0.1,0:0.2}: has 0 twice. Type each key once."),
    Row("optimizer.lr_times={1.1:1,1.10:2}", "has 1.10 twice. Type each key once, or type {1.10.*: ...} for a part"),
    Row("metric={a:[{b:1,'b':2}]}", "has b twice. Type each key once."),
    Row(
        "--multirun 'seed=glob(*)'", "seed=glob(*): glob finds options of a group, and here none. Type the values: seed"
    ),
    Row("model={a:1}", "model: takes the name of an option; there is frozen, frozen_resnet, hf, lenet"),
    Row(
        """optimizer='{"_target_": "torch.optim.NAdam", lr: 0.01}'""",
        "takes the name of an option. Type optimizer._target_=torch.optim.NAdam optimizer.lr=0.01.",
    ),
    Row("lenet", "lenet: is neither KEY=VALUE nor a flag. Did you mean model=lenet?"),
    Row("optimizer.lr=1e-3,1e-4", "several values are a sweep. Type --multirun optimizer.lr=1e-3,1e-4."),
    Row("optimizer=adam,sgd", "optimizer=adam,sgd: several values are a sweep. Type --multirun optimizer=adam,sgd."),
    Row("optimizer.lr=0,1", "several values are a sweep. Type optimizer.lr=0.1, or --multirun optimizer.lr=0,1."),
    Row("optimizer.lr=0.1,", "optimizer.lr=0.1,: can't be read. Type optimizer.lr=0.1."),
    Row("--foo", "--foo: there is no such flag. Did you mean --info? Type train --help."),
    Row("--batch_size=3", "--batch_size=3: a key has no dashes. Type batch_size=3."),
    Row("-optimizer.lr 3", "-optimizer.lr: a key has no dashes. Type optimizer.lr=3."),
    Row("--cfg", "--cfg: has no value."),
    Row("--cfg nope", "--cfg nope: takes job, hydra or all."),
    Row("--info=nope", "--info nope: takes all, config, defaults"),
    Row("--multirun=3", "--multirun=3: takes no value. Type --multirun."),
    Row("--info nope", "--info nope: takes all, config, defaults"),
    Row("--config-name=nope", "--config-name=nope: there is no nope.yaml in ... There is train."),
    Row("--config-dir=nope", "--config-dir={folder}/nope: there is no such folder."),
    Row("--config-path=nope", "--config-path: takes a folder with a config of train. Type --config-dir=..."),
    Row("--config-dir", "--config-dir: has no value."),
    Row("foo", "foo: is neither KEY=VALUE nor a flag. Type train --help."),
    Row("batch_size = 64", "batch_size: is neither KEY=VALUE nor a flag. Type batch_size=64 without spaces."),
    Row("batch_size:64", "batch_size:64: is neither KEY=VALUE nor a flag."),
    Row("'a b'", "a b: is neither KEY=VALUE nor a flag."),
    Row("optimizer.betas=[0.9, 0.99]", "0.99]: is neither ... blanks. Type 'optimizer.betas=[0.9, 0.99]'."),
    Row("loss.weights={kl: 0.1, b: 2} seed=1", "0.1,: is neither ... blanks. Type 'loss.weights={kl: 0.1, b: 2}'."),
    Row(  # as a shell gives optimizer.lr_times={conv1:0.1,*.bias:2}
        "optimizer.lr_times=conv1:0.1 optimizer.lr_times=*.bias:2",
        "has no braces; a shell takes them away. Type 'optimizer.lr_times={conv1:0.1,*.bias:2}'.",
    ),
    Row("=3", "=3: is neither KEY=VALUE nor a flag."),
    Row("run", "run: a run has no verb. Type train."),
    Row("'batch_size=64;ls'", "batch_size=64;ls: must be a whole number >= 1, full or auto. Try batch_size=64."),
    Row("optimizer.lr==0.1", "optimizer.lr==0.1: must be a number > 0. Type optimizer.lr=0.1."),
    Row("'optimizer.lr=${'", "optimizer.lr=${: can't be read: ${ has no }."),
    # Places in lists
    Row(
        "optimizer.betas.5=0.8", "optimizer.betas.5=0.8: optimizer.betas is a list of 2, counted from 0. Type 'optimiz"
    ),
    Row("+optimizer.betas.2=0.8", "optimizer.betas is a list of 2, counted from 0. Type 'optimizer.betas=[0.9,0.999]'"),
    Row("optimizer.betas.x=0.8", "optimizer.betas is a list of 2, counted from 0."),
    Row("'optimizer.betas[0]=0.8'", "optimizer.betas[0] is no key. Type optimizer.betas.0=0.8."),
    Row("optimizer.betas.-1=0.8", "optimizer.betas.-1 is no key. Type train --cfg job to see the keys."),
    Row("model=sequential loss=nll model.layers.99.p=1", "model.layers is a list of 8, counted from 0. Type train"),
    # Numbers, and what else a value may be: all in schema.py
    *values("optimizer.lr", "abc true null {a:1}", "must be a number > 0. Try optimizer.lr=0.01."),
    Row("optimizer.lr=[0.1]", "optimizer.lr=[0.1]: must be a number > 0. Type optimizer.lr=0.1."),
    *values("optimizer.lr", "-1 0 nan inf -inf", "must be a number > 0. Try optimizer.lr=0.01."),
    Row("optimizer.lr=", "optimizer.lr=: must be a number > 0. Try optimizer.lr=0.01."),
    Row("optimizer.lr=1e400", "optimizer.lr=inf: must be a number > 0."),
    Row("'optimizer.lr=\"0.1\"'", "optimizer.lr=0.1: must be a number > 0. Type optimizer.lr=0.1, without quotes."),
    *values("optimizer.betas", "[1.5,0.9] [0.9] 0.9 [0.9,1.0]", "must be a list of 2, each item a number >= 0 and <"),
    *values("optimizer.weight_decay", "-0.1 inf", "must be a number >= 0. Try optimizer.weight_decay=0."),
    *values("optimizer=sgd optimizer.momentum", "2 1 -0.1", "must be a number >= 0 and < 1."),
    *values("batch_size", "0 -4 null some", "must be a whole number >= 1, full or auto. Try batch_size=64."),
    Row("batch_size=1.5", "batch_size=1.5: must be a whole number >= 1, full or auto. Try batch_size=64."),
    Row("batch_size=1e3", "batch_size=1000.0: must be a whole number >= 1, full or auto. Type batch_size=1000."),
    *values("max_epochs", "0 -1 many", "must be a whole number >= 1 or null. Try max_epochs=20."),
    *values("max_steps", "0 -1 99999999999999999999", "must be a whole number >= 1 or null. Try max_steps=500."),
    *values("seed", "-1 1180591620717411303424 abc 0x10 null", "must be a whole number >= 0 and <= 4294967295."),
    *values("threads", "0 1025 all", "must be a whole number >= 1 and <= 1024, auto or null. Try threads=auto."),
    *values("eval_every", "0 never", "must be a whole number >= 1 or null. Try eval_every=null."),
    *values("checkpoint.every", "0 -1", "must be a whole number >= 1 or null. Try checkpoint.every=null."),
    *values("checkpoint.every_minutes", "0 -1 nan", "must be a number > 0 or null."),
    *values("checkpoint.keep", "0 -1 null", "must be a whole number >= 1. Try checkpoint.keep=1."),
    *values("console.every", "0 1.5", "must be a whole number >= 1 or null."),
    *values("gradient.clip_norm", "0 -1", "must be a number > 0 or null. Try gradient.clip_norm=null."),
    *values("gradient.accumulate", "0 null", "must be a whole number >= 1. Try gradient.accumulate=1."),
    *values("model=two_layer model.hidden_features", "[] [64,-1] 0 1.5 many", "must be a whole number >= 1."),
    *values("model.dropout", "1.5 1.0 -0.1", "must be a number >= 0 and < 1."),
    *values("model.kernel_size", "0 null", "must be a whole number >= 1. Try model.kernel_size=5."),
    *values("data.augment.rotation", "-1 181", "must be a number >= 0 and <= 180."),
    *values("data=image_folder data.root=. data.num_workers", "-1 10000 two", "must be a whole number >= 0 and <= 256"),
    *values("data=arrays data.path=x.npz data.val_fraction", "0 1 1.5", "must be a number > 0 and < 1."),
    *values("data=arrays data.path=x.npz data.num_classes", "0 many", "must be a whole number >= 1 or null."),
    *values("data.limit", "0 -1", "must be a whole number >= 1 or null. Try data.limit=null."),
    *values("data.split_seed", "-1 abc", "must be a whole number >= 0. Try data.split_seed=0."),
    *values("loss.label_smoothing", "1.5 -0.1", "must be a number >= 0 and <= 1."),
    *values("loss=composite loss.terms.l1.weight", "abc nan true", "must be a number."),
    *values("scheduler=cosine scheduler.T_max", "0 -1", "must be a whole number >= 1 or null."),
    *values("scheduler=multistep scheduler.milestones", "10 [10,-1]", "must be a list, each item a whole number >="),
    *values("compile", "yes 1", "must be true or false."),
    *values("model=two_layer model.bias", "3 no", "must be true or false."),
    *values("precision", "bf16 bfloat", "must be float32, bfloat16 or float16. Type precision=bfloat16."),
    *values("precision", "16 half float64", "must be float32, bfloat16 or float16."),
    *values("dtype", "float16 double", "must be float32 or float64."),
    *values("on_nan", "ignore null", "must be stop or skip."),
    Row("model.init=xavir", "model.init=xavir: must be default, normal, xavier or kaiming. Did you mean xavier?"),
    Row("model=two_layer model.gradient=numpi", "model.gradient=numpi: must be autograd ... Did you mean numpy?"),
    Row("data=arrays data.path=x data.task=regresion", "data.task=regresion: must be ... Did you mean regression?"),
    *values("device", "cudaa 7 null", "must be auto, cpu, cuda, cuda:<number> or mps. Try device=auto."),
    Row("device=cpu cuda_graphs=true", "cuda_graphs=true: device=cpu has no CUDA graphs. Type cuda_graphs=false."),
    Row(
        "model=two_layer data=random_regression loss=mse channels_last=true",
        "channels_last=true: is of pictures [C, H, W]; an input is [1000]. Type channels_last=false.",
    ),
    Row("device=cuda:77", "device=cuda:77: is not there; there is cpu ... Type device=auto for the best of them."),
    Row("data.augment=5", "data.augment=5: holds keys of its own, crop_padding, horizontal_flip, rotation"),
    Row("trust=os", "trust=os: must be a list, each item the name of a package. Try trust=[mypackage]."),
    Row("checkpoint.metric=loss", "must be a validation tag such as val/loss or val/accuracy. Try "),
    Row(f"{QUICK} checkpoint.metric=val/acuracy", "is not measured here; there is val/loss, val/accuracy. Did you"),
    Row(
        "model=two_layer data=random_regression loss=mse checkpoint.metric=val/accuracy",
        "there is val/loss, val/mae, val/r2.\n",
    ),
    # References
    Row("'batch_size=${missing}'", "batch_size: Interpolation key 'missing' not found."),
    Row("'batch_size=${batch_size}'", "batch_size: refers to itself."),
    Row("'seed=${max_steps}' 'max_steps=${seed}'", "max_steps: refers to itself."),
    Row("'optimizer.lr=${scheduler.max_lr}'", "optimizer.lr: Interpolation key 'scheduler.max_lr' not found."),
    Row("'optimizer.lr=${oc.env:NO_SUCH}'", "optimizer.lr: ... Environment variable 'NO_SUCH' not found"),
    Row("'optimizer.lr=${nope:3}'", "optimizer.lr: Unsupported interpolation type nope."),
    # What does not go together
    Row("dtype=float64 precision=bfloat16", "precision=bfloat16: does not go with dtype=float64. Type precision="),
    Row("scheduler=warmup_cosine max_steps=10", "scheduler.warmup_steps=100: the run has 10 steps; the warm-up"),
    Row(f"{QUICK} scheduler=one_cycle scheduler.total_steps=5 max_steps=9", "scheduler.total_steps=5: the run has 9"),
    Row("scheduler=plateau scheduler.interval=step", "scheduler.interval=step: a plateau is one of the validation"),
    Row("optimizer=sgd optimizer.nesterov=true", "optimizer.nesterov=true: needs a momentum above 0"),
    Row("optimizer=sgd optimizer.nesterov=true fast=false", "optimizer=sgd: Nesterov momentum requires a momentum"),
    Row("optimizer._target_=torch.optim.LBFGS", "optimizer=LBFGS: evaluates the loss several times a step"),
    Row("model=lenet model.kernel_size=40", "model.image_size=32: kernel_size=40 needs at least 121."),
    Row("data.image_size=16", "data.image_size=16: model=lenet wants images of 32. Type model.image_size=16 too."),
    Row("data=random_regression", "model=lenet: wants images, but data=random_regression ... Try model=two_layer"),
    Row("model=sequential", "loss=cross_entropy: takes logits ... gives probabilities. Type loss=nll."),
    Row("loss=nll", "loss=nll: takes log_probabilities ... model=lenet gives logits. Type loss=cross_entropy."),
    Row("loss=bce", "loss=bce: takes probabilities, but model=lenet gives logits. Type loss=bce_with_logits."),
    Row(
        "loss=composite loss.terms.cross_entropy.criterion.label_smothing=0.1",
        "criterion.label_smothing: nothing reads this key. Did you mean ... criterion.label_smoothing?",
    ),
    Row(
        "loss=composite loss.terms.cross_entropy.criterion.label_smoothing=0.1 loss.terms.l4=null",
        "loss.terms.l4: nothing reads this key.",
    ),
    Row(
        "loss=l1 loss.weight=[1,2]",
        "loss=l1 has no weight; ... Type loss=cross_entropy 'loss.weight=[1,2]'.",
    ),
    Row(f"{QUICK} 'loss.weights=[1,2]'", "weighs the terms of a loss of your own. Type loss.weight=[1,2]."),
    Row(f"{QUICK} 'loss.weights={{0:1,1:2}}'", "weighs the terms of a loss of your own. Type loss.weight=[1,2]."),
    Row(f"{QUICK} 'loss.weights={{cat:2}}'", "loss.weights.cat: ... Classes are weighed by loss.weight=[1,2,...]."),
    Row("loss=composite 'loss.weights=[1,2]'", "Type loss.terms.cross_entropy.weight=1, or another number."),
    Row(
        "loss=composite 'loss.terms.cross_entropy.criterion.weight=[1,-2]'",
        "loss.terms.cross_entropy.criterion.weight=[1,-2]: must be a list, each item a number >= 0",
    ),
    Row(
        "loss=composite loss.terms.cross_entropy.criterion.label_smoothing=2",
        "criterion.label_smoothing=2: must be a number >= 0 and <= 1. Try loss.terms.cross_entropy.criterion.",
    ),
    Row("loss=mse loss.reduction=sum", "loss.reduction: losses are means over samples ... Leave it out."),
    Row("loss=composite loss.terms.kl.weight=2", "loss.terms.kl.weight: nothing reads this key."),
    Row("loss.terms.kl.criterion._target_=torch.nn.MSELoss", "nothing reads this key"),
    Row("loss=composite loss.terms.cross_entropy=null", "loss=composite: has penalties alone, which look at no"),
    *values("model=sequential model.layers", "3 null", "must be a list of layers."),
    Row("model=sequential model.layers=[]", "model.layers=[]: a network needs at least one layer."),
    Row("model=sequential model.layers=[3]", "model=sequential: layers.0=3: not a layer; it needs a _target_"),
    Row(f"model=sequential model.layers=[{DROPOUT}]", "dropout probability has to be between 0 and 1, but got 1.5."),
    Row("model=frozen_resnet model.backbone.weights=null model.unfreeze=[layer5]", "Did you mean layer4?"),
    Row("model=resnet18 data.limit=33 batch_size=32", "of 33 samples one is left ... Try batch_size=33."),
    Row("model=resnet18 data.limit=1", "of 1 samples one is left ... too few for a batch norm ... Give more samples."),
    Row(f"{QUICK} data=mnist data.root=. data.image_size=9 model.in_features=3", "Type model.in_features=81.", mnist),
    # Memory
    Row("model=resnet18 data.image_size=9999999 device=cpu", "device=cpu: is out of memory before the first step"),
    Row("model=two_layer data=random_regression data.num_samples=99999999999", "bytes of memory are needed at once"),
    Row(f"{QUICK} model.hidden_features=99999999999999", "model=two_layer: ... bytes of memory are needed at once"),
    # Files of data
    Row("data=arrays", "data.path=???: is missing. Type data.path=..."),
    Row("data=arrays data.path=", "data.path=: must be the path of a file. Try data.path=mine.csv."),
    Row("data=arrays data.path=mine.npx", "there is no {folder}/mine.npx. Did you mean mine.npz?", npz()),
    Row("data=arrays data.path=no/mine.npz", "data.path=no/mine.npz: there is no folder {folder}/no."),
    Row("data=arrays data.path=.", "data.path={folder}: this is not read; accepted are .npz, .npy or a table (.csv, "),
    Row("data=arrays data.path=d.npz", "d.npz: it cannot be read (Is a directory).", directory("d.npz")),
    Row("data=arrays data.path=secret/mine.npz", "Permission denied", without_permission("secret")),
    Row("data=arrays data.path=mine.xlsx data.targets=[y]", ".xlsx is not read; accepted are .npz", file("mine.xlsx")),
    Row("data=table data.path=mine.xlsx", ".xlsx is not read; ... Export it as CSV, in UTF-8.", file("mine.xlsx")),
    Row("data=table data.path=mine.csv data.targets=[y] data.drop=[z]", "data.drop=z: ... it has x, y.", table()),
    Row("data=table data.path=mine.csv data.targets=[y] data.group=y", "data.group=y: it is a target, too.", table()),
    Row("data=table data.path=mine.csv data.targets=[y] data.delimiter=dot", "data.delimiter=dot: must be auto, comma"),
    Row(
        "data=arrays data.path=mine.csv data.targets=[y] data.drop=[a]",
        "data.drop: data=arrays has no drop; table has it. Type data=table 'data.drop=[a]'.",
        table(),
    ),
    Row("data=image_table data.path=mine.csv data.targets=[y]", "no column holds paths of images", table()),
    Row("data=image_folder", "data.root=???: is missing. Type data.root=..."),
    Row("data=image_folder data.root=pix", "data.root=pix: there is no {folder}/pix. Did you mean pics?", pictures),
    Row("data=image_folder data.root=.", "data.root={folder}: there is no folder in it. Put the images into"),
    Row(
        "data=image_folder data.root=pics",
        "there is no image in {folder}/pics/cat; ... Put images into it, or take the folder away.",
        directory("pics/cat"),
    ),
    Row("data=mnist data.root=. data.download=false", "no train-images-idx3-ubyte.gz or train-images-idx3-ubyte there"),
    Row("data=mnist data.root=mine", "data.root=mine: {folder}/mine is not a folder.", file("mine")),
    Row("data=mnist data.root=. data.urls=[ftp://x]", "could not be fetched (x: only https is accepted)"),
    Row("data=cifar10 data.checksum=3", "data.checksum=3: must be sha256:<64 hex digits> or md5:<32 hex digits>."),
    Row(CSV, "data.path={folder}/mine.csv: the file is empty. Give one with a row per sample.", file("mine.csv")),
    Row(CSV, "mine.csv: column names and 0 rows. Give one with a row per sample.", table(rows=0)),
    Row(CSV, "1 samples are too few to split (train 1, val 0, test 0) ... Give 6 samples or more", table(rows=1)),
    Row(NPZ, "inputs of shape [0, 5] hold nothing. Give samples.", npz(inputs=INPUTS[:0], targets=CLASSES[:0])),
    Row(f"{NPZ} data.val_fraction=0.5 data.test_fraction=0.5", "nothing is left to train on", npz()),
    Row(NPZ, "mine.npz: not a whole .npz", cut(npz(), "mine.npz", 0.6)),
    Row(NPY, "x.npy: truncated: 796 bytes, its header promises 1,328", cut(npy(), "x.npy", 0.6)),
    Row("data=mnist data.root=.", "not a whole gzip file", cut(mnist, "t10k-images-idx3-ubyte.gz", 0.6)),
    Row(PICS, "pics/cat/3.png is not a whole image", cut(pictures, "pics/cat/3.png", 0.6)),
    Row(NPZ, "mine.npz: not a whole .npz (File is not a zip file).", file("mine.npz", "x,y\n1,2\n")),
    Row(NPY, "x.npy: it does not begin as an array of numbers does.", npy(x="x,y\n1,2\n")),
    Row(NPY, "x.npy: it does not begin as an array", npy(x=pickle.dumps(Bomb()))),
    Row(NPY, "holds Python objects, which could run code", npy(np.array([Bomb()] * 30, object))),
    Row(CSV, "mine.csv: not a text in utf-8 or cp1252", file("mine.csv", b"x,y\n\x81,\x8d\n")),
    Row(CSV, "mine.csv: line 3 has 1 columns and line 1 has 2.", table("x,y", "1,2", "3")),
    Row(CSV, "mine.csv: line 3, column x: 'red' is not a number.", table("x,y", "1,2", "red,3")),
    Row(CSV, "mine.csv: line 2, column y: a value is missing, and is a target.", table("x,y", "3,")),
    Row(CSV, "mine.csv: line 2, column x: 1 of the numbers are infinite.", table("x,y", "inf,3")),
    Row(CSV, "1,500 may have a decimal comma ... Type data=table data.decimal=comma", table("x;y", *["1,500;0"] * 30)),
    Row(NPZ, "1 of the numbers are NaN or infinite, the first in row 15, column 2", npz(inputs=HOLED)),
    Row("data=arrays data.path=mine.csv", "data.targets=null: say which columns ... Try data.targets=[y].", table()),
    Row(f"{CSV[:-3]}[z]", "data.targets=z: ... has no one column of that name or number; it has x, y.", table()),
    Row(f"{NPZ} data.targets=[y]", "data.targets=[y]: an .npz holds its own", npz()),
    Row(NPZ, "there is no array val_targets; it holds inputs, targets, val_inputs.", npz(val_inputs=INPUTS)),
    Row(f"{NPZ} data.num_classes=2", "the labels of ... run from 0 to 2 ... Try data.num_classes=3", npz()),
    Row(NPZ, "labels run from -100 to 2", npz(targets=np.where(CLASSES == 1, -100, CLASSES))),
    Row(NPZ, "these look like numbers, not classes. Try data.task=regression", npz(targets=np.arange(30) * 7)),
    Row(NPZ, "loss=cross_entropy: takes class labels ... has float targets. Type loss=mse.", npz(targets=CLASSES / 2)),
    Row(f"{NPZ} loss=mse", "inputs of shape [30, 5] and targets of shape [29]", npz(targets=CLASSES[1:])),
    Row(
        f"{NPZ} loss=mse",
        "has targets of shape [2, 2, 2] ... Give targets [N, 4], or",
        npz(targets=np.zeros((30, 2, 2))),
    ),
    Row(f"{NPZ} loss=bce_with_logits", "takes targets from 0 to 1 ... from 0 to 2.", npz(targets=CLASSES * 1.0)),
    Row(f"{NPZ} model.in_features=3", "inputs of shape [2, 5] ... Type model.in_features=5.", npz()),
    Row(f"{NPZ} model.out_features=2", "of shape [2, 2] ... has 3 classes ... Type model.out_features=3.", npz()),
    Row(f"{NPZ} loss=mse model.out_features=3", "[2, 3] ... targets of shape [2, 1]", npz(targets=CLASSES / 2)),
    Row(f"{NPZ} model=lenet", "wants images, but data=arrays gives samples of shape [5]", npz()),
    Row(f"{NPZ} model=lenet", "Type model.in_channels=3 model.image_size=8.", npz(inputs=np.zeros((30, 3, 8, 8)))),
    Row(NPZ, "accepted as images are [N, H, W]", npz(inputs=np.zeros((30, 8, 8, 4), np.uint8))),
    # Weights
    Row("model=resnet18 model.weights=net.pht", "model.weights=net.pht: no such file; accepted are imagenet"),
    Row("model=resnet18 model.weights=IMAGENET", "no such file ... Did you mean imagenet?"),
    Row(
        "model=resnet18 model.weights=net.pth",
        "not a state dict (tensors under parameter names), and none is in it",
        weights(Bomb()),
    ),
    Row("model=resnet18 model.weights=net.pth", "does not fit resnet18: Missing", weights({"a": torch.zeros(1)})),
    # The user's own classes
    Row("model=own", "model._target_=???: is missing. Type model._target_=..."),
    Row("model._target_=os.system", "model._target_=os.system: is in none of the trusted packages"),
    Row("model._target_=mine.Net", "in none of the trusted packages ... If it is yours, type trust=[mine].", mine),
    Row("model._target_=Net", "in none of the trusted packages ... Type a dotted name such as mypackage.Net."),
    Row(f"model._target_=mine.Net {OWN}", "there is no module mine. Type train where mine.py lies, or install it."),
    Row(f"model._target_=mine.Net {OWN}", "SyntaxError: ... (mine.py, line 1)", file("mine.py", "class Net(: pass")),
    Row(f"model._target_=mine.Net {OWN}", "ZeroDivisionError: ... (mine.py, line 2)", file("mine.py", "\n1 / 0")),
    Row(f"model._target_=mine.Net {OWN}", "needs the module nonesuch. Try pip", file("mine.py", "import nonesuch")),
    Row("~metric", "~metric: nothing is chosen there that could be taken out. Leave it out."),
    own(
        "model=frozen model.backbone._target_=mine.Plain",
        "model=frozen: backbone=Plain: is no torch Module; a network is needed.",
    ),
    own("model._target_=mine.Nett", "there is no mine.Nett. Did you mean Net?"),
    own("model._target_=mine.Plain", "does not make a torch Module, which model._target_ needs."),
    own("model._target_=mine.Net model.widht=3", "model.widht: nothing reads this key. Did you mean model.weights?"),
    own("model._target_=mine.Failing", "model=Failing: KeyError: 'no such key' (mine.py, line "),
    own("model._target_=mine.Typo", "'Typo' object has no attribute 'leyer' (mine.py, line "),
    own(
        "model._target_=mine.Pair",
        "model=Pair: gives a tuple in which no tensor has 10 numbers for each sample; loss=cross_entropy takes one.",
    ),
    own("model._target_=mine.Detached", "model=Detached: no gradient leads through it; nothing would be learnt."),
    own("model._target_=mine.Frozen", "model=Frozen: the model has no trainable parameter."),
    own("model._target_=mine.Frozen model.init=normal", "model.init=normal: all weights of this model are loaded or"),
    own("model._target_=mine.Flat data=random_regression data.out_features=1 loss=mse", "Give outputs.unsqueeze(1)."),
    own("loss._target_=mine.Vector", "loss=Vector: gives a tensor of shape [2, 10]; one number is needed."),
    own("loss._target_=mine.Words", "loss=Words: can't be taken of outputs [2, 10] and targets [2]"),
    own("loss._target_=mine.Constant", "loss=Constant: no gradient leads through it; nothing would be learnt."),
    own("optimizer._target_=mine.Net", "does not make a torch Optimizer, which optimizer._target_ needs."),
    own("data._target_=mine.Plain", "Plain: is no data set; accepted is a class with __len__ and __getitem__, or a"),
    own("model=two_layer data._target_=mine.words", "3 samples are too few to split (train 2, val 0, test 1)"),
    own("model=two_layer data._target_=mine.lists", "an item of data=lists is a single number"),
    own(
        "model=two_layer data._target_=mine.short",
        "the train split has arrays of shapes [30, 4], [29]; each needs a row for each sample.",
    ),
    own("model=two_layer data._target_=mine.ten", "labels from 10 to 10; with 10 classes they go from 0 to 9."),
    own("model=two_layer data._target_=mine.minus", "labels from -100 to -100; with 10 classes they go from 0 to 9."),
    own("model=two_layer data._target_=mine.holes", "the val split has 12 inputs that are NaN or infinite"),
    own("model=two_layer data._target_=mine.empty", "the val split is empty; it needs at least one sample."),
    own("model=two_layer data._target_=mine.other", "the val split has inputs of shape [5], the train split has [4]"),
    own("model=two_layer data._target_=mine.failing", "data=failing: RuntimeError: no data today (mine.py, line "),
    # Config files of the user's own
    Row("--config-dir=conf model=my", "conf/model/my.yaml: no YAML: line 1, column 3: found", config("model", "a:\tb")),
    Row("--config-dir=conf model=my", "line 2, column 1: found duplicate key a.", config("model", "a: 1\na: 2\n")),
    Row(
        "--config-dir=conf model=my", "line 2, column 1: did not find expected ',' or ']'", config("model", "a: [1, 2")
    ),
    Row("--config-dir=conf model=my", "conf/model/my.yaml: no YAML: ", config("model", b"\xff\xfe\x00")),
    Row("--config-dir=conf model=my", "could not determine a constructor", config("model", f"a: {HOSTILE}")),
    Row("--config-dir=conf model=my", "my.yaml: holds a list. Write keys with their", config("model", "- 1\n- 2\n")),
    Row("--config-dir=conf model=my", "model._target_=null: names no class.", config("model", "")),
    Row("--config-dir=conf model=mi", "model=mi: there is no such model. Did you mean my?", config("model", "")),
    Row("--config-dir=conf experiment=my", "Did you mean optimizer.lr?", config("experiment", "optimzer: {lr: 1}")),
    Row("--config-dir=conf experiment=my", "no no/x.yaml in ", config("experiment", "defaults: [{/no: x}]")),
    # The folder of a run
    *values("name", ".. a/../b /tmp/x a//b", "must be letters, digits and ._=,+- (200 at most) with /"),
    Row(f"name={'x' * 256}", "and ._=,+- (200 at most)"),
    Row("name=[a]", "name=[a]: must be letters, digits"),
    Row(f"{QUICK} run_dir={'x' * 256}", "File name too long. Type another name= or run_dir=."),
    Row(f"{QUICK} name=one", "runs/one: is a file; a run needs a folder. Type another name=", file("runs/one")),
    Row(f"{QUICK} name=one", "runs/one: can't be written: Not a directory", file("runs")),
    Row(f"{QUICK} name=one", "runs/one: can't be written: File exists", link("runs/one", "one")),
    Row(f"{QUICK} name=one", "runs/one: is not empty and holds no run (no config.yaml).", file("runs/one/thesis.tex")),
    Row(f"{QUICK} run_dir=secret/x", "Permission denied. Type another name=", without_permission("secret")),
    Row(f"{QUICK} run_dir=/proc/x", "/proc/x: can't be written: No such file or directory"),
    # Going on
    Row("resume=runs/one/checkpoints", "is no folder of a run, but lies in one. Type resume=runs/one.", ran()),
    Row("resume=runs", "resume=runs: is a folder of runs. For one of its runs, type resume=runs/one.", ran()),
    Row("resume=runs/ome", "resume=runs/ome: there is no run. Did you mean runs/one?", ran()),
    Row("resume=", "resume=: must be the path of a run's folder, auto, or null."),
    Row("resume=one", "resume=one: there is no run.", directory("one")),
    Row("resume=one", "one: is a file; a run needs a folder.", file("one")),
    Row("resume=bert", "bert: is not empty and holds no run (no config.yaml).", file("bert/config.json", "{}")),
    Row("resume=one", "config.yaml: can't be read: line 1, column 3: found", file("one/config.yaml", "a:\tb")),
    Row("resume=one", "one/config.yaml: is no config of train.", file("one/config.yaml", "model: 1")),
    Row("resume=one", "one/config.yaml: can't be read: Is a directory.", directory("one/config.yaml")),
    Row(f"{QUICK} name=one optimizer=sgd", "differently: ... optimizer.lr=0.01 (was 0.002) ... another name=", ran()),
    Row("resume=runs/one batch_size=32 seed=3", "started differently: batch_size=32 (was 64), seed=3 (was 0).", ran()),
    Row(GO_ON, "the train split has 21 samples, targets ... began with 21", ran_on(targets=CLASSES[::-1])),
    Row(GO_ON, "the train split has 14 samples, targets ", ran_on(inputs=INPUTS[:20], targets=CLASSES[:20])),
    Row("resume=runs/one ~gradient", "gradient=null: holds keys of its own.", ran()),
    Row("resume=runs/one model.kernel_size=3", "model=two_layer has no kernel_size; lenet has it.", ran()),
    Row("~gradient.clip_norm", "~gradient.clip_norm: is null already. Leave it out."),
    Row("resume=runs/one max_steps=1", "the run in runs/one is at step 2 already.", ran(remove("result.json"))),
    Row(GO_ON, "step_00000002.pt: not a checkpoint of train.", ran(save({"w": torch.zeros(3)}))),
    Row(GO_ON, "step_00000002.pt: not a whole checkpoint", ran(save(Bomb()))),
    # Looking at runs
    Row("show", "train show takes one run, not 0. train runs lists them."),
    Row("show nope", "nope: there is no run. train runs lists them."),
    Row("compare nope", "train compare takes two runs or more, or one sweep."),
    Row("runs nope", "nope: "),
    Row("board nope", "nope: "),
    Row("board port=0", "port=0: must be a whole number from 1 to 65535. Try port=6006.", directory("runs")),
]


@pytest.fixture
def type_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], int]]:
    """`type_in("model=lenet ...")` is the command in an empty folder, in this process. Gives its exit code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(sys, "argv", ["train"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")

    def run(typed: str) -> int:
        sys.modules.pop("mine", None)
        monkeypatch.setattr(sys, "argv", ["train", *shlex.split(typed)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert isinstance(ended.value.code, int)
        return ended.value.code

    yield run
    sys.modules.pop("mine", None)


def tree(folder: Path) -> dict[str, object]:
    """All that lies in a folder, with what would change if it were written to."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() else os.readlink(path) if path.is_symlink() else None
        found[str(path.relative_to(folder))] = (status.st_mode, content, path.is_file() and status.st_mtime_ns)
    return found


def assert_in_order(says: str, line: str) -> None:
    at = 0
    for part in says.split(" ... "):
        assert part in line[at:], f"{part!r} is not in {line!r}"
        at = line.index(part, at) + len(part)


@pytest.mark.parametrize(
    "row",
    [pytest.param(row, id=row.typed[:70], marks=[pytest.mark.slow] * row.is_slow) for row in MISTAKES],
)
def test_a_mistake_is_one_line_and_nothing_is_written(
    row: Row, type_in: Callable[[str], int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if row.prepare is not None:
        row.prepare(tmp_path)
    capsys.readouterr()
    before = tree(tmp_path)
    code = type_in(row.typed)
    out, err = capsys.readouterr()
    assert code == 2, err
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    assert len(err) < 600
    assert_in_order(row.says.replace("{folder}", str(tmp_path)), err)
    assert tree(tmp_path) == before


# --- what is no mistake --------------------------------------------------------------------------------------------

TWO_STEPS = f"{QUICK} max_steps=2"
CORES = os.cpu_count() or 1
VAL: dict[str, Any] = {"val_inputs": INPUTS[:4], "val_targets": np.array([3, 4, 3, 0])}
# What is typed, and what stdout says; the exit code is 0.
FINE: list[Row] = [
    Row("--help", "usage: train [KEY=VALUE ...]"),
    Row(f"{TWO_STEPS} batch_size=100000", "2 steps of 40 samples"),
    Row(f"{TWO_STEPS} gradient.accumulate=1000000000", "2 steps of 40 samples"),
    Row(f"{QUICK} max_steps=3 max_epochs=2", "2 steps of 40 samples"),  # whichever comes first
    Row(f"{QUICK} max_steps=3 max_epochs=9", "3 steps of 40 samples"),
    Row(f"{TWO_STEPS} precision=bfloat16 device=cpu", "test/loss"),
    Row(f"{TWO_STEPS} precision=float16 device=cpu", "test/loss"),
    Row(f"{TWO_STEPS} 'optimizer.lr=\"${{oc.decode:${{oc.env:RATE}}}}\"'", "lr=0.1234"),
    Row(f"{TWO_STEPS} 'gradient.clip_norm=${{optimizer.lr}}'", "test/loss"),
    Row(f"{QUICK} max_steps=9 max_steps=2", "2 steps of 40 samples"),
    Row(f"{TWO_STEPS} data.augment=null", "test/loss"),
    Row(f"{TWO_STEPS} data.limit=1", "2 steps of 1 samples"),
    Row(f"{NPZ} {OWN}", "test/loss", npz(inputs=np.arange(150).reshape(30, 5))),  # whole ones
    Row(f"{NPZ} {OWN}", "test/loss", npz(inputs=np.zeros((30, 8, 8), np.uint8))),  # pixels, unscaled
    Row(f"{PICS} data.num_workers={CORES + 1} {OWN}", f"\nwarning: data.num_workers={CORES + 1}: ", pictures),
    Row(f"{NPZ} {OWN}", "\nwarning: data=arrays: all 21 training samples are of class 0", npz(targets=CLASSES * 0)),
    Row(f"{NPZ} {OWN}", "\nwarning: data=arrays: the val split ... lacks: 3 (2 samples), 4 (1 samples).", npz(**VAL)),
    # A run that is there
    Row(f"{TWO_STEPS} name=one", "runs/one is finished: 2 steps. To continue, type a larger max_steps=", ran()),
    Row(f"{QUICK} max_steps=1 name=one", "runs/one is finished: 2 steps. To continue, type a larger max_steps=", ran()),
    Row(f"model._target_=mine.Tidy checkpoint.every=1 name=one {OWN}", "test/loss", mine),  # it takes files away
]


@pytest.mark.parametrize("row", FINE, ids=lambda row: row.typed[:70])
def test_what_is_no_mistake_works(
    row: Row,
    type_in: Callable[[str], int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("RATE", "0.1234")
    if row.prepare is not None:
        row.prepare(tmp_path)
    capsys.readouterr()
    code = type_in(row.typed)
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    assert_in_order(row.says, out)


def test_an_error_in_a_class_of_ones_own_names_its_line(
    type_in: Callable[[str], int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """After the first step, so that there is a folder by then."""
    mine(tmp_path)
    line = next(i for i, text in enumerate(MINE.splitlines(), 1) if text.startswith("        return {1:"))
    assert type_in(f"model._target_=mine.Late {OWN}") == 2
    assert capsys.readouterr().err == f"error: KeyError: 2 (mine.py, line {line}): raised by a class of yours.\n"


def test_two_starts_in_the_same_second_are_two_folders(type_in: Callable[[str], int], tmp_path: Path) -> None:
    for _ in range(2):
        assert type_in(f"{QUICK} max_steps=1") == 0
    assert len(list(tmp_path.glob("runs/two_layer-digits/*/result.json"))) == 2


# --- places that are not made for it -------------------------------------------------------------------------------

TRAIN = f'"{sys.executable}" -m trainer'
SHELL = f"{TRAIN} {QUICK} max_steps=3 console.every=1 name=one"
HERE = {key: os.environ[key] for key in ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV") if key in os.environ}
# What a shell is given, with what environment beside HERE; the exit code and stderr.
PLACES: dict[str, tuple[str, dict[str, str], int, str]] = {
    "a reader that goes away": (f"{SHELL} | head -1; exit ${{PIPESTATUS[0]}}", {}, 0, ""),
    "no stdout, no stdin, few files, no home, no temporary folder": (
        f"ulimit -n 64; {SHELL} <&- >&-",
        {"TMPDIR": "/nowhere"},
        0,
        "",
    ),
    "a full stdout": (f"{SHELL} > /dev/full", {"HOME": "/nowhere"}, 0, ""),
    "a full stdout of what only prints": (
        f"{TRAIN} help > /dev/full",
        {},
        2,
        "error: standard output: [Errno 28] No space left on device. Free what is full",
    ),
    "20 columns, ASCII, no colour": (
        SHELL,
        {
            "COLUMNS": "20",
            "LC_ALL": "C",
            "PYTHONUTF8": "0",
            "PYTHONCOERCECLOCALE": "0",
            "NO_COLOR": "1",
            "TERM": "dumb",
        },
        0,
        "",
    ),
    "a folder with an umlaut, ASCII": (
        f"{SHELL.replace('name=one', 'run_dir=ä')} monitor=full > said && "
        f"! grep warning said && {TRAIN} resume=ä max_steps=7 && {TRAIN} show ä | grep '7 steps' && "
        "mkdir runs && mv ä runs/one",
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        0,
        "",
    ),
    "a folder that is gone": (f"mkdir x; cd x; rmdir ../x; {SHELL}", {}, 2, "the folder that you are in: No such"),
    "no TensorBoard": (
        SHELL,
        {"PYTHONPATH": "stub"},
        2,
        "the module tensorboard is missing. Type pip install tensorboard.",
    ),
}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists() or not Path("/proc").exists(), reason="Linux has these")
@pytest.mark.parametrize("place", PLACES)
def test_a_place_that_is_not_made_for_it(place: str, tmp_path: Path) -> None:
    shell, env, code, says = PLACES[place]
    file("stub/tensorboard.py", "raise ModuleNotFoundError('gone', name='tensorboard')")(tmp_path)
    if "PYTHONPATH" in env:
        source = str(Path(cli.__file__).parents[2])
        env = {"PYTHONPATH": os.pathsep.join([str(tmp_path / "stub"), source, *HERE.get("PYTHONPATH", "").split(":")])}
    done = subprocess.run(
        ["bash", "-c", shell],
        cwd=tmp_path,
        env={**HERE, "PYTHONWARNINGS": "error", "OMP_NUM_THREADS": "1", **env},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert done.stderr.count("\n") == (1 if code else 0), done.stderr
    assert (tmp_path / "runs/one/result.json").exists() == (code == 0)
