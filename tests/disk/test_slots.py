"""Pieces in one file are whole or not there: after a kill, beside another writer, on a full disk."""

import os
import resource
import sys
from pathlib import Path

import numpy as np
import pytest

from trainer.disk.slots import ENDING, Slots

SIZE, COUNT = 1000, 8
MARKS = [bytes([i]) * 16 for i in range(1, COUNT + 1)]


def piece(i: int) -> np.ndarray:
    return np.full(SIZE, i, np.uint8)


def slots(folder: Path, name: str = "a", count: int = COUNT, limit: int = 10**6) -> Slots:
    return Slots(folder, name, count, SIZE, limit)


def test_what_one_process_has_written_another_reads(tmp_path: Path) -> None:
    ours, theirs = slots(tmp_path), slots(tmp_path)
    assert ours.problem == ""
    assert ours.read(3, MARKS[3]) is None
    ours.write(3, MARKS[3], piece(3))
    found = theirs.read(3, MARKS[3])
    assert found is not None
    assert np.array_equal(found, piece(3))
    assert theirs.read(3, MARKS[4]) is None  # the picture has changed
    assert theirs.read(2, MARKS[2]) is None
    assert (tmp_path / f"a{ENDING}").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("end", [1, 15, 16, 20, 21, 1000, 1019])
def test_a_piece_of_which_only_a_part_was_written_is_not_there(tmp_path: Path, end: int) -> None:
    before, after = slots(tmp_path / "before"), slots(tmp_path / "after")
    for some, i in ((before, 1), (after, 2)):
        some.write(1, MARKS[i], piece(i))
    new = after.path.read_bytes()[after.size : after.size + end]
    with open(before.path, "r+b") as file:  # over an older piece, or over nothing
        file.seek(before.size)
        file.write(new)
        file.seek(2 * before.size)
        file.write(new)
    assert before.read(1, MARKS[2]) is None
    assert before.read(2, MARKS[2]) is None
    assert before.read(1, MARKS[1]) is None


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # of Python 3.12 on: beside torch's threads
def test_two_processes_write_the_same_pieces_at_once(tmp_path: Path) -> None:
    mine = slots(tmp_path)
    child = os.fork()
    try:
        for i in range(300):
            slot, shape = i % COUNT, (i + (child == 0)) % COUNT  # what differs are only the marks and the bytes
            mine.write(slot, MARKS[shape], piece(shape))
            found = [mine.read(slot, mark) for mark in MARKS]
            assert all(them is None or np.array_equal(them, piece(j)) for j, them in enumerate(found))
    finally:
        if not child:
            os._exit(sys.exc_info()[0] is not None)
    assert os.waitpid(child, 0)[1] == 0


def test_a_limit_keeps_the_first_pieces_and_says_so(tmp_path: Path) -> None:
    few = slots(tmp_path, limit=3500)
    assert few.num_kept == 3
    assert few.problem == "all need 8,192 bytes, and the limit is 3,500"
    for i in range(COUNT):
        few.write(i, MARKS[i], piece(i))
    assert [few.read(i, MARKS[i]) is not None for i in range(COUNT)] == [True] * 3 + [False] * 5
    assert few.path.stat().st_size <= 3500


def test_the_file_that_was_opened_least_recently_goes_first(tmp_path: Path) -> None:
    for age, name in enumerate(("new", "old")):
        path = slots(tmp_path, name, limit=30_000).path
        os.utime(path, (10**9 - age, 10**9 - age))
    slots(tmp_path, "third", limit=20_000)
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["new", "third"]


def test_a_disk_that_gets_full_keeps_what_it_has(tmp_path: Path) -> None:
    mine = slots(tmp_path)
    mine.write(0, MARKS[0], piece(0))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2500, hard))
    try:
        mine.write(1, MARKS[1], piece(1))
        mine.write(2, MARKS[2], piece(2))  # the limit is in its middle
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(mine.path) in mine.problem
    assert [mine.read(i, MARKS[i]) is not None for i in range(4)] == [True, True, False, False]


def test_half_of_what_is_free_stays_free(tmp_path: Path) -> None:
    mine = slots(tmp_path, count=10**12, limit=10**18)
    promised, free = mine.num_kept * mine.size, os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    assert "half of what is free" in mine.problem
    assert 0.4 * free < promised < 0.6 * free
    other = slots(tmp_path, "b", count=10**12, limit=10**18)
    assert other.num_kept * other.size < 0.7 * promised  # what was promised to the first is not free


@pytest.mark.skipif(sys.platform == "win32", reason="rights are no part of a file there")
def test_a_folder_that_others_may_write_to_is_not_used(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    mine = slots(folder)
    assert "other users can write to" in mine.problem
    mine.write(0, MARKS[0], piece(0))
    assert mine.read(0, MARKS[0]) is None
    assert not list(folder.iterdir())


def test_a_link_in_the_place_of_the_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    (tmp_path / f"a{ENDING}").symlink_to(tmp_path / "mine.txt")
    mine = slots(tmp_path)
    assert mine.problem
    mine.write(0, MARKS[0], piece(0))
    assert (tmp_path / "mine.txt").read_text() == "precious"
