"""The works that everybody is timed on: what is typed for `train`, and the same in numbers for all others."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Work:
    """A network, its data and plain gradient descent.

    Args:
        title: in the table.
        words: what `train` is told.
        num_samples, shape: of the training split and of one sample.
        batch_size: None is the whole split.
        num_steps: that are timed; a multiple of `period` for `train`, so that all of its logging has its share.
        period: steps from one histogram of `train` to the next.
    """

    name: str
    title: str
    words: tuple[str, ...]
    num_samples: int
    shape: tuple[int, ...]
    batch_size: int | None
    lr: float
    momentum: float
    num_steps: int
    period: int = 500

    @property
    def is_full_batch(self) -> bool:
        return self.batch_size is None

    def shorter(self) -> "Work":
        return replace(self, num_steps=self.period)


SGD = ("optimizer=sgd", "optimizer.lr=0.01", "optimizer.momentum=0.9")
WORKS = {
    work.name: work
    for work in (
        Work(
            "two_layer",
            "two-layer 64-1000-100-10, full batch",
            ("experiment=seed_two_layer", "optimizer.lr=1e-7"),
            num_samples=64,
            shape=(1000,),
            batch_size=None,
            lr=1e-7,
            momentum=0.0,
            num_steps=2000,
        ),
        Work(
            "digits",
            "digits MLP 64-32-10, batch 64",
            ("model=two_layer", "model.hidden_features=32", "data=digits", *SGD),
            num_samples=1258,
            shape=(64,),
            batch_size=64,
            lr=0.01,
            momentum=0.9,
            num_steps=3000,
        ),
        Work(
            "lenet",
            "LeNet 1x32x32, batch 64",
            ("model=lenet", "data=digits", *SGD),
            num_samples=1258,
            shape=(1, 32, 32),
            batch_size=64,
            lr=0.01,
            momentum=0.9,
            num_steps=500,
        ),
    )
}
