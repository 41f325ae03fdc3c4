"""`train predict`: raw samples that the model never saw, from files or lines, as the run's own test had them."""

import importlib.util
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import trainer
from trainer.command import main as cli
from trainer.data import digits
from trainer.errors import UserError
from trainer.use.evaluate import evaluation
from trainer.use.export import about
from trainer.use.find import find
from trainer.use.predicted import Predicted
from trainer.use.trained import open_run
from trainer.use.written import writer

Train = Callable[..., dict[str, Any]]
Sources = dict[str, tuple[str, ...]]
TINY = ("max_steps=6", "name=x", "monitor=off")


def predictions() -> dict[str, np.ndarray]:
    with np.load("runs/x/predictions.npz") as stored:
        return dict(stored)


def typed(*words: str, rc: int = 0) -> None:
    assert cli.run_command(["predict", "x", *words]) == rc


def test_pictures_in_arrays_and_files(train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(*TINY)
    raw = digits.load().test.inputs.numpy()  # type: ignore[union-attr]
    left = predictions()
    np.savez("new.npz", inputs=raw)
    np.save("new.npy", raw[:, 0])  # [N, H, W]
    typed("new.npz", "out=a.npz")
    with np.load("a.npz") as found:
        assert np.array_equal(found["outputs"], left["outputs"])  # the same bits as in the run's own test
        assert found["class"].tolist() == [str(c) for c in left["outputs"].argmax(1)]
        assert np.allclose(found["probabilities"].sum(1), 1)
    typed("new.npy", "out=b.csv", "top=3", "batch_size=100")
    head, first, *rest = Path("b.csv").read_text().splitlines()
    assert head == "id,class,probability,class_2,probability_2,class_3,probability_3"
    assert len(rest) == 358
    assert first.split(",")[1::2] == [str(c) for c in np.argsort(-left["outputs"][0])[:3]]

    Path("pics/deep").mkdir(parents=True)
    for i in range(4):  # grey levels of a file go to 255, those of the digits to 16
        Image.fromarray((raw[i, 0] * 255.0 / 16).round().astype(np.uint8)).save(f"pics/deep/{i}.png")
    Path("pics/not.png").write_bytes(b"\x89PNG no picture")
    capsys.readouterr()
    typed("pics", "out=c.jsonl", rc=1)
    assert "pics/not.png: is no whole image" in capsys.readouterr().err
    rows = [json.loads(line) for line in Path("c.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [f"pics/deep/{i}.png" for i in range(4)]
    assert [row["class"] for row in rows] == [str(c) for c in left["outputs"][:4].argmax(1)]
    typed("pics/deep/*.png", "--json")
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == rows
    assert not list(tmp_path.glob(".*.tmp"))

    # In Python the same, of arrays in every order and of pictures that Pillow has read, of any size and kind.
    model = trainer.load("x")
    with np.load("a.npz") as stored:
        expected = stored["probabilities"]
    for array in (raw[:3], raw[:3, 0], raw[:3].transpose(0, 2, 3, 1), raw[0], [*raw[:3]]):
        found = [p.probabilities for p in model.predict(array)]
        assert np.allclose(found, expected[: len(array)], atol=1e-6)
    Image.effect_noise((30, 20), 90).convert("RGBA").rotate(20).save("pics/deep/large.png")
    for name in ("pics/deep/3.png", "pics/deep/large.png"):
        with Image.open(name) as picture:
            for one in (picture, [picture], iter([picture])):
                assert str(model.predict(one)) == str(model.predict(name))
    Path("pics/deep/large.png").unlink()
    assert model.predict([]) == model.predict(raw[:0]) == []
    for wrong, said in ((None, "samples of NoneType"), ([raw[0], raw[0, 0]], "samples of ndarray"), (3, "one number")):
        with pytest.raises(UserError, match=rf"^predict: {said}.* the model takes pictures, uint8 \[1, 8, 8\]\."):
            model.predict(wrong)

    odd = os.fsencode("pics/deep/") + b"\xe9.png"  # a name that is no UTF-8, as an old disk has it
    shutil.copy("pics/deep/0.png", odd)
    for out in ("d.csv", "d.jsonl", "d.npz", "d.parquet"):
        if out == "d.parquet":
            pytest.importorskip("pyarrow")
        typed("pics/deep", f"out={out}")
    assert odd + b"," in Path("d.csv").read_bytes()


def through(
    lines: str | bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str
) -> list[str]:
    given = lines.encode() if isinstance(lines, str) else lines
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(given)))
    capsys.readouterr()
    cli.run_command(["predict", "x", "-", *words])
    return capsys.readouterr().out.splitlines()


def test_rows_of_a_table_and_lines(
    train: Train,
    tmp_path: Path,
    sources: Sources,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    train("data=table", *sources["table"], "model=two_layer", *TINY)
    left = predictions()
    table = Path(sources["table"][0].partition("=")[2])
    typed(str(table), "out=all.npz")
    with np.load("all.npz") as found:
        # A product over 60 rows may round otherwise than one over 12.
        assert np.allclose(found["outputs"][left["id"]], left["outputs"], atol=1e-5)
    head, *lines = table.read_text().splitlines()
    whole = through("\n".join([head, *lines[:5], "1,red", lines[5]]), monkeypatch, capsys)
    assert whole[0] == "id,class,probability"
    with np.load("all.npz") as found:
        assert [line.split(",")[1] for line in whole[1:]] == [*found["class"][:5], "", found["class"][5]]
    asked = [json.dumps({"size": 1.5, "colour": "red", "count": None}), "{", json.dumps({"size": "big"})]
    answers = [json.loads(line) for line in through("\n".join(asked), monkeypatch, capsys, "--json")]
    assert answers[0]["class"] in ("k0", "k1", "k2")
    assert answers[1]["error"].startswith("line 2: {: ")
    assert "it lacks 2 columns" in answers[2]["error"]

    # A cell may have line breaks between quotes; quotes that are never closed hold no line back.
    rows = ['1.5,"blue\r\nor green",3', "1.5,blue,3", '"1.5",blue,3', '1.5,"blue,3', "1.5,blue,3"]
    Path("quoted.csv").write_bytes("\n".join(["size,colour,count", *rows[:3]]).encode())
    assert cli.run_command(["predict", "x", "--", "quoted.csv"]) == 0
    of_file = [line.split(",")[1:] for line in capsys.readouterr().out.splitlines()]
    lines = [line.split(",") for line in through("\r\n".join(["size,colour,count", *rows]), monkeypatch, capsys)]
    assert [line[1:] for line in lines[:4]] == of_file
    assert [line[0] for line in lines[1:]] == ["2", "4", "5", "6", "7"]
    assert lines[4][1:] == ["", ""]

    # Standard input is read as a file is: what programs write before a table, and the signs of other countries.
    plain = through("size,colour,count\n0.125,red,2\n1.5,blue,3\n", monkeypatch, capsys)[1:]
    for lines, *how in (
        ("\ufeffsize,colour,count\r\n0.125,red,2\r\n1.5,blue,3",),
        ("size,colour,count\n0.125,red,2\n1.5,blue,3".encode("utf-16"),),
        ("size;colour;count\n0,125;red;2\n1,5;blue;3\n",),
        ("sep=;\nsize;colour;count\n0,125;red;2\n1,5;blue;3\n",),
        ("Sizes,,\n\nsize,by me,\nsize,colour,count\n0.125,red,2\n1.5,blue,3\n",),
        ("Of today\n;;\nsize;colour;count\n0,125;red;2\n1,5;blue;3\n",),
        ("# of today\n# size colour count\n0.125 red 2\n1.5 blue 3\n",),
        ('"size","colour","count"\n"1",0.125,"red",2\n"2",1.5,"blue",3\n',),  # as R writes its row names
        ("size colour count\nfirst 0.125 red 2\nsecond 1.5 blue 3\n",),
        ("size,colour,count\n0.125,red,2\n1.5,blue,3\n".encode("cp037"), "data.encoding=cp037"),
        ('size,colour,count\n"0,125",red,2\n"1,5",blue,3\n', "data.decimal=comma", "data.delimiter=comma"),
    ):
        found = through(lines, monkeypatch, capsys, *how)[1:]
        assert [line.partition(",")[2] for line in found] == [line.partition(",")[2] for line in plain], lines
    head = "size;colour;count\n"
    for lines, said, *how in (
        (head + "1,250;red;2", "1,250 may have a decimal comma or a comma between thousands"),
        (head + "0,125;red;2", "'0,125' is not a number", "data.decimal=point"),
        (head + "1.250;red;2", "1.250 and its like are read with a decimal point. If it stands between"),
        ("size,colour,count\n1,5,red,2", "4 cells, and 3 are needed: size, colour, count"),
        (head + "1;grey;2", "column colour: 1 row has grey, which no training row has"),
        (head + "1;red;2", "the model's columns have names", "data.header=false"),
        (head + "1;red;2", "it lacks 3 columns", "data.delimiter=tab"),
        ("size;colour\n1;red", "line 1: it lacks a column"),
        ("Of today\n1;red;2", "line 1: it lacks 3 columns"),
        ("Of today\nby me\n", "line 1: it lacks 3 columns"),
        (head + "1;red;2", "nobody knows it", "data.encoding=hex"),
    ):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(lines.encode())))
        told = ""
        try:
            cli.run_command(["predict", "x", "-", *how])
        except UserError as error:
            told = str(error)
        assert said in told + capsys.readouterr().err, lines
    with pytest.warns(UserWarning, match="colour: 1 row has grey"):
        trainer.load("x").predict([{"size": 1.5, "colour": "grey", "count": 2}])


