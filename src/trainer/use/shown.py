"""What was seen of a step, for people: tables, sentences, a picture, files."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console
from rich.text import Text
from torch import Tensor

from trainer.disk import foreign
from trainer.disk.files import cannot_write, write_atomically, write_text
from trainer.errors import UserError
from trainer.finished.table import Column, table
from trainer.monitor.pictures import MAX_TILES, Pixels, of_samples
from trainer.monitor.readable import percent, short
from trainer.use.step import Sample, Step

FAR = 5.0  # times the median: a norm stands out
LARGE_SHARE = 5.0  # times an even share of the gradient, and
LEAST_SHARE = 0.2  # so much of it: a sample stands out
SURE = 0.9  # of a class
_GREEN, _RED, _BLACK = "#1a7f37", "#c62828", "#202020"


def by_loss(found: Sequence[Sample]) -> list[Sample]:
    """The largest first; those that are not finite before all."""
    return sorted(found, key=lambda sample: -(math.inf if sample.loss is None else sample.loss))


def are_told_apart(step: Step) -> bool:
    """Whether its samples have losses of their own. Of a loss over the whole batch they have none."""
    return not math.isfinite(step.loss) or any(sample.loss is not None for sample in step.samples)


def sample_table(found: Sequence[Sample], console: Console, has_losses: bool = True) -> list[Text]:
    columns = [
        Column("sample", [sample.id for sample in found]),
        Column("target", [sample.target for sample in found]),
        Column("output", [sample.said for sample in found]),
    ]
    if any(sample.probability is not None for sample in found):
        cells = ["" if s.probability is None else f"{s.probability:.0%}" for s in found]
        columns.append(Column("sure", cells, is_number=True))
    if has_losses:
        losses = ["not finite" if s.loss is None else short(s.loss) for s in found]
        columns.append(Column("loss", losses, is_number=True))
    if any(sample.share is not None for sample in found):
        shares = ["" if s.share is None else percent(s.share) for s in found]
        sizes = ["" if s.gradient_norm is None else short(s.gradient_norm) for s in found]
        columns += [Column("of gradient", shares, is_number=True), Column("norm", sizes, is_number=True, rank=1)]
    return [Text("  ").append_text(line) for line in table(columns, console, 2)]


def layer_table(step: Step, around: Sequence[Step], console: Console) -> list[Text]:
    kinds = [kind for kind in ("activation", "gradient", "update") if any(kind in of for of in step.layers.values())]
    columns = [Column("layer", list(step.layers))]
    for kind in kinds:
        cells, medians = [], []
        for layer, of in step.layers.items():
            cells.append(short(of[kind]) if kind in of else "")
            median = median_of(around, layer, kind)
            medians.append(short(median) if kind in of and not math.isnan(median) else "")
        rank = 1 if kind == "activation" else 0  # the first to go where there is little room
        columns += [Column(title, x, is_number=True, rank=rank) for title, x in ((kind, cells), ("median", medians))]
    return [Text("  ").append_text(line) for line in table(columns, console, 2)]


def steps_table(wanted: Sequence[Step], console: Console) -> list[Text]:
    tops = [top_share(step.samples) for step in wanted]
    columns = [
        Column("step", [f"{step.step:,}" for step in wanted], is_number=True),
        Column("loss", [short(step.loss) for step in wanted], is_number=True),
        Column("gradient", [short(step.norm) for step in wanted], is_number=True),
        Column("largest part from", [f"sample {top.id}: {top.share:.0%}" if top and top.share else "" for top in tops]),
    ]
    return [Text("  ").append_text(line) for line in table(columns, console, 2)]


def top_share(found: Sequence[Sample]) -> Sample | None:
    """The sample with the largest part of the gradient."""
    known = [sample for sample in found if sample.share is not None]
    return max(known, key=lambda sample: sample.share or 0.0, default=None)


def median_of(around: Sequence[Step], layer: str, kind: str) -> float:
    """Of a layer's norm in other steps; NaN where there are none."""
    found = [of for step in around if math.isfinite(of := step.layers.get(layer, {}).get(kind, math.nan))]
    return statistics.median(found) if found else math.nan


