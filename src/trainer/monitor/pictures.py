"""Pictures for the IMAGES tab: samples and filters in a grid, and the confusion matrix.

All of them are uint8 `[height, width, channels]`, on white.
"""

import math
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw, ImageFont
from torch import Tensor, nn

from trainer.meaning import Classes, Meaning
from trainer.monitor.predictions import Predictions, shrunk
from trainer.trees import Tree

Pixels = NDArray[np.uint8]
Caption = Sequence[tuple[str, str]]  # (text, colour) of each line under a tile

MAX_TILES = 64
MAX_SAMPLES = 30  # of the first batch
MAX_COLUMNS = 1000  # of samples that are rows of numbers
MAX_CLASSES = 1000  # that a confusion matrix shows, a pixel each
NUM_MISTAKEN = 50  # of more classes, with their names
# Pixels, as wide as the tab shows every picture until it is clicked on. In one of another width it leaves out pixels or
# doubles them, and letters are spoilt.
_WIDTH = 350
_TILE = 64  # smaller images are enlarged up to this
_LARGE_TILE = 112
_GAP = 6
_FONT_SIZE = 13
_LINE = 16
_GRID_FONT, _GRID_LINE = 14, 18
_BLACK, _GREY, _GREEN, _RED, _BLUE = "#202020", "#707070", "#1a7f37", "#c62828", "#08306b"


def first_batch(inputs: Tensor, targets: Tree, meaning: Meaning) -> Pixels:
    """The samples as the model gets them: normalised, augmented, in its size; at most `MAX_SAMPLES`.

    Args:
        inputs: images `[N, C, H, W]`, grey or colour; anything else is shown as numbers, a row per sample.
        targets: `[N]` class labels or `[N, D]` numbers, which images get as captions; or anything else.
        meaning: of the targets.
    """
    of, inputs = len(inputs), inputs[:MAX_SAMPLES].detach().cpu()
    if inputs.dim() != 4:
        rows = inputs.flatten(1)
        columns = f"{rows.shape[1]:,} numbers"
        if rows.shape[1] > MAX_COLUMNS:
            rows, columns = rows[:, :MAX_COLUMNS], f"{MAX_COLUMNS:,} of {columns}"
        title = f"{len(rows):,} of {of:,} samples of the first batch: a row each, {columns}; {_range(rows)}"
        return _grid([_enlarged(_pixels(rows[None, None])[0], 4 * _TILE, _WIDTH - 2 * _GAP)], title)
    is_named = isinstance(targets, Tensor)
    names = [meaning.caption(t) for t in targets[:MAX_SAMPLES].cpu()] if is_named else [""] * len(inputs)
    title = f"{len(inputs):,} of {of:,} samples of the first batch, as the model sees them; {_range(inputs)}"
    tiles = [_enlarged(tile, _TILE) for tile in _pixels(shrunk(inputs, _TILE))]
    return _grid(tiles, title, [[(name, _BLACK)] for name in names])


def of_samples(inputs: Tensor, captions: Sequence[Caption], title: str) -> Pixels:
    """Samples with what is to be said of each; those that are no images as numbers, a row per sample.

    Args:
        inputs: `[N, ...]`, at most `MAX_TILES` of which are shown.
    """
    inputs = inputs[:MAX_TILES].detach().cpu()
    if inputs.dim() != 4:
        rows = inputs.flatten(1)[:, :MAX_COLUMNS]
        return _grid([_enlarged(_pixels(rows[None, None])[0], 4 * _TILE, 6 * _TILE)], f"{title}, a row each")
    tiles = [_enlarged(tile, _LARGE_TILE) for tile in _pixels(shrunk(inputs, 2 * _LARGE_TILE))]
    return _grid(tiles, title, captions)


