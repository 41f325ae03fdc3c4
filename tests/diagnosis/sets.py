"""Runs with what is wrong with them, written down before they were run. Two sets over other data, networks and numbers.

Thresholds of `trainer.monitor.causes` were chosen on the first set; what is reported is the second.
"""

from typing import NamedTuple


class Case(NamedTuple):
    """
    Args:
        causes: names of rules, any of which is right as the first of the findings; none of a healthy run.
        words: as typed.
    """

    name: str
    causes: tuple[str, ...]
    words: tuple[str, ...]


def _own(model: str, data: str = "", *words: str) -> tuple[str, ...]:
    """`Net(width=8)` as words."""
    found = []
    for group, text in (("model", model), ("data", data)):
        if text:
            name, _, rest = text.partition("(")
            keys = [key for key in rest.rstrip(")").split(",") if key]
            found += [f"{group}._target_=ill.{name}", *(f"{group}.{key}" for key in keys)]
    return (*found, "trust=[ill]", *words)


SGD = ("optimizer=sgd",)
SMALL, LARGE = ("learning rate too small",), ("learning rate too large",)
EXPLODES = (*LARGE, "exploding gradient")
MOMENTUM, CLIP, DECAY = ("momentum too high",), ("clipping throttles",), ("weight decay shrinks the weights",)
SCHEDULE, WARMUP, DROPOUT = ("schedule ended early",), ("warm up missing", *LARGE), ("dropout too high",)
START, EQUAL = ("initialisation too large", "loss far from chance"), ("units start equal",)
DEAD, VANISHING = ("dead units from the start", "dead ReLUs"), ("vanishing gradient",)
NO_GRADIENT, FROZEN = ("no gradient",), ("frozen layer",)
TWICE, INPUTS, TARGETS = ("probabilities into a loss of logits",), ("inputs not scaled",), ("targets not scaled",)
CONSTANT, LABELS = ("targets are constant",), ("labels without a pattern",)
OTHER, RARE = ("labels differ between the splits",), ("one class nearly alone",)
RANDOM = ("nothing carries over",)  # which says that there may be too few samples, too
FEW = ("overfitting", *RANDOM)
SHIFT, NORM = ("splits differ",), ("batch norm of small batches",)
LEAK, ORDER = ("splits share samples",), ("data given in order",)
EMPTY, WORSE = ("columns without content",), ("one class far worse",)

