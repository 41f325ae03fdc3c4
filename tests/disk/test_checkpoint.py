"""Checkpoints: no crash spoils one, no damage goes unseen, no file runs code, and the best stays."""

import os
import pickle
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer.disk import checkpoint
from trainer.disk.checkpoint import Checkpoints, Saver, step_of
from trainer.disk.files import write_atomically, write_text
from trainer.errors import UserError


def state(step: int, **more: Any) -> dict[str, Any]:
    model = {"weight": torch.arange(4.0) + step}
    return {"model": model, "optimizer": {"lr": 0.1}, "step": step, "best": {}, "last": {"train/loss": 0.5}} | more


def is_state(found: dict[str, Any], step: int) -> bool:
    expected = state(step)
    is_model_whole = found["model"]["weight"].equal(expected["model"]["weight"])
    return is_model_whole and {**found, "model": 0} == {**expected, "model": 0}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def newest_step(checkpoints: Checkpoints) -> int:
    warnings: list[str] = []
    found = checkpoints.newest(warnings.append)
    assert found is not None
    assert warnings == []
    return found["step"]


class TestWriting:
    def test_a_file_is_replaced_whole(self, tmp_path):
        path = tmp_path / "a.txt"
        for text in ("first", "sécond, and longer"):
            write_text(path, text)
            assert path.read_text(encoding="utf-8") == text
        assert names(tmp_path) == ["a.txt"]

    def test_a_failing_write_leaves_the_old_content_and_nothing_else(self, tmp_path):
        path = tmp_path / "a.txt"
        write_text(path, "old")

        def fail(temporary: Path) -> None:
            temporary.write_text("half of the n")
            raise OSError("disk full")

        with pytest.raises(OSError, match="disk full"):
            write_atomically(path, fail)
        assert path.read_text() == "old"
        assert names(tmp_path) == ["a.txt"]

    def test_a_rename_that_fails_leaves_nothing_behind(self, tmp_path):
        (tmp_path / "a.txt").mkdir()
        with pytest.raises(OSError, match=r"a\.txt"):
            write_text(tmp_path / "a.txt", "new")
        assert names(tmp_path) == ["a.txt"]

    def test_a_link_is_replaced_and_not_written_through(self, tmp_path):
        (tmp_path / "other").write_text("not ours")
        (tmp_path / "a.txt").symlink_to(tmp_path / "other")
        write_text(tmp_path / "a.txt", "ours")
        assert (tmp_path / "other").read_text() == "not ours"
        assert (tmp_path / "a.txt").read_text() == "ours"

    def test_a_process_that_dies_in_the_middle_leaves_the_old_content_and_is_in_nobodys_way(self, tmp_path):
        checkpoints = Checkpoints(tmp_path, keep=2)
        checkpoints.save(state(1))
        assert subprocess.run([sys.executable, "-c", DYING, str(os.getpid())], cwd=tmp_path).returncode == 9
        assert is_state(checkpoint.read(tmp_path / "last.pt"), 1)
        assert newest_step(checkpoints) == 1
        checkpoints.save(state(2))
        assert is_state(checkpoint.read(tmp_path / "last.pt"), 2)
        assert newest_step(checkpoints) == 2


# Dies while it makes a link; its process number is given, as in containers, where each run's may be 1.
DYING = """
import os, pathlib, sys
from trainer.disk.files import write_atomically

def die(temporary):
    os.link("step_00000001.pt", temporary)
    os._exit(9)

os.getpid = lambda: int(sys.argv[1])
write_atomically(pathlib.Path("last.pt"), die)
"""


