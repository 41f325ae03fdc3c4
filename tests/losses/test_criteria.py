"""Focal and Dice are their formulas; parts of a batch weigh as the whole does."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from trainer.data.batches import Batch
from trainer.errors import UserError
from trainer.loop import Autograd, InParts
from trainer.losses.criteria import Dice, Focal
from trainer.losses.function import LossFunction
from trainer.meaning import Classes, Meaning, Numbers, Places
from trainer.state import Store

NAMES = {"loss": "chosen", "model": "net", "data": "numbers"}
DRAW = torch.Generator().manual_seed(0)
LOGITS = torch.randn(7, 3, generator=DRAW).double()
LABELS = torch.tensor([0, 2, 1, 1, 0, 2, 2])
MAPS = torch.randn(7, 3, 4, 4, generator=DRAW).double()
PLACES = torch.randint(0, 3, (7, 4, 4), generator=DRAW)
PLACES[:3, 0] = -100
WEIGHT = torch.tensor([1.0, 0.2, 3.0]).double()


def test_focal_is_its_formula() -> None:
    p = LOGITS.softmax(1)[range(7), LABELS]
    assert_close(Focal(2.0)(LOGITS, LABELS), (-((1 - p) ** 2) * p.log()).mean())
    weighed = (-((1 - p) ** 2) * p.log() * WEIGHT[LABELS]).sum() / WEIGHT[LABELS].sum()
    assert_close(Focal(2.0, WEIGHT)(LOGITS, LABELS), weighed)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_learns_nothing_from_a_sample_of_which_it_is_sure(gamma: float) -> None:
    logits = torch.tensor([[200.0, 0.0], [0.0, 1.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(Focal(gamma)(logits, torch.tensor([0, 0])), logits)
    assert gradient[0].tolist() == [0.0, 0.0]
    p = logits[1].detach().double().softmax(0)[0].requires_grad_()
    (slope,) = torch.autograd.grad(-((1 - p) ** gamma) * p.log() / 2, p)
    assert gradient[1, 0].item() == pytest.approx((slope * p * (1 - p)).item(), rel=1e-5)


@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_focal_without_gamma_is_cross_entropy(weight: Tensor | None) -> None:
    assert_close(Focal(0.0, weight)(MAPS, PLACES), F.cross_entropy(MAPS, PLACES, weight))


def test_dice_is_its_formula() -> None:
    masks = (MAPS > 0.3).double()
    found = []
    for scores, mask in zip(MAPS.sigmoid().flatten(0, 1), masks.flatten(0, 1), strict=True):
        found.append(1 - (2 * (scores * mask).sum() + 1) / (scores.sum() + mask.sum() + 1))
    assert_close(Dice()(MAPS, masks), torch.stack(found).mean())
    assert Dice()(masks * 1000 - 500, masks) < 1e-6
    # Classes are masks of their own; a place that is ignored is in none.
    one_hot = torch.stack([c == PLACES for c in range(3)], 1).double()
    scores, counted = MAPS.softmax(1), (PLACES >= 0).unsqueeze(1)
    both = (scores * counted * one_hot).flatten(2).sum(2)
    sums = (scores * counted + one_hot).flatten(2).sum(2)
    assert_close(Dice()(MAPS, PLACES), (1 - (2 * both + 1) / (sums + 1)).mean())
    assert_close(Dice(ignore_index=255)(MAPS, PLACES.where(PLACES >= 0, 255)), Dice()(MAPS, PLACES))


@pytest.mark.parametrize(
    ("criterion", "meaning", "targets"),
    [
        (Focal(2.0, WEIGHT), Places(3), PLACES),
        (Focal(1.0), Places(3), PLACES),
        (Dice(), Places(3), PLACES),
        (Dice(), Numbers(48), (MAPS > 0).double()),
    ],
    ids=["focal, weighed", "focal", "dice", "dice of fractions"],
)
@pytest.mark.parametrize("size", [1, 3])
def test_parts_weigh_as_the_whole(criterion: nn.Module, meaning: Meaning, targets: Tensor, size: int) -> None:
    found = []
    for part_size in (7, size):
        torch.manual_seed(0)
        model = nn.Conv2d(3, 3, 1).double()
        loss_fn = LossFunction(criterion, model, meaning, NAMES).double()
        loss_fn.check(model(MAPS[:2]), targets[:2])
        store = Store(model, loss_fn)
        losses = InParts(Autograd(model, loss_fn), loss_fn, store, part_size, model)(Batch(MAPS, targets), 7)
        assert_close(losses.total, criterion(model(MAPS), targets).detach())
        found.append(store.grads.clone())
    assert_close(found[0], found[1])


def test_dice_of_one_class_for_a_sample_is_refused() -> None:
    with pytest.raises(UserError, match=r"^loss=chosen: compares masks, .* Type loss=cross_entropy\.$"):
        LossFunction(Dice(), nn.Identity(), Classes(3), NAMES)


def test_a_number_for_each_class_is_needed(train) -> None:
    quiet = ("monitor=off", "model=two_layer", "max_steps=2", "data.limit=64")
    train(*quiet, "loss=focal", "loss.gamma=1", "loss.weight=[1,1,1,1,1,1,1,1,1,2]")
    train(*quiet, "loss=focal", "loss.class_weights=balanced")
    with pytest.raises(UserError, match=r"^loss\.weight: has 2 numbers; 10 are needed"):
        train(*quiet, "loss=focal", "loss.weight=[1,2]")
    for loss in ("focal", "multi_margin"):
        with pytest.raises(UserError, match=rf"^data\.augment\.mixup=0\.2: loss={loss} takes no shares of classes"):
            train(*quiet, f"loss={loss}", "data.augment.mixup=0.2")
