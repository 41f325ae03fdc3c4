"""From samples to batches: fitted, normalised with the training split's numbers, the same held or made one by one."""

from dataclasses import replace
from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from trainer.data import digits, prepare, random_regression
from trainer.data.images import Augmentation
from trainer.data.source import Data, ImageFiles, Samples
from trainer.errors import UserError
from trainer.meaning import Classes, Numbers

CPU = torch.device("cpu")


def pixels(num_samples: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (num_samples, *shape), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


def image_data(channels: int = 3, sizes: tuple[int, ...] = (21, 5, 7)) -> Data:
    splits = [Samples(pixels(n, channels, 6, 8, seed=n), torch.arange(n) % 3) for n in sizes]
    splits[1] = Samples(splits[1].inputs // 2, splits[1].targets)  # darker than what is trained on
    return Data(*splits, description="images", num_classes=3)


def float_data(num_classes: int | None = None) -> Data:
    def samples(n: int) -> Samples:
        generator = torch.Generator().manual_seed(n)
        inputs = torch.randn(n, 4, generator=generator)
        return Samples(inputs, torch.arange(n) % num_classes if num_classes else torch.randn(n, 2, generator=generator))

    return Data(samples(9), samples(4), samples(5), description="floats", num_classes=num_classes)


def whole(batches: Any) -> tuple[Tensor, Tensor]:
    parts = [*batches.in_order()]
    return torch.cat([part.inputs for part in parts]), torch.cat([part.targets for part in parts])


class TestPrepare:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    def test_floats_and_their_targets_come_as_they_are_in_the_runs_dtype(self, dtype):
        data = float_data()
        splits = prepare.prepare(data, CPU, dtype)
        assert (splits.input_shape, splits.num_outputs) == ((4,), 2)
        for split in ("train", "val", "test"):
            inputs, targets = whole(getattr(splits, split))
            assert inputs.dtype == targets.dtype == dtype
            assert inputs.equal(getattr(data, split).inputs.to(dtype))
            assert targets.equal(getattr(data, split).targets.to(dtype))

    def test_labels_stay_whole_numbers(self):
        splits = prepare.prepare(float_data(3), CPU, torch.float64)
        assert splits.num_outputs == 3
        assert whole(splits.train)[1].equal(torch.arange(9) % 3)

    @pytest.mark.parametrize("channels", [1, 3])
    def test_training_images_have_mean_0_and_deviation_1_and_the_others_use_their_numbers(self, channels):
        data = image_data()
        splits = prepare.prepare(data, CPU, torch.float64, channels)
        assert splits.input_shape == (channels, 6, 8)
        train = whole(splits.train)[0]
        std, mean = torch.std_mean(train, dim=(0, 2, 3), correction=0)
        assert_close(mean, torch.zeros(channels, dtype=torch.float64), rtol=0, atol=1e-12)
        assert_close(std, torch.ones(channels, dtype=torch.float64), rtol=1e-12, atol=0)

        same = replace(data, val=data.train)
        assert whole(prepare.prepare(same, CPU, torch.float64, channels).val)[0].equal(train)
        assert (whole(splits.val)[0].mean((0, 2, 3)) < -0.5).all()

    def test_images_that_are_not_normalised_go_from_0_to_1(self):
        data = image_data()
        inputs = whole(prepare.prepare(data, CPU, torch.float64, normalize=False).train)[0]
        assert inputs.equal(data.train.inputs.double() / 255)

    @pytest.mark.parametrize(
        ("channels", "image_size", "shape"),
        [(None, None, (3, 6, 8)), (1, None, (1, 6, 8)), (None, 10, (3, 10, 10)), (1, 5, (1, 5, 5))],
        ids=str,
    )
    def test_images_are_fitted_to_what_the_model_wants(self, channels, image_size, shape):
        splits = prepare.prepare(image_data(), CPU, torch.float32, channels, image_size)
        assert splits.input_shape == shape
        assert {whole(batches)[0].shape[1:] for batches in (splits.train, splits.val, splits.test)} == {shape}

    def test_images_too_large_to_hold_are_fitted_batch_by_batch_to_the_same_numbers(self, monkeypatch):
        arguments = (image_data(), CPU, torch.float32, 1, 10, True, Augmentation(2, True, 30.0))
        held = prepare.prepare(*arguments)
        monkeypatch.setattr(prepare, "RESIDENT_BYTES", 21 * 10 * 10 * 4 - 1)  # one byte less than the training split
        lazy = prepare.prepare(*arguments)
        assert held.train.inputs.dtype == torch.float32
        assert lazy.train.inputs.dtype == torch.uint8
        assert lazy.val.inputs.dtype == torch.float32
        for split in ("train", "val", "test"):
            assert all(map(torch.equal, whole(getattr(lazy, split)), whole(getattr(held, split))))
        for found, expected in islice(zip(lazy.train.training(4, 0, 1), held.train.training(4, 0, 1), strict=True), 13):
            assert all(map(torch.equal, found, expected))

    def test_channels_that_are_neither_grey_nor_colour_stay_or_are_refused(self):
        data = image_data(channels=2)
        assert prepare.prepare(data, CPU, torch.float32).input_shape == (2, 6, 8)
        with pytest.raises(UserError, match=r"2 channels.*3"):
            prepare.prepare(data, CPU, torch.float32, channels=3)

    def test_training_images_alone_are_augmented(self):
        data = image_data()
        plain = prepare.prepare(data, CPU, torch.float32)
        splits = prepare.prepare(data, CPU, torch.float32, augment=Augmentation(2, True))
        assert all(whole(getattr(splits, s))[0].equal(whole(getattr(plain, s))[0]) for s in ("train", "val", "test"))
        assert not next(splits.train.training(21, 0, 1)).inputs.equal(next(plain.train.training(21, 0, 1)).inputs)
        assert next(splits.val.training(5, 0, 1)).inputs.equal(next(plain.val.training(5, 0, 1)).inputs)


class Files(ImageFiles):
    """As files on disk are seen, from memory: every item in the channels and size asked for last."""

    channels, image_size = 3, 8

    def __init__(self, num_samples: int) -> None:
        self.pixels, self.targets = pixels(num_samples, 3, 12, 12), torch.arange(num_samples) % 3
        self.num_read = 0

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.num_read += 1
        return self.pixels[index, : self.channels, : self.image_size, : self.image_size], int(self.targets[index])


class TestFiles:
    @pytest.mark.parametrize(("channels", "image_size", "shape"), [(None, None, (3, 8, 8)), (1, 5, (1, 5, 5))], ids=str)
    def test_give_what_the_same_images_in_memory_give(self, channels, image_size, shape):
        files = Data(Files(9), Files(4), Files(5), description="files", num_classes=3)
        splits = prepare.prepare(files, CPU, torch.float32, channels, image_size)
        c, _, size = shape
        held = Data(
            *(Samples(f.pixels[:, :c, :size, :size], f.targets) for f in (files.train, files.val, files.test)),
            description="held",
            num_classes=3,
        )
        expected = prepare.prepare(held, CPU, torch.float32)
        assert splits.input_shape == expected.input_shape == shape
        for split in ("train", "val", "test"):
            assert all(map(torch.equal, whole(getattr(splits, split)), whole(getattr(expected, split))))

    def test_statistics_are_of_as_many_as_are_worth_their_time(self, monkeypatch):
        monkeypatch.setattr(prepare, "STATISTICS_FILES", 4)
        files = Data(Files(9), Files(4), Files(5), description="files", num_classes=3)
        prepare.prepare(files, CPU, torch.float32)
        assert files.train.num_read == 4
        assert files.val.num_read == 0


FLOATS = torch.zeros(4, 2)
LABELS = torch.tensor([0, 1, 2, 0])
NAN = torch.tensor([[0.0, 1.0], [2.0, float("nan")], [0.0, 0.0], [0.0, 0.0]])


class TestCheck:
    @pytest.mark.parametrize("split", ["train", "val", "test"])
    @pytest.mark.parametrize(
        ("inputs", "targets", "num_classes", "message"),
        [
            (FLOATS[:0], LABELS[:0], 3, "is empty"),
            (FLOATS, LABELS[:3], 3, "has 4 inputs but 3 targets"),
            (FLOATS, LABELS, 2, "labels from 0 to 2; with 2 classes they go from 0 to 1"),
            (FLOATS, LABELS - 1, 3, "labels from -1 to 1; with 3 classes they go from 0 to 2"),
            (FLOATS, LABELS.float(), 3, r"targets of torch.float32, shape \[4\]; class labels are int64"),
            (FLOATS, LABELS.view(4, 1), 3, r"shape \[4, 1\]; class labels are int64 \[N\]"),
            (FLOATS, LABELS, None, r"targets of torch.int64, shape \[4\]; regression takes float \[N, D\]"),
            (FLOATS, FLOATS[:, 0], None, r"shape \[4\]; regression takes float \[N, D\]"),
            (FLOATS, NAN, None, "targets that are NaN or infinite"),
            (NAN, LABELS, 3, r"has 1 inputs that are NaN or infinite, the first at \[1, 1\]"),
            (NAN.to(torch.complex64), LABELS, 3, r"has 1 inputs that are NaN or infinite, the first at \[1, 1\]"),
            (NAN / 0, LABELS, 3, "has 8 inputs that are NaN or infinite"),
            (FLOATS.byte(), LABELS, 3, r"inputs of shape \[2\]"),
        ],
        ids=lambda x: x if isinstance(x, str) else "",
    )
    def test_refuses_what_nothing_can_be_learnt_from(self, split, inputs, targets, num_classes, message):
        sound = float_data(3 if num_classes else None)
        sound = replace(
            sound, **{s: Samples(sound.train.inputs[:, :2], sound.train.targets % 2) for s in ("train", "val", "test")}
        )
        data = replace(sound, num_classes=num_classes, **{split: Samples(inputs, targets)})
        with pytest.raises(UserError, match=f"^data=mine: the {split} split .*{message}"):
            prepare.check(data, "mine")

    @pytest.mark.parametrize("split", ["val", "test"])
    @pytest.mark.parametrize("part", ["inputs", "targets"])
    def test_refuses_splits_of_different_shapes(self, split, part):
        """Or else a model that is sized from the training split fails on the other in the middle of the run."""
        data = float_data()
        samples = getattr(data, split)
        other = Samples(**{"inputs": samples.inputs, "targets": samples.targets} | {part: torch.zeros(len(samples), 9)})
        with pytest.raises(UserError, match=rf"^data=mine: the {split} split has {part} of shape \[9\].*train"):
            prepare.check(replace(data, **{split: other}), "mine")

    @pytest.mark.parametrize("data", [image_data(), image_data(1), float_data(), float_data(3), digits.load()])
    def test_passes_what_is_sound(self, data):
        prepare.check(data, "mine")


class TestLimited:
    def test_takes_the_first_of_every_split(self):
        data = image_data()
        few = prepare.limited(data, 6)
        assert [len(getattr(few, split)) for split in ("train", "val", "test")] == [6, 5, 6]
        for split in ("train", "val", "test"):
            assert getattr(few, split).inputs.equal(getattr(data, split).inputs[:6])
            assert getattr(few, split).targets.equal(getattr(data, split).targets[:6])
        assert replace(few, train=data.train, val=data.val, test=data.test) == data

    def test_null_takes_all(self):
        data = image_data()
        assert prepare.limited(data, None) is data

    def test_files_are_not_limited(self):
        files = Data(Files(9), Files(4), Files(5), description="files", num_classes=3)
        with pytest.raises(UserError, match=r"^data\.limit=2: "):
            prepare.limited(files, 2)


class TestDigits:
    def test_are_the_scans_of_the_repository(self):
        """Counts, sum and the first row are those of the published set."""
        splits = digits.load()
        parts = (splits.train, splits.val, splits.test)
        images, labels = torch.cat([p.inputs for p in parts]), torch.cat([p.targets for p in parts])
        assert (images.shape, images.dtype, int(images.max())) == ((1797, 1, 8, 8), torch.uint8, 16)
        assert torch.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
        assert int(images.sum()) == 561_718
        first = torch.tensor([0, 0, 5, 13, 9, 1, 0, 0])
        assert 0 in labels[(images[:, 0, 0] == first).all(1)]

    def test_split_into_parts_of_fixed_sizes_by_the_seed(self):
        first, again, other = digits.load(1), digits.load(1), digits.load(2)
        assert [len(getattr(first, s)) for s in ("train", "val", "test")] == [1258, 180, 359]
        assert first.train.inputs.equal(again.train.inputs)
        assert not first.train.inputs.equal(other.train.inputs)
        rows = torch.cat([s.inputs.flatten(1) for s in (first.train, first.val, first.test)])
        assert len(rows.unique(dim=0)) == len(rows)  # no scan twice, so none in two splits

    def test_are_normalised_from_their_16_grey_levels(self):
        data = digits.load()
        assert whole(prepare.prepare(data, CPU, torch.float32, normalize=False).train)[0].max() == 1.0
        assert (data.num_classes, data.sample_shape, type(data.meaning)) == (10, (1, 8, 8), Classes)


class TestRandomRegression:
    def test_is_three_splits_of_standard_normals(self):
        data = random_regression.load()
        assert (data.num_classes, type(data.meaning), data.is_images) == (None, Numbers, False)
        parts = [data.train, data.val, data.test]
        assert [tuple(part.inputs.shape) for part in parts] == [(64, 1000)] * 3
        assert [tuple(part.targets.shape) for part in parts] == [(64, 10)] * 3
        for tensors in ([part.inputs for part in parts], [part.targets for part in parts]):
            every = torch.cat(tensors).double()
            assert abs(every.mean()) < 5 / every.numel() ** 0.5
            assert abs(every.square().mean() - 1) < 5 * (2 / every.numel()) ** 0.5
            assert len(every.unique()) > 0.99 * every.numel()  # no split is another's copy

    def test_the_seed_decides(self):
        first, again, other = (random_regression.load(8, 3, 2, seed) for seed in (0, 0, 1))
        assert first.test.inputs.equal(again.test.inputs)
        assert not first.test.inputs.equal(other.test.inputs)
