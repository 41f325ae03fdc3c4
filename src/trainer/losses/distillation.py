"""A loss that follows the outputs of another network."""

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax, mse_loss

from trainer.trees import called


class Distillation(nn.Module):
    """T^2 KL(softmax(teacher / T) || softmax(student / T)), the mean over samples; of numbers, the mean square.

    Source: G. Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, section 2.

    Args:
        teacher: takes the inputs that the student takes. No part of this module: it is neither trained nor saved.
        temperature: T.
        is_of_classes: the outputs are a number for each class.

    Shapes:
        outputs of both `[N, K]`: logits or log-probabilities; of two classes also `[N, 1]`, for class 1.
    """

    reduction = "mean"

    def __init__(self, teacher: nn.Module, temperature: float, is_of_classes: bool) -> None:
        super().__init__()
        self._teacher = (teacher.eval().requires_grad_(False),)
        self.temperature, self.is_of_classes = temperature, is_of_classes

    def forward(self, outputs: Tensor, targets: Tensor, inputs: Tensor) -> Tensor:
        with torch.no_grad():
            wanted: Tensor = called(self._teacher[0], inputs)
        if not self.is_of_classes:
            return mse_loss(outputs, wanted)
        if outputs.shape[1:] == (1,):  # a softmax of one number is 1, whatever it is
            outputs, wanted = (torch.cat([torch.zeros_like(numbers), numbers], 1) for numbers in (outputs, wanted))
        t = self.temperature
        mine, theirs = (log_softmax(numbers / t, 1) for numbers in (outputs, wanted))
        return t * t * kl_div(mine, theirs, reduction="batchmean", log_target=True)
