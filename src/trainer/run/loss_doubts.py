"""What may be meant of a loss but seldom is, a warning each."""

from typing import Any

import torch
from torch import Tensor, nn

from trainer.config.settings import Settings
from trainer.data.batches import Batch, Uneven
from trainer.evaluate import MOST_AT_ONCE
from trainer.losses.fits import loss_instead
from trainer.losses.function import LossFunction
from trainer.meaning import IGNORED, Classes, Labels, Numbers, Places, Unread
from trainer.run.loss import are_taken_for_classes, sample_device
from trainer.trees import called
from trainer.trials import undisturbed

# What a term is called that others of the dict may be part of already.
TOTALS = ("loss", "total", "total_loss")


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
