"""Workers that read ahead: they change nothing, and whatever becomes of them, nobody waits for long or lives on."""

import multiprocessing
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import cycle, islice
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from trainer.data import loader
from trainer.data.batches import LoadedBatches
from trainer.data.image_folder import FolderImages
from trainer.data.source import ImageFiles
from trainer.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # of Python 3.12 on: beside torch's threads

NUM_IMAGES = 24
BATCHES = [list(range(i, min(i + 5, NUM_IMAGES))) for i in range(0, NUM_IMAGES, 5)]  # the last one is short


def read(files: ImageFiles, batches: Iterable[list[int]], num_workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Images and targets of each batch."""
    found = LoadedBatches(files, torch.device("cpu"), lambda images: images)
    return found._load(map(torch.tensor, batches), num_workers)


@pytest.fixture
def files(tmp_path: Path) -> FolderImages:
    """Image `i` is of grey `i`, its target `100 + i`."""
    paths = [tmp_path / f"{i}.png" for i in range(NUM_IMAGES)]
    for i, path in enumerate(paths):
        Image.new("L", (6, 6), i).save(path)
    found = FolderImages([str(path) for path in paths], torch.arange(NUM_IMAGES) + 100)
    found.channels, found.image_size = 1, 4
    return found


def pids() -> list[int]:
    return [process.pid for process in multiprocessing.active_children() if process.pid is not None]


def are_gone(seconds: float = 30) -> bool:
    """Waits for what happens, not for seconds: a killed process of a busy machine ends when it is next looked at."""
    end = time.monotonic() + seconds
    while pids() and time.monotonic() < end:
        time.sleep(0.05)
    return not pids()


def refused(batches: Iterator[tuple[Tensor, Tensor]], at_most: int = 20) -> str:
    """What ends the reading, in one line, before it has given `at_most` batches."""
    with pytest.raises(UserError) as raised:
        list(islice(batches, at_most))
    message = str(raised.value)
    assert message.startswith("data")
    assert "\n" not in message
    assert are_gone()
    return message


@pytest.mark.parametrize("num_workers", [0, 1, 2, 7])
def test_give_every_batch_in_order(files, num_workers):
    found = [*read(files, BATCHES, num_workers)]
    for rows, (images, targets) in zip(BATCHES, found, strict=True):
        assert images.equal(torch.tensor(rows, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4))
        assert targets.tolist() == [100 + row for row in rows]
    assert are_gone()


def test_a_batch_stays_what_it_was_while_others_are_read(files):
    batches = read(files, cycle(BATCHES), 2)
    first, _ = next(batches)
    copy = first.clone()
    for _ in islice(batches, 20):
        assert first.equal(copy)


def test_are_started_with_the_first_batch_and_gone_when_nobody_wants_more(files):
    batches = read(files, cycle(BATCHES), 2)
    assert are_gone()
    next(batches)
    assert len(pids()) == 2
    start = time.monotonic()
    batches.close()
    assert time.monotonic() - start < 4  # a DataLoader left to itself takes 5 s
    assert are_gone()


@pytest.mark.parametrize("num_batches", range(1, 9))
def test_a_killed_worker_is_named_at_once(files, num_batches):
    batches = read(files, cycle(BATCHES), 2)
    list(islice(batches, num_batches))
    victim = pids()[num_batches % 2]
    start = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    message = refused(batches)
    assert time.monotonic() - start < 5
    assert f"(process {victim}) was killed by signal 9 (Killed)" in message
    assert message.startswith("data.num_workers=2: worker ")
    assert "Type data.num_workers=0" in message


def test_one_that_ends_itself_is_named_too(files):
    class Leaving(FolderImages):
        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            os._exit(5)

    leaving = Leaving(files.paths, files.targets)
    leaving.channels, leaving.image_size = 1, 4
    assert "ended with exit code 5." in refused(read(leaving, BATCHES, 1))


class TestHanging:
    @pytest.fixture(autouse=True)
    def _impatient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(loader, "PATIENCE", 1.0)
        monkeypatch.setattr(loader, "LOOK_EVERY", 0.05)

    def test_a_pipe_in_the_place_of_a_file_is_refused_without_a_wait(self, files):
        Path(files.paths[7]).unlink()
        os.mkfifo(files.paths[7])  # to open one would wait for a writer
        assert "is not a whole image (It is no plain file)" in refused(read(files, BATCHES, 2))

    @pytest.mark.slow
    def test_a_worker_that_is_stopped_ends_the_wait_and_is_gone(self, files):
        batches = read(files, cycle(BATCHES), 2)
        next(batches)
        os.kill(pids()[0], signal.SIGSTOP)
        assert "the workers hang: not one item in 1 s." in refused(batches)

    def test_many_slow_images_are_no_hanging_worker(self, files):
        """A batch takes longer than a worker may be silent, but no image does."""
        slow = Slow(files)
        images, _ = next(read(slow, BATCHES, 1))
        assert images[:, 0, 0, 0].tolist() == BATCHES[0]


STOPPED = """
import time
from trainer.data import loader
loader.PATIENCE, loader.LOOK_EVERY = 4.0, 0.1
class Slow:
    tell = None
    def load(self, key):
        time.sleep(2)
        self.tell()
        return key
for key in loader.read(Slow().load, range(3), 1):
    print(key, flush=True)
"""


@pytest.mark.long
def test_a_run_that_was_stopped_and_goes_on_has_not_waited():
    """As by Ctrl-Z: while it is stopped no worker hangs."""
    command = [sys.executable, "-c", STOPPED]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "0\n"
        os.killpg(process.pid, signal.SIGSTOP)
        time.sleep(5)
        os.killpg(process.pid, signal.SIGCONT)
        assert process.stdout.read() == "1\n2\n"
    assert process.returncode == 0


class Slow(ImageFiles):
    """A split whose every image takes 0.3 s."""

    def __init__(self, files: FolderImages) -> None:
        self.files, self.channels, self.image_size, self.targets = files, 1, 4, files.targets

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        time.sleep(0.3)
        return self.files[index]


class Wrong(Slow):
    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.zeros(3, 4, 4), 0


class Broken(Slow):
    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        raise KeyError(f"no label for image {index}")


@pytest.mark.parametrize("num_workers", [0, 2])
class TestMistakes:
    def test_a_damaged_image_is_named(self, files, num_workers):
        Path(files.paths[12]).write_bytes(b"no image")
        assert refused(read(files, BATCHES, num_workers)).startswith(f"data.root: {files.paths[12]} is not a whole")

    def test_an_image_of_another_form_is_refused(self, files, num_workers):
        """Copied into a batch it would be repeated or rounded without a word."""
        message = refused(read(Wrong(files), BATCHES, num_workers))
        assert message == "data: image 0 is torch.float32 [3, 4, 4]; accepted is uint8 [1, 4, 4]."

    def test_an_error_in_foreign_code_keeps_its_traceback(self, files, num_workers):
        with pytest.raises((KeyError, RuntimeError), match="no label for image 0") as raised:
            next(read(Broken(files), BATCHES, num_workers))
        assert num_workers == 0 or "in __getitem__" in str(raised.value)


class Limited(Slow):
    """Whose reader may write no file of more than a byte, nor one of shared memory."""

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
        return torch.full((1, 400, 400), index, dtype=torch.uint8), index


def test_a_loader_of_torch_that_hides_its_workers_is_one_line(files, monkeypatch):
    monkeypatch.setattr(loader, "workers_of", lambda batches: None)
    assert "hides the workers of its DataLoader. Type data.num_workers=0." in refused(read(files, BATCHES, 2))
    assert len(list(read(files, BATCHES, 0))) == len(BATCHES)


def test_without_shared_memory_batches_come_through_the_pipe(files):
    limited = Limited(files)
    limited.image_size = 400
    batches = read(limited, BATCHES, 2)
    found, workers = [next(batches)], pids()
    found += batches
    assert [images[:, 0, 7, 7].tolist() for images, _ in found] == BATCHES
    assert not [name for name in os.listdir("/dev/shm") for pid in workers if name.startswith(f"torch_{pid}_")]


def test_what_only_shared_memory_brings_is_one_line_without_it():
    class Sparse:
        tell: Callable[[], None] | None = None

        def load(self, key: int) -> Tensor:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1, 1))
            return torch.eye(1000).to_sparse()

    with pytest.raises(UserError) as raised:
        list(loader.read(Sparse().load, range(3), 2))
    message = str(raised.value)
    assert message.startswith("data.num_workers=2: a batch finds no room in shared memory: ")
    assert message.endswith(" Type data.num_workers=0, or a smaller batch_size.")
    assert are_gone()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_ctrl_c_and_sigterm_for_all_processes_stop_no_worker(files, method, monkeypatch):
    monkeypatch.setattr(loader, "METHOD", method)
    batches = read(files, cycle(BATCHES), 2)
    found = [next(batches), next(batches)]  # from both: they are there
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        for pid in pids():
            os.kill(pid, number)
    found += islice(batches, 18)
    expected = islice(read(files, cycle(BATCHES), 0), 20)
    assert all(a.equal(b) for (a, _), (b, _) in zip(found, expected, strict=True))


def test_leave_the_signals_of_the_main_process_as_they_were(files):
    before = signal.pthread_sigmask(signal.SIG_BLOCK, set()), signal.getsignal(signal.SIGCHLD)
    batches = read(files, cycle(BATCHES), 1)
    next(batches)
    assert (signal.pthread_sigmask(signal.SIG_BLOCK, set()), signal.getsignal(signal.SIGCHLD)) == before
    batches.close()


class TestMainProcess:
    """Whichever way the main process ends, so do its workers. They hold a pipe open: it ends when the last one does."""

    def ends(self, main: Callable[[], None], number: int = 0) -> int | None:
        """The exit code of a process that runs `main`, is sent a signal then, and leaves nobody behind."""
        its_end, our_end = os.pipe()
        started, tell_started = os.pipe()

        def body() -> None:
            try:
                main()
            finally:
                os.write(tell_started, " ".join(map(str, pids())).encode())
            if number:
                time.sleep(60)

        process = multiprocessing.get_context("fork").Process(target=body)
        process.start()
        os.close(our_end)
        os.close(tell_started)
        try:
            its_workers = [int(pid) for pid in os.read(started, 1000).split()]
            if number:
                assert process.pid is not None
                os.kill(process.pid, number)
            if not select.select([its_end], [], [], 10)[0]:
                for pid in its_workers:
                    os.kill(pid, signal.SIGKILL)
                pytest.fail("a process lived on")
            process.join(10)
        finally:
            process.kill()
            os.close(its_end)
            os.close(started)
        return process.exitcode

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
    def test_a_signal(self, files, number):
        held = []

        def main() -> None:
            held.append(read(Slow(files), cycle(BATCHES), 2))
            next(held[0])

        assert self.ends(main, number) == -number

    def test_its_end_with_batches_to_come(self, files):
        held = []

        def main() -> None:
            held.append(read(files, cycle(BATCHES), 2))
            next(held[0])

        assert self.ends(main) == 0

    def test_an_error(self, files, capfd):
        def main() -> None:
            batches = read(files, cycle(BATCHES), 2)
            next(batches)
            raise ValueError("foreseen")

        assert self.ends(main) == 1
        assert "foreseen" in capfd.readouterr().err
