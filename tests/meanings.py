"""The meaning of targets, short."""

from trainer.meaning import Classes, Meaning, Numbers


def meaning_of(num_classes: int | None, *names: str) -> Meaning:
    """Classes, or numbers where there are none."""
    return Numbers(1) if num_classes is None else Classes(num_classes, names)
