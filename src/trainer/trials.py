"""A look at what a model does, before, beside or after its training, leaves nothing behind."""

from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakSet

import torch
from torch import nn

from trainer.draws import random_state, set_random_state

# Networks that differentiate in their own forward pass, by their inputs for example: they need gradients in an
# evaluation, too.
DIFFERENTIATING: WeakSet[nn.Module] = WeakSet()

# Parts that stay in evaluation mode while the rest trains: they are frozen.
STILL: WeakSet[nn.Module] = WeakSet()


def set_mode(model: nn.Module, is_training: bool) -> None:
    """Training mode or evaluation mode; frozen parts stay in the latter."""
    model.train(is_training)
    if is_training and STILL:
        for module in model.modules():
            if module in STILL:
                module.eval()


@contextmanager
def evaluating(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Evaluation mode, without gradients if the model needs none; modes and random state stay what they were."""
    modes = {module: module.training for module in model.modules()}
    random = random_state(device)
    model.eval()
    try:
        with torch.set_grad_enabled(model in DIFFERENTIATING):
            yield
    finally:
        for module, was_training in modes.items():  # one by one: frozen parts may be in eval mode
            module.training = was_training
        set_random_state(random, device)


@contextmanager
def undisturbed(
    model: nn.Module, device: torch.device, is_training: bool = False, loss: nn.Module | None = None
) -> Iterator[None]:
    """For a trial: evaluation mode, or training mode with gradients; what torch.compile made of the model is set aside.

    Parameters, buffers (of a loss that takes part, too), gradients, modes and the random state are afterwards what they
    were. (What the model keeps beside them, as a counter of its own in Python, nobody can put back.)
    """
    compiled, model._compiled_call_impl = model._compiled_call_impl, None
    modules = (model,) if loss is None else (model, loss)
    # All of them: not every kernel that writes into a tensor counts up its version.
    stored = (tensor for module in modules for tensor in (*module.parameters(), *module.buffers()))
    kept = [(tensor, tensor.detach().clone()) for tensor in stored]
    gradients = [(p, p.grad, p.grad.clone()) for p in model.parameters() if p.grad is not None] if is_training else []
    try:
        with evaluating(model, device), torch.set_grad_enabled(is_training or model in DIFFERENTIATING):
            set_mode(model, is_training)
            yield
    finally:
        model._compiled_call_impl = compiled
        with torch.no_grad():
            for tensor, saved in kept:
                tensor.copy_(saved)
            for parameter, gradient, saved in gradients:
                gradient.copy_(saved)
                parameter.grad = gradient
