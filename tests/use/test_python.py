"""`from trainer import load, run, runs`: the same as the command, in a program or a notebook."""

import random
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import trainer
from trainer.data import digits
from trainer.errors import UserError

Train = Callable[..., dict[str, Any]]
Sources = dict[str, tuple[str, ...]]


def test_the_import_is_quick_and_torch_comes_late() -> None:
    # Of the processor, the quickest of three: the machine may be busy.
    program = (
        "import sys, time; t = time.process_time(); from trainer import load, run, runs\n"
        "assert 'torch' not in sys.modules and 'hydra' not in sys.modules; print(time.process_time() - t)\n"
        "import trainer.run; from trainer import run as again; assert callable(again) and callable(trainer.run)"
    )
    took = [float(subprocess.check_output([sys.executable, "-c", program], text=True)) for _ in range(3)]
    assert min(took) < 0.1


def test_a_run_and_what_it_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = trainer.run("model=lenet", max_steps=20, monitor="off", name="a_b", **{"optimizer.lr": 0.01})
    assert isinstance(model, torch.nn.Module)
    assert not model.training
    assert model.config["optimizer"]["lr"] == 0.01
    assert model.classes == tuple("0123456789")
    assert (model.folder, model.step) == (Path("runs/a_b"), 20)
    assert model.evaluate() == {n: model.metrics[f"test/{n}"] for n in ("loss", "accuracy")}
    steps, losses = model.history.of("val/loss")
    assert (steps.tolist(), losses.tolist()) == ([20.0], [model.metrics["val/loss"]])
    assert model.history.to_pandas()["val/loss"].dropna().tolist() == losses.tolist()

    raw = digits.load().test.inputs  # type: ignore[union-attr]
    with np.load("runs/a_b/predictions.npz") as left, torch.no_grad():
        assert torch.allclose(model(raw), torch.from_numpy(left["outputs"]), atol=1e-4)
        found = model.predict(raw.numpy())
        assert [p.label for p in found] == [str(c) for c in left["outputs"].argmax(1)]
    assert found[0].probabilities.argmax() == int(found[0].label)
    again = trainer.load("a_b", checkpoint=20)
    assert torch.equal(again(raw[:3]), model(raw[:3]))
    with pytest.raises(UserError, match="samples of shape"):
        again(raw[:, :, :4])

    (only,) = trainer.runs(where="val/loss<9", sort="-val/loss")
    assert (only["run"], only["optimizer.lr"]) == ("a_b", 0.01)
    assert trainer.runs(where="val/loss<0", sort="-val/loss") == []
    assert trainer.runs().to_pandas().loc["a_b", "model"] == "lenet"


def test_rows_of_a_table(train: Train, sources: Sources) -> None:
    pandas = pytest.importorskip("pandas")
    train("data=table", *sources["table"], "model=two_layer", "max_steps=3", "name=x", "monitor=off")
    model = trainer.load("x")
    rows = [{"size": 1.5, "colour": "red", "count": None}, {"size": -1, "colour": None, "count": 3}]
    both = model.predict(rows)
    assert [p.label[0] for p in both] == ["k", "k"]
    frame = pandas.DataFrame(rows)
    assert [p.label for p in model.predict(frame)] == [p.label for p in both]
    for one in (rows[0], frame.iloc[0], iter(rows[:1])):
        assert str(model.predict(one)) == str(both[:1])
    assert model.predict(frame[:0]) == []
    with pytest.raises(UserError, match=r"^predict: an array has no names of columns\. Give .*: size"):
        model.predict(np.ones((2, 3)))
    with pytest.raises(UserError, match="it lacks 2 columns"):
        model.predict([{"size": 1}])


