"""The clock: what is due at a step, and how long a training is."""

import pytest

from trainer.cadence import (
    drawing_period,
    evaluation_period,
    history_period,
    is_due,
    is_for_history,
    is_recorded,
    num_steps,
)


@pytest.mark.parametrize(
    ("every", "last", "due"),
    [
        (1, 4, [1, 2, 3, 4]),
        (3, 7, [3, 6, 7]),
        (3, 6, [3, 6]),
        (10, 4, [4]),
        (None, 4, []),
    ],
)
def test_every_so_many_steps_and_the_last_one_are_due(every, last, due):
    assert [step for step in range(1, last + 1) if is_due(step, every, last)] == due


@pytest.mark.parametrize("every", [1, 3, 10, None])
def test_the_first_step_is_recorded_too(every):
    recorded = [step for step in range(1, 8) if is_recorded(step, every, 7)]
    assert recorded == sorted({*(step for step in range(1, 8) if is_due(step, every, 7)), *([1] if every else [])})


@pytest.mark.parametrize("count", [1, 2, 3, 10, 64])
@pytest.mark.parametrize("last", [1, 7, 100, 1000])
def test_a_history_is_evenly_spaced_and_bounded_wherever_the_run_ends(last, count):
    kept, writes = [], 0
    for step in range(1, last + 1):
        if is_for_history(step, count, last):
            kept.append(step)
            writes += 1
        kept = [other for other in kept if other % history_period(step, count) == 0]
        assert len(kept) <= count
        period = kept[0] if kept else None
        assert kept == [period * i for i in range(1, len(kept) + 1)]
        if step >= last / 4:  # half of what was asked for at the least, as periods double
            assert len(kept) >= min(step, count) // 2
    assert writes <= 2.5 * count


@pytest.mark.parametrize("steps_per_epoch", [1, 7])
@pytest.mark.parametrize("max_epochs", [None, 1, 3])
@pytest.mark.parametrize("max_steps", [None, 1, 10, 1000])
def test_a_training_ends_where_counting_its_steps_ends(max_steps, max_epochs, steps_per_epoch):
    is_unlimited = max_steps is None and max_epochs is None
    step = 0
    while True:
        epochs = step / steps_per_epoch
        if step == max_steps or epochs == (20 if is_unlimited else max_epochs):
            break
        step += 1
    assert num_steps(max_steps, max_epochs, steps_per_epoch) == step


@pytest.mark.parametrize("steps_per_epoch", [1, 3, 49, 50, 51, 1000])
def test_a_validation_comes_after_the_fewest_whole_epochs_that_make_50_steps(steps_per_epoch):
    period = evaluation_period(None, steps_per_epoch)
    assert period % steps_per_epoch == 0
    assert period - steps_per_epoch < 50 <= period


def test_a_validation_period_that_is_given_is_kept():
    assert evaluation_period(7, 1000) == 7


@pytest.mark.parametrize("last", [400, 1000, 1688, 2345, 50_000, 1_234_567])
@pytest.mark.parametrize("log_every", [None, 10, 50])
def test_a_run_has_about_twenty_histograms_whatever_its_length(last, log_every):
    period = drawing_period("auto", log_every, last)
    assert 15 <= len([step for step in range(1, last + 1) if is_recorded(step, period, last)]) <= 28
    assert log_every is None or period < log_every or period % log_every == 0


def test_a_short_run_has_a_histogram_at_each_step_and_what_is_typed_is_kept():
    assert drawing_period("auto", 50, 6) == 1
    assert drawing_period("auto", 50, 22, at_least=12) == 12
    assert drawing_period("auto", 50, 22, at_least=60) == 50
    assert drawing_period(7, 50, 1000) == 7
    assert drawing_period(None, 50, 1000) is None
