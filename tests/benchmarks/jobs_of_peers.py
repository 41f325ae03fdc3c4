"""The training of `tutorial.py` by other people's trainers: `python jobs_of_peers.py Lightning '{"data": ...}'`.

They validate after each epoch, keep the best weights, test them and write to TensorBoard what they write by themselves,
which is less than the tutorial writes: the loss and few numbers more.
"""

import json
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any


def lightning(question: dict[str, Any]) -> None:
    import lightning
    import torch
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.loggers import TensorBoardLogger

    import tutorial

    train_set, val_set, test_set = tutorial.SOURCES[question["data"]](question["path"])

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.loss_fn = tutorial.network(question, train_set[0][0]), torch.nn.CrossEntropyLoss()

        def training_step(self, batch: Any, index: int) -> Any:
            loss = self.loss_fn(self.model(batch[0]), batch[1])
            self.log("train/loss", loss)
            return loss

        def validation_step(self, batch: Any, index: int) -> None:
            self._judge("val", batch)

        def test_step(self, batch: Any, index: int) -> None:
            self._judge("test", batch)

        def _judge(self, split: str, batch: Any) -> None:
            outputs = self.model(batch[0])
            self.log(f"{split}/loss", self.loss_fn(outputs, batch[1]))
            self.log(f"{split}/accuracy", (outputs.argmax(1) == batch[1]).float().mean())

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=question.get("lr", 1e-3))

    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=question["epochs"],
        logger=TensorBoardLogger(question["folder"]),
        callbacks=[ModelCheckpoint(monitor="val/loss")],
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=tutorial.LOG_EVERY,
    )
    module = Module()
    trainer.fit(module, tutorial.loader(train_set, 64, shuffle=True), tutorial.loader(val_set, 256))
    trainer.test(module, tutorial.loader(test_set, 256), ckpt_path="best", verbose=False)


def fabric(question: dict[str, Any]) -> None:
    from lightning.fabric import Fabric

    import tutorial

    made = Fabric(accelerator="cpu")
    made.launch()
    tutorial.train(question, made.setup, made.backward)


def accelerate(question: dict[str, Any]) -> None:
    from accelerate import Accelerator

    import tutorial

    made = Accelerator(cpu=True)
    tutorial.train(question, made.prepare, made.backward)


def transformers(question: dict[str, Any]) -> None:
    import torch
    from transformers import Trainer, TrainingArguments

    import tutorial

    train_set, val_set, test_set = tutorial.SOURCES[question["data"]](question["path"])

    class WithLoss(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = tutorial.network(question, train_set[0][0])

        def forward(self, inputs: Any, labels: Any) -> dict[str, Any]:
            outputs = self.model(inputs)
            return {"loss": torch.nn.functional.cross_entropy(outputs, labels), "logits": outputs}

    def collate(samples: list[Any]) -> dict[str, Any]:
        inputs, labels = zip(*samples, strict=True)
        return {"inputs": torch.stack(inputs), "labels": torch.as_tensor(labels)}

    arguments = TrainingArguments(
        output_dir=question["folder"],
        num_train_epochs=question["epochs"],
        per_device_train_batch_size=64,
        per_device_eval_batch_size=256,
        learning_rate=question.get("lr", 1e-3),
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        load_best_model_at_end=True,
        logging_steps=tutorial.LOG_EVERY,
        report_to="tensorboard",
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        dataloader_num_workers=2 if question["data"] == "pictures" else 0,
    )
    trainer = Trainer(
        model=WithLoss(),
        args=arguments,
        train_dataset=train_set,
        eval_dataset=val_set,
        data_collator=collate,
        compute_metrics=lambda found: {"accuracy": float((found.predictions.argmax(1) == found.label_ids).mean())},
    )
    trainer.train()
    trainer.evaluate(test_set, metric_key_prefix="test")


# As `peers.PEERS` calls them: the modules that they need, and what trains with them.
JOBS: dict[str, tuple[tuple[str, ...], Callable[[dict[str, Any]], None]]] = {
    "Lightning": (("lightning",), lightning),
    "Fabric": (("lightning",), fabric),
    "HF Trainer": (("transformers", "accelerate"), transformers),
    "accelerate": (("accelerate",), accelerate),
}


def installed() -> list[str]:
    return [name for name, (modules, _) in JOBS.items() if all(map(find_spec, modules))]


if __name__ == "__main__":
    JOBS[sys.argv[1]][1](json.loads(sys.argv[2]))
