"""Two processes train one model: the numbers of one, the same files, one end."""

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from ranks import WORDS, ended, free_port, ranks
from trainer.command.main import run_command
from trainer.disk import checkpoint
from trainer.distributed import World, find_world, wait_for
from trainer.errors import Interrupted, UserError
from trainer.signals import Signals


def wait_for_step(process: subprocess.Popen[str], step: int) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(f"step={step} "):
            return
    pytest.fail(f"no step {step}")


def state(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    return checkpoint.read(folder / "checkpoints/last.pt")


LOSSES = """
import torch
from torch import nn


class Near(nn.Module):
    def __init__(self):
        super().__init__()
        self.centres = nn.Parameter(torch.zeros(10, 10))

    def forward(self, outputs, targets):
        return (outputs - self.centres[targets]).square().sum(1).mean()


class Moving(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(10))

    def forward(self, outputs, targets):
        if self.training:
            self.mean.lerp_(outputs.detach().mean(0), 0.1)
        return nn.functional.cross_entropy(outputs - self.mean, targets)


class Spread(nn.Module):  # of a whole split it is another number than the mean of its parts
    def forward(self, outputs, targets):
        return (outputs.mean(0) - nn.functional.one_hot(targets, 10).to(outputs).mean(0)).square().sum() - outputs.std()


def streaks(outputs, targets):
    right = outputs.argmax(1) == targets
    return (right[1:] & right[:-1]).double().mean()


class Furthest:
    def reset(self):
        self.number = 0.0

    def update(self, outputs, targets):
        self.number = max(self.number, outputs.abs().max().item())

    def compute(self):
        return self.number
"""
RECIPES: Mapping[str, tuple[str, ...]] = {
    # 1,258 samples in batches of 150: the ninth and last has 58.
    "augmentation": ("batch_size=150", "data.augment.crop_padding=2", "data.augment.rotation=5"),
    # Whole steps of 3 * 67 samples, the last of 52; shares of 101 and 100 that go through in parts of 34. Each part has
    # other classes, which weigh otherwise, and one of which counts nothing. A term of the loss trains, too.
    "accumulation, unequal classes, a loss that learns": (
        *("batch_size=67", "gradient.accumulate=3", "gradient.clip_norm=0.5", "model=two_layer"),
        *("loss=composite", "trust=[losses]"),
        "loss.terms.cross_entropy.criterion.ignore_index=3",
        "loss.terms.cross_entropy.criterion.weight=[1,2,3,4,5,0.5,1,2,3,9]",
        "+loss.terms.near={weight:0.1,criterion:{_target_:losses.Near}}",
        *("metric.streaks._target_=losses.streaks", "metric.streaks.larger_is_better=true"),
        *("metric.furthest._target_=losses.Furthest", "metric.furthest.larger_is_better=false"),
    ),
    "a plateau, and a penalty": (
        "loss=composite",
        "+loss.terms.l2={weight:0.001,criterion:{_target_:trainer.losses.criteria.L2Penalty}}",
        "scheduler=plateau",
        "scheduler.patience=0",
        "eval_every=4",
        "optimizer.lr=0.05",
    ),
    "numbers": ("data=random_regression", "model=two_layer", "loss=mse", "average.decay=0.9"),  # MAE and R2 of all
}


@pytest.mark.parametrize(
    "recipe", [list(RECIPES)[1], *(pytest.param(list(RECIPES)[i], marks=pytest.mark.long) for i in (0, 2, 3))]
)
def test_two_ranks_are_one_on_the_same_batches(recipe: str, tmp_path: Path, train: Any) -> None:
    words = ("dtype=float64", "max_steps=20", *RECIPES[recipe])
    (tmp_path / "losses.py").write_text(LOSSES)
    two = ended(ranks(tmp_path, *words, "name=two"))
    assert [code for code, _, _ in two] == [0, 0], two
    assert two[1][1:] == ("", ""), "only rank 0 speaks"
    assert ", 2 processes" in two[0][1]
    one = train(*WORDS, *words, "name=one")
    result = json.loads((tmp_path / "runs/two/result.json").read_text())
    numbers = {k: v for k, v in one.items() if isinstance(v, float) and not k.startswith(("time/", "seconds"))}
    assert {k: result[k] for k in numbers} == pytest.approx(numbers, rel=1e-9)
    for part in ("model", "loss"):
        found = (state(tmp_path / "runs" / name)[part] for name in ("two", "one"))
        torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_a_signal_to_one_rank_stops_both_at_the_same_step_and_they_go_on_exactly(tmp_path: Path) -> None:
    """Dropout draws differ from rank to rank; each goes on with its own. What a loss keeps is that of the first."""
    (tmp_path / "losses.py").write_text(LOSSES)
    words = ("model=sequential", "loss._target_=losses.Moving", "trust=[losses]", "checkpoint.every=10", "monitor=off")
    processes = ranks(tmp_path, *words, "max_steps=100000", "name=two")
    wait_for_step(processes[0], 25)
    processes[1].send_signal(signal.SIGTERM)
    both = ended(processes)
    assert [code for code, _, _ in both] == [143, 143], both
    how = re.escape("torchrun --nproc-per-node=2 -m trainer resume=runs/two 'trust=[losses]'")
    said = re.fullmatch(rf"stopped after step (\d+) and saved. To continue: {how}\n", both[0][2])
    assert said is not None
    assert both[1][2] == ""
    stopped = checkpoint.read(tmp_path / "runs/two/checkpoints/last.pt")
    assert stopped["step"] == int(said[1])
    assert not torch.equal(stopped["random"][0]["cpu"], stopped["random"][1]["cpu"])
    goal = f"max_steps={stopped['step'] + 15}"
    assert [code for code, _, _ in ended(ranks(tmp_path, *words, goal, "name=two"))] == [0, 0]
    assert [code for code, _, _ in ended(ranks(tmp_path, *words, goal, "name=straight"))] == [0, 0]
    found = (state(tmp_path / "runs" / name)["model"] for name in ("two", "straight"))
    torch.testing.assert_close(*found, rtol=0, atol=0)
    alone = subprocess.run(
        [sys.executable, "-m", "trainer", *WORDS, *words, "max_steps=99999", "name=two"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert alone.returncode == 2
    assert "it was trained by 2 processes, not 1" in alone.stderr


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_where_one_dies_the_other_ends(rank: int, tmp_path: Path) -> None:
    processes = ranks(tmp_path, "max_steps=100000", "model=two_layer", "name=two", "monitor=off")
    wait_for_step(processes[0], 20)
    processes[rank].kill()
    other = ended(processes, seconds=30)[1 - rank]
    assert other[0] == 2, other
    assert other[2] == f"error: rank {1 - rank}: another process of this training has ended.\n"


@pytest.mark.slow
def test_workers_die_with_their_agent(tmp_path: Path) -> None:
    """By `kill -9` of torchrun, which can end nobody any more; and the run goes on from its last checkpoint."""
    words = ["monitor=off", "console.every=1", "checkpoint.every=5", "max_steps=100000", "name=two", "device=cpu"]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "trainer", *words]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as agent:
        wait_for_step(agent, 12)
        workers = [
            int(path.parent.name)
            for path in Path("/proc").glob("[0-9]*/stat")
            if path.read_text().rpartition(")")[2].split()[1] == str(agent.pid)
        ]
        assert len(workers) == 2
        agent.kill()
        agent.wait()
        end = time.monotonic() + 5
        while any(map(is_alive, workers)):
            assert time.monotonic() < end, "a worker lives on"
            time.sleep(0.05)
    assert checkpoint.read(tmp_path / "runs/two/checkpoints/last.pt")["step"] >= 10


MORTAL = """
import os
from pathlib import Path
from trainer.models.two_layer import TwoLayer

class Net(TwoLayer):
    num_steps = 0

    def forward(self, inputs):
        self.num_steps += self.training
        if self.num_steps == 8 and os.environ["RANK"] == "1" and not Path("died").exists():
            Path("died").touch()
            os.kill(os.getpid(), 9)
        return super().forward(inputs)
"""


@pytest.mark.slow
def test_torchrun_starts_them_again_and_they_go_on_exactly(tmp_path: Path, train: Any) -> None:
    """Without --standalone it keeps the addresses of those that have ended."""
    (tmp_path / "mortal.py").write_text(MORTAL)
    words = ["monitor=off", "checkpoint.every=5", "max_steps=12", "device=cpu"]
    mortal = ["model=two_layer", "model._target_=mortal.Net", "trust=[mortal]", "name=two"]
    how = ["--nproc-per-node=2", "--max-restarts=1", f"--master-port={free_port()}", "-m", "trainer"]
    command = [sys.executable, "-m", "torch.distributed.run", *how, *words, *mortal]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "12 steps of 64 samples, from step 5, in runs/two" in done.stdout
    alone = train("model=two_layer", *words, "name=alone")
    two = json.loads((tmp_path / "runs/two/result.json").read_text())
    assert two["val/loss"] == pytest.approx(alone["val/loss"], rel=1e-4)


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_what_the_ranks_do_not_agree_on_is_said_once_and_nothing_is_written(tmp_path: Path) -> None:
    both = ended(ranks(tmp_path, "max_steps=5", differing=("optimizer.lr=0.5",)))
    assert [code for code, _, _ in both] == [2, 2]
    assert both[0][2] == (
        "error: optimizer.lr=0.5: on rank 1, but optimizer.lr=0.002 on rank 0. "
        "Start all processes with the same command.\n"
    )
    assert both[1][2] == ""
    assert list(tmp_path.iterdir()) == []


OWN = """
import numpy, torch
from torch.utils.data import Dataset, Subset
from trainer import Data, Samples

inputs = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
targets = (inputs[:, 0] > 0).long()


class Rows(Dataset):
    def __init__(self, noise=False):
        self.noise = noise

    def __len__(self):
        return 200

    def __getitem__(self, i):
        noise = torch.from_numpy(numpy.random.default_rng().normal(size=4)) if self.noise else 0
        return inputs[i] + noise, targets[i]


def tensors(draw):
    order = draw.permutation(200)
    parts = (Samples(inputs[o], targets[o]) for o in numpy.split(order, [100, 150]))
    return Data(*parts, description="rows", num_classes=2)


def unseeded():
    return tensors(numpy.random.default_rng())


def seeded():
    return tensors(numpy.random)


def of_items():
    order = numpy.random.default_rng().permutation(200).tolist()
    return tuple(Subset(Rows(), part) for part in (order[:100], order[100:150], order[150:]))


def noisy():
    return tuple(Subset(Rows(noise=True), part) for part in (range(100), range(100, 150), range(150, 200)))
"""


@pytest.mark.slow
@pytest.mark.parametrize("split", ["unseeded", "of_items", "seeded", "noisy"])
def test_ranks_that_split_the_data_otherwise_are_refused(split: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    words = (f"data._target_=mine.{split}", "trust=[mine]", "model=two_layer", "max_steps=2", "batch_size=20")
    both = ended(ranks(tmp_path, *words))
    if split in ("seeded", "noisy"):
        assert [code for code, _, _ in both] == [0, 0], both[0][2]
        return
    assert [code for code, _, _ in both] == [2, 2]
    line = f"error: data={split}: the train split of rank 1 is not that of rank 0. Have every process build the same: "
    assert both[0][2].startswith(line)
    assert both[1][2] == ""
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_batches_that_leave_a_rank_without_a_sample_are_refused(tmp_path: Path) -> None:
    both = ended(ranks(tmp_path, "batch_size=3"))  # 1,258 = 419 * 3 + 1
    assert [code for code, _, _ in both] == [2, 2]
    line = "error: batch_size=3: 1258 samples end with a batch of 1, too few for 2 processes. Try batch_size=4,"
    assert both[0][2].startswith(line)
    assert 1258 % 4 >= 2  # what it says works
    both = ended(ranks(tmp_path, "overfit=1"))
    assert both[0][2].startswith("error: overfit=1: the samples of training are 1, and the processes 2. Start it with ")
    both = ended(ranks(tmp_path, "overfit=2", "model=two_layer", "max_steps=40", "optimizer.lr=0.02"))
    assert [code for code, _, _ in both] == [0, 0], both[0][2]


TORCHRUN = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


def test_the_world_is_what_torchrun_says() -> None:
    assert find_world({}) == World(0, 1, 0)
    assert find_world(TORCHRUN) == World(1, 2, 1)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"MASTER_ADDR": None}, "MASTER_ADDR: is not set, though"),
        ({"WORLD_SIZE": None}, "WORLD_SIZE: is not set, though"),
        ({"RANK": "2"}, "RANK=2: must be below WORLD_SIZE=2"),
        ({"LOCAL_RANK": "7"}, "LOCAL_RANK=7: must be below WORLD_SIZE=2"),
        ({"RANK": "-1"}, "RANK=-1: must be a whole number >= 0"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE=two: must be a whole number"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE=0: must be at least 1"),
        ({"MASTER_PORT": ""}, "MASTER_PORT=: must be a whole number"),
    ],
)
def test_an_environment_that_makes_no_sense_is_one_line(changes: dict[str, str | None], line: str) -> None:
    environment = {name: value for name, value in {**TORCHRUN, **changes}.items() if value is not None}
    with pytest.raises(UserError, match=f"^{re.escape(line)}.*torchrun --nproc-per-node"):
        find_world(environment)


