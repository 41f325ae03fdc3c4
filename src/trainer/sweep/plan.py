"""What a sweep is to run: its jobs by name, and which of them are done."""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from yaml import YAMLError

from trainer.config import schema
from trainer.config.request import Config, Request, resolved
from trainer.disk import folder as folders
from trainer.disk import foreign
from trainer.errors import UserError
from trainer.system import shell

# Models whose runs are faster together on a CPU; a convolution is slower so (tests/benchmarks/table.py).
FASTER_TOGETHER = ("two_layer", "sequential", "frozen_resnet")
FEWEST_TOGETHER = 4
# Keys that runs which are trained together may differ in, beside numbers of optimizer and scheduler.
DIFFERENT = ("seed", "order_seed", "run_dir", "model.dropout", "model.init_std")
_LONGEST_TYPED = 8  # characters of a number that somebody typed; a search takes all seventeen digits
MAX_NAME = 120  # characters; a file system takes 255 bytes


@dataclass(frozen=True, eq=False)
class Job:
    """One run of a sweep.

    Args:
        name: of its folder: what it does not share with the other jobs, as typed.
        swept: the same as key and value.
    """

    name: str
    folder: Path
    swept: dict[str, str]
    request: Request


def plan(
    requests: Sequence[Request], folder: Path, keys: Sequence[str] | None = None, digits: int | None = None
) -> list[Job]:
    """The jobs of a sweep in its folder.

    Args:
        keys: that are swept; None for those in which the requests differ.
        digits: of the numbers in the jobs' names; None for all.

    Raises:
        UserError: two jobs are the same; a job's config is wrong, or not what its folder was begun with.
    """
    typed = [dict(word.lstrip("+~").partition("=")[::2] for word in request.overrides) for request in requests]
    if keys is None:
        keys = [key for key in typed[0] if len({words.get(key) for words in typed}) > 1]
        before, _ = read_told(folder)
        if before is not None and set(before) == set(keys) and len(before) == len(keys):
            keys = before  # words in another order are the same sweep, and its jobs keep their names
    if (key := next((key for key in keys if key.startswith("sweep.") or key == "dry_run"), None)) is not None:
        values = list(dict.fromkeys(words.get(key, "null") for words in typed))
        raise UserError(f"{key}={','.join(values)}: is of the sweep itself, which has one. Type {key}={values[0]}.")
    first = resolved(requests[0].config)
    jobs: dict[str, Job] = {}
    same: dict[Any, str] = {}  # what a job does to its name
    for number, (request, words) in enumerate(zip(requests, typed, strict=True)):
        swept = {key: _said(key, words[key], request) for key in keys}
        name = job_name(swept if digits is None else {key: rounded(word, digits) for key, word in swept.items()})
        twin = same.setdefault(_identity(request), name)
        if name in jobs or twin != name:  # two runs of one seed would count as two seeds
            which = "another" if name == twin else f"{twin}, which has the same values"
            raise UserError(f"job {number} ({name}): is the same as {which}. Type each value once.")
        config = {**request.config, "run_dir": str(folder / name), "name": None, "resume": "auto"}
        if first["sweep"]["share_batches"] and config["order_seed"] is None:
            config["order_seed"] = first["seed"]
        own = [word for word in request.overrides if not word.startswith(("name=", "sweep."))]  # those are the sweep's
        jobs[name] = Job(name, folder / name, swept, Request(config, request.choices, own))
        try:
            refuse(jobs[name])
        except UserError as error:
            raise UserError(f"job {number} ({name}): {error}") from error
    return list(jobs.values())


