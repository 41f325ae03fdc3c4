"""The loss of a run, tried on a few samples together with the model."""

import contextlib
import math
import re
import warnings
from dataclasses import dataclass, field
from functools import partial
from itertools import repeat
from typing import Any

import torch
from torch import Tensor, nn

from trainer import trees
from trainer.config.settings import Settings
from trainer.data.batches import Batch, Batches, ResidentBatches, Uneven, some_samples
from trainer.data.given import as_whole
from trainer.data.item_leaks import some_targets
from trainer.data.items import Items
from trainer.data.prepare import Splits, targets_of
from trainer.data.quoting import listed
from trainer.data.source import Data
from trainer.errors import UserError, nearest
from trainer.evaluate import MOST_AT_ONCE
from trainer.exits import is_out_of_memory
from trainer.losses.fits import loss_instead
from trainer.losses.function import LossFunction
from trainer.losses.term import Kind, Term
from trainer.meaning import IGNORED, Classes, Labels, Meaning, Numbers, Places, Unread
from trainer.run.classes import weigh_classes
from trainer.run.environment import Precision
from trainer.run.instantiate import built, is_complaint, ours, words
from trainer.run.model import has_lazy, placed, sizes_to_type
from trainer.run.teacher import with_teacher
from trainer.run.unregistered import refuse_unregistered, unregistered
from trainer.trees import called, differentiable, leaves
from trainer.trials import DIFFERENTIATING, undisturbed

MOST_SEARCHED = 1 << 26  # numbers of a tensor that are looked through for the smallest and the largest
# What a term is called that others of the dict may be part of already.
TOTALS = ("loss", "total", "total_loss")
USUAL_SIZES = (28, 32, 64, 96, 128, 224, 227, 299)  # pixels a side: of MNIST, LeNet, CIFAR, ..., ImageNet's networks


def build_loss(
    settings: Settings,
    data: Data,
    splits: Splits,
    model: nn.Module,
    sample: Batch,
    precision: Precision,
    needs_teacher: bool = True,
) -> LossFunction:
    """The loss function; it goes with what the data has and the model gives.

    Args:
        sample: a few samples of the validation split.
        needs_teacher: False: without the term of a teacher whose run is not here.

    Raises:
        UserError: the parts do not fit together, both named; or no gradient leads through them.
    """
    criterion = built(settings, "loss")
    weigh_classes(settings, criterion, data, splits.train)
    criterion = with_teacher(settings, criterion, data, splits, model, sample.inputs, needs_teacher)
    weights = ours(settings, "loss").get("weights")
    # Inputs that are targets have the size that the model gets them in.
    meaning = Numbers(splits.num_outputs) if data.are_own_targets and splits.num_outputs else data.meaning
    try:
        loss_fn = LossFunction(criterion, model, meaning, settings.names, weights)
    except UserError as error:
        raise UserError(f"{error}{task_to_type(settings, data) if 'class labels' in str(error) else ''}") from error
    refuse_numbered(settings, loss_fn)
    device = sample_device(sample)
    placed(loss_fn, device, torch.float64 if settings.dtype == "float64" else torch.float32)
    materialize(settings, loss_fn, model, sample, precision)
    note_differentiating(loss_fn, model, sample, precision)
    check_targets(data, loss_fn, sample)
    # With gradients, to see that there is one.
    with undisturbed(model, device, loss=loss_fn), precision(), torch.enable_grad():
        if loss_fn.differentiates_inputs:
            sample = sample.like(differentiable(sample.inputs), sample.targets)
        apart = unregistered(model, loss_fn)
        outputs = tried_outputs(settings, splits, model, loss_fn.given(sample.inputs, sample.targets))
        refuse_turned(settings, splits, loss_fn, model, sample, outputs)
        try:
            loss_fn.check(outputs, sample.targets)
        except UserError as error:
            raise UserError(f"{error}{sizes_to_type(settings, splits)}") from error
        total, loss_fn.term_names = tried_loss(settings, loss_fn, outputs, sample)
        refuse_unregistered(settings, apart, total, outputs, model, loss_fn)
        refuse_other_weights(settings, loss_fn)
        for term in loss_fn.terms:
            if term.wants is None:
                term.kind = kind_of(term, loss_fn, model, outputs, splits.train, sample)
        loss_fn.find_weighted()
        if isinstance(loss_fn.meaning, Numbers) and isinstance(splits.train.targets, Tensor):
            loss_fn.meaning = loss_fn.meaning.around(splits.train.targets)
        if is_unread(loss_fn, outputs, sample.targets):
            loss_fn.meaning = Unread(loss_fn.meaning.num_outputs)
    if not total.requires_grad and any(parameter.requires_grad for parameter in model.parameters()):
        group = "loss" if any(output.requires_grad for output in leaves(outputs)) else "model"
        raise UserError(f"{group}={settings.names[group]}: no gradient leads through it; nothing would be learnt.")
    return loss_fn


