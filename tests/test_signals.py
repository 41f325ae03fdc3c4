"""SIGINT, SIGTERM, SIGHUP and warnings: at once where nothing can be lost, and after the step where a run would be."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from trainer.errors import Interrupted, UserError
from trainer.exits import exit_code
from trainer.signals import ENDING, Signals


def send(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0)  # Python runs a handler between two instructions


def test_before_the_training_a_signal_ends_the_process_at_once() -> None:
    with Signals().listening():
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
        for number, code in ((signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGUSR1, 138), (signal.SIGXCPU, 152)):
            with pytest.raises(Interrupted) as ended:
                send(number)
            assert ended.value.exit_code == code


@pytest.mark.parametrize("number", ENDING)
def test_while_it_trains_a_signal_waits_to_be_asked_for(number: int) -> None:
    signals = Signals()
    with signals.listening(), signals.deferred():
        assert signals.received == 0
        send(number)
        assert signals.received == number


def test_after_the_training_it_is_not_said_that_nothing_was_trained() -> None:
    signals = Signals()
    with signals.listening():
        with signals.deferred():
            pass
        with pytest.raises(Interrupted, match="stopped after the end: what was trained is whole"):
            send(signal.SIGTERM)


def test_a_second_ctrl_c_ends_it_at_once_and_a_second_sigterm_does_not() -> None:
    signals = Signals()
    with signals.listening(), signals.deferred():
        send(signal.SIGTERM)
        send(signal.SIGTERM)
        send(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_what_a_callback_of_the_interpreter_has_swallowed_still_counts() -> None:
    signals = Signals()
    with signals.listening():
        with pytest.raises(Interrupted):
            send(signal.SIGTERM)
        with pytest.raises(Interrupted), signals.deferred():
            pytest.fail("began to train")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_what_a_library_makes_of_it_is_still_the_signal(number: int, code: int) -> None:
    def task(signals: Signals) -> None:
        try:
            send(number)
        except BaseException as error:  # as code that tidies up, and fails at that
            raise UserError("half done") from error

    handlers = {number: signal.getsignal(number) for number in ENDING}
    try:
        assert exit_code(task) == code
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def test_an_error_after_a_signal_that_waits_is_an_error() -> None:
    def task(signals: Signals) -> None:
        with signals.deferred():
            send(signal.SIGTERM)
            raise UserError("no room")

    assert exit_code(task) == 2


def test_afterwards_all_is_as_it_was() -> None:
    before = [signal.getsignal(number) for number in ENDING]
    with Signals().listening():
        pass
    assert [signal.getsignal(number) for number in ENDING] == before


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
def test_what_is_ignored_stays_so(number: int) -> None:
    """As under nohup, which ignores SIGHUP for the command that it starts."""
    handler = signal.signal(number, signal.SIG_IGN)
    try:
        signals = Signals()
        with signals.listening(), signals.deferred():
            send(number)
            assert signals.received == 0
    finally:
        signal.signal(number, handler)


def test_a_warning_goes_to_who_has_asked_for_it() -> None:
    """As submitit does in its workers."""
    heard: list[int] = []
    handler = signal.signal(signal.SIGUSR2, lambda number, frame: heard.append(number))
    try:
        with Signals().listening():
            send(signal.SIGUSR2)
    finally:
        signal.signal(signal.SIGUSR2, handler)
    assert heard == [signal.SIGUSR2]


# --- real commands -------------------------------------------------------------------------------------------------

LONG = ("model=two_layer", "data.limit=100", "monitor=off", "checkpoint.every_minutes=null", "max_steps=1000000")


def begun(folder: Path, *names: str) -> bool:
    """Whether these runs have made a step; the best of the first validation is not written at once."""
    return all((folder / "runs" / name / "metrics.jsonl").exists() for name in names)


def started(folder: Path, *words: str, runs: tuple[str, ...], **options: Any) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [*options.pop("before", ()), sys.executable, "-m", "trainer", *LONG, *words],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        text=True,
        start_new_session=True,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
    )
    end = time.monotonic() + 60
    while not begun(folder, *runs):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.1)
    time.sleep(0.5)
    return process


def status(folder: Path, name: str) -> str:
    return str(json.loads((folder / "runs" / name / "result.json").read_text())["status"])


@pytest.mark.parametrize("number", [signal.SIGHUP, pytest.param(signal.SIGUSR1, marks=pytest.mark.slow)])
def test_a_run_whose_connection_is_lost_or_whose_time_is_over_is_saved(number: int, tmp_path: Path) -> None:
    with started(tmp_path, "name=it", "monitor.every=10", runs=("it",)) as run:
        os.killpg(run.pid, number)
        _, errors = run.communicate(timeout=600)
    assert run.returncode == 128 + number
    assert errors.endswith("and saved. To continue: train resume=runs/it\n")
    assert status(tmp_path, "it") == "interrupted"
    assert (tmp_path / "runs/it/checkpoints/last.pt").exists()


@pytest.mark.slow
def test_a_second_ctrl_c_says_what_is_saved_and_how_to_continue(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import time, torch\n"
        "class Slow(torch.nn.Linear):\n"
        "    def __init__(self, in_features, num_classes, **_):\n"
        "        super().__init__(in_features, num_classes)\n"
        "    def forward(self, x):\n"
        "        time.sleep(0.5 if self.training else 0)\n"
        "        return super().forward(x.flatten(1))\n"
    )
    words = ["model._target_=slow.Slow", "data=digits", "trust=[slow]", "batch_size=32", "name=it"]
    run = started(tmp_path, *words, "checkpoint.every_minutes=1e-9", runs=("it",))
    with run:
        while not (saved := sorted((tmp_path / "runs/it/checkpoints").glob("step_*.pt"))):
            time.sleep(0.1)
        run.send_signal(signal.SIGINT)
        time.sleep(0.2)  # within a step of half a second
        run.send_signal(signal.SIGINT)
        _, errors = run.communicate(timeout=60)
    assert run.returncode == 130
    saved = sorted((tmp_path / "runs/it/checkpoints").glob("step_*.pt"))
    step = int(saved[-1].stem[5:])
    how = "train resume=runs/it 'trust=[slow]'"
    assert errors.endswith(f"stopped at once; step {step} is the last that was saved. To continue from there: {how}\n")
    typed = [sys.executable, "-m", "trainer", *shlex.split(how)[1:], f"max_steps={step + 1}"]
    again = subprocess.run(typed, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert again.returncode == 0, again.stderr
    assert status(tmp_path, "it") == "finished"


@pytest.mark.slow
def test_a_run_whose_terminal_is_closed_is_saved(tmp_path: Path) -> None:
    """What is printed from then on goes nowhere, and is an error where a terminal was."""
    fcntl = pytest.importorskip("fcntl")
    termios = pytest.importorskip("termios")
    ours, theirs = os.openpty()

    def take_terminal() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    streams = dict.fromkeys(("stdin", "stdout", "stderr"), theirs)
    run = started(tmp_path, "name=it", runs=("it",), preexec_fn=take_terminal, **streams)
    os.close(theirs)
    os.close(ours)  # its last reader: the kernel sends SIGHUP
    assert run.wait(60) == 129
    assert status(tmp_path, "it") == "interrupted"


@pytest.mark.slow
def test_under_nohup_it_trains_on(tmp_path: Path) -> None:
    with started(tmp_path, "name=it", "monitor.every=10", runs=("it",), before=("nohup",)) as run:
        os.killpg(run.pid, signal.SIGHUP)
        time.sleep(1)
        assert run.poll() is None
        os.killpg(run.pid, signal.SIGTERM)
        run.communicate(timeout=600)
    assert run.returncode == 143


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_a_sweep_whose_connection_is_lost_is_saved_and_goes_on(number: int, tmp_path: Path) -> None:
    """The signal is for all: the sweep, its jobs and the server that they are forked from."""
    words = ("--multirun", "seed=0,1", "sweep.jobs=2", "sweep.stack=never", "monitor.every=10", "name=s")
    with started(tmp_path, *words, runs=("s/seed=0", "s/seed=1")) as run:
        os.killpg(run.pid, number)
        out, errors = run.communicate(timeout=600)
    assert run.returncode == 128 + number, errors
    assert (
        errors == "stopped with 2 of 2 jobs to go; those that ran are saved. To continue, type the same with name=s\n"
    )
    assert "error" not in out
    assert [status(tmp_path, f"s/seed={seed}") for seed in (0, 1)] == ["interrupted"] * 2
