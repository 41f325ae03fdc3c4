"""How a run stands, as rules about several causes ask."""

from trainer.monitor.facts import LONG_STEPS
from trainer.monitor.seen import Seen

SHRUNK, GROWN = 0.3, 10.0  # the weights' norm over that at the start


def is_settled(seen: Seen) -> bool:
    """Whether there was time enough to learn: what has not been learnt by now is no matter of patience."""
    return seen.step >= (LONG_STEPS if seen.is_over else seen.facts.long)


def losses(seen: Seen) -> dict[str, float]:
    """What the network costs now, and what a guess would."""
    found = {"train/loss": seen.loss} if seen.losses else {}
    return found | ({"chance": seen.chance} if seen.chance is not None else {})
