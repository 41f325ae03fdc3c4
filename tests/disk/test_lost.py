"""A folder that goes away while its run trains: noticed at the next record or save, and nothing goes elsewhere."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import without_rights
from trainer.disk.checkpoint import Checkpoints
from trainer.disk.lock import locked, refuse_lost
from trainer.errors import UserError

Train = Callable[..., dict[str, Any]]

STRIKING = '''
"""A network whose tenth step is somebody else's moment."""
from trainer.models.two_layer import TwoLayer

strike = None

class Net(TwoLayer):
    steps = 0

    def forward(self, inputs):
        self.steps += self.training
        if self.steps == 10 and strike is not None:
            strike()
        return super().forward(inputs)
'''
WORDS = ("model._target_=striking.Net", "trust=[striking]", "model.hidden_features=8", "data.limit=100", "name=it")
RUN = Path("runs/it")


def deleted() -> None:
    shutil.rmtree(RUN)


def moved() -> None:
    RUN.rename("moved")


def replaced() -> None:
    RUN.rename("moved")
    RUN.mkdir()


def linked() -> None:
    RUN.rename("moved")
    RUN.symlink_to("../elsewhere")


def unlocked() -> None:
    (RUN / ".lock").unlink()


def unlocked_by_another() -> None:
    (RUN / ".lock").unlink()
    (RUN / ".lock").write_text("process 1 on elsewhere")


def without_metrics() -> None:
    (RUN / "metrics.jsonl").unlink()


def with_other_metrics() -> None:
    (RUN / "metrics.jsonl").unlink()
    (RUN / "metrics.jsonl").symlink_to("../../elsewhere/letter")


def without_events() -> None:
    next(RUN.glob("events.out.*")).unlink()


def with_linked_checkpoints() -> None:
    if (RUN / "checkpoints").exists():
        (RUN / "checkpoints").rename("moved")
    (RUN / "checkpoints").symlink_to("../../elsewhere")


# What happens, what is said of it, and with which folder the run goes on as the line says.
WAYS: dict[Callable[[], None], tuple[str, str | None]] = {
    deleted: ("runs/it: was moved or deleted.", None),
    moved: ("runs/it: was moved or deleted.", "moved"),
    replaced: ("runs/it: something else has taken its place.", "moved"),
    linked: ("runs/it: something else has taken its place.", "moved"),
    unlocked: ("runs/it: its .lock was taken away", "runs/it"),
    unlocked_by_another: ("runs/it: its .lock was taken away", "runs/it"),
    without_metrics: ("runs/it/metrics.jsonl: was taken away", "runs/it"),
    with_other_metrics: ("runs/it/metrics.jsonl: was taken away", None),
    without_events: ("runs/it/events.out.tfevents.", "runs/it"),
    with_linked_checkpoints: ("runs/it/checkpoints: is a link to ../../elsewhere", None),
}


@pytest.fixture
def striking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module whose `strike` is called in the tenth step."""
    (tmp_path / "striking.py").write_text(STRIKING)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/letter").write_text("dear all")
    monkeypatch.syspath_prepend(str(tmp_path))
    import striking

    yield striking
    del sys.modules["striking"]


def test_tensorboard_s_own_files_go_through_no_link(striking: Any, train: Train) -> None:
    """The one folder that is written at the end alone. A picture is not worth the run: a warning says so."""
    striking.strike = lambda: (RUN / "projector").symlink_to("../../elsewhere")
    assert train(*WORDS, "monitor=full", "max_steps=20")["status"] == "finished"
    assert os.listdir("elsewhere") == ["letter"]


# Noticed at a record, or where nothing is recorded at the first save.
AT_A_RECORD, AT_A_SAVE = ("monitor.every=5", "max_steps=100000"), ("monitor.every=null", "max_steps=12")


@pytest.mark.parametrize(
    ("way", "words"),
    [pytest.param(way, AT_A_RECORD, id=way.__name__) for way in WAYS]
    + [
        pytest.param(way, AT_A_SAVE, id=f"{way.__name__} at a save", marks=[pytest.mark.slow] * (way is not moved))
        for way in WAYS
    ],
)
def test_it_is_noticed_and_the_line_says_how_to_go_on(
    way: Callable[[], None], words: tuple[str, ...], striking: Any, train: Train
) -> None:
    said, place = WAYS[way]
    striking.strike = way
    with pytest.raises(UserError) as caught:
        train(*WORDS, "checkpoint.every=5", *words)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)
    assert os.listdir("elsewhere") == ["letter"]
    assert Path("elsewhere/letter").read_text() == "dear all"
    if way in (deleted, moved, replaced):
        assert not RUN.exists() or list(RUN.iterdir()) == []
    if place is not None:
        striking.strike = None
        assert train(f"resume={place}", "trust=[striking]", "max_steps=20")["steps"] == 20


def test_a_locked_folder_that_stays_is_refused_by_nobody(tmp_path: Path) -> None:
    with locked(tmp_path):
        refuse_lost(tmp_path)
        (tmp_path / "more").write_text("")
        os.utime(tmp_path)
        refuse_lost(tmp_path)
    refuse_lost(tmp_path)  # nor one that nobody has locked


def test_a_folder_is_known_by_itself_and_not_by_its_name(tmp_path: Path) -> None:
    """Somebody who makes room for a large run moves it, and leaves a link to it."""
    (tmp_path / "it").mkdir()
    with locked(tmp_path / "it"):
        (tmp_path / "it").rename(tmp_path / "large")
        (tmp_path / "it").symlink_to("large")
        refuse_lost(tmp_path / "it")
        Checkpoints(tmp_path / "it/checkpoints", 2).save({"model": {}, "optimizer": {}, "step": 1})
    assert [path.name for path in (tmp_path / "large").iterdir()] == ["checkpoints"]


def test_what_the_lock_leaves_is_in_its_own_folder(tmp_path: Path) -> None:
    """The file of another that has come under the folder's name is not removed."""
    for name in ("it", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "other/.lock").write_text("process 1 on elsewhere")
    with locked(tmp_path / "it"):
        (tmp_path / "it").rename(tmp_path / "moved")
        (tmp_path / "other").rename(tmp_path / "it")
    assert (tmp_path / "it/.lock").read_text() == "process 1 on elsewhere"
    assert list((tmp_path / "moved").iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("then", ["pass", "os.kill(os.getpid(), signal.SIGTERM)"], ids=["it trains on", "SIGTERM"])
def test_a_folder_that_becomes_read_only(then: str, tmp_path: Path) -> None:
    code = f"for name in ('runs/it/checkpoints', 'runs/it'): os.chmod(name, 0o555)\n    {then}"
    strike = f"import os, signal\ndef strike():\n    {code}\n"
    (tmp_path / "striking.py").write_text(STRIKING.replace("strike = None", strike))
    done = without_rights.train(tmp_path, *WORDS, "checkpoint.every=5", "monitor.every=5", "max_steps=100000")
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: runs/it"), done.stderr
    assert "can't be written" in done.stderr
    assert done.stderr.count("\n") == 1
    for name in ("runs/it", "runs/it/checkpoints"):
        (tmp_path / name).chmod(0o755)
    (tmp_path / "striking.py").write_text(STRIKING)
    again = without_rights.train(tmp_path, "resume=runs/it", "trust=[striking]", "max_steps=20")
    assert again.returncode == 0, again.stderr
