"""What trains together: members, and the parts that compute for all of them at once."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor

from trainer.data.batches import Batch, Batches
from trainer.data.item_batches import ItemBatches
from trainer.losses.function import Losses
from trainer.stack.architecture import stacked_network
from trainer.stack.batches import stacked_batches
from trainer.stack.losses import StackedLoss
from trainer.stack.member import Member
from trainer.stack.optimizers import share, stacked_update
from trainer.stack.refusal import CannotStack
from trainer.stack.store import StackedStore


class Stack:
    """Runs of which each has a row in every tensor.

    Args:
        members: of whom none has an error.
        train: the split whose batches they get.
        batch_size: of all.
        sample: a few inputs, `[N, ...]`, on which all models are compared with what they give alone.

    Attributes:
        members: in the order of the rows.

    Raises:
        CannotStack: see the parts.
    """

    def __init__(self, members: Sequence[Member], train: Batches, batch_size: int, sample: Tensor) -> None:
        if isinstance(train, ItemBatches) or not isinstance(sample, Tensor):
            raise CannotStack("the samples are no tensors that stand side by side")
        self._train, self._batch_size, self._sample = train, batch_size, sample
        self._drawn = members[0].state.step  # the step whose batch was the last
        self._assemble(members)

    def _assemble(self, members: Sequence[Member]) -> None:
        # Side by side, those that have the same batches share their memory.
        self.members = sorted(members, key=lambda member: member.seed)
        networks = [member.network for member in self.members]
        self.optimizers = [member.state.optimizer for member in self.members]
        self.store = StackedStore(networks, [member.state.store for member in self.members])
        self.network = stacked_network(
            networks, self.store, [member.generator for member in self.members], self._sample
        )
        self.loss_fn = StackedLoss([member.loss_fn for member in self.members], self.store)
        self.update = stacked_update(self.optimizers, self.store)
        seeds = [member.seed for member in self.members]
        self._batches: Iterator[Batch] = stacked_batches(self._train, self._batch_size, seeds, self._drawn + 1)

    def forward_backward(self) -> Losses:
        """The losses of all runs in the next batch, `[num_runs]`, detached; the gradients go to the store."""
        inputs, targets = next(self._batches)
        self._drawn += 1
        outputs = self.network.forward(inputs, True)
        losses, gradient = self.loss_fn.with_gradient(outputs, targets)
        self.network.backward(gradient)
        self.loss_fn.add_penalties()
        return losses

    def step(self, step: int) -> None:
        """Makes the updates of all runs, those of `step`."""
        num_matrices = len(self.update.matrices)
        self.update.step()
        if len(self.update.matrices) != num_matrices:  # the first of all: it has made them
            share(self.update, self.optimizers)
        for member in self.members:
            if member.state.average is not None:
                member.state.average.update(step, member.state.store.values)
            member.state.schedule.step(step)
            member.state.step = step

    def each(self, call: Callable[..., None], *arguments: Any) -> None:
        """Calls with every row and its member; an error is the end of that run alone."""
        for row, member in enumerate(self.members):
            if member.error is None:
                try:
                    call(row, member, *arguments)
                except Exception as error:
                    member.error = error

    def let_go(self) -> list[int]:
        """Has those leave who have an error or are over. Returns the rows that the others had."""
        rows = [row for row, member in enumerate(self.members) if not member.has_left]
        if len(rows) < len(self.members):
            for member in self.members:
                if member.has_left:
                    member.leave()
            rest = [self.members[row] for row in rows]
            if rest:
                self._assemble(rest)
            else:
                self.members = []
        return rows
