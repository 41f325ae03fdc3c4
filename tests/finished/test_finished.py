"""`train runs`, `compare`, `show` and `board` on real folders of runs, whatever state these are in."""

import csv
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit

import pytest
from omegaconf import OmegaConf
from rich.console import Console
from rich.text import Text

from trainer.command import main as cli
from trainer.command.verbs import run_verb
from trainer.config.schema import leaves
from trainer.disk.lock import locked
from trainer.errors import RunStopped, UserError
from trainer.finished.chart import chart
from trainer.finished.read import Broken, read_config, read_run, run_folders
from trainer.finished.table import Column, open_console, print_lines, table
from trainer.monitor.events import EventFile

TINY = ("model=two_layer", "max_steps=5", "monitor.every=1", "eval_every=2")
JOB = (*TINY, "optimizer=sgd", "optimizer.lr=0.3")
SWEEP = f"sweep/{','.join(JOB)}"  # its folder's name means something to Hydra


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `runs/` that the command made."""
    root = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(sys, "argv", ["train"])
        patch.setenv("HYDRA_FULL_ERROR", "1")
        for words in (
            ("name=adam",),
            ("name=sgd/slow", "optimizer=sgd", "optimizer.lr=0.02"),
            ("name=sgd/fast", "optimizer=sgd", "optimizer.lr=0.5", "seed=1"),
        ):
            assert cli.run_command([*TINY, *words]) == 0
        with pytest.raises(RunStopped):
            cli.run_command([*TINY, "name=diverged", "optimizer=sgd", "optimizer.lr=1e30"])
        assert cli.run_command([*JOB, f"name='{SWEEP}'"]) == 0
    return root


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, to be in and to spoil."""
    shutil.copytree(made / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    for name in ("FORCE_COLOR", "NO_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


Said = Callable[..., str]


@pytest.fixture
def said(here: Path, capsys: pytest.CaptureFixture[str]) -> Said:
    """`said("runs", "--csv")` is what the verb prints; nothing may stand on stderr."""

    def run(*argv: str) -> str:
        assert run_verb(argv) == 0
        out, err = capsys.readouterr()
        assert err == ""
        return out

    return run


def rows_of(said: Said, *words: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(said("runs", *words, "--json"))
    return rows


def result_of(name: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(Path("runs", name, "result.json").read_text())
    return result


def without_colours(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def lines_of(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path("runs", name, "metrics.jsonl").read_text().splitlines()]


# --- runs: what is in the table ---------------------------------------------------------------------------------------


def test_a_long_line_is_cut_at_a_blank_unless_it_is_a_command() -> None:
    lines = [
        "  some words that are longer",
        "  train resume=runs/a max_steps=3",
        "runs/a/path/without/a/blank",
        "short",
    ]
    shown = io.StringIO()
    print_lines([*map(Text, lines)], Console(file=shown, force_terminal=True, width=16, color_system=None))
    assert shown.getvalue().splitlines() == ["  some words", "  that are", "  longer", *lines[1:]]


@pytest.mark.slow
def test_the_table_names_what_differs_and_starts_with_the_best(said: Said) -> None:
    first, *rest = (line.split() for line in said("runs").splitlines())
    assert first[:4] == ["run", "optimizer", "seed", "optimizer.lr"]  # and neither name nor max_steps nor model
    assert first[4:] == ["best/val/accuracy", "val/accuracy", "test/accuracy", "val/loss", "steps", "time", "status"]
    assert {row[0] for row in rest} == {"adam", "sgd/slow", "sgd/fast", "diverged", SWEEP}
    best = {row[0]: max(line.get("val/accuracy", 0.0) for line in lines_of(row[0])) for row in rest}
    assert best[rest[0][0]] == max(best.values())
    assert rest[-1][:8] == ["diverged", "sgd", "0", "1e+30", "-", "-", "-", "-"]
    steps, seconds, status = rest[-1][8:]
    assert (steps, status) == (str(result_of("diverged")["steps"]), "stopped")
    assert re.fullmatch(r"0:\d\d", seconds)


def test_what_runs_were_judged_by_has_a_column(train: Callable[..., Any], capsys: Any) -> None:
    pytest.importorskip("torchmetrics")
    result = train(*TINY, "name=a", "metric=[f1]", "checkpoint.metric=val/f1")
    train(*TINY, "name=b", "seed=1")
    capsys.readouterr()
    assert run_verb(["runs"]) == 0
    head, *rows = (line.split() for line in capsys.readouterr().out.splitlines())
    assert [tag for tag in head if tag.endswith("f1")] == ["best/val/f1", "test/f1"]
    cells = {row[0]: dict(zip(head, row, strict=False)) for row in rows}
    assert float(cells["a"]["best/val/f1"]) == pytest.approx(result["best/val/f1"], abs=1e-4)
    assert float(cells["a"]["test/f1"]) == pytest.approx(result["test/f1"], abs=1e-4)
    assert cells["b"]["best/val/f1"] == "-"


def test_json_holds_config_result_and_best_by_the_names_that_are_typed(said: Said) -> None:
    rows = {row["run"]: row for row in rows_of(said)}
    assert len(rows) == 5
    for name, row in rows.items():
        assert row["folder"] == f"runs/{name}"
        result = result_of(name)
        assert {tag: row[tag] for tag in result} == result
        config: Any = OmegaConf.to_container(OmegaConf.load(f"runs/{name}/config.yaml"))
        assert {group: row[group] for group in config["choices"]} == config.pop("choices")
        keys = {key: value for key, value in leaves(config) if "." in key or key not in row}
        assert {key: row[key] for key in keys} == keys
        losses = [line["val/loss"] for line in lines_of(name) if "val/loss" in line]
        assert row.get("best/val/loss") == min(losses, default=None)


def test_csv_says_the_same(said: Said) -> None:
    by_name = {row["run"]: row for row in rows_of(said)}
    table = list(csv.DictReader(io.StringIO(said("runs", "--csv"))))
    assert [row["run"] for row in table] == list(by_name)
    assert {"optimizer.lr", "val/loss", "best/val/accuracy", "status", "seconds"} <= table[0].keys()
    for row in table:
        for key, text in row.items():
            value = by_name[row["run"]].get(key)
            assert text == "" if value is None else text == value or float(text) == value, key


def test_one_run_and_a_part_of_the_runs(said: Said) -> None:
    assert [row["run"] for row in rows_of(said, "runs/adam")] == ["adam"]
    assert {row["run"] for row in rows_of(said, "runs/sgd")} == {"slow", "fast"}


@pytest.mark.parametrize(
    ("where", "keeps"),
    [
        ("optimizer=sgd", lambda run: run["optimizer"] == "sgd"),
        ("optimizer!=sgd", lambda run: run["optimizer"] != "sgd"),
        ("optimizer.lr<0.02", lambda run: run["optimizer.lr"] < 0.02),
        ("optimizer.lr<=2e-2", lambda run: run["optimizer.lr"] <= 0.02),
        ("optimizer.lr > 0.02", lambda run: run["optimizer.lr"] > 0.02),
        ("optimizer.lr>=0.5 status=finished", lambda run: run["optimizer.lr"] == 0.5),
        ("val/loss<100", lambda run: "val/loss" in run),
        ("val/loss=null", lambda run: "val/loss" not in run),
        ("seed==1", lambda run: run["seed"] == 1),
        ("seed=1.0", lambda run: run["seed"] == 1),
        ("optimizer.nesterov=false", lambda run: run.get("optimizer.nesterov") is False),
        ("optimizer.betas=[0.9,0.999]", lambda run: run["optimizer"] == "adam"),
        ("optimizer.betas=[0.9, 0.999] seed=0", lambda run: run["optimizer"] == "adam"),
        ("optimizer.betas.1>0.99", lambda run: run["optimizer"] == "adam"),
        ("optimizer='adam'", lambda run: run["optimizer"] == "adam"),
        ("best/val/accuracy>0 steps=5", lambda run: run["status"] == "finished"),
    ],
)
def test_where(said: Said, where: str, keeps: Callable[[dict[str, Any]], bool]) -> None:
    everything = rows_of(said)
    expected = [run["run"] for run in everything if keeps(run)]
    assert 0 < len(expected) < len(everything)
    assert [row["run"] for row in rows_of(said, f"where={where}")] == expected


def test_where_nothing_holds(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_verb(["runs", "where=seed>100", "--json"]) == 0
    out, err = capsys.readouterr()
    assert (json.loads(out), err) == ([], "none of 5 runs has seed>100\n")


@pytest.mark.parametrize(
    ("key", "is_largest_first"),
    [("val/loss", False), ("val/accuracy", True), ("test/accuracy", True), ("optimizer.lr", False), ("steps", False)],
)
def test_sort(said: Said, key: str, is_largest_first: bool) -> None:
    for word, is_descending in ((key, is_largest_first), (f"-{key}", not is_largest_first)):
        found = [row.get(key) for row in rows_of(said, f"sort={word}")]
        numbers = [value for value in found if value is not None]
        assert numbers == sorted(numbers, reverse=is_descending)
        assert len(set(numbers)) > 1
        assert found[: len(numbers)] == numbers  # the runs without it come last


def test_runs_without_accuracy_are_sorted_by_their_loss(said: Said) -> None:
    for path in Path("runs").rglob("metrics.jsonl"):
        path.write_text(re.sub(r', "val/accuracy": [^,}]*', "", path.read_text()))
    for path in Path("runs").rglob("result.json"):
        kept = {tag: value for tag, value in json.loads(path.read_text()).items() if not tag.endswith("val/accuracy")}
        path.write_text(json.dumps(kept))
    losses = [row["best/val/loss"] for row in rows_of(said, "where=status=finished")]
    assert len(losses) == 4
    assert losses == sorted(losses)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("runs where=optimzer.lr<1", "where=optimzer.lr: no run has such a key or tag. Did you mean optimizer.lr?"),
        ("runs where=accuracy>0", "where=accuracy: no run has such a key or tag. Did you mean val/accuracy?"),
        ("runs where=optimizer.betas.2>0", "where=optimizer.betas.2: no run has such a key or tag. Did you mean optim"),
        ("runs sort=-val/los", "sort=val/los: no run has such a key or tag. Did you mean val/loss?"),
        ("runs where=seed", "where=seed: can't be read from seed on. Type terms"),
        ("runs where=seed<<1", "where=seed<<1: can't be read"),
        ("runs where=seed<one", "where=seed<one: < compares numbers. Words go with = and !=."),
        ("runs where=", "where: has no value. Type train help runs"),
        ("runs where", "where: has no value. Type where=... without spaces."),
        ("runs --csv=runs.csv", "--csv=runs.csv: takes no value. Type --csv"),
        ("runs wher=seed=1", "wher=seed=1: train runs has no such word. Did you mean where?"),
        ("runs --cvs", "--cvs: train runs has no such word. Did you mean --csv?"),
        ("runs nowhere", "nowhere: there is no such folder"),
        ("runs runs/adam/checkpoints", "runs/adam/checkpoints: holds no run of train"),
        ("runs runs runs", "train runs takes one folder"),
        ("show", "train show takes one run, not 0"),
        ("show admm", "admm: there is no run. Did you mean adam?"),
        ("show runs/sgd", "runs/sgd: there is no run."),
        ("show adam --csv", "--csv: train show has no such word."),
        ("compare adam", "train compare takes two runs or more"),
        ("compare adam sgd/fst", "sgd/fst: there is no run. Did you mean sgd/fast?"),
        ("compare adam sgd/fast --png", "--png: has no value"),
        ("compare adam sgd/fast --png a.pdf", "--png a.pdf: a PNG is written. Type --png a.png."),
        ("show -- --csv", "--csv: there is no run."),
        ("compare " + "adam " * 17, "train compare takes up to 16 runs, not 17"),
        ("board nowhere", "nowhere: there is no such folder"),
        ("board port=none", "port=none: must be a whole number from 1 to 65535. Try port=6006."),
        ("board --bind_all", "--bind_all: train board has no such word"),
    ],
)
def test_a_mistake_is_one_line(here: Path, capsys: pytest.CaptureFixture[str], words: str, line: str) -> None:
    with pytest.raises(UserError) as error:
        run_verb(words.split())
    assert str(error.value).startswith(line) or line in str(error.value)
    assert "\n" not in str(error.value)
    assert capsys.readouterr().out == ""


def test_a_sweep_is_no_run_and_the_line_names_what_to_type(here: Path) -> None:
    sweep = here / "runs/sgd/sweep.yaml"
    sweep.write_text("command: []\n")
    num_runs = len([*run_folders(Path("runs/sgd"))])
    line = f"sgd: is a sweep of {num_runs} runs. Type train compare sgd; or name one of them, such as runs/sgd/fast."
    for words in (["show", "sgd"], ["compare", "adam", "sgd"]):
        with pytest.raises(UserError, match=f"^{line}$"):
            run_verb(words)
    assert run_verb(["show", "runs/sgd/fast"]) == 0


def test_without_any_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for words in (["runs"], ["show", "a"], ["compare", "a", "b"], ["board"]):
        with pytest.raises(UserError):
            run_verb(words)


# --- folders in any state ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("result.json", b'{"status": "fini', "can't be read"),
        ("result.json", b"[]", "is no result of train"),
        ("result.json", b"{}", "is no result of train"),
        ("result.json", b"\xff\xfe", "can't be read"),
        ("config.yaml", b"", "is no config of train"),
        ("config.yaml", b"a: [1, 2", "can't be read"),
        ("config.yaml", b"seed: 1\nmodel: {a: 1}\n", "is no config of train"),  # another program's
        ("config.yaml", b"just text", "can't be read"),
        ("config.yaml", b"\x00\x01\xff", "can't be read"),
        ("config.yaml", b"[" * 2000, "can't be read"),
        ("config.yaml", None, "can't be read: No such file"),
    ],
)
def test_a_broken_folder_is_skipped_with_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], file: str, content: bytes | None, reason: str
) -> None:
    path = Path("runs/sgd/fast", file)
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    assert run_verb(["runs", "--json"]) == 0
    out, err = capsys.readouterr()
    assert {row["run"] for row in json.loads(out)} == {"adam", "sgd/slow", "diverged", SWEEP}
    assert err.startswith(f"warning: runs/sgd/fast/{file}: {reason}")
    assert err.endswith("; skipped.\n")
    assert err.count("\n") == 1
    with pytest.raises(UserError, match=re.escape(reason)):
        run_verb(["show", "sgd/fast"])


