"""What a training computes with: the batches, the network that they go through, and forward, loss and backward."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from trainer.data.batches import Batch, Batches
from trainer.data.mix import Mix
from trainer.loop import Autograd, ForwardBackward, InParts, Precision
from trainer.losses.function import Losses, LossFunction
from trainer.state import TrainingState
from trainer.trees import called, differentiable
from trainer.trials import undisturbed


@dataclass(frozen=True)
class Work:
    """A training as far as it is computed.

    Args:
        loss_fn: of what the model gives.
        sample: makes a few samples, for trials.
        batch_size: samples that go through the model at once, all ranks together.
        samples_per_step: the same where several batches make one step.
        max_steps: the last step.
        is_ours: model, loss and optimizer are classes of this tool's or of torch's, and the same parameters train in
            every step.
        channels_last: pictures lie in this layout.
        mix: of training batches.
    """

    state: TrainingState
    loss_fn: LossFunction
    train: Batches
    val: Batches
    test: Batches
    sample: Callable[[], Batch]
    device: torch.device
    precision: Precision
    precision_name: str
    batch_size: int
    samples_per_step: int
    steps_per_epoch: int
    max_steps: int
    is_ours: bool
    channels_last: bool = False
    mix: Mix | None = None

    @property
    def part_size(self) -> int:
        """Samples that go through this process's model at once."""
        return -(-self.batch_size // self.state.world.size)


@dataclass(frozen=True)
class Computation:
    """
    Args:
        network: gives what the model gives; or the model's head, whose inputs are features.
        plain: the same without a short cut in it.
        train, val: what goes through it.
        test: the same for the test split, when it is time for it.
        lines: what was chosen and why, for the user.
    """

    forward_backward: ForwardBackward
    network: nn.Module
    plain: nn.Module
    train: Batches
    val: Batches
    test: Callable[[], tuple[nn.Module, Batches]]
    lines: Sequence[str] = ()


def ordinary(work: Work) -> Computation:
    """Every batch through the model, differentiated by autograd, as the tutorials have it."""
    model = work.state.model
    network = spread(work, model)
    return Computation(
        in_parts(work, network), model, model, work.train, work.val, lambda: (model, work.test), ["plain torch"]
    )


def in_parts(work: Work, network: nn.Module) -> InParts:
    """The ordinary way through a network, which may be spread over several processes."""
    state = work.state
    part = Autograd(network, work.loss_fn, work.precision, state.scaler)
    is_shared = state.world.size > 1 and (state.store.grads_of_loss.numel() or work.loss_fn.own_buffers)
    kind = WithSharedLoss if is_shared else InParts
    return kind(part, work.loss_fn, state.store, work.part_size, network, state.world)


@dataclass(frozen=True)
class WithSharedLoss(InParts):
    """In several processes, with a loss that has parameters or buffers, of which DistributedDataParallel knows nothing.

    As with the model's, gradients are added up, and the buffers are those of rank 0.
    """

    def __post_init__(self) -> None:
        self.world.share(self.loss_fn.parameters())

    def __call__(self, batch: Batch, of: int) -> Losses:
        self.world.share(self.loss_fn.own_buffers)
        losses = super().__call__(batch, of)
        if self.store.grads_of_loss.numel():
            self.world.sum(self.store.grads_of_loss)
        return losses


def spread(work: Work, network: nn.Module) -> nn.Module:
    """The network, whose gradients are added up over the processes of the training; alone, as it is."""
    state = work.state
    return state.world.parallel(network, work.device, state.world.size > 1 and has_unused_parameters(work))


def has_unused_parameters(work: Work) -> bool:
    """Whether a trainable parameter has no part in the loss: other processes would wait for its gradient."""
    state, sample = work.state, work.sample()
    with undisturbed(state.model, work.device, loss=work.loss_fn), torch.enable_grad(), work.precision():
        inputs = differentiable(sample.inputs) if work.loss_fn.differentiates_inputs else sample.inputs
        outputs = called(state.model, work.loss_fn.given(inputs, sample.targets))
        total = work.loss_fn(outputs, sample.targets, inputs).total
        gradients = torch.autograd.grad(total, state.store.parameters, allow_unused=True)
    return any(gradient is None for gradient in gradients)
