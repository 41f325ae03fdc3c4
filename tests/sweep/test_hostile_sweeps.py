"""The folder of a sweep that somebody sent: nothing in it leads a writer elsewhere, or makes it wait for ever."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from trainer.command import main as cli
from trainer.config.compose import refuse_too_many
from trainer.errors import UserError
from trainer.sweep.sweep import opened

JOB = "optimizer.lr=0.1"
WORDS = ("--multirun", "model=two_layer", "data.limit=40", "max_steps=1", "monitor=off", "optimizer.lr=0.1,0.01")


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """What is none of the sweep's business: a file and a folder."""
    folder = tmp_path / "outside"
    (folder / "below").mkdir(parents=True)
    (folder / "letter").write_text("dear all")
    return folder


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that holds a sweep of which no job has run."""
    monkeypatch.chdir(tmp_path)
    Path("runs/s").mkdir(parents=True)
    Path("runs/s/sweep.yaml").write_text("command: []\njobs: []\n")
    return Path("runs/s")


def content(folder: Path) -> dict[str, Any]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def refusal(*words: str) -> str:
    """The one line that refuses a command, which has written nothing."""
    before = content(Path.cwd())
    with pytest.raises(UserError) as caught:
        cli.run_command([*WORDS, *words])
    assert "\n" not in str(caught.value)
    assert content(Path.cwd()) == before
    return str(caught.value)


def test_a_careless_lock_empties_what_a_link_leads_to(sweep: Path, outside: Path) -> None:
    (sweep / ".lock").symlink_to(outside / "letter")
    with open(sweep / ".lock", "a+", encoding="utf-8") as file:
        file.truncate(0)
    assert (outside / "letter").read_text() == ""


@pytest.mark.parametrize(
    "name",
    [
        *(".lock", ".verify", ".cluster", "sweep.yaml", "results.json", "results.csv", ".results.json.tmp"),
        *(JOB, f"{JOB}/log.txt", f"{JOB}/checkpoints", f"{JOB}/x/y", "another job/config.yaml"),
    ],
)
@pytest.mark.parametrize("target", ["letter", *(pytest.param(x, marks=pytest.mark.slow) for x in ("below", "nowhere"))])
def test_a_link_is_refused(name: str, target: str, sweep: Path, outside: Path) -> None:
    path = sweep / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(outside / target)
    assert refusal("name=s").startswith(f"runs/s: {name} is a link to {outside / target}; ")


@pytest.mark.parametrize("name", [".lock", "results.json", JOB, f"{JOB}/config.yaml", f"{JOB}/metrics.jsonl"])
def test_a_pipe_is_not_waited_for(name: str, sweep: Path) -> None:
    (sweep / name).parent.mkdir(exist_ok=True)
    os.mkfifo(sweep / name)
    assert refusal("name=s").startswith(f"runs/s: {name} is no plain file")


def test_a_link_that_comes_later_is_not_written_through(sweep: Path, outside: Path) -> None:
    """After the look that all of the above is about."""
    (sweep / ".lock").symlink_to(outside / "letter")
    with pytest.raises(UserError, match="can't be written"), opened(sweep):
        pass
    assert (outside / "letter").read_text() == "dear all"


def test_what_holds_something_else_becomes_no_sweep(sweep: Path) -> None:
    shutil.move(sweep / "sweep.yaml", sweep / "thesis.tex")
    assert refusal("name=s").startswith("runs/s: is not empty and holds no sweep (no sweep.yaml)")


def test_nor_does_a_run(train: Callable[..., Any], tmp_path: Path) -> None:
    train("model=two_layer", "data.limit=40", "max_steps=1", "monitor=off", "name=it")
    assert "holds no sweep" in refusal("name=it")


def test_a_search_looks_first_too(sweep: Path, outside: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    (sweep / ".lock").symlink_to(outside / "letter")
    words = ("hydra/sweeper=optuna", "optimizer.lr=interval(0.1,0.2)", "hydra.sweeper.n_trials=2", "name=s")
    assert ".lock is a link" in refusal(*words)


@pytest.mark.parametrize(
    "word",
    ["hydra.run.dir=x", "hydra.job.chdir=true", "+hydra.callbacks.x._target_=os.getcwd", "hydra.mode=RUN"],
)
def test_of_hydra_s_own_only_plugins_are_asked(word: str, sweep: Path) -> None:
    for more in ((), ("hydra/launcher=basic",)):
        assert "of Hydra's own a sweep takes hydra/launcher, hydra/sweeper" in refusal(word, *more, "name=s")


@pytest.mark.parametrize(
    "words",
    [
        ("seed=range(0,1000000000)",),
        ("seed=range(10,0,-1e-9)",),
        ("seed=range(0,1e400)",),
        ("seed=range(0,1000)", "optimizer.momentum=range(0,0.9,0.01)", "optimizer=sgd"),
        (f"seed={','.join(map(str, range(200)))}", "batch_size=range(1,200)"),
    ],
    ids=lambda words: words[0][:30],
)
def test_more_jobs_than_can_be_run_are_counted_and_not_listed(words: tuple[str, ...], sweep: Path) -> None:
    """A list of them would fill the memory first."""
    began = time.monotonic()
    line = refusal(*words, "name=s")
    assert "a sweep has at most 10,000. Type fewer values." in line
    assert time.monotonic() - began < 5


def test_many_jobs_are_a_sweep_and_a_range_counts_what_is_in_it(sweep: Path) -> None:
    parser = OverridesParser.create()
    for words in (["seed=range(0,10000)"], ["a=range(0,1,0.001)", "b=1,2,3,4,5,6,7,8,9,10"], ["a=[1,2]", "b=x"]):
        refuse_too_many(parser.parse_overrides(words))
    with pytest.raises(UserError, match="makes 10,001 jobs"):
        refuse_too_many(parser.parse_overrides(["seed=range(0,10001)"]))
