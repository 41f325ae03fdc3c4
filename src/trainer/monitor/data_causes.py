"""What is amiss in the data: rules that read inputs, targets and splits beside the curves."""

import math
from statistics import median, quantiles

from trainer.monitor.cures import attempt
from trainer.monitor.finding import Sighting
from trainer.monitor.seen import GROWN, SHRUNK, Seen
from trainer.monitor.symptoms import SMALLEST_UPDATE

LARGE_INPUTS, SMALL_INPUTS, LARGE_COLUMN = 30.0, 0.02, 100.0
FAR_TARGETS, SMALL_TARGETS = 10.0, 0.01
SHIFTED, OTHER_SHARES = 1.0, 0.35
NEARLY_ALONE = 0.9
UNREACHED = 0.05  # of the targets
LEAKED, OFTENER = 0.1, 2.0  # the share of shared samples, and how often it must be that of repeated ones
MISSING = 0.5  # of the classes
FAR_WORSE, WELL_KNOWN = 0.5, 0.6  # of the others' median recall; that median
KNOWN = 0.2  # the training loss over that of a guess: what is not learnt yet is no fault of a class
FEWEST_OF_CLASS = 10  # test samples
OUTNUMBERS = 0.6  # the share of a class beside which it may be right to miss a rare one


def targets_are_constant(seen: Seen) -> Sighting | None:
    """All training targets are the same: there is nothing to learn.

    Source: Karpathy, "A Recipe for Training Neural Networks" (2019), step 1, "become one with the data".
    """
    if seen.facts.target_deviation != 0:
        return None
    numbers = {"target_deviation": 0.0, "target_mean": seen.facts.target_mean}
    return Sighting(None, numbers, "all training targets are the same number", "Look at how the targets are read.")


def targets_out_of_reach(seen: Seen) -> Sighting | None:
    """The outputs end in a ReLU, a sigmoid or the like, and many targets lie where those never come.

    Source: "Deep Learning" (2016), section 6.2.2, "Output Units".
    """
    share = seen.facts.out_of_reach
    if share < UNREACHED or not seen.facts.guess:
        return None
    meaning = f"outputs are {seen.facts.outputs_are}, whatever the weights, and {share:.0%} of the targets are not"
    how = "Take the ReLU, sigmoid or softmax after the last layer out."
    return Sighting(None, {"out_of_reach": share} | seen.costs, meaning, how)


def a_column_tells_the_target(seen: Seen) -> Sighting | None:
    """A column of the inputs is the target in other words, and is perhaps not known where a prediction is wanted.

    Source: S. Kaufman et al., "Leakage in Data Mining" (KDD 2011), section 3.
    """
    columns = seen.facts.telling_columns
    if not columns:
        return None
    which = ", ".join(map(str, columns[:5]))
    meaning = f"column {which} of the inputs says the target by itself, so that numbers may be too good"
    how = "If it is not known where a prediction is wanted, take it out"
    how += " by data.drop=[<its name>]." if "data.drop" in seen.facts.settings else "."
    return Sighting(None, {"column": columns[0]}, meaning, how)


def labels_differ_between_the_splits(seen: Seen) -> Sighting | None:
    """Training is learnt at once, and validation is no better than a guess: it has other labels.

    Source: Karpathy, "A Recipe for Training Neural Networks" (2019), step 1.
    """
    is_inverted = _are_labels_inverted(seen)
    if not (is_inverted or _is_lost_in_validation(seen)) or _is_shifted(seen):
        return None
    facts, accuracy = seen.facts, seen.accuracy or 0.0
    if is_inverted:
        meaning = "training is learnt, and validation is below a guess, so ones and zeros change their places there"
        how = "Look at how labels are read for validation."
        return Sighting(None, seen.costs | {"val/accuracy": accuracy}, meaning, how)
    numbers = seen.costs | {"val/accuracy": accuracy, "largest_share": facts.largest_share}
    below = accuracy < facts.largest_share - 3 * seen.accuracy_error or accuracy < 0.5 / max(2, _num_classes(seen))
    what = "below a guess, so classes are numbered otherwise there" if below else "no better than a guess"
    meaning = f"training is learnt, and validation is {what}: its labels do not belong to its inputs as training's do"
    return Sighting(None, numbers, meaning, "Look at how labels and their order are read for validation.")


