"""Numbers, shares, counts and times as a person reads them."""

import pytest

from trainer.monitor.readable import counted, percent, spoken


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