def test_a_torn_file_is_never_our_fault(here: Path) -> None:
    """Cut anywhere, a run is read, or named broken."""
    for name in ("config.yaml", "result.json", "metrics.jsonl", "overrides.yaml"):
        path = Path("runs/adam", name)
        whole = path.read_bytes()
        for length in range(0, len(whole.rstrip()) - len("two_layer"), 13):  # the end of a word can't be missed
            path.write_bytes(whole[:length])
            if name in ("config.yaml", "result.json"):
                with pytest.raises(Broken, match=f"^runs/adam/{name}: "):
                    read_run(Path("runs/adam"), "adam")
            else:
                assert read_run(Path("runs/adam"), "adam").config["model"] == "two_layer"
        path.write_bytes(whole)


def test_hidden_folders_links_and_circles_are_left_out(said: Said) -> None:
    shutil.copytree("runs/adam", "runs/.hidden")
    Path("runs/again").symlink_to("adam", target_is_directory=True)
    Path("runs/sgd/circle").symlink_to("..", target_is_directory=True)
    assert len(rows_of(said)) == 5


def test_a_run_within_a_run(said: Said) -> None:
    """name=adam and name=adam/longer are two runs."""
    shutil.copytree("runs/sgd/fast", "runs/adam/longer")
    assert {"adam", "adam/longer"} <= {row["run"] for row in rows_of(said)}