def test_numbers_and_lines(
    train: Train, sources: Sources, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train("data=arrays", *sources["arrays"], "model=two_layer", *TINY)
    left = predictions()
    with np.load(sources["arrays"][0].partition("=")[2]) as stored:
        np.save("new.npy", raw := stored["inputs"][left["id"]])
    typed("new.npy", "out=a.npz")
    with np.load("a.npz") as found:
        assert np.array_equal(found["outputs"], left["outputs"])
    lines = [" ".join(map(repr, map(float, raw[0]))), json.dumps(raw[1].tolist()), "1;2;3", "1,5;2,5"]
    first, second, third, fourth = (line.split(",") for line in through("\n".join(lines), monkeypatch, capsys))
    assert [first[1], second[1], third[1], fourth[1]] == [*map(str, left["outputs"][:2].argmax(1)), "", ""]
    tested = json.loads(Path("runs/x/result.json").read_text())["tested"]
    Path(f"runs/x/checkpoints/{tested}.pt").unlink()
    typed("new.npy", "out=b.npz")
    assert f"runs/x: its checkpoints/{tested}.pt is missing; " in capsys.readouterr().err
    Path("runs/x/config.yaml").unlink()
    for word in ("x", "runs/x"):
        with pytest.raises(UserError, match=r"^runs/x/config.yaml: is missing"):
            cli.run_command(["evaluate", word])


def test_numbers_of_pictures_are_called_as_their_columns_are(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(12):
        Image.new("L", (8, 8), 20 * i).save(f"{i}.png")
    Path("ages.csv").write_text("\n".join(["file,age,size", *(f"{i}.png,{i / 7},{i / 9}" for i in range(12))]))
    words = ("data=image_table", "data.path=ages.csv", "data.targets=[age,size]", "data.num_workers=0", "loss=mse")
    train(*words, "model=two_layer", *TINY)
    capsys.readouterr()
    assert cli.run_command(["predict", "x", "3.png"]) == 0
    assert capsys.readouterr().out.startswith("id,age,size\n3.png,")


def test_numbers_are_written_with_the_digits_that_they_have(tmp_path: Path) -> None:
    for kind in (np.float32, np.float64):
        values = (1e9 + np.random.default_rng(0).normal(size=(9, 1))).astype(kind)
        file = tmp_path / f"{kind.__name__}.csv"
        to = writer(str(file), "csv")
        to.write(range(9), Predicted(["y"], {"outputs": values}, values.tolist()))
        to.close()
        found = np.loadtxt(file, delimiter=",", skiprows=1, usecols=[1])
        assert np.array_equal(found.astype(kind), values[:, 0])


@pytest.mark.long
def test_a_filter_answers_before_the_next_line_is_there(
    train: Train, sources: Sources, command: Callable[..., Any], tmp_path: Path
) -> None:
    import os
    import subprocess

    train("data=arrays", *sources["arrays"], "model=two_layer", *TINY)
    with subprocess.Popen(
        [sys.executable, "-m", "trainer", "predict", "x", "-"],
        cwd=tmp_path,
        env=os.environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for i in range(3):
            process.stdin.write("1 2 3 4 5 6\n")
            assert process.stdout.readline().startswith(f"{i + 1},")
        process.stdin.close()
    assert process.returncode == 0


@pytest.mark.long
def test_numbers_out_and_parquet(train: Train, tmp_path: Path) -> None:
    from pyarrow import parquet

    lines = [f"{i},{i % 7},{2 * i + i % 7}" for i in range(60)]
    Path("n.csv").write_text("\n".join(["a,b,sum", *lines]))
    train(
        "data=table",
        "data.path=n.csv",
        "data.targets=[sum]",
        "data.task=regression",
        "model=two_layer",
        "loss=mse",
        *TINY,
    )
    Path("new.csv").write_text("b,a\n1,2\n3,4\n")
    typed("new.csv", "out=a.parquet")
    found = parquet.read_table("a.parquet")
    assert found.column_names == ["id", "sum"]
    assert len(found) == 2


def test_items_of_the_users_own_with_several_labels(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "many_labels.py").write_text(
        "import torch\n"
        "class Items(torch.utils.data.Dataset):\n"
        "    def __init__(self):\n"
        "        self.x = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))\n"
        "    def __len__(self):\n"
        "        return 40\n"
        "    def __getitem__(self, i):\n"
        "        return self.x[i], (self.x[i, :2] > 0).float()\n"
    )
    words = ("data._target_=many_labels.Items", "trust=[many_labels]", "data.task=multilabel", "model=two_layer")
    result = train(*words, "loss=bce_with_logits", *TINY)
    found = evaluation(open_run(find("x"), {"trust": ["many_labels"]}))
    assert found.numbers == found.expected == {n: result[f"test/{n}"] for n in ("loss", "accuracy")}
    np.save("new.npy", np.ones((2, 4), np.float32))
    capsys.readouterr()
    typed("new.npy", "trust=[many_labels]")
    head, first, second = (line.split(",") for line in capsys.readouterr().out.splitlines())
    assert head == ["id", "label_0", "label_1"]
    assert first[1:] == second[1:]
    assert all(0 < float(share) < 1 for share in first[1:])


@pytest.mark.slow
def test_what_show_says_to_type_works(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every command of a run with an average and own classes."""
    (tmp_path / "named.py").write_text(NAMED)
    words = (
        "trust=[named]",
        "data._target_=named.Items",
        "model=two_layer",
        "loss=cross_entropy",
        "data.num_workers=0",
    )
    train(*words, "average.decay=0.9", "max_steps=6", "name=a-b", "monitor=off")
    np.save("new.npy", np.ones((2, 4), np.float32))
    capsys.readouterr()
    assert cli.run_command(["show", "a-b"]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    offered = lines[lines.index("to go on") + 1 : lines.index("to look at it")]
    offered = [line for line in offered if line.startswith(("train ", "python: "))]
    verbs = ["resume=runs/a-b", "evaluate", "evaluate", "predict", "export", "pack", "trainer.load('runs/a-b')"]
    assert [line.split()[1] for line in offered] == verbs
    assert "checkpoint=average" in offered[2]
    has_onnx = all(map(importlib.util.find_spec, ("onnx", "onnxscript", "onnxruntime")))
    for line in [*offered[1:], offered[0]]:  # what continues the run last: the others are of it as it is
        if line.startswith("python: "):
            monkeypatch.setattr(trainer, "load", partial(trainer.load, trust=["named"]))
            assert eval(line.removeprefix("python: ")).classes == ("ant", "bee", "cow")
        elif has_onnx or "export" not in line:
            assert cli.run_command(shlex.split(line.replace("FILE...", "new.npy"))[1:]) == 0, line


def seconds_of(words: list[str]) -> float:
    """Of processor time, which other programs on the machine do not change; the least of three."""
    spent = []
    for _ in range(3):
        process = subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        spent.append(usage.ru_utime + usage.ru_stime)
    return min(spent)


@pytest.mark.long
@pytest.mark.parametrize("words", ["predict x new.npy", "evaluate x"])
def test_it_starts_half_a_second_after_torch(
    words: str, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(*TINY)
    np.save("new.npy", np.zeros((2, 8, 8), np.uint8))
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)  # as where it is installed
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path / "compiled"))
    code = f"import sys; from trainer.command.main import run_command; assert run_command({words.split()}) == 0"
    heavy = (
        "{'torchvision', 'torchmetrics', 'tensorboard', 'pandas', 'pyarrow', 'scipy', 'matplotlib', 'torch._dynamo'}"
    )
    subprocess.run([sys.executable, "-c", f"{code}; assert not {heavy} & sys.modules.keys()"], check=True)
    torch_alone = seconds_of(["-c", "import torch"])
    assert seconds_of(["-m", "trainer", *words.split()]) < torch_alone + max(0.5, 0.4 * torch_alone)


NAMED = """
import torch
from torch.utils.data import Dataset, Subset

class Items(Dataset):
    classes = ["ant", "bee", "cow"]
    def __init__(self, first=0, classes=None):
        self.first, self.classes = first, classes or self.classes
    def __len__(self):
        return 60
    def __getitem__(self, i):
        return torch.full((4,), float(i % 3)), i % 3 + self.first

def part():
    return Subset(Items(), range(40))

class Pixels(Items):
    def __getitem__(self, i):
        return torch.full((1, 4, 4), float(i % 3)), torch.full((4, 4), i % 3)

class Net(torch.nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.layer = torch.nn.Conv2d(1, num_classes, 1)
    def forward(self, x):
        return self.layer(x)
"""
OWN = ("trust=[named]", "data.num_workers=0")
NAMES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "image_folder": (("data=image_folder",), ("cat", "dog")),
    "table": (("data=table",), ("k0", "k1", "k2")),
    "arrays": (("data=arrays",), ("0", "1", "2")),
    "items": ((*OWN, "data._target_=named.Items"), ("ant", "bee", "cow")),
    "part": ((*OWN, "data._target_=named.part"), ("ant", "bee", "cow")),
    "said": ((*OWN, "data._target_=named.Items", "data.num_classes=3"), ("ant", "bee", "cow")),
    "others": ((*OWN, "data._target_=named.Items", "data.first=1"), ("1", "2", "3")),
    "more": ((*OWN, "data._target_=named.Items", "data.classes=[a,b,c,d]"), ("a", "b", "c", "d")),
    "pixels": ((*OWN, "data._target_=named.Pixels", "model._target_=named.Net"), ("ant", "bee", "cow")),
}
QUICK = ("items", "pixels")


@pytest.mark.parametrize("kind", [pytest.param(k, marks=[] if k in QUICK else [pytest.mark.slow]) for k in NAMES])
def test_classes_keep_their_names(
    kind: str, train: Train, tmp_path: Path, sources: Sources, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run, its evaluation, predictions, exports and the loaded model call the classes as the data does."""
    (tmp_path / "named.py").write_text(NAMED)
    words, names = NAMES[kind]
    model_words = () if kind == "pixels" else ("model=two_layer",)
    train(*model_words, "loss=cross_entropy", *sources.get(kind, ()), *words, *TINY)
    said = capsys.readouterr().out
    assert ("The names are left out" in said) == (kind == "others")
    model = trainer.load("x", trust=["named"] if "trust=[named]" in words else [])
    assert model.classes == names
    assert about(model._trained, model.network, "pt2")["classes"] == list(names)
    found = evaluation(model._trained)
    assert [row["name"] for row in found.classes] == list(names)
    counts = np.array(found.confusion)
    assert counts.trace() / counts.sum() == found.numbers["accuracy"]
    if kind in sources:
        return  # what they predict is tested above
    raw = np.stack([np.full((1, 4, 4) if kind == "pixels" else 4, i % 3, np.float32) for i in range(9)])
    np.save("new.npy", raw)
    typed("new.npy", "trust=[named]", "out=p.npz")
    typed("new.npy", "trust=[named]", "out=p.csv")
    rows = [line.split(",")[1] for line in Path("p.csv").read_text().splitlines()[1:]]
    with np.load("p.npz") as arrays:
        classes = [names[i] for i in arrays["classes"][:, 0, 0]] if kind == "pixels" else arrays["class"].tolist()
    assert rows == classes
    assert set(rows) <= set(names)
