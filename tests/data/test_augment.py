"""Changes of training samples: by their formulas, alike for parts of a batch, never in validation."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from plain import cut_loose, losses, parts_of
from trainer.data.batches import Batch, derived_seed, permutation
from trainer.data.images import Augmentation, ImageTransform
from trainer.data.mix import Mix
from trainer.errors import UserError

Train = Callable[..., dict[str, Any]]
WORDS = ("model=two_layer", "optimizer=sgd", "data.limit=113", "batch_size=40", "max_steps=9")
QUIET = ("monitor=off", "monitor.every=1")
LEVELS = ImageTransform(3, (9, 12), 255.0, torch.float64, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))


def images(channels: int = 3, num_images: int = 7) -> Tensor:
    """As the model gets them."""
    draw = torch.Generator().manual_seed(0)
    whole = torch.randint(0, 256, (num_images, channels, 9, 12), generator=draw).to(torch.uint8)
    return LEVELS(whole) if channels == 3 else whole.double()


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(5)


@pytest.mark.parametrize(
    "augment",
    [
        Augmentation(color_jitter=0.4).of(LEVELS),
        Augmentation(erase=0.7),
        Augmentation(resized_crop=0.3),
        Augmentation(2, True, 20.0, resized_crop=0.5, color_jitter=0.2, erase=0.5).of(LEVELS),
    ],
    ids=["jitter", "erase", "crop", "all"],
)
def test_an_image_gets_the_same_in_a_part_of_the_batch(augment: Augmentation) -> None:
    whole = augment(images(), seeded())
    assert not torch.equal(whole, images())
    for rows in (slice(0, 3), slice(3, 7)):
        assert_close(augment(images()[rows], seeded(), rows, 7), whole[rows], rtol=1e-12, atol=1e-12)


def test_a_jitter_is_the_formula_image_by_image() -> None:
    found = Augmentation(color_jitter=0.4).of(LEVELS)(images(), seeded())
    factors = 1 + (torch.rand(3, 7, generator=seeded()) * 2 - 1) * 0.4
    mean, std = (torch.tensor(numbers, dtype=torch.float64).view(3, 1, 1) for numbers in (LEVELS.mean, LEVELS.std))
    luma = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64).view(3, 1, 1)
    for image, result, (bright, contrast, saturation) in zip(images(), found, factors.double().T, strict=True):
        plain = ((image * std + mean).clamp(0, 1) * bright).clamp(0, 1)
        plain = (contrast * plain + (1 - contrast) * (plain * luma).sum(0).mean()).clamp(0, 1)
        plain = (saturation * plain + (1 - saturation) * (plain * luma).sum(0, keepdim=True)).clamp(0, 1)
        assert_close(result, (plain - mean) / std)


def test_what_is_erased_is_a_rectangle() -> None:
    ones = torch.ones(400, 1, 20, 30)
    found = Augmentation(erase=0.5)(ones, seeded())
    shares = (found == 0).double().mean((1, 2, 3))
    assert 0.4 < (shares > 0).double().mean() < 0.6
    assert shares.max() < 0.36
    for image in found[shares > 0][:, 0]:
        rows, columns = (image == 0).any(1), (image == 0).any(0)
        assert int((image == 0).sum()) == int(rows.sum()) * int(columns.sum())


def test_a_crop_is_a_part_of_the_image_and_its_mask_goes_with_it() -> None:
    """On a ramp the numbers say where each pixel comes from."""
    height, width, n = 40, 60, 200
    across = torch.linspace(-1, 1, width, dtype=torch.float64).expand(n, 1, height, width)
    down = torch.linspace(-1, 1, height, dtype=torch.float64).view(-1, 1).expand(n, 1, height, width)
    ramps = torch.cat([across, down], 1)
    augment = Augmentation(resized_crop=0.3)
    found = augment(ramps, seeded())
    wide = (found[:, 0, 0, -1] - found[:, 0, 0, 0]) / 2 * width / (width - 1)
    tall = (found[:, 1, -1, 0] - found[:, 1, 0, 0]) / 2 * height / (height - 1)
    assert (wide * tall).min() > 0.25
    assert (wide * tall).max() < 1.05
    assert (wide * tall).std() > 0.1
    assert_close(found[:, 0].diff(dim=2).std(2), torch.zeros(n, height, dtype=torch.float64), rtol=0, atol=0.01)
    masks = augment.masks((ramps[:, 0] > 0).long(), seeded())
    is_sure = found[:, 0].abs() > 0.1
    assert torch.equal(masks[is_sure], (found[:, 0] > 0).long()[is_sure])
    for dtype in (torch.bool, torch.uint8, torch.float32):
        as_they_are = augment.masks((ramps[:, 0] > 0).to(dtype), seeded())
        assert as_they_are.dtype == dtype
        assert torch.equal(as_they_are.long(), masks)


@pytest.mark.parametrize("keys", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}], ids=str)
def test_mixtures_are_those_of_a_plain_loop(keys: dict[str, float], train: Train) -> None:
    train(*WORDS, *QUIET, *(f"data.augment.{key}={alpha}" for key, alpha in keys.items()), "name=it")
    parts = parts_of(*WORDS)
    model, split, expected, step = cut_loose(parts), parts.splits.train, [], 0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for epoch in range(3):
        for rows in permutation(0, epoch, len(split)).split(40):
            step += 1
            draw = random.Random(derived_seed(0, "mix", step))
            is_cut = "cutmix" in keys and ("mixup" not in keys or draw.random() < 0.5)
            share = draw.betavariate(*[keys["cutmix" if is_cut else "mixup"]] * 2)
            inputs, targets = split.inputs[rows], split.targets[rows]
            partners, others = inputs.roll(1, 0), targets.roll(1)
            if is_cut:
                x, y, side = draw.random(), draw.random(), (1 - share) ** 0.5
                left, right = (int(8 * min(1.0, max(0.0, x + s * side / 2))) for s in (-1, 1))
                top, bottom = (int(8 * min(1.0, max(0.0, y + s * side / 2))) for s in (-1, 1))
                inputs = inputs.clone()
                inputs[:, :, top:bottom, left:right] = partners[:, :, top:bottom, left:right]
                share = 1 - (bottom - top) * (right - left) / 64
            else:
                inputs = share * inputs + (1 - share) * partners
            outputs = model(inputs)
            loss = share * F.cross_entropy(outputs, targets) + (1 - share) * F.cross_entropy(outputs, others)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            expected.append(loss.item())
    assert losses("it") == pytest.approx(expected, rel=1e-4)


def test_no_validation_is_augmented_and_the_first_batch_is_shown(train: Train) -> None:
    asked = [f"data.augment.{key}" for key in ("mixup=0.3", "cutmix=1", "erase=0.5", "color_jitter=0.4")]
    train(*WORDS, *asked, "data.augment.resized_crop=0.5", "name=it")
    assert b"first_batch" in next(Path("runs/it").glob("events*")).read_bytes()
    augmented, plain = (parts_of(*WORDS, *words).splits for words in (asked, []))
    for split in ("val", "test"):
        for a, b in zip(getattr(augmented, split).in_order(), getattr(plain, split).in_order(), strict=True):
            assert torch.equal(a.inputs, b.inputs)
            assert torch.equal(a.targets, b.targets)


def test_numbers_are_mixed_as_they_are() -> None:
    inputs, targets = torch.randn(5, 3), torch.randn(5, 2)
    found = Mix(0.5, 0.0, None, 3)((inputs, targets), 7)  # type: ignore[arg-type]
    share = random.Random(derived_seed(3, "mix", 7)).betavariate(0.5, 0.5)
    assert_close(found.targets[2], share * targets[2] + (1 - share) * targets[1])
    assert_close(found.inputs[0], share * inputs[0] + (1 - share) * inputs[4])
    several = Mix(0.5, 0.0, 3, 3)(Batch({"a": inputs, "b": (2 * inputs,)}, torch.arange(5) % 3), 7)
    assert torch.equal(several.inputs["a"], found.inputs)
    assert torch.equal(several.inputs["b"][0], 2 * found.inputs)
    assert_close(several.targets[4], torch.tensor([1 - share, share, 0.0]))


OWN = """
import torch
from trainer import Data, Samples

