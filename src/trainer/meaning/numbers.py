"""Numbers for each sample, and outputs that only a loss can read."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from trainer.meaning.outputs import prediction, single
from trainer.trees import Tree

# Targets further from 0 than this, in the mean or by their deviation, are far from what a network gives at first.
FAR = 100.0
CLOSE = 20.0  # deviations that their mean is from 0: years, temperatures in kelvin
LINKS: dict[str, Callable[[Tensor], Tensor]] = {
    **dict.fromkeys(("identity", "none"), lambda outputs: outputs),
    **{"sigmoid": torch.sigmoid, "softmax": partial(torch.softmax, dim=-1), "exp": torch.exp},
}
ROUNDING = 1e-12  # a share of squares that float64 has lost in their sum


class NothingCounted:
    """What has no right and wrong: outputs are compared as the numbers that they are."""

    decisive: ClassVar[str] = "loss"

    def read_as(self, gives: str, compared_with: str) -> Self:
        return self

    def judged(self, outputs: Tree, targets: Tensor) -> dict[str, Tensor]:
        return {}

    @property
    def facts(self) -> dict[str, int]:
        return {}

    def measured(self, outputs: Tree, targets: Tensor) -> tuple[Tensor, Tensor] | None:
        return (single(outputs), targets) if isinstance(outputs, Tensor) else None

    def concluded(self, sums: dict[str, Any], num_samples: int) -> dict[str, float]:
        return sums

    def fitted(self, outputs: Tree, targets: Tree) -> Self:
        return self

    def caption(self, target: Tensor) -> str:
        return f"{target.item():.3g}" if target.numel() == 1 else ""


@dataclass(frozen=True)
class Numbers(NothingCounted):
    """A sample has numbers, which the outputs come near to.

    Args:
        num_outputs: numbers in a target.
        is_judged: the outputs have the shape of the targets, `[N, D]`. Pictures and their like are not judged: some of
            their pixels hardly differ from sample to sample, and the R2 of those says nothing.
        link: how outputs become the numbers: `identity`, `sigmoid`, `softmax`, `exp`; `none`: not at all.
        center: where the numbers lie, one for each output, if that is far from 0; or empty.

    Shapes:
        targets `[N, D]` float, outputs of the same shape.
    """

    num_outputs: int
    is_judged: bool = False
    link: str = "identity"
    center: tuple[float, ...] = ()
    told: ClassVar[str] = "float targets"
    loss_to_type: ClassVar[str] = "mse"

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("mae", "r2") if self.is_judged else ()

    def read_as(self, gives: str, compared_with: str) -> Self:
        """The same numbers, for what a model gives and what the loss compares it with: see `losses.fits`."""
        logits = {"fractions": "sigmoid", "masks": "sigmoid", "shares": "softmax"} if gives == "logits" else {}
        logs = {"shares": "exp"} if gives == "log_probabilities" else {}
        links = {"logarithms": "exp", "others": "none"} | logits | logs
        return replace(self, link=links.get(compared_with, "identity"))

    @property
    def is_linked(self) -> bool:
        """Whether outputs stand for other numbers than they are."""
        return self.link not in ("identity", "none")

    def scores(self, outputs: Tensor) -> Tensor:
        """The numbers that outputs stand for, of the same shape."""
        return LINKS[self.link](outputs)

    def measured(self, outputs: Tree, targets: Tensor) -> tuple[Tensor, Tensor] | None:
        found = super().measured(outputs, targets)
        return None if found is None else (self.scores(found[0]), found[1])

    def wrong_targets(self, targets: Tensor) -> str | None:
        if not targets.is_floating_point() or targets.dim() < 2:
            return f"targets of {targets.dtype}, shape {list(targets.shape)}; regression takes float [N, D]"
        return None if bool(targets.isfinite().all()) else "targets that are NaN or infinite"

    def doubts(self, targets: Mapping[str, Tensor]) -> list[str]:
        train = targets["train"].double()
        mean, deviation = train.mean().item(), train.std(correction=0).item()
        if max(abs(mean), deviation) <= FAR:
            return []
        how = f"Divide them by {10 ** math.ceil(math.log10(max(abs(mean), deviation))):,}"
        if abs(mean) > CLOSE * deviation:  # divided, they would all be nearly the same number
            how = f"Subtract {round(mean):,} from them"
            how += f" and divide them by {10 ** math.ceil(math.log10(deviation)):,}" if deviation > FAR else ""
        return [
            f"the targets are large, mean {mean:.4g}, deviation {deviation:.4g}: a network begins near 0 and may never "
            f"come there. {how} in the data."
        ]

    def scores_of(self, outputs: Tree) -> Tensor | None:
        """The tensor among outputs that has as many numbers as a target: what is called `logits`, or the first."""
        return prediction(outputs, lambda x: x.dim() > 1 and x.shape[1:].numel() == self.num_outputs)

    def fitted(self, outputs: Tree, targets: Tree) -> Self:
        scores = self.scores_of(outputs)
        is_one = scores is not None and isinstance(targets, Tensor) and scores.shape == targets.shape
        is_read = is_one and self.link != "none" and scores is not None and not scores.is_complex()
        return replace(self, is_judged=is_read and scores is not None and scores.dim() == 2)

    def around(self, targets: Tensor) -> Self:
        """The same numbers, with the center of these targets `[N, D]` where it is far from 0 for their deviation.

        The squares of times since 1970, say, hide the spread that R2 is made of: float64 has 16 digits.
        """
        if not self.is_judged:
            return self
        wide = targets.detach().cpu().double().reshape(len(targets), -1)
        mean, deviation = wide.mean(0), wide.std(0, correction=0)
        is_far = bool((mean.abs() > FAR * deviation).any()) and bool(mean.isfinite().all())
        return replace(self, center=tuple(mean.tolist()) if is_far else ())

    def judged(self, outputs: Tree, targets: Tensor) -> dict[str, Tensor]:
        """Absolute errors, and for each of `D` numbers of a target: squared errors, targets, squared targets.

        Targets count from `center`. Shapes: outputs and targets `[..., N, D]`; sums are `[...]` and `[..., 3 * D]`.
        """
        scores = (outputs if isinstance(outputs, Tensor) else self.scores_of(outputs)) if self.is_judged else None
        if scores is None:
            return {}
        wide = torch.float32 if scores.device.type == "mps" else torch.float64
        targets = targets.to(wide).expand_as(scores)
        errors = self.scores(scores.to(wide)) - targets
        if self.center:
            targets = targets - targets.new_tensor(self.center)
        sums = [part.sum(-2) for part in (errors.square(), targets, targets.square())]
        return {"mae": errors.abs().sum((-2, -1)), "r2": torch.cat(sums, -1)}

    def concluded(self, sums: dict[str, Any], num_samples: int) -> dict[str, float]:
        """R2 is the mean over the numbers of a target; where one is always the same, it is 1 without errors, else 0."""
        if "r2" not in sums:
            return sums
        errors, totals, squares = torch.tensor(sums["r2"], dtype=torch.float64).view(3, -1)
        spread = squares - totals.square() / num_samples
        is_spread = spread > ROUNDING * squares
        r2 = torch.where(is_spread, 1 - errors / spread, (errors == 0).double())
        return sums | {"mae": sums["mae"] / (num_samples * self.num_outputs), "r2": r2.mean().item()}


@dataclass(frozen=True)
class Unread(NothingCounted):
    """Outputs that nobody but the user's own loss can read: there is no metric but the loss.

    Args:
        num_outputs: what the data has: classes, or numbers in a target; 0 where it has no targets, or several.
    """

    num_outputs: int
    metrics: ClassVar[tuple[str, ...]] = ()
    told: ClassVar[str] = "no targets that it could read"
    loss_to_type: ClassVar[str] = "own"

    def wrong_targets(self, targets: Tensor) -> str | None:
        return None

    def doubts(self, targets: Mapping[str, Tensor]) -> list[str]:
        return []

    def scores_of(self, outputs: Tree) -> Tensor | None:
        return None
