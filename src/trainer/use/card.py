"""A model card: what a packed model is, what it was trained on, how good it is, and how to use it."""

import statistics

import numpy as np
import torch

from trainer import __version__
from trainer.data.preparation import Pictures, Rows
from trainer.errors import printable
from trainer.finished.paired import read
from trainer.finished.read import run_named
from trainer.finished.show import sentence, typed
from trainer.meaning import Classes
from trainer.monitor.classes import PerClass, mean
from trainer.monitor.texts import table
from trainer.use.better import of_seeds
from trainer.use.form import told_form
from trainer.use.trained import Trained

MOST_CLASSES = 200
KEYS = ("precision", "recall", "F1")


def card(trained: Trained, file: str) -> str:
    """Markdown.

    Args:
        file: the name of the pack.
    """
    folder, names = trained.found.folder, trained.settings.names
    average, word, argument = "", "", ""
    if trained.found.is_average:
        average, word, argument = "average of the ", " checkpoint=average", ', checkpoint="average"'
    run = run_named(str(folder))
    size = sum(p.numel() for p in trained.model.parameters())
    parts = [
        f"# {_line(folder.resolve().name)}",
        f"A model `{_line(names['model'])}` of {size:,} parameters, trained for {trained.step:,} steps with `train` "
        f"{__version__} on {_line(trained.about.data)}.",
        f"It takes {_taken(trained)}, and gives {_given(trained)}.",
        "## How good it is",
        *_metrics(trained),
        *_classes(trained),
        "## How it was trained",
        f"```sh\ntrain {_line(typed(run))}\n```",
        "What the training showed: "
        + (" ".join(_line(sentence(found)) for found in run.diagnosis) or "nothing amiss."),
        "Versions: " + ", ".join(f"{_line(name)} {_line(v)}" for name, v in trained.about.versions.items()) + ".",
        "## How to use it",
        f"```sh\npip install 'train-cli[export]'\ntrain evaluate {file}{word}\ntrain predict {file} FILE{word}\n```",
        f'In Python: `from trainer import load; load("{file}"{argument}).predict(...)`. '
        "Nothing in the pack runs when it is read"
        + (
            f"; `trust=[{','.join(trained.settings.own)}]` must be typed, and the package be there."
            if trained.settings.own
            else "."
        ),
        f"`model.safetensors` has the {average}weights, `model.json` what is done to inputs, "
        "`config.yaml` the whole config.",
    ]
    return "\n\n".join(parts) + "\n"


def _line(text: str) -> str:
    return printable(" ".join(str(text).split()))


def _taken(trained: Trained) -> str:
    inputs = trained.about.inputs
    if isinstance(inputs, Rows):
        return "rows of a table with the columns " + ", ".join(f"`{_line(c.name)}`" for c in inputs.recipe.columns)
    if isinstance(inputs, Pictures):
        return f"pictures, which become {inputs.channels} x {inputs.image_size[0]} x {inputs.image_size[1]}"
    return told_form(inputs)


def _given(trained: Trained) -> str:
    outputs = trained.about.outputs
    if isinstance(outputs, Classes):
        names = [outputs.name(i) for i in range(min(outputs.num_classes, 50))]
        more = ", ..." if outputs.num_classes > 50 else ""
        return f"one of {outputs.num_classes:,} classes: {', '.join(f'`{_line(name)}`' for name in names)}{more}"
    return f"{outputs.num_outputs:,} numbers"


def _metrics(trained: Trained) -> list[str]:
    rows = []
    for tag, number in trained.result.items():
        if tag.startswith(("val/", "test/")) and isinstance(number, int | float):
            seeds = of_seeds(trained.found.folder, tag)
            spread = ""
            if len(seeds) > 1:
                spread = f"{statistics.mean(seeds):.4g} ± {statistics.stdev(seeds):.2g} ({len(seeds)} seeds)"
            rows.append([f"`{tag}`", f"{number:.6g}", spread])
    if not rows:
        return ["It has not been tested: the run had not ended."]
    has_spread = any(row[2] for row in rows)
    heads = ["", "this model", "over seeds"]
    return [table(heads if has_spread else heads[:2], [row if has_spread else row[:2] for row in rows]).rstrip()]


def _classes(trained: Trained) -> list[str]:
    outputs, tested = trained.about.outputs, read(trained.found.folder, "")
    if tested is None or not isinstance(outputs, Classes) or not {"predicted", "target"} <= tested.arrays.keys():
        return []
    counted = PerClass(outputs)
    size = len(counted.counts)
    pairs = torch.from_numpy(size * tested.arrays["target"].astype(np.int64) + tested.arrays["predicted"])
    if bool(((pairs < 0) | (pairs >= size**2)).any()):
        return []
    counted.counts += torch.bincount(pairs, minlength=size**2).view(size, size)
    rows = counted.rows()
    shown = [*rows[:MOST_CLASSES], mean(rows)]
    cells = [[_line(r["name"]), *(f"{r[k]:.3f}" for k in KEYS), f"{r['support']:,}"] for r in shown]
    heads = ["class", *KEYS, "samples"]
    return [f"Of each class, over {tested.num_samples:,} test samples:", table(heads, cells).rstrip()]
