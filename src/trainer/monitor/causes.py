"""What makes a run ill: rules that read the config, the data and the weights beside the curves.

None of them speaks of a run that has learnt: something unusual that does no harm is no illness. They come behind the
symptoms (`trainer.monitor.symptoms`), so that a symptom has them asked at once; in what is told they come first. Their
thresholds were chosen on the first set of `tests/diagnosis/sets.py`; the second shows what they are worth.
"""

import math
from statistics import median, quantiles

from trainer.monitor.cures import attempt, better_start, calmer, larger_rate, lr_times
from trainer.monitor.diagnosis import Rule
from trainer.monitor.facts import LONG_STEPS
from trainer.monitor.finding import Sighting
from trainer.monitor.seen import ENDED, FALLEN, Seen
from trainer.monitor.symptoms import LARGEST_UPDATE, SMALLEST_UPDATE
from trainer.monitor.symptoms import RULES as SYMPTOMS

THROTTLED = 30.0  # the gradient over the norm that it is clipped to; healthy runs have up to 3
SHRUNK, GROWN = 0.3, 10.0  # the weights' norm over that at the start
LARGE_FIRST_UPDATE = 0.3  # |update| / |weights|; healthy runs have up to 0.2
LARGE_MOMENTUM = 0.95
LARGE_DROPOUT = 0.7
LARGE_INPUTS, SMALL_INPUTS, LARGE_COLUMN = 30.0, 0.02, 100.0
FAR_TARGETS, SMALL_TARGETS = 10.0, 0.01
SHIFTED, OTHER_SHARES = 1.0, 0.35
NEARLY_ALONE = 0.9
SMALL_BATCH = 4


UNREACHED = 0.05  # of the targets
LEAKED, OFTENER = 0.1, 2.0  # the share of shared samples, and how often it must be that of repeated ones
MISSING = 0.5  # of the classes
FAR_WORSE, WELL_KNOWN = 0.5, 0.6  # of the others' median recall; that median
KNOWN = 0.2  # the training loss over that of a guess: what is not learnt yet is no fault of a class
FEWEST_OF_CLASS = 10  # test samples
OUTNUMBERS = 0.6  # the share of a class beside which it may be right to miss a rare one


def is_settled(seen: Seen) -> bool:
    """Whether there was time enough to learn: what has not been learnt by now is no matter of patience."""
    return seen.step >= (LONG_STEPS if seen.is_over else seen.facts.long)


def targets_are_constant(seen: Seen) -> Sighting | None:
    """All training targets are the same: there is nothing to learn.

    Source: Karpathy, "A Recipe for Training Neural Networks" (2019), step 1, "become one with the data".
    """
    if seen.facts.target_deviation != 0:
        return None
    numbers = {"target_deviation": 0.0, "target_mean": seen.facts.target_mean}
    return Sighting(None, numbers, "all training targets are the same number", "Look at how the targets are read.")


def probabilities_into_a_loss_of_logits(seen: Seen) -> Sighting | None:
    """A softmax or sigmoid stands before a loss that has one itself: the loss can't fall below 1.461 for ten classes.

    Source: PyTorch documentation, `torch.nn.CrossEntropyLoss` ("the unnormalized logits").
    """
    kind = seen.facts.outputs_are
    if kind not in ("probabilities", "between 0 and 1") or (kind != "probabilities" and seen.facts.equal_units):
        return None
    what = "add up to 1 as a softmax's do" if kind == "probabilities" else "lie between 0 and 1 as a sigmoid's do"
    meaning = f"the outputs {what}, and the loss takes logits: it squashes them once more, and can't come near 0"
    how = "Take the last softmax or sigmoid out"
    loss = "bce" if seen.chance is None else "nll" if kind == "probabilities" else ""
    how += f'; or write gives = "probabilities" into the class, and type loss={loss}.' if loss else "."
    return Sighting(None, _losses(seen), meaning, how)


def targets_out_of_reach(seen: Seen) -> Sighting | None:
    """The outputs end in a ReLU, a sigmoid or the like, and many targets lie where those never come.

    Source: "Deep Learning" (2016), section 6.2.2, "Output Units".
    """
    share = seen.facts.out_of_reach
    if share < UNREACHED or not seen.facts.guess:
        return None
    meaning = f"outputs are {seen.facts.outputs_are}, whatever the weights, and {share:.0%} of the targets are not"
    how = "Take the ReLU, sigmoid or softmax after the last layer out."
    return Sighting(None, {"out_of_reach": share} | _losses(seen), meaning, how)


