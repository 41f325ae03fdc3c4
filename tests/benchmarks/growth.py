"""What must not grow: the cost of a step with steps and with tags, that of `train runs` with runs."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from processes import TRAIN, Kept, answer_questions, new_folder, record_times, run, seconds_per_step, train
from rounds import Contest, Row

TINY = ("model=two_layer", "model.hidden_features=8", "data=digits", "optimizer=sgd")
TAGS_PER_LAYER = 22  # of weight and bias: five of each, five of the gradient of each, the ratio of each update


def contests(is_short: bool) -> Iterator[Contest]:
    process = Kept("growth.py", threads=1)
    num_steps = 1000 if is_short else 5000
    yield Contest(
        [
            Row(
                "cost of a step at step 1,000,000 / at step 1,000, tiny network, logged at defaults",
                "late",
                "early",
                1.1,
            )
        ],
        {
            "late": partial(process.ask, {"after": 1_000_000, "steps": num_steps}),
            "early": partial(process.ask, {"after": 1000, "steps": num_steps}),
        },
    )
    process.close()
    if is_short:
        return
    with new_folder() as folder:
        yield Contest(
            [Row("cost of a step per tag, all logged every step: 10,000 tags / 1,000 tags", "many", "few", 1.1)],
            {
                "many": partial(seconds_per_tag, folder, 10_000),
                "few": partial(seconds_per_tag, folder, 1000),
            },
        )
        for count in (1000, 10):
            make_runs(folder / str(count), count)
        yield Contest(
            [Row("train runs: 1,000 runs / 10 runs", "1000", "10", 3.0)],
            {str(count): partial(seconds_to_list, folder / str(count)) for count in (1000, 10)},
        )


def seconds_per_tag(folder: Path, num_tags: int) -> float:
    """Of a step of a chain of linear layers."""
    num_layers = round(num_tags / TAGS_PER_LAYER)
    config = folder / f"chain{num_tags}" / "model" / "chain.yaml"
    if not config.exists():
        layer = "  - {_target_: torch.nn.Linear, in_features: 4, out_features: 4}\n"
        config.parent.mkdir(parents=True)
        config.write_text(
            "_target_: trainer.models.sequential.Sequential\nin_features: null\nnum_classes: null\nlayers:\n"
            "  - {_target_: torch.nn.Linear, in_features: '${model.in_features}', out_features: 4}\n"
            + (num_layers - 2) * layer
            + "  - {_target_: torch.nn.Linear, in_features: 4, out_features: '${model.num_classes}'}\n"
        )
    words = (
        f"--config-dir={config.parents[1]}",
        "model=chain",
        "data=random_regression",
        "loss=mse",
        "monitor.every=1",
    )
    return seconds_per_step((*words, "optimizer=sgd"), 100, 50, threads=1) / (num_layers * TAGS_PER_LAYER)


def make_runs(root: Path, count: int) -> None:
    """Copies of one real run, each with a learning rate, a seed and results of its own; no checkpoints, no events."""
    with new_folder() as folder:
        train(["model=two_layer", "max_steps=1000"], folder)
        real = folder / "run"
        config, result = (real / "config.yaml").read_text(), (real / "result.json").read_text()
        for i in range(count):
            copy = root / f"group{i % 10}" / f"run{i:04d}"
            copy.mkdir(parents=True)
            own = config.replace("lr: 0.001\n", f"lr: {0.001 * (1 + i % 25)}\n").replace("seed: 0\n", f"seed: {i}\n")
            (copy / "config.yaml").write_text(own)
            (copy / "result.json").write_text(result.replace('"val/loss": 0.', f'"val/loss": {i}.'))
            shutil.copy(real / "metrics.jsonl", copy)


def seconds_to_list(root: Path) -> float:
    ended = run([*TRAIN, "runs", str(root)])
    if len(ended.output.splitlines()) != 1 + int(root.name):
        raise ValueError(f"train runs: lists {len(ended.output.splitlines()) - 1} of {root.name} runs")
    return ended.seconds


def seconds_after(question: dict[str, Any]) -> float:
    """Per step of a run that stands at a step without having made the ones before it."""
    from trainer.command.folders import config_folders
    from trainer.command.reading import hydra_at
    from trainer.config.compose import Alike
    from trainer.config.settings import settings_of
    from trainer.run.folder import take_folder
    from trainer.run.parts import build
    from trainer.run.train import train as trained
    from trainer.run.training import Training
    from trainer.signals import Signals

    first, last = question["after"] + 50, question["after"] + 50 + question["steps"]
    with new_folder() as folder, hydra_at(config_folders([])):
        request = Alike("train").composed([*TINY, f"max_steps={last + 50}"])
        parts = build(settings_of(request))
        parts.state.step = parts.state.evaluated = question["after"]
        training = Training(parts, folder / "run", Signals())
        with ExitStack() as stack:
            take_folder(training.folder, parts, stack)
            trained(training)
        times = record_times(folder / "run")
    return (times[last] - times[first]) / question["steps"]


if __name__ == "__main__":
    answer_questions(seconds_after)