def test_a_run_that_goes_on(said: Said) -> None:
    """No result yet, the last line half written: the lines so far are what it came to."""
    finished, lines = result_of("adam"), lines_of("adam")
    Path("runs/adam/result.json").unlink()
    with open("runs/adam/metrics.jsonl", "a") as file:
        file.write('{"step": 6, "train/lo')
    with locked(Path("runs/adam")):  # by this process, which goes on
        (row,) = rows_of(said, "where=status=running")
        assert "it is still going" in said("show", "adam")
        assert "running" in said("compare", "adam", "sgd/fast")
        with pytest.raises(UserError, match="is still going"):
            run_verb(["reproduce", "adam"])
        another = "import pathlib, trainer.disk.lock as lock; print(lock.holder(pathlib.Path('runs/adam')))"
        told = subprocess.run([sys.executable, "-c", another], capture_output=True, text=True, timeout=600).stdout
        assert told.startswith(f"process {os.getpid()} on ")  # which has been asked, and has its lock still
    assert (row["run"], row["steps"]) == ("adam", 5)
    for tag in ("train/loss", "val/loss", "test/loss", "lr"):
        assert row[tag] == finished[tag]
    assert row["best/val/loss"] == min(line["val/loss"] for line in lines if "val/loss" in line)
    assert row["seconds"] == pytest.approx(sum(line.get("time/step_ms", 0.0) for line in lines) / 1000)


