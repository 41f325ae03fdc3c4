"""Symptoms: rules that read the curves alone.

Thresholds without a source of their own were set so that the shipped experiments and the plain command stay silent,
with room to spare, and runs that were made ill do not (`tests/monitor/test_diagnosis.py`).
"""

import math

from trainer.monitor.cures import attempt, better_start, calmer, larger_rate, largest_lr, lr_times
from trainer.monitor.diagnosis import OVERFLOWN, Rule
from trainer.monitor.facts import LONG_SHARE, layer_of
from trainer.monitor.finding import Sighting
from trainer.monitor.record import FEWEST_SAMPLES
from trainer.monitor.seen import FALLEN, LEARNT, RECENT, Seen

VANISHED = 1e-4  # the first layers' gradient over the last one's
EXPLODED, STILL_PULLS = 100.0, 0.1  # the gradient over the first one
SMALLEST_UPDATE, LARGEST_UPDATE = 1e-4, 1e-2  # |update| / |weights|: a factor of ten around Karpathy's 1e-3
DEAD = SATURATED = 0.5  # shares of units
NO_PULL = 1e-3  # by what share of itself the loss would change if the last layer's weights doubled
BY_HEART = 0.1  # less than this share of what a guess would cost
VERY_FAR_FROM_CHANCE = 5.0  # times; deep networks of ReLUs begin at two or three, and learn
GENERALISATION_LOSS = 0.1  # the validation loss over its best, less one
LOST = 0.1  # this share of what was gained on the validation samples


def loss_far_from_chance(seen: Seen) -> Sighting | None:
    """Before the first update a classifier knows nothing: its loss is about ln K for K classes.

    Sources: A. Karpathy, "A Recipe for Training Neural Networks" (2019), "verify loss @ init"; Stanford CS231n, "Neural
    Networks Part 3", "Before learning: sanity checks Tips/Tricks".
    """
    if seen.step != 1:
        return None
    for tag, chance in seen.facts.chance.items():
        loss = seen.numbers.get(tag, chance)
        numbers = {tag: loss, "chance": chance}
        if loss > VERY_FAR_FROM_CHANCE * chance:
            words = better_start(seen.facts)
            if seen.facts.settings.get("model.init") == "normal":
                words.append(f"model.init_std={0.1 * seen.facts.number('model.init_std'):.2g}")
            if seen.facts.settings.get("data.normalize") is False:
                words.append("data.normalize=true")
            meaning = "untrained, the network is sure of wrong answers; its weights or its inputs are too large"
            return Sighting(None, numbers, meaning, attempt(words or ["smaller inputs"]))
    return None


def frozen_layer(seen: Seen) -> Sighting | None:
    """A layer with `requires_grad=False` in a model that is not made for it stays as it started.

    Source: PyTorch documentation, "Autograd mechanics", "Setting requires_grad".
    """
    if not seen.facts.frozen:
        return None
    meaning = "requires_grad is False, so that it stays as it is"
    advice = "If that is meant, all is well; if not, look for requires_grad_(False) in the model."
    return Sighting(", ".join(seen.facts.frozen[:5]), {"layers": len(seen.facts.frozen)}, meaning, advice)


def no_gradient(seen: Seen) -> Sighting | None:
    """A layer that the loss does not depend on, or only through a `detach()`, has a gradient of zero at every record.

    Three records, because a layer behind one that starts at zero has no gradient at the first step.

    Source: PyTorch documentation, "Autograd mechanics"; `torch.Tensor.detach`.
    """
    if not seen.silent or seen.num_records < 3 or {*seen.facts.dead_layers} & {*seen.silent}:
        return None
    meaning = "its gradient has been exactly zero from the start"
    advice = (
        "Look in forward() for detach(), .data, no_grad(), argmax, a part that is not used, ReLUs that let nothing by."
    )
    return Sighting(", ".join(seen.silent[:5]), {"layers": len(seen.silent)}, meaning, advice)


def of_weights(seen: Seen) -> list[tuple[str, float]]:
    """The layers with weights, in their order, and the norms of their gradients."""
    weighted = {layer_of(name) for name in seen.facts.weights}
    return [(layer, norm) for layer, norm in seen.record.gradients.items() if layer in weighted]


