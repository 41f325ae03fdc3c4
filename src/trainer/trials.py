"""A look at what a model does, before, beside or after its training, leaves nothing behind."""

import random
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import numpy as np
import torch
from torch import Tensor, nn

from trainer.draws import random_state, set_random_state
from trainer.system.private import version_of

# Networks that differentiate in their own forward pass, by their inputs for example: they need gradients in an
# evaluation, too.
DIFFERENTIATING: WeakSet[nn.Module] = WeakSet()

# Networks that give parameters other memory in their forward pass (`weight.data = ...`). What an optimizer updates
# would no longer be what they compute with: each pass is followed by a move back.
REBINDING: WeakSet[nn.Module] = WeakSet()

# Parts that stay in evaluation mode while the rest trains: they are frozen.
STILL: WeakSet[nn.Module] = WeakSet()


# Generators of random numbers that somebody may keep in an attribute.
DRAWING = (torch.Generator, random.Random, np.random.Generator, np.random.RandomState)


def homes(model: nn.Module) -> Callable[[], bool]:
    """Remembers where the numbers of parameters lie: to be called, it moves them back there, and says if it had to."""
    places = [(p, p.data) for p in model.parameters() if p.layout == torch.strided]

    def move_back() -> bool:
        moved = [(p, place) for p, place in places if p.data_ptr() != place.data_ptr()]
        for p, place in moved:
            place.copy_(p.data)
            p.data = place
        return bool(moved)

    return move_back


def set_mode(model: nn.Module, is_training: bool) -> None:
    """Training mode or evaluation mode; frozen parts stay in the latter."""
    model.train(is_training)
    if is_training and STILL:
        for module in model.modules():
            if module in STILL:
                module.eval()


@contextmanager
def evaluating(model: nn.Module, device: torch.device, loss: nn.Module | None = None) -> Iterator[None]:
    """Evaluation mode, of the loss, too; without gradients if the model needs none.

    Modes and random state stay what they were.
    """
    roots = (model,) if loss is None else (model, loss)
    modes = {module: module.training for root in roots for module in root.modules()}
    random, move_back = random_state(device), homes(model) if model in REBINDING else None
    for root in roots:
        root.eval()
    try:
        with torch.set_grad_enabled(model in DIFFERENTIATING):
            yield
    finally:
        for module, was_training in modes.items():  # one by one: frozen parts may be in eval mode
            module.training = was_training
        if move_back is not None:
            move_back()
        set_random_state(random, device)


@contextmanager
def undisturbed(
    model: nn.Module, device: torch.device, is_training: bool = False, loss: nn.Module | None = None
) -> Iterator[None]:
    """For a trial: evaluation mode, or training mode with gradients; what torch.compile made of the model is set aside.

    Parameters, buffers (of a loss that takes part, too), gradients, modes and the random state are afterwards what they
    were, and so is what classes of somebody else keep in plain attributes, as a counter.
    """
    compiled, model._compiled_call_impl = model._compiled_call_impl, None
    modules = (model,) if loss is None else (model, loss)
    # All of them: not every kernel that writes into a tensor counts up its version.
    stored = (tensor for module in modules for tensor in (*module.parameters(), *module.buffers()))
    kept = [(tensor, tensor.detach().clone()) for tensor in stored]
    move_back = homes(model)
    gradients = [(p, p.grad, p.grad.clone()) for p in model.parameters() if p.grad is not None] if is_training else []
    attributes = [_attributes(module) for root in modules for module in root.modules() if is_others(module)]
    built = _built(modules)
    try:
        with evaluating(model, device, loss), torch.set_grad_enabled(is_training or model in DIFFERENTIATING):
            set_mode(model, is_training)
            if loss is not None:
                loss.train(is_training)
            yield
    finally:
        model._compiled_call_impl = compiled
        if move_back():
            REBINDING.add(model)
        with torch.no_grad():
            for tensor, saved in kept:
                tensor.copy_(saved)
            for parameter, gradient, saved in gradients:
                gradient.copy_(saved)
                parameter.grad = gradient
        # What makes its layers when it is called first remembers that it has.
        for put_back in attributes if _built(modules) == built else ():
            put_back()


def is_others(module: nn.Module) -> bool:
    """Whether somebody else wrote its class, which may keep anything in it."""
    return type(module).__module__.split(".")[0] not in ("torch", "trainer")


def is_all_ours(*modules: nn.Module) -> bool:
    """Whether nothing but classes of this tool's and of torch's take part.

    They use all their parameters in every step, and write into no sample but where it is seen.
    """
    return not any(is_others(part) for module in modules for part in module.modules())


def _built(modules: Sequence[nn.Module]) -> list[tuple[str, int]]:
    """The layers and parameters that there are."""
    return [(n, id(x)) for root in modules for n, x in (*root.named_modules(), *root.named_parameters())]


def state_of_draws(generator: Any) -> Any:
    """The state of a generator of random numbers: torch's, Python's or NumPy's."""
    if isinstance(generator, torch.Generator):
        return generator.get_state().tolist()
    if isinstance(generator, random.Random):
        return generator.getstate()
    return generator.bit_generator.state if isinstance(generator, np.random.Generator) else generator.get_state(False)


def put_draws_back(generator: Any, state: Any) -> None:
    """Gives a generator the state that `state_of_draws` found."""
    if isinstance(generator, torch.Generator):
        generator.set_state(torch.tensor(state, dtype=torch.uint8))
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    else:
        generator.set_state(state)


OF_ALL = frozenset(vars(nn.Module()))  # attributes of every module


def _attributes(module: nn.Module) -> Callable[[], None]:
    """Puts back what a module's attributes and the names of its buffers stand for now."""
    kept = {name: value for name, value in vars(module).items() if name not in OF_ALL}
    lists = [(value, value.copy()) for value in kept.values() if type(value) in (list, dict, set, deque, defaultdict)]
    held = [x for _, now in lists for x in (now.values() if isinstance(now, dict) else now)]
    tensors = [(x, version_of(x), x.detach().clone()) for x in (*kept.values(), *held) if isinstance(x, Tensor)]
    arrays = [(x, x.copy()) for x in kept.values() if isinstance(x, np.ndarray) and x.flags.writeable]
    draws = [(x, state_of_draws(x)) for x in kept.values() if isinstance(x, DRAWING)]
    buffers = dict(module._buffers)

    def put_back() -> None:
        own = vars(module)
        for name in own.keys() - kept.keys() - OF_ALL:
            del own[name]
        own.update(kept)
        module._buffers.update(buffers)
        for now, before in lists:
            now.clear()
            now.extend(before) if isinstance(now, list | deque) else now.update(before)
        for array, numbers in arrays:
            array[...] = numbers
        for generator, state in draws:
            put_draws_back(generator, state)
        for tensor, version, number in tensors:
            if version is None or version != version_of(tensor):
                tensor.detach().copy_(number)

    return put_back
