"""`step` is the only clock: is something due at this step, and how many steps is a training long."""


def is_due(step: int, every: int | None, last: float) -> bool:
    """True at every `every`-th step and at the last one; `every=None` is never due."""
    return every is not None and (step % every == 0 or step == last)


def is_recorded(step: int, every: int | None, last: int) -> bool:
    """`is_due`, and at the first step: what comes later is measured by it."""
    return is_due(step, every, last) or (every is not None and step == 1)


def history_period(step: int, count: int) -> int:
    """Steps from one of at most `count` kept checkpoints to the next, after a step: a power of two, so that those of a
    longer period are among those of a shorter one, and none is missing when every second goes.
    """
    return 1 << (-(-step // count) - 1).bit_length() if step > count else 1


def is_for_history(step: int, count: int, last: int) -> bool:
    """Whether a checkpoint of this step is kept for a while.

    Early steps have up to four times as many as are left of them at the end: a run may end long before `last`.
    """
    return step % max(history_period(step, count), history_period(last, count) // 4) == 0


def drawing_period(every: int | str | None, log_every: int | None, last: int, at_least: int = 1) -> int | None:
    """Steps from one histogram to the next: what was typed, or for "auto" so many that a run has about 20 of them.

    A short run has fewer, `at_least` so many steps apart. Where that is longer than `log_every`, it is a multiple of
    it: the device is waited for then anyway.
    """
    if not isinstance(every, str):
        return every
    period = max(at_least, round(last / 20))
    if log_every is not None and period > log_every:
        period = round(period / log_every) * log_every
    return period


def num_steps(max_steps: int | None, max_epochs: int | None, steps_per_epoch: int) -> int:
    """The length of a training in steps: whichever of the two limits comes first; 20 epochs where neither is set."""
    if max_steps is None and max_epochs is None:
        max_epochs = 20
    limits = [max_steps, None if max_epochs is None else max_epochs * steps_per_epoch]
    return min(limit for limit in limits if limit is not None)


def evaluation_period(eval_every: int | None, steps_per_epoch: int) -> int:
    """Steps from one validation to the next: `eval_every`, or the whole epochs that make 50 steps.

    Without the floor a training whose epoch is one full batch would validate at every step.
    """
    return steps_per_epoch * -(-50 // steps_per_epoch) if eval_every is None else eval_every
