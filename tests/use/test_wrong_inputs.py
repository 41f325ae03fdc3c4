"""What can't be evaluated, predicted, exported or opened is one line that says what to give, and leaves nothing."""

import contextlib
import io
import os
import pickle
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from trainer.command import main as cli
from trainer.errors import UserError

QUIET = ("model=two_layer", "monitor=off", "max_steps=2")


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("evil",)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, sources: dict[str, tuple[str, ...]]) -> Path:
    """Three runs, and files that are wrong."""
    root = tmp_path_factory.mktemp("wrong")
    with contextlib.chdir(root), contextlib.redirect_stdout(io.StringIO()), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train"])
        cli.run_command(["name=digits", *QUIET])
        cli.run_command(["name=table", "data=table", *sources["table"], "loss=cross_entropy", *QUIET])
        cli.run_command(["name=numbers", "data=arrays", *sources["arrays"], "loss=cross_entropy", *QUIET])
        np.savez("small.npz", inputs=np.zeros((3, 5, 5), np.uint8))
        np.savez("colour.npz", inputs=np.zeros((3, 3, 8, 8), np.uint8))
        np.savez("floats.npz", inputs=np.zeros((3, 1, 8, 8), np.float32))
        np.savez("many.npz", a=np.zeros(3), b=np.zeros(3))
        np.savez("narrow.npz", inputs=np.zeros((3, 4)), targets=np.zeros(3, int))
        np.savez("label.npz", inputs=np.zeros((3, 6)), targets=np.array([0, 1, 7]))
        np.save("objects.npy", np.array([{}, {}], dtype=object), allow_pickle=True)
        np.save("nan.npy", np.full((2, 6), np.nan))
        Path("cut.npz").write_bytes(Path("small.npz").read_bytes()[:200])
        Path("no.png").write_bytes(b"\x89PNG\r\n")
        Path("empty").mkdir()
        Path("lacks.csv").write_text("size,kind\n1,k0\n2,k1\n")
        Path("word.csv").write_text("size,colour,count,kind\nbig,red,1,k0\n")
        Path("level.csv").write_text("size,colour,count,kind\n1,red,1,k9\n")
        Image.new("RGB", (9, 9)).save("one.png")
        for name in ("damaged", "foreign", "unread", "torn", "none", "other", "trusting"):
            shutil.copytree("runs/digits", f"runs/{name}")
        last = Path("runs/damaged/checkpoints/last.pt")
        for path in Path("runs/damaged/checkpoints").iterdir():
            content = bytearray(last.read_bytes())
            content[len(content) // 2] ^= 255
            path.unlink()
            path.write_bytes(content)
        for path in Path("runs/foreign/checkpoints").iterdir():
            path.unlink()
            path.write_bytes(pickle.dumps(Evil()))
        Path("runs/unread/model.json").write_text('{"inputs": {"kind": "magic"}}')
        Path("runs/torn/config.yaml").write_text("model: [")
        shutil.rmtree("runs/none/checkpoints")
        other = torch.load("runs/other/checkpoints/last.pt", weights_only=True)
        shutil.rmtree("runs/other/checkpoints")
        Path("runs/other/checkpoints").mkdir()
        from trainer.disk.checkpoint import write

        state = other["state"]
        write(Path("runs/other/checkpoints/last.pt"), {**state, "model": {"w": torch.zeros(3)}})
        config = Path("runs/trusting/config.yaml")
        text = (
            config.read_text()
            .replace("_target_: trainer.models.two_layer.", "_target_: evil.")
            .replace("trust: []", "trust: [evil]")
        )
        config.write_text(text)
        Path("evil.py").write_text("import os\nos.mkdir('evil')\n")
    return root


WRONG = {
    "evaluate": "train evaluate takes one run, not 0",
    "evaluate nowhere": "nowhere: there is no run",
    "evaluate empty": "empty: holds no run",
    "evaluate digits table": "train evaluate takes one run, not 2",
    "evaluate digits split=tset": "split=tset: must be train, val, test or all. Did you mean test?",
    "evaluate digits split=validation": "split=validation: .* Did you mean val?",
    "evaluate digits checkpoint=bst": r"checkpoint=bst: is not there; .* has best, last, \d+\. Did you mean best?",
    "evaluate digits checkpoint=average": "has no average of the weights",
    "evaluate digits checkpoint best": "checkpoint: has no value. Type checkpoint=",
    "evaluate digits --json=false": "--json=false: takes no value. Type --json",
    "evaluate digits formt=onnx": "formt=onnx: train evaluate has no such word. It takes split, batch_size",
    "export digits formt=onnx": "train export has no such word. Did you mean format?",
    "export digits format=safetensor": "format=safetensor: must be onnx, pt2 or safetensors. Did you mean safetensors?",
    "pack digits checkpoint=average": "has no average of the weights",
    "evaluate digits split=all": "one split at a time",
    "evaluate digits checkpoint=77": "checkpoint=77: is not there",
    "evaluate digits device=cuda:9": "device=cuda:9: is not there",
    "evaluate digits optimizer.lr=1": "train evaluate has no such word",
    "evaluate digits batch_size=0": "batch_size=0: must be a whole number >= 1",
    f"evaluate digits batch_size={'9' * 5000}": "must be a whole number >= 1. Type train evaluate ... batch_size=64.",
    "evaluate digits data=mnits": "data=mnits: there is .*Did you mean mnist?",
    "evaluate digits data.limt=3": "data.limt",
    "evaluate digits data.normalize=false": "what is made of samples stays as in training",
    "evaluate digits data.split_seed=3": "the run's own data is read and split as in training",
    "evaluate digits data=digits data.limit=9": "the run's own data is read and split as in training",
    "evaluate table data.standardize=false": "what is made of samples stays as in training",
    "evaluate table data.path=lacks.csv data.targets=[size]": "what is made of samples stays as in training",
    "predict table new.jsonl data.decimal=comma": "is of text, as .csv is; new.jsonl says it itself",
    "evaluate table data.path=new.jsonl data.delimiter=tab": "data.delimiter=tab: is of text",
    "evaluate table data.time=x": "the run's own data is read and split as in training",
    "evaluate table data.decimal=comma": "the run's own data is read and split as in training",
    "evaluate numbers data.path=narrow.npz data.val_fraction=0.5": "all new samples are taken",
    "evaluate numbers data.path=narrow.npz data.task=regression": "what is made of samples stays as in training",
    "evaluate table data.path=nowhere.csv": "there is no ",
    "evaluate table data.path=lacks.csv": "it lacks 2 columns that the model was trained with: colour, count",
    "evaluate table data.path=word.csv": "'big' is not a number",
    "evaluate table data.path=level.csv": "k9: no class of the model's, which are k0, k1, k2",
    "evaluate numbers data.path=label.npz": "7: no class of the model's",
    "evaluate numbers data.path=narrow.npz": r"samples of shape \[4\].*the model takes numbers of shape \[6\]",
    "evaluate none": "has no checkpoint yet",
    "evaluate damaged": "not a whole checkpoint",
    "evaluate foreign": "not a whole checkpoint",
    "evaluate unread": "model.json: can't be read",
    "evaluate torn": "config.yaml: can't be read",
    "evaluate other": "does not fit the model",
    "evaluate trusting": "evil.* is in none of the trusted packages",
    "predict digits": "takes a run and what to predict",
    "predict digits nowhere.png": "nowhere.png",
    "predict digits no*.jpg": "no file has such a name",
    "predict digits empty": "holds no picture",
    "predict digits small.npz": r"samples of shape \[1, 5, 5\], uint8; the model takes pictures, uint8 \[1, 8, 8\]",
    "predict digits colour.npz": r"samples of shape \[3, 8, 8\]",
    "predict digits floats.npz": "float32; the model takes pictures",
    "predict digits many.npz": "it holds a, b. Call the array of samples inputs",
    "predict digits cut.npz": "not a whole .npz",
    "predict digits no.png": "no.png: is no whole image",
    "predict digits level.csv": "the model takes pictures.* one a line: train predict RUN - < FILE",
    "predict numbers objects.npy": "Python objects, which could run code",
    "predict numbers nan.npy": "NaN",
    "predict table one.png": "the model takes the 3 columns of a table; accepted files: .csv",
    "predict table lacks.csv": "it lacks 2 columns",
    "predict digits one.png out=x.txt": "out=x.txt: must end in .csv, .jsonl, .npz, .parquet",
    "predict digits one.png out=nowhere/x.csv": "there is no folder",
    "predict digits one.png top=many": "top=many: must be a whole number",
    "predict digits one.png top=11": "top=11: the model knows 10 classes. Type top=10.",
    "predict table lacks.csv top=0": "top=0: must be a whole number >= 1",
    "predict digits one.png out=level.csv": "out=level.csv: is there already",
    "predict digits no.png cut.npz": "nothing was predicted: none of 2 can be read",
    "evaluate digits --json --csv": "--json --csv: say two forms of one output",
    "predict digits one.png --json out=x.csv": "--json: is the form of standard output. Leave it out, or out=x.csv",
    "export digits device=cuda": "device=cuda: train export takes cpu",
    "export digits precision=bfloat16": "precision=bfloat16: train export takes float32",
    "evaluate table data=digits": "data: the model was trained with a table. Type data.path=<a table>",
    "predict digits - checkpoint=average": "has no average of the weights",
    "predict damaged one.png": "not a whole checkpoint",
    "predict other one.png": "does not fit the model",
    "evaluate digits --png one.png": "--png one.png: is a file",
    "evaluate table data.path=empty": "the model was trained with a table. Type data.path=<a table>",
    "predict digits one.png data.root=x": "Type train predict digits FILE",
    "predict digits - one.png": "standard input is read by itself",
    "export digits format=tflite": "format=tflite: must be onnx, pt2 or safetensors",
    "export digits format=pt2 quantize=int8": "quantize=int8: must be int8, with format=onnx",
    "export digits format=pt2 out=x.tflite": "Type out=model.pt2",
    "export digits out=x.pt2": "Type format=pt2 for such a file",
    "export digits preprocessing=maybe": "preprocessing=maybe: must be true or false",
    "pack digits out=x.tar": "must be a file",
    "evaluate no.png": "there is no run",
}


@pytest.fixture
def here(runs: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[set[Path]]:
    monkeypatch.chdir(runs)
    monkeypatch.setattr(sys, "argv", ["train"])
    before = set(runs.rglob("*"))
    yield before
    assert set(runs.rglob("*")) == before  # nothing is left, and nothing has run
    assert "evil" not in sys.modules


@pytest.mark.parametrize("words", WRONG)
def test_a_line_says_what_is_wrong(words: str, here: set[Path], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=WRONG[words]) as caught:
        cli.run_command(words.split())
    assert "\n" not in str(caught.value)
    assert str(caught.value) not in capsys.readouterr().err, "it is told once"


def test_a_line_of_standard_input_that_names_nothing(
    here: set[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"one.png\nnowhere.png\n")))
    assert cli.run_command(["predict", "digits", "-"]) == 1
    said = capsys.readouterr()
    assert [line.split(",")[0] for line in said.out.splitlines()] == ["1", "2"]
    assert "line 2: nowhere.png" in said.err
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"\n")))
    with pytest.raises(UserError, match="standard input holds no sample"):
        cli.run_command(["predict", "digits", "-"])


def test_a_checkpoint_that_lies_in_no_run(here: set[Path], tmp_path: Path) -> None:
    alone = tmp_path / "last.pt"
    shutil.copy("runs/digits/checkpoints/last.pt", alone)
    with pytest.raises(UserError, match=r"lies in no run's folder"):
        cli.run_command(["evaluate", str(alone)])
    with pytest.raises(UserError, match=r"is a checkpoint itself"):
        cli.run_command(["evaluate", "runs/digits/checkpoints/last.pt", "checkpoint=best"])