def wrong_samples(predictions: Predictions, meaning: Meaning) -> Pixels | None:
    """The samples that the model was surest of and wrong about, each with its true and its predicted class.

    None where the samples are no images, or there are no classes.
    """
    wrong = predictions.wrong
    if wrong is None or predictions.inputs.dim() != 4 or not isinstance(meaning, Classes):
        return None
    assert predictions.predicted is not None
    num_wrong = int((predictions.predicted != predictions.targets).sum())
    title = _of(predictions, num_wrong, "wrong")
    if num_wrong:
        num_shown = len(wrong.inputs)
        title += f"; the {num_shown} it was surest of" if num_wrong > num_shown else "; the surest first"
    tiles = [_enlarged(tile, _LARGE_TILE) for tile in _pixels(wrong.inputs)] if len(wrong.inputs) else []
    shown = [
        (meaning.name(true), meaning.name(taken)) for true, taken in zip(*map(Tensor.tolist, wrong[2:]), strict=True)
    ]
    # "is 5," "said 9 (100 %)", and with long names the number in a line of its own
    room = max([_TILE, *(tile.shape[1] for tile in tiles[:1])])
    is_short = all(_length(f"said {taken} (100 %)", _font(_GRID_FONT)) <= room for _, taken in shown)
    captions = []
    for (true, taken), confidence in zip(shown, wrong.confidence.tolist(), strict=True):
        said = [f"said {taken}", f"({100 * confidence:.0f} %)"]
        lines = [" ".join(said)] if is_short else said
        captions.append([(f"is {true},", _GREEN), *((line, _RED) for line in lines)])
    return _grid(tiles, title, captions)