def stands_out(step: Step, around: Sequence[Step]) -> list[str]:
    """In sentences, what is unlike the rest of the batch and the steps around."""
    found = []
    if math.isfinite(step.loss) and not math.isfinite(step.norm):
        where = "look for a logarithm or root of 0, or a division by 0, in the loss and in forward()"
        found.append(f"the gradient is not finite, though the loss is: {where}")
    losses = [seen.loss for seen in around if math.isfinite(seen.loss)]
    if losses and step.loss > FAR * statistics.median(losses) > 0:
        times = step.loss / statistics.median(losses)
        found.append(f"the loss is {short(step.loss)}, {times:.0f} times that of the steps around")
    top = top_share(step.samples)
    if top is not None and top.share is not None and len(step.samples) > 1:
        even = 1 / len(step.samples)
        if top.share > max(LARGE_SHARE * even, LEAST_SHARE):
            found.append(f"sample {top.id} makes {top.share:.0%} of the gradient; {_opinion(top)}")
        else:
            top = None
    for sample in by_loss(step.samples)[:3]:
        if sample is not top and sample.is_wrong and (sample.probability or 0) > SURE:
            found.append(f"sample {sample.id}: {_opinion(sample)}")
    for kind in ("activation", "gradient", "update"):
        ratios = {
            layer: of[kind] / median
            for layer, of in step.layers.items()
            if kind in of and (median := median_of(around, layer, kind)) > 0
        }
        layer = max(ratios, key=lambda name: ratios[name], default=None)
        if layer is not None and FAR < ratios[layer] < math.inf:
            found.append(f"the {kind} of {layer} is {ratios[layer]:.0f} times its median")
    return found


def _opinion(sample: Sample) -> str:
    """`its target is 9, the network is sure of 4 (98 %)`."""
    if sample.probability is None:
        return f"its target is {sample.target}, the network says {sample.said}"
    verb = "is sure of" if sample.probability > SURE else "says"
    return f"its target is {sample.target}, the network {verb} {sample.said} ({sample.probability:.0%})"


def _loss_of(sample: Sample) -> str:
    return f", loss {'nan' if sample.loss is None else short(sample.loss)}"


def drawn(inputs: Any, found: Sequence[Sample], title: str, has_losses: bool = True) -> Pixels | None:
    """The samples by their loss; None where they are nothing that can be drawn."""
    if not isinstance(inputs, Tensor) or inputs.dim() < 2 or len(inputs) != len(found):
        return None
    order = {id(sample): i for i, sample in enumerate(found)}
    shown = by_loss(found)[:MAX_TILES]
    picked = inputs.detach().cpu().float()[[order[id(sample)] for sample in shown]]
    captions = [
        [
            (f"{sample.target}{_loss_of(sample) if has_losses else ''}", _BLACK),
            (f"says {sample.said}", _RED if sample.is_wrong else _GREEN),
        ]
        for sample in shown
    ]
    return of_samples(picked, captions, title)


def write(folder: Path, step: int, name: str, found: Mapping[str, Any], picture: Pixels | None) -> None:
    """`replay/step-<n>/<name>.json`, and `.png` where there is a picture.

    Raises:
        UserError: it can't be written, or a link leads elsewhere.
    """
    place = folder / "replay" / f"step-{step}"
    try:
        foreign.refuse_links(folder)
        place.mkdir(parents=True, exist_ok=True)
        write_text(place / f"{name}.json", json.dumps(found, indent=1, ensure_ascii=False) + "\n")
        if picture is not None:
            write_atomically(place / f"{name}.png", lambda path: Image.fromarray(picture).save(path, format="png"))
    except foreign.Link as error:
        raise UserError(f"{folder}: {error}; nothing is written through it.") from error
    except OSError as error:
        raise cannot_write(place, error, instead="") from error
