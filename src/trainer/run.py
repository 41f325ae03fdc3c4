"""One run: started, or taken up where it stopped; trained, tested, summed up."""

import contextlib
import hashlib
import itertools
import json
import math
import signal
import threading
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from trainer import __version__, schema
from trainer import folder as folders
from trainer.build import Built, Config, Request, first_line, resolved
from trainer.cadence import evaluation_period
from trainer.checkpoint import Checkpoints
from trainer.data.batches import Batch
from trainer.errors import Interrupted, RunStopped, UserError
from trainer.evaluate import evaluate
from trainer.loop import Plan, fit, refuse_non_finite_weights
from trainer.models.finetune import Finetune
from trainer.monitor import hparams
from trainer.monitor.activations import Activations
from trainer.monitor.board import Board
from trainer.monitor.console import open_display, short
from trainer.monitor.diagnosis import Diagnosis, Facts, chance_loss, layer_of, squashed_layers
from trainer.monitor.events import EventFile
from trainer.monitor.graph import model_graph
from trainer.monitor.journal import Journal, cut_metrics
from trainer.monitor.statistics import Statistics, weight_statistics
from trainer.observer import RunObserver


def run(request: Request) -> Config:
    """Trains, or goes on with a training. Returns what `result.json` holds.

    Raises:
        UserError: a mistake in the config, the data or the environment; nothing has been written then.
        RunStopped: a loss that is not finite.
        Interrupted: a signal; the run has been saved.
    """
    # Whose classes may be named comes from this command alone, never from a file.
    schema.check(resolved(request.config))
    own = tuple(request.config["trust"])
    folder = folders.locate(request.config, f"{request.name('model')}-{request.name('data')}")
    stored = folders.read_config(folder)
    if stored is None and request.config["resume"] not in (None, "auto"):
        raise UserError(f"resume={request.config['resume']}: there is no run. Type the path of a run's folder.")
    if stored is not None:
        request = going_on(request, folder, stored)
    schema.check(resolved(request.config))
    training = Training(request, Built(request, own), folder)
    if stored is not None:
        finished = training.load()
        if finished is not None:
            return finished
    return training.train()


def going_on(request: Request, folder: Path, stored: Config) -> Request:
    """The request to go on with the run in `folder`.

    After `resume=<folder>` all that was not typed is as stored; after `name=` the command is the whole one.
    """
    choices = stored.pop("choices", {})
    if not isinstance(choices, dict) or not set(schema.GROUPS) <= stored.keys():
        raise UserError(f"{folder}/config.yaml: is no config of train.")
    config = request.config
    if config["resume"] not in (None, "auto"):
        typed = [override.lstrip("+~").split("=", 1)[0] for override in request.overrides]
        # A folder of an older release lacks keys that there are now.
        known = {key: value for key, value in config.items() if key not in schema.GROUPS}
        sections = {section: {**known[section], **stored[section]} for section in schema.SECTIONS}
        merged: Any = OmegaConf.create({**known, **stored, **sections})
        for key in typed:
            OmegaConf.update(merged, key, OmegaConf.select(OmegaConf.create(config), key), merge=False, force_add=True)
        merged["resume"], merged["trust"] = config["resume"], config["trust"]
        container = OmegaConf.to_container(merged)
        assert isinstance(container, dict)
        config = {str(key): value for key, value in container.items()}
        request = Request(config, {str(k): str(v) for k, v in choices.items()}, request.overrides)
    folders.refuse_changes(folder, resolved(stored), resolved(config))
    return request