def filters(model: nn.Module, input_shape: Sequence[int]) -> Pixels | None:
    """The weights of the first layer as images; None where they have no shape that can be looked at.

    Args:
        input_shape: of one sample. A linear layer that sees all pixels of an image has a filter of the image's size.
    """
    found = next(((name, p.detach()) for name, p in model.named_parameters() if p.dim() in (2, 4)), None)
    if found is None:
        return None
    name, weight = found
    owner = model.get_submodule(name.rpartition(".")[0])
    if weight.dim() == 2 and len(input_shape) == 3:
        num_inputs = math.prod(input_shape)
        if isinstance(owner, nn.Linear) and weight.shape[1] == num_inputs:
            weight = weight.reshape(-1, *input_shape)
        elif weight.shape[0] == num_inputs:  # as in H = X W
            weight = weight.T.reshape(-1, *input_shape)
    if weight.dim() != 4 or max(weight.shape[-2:]) == 1:
        return None
    num_filters, _, height, width = weight.shape
    if weight.shape[1] not in (1, 3):
        weight = weight.reshape(-1, 1, height, width)  # each channel by itself
    shown = weight[:MAX_TILES].float().cpu()
    limit = float(shown.abs().nan_to_num(0).max())
    # One range for all of them, and zero a medium grey.
    side = min(_TILE, _WIDTH // math.ceil(math.sqrt(len(shown))) - 4)
    tiles = [_enlarged(tile, side) for tile in _pixels(shown, -limit, limit)]
    title = f"{name}: {num_filters} filters {height}x{width}; black {-limit:.2g}, white {limit:.2g}"
    return _grid(tiles, title)


def confusion_matrix(predictions: Predictions, meaning: Meaning) -> Pixels | None:
    """How many samples of each class (row) were taken for which (column): blue what is right, red what is wrong, and
    the darker, the larger a part of its row.

    Of more than `MAX_CLASSES` classes those that are mistaken most often; its size and the memory that it takes then
    no longer grow with their number. None where there are no classes.
    """
    if predictions.predicted is None or not isinstance(meaning, Classes):
        return None
    shown = torch.arange(predictions.num_classes())
    title = _of(predictions, int((predictions.targets == predictions.predicted).sum()), "right")
    if len(shown) > MAX_CLASSES:
        shown = predictions.most_mistaken(NUM_MISTAKEN)
        title += f"; of {predictions.num_classes():,} classes the {NUM_MISTAKEN} most often mistaken"
    counts = predictions.confusion(shown).numpy()
    num_classes = len(counts)
    names = [meaning.name(i) for i in shown.tolist()]
    beside = 5 * _GAP + _LINE + min(110, max(_length(name) for name in names))
    cell = (_WIDTH - beside) // num_classes
    if cell < _LINE:  # no room for numbers: a larger picture, to be clicked on
        cell = max(1, min(24, 960 // num_classes))
    cell = min(48, cell)
    font = _font(max(1, min(_FONT_SIZE, cell - 1)))
    is_readable = cell >= 9  # no letters in smaller cells
    names = [_cut(name, 110, font) if is_readable else "" for name in names]
    longest = max(_length(name, font) for name in names)
    is_upright = longest <= cell - 4
    left = 2 * _GAP + _LINE + longest + _GAP
    top = 3 * _GAP + 2 * _LINE + (_LINE if is_upright else longest + _GAP)
    side = cell * num_classes

    width = max(left + side + 2 * _GAP, _length(title) + 2 * _GAP, _WIDTH)
    picture = Image.new("RGB", (width, top + side + 2 * _GAP), "white")
    draw = ImageDraw.Draw(picture)
    draw.text((_GAP, _GAP), title, _BLACK, _font())
    _draw_turned(picture, "true", (_GAP, top + side // 2 + _length("true") // 2), _GREY, _font())
    draw.text((left + side // 2, 2 * _GAP + _LINE), "predicted", _GREY, _font(), anchor="ma")
    for i, name in enumerate(names if is_readable else []):
        middle = cell * i + cell // 2
        draw.text((left - _GAP, top + middle), name, _BLACK, font, anchor="rm")
        if is_upright:
            draw.text((left + middle, top - _GAP // 2), name, _BLACK, font, anchor="mb")
        else:
            _draw_turned(picture, name, (left + middle - _LINE // 2, top - _GAP), _BLACK, font)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    colours = np.where(np.eye(num_classes, dtype=bool)[..., None], _shades(shares, _BLUE), _shades(shares, _RED))
    picture.paste(Image.fromarray(colours.repeat(cell, 0).repeat(cell, 1)), (left, top))
    draw.rectangle((left - 1, top - 1, left + side, top + side), outline="#c0c0c0")
    if is_readable:
        _draw_counts(draw, counts, shares, cell, (left, top))
    return np.asarray(picture)


def _draw_counts(
    draw: ImageDraw.ImageDraw, counts: NDArray[Any], shares: NDArray[Any], cell: int, corner: tuple[int, int]
) -> None:
    """The numbers of a confusion matrix, as large as the largest fits into its cell; others than 0 that have room."""
    sizes = [size for size in range(_FONT_SIZE, 7, -1) if _length(str(counts.max()), _font(size)) < cell]
    font = _font(sizes[0] if sizes else 8)
    for i, j in zip(*counts.nonzero(), strict=True):
        number = str(counts[i, j])
        if _length(number, font) <= cell:
            place = (corner[0] + cell * j + cell / 2, corner[1] + cell * i + cell / 2)
            draw.text(place, number, "white" if shares[i, j] > 0.3 else _BLACK, font, anchor="mm")


def _of(predictions: Predictions, count: int, what: str) -> str:
    shown, whole = len(predictions.outputs), predictions.num_samples
    return f"{count:,} of {'' if shown == whole else f'the first {shown:,} of '}{whole:,} test samples {what}"


def _range(x: Tensor) -> str:
    low, high = _low_and_high(x)
    return f"black {low:.2g}, white {high:.2g}"


def _low_and_high(x: Tensor) -> tuple[float, float]:
    low, high = torch.aminmax(x.float().nan_to_num(0))
    return float(low), float(high)


def _pixels(images: Tensor, low: float | None = None, high: float | None = None) -> Pixels:
    """`[N, C, H, W]` numbers to `[N, H, W, 3]`, `low` black and `high` white: the least and largest number if None.

    Of images that are neither grey nor colour, the first channel.
    """
    images = images.float().nan_to_num(0)
    images = images if images.shape[1] in (1, 3) else images[:, :1]
    if low is None or high is None:
        low, high = _low_and_high(images)
    grey = (images - low) / ((high - low) or 1.0) * 255
    return grey.clamp(0, 255).round().byte().expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()


def _enlarged(tile: Pixels, height: int, width: int | None = None) -> Pixels:
    """A small tile by whole factors, up to `height`; its pixels stay squares, unless there is a `width`."""
    factor = max(1, height // (tile.shape[0] if width else max(tile.shape[:2])))
    return tile.repeat(factor, 0).repeat(max(1, width // tile.shape[1]) if width else factor, 1)


def _grid(tiles: Sequence[Pixels], title: str, captions: Sequence[Caption] = ()) -> Pixels:
    """Tiles of one size in rows, each with the lines of its caption below it, under a title."""
    height, width = tiles[0].shape[:2] if tiles else (0, 0)
    room = max(width, _TILE) if captions else width  # for a short name under a small tile
    columns = max(1, min(math.ceil(math.sqrt(len(tiles))), _WIDTH // (room + 3)))
    rows = math.ceil(len(tiles) / columns)
    num_lines = len(captions[0]) if captions else 0
    font = _font(_GRID_FONT)
    gap = max(3, min(_GAP, (_WIDTH - columns * room) // (columns + 1)))
    step_x, step_y = room + gap, height + _GRID_LINE * num_lines + _GAP
    whole_width = max(columns * step_x + gap, _WIDTH)
    heading = _wrapped(title, whole_width - 2 * _GAP, font)
    top = _GRID_LINE * len(heading) + 2 * _GAP
    canvas = np.full((rows * step_y + top, whole_width, 3), 255, np.uint8)
    places = [(gap + i % columns * step_x, top + i // columns * step_y) for i in range(len(tiles))]
    for tile, (x, y) in zip(tiles, places, strict=True):
        canvas[y : y + height, x : x + width] = tile
    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture)
    for i, line in enumerate(heading):
        draw.text((_GAP, _GAP + _GRID_LINE * i), line, _BLACK, font)
    for caption, (x, y) in zip(captions, places, strict=False):
        for i, (text, colour) in enumerate(caption):
            draw.text((x, y + height + _GRID_LINE * i), _cut(text, step_x, font), colour, font)
    return np.asarray(picture)


def _wrapped(text: str, width: int, font: ImageFont.FreeTypeFont) -> list[str]:
    """The text in lines of so many pixels at most, broken between words."""
    lines: list[str] = []
    for word in text.split():
        if lines and _length(f"{lines[-1]} {word}", font) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


@cache
def _font(size: int = _FONT_SIZE) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font


@lru_cache(maxsize=4096)  # captions come again in each picture
def _length(text: str, font: ImageFont.FreeTypeFont | None = None) -> int:
    return math.ceil((font or _font()).getlength(text))


def _cut(text: str, width: int, font: ImageFont.FreeTypeFont | None = None) -> str:
    """The text without the end that does not fit into so many pixels."""
    if _length(text, font) <= width:
        return text
    text = text[:width]  # no letter is narrower than a pixel
    while text and _length(text + "...", font) > width:
        text = text[:-1]
    return text + "..."


def _draw_turned(
    picture: Image.Image, text: str, foot: tuple[int, int], colour: str, font: ImageFont.FreeTypeFont
) -> None:
    """Text that is read from below; `foot`: the left edge of its line, and the height at which it begins."""
    line = Image.new("RGB", (max(1, _length(text, font)), _LINE), "white")
    ImageDraw.Draw(line).text((0, _LINE // 2), text, colour, font, anchor="lm")
    turned = line.transpose(Image.Transpose.ROTATE_90)
    picture.paste(turned, (foot[0], foot[1] - turned.height))


def _shades(shares: NDArray[np.float64], colour: str) -> Pixels:
    """White for 0 to the colour for 1; by the square root, so that what is seldom can be seen."""
    full = np.array(ImageColor.getrgb(colour))
    return (255 + np.sqrt(shares)[..., None] * (full - 255)).astype(np.uint8)
