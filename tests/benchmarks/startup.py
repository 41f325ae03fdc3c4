"""From typing a command to its first step, or to its answer; and the memory that it takes."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from processes import TRAIN, Failed, asked, new_folder, record_times, run, train
from rounds import Contest, Row
from works import WORKS, Work

APP = """\
import hydra
from omegaconf import DictConfig


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(config: DictConfig) -> None:
    print(config)


main()
"""
CONFIG = "model:\n  hidden_features: 100\noptimizer:\n  lr: 0.1\n"


def contests(is_short: bool) -> Iterator[Contest]:
    works = [WORKS["lenet"]] if is_short else [WORKS["two_layer"], WORKS["lenet"]]
    for work in works:
        yield Contest(
            [Row(f"{work.title}: process start to the end of the first step", "train", "bare", 0.75)],
            {"train": partial(first_step, work), "bare": partial(bare_first_step, work)},
        )
        yield Contest(
            [Row(f"{work.title}: peak memory to the end of the first step", "train", "bare", 0.85)],
            {"train": partial(memory, work), "bare": partial(bare_memory, work)},
            unit="MiB",
        )
    with new_folder() as folder:
        (folder / "conf").mkdir()
        (folder / "conf" / "config.yaml").write_text(CONFIG)
        (folder / "app.py").write_text(APP)
        python = TRAIN[0]
        commands = {
            "help": [*TRAIN, "--help"],
            "import": [python, "-c", "import hydra"],
            "config": [*TRAIN, "--cfg", "job"],
            "app": [python, "app.py", "--cfg", "job"],
        }
        for words in (["--help"], ["--cfg", "job"]):
            refuse_torch(words, folder)
        yield Contest(
            [
                Row("train --help / python -c 'import hydra'", "help", "import", 1.2),
                Row("train --cfg job / that of a minimal Hydra app", "config", "app", 1.5),
            ],
            {name: partial(seconds, command, folder) for name, command in commands.items()},
        )


def first_step(work: Work) -> float:
    with new_folder() as folder:
        ended = train([*work.words, "max_steps=2"], folder)  # at step 1 nothing that ends a run is in its time
        return record_times(folder / "run")[1] - ended.began


def bare_first_step(work: Work) -> float:
    ended, answer = asked("bare.py", {"work": work.name, "steps": 0})
    moment: float = answer["ended"]
    return moment - ended.began


def memory(work: Work) -> float:
    """To the first record, at which the process is killed."""
    with new_folder() as folder:
        command = [*TRAIN, *work.words, "max_steps=1000000", "run_dir=run"]
        return run(command, folder, until=lambda: 1 in record_times(folder / "run")).peak_mib


def bare_memory(work: Work) -> float:
    return asked("bare.py", {"work": work.name, "steps": 0})[0].peak_mib


def seconds(command: list[str], folder: Path) -> float:
    return run(command, folder).seconds


def refuse_torch(words: list[str], folder: Path) -> None:
    """Raises Failed where a question that needs no torch imports it."""
    script = folder / "torch.py"  # found before the real one
    script.write_text("raise SystemExit('torch was imported')")
    try:
        run([*TRAIN, *words], folder)
    except Failed as error:
        raise Failed(f"train {' '.join(words)}: {error}") from error
    finally:
        os.remove(script)
