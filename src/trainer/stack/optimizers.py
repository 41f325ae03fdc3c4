"""One update for the optimizers of many runs."""

from collections.abc import Sequence

from torch import Tensor
from torch.optim import Optimizer

from trainer.fast import updates
from trainer.fast.updates import Update
from trainer.stack.refusal import CannotStack
from trainer.stack.store import StackedStore
from trainer.state import Store


def stacked_update(optimizers: Sequence[Optimizer], store: StackedStore) -> Update:
    """What makes the updates of all optimizers at once; call `share` after a step that made new tensors.

    Raises:
        CannotStack: they are of several classes, differ in more than numbers, or are not of `trainer.fast.updates`.
    """
    first = optimizers[0]
    for optimizer in optimizers:
        if not isinstance(optimizer, Update):
            raise CannotStack(f"optimizer {type(optimizer).__name__}: is not one of those in trainer.fast.updates")
        if type(optimizer) is not type(first):
            raise CannotStack(f"the optimizers are {type(first).__name__} and {type(optimizer).__name__}")
        for name, value in first.defaults.items():
            # Flags choose the arithmetic; so does what a state begins with.
            is_choice = isinstance(value, bool) or name == "initial_accumulator_value"
            if is_choice and optimizer.defaults[name] != value:
                raise CannotStack(f"optimizer.{name}: {value} in one run, {optimizer.defaults[name]} in another")
    assert isinstance(first, Update)
    update = type(first)(store.values, store.grads, **first.defaults)
    update.load_state_dict(updates.stacked(optimizer.state_dict() for optimizer in optimizers))
    share(update, optimizers)
    return update


def share(update: Update, optimizers: Sequence[Optimizer]) -> None:
    """Makes the rows of `update` the state of the optimizers: numbers, counts and tensors are the same objects.

    Schedulers and checkpoints of a run look at its own optimizer and find what the stack has made of it; what a
    scheduler sets is what the stack's next update takes.
    """
    for run, optimizer in enumerate(optimizers):
        assert isinstance(optimizer, Update)
        rows = slice(run, run + 1)
        matrices = {name: matrix[rows] for name, matrix in update.matrices.items()}
        move(optimizer, update.values[rows], update.grads[rows], matrices)
        update.param_groups[run], update.counted[run] = optimizer.param_groups[0], optimizer.counted[0]
        optimizer._opt_called = True  # type: ignore[attr-defined]  # or schedulers warn that no update was made


def move(optimizer: Update, values: Tensor, grads: Tensor, matrices: dict[str, Tensor]) -> None:
    """Has a run's optimizer use this memory, which holds its numbers."""
    optimizer.values, optimizer.grads, optimizer.matrices = values, grads, matrices
    optimizer.value_rows, optimizer.grad_rows = values.unbind(), grads.unbind()
    optimizer._rows.clear()
    optimizer._scratch.clear()
    (parameter,) = optimizer.param_groups[0]["params"]
    parameter.data, parameter.grad = values[0], grads[0]


def take_out(optimizer: Optimizer, store: Store) -> None:
    """Gives a run's optimizer memory of its own, and that of a store that has been taken out."""
    assert isinstance(optimizer, Update)
    matrices = {name: matrix.clone() for name, matrix in optimizer.matrices.items()}
    optimizer.param_groups[0] = {**optimizer.param_groups[0]}
    move(optimizer, store.values, store.grads, matrices)
