"""What is amiss in the model or in how it is trained: rules that read the config and the weights beside the curves."""

import math
from statistics import median

from trainer.monitor.cures import attempt, better_start, calmer, larger_rate, lr_times
from trainer.monitor.finding import Sighting
from trainer.monitor.seen import ENDED, FALLEN, GROWN, SHRUNK, Seen
from trainer.monitor.symptoms import LARGEST_UPDATE, SMALLEST_UPDATE

THROTTLED = 30.0  # the gradient over the norm that it is clipped to; healthy runs have up to 3
LARGE_FIRST_UPDATE = 0.3  # |update| / |weights|; healthy runs have up to 0.2
LARGE_MOMENTUM = 0.95
LARGE_DROPOUT = 0.7
SMALL_BATCH = 4


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
    loss = seen.facts.takes_probabilities
    how += f'; or write gives = "probabilities" into the class, and type {loss}.' if loss else "."
    return Sighting(None, seen.costs, meaning, how)


def no_non_linearity(seen: Seen) -> Sighting | None:
    """Layers of weights follow one another with nothing between: together they can do no more than one of them.

    Source: "Deep Learning" (2016), section 6.1, "Learning XOR".
    """
    guess = seen.chance or seen.facts.near.get("train/loss")
    if not seen.facts.is_linear or guess is None or seen.loss < 0.1 * guess or not seen.is_settled:
        return None
    meaning = "the model is linear: all its layers together can do no more than one"
    return Sighting(None, seen.costs, meaning, attempt(["a ReLU after each layer but the last"]))


def units_start_equal(seen: Seen) -> Sighting | None:
    """All units of a layer start alike, get the same gradient, and stay alike: the layer is one unit.

    Source: "Deep Learning" (2016), section 8.4, "the initial parameters need to break symmetry".
    """
    if not seen.facts.equal_units or not seen.is_ill:
        return None
    layers = seen.facts.equal_units
    meaning = "all units of the layer start with the same weights, and so stay alike for ever"
    words = better_start(seen.facts) or ["weights that are drawn"]
    return Sighting(", ".join(layers[:5]), {"layers": len(layers)} | seen.costs, meaning, attempt(words))


def dead_units_from_the_start(seen: Seen) -> Sighting | None:
    """All units of a layer are zero for every sample before the first step, and its gradient has been zero since.

    Source: A. Maas, A. Hannun, A. Ng, "Rectifier nonlinearities improve neural network acoustic models" (ICML 2013).
    """
    dead = [layer for layer in seen.facts.dead_layers if layer in seen.silent]
    if not dead or seen.num_records < 3:
        return None
    meaning = "no sample gets through its ReLUs from the first step on, so that nothing before it learns"
    words = better_start(seen.facts) or ["biases of 0, and weights around 0"]
    return Sighting(", ".join(dead[:5]), {"layers": len(dead)} | seen.costs, meaning, attempt(words))


def initialisation_too_large(seen: Seen) -> Sighting | None:
    """At first the loss was far above a guess, and it has not come down since.

    Source: as for `loss_far_from_chance`.
    """
    chance = seen.chance
    if chance is None or seen.first_loss is None or seen.first_loss < 3 * chance or not seen.is_settled:
        return None
    if seen.has_learnt or "loss far from chance" in seen.reported:
        return None
    meaning = "untrained, the network was sure of wrong answers, and has not got over that"
    return Sighting(None, {"first_loss": seen.first_loss} | seen.costs, meaning, attempt(_starts(seen)))


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
        None, _sizes(seen) | seen.costs, meaning, attempt(["scheduler=warmup_cosine", lr_times(seen.facts, 0.1)])
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
    return Sighting(None, {"weight_decay": decay, "weights": seen.growth} | seen.costs, meaning, attempt(words))