def splits_differ(seen: Seen) -> Sighting | None:
    """Validation inputs, or the shares of its classes, lie far from those of training.

    Source: J. Quinonero-Candela et al., "Dataset Shift in Machine Learning" (2009), chapter 1.
    """
    if not _is_shifted(seen) or not seen.is_settled or not seen.has_learnt or seen.numbers.get("val/loss") is None:
        return None
    if seen.numbers["val/loss"] < 2 * seen.now + 0.1:
        return None
    numbers = {"shift": seen.facts.shift, "label_shift": seen.facts.label_shift, "val/loss": seen.numbers["val/loss"]}
    meaning = "validation samples are of another kind than training samples (mean inputs or shares of classes)"
    return Sighting(None, numbers, meaning, "Look at how the splits are made: shuffle before, scale all alike.")


def data_given_in_order(seen: Seen) -> Sighting | None:
    """Samples come class by class, and were cut into splits so: training has other classes than validation, or few.

    Source: L. Bottou, "Stochastic Gradient Descent Tricks" (2012), "Preparing the data".
    """
    facts = seen.facts
    missing = sum(share == 0 for share in facts.shares) / max(1, len(facts.shares))
    if not facts.is_ordered or not (facts.label_shift > OTHER_SHARES or missing >= MISSING):
        return None
    if facts.settings.get("overfit") is not None:
        return None  # the splits are the same few samples on purpose
    numbers = {"label_shift": facts.label_shift, "missing_classes": missing}
    meaning = "training labels come in their order, and the splits were cut without shuffling: each has other classes"
    how = "Shuffle before the splits are cut; or give all samples as one split, and the others are drawn from it."
    if facts.settings.get("data.limit") is not None:
        meaning = "training labels come in their order, and the first samples are of few classes"
        how = attempt(["data.limit=null", "samples that are shuffled"])
    return Sighting(None, numbers, meaning, how)


def splits_share_samples(seen: Seen) -> Sighting | None:
    """Validation or test samples are in training, too, and far more of them than chance repeats.

    Source: S. Kapoor, A. Narayanan, "Leakage and the reproducibility crisis in machine-learning-based science" (2023).
    """
    facts = seen.facts
    if facts.leaked < LEAKED or facts.leaked < OFTENER * facts.repeated:
        return None
    numbers = {"shared": facts.leaked, "repeated": facts.repeated}
    meaning = f"{facts.leaked:.0%} of the samples that it is measured on were trained on, so that numbers are too good"
    words = ["data.group=<the column of whom a row is of>"] if "data.group" in facts.settings else []
    return Sighting(None, numbers, meaning, attempt(["splits without the same samples", *words]))


def columns_without_content(seen: Seen) -> Sighting | None:
    """At least half of the columns are constant or copies of others, and the network has not learnt from the rest.

    Source: Karpathy, "A Recipe for Training Neural Networks" (2019), step 1, "become one with the data".
    """
    empty = seen.facts.empty_columns
    if not empty or not (seen.is_ill or _is_poor(seen)):
        return None
    which = ", ".join(map(str, empty[:5])) + (", ..." if len(empty) > 5 else "")
    meaning = f"columns {which} of the inputs are constant, or copies of others: there is little to learn from"
    return Sighting(None, {"columns": len(empty)} | seen.costs, meaning, "Look at how the columns are read.")


