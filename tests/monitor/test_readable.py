"""Numbers, shares, counts and times as a person reads them."""

import pytest

from trainer.monitor.readable import counted, digits_apart, percent, short, spoken


@pytest.mark.parametrize(
    ("share", "said"), [(0.614, "61%"), (-0.004, "0%"), (0.0, "0%"), (-0.2, "-20%"), (1.0, "100%")]
)
def test_a_share_has_no_negative_nothing(share: float, said: str) -> None:
    assert percent(share) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.2, "1 s"), (1.0, "1 s"), (90.0, "90 s"), (180.0, "3 min"), (7000.0, "117 min"), (4 * 3600.0, "4 h")],
)
def test_a_time_has_a_unit(seconds: float, said: str) -> None:
    assert spoken(seconds) == said


def test_one_is_singular() -> None:
    assert [counted(n, "step") for n in (0, 1, 1200)] == ["0 steps", "1 step", "1,200 steps"]


def test_numbers_that_differ_look_different() -> None:
    """With four digits where these do, and no more than nine: there float32 itself ends."""
    for numbers, said in (
        ([0.97221, 0.97224, 0.5], ["0.97221", "0.97224", "0.50000"]),
        ([0.9722, 0.9723], ["0.9722", "0.9723"]),
        ([0.5, 0.5], ["0.5000", "0.5000"]),
        ([1.2345678e-5, 1.2345679e-5], ["1.2345678e-05", "1.2345679e-05"]),
        ([1.0, 1.0 + 1e-12], ["1.00000000", "1.00000000"]),
    ):
        digits = digits_apart(numbers)
        assert [short(number, digits) for number in numbers] == said
