"""The test split of a run as its source has it: raw samples, before anything was done to them."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trainer.data import arrays
from trainer.data.items import Items
from trainer.data.preparation import Pictures, Rows, Scaled
from trainer.data.source import Data, ImageFiles, existing_path
from trainer.data.table import read_for
from trainer.errors import UserError
from trainer.use.portable import coded
from trainer.use.trained import Trained


def write_raw_test(trained: Trained, data: Data, file: Path) -> None:
    """An `.npy` of the test split, `[N, ...]`: pictures uint8, numbers as they are read, rows as `coded` has them.

    Raises:
        UserError: only the run's own source knows how its samples are made.
    """
    inputs, number = trained.about.inputs, len(data.test)
    if isinstance(inputs, Pictures) and isinstance(data.test, ImageFiles):
        into: Any = np.lib.format.open_memmap(file, "w+", np.uint8, (number, *inputs.raw_shape))
        for i in range(number):
            into[i] = data.test[i][0].numpy()
        into.flush()
        return
    np.save(file, _whole(trained, data)[:number])


def _whole(trained: Trained, data: Data) -> NDArray[Any]:
    inputs, config = trained.about.inputs, trained.settings.group("data")
    rows = data.rows.get("test")
    if isinstance(inputs, Rows) and rows is not None:
        return coded(inputs.recipe, read_for(config.get("path"), inputs.recipe, config))[rows.numpy()]
    if isinstance(inputs, Scaled):
        if config.get("_target_") != "trainer.data.arrays.load":
            name = trained.settings.names["data"]
            raise UserError(f"data={name}: its raw samples are not known. Type preprocessing=false.")
        pairs = arrays.read_pairs(existing_path("data.path", config.get("path")), config.get("targets"))
        raw = arrays.as_inputs({split: x for split, (x, _) in pairs.items()}, Path(str(config.get("path"))))
        return raw["test"] if "test" in raw else raw["train"][rows.numpy() if rows is not None else slice(None)]
    assert not isinstance(data.test, ImageFiles)
    if isinstance(data.test, Items):  # of pictures: all others are as they are
        name = trained.settings.names["data"]
        raise UserError(f"data={name}: its raw samples are items that only it can read. Type preprocessing=false.")
    assert isinstance(data.test.inputs, torch.Tensor)
    array: NDArray[Any] = data.test.inputs.numpy()
    return array
