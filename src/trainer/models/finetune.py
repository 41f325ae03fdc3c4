"""A trained network put to a new use: its body frozen, its last layer a new one."""

from collections.abc import Iterable
from typing import Self

from torch import Tensor, nn

from trainer.errors import nearest, one_of
from trainer.models.sizes import refuse_no_size
from trainer.trees import fields_of


class Finetune(nn.Module):
    """The backbone without its last layer, and a new `Linear(.., num_classes)`, the head, on top of it.

    The backbone gets no gradients and stays in eval mode even while the rest trains, so that its batch norms keep the
    statistics that they were trained with and its dropouts let everything through; the parts named in `unfreeze` are
    excepted and train like the head.

    Args:
        backbone: any network whose last `nn.Linear` (in the order of `named_modules`) is its output layer: `fc` in a
            ResNet, `classifier.6` in a VGG, `heads.head` in torchvision's vision transformer. That layer is replaced by
            `nn.Identity` in the backbone itself.
        num_classes: numbers per output.
        unfreeze: names of parts of the backbone that train, too: `["layer4"]`, `["layer4.1", "layer3"]`.

    Attributes:
        backbone: gives the features, `[N, ...]` to `[N, head.in_features]`.
        head: the new layer, which starts as `nn.Linear` does.

    Shapes:
        inputs as the backbone wants them to logits `[N, num_classes]`. The `logits` in the object that a backbone of
        transformers gives are the features.
    """

    frozen_on_purpose = ("backbone",)

    def __init__(self, backbone: nn.Module, num_classes: int, unfreeze: Iterable[str] = ()) -> None:
        super().__init__()
        refuse_no_size(num_classes=num_classes)
        if not isinstance(backbone, nn.Module):  # what a function or a class of somebody's gives
            raise ValueError(f"backbone={type(backbone).__name__}: is no torch Module; a network is needed")
        linears = {name: module for name, module in backbone.named_modules() if name and isinstance(module, nn.Linear)}
        if not linears:
            raise ValueError(f"backbone={type(backbone).__name__}: has no nn.Linear inside for a new head to replace")
        name, last = linears.popitem()
        backbone.set_submodule(name, nn.Identity())
        self.backbone = backbone.requires_grad_(False)
        self.head = nn.Linear(last.in_features, num_classes)

        self.unfrozen = [unfreeze] if isinstance(unfreeze, str) else list(unfreeze)
        parts = [name for name, module in backbone.named_modules() if name and any(True for _ in module.parameters())]
        for name in self.unfrozen:
            if name not in parts:
                outermost = one_of(part for part in parts if "." not in part)
                raise ValueError(f"unfreeze={name}: the backbone's parts are {outermost}.{nearest(name, parts)}")
            self.backbone.get_submodule(name).requires_grad_(True)
        self.train()

    def features(self, inputs: Tensor) -> Tensor:
        """What the head is given: `[N, head.in_features]`. Without `unfreeze` a constant of the inputs."""
        outputs = self.backbone(inputs)
        return outputs if isinstance(outputs, Tensor) else fields_of(outputs)["logits"]

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.features(inputs))

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.backbone.eval()
        for name in self.unfrozen:
            self.backbone.get_submodule(name).train(mode)
        return self
