"""32 runs, 8 learning rates by 4 seeds: one after another, as a stack, in two processes."""

from collections.abc import Iterator
from functools import partial

from processes import TRAIN, Kept, new_folder, run
from rounds import Contest, Row
from works import WORKS, Work

NUM_STEPS = {"digits": 1000, "two_layer": 250}
GOALS = {"digits": 12.0, "two_layer": 2.8}
# One after another: the loop of a tutorial without its DataLoader, with it, and our own.
ALONE = {
    "resident": "resident tensors, torch.optim.SGD(fused=True)",
    "tutorial": "a tutorial's loop",
    "loop": "train's loop",
}


def contests(is_short: bool) -> Iterator[Contest]:
    process = Kept("stacks.py", threads=1)
    for name in ["digits"] if is_short else GOALS:
        title = f"32 runs, {WORKS[name].title}, 1 thread: one after another"
        num_steps = NUM_STEPS[name] // 3 if is_short else NUM_STEPS[name]
        alone = {"resident": ALONE["resident"]} if is_short else ALONE
        yield Contest(
            [
                Row(f"{title} ({what}) / stack", "stack", how, GOALS[name] if how == "resident" else None, is_gain=True)
                for how, what in alone.items()
            ],
            {how: partial(by_process, process, name, how, num_steps) for how in ("stack", *alone)},
        )
    process.close()
    if is_short:
        return
    words = ("max_steps=1500", "sweep.jobs=1")
    title = f"32 runs, {WORKS['digits'].title}, 1 thread, by the command, logged at defaults: one after another / stack"
    yield Contest(
        [Row(title, "stack", "one by one", is_gain=True)],
        {
            "stack": partial(by_command, WORKS["digits"], 8, (*words, "sweep.stack=always")),
            "one by one": partial(by_command, WORKS["digits"], 8, (*words, "sweep.stack=never")),
        },
    )
    words = ("max_steps=400", "threads=1")
    lenet = WORKS["lenet"]
    title = (
        f"8 runs, {lenet.title}, 1 thread each, by the command, logged at defaults: one after another / sweep.jobs=2"
    )
    yield Contest(
        [Row(title, "two", "one", 1.7, is_gain=True)],
        {
            "two": partial(by_command, lenet, 2, (*words, "sweep.jobs=2")),
            "one": partial(by_command, lenet, 2, (*words, "sweep.jobs=1")),
        },
    )


def by_process(process: Kept, name: str, how: str, num_steps: int) -> float:
    seconds: float = process.ask({"work": name, "how": how, "steps": num_steps})
    return seconds


def by_command(work: Work, num_rates: int, words: tuple[str, ...]) -> float:
    """A whole sweep, from its start to its table."""
    rates = ",".join(str(work.lr / 2**i) for i in range(num_rates))
    typed = [word for word in work.words if not word.startswith("optimizer.lr=")]
    with new_folder() as folder:
        command = [*TRAIN, "--multirun", *typed, *words, f"optimizer.lr={rates}", "seed=0,1,2,3", "name=sweep"]
        return run(command, folder, threads=1).seconds
