"""How the weights start, where the model's own way is not wanted."""

from torch import nn

from trainer.errors import nearest, one_of
from trainer.models.finetune import Finetune
from trainer.models.two_layer import TwoLayer

SCHEMES = ("default", "normal", "xavier", "kaiming")
# Layers that store their weight as [in, out, ...], where torch's initialisers expect [out, in, ...].
INPUTS_FIRST = (TwoLayer, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def initialise(model: nn.Module, scheme: str, std: float = 1.0) -> None:
    """Draw the trainable weights anew, in place, from torch's global generator.

    Weights are parameters of two dimensions or more; beside them, biases (vectors named `b...` or `...bias` in a layer
    that has such a weight) become zero. Normalisation layers (with `Norm` in their class's name) and frozen parameters
    are left as they are, and so is what was trained before: all of a `Finetune` but its head, and a whole network that
    says `is_pretrained`.

    Args:
        scheme: `default` changes nothing. The others draw from a normal distribution around zero with the standard
            deviation `std` (normal), sqrt(2 / (fan_in + fan_out)) (xavier: Glorot and Bengio, "Understanding the
            difficulty of training deep feedforward neural networks", AISTATS 2010, eq. 12) or sqrt(2 / fan_in)
            (kaiming: He et al., "Delving deep into rectifiers", ICCV 2015, eq. 10). A layer's fans are its inputs and
            outputs times the size of its kernel.
        std: standard deviation for `normal`.

    Raises:
        ValueError: an unknown scheme, a std that is not above zero, or a model with no weight to draw.
    """
    if scheme not in SCHEMES:
        raise ValueError(f"init={scheme}: accepted are {one_of(SCHEMES)}.{nearest(scheme, SCHEMES)}")
    if not 0 < std < float("inf"):
        raise ValueError(f"init_std={std}: a standard deviation is above zero")
    if scheme != "default" and not draw(model, scheme, std):
        raise ValueError(f"init={scheme}: all weights of this model are loaded or frozen. Try init=default.")


def draw(module: nn.Module, scheme: str, std: float) -> int:
    """Draw the weights of this module and of those inside it; how many there were."""
    if getattr(module, "is_pretrained", False) or "Norm" in type(module).__name__:
        return 0
    if isinstance(module, Finetune):
        module = module.head
    own = {name: parameter for name, parameter in module.named_parameters(recurse=False) if parameter.requires_grad}
    weights = [parameter for parameter in own.values() if parameter.ndim >= 2]
    for parameter in weights:
        weight = parameter.transpose(0, 1) if isinstance(module, INPUTS_FIRST) else parameter
        if scheme == "normal":
            nn.init.normal_(weight, std=std)
        elif scheme == "xavier":
            nn.init.xavier_normal_(weight)
        else:
            nn.init.kaiming_normal_(weight, nonlinearity="relu")
    for name, parameter in own.items():
        if weights and parameter.ndim < 2 and (name.startswith("b") or name.endswith("bias")):
            nn.init.zeros_(parameter)
    return len(weights) + sum(draw(child, scheme, std) for child in module.children())
