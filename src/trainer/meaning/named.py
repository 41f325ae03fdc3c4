"""What has names."""

from typing import ClassVar, Self

from trainer.trees import Tree


class Named:
    """What has a number for each class or label, and perhaps a name."""

    names: tuple[str, ...]
    decisive: ClassVar[str] = "accuracy"  # the number that tells the better of two runs

    def fitted(self, outputs: Tree, targets: Tree) -> Self:
        """The same meaning, once it is known what a model gives for some samples."""
        return self

    def name(self, label: int) -> str:
        """A class's name on one line and printable, or its number where it has none."""
        if label >= len(self.names):
            return str(label)
        # The name of a folder may hold line ends, and bytes that are no text.
        return " ".join(self.names[label].encode(errors="replace").decode().split())
