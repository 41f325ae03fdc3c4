"""What is told of a training: the lines above it, why it ended, and `result.json`."""

import torch

from trainer.config.request import Config
from trainer.data.prepare import Splits
from trainer.data.source import Data, Samples
from trainer.run.overfit import verdict
from trainer.run.training import Training


def title(training: Training) -> list[str]:
    """What is about to be trained."""
    parts, world, length = training.parts, training.parts.world, training.parts.length
    names, begins = parts.settings.names, f", from step {parts.state.step}" if parts.state.step else ""
    threads = torch.get_num_threads()
    computing = f", {threads} thread{'s' * (threads > 1)}" if parts.device.type == "cpu" else ""
    return [
        parts.data.description + taken_as(parts.data, parts.splits),
        f"{names['model']}: {num_parameters(training):,} parameters, {num_trainable(training):,} train; "
        f"{names['loss']}, {names['optimizer']}, {parts.device}{computing}"
        f"{f', {world.size} processes' if world.size > 1 else ''}",
        f"{length.max_steps} steps of {length.samples_per_step} samples{begins}, in {training.folder}",
    ]


def taken_as(data: Data, splits: Splits) -> str:
    """What pictures are turned into for the model, where nobody can see that in the data: LeNet sees no colour."""
    transform = splits.transform
    if transform is None:
        return ""
    if isinstance(data.train, Samples) and not transform.channels == 1 < data.sample_shape[0]:
        return ""
    height, width = transform.image_size
    return f", taken as {height}x{width} {'grey' if transform.channels == 1 else 'colour'}"


def result(training: Training, status: str, computed: str, seconds: float) -> Config:
    """What `result.json` holds."""
    settings, state = training.parts.settings, training.parts.state
    said = verdict(settings, state.last)
    return {
        **state.last,
        **ending(training),
        "status": status,
        "steps": state.step,
        "seconds": seconds,
        "num_parameters": num_parameters(training),
        "num_trainable": num_trainable(training),
        "computed": computed,
        **({} if said is None else {"overfit": said}),
        "diagnosis": [finding.as_dict() for finding in training.diagnosis.findings],
    }


def num_parameters(training: Training) -> int:
    """Those of the loss among them."""
    modules = (training.parts.model, training.parts.loss_fn)
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def num_trainable(training: Training) -> int:
    return sum(parameter.numel() for parameter in training.parts.state.store.parameters)


def ending(training: Training) -> dict[str, str]:
    """What ended it before its last step: `ended_by` as it is typed, `ended` in words; empty at its end."""
    state, max_time = training.parts.state, training.parts.settings.max_time
    if not state.is_over or state.step >= training.parts.length.max_steps:
        return {}
    patience, best = state.patience, state.best.get("step")
    if patience is None or not patience.is_over:
        return {"ended_by": f"max_time={max_time}", "ended": f"max_time={max_time}: the time is over"}
    limit = "" if not patience.min_delta else f" by more than {patience.min_delta:g}"
    number = "never a number" if patience.best is None else f"not better than {patience.best:.4g}{limit}"
    where = f", the best is of step {best}" if best and patience.metric == state.best["metric"] else ""
    told = f"{patience.metric} was {number} in {patience.count} validations{where}"
    return {"ended_by": patience.told, "ended": told}
