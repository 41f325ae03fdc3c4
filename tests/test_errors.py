"""Lines for people: what they quote may be of any length, they are not."""

import pytest

from trainer.errors import UserError


@pytest.mark.parametrize("quoted", ["x" * 100_000, ", ".join(f"column {i}" for i in range(5000))])
def test_a_line_keeps_its_beginning_and_what_to_type(quoted: str) -> None:
    line = str(UserError(f"data.path=a.csv: its header has {quoted}. Type data.targets=[-1]."))
    assert len(line) <= 2000
    assert line.startswith("data.path=a.csv: its header has ")
    assert line.endswith(". Type data.targets=[-1].")


def test_a_line_of_usual_length_is_whole() -> None:
    assert str(UserError("a" * 2000)) == "a" * 2000
