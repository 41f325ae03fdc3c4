"""One training in its folder: what is opened, trained, tested, summed up and closed."""

import contextlib
import hashlib
import itertools
import json
import math
import shutil
import signal
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import torch
from omegaconf import OmegaConf

from trainer import __version__
from trainer.cadence import evaluation_period
from trainer.config import schema
from trainer.config.request import Config, Request
from trainer.data.batches import Batch, Batches, first_samples
from trainer.disk import folder as folders
from trainer.disk.cache import Cache
from trainer.disk.cache import num_bytes as num_cached_bytes
from trainer.disk.checkpoint import Checkpoints, Saver, num_bytes
from trainer.disk.files import cache_folder, cannot_write, remove_leftovers
from trainer.disk.lock import locked
from trainer.distributed import Agreement
from trainer.errors import Interrupted, NonFinite, Pruned, RunStopped, UserError
from trainer.evaluate import evaluate, evaluating
from trainer.fast.compiled import CompiledStep, NotCompiled
from trainer.fast.features import Features, Feed, of_inputs
from trainer.finished.pruning import MedianRule
from trainer.finite import refuse_non_finite_weights
from trainer.loop import Plan, Wish, fit
from trainer.models.finetune import Finetune
from trainer.monitor import hparams
from trainer.monitor.activations import Activations
from trainer.monitor.board import Board
from trainer.monitor.console import Display, Lines, Silent, open_display, short
from trainer.monitor.diagnosis import Diagnosis, Facts, chance_loss, layer_of, squashed_layers
from trainer.monitor.events import EventFile
from trainer.monitor.graph import model_graph
from trainer.monitor.journal import Journal, cut_metrics
from trainer.monitor.nonfinite import first_non_finite
from trainer.monitor.statistics import Statistics, weight_statistics
from trainer.run.build import Built, first_line
from trainer.run.observer import RunObserver
from trainer.signals import Signals


