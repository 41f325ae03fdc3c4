"""The features of a frozen backbone, computed once: the numbers and files of a run that always computes them."""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.amp import GradScaler

from exact import assert_same, states
from ranks import ended, ranks
from trainer.computation import Work
from trainer.data.batches import ResidentBatches
from trainer.disk.cache import Cache, num_bytes
from trainer.errors import UserError
from trainer.fast.features import Features
from trainer.fast.folding import folded, laid_in_blocks
from trainer.losses.function import LossFunction
from trainer.meaning import Classes
from trainer.models.finetune import Finetune
from trainer.models.resnet import ResNet, resnet18
from trainer.optim.manual_sgd import ManualSGD
from trainer.optim.schedulers import Schedule
from trainer.state import Store, TrainingState

Train = Callable[..., dict[str, Any]]

MODEL = ("model=frozen_resnet", "model.backbone.weights=null")
# 40 samples of each split in batches of 16: three steps an epoch, the last one of 8 samples. torch's SGD is our SGD.
WORDS = (*MODEL, "data.limit=40", "batch_size=16", "max_steps=12", "optimizer=sgd", "eval_every=4", "monitor.every=2")
ONCE, FOUND = "computed once for each of 40 samples", "found in "


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = torch.randint(256, (8, 8, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save(path)


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where features are kept, of this test alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/train/features"


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of the batches that have gone through a backbone."""
    forward, seen = ResNet.forward, []

    def counted(self: ResNet, inputs: Tensor) -> Tensor:
        seen.append(len(inputs))
        return forward(self, inputs)

    monkeypatch.setattr(ResNet, "forward", counted)
    return seen


def metrics(name: str) -> list[dict[str, float]]:
    """What a run has logged, but for the times."""
    lines = [json.loads(line) for line in Path("runs", name, "metrics.jsonl").read_text().splitlines()]
    return [{tag: x for tag, x in line.items() if not tag.startswith("time/")} for line in lines]


def events(name: str) -> dict[str, list[Any]]:
    """Kind and tag to what the event file has there, but for times, and texts, which name the run."""
    read = EventAccumulator(str(Path("runs", name)), size_guidance={"scalars": 0, "images": 0, "histograms": 0})
    read.Reload()
    tags = read.Tags()
    ask = {"scalars": read.Scalars, "images": read.Images, "histograms": read.Histograms, "tensors": read.Tensors}
    found = {
        f"{kind}/{tag}": [replace(event, wall_time=0) for event in ask[kind](tag)]
        for kind in ask
        for tag in tags[kind]
        if not tag.startswith(("watch_time/", "about/"))
    }
    return found | {"graph": [read.Graph()]}


def assert_same_runs(one: str, other: str, step: int = 12) -> None:
    assert metrics(one) == metrics(other)
    a, b = (states(f"runs/{name}", step) for name in (one, other))
    for state in (a, b):  # torch's optimizers have options of their own
        state["optimizer"] = state["optimizer"]["state"]
    assert_same(a, b)


class TestSameAsRecomputed:
    @pytest.mark.slow
    @pytest.mark.parametrize(
        "words",
        [
            ("dtype=float32", "optimizer.momentum=0.9"),
            ("dtype=float64", "scheduler=cosine"),
            ("batch_size=full", "loss=mse"),
            ("gradient.accumulate=2", "gradient.clip_norm=0.1", "batch_size=7"),
            ("model.image_size=16", "data.normalize=false", "data.split_seed=1"),
        ],
    )
    def test_bit_for_bit(self, words: tuple[str, ...], train: Train, sizes: list[int]) -> None:
        once = train(*WORDS, *words, "name=once", "monitor=off", "checkpoint.every=5")
        num_once = sum(sizes)
        sizes.clear()
        always = train(*WORDS, *words, "name=always", "monitor=off", "checkpoint.every=5", "fast=false")
        assert_same_runs("once", "always")
        assert_same(once, always)
        assert num_once < 3 * 40 + 20 < sum(sizes)

    @pytest.mark.slow
    def test_all_that_is_shown_and_written(self, train: Train) -> None:
        train(*WORDS, "name=once")
        train(*WORDS, "name=always", "fast=false")
        once, always = events("once"), events("always")
        assert once.keys() == always.keys() >= {"images/watch_images/wrong", "images/watch_images/first_batch", "graph"}
        assert once == always
        files = [
            {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file() and ".pt" not in path.name}
            for folder in (Path("runs/once"), Path("runs/always"))
        ]
        names = [{name for name in found if not name.name.startswith("events")} for found in files]
        assert names[0] == names[1]
        for name in names[0]:
            if name.parts[0] == "projector":
                assert files[0][name].read_bytes() == files[1][name].read_bytes()

    @pytest.mark.slow
    def test_images_on_disk(self, train: Train, sources: dict[str, tuple[str, ...]], sizes: list[int]) -> None:
        words = (*MODEL, "data=image_folder", *sources["image_folder"], "batch_size=5", "max_steps=9", "optimizer=sgd")
        train(*words, "name=once")
        train(*words, "name=always", "fast=false")
        assert_same_runs("once", "always", 9)
        assert events("once") == events("always")
        sizes.clear()
        train(*words, "name=again")
        assert max(sizes) <= 3  # all but the looks at two or three samples

    @pytest.mark.slow
    @pytest.mark.parametrize("second", ["fast=true", "fast=false"])
    def test_going_on_the_other_way(self, second: str, train: Train) -> None:
        first = "fast=false" if second == "fast=true" else "fast=true"
        words = (*WORDS, "monitor=off", "name=broken")
        train(*WORDS, "monitor=off", "name=unbroken")
        train(*words, first, "max_steps=4")
        train(*words, second, "max_steps=12")
        assert_same_runs("unbroken", "broken")

    @pytest.mark.slow
    @pytest.mark.parametrize("is_imitated", [True, False])
    def test_bfloat16_differs_by_its_rounding(
        self, is_imitated: bool, train: Train, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("trainer.fast.features.imitates_half", lambda: is_imitated)
        words = (*WORDS, "precision=bfloat16", "model.image_size=32", "monitor=off")
        train(*words, "name=once")
        train(*words, "name=always", "fast=false")
        for a, b in zip(metrics("once"), metrics("always"), strict=True):
            losses = [tag for tag in a if tag.endswith("/loss")]
            assert [a[tag] for tag in losses] == pytest.approx([b[tag] for tag in losses], rel=0.02)

    @pytest.mark.slow
    def test_of_two_processes_each_computes_its_share(self, tmp_path: Path, train: Train, kept: Path) -> None:
        words = (*WORDS, "dtype=float64", "monitor=off")
        two = ended(ranks(tmp_path, *words, "name=two"))
        assert [code for code, _, _ in two] == [0, 0], two
        assert ONCE in two[0][1]
        assert len(list(kept.glob("*.pt"))) == 2  # the test is rank 0's alone
        train(*words, "fast=false", "name=one")
        for a, b in zip(metrics("two"), metrics("one"), strict=True):
            assert a == pytest.approx(b, rel=1e-9)


class TestOnlyWhereItIsTheSame:
    @pytest.mark.slow
    @pytest.mark.parametrize(
        "words",
        [
            ("fast=false",),
            ("data.augment.horizontal_flip=true",),
            ("model.unfreeze=[layer4]",),
            ("monitor.activations=true",),
            ("max_steps=3",),  # one epoch: to compute ahead gains nothing
        ],
    )
    def test_else_the_backbone_runs_at_every_step(
        self, words: tuple[str, ...], train: Train, kept: Path, sizes: list[int]
    ) -> None:
        steps = train(*WORDS, *words)["steps"]
        assert not kept.exists()
        # The last batch of an epoch has 8 samples, and no other has: once for each epoch.
        assert sizes.count(8) == steps // 3

    @pytest.mark.slow
    def test_one_epoch_takes_what_is_there(self, train: Train, sizes: list[int]) -> None:
        train(*WORDS)
        sizes.clear()
        train(*WORDS, "max_steps=3")
        assert max(sizes) == 2

    @pytest.mark.parametrize(
        "layer", [nn.Dropout(0.5), nn.BatchNorm1d(6, track_running_stats=False)], ids=["draws", "mixes samples"]
    )
    def test_a_backbone_that_gives_no_constants_is_told_of(self, layer: nn.Module, tmp_path: Path) -> None:
        layer.eval = lambda: layer  # type: ignore[method-assign, assignment]  # as a user's own module might
        layer.train = lambda mode=True: layer  # type: ignore[method-assign, assignment]
        notes: list[str] = []
        features = features_of(nn.Sequential(nn.Linear(4, 6), layer, nn.Linear(6, 3)), tmp_path, notes.append)
        assert features.feed(is_worth=True) is None
        assert notes[-1] == "the frozen backbone runs at every step: what it gives for a sample is no constant."

    def test_a_stop_that_is_asked_for_ends_the_computing(self, tmp_path: Path) -> None:
        asked = iter([False] * 3 + [True] * 100)
        features = features_of(
            nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3)), tmp_path, is_stop_requested=lambda: next(asked)
        )
        assert features.feed(is_worth=True) is None
        assert list(tmp_path.glob("*.lock")) == []

    def test_features_that_take_too_much_memory_are_told_of(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("trainer.fast.features.RESIDENT_BYTES", 3 * 9 * 6 * 4 - 1)
        notes: list[str] = []
        features = features_of(nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3)), tmp_path, notes.append)
        assert features.feed(is_worth=True) is None
        assert notes == ["the frozen backbone runs at every step: all its features would take 648 bytes."]


def features_of(
    network: nn.Module,
    folder: Path,
    note: Callable[[str], None] = print,
    is_stop_requested: Callable[[], bool] = lambda: False,
) -> Features:
    """Of nine samples of four numbers in each split."""
    torch.manual_seed(0)
    train, val, test = (ResidentBatches(torch.randn(9, 4), torch.arange(9) % 3) for _ in range(3))
    model = Finetune(network, 3)
    store, scaler = Store(model), GradScaler("cpu", enabled=False)
    work = Work(
        state=TrainingState(model, store, ManualSGD([store.flat]), Schedule(None), scaler),
        loss_fn=LossFunction(nn.CrossEntropyLoss(), model, Classes(3), {}),
        train=train,
        val=val,
        test=test,
        sample=lambda: next(next(val.in_order()).parts(2)),
        device=torch.device("cpu"),
        precision=nullcontext,
        precision_name="float32",
        batch_size=9,
        samples_per_step=9,
        steps_per_epoch=1,
        max_steps=1,
        is_ours=False,
    )
    return Features(work, Cache(folder, 10**9, note), note, is_stop_requested)


class TestOnDisk:
    @pytest.mark.slow
    def test_a_second_process_computes_nothing(
        self, command: Callable[..., subprocess.CompletedProcess[str]], train: Train, sizes: list[int], kept: Path
    ) -> None:
        done = command(*WORDS, "name=first", "monitor=off", env={"PYTHONHASHSEED": "1"})
        assert ONCE in done.stdout, done.stderr
        assert len(list(kept.glob("*.pt"))) == 3
        train(*WORDS, "name=second", "monitor=off", "optimizer.lr=0.5", "batch_size=20")
        assert max(sizes) == 2
        train(*WORDS, "name=third", "monitor=off")
        assert_same_runs("first", "third")

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "word",
        [
            "seed=1",  # other random weights of the backbone
            "data.normalize=false",
            "model.image_size=12",
            "dtype=float64",
            "precision=bfloat16",
            "model.backbone._target_=trainer.models.resnet.resnet34",
        ],
    )
    def test_all_that_makes_features_what_they_are_makes_their_name(self, word: str, train: Train, kept: Path) -> None:
        train(*WORDS, "monitor=off")
        before = set(kept.glob("*.pt"))
        train(*WORDS, "monitor=off", word)
        assert len(set(kept.glob("*.pt")) - before) == 3

    @pytest.mark.slow
    def test_other_samples_have_another_name(self, train: Train, kept: Path) -> None:
        train(*WORDS, "monitor=off", "data.limit=39", "batch_size=13")
        train(*WORDS, "monitor=off")
        assert len(list(kept.glob("*.pt"))) == 6

    def test_running_statistics_and_settings_have_a_part_in_the_name(self, tmp_path: Path) -> None:
        def key(change: Callable[[nn.Module], object]) -> str:
            torch.manual_seed(1)
            backbone = resnet18()
            change(backbone)
            return features_of(backbone, tmp_path).backbone_key

        same = key(lambda backbone: None)
        assert key(lambda backbone: backbone.train()) == same
        others = {
            key(lambda backbone: backbone.bn1.running_mean.add_(1)),  # type: ignore[union-attr, operator]
            key(lambda backbone: setattr(backbone.layer1[0].conv1, "stride", (2, 2))),  # type: ignore[index]
            key(lambda backbone: setattr(backbone.bn1, "eps", 1e-3)),
            key(lambda backbone: setattr(backbone, "bn1", nn.InstanceNorm2d(64))),
        }
        assert len(others - {same}) == 4

    def test_a_file_that_was_touched_is_another(
        self, train: Train, kept: Path, tmp_path: Path, sources: dict[str, tuple[str, ...]]
    ) -> None:
        words = (*MODEL, "data=image_folder", *sources["image_folder"], "batch_size=5", "max_steps=9", "monitor=off")
        train(*words)
        before = set(kept.glob("*.pt"))
        root = Path(next(word for word in words if word.startswith("data.root=")).partition("=")[2])
        for path in root.rglob("*.png"):
            os.utime(path, ns=(1, 1))
        train(*words)
        assert len(set(kept.glob("*.pt")) - before) == 3

    @pytest.mark.parametrize(
        ("split", "normalize"),
        [
            pytest.param("train", "false", marks=pytest.mark.slow),
            pytest.param("test", "true", marks=pytest.mark.long),
        ],
    )
    def test_a_picture_that_was_replaced_by_one_of_its_size_and_time_is_another(
        self,
        split: str,
        normalize: str,
        train: Train,
        kept: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        for part, name, i in itertools.product(("train", "test"), ("cat", "dog"), range(10)):
            picture(tmp_path / "pictures" / part / name / f"{i}.bmp", i)
        words = (*MODEL, "data=image_folder", f"data.root={tmp_path}/pictures", f"data.normalize={normalize}")
        words = (*words, "model.image_size=8", "batch_size=5", "max_steps=9", "monitor=off")
        train(*words, "name=first")
        before = set(kept.glob("*.pt"))
        path = tmp_path / "pictures" / split / "cat/0.bmp"
        stat = path.stat()
        picture(path, 77)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert path.stat().st_size == stat.st_size
        if split == "train":
            with pytest.raises(UserError, match=r"runs/first: the checkpoint does not fit: the train split has"):
                train(*words, "name=first", "max_steps=12")
        else:
            train(*words, "name=first", "max_steps=12")
            assert "warning: files of the test split are others than the run began with" in capsys.readouterr().out
        new = train(*words, "name=again")
        assert set(kept.glob("*.pt")) - before
        assert new["test/loss"] == train(*words, "name=slow", "fast=false")["test/loss"]

    @pytest.mark.slow
    def test_features_of_other_samples_under_a_right_name_are_computed_again(self, train: Train, kept: Path) -> None:
        """As a clock that was set back, or a file system without times, would leave them."""
        first = train(*WORDS, "monitor=off", "name=first")
        for path in kept.glob("*.pt"):
            features = torch.load(path, weights_only=True)["features"]
            Cache(kept, 10**9, print).write(path.stem, features.flip(0))
        assert train(*WORDS, "monitor=off", "name=again")["test/loss"] == first["test/loss"]
        assert_same_runs("first", "again")

    def test_the_users_own_code_is_not_trusted_to_be_the_same_tomorrow(self, tmp_path: Path) -> None:
        class Own(nn.Linear):
            pass

        own = features_of(nn.Sequential(Own(4, 6), nn.Linear(6, 3)), tmp_path)
        known = features_of(nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3)), tmp_path)
        for features, num_files in ((own, 0), (known, 2)):
            assert features.feed(is_worth=True) is not None
            assert len(list(tmp_path.glob("*.pt"))) == num_files

    @pytest.mark.slow
    @pytest.mark.parametrize("damage", ["flip", "cut", "empty", "pickle", "no tensor"])
    def test_a_damaged_file_is_computed_again(
        self, damage: str, train: Train, kept: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        train(*WORDS, "monitor=off", "name=first")
        paths = sorted(kept.glob("*.pt"))
        whole = {path: path.read_bytes() for path in paths}
        for path, content in whole.items():
            middle = len(content) // 2
            flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
            path.write_bytes({"flip": flipped, "cut": content[:middle], "pickle": b"cos\nsystem\n."}.get(damage, b""))
            if damage == "no tensor":
                torch.save({"a": 1}, path)
        capsys.readouterr()
        train(*WORDS, "monitor=off", "name=second")
        warnings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
        assert len(warnings) == 3
        assert {path for path in paths for line in warnings if str(path) in line} == set(paths)
        assert {path: path.read_bytes() for path in sorted(kept.glob("*.pt"))} == whole
        assert_same_runs("first", "second")

    def test_a_folder_that_cannot_be_written_ends_nothing(
        self, train: Train, kept: Path, capsys: pytest.CaptureFixture[str], sizes: list[int]
    ) -> None:
        kept.parent.mkdir(parents=True)
        kept.touch()
        train(*WORDS, "monitor=off")
        assert "can't be written (" in capsys.readouterr().out
        assert sum(sizes) < 3 * 40 + 20

    def test_zero_keeps_nothing(self, train: Train, kept: Path, sizes: list[int]) -> None:
        train(*WORDS, "monitor=off", "cache_limit=0")
        assert not kept.exists()
        assert sum(sizes) < 3 * 40 + 20


class TestCache:
    @pytest.mark.parametrize(
        ("text", "size"),
        [(0, 0), (1000, 1000), (2e3, 2000), ("5kB", 5000), ("1.5 GB", 1_500_000_000), ("2TB", 2 * 10**12)],
    )
    def test_sizes(self, text: object, size: int) -> None:
        assert num_bytes(text) == size

    def test_what_was_not_read_for_longest_goes_first(self, tmp_path: Path) -> None:
        cache = Cache(tmp_path, 20_000, pytest.fail)
        for i, key in enumerate("abc"):
            cache.write(key, torch.full((1000,), float(i)))  # 4,000 bytes and about 1,200 around them
            os.utime(tmp_path / f"{key}.pt", ns=(i + 1, i + 1))
        assert cache.read("a") is not None  # is now the youngest
        cache.write("d", torch.zeros(1000))
        assert {path.stem for path in tmp_path.glob("*.pt")} == {"a", "c", "d"}
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 20_000

    def test_what_is_larger_than_the_limit_is_not_kept_and_removes_nothing(self, tmp_path: Path) -> None:
        cache = Cache(tmp_path, 20_000, pytest.fail)
        cache.write("a", torch.zeros(10))
        cache.write("b", torch.zeros(10_000))
        assert [path.stem for path in tmp_path.iterdir()] == ["a"]

    def test_what_a_killed_process_left_is_removed_in_time(self, tmp_path: Path) -> None:
        for name, age in ((".young.pt.tmp", 0), (".old.pt.tmp", 100_000)):
            (tmp_path / name).touch()
            os.utime(tmp_path / name, times=None if not age else (age, age))
        Cache(tmp_path, 20_000, pytest.fail).write("a", torch.zeros(10))
        assert {path.name for path in tmp_path.iterdir()} == {"a.pt", ".young.pt.tmp"}

    def test_waits_for_who_computes_the_same(self, tmp_path: Path) -> None:
        code = (
            "import pathlib, sys\nfrom trainer.disk.lock import locked\n"
            "with locked(pathlib.Path('.'), 'k.lock'):\n    print('held', flush=True)\n    sys.stdin.read()\n"
        )
        notes: list[str] = []
        cache = Cache(tmp_path, 1000, notes.append)
        with subprocess.Popen(
            [sys.executable, "-c", code], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as other:
            assert other.stdout is not None
            assert other.stdin is not None
            other.stdout.readline()
            times = itertools.count()

            def asked() -> bool:
                if next(times) == 2:  # it has waited twice
                    other.stdin.close()  # type: ignore[union-attr]
                return False

            with cache.computing("another", lambda: False):
                pass
            assert notes == []
            with cache.computing("k", asked):
                assert next(times) > 2
        assert notes == [f"waiting for process {other.pid} on {os.uname().nodename}, which computes the same features."]


class TestSweep:
    SWEEP = ("--multirun", *WORDS, "monitor=off", "optimizer.lr=0.1,0.05,0.01,0.001", "name=s")

    def logs(self, folder: Path) -> list[str]:
        return [path.read_text() for path in sorted((folder / "runs/s").glob("*/log.txt"))]

    @pytest.mark.slow
    def test_of_processes(
        self, tmp_path: Path, command: Callable[..., subprocess.CompletedProcess[str]], train: Train
    ) -> None:
        done = command(*self.SWEEP, "sweep.jobs=2", "sweep.stack=never")
        assert done.returncode == 0, done.stderr
        logs = self.logs(tmp_path)
        assert [sum(word in log for log in logs) for word in (ONCE, FOUND)] == [1, 3]
        train(*WORDS, "monitor=off", "optimizer.lr=0.05", "fast=false", "name=alone")
        assert_same_runs("alone", "s/lr=0.05")

    @pytest.mark.slow
    def test_of_runs_in_a_stack(
        self, tmp_path: Path, command: Callable[..., subprocess.CompletedProcess[str]], train: Train
    ) -> None:
        done = command(*self.SWEEP, "sweep.stack=always", "dtype=float64", "sweep.verify=1")
        assert done.returncode == 0, done.stderr
        logs = self.logs(tmp_path)
        assert [sum(word in log for log in logs) for word in (ONCE, FOUND)] == [1, 0]
        train(*WORDS, "dtype=float64", "monitor=off", "optimizer.lr=0.05", "fast=false", "name=alone")
        for a, b in zip(metrics("alone"), metrics("s/lr=0.05"), strict=True):
            assert a == pytest.approx(b, rel=1e-12)

    @pytest.mark.long
    def test_a_stack_of_different_backbones_has_each_compute_its_own(
        self, tmp_path: Path, command: Callable[..., subprocess.CompletedProcess[str]], train: Train, kept: Path
    ) -> None:
        words = ("--multirun", *WORDS, "monitor=off", "dtype=float64", "seed=0,1,2,3", "name=s", "max_steps=6")
        done = command(*words, "sweep.stack=always")
        assert done.returncode == 0, done.stderr
        train(*WORDS, "monitor=off", "dtype=float64", "seed=2", "fast=false", "max_steps=6", "name=alone")
        for a, b in zip(metrics("alone"), metrics("s/seed=2"), strict=True):
            assert a == pytest.approx(b, rel=1e-9)


class TestFolding:
    def test_is_the_same_network_without_batch_norms(self) -> None:
        torch.manual_seed(0)
        network = resnet18().double()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight)
                nn.init.normal_(module.bias)
                module.running_mean.normal_()  # type: ignore[union-attr, operator]
                module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr, operator]
        network.eval()
        quick, inputs = folded(network), torch.randn(3, 3, 40, 40, dtype=torch.float64)
        with torch.no_grad():
            torch.testing.assert_close(quick(inputs), network(inputs), rtol=1e-9, atol=1e-9)
        assert not any(isinstance(module, nn.BatchNorm2d) for module in quick.modules())
        assert any(isinstance(module, nn.BatchNorm2d) for module in network.modules())

    def test_a_convolution_that_is_needed_twice_stays(self) -> None:
        class Twice(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv, self.norm, self.other = nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1), nn.BatchNorm2d(1)
                self.other.running_mean += 3  # type: ignore[operator]

            def forward(self, x: Tensor) -> Tensor:
                maps = self.conv(x)
                return self.norm(maps) + maps + self.other(self.conv(x))

        torch.manual_seed(0)
        network, inputs = Twice().eval(), torch.randn(2, 1, 3, 3)
        with torch.no_grad():
            torch.testing.assert_close(folded(network)(inputs), network(inputs))


class Mixed(nn.Module):
    """What oneDNN's layout has and has not, in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.second, self.relu = nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.ReLU(inplace=True)
        self.pool, self.average = nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.relu(self.norm(self.first(x)))
        maps = self.pool(self.second(maps) + maps)
        maps = torch.relu(self.second(torch.sigmoid(maps))) + maps.mean((2, 3), keepdim=True)
        return self.average(maps).flatten(1)


@pytest.mark.parametrize("make", [Mixed, resnet18])
def test_in_blocks_it_is_the_same_network(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    network, inputs = make().eval(), torch.randn(3, 3, 40, 40)
    quick = laid_in_blocks(folded(network))
    with torch.no_grad():
        torch.testing.assert_close(quick(inputs), network(inputs), rtol=1e-4, atol=1e-4)
    assert all(module.weight.is_mkldnn for module in quick.modules() if isinstance(module, nn.Conv2d))
    assert not any(parameter.is_mkldnn for parameter in network.parameters())


@pytest.mark.slow
def test_no_compiler_is_imported(command: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    code = "import sys; from trainer.command.main import run_command; run_command(sys.argv[1:]); "
    code += "print('torch._dynamo' in sys.modules)"
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    for precision in ("float32", "bfloat16"):
        words = (*WORDS, "monitor=off", f"precision={precision}")
        done = subprocess.run(
            [sys.executable, "-c", code, *words], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600
        )
        assert done.stdout.splitlines()[-1] == "False", done.stderr
