"""The average of the weights in the place of the weights: for a validation, with batch norms measured anew."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn

from trainer.data.batches import Batch, Batches, Uneven
from trainer.state import TrainingState
from trainer.trees import called, joined, mapped
from trainer.trials import evaluating


@contextmanager
def average_in_place(state: TrainingState) -> Iterator[None]:
    """Within it the model has the average's weights, and its buffers where it has its own; the memory is the same."""
    average, store = state.average, state.store
    assert average is not None
    buffers = {name: buffer for name, buffer in state.model.named_buffers() if name in average.buffers}
    kept = store.values.clone(), {name: buffer.clone() for name, buffer in buffers.items()}
    try:
        store.values.copy_(average.values)
        for name, buffer in buffers.items():
            buffer.copy_(average.buffers[name])
        yield
    finally:
        store.values.copy_(kept[0])
        for name, buffer in buffers.items():
            buffer.copy_(kept[1][name])


def measure_norms(
    state: TrainingState,
    network: nn.Module,
    train: Batches,
    device: torch.device,
    precision: Callable[[], AbstractContextManager[object]],
    is_stop_requested: Callable[[], bool],
) -> bool:
    """Means and variances of batch norms with the average's weights, over the training split.

    As torch's `update_bn`, but that each batch weighs as many samples as it has: the last may be short. The model's own
    stay as they are. Norms that do not train are left alone, and nothing else is in training mode.

    Args:
        network, train: what is trained, on what: the model or its head, on inputs or on features.

    Returns:
        False where a stop was asked for before the end.
    """
    assert state.average is not None
    norms = norms_of(state.model)
    if not norms:
        return True
    momenta = {name: norm.momentum for name, norm in norms.items()}
    kept = {name: norm.state_dict() for name, norm in norms.items()}
    kept = {name: {key: tensor.clone() for key, tensor in found.items()} for name, found in kept.items()}
    state.average.buffers = {}
    try:
        with average_in_place(state), evaluating(network, device), torch.no_grad():
            for norm in norms.values():
                norm.reset_running_stats()
                norm.train()
            num_seen = 0
            for batch in without_lonely_sample(train.in_order()):
                if num_seen and is_stop_requested():
                    return False
                num_seen += batch.num_samples
                for norm in norms.values():
                    norm.momentum = batch.num_samples / num_seen
                with precision():
                    called(network, mapped(Tensor.clone, batch.inputs))
            state.average.buffers = {
                f"{name}.{key}": buffer.clone() for name, norm in norms.items() for key, buffer in norm.named_buffers()
            }
    finally:
        for name, norm in norms.items():
            norm.momentum = momenta[name]
            for key, buffer in norm.named_buffers():
                buffer.copy_(kept[name][key])
    return True


def without_lonely_sample(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The batches; a last one of one sample, which has no variance, goes with the one before it."""
    before: Batch | None = None
    for batch in batches:
        if before is not None and batch.num_samples == 1 and not isinstance(before, Uneven):
            batch, before = Batch(*map(joined, zip(before, batch, strict=True))), None
        if before is not None:
            yield before
        before = batch
    if before is not None:
        yield before


def norms_of(model: nn.Module) -> dict[str, nn.modules.batchnorm._BatchNorm]:
    """The batch norms that measure while they train, by name."""
    norms = {n: m for n, m in model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    return {name: norm for name, norm in norms.items() if norm.training and norm.running_mean is not None}
