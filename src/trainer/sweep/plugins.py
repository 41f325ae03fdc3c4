"""Hydra's plugins in a sweep: launchers run its jobs elsewhere, sweepers choose them as they go."""

import logging
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import MissingConfigException
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf, read_write

from trainer.config.compose import Alike, combinations, counted_in, without_null
from trainer.config.grammar import written
from trainer.config.request import Request, resolved
from trainer.errors import UserError, first_line
from trainer.signals import Signals
from trainer.sweep.cluster import Cluster, Errand
from trainer.sweep.search import Trial, search
from trainer.sweep.sweep import sweep

# The extra that a plugin comes with.
EXTRAS = {
    "hydra/sweeper/optuna": "optuna",
    "hydra/launcher/ray": "ray",
    "hydra/launcher/submitit_local": "slurm",
    "hydra/launcher/submitit_slurm": "slurm",
}


@dataclass(frozen=True)
class Task:
    """What Hydra calls on the machine of a job."""

    errand: Errand

    def __call__(self, config: DictConfig) -> None:
        self.errand(HydraConfig.get().job.num)


class PluggedSweep:
    """A sweep by Hydra's plugins, made while Hydra is at its folders of configs.

    Args:
        words: overrides, of which those of Hydra itself name the plugins.
        config_name: of the config that all others go into.
    """

    folder: Path

    def __init__(self, words: list[str], config_name: str) -> None:
        of_hydra = [word for word in words if word.lstrip("+~").startswith(("hydra/", "hydra."))]
        own = [word for word in words if word not in of_hydra]
        self.typed = {word.lstrip("+").partition("=")[0] for word in of_hydra}
        for key in sorted(self.typed):
            if key in ("hydra.sweep.dir", "hydra.sweep.subdir"):
                raise UserError(f"{key}: a sweep lies in runs/<name>, each job in a folder there. Type name=...")
            # Callbacks, logging, working folders: Hydra would call and write what nobody has checked.
            if not re.match(r"hydra[/.](launcher|sweeper)\b", key):
                raise UserError(f"{key}: of Hydra's own a sweep takes hydra/launcher, hydra/sweeper and their keys.")
        self.config_name, self.alike = config_name, Alike(config_name)
        self.config = self._hydra_config(of_hydra)
        self.is_search = not self.config.hydra.sweeper._target_.endswith(".BasicSweeper")
        self.requests: list[Request] = []
        self.fixed: list[str] = []
        self.swept: list[Override] = []
        if self.is_search:
            parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
            parsed = [without_end(override, parser) for override in parser.parse_overrides(own)]
            self.swept = [override for override in parsed if override.is_sweep_override()]
            self.fixed = [str(override.input_line) for override in parsed if not override.is_sweep_override()]
            if not self.swept:
                example = "'optimizer.lr=tag(log,interval(1e-4,1e-1))'"
                raise UserError(f"hydra/sweeper: there is nothing to search. Type an interval such as {example}.")
            self.requests = [self.request(trial) for trial in self.corners()]
        else:
            self.requests = [self.alike.composed(words) for words in combinations(own)]

    def run(self, folder: Path, argv: Sequence[str], signals: Signals) -> int:
        """Runs it in the folder of the sweep. Returns how many jobs have failed."""
        self.folder = folder
        # Whatever Hydra or a plugin writes goes there, whoever's working directory it is. A launcher's worker composes
        # once more, from the words alone, and makes the folder that comes of it.
        place = str(folder.absolute())
        with read_write(self.config.hydra):
            self.config.hydra.sweep.dir = place
            self.config.hydra.overrides.hydra.append(f"hydra.sweep.dir={written(place)}")
        is_local = self.config.hydra.launcher._target_.endswith(".BasicLauncher")
        cluster = None if is_local else Cluster(self._launch, self.folder)
        if self.is_search:
            return search(self, self.folder, argv, signals, cluster)
        return sweep(self.requests, self.folder, argv, signals, cluster)

    def _hydra_config(self, words: list[str]) -> DictConfig:
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        words = [*words, "hydra.job.name=train"]
        try:
            return hydra.compose_config(self.config_name, words, RunMode.MULTIRUN, with_log_configuration=False)
        except MissingConfigException as error:
            extra = EXTRAS.get(str(error.missing_cfg_file))
            if extra is None:
                raise
            word = "=".join(str(error.missing_cfg_file).rsplit("/", 1))
            raise UserError(f"{word}: its plugin is missing. Type pip install 'train-cli[{extra}]'.") from error

    def _context(self) -> HydraContext:
        return HydraContext(config_loader=GlobalHydra.instance().config_loader(), callbacks=Callbacks())

    def _launch(self, errand: Errand) -> None:
        launcher = Plugins.instance().instantiate_launcher(self._context(), Task(errand), self.config)
        launcher.launch([without_null(job.request.overrides) for job in errand.jobs], initial_job_idx=0)

    # What a search asks for: `trainer.sweep.search.Space`.

    @property
    def num_trials(self) -> int:
        return int(OmegaConf.select(self.config, "hydra.sweeper.n_trials", default=0))

    def corners(self) -> list[Trial]:
        ends = [words_of(override) for override in self.swept]
        return [
            tuple(words[min(i, len(words) - 1)] for words in ends) for i in range(max(len(words) for words in ends))
        ]

    def request(self, trial: Trial) -> Request:
        return self.alike.composed([*self.fixed, *trial])

    def drive(self, run: Callable[[Sequence[Trial]], list[float | None]], is_larger_better: bool) -> None:
        first = resolved(self.requests[0].config)
        self._set("direction", "maximize" if is_larger_better else "minimize")
        self._set("n_jobs", first["sweep"]["jobs"])
        self._set("max_failure_rate", 1.0)
        self._set("sampler.seed", first["seed"])  # so that the same command asks for the same trials
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what the plugin imports is not our user's to mend
            sweeper: Any = Plugins.instance().instantiate_sweeper(
                config=self.config, hydra_context=self._context(), task_function=print
            )
        # It says what we say, in lines of its own.
        for name in ("hydra_plugins", "optuna"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        # It has made a launcher from the config, where only another plugin can be named.
        trials = Trials(run)
        getattr(sweeper, "sweeper", sweeper).launcher = trials
        try:
            sweeper.sweep([override.input_line for override in self.swept])
        except ValueError as error:
            if not trials.values:
                raise UserError(f"hydra/sweeper: {first_line(error)}") from error
            if any(value is not None for value in trials.values):
                raise
            # or else it says that no trial is the best

    def _set(self, key: str, value: object) -> None:
        """A setting of the sweeper, where it has such a one that was not typed."""
        section, _, last = f"hydra.sweeper.{key}".rpartition(".")
        holder = OmegaConf.select(self.config, section)
        if holder is not None and last in holder and f"{section}.{last}" not in self.typed:
            with read_write(holder):
                holder[last] = value


class Trials:
    """The launcher of a sweeper: its trials are jobs like any other."""

    def __init__(self, run: Callable[[Sequence[Trial]], list[float | None]]) -> None:
        self.run = run
        self.values: list[float | None] = []

    def launch(self, job_overrides: Sequence[Trial], initial_job_idx: int) -> list[JobReturn]:
        values = self.run(job_overrides)
        self.values += values
        return [JobReturn(status=JobStatus.COMPLETED, _return_value=value) for value in values]


def without_end(override: Override, parser: OverridesParser) -> Override:
    """`range(0,3)` up to 2, as in a sweep without a search: the plugin would try 3, too."""
    value = override.value()
    if not isinstance(value, RangeSweep) or value.shuffle:
        return override
    numbers = counted_in(override)
    ends = f"{min(numbers)},{max(numbers)},{abs(value.step)}"
    return parser.parse_override(f"{override.get_key_element()}=range({ends})")


def words_of(override: Override) -> list[str]:
    """What a word of the space can come to: all its choices, or both ends of its interval."""
    value, key = override.value(), override.get_key_element()
    if isinstance(value, IntervalSweep):
        return [f"{key}={value.start}", f"{key}={value.end}"]
    if isinstance(value, RangeSweep):
        return [f"{key}={value.start}", f"{key}={value.stop}"]
    return [f"{key}={choice}" for choice in override.sweep_string_iterator()]