def test_a_signal_is_heard_while_the_others_are_waited_for() -> None:
    """In C++, as torch's store does it: no code of Python's runs there."""
    store = torch.distributed.TCPStore("127.0.0.1", free_port(), 2, True, wait_for_workers=False)

    def alone() -> None:
        with Signals().listening():
            threading.Timer(0.1, signal.raise_signal, (signal.SIGTERM,)).start()
            wait_for(lambda: store.wait(["nobody"], timedelta(seconds=0.6)), World(1, 2, 1))

    with pytest.raises(Interrupted, match=r"^rank 1: stopped while it waited for the others\.$") as stopped:
        alone()
    assert stopped.value.exit_code == 143
    (thread,) = (thread for thread in threading.enumerate() if thread.name == "meeting")  # it still waits
    thread.join()  # or it ends with the tests' process, in the midst of C++
    with pytest.raises(ZeroDivisionError):
        wait_for(lambda: 1 // 0, World(1, 2, 1))


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_was_started_alone_ends_at_a_signal(rank: int, tmp_path: Path) -> None:
    alone = ranks(tmp_path, "dry_run=true")[:: 1 if rank == 0 else -1]
    alone[1].kill()
    time.sleep(15)
    alone[0].terminate()
    (code, out, err), _ = ended(alone, 3)
    assert (code, out, err) == (143, "", f"rank {rank}: stopped while it waited for the others.\n")


def test_a_sweep_is_one_process(train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would start all jobs, in the same folders."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    for word, *more in (("--multirun", "seed=0,1"), ("find-lr",)):
        with pytest.raises(
            UserError, match=rf"^{word}: is one process, which starts its jobs\. Type it without torchrun"
        ):
            train(word, *more)


@pytest.mark.parametrize("verb", ["evaluate", "predict", "export", "pack", "reproduce", "replay", "explain", "remedy"])
def test_a_verb_that_computes_is_one_process(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them would compute all of it, into the same files."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=rf"^{verb}: is one process\. Type train {verb} without torchrun"):
        run_command([verb, "runs/two"])


@pytest.mark.slow
def test_a_loss_of_all_samples_is_validated_over_the_whole_split(tmp_path: Path, train: Any) -> None:
    """As by one process, and as the test is: not as the mean of the ranks' shares. No step is made before it."""
    (tmp_path / "losses.py").write_text(LOSSES)
    words = ("dtype=float64", "model=two_layer", "loss._target_=losses.Spread", "trust=[losses]", "optimizer=sgd")
    words = (*words, "optimizer.lr=1e-12", "max_steps=2")
    two = ended(ranks(tmp_path, *words, "name=two"))
    assert [code for code, _, _ in two] == [0, 0], two
    one = train(*WORDS, *words, "name=one")
    result = json.loads((tmp_path / "runs/two/result.json").read_text())
    assert result["val/loss"] == pytest.approx(one["val/loss"], rel=1e-9)
    assert result["test/loss"] == pytest.approx(one["test/loss"], rel=1e-9)


@pytest.mark.slow
def test_a_pack_is_unpacked_by_the_first_of_the_ranks(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    words = ("model=two_layer", "monitor=off", "device=cpu")
    assert [code for code, _, _ in ended(ranks(tmp_path, *words, "max_steps=6", "name=two"))] == [0, 0]
    subprocess.run([sys.executable, "-m", "trainer", "pack", "two", "out=q.zip"], cwd=tmp_path, check=True)
    both = ended(ranks(tmp_path, "resume=q.zip", "max_steps=12"))
    assert [code for code, _, _ in both] == [0, 0], both
    assert "from step 6, in runs/q" in both[0][1]
    assert [code for code, _, _ in ended(ranks(tmp_path, *words, "max_steps=12", "name=two"))] == [0, 0]
    found = (state(tmp_path / "runs" / name)["model"] for name in ("q", "two"))
    torch.testing.assert_close(*found, rtol=0, atol=0)