def check_targets(data: Data, loss_fn: LossFunction, sample: Batch) -> None:
    """Looks at the targets of all splits, or at some of those that are read while it trains. Raises UserError."""
    for samples in data.splits.values():
        targets = sample.targets if data.are_own_targets else targets_of(samples)
        if targets is None and isinstance(samples, Items) and loss_fn.bounds_targets:
            targets = some_targets(samples)
        if isinstance(targets, Tensor):
            loss_fn.check_targets(targets)


def is_unread(loss_fn: LossFunction, outputs: Any, targets: Any) -> bool:
    """Whether nobody but the loss knows which of the outputs stands for the classes or labels of the targets."""
    meaning = loss_fn.meaning
    if isinstance(meaning, Numbers | Unread):
        return False
    # Which of several outputs would be compared with targets that the loss does not look at?
    is_named = isinstance(outputs, Tensor) or "logits" in trees.fields_of(outputs)
    if not (loss_fn.is_of_targets or is_named):
        return True
    return meaning.scores_of(outputs) is None if isinstance(meaning, Classes) else not meaning.judged(outputs, targets)


def materialize(
    settings: Settings, loss_fn: LossFunction, model: nn.Module, sample: Batch, precision: Precision
) -> None:
    """Gives lazy parameters of a loss their shapes and first numbers."""
    if not has_lazy(loss_fn):
        return
    with undisturbed(model, sample_device(sample)), precision(), torch.no_grad():
        outputs = called(model, loss_fn.given(sample.inputs, sample.targets))
        loss_fn.eval()
        tried_loss(settings, loss_fn, outputs, sample)
        loss_fn.train()
    if has_lazy(loss_fn):
        raise UserError(f"loss={settings.names['loss']}: has a lazy layer that it does not call. Leave it out.")


def refuse_numbered(settings: Settings, loss_fn: LossFunction) -> None:
    """Raises UserError where the label that a loss leaves out is one of those that are numbered from 0."""
    meaning = loss_fn.meaning
    labels = meaning.names if isinstance(meaning, Classes) else ()
    for term in loss_fn.terms:
        ignored = getattr(term.criterion, "ignore_index", IGNORED)
        if str(ignored) in labels and labels.index(str(ignored)) != ignored:
            raise UserError(
                f"{term.key}.ignore_index={ignored}: data={settings.names['data']} has the labels {listed(labels)}, "
                f"which are numbered from 0. Type {term.key}.ignore_index={IGNORED}, and take out the samples that "
                "have no class."
            )


def are_taken_for_classes(settings: Settings, meaning: Meaning) -> bool:
    """Whether the data has whole numbers that may be no classes: nobody said so."""
    is_open = settings.group("data").get("task") == "auto"
    return is_open and isinstance(meaning, Classes) and all(name.lstrip("-").isdecimal() for name in meaning.names)


def task_to_type(settings: Settings, data: Data) -> str:
    """What to type where the targets are numbers that look like classes, or classes that look like numbers."""
    targets = data.example[1]
    if are_taken_for_classes(settings, data.meaning):
        return " Or data.task=regression, if these are numbers and no classes."
    if (
        settings.group("data").get("task") == "regression"
        or not isinstance(data.meaning, Numbers)
        or not isinstance(targets, Tensor)
        or as_whole(targets) is None
    ):
        return ""
    return " Or data.task=classification, if these whole numbers are classes."


