"""What it means that something is refused: in one line, by UserError."""

from collections.abc import Callable
from typing import Any

import pytest

from trainer.errors import UserError


def says(load: Callable[..., object], *parts: str, **arguments: Any) -> str:
    """`load` refuses the arguments, in one line that holds all the parts."""
    with pytest.raises(UserError) as caught:
        load(**arguments)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message
    return message