def schedule_ended_early(seen: Seen) -> Sighting | None:
    """The learning rate is next to nothing though half of the run is left, and the network has not learnt.

    Source: I. Loshchilov, F. Hutter, "SGDR" (ICLR 2017), section 3: a schedule is as long as the run.
    """
    if not seen.ended or seen.ended > 0.5 * seen.facts.max_steps or not seen.is_ill:
        return None
    numbers = {"step": float(seen.ended), "of_largest_lr": ENDED} | seen.costs
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
    return Sighting(None, {"dropout": dropout} | seen.costs, meaning, attempt(words))


def batch_norm_of_small_batches(seen: Seen) -> Sighting | None:
    """A batch norm takes mean and deviation from a handful of samples.

    Source: Y. Wu, K. He, "Group Normalization" (ECCV 2018), section 1: ImageNet error 34.7 % at 2
    samples, 23.6 % at 32.
    """
    facts = seen.facts
    if not facts.has_batch_norm or facts.batch_size > SMALL_BATCH or not seen.is_settled:
        return None
    val = seen.numbers.get("val/loss", 0.0)
    if seen.has_learnt and not val > 2 * seen.now + 0.2:
        return None
    meaning = f"batch norms take mean and deviation from {facts.batch_size} samples, which are noise"
    return Sighting(None, {"batch_size": facts.batch_size} | seen.costs, meaning, attempt(["batch_size=32"]))


def learning_rate_too_large(seen: Seen) -> Sighting | None:
    """The first update was a large part of the weights, or they have grown tenfold since, and nothing was learnt.

    Or they change by more than a hundredth of themselves a step, for long, and the loss has not fallen.

    Source: A. Karpathy, CS231n, "Neural Networks Part 3", "Ratio of weights:updates" (should be about 1e-3).
    """
    if not (_is_thrown(seen) or _is_large(seen)):
        return None
    if "exploding gradient on the way back" in seen.reported:
        return None  # then the gradient is what is too large
    layer = seen.moved[0] if seen.moved is not None else None
    meaning = "steps are too large for the weights, and the loss stays high"
    if seen.is_lost:
        meaning = "steps have thrown the network out of what it had learnt"
    return Sighting(layer, _sizes(seen) | seen.costs, meaning, attempt(calmer(seen.facts)))


def learning_rate_too_small(seen: Seen) -> Sighting | None:
    """As the rule of the same name, at the end of a run too short for it.

    Source: A. Karpathy, CS231n, "Neural Networks Part 3", "Ratio of weights:updates" (should be about 1e-3).
    """
    is_slow = seen.moved is not None and 0 < seen.moved[1] < SMALLEST_UPDATE
    if not seen.is_settled or seen.has_learnt or not is_slow or seen.ended or seen.has_signal:
        return None
    assert seen.moved is not None
    meaning = "a step changes the weights by less than 1e-4 of themselves, and the loss is still high"
    numbers = {f"update_ratio/{seen.moved[0]}": seen.moved[1], "train/loss": seen.loss}
    return Sighting(seen.moved[0], numbers, meaning, attempt([larger_rate(seen.facts, seen.moved)]))


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


def _is_thrown(seen: Seen) -> bool:
    """Whether the weights were thrown out of their place, and the network has not learnt since."""
    is_overflown = "exploding gradient" in seen.reported
    if seen.is_lost:
        return True
    if seen.has_learnt or ((not seen.is_ill or seen.step == 1) and not is_overflown):
        return False
    has_grown = seen.growth is not None and (seen.growth > GROWN or not math.isfinite(seen.growth))
    was_large = seen.first_update is not None and seen.first_update > LARGE_FIRST_UPDATE and not seen.facts.searches
    return has_grown or was_large or is_overflown


def _is_large(seen: Seen) -> bool:
    """Whether updates are large beside the weights, and the loss is above a guess.

    Where it is as a guess, labels may have no pattern: only far larger ones are a fault then.
    """
    guess = seen.chance or seen.facts.near.get("train/loss") or seen.first_loss  # a first batch is noisy
    has_risen = guess is not None and seen.loss > (1 + FALLEN) * guess
    limit = LARGEST_UPDATE if has_risen else 10 * LARGEST_UPDATE
    return seen.is_ill and seen.moved is not None and seen.moved[1] > limit