def one_class_far_worse(seen: Seen) -> Sighting | None:
    """Training samples are known, and of one class most others are taken for another: few samples, or wrong labels.

    Source: H. He, E. Garcia, "Learning from Imbalanced Data" (2009), section 2.
    """
    rows = [row for row in seen.classes if row["support"] >= FEWEST_OF_CLASS]
    is_known = seen.chance is not None and seen.now < KNOWN * seen.chance
    if len(rows) < 2 or seen.facts.largest_share > OUTNUMBERS or not is_known or not seen.is_settled:
        return None
    worst = min(rows, key=lambda row: row["recall"])
    usual = median(row["recall"] for row in rows if row is not worst)
    if usual < WELL_KNOWN or worst["recall"] > FAR_WORSE * usual:
        return None
    if len(rows) > 5:  # of many, some are worse by nature: J. Tukey, "Exploratory Data Analysis" (1977), "far out"
        low, _, high = quantiles((row["recall"] for row in rows if row is not worst), n=4)
        if worst["recall"] > low - 3 * (high - low):
            return None
    place = seen.classes.index(worst)
    share = seen.facts.shares[place] if place < len(seen.facts.shares) else math.nan
    numbers = {"recall": worst["recall"], "median_recall": usual}
    meaning = f"most samples of class {worst['name']} are taken for others, which are known"
    if share < FAR_WORSE / len(seen.classes):
        how = attempt(["loss.class_weights=balanced", "data.balance=true", "more samples of this class"])
    else:
        how = "Look at the labels of its samples: train replay RUN worst=20 shows those that cost most."
    return Sighting(None, numbers, meaning, how)


def one_class_nearly_alone(seen: Seen) -> Sighting | None:
    """Nearly all samples are of one class, and the network always says it.

    Source: H. He, E. Garcia, "Learning from Imbalanced Data" (2009), section 2.
    """
    facts = seen.facts
    if not facts.largest_share > NEARLY_ALONE or not seen.is_settled or seen.num_bad < 2:
        return None
    numbers = {"largest_share": facts.largest_share, "val/accuracy": seen.accuracy or 0.0}
    what = "places" if facts.are_places else "samples"
    meaning = f"nearly all {what} are of one class, and the accuracy is that of always saying it"
    words = ["loss.class_weights=balanced", "data.balance=true", "more samples of the rare classes"]
    if facts.are_places:
        words = ["loss=cross_entropy loss.class_weights=balanced", "loss=dice"]
    return Sighting(None, numbers, meaning, attempt(words))


def labels_without_a_pattern(seen: Seen) -> Sighting | None:
    """Nothing is learnt but by heart, though the weights move as they should: inputs do not tell the labels.

    Source: C. Zhang et al., "Understanding deep learning requires rethinking generalization" (ICLR 2017), section 2.
    """
    of_val = seen.facts.guess.get("val/loss", math.inf)
    # A small network that learns slowly has the accuracy of a guess for long; its loss tells that it learns.
    is_below = seen.best is not None and math.isfinite(of_val) and seen.best < 0.98 * of_val
    is_guess = (seen.num_bad == seen.num_vals and not is_below) or (seen.best is not None and seen.best >= of_val)
    if seen.num_vals < 2 or not is_guess or not seen.is_settled or not seen.facts.num_val:
        return None
    if {*seen.reported} - {"loss not falling", "dead ReLUs", "nothing carries over"}:
        return None  # that may be why
    guess = seen.chance or seen.facts.near.get("train/loss")
    update = seen.moved[1] if seen.moved is not None else 1e-3
    if guess is None or seen.early is None or seen.early < 0.75 * guess or not SMALLEST_UPDATE < update < 0.1:
        return None
    if seen.loss > 1.3 * guess or (seen.growth or 1.0) > GROWN or (seen.growth or 1.0) < SHRUNK:
        return None
    meaning = "validation was never better than a guess, and training is at best learnt by heart"
    return Sighting(None, seen.costs, meaning, "Look whether inputs and labels are still in the same order.")