LONG = ("max_steps=400",)
FIRST = [
    # ill
    Case("digits sgd 1e-5", SMALL, ("model=two_layer", *SGD, "optimizer.lr=1e-5")),
    Case("lenet adam 1e-6", SMALL, ("optimizer.lr=1e-6",)),
    Case("blobs adam 1e-6", SMALL, _own("Net", "blobs", "optimizer.lr=1e-6", *LONG)),
    Case("digits adam 1", LARGE, ("model=two_layer", "optimizer.lr=1")),
    Case("lenet adam 0.3", LARGE, ("optimizer.lr=0.3",)),
    Case("lenet sgd 10", EXPLODES, (*SGD, "optimizer.lr=10")),
    Case("blobs sgd 30", EXPLODES, _own("Net(depth=3)", "blobs", *SGD, "optimizer.lr=30", *LONG)),
    Case("transformer adam 0.1", WARMUP, _own("Attention(depth=3)", "waves", "optimizer.lr=0.1", *LONG)),
    Case("lenet momentum 0.999", MOMENTUM, (*SGD, "optimizer.lr=0.1", "optimizer.momentum=0.999")),
    Case(
        "blobs momentum 0.995",
        MOMENTUM,
        _own("Net(depth=3)", "blobs", *SGD, "optimizer.lr=0.5", "optimizer.momentum=0.995", *LONG),
    ),
    Case("lenet clip 1e-4", CLIP, (*SGD, "optimizer.lr=0.1", "gradient.clip_norm=0.0001")),
    Case("blobs clip 1e-3", CLIP, _own("Net", "blobs", *SGD, "optimizer.lr=0.05", "gradient.clip_norm=0.001", *LONG)),
    Case("lenet decay", DECAY, ("optimizer=adamw", "optimizer.lr=0.002", "optimizer.weight_decay=100")),
    Case("digits sgd decay", DECAY, ("model=two_layer", *SGD, "optimizer.lr=0.1", "optimizer.weight_decay=1")),
    Case(
        "lenet step schedule",
        SCHEDULE,
        (
            *SGD,
            "optimizer.lr=0.05",
            "scheduler=step",
            "scheduler.interval=step",
            "scheduler.step_size=4",
            "scheduler.gamma=0.3",
        ),
    ),
    Case(
        "blobs exponential",
        SCHEDULE,
        _own(
            "Net",
            "blobs",
            *SGD,
            "optimizer.lr=0.02",
            "scheduler=exponential",
            "scheduler.interval=step",
            "scheduler.gamma=0.8",
            *LONG,
        ),
    ),
    Case("blobs dropout 0.95", DROPOUT, _own("Net(dropout=0.95)", "blobs", *LONG)),
    Case("lenet dropout 0.97", DROPOUT, ("model.dropout=0.97",)),
    Case("blobs zero weights", EQUAL, _own("Net(start=zero)", "blobs", *LONG)),
    Case("blobs equal weights", EQUAL, _own("Net(start=equal,depth=3)", "blobs(num_classes=8)", *LONG)),
    Case("digits normal 1", START, ("model=two_layer", "model.init=normal", *SGD, "optimizer.lr=0.001")),
    Case("blobs large weights", START, _own("Net(start=large,depth=3)", "blobs", *LONG)),
    Case("blobs dead from the start", DEAD, _own("Net(start=dead)", "blobs", *LONG)),
    Case("12 sigmoids", VANISHING, _own("Net(depth=12,function=Sigmoid)", "blobs", *LONG)),
    Case(
        "16 tanhs", VANISHING, _own("Net(depth=16,function=Sigmoid,width=16)", "rings", *SGD, "optimizer.lr=0.1", *LONG)
    ),
    Case("detached", NO_GRADIENT, _own("Net(broken=detached)", "blobs", *LONG)),
    Case("unused layer", NO_GRADIENT, _own("Net(broken=unused)", "blobs", *LONG)),
    Case("frozen", FROZEN, _own("Net(broken=frozen)", "blobs", *LONG)),
    Case("softmax twice", TWICE, _own("Net(last=Softmax)", "blobs", *LONG)),
    Case("sigmoid before cross-entropy", TWICE, _own("Net(last=Sigmoid)", "blobs", *LONG)),
    Case("inputs x 1000", INPUTS, _own("Net", "blobs(scale=1000)", *SGD, "optimizer.lr=0.05", *LONG)),
    Case("a column x 10000", INPUTS, _own("Net", "blobs(column=10000)", *LONG)),
    Case("inputs / 1000", INPUTS, _own("Net", "blobs(scale=0.001)", *SGD, "optimizer.lr=0.05", *LONG)),
    Case("targets x 1000", TARGETS, _own("Regression", "line(scale=1000)", "loss=mse", *LONG)),
    Case("targets + 500", TARGETS, _own("Regression", "line(offset=500)", "loss=mse", *LONG)),
    Case("targets constant", CONSTANT, _own("Regression", "line(constant=true)", "loss=mse", *LONG)),
    Case("labels shuffled", LABELS, _own("Net(width=128)", "blobs(noise=1)", "max_steps=1000")),
    Case("val labels shuffled", OTHER, _own("Net", "blobs(val_labels=shuffled)", *LONG)),
    Case("val labels off by one", OTHER, _own("Net", "blobs(val_labels=off)", *LONG)),
    Case("one class 97 %", RARE, _own("Net(width=8)", "blobs(largest=0.96,spread=3)", "optimizer.lr=0.001", *LONG)),
    Case(
        "digits 20 samples",
        FEW,
        ("model=two_layer", "optimizer.lr=0.01", "data.limit=20", "max_steps=600", "eval_every=20"),
    ),
    Case(
        "blobs 90 samples",
        FEW,
        _own("Net(width=256)", "blobs(num_samples=90,spread=4)", "max_steps=600", "optimizer.lr=0.01", "eval_every=20"),
    ),
    Case("shifted val", SHIFT, _own("Net", "blobs(shift=4)", *LONG)),
    Case(
        "batch norm of 2",
        NORM,
        _own("Conv(depth=4)", "stripes(spread=4)", "batch_size=2", "max_steps=600", "optimizer.lr=0.01"),
    ),
    Case("blobs leak", LEAK, _own("Net", "spoilt(of=blobs,leak=0.5)", *LONG)),
    Case("blobs in order", ORDER, _own("Net", "spoilt(of=blobs,order=true)", *LONG)),
    Case("blobs of one column", EMPTY, _own("Net", "spoilt(of=blobs,empty=11)", *LONG)),
    Case("blobs mislabelled", WORSE, _own("Net", "spoilt(of=blobs,mislabelled=0.8)", *LONG)),
    # healthy
    Case("blobs leak of three", (), _own("Net", "spoilt(of=blobs,leak=0.015)", *LONG)),
    Case("blobs, three columns empty", (), _own("Net", "spoilt(of=blobs,empty=3)", *LONG)),
    Case("blobs, a class is rare", (), _own("Net", "spoilt(of=blobs,rare=0.7)", *LONG)),
    Case("lenet", (), ()),
    Case("digits two_layer", (), ("model=two_layer",)),
    Case("digits sgd 0.1", (), ("model=two_layer", *SGD, "optimizer.lr=0.1", "max_epochs=40")),
    Case("lenet momentum", (), (*SGD, "optimizer.lr=0.02", "optimizer.momentum=0.9")),
    Case("lenet clip 1", (), (*SGD, "optimizer.lr=0.1", "gradient.clip_norm=1", "max_epochs=40")),
    Case("lenet adamw 0.01", (), ("optimizer=adamw", "optimizer.weight_decay=0.1")),
    Case("lenet cosine", (), ("scheduler=cosine",)),
    Case("lenet one_cycle", (), ("scheduler=one_cycle",)),
    Case("lenet dropout 0.5", (), ("model.dropout=0.5",)),
    Case("blobs", (), _own("Net", "blobs", *LONG)),
    Case("blobs weak signal", (), _own("Net(width=16)", "blobs(spread=9,num_samples=4000)", "max_steps=300")),
    Case("blobs x 5", (), _own("Net", "blobs(scale=5)", *LONG)),
    Case("blobs 85 %", (), _own("Net", "blobs(largest=0.8,spread=0.5)", "max_steps=600")),
    Case("blobs noisy labels", (), _own("Net", "blobs(noise=0.2,num_samples=3000)", *LONG)),
    Case("rings", (), _own("Net(width=64)", "rings", "max_steps=600", "optimizer.lr=0.01")),
    Case("waves lstm", (), _own("Recurrent", "waves", "max_steps=400", "optimizer.lr=0.01")),
    Case("waves transformer", (), _own("Attention", "waves", "max_steps=400")),
    Case("stripes conv", (), _own("Conv", "stripes", "max_steps=300", "optimizer.lr=0.01")),
    Case("line", (), _own("Regression", "line", "loss=mse", *LONG)),
    Case("line weak", (), _own("Regression(width=8)", "line(noise=3,num_samples=3000)", "loss=mse", "max_steps=300")),
    Case("trained before", (), _own("Trained", "blobs", "optimizer.lr=0.0005", *LONG)),
    Case(
        "20 layers kaiming",
        (),
        _own("Net(depth=16,width=64)", "blobs", "model.init=kaiming", "optimizer.lr=0.0005", "max_steps=500"),
    ),
    Case("no function between", (), _own("Net(function=Identity)", "blobs", *LONG)),
    Case("batch of 8 normed", (), _own("Net(norm=true)", "blobs", "batch_size=8", "max_steps=600")),
    Case("sgd 1 blobs", (), _own("Net", "blobs", *SGD, "optimizer.lr=0.5", *LONG)),
]
SECOND = [
    # ill
    Case("rings sgd 1e-6", SMALL, _own("Net(depth=3)", "rings", *SGD, "optimizer.lr=1e-6", *LONG)),
    Case("stripes conv adam 1e-7", SMALL, _own("Conv", "stripes", "optimizer.lr=1e-7", "max_steps=200")),
    Case("waves lstm sgd 1e-5", SMALL, _own("Recurrent", "waves", *SGD, "optimizer.lr=1e-5", "max_steps=300")),
    Case("rings adam 3", LARGE, _own("Net(depth=3,width=64)", "rings", "optimizer.lr=3", *LONG)),
    Case("stripes plain conv adam 1", LARGE, _own("Conv(norm=false)", "stripes", "optimizer.lr=1", "max_steps=200")),
    Case("digits adamw 0.5", LARGE, _own("Net(width=64)", "", "optimizer=adamw", "optimizer.lr=0.5")),
    Case("stripes sgd 50", EXPLODES, _own("Conv(norm=false)", "stripes", *SGD, "optimizer.lr=50", "max_steps=200")),
    Case("line sgd 20", EXPLODES, _own("Regression(depth=3)", "line", "loss=mse", *SGD, "optimizer.lr=20", *LONG)),
    Case(
        "transformer adam 0.3", WARMUP, _own("Attention", "waves(num_classes=3)", "optimizer.lr=0.3", "max_steps=250")
    ),
    Case(
        "rings momentum 0.998",
        MOMENTUM,
        _own("Net(width=64)", "rings", *SGD, "optimizer.lr=0.3", "optimizer.momentum=0.998", *LONG),
    ),
    Case(
        "stripes momentum 0.999",
        MOMENTUM,
        _own("Conv(norm=false)", "stripes", *SGD, "optimizer.lr=0.3", "optimizer.momentum=0.999", "max_steps=300"),
    ),
    Case(
        "rings clip 1e-4",
        CLIP,
        _own("Net(depth=3)", "rings", *SGD, "optimizer.lr=0.1", "gradient.clip_norm=0.0001", *LONG),
    ),
    Case(
        "stripes clip 3e-4",
        CLIP,
        _own("Conv", "stripes", *SGD, "optimizer.lr=0.05", "gradient.clip_norm=0.0003", "max_steps=200"),
    ),
    Case(
        "rings adamw decay 50",
        DECAY,
        _own("Net(depth=3)", "rings", "optimizer=adamw", "optimizer.lr=0.003", "optimizer.weight_decay=50", *LONG),
    ),
    Case(
        "stripes sgd decay 2",
        DECAY,
        _own("Conv(norm=false)", "stripes", *SGD, "optimizer.lr=0.05", "optimizer.weight_decay=2", "max_steps=300"),
    ),
    Case(
        "rings step schedule",
        SCHEDULE,
        _own(
            "Net(width=64)",
            "rings",
            *SGD,
            "optimizer.lr=0.05",
            "scheduler=step",
            "scheduler.interval=step",
            "scheduler.step_size=5",
            "scheduler.gamma=0.2",
            "max_steps=500",
        ),
    ),
    Case(
        "lenet multistep",
        SCHEDULE,
        (
            *SGD,
            "optimizer.lr=0.03",
            "scheduler=multistep",
            "scheduler.interval=step",
            "scheduler.milestones=[10,20]",
            "scheduler.gamma=0.01",
        ),
    ),
    Case("rings dropout 0.95", DROPOUT, _own("Net(depth=3,width=64,dropout=0.95)", "rings", *LONG)),
    Case("stripes dropout 0.98", DROPOUT, _own("Conv(dropout=0.98)", "stripes", "max_steps=200")),
    Case("rings zero weights", EQUAL, _own("Net(depth=3,start=zero,function=Tanh)", "rings", *LONG)),
    Case("digits equal weights", EQUAL, _own("Net(depth=2,start=equal,width=48)", "", "max_steps=300")),
    Case("stripes large weights", START, _own("Conv(norm=false,start=large)", "stripes", *SGD, "max_steps=200")),
    Case("digits large weights", START, _own("Net(start=large,width=64,depth=2)", "", "max_steps=300")),
    Case("rings dead from the start", DEAD, _own("Net(depth=2,width=64,start=dead)", "rings", *LONG)),
    Case("digits 15 sigmoids", VANISHING, _own("Net(depth=15,function=Sigmoid)", "", *LONG)),
    Case(
        "rings 10 sigmoids sgd",
        VANISHING,
        _own("Net(depth=10,function=Sigmoid)", "rings", *SGD, "optimizer.lr=0.3", *LONG),
    ),
    Case("digits detached", NO_GRADIENT, _own("Net(broken=detached,depth=3)", "", "max_steps=300")),
    Case("rings unused layer", NO_GRADIENT, _own("Net(broken=unused,width=48)", "rings", *LONG)),
    Case("digits frozen", FROZEN, _own("Net(broken=frozen,width=64)", "", "max_steps=300")),
    Case("digits softmax twice", TWICE, _own("Net(last=Softmax,width=64)", "", *LONG)),
    Case("rings sigmoid twice", TWICE, _own("Net(last=Sigmoid)", "rings(num_classes=6,fuzz=0.4)", *LONG)),
    Case("rings x 3000", INPUTS, _own("Net", "rings(scale=3000)", *SGD, "optimizer.lr=0.05", *LONG)),
    Case("rings / 2000", INPUTS, _own("Net(width=64)", "rings(scale=0.0005)", *SGD, "optimizer.lr=0.1", *LONG)),
    Case(
        "line inputs x 500",
        INPUTS,
        _own("Regression", "line(inputs_scale=500)", "loss=mse", *SGD, "optimizer.lr=0.01", *LONG),
    ),
    Case("line targets x 300", TARGETS, _own("Regression(width=16)", "line(scale=300)", "loss=mse", *LONG)),
    Case("line targets - 2000", TARGETS, _own("Regression", "line(offset=-2000)", "loss=l1", *LONG)),
    Case(
        "line targets constant",
        CONSTANT,
        _own("Regression(width=16)", "line(constant=true)", "loss=l1", "max_steps=200"),
    ),
    Case("waves labels random", LABELS, _own("Recurrent", "waves(noise=1)", "max_steps=400", "optimizer.lr=0.01")),
    Case(
        "rings labels random", LABELS, _own("Net(width=256)", "rings(noise=1)", "max_steps=800", "optimizer.lr=0.005")
    ),
    Case(
        "rings val shuffled",
        OTHER,
        _own("Net(width=64)", "rings(val_labels=shuffled)", "max_steps=500", "optimizer.lr=0.01"),
    ),
    Case(
        "rings val off by one",
        OTHER,
        _own("Net(width=64)", "rings(val_labels=off)", "max_steps=500", "optimizer.lr=0.01"),
    ),
    Case(
        "blobs 2 classes 96 %",
        RARE,
        _own("Net(width=8)", "blobs(num_classes=2,largest=0.93,spread=4,seed=7)", "optimizer.lr=0.001", *LONG),
    ),
    Case(
        "rings 60 samples",
        FEW,
        _own("Net(width=256)", "rings(num_samples=60,fuzz=0.6)", "max_steps=800", "optimizer.lr=0.01", "eval_every=20"),
    ),
    Case("lenet 30 samples", FEW, ("data.limit=30", "max_steps=500", "eval_every=20")),
    Case("shipped tutorial", RANDOM, ("experiment=seed_two_layer", "max_steps=300")),
    Case("rings shifted", SHIFT, _own("Net(width=64)", "rings(shift=5)", "max_steps=500", "optimizer.lr=0.01")),
    Case(
        "stripes batch norm of 2",
        NORM,
        _own("Conv(depth=5)", "stripes(spread=2.5,seed=9)", "batch_size=2", "max_steps=500", "optimizer.lr=0.02"),
    ),
    Case("waves leak", LEAK, _own("Recurrent", "spoilt(of=waves,leak=0.2)", "max_steps=400", "optimizer.lr=0.01")),
    Case("stripes leak", LEAK, _own("Conv", "spoilt(of=stripes,leak=0.9)", "max_steps=300", "optimizer.lr=0.01")),
    Case("rings in order", ORDER, _own("Net(width=64)", "spoilt(of=rings,order=true)", "max_steps=400")),
    Case("stripes in order", ORDER, _own("Conv", "spoilt(of=stripes,order=true)", "max_steps=300")),
    Case("rings of one column", EMPTY, _own("Net(width=64)", "spoilt(of=rings,empty=3)", "max_steps=400")),
    Case(
        "stripes mislabelled",
        WORSE,
        _own("Conv", "spoilt(of=stripes,mislabelled=0.9)", "max_steps=400", "optimizer.lr=0.01"),
    ),
    Case(
        "rings, a class nearly missing",
        WORSE,
        _own("Net(width=64)", "spoilt(of=rings,rare=0.98)", "max_steps=400", "optimizer.lr=0.01"),
    ),
    # healthy
    Case("rings, half of it empty", (), _own("Net(width=64)", "spoilt(of=rings,empty=2)", "max_steps=400")),
    Case("rings leak of five", (), _own("Net(width=64)", "spoilt(of=rings,leak=0.02)", "max_steps=400")),
    Case("rings, a class is rarer", (), _own("Net(width=64)", "spoilt(of=rings,rare=0.4)", "max_steps=400")),
    Case("stripes, a class is rare", (), _own("Conv", "spoilt(of=stripes,rare=0.6)", "max_steps=400")),
    Case("digits own net", (), _own("Net(width=64)", "", *LONG)),
    Case("digits own deep net", (), _own("Net(width=64,depth=5)", "", *LONG)),
    Case("digits tanh", (), _own("Net(function=Tanh,width=64)", "", *LONG)),
    Case("digits sigmoid", (), _own("Net(function=Sigmoid,depth=1,width=64)", "", "optimizer.lr=0.01", *LONG)),
    Case("digits normed", (), _own("Net(norm=true,width=64)", "", *LONG)),
    Case("digits dropout 0.3", (), _own("Net(dropout=0.3,width=128)", "", *LONG)),
    Case("digits rmsprop", (), ("model=two_layer", "optimizer=rmsprop")),
    Case("digits nadam", (), ("model=two_layer", "optimizer=nadam")),
    Case("digits adagrad", (), ("model=two_layer", "optimizer=adagrad")),
    Case("lenet warm-up", (), ("scheduler=warmup_cosine", "scheduler.warmup_steps=50")),
    Case("lenet exponential", (), ("scheduler=exponential", "scheduler.gamma=0.9")),
    Case("lenet sgd nesterov", (), (*SGD, "optimizer.lr=0.02", "optimizer.momentum=0.9", "optimizer.nesterov=true")),
    Case("lenet label smoothing", (), ("loss.label_smoothing=0.1",)),
    Case("lenet batch 8", (), ("batch_size=8", "max_epochs=4")),
    Case("lenet accumulate", (), ("batch_size=16", "gradient.accumulate=4")),
    Case("lenet other seed", (), ("seed=3", "model.dropout=0.2")),
    Case("digits bce", (), ("model=two_layer", "loss=bce_with_logits")),
    Case("digits mse", (), ("model=two_layer", "loss=mse")),
    Case("digits full batch", (), ("model=two_layer", "batch_size=full", "max_steps=300", "optimizer.lr=0.01")),
    Case("rings deep", (), _own("Net(depth=3,width=48)", "rings", "max_steps=500", "optimizer.lr=0.005")),
    Case("rings x 3", (), _own("Net(width=64)", "rings(scale=3)", "max_steps=500", "optimizer.lr=0.005")),
    Case("rings noisy", (), _own("Net(width=64)", "rings(noise=0.15)", "max_steps=600", "optimizer.lr=0.01")),
    Case(
        "rings fuzzy",
        (),
        _own("Net(width=32)", "rings(fuzz=0.7,num_samples=4000)", "max_steps=500", "optimizer.lr=0.005"),
    ),
    Case(
        "waves lstm of two",
        (),
        _own("Recurrent(layers=2)", "waves(num_classes=3)", "max_steps=400", "optimizer.lr=0.01"),
    ),
    Case(
        "waves transformer first",
        (),
        _own("Attention(norm_first=true)", "waves(num_classes=3)", "max_steps=300", "optimizer.lr=0.002"),
    ),
    Case(
        "transformer warm-up",
        (),
        _own(
            "Attention",
            "waves",
            "max_steps=300",
            "optimizer.lr=0.003",
            "scheduler=warmup_cosine",
            "scheduler.warmup_steps=50",
        ),
    ),
    Case(
        "stripes plain conv", (), _own("Conv(norm=false)", "stripes(spread=0.4)", "max_steps=400", "optimizer.lr=0.005")
    ),
    Case("stripes batch 16", (), _own("Conv", "stripes", "batch_size=16", "max_steps=300", "optimizer.lr=0.005")),
    Case("line l1", (), _own("Regression", "line", "loss=l1", *LONG)),
    Case("line huber x 3", (), _own("Regression", "line(scale=3)", "loss=huber", *LONG)),
    Case(
        "line weak signal",
        (),
        _own("Regression(width=8)", "line(noise=4,num_samples=4000,seed=8)", "loss=mse", "max_steps=250"),
    ),
    Case("line sgd", (), _own("Regression", "line(seed=9)", "loss=mse", *SGD, "optimizer.lr=0.05", *LONG)),
    Case(
        "blobs binary weak",
        (),
        _own("Net(width=8)", "blobs(num_classes=2,spread=12,num_samples=6000,seed=5)", "max_steps=300"),
    ),
    Case("blobs 75 %", (), _own("Net", "blobs(largest=0.65,spread=0.7,seed=6)", "max_steps=500")),
    Case("blobs linear", (), _own("Net(depth=1,function=Identity)", "blobs(seed=3)", *LONG)),
    Case("trained before, sgd", (), _own("Trained", "blobs", *SGD, "optimizer.lr=0.001", "max_steps=300")),
]
SETS = {"first": FIRST, "second": SECOND}