class Training:
    """A run in its folder."""

    def __init__(self, request: Request, built: Built, folder: Path) -> None:
        self.request, self.built, self.folder = request, built, folder
        self.config, self.state = built.config, built.state
        self.checkpoints = Checkpoints(folder / "checkpoints", self.config["checkpoint"]["keep"])
        self.warnings: list[str] = []
        self.diagnosis = Diagnosis(self._facts())

    def load(self) -> Config | None:
        """Takes up the newest whole checkpoint. Returns the result where the run has nothing left to do."""
        state = self.checkpoints.newest(self.warnings.append)
        if state is None:
            return None
        try:
            self.state.load_state_dict(state)
            if "diagnosis" in state:
                self.diagnosis.load_state_dict(state["diagnosis"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise UserError(f"{self.folder}: the checkpoint does not fit the model: {first_line(error)}.") from error
        result = folders.read_result(self.folder)
        if self.state.step >= self.built.max_steps and result is not None and result.get("status") == "finished":
            print(
                f"{self.folder} is finished: {self.state.step} steps. "
                f"To go on, type a larger max_steps= or max_epochs=; for another run, another name=."
            )
            return result
        return None

    def train(self) -> Config:
        """Trains to the end, tests, and leaves the result in the run's folder."""
        built, state, console = self.built, self.state, self.config["console"]
        is_fresh = self._make_folder()
        every = console["every"] or self.config["monitor"]["every"] or built.max_steps
        display = open_display(built.max_steps, built.steps_per_epoch, every, state.step)
        journal = Journal(self.folder, self._events(is_fresh), display, state.last)
        observer = self._observer(journal)
        board = self._board(journal)
        status, stop = "failed", Stop()
        display.start(self._title())
        for warning in self.warnings:
            display.note(warning)
        try:
            with stop.listening(), warnings.catch_warnings():
                # A scaler that skips the first updates is no wrong order of calls.
                warnings.filterwarnings("ignore", message=r"Detected call of `lr_scheduler.step\(\)`")
                batches = self._batches()
                if state.step == 0 and board is not None:
                    batches = self._begin_board(board, batches)
                if state.step == 0 and journal.events is not None and self.config["monitor"]["statistics"]:
                    # Weights that never change: once is enough.
                    frozen = {n: p for n, p in built.model.named_parameters() if not p.requires_grad}
                    journal.events.scalars(0, weight_statistics(frozen))
                observer.start_clock()
                fit(state, built.loss_fn, batches, self._plan(), observer, built.precision, stop.is_requested)
                refuse_non_finite_weights(state.step, state.store)
                observer.save(state.step)
            if state.step < built.max_steps:
                status = "interrupted"
                message = (
                    f"stopped after step {state.step} and saved. To go on: train {schema.resume_word(self.folder)}"
                )
                raise Interrupted(message, stop.signal_number)
            numbers = self._test(board)
            journal.write(state.step, {f"test/{name}": number for name, number in numbers.items()})
            if not math.isfinite(numbers["loss"]):
                raise RunStopped(f"test/loss={numbers['loss']}: the loss on the test split is not finite")
            status = "finished"
        except RunStopped as error:
            status = "stopped"
            observer.report(state.step, self.diagnosis.stopped(state.step))
            lr = state.optimizer.param_groups[0]["lr"]
            raise RunStopped(
                f"{error}. Last: {last_words(state.last)}lr={lr:.4g}. Try a smaller optimizer.lr."
            ) from error
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"batch_size={built.batch_size}: {built.device} is out of memory. Try batch_size="
                f"{max(1, built.batch_size // 2)} gradient.accumulate={2 * self.config['gradient']['accumulate']}."
            ) from error
        finally:
            result = self._result(status, observer.seconds())
            folders.write_result(self.folder, result)
            if board is not None and status == "finished":
                board.end(state.step)
            self._end_events(journal, status)
            journal.close()
            display.stop(self._summary(result) if status == "finished" else ())
        return result

    def _make_folder(self) -> bool:
        """Makes the run's folder, or cuts what is in it back to the state's step. Returns whether it is new."""
        is_new = not (self.folder / "config.yaml").exists()
        try:
            self.folder.mkdir(parents=True, exist_ok=not is_new or self.folder.is_dir())
            if is_new:
                stored = {**self.request.config, "choices": self.request.choices}
                folders.write_config(self.folder, stored, self.request.overrides)
            else:
                (self.folder / "result.json").unlink(missing_ok=True)
                cut_metrics(self.folder / "metrics.jsonl", self.state.step)
        except OSError as error:
            raise UserError(
                f"{self.folder}: can't be written: {error.strerror}. Type another name= or run_dir=."
            ) from error
        return is_new

    def _events(self, is_fresh: bool) -> EventFile | None:
        monitor = self.config["monitor"]
        if not monitor["events"]:
            return None
        # A run that begins once more has nothing to keep, not even what stands at step 0.
        events = EventFile(self.folder, None if is_fresh else self.state.step or -1)
        if monitor["hparams"]:
            flat = self._hparams()
            # Without the seed, so that the tab averages the runs that differ in nothing else.
            group = hashlib.blake2b(json.dumps(flat, sort_keys=True).encode(), digest_size=8).hexdigest()
            events.raw(hparams.session_start(flat, group))
        return events

    def _board(self, journal: Journal) -> Board | None:
        if journal.events is None:
            return None
        data, note = self.built.data, journal.display.note
        shape = self.built.splits.input_shape
        monitor = self.config["monitor"]
        return Board(
            self.folder, journal.events, monitor, note, self.built.model, data.num_classes, data.class_names, shape
        )

    def _begin_board(self, board: Board, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Shows what there is before the first step; gives back the batches, of which it has looked at the first."""
        yaml = OmegaConf.to_yaml(OmegaConf.create(self.request.config))
        has_terms = self.built.loss_fn.names != [""]
        board.begin(yaml, __version__, self.built.device, self.built.sample.inputs, has_terms)
        first = next(batches)
        board.first_batch(*first)
        return itertools.chain([first], batches)

    def _test(self, board: Board | None) -> dict[str, float]:
        built, loss_fn = self.built, self.built.loss_fn
        with contextlib.ExitStack() as stack:
            keep = None
            if board is not None:
                gives = getattr(built.model, "gives", "logits")
                compared_with = next((t.wants.targets for t in loss_fn.terms if t.wants), "index")
                keep = stack.enter_context(board.watching(len(built.splits.test), gives, compared_with))
            return evaluate(built.model, loss_fn, built.splits.test, built.device, built.precision, keep)

    def _hparams(self) -> dict[str, Any]:
        """What the run was started with, flat: the choices by name and every number below them."""
        free = {"batch_size", "max_epochs", "precision"}
        flat = {
            key: value if isinstance(value, bool | int | float) else schema.shown(value)
            for key, value in schema.leaves(self.config)
            if (key in free or key.split(".")[0] in (*schema.GROUPS, "gradient"))
            and not key.endswith("_target_")
            and value is not None
        }
        return {**self.built.names, **flat, "max_steps": self.built.max_steps}

    def _observer(self, journal: Journal) -> RunObserver:
        config, store = self.config, self.state.store
        return RunObserver(
            self.state,
            self.built.loss_fn,
            self.built.splits.val,
            journal,
            self.checkpoints,
            self.built.precision,
            max_steps=self.built.max_steps,
            log_every=config["monitor"]["every"],
            samples_per_step=self.built.samples_per_step,
            metric=config["checkpoint"]["metric"],
            statistics=Statistics(store.names, store.bounds) if config["monitor"]["statistics"] else None,
            histogram_every=config["monitor"]["histogram_every"] if config["monitor"]["histograms"] else None,
            activations=Activations(self.built.model) if config["monitor"]["activations"] else None,
            diagnosis=self.diagnosis,
        )

    def _facts(self) -> Facts:
        built, config, model = self.built, self.config, self.built.model
        on_purpose = {
            f"{name}.backbone".lstrip("."): module.backbone
            for name, module in model.named_modules()
            if isinstance(module, Finetune)
        }
        meant = {p for backbone in on_purpose.values() for p in backbone.parameters()}
        frozen = [layer_of(n) for n, p in model.named_parameters() if not p.requires_grad and p not in meant]
        terms = {
            f"train/loss/{name}" if name else "train/loss": chance_loss(part.criterion, built.data.num_classes)
            for name, part in zip(built.loss_fn.names, built.loss_fn.parts, strict=True)
            if part in built.loss_fn.terms
        }
        return Facts(
            settings=dict(schema.leaves(config)),
            parameters={n: p.dim() for n, p in zip(self.state.store.names, self.state.store.parameters, strict=True)},
            max_steps=built.max_steps,
            num_samples=len(built.splits.train),
            samples_per_step=built.samples_per_step,
            frozen=list(dict.fromkeys(frozen)),
            frozen_on_purpose=list(on_purpose),
            squashed=squashed_layers(model),
            chance={tag: loss for tag, loss in terms.items() if loss is not None},
            gives=getattr(model, "gives", "logits"),
            is_pretrained=any(getattr(module, "is_pretrained", False) for module in model.modules()),
            is_scaled=self.state.scaler.is_enabled(),
        )

    def _batches(self) -> Iterator[Batch]:
        return self.built.splits.train.training(self.built.samples_per_step, self.config["seed"], self.state.step + 1)

    def _plan(self) -> Plan:
        config = self.config
        return Plan(
            max_steps=self.built.max_steps,
            part_size=self.built.batch_size,
            log_every=config["monitor"]["every"],
            show_every=config["console"]["every"],
            eval_every=evaluation_period(config["eval_every"], self.built.steps_per_epoch),
            save_every=config["checkpoint"]["every"],
            # On the CPU a look at the loss is free; elsewhere it waits for the device, so the losses are kept until a
            # step that is logged, evaluated or saved, or until there are many.
            check_every=1 if self.built.device.type == "cpu" else 1000,
            clip_norm=config["gradient"]["clip_norm"],
            clip_value=config["gradient"]["clip_value"],
        )

    def _title(self) -> list[str]:
        going_on = f", from step {self.state.step}" if self.state.step else ""
        return [
            self.built.data.description,
            f"{self.built.names['model']}: {self._num_parameters():,} parameters, "
            f"{self.state.store.values.shape[1]:,} train; {self.built.names['loss']}, {self.built.names['optimizer']}, "
            f"{self.built.device}",
            f"{self.built.max_steps} steps of {self.built.samples_per_step} samples{going_on}, in {self.folder}",
        ]

    def _num_parameters(self) -> int:
        return sum(p.numel() for p in self.built.model.parameters())

    def _result(self, status: str, seconds: float) -> Config:
        return {
            **self.state.last,
            "status": status,
            "steps": self.state.step,
            "seconds": seconds,
            "num_parameters": self._num_parameters(),
            "num_trainable": self.state.store.values.shape[1],
            "diagnosis": [finding.as_dict() for finding in self.diagnosis.findings],
        }

    def _end_events(self, journal: Journal, status: str) -> None:
        if journal.events is None:
            return
        if self.config["monitor"]["texts"]:
            journal.events.text("about/diagnosis", self.state.step, self.diagnosis.markdown())
        if self.config["monitor"]["graph"] and status == "finished":
            graph, reason = model_graph(self.built.model, self.built.sample.inputs)
            if graph is None:
                journal.display.note(f"warning: no graph for TensorBoard: {reason}")
            else:
                journal.events.graph(graph)
        if self.config["monitor"]["hparams"]:
            journal.events.raw(hparams.session_end("success" if status == "finished" else "failure"), self.state.step)

    def _summary(self, result: Config) -> list[tuple[str, str]]:
        rows = [
            (tag, short(result[tag]))
            for tag in ("train/loss", "val/loss", "val/accuracy", "test/loss", "test/accuracy")
            if tag in result
        ]
        found = [(finding.where, f"step {finding.step}: {finding.advice}") for finding in self.diagnosis.findings]
        return [
            *rows,
            *(found or [("diagnosis", "nothing is amiss")]),
            ("parameters", f"{result['num_parameters']:,}, {result['num_trainable']:,} of them trained"),
            ("time", f"{result['seconds']:.1f} s for {result['steps']} steps"),
            ("run folder", str(self.folder)),
            *([("look at it", f"tensorboard --logdir {self.folder}")] if self.config["monitor"]["events"] else []),
        ]


def last_words(last: Mapping[str, float]) -> str:
    """The last logged losses and gradient norm, `tag=value` and a space each."""
    tags = ("train/loss", "val/loss", "grad_norm")
    return "".join(f"{tag}={last[tag]:.4g} " for tag in tags if tag in last)


class Stop:
    """Ctrl-C and SIGTERM ask the loop to stop after the step; a second Ctrl-C ends the process at once."""

    def __init__(self) -> None:
        self.signal_number = 0

    def is_requested(self) -> bool:
        return self.signal_number != 0

    def _receive(self, signal_number: int, frame: object) -> None:
        self.signal_number = signal_number
        signal.signal(signal.SIGINT, signal.default_int_handler)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield  # Python gives signals to the main thread alone
            return
        old = {number: signal.signal(number, self._receive) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)