class TestRetention:
    @pytest.mark.parametrize("keep", [1, 2, 5])
    def test_the_newest_stay_and_so_does_the_best(self, tmp_path, keep):
        checkpoints = Checkpoints(tmp_path / "checkpoints", keep)
        for step in range(1, 5):
            checkpoints.save(state(10 * step), is_best=step == 2)
        kept = [f"step_000000{step}0.pt" for step in range(1, 5)][-keep:]
        assert names(checkpoints.folder) == ["best.pt", "last.pt", *kept]
        assert [path.name for path in checkpoints.files()] == kept[::-1]
        assert is_state(checkpoint.read(checkpoints.folder / "best.pt"), 20)
        assert is_state(checkpoint.read(checkpoints.folder / "last.pt"), 40)
        assert newest_step(checkpoints) == 40

    def test_of_a_history_every_second_goes_as_it_grows(self, tmp_path):
        checkpoints = Checkpoints(tmp_path, keep=2, history=4)
        left = {}
        for step in range(1, 20):
            checkpoints.save(state(step))
            left[step] = sorted(map(step_of, checkpoints.files()))
        assert left[4] == [1, 2, 3, 4]
        assert left[5] == [2, 4, 5]  # 5 is one of the newest two
        assert left[11] == [4, 8, 10, 11]
        assert left[19] == [8, 16, 18, 19]

    def test_a_name_for_the_same_bytes_takes_no_second_copy(self, tmp_path):
        Checkpoints(tmp_path, keep=1).save(state(7), is_best=True)
        assert len({(tmp_path / name).stat().st_ino for name in ("best.pt", "last.pt", "step_00000007.pt")}) == 1

    def test_the_same_step_may_be_saved_again(self, tmp_path):
        checkpoints = Checkpoints(tmp_path, keep=1)
        for seconds in (0.5, 0.25):
            checkpoints.save(state(7, seconds=seconds), is_best=True)
        assert names(tmp_path) == ["best.pt", "last.pt", "step_00000007.pt"]
        assert {checkpoint.read(path)["seconds"] for path in tmp_path.iterdir()} == {0.25}

    def test_newest_goes_by_the_number_and_not_by_its_digits(self, tmp_path):
        checkpoints = Checkpoints(tmp_path, keep=1)
        for step in (99_999_999, 100_000_000):
            checkpoints.save(state(step))
        assert newest_step(checkpoints) == 100_000_000

    def test_an_empty_or_missing_folder_has_no_newest(self, tmp_path):
        assert Checkpoints(tmp_path, keep=1).newest(pytest.fail) is None
        assert Checkpoints(tmp_path / "none", keep=1).newest(pytest.fail) is None
        assert names(tmp_path) == []


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    """One bit of a weight."""
    content = bytearray(path.read_bytes())
    content[content.index(torch.arange(4.0).add(20).numpy().tobytes())] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def replace(path: Path) -> None:
    path.write_text("<html>not found</html>")


DAMAGES = [truncate, flip, empty, replace]


@pytest.mark.parametrize("damage", DAMAGES)
class TestDamage:
    def saved(self, folder: Path, keep: int = 2) -> Checkpoints:
        checkpoints = Checkpoints(folder, keep)
        for step in (10, 20):
            checkpoints.save(state(step))
        return checkpoints

    def test_the_newest_whole_one_is_taken_with_a_warning_that_names_both(self, tmp_path, damage):
        checkpoints = self.saved(tmp_path)
        damage(tmp_path / "step_00000020.pt")
        warnings: list[str] = []
        found = checkpoints.newest(warnings.append)
        assert found is not None
        assert is_state(found, 10)
        (warning,) = warnings
        assert warning.startswith(f"warning: {tmp_path}/step_00000020.pt: not a whole checkpoint")
        assert warning.endswith("Going on from step_00000010.pt.")
        assert "\n" not in warning

    def test_where_none_is_whole_the_user_is_told_of_all(self, tmp_path, damage):
        checkpoints = self.saved(tmp_path)
        for path in checkpoints.files():
            damage(path) if damage is not flip else truncate(path)
        with pytest.raises(UserError, match=r"^[^\n]*step_00000020\.pt[^\n]*step_00000010\.pt[^\n]*$"):
            checkpoints.newest(pytest.fail)

    @pytest.mark.parametrize("keep", [1, 2])
    def test_what_is_saved_after_it_is_found_again(self, tmp_path, damage, keep):
        """The damaged file bears a later step than the new one, and must not push it out."""
        self.saved(tmp_path)
        damage(tmp_path / "step_00000020.pt")
        checkpoints = Checkpoints(tmp_path, keep)
        checkpoints.newest(lambda warning: None)
        checkpoints.save(state(15))
        found = checkpoints.newest(lambda warning: None)
        assert found is not None
        assert is_state(found, 15)


def test_a_byte_that_is_wrong_is_seen_or_does_not_matter(tmp_path):
    """In the archive's tables, too: torch.load takes a record marked as a folder for whatever is in memory."""
    path = tmp_path / "step_00000001.pt"
    Checkpoints(tmp_path, keep=1).save(state(1))
    assert is_state(checkpoint.read(path), 1)
    whole = path.read_bytes()
    tables = [match.start() for match in re.finditer(b"PK\x01\x02", whole)]
    numbers = whole.index(b"PK\x03\x04", 1)  # after the first record, which says what the numbers are of
    places = [(i, 0xFF) for i in (*range(numbers), *range(numbers, tables[0], 5), *range(tables[0], len(whole)))]
    places += [(entry + 10, 0x08) for entry in tables]  # from "stored" to "deflated"
    num_seen = 0
    for i, mask in places:
        path.write_bytes(whole[:i] + bytes([whole[i] ^ mask]) + whole[i + 1 :])
        torch.full((4,), -1.0)  # so that this is in memory, and not the weights that were read last
        try:
            found = checkpoint.read(path)
        except UserError:
            num_seen += 1
        else:
            assert is_state(found, 1), f"byte {i} ^ {mask}"
    assert num_seen > len(places) / 2


class Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize(
    "write",
    [
        torch.save,
        lambda content, path: torch.save(content, path, _use_new_zipfile_serialization=False),
        lambda content, path: path.write_bytes(pickle.dumps(content)),
    ],
    ids=["archive", "torch's old format", "plain pickle"],
)
def test_a_file_that_wants_to_run_code_is_refused_and_did_not(tmp_path, write):
    marker = tmp_path / "it_ran"
    path = tmp_path / "step_00000001.pt"
    write(state(1, last=Hostile(marker)), path)
    with pytest.raises(UserError) as caught:
        Checkpoints(tmp_path, keep=1).newest(pytest.fail)
    assert not marker.exists()
    message = str(caught.value)
    assert message.isprintable()  # one line, no colours
    assert "weights_only" not in message  # nobody is told how to run it

    pickle.loads(pickle.dumps(Hostile(marker)))  # the weapon is loaded
    assert marker.exists()


@pytest.mark.parametrize(
    "content", [[1, 2], torch.zeros(2), {"model": {}, "optimizer": {}}], ids=["list", "tensor", "no step"]
)
def test_a_file_of_something_else_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(UserError, match="not a checkpoint of train"):
        checkpoint.read(tmp_path / "a.pt")


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        checkpoint.read(tmp_path / "a.pt")


class TestSavingBeside:
    def test_what_is_saved_is_the_state_of_that_moment(self, tmp_path):
        saver, now = Saver(Checkpoints(tmp_path, keep=2)), state(1)
        saver.save(now, is_best=True)
        now["model"]["weight"].fill_(-1.0)
        now["last"]["train/loss"] = -1.0
        saver.wait()
        assert is_state(checkpoint.read(tmp_path / "best.pt"), 1)

    def test_one_after_another(self, tmp_path):
        saver = Saver(Checkpoints(tmp_path, keep=100))
        for step in range(1, 21):
            saver.save(state(step), is_best=step % 7 == 0)
        saver.wait()
        assert len(names(tmp_path)) == 22
        assert is_state(checkpoint.read(tmp_path / "best.pt"), 14)
        assert is_state(checkpoint.read(tmp_path / "last.pt"), 20)

    def test_a_thread_that_an_interrupt_kept_from_starting_loses_nothing(self, tmp_path, monkeypatch):
        def interrupted(thread: threading.Thread) -> None:
            raise KeyboardInterrupt

        saver = Saver(Checkpoints(tmp_path, keep=100))
        monkeypatch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            saver.save(state(3))
        saver.wait()
        assert is_state(checkpoint.read(tmp_path / "last.pt"), 3)

    def test_the_best_waits_for_a_better_one(self, tmp_path, monkeypatch):
        monkeypatch.setattr(checkpoint, "BEST_SECONDS", 0.2)
        saver = Saver(Checkpoints(tmp_path, keep=100))
        for step in (1, 2, 3):
            saver.save(state(step), is_best=True)
        assert not (tmp_path / "best.pt").exists()
        for step in (3, 4):
            while not (tmp_path / f"step_{step:08d}.pt").exists():
                time.sleep(0.01)
            saver.save(state(step + 1), is_best=True)
        saver.wait()
        assert names(tmp_path) == ["best.pt", "last.pt", *(f"step_{step:08d}.pt" for step in (3, 4, 5))]

    def test_what_went_wrong_is_told_once_by_whoever_asks_next(self, tmp_path):
        (tmp_path / "file").touch()
        saver = Saver(Checkpoints(tmp_path / "file", keep=2))
        saver.save(state(1))
        with pytest.raises(
            UserError, match=r"can't be written: File exists \(16 bytes are needed, [\d,]+ bytes are free"
        ):
            saver.wait()
        saver.refuse_failed()
        saver.wait()

    @pytest.mark.parametrize("limit", [0, 100, 1000])
    def test_a_limit_on_the_size_of_files_leaves_the_last_one_whole(self, tmp_path, limit):
        resource = pytest.importorskip("resource")
        checkpoints = Checkpoints(tmp_path, keep=1)
        checkpoints.save(state(1))
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(UserError, match=r"^[^\n]*step_00000002.pt: can't be written: File too large \([^\n]*$"):
                checkpoints.save(state(2))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert names(tmp_path) == ["last.pt", "step_00000001.pt"]
        assert newest_step(checkpoints) == 1
