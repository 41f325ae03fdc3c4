"""What the data and the model tell of a run before its first step, in plain numbers for the diagnosis."""

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trainer.data.batches import Batches, first_samples
from trainer.data.leaks import Leak
from trainer.data.prepare import Splits
from trainer.losses.fits import loss_instead
from trainer.losses.function import LossFunction
from trainer.meaning import Classes, Labels, Numbers, Places, Unread
from trainer.monitor.activations import Activations
from trainer.trees import called, mapped
from trainer.trials import undisturbed

# Numbers of a split that are looked at: a few milliseconds.
MOST_NUMBERS, FEWEST_ROWS = 1 << 17, 64
SAMPLES = 16  # that go through the model where outputs of two are never negative
ON_A_LINE = 0.9999  # the correlation of a column with the targets
FEWEST_TOLD, MOST_COLUMNS = 50, 1000  # samples, and columns, that are looked at for it
_SHIPPED = ("trainer.models.lenet", "trainer.models.two_layer", "trainer.models.resnet", "trainer.models.finetune")


def evidence(model: nn.Module, loss_fn: LossFunction, splits: Splits, leak: Leak | None = None) -> dict[str, Any]:
    """The fields of `trainer.monitor.facts.Facts` of the same names. Leaves model and draws as they are."""
    return {
        **of_model(model),
        "equal_units": equal_units(model, loss_fn, splits),
        **of_inputs(splits),
        **of_targets(loss_fn, splits),
        **of_outputs(model, loss_fn, splits),
        "telling_columns": telling_columns(splits),
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
    }


def equal_units(model: nn.Module, loss_fn: LossFunction, splits: Splits) -> list[str]:
    """The layers of several units that all start alike, but for the last, and so stay alike.

    Zeros that get another gradient each do not: those of a position embedding, or at the end of a residual branch.
    """
    weights = [(name, p) for name, p in model.named_parameters() if p.dim() > 1 and p.requires_grad]
    alike = []
    for name, weight in weights[:-1]:
        few = weight.detach().flatten(1)[:8, :8]
        if min(weight.shape[:2]) > 1 and few.numel() and bool((few == few[0, 0]).all()):
            alike.append((name.rpartition(".")[0] or name, weight))
    if not alike:
        return []
    gradients: Sequence[Tensor | None] = [None] * len(alike)
    with contextlib.suppress(Exception), undisturbed(model, next(model.parameters()).device), torch.enable_grad():
        inputs, targets = first_samples(splits.train, min(SAMPLES, len(splits.train)))
        given = mapped(Tensor.clone, inputs)
        loss = loss_fn(called(model, loss_fn.given(given, targets)), targets, given).total
        gradients = torch.autograd.grad(loss, [weight for _, weight in alike], allow_unused=True)
    return [name for (name, w), g in zip(alike, gradients, strict=True) if w.any() or g is None or _is_of_one_unit(g)]


def _is_of_one_unit(gradient: Tensor) -> bool:
    """In a linear layer a unit is a row; some keep it in a column."""
    rows = gradient.flatten(1)
    room = 1e-4 * float(rows.abs().max())
    return any(bool(((rows - first).abs() <= room).all()) for first in (rows[:1], rows[:, :1]))


def of_outputs(model: nn.Module, loss_fn: LossFunction, splits: Splits) -> dict[str, Any]:
    """What forward passes show: layers that let nothing through, outputs that can't be logits, or never negative.

    Shipped models are known.
    """
    if type(model).__module__ in _SHIPPED:
        return {}
    activations, said, instead, reach, is_linear = Activations(model), "", "", 0.0, False
    with contextlib.suppress(Exception), undisturbed(model, next(model.parameters()).device):
        activations.watch()
        scores = loss_fn.meaning.scores_of(_given(model, splits.val, 2))
        is_linear = _is_linear(model, splits)
        if scores is not None and bool((scores >= 0).all()):  # of so few perhaps by chance
            said = outputs_are(loss_fn, _whatever_its_weights(model, splits.val, loss_fn.meaning.scores_of))
            instead = takes_probabilities(loss_fn, said)
            reach = out_of_reach(said, splits.train.targets)
    shares = {tag.partition("/"): share for tag, share in activations.numbers().items()}
    dead = [layer for (kind, _, layer), share in shares.items() if kind == "dead_units" and share == 1]
    found = {"dead_layers": dead, "outputs_are": said, "out_of_reach": reach, "is_linear": is_linear}
    return found | {"takes_probabilities": instead}


