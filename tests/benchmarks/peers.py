"""Other people's trainers at the same works, for them at their best: `python peers.py <name>`, see `PEERS`.

Everything that can be switched off is: logging, checkpoints, progress bars, validation. All of them get the tutorial's
model, and a loader that makes all steps one epoch, since some of them take long from one epoch to the next; a full
batch comes whole out of it. A process that stays, and is asked for one work after another.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from processes import Kept, answer_questions
from works import WORKS, Work

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.utils.data import DataLoader, Dataset

WARM_UP = 20  # steps that do not count
times: list[float] = []  # at the start of each step: when the model is called


class Prepared:
    """A work as a trainer takes it; shapes, optimizer and data are those of `bare.py`."""

    def __init__(self, work: Work, num_steps: int) -> None:
        import torch

        import bare

        self.work, self.num_steps = work, num_steps
        self.model = timed(bare.model_of(work))
        self.loss_fn = bare.loss_of(work)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=work.lr, momentum=work.momentum)
        self.inputs, self.targets = bare.data_of(work)

    def dataset(self) -> "Dataset[tuple[Tensor, Tensor]]":
        """So many samples, or so many full batches, that one epoch has all steps."""
        from torch.utils.data import TensorDataset

        work, num_steps, inputs, targets = self.work, self.num_steps, self.inputs, self.targets

        class Repeated(TensorDataset):
            def __len__(self) -> int:
                return num_steps * (work.batch_size or 1)

            def __getitem__(self, index: int) -> tuple["Tensor", ...]:
                return (inputs, targets) if work.is_full_batch else super().__getitem__(index % work.num_samples)

        return Repeated(inputs, targets)  # type: ignore[return-value]  # two of them

    def loader(self) -> "DataLoader[tuple[Tensor, Tensor]]":
        from torch.utils.data import DataLoader

        return DataLoader(self.dataset(), batch_size=self.work.batch_size, shuffle=not self.work.is_full_batch)


def timed(model: "nn.Module") -> "nn.Module":
    """The model, which notes the time when it is called."""
    kind: Any = type(model)

    class Timed(kind):
        def forward(self, inputs: "Tensor") -> "Tensor":
            times.append(time.perf_counter())
            outputs: Tensor = super().forward(inputs)
            return outputs

    model.__class__ = Timed
    return model


def lightning(work: Prepared) -> None:
    import lightning
    import torch

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = work.model

        def training_step(self, batch: "list[Tensor]", index: int) -> "Tensor":
            loss: Tensor = work.loss_fn(self.model(batch[0]), batch[1])
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return work.optimizer

    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=work.num_steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Module(), work.loader())


def fabric(work: Prepared) -> None:
    from lightning.fabric import Fabric

    made = Fabric(accelerator="cpu")
    made.launch()
    model, optimizer = made.setup(work.model, work.optimizer)
    for inputs, targets in made.setup_dataloaders(work.loader()):
        loss = work.loss_fn(model(inputs), targets)
        optimizer.zero_grad()
        made.backward(loss)
        optimizer.step()


def transformers(work: Prepared) -> None:
    import torch
    from transformers import Trainer, TrainingArguments

    class WithLoss(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = work.model

        def forward(self, inputs: "Tensor", targets: "Tensor") -> "dict[str, Tensor]":
            return {"loss": work.loss_fn(self.model(inputs), targets)}

    def collate(samples: "list[tuple[Tensor, Tensor]]") -> "dict[str, Tensor]":
        if work.work.is_full_batch:
            return {"inputs": samples[0][0], "targets": samples[0][1]}
        inputs, targets = zip(*samples, strict=True)
        return {"inputs": torch.stack(inputs), "targets": torch.stack(targets)}

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=work.num_steps,
            per_device_train_batch_size=work.work.batch_size or 1,
            use_cpu=True,
            report_to="none",
            logging_strategy="no",
            save_strategy="no",
            disable_tqdm=True,
            max_grad_norm=0.0,
            dataloader_pin_memory=False,
            remove_unused_columns=False,
        )
        constant = torch.optim.lr_scheduler.LambdaLR(work.optimizer, lambda step: 1.0)
        Trainer(
            model=WithLoss(),
            args=arguments,
            train_dataset=work.dataset(),
            data_collator=collate,
            optimizers=(work.optimizer, constant),
        ).train()


def accelerate(work: Prepared) -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model, optimizer, loader = accelerator.prepare(work.model, work.optimizer, work.loader())
    for inputs, targets in loader:
        loss = work.loss_fn(model(inputs), targets)
        optimizer.zero_grad()
        accelerator.backward(loss)
        optimizer.step()


def ignite(work: Prepared) -> None:
    from ignite.engine import create_supervised_trainer

    create_supervised_trainer(work.model, work.optimizer, work.loss_fn).run(work.loader(), max_epochs=1)


def skorch(work: Prepared) -> None:
    import torch
    from skorch import NeuralNet

    NeuralNet(
        work.model,
        criterion=work.loss_fn,
        optimizer=torch.optim.SGD,
        lr=work.work.lr,
        optimizer__momentum=work.work.momentum,
        train_split=None,
        iterator_train__batch_size=work.work.batch_size,
        iterator_train__shuffle=not work.work.is_full_batch,
        max_epochs=1,
        verbose=0,
        callbacks="disable",
    ).fit(work.dataset(), None)


def keras(work: Prepared) -> None:
    os.environ["KERAS_BACKEND"] = "torch"
    import keras
    from keras import layers

    class Timed(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch: int, logs: object = None) -> None:
            times.append(time.perf_counter())

    of = work.work
    first = {"data_format": "channels_first"}
    networks: dict[str, list[Any]] = {
        "two_layer": [layers.Dense(100, "relu", use_bias=False), layers.Dense(10, use_bias=False)],
        "digits": [layers.Dense(32, "relu"), layers.Dense(10)],
        "lenet": [
            layers.Conv2D(6, 5, activation="relu", **first),
            layers.MaxPooling2D(2, **first),
            layers.Conv2D(16, 5, activation="relu", **first),
            layers.MaxPooling2D(2, **first),
            layers.Flatten(),
            layers.Dense(120, "relu"),
            layers.Dense(84, "relu"),
            layers.Dense(10),
        ],
    }
    model = keras.Sequential([layers.Input(of.shape), *networks[of.name]])
    loss: Any = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    if of.is_full_batch:

        def loss(targets: Any, outputs: Any) -> Any:
            return keras.ops.sum((targets - outputs) ** 2)

    model.compile(keras.optimizers.SGD(of.lr, of.momentum), loss)
    model.fit(work.loader(), epochs=1, verbose=0, callbacks=[Timed()])


# Name in the table, its module, its package and what trains with it.
PEERS: dict[str, tuple[str, str, Callable[[Prepared], None]]] = {
    "Lightning": ("lightning", "lightning", lightning),
    "Fabric": ("lightning", "lightning", fabric),
    "HF Trainer": ("transformers", "transformers", transformers),
    "accelerate": ("accelerate", "accelerate", accelerate),
    "ignite": ("ignite", "pytorch-ignite", ignite),
    "skorch": ("skorch", "skorch", skorch),
    "Keras": ("keras", "keras", keras),
}
PACKAGES = list(dict.fromkeys(package for _, package, _ in PEERS.values()))


def installed() -> dict[str, Kept]:
    """Their processes, which are started when they are asked for something."""
    return {name: Kept("peers.py", name) for name, (module, _, _) in PEERS.items() if find_spec(module)}


def seconds_per_step(fit: Callable[[Prepared], None], question: dict[str, Any]) -> float:
    import torch

    torch.set_num_threads(question["threads"])
    times.clear()
    fit(Prepared(WORKS[question["work"]], WARM_UP + question["steps"] + 1))
    if len(times) != WARM_UP + question["steps"] + 1:
        raise ValueError(f"{len(times)} steps were made, {WARM_UP + question['steps'] + 1} were asked for")
    return (times[-1] - times[WARM_UP]) / question["steps"]


def main() -> None:
    fit = PEERS[sys.argv[1]][2]
    answer_questions(lambda question: seconds_per_step(fit, question))


if __name__ == "__main__":
    main()