class Training:
    """A run in its folder.

    Args:
        log: where it says how it goes, if not on the terminal.
    """

    def __init__(
        self, request: Request, built: Built, folder: Path, signals: Signals, log: TextIO | None = None
    ) -> None:
        self.request, self.built, self.folder, self.signals, self.log = request, built, folder, signals, log
        self.config, self.state, self.world = built.config, built.state, built.world
        self.checkpoints = Checkpoints(folder / "checkpoints", self.config["checkpoint"]["keep"])
        self.warnings = [*built.warnings]
        self.diagnosis = Diagnosis(self._facts())

    def finished(self) -> Config | None:
        """The result of a run that has nothing left to do; says so."""
        result = folders.read_result(self.folder)
        if result is None or result.get("status") != "finished" or result.get("steps", 0) < self.built.max_steps:
            return None
        if self.world.is_main:
            print(
                f"{self.folder} is finished: {result['steps']} steps. "
                f"To go on, type a larger max_steps= or max_epochs=; for another run, another name=."
            )
        return result

    def take_folder(self, stack: contextlib.ExitStack) -> None:
        """Makes the folder where the run is new, and locks it until the stack is closed.

        Raises:
            UserError: another process trains there, or it can't be written.
        """
        if not self.world.is_main:
            return
        is_new = folders.read_config(self.folder) is None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(self.folder))
            if is_new and (self.folder / "config.yaml").exists():
                raise UserError(f"{self.folder}: another process has just begun a run here. Type another name=.")
            for folder in (self.folder, self.checkpoints.folder):
                remove_leftovers(folder)
        except OSError as error:
            raise cannot_write(self.folder, error) from error

    def load(self) -> None:
        """Takes up the newest whole checkpoint, if there is one."""
        state = self.checkpoints.newest(self.warnings.append)
        if state is None:
            return
        try:
            self.state.load_state_dict(state)
            if "diagnosis" in state:
                self.diagnosis.load_state_dict(state["diagnosis"])
        except Exception as error:  # of every kind: the file may be anybody's
            raise UserError(f"{self.folder}: the checkpoint does not fit: {first_line(error)}.") from error
        if self.state.step > self.built.max_steps:
            raise UserError(
                f"max_steps={self.built.max_steps}: the run in {self.folder} is at step {self.state.step} already. "
                f"Type a larger max_steps= or max_epochs=."
            )

    def train(self) -> Config:
        """Trains to the end, tests, and leaves the result in the run's folder."""
        with self.signals.deferred(), self.open(), self.built.products():
            self.prepare()
            # What is shared out over the processes goes through this; alone it is the network itself.
            state = self.state
            state.recorded = self.built.recorded(self.feed.network, self.feed.train)
            state.forward = self.world.parallel(state.forward, self.built.device, self._has_unused_parameters())
            agreement = Agreement(self.world)

            def asked() -> Wish:
                is_to_stop = self.signals.received != 0 or self.observer.pruned_for is not None
                return Wish(*agreement(is_to_stop, self.observer.is_save_overdue()))

            with warnings.catch_warnings():
                # A scaler that skips the first updates is no wrong order of calls.
                warnings.filterwarnings("ignore", message=r"Detected call of `lr_scheduler.step\(\)`")
                is_over = fit(
                    state, self.built.loss_fn, self._batches, self.plan(), self.observer, self.built.precision, asked
                )
            agreement.wait()
            self.finish(is_over)
        return self.result

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Opens what the run is written to; at the end closes it, and leaves `result`, whatever became of the run.

        Raises:
            RunStopped: for NonFinite, which it explains.
        """
        is_fresh = self.world.together(self._prepare_folder)
        self.journal = self.world.together(lambda: self._open_journal(is_fresh))
        self.saver = Saver(self.checkpoints)
        self.observer = self._observer()
        self.board = self._open_board()
        self.journal.display.start(self._title())
        for warning in self.warnings:
            self.journal.display.note(warning)
        self.features = self._find_features()
        status = "failed"
        try:
            yield
            status = "finished"
        except NonFinite as error:
            status = "stopped"
            self.observer.report(self.state.step, self.diagnosis.stopped(self.state.step))
            raise RunStopped(self._explained(error)) from error
        except Pruned:
            status = "pruned"
            raise
        except (Interrupted, KeyboardInterrupt):
            status = "interrupted"
            raise
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"batch_size={self.built.batch_size}: {self.built.device} is out of memory. Try batch_size="
                f"{max(1, self.built.batch_size // 2)} "
                f"gradient.accumulate={2 * self.config['gradient']['accumulate']}."
            ) from error
        finally:
            self.result = self._result(status, self.observer.seconds())
            self._close()

    def prepare(self) -> None:
        """Before the first step of this process: shows what there is to see of a run that is new."""
        self._batches = self.batches()
        if self.state.step == 0 and self.board is not None:
            self._batches = self._begin_board(self.board, self._batches)
        if self.state.step == 0 and self.journal.events is not None and self.config["monitor"]["statistics"]:
            # Weights that never change: once is enough.
            frozen = {n: p for n, p in self.built.model.named_parameters() if not p.requires_grad}
            self.journal.events.scalars(0, weight_statistics(frozen))
        self.observer.start_clock()
        with self.observer.off_the_clock():
            self._take_feed()
            if self.config["compile"]:
                self._compile()

    def _take_feed(self) -> None:
        """Has the batches be features, and go through the head alone, where that is the same and quicker."""
        built, is_long = self.built, self.built.max_steps - self.state.step > self.built.steps_per_epoch
        feed = None
        if self.features is not None:
            feed = self.features.feed(built.model.get_submodule("head"), is_worth=is_long)
        self.is_on_features = feed is not None
        self.feed = feed or Feed(built.model, built.splits.train, built.splits.val, built.sample.inputs)
        self.state.forward = self.observer.network = self.feed.network
        self.observer.val = self.feed.val
        if self.is_on_features:
            self._batches = self.batches(self.feed.train)

    def _find_features(self) -> Features | None:
        """Of the frozen backbone, where the training needs no more of it than constants.

        Not where its layers are to be watched at work.
        """
        built, config = self.built, self.config
        model, is_random = built.model, getattr(built.splits.train, "augment", None)
        if type(model) is not Finetune or model.unfrozen or is_random:
            return None
        if not config["fast"] or config["monitor"]["activations"]:
            return None
        note, limit = self.journal.display.note, num_cached_bytes(config["cache_limit"])
        try:
            cache = Cache(cache_folder("features"), limit, note)
        except RuntimeError:  # no home folder
            cache = Cache(self.folder, 0, note)
        return Features(
            model,
            built.splits,
            built.sample.inputs,
            built.precision,
            config["precision"],
            self.world,
            cache,
            note,
            self._is_stop_requested,
        )

    def _compile(self) -> None:
        """Has the step compiled, where that is possible; says how long it took, or why it is not."""
        built, state, note = self.built, self.state, self.journal.display.note
        if self.world.size > 1:
            note("compile=true: of several processes the model alone is compiled, in the first steps")
            return
        of = built.samples_per_step
        example = first_samples(self.feed.train, min(built.batch_size, of))
        started = time.perf_counter()
        try:
            state.compiled = CompiledStep(
                self.feed.network, built.loss_fn, state.store, state.scaler, built.precision, example, of, note
            )
        except NotCompiled as error:
            note(f"warning: compile=true: {error}; the run goes on uncompiled")
        else:
            note(f"compile=true: it took {time.perf_counter() - started:.1f} s to compile the step")

    def finish(self, is_over: bool) -> None:
        """After the last step of this process: saves, and where the training is over tests.

        Raises:
            NonFinite: what was trained is not worth a checkpoint, or fails the test.
            Pruned: it is not worth going on; all is saved.
            Interrupted: it is not over; all is saved.
        """
        refuse_non_finite_weights(self.state)
        self.observer.save(self.state.step)
        self.saver.wait()
        reason = self.world.shared(self.observer.pruned_for)
        if not is_over and reason is not None and not self.signals.received:
            how = f"train {schema.resume_word(self.folder)} sweep.prune=null"
            raise Pruned(f"pruned after step {self.state.step}: {reason}. To go on all the same: {how}")
        numbers = None
        if is_over:
            numbers = self.world.shared(self._test() if self.world.is_main else None)
        if numbers is None:
            raise Interrupted(
                f"stopped after step {self.state.step} and saved. To go on: train {schema.resume_word(self.folder)}",
                self.signals.received or signal.SIGTERM,  # another process of this training got it
            )
        self.journal.write(self.state.step, {f"test/{name}": number for name, number in numbers.items()})
        if not math.isfinite(numbers["loss"]):
            raise NonFinite(f"test/loss={numbers['loss']}: the loss on the test split is not finite")

    def _explained(self, error: NonFinite) -> str:
        """The error, the numbers at that step, and where the first of them is that is not finite."""
        state, built = self.state, self.built
        lr = state.optimizer.param_groups[0]["lr"]
        numbers = f"lr={lr:.4g}"
        if (norm := state.store.grads.norm().item()) != 0:
            numbers += f" grad_norm={norm:.4g}"
        batch = next(self.batches())  # that of the step which was not finished, since batches are a function of steps
        places = self.world.gather(first_non_finite(built.model, batch.inputs, built.precision))
        place = next((place for place in places if place is not None), None)
        where = place or "the loss itself, of outputs that are finite"
        return (
            f"{error}. {numbers}. The first value that is not finite: {where}. Last: {last_words(state.last)}"
            f"Try optimizer.lr={lr / 10:.4g}, gradient.clip_norm=1 or on_nan=skip."
        )

    def _has_unused_parameters(self) -> bool:
        """Whether a trainable parameter has no part in the loss: other processes would wait for its gradient."""
        if self.world.size == 1:
            return False
        built = self.built
        with evaluating(built.model, built.device), torch.enable_grad(), built.precision():
            total = built.loss_fn(built.model(built.sample.inputs), built.sample.targets).total
            gradients = torch.autograd.grad(total, self.state.store.parameters, allow_unused=True)
        return any(gradient is None for gradient in gradients)

    def _prepare_folder(self) -> bool:
        """Writes the config of a run that is new; cuts what is in its folder back to the state's step. Is it new?"""
        is_new = not (self.folder / "config.yaml").exists()
        if self.world.is_main:
            try:
                if is_new:
                    stored = {**self.request.config, "choices": self.request.choices}
                    folders.write_config(self.folder, stored, self.request.overrides)
                else:
                    (self.folder / "result.json").unlink(missing_ok=True)
                    cut_metrics(self.folder / "metrics.jsonl", self.state.step)
            except OSError as error:
                raise cannot_write(self.folder, error) from error
            needed = 3 * num_bytes(self.state.model.state_dict())
            if (free := shutil.disk_usage(self.folder).free) < needed:
                self.warnings.append(f"warning: {free:,} bytes are free, but checkpoints may take {needed:,}")
        return is_new

    def _open_journal(self, is_fresh: bool) -> Journal:
        if not self.world.is_main:
            return Journal(None, None, Silent(), self.state.last)
        built = self.built
        every = self.config["console"]["every"] or self.config["monitor"]["every"] or built.max_steps
        if self.log is not None:
            display: Display = Lines(every, built.max_steps, self.log)
        else:
            display = open_display(built.max_steps, built.steps_per_epoch, every, self.state.step)
        try:
            return Journal(self.folder, self._events(is_fresh), display, self.state.last)
        except OSError as error:
            raise cannot_write(self.folder, error) from error

    def _close(self) -> None:
        """Ends what is open, `result.json` last: a run that has it is whole.

        Raises:
            UserError: something could not be written, unless the run ends with another error, which is the first then.
        """
        journal, board, is_finished = self.journal, self.board, self.result["status"] == "finished"
        failure: UserError | None = None
        for close in (
            self.saver.wait,
            lambda: board.end(self.state.step) if board is not None and is_finished else None,
            lambda: self._end_events(),
            journal.close,
            lambda: folders.write_result(self.folder, self.result) if self.world.is_main else None,
        ):
            try:
                close()
            except OSError as error:
                failure = failure or cannot_write(self.folder, error)
            except UserError as error:
                failure = failure or error
        journal.display.stop(self._summary(self.result) if is_finished and failure is None else ())
        if failure is not None and is_finished:
            raise failure

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

    def _open_board(self) -> Board | None:
        if self.journal.events is None:
            return None
        data, note = self.built.data, self.journal.display.note
        shape = self.built.splits.input_shape
        monitor = self.config["monitor"]
        return Board(
            self.folder, self.journal.events, monitor, note, self.built.model, data.num_classes, data.class_names, shape
        )

    def _begin_board(self, board: Board, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Shows what there is before the first step; gives back the batches, of which it has looked at the first."""
        yaml = OmegaConf.to_yaml(OmegaConf.create(self.request.config))
        has_terms = self.built.loss_fn.names != [""]
        board.begin(yaml, __version__, self.built.device, self.built.sample.inputs, has_terms)
        first = next(batches)
        board.first_batch(*first)
        return itertools.chain([first], batches)

    def _test(self) -> dict[str, float] | None:
        """The whole test split, on this process alone; None where a stop was asked for."""
        built, loss_fn, network, test = self.built, self.built.loss_fn, self.feed.network, self.built.splits.test
        if self.features is not None and self.is_on_features:
            features = self.features.of("test") if self.world.size == 1 else None  # which all ranks would compute
            network, test = (network, features) if features is not None else (built.model, test)
        with contextlib.ExitStack() as stack:
            keep = None
            if self.board is not None:
                gives = getattr(built.model, "gives", "logits")
                compared_with = next((t.wants.targets for t in loss_fn.terms if t.wants), "index")
                keep = stack.enter_context(self.board.watching(len(test), gives, compared_with))
            if keep is not None and network is not built.model:
                keep = of_inputs(keep, built.splits.test)
            stop = self._is_stop_requested
            return evaluate(network, loss_fn, test, built.device, built.precision, keep, stop)

    def _is_stop_requested(self) -> bool:
        return self.signals.received != 0

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

    def _observer(self) -> RunObserver:
        config, store = self.config, self.state.store
        watched = {**config["monitor"]} if self.world.is_main else dict.fromkeys(config["monitor"], False)
        return RunObserver(
            self.state,
            self.built.loss_fn,
            self.built.splits.val,
            self.journal,
            self.saver,
            self.built.precision,
            max_steps=self.built.max_steps,
            log_every=config["monitor"]["every"],
            samples_per_step=self.built.samples_per_step,
            metric=config["checkpoint"]["metric"],
            statistics=Statistics(store.names, store.bounds) if watched["statistics"] else None,
            histogram_every=config["monitor"]["histogram_every"] if watched["histograms"] else None,
            activations=Activations(self.built.model) if watched["activations"] else None,
            diagnosis=self.diagnosis,
            save_every=config["checkpoint"]["every"],
            save_every_minutes=config["checkpoint"]["every_minutes"],
            is_stop_requested=self._is_stop_requested,
            rule=self._rule(),
        )

    def _rule(self) -> MedianRule | None:
        """What prunes this run where it is a job of a sweep; on the main process alone, which tells the others."""
        sweep = self.config["sweep"]
        if sweep["prune"] is None or not self.world.is_main or not (self.folder.parent / "sweep.yaml").exists():
            return None
        metric = sweep["metric"] or ("val/loss" if self.built.loss_fn.num_classes is None else "val/accuracy")
        return MedianRule(self.folder, metric, sweep["prune_first"], sweep["prune_steps"])

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

    def batches(self, split: Batches | None = None) -> Iterator[Batch]:
        """From the next step on; of the training split, or of its samples in another form."""
        return (split or self.built.splits.train).training(
            self.built.samples_per_step, self.built.order_seed, self.state.step + 1, self.world.rank, self.world.size
        )

    def plan(self) -> Plan:
        """How long, and when what is due."""
        config = self.config
        return Plan(
            max_steps=self.built.max_steps,
            num_samples=len(self.built.splits.train),
            samples_per_step=self.built.samples_per_step,
            part_size=-(-self.built.batch_size // self.world.size),
            log_every=config["monitor"]["every"],
            show_every=config["console"]["every"],
            eval_every=evaluation_period(config["eval_every"], self.built.steps_per_epoch),
            save_every=config["checkpoint"]["every"],
            # On the CPU a look at the loss is free; elsewhere it waits for the device, so the losses are kept until a
            # step that is logged, evaluated or saved, or until there are many.
            check_every=1 if self.built.device.type == "cpu" else 1000,
            clip_norm=config["gradient"]["clip_norm"],
            clip_value=config["gradient"]["clip_value"],
            skips_non_finite=config["on_nan"] == "skip",
        )

    def _title(self) -> list[str]:
        going_on = f", from step {self.state.step}" if self.state.step else ""
        return [
            self.built.data.description,
            f"{self.built.names['model']}: {self._num_parameters():,} parameters, "
            f"{self.state.store.values.shape[1]:,} train; {self.built.names['loss']}, {self.built.names['optimizer']}, "
            f"{self.built.device}{f', {self.world.size} processes' if self.world.size > 1 else ''}",
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

    def _end_events(self) -> None:
        journal, status = self.journal, self.result["status"]
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
