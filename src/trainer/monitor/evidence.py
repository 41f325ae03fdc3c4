"""What the data and the model tell of a run before its first step, in plain numbers for the diagnosis."""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from trainer.data.batches import Batches, first_samples
from trainer.data.leaks import Leak
from trainer.data.prepare import Splits
from trainer.losses.function import LossFunction
from trainer.meaning import Classes, Numbers
from trainer.monitor.activations import Activations
from trainer.trees import called, mapped
from trainer.trials import undisturbed

# Numbers of a split that are looked at: a few milliseconds.
MOST_NUMBERS, FEWEST_ROWS = 1 << 17, 64
SAMPLES = 16  # that go through the model where outputs of two lie between 0 and 1
_SHIPPED = ("trainer.models.lenet", "trainer.models.two_layer", "trainer.models.resnet", "trainer.models.finetune")


def evidence(model: nn.Module, loss_fn: LossFunction, splits: Splits, leak: Leak | None = None) -> dict[str, Any]:
    """The fields of `trainer.monitor.facts.Facts` of the same names. Leaves model and draws as they are."""
    return {
        **of_model(model),
        **of_inputs(splits),
        **of_targets(loss_fn, splits),
        **of_outputs(model, loss_fn, splits.val),
        "has_images": len(splits.input_shape) == 3,
        **({} if leak is None else {"leaked": leak.share, "repeated": leak.repeated}),
    }


def of_model(model: nn.Module) -> dict[str, Any]:
    dropouts = [m.p for m in model.modules() if isinstance(m, nn.modules.dropout._DropoutNd)]
    attention = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)
    return {
        "dropout": max(dropouts, default=0.0),
        "has_batch_norm": any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules()),
        "has_attention": any(isinstance(m, attention) for m in model.modules()),
        "has_relus": any(isinstance(m, nn.ReLU) for m in model.modules()),
        "equal_units": list(equal_units(model)),
    }


def equal_units(model: nn.Module) -> Iterator[str]:
    """The layers of several units that all start alike, but for the last: they get the same gradient for ever."""
    weights = [(name, p) for name, p in model.named_parameters() if p.dim() > 1 and p.requires_grad]
    for name, weight in weights[:-1]:
        # In a linear layer a unit is a row; some keep it in a column.
        few = weight.detach().flatten(1)[:8, :8]
        if min(weight.shape[:2]) > 1 and few.numel() and bool((few == few[0, 0]).all()):
            yield name.rpartition(".")[0] or name


def of_outputs(model: nn.Module, loss_fn: LossFunction, split: Batches) -> dict[str, Any]:
    """What a forward pass shows: layers that let nothing through, and outputs that can't be logits.

    Shipped models are known.
    """
    if type(model).__module__ in _SHIPPED:
        return {}
    activations, outputs, said = Activations(model), None, ""
    with contextlib.suppress(Exception), undisturbed(model, next(model.parameters()).device):
        activations.watch()
        outputs = _given(model, split, 2)
        if outputs_are(loss_fn, outputs):  # of so few perhaps by chance
            said = outputs_are(loss_fn, _given(model, split, SAMPLES))
    shares = {tag.partition("/"): share for tag, share in activations.numbers().items()}
    dead = [layer for (kind, _, layer), share in shares.items() if kind == "dead_units" and share == 1]
    return {"dead_layers": dead, "outputs_are": said}


def _given(model: nn.Module, split: Batches, count: int) -> Any:
    """What the model gives for copies of the first samples of a split."""
    return called(model, mapped(Tensor.clone, first_samples(split, min(count, len(split))).inputs))


def outputs_are(loss_fn: LossFunction, outputs: Any) -> str:
    """`probabilities`, or `between 0 and 1`, of what should be logits; empty where they may be logits."""
    meaning = loss_fn.meaning
    if not isinstance(meaning, Classes) or meaning.gives != "logits" or meaning.compared_with == "values":
        return ""
    scores = None if outputs is None else meaning.scores_of(outputs)
    if scores is None or scores.shape[1] < 2 or not bool(((scores > 0) & (scores < 1)).all()):
        return ""
    sums = scores.float().sum(1)
    return "probabilities" if torch.allclose(sums, torch.ones_like(sums), atol=1e-3) else "between 0 and 1"


