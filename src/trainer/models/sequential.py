"""Layers one after another, listed in the config."""

from collections.abc import Iterable

from torch import nn

from trainer.config.schema import shown

PROBABILITIES = (nn.Softmax, nn.Softmax2d, nn.Sigmoid)
LOG_PROBABILITIES = (nn.LogSoftmax, nn.LogSigmoid)


class Sequential(nn.Sequential):
    """`nn.Sequential` of a list.

    Args:
        layers: the layers, first to last.
        in_features, num_classes: not used here: keys of the config that its layers can refer to, as in
            `out_features: ${model.num_classes}`.

    Attributes:
        gives: what the outputs are, judged by the last layer: logits, probabilities or log_probabilities.
    """

    def __init__(
        self, layers: Iterable[nn.Module], in_features: int | None = None, num_classes: int | None = None
    ) -> None:
        if not isinstance(layers, Iterable):
            raise ValueError(f"layers={shown(layers)}: must be a list of layers")
        layers = list(layers)
        if not layers:
            raise ValueError("layers=[]: a network needs at least one layer")
        for i, layer in enumerate(layers):
            if not isinstance(layer, nn.Module):
                raise ValueError(f"layers.{i}={layer}: not a layer; it needs a _target_ such as torch.nn.ReLU")
        super().__init__(*layers)
        last = layers[-1]
        while isinstance(last, nn.Sequential) and len(last):
            last = last[-1]
        is_log = isinstance(last, LOG_PROBABILITIES)
        self.gives = "log_probabilities" if is_log else "probabilities" if isinstance(last, PROBABILITIES) else "logits"
