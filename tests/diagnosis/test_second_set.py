"""The diagnosis on a set of runs on which nothing was chosen: most causes right, no healthy run warned of."""

from pathlib import Path

import pytest
from confusion import findings, verdict
from sets import SECOND, Case

pytestmark = pytest.mark.long


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("case", [case for case in SECOND if not case.causes], ids=lambda case: case.name)
def test_a_healthy_run_is_left_alone(case: Case, tmp_path: Path) -> None:
    assert findings(case, tmp_path / "run") == []


def test_four_causes_of_five_are_right(tmp_path: Path) -> None:
    ill = [case for case in SECOND if case.causes]
    assert len(ill) >= 30
    said = {case.name: verdict(case, findings(case, tmp_path / str(i))) for i, case in enumerate(ill)}
    assert sum(word == "right" for word in said.values()) >= 0.8 * len(ill), said