def _whatever_its_weights(model: nn.Module, split: Batches, scores_of: Callable[[Any], Tensor | None]) -> Tensor | None:
    """The scores of more samples, with these weights and others: those of a linear layer turn with its weights."""
    found = [scores_of(_given(model, split, SAMPLES))]
    parameters = [*model.parameters()]
    last = max((i for i, p in enumerate(parameters) if p.dim() > 1), default=0)
    # One after the other: the last layer is turned; the others alone; and all are ten times as large.
    for of_others, of_last in ((1, -1), (-1, -1), (-10, 10)):
        with torch.no_grad():
            for i, parameter in enumerate(parameters):
                parameter.mul_(of_last if i >= last else of_others)
        found.append(scores_of(_given(model, split, SAMPLES)))
    known = [scores for scores in found if scores is not None]
    return torch.cat(known) if len(known) == len(found) else None


def _is_linear(model: nn.Module, splits: Splits) -> bool:
    """Whether several layers of weights are together no more than one: the outputs of a sum are the sum of outputs.

    False where a layer in between is narrower than both ends: that is something of its own.
    """
    weights = [p for p in model.parameters() if p.dim() > 1]
    inputs = first_samples(splits.val, 2).inputs
    if len(weights) < 2 or not isinstance(inputs, Tensor) or not inputs.is_floating_point() or len(inputs) < 2:
        return False
    if min(len(p) for p in weights[:-1]) < min(weights[0].shape[1], len(weights[-1])):
        return False
    one, other = 3 * inputs[0], 3 * inputs[1]
    outputs = model(torch.stack([one, other, one + other, -one, torch.zeros_like(one)])).double()
    of_one, of_other, of_sum, of_opposite, of_nothing = outputs
    rests = (of_one + of_other - of_sum - of_nothing).norm(), (of_one + of_opposite - 2 * of_nothing).norm()
    return bool(max(rests) < 1e-4 * (of_one - of_other).norm())


def _given(model: nn.Module, split: Batches, count: int) -> Any:
    """What the model gives for copies of the first samples of a split."""
    return called(model, mapped(Tensor.clone, first_samples(split, min(count, len(split))).inputs))


def outputs_are(loss_fn: LossFunction, scores: Tensor | None) -> str:
    """`probabilities` or `between 0 and 1` of what should be logits, `from 0 to 1` or `0 and more` of numbers.

    Empty where they may be anything.
    """
    meaning = loss_fn.meaning
    if scores is None or not bool((scores >= 0).all() and (scores > 0).any()):
        return ""
    is_between = bool((scores <= 1).all())
    if isinstance(meaning, Numbers) and meaning.link not in ("sigmoid", "softmax"):
        return "from 0 to 1" if is_between else "0 and more"
    is_logit = getattr(meaning, "gives", "logits") == "logits" and getattr(meaning, "compared_with", "") != "values"
    takes_logits = any(term.wants is not None and "logits" in term.wants.outputs for term in loss_fn.terms)
    if isinstance(meaning, Places):
        scores, is_logit = meaning.classes_second(scores), is_logit and takes_logits
    if not is_logit or not is_between or isinstance(meaning, Unread):
        return ""
    sums = scores.float().sum(1)
    are_apart = isinstance(meaning, Labels) or (isinstance(meaning, Numbers) and meaning.link == "sigmoid")
    is_shared = not are_apart and torch.allclose(sums, torch.ones_like(sums), atol=1e-3)
    return "probabilities" if is_shared else "between 0 and 1"


