"""The PROJECTOR tab: each test sample as a point in the space of the last layer's inputs, with its class and picture.

The tab reads files, not events: `projector_config.pbtxt` in the run's folder names the others, which must lie below it.
"""

import errno
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from trainer.disk import lock
from trainer.disk.files import write_atomically, write_text
from trainer.meaning import Classes, Meaning
from trainer.monitor.predictions import Predictions

FOLDER = "projector"
MAX_COLUMNS = 4  # of targets that are numbers


def write(folder: Path, predictions: Predictions, meaning: Meaning) -> None:
    """Writes the files, in place of those that are there.

    Args:
        folder: the run's.
        predictions: their features are the points; outputs where there are none.

    Raises:
        OSError: a file cannot be written.
        UserError: the folder is not what it was when it was locked.
    """
    lock.refuse_lost(folder)
    points, name = predictions.features, "features"
    if points is None:
        points, name = predictions.outputs[: len(predictions.inputs)].flatten(1), "outputs"
    points = points[: len(predictions.targets)]  # of wide outputs fewer are kept
    below = folder / FOLDER
    if below.is_symlink():
        raise OSError(errno.ELOOP, "It is a link", str(below))
    below.mkdir(exist_ok=True)
    encoded = _encoded(points)
    write_atomically(below / "points.bytes", lambda temporary: temporary.write_bytes(encoded))
    write_text(below / "labels.tsv", _labels(predictions, len(points), meaning))
    # The points are grey until a column is chosen, and the tab does not say that there is one. It shows 36 letters.
    hint = "Color by: true - " if isinstance(meaning, Classes) and predictions.predicted is not None else ""
    sprite = ""
    if predictions.inputs.dim() == 4:
        sheet = _sprites(predictions.inputs)
        write_atomically(below / "sprites.png", lambda temporary: Image.fromarray(sheet).save(temporary, "PNG"))
        height, width = predictions.inputs.shape[-2:]
        size = f"single_image_dim: {width} single_image_dim: {height}"
        sprite = f'  sprite {{ image_path: "{FOLDER}/sprites.png" {size} }}\n'
    config = (
        "embeddings {\n"
        f'  tensor_name: "{hint}{name} of {len(points)} test samples"\n'
        f'  tensor_path: "{FOLDER}/points.bytes"\n'
        f"  tensor_shape: {len(points)} tensor_shape: {points.shape[1]}\n"
        f'  metadata_path: "{FOLDER}/labels.tsv"\n'
        f"{sprite}"
        "}\n"
    )
    write_text(folder / "projector_config.pbtxt", config)  # last: it must name nothing that isn't there


def _encoded(points: Tensor) -> bytes:
    """float32 `[M, F]`, which the tab takes for a table of text unless it is no UTF-8: 0xFF is in no such text.

    It becomes the lowest byte of the first number, which moves by 3e-5 of itself at most. Without that, features that
    are all zero would be read as text and keep the tab from showing any run.
    """
    content = bytearray(points.float().nan_to_num(0).contiguous().numpy().astype("<f4").tobytes())
    content[0] = 0xFF
    return bytes(content)


def _labels(predictions: Predictions, num_points: int, meaning: Meaning) -> str:
    """A line per point, under the names of the columns.

    The tab labels points by the first column that holds words, or else by the first: that is the true class, for the
    other columns hold words only where this one does.
    """
    targets = predictions.targets[:num_points]
    if predictions.predicted is None or not isinstance(meaning, Classes):
        numbers = targets.reshape(num_points, -1)[:, :MAX_COLUMNS].tolist()
        head = [f"target {i}" for i in range(len(numbers[0]))]
        rows = [[f"{number:.6g}" for number in row] for row in numbers]
    else:
        head = ["true", "predicted", "is right"]
        pairs = zip(targets.tolist(), predictions.predicted.tolist(), strict=False)
        rows = [[meaning.name(true), meaning.name(said), str(int(true == said))] for true, said in pairs]
    lines = [[*head, "sample"], *([*row, str(i)] for i, row in enumerate(rows))]
    return "".join("\t".join(line) + "\n" for line in lines)


def _sprites(images: Tensor) -> np.ndarray:
    """Images `[M, C, H, W]` as one uint8 picture, row by row in a square."""
    num_images, num_channels, height, width = images.shape
    images = images.float().nan_to_num(0)
    images = images if num_channels in (1, 3) else images[:, :1]
    low, high = torch.aminmax(images)
    columns = math.ceil(math.sqrt(num_images))
    sheet = torch.zeros(columns * columns, images.shape[1], height, width)
    sheet[:num_images] = (images - low) / (high - low).clamp_min(1e-12) * 255
    sheet = sheet.view(columns, columns, -1, height, width).permute(0, 3, 1, 4, 2)
    sheet = sheet.reshape(columns * height, columns * width, -1).round().byte()
    return (sheet.squeeze(2) if images.shape[1] == 1 else sheet).numpy()
