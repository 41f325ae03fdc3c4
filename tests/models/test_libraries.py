"""Models of other libraries by their names. Each test needs its library, and is left out where that is missing."""

import importlib
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from exact import assert_same, states
from trainer.errors import UserError

Train = Callable[..., dict[str, Any]]
QUIET = ("monitor=off", "threads=1", "max_steps=2", "data.limit=64", "batch_size=16")
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "patch_size": 4}
VIT = ("model=hf", "model.name=vit", *(f"model.{key}={size}" for key, size in SIZES.items()))

with_hf = pytest.mark.skipif(not importlib.util.find_spec("transformers"), reason="needs transformers")
with_timm = pytest.mark.skipif(not importlib.util.find_spec("timm"), reason="needs timm")
with_vision = pytest.mark.skipif(not importlib.util.find_spec("torchvision"), reason="needs torchvision")


@with_hf
def test_a_model_of_transformers_trains_by_its_own_loss_or_torchs(train: Train) -> None:
    """The same numbers: its loss is cross-entropy."""
    own = train(*QUIET, *VIT, "loss=of_model", "name=own")
    torchs = train(*QUIET, *VIT, "loss=cross_entropy", "name=torchs")
    tags = ("val/loss", "val/accuracy", "test/loss", "test/accuracy")
    assert {tag: own[tag] for tag in tags} == pytest.approx({tag: torchs[tag] for tag in tags}, rel=1e-5)
    assert own["num_parameters"] == 16 * 16 + 16 + 5 * 16 + 16 + 4 * (16 * 16 + 16) + 2 * 16 * 32 + 48 + 6 * 16 + 170


@with_hf
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("model.name=vitt",), r"^model.name=vitt: is no folder .* Did you mean vit\?$"),
        (
            ("model.hidden_siz=16",),
            r"^model=hf: vit got an unexpected keyword argument 'hidden_siz'. Did you mean",
        ),
        (("model.task=causal_lm",), r"^model.task=causal_lm: vit has no such model; it has image_classification\.$"),
        (("model.task=lm",), r"^model.task=lm: must be auto, .*"),
    ],
)
def test_what_transformers_lacks_is_a_line(words: tuple[str, ...], message: str, train: Train) -> None:
    with pytest.raises(UserError, match=message):
        train(*QUIET, *VIT, *words)


@with_hf
def test_a_folder_of_transformers_gets_a_new_head_for_other_classes(tmp_path: Path) -> None:
    """It was refused: "You set `ignore_mismatched_sizes` to `False`"."""
    from trainer.models.libraries import transformers

    transformers("vit", num_classes=10, in_channels=1, image_size=8, **SIZES).save_pretrained(tmp_path)
    first, same, other = (transformers(str(tmp_path), num_classes=n).state_dict() for n in (10, 10, 3))
    assert other["classifier.weight"].shape == (3, 16)
    for name, tensor in first.items():
        assert torch.equal(same[name], tensor)
        assert torch.equal(other[name], tensor) != name.startswith("classifier."), name


TEXTS = """
import torch
from trainer import Data
def pad(items):
    length = max(len(item["input_ids"]) for item in items)
    ids = torch.zeros(len(items), length, dtype=torch.long)
    for row, item in zip(ids, items):
        row[: len(item["input_ids"])] = item["input_ids"]
    return {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": torch.tensor([i["labels"] for i in items])}
def data():
    draw = torch.Generator().manual_seed(0)
    rows = [torch.randint(1, 12, (3 + i % 5,), generator=draw) for i in range(60)]
    items = [{"input_ids": row, "labels": int((row == 7).any())} for row in rows]
    return Data(items[:40], items[40:50], items[50:], collate_fn=pad)
"""