def takes_probabilities(loss_fn: LossFunction, kind: str) -> str:
    """The loss that takes such outputs in the place of the run's, as one types it; empty where there is none."""
    known = [term for term in loss_fn.terms if term.wants is not None and "probabilities" not in term.wants.outputs]
    if not kind or not known or len(loss_fn.parts) > 1:
        return ""
    instead = loss_instead(known[0].criterion, "probabilities", loss_fn.meaning)
    if instead == "another loss" or (instead != "loss=bce" and kind != "probabilities"):
        return ""
    return instead


def out_of_reach(kind: str, targets: Any) -> float:
    """The share of numbers that such outputs can't come to."""
    if kind not in ("from 0 to 1", "0 and more") or not isinstance(targets, Tensor):
        return 0.0
    is_out = (targets < 0) | (targets > 1) if kind == "from 0 to 1" else targets < 0
    return float(is_out.float().mean())


def telling_columns(splits: Splits) -> list[int]:
    """Columns that say the target by themselves: a number on a line with it, or a value for each class.

    Of tables in memory, with several columns and at least 50 samples.
    """
    inputs, targets = _rows(splits.train), splits.train.targets
    if inputs is None or not isinstance(targets, Tensor) or len(splits.input_shape) != 1 or inputs.shape[1] < 2:
        return []
    targets = targets[:: -(-len(targets) // len(inputs))].cpu()
    if len(targets) != len(inputs) or len(inputs) < FEWEST_TOLD or (targets == targets[0]).all():
        return []
    if targets.is_floating_point():
        x, y = inputs - inputs.mean(0), targets.double().reshape(len(targets), -1)
        y = y - y.mean(0)
        size = (x.norm(dim=0)[:, None] * y.norm(dim=0)).clamp_min(1e-30)
        found = ((x.T @ y).abs() / size > ON_A_LINE).any(1).nonzero().flatten().tolist()
        return found if len(found) <= inputs.shape[1] / 2 else []  # or else the inputs are to be given back
    if targets.dim() != 1 or int(targets.min()) < 0:
        return []
    return [i for i, column in enumerate(inputs.T[:MOST_COLUMNS]) if _tells(column, targets)]


def _tells(column: Tensor, labels: Tensor) -> bool:
    """Whether a column has a value or two for each class, and each value one class."""
    values, places = column.unique(return_inverse=True)
    num_classes = int(labels.max()) + 1
    if len(values) > 2 * num_classes:
        return False
    counts = torch.bincount(places * num_classes + labels, minlength=len(values) * num_classes)
    return bool((counts.reshape(len(values), num_classes) > 0).sum(1).eq(1).all())


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
        both = (counts + others) / (counts + others).sum()
        # Of equal splits, in the mean: few samples of many classes differ by as much.
        noise = (2 / math.pi * both * (1 - both) * (1 / len(train) + 1 / len(val))).sqrt()
        return {
            "shares": shares.tolist(),
            "is_ordered": bool((train[1:] >= train[:-1]).all()),
            "largest_share": float(of_val[int(shares.argmax())]),
            "num_val": len(val),
            "label_shift": max(0.0, float(((shares - of_val).abs() - noise).sum() / 2)),
        }
    if isinstance(loss_fn.meaning, Places):
        size, ignored = loss_fn.meaning.num_classes, loss_fn.meaning.ignored
        counts, others = (torch.bincount(t[t != ignored], minlength=size).double() for t in (train, val))
        return {"are_places": True, "largest_share": float(others[counts.argmax()] / others.sum())}
    if isinstance(loss_fn.meaning, Labels):
        return {"are_labels": True, "num_val": len(val)}
    if not isinstance(loss_fn.meaning, Numbers) or not train.is_floating_point():
        return {}
    numbers, of_val = train.double().cpu(), val.double().cpu()
    return {
        "target_mean": float(numbers.mean()),
        "target_deviation": float((numbers - numbers.mean(0)).square().mean().sqrt()),
        "num_val": len(val),
    }