def inputs_not_scaled(seen: Seen) -> Sighting | None:
    """Inputs, or a column of them, are far from a size of 1, for which initialisation and learning rate are made.

    Source: Y. LeCun et al., "Efficient BackProp" (1998), section 4.3.
    """
    facts = seen.facts
    is_off = facts.input_size > LARGE_INPUTS or facts.input_size < SMALL_INPUTS
    is_one = facts.column_ratio > LARGE_COLUMN and facts.input_size > 1
    if not (is_off or is_one) or not (seen.is_ill or _is_poor(seen)):
        return None
    numbers = {"input_size": facts.input_size, "column_ratio": facts.column_ratio}
    meaning = "the inputs are far from a size of 1, for which weights and learning rate are made"
    if is_one:
        meaning = f"column {facts.largest_column} is {facts.column_ratio:,.0f} times as large as others, and hides them"
    settings = facts.settings
    words = [f"data.{key}=true" for key in ("standardize", "normalize") if settings.get(f"data.{key}") is False]
    return Sighting(None, numbers, meaning, attempt(words or ["inputs minus their mean, divided by their deviation"]))


def targets_not_scaled(seen: Seen) -> Sighting | None:
    """The numbers to be fitted are far from the size of what a network gives at first, and it does not come there.

    Source: C. Bishop, "Neural Networks for Pattern Recognition" (1995), section 8.2.
    """
    facts, validated = seen.facts, seen.num_bad >= 2
    mean, deviation = abs(facts.target_mean), facts.target_deviation
    is_far = deviation > FAR_TARGETS or 0 < deviation < max(SMALL_TARGETS, mean / FAR_TARGETS)
    if not is_far or not (validated or seen.is_ill or (seen.is_over and not seen.has_learnt)):
        return None
    numbers = {"target_mean": facts.target_mean, "target_deviation": deviation} | seen.costs
    meaning = "the targets are far from what a network gives at first, and it has not come there"
    words = ["data.standardize=true"] if facts.settings.get("data.standardize") is False else []
    return Sighting(None, numbers, meaning, attempt([*words, "targets minus their mean, divided by their deviation"]))


def too_few_samples(seen: Seen) -> Sighting | None:
    """Training samples are known by heart, and validation is worse than a guess though it was learnt in part.

    Source: "Deep Learning" (2016), section 5.2.
    """
    if not seen.is_over or seen.num_vals < 2 or seen.chance is None or "overfitting" in seen.reported:
        return None
    val = seen.numbers.get("val/loss", 0.0)
    if not seen.now < 0.1 * seen.chance or not val > max(seen.chance, 5 * seen.now) or not seen.has_signal:
        return None
    meaning = "training samples are known by heart, and what was learnt from them does not carry over"
    words = ["more samples", f"max_steps={seen.best_step}"]
    return Sighting(
        None, {"val/loss": val, "num_samples": seen.facts.num_samples} | seen.costs, meaning, attempt(words)
    )


def _num_classes(seen: Seen) -> int:
    return round(math.exp(seen.chance)) if seen.chance is not None else 0


def _is_lost_in_validation(seen: Seen) -> bool:
    """Whether training was learnt at once, and the last two validations are no better than a guess."""
    guess = seen.chance
    if seen.num_bad < 2 or guess is None or seen.early is None or not seen.is_settled:
        return False
    is_learnt = seen.has_learnt and seen.early < 0.75 * guess
    return is_learnt and seen.numbers.get("val/loss", math.inf) > guess and not seen.facts.largest_share > NEARLY_ALONE


def _are_labels_inverted(seen: Seen) -> bool:
    """Whether most zeros and ones of validation are taken for each other: no guess comes below a half but by chance."""
    if not seen.facts.are_labels or seen.accuracy is None or not seen.has_fallen or not seen.is_settled:
        return False
    return seen.accuracy < 0.5 - 3 * 0.5 / math.sqrt(max(1, seen.facts.num_val))


def _is_shifted(seen: Seen) -> bool:
    return seen.facts.shift > SHIFTED or seen.facts.label_shift > OTHER_SHARES


def _is_poor(seen: Seen) -> bool:
    """Whether a run is at its end, and what was learnt is little."""
    return seen.is_over and not seen.has_learnt and seen.is_settled