def note_differentiating(loss_fn: LossFunction, model: nn.Module, sample: Batch, precision: Precision) -> None:
    """Whether the model differentiates in its forward pass, or the loss by the inputs: then evaluations do, too."""
    for is_tried in (False, True):
        try:
            with undisturbed(model, sample_device(sample), loss=loss_fn), precision(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of shapes, say: that is told later
                inputs = differentiable(sample.inputs) if loss_fn.differentiates_inputs else sample.inputs
                loss_fn(called(model, loss_fn.given(inputs, sample.targets)), sample.targets, inputs)
            return
        except RuntimeError as error:
            if "does not require grad" not in str(error):
                return  # that is told later
            DIFFERENTIATING.add(model)
            loss_fn.differentiates_inputs = is_tried or "differentiated Tensors" in str(error)
        except Exception:  # likewise
            return


def kind_of(term: Term, loss_fn: LossFunction, model: nn.Module, outputs: Any, train: Batches, sample: Batch) -> Kind:
    """Whether a loss of the user's is a mean over samples, or a sum, or neither, found by trying.

    A loss that is both for these samples, as 0 is, counts as what it calls itself, or as a mean. A weighted mean is
    what derives from one of torch's, and is its own sum divided by what the targets weigh.

    Args:
        outputs: of `sample`.
        train: where samples are that the loss may leave out, or weigh.
    """
    is_anew = loss_fn.differentiates_inputs or loss_fn.is_of_model
    is_anew = is_anew or not trees.is_per_sample(outputs, sample.num_samples)
    trial = Trial(term, loss_fn, model, is_anew)
    try:
        sample, outputs = trial.unlike_samples(train, sample, outputs)
        if (kind := trial.kind(sample, outputs)) is not None:
            return kind
        is_crossed = False
        if may_be_turned(outputs, sample.targets):
            targets = sample.targets.unsqueeze(1) if sample.targets.dim() == 1 else sample.targets.flatten()
            with contextlib.suppress(Exception):  # it takes no such targets
                is_crossed = trial.kind(sample.like(sample.inputs, targets), outputs) is not None
    except Exception:  # it wants to see several samples
        return "whole"
    if is_crossed:
        refuse_crossed(term.names["loss"], outputs, sample.targets)
    return "weighted mean" if not is_anew and is_weighted_mean(term, outputs, sample.targets) else "whole"


@dataclass
class Trial:
    """How the losses of samples come to that of all of them.

    Args:
        is_anew: outputs are computed for each sample, as they can't be cut, or are differentiated.
        singles: batches of one sample each, of samples that can't be cut.
    """

    term: Term
    loss_fn: LossFunction
    model: nn.Module
    is_anew: bool
    singles: list[Batch] = field(default_factory=list)

    def unlike_samples(self, train: Batches, sample: Batch, outputs: Any) -> tuple[Batch, Any]:
        """Samples that are unlike each other, and what the model gives for them."""
        are_known = isinstance(train.targets, Tensor)
        if not (self.is_anew or self.loss_fn.is_of_inputs or not are_known or not isinstance(outputs, Tensor)):
            rows = unlike(train.targets)
            outputs = trees.mapped(lambda x: x[torch.arange(len(rows)) % len(x)], outputs)
            return Batch(None, train.targets[rows].to(sample.targets)), outputs
        rows = spread(train)
        if are_known and not self.is_anew:
            rows = torch.cat([rows, unlike(train.targets).cpu()])
        rows = rows.unique()
        sample = some_samples(train, rows)
        if isinstance(sample, Uneven):
            self.singles = [some_samples(train, row) for row in rows.split(1)]
        return sample, None if self.is_anew else self.given(sample)

    def kind(self, sample: Batch, outputs: Any) -> Kind | None:
        """A mean or a sum over these samples; None where the loss is neither."""
        # Samples of different losses: the mean of equal ones is also the root of the mean of their squares. And as they
        # are: beside large losses, a small term would not be seen.
        tries = [self.values(sample, outputs, factor) for factor in ((1,) if self.is_anew else (100, 1))]
        tries = [numbers for numbers in tries if math.isfinite(sum([numbers[0], *numbers[2]]))] or tries[-1:]
        is_rough = any(of_all != again for of_all, again, _ in tries)
        is_rough = is_rough or any(x.dtype in (torch.bfloat16, torch.float16) for x in leaves(outputs))
        close = partial(math.isclose, rel_tol=0.02 if is_rough else 1e-4, abs_tol=1e-6)
        is_mean = all(close(of_all, sum(each) / len(each)) for of_all, _, each in tries)
        is_sum = all(close(of_all, sum(each)) for of_all, _, each in tries)
        if is_mean or is_sum:
            return self.term.kind if is_mean and is_sum else "mean" if is_mean else "sum"
        return None

    def values(self, sample: Batch, outputs: Any, factor: float) -> tuple[float, float, list[float]]:
        """Of all samples, twice, and of each; the outputs of every second one times a factor."""
        scaled = None if self.is_anew else trees.mapped(partial(with_every_second, factor=factor), outputs)
        rows = repeat(None) if self.is_anew else trees.parts(scaled, 1)
        parts = self.singles or sample.parts(1)
        return self.loss(sample, scaled), self.loss(sample, scaled), list(map(self.loss, parts, rows))

    def loss(self, batch: Batch, outputs: Any) -> float:
        """Of these samples; `outputs`: of the model, unless they are computed anew."""
        inputs = differentiable(batch.inputs) if self.loss_fn.differentiates_inputs else batch.inputs
        batch = batch.like(inputs, batch.targets)
        outputs = self.given(batch) if self.is_anew else outputs
        return self.loss_fn.of_term(self.term, outputs, *reversed(batch)).item()

    def given(self, batch: Batch) -> Any:
        return called(self.model, self.loss_fn.given(batch.inputs, batch.targets))


def refuse_crossed(name: str, outputs: Any, targets: Tensor) -> None:
    """Raises UserError: outputs and targets make `[N, N]`."""
    shape, other = ("[N]", "[N, 1]") if targets.dim() == 1 else ("[N, 1]", "[N]")
    more, how = f"outputs {other} and ", "outputs = outputs.reshape(targets.shape)"
    if not (isinstance(outputs, Tensor) and outputs.numel() == targets.numel()):
        more, how = "", f"targets = targets.{'unsqueeze(1)' if shape == '[N]' else 'flatten()'}"
    raise UserError(
        f"loss={name}: is given {more}targets {shape}, and compares each sample with each. Write {how} into it."
    )


def may_be_turned(outputs: Any, targets: Any) -> bool:
    """Whether targets are `[N]` or `[N, 1]`, and the other may be compared with them: torch makes `[N, N]` of both.

    Outputs show it; but where they are several numbers for a sample, as two vectors, it may be a distance between them.
    """
    if not isinstance(targets, Tensor) or targets.dim() not in (1, 2) or targets[0].numel() != 1:
        return False
    is_one = isinstance(outputs, Tensor) and outputs.numel() == targets.numel()
    return not is_one or (isinstance(outputs, Tensor) and sorted((outputs.dim(), targets.dim())) == [1, 2])


def is_weighted_mean(term: Term, outputs: Any, targets: Any) -> bool:
    """Whether a criterion that derives from one of torch's with weights still divides a sum over samples by them."""
    is_of_labels = isinstance(targets, Tensor) and not targets.is_floating_point()
    if not term.may_weigh or term.kind != "mean" or not is_of_labels:
        return False
    outputs = trees.mapped(partial(with_every_second, factor=10), outputs)
    rows = zip(trees.parts(outputs, 1), trees.parts(targets, 1), strict=True)
    added = sum(term.added_up(*row).item() for row in rows)
    whole, close = term.added_up(outputs, targets).item(), partial(math.isclose, rel_tol=1e-3)
    return close(whole, added) and close(whole / term.weight(targets).item(), term(outputs, targets).item())


def with_every_second(tensor: Tensor, factor: float) -> Tensor:
    """The same, every second row times a factor."""
    spread = tensor.clone()
    spread[1::2] *= factor
    return spread


def spread(split: Batches) -> Tensor:
    """The numbers of some samples from all over a split: `[n]`.

    Of tensors in memory, such as masks, lengths and weights, those with the smallest and the largest number are among
    them: often that is what a loss leaves out.
    """
    rows = [torch.linspace(0, len(split) - 1, min(len(split), 8)).long()]
    if isinstance(split, ResidentBatches):
        for leaf in leaves((split.inputs, split.targets)):
            if not leaf.is_complex() and 0 < leaf.numel() <= MOST_SEARCHED:
                numbers = leaf.to(torch.uint8) if leaf.dtype == torch.bool else leaf
                rows.append(torch.stack([numbers.argmin(), numbers.argmax()]).cpu() // leaf[0].numel())
    return torch.cat(rows)


def unlike(targets: Tensor) -> Tensor:
    """The numbers of some samples that are unlike each other: `[n]`, from all over the split, and of each label one.

    Of more than 32 labels, or numbers: of the smallest, the largest and those that come most often. One may stand for
    what is missing.
    """
    rows = [torch.linspace(0, len(targets) - 1, min(len(targets), 16)).long()]
    some = targets[: max(16, 2**20 // max(1, targets[0].numel()))].flatten(1) if targets.dim() > 1 else targets[:, None]
    labels, counts = some.unique(return_counts=True)
    if len(labels) > 32:  # what has no class has the first number, or the last: -100, 255; of numbers it may be 0
        labels = torch.cat([labels[:14], labels[-14:], labels[counts.topk(4).indices]])
    return torch.cat([*rows, *((some == label).any(1).nonzero()[0].cpu() for label in labels)]).to(targets.device)


def doubts_of_loss(settings: Settings, loss_fn: LossFunction, model: nn.Module, sample: Batch) -> list[str]:
    """What may be meant but seldom is, a warning each."""
    names = settings.names
    with undisturbed(model, sample_device(sample)):
        outputs = called(model, loss_fn.given(sample.inputs, sample.targets))
    found = doubts_of_softmax(settings, loss_fn, outputs)
    found += doubts_of_probabilities(settings, loss_fn, model, outputs)
    if unread := [name for name in ("training_step", "configure_optimizers") if hasattr(model, name)]:
        found.append(
            f"warning: model={names['model']}: nothing calls its {' and '.join(unread)}; the loss is "
            f"loss={names['loss']}, the optimizer optimizer={names['optimizer']}."
        )
    found += doubts_of_targets(settings, loss_fn, sample.targets)
    found += doubts_of_sums(settings, loss_fn)
    if isinstance(sample, Uneven) and settings.gradient.accumulate > 1:
        found.append(
            f"warning: gradient.accumulate={settings.gradient.accumulate}: batches of this collate_fn have no row for "
            "each sample: they go through the model whole."
        )
    totals = [name for name in loss_fn.term_names if name in TOTALS and loss_fn.weight_of.get(name, 1)]
    if totals and loss_fn.names == [""] and not loss_fn.is_of_model and len(loss_fn.term_names) > 1:
        found.append(
            f"warning: loss={names['loss']}: its terms {', '.join(loss_fn.term_names)} are added up. If {totals[0]} is "
            "their sum already, leave it out of the dict."
        )
    return found


def doubts_of_softmax(settings: Settings, loss_fn: LossFunction, outputs: Any) -> list[str]:
    """A line for each term that takes logits, where outputs look like probabilities; a run is told by the diagnosis."""
    names = settings.names
    terms = [term for term in loss_fn.terms if term.wants is not None and "probabilities" not in term.wants.outputs]
    is_asked = settings.dry_run and terms and isinstance(outputs, Tensor)
    if not is_asked or outputs.dim() != 2 or outputs.shape[1] < 2:
        return []
    sums = outputs.sum(1)
    if not bool((outputs >= 0).all()) or not torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
        return []
    return [
        f"warning: model={names['model']}: its outputs look like probabilities, which loss={names['loss']} "
        'does not take. Leave the softmax out; or write gives = "probabilities" into the class, and type '
        f"{loss_instead(term.criterion, 'probabilities', loss_fn.meaning)}."
        for term in terms
    ]


def doubts_of_targets(settings: Settings, loss_fn: LossFunction, targets: Any) -> list[str]:
    """Whether they are meant as what they are taken for, and all of them are meant to count."""
    names, meaning, found = settings.names, loss_fn.meaning, []
    if are_taken_for_classes(settings, meaning) and getattr(meaning, "compared_with", "") == "values":
        found.append(
            f"loss={names['loss']}: the targets are taken for {meaning.num_outputs} classes, and it compares an output "
            "with 0 or 1 for each. Type data.task=regression if they are numbers."
        )
    for term in loss_fn.terms:
        ignored = getattr(term.criterion, "ignore_index", IGNORED)
        if isinstance(meaning, Classes) and 0 <= ignored < meaning.num_classes:
            found.append(
                f"warning: {term.key}.ignore_index={ignored}: samples of class {meaning.name(ignored)} are left out of "
                "the loss, and the accuracy counts them. Take them out of the data if they have no class."
            )
    is_of_shares = isinstance(meaning, Numbers) and any(term.compared_with == "shares" for term in loss_fn.terms)
    if is_of_shares and bool(((targets == 0) | (targets == 1)).all()):
        found.append("the targets look one-hot. Type data.task=classification to have an accuracy.")
    return found


def doubts_of_sums(settings: Settings, loss_fn: LossFunction) -> list[str]:
    """A line where the loss is no mean over samples."""
    name = settings.names["loss"]
    if any(term.kind == "whole" for term in loss_fn.terms):
        is_at_once = not loss_fn.differentiates_inputs and not loss_fn.is_of_model
        how = f"take it over the whole split, up to {MOST_AT_ONCE:,} samples at once" if is_at_once else "take the mean"
        return [
            f"warning: loss={name}: is no mean and no sum over samples. Validation and test {how}; parts of a "
            "batch count by their samples."
        ]
    if any(term.kind == "sum" and term.wants is None for term in loss_fn.terms):
        return [f"loss={name}: is a sum over samples"]
    return []


def doubts_of_probabilities(settings: Settings, loss_fn: LossFunction, model: nn.Module, outputs: Any) -> list[str]:
    """A line where a model says that it gives a probability of each class, or its logarithm, and they don't add up.

    A loss that takes this for granted falls without end, or to 0, and nothing is learnt.
    """
    meaning, gives = loss_fn.meaning, getattr(model, "gives", "logits")
    wanting = [term for term in loss_fn.terms if isinstance(term.criterion, nn.NLLLoss | nn.KLDivLoss)]
    is_of_logs = gives == "log_probabilities"
    if not (wanting or is_of_logs) or gives == "logits" or isinstance(meaning, Labels | Unread):
        return []
    scores = meaning.scores_of(outputs)
    if scores is None or (isinstance(meaning, Numbers) and all(term.compared_with != "shares" for term in wanting)):
        return []
    scores = (meaning.classes_second(scores) if isinstance(meaning, Places) else scores).float()
    sums = (scores.exp() if is_of_logs else scores).sum(1)
    if torch.allclose(sums, torch.ones_like(sums), atol=0.01) and (is_of_logs or bool((scores >= 0).all())):
        return []
    what, end = ("log-probabilities", "log_softmax") if is_of_logs else ("probabilities", "softmax")
    others = "kl_div" if isinstance(meaning, Numbers) else "cross_entropy"
    return [
        f"warning: model={settings.names['model']}: its outputs are taken for {what}, and those of a sample "
        f"{'stand for numbers that ' if is_of_logs else ''}add up to {sums.flatten()[0].item():.4g}, not 1. End it "
        f"with a {end} over the classes; or with none, without gives, and type loss={others}."
    ]


def tried_outputs(settings: Settings, splits: Splits, model: nn.Module, inputs: Any) -> Any:
    """What the model gives for the inputs of the sample.

    Raises:
        UserError: it does not take what the data has.
    """
    names = settings.names
    try:
        return called(model, inputs)
    except Exception as error:
        if is_out_of_memory(error) or not is_complaint(settings, "model", error):
            raise
        advice = ""
        if "types: Long, Int" in str(error):
            is_scaled = settings.group("data").get("standardize") is True
            whole = "in the file, type data.standardize=false" if is_scaled else "such as tokens, give inputs.long()"
            advice = f" If they are whole numbers {whole}."
        elif "type" in str(error) and any(not (x.is_floating_point() or x.is_complex()) for x in leaves(inputs)):
            advice = " They are whole numbers. If they stand for quantities, give inputs.float()."
        advice = advice or _channels_to_type(splits, str(error)) or sizes_to_type(settings, splits)
        raise UserError(
            f"model={names['model']}: does not take what data={names['data']} gives, inputs of shape "
            f"{_shape(inputs)}: {words(settings, 'model', error)}."
            f"{advice or _image_size_to_type(splits, model, inputs)}"
        ) from error


def refuse_turned(
    settings: Settings, splits: Splits, loss_fn: LossFunction, model: nn.Module, sample: Batch, outputs: Any
) -> None:
    """Raises UserError for outputs without a row for each sample, which two samples of two classes do not show."""
    is_known = all(term.wants is not None for term in loss_fn.terms)
    is_hidden = isinstance(outputs, Tensor) and outputs.shape[:2] == (2, 2) and not isinstance(sample, Uneven)
    if not is_known or not is_hidden or sample.num_samples != 2:
        return
    three = sample.gathered(torch.tensor([0, 1, 0], device=outputs.device))
    found = tried_outputs(settings, splits, model, loss_fn.given(three.inputs, three.targets))
    if isinstance(found, Tensor) and found.dim() == outputs.dim() and len(found) != 3:
        how = "outputs.movedim(1, 0)" if found.shape[:2] == (2, 3) else "a row for each sample"
        raise UserError(
            f"model={settings.names['model']}: gives outputs of shape {list(found.shape)} for three samples; the first "
            f"dimension is that of the samples. Give {how}."
        )


def _channels_to_type(splits: Splits, said: str) -> str:
    """What makes grey or coloured images those that a model complains it was not given."""
    wanted = re.search(r"(?:to have|[Ee]xpected) ([13])(?: channels)?,? but got ([13])\b", said)
    shape = splits.input_shape
    if splits.transform is None or wanted is None or len(shape) != 3 or shape[0] != int(wanted[2]):
        return ""
    return f" Type model.in_channels={wanted[1]}: grey images become colours and colours grey."


def _image_size_to_type(splits: Splits, model: nn.Module, inputs: Any) -> str:
    """The first usual size of images that a model takes where it does not take theirs: each is tried."""
    if splits.transform is None or not isinstance(inputs, Tensor) or inputs.dim() != 4:
        return ""
    for size in USUAL_SIZES:
        try:
            with torch.no_grad():
                called(model, inputs.new_zeros(*inputs.shape[:2], size, size))
        except Exception:  # of the model: it does not take this size either
            continue
        return f" Type data.image_size={size}."
    return ""


def tried_loss(settings: Settings, loss_fn: LossFunction, outputs: Any, sample: Batch) -> tuple[Tensor, list[str]]:
    """The loss of the sample, and the names of its terms.

    Raises:
        UserError: it can't be taken of such outputs, or is no single number.
    """
    loss = f"loss={settings.names['loss']}"
    try:
        total, terms = loss_fn(outputs, sample.targets, sample.inputs)
    except Exception as error:
        if is_out_of_memory(error) or not is_complaint(settings, "loss", error):
            raise
        raise UserError(
            f"{loss}: can't be taken of outputs {_shape(outputs)} and targets {_shape(sample.targets)} with "
            f"precision={settings.precision}: {words(settings, 'loss', error)}.{by_a_function(loss_fn, error)}"
        ) from error
    if not isinstance(total, Tensor):
        raise UserError(f"{loss}: gives a {type(total).__name__}; a tensor is needed.")
    if total.dim():
        raise UserError(f"{loss}: gives a tensor of shape {list(total.shape)}; one number is needed.")
    if total.is_complex():
        raise UserError(f"{loss}: gives a complex number; a real one is needed, as its abs() or .real.")
    return total, list(terms)


def by_a_function(loss_fn: LossFunction, error: Exception) -> str:
    """What to do with a criterion of torch's that takes more than outputs and targets."""
    are_ours = all(type(term.criterion).__module__.startswith("torch.") for term in loss_fn.terms)
    is_one = are_ours and isinstance(error, TypeError) and "missing" in str(error)
    return " Call it in a function of your own: train help own." if is_one else ""


def refuse_other_weights(settings: Settings, loss_fn: LossFunction) -> None:
    """Raises UserError where loss.weights weighs what the loss does not add up."""
    loss, names = f"loss={settings.names['loss']}", loss_fn.term_names
    for name in loss_fn.weight_of:
        if loss_fn.is_of_model:
            raise UserError(f"loss.weights.{name}: {loss} is added up by the model. Leave it out.")
        if loss_fn.names != [""]:
            raise UserError(f"loss.weights.{name}: {loss} has weights of its own. Type loss.terms.{name}.weight=...")
        if name not in names:
            has = f"{loss} has the terms {', '.join(names)}" if names else f"{loss} gives one number and no terms"
            are_weighed = any(hasattr(term.criterion, "weight") for term in loss_fn.terms)
            else_ = " Classes are weighed by loss.weight=[1,2,...]." if are_weighed else " Leave it out."
            raise UserError(f"loss.weights.{name}: {has}.{nearest(name, names) or else_}")


def sample_device(sample: Batch) -> torch.device:
    return leaves(sample.inputs)[0].device


def _shape(tree: Any) -> str:
    """`[2, 10]` of a tensor; its kind, and the shapes in it, of anything else."""
    if isinstance(tree, Tensor):
        return str(list(tree.shape))
    return f"{type(tree).__name__} of {', '.join(str(list(leaf.shape)) for leaf in leaves(tree)) or 'no tensor'}"
