"""What was done to a source's samples before the model got them, as plain values: kept with a run, done to new samples.

A kind per form of input: pictures, the numbers of arrays, the rows of tables, and what stays as it is.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from trainer.data.image_files import FolderImages
from trainer.data.images import ImageTransform
from trainer.data.prepare import Splits, on_device
from trainer.data.quoting import cut
from trainer.data.source import Data, Samples
from trainer.data.standardize import Scaling
from trainer.data.tables.recipe import Recipe
from trainer.data.upright import BACKGROUNDS
from trainer.trees import Tree, mapped, named_leaves

MAX_CHANNELS, MAX_SIDE = 4096, 1 << 16  # of a picture that a run folder may speak of


@dataclass(frozen=True)
class Pictures:
    """uint8 images, turned into the model's channels and size, scaled to 0..1, normalised.

    Args:
        channels, image_size: of what the model gets; `image_size` is height and width.
        scale: what the grey levels are divided by to reach 0..1.
        mean, std: per channel, of the training split in 0..1; None leaves 0..1.
        stored: channels, height and width of an image as the source has it; None of files, which are resized as they
            are read, until their shorter side fits, and cropped in their middle.
        background: what shows where a file is transparent.
    """

    channels: int
    image_size: tuple[int, int]
    scale: float
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    stored: tuple[int, int, int] | None
    background: str = "white"
    kind: ClassVar[str] = "pictures"

    @property
    def raw_shape(self) -> tuple[int, int, int]:
        """Of a sample before anything is done to it, `(C, H, W)`."""
        return self.stored or (self.channels, *self.image_size)

    def transform(self, dtype: torch.dtype) -> ImageTransform:
        return ImageTransform(self.channels, self.image_size, self.scale, dtype, self.mean, self.std)

    def __call__(self, raw: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
        """uint8 `[N, *raw_shape]` as the model gets them."""
        return self.transform(dtype)(raw.to(device))

    def as_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, **asdict(self)}


@dataclass(frozen=True)
class Scaled:
    """Numbers, minus a mean and divided by a standard deviation.

    Args:
        shape: of one sample.
        scaling: of each column of `[N, D]`, or one for all numbers of `[N, ...]`.
    """

    shape: tuple[int, ...]
    scaling: Scaling
    kind: ClassVar[str] = "numbers"

    @property
    def raw_shape(self) -> tuple[int, ...]:
        return self.shape

    def __call__(self, raw: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
        """`[N, *shape]` numbers of any kind as the model gets them; float32 stays float32, and all else is float64."""
        numbers = raw.cpu().numpy()
        kind = numbers.dtype if numbers.dtype.kind == "f" and numbers.dtype.itemsize == 4 else "float64"
        numbers = numbers.astype(kind, copy=True)
        self.scaling.apply(numbers)
        return on_device(torch.from_numpy(numbers), device, dtype)

    def as_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "shape": list(self.shape), **self.scaling.as_dict()}


@dataclass(frozen=True)
class Rows:
    """The rows of a table, by the recipe of its columns."""

    recipe: Recipe
    kind: ClassVar[str] = "table"

    def __call__(self, raw: Tree, device: torch.device, dtype: torch.dtype) -> Tree:
        """What `Recipe.apply` gives, as the model gets it."""
        return mapped(lambda tensor: on_device(tensor, device, dtype), raw)

    def as_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, **self.recipe.as_dict()}


@dataclass(frozen=True)
class AsTheyAre:
    """Inputs that nothing is done to.

    Args:
        shape: of one sample.
        dtype: as the source has them, such as `float32`.
    """

    shape: tuple[int, ...]
    dtype: str
    kind: ClassVar[str] = "as they are"

    @property
    def raw_shape(self) -> tuple[int, ...]:
        return self.shape

    def __call__(self, raw: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
        is_float = self.dtype.startswith(("float", "bfloat"))
        return on_device(raw.to(torch.float64) if is_float and not raw.is_floating_point() else raw, device, dtype)

    def as_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, **asdict(self)}


@dataclass(frozen=True)
class Theirs:
    """Inputs that only their source knows how to make: dicts of tensors, say.

    Args:
        tensors: by name the dtype and the number of dimensions of each, `N` included, in their order: of a dict by its
            keys, of a tuple `inputs.0`, `inputs.1` ... Empty of what is neither.
        is_nested: dicts and tuples lie in each other; a name is the way to a tensor, `text.ids`, `inputs.0.mask`.
    """

    tensors: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    is_nested: bool = False
    kind: ClassVar[str] = "of their source"

    @classmethod
    def like(cls, example: Tree) -> "Theirs":
        """Of inputs as a batch has them."""
        branches = example.values() if type(example) is dict else example if type(example) in (tuple, list) else ()
        named = named_leaves(example) if branches else {}
        forms = {name: (str(leaf.dtype).removeprefix("torch."), leaf.dim()) for name, leaf in named.items()}
        if all(isinstance(branch, Tensor) for branch in branches):
            return cls(forms)
        found = cls(forms, is_nested=True)
        try:
            return found if _is_alike(found.tree(named), example) else cls()
        except ValueError:  # a key has a point in it
            return cls()

    @property
    def is_tuple(self) -> bool:
        """Whether the model is called with them by their places."""
        places = list(dict.fromkeys(".".join(name.split(".")[:2]) for name in self.tensors))
        return places == [f"inputs.{i}" for i in range(len(places))]

    def tree(self, tensors: Mapping[str, Tensor]) -> Tree:
        """Tensors by name as the model takes them: `model(**dict)` or `model(*tuple)`."""
        if self.is_nested:
            return _nested(tensors)
        return tuple(tensors.values()) if self.is_tuple else dict(tensors)

    @property
    def raw_shape(self) -> tuple[int, ...]:
        return ()

    def __call__(self, raw: Tree, device: torch.device, dtype: torch.dtype) -> Tree:
        """What the source gives, as the model gets it."""
        return mapped(lambda tensor: on_device(tensor, device, dtype), raw)

    def as_dict(self) -> dict[str, Any]:
        more = {"is_nested": True} if self.is_nested else {}
        return {"kind": self.kind, "tensors": {name: list(form) for name, form in self.tensors.items()}, **more}


def _nested(tensors: Mapping[str, Tensor]) -> Tree:
    """The tree that names such as `text.ids` and `pair.0` lead through; numbers from 0 on are a tuple's places.

    Raises:
        ValueError: one leads on from a tensor.
    """
    root: dict[str, Any] = {}
    for name, tensor in tensors.items():
        *way, last = name.split(".")
        node = root
        for key in way:
            node = node.setdefault(key, {})
            if not isinstance(node, dict):
                raise ValueError(f"{cut(name)} leads on from a tensor")
        if last in node:
            raise ValueError(f"{cut(name)} stands for two")
        node[last] = tensor
    found = _with_tuples(root)
    return found["inputs"] if root.keys() == {"inputs"} and isinstance(found["inputs"], tuple) else found


def _with_tuples(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    branches = {key: _with_tuples(branch) for key, branch in node.items()}
    return tuple(branches.values()) if [*branches] == [str(i) for i in range(len(branches))] else branches


def _is_alike(found: Tree, example: Tree) -> bool:
    """Whether two trees have the same dicts and tuples in each other."""
    if isinstance(example, Tensor) or isinstance(found, Tensor):
        return found is example
    if type(example) is dict and type(found) is dict:
        return [*found] == [*example] and all(_is_alike(found[key], example[key]) for key in example)
    is_both = type(found) is tuple and type(example) in (tuple, list) and len(found) == len(example)
    return is_both and all(_is_alike(*pair) for pair in zip(found, example, strict=True))


Preparation = Pictures | Scaled | Rows | AsTheyAre | Theirs


def preparation_of(data: Data, splits: Splits) -> Preparation:
    """What was done to the samples of a source to become the splits of a run."""
    if (fitted := splits.transform) is not None:
        stored = tuple(data.train.inputs.shape[1:]) if isinstance(data.train, Samples) else None
        background = data.train.background if isinstance(data.train, FolderImages) else "white"
        assert stored is None or len(stored) == 3
        return Pictures(
            fitted.channels, fitted.image_size, fitted.scale, fitted.mean, fitted.std, stored, background=background
        )
    if isinstance(data.recipe, Recipe):
        return Rows(data.recipe)
    inputs = data.train.inputs if isinstance(data.train, Samples) else data.example[0]
    if not isinstance(inputs, Tensor):
        return Theirs.like(inputs)
    shape = tuple(splits.input_shape)
    if isinstance(data.recipe, Scaling):
        return Scaled(shape, data.recipe)
    return AsTheyAre(shape, str(inputs.dtype).removeprefix("torch."))


def from_dict(found: Any) -> Preparation:
    """Of what `as_dict` gave. Foreign text. Raises ValueError: it is something else."""
    if not isinstance(found, Mapping):
        raise ValueError("not what is done to inputs")
    values = dict(found)
    try:
        match values.pop("kind"):
            case Pictures.kind:
                return _pictures(values)
            case Scaled.kind:
                return Scaled(_sizes(values.pop("shape")), Scaling.from_dict(values))
            case Rows.kind:
                return Rows(Recipe.from_dict(values))
            case AsTheyAre.kind:
                if not isinstance(values["dtype"], str) or not isinstance(getattr(torch, values["dtype"]), torch.dtype):
                    raise TypeError("dtype")
                return AsTheyAre(_sizes(values["shape"]), values["dtype"])
            case Theirs.kind:
                forms = {str(name): _form(form) for name, form in values.get("tensors", {}).items()}
                if values.get("is_nested") is True:
                    _nested({name: torch.empty(0) for name in forms})  # whether the names make a tree
                return Theirs(forms, values.get("is_nested") is True)
            case kind:
                raise ValueError(f"not what is done to inputs, but of kind {cut(str(kind))}")
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not what is done to inputs ({cut(str(error))})") from error


def _pictures(values: Mapping[str, Any]) -> Pictures:
    size = _sizes(values["image_size"])
    stored = None if values["stored"] is None else _sizes(values["stored"])
    channels, scale, background = values["channels"], values["scale"], values["background"]
    mean, std = (None if values[key] is None else _numbers(values[key]) for key in ("mean", "std"))
    sides = [*size, *(stored or ())[1:]]
    if (
        type(channels) is not int
        or not 1 <= channels <= MAX_CHANNELS
        or len(size) != 2
        or (stored is not None and len(stored) != 3)
        or not all(1 <= side <= MAX_SIDE for side in sides)
        or not isinstance(scale, int | float)
        or not 0 < scale < math.inf
        or background not in BACKGROUNDS
        or (mean is None) != (std is None)
        or (mean is not None and not len(mean) == len(std or ()) == channels)
    ):
        raise TypeError("sizes of pictures")
    height, width = size
    whole = None if stored is None else (stored[0], stored[1], stored[2])
    return Pictures(channels, (height, width), float(scale), mean, std, whole, background)


def _sizes(found: Sequence[Any]) -> tuple[int, ...]:
    if not isinstance(found, list | tuple) or not all(type(size) is int and 0 <= size < 1 << 40 for size in found):
        raise TypeError("a shape")
    return tuple(found)


def _form(found: Sequence[Any]) -> tuple[str, int]:
    if not isinstance(found, list | tuple) or len(found) != 2 or type(found[1]) is not int or not 0 < found[1] < 65:
        raise TypeError("a tensor")
    if not isinstance(found[0], str) or not isinstance(getattr(torch, found[0]), torch.dtype):
        raise TypeError("dtype")
    return found[0], found[1]


def _numbers(found: Sequence[Any]) -> tuple[float, ...]:
    numbers = tuple(map(float, found))
    if not all(map(math.isfinite, numbers)):
        raise TypeError("numbers")
    return numbers