def no_non_linearity(seen: Seen) -> Sighting | None:
    """Layers of weights follow one another with nothing between: together they can do no more than one of them.

    Source: "Deep Learning" (2016), section 6.1, "Learning XOR".
    """
    guess = seen.chance or seen.facts.near.get("train/loss")
    if not seen.facts.is_linear or guess is None or seen.loss < 0.1 * guess or not is_settled(seen):
        return None
    meaning = "the model is linear: all its layers together can do no more than one"
    return Sighting(None, _losses(seen), meaning, attempt(["a ReLU after each layer but the last"]))


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
    if not _is_lost_in_validation(seen) or _is_shifted(seen):
        return None
    facts, accuracy = seen.facts, seen.accuracy or 0.0
    numbers = _losses(seen) | {"val/accuracy": accuracy, "largest_share": facts.largest_share}
    below = accuracy < facts.largest_share - 3 * seen.accuracy_error or accuracy < 0.5 / max(2, _num_classes(seen))
    what = "below a guess, so classes are numbered otherwise there" if below else "no better than a guess"
    meaning = f"training is learnt, and validation is {what}: its labels do not belong to its inputs as training's do"
    return Sighting(None, numbers, meaning, "Look at how labels and their order are read for validation.")


def splits_differ(seen: Seen) -> Sighting | None:
    """Validation inputs, or the shares of its classes, lie far from those of training.

    Source: J. Quinonero-Candela et al., "Dataset Shift in Machine Learning" (2009), chapter 1.
    """
    if not _is_shifted(seen) or not is_settled(seen) or not seen.has_learnt or seen.numbers.get("val/loss") is None:
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
    return Sighting(None, {"columns": len(empty)} | _losses(seen), meaning, "Look at how the columns are read.")


def one_class_far_worse(seen: Seen) -> Sighting | None:
    """Training samples are known, and of one class most others are taken for another: few samples, or wrong labels.

    Source: H. He, E. Garcia, "Learning from Imbalanced Data" (2009), section 2.
    """
    rows = [row for row in seen.classes if row["support"] >= FEWEST_OF_CLASS]
    is_known = seen.chance is not None and seen.now < KNOWN * seen.chance
    if len(rows) < 2 or seen.facts.largest_share > OUTNUMBERS or not is_known or not is_settled(seen):
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
    if not facts.largest_share > NEARLY_ALONE or not is_settled(seen) or seen.num_bad < 2:
        return None
    numbers = {"largest_share": facts.largest_share, "val/accuracy": seen.accuracy or 0.0}
    meaning = "nearly all samples are of one class, and the accuracy is that of always saying it"
    words = ["loss.class_weights=balanced", "data.balance=true", "more samples of the rare classes"]
    return Sighting(None, numbers, meaning, attempt(words))


def labels_without_a_pattern(seen: Seen) -> Sighting | None:
    """Nothing is learnt but by heart, though the weights move as they should: inputs do not tell the labels.

    Source: C. Zhang et al., "Understanding deep learning requires rethinking generalization" (ICLR 2017), section 2.
    """
    of_val = seen.facts.guess.get("val/loss", math.inf)
    is_guess = seen.num_bad == seen.num_vals or (seen.best is not None and seen.best >= of_val)
    if seen.num_vals < 2 or not is_guess or not is_settled(seen) or not seen.facts.num_val:
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
    return Sighting(None, _losses(seen), meaning, "Look whether inputs and labels are still in the same order.")


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
    numbers = {"target_mean": facts.target_mean, "target_deviation": deviation} | _losses(seen)
    meaning = "the targets are far from what a network gives at first, and it has not come there"
    words = ["data.standardize=true"] if facts.settings.get("data.standardize") is False else []
    return Sighting(None, numbers, meaning, attempt([*words, "targets minus their mean, divided by their deviation"]))


def units_start_equal(seen: Seen) -> Sighting | None:
    """All units of a layer start alike, get the same gradient, and stay alike: the layer is one unit.

    Source: "Deep Learning" (2016), section 8.4, "the initial parameters need to break symmetry".
    """
    if not seen.facts.equal_units or not seen.is_ill:
        return None
    layers = seen.facts.equal_units
    meaning = "all units of the layer start with the same weights, and so stay alike for ever"
    words = better_start(seen.facts) or ["weights that are drawn"]
    return Sighting(", ".join(layers[:5]), {"layers": len(layers)} | _losses(seen), meaning, attempt(words))