def mine(kind):
    x = torch.randn(60, 4)
    inputs = {"a": x, "b": x.round().long() if kind == "words" else x}
    return Data(*[Samples(inputs, torch.arange(60) % 2)] * 3, num_classes=2)

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(8, 2)

    def forward(self, a, b):
        return self.layer(torch.cat([a, b], 1))
"""


def test_several_inputs_are_mixed_where_they_are_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train: Train
) -> None:
    (tmp_path / "mixed_here.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ["data._target_=mixed_here.mine", "model._target_=mixed_here.Net", "trust=[mixed_here]", "monitor=off"]
    words += ["data.augment.mixup=0.2", "max_steps=2"]
    with pytest.raises(UserError, match="inputs of int64, such as tokens, which don't mix"):
        train(*words, "data.kind=words", "name=not")
    train(*words, "data.kind=numbers", "name=it")
    assert len(losses("it")) == 2


@pytest.mark.parametrize("policy", ["randaugment", "trivialaugment", "autoaugment"])
def test_a_policy_is_torchvisions(policy: str) -> None:
    v2 = pytest.importorskip("torchvision.transforms.v2")
    names = {"randaugment": "RandAugment", "trivialaugment": "TrivialAugmentWide", "autoaugment": "AutoAugment"}
    whole = torch.randint(0, 256, (6, 3, 16, 16)).to(torch.uint8)
    transform = ImageTransform(3, (16, 16), 255.0, torch.float64, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    found = Augmentation(policy=policy).of(transform)(transform(whole), seeded())
    seeds = torch.randint(2**62, (6,), generator=seeded()).tolist()
    for image, seed, result in zip(whole, seeds, found, strict=True):
        torch.manual_seed(seed)
        assert_close(result, transform(getattr(v2, names[policy])()(image).unsqueeze(0))[0])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["loss=nll", "model=sequential", "data.augment.mixup=1"],
            "takes no shares of classes. Try loss=cross_entropy",
        ),
        (["data.augment.mixup=1", "loss.class_weights=balanced"], "Leave loss.class_weights out."),
        (["data.augment.mixup=1", "loss.ignore_index=2"], "Leave loss.ignore_index out."),
        (["data=random_regression", "loss=mse", "model=two_layer", "data.augment.cutmix=1"], "has no images to cut."),
        (["data=random_regression", "loss=mse", "model=two_layer", "data.augment.erase=1"], "has no images to augment"),
        (["data.augment.policy=rand"], "must be randaugment, trivialaugment, autoaugment or null."),
        (["data.augment.polic=randaugment"], "Did you mean data.augment.policy"),
    ],
)
def test_what_can_not_be_is_refused(words: list[str], message: str, train: Train) -> None:
    with pytest.raises(UserError, match=message):
        train(*words)
    assert not Path("runs").exists()


MASKS = """
import torch
from torch import nn
from trainer import Data, Samples


