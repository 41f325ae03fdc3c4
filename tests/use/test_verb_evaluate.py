"""`train evaluate` gives the numbers that `result.json` has, to the last digit; and judges new data as it is judged."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trainer.command import main as cli
from trainer.disk import foreign
from trainer.errors import RunStopped, UserError
from trainer.use.evaluate import evaluation
from trainer.use.find import find
from trainer.use.trained import open_run

Train = Callable[..., dict[str, Any]]
TINY = ("max_steps=6", "name=x", "monitor=off")
OWN = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self, in_features, num_classes, width=8):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(in_features, width), nn.BatchNorm1d(width), nn.Dropout(0.5))
        self.head = nn.Linear(width, num_classes)
    def forward(self, x):
        return {"logits": self.head(self.body(x)), "aside": x}
class Loss(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
    def forward(self, outputs, targets):
        loss = nn.functional.cross_entropy(self.scale * outputs["logits"], targets)
        return {"ce": loss, "size": outputs["logits"].square().mean()}
"""
L2 = "+loss.terms.l2={weight:0.01,criterion:{_target_:trainer.losses.criteria.L2Penalty}}"
LONG = ("two_layer", "numbers", "folder", "half", "float64")
KINDS: dict[str, tuple[str, ...]] = {
    "lenet": ("data=digits",),
    "two_layer": ("data=digits", "model=two_layer", "loss=sum_squared_error", "batch_size=full"),
    "table": ("data=table", "model=two_layer", "loss=cross_entropy"),
    "arrays": ("data=arrays", "model=sequential", "loss=nll"),
    "numbers": ("data=random_regression", "model=two_layer", "loss=mse", "data.num_samples=40"),
    "folder": ("data=image_folder", "model=frozen_resnet", "model.backbone.weights=null", "max_steps=4"),
    "half": ("data=cifar10", "model=resnet18", "precision=bfloat16", "max_steps=1", "data.limit=20"),
    "own": ("data=digits", "model._target_=mynet.Net", "loss._target_=mynet.Loss", "trust=[mynet]"),
    "penalty": ("data=digits", "model=two_layer", "loss=composite", L2),
    "float64": ("data=fashion_mnist", "model=lenet", "dtype=float64"),
}


def words(kind: str, sources: dict[str, tuple[str, ...]]) -> list[str]:
    name = KINDS[kind][0].partition("=")[2]
    return [*TINY, *KINDS[kind], *(word for word in sources[name] if kind != "half" or "limit" not in word)]


@pytest.mark.parametrize("kind", [pytest.param(k, marks=[pytest.mark.long] if k in LONG else []) for k in KINDS])
def test_the_numbers_of_the_result_to_the_last_digit(
    kind: str, train: Train, tmp_path: Path, sources: dict[str, tuple[str, ...]]
) -> None:
    (tmp_path / "mynet.py").write_text(OWN)
    typed = {}
    for word in words(kind, sources):
        typed[word.partition("=")[0]] = word
    result = train(*typed.values())
    trained = open_run(find("x"), {"trust": ["mynet"]} if kind == "own" else {})
    for split in ("test", "val"):
        found = evaluation(trained, split)
        assert found.numbers == {
            tag.removeprefix(f"{split}/"): n for tag, n in result.items() if tag.startswith(f"{split}/")
        }
        assert found.numbers == found.expected