@pytest.mark.parametrize(
    ("words", "keys", "line"),
    [
        (["--multirun"], {"seed": 0}, "trains one run"),
        (["show"], {}, "trainer.run trains"),
        (["modl=lenet"], {}, "modl"),
        ([], {"max_steps": 0}, "max_steps=0"),
        ([], {"dry_run": True}, "^dry_run=true: leaves no run, whose model trainer.run would give. Type train dry_run"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], keys: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=line):
        trainer.run(*words, **keys)


NOTEBOOK = [
    "from trainer import load, run, runs\nmodel = run('model=two_layer', max_steps=30, name='nb')\nmodel",
    "model.evaluate()['accuracy'] == model.metrics['test/accuracy']",
    "import os, signal, threading, time\n"
    "def stop():\n"
    "    while not os.path.exists('runs/long/metrics.jsonl'):\n"
    "        time.sleep(0.1)\n"
    "    os.kill(os.getpid(), signal.SIGINT)\n"
    "threading.Thread(target=stop).start()\n"
    "try:\n"
    "    run(max_epochs=100000, name='long', monitor='scalars')\n"
    "except KeyboardInterrupt as error:\n"
    "    print('INTERRUPTED', error)",
    "load('long').step > 0, len(runs())",
    "run(max_steps=0)",
]


@pytest.mark.long
def test_a_notebook(tmp_path: Path) -> None:
    """Trains, is interrupted, and goes on, in a kernel of its own; no cell holds an escape code of a terminal's."""
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in NOTEBOOK])
    client = nbclient.NotebookClient(
        book, timeout=300, allow_errors=True, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    outputs = [cell.outputs for cell in book.cells]
    streams = ["".join(o.text for o in found if o.output_type == "stream") for found in outputs]
    results = [[o.data["text/plain"] for o in found if o.output_type == "execute_result"] for found in outputs]
    assert "\x1b" not in "".join(streams)
    assert "\r" not in "".join(streams)
    assert "step=30 test/loss=" in streams[0]
    assert results[0][0].startswith("<runs/nb at step 30")
    assert results[1] == ["True"]
    assert "INTERRUPTED stopped after step" in streams[2]
    assert "run('resume=runs/long')" in streams[2]
    assert results[3] == ["(True, 2)"]
    assert outputs[4][0].evalue.startswith("max_steps=0: must be")


def leaves_as_it_was(task: Callable[[], Any]) -> Any:
    """What `task` gives; torch's settings are the same before and behind it."""

    def settings() -> tuple[Any, ...]:
        modes = torch.is_grad_enabled(), torch.is_anomaly_enabled(), torch.is_autocast_enabled("cpu")
        kinds = torch.get_default_dtype(), str(torch.get_default_device()), torch.get_float32_matmul_precision()
        return (
            *modes,
            *kinds,
            torch.get_deterministic_debug_mode(),
            torch.get_num_threads(),
            torch.backends.mkldnn.enabled,
        )

    before = settings()
    found = task()
    assert settings() == before
    return found


def test_what_a_program_draws_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search at random in a notebook drew the same after each run: the run's seed was left in all generators."""
    monkeypatch.chdir(tmp_path)

    def drawn() -> tuple[float, float, float]:
        return float(torch.rand(())), float(np.random.rand()), random.random()

    def seed() -> None:
        torch.manual_seed(7)
        np.random.seed(7)
        random.seed(7)

    seed()
    expected = [drawn() for _ in range(4)]
    seed()
    found = [drawn()]
    model = trainer.run("model=two_layer", max_steps=2, monitor="off", device="cpu", name="a")
    found.append(drawn())
    with pytest.raises(UserError, match="seed=1"):
        trainer.run("model=two_layer", max_steps=2, monitor="off", device="cpu", name="a", seed=1)  # refused
    model.evaluate()
    found.append(drawn())
    trainer.load("a").predict(np.zeros((1, 1, 8, 8), np.uint8))
    found.append(drawn())
    assert found == expected


def test_runs_of_several_threads_do_not_draw_from_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They shared the generators of the process: the same seed gave another loss."""
    monkeypatch.chdir(tmp_path)

    def loss(name: str, seed: int) -> float:
        words = ("model=lenet", "model.dropout=0.3", "data.limit=64", "max_steps=12", "monitor=off", "device=cpu")
        return trainer.run(*words, name=name, seed=seed).metrics["test/loss"]

    alone = [loss(f"alone{seed}", seed) for seed in (0, 1)]
    with ThreadPoolExecutor(2) as pool:
        assert [*pool.map(loss, ("a", "b"), (0, 1))] == alone


def test_what_a_program_has_set_changes_no_number_and_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("model=lenet", "data.limit=64", "max_steps=3", "monitor=off", "device=cpu")
    expected = trainer.run(*words, name="plain").metrics
    before = torch.get_num_threads()
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    try:
        torch.set_default_dtype(torch.float64)
        torch.set_default_device("meta")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.set_float32_matmul_precision("medium")
        torch.set_num_threads(before + 1)
        with torch.autograd.set_detect_anomaly(True), torch.autocast("cpu"), torch.no_grad():
            found = leaves_as_it_was(lambda: trainer.run(*words, name="odd"))
            again = leaves_as_it_was(lambda: trainer.load("plain"))
            assert leaves_as_it_was(again.evaluate)["loss"] == expected["test/loss"]
        with torch.inference_mode():  # was refused: "no gradient leads through it"
            assert again.evaluate()["loss"] == expected["test/loss"]
        trainer.load("plain", threads=before + 2)
        assert torch.get_num_threads() == before + 2
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
        torch.use_deterministic_algorithms(False)
        torch.set_float32_matmul_precision("highest")
        torch.set_num_threads(before)
    assert {k: v for k, v in found.metrics.items() if "/" in k and "time" not in k} == {
        k: v for k, v in expected.items() if "/" in k and "time" not in k
    }
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), again.parameters(), strict=True))
    with torch.device("meta"), pytest.raises(UserError, match="can't be called within it"):
        trainer.load("plain")
