"""What can't fit into memory is refused before any work."""

from trainer.errors import UserError
from trainer.system.limits import free_bytes


def refuse_more(where: str, num_bytes: float, what_to_do: str) -> None:
    """Raises UserError where so many bytes are more than there are.

    Args:
        where: what needs them, for the message.
        what_to_do: the last sentence of the message.
    """
    free = free_bytes()
    if free is not None and num_bytes > free:
        raise UserError(
            f"{where}: a run needs about {num_bytes / 1e9:,.1f} GB of memory for it, and {free / 1e9:,.1f} GB are "
            f"free. {what_to_do}"
        )