def _identity(request: Request) -> Any:
    """What tells a job from the others: 1 and 1.0 are one number, but to a class of the user's own."""
    config = resolved(request.config)

    def alike(key: str, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return tuple(alike(key, item) for item in value)
        group = key.partition(".")[0]
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        is_one = is_number and (key == group or group not in schema.GROUPS or schema.is_shipped(config[group]))
        return value if is_one else (type(value).__name__, str(value))

    leaves = ((key, alike(key, value)) for key, value in sorted(schema.leaves(config)) if key != "name")
    return (*sorted(request.choices.items()), *leaves)


def _said(key: str, word: str, request: Request) -> str:
    """What a job has of a swept key: the value that a reference or a text in quotes stands for, or what was typed."""
    if "${" not in word and "$\\{" not in word and word[:1] not in ("'", '"'):  # as Hydra writes it
        return word
    if key in request.choices:
        return request.choices[key]
    value = dict(schema.leaves(resolved(request.config))).get(key)
    if value is None:
        return word
    return str(value) if schema.is_as_typed(key) else schema.written(value)


def rounded(word: str, digits: int) -> str:
    """A number that nobody typed, with so many digits; any other word as it is."""
    try:
        return f"{float(word):.{digits}g}" if len(word) > _LONGEST_TYPED else word
    except ValueError:
        return word


def told_apart(words: Sequence[str]) -> list[str]:
    """Words of one key with as many digits as tell them apart, three at least."""
    found = ([rounded(word, digits) for word in words] for digits in range(3, 18))
    return next((short for short in found if len(set(short)) == len(set(words))), list(words))


def job_name(swept: dict[str, str]) -> str:
    """`adam,lr=0.1,seed=0` of optimizer, optimizer.lr and seed; without what no file system likes.

    Keys are called by their last word where that is theirs alone: TensorBoard shows some 30 characters, by which jobs
    are to be told apart. A name that is too long ends in a checksum.
    """
    last = [key.rpartition(".")[2] for key in swept]
    called = {key: word if last.count(word) == 1 else key for key, word in zip(swept, last, strict=True)}
    text = ",".join(value if key in schema.GROUPS else f"{called[key]}={value}" for key, value in swept.items())
    cleaned = re.sub(r"[^\w.=,+-]+", "-", text).strip("-.") or "job"
    if cleaned == text and len(text) <= MAX_NAME:
        return text
    checksum = hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
    return f"{cleaned[: MAX_NAME - 9]}-{checksum}" if text else cleaned


def refuse(job: Job) -> None:
    """Raises UserError for a config that is wrong, or that is not that of the run in the job's folder."""
    config = resolved(job.request.config)
    schema.check(config)
    metric, prune = (config["sweep"][key] for key in ("metric", "prune"))
    if prune is not None and metric is not None and not metric.startswith("val/"):
        raise UserError(f"sweep.metric={metric}: sweep.prune judges by a validation tag. Type sweep.prune=null.")
    if config["batch_size"] == "auto":
        raise UserError(
            "batch_size=auto: each job would find a size of its own. Type batch_size=64, or the size that "
            "train batch_size=auto dry_run=true finds."
        )
    stored = folders.read_config(job.folder)
    if stored is not None:
        stored.pop("choices", None)
        folders.refuse_changes(job.folder, resolved(stored), config)
        refuse_shorter(job, config)
        refuse_otherwise_judged(job, resolved(stored), config)


def refuse_another(folder: Path, jobs: Sequence[Job]) -> None:
    """Refuses to mix two sweeps in one folder: the table of the first would be lost.

    More values of the same keys are the same sweep.

    Raises:
        UserError: what is swept there, or what its jobs share, is something else.
    """
    swept, words = read_told(folder)
    if swept is not None and set(swept) != set(jobs[0].swept):
        before, now = (" and ".join(keys) or "nothing" for keys in (swept, jobs[0].swept))
        raise UserError(
            f"{folder} holds a sweep over {before} (train {shell.join(words)}), and this one is over {now}. "
            "Type another name=."
        )
    names = {job.name for job in jobs}
    others = (path.parent for path in folder.glob("*/config.yaml") if path.parent.name not in names)
    stored = next((found for other in others if (found := folders.read_config(other)) is not None), None)
    if stored is not None and "experiment" not in jobs[0].swept:
        stored.pop("choices", None)
        varied = (*jobs[0].swept, *(() if jobs[0].request.config["order_seed"] is None else ("order_seed",)))
        typed = [dict(schema.leaves(config)) for config in (stored, jobs[0].request.config)]
        # A reference to a key that is swept stands for another value in each job.
        alike = [key for key, value in typed[0].items() if "${" in str(value) and typed[1].get(key) == value]
        old, new = (_without(resolved(config), [*varied, *alike]) for config in (stored, jobs[0].request.config))
        folders.refuse_changes(folder, old, new)


def _without(config: Config, keys: Sequence[str]) -> Config:
    """The config without some keys, flat."""
    return {key: value for key, value in schema.leaves(config) if not any(f"{key}.".startswith(f"{k}.") for k in keys)}


def read_told(folder: Path) -> tuple[list[str] | None, list[str]]:
    """The keys that a sweep is over, where its folder tells them, and the words that it was begun with."""
    try:
        head, _, _ = foreign.text(folder / "sweep.yaml").partition("\njobs:")  # of jobs there may be thousands
        told = foreign.read_yaml(head)
        swept, words = told.get("swept"), told["command"]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, YAMLError):
        return None, []
    are_texts = [isinstance(part, list) and all(isinstance(word, str) for word in part) for part in (swept, words)]
    return (swept if are_texts[0] else None), (words if are_texts[1] else [])


def is_finished(job: Job) -> bool:
    """Whether there is nothing left to do, whatever the length that is asked for now."""
    return folders.read_result(job.folder).get("status") in ("finished", "pruned") and not _is_longer(job)


def _is_longer(job: Job) -> bool:
    """Whether another end is asked for than the run was last to come to."""
    there, asked = folders.read_config(job.folder) or {}, job.request.config
    return any(there.get(key, asked[key]) != asked[key] for key in folders.ENDS)


def refuse_shorter(job: Job, config: Config) -> None:
    """Raises UserError where the job was trained for longer: in a mean it would stand beside jobs of this length."""
    if folders.read_result(job.folder).get("status") != "finished":
        return
    there = folders.read_config(job.folder) or {}
    for key in ("max_steps", "max_epochs"):
        if type(there.get(key)) is int and config[key] is not None and config[key] < there[key]:
            raise UserError(
                f"{key}={config[key]}: the run in {job.folder} has gone on to {key}={there[key]}. "
                f"Type {key}={there[key]}, or another name=."
            )