def _rows(split: Any) -> Tensor | None:
    """Some samples of a split that is in memory as the model gets it, `[N, D]`, evenly spaced; None of any other."""
    inputs = getattr(split, "inputs", None)
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point() or getattr(split, "transform", None):
        return None
    width = max(1, inputs[0].numel())
    most = max(FEWEST_ROWS, MOST_NUMBERS // width)
    chosen = inputs[:: -(-len(inputs) // most)]
    return chosen.reshape(len(chosen), -1).double().cpu()


def of_inputs(splits: Splits) -> dict[str, Any]:
    """How large inputs and their columns are, and how far those of validation lie from those of training."""
    train, val = _rows(splits.train), _rows(splits.val)
    if train is None or val is None or len(train) < 2:
        return {}
    sizes = train.square().mean(0).sqrt()
    used = sizes[sizes > 0]
    empty = {"empty_columns": empty_columns(getattr(splits.train, "inputs", train), train)}
    if not len(used):
        return empty
    found: dict[str, Any] = {
        **empty,
        "input_size": float(train.square().mean().sqrt()),
        "largest_column": int(sizes.argmax()),
        "column_ratio": float(sizes.max() / used.median()) if len(splits.input_shape) == 1 else 1.0,
    }
    std, mean = train.std(0), train.mean(0)
    varied = std > 1e-6 * sizes.clamp_min(1e-30)
    if len(val) > 1 and bool(varied.any()):
        distance = ((val.mean(0) - mean)[varied] / std[varied]).square()
        noise = 1 / len(val) + 1 / len(train)  # of equal splits, in the mean
        found["shift"] = math.sqrt(max(0.0, float(distance.mean()) - noise))
    return found


def empty_columns(inputs: Tensor, rows: Tensor) -> list[int]:
    """Columns that say nothing: those with one number in all samples, and those that are as another one before them.

    Empty where that is less than half of them: a few are usual. Of inputs of several dimensions, all that there are.

    Args:
        inputs: `[N, ...]`, of the training split.
        rows: `[n, D]`, some of them.
    """
    constant = (rows == rows[0]).all(0)
    found = constant.nonzero().flatten().tolist()
    if inputs.dim() == 2:
        is_empty, first = constant.tolist(), dict[bytes, int]()
        columns = enumerate(rows.T.contiguous().numpy())
        found = [i for i, column in columns if is_empty[i] or first.setdefault(column.tobytes(), i) != i]
    if not found or len(found) < (len(constant) / 2 if inputs.dim() == 2 else len(constant)):
        return []
    return found if len(rows) == len(inputs) else empty_columns(inputs, inputs.flatten(1).cpu())


def of_targets(loss_fn: LossFunction, splits: Splits) -> dict[str, Any]:
    """Shares of classes; mean and deviation of numbers."""
    train, val = splits.train.targets, splits.val.targets
    if not isinstance(train, Tensor) or not isinstance(val, Tensor):
        return {}
    if isinstance(loss_fn.meaning, Classes) and not train.is_floating_point() and train.dim() == 1:
        counts, others = (torch.bincount(t, minlength=loss_fn.meaning.num_classes).double().cpu() for t in (train, val))
        shares, of_val = counts / counts.sum(), others / others.sum()
        return {
            "shares": shares.tolist(),
            "is_ordered": bool((train[1:] >= train[:-1]).all()),
            "largest_share": float(of_val[int(shares.argmax())]),
            "num_val": len(val),
            "label_shift": float((shares - of_val).abs().sum() / 2),
        }
    if not isinstance(loss_fn.meaning, Numbers) or not train.is_floating_point():
        return {}
    numbers, of_val = train.double().cpu(), val.double().cpu()
    return {
        "target_mean": float(numbers.mean()),
        "target_deviation": float((numbers - numbers.mean(0)).square().mean().sqrt()),
        "num_val": len(val),
    }