def test_a_run_that_has_only_begun(said: Said) -> None:
    for name in ("result.json", "metrics.jsonl"):
        Path("runs/adam", name).unlink()
    shutil.rmtree("runs/adam/checkpoints")
    row = next(row for row in rows_of(said) if row["run"] == "adam")
    assert (row["steps"], row["seconds"]) == (0, 0.0)
    assert "nothing was saved" in said("show", "adam")
    assert "adam" in said("runs")
    said("compare", "adam", "sgd/fast")


def test_a_run_whose_process_is_gone_was_killed(said: Said) -> None:
    Path("runs/adam/result.json").unlink()
    assert [row["run"] for row in rows_of(said, "where=status=killed")] == ["adam"]  # somebody took the result away
    code = "import os, pathlib; from trainer.disk.lock import locked; held = locked(pathlib.Path('runs/adam'))"
    code = f"{code}; held.__enter__(); os._exit(0)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600)
    assert Path("runs/adam/.lock").is_file()
    assert [row["run"] for row in rows_of(said, "where=status=killed")] == ["adam"]
    assert section(said("show", "adam"), "to go on") == ["train resume=runs/adam"]


@pytest.mark.parametrize(("seconds_ago", "status"), [(5, "running"), (3600, "killed"), (-3600, "killed")])
def test_of_another_machine_the_last_writing_tells(said: Said, seconds_ago: float, status: str) -> None:
    Path("runs/adam/result.json").unlink()
    Path("runs/adam/.lock").write_text("process 1 on elsewhere")
    for path in Path("runs/adam").iterdir():
        then = time.time() - seconds_ago
        os.utime(path, (then, then))
    assert next(row["status"] for row in rows_of(said) if row["run"] == "adam") == status


@pytest.mark.parametrize(
    "text",
    [
        "",
        "note: 2024-01-01\n",  # a date is text
        "note: 'a: b'\nother: \"x\\n  y: 1\"\n",
        "note: |\n  several\n\n  lines: of text\n\nother: 1.0e-08\n",
        "note: 'a text\n\n  over lines'\n",
        'note: "a text\n\nto: the left"\n',  # which no part of a config alone would be
        "# a comment\nnote: {a: 1, b: {c: [1, 2]}}\nlist:\n- 1\n- a: 2\n",
        "größe: 1\nnote: yes\nother: null\nempty: {}\n",
    ],
)
def test_a_config_read_in_parts_is_what_omegaconf_reads(here: Path, text: str) -> None:
    path = Path("runs/adam/config.yaml")
    path.write_text(text + path.read_text(), encoding="utf-8")
    expected: Any = OmegaConf.to_container(OmegaConf.load(path))
    choices = expected.pop("choices")
    assert read_config(Path("runs/adam")) == {**dict(leaves(expected)), **choices}