def bright(kind="dict"):
    y = torch.zeros(60, 1, 8, 8)
    y[:, :, :, :2] = 1
    x = (200 * y).to(torch.uint8)
    targets = {
        "dict": {"mask": y, "kind": torch.arange(60) % 2},
        "tuple": (y, y[:, 0].long()),
        "half": y[..., ::2, ::2],
        "last": y.movedim(1, -1),
        "numbers": y[:, 0, 0, :2],
        "classes": 1 + y[:, 0].long(),
    }[kind]
    if kind == "dict":
        parts = [{name: part[i::3] for name, part in targets.items()} for i in range(3)]
    else:
        parts = [tuple(p[i::3] for p in targets) if kind == "tuple" else targets[i::3] for i in range(3)]
    return Data(*(Samples(x[i::3], part) for i, part in enumerate(parts)), description="bright pixels")


class Net(nn.Module):
    def __init__(self, in_channels, num_outputs=1):
        super().__init__()
        self.layer = nn.Conv2d(in_channels, num_outputs, 1)

    def forward(self, x):
        return self.layer(x)


class Loss(nn.Module):
    def forward(self, outputs, targets):
        part = targets["mask"] if isinstance(targets, dict) else targets
        part = part[0] if isinstance(part, tuple) else part
        if part.shape != outputs.shape:
            return outputs.square().mean()
        return nn.functional.binary_cross_entropy_with_logits(outputs, part)