def refuse_otherwise_judged(job: Job, stored: Config, config: Config) -> None:
    """Raises UserError where the job is done, and its best weights were chosen in another way than is asked for now.

    It is left alone: in a mean it would stand beside jobs that are judged otherwise.
    """
    if folders.read_result(job.folder).get("status") not in ("finished", "pruned"):
        return
    there, now = (dict(schema.leaves(found)) for found in (stored, config))
    for key in ("checkpoint.metric", "eval_every"):
        if there.get(key, now[key]) != now[key]:
            typed = schema.typed(key, there[key])
            raise UserError(
                f"{schema.typed(key, now[key])}: the run in {job.folder} was finished with {typed}. Type {typed}, or "
                "another name=."
            )


def units(jobs: Sequence[Job], stack: str, at_once: int) -> list[list[Job]]:
    """The jobs, those together that can be trained as one program: they differ in nothing but numbers.

    Args:
        stack: auto: where it is known to be faster; always: wherever it can be done, two are enough; never.
        at_once: processes, among which the jobs of a kind are divided.
    """
    kinds: dict[str, list[Job]] = {}
    for job in jobs:
        config = resolved(job.request.config)  # `data.split_seed=${seed}` is other data for each seed
        is_together = is_wanted_together(job, stack) and not what_a_stack_lacks(config)
        of_seed = ("seed",) if config.get("overfit") is not None else ()  # it decides which samples there are
        leaves = [(k, v) for k, v in sorted(schema.leaves(config)) if k in of_seed or not _may_differ(k, v)]
        kinds.setdefault(str(leaves) if is_together else job.name, []).append(job)
    fewest = 2 if stack == "always" else FEWEST_TOGETHER
    found = []
    for kind in kinds.values():
        count = min(at_once, max(1, len(kind) // 2)) if stack == "always" else at_once
        count = count if len(kind) > count * (fewest - 1) else len(kind)  # the largest has so many at least
        bounds = [len(kind) * i // count for i in range(count + 1)]
        found += [kind[start:end] for start, end in pairwise(bounds)]
    return found


def is_wanted_together(job: Job, stack: str) -> bool:
    """Whether it is to be trained with others like it, if it can be."""
    # What `auto` comes to, the first process of a stack sees: see `trainer.sweep.together`.
    is_near = job.request.config["device"] in ("auto", "cpu") and job.request.name("model") in FASTER_TOGETHER
    return stack == "always" or (stack == "auto" and is_near)


def why_alone(found: Sequence[Sequence[Job]], stack: str, of_all: str = "") -> list[str]:
    """Why jobs are trained one by one that are wanted together, in a line for each reason.

    Args:
        found: what `units` gave.
        of_all: what keeps all of them alone; empty: nothing does.
    """
    alone = [unit[0] for unit in found if len(unit) == 1 and is_wanted_together(unit[0], stack)]
    num_jobs = sum(map(len, found))
    other = "no other differs from it in numbers alone" if stack == "always" and num_jobs > 1 else ""
    reasons = Counter(of_all or what_a_stack_lacks(resolved(job.request.config)) or other for job in alone)
    fewest = 1 if stack == "always" else FEWEST_TOGETHER
    return [
        f"{count} of {num_jobs} jobs {'is' if count == 1 else 'are'} trained alone: {reason}"
        for reason, count in reasons.items()
        if reason and count >= fewest
    ]


def what_a_stack_lacks(config: Config) -> str:
    """What is asked for that only a run alone has; what the models lack is seen when they are stacked."""
    optimizer = config["optimizer"]
    asked = {
        f"precision={config['precision']}": config["precision"] != "float32",
        "fast=false": not config["fast"],
        "compile=true": config["compile"],
        "cuda_graphs=true": config["cuda_graphs"],
        "channels_last=true": config["channels_last"],
        "monitor.activations=true": config["monitor"]["activations"],
        "monitor.waiting=always": config["monitor"]["waiting"] == "always",
        "profile=true": config["profile"],
        "gradient.checkpoint": config["gradient"]["checkpoint"],
        "max_time": config["max_time"] is not None,
        "optimizer.decay=weights": optimizer.get("decay") == "weights",
        "optimizer.layer_decay": optimizer.get("layer_decay"),
        "optimizer.lr_times": optimizer.get("lr_times"),
    }
    return next((f"{word} is for a run alone" for word, is_asked in asked.items() if is_asked), "")


def _may_differ(key: str, value: Any) -> bool:
    """Whether runs that are trained together may have another value there."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    is_numbers = isinstance(value, list) and all(isinstance(item, float) for item in value)
    if key.startswith("optimizer."):
        return is_number or is_numbers
    is_weight = key.startswith("loss.terms.") and key.endswith(".weight")
    is_weight = is_weight or (key.startswith("early_stopping.") and is_number)
    return key in DIFFERENT or is_weight or (key.startswith("scheduler.") and is_number)


def listing(jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """What `sweep.yaml` says of the jobs."""
    return [{"name": job.name, "overrides": job.request.overrides} for job in jobs]