def test_many_runs(said: Said) -> None:
    """500 folders: all of them, the best first, and of the config the two keys that differ."""
    config = Path("runs/adam/config.yaml").read_text()
    result = {tag: value for tag, value in result_of("adam").items() if not tag.startswith("best/")}
    for i in range(500):
        folder = Path(f"many/{i % 7}/{i}")
        folder.mkdir(parents=True)
        changed = config.replace("\nseed: 0", f"\nseed: {i}").replace("lr: 0.002", f"lr: {1 + i % 20}")
        (folder / "config.yaml").write_text(changed)
        line = {"step": 5, "val/accuracy": (i * 37 % 500) / 500, "val/loss": 1.0}
        (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
        (folder / "result.json").write_text(json.dumps({**result, **line}))
    heading, *rows = said("runs", "many").splitlines()
    assert heading.split()[:4] == ["run", "seed", "optimizer.lr", "best/val/accuracy"]
    order = sorted(range(500), key=lambda i: -(i * 37 % 500))
    assert [row.split()[:3] for row in rows] == [[f"{i % 7}/{i}", str(i), str(1 + i % 20)] for i in order]
    assert len(rows_of(said, "many", "where=optimizer.lr=3")) == 25


def test_another_choice_hides_the_keys_that_come_with_it(said: Said) -> None:
    """Of two models, what one has and the other lacks says no more than the model's name."""
    path = Path("runs/adam/config.yaml")
    text = path.read_text().replace("  model: two_layer", "  model: lenet").replace("  hidden_features: 100\n", "")
    path.write_text(text.replace("trainer.models.two_layer.TwoLayer", "trainer.models.lenet.LeNet"))
    differences = said("compare", "adam", "sgd/slow").partition("results")[0]
    assert [line.split()[0] for line in differences.splitlines()[4:-1]] == ["model", "optimizer", "optimizer.lr"]


def test_a_key_that_some_runs_lack_is_shown_where_the_others_differ(train: Callable[..., Any], capsys: Any) -> None:
    for number, words in enumerate(("model=lenet model.kernel_size=3", "model=lenet", "model=two_layer")):
        train(*words.split(), "monitor=off", "data.limit=40", "max_steps=1", f"name={number}")
    for form in ((), ("--csv",)):
        capsys.readouterr()
        assert run_verb(["runs", *form]) == 0
        heading, *rows = capsys.readouterr().out.replace(",", " ").splitlines()
        assert "model.kernel_size" in heading
        assert "model.gradient" not in heading
        assert len(rows) == 3
    assert run_verb(["compare", "0", "2"]) == 0
    assert "model.kernel_size" not in capsys.readouterr().out


def test_classes_of_ones_own_have_their_names(train: Callable[..., Any], capsys: Any, tmp_path: Path) -> None:
    code = "from torch import nn\n"
    for name in ("Wide", "Deep"):
        code += f"class {name}(nn.Sequential):\n    def __init__(self, in_features, num_classes):\n"
        code += "        super().__init__(nn.Flatten(), nn.Linear(in_features, num_classes))\n"
    (tmp_path / "ournets.py").write_text(code)
    for name in ("Wide", "Deep"):
        words = ("trust=[ournets]", "monitor=off", "data.limit=40", "max_steps=1", f"name={name}")
        train(f"model._target_=ournets.{name}", *words)
    capsys.readouterr()
    assert run_verb(["runs", "where=model=Wide", "--json"]) == 0
    assert [row["run"] for row in json.loads(capsys.readouterr().out)] == ["Wide"]
    for verb in (["runs"], ["compare", "Wide", "Deep"]):
        assert run_verb(verb) == 0
        out = capsys.readouterr().out
        assert "own" not in out.replace("known", "")
        assert "_target_" not in out


# --- how it looks -----------------------------------------------------------------------------------------------------


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """`terminal(60)` makes stdout one, to rich."""

    def be(width: int) -> None:
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm-256color")

    return be


@pytest.mark.parametrize("width", [60, 80, 132, 250])
def test_the_table_fits_its_terminal(said: Said, terminal: Callable[[int], None], width: int) -> None:
    terminal(width)
    table, _, no_room = without_colours(said("runs")).partition("no room for ")
    lines = table.splitlines()
    assert max(map(len, lines)) <= width
    assert len(lines) == 2 + 5
    assert "accuracy" in lines[1]
    for key in ("optimizer.lr", "test/accuracy", "steps"):
        assert (key.rpartition(".")[2].rpartition("/")[2] in lines[1].split()) or key in no_room
    if width == 250:
        assert SWEEP in table
        assert not no_room


def test_columns_give_way_by_rank(terminal: Callable[[int], None]) -> None:
    terminal(60)
    columns = [Column("run", ["x" * 40, "y"]), *(Column(f"key{i}", ["1" * 12] * 2, rank=i) for i in range(5))]
    lines = table(columns, open_console())
    assert lines.pop().plain == "no room for key3, key4"
    assert lines[0].plain.split() == ["run", "key0", "key1", "key2"]
    assert {len(line) for line in lines} == {60}
    assert lines[1].plain.startswith("…xxx")


def test_what_a_terminal_would_obey_is_not_printed(said: Said, terminal: Callable[[int], None]) -> None:
    path = Path("runs/adam/config.yaml")
    path.write_text('"bad\\ekey": 1\ndevice: "\\e]0;owned\\a"\n' + path.read_text().replace("device: auto\n", ""))
    for words in (["runs"], ["show", "adam"], ["compare", "adam", "sgd/fast"]):
        assert said(*words).replace("\n", "").isprintable()
    assert "?]0;owned?" in said("runs")
    terminal(250)
    assert "?]0;owned?" in without_colours(said("runs"))


def test_where_stdout_lacks_a_sign(here: Path) -> None:
    Path("runs/adam").rename("runs/größe")
    env = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONWARNINGS": "error", "COLUMNS": "60", "FORCE_COLOR": "1"}
    code = "import sys; from trainer.command.verbs import run_verb; run_verb(sys.argv[1:])"
    for words in (["runs"], ["compare", "größe", "sgd/fast"], ["show", "größe"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *words], env=env, capture_output=True, encoding="ascii", timeout=600
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert "gr??e" in done.stdout


@pytest.mark.parametrize("words", ["runs", "runs --json", "compare adam sgd/fast", "show adam"])
def test_a_verb_imports_no_torch(here: Path, words: str) -> None:
    code = (
        "import sys; from trainer.command.verbs import run_verb\n"
        "heavy = {'torch', 'hydra', 'omegaconf', 'numpy', 'tensorboard', 'matplotlib'}\n"
        "assert not ({'rich', 'yaml'} | heavy) & sys.modules.keys(), 'before it is known to be a verb'\n"
        "assert run_verb(sys.argv[1:]) == 0\n"
        "heavy -= {'numpy'} if sys.argv[1] == 'compare' else set()  # two runs are compared sample by sample\n"
        "assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code, *words.split()], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "adam" in done.stdout


# --- compare ----------------------------------------------------------------------------------------------------------


def test_compare_shows_differences_results_and_curves(said: Said) -> None:
    text = said("compare", "runs/adam", "sgd/slow", "sgd/fast")
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.strip()}
    assert (rows["a"], rows["b"], rows["c"]) == (["runs/adam"], ["sgd/slow"], ["sgd/fast"])
    assert rows["optimizer"] == ["adam", "sgd", "sgd"]
    assert rows["optimizer.lr"] == ["0.002", "0.02", "0.5"]
    assert rows["seed"] == ["0", "0", "1"]
    assert "name" not in rows
    assert "optimizer.momentum" not in rows  # adam has none
    losses = [result_of(name)["test/loss"] for name in ("adam", "sgd/slow", "sgd/fast")]
    shown = rows["test/loss"]
    assert [float(cell.strip("*")) for cell in shown] == pytest.approx(losses, rel=1e-3)
    assert [cell.startswith("*") for cell in shown] == [loss == min(losses) for loss in losses]
    accuracies = [result_of(name)["val/accuracy"] for name in ("adam", "sgd/slow", "sgd/fast")]
    assert [cell.startswith("*") for cell in rows["val/accuracy"]] == [a == max(accuracies) for a in accuracies]
    best = min((line["val/loss"], line["step"]) for line in lines_of("sgd/fast") if "val/loss" in line)
    assert f"{best[0]:.3f} at {best[1]}" in re.search(r"^best/val/loss.*", text, re.MULTILINE)[0]  # type: ignore[index]
    for tag in ("train/loss", "val/loss"):
        rows_of_it = [line[9:] for line in text.partition(f"\n{tag}: a b c\n")[2].splitlines()[:10]]
        assert all(any(sign in row for row in rows_of_it) for sign in "abc")


def test_compare_the_same_run(said: Said) -> None:
    text = said("compare", "adam", "adam")
    assert re.search(r"^nothing +- +-$", text, re.MULTILINE)
    assert "*" not in text.replace("(* best)", "")


def test_compare_gives_no_star_where_samples_differ(said: Said) -> None:
    """Accuracies on other test samples say nothing of which run is better."""
    shutil.copytree(Path("runs/adam"), Path("runs/other"))
    origin = json.loads(Path("runs/other/origin.json").read_text())
    origin[-1]["data"]["test"][0] = "300 samples, targets 12345678"
    Path("runs/other/origin.json").write_text(json.dumps(origin))
    text = said("compare", "runs/other", "sgd/slow")
    assert "*" not in re.search(r"^test/loss.*", text, re.MULTILINE)[0]  # type: ignore[index]
    assert "*" in re.search(r"^val/loss.*", text, re.MULTILINE)[0]  # type: ignore[index]
    assert "no star for test: these splits have other samples" in text
    for damaged in ("[1]", '[{"data": {"test": 3}}]', '[{"data": {"test": [[1]], "val": []}}]', "[{}]"):
        Path("runs/other/origin.json").write_text(damaged)
        assert "*" in said("compare", "runs/other", "sgd/slow")


def test_a_narrow_terminal_says_which_runs_have_no_room(said: Said, terminal: Callable[[int], None]) -> None:
    terminal(60)
    text = without_colours(said("compare", *["adam", "sgd/slow", "sgd/fast"] * 2))
    assert re.search(r"no room for .*f in this terminal", text)
    assert max(map(len, text.splitlines())) <= 60


def test_a_curve_goes_where_its_numbers_go() -> None:
    rising, falling = [(step, float(step)) for step in range(1, 101)], [(step, 101.0 - step) for step in range(1, 101)]
    title, *rows, steps = (line.plain for line in chart("loss", [rising, [], falling], 69, 12, is_plain=True))
    assert title == "loss, log scale: a c"
    assert steps.split() == ["1", "100"]
    assert {len(row) for row in rows} == {69}
    assert (rows[0].split()[0], rows[-1].split()[0]) == ("100", "1")
    assert rows[0].index("c") < 12 < 50 < rows[0].index("a")  # falling starts at the top, rising ends there
    assert rows[-1].index("a") < 12 < 50 < rows[-1].index("c")
    for i, sign in ((0, "a"), (2, "c")):
        curve = [rising, [], falling][i]
        alone = [line.plain for line in chart("loss", [[] if j != i else curve for j in range(3)], 69, 12, True)]
        columns = [min(row.index(sign, 9) for row in alone[1:-1] if sign in row[9:])]
        assert columns == [9]
        assert all(any(row[x] == sign for row in alone[1:-1]) for x in range(9, 69))  # without a gap


def test_curves_that_lie_on_each_other_are_both_seen() -> None:
    curve = [(step, step % 7.0) for step in range(50)]
    for row in chart("loss", [curve, curve], 60, 12, is_plain=True)[1:-1]:
        drawn = {(x % 2, sign) for x, sign in enumerate(row.plain[9:]) if sign != " "}
        assert drawn <= {(0, "a"), (1, "b")}
        assert drawn


def test_dots_and_letters_draw_the_same_curve() -> None:
    curve = [(step, (step - 40.0) ** 2) for step in range(0, 101, 5)]
    letters = [line.plain for line in chart("loss", [curve], 60, 10, is_plain=True)]
    dots = [line.plain for line in chart("loss", [curve], 60, 10, is_plain=False)]
    assert (letters[0], letters[-1]) == (dots[0], dots[-1])
    assert len(letters) == len(dots) == 10
    for x in range(9, 60):
        of_letters = [y for y in range(1, 9) if letters[y][x] == "a"]
        of_dots = [y for y in range(1, 9) if dots[y][x] != " "]
        assert of_letters
        assert min(abs(y - z) for y in of_letters for z in of_dots) <= 1


@pytest.mark.parametrize("curve", [[(1, 0.5)], [(1, 2.0), (2, 2.0)], [(1, -3.0), (5, 1e299)], [(3, 0.0)] * 5])
def test_a_curve_of_any_numbers(curve: list[tuple[int, float]]) -> None:
    for is_plain in (True, False):
        lines = chart("x", [curve], 40, 8, is_plain)
        assert len(lines) == 8
        assert any(line.plain[9:].strip() for line in lines[1:-1])


def test_a_run_that_diverged_has_a_curve(said: Said) -> None:
    with open("runs/sgd/slow/metrics.jsonl", "a") as file:
        file.writelines(f'{{"step": 6, "train/loss": {word}}}\n' for word in ("Infinity", "NaN", "1e308", "1e308"))
    said("compare", "adam", "sgd/slow", "diverged")


def test_the_curves_as_a_picture(said: Said) -> None:
    pytest.importorskip("matplotlib")
    from PIL import Image

    text = said("compare", "adam", "sgd/slow", "diverged", "--png", "curves.png")
    assert text.endswith("drawn in curves.png\n")
    with Image.open("curves.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 300
        assert len(picture.convert("RGB").getcolors(1 << 20) or []) > 20
    with pytest.raises(UserError, match=r"--png no/curves.png: can't be written: No such file"):
        run_verb(["compare", "adam", "sgd/slow", "--png=no/curves.png"])


def test_the_picture_without_matplotlib(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"^--png a.png: matplotlib draws it. Type pip install matplotlib.$"):
        run_verb(["compare", "adam", "sgd/slow", "--png", "a.png"])


# --- show -------------------------------------------------------------------------------------------------------------


def section(text: str, title: str) -> list[str]:
    """The lines below a title of `train show`."""
    return [line.strip() for line in text.partition(f"\n{title}\n")[2].split("\n\n")[0].splitlines()]


def test_show_tells_what_was_typed_and_what_came_of_it(said: Said) -> None:
    text = said("show", "sgd/fast")
    result = result_of("sgd/fast")
    total = result["num_parameters"]
    first = text.splitlines()[0]
    assert re.fullmatch(
        rf"runs/sgd/fast: finished, 5 steps, 0:\d\d, {total} parameters, {total} of them trained", first
    )
    (line,) = section(text, "typed")
    assert shlex.split(line) == ["train", *TINY, "name=sgd/fast", "optimizer=sgd", "optimizer.lr=0.5", "seed=1"]
    assert section(text, "choices")[0].startswith("model=two_layer data=digits loss=cross_entropy optimizer=sgd ")
    results = {row.split()[0]: row.split()[1:] for row in section(text, "results")}
    for tag in ("train/loss", "val/loss", "val/accuracy", "test/loss", "test/accuracy"):
        assert float(results[tag][0]) == pytest.approx(result[tag], rel=1e-3)
    best = max(line.get("val/accuracy", 0.0) for line in lines_of("sgd/fast"))
    assert float(results["val/accuracy"][1]) == pytest.approx(best, rel=1e-3)
    assert section(text, "to look at it") == ["train board runs/sgd/fast"]
    assert "diagnosis" not in text


def test_show_lists_a_file_with_several_names_once(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(made)  # a copy of it has no links
    assert run_verb(["show", "adam"]) == 0
    files = {line.split()[0]: line.split()[1:] for line in section(capsys.readouterr().out, "files")}
    assert files["result.json"] == [f"{Path('runs/adam/result.json').stat().st_size / 1000:.1f}", "kB"]
    checkpoints = [name for name in files if name.startswith("checkpoints/")]
    assert sorted(checkpoints) == sorted(
        f"checkpoints/{path.name}" for path in Path("runs/adam/checkpoints").glob("step_*")
    )
    names = "".join(" ".join(files[name][2:]) for name in checkpoints)
    assert sorted(re.findall(r"\w+\.pt", names)) == ["best.pt", "last.pt"]
    for name in checkpoints:
        assert files[name][:2] == [f"{Path('runs/adam', name).stat().st_size / 1000:.1f}", "kB"]


def test_show_lists_the_diagnosis(said: Said) -> None:
    path = Path("runs/adam/result.json")
    findings = ["dead units: 0.7 of layer fc1", {"rule": "update ratio", "value": 0.5}]
    path.write_text(json.dumps({**json.loads(path.read_text()), "diagnosis": findings}))
    assert section(said("show", "adam"), "diagnosis") == [findings[0], "rule=update ratio value=0.5000"]
    assert next(row["diagnosis"] for row in rows_of(said) if row["run"] == "adam") == findings


@pytest.mark.parametrize("name", ["adam", SWEEP])
def test_the_way_to_go_on_is_one(said: Said, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Typed as it is shown, the command takes the run up, also where the folder's name means something to Hydra."""
    monkeypatch.setattr(sys, "argv", ["train"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    (line,) = section(said("show", name), "to go on")
    train, *words = shlex.split(line)
    assert train == "train"
    assert result_of(name)["steps"] == 5
    assert cli.run_command(words) == 0
    assert result_of(name)["steps"] == 10


def test_the_way_to_go_on_names_every_limit(said: Said) -> None:
    path = Path("runs/adam/config.yaml")
    path.write_text(path.read_text().replace("max_epochs: null", "max_epochs: 2").replace("trust: []", "trust: [mine]"))
    line, warning = section(said("show", "adam"), "to go on")
    assert line == "train resume=runs/adam 'trust=[mine]' max_epochs=4 max_steps=10"
    assert warning.startswith("(trust= runs the code of these packages")


def test_what_was_typed_is_shown_with_a_warning_where_it_would_run_code(said: Said) -> None:
    path = Path("runs/adam/overrides.yaml")
    for words, num_lines in (("- trust=[pip]\n- a;touch x\n", 2), ("- model=lenet\n", 1)):
        path.write_text(words)
        line, *warning = section(said("show", "adam"), "typed")
        assert len(warning) == num_lines - 1
        assert shlex.split(line)[1:] == [word.removeprefix("- ") for word in words.splitlines()]


@pytest.mark.parametrize("kind", ["a text", "a folder", "a pipe", "another picture"])
def test_only_a_picture_is_drawn_over(said: Said, kind: str) -> None:
    path = Path("mine")
    if kind == "a folder":
        path.mkdir()
    elif kind == "a pipe":
        os.mkfifo(path)
    else:
        path.write_bytes(b"GIF89a" if kind == "another picture" else b"my thesis")
    before = path.lstat()
    with pytest.raises(UserError, match=r"^--png mine: is there, and is no PNG file\. Give another path\.$"):
        run_verb(["compare", "adam", "sgd/slow", "--png", "mine"])
    assert path.lstat() == before
    for _ in range(2):  # the second time over the first picture
        said("compare", "adam", "sgd/slow", "--png", "curves.png")


# --- board ------------------------------------------------------------------------------------------------------------


class Board:
    """`train board` as a process, from its first line on."""

    def __init__(self, *words: str) -> None:
        code = "import sys; from trainer.command.verbs import run_verb; sys.exit(run_verb(['board', *sys.argv[1:]]))"
        env = {**os.environ, "PYTHONWARNINGS": "error"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
        )
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline()
        self.url = next(iter(re.findall(r"http://\S+", self.line)), "")

    def get(self, path: str, body: object = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(urljoin(self.url, path), data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)

    def stop(self) -> tuple[int, str]:
        self.process.send_signal(signal.SIGINT)
        _, err = self.process.communicate(timeout=30)
        return self.process.returncode, err


@pytest.mark.slow
def test_the_board_shows_every_point_on_this_machine_alone(here: Path) -> None:
    events = EventFile(Path("runs/adam"), None)
    for step in range(6, 1507):
        events.scalars(step, {"many": float(step)})
    events.close()
    first, second = Board(), Board("runs/sgd")
    try:
        assert re.fullmatch(r"TensorBoard for runs: http://127\.0\.0\.1:60\d\d/\?\S+ \(Ctrl-C ends it\)\n", first.line)
        pinned = json.loads(parse_qs(urlsplit(first.url).query)["pinnedCards"][0])
        assert [card["tag"] for card in pinned] == ["train/loss", "val/loss", "val/accuracy"]
        assert urlsplit(first.url).fragment == "timeseries"
        assert "TensorBoard for runs/sgd: " in second.line
        assert first.url != second.url  # the second found the port taken
        assert set(first.get("data/plugin/scalars/tags")) == {"adam", "sgd/slow", "sgd/fast", "diverged", SWEEP}
        assert set(second.get("data/plugin/scalars/tags")) == {"slow", "fast"}
        points = first.get("data/plugin/scalars/scalars?tag=many&run=adam")
        assert [value for _, _, value in points] == list(range(6, 1507))
        hparams = first.get("data/plugin/hparams/experiment", {"experimentName": ""})
        assert [info["name"] for info in hparams["hparamInfos"]] == ["optimizer", "optimizer.lr"], "those that differ"
        metrics = ["val/accuracy", "val/loss", "test/accuracy", "test/loss"]
        found = [info["name"]["tag"] for info in hparams["metricInfos"]]
        assert found[:4] == metrics
        assert all(tag.startswith("test/last/") for tag in found[4:]), "and no statistics"
    finally:
        ended = [board.stop() for board in (first, second)]
    assert ended == [(0, "starting TensorBoard for runs ...\n"), (0, "starting TensorBoard for runs/sgd ...\n")]


def test_without_tensorboard(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(UserError, match=r"TensorBoard is not installed. Type pip install tensorboard.$"):
        run_verb(["board"])
