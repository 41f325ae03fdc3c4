"""What is imported is not looked through for garbage, in a process of the command; all else is, as ever."""

import gc

import pytest

from trainer.command.imports import Own, importing


@pytest.fixture
def frozen_before():
    yield gc.get_freeze_count()
    gc.unfreeze()


def test_the_collector_leaves_imports_alone_and_is_at_work_behind_them(monkeypatch, frozen_before):
    monkeypatch.setattr(Own, "process", True)
    with importing():
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() > frozen_before + 10_000


def test_the_collector_of_another_program_is_left_alone(frozen_before):
    with importing():
        assert gc.isenabled()
    assert gc.get_freeze_count() == frozen_before
