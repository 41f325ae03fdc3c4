"""Several labels at once for each sample."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from torch import Tensor

from trainer.meaning.named import Named
from trainer.meaning.outputs import prediction, single
from trainer.trees import Tree


@dataclass(frozen=True)
class Labels(Named):
    """A sample has several labels at once, or one, or none.

    Args:
        num_outputs: of labels.
        names: a name per label, or empty.
        gives: what the model's outputs are: logits or probabilities.
        compared_with: see `Classes`.

    Shapes:
        targets `[N, num_outputs]` float, 0 or 1; outputs of the same shape.
    """

    num_outputs: int
    names: tuple[str, ...] = ()
    gives: str = "logits"
    compared_with: str = "fractions"
    metrics: ClassVar[tuple[str, ...]] = ("accuracy",)
    told: ClassVar[str] = "several labels for a sample"
    loss_to_type: ClassVar[str] = "bce_with_logits"
    decisive: ClassVar[str] = "loss"

    def read_as(self, gives: str, compared_with: str) -> Self:
        return replace(self, gives=gives, compared_with=compared_with)

    def wrong_targets(self, targets: Tensor) -> str | None:
        if not targets.is_floating_point() or targets.dim() != 2:
            return (
                f"targets of {targets.dtype}, shape {list(targets.shape)}; several labels are float [N, K] of 0 and 1"
            )
        if not bool(((targets == 0) | (targets == 1)).all()):
            other = targets[(targets != 0) & (targets != 1)][0].item()
            return f"targets with {other:.4g} among them; several labels are 0 and 1"
        return None

    def doubts(self, targets: Mapping[str, Tensor]) -> list[str]:
        shares = targets["train"].mean(0)
        still = ((shares == 0) | (shares == 1)).nonzero().flatten().tolist()
        if not still:
            return []
        listed = ", ".join(map(self.name, still[:5]))
        return [f"{len(still)} of {len(shares)} labels are the same for all training samples: {listed}."]

    def scores_of(self, outputs: Tree) -> Tensor | None:
        """The tensor among outputs that has a number for each label: what is called `logits`, or the first."""
        return prediction(outputs, lambda x: x.shape[1:] == (self.num_outputs,))

    def judged(self, outputs: Tree, targets: Tensor) -> dict[str, Tensor]:
        scores = self.scores_of(outputs)
        if scores is None or scores.shape != targets.shape:
            return {}
        return {"accuracy": ((scores > (0.0 if self.is_logit else 0.5)) == (targets > 0.5)).sum()}

    @property
    def facts(self) -> dict[str, int]:
        return {"num_labels": self.num_outputs}

    def measured(self, outputs: Tree, targets: Tensor) -> tuple[Tensor, Tensor] | None:
        """Scores `[N, num_outputs]` in 0..1 and whole labels of that shape."""
        found = self.scores_of(outputs)
        return None if found is None else (self.scores(found), targets.long())

    def scores(self, outputs: Tensor) -> Tensor:
        """A number in 0..1 for each label, `[N, num_outputs]`."""
        return single(outputs).sigmoid() if self.is_logit else single(outputs)

    @property
    def is_logit(self) -> bool:
        return self.gives == "logits" and self.compared_with != "values"

    def concluded(self, sums: dict[str, Any], num_samples: int) -> dict[str, float]:
        """The share of all labels, of all samples, that are right."""
        shares = {"accuracy": sums["accuracy"] / (num_samples * self.num_outputs)} if "accuracy" in sums else {}
        return sums | shares

    def caption(self, target: Tensor) -> str:
        found = target.nonzero().flatten().tolist()
        return ", ".join(map(self.name, found))
