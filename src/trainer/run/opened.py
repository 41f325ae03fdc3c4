"""What a run is written to while it trains: opened one after the other, closed in the opposite order."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch

from trainer.config.request import Config
from trainer.disk.checkpoint import Saver
from trainer.disk.files import cannot_write
from trainer.disk.folder import write_result
from trainer.errors import Interrupted, NonFinite, Pruned, RunStopped, UserError
from trainer.finished.read import Course, read_course
from trainer.monitor.board import Board
from trainer.monitor.classes import cells
from trainer.monitor.console import Display, Lines, open_display
from trainer.monitor.events import EventFile
from trainer.monitor.hparams import flat, group_of, session_end, session_start
from trainer.monitor.journal import Journal
from trainer.monitor.summary import summary_rows
from trainer.monitor.texts import table
from trainer.run.explain import explained, origin_of
from trainer.run.folder import begin_folder
from trainer.run.observer import RunObserver
from trainer.run.parts import Parts
from trainer.run.told import result, title
from trainer.run.training import Training


@dataclass
class Opened:
    """
    Args:
        board: None without an event file.
        status: of the run: failed, until it has come to another end.
        computed: how, in words.
        facts: of its end, for `result.json`.
        profile: rows of the summary that say where the time went.
        result: what `result.json` holds, once all is closed.
        failure: the first thing that could not be written at the end.
    """

    journal: Journal
    saver: Saver
    observer: RunObserver
    board: Board | None
    status: str = "failed"
    computed: str = ""
    facts: Config = field(default_factory=dict)
    profile: list[tuple[str, str]] = field(default_factory=list)
    result: Config = field(default_factory=dict)
    failure: UserError | None = None


@contextlib.contextmanager
def opened(training: Training) -> Iterator[Opened]:
    """Opens a run's journal and event file; at the end closes them, `result.json` last: a run that has it is whole.

    Raises:
        RunStopped: for NonFinite, which it explains.
        UserError: something could not be written, unless the run ends with another error, which is the first then.
    """
    parts, folder, world = training.parts, training.folder, training.parts.world
    is_fresh = world.together(lambda: begin_folder(folder, parts, training.warnings.append))
    journal = world.together(lambda: open_journal(training, is_fresh))
    saver = Saver(training.checkpoints)
    observer = RunObserver(training, journal, saver)
    run = Opened(journal, saver, observer, open_board(training, journal))

    def close(task: Callable[[], object]) -> Callable[[], None]:
        def closed() -> None:
            try:
                task()
            except OSError as error:
                run.failure = run.failure or cannot_write(folder, error)
            except UserError as error:
                run.failure = run.failure or error

        return closed

    def is_finished() -> bool:
        return run.status == "finished"

    with contextlib.ExitStack() as closing:  # the last first
        closing.callback(lambda: journal.display.stop(rows_at_the_end(training, run)))
        closing.callback(close(lambda: write_result(folder, run.result) if world.is_main else None))
        closing.callback(close(journal.close))
        closing.callback(close(lambda: end_events(training, run)))
        closing.callback(close(lambda: run.board.end(parts.state.step) if run.board and is_finished() else None))
        closing.callback(close(saver.wait))
        closing.callback(
            lambda: run.result.update(result(training, run.status, run.computed, observer.seconds()) | run.facts)
        )
        closing.callback(close(observer.records.write))
        journal.display.start(title(training))
        for warning in training.warnings:
            journal.display.note(warning)
        with named_endings(training, run):
            yield run
    if run.failure is not None and is_finished():
        raise run.failure


@contextlib.contextmanager
def named_endings(training: Training, run: Opened) -> Iterator[None]:
    """Says in `run.status` how a run ended."""
    parts = training.parts
    try:
        yield
        run.status = "finished"
    except NonFinite as error:
        run.status = "stopped"
        run.observer.records.write()
        origin = origin_of(training, error.split)
        run.observer.records.report(training.diagnosis.stopped(error.step, origin.cause))
        raise RunStopped(explained(error, training, origin)) from error
    except Pruned:
        run.status = "pruned"
        raise
    except (Interrupted, KeyboardInterrupt):
        run.status = "interrupted"
        raise
    except torch.OutOfMemoryError as error:
        size, accumulate = parts.length.batch_size, parts.settings.gradient.accumulate
        raise UserError(
            f"batch_size={size}: {parts.device} is out of memory. Try batch_size={max(1, size // 2)} "
            f"gradient.accumulate={2 * accumulate}."
        ) from error


def open_journal(training: Training, is_fresh: bool) -> Journal:
    """Where the numbers go; nowhere in a process that leaves writing to another."""
    parts, state = training.parts, training.parts.state
    if not parts.world.is_main:
        return Journal(None, None, Display(), state.last)
    length, settings = parts.length, parts.settings
    every = settings.console.every or settings.monitor.every or length.max_steps
    if training.log is not None:
        display: Display = Lines(every, length.max_steps, training.log)
    else:
        display = open_display(length.max_steps, length.steps_per_epoch, every, state.step, lambda: before(training))
    try:
        return Journal(training.folder, open_events(training, is_fresh), display, state.last, quiet(parts))
    except OSError as error:
        raise cannot_write(training.folder, error) from error


def quiet(parts: Parts) -> frozenset[str]:
    """The tags that nobody asked for and that a terminal does not show: MAE and R2 of numbers."""
    settings = parts.settings
    deciding = {str(settings.checkpoint.metric), str(settings.early_stopping.metric)}
    wanted = {"accuracy", "iou", *settings.config["metric"], *(tag.rpartition("/")[2] for tag in deciding)}
    names = [name for name in parts.loss_fn.meaning.metrics if name not in wanted]
    places = [place for split in ("val", "test", "test/last", "test/best") for place in (split, f"{split}/average")]
    return frozenset(f"{place}/{name}" for place in places for name in names)


def before(training: Training) -> dict[str, list[tuple[int, float]]]:
    """The losses up to the step that a run goes on from, by tag."""
    tags, step = ("train/loss", "val/loss"), training.parts.state.step
    course = read_course(training.folder, tags) if step else Course()
    return {tag: [point for point in course.points(tag) if point[0] <= step] for tag in tags}


def open_events(training: Training, is_fresh: bool) -> EventFile | None:
    parts, monitor = training.parts, training.parts.settings.monitor
    if not monitor.events:
        return None
    # A run that begins once more has nothing to keep, not even what stands at step 0.
    events = EventFile(training.folder, None if is_fresh else parts.state.step or -1)
    if monitor.hparams:
        values = flat(parts.settings.config, parts.settings.names, parts.length.max_steps)
        events.raw(session_start(values, group_of(values)))
    return events


def open_board(training: Training, journal: Journal) -> Board | None:
    if journal.events is None:
        return None
    parts = training.parts
    return Board(
        training.folder,
        journal.events,
        parts.settings.monitor,
        journal.display.note,
        parts.model,
        parts.loss_fn.meaning,
        parts.splits.input_shape,
    )


def end_events(training: Training, run: Opened) -> None:
    """What TensorBoard shows of a run as a whole."""
    events, monitor, state = run.journal.events, training.parts.settings.monitor, training.parts.state
    if events is None:
        return
    is_finished = run.status == "finished"
    if monitor.texts:
        events.text("about/diagnosis", state.step, training.diagnosis.markdown())
        events.text("about/computation", state.step, run.computed)
        if run.profile:
            lines = "\n".join(f"{name:<22} {text}" for name, text in run.profile)
            events.text("about/profile", state.step, f"~~~~\n{lines}\n~~~~\n")
        if "per_class" in run.facts:
            head, *rows = cells(run.facts["per_class"])
            events.text("about/per_class", state.step, table(head, rows))
    if monitor.graph and is_finished:
        from trainer.monitor.graph import model_graph

        graph, reason = model_graph(training.parts.model, training.parts.sample.inputs)
        if graph is None:
            run.journal.display.note(f"warning: no graph for TensorBoard: {reason}")
        else:
            events.graph(graph)
    if monitor.hparams:
        events.raw(session_end("success" if is_finished else "failure"), state.step)


def rows_at_the_end(training: Training, run: Opened) -> list[tuple[str, str]]:
    """The summary; nothing of a run that has not come to its end."""
    if run.status != "finished" or run.failure is not None:
        return []
    has_events, hidden = training.parts.settings.monitor.events, quiet(training.parts)
    shown = {tag: value for tag, value in run.result.items() if tag not in hidden}
    return [*run.profile, *summary_rows(shown, training.diagnosis.findings, training.folder, has_events)]