def dead_units_from_the_start(seen: Seen) -> Sighting | None:
    """All units of a layer are zero for every sample before the first step, and its gradient has been zero since.

    Source: A. Maas, A. Hannun, A. Ng, "Rectifier nonlinearities improve neural network acoustic models" (ICML 2013).
    """
    dead = [layer for layer in seen.facts.dead_layers if layer in seen.silent]
    if not dead or seen.num_records < 3:
        return None
    meaning = "no sample gets through its ReLUs from the first step on, so that nothing before it learns"
    words = better_start(seen.facts) or ["biases of 0, and weights around 0"]
    return Sighting(", ".join(dead[:5]), {"layers": len(dead)} | _losses(seen), meaning, attempt(words))


def initialisation_too_large(seen: Seen) -> Sighting | None:
    """At first the loss was far above a guess, and it has not come down since.

    Source: as for `loss_far_from_chance`.
    """
    chance = seen.chance
    if chance is None or seen.first_loss is None or seen.first_loss < 3 * chance or not is_settled(seen):
        return None
    if seen.has_learnt or "loss far from chance" in seen.reported:
        return None
    meaning = "untrained, the network was sure of wrong answers, and has not got over that"
    return Sighting(None, {"first_loss": seen.first_loss} | _losses(seen), meaning, attempt(_starts(seen)))


def momentum_too_high(seen: Seen) -> Sighting | None:
    """The first update was moderate, and each later one carries 1 / (1 - momentum) times as much.

    Source: I. Sutskever et al., "On the importance of initialization and momentum in deep learning" (ICML 2013).
    """
    momentum, first = seen.facts.number("optimizer.momentum"), seen.first_update
    if not momentum >= LARGE_MOMENTUM or first is None or first > LARGE_FIRST_UPDATE or not _is_thrown(seen):
        return None
    numbers = {"momentum": momentum, "first_update": first} | _sizes(seen)
    meaning = f"each step goes on for {1 / (1 - momentum):.0f} others, and they have thrown the weights about"
    return Sighting(None, numbers, meaning, attempt(["optimizer.momentum=0.9", lr_times(seen.facts, 0.1)]))


def warm_up_missing(seen: Seen) -> Sighting | None:
    """A network with attention takes large steps from the first one on, and has not learnt.

    Source: R. Xiong et al., "On Layer Normalization in the Transformer Architecture" (ICML 2020), section 3.
    """
    facts = seen.facts
    is_constant = not any(str(facts.settings.get(f"scheduler.{key}", "")) for key in ("warmup_steps", "pct_start"))
    if not facts.has_attention or not is_constant or not (_is_thrown(seen) or _is_large(seen)):
        return None
    if (seen.first_update or 0.0) > LARGE_FIRST_UPDATE:  # too large for any time of the run
        return None
    meaning = "a network with attention was given large steps at once, which it does not get over"
    return Sighting(
        None, _sizes(seen) | _losses(seen), meaning, attempt(["scheduler=warmup_cosine", lr_times(seen.facts, 0.1)])
    )