def exploding_gradient_on_the_way_back(seen: Seen) -> Sighting | None:
    """The first layers' gradient is very large beside the last one's: the opposite of one that vanishes.

    Source: as of `exploding_gradient`.
    """
    norms = of_weights(seen)
    if len(norms) < 2 or seen.has_learnt:
        return None
    first, norm = min(norms[: max(1, len(norms) // 4)], key=lambda x: x[1])
    last, last_norm = norms[-1]
    if not 0 < last_norm < VANISHED * norm or norm < EXPLODED * seen.loss:  # or the last one's is what is small
        return None
    numbers = {f"grad_norm/{first}": norm, f"grad_norm/{last}": last_norm}
    meaning = "it grows on its way back through the layers, or through the steps of a sequence"
    words = ["an LSTM for a plain recurrent net, norm layers between", *calmer(seen.facts)]
    return Sighting(first, numbers, meaning, attempt(words))


def vanishing_gradient(seen: Seen) -> Sighting | None:
    """The first layers' gradient is next to nothing beside the last one's: they do not learn.

    Sources: S. Hochreiter, "Untersuchungen zu dynamischen neuronalen Netzen" (1991); X. Glorot, Y. Bengio,
    "Understanding the difficulty of training deep feedforward neural networks" (AISTATS 2010), section 4.
    """
    norms = of_weights(seen)
    if len(norms) < 2:
        return None
    first, norm = max(norms[: max(1, len(norms) // 4)], key=lambda x: x[1])
    last, last_norm = norms[-1]
    if not 0 < norm < VANISHED * last_norm:  # exactly 0 is another illness
        return None
    numbers = {f"grad_norm/{first}": norm, f"grad_norm/{last}": last_norm}
    meaning = "next to nothing arrives at the first layers, they do not learn"
    others = [] if seen.facts.has_relus else ["ReLUs for sigmoids"]
    words = ["norm layers between", *others, *better_start(seen.facts)]
    return Sighting(first, numbers, meaning, attempt(words))


def exploding_gradient(seen: Seen) -> Sighting | None:
    """The gradient has grown a hundredfold and the loss has doubled since the start; or it is not finite any more.

    Sources: R. Pascanu, T. Mikolov, Y. Bengio, "On the difficulty of training recurrent neural networks" (ICML 2013),
    section 3.2 (clipping); I. Goodfellow, Y. Bengio, A. Courville, "Deep Learning" (2016), section 8.2.4.
    """
    loss, norm = seen.numbers["train/loss"], seen.numbers.get("grad_norm", 0.0)
    numbers = {"train/loss": loss, "grad_norm": norm}
    if seen.numbers.get("nonfinite_gradients", 0) and not seen.facts.is_scaled:
        return Sighting(None, numbers, OVERFLOWN, attempt(calmer(seen.facts)))
    if seen.first_grad_norm is None or seen.first_loss is None:
        return None
    if loss <= seen.first_loss + abs(seen.first_loss) or norm <= EXPLODED * seen.first_grad_norm:
        return None
    numbers |= {"first_loss": seen.first_loss, "first_grad_norm": seen.first_grad_norm}
    worst = max(seen.record.gradients.items(), key=lambda x: x[1], default=(None, norm))[0]
    meaning = "every update overshoots, and the next gradient is larger for it"
    return Sighting(worst, numbers, meaning, attempt(calmer(seen.facts)))


def learning_rate_too_small(seen: Seen) -> Sighting | None:
    """The weights change by less than a ten-thousandth of themselves a step, while the loss has far to go.

    Where a schedule holds the learning rate down, at the start or the end of a run, this is no fault; nor where the
    gradient is small, too: that is an end that was reached.

    Source: A. Karpathy, CS231n, "Neural Networks Part 3", "Ratio of weights:updates" (should be about 1e-3).
    """
    if seen.has_learnt or (update := seen.record.update) is None or not 0 < update[1] < SMALLEST_UPDATE:
        return None
    largest, lr = largest_lr(seen.facts), seen.record.lr
    if largest is not None and lr is not None and lr < largest[1] / 2:  # held down
        return None
    if seen.numbers.get("grad_norm", 0.0) < STILL_PULLS * (seen.first_grad_norm or 0.0):
        return None
    if {"vanishing gradient", "dead ReLUs", "saturated outputs"} & set(seen.reported):
        return None  # then the gradient is what is too small
    numbers = {f"update_ratio/{update[0]}": update[1], "train/loss": seen.loss}
    meaning = "a step changes the weights by less than 1e-4 of themselves, and the loss is still high"
    return Sighting(update[0], numbers, meaning, attempt([larger_rate(seen.facts, seen.moved)]))


def first_update_too_large(seen: Seen) -> Sighting | None:
    """The first update is larger than the weights: what they were initialised to be is lost.

    Optimizers that divide by the gradient's size make first steps of the learning rate's size whatever the gradient is.
    A step of one that searches is many, and may go as far as it likes.

    Source: as for `learning_rate_too_large`; D. Kingma, J. Ba, "Adam" (ICLR 2015), section 2.1 (the size of a step).
    """
    if seen.step != 1 or seen.facts.searches or seen.record.update is None or seen.record.update[1] <= 1:
        return None
    layer, ratio = seen.record.update
    meaning = "the first step was larger than the weights themselves, so that their initialisation is lost"
    return Sighting(layer, {f"update_ratio/{layer}": ratio}, meaning, attempt([lr_times(seen.facts, 0.1)]))


def dead_relus(seen: Seen) -> Sighting | None:
    """More than half of a layer's units are zero for every sample of a batch: they get no gradient, and stay so.

    Seen in the activations where those are measured, else in the biases' gradients.

    Sources: A. Maas, A. Hannun, A. Ng, "Rectifier nonlinearities improve neural network acoustic models" (ICML 2013),
    section 2; CS231n, "Neural Networks Part 1", "Commonly used activation functions".
    """
    facts = seen.facts
    if facts.samples(seen.step) < FEWEST_SAMPLES:
        return None
    shares = {
        layer: share
        for layer, share in seen.record.of_kind("dead_units").items()
        if not any(f"{layer}.".startswith(f"{x}.") for x in facts.frozen_on_purpose)
    }
    if not shares:
        shares = {layer: share for layer, share in seen.silent_units.items() if layer not in facts.squashed}
    dead = {layer: share for layer, share in shares.items() if share > DEAD}
    if not dead:
        return None
    # Of equals the last: nothing that comes before a wholly dead layer gets a gradient.
    worst = max(reversed(dead.items()), key=lambda x: x[1])[0]
    numbers = {f"dead_units/{layer}": share for layer, share in list(dead.items())[-5:]}
    meaning = "most of its units get no gradient from any sample and learn nothing any more"
    return Sighting(
        worst, numbers, meaning, attempt([lr_times(seen.facts, 0.1), *better_start(seen.facts), "torch.nn.LeakyReLU"])
    )


def saturated_outputs(seen: Seen) -> Sighting | None:
    """Sigmoids, tanhs or a softmax are at their ends, where they are flat, and the loss is still high.

    Seen in the activations where those are measured. Else in the biases' gradients; and where the model gives
    probabilities, in the last layer's: to double its weights would change the loss by less than a thousandth.

    Sources: X. Glorot, Y. Bengio, "Understanding the difficulty of training deep feedforward neural networks" (AISTATS
    2010), section 3; "Deep Learning" (2016), section 6.2.2.
    """
    if seen.has_learnt or "grad_norm" not in seen.numbers:
        return None
    meaning = "its outputs are at the flat ends of their function, where no gradient passes"
    words = [lr_times(seen.facts, 0.1), *better_start(seen.facts)]
    if seen.facts.gives == "probabilities":
        words.append("logits in place of probabilities, with the loss that takes them")
    shares = seen.record.of_kind("saturated_units")
    if shares:
        worst = max(shares, key=lambda layer: shares[layer])
        if shares[worst] <= SATURATED:
            return None
        return Sighting(worst, {f"saturated_units/{worst}": shares[worst]}, meaning, attempt(words))
    silent = {layer: share for layer, share in seen.silent_units.items() if layer in seen.facts.squashed}
    worst = max(reversed(silent), key=lambda layer: silent[layer], default="")
    if silent.get(worst, 0.0) > SATURATED:
        return Sighting(worst, {f"saturated_units/{worst}": silent[worst]}, meaning, attempt(words))
    if seen.facts.gives == "logits" or not seen.facts.weights:
        return None
    weight, loss = seen.facts.weights[-1], seen.numbers["train/loss"]
    last = layer_of(weight)
    norm = seen.record.gradients.get(last, math.nan)
    if not norm * seen.numbers.get(f"weight_norm/{weight}", math.nan) < NO_PULL * abs(loss):
        return None
    return Sighting(last, {f"grad_norm/{last}": norm, "train/loss": loss}, meaning, attempt(words))


def loss_not_falling(seen: Seen) -> Sighting | None:
    """The training loss is where it was before the first update, or where an even guess would be.

    Source: CS231n, "Neural Networks Part 3", "Loss function"; Karpathy, "A Recipe for Training Neural Networks" (2019).
    """
    if len(seen.losses) < RECENT or seen.step < seen.facts.long:
        return None
    first, chance, loss = seen.first_loss, seen.chance, seen.loss
    if seen.has_learnt or seen.has_signal:  # it began below a guess, or there is little to be known
        return None
    has_fallen = first is None or loss < first - FALLEN * abs(first)
    is_guessing = chance is not None and abs(loss - chance) < FALLEN * chance
    if has_fallen and not is_guessing:
        return None
    numbers = {"train/loss": loss} | ({} if first is None else {"first_loss": first})
    numbers |= {} if chance is None else {"chance": chance}
    meaning = f"after {seen.step} steps the network is no better than {'a guess' if is_guessing else 'at the start'}"
    if causes := [rule for rule in seen.reported if rule in CAUSES]:
        advice = f"What was found before may be why: {', '.join(causes)}."
    else:
        ratio = seen.record.update[1] if seen.record.update is not None else math.nan
        has_risen = first is not None and loss > first + LEARNT * abs(first)
        larger = [] if ratio > LARGEST_UPDATE or has_risen else [larger_rate(seen.facts, seen.moved)]
        smaller = [] if ratio < 10 * SMALLEST_UPDATE and not has_risen else [lr_times(seen.facts, 0.1)]
        advice = f"{attempt([*larger, *smaller, *better_start(seen.facts)])} train remedy tries them."
    return Sighting(None, numbers, meaning, advice)


def overfitting(seen: Seen) -> Sighting | None:
    """The validation loss has risen from its best while the training loss has fallen on: the gap between them grows.

    It must have risen by a tenth of itself, and have lost a tenth of what was gained: where nearly all is known, a few
    more samples that are mistaken double the loss. A validation loss that never was better than a guess is
    `nothing_carries_over`: nothing that was known gets lost.

    Source: L. Prechelt, "Early Stopping - But When?", in "Neural Networks: Tricks of the Trade" (1998), section 2:
    generalisation loss.
    """
    val, settings = seen.numbers.get("val/loss"), seen.facts.settings
    if val is None or seen.best is None or seen.train is None or seen.best_train is None:
        return None
    if val <= seen.best + GENERALISATION_LOSS * abs(seen.best) or seen.train >= seen.best_train or not seen.has_learnt:
        return None
    guess = seen.chance or seen.facts.near.get("train/loss") or seen.start
    if guess is not None and val <= seen.best + LOST * (guess - seen.best):
        return None
    if seen.step - seen.best_step < LONG_SHARE * seen.facts.max_steps or seen.is_guessing:
        return None
    numbers = {"val/loss": val, "best_val/loss": seen.best, "best_step": seen.best_step, "train/loss": seen.train}
    meaning = f"the network learns its training samples by heart; validation was best at step {seen.best_step}"
    if seen.chance is not None and seen.best > LEARNT * seen.chance:
        meaning += ", and knew little even then: labels may be wrong (train replay RUN worst=20 shows which)"
    words = [f"max_steps={seen.best_step}"]
    if (decay := seen.facts.number("optimizer.weight_decay")) >= 0:
        words.append(f"optimizer.weight_decay={max(0.01, 10 * decay):.2g}")
    if settings.get("data.augment.crop_padding") == 0 and seen.facts.has_images:
        words.append("data.augment.crop_padding=2")
    kept = (
        " checkpoints/best.pt has the weights of that step." if settings.get("checkpoint.metric") == "val/loss" else ""
    )
    return Sighting(None, numbers, meaning, attempt(words) + kept)


def nothing_carries_over(seen: Seen) -> Sighting | None:
    """The training samples are known, and on others the network has never been better than a guess.

    So it is with random targets, where inputs and targets do not belong together, where the splits are of different
    kinds, and with far more weights than samples.

    Source: C. Zhang et al., "Understanding deep learning requires rethinking generalization" (ICLR 2017), section 2.
    """
    val, known = seen.numbers.get("val/loss"), seen.facts.guess.get("train/loss")
    if val is None or known is None or seen.train is None or not seen.is_guessing or seen.train >= BY_HEART * known:
        return None
    numbers = {"train/loss": seen.train, "val/loss": val, "guess": seen.facts.guess["val/loss"]}
    meaning = (
        "the network knows its training samples by heart, and validation has never been better than a guess: nothing "
        "of what it learns holds for other samples"
    )
    words = []
    if (decay := seen.facts.number("optimizer.weight_decay")) >= 0:
        words.append(f"optimizer.weight_decay={max(0.01, 10 * decay):.2g}")
    advice = "Random targets can only be learnt so. Else look whether each input has its own target, in every split."
    return Sighting(None, numbers, meaning, f"{advice} {attempt(['more samples', *words, 'a smaller network'])}")


# Of a loss that does not fall.
CAUSES = (
    "loss far from chance",
    "frozen layer",
    "no gradient",
    "vanishing gradient",
    "exploding gradient",
    "exploding gradient on the way back",
    "first update too large",
    "learning rate too small",
    "learning rate too large",
    "dead ReLUs",
    "saturated outputs",
)
RULES = (
    Rule(loss_far_from_chance, rank=30),
    Rule(frozen_layer, rank=20),
    Rule(no_gradient, rank=21),
    Rule(vanishing_gradient, records=2, rank=60),
    Rule(exploding_gradient_on_the_way_back, records=2, rank=50),
    Rule(exploding_gradient),
    Rule(first_update_too_large),
    Rule(learning_rate_too_small, records=5, is_long=True, rank=70),
    Rule(dead_relus, records=2),
    Rule(saturated_outputs, records=2),
    Rule(loss_not_falling, records=2),
    Rule(overfitting, records=3, tag="val/loss", rank=90),
    Rule(nothing_carries_over, records=2, tag="val/loss", rank=95),
)