def test_a_loss_that_is_not_finite_is_that_of_the_result(
    train: Train, capsys: pytest.CaptureFixture[str], sources: dict[str, tuple[str, ...]]
) -> None:
    """JSON has no NaN: `result.json` has null."""
    huge = ("optimizer=sgd", "optimizer.lr=1e19", "on_nan=skip", "data.limit=100")
    with pytest.raises(RunStopped):
        train("model=two_layer", *TINY, *huge)
    capsys.readouterr()
    assert cli.run_command(["evaluate", "x", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["as_in_result"] is True
    assert cli.run_command(["evaluate", "x"]) == 0
    assert re.search(r"loss +(inf|nan) +as in result", capsys.readouterr().out)


def test_new_rows_of_a_table_are_prepared_as_in_training(
    train: Train,
    tmp_path: Path,
    sources: dict[str, tuple[str, ...]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    result = train("data=table", *sources["table"], "model=two_layer", *TINY)
    head, *lines = Path(sources["table"][0].partition("=")[2]).read_text().splitlines()
    with np.load("runs/x/predictions.npz") as stored:
        rows = stored["id"]
    Path("new.csv").write_text("\n".join([head, *(lines[row] for row in rows)]))
    capsys.readouterr()
    monkeypatch.setenv("HERE", str(tmp_path))  # a variable counts as if its value had been typed, as in a run's words
    assert cli.run_command(["evaluate", "x", "data.path=${oc.env:HERE}/new.csv", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    with pytest.raises(UserError, match=r"the environment has no such variable. Set it, or type its value."):
        cli.run_command(["evaluate", "x", "data.path=${oc.env:NOWHERE_AT_ALL}/new.csv", "--json"])
    assert found["metrics"] == {"loss": result["test/loss"], "accuracy": result["test/accuracy"]}
    assert (found["samples"], found["split"], found["as_in_result"]) == (len(rows), None, None)
    assert [row["name"] for row in found["classes"]] == ["k0", "k1", "k2"]
    assert np.sum(found["confusion"]) == len(rows)
    # Other columns beside, in another order, and a class that is not there: by their names they are found.
    order = np.argsort(head.split(","))
    cells = [[*np.array(lines[row].split(","))[order], "more"] for row in rows]
    kept = [row for row in cells if "k1" in row]
    table = [[*np.sort(head.split(",")), "beside"], *kept]
    Path("new.csv").write_text("\n".join(map(",".join, table)))
    found = evaluation(open_run(find("x"), {"data.path": "new.csv"}), None, {"data.path": "new.csv"})
    assert [row["support"] for row in found.classes] == [0, len(kept), 0]


@pytest.mark.parametrize("header", ["a,b,y,z\n", ""])
def test_new_rows_with_numbers_as_targets(header: str, train: Train, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    lines = [",".join(f"{number:.3f}" for number in row) for row in draw.normal(size=(60, 4))]
    Path("all.csv").write_text(header + "\n".join(lines))
    targets = f"data.targets=[{'y,z' if header else '2,3'}]"
    result = train("data=table", "data.path=all.csv", targets, "model=two_layer", "loss=mse", *TINY)
    with np.load("runs/x/predictions.npz") as stored:
        rows = stored["id"]
    Path("new.csv").write_text(header + "\n".join(lines[row] for row in rows))
    typed = {"data.path": "new.csv"}
    numbers = evaluation(open_run(find("x"), typed), None, typed).numbers
    assert numbers == {name: result[f"test/{name}"] for name in ("loss", "mae", "r2")}
    for cell, message in (("", "a value is missing, and is a target"), ("word", "'word' is not a number")):
        last = f"{lines[0].rpartition(',')[0]},{cell}"
        Path("new.csv").write_text(header + f"{lines[1]}\n{last}\n")
        with pytest.raises(UserError, match=message):
            evaluation(open_run(find("x"), typed), None, typed)


def test_new_arrays_and_a_folder_of_pictures(
    train: Train, tmp_path: Path, sources: dict[str, tuple[str, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    result = train("data=arrays", *sources["arrays"], "model=two_layer", *TINY)
    with np.load(sources["arrays"][0].partition("=")[2]) as stored, np.load("runs/x/predictions.npz") as left:
        np.savez("new.npz", inputs=stored["inputs"][left["id"]], targets=stored["targets"][left["id"]])
    typed = {"data.path": "new.npz"}
    assert evaluation(open_run(find("x"), typed), None, typed).numbers["loss"] == result["test/loss"]

    root = Path(sources["image_folder"][0].partition("=")[2])
    result = train("data=image_folder", *sources["image_folder"], "model=two_layer", *TINY[::2], "name=y")
    with np.load("runs/y/predictions.npz") as left:
        for path in map(Path, left["id"]):
            Path("new", path.parent.name).mkdir(parents=True, exist_ok=True)
            Path("new", path.parent.name, path.name).write_bytes(path.read_bytes())
    capsys.readouterr()
    typed = {"data.root": "new"}
    found = evaluation(open_run(find("y"), typed), None, typed, batch_size=3)
    assert found.numbers["loss"] == pytest.approx(result["test/loss"], rel=1e-5)
    assert found.numbers["accuracy"] == result["test/accuracy"]
    assert root.is_dir()


def test_a_table_of_classes_a_line_of_csv_and_pictures(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = train(*TINY)
    capsys.readouterr()
    assert cli.run_command(["evaluate", "runs/x/checkpoints/last.pt", "--png", "drawn", "batch_size=100"]) == 0
    out = capsys.readouterr().out
    assert f"accuracy  {result['test/accuracy']!r}  as in result.json" in " ".join(out.split(" "))
    assert "mean of classes" in out
    for name in ("confusion.png", "wrong.png"):
        with Image.open(tmp_path / "drawn" / name) as picture:
            assert min(picture.size) > 100
    assert cli.run_command(["evaluate", "x", "--csv"]) == 0
    heads, numbers = (line.split(",") for line in capsys.readouterr().out.splitlines())
    assert dict(zip(heads, numbers, strict=True))["loss"] == repr(result["test/loss"])


def test_a_run_whose_data_has_changed_is_not_evaluated_as_its_own(train: Train, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    np.savez("a.npz", inputs=draw.normal(size=(60, 4)), targets=np.arange(60) % 3)
    train("data=arrays", "data.path=a.npz", "model=two_layer", *TINY)
    np.savez("a.npz", inputs=draw.normal(size=(60, 4)), targets=np.arange(60) % 3)
    with pytest.raises(UserError, match="the test split has other inputs than the run began with"):
        evaluation(open_run(find("x")))


def test_a_sweep_means_its_best_run(train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = []
    for rate in (0.5, 0.002):
        result = train("max_steps=6", f"run_dir=runs/s/lr={rate}", "monitor=off", f"optimizer.lr={rate}")
        folders.append({"name": f"lr={rate}", "status": "finished", "reason": "", "optimizer.lr": str(rate), **result})
    rows = [{k: v for k, v in row.items() if isinstance(v, str | float)} for row in folders]
    for row in rows:
        row.pop("computed")
    (tmp_path / "runs/s/results.json").write_text(json.dumps(rows))
    best = max(folders, key=lambda row: row["val/accuracy"])
    found = find("s")
    assert (found.folder.name, "its best run is" in found.note) == (best["name"], True)


def test_the_best_weights_and_the_last(train: Train, tmp_path: Path) -> None:
    result = train("max_steps=60", "eval_every=10", "optimizer.lr=0.03", "name=x", "monitor=off", "model=two_layer")
    assert result["best_step"] != result["steps"] == 60
    for checkpoint, prefix in ((None, "test"), ("best", "test"), ("last", "test/last")):
        found = evaluation(open_run(find("x", checkpoint)))
        assert found.numbers == found.expected == {n: result[f"{prefix}/{n}"] for n in ("loss", "accuracy")}
    assert evaluation(open_run(find("x", "best")), "val").numbers["loss"] == result["best/val/loss"]


def test_a_run_of_an_earlier_release_that_knew_fewer_keys(train: Train, tmp_path: Path) -> None:
    result = train(*TINY, "model=two_layer")
    path = tmp_path / "runs/x/config.yaml"
    config = foreign.read_yaml(path.read_text())
    for key in ("console", "sweep", "on_nan", "order_seed"):
        del config[key]
    del config["checkpoint"]["every_minutes"]
    path.write_text(json.dumps(config))
    assert evaluation(open_run(find("x"))).numbers["loss"] == result["test/loss"]


def test_the_runs_own_metrics_and_a_model_that_computes_its_own_loss(train: Train, tmp_path: Path) -> None:
    pytest.importorskip("torchmetrics")
    result = train(*TINY, "model=two_layer", "metric=[f1,top5]")
    found = evaluation(open_run(find("x")))
    assert found.numbers == found.expected
    assert found.numbers.keys() == {"loss", "accuracy", "f1", "top5"}
    (tmp_path / "own_loss.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, in_features, num_classes):\n"
        "        super().__init__()\n"
        "        self.layer = nn.Linear(in_features, num_classes)\n"
        "    def forward(self, x, labels=None):\n"
        "        logits = self.layer(x.flatten(1))\n"
        "        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)\n"
        "        return {'loss': loss, 'logits': logits}\n"
    )
    words = ("model._target_=own_loss.Net", "trust=[own_loss]", "loss=of_model", "max_steps=4", "name=y", "monitor=off")
    result = train(*words)
    found = evaluation(open_run(find("y"), {"trust": ["own_loss"]}))
    assert found.numbers == {n: result[f"test/{n}"] for n in ("loss", "accuracy")}


@pytest.mark.parametrize("kept", ["average.decay=0.9", "average.last=0.25"])
def test_the_average_of_the_weights(kept: str, train: Train, tmp_path: Path) -> None:
    (tmp_path / "mynet.py").write_text(OWN)
    words = (kept, "max_steps=40", "eval_every=10", "optimizer.lr=0.03", "name=x", "monitor=off", "trust=[mynet]")
    result = train(*words, "model._target_=mynet.Net", "loss._target_=mynet.Loss")
    trained = open_run(find("x", "average"), {"trust": ["mynet"]})
    # The best may be of a step before the last part: no average was tested with it.
    prefix = "test" if "test/average/loss" in result else "test/last"
    found = evaluation(trained)
    assert found.numbers == found.expected == {n: result[f"{prefix}/average/{n}"] for n in found.numbers}
    of_last = open_run(find("runs/x/checkpoints/last.pt", "average"), {"trust": ["mynet"]})
    found = evaluation(of_last, "val")
    assert found.numbers == found.expected == {n: result[f"val/average/{n}"] for n in found.numbers}
    assert found.numbers != evaluation(open_run(find("x", "last"), {"trust": ["mynet"]}), "val").numbers


def test_an_average_that_is_not_there_is_a_line(train: Train, tmp_path: Path) -> None:
    train(*TINY, "model=two_layer")
    with pytest.raises(UserError, match=r"checkpoint=average: .*last.pt has no average .* Leave checkpoint= out\.$"):
        open_run(find("x", "average"))
    every = ("checkpoint.every=2", "checkpoint.keep=9")
    train("max_steps=8", *every, "average.last=0.5", "name=y", "model=two_layer", "monitor=off")
    with pytest.raises(UserError, match=r"average begins after step 4, and .*02.pt is of step 2. Leave"):
        open_run(find("runs/y/checkpoints/step_00000002.pt", "average"))
    with pytest.raises(UserError, match=r"checkpoint=averag: is not there; .*, average\. Did you mean average\?"):
        find("y", "averag")


TASKS = {
    "labels": ("data.task=multilabel", "loss=bce_with_logits", "model=two_layer"),
    "pixels": ("loss=cross_entropy", "loss.ignore_index=255", "model._target_=pixels.Net", "trust=[pixels]"),
}
NET = """
from torch import nn
class Net(nn.Module):
    def __init__(self, in_channels, num_classes):
        super().__init__()
        self.layer = nn.Conv2d(in_channels, num_classes, 1)
    def forward(self, x):
        return self.layer(x)
"""


@pytest.mark.parametrize("task", TASKS)
def test_new_arrays_with_several_labels_or_a_class_at_each_pixel(task: str, train: Train, tmp_path: Path) -> None:
    (tmp_path / "pixels.py").write_text(NET)
    draw = np.random.default_rng(0)
    if task == "pixels":
        inputs = draw.integers(0, 256, (60, 1, 4, 4), dtype=np.uint8)
        targets = np.where(inputs[:, 0] > 100, 4, 1)  # classes 0 and 1
        targets[:, 0] = 255
    else:
        inputs = draw.normal(size=(60, 4)).astype(np.float32)
        targets = (inputs[:, :2] > 0).astype(np.float32)
    np.savez("all.npz", inputs=inputs, targets=targets)
    result = train("data=arrays", "data.path=all.npz", *TASKS[task], *TINY)
    with np.load("runs/x/predictions.npz") as stored:
        rows = stored["id"]
    typed = {"data.path": "new.npz", **({"trust": ["pixels"]} if task == "pixels" else {})}
    np.savez("new.npz", inputs=inputs[rows], targets=targets[rows])
    found = evaluation(open_run(find("x"), typed), None, typed)
    assert found.numbers == {name: result[f"test/{name}"] for name in found.numbers}
    assert found.numbers.keys() == {"loss", "accuracy", *(["iou"] if task == "pixels" else [])}
    np.savez("new.npz", inputs=inputs[rows], targets=targets[rows] + 1)
    message = "2, 5, 256: no class of the model's, which are 1, 4" if task == "pixels" else "targets with 2 among them"
    with pytest.raises(UserError, match=message):
        evaluation(open_run(find("x"), typed), None, typed)


ITEMS = """
import torch
class Items(torch.utils.data.Dataset):
    def __init__(self, n=60, classes=("a", "b", "c"), width=4):
        self.n, self.classes, self.width = n, list(classes), width
    def __len__(self):
        return self.n
    def __getitem__(self, i):
        return torch.arange(self.width) * (i % 3 + i / 60), i % 3
"""


def test_new_items_of_a_class_of_ones_own(train: Train, tmp_path: Path) -> None:
    (tmp_path / "newitems.py").write_text(ITEMS)
    words = ("data._target_=newitems.Items", "trust=[newitems]", "data.num_workers=0", "model=two_layer")
    train(*words, "loss=cross_entropy", *TINY)

    def found(**keys: Any) -> Any:
        typed = {"trust": ["newitems"], **{f"data.{key}": value for key, value in keys.items()}}
        return evaluation(open_run(find("x"), typed), None, typed)

    assert (len(found(n=30).labelled.batches), found(n=30).expected) == (6, {})
    assert [row["support"] for row in found(n=30).classes] == [2, 2, 2]
    assert found(n=60).numbers == found(n=60).expected
    with pytest.raises(UserError, match="its classes and the model's differ: x, y, z and a, b, c"):
        found(n=30, classes=["x", "y", "z"])
    with pytest.raises(UserError, match=r"samples of shape \[5\]; give \[4\]"):
        found(n=30, width=5)


PICTURES = """
import numpy as np
from PIL import Image
def pictures():
    draw = np.random.default_rng(0)
    return [(Image.fromarray(draw.integers(0, 256, (12, 12, 3), dtype=np.uint8)), i % 3) for i in range(60)]
"""


def test_pictures_are_compared_in_the_size_that_the_model_wants(train: Train, tmp_path: Path) -> None:
    """They are 12 pixels wide and colour, LeNet wants 32 and grey."""
    (tmp_path / "ownpictures.py").write_text(PICTURES)
    words = ("data._target_=ownpictures.pictures", "trust=[ownpictures]", "model=lenet")
    result = train(*TINY, *words)
    trained = open_run(find("x"), {"trust": ["ownpictures"]})
    for split in ("test", "val"):
        assert evaluation(trained, split).numbers["loss"] == result[f"{split}/loss"]


@pytest.mark.long
def test_pictures_that_are_items_are_exported_as_the_line_says(train: Train, tmp_path: Path) -> None:
    (tmp_path / "ownpictures.py").write_text(PICTURES)
    train(*TINY, "data._target_=ownpictures.pictures", "trust=[ownpictures]", "model=two_layer")
    words = ["export", "x", "format=pt2", "trust=[ownpictures]"]
    with pytest.raises(UserError, match=r"items that only it can read. Type preprocessing=false"):
        cli.run_command(words)
    assert cli.run_command([*words, "preprocessing=false"]) == 0


def test_of_a_new_table_of_pictures_all_are_taken(train: Train, tmp_path: Path) -> None:
    """Kind: new data that comes without splits is evaluated whole."""
    draw = np.random.default_rng(0)
    for i in range(20):
        Image.fromarray(draw.integers(0, 256, (8, 8), dtype=np.uint8)).save(f"{i}.png")
    lines = [f"{i}.png,{'ab'[i % 2]}" for i in range(20)]
    Path("all.csv").write_text("\n".join(["file,kind", *lines]))
    Path("new.csv").write_text("\n".join(["file,kind", *lines[:7]]))
    words = ("data=image_table", "data.path=all.csv", "data.targets=[kind]", "data.num_workers=0", "data.image_size=8")
    train(*words, "model=two_layer", *TINY)
    for split in (None, "all"):
        typed = {"data.path": "new.csv"}
        found = evaluation(open_run(find("x"), typed), split, typed)
        assert [row["support"] for row in found.classes] == [4, 3]
    with pytest.raises(UserError, match=r"data.test_fraction=0.5: all new samples are taken"):
        open_run(find("x"), {"data.path": "new.csv", "data.test_fraction": 0.5})
