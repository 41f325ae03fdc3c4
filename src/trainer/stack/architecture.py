"""From the models of many runs to the network that computes all of them."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from trainer.errors import first_line
from trainer.models.finetune import Finetune
from trainer.models.lenet import LeNet
from trainer.stack.batches import of_each
from trainer.stack.lenet import stacked_lenet
from trainer.stack.networks import Differentiated, Layered, Network
from trainer.stack.refusal import CannotStack
from trainer.stack.store import StackedStore
from trainer.stack.translate import translated
from trainer.system.private import hooks_of, tensor_hooks
from trainer.trials import STILL, evaluating

# What may differ between the models beside their parameters: the share that a dropout leaves out.
FREE = ("p", "dropout")


def stacked_network(
    models: Sequence[nn.Module], store: StackedStore, generators: Sequence[torch.Generator], sample: Tensor
) -> Network:
    """The network that gives what each of the models gives, with the parameters in `store`.

    Args:
        generators: of the runs' draws on the CPU, each where torch's own would be in the run alone.
        sample: a few inputs, `[N, ...]`, on which all models are compared with what they give alone.

    Raises:
        CannotStack: the models differ in more than numbers, draw in a way of their own, or give something else.
    """
    refuse_ties(models[0])
    if any(module in STILL for model in models for module in model.modules()):
        raise CannotStack(f"{type(models[0]).__name__}: has frozen parts, which stay in evaluation mode")
    refuse_hooks(models)
    refuse_different_settings(models)
    if sample.device.type != "cpu" and any(draws(module) for model in models for module in model.modules()):
        raise CannotStack(f"on {sample.device.type} the draws of dropout can't be taken from a stream per run")
    try:
        network = written(models, store, generators, sample.dim() == 2)
        network = network or differentiated(by_vmap(models, store, sample), store, sample)
        refuse_other_outputs(network, models, sample)
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:  # of torch.func
        reason = "draws random numbers" if "random operation" in str(error) else first_line(error)
        raise CannotStack(f"{type(models[0]).__name__}: {reason}") from error
    return network


def written(
    models: Sequence[nn.Module], store: StackedStore, generators: Sequence[torch.Generator], is_flat: bool
) -> Network | None:
    """Written for many runs: a LeNet, or of the layers in `trainer.stack.translate`; None where a model has others."""
    first, body = models[0], None
    if type(first) is LeNet and all(parameter.requires_grad for parameter in first.parameters()):
        return Differentiated(stacked_lenet(models, store, generators), store)  # type: ignore[arg-type]
    if type(first) is Finetune:
        body = frozen_body(models)  # type: ignore[arg-type]
        if body is None:
            return None
        models, is_flat = [model.head for model in models], True  # type: ignore[misc]
    found = translated(models, store, generators, is_flat)
    return None if found is None else Layered(found[0], body)


def differentiated(function: Callable[[Tensor, bool], Tensor], store: StackedStore, sample: Tensor) -> Differentiated:
    """Raises CannotStack where no gradient reaches a parameter, which would be left alone in a run alone."""
    values = [parameter.values for parameter in store.parameters.values()]
    with torch.enable_grad():
        outputs = function(sample.unsqueeze(0), False)
    gradients = torch.autograd.grad(outputs.sum(), values, allow_unused=True)
    for name, gradient in zip(store.parameters, gradients, strict=True):
        if gradient is None:
            raise CannotStack(f"{name}: no gradient reaches it")
    return Differentiated(function, store)


def frozen_body(models: Sequence[Finetune]) -> Callable[[Tensor], Tensor] | None:
    """The features of inputs `[num_batches, N, ...]`; None where a part of the backbones trains, or they differ."""
    first = models[0]
    if any(model.unfrozen or not is_same(model.backbone, first.backbone) for model in models):
        return None

    def features(inputs: Tensor) -> Tensor:
        with torch.no_grad():
            return first.features(inputs.flatten(0, 1)).unflatten(0, inputs.shape[:2])

    return features


def is_same(module: nn.Module, other: nn.Module) -> bool:
    """Whether all parameters and buffers are equal."""
    mine, theirs = module.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def by_vmap(models: Sequence[nn.Module], store: StackedStore, sample: Tensor) -> Callable[[Tensor, bool], Tensor]:
    """By torch.func: one model is called, with the parameters and buffers of all."""
    from torch.func import functional_call, vmap  # imports torch._dynamo, a second that other stacks need not wait for

    model = models[0]
    tensors = {name: parameter.values for name, parameter in store.parameters.items()} | store.buffers
    for name, parameter in model.named_parameters():
        each = [other.get_parameter(name) for other in models]
        if name not in tensors and not all(torch.equal(parameter, other) for other in each):
            tensors[name] = torch.stack([other.detach() for other in each])

    def call(tensors: dict[str, Tensor], inputs: Tensor) -> Tensor:
        outputs: Tensor = functional_call(model, tensors, (inputs,))
        return outputs

    own, shared = vmap(call), vmap(call, in_dims=(0, None))
    # Once in training, which may change buffers. To draw from the one stream that all runs would share is an error.
    copies = {name: buffer.clone() for name, buffer in store.buffers.items()}
    with evaluating(model, sample.device):
        model.train()
        shared({**tensors, **copies}, sample)

    def forward(inputs: Tensor, is_training: bool) -> Tensor:
        model.train(is_training)
        is_shared = len(inputs) == 1
        outputs: Tensor = shared(tensors, inputs[0]) if is_shared else own(tensors, of_each(inputs, len(store)))
        return outputs

    return forward


def draws(module: nn.Module) -> bool:
    """Whether it is a layer of this tool's or of torch's that leaves something out at random."""
    return bool(getattr(module, "dropout" if isinstance(module, LeNet) else "p", 0.0))


def refuse_ties(model: nn.Module) -> None:
    """Raises CannotStack where a parameter is used in two places.

    Each layer writes its gradient and adds it to no other's; and functional_call does not put back what it finds there
    twice.
    """
    places: dict[int, str] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        for name, parameter in module.named_parameters(path, recurse=False):
            if places.setdefault(id(parameter), name) != name:
                raise CannotStack(f"{type(model).__name__}: {places[id(parameter)]} is {name}, too")


def refuse_hooks(models: Sequence[nn.Module]) -> None:
    """Raises CannotStack where a model has a hook of any kind, which may do anything."""
    for module in (module for model in models for module in model.modules()):
        if any([*hooks_of(module), *tensor_hooks(module.parameters(recurse=False))]):
            raise CannotStack(f"{type(module).__name__}: has a hook")


def refuse_different_settings(models: Sequence[nn.Module]) -> None:
    """Raises CannotStack where the models' layers are not the same, or have different settings."""

    def settings(module: nn.Module) -> dict[str, object]:
        plain = (bool, int, float, str, type(None))
        return {k: v for k, v in vars(module).items() if isinstance(v, plain) and k not in ("training", *FREE)}

    first = list(models[0].named_modules())
    for model in models[1:]:
        others = list(model.named_modules())
        if [(name, type(module)) for name, module in first] != [(name, type(module)) for name, module in others]:
            raise CannotStack("the models are of different layers")
        for (name, module), (_, other) in zip(first, others, strict=True):
            for key, value in settings(module).items():
                if value != (found := vars(other).get(key)):
                    raise CannotStack(f"{f'{name}.{key}'.lstrip('.')}: {value} in one model, {found} in another")


def refuse_other_outputs(network: Network, models: Sequence[nn.Module], sample: Tensor) -> None:
    """Raises CannotStack where the models together do not give what each gives alone."""
    with evaluating(nn.ModuleList(models), sample.device):
        outputs = network.forward(sample.unsqueeze(0), False)
        alone = torch.stack([model(sample) for model in models])
    if not torch.allclose(outputs, alone, rtol=1e-3, atol=1e-4 * alone.abs().max().item()):
        raise CannotStack(f"{type(models[0]).__name__}: gives other outputs in a stack than alone")