def clipping_throttles(seen: Seen) -> Sighting | None:
    """Gradients are always clipped to a small part of their norm, and the network has not learnt: no step is whole.

    Source: R. Pascanu, T. Mikolov, Y. Bengio, "On the difficulty of training recurrent neural networks" (ICML 2013),
    section 3.2: the threshold is near the average norm.
    """
    if not seen.norms or not seen.is_ill or seen.moved is None or seen.moved[1] > 1e-3:
        return None
    largest = [seen.numbers.get(f"grad_max/{name}", 0.0) for name in seen.facts.weights]
    usual = {"clip_norm": sorted(seen.norms)[len(seen.norms) // 2], "clip_value": median(largest or [0.0])}
    for key, size in usual.items():
        limit = seen.facts.number(f"gradient.{key}")
        if limit > 0 and size > THROTTLED * limit:
            meaning = f"gradients are {size / limit:.0f} times as large as they may be, so that hardly anything moves"
            numbers = {"grad_norm" if key == "clip_norm" else "grad_max": size, key: limit}
            return Sighting(None, numbers, meaning, attempt([f"gradient.{key}={size:.1g}", f"gradient.{key}=null"]))
    return None


def weight_decay_shrinks_the_weights(seen: Seen) -> Sighting | None:
    """Decay takes more from the weights than the gradient gives them.

    Source: I. Loshchilov, F. Hutter, "Decoupled Weight Decay Regularization" (ICLR 2019), section 2.
    """
    decay = seen.facts.number("optimizer.weight_decay")
    if not decay > 0 or not seen.is_ill or seen.growth is None or seen.growth > SHRUNK:
        return None
    meaning = "the weights have shrunk to next to nothing, since decay takes more than the gradient gives"
    words = [f"optimizer.weight_decay={0.01 * decay:.1g}", "optimizer.weight_decay=0"]
    return Sighting(None, {"weight_decay": decay, "weights": seen.growth} | _losses(seen), meaning, attempt(words))


def schedule_ended_early(seen: Seen) -> Sighting | None:
    """The learning rate is next to nothing though half of the run is left, and the network has not learnt.

    Source: I. Loshchilov, F. Hutter, "SGDR" (ICLR 2017), section 3: a schedule is as long as the run.
    """
    if not seen.ended or seen.ended > 0.5 * seen.facts.max_steps or not seen.is_ill:
        return None
    numbers = {"step": float(seen.ended), "of_largest_lr": ENDED} | _losses(seen)
    meaning = f"since step {seen.ended} the learning rate is below {ENDED:.0%} of its largest"
    return Sighting(None, numbers, meaning, attempt(["scheduler=cosine", "scheduler=constant"]))


def dropout_too_high(seen: Seen) -> Sighting | None:
    """So many units are left out in training that those that remain can't answer; validation has all of them.

    Source: N. Srivastava et al., "Dropout" (JMLR 2014), section 7.3: 0.2 for inputs, 0.5 for units is usual.
    """
    facts = seen.facts
    dropout = max(facts.dropout, facts.number("model.dropout") if "model.dropout" in facts.settings else 0.0)
    if dropout < LARGE_DROPOUT or not seen.is_ill:
        return None
    meaning = f"{dropout:.0%} of the units are left out in every step, too many for the rest to learn"
    words = ["model.dropout=0.2"] if "model.dropout" in facts.settings else ["a dropout of 0.2"]
    return Sighting(None, {"dropout": dropout} | _losses(seen), meaning, attempt(words))


def batch_norm_of_small_batches(seen: Seen) -> Sighting | None:
    """A batch norm takes mean and deviation from a handful of samples.

    Source: Y. Wu, K. He, "Group Normalization" (ECCV 2018), section 1: ImageNet error 34.7 % at 2
    samples, 23.6 % at 32.
    """
    facts = seen.facts
    if not facts.has_batch_norm or facts.batch_size > SMALL_BATCH or not is_settled(seen):
        return None
    val = seen.numbers.get("val/loss", 0.0)
    if seen.has_learnt and not val > 2 * seen.now + 0.2:
        return None
    meaning = f"batch norms take mean and deviation from {facts.batch_size} samples, which are noise"
    return Sighting(None, {"batch_size": facts.batch_size} | _losses(seen), meaning, attempt(["batch_size=32"]))


def learning_rate_too_large(seen: Seen) -> Sighting | None:
    """The first update was a large part of the weights, or they have grown tenfold since, and nothing was learnt.

    Or they change by more than a hundredth of themselves a step, for long, and the loss has not fallen.

    Source: A. Karpathy, CS231n, "Neural Networks Part 3", "Ratio of weights:updates" (should be about 1e-3).
    """
    if not (_is_thrown(seen) or _is_large(seen)):
        return None
    layer = seen.moved[0] if seen.moved is not None else None
    meaning = "steps are too large for the weights, and the loss stays high"
    if seen.is_lost:
        meaning = "steps have thrown the network out of what it had learnt"
    return Sighting(layer, _sizes(seen) | _losses(seen), meaning, attempt(calmer(seen.facts)))


def learning_rate_too_small(seen: Seen) -> Sighting | None:
    """As the rule of the same name, at the end of a run too short for it.

    Source: A. Karpathy, CS231n, "Neural Networks Part 3", "Ratio of weights:updates" (should be about 1e-3).
    """
    is_slow = seen.moved is not None and 0 < seen.moved[1] < SMALLEST_UPDATE
    if not is_settled(seen) or seen.has_learnt or not is_slow or seen.ended or seen.has_signal:
        return None
    assert seen.moved is not None
    meaning = "a step changes the weights by less than 1e-4 of themselves, and the loss is still high"
    numbers = {f"update_ratio/{seen.moved[0]}": seen.moved[1], "train/loss": seen.loss}
    return Sighting(seen.moved[0], numbers, meaning, attempt([larger_rate(seen.facts, seen.moved)]))


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
        None, {"val/loss": val, "num_samples": seen.facts.num_samples} | _losses(seen), meaning, attempt(words)
    )


def _num_classes(seen: Seen) -> int:
    return round(math.exp(seen.chance)) if seen.chance is not None else 0


def _losses(seen: Seen) -> dict[str, float]:
    found = {"train/loss": seen.loss} if seen.losses else {}
    return found | ({"chance": seen.chance} if seen.chance is not None else {})


def _sizes(seen: Seen) -> dict[str, float]:
    """How the weights have been changed."""
    found = {} if seen.first_update is None else {"first_update": seen.first_update}
    found |= {} if seen.moved is None else {"update": seen.moved[1]}
    return found | ({} if seen.growth is None else {"weights": seen.growth})


def _starts(seen: Seen) -> list[str]:
    """Smaller first weights."""
    words = better_start(seen.facts)
    if seen.facts.settings.get("model.init") == "normal":
        words.append(f"model.init_std={0.1 * seen.facts.number('model.init_std'):.2g}")
    return words or ["smaller first weights"]


def _is_lost_in_validation(seen: Seen) -> bool:
    """Whether training was learnt at once, and the last two validations are no better than a guess."""
    guess = seen.chance
    if seen.num_bad < 2 or guess is None or seen.early is None or not is_settled(seen):
        return False
    is_learnt = seen.has_learnt and seen.early < 0.75 * guess
    return is_learnt and seen.numbers.get("val/loss", math.inf) > guess and not seen.facts.largest_share > NEARLY_ALONE


def _is_shifted(seen: Seen) -> bool:
    return seen.facts.shift > SHIFTED or seen.facts.label_shift > OTHER_SHARES


def _is_poor(seen: Seen) -> bool:
    """Whether a run is at its end, and what was learnt is little."""
    return seen.is_over and not seen.has_learnt and is_settled(seen)


def _is_thrown(seen: Seen) -> bool:
    """Whether the weights were thrown out of their place, and the network has not learnt since."""
    is_overflown = "exploding gradient" in seen.reported
    if seen.is_lost:
        return True
    if seen.has_learnt or ((not seen.is_ill or seen.step == 1) and not is_overflown):
        return False
    has_grown = seen.growth is not None and (seen.growth > GROWN or not math.isfinite(seen.growth))
    was_large = seen.first_update is not None and seen.first_update > LARGE_FIRST_UPDATE
    return has_grown or was_large or is_overflown


def _is_large(seen: Seen) -> bool:
    """Whether updates are large beside the weights, and the loss is above a guess.

    Where it is as a guess, labels may have no pattern: only far larger ones are a fault then.
    """
    guess = seen.chance or seen.facts.near.get("train/loss") or seen.first_loss  # a first batch is noisy
    has_risen = guess is not None and seen.loss > (1 + FALLEN) * guess
    limit = LARGEST_UPDATE if has_risen else 10 * LARGEST_UPDATE
    return seen.is_ill and seen.moved is not None and seen.moved[1] > limit


# Those that are asked in validations, too, are asked again when something new is known.
CAUSES = (
    Rule(targets_are_constant, rank=1),
    Rule(probabilities_into_a_loss_of_logits, rank=2),
    Rule(targets_out_of_reach, rank=2),
    Rule(labels_differ_between_the_splits, rank=3, tag="val/loss"),
    Rule(data_given_in_order, rank=3, tag="val/loss"),
    Rule(splits_differ, rank=4, tag="val/loss"),
    Rule(one_class_nearly_alone, rank=5, tag="val/loss"),
    Rule(inputs_not_scaled, rank=6),
    Rule(targets_not_scaled, rank=7),
    Rule(columns_without_content, rank=9),
    Rule(units_start_equal, rank=8),
    Rule(dead_units_from_the_start, rank=19),
    Rule(initialisation_too_large, rank=31),
    Rule(clipping_throttles, rank=40),
    Rule(weight_decay_shrinks_the_weights, rank=41),
    Rule(schedule_ended_early, rank=42),
    Rule(dropout_too_high, rank=43),
    Rule(batch_norm_of_small_batches, rank=44, tag="val/loss"),
    Rule(momentum_too_high, rank=50),
    Rule(warm_up_missing, rank=51),
    Rule(learning_rate_too_large, rank=52),
    Rule(labels_without_a_pattern, rank=80, is_last=True),
    Rule(too_few_samples, rank=81, tag="val/loss"),
    Rule(no_non_linearity, rank=45, is_last=True),
    Rule(splits_share_samples, rank=82, is_last=True),
    Rule(a_column_tells_the_target, rank=82, is_last=True),
    Rule(one_class_far_worse, rank=83),
)
AT_THE_END = (Rule(learning_rate_too_small, rank=70, is_last=True),)
RULES = (*SYMPTOMS, *CAUSES, *AT_THE_END)