@with_hf
def test_texts_that_are_padded_go_to_a_model_of_transformers_with_their_mask(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss is that of the sentences one by one, without padding."""
    import trainer

    (tmp_path / "texts.py").write_text(TEXTS)
    monkeypatch.syspath_prepend(tmp_path)
    keys = (f"model.{key}={size}" for key, size in {**SIZES, "vocab_size": 12}.items() if key != "patch_size")
    words = ("model=hf", "model.name=bert", *keys, "data._target_=texts.data", "trust=[texts]", "loss=of_model")
    result = train("monitor=off", "max_steps=3", "batch_size=16", *words, "name=texts")
    model, items = trainer.load("texts", trust=["texts"]), importlib.import_module("texts").data().test
    alone = [
        model.network(item["input_ids"][None], labels=torch.tensor([item["labels"]])).loss.item() for item in items
    ]
    assert result["test/loss"] == pytest.approx(sum(alone) / len(alone), rel=1e-5)


@with_timm
@pytest.mark.parametrize(
    "words",
    [
        ("model.name=resnet18", "model.image_size=32"),
        ("model.name=vit_tiny_patch16_224", "model.depth=1", "model.patch_size=4", "model.embed_dim=24"),
    ],
)
def test_a_model_of_timm_is_told_of_the_data(words: tuple[str, ...], train: Train) -> None:
    assert train(*QUIET, "model=timm", *words)["steps"] == 2
    with pytest.raises(UserError, match="unexpected keyword argument 'dept'"):
        train(*QUIET, "model=timm", *words, "model.dept=2")


@with_vision
def test_a_model_of_torchvision_is_told_of_the_data(train: Train) -> None:
    words = ("model=torchvision", "model.name=mobilenet_v3_small", "model.image_size=32", "model.dropout=0.1")
    assert train(*QUIET, *words)["num_parameters"] == 1_528_106
    with pytest.raises(UserError, match=r"^model.name=mobilenet: there is no such model. Did you mean mobilenet"):
        train(*QUIET, *words, "model.name=mobilenet")


@with_vision
def test_a_model_of_torchvision_for_one_size_is_made_for_that_of_the_data(train: Train) -> None:
    from trainer.models.libraries import torchvision

    with torch.device("meta"):  # 88 million numbers
        model: Any = torchvision("vit_b_32", num_classes=3, image_size=64)
    assert (model.image_size, model.encoder.pos_embedding.shape) == (64, (1, 5, 768))
    with pytest.raises(UserError, match=r"^model=torchvision: Input shape indivisible by patch size!$"):
        train(*QUIET, "model=torchvision", "model.name=vit_b_32", "model.image_size=40")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The default weight initialization:FutureWarning")
@with_vision
def test_what_fails_in_training_alone_is_a_line(train: Train) -> None:
    """It was a traceback: Inception has one output more while it trains, which wants more than 96 pixels."""
    words = (*QUIET, "model=torchvision", "model.name=inception_v3", "max_steps=1", "data.limit=4", "batch_size=2")
    with pytest.raises(
        UserError, match=r"^model=torchvision: RuntimeError: Given input size: .* model\.image_size= or"
    ):
        train(*words, "model.image_size=96")
    assert train(*words, "model.image_size=128")["steps"] == 1


@with_vision
def test_no_weights_of_a_backbone_are_fetched_unasked() -> None:
    from trainer.models.libraries import torchvision

    with torch.device("meta"):
        assert torchvision("lraspp_mobilenet_v3_large", num_classes=3)


@with_vision
def test_a_frozen_backbone_takes_weights_from_a_file(train: Train, capfd: pytest.CaptureFixture[str]) -> None:
    from trainer.models.libraries import torchvision

    torch.save(torchvision("mobilenet_v3_small", num_classes=4).state_dict(), "some.pt")
    target = "model.backbone._target_=trainer.models.libraries.torchvision"
    words = ("model=frozen", target, "model.backbone.name=mobilenet_v3_small", "model.in_channels=3")
    train(*QUIET, *words, "model.image_size=32", "model.weights=some.pt")
    assert "model.weights=some.pt: 242 of 244 tensors are taken from it." in capfd.readouterr().out
    with pytest.raises(UserError, match=r"^model.backbone.weights=some.pt: .* Type model.weights=some.pt.$"):
        train(*QUIET, *words, "model.backbone.weights=some.pt")


@with_hf
def test_a_frozen_backbone_for_images_is_one_for_images(train: Train) -> None:
    keys = [f"model.backbone.{key}={size}" for key, size in SIZES.items()]
    target = "model.backbone._target_=trainer.models.libraries.transformers"
    assert train(*QUIET, "model=frozen", target, "model.backbone.name=vit", *keys)["num_trainable"] == 10 * 17


DAY = [
    pytest.param(VIT, marks=with_hf, id="transformers"),
    pytest.param(("model=timm", "model.name=resnet18", "model.drop_rate=0.2"), marks=with_timm, id="timm"),
    pytest.param(
        ("model=torchvision", "model.name=mobilenet_v3_small", "model.image_size=32", "model.dropout=0.3"),
        marks=with_vision,
        id="torchvision",
    ),
]


@pytest.mark.long
@pytest.mark.parametrize("words", DAY)
def test_what_is_typed_in_a_day_beside_a_library(
    words: tuple[str, ...], command: Callable[..., Any], train: Train, tmp_path: Path
) -> None:
    """Trained, continued to the same bits, evaluated, trained with two parts a step."""
    quick = (*QUIET, *words, "monitor.every=1", "checkpoint.every=2", "eval_every=2", "max_steps=6", "name=whole")
    env = {"PYTHONWARNINGS": "default"}  # a library's own
    assert command(*quick, env=env).returncode == 0
    train(*quick[:-2], "max_steps=4", "name=parted")
    train(*quick[:-2], "max_steps=6", "name=parted")
    assert_same(states("runs/parted", 6), states("runs/whole", 6))
    evaluated = command("evaluate", "whole", "--json", env=env)
    result = json.loads((tmp_path / "runs/whole/result.json").read_text())
    assert json.loads(evaluated.stdout)["metrics"]["loss"] == pytest.approx(result["test/loss"], rel=1e-5)
    parts = train(*quick[:-2], "max_steps=1", "batch_size=8", "gradient.accumulate=2", "name=parts")
    assert parts["status"] == "finished"


@pytest.mark.parametrize(("model", "extra"), [("timm", "timm"), ("torchvision", "vision"), ("hf", "hf")])
def test_a_missing_library_is_what_to_install(model: str, extra: str, train: Train) -> None:
    library = {"hf": "transformers"}.get(model, model)
    if importlib.util.find_spec(library):
        pytest.skip(f"{library} is here")
    with pytest.raises(UserError, match=rf"^model={library}: needs {library}. Type pip install 'train-cli\[{extra}\]'"):
        train(*QUIET, f"model={model}")