"""


@pytest.fixture
def masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    (tmp_path / "masks_here.py").write_text(MASKS)
    monkeypatch.syspath_prepend(str(tmp_path))
    own = ["model._target_=masks_here.Net", "data._target_=masks_here.bright", "loss._target_=masks_here.Loss"]
    return [*own, "trust=[masks_here]", "monitor=off", "optimizer.lr=0.3", "max_steps=60", "threads=1"]


@pytest.mark.long
@pytest.mark.parametrize("kind", ["dict", "tuple"])
def test_masks_among_several_targets_go_with_their_images(kind: str, masks: list[str], train: Train) -> None:
    """A bright pixel is mask: learnt as well with flips, where each mask is flipped with its image."""
    words = [*masks, f"data.kind={kind}"]
    plain, flipped = (train(*words, *more)["train/loss"] for more in ([], ["data.augment.horizontal_flip=true"]))
    assert flipped < 0.02
    assert_close(flipped, plain, rtol=1e-4, atol=0)
    splits = parts_of(*words, "data.image_size=4").splits
    batch = next(iter(splits.val.in_order()))
    found = batch.targets["mask"] if kind == "dict" else batch.targets[0]  # type: ignore[call-overload, index]
    assert found.shape[-2:] == (4, 4)
    assert torch.equal(found[0, 0, 0], torch.tensor([1.0, 0, 0, 0]))


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "what"),
    [("half", "of shape [N, 1, 4, 4]"), ("last", "of shape [N, 8, 8, 1]"), ("numbers", "that are numbers")],
)
def test_targets_that_are_not_moved_with_their_images_are_said(
    kind: str, what: str, masks: list[str], train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*masks, f"data.kind={kind}", "max_steps=1"]
    said = f"warning: data.augment.horizontal_flip moves images; targets {what} stay as they are"
    train(*words, "data.augment.horizontal_flip=true")
    assert said in capsys.readouterr().out
    train(*words, "data.augment.color_jitter=0.1")
    assert "stay as they are" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("loss", "outside"),
    [("cross_entropy", -100), ("cross_entropy loss.ignore_index=255", 255), ("dice", -100), ("", 0)],
)
def test_pixels_that_come_in_from_outside_have_no_class(loss: str, outside: int, masks: list[str]) -> None:
    """They were of class 0, which they are not: where a loss leaves out pixels without a class, it leaves these out."""
    words = [*masks, "data.kind=classes", "data.task=classification", "data.num_classes=3", "data.augment.rotation=45"]
    own = words if not loss else [word for word in words if not word.startswith("loss.")]
    more = ["model.num_outputs=3", *(f"loss={loss}".split() if loss else [])]
    parts = parts_of(*own, *more, "data.augment.crop_padding=2")
    batch = next(parts.splits.train.training(20, 0, 1))
    is_outside = (batch.inputs == 0).all(1)  # type: ignore[union-attr]
    assert is_outside.sum() > 100
    assert batch.targets[is_outside].unique().tolist() == [outside]  # type: ignore[index, union-attr]
    assert {*batch.targets.unique().tolist()} == {outside, 1, 2}  # type: ignore[union-attr]
