"""Data sets of the user's own, item by item: the same numbers whoever reads them, and a line where that can't be."""

import math
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.testing import assert_close
from torch.utils.data import DataLoader, Dataset, TensorDataset, random_split
from torch.utils.data._utils import signal_handling

from trainer.data import loader
from trainer.data.batches import permutation
from trainer.data.given import Asked, as_data
from trainer.data.item_batches import ItemBatches
from trainer.data.items import Items
from trainer.data.prepare import check, doubts, prepare
from trainer.data.source import Data, Samples
from trainer.draws import seed_from, seeds_from
from trainer.errors import UserError
from trainer.meaning import Classes, Numbers, as_dict, from_dict

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # of Python 3.12 on: beside torch's threads
CPU = torch.device("cpu")


class Drawing(Dataset[Any]):
    """Item `i` is `i`, and a number from each generator."""

    def __init__(self, num_items: int = 14) -> None:
        self.num_items = num_items

    def __len__(self) -> int:
        return self.num_items

    def __getitem__(self, i: int) -> Any:
        return torch.tensor([i, torch.rand(()).item(), float(np.random.rand()), random.random()]), i % 3


class Listed(Dataset[Any]):
    """Whatever items a list has, as a class of somebody's own."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> Any:
        return self.items[i]


def batches(dataset: Any, num_workers: int = 0, **options: Any) -> ItemBatches:
    return ItemBatches(Items(dataset, "train", **options), CPU, torch.float32, num_workers=num_workers)


def inputs_of(split: ItemBatches, first_step: int, num_steps: int, *ranks: int) -> list[Tensor]:
    return [batch.inputs for batch in islice(split.training(4, 7, first_step, *ranks), num_steps)]


@pytest.mark.parametrize("num_workers", [1, 3])
def test_workers_change_nothing_from_whatever_step(num_workers: int) -> None:
    expected = inputs_of(batches(Drawing()), 1, 12)
    first, rest = inputs_of(batches(Drawing(), num_workers), 1, 5), inputs_of(batches(Drawing(), num_workers), 6, 7)
    assert all(a.equal(b) for a, b in zip([*first, *rest], expected, strict=True))
    rows = torch.cat(expected)[:14, 0].long()
    assert rows.equal(permutation(7, 0, 14))
    drawn = torch.cat(expected[:8])  # two epochs
    assert len(drawn[:, 1:].flatten().unique()) == 3 * 28  # nothing is drawn twice


def test_ranks_together_have_the_batches_of_one() -> None:
    expected = inputs_of(batches(Drawing()), 3, 6)
    shares = [inputs_of(batches(Drawing()), 3, 6, rank, 2) for rank in range(2)]
    assert all(torch.cat(parts).equal(whole) for *parts, whole in zip(*shares, expected, strict=True))


class OwnDraws(Drawing):
    """Item `i` is `i`, and what a generator of its own, or another source, gives."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.rng, self.torchs = np.random.default_rng(3), torch.Generator().manual_seed(3)
        self.kind, self.calls = kind, 0

    def __getitem__(self, i: int) -> Any:
        self.calls += 1
        sources: dict[str, Callable[[], float]] = {
            "numpy's": lambda: self.rng.random(),
            "torch's": lambda: float(torch.rand(1, generator=self.torchs)),
            "unseeded": lambda: np.random.default_rng().random(),
            "counts": lambda: float(self.calls),
            "seeded": lambda: np.random.rand() + random.random() + float(torch.rand(1)),
            "by item": lambda: np.random.default_rng(i).random(),
            "nan": lambda: float("nan"),
        }
        return torch.tensor([float(i), sources[self.kind]()]), i % 2


@pytest.mark.parametrize("kind", ["numpy's", "torch's", "unseeded", "counts", "seeded", "by item", "nan"])
def test_items_that_differ_with_the_same_draws_are_said(kind: str) -> None:
    """Their numbers depend on who reads them, and a run that continues has others."""
    found = doubts(as_data(OwnDraws(kind), "mine", Asked()), "mine", torch.float32)
    is_said = any("item 0 differs when it is read again" in line for line in found)
    assert is_said == (kind in ("numpy's", "torch's", "unseeded", "counts"))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_what_items_draw_leaves_the_draws_of_the_run_alone(num_workers: int) -> None:
    split = batches(Drawing(), num_workers)

    def drawn(is_read: bool) -> list[float]:
        torch.manual_seed(0), np.random.seed(0), random.seed(0)
        if is_read:
            inputs_of(split, 1, 3), list(split.in_order())
        return [torch.rand(()).item(), float(np.random.rand()), random.random()]

    assert drawn(True) == drawn(False)
    a, b = (torch.cat([batch.inputs for batch in split.in_order()]) for _ in range(2))
    assert a.equal(b)
    assert a[:, 0].tolist() == list(range(14))


class Seldom(Drawing):
    """One item draws from NumPy's generator alone, and uses what it keeps of two normal numbers."""

    def __getitem__(self, i: int) -> Any:
        return torch.tensor([i, np.random.randn() if i == 9 else 0.0]), i % 3


def test_it_makes_no_difference_when_somebody_is_first_seen_to_draw() -> None:
    np.random.seed(0)
    np.random.randn()  # the second of two is kept, and drawing it moves nothing but that
    expected = inputs_of(batches(Seldom()), 1, 12)
    for first_step in range(2, 12):
        assert inputs_of(batches(Seldom()), first_step, 1)[0].equal(expected[first_step - 1])
    drawn = torch.cat(expected)
    drawn = drawn[drawn[:, 0] == 9][:, 1]
    assert len(drawn.unique()) == 3
    ours = np.random.randn()
    np.random.seed(0)
    assert ours == np.random.randn(2)[1]


@pytest.mark.parametrize("dataset", [Drawing(), [(torch.ones(1), 0)] * 14, Seldom()])
def test_numbers_that_the_run_draws_between_batches_are_those_without_them(dataset: Any) -> None:
    """Whether a normal number of NumPy's is kept for the next draw or not."""
    split, drawn = batches(dataset), []
    np.random.seed(0), random.seed(0), torch.manual_seed(0)
    for step in range(1, 6):
        drawn.append((np.random.randn(), random.gauss(0, 1), torch.randn(()).item()))
        inputs_of(split, step, 1)
    np.random.seed(0), random.seed(0), torch.manual_seed(0)
    assert drawn == [(np.random.randn(), random.gauss(0, 1), torch.randn(()).item()) for _ in range(5)]


def test_the_numbers_of_rows_are_those_of_their_texts() -> None:
    assert seeds_from("7/0", [0, 13, 10**12]) == [seed_from(f"7/0/{row}") for row in (0, 13, 10**12)]


class Asking(Drawing):
    """Draws from torch's generator in one item alone; another one asks for its seed, which leaves no trace."""

    def __getitem__(self, i: int) -> Any:
        own = torch.rand(()) if i == 9 else torch.tensor(0.0)
        if i == 4:
            own = torch.rand((), generator=torch.Generator().manual_seed(torch.initial_seed()))
        return torch.stack([torch.tensor(float(i)), own]), i % 3


def test_torch_s_seed_is_the_same_whoever_asks_and_from_whatever_step() -> None:
    expected = inputs_of(batches(Asking()), 1, 12)
    read_ahead = [*inputs_of(batches(Asking(), 2), 1, 5), *inputs_of(batches(Asking(), 1), 6, 7)]
    assert all(a.equal(b) for a, b in zip(read_ahead, expected, strict=True))
    for first_step in range(2, 12):
        assert inputs_of(batches(Asking()), first_step, 1)[0].equal(expected[first_step - 1])
    drawn = torch.cat(expected)
    for row in (4, 9):
        assert len(drawn[drawn[:, 0] == row][:, 1].unique()) == 3


# --- workers ---------------------------------------------------------------------------------------------------------


def pids() -> list[int]:
    return [process.pid for process in multiprocessing.active_children() if process.pid is not None]


def refused(work: Callable[[], object]) -> str:
    with pytest.raises(UserError) as raised:
        work()
    message = str(raised.value)
    assert "\n" not in message
    end = time.monotonic() + 30
    while pids() and time.monotonic() < end:
        time.sleep(0.05)
    assert not pids()
    return message


@pytest.mark.parametrize("num_batches", [1, 6])
def test_a_killed_worker_is_a_line_at_once_and_disturbs_nothing_else(num_batches: int) -> None:
    found = batches(Drawing(), 2).training(4, 0, 1)
    list(islice(found, num_batches))
    before, victim, start = signal.getsignal(signal.SIGCHLD), pids()[num_batches % 2], time.monotonic()
    os.kill(victim, signal.SIGKILL)
    time.sleep(0.2)  # nothing is raised in here
    message = refused(lambda: list(islice(found, 20)))
    assert f"(process {victim}) was killed by signal 9 (Killed)" in message
    assert message.startswith("data.num_workers=2: worker ")
    assert time.monotonic() - start < 10
    assert signal.getsignal(signal.SIGCHLD) is before


def test_what_torch_listens_to_for_a_loader_of_the_users_own_hears_nothing_of_ours(request: Any) -> None:
    before = signal.getsignal(signal.SIGCHLD)
    request.addfinalizer(lambda: signal.signal(signal.SIGCHLD, before))
    signal_handling._SIGCHLD_handler_set = False
    list(DataLoader(Drawing(), num_workers=1))
    of_torch = signal.getsignal(signal.SIGCHLD)
    assert getattr(of_torch, "__module__", "") == signal_handling.__name__
    for _ in range(5):  # of workers on its list, most rounds raise
        found: Any = batches(Drawing(), 2).training(4, 0, 1)
        next(found)
        signal.signal(signal.SIGCHLD, of_torch)
        found.close()
    test_a_killed_worker_is_a_line_at_once_and_disturbs_nothing_else(6)


def test_workers_hear_no_ctrl_c_and_are_gone_when_nobody_wants_more() -> None:
    found: Any = batches(Drawing(), 2).training(4, 0, 1)
    next(found)
    for pid in pids():
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGTERM)
    assert len([*islice(found, 10)]) == 10
    start = time.monotonic()
    del found
    assert time.monotonic() - start < 3
    assert not pids()


class Sleeping(Drawing):
    def __getitem__(self, i: int) -> Any:
        time.sleep(0.12 if i < 8 else 60)
        return super().__getitem__(i)


def test_a_hanging_worker_is_a_line_and_many_slow_items_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "PATIENCE", 0.5)
    monkeypatch.setattr(loader, "LOOK_EVERY", 0.05)
    items = Items(Sleeping(), "train")
    found = loader.read(items.load, [("a", list(range(8))), ("a", [8])], 1)
    assert next(found)[0][:, 0].tolist() == list(range(8))  # 0.96 s
    assert "the workers hang: not one item in 0.5 s." in refused(lambda: next(found))


class Failing(Drawing):
    def __getitem__(self, i: int) -> Any:
        return {}["colour"] if i == 9 else super().__getitem__(i)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_what_an_item_complains_of_is_a_line_with_its_place(num_workers: int) -> None:
    split = batches(Failing(), num_workers)
    message = refused(lambda: inputs_of(split, 1, 4))
    assert message.startswith("data: item 9 of the train split: KeyError: 'colour' (test_items.py, line ")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_all_that_is_trained_before_a_bad_item_is(num_workers: int) -> None:
    split = batches(Failing(num_items=400), num_workers)
    place = permutation(7, 0, 400).tolist().index(9) // 4
    found = split.training(4, 7, 1)
    assert len(list(islice(found, place))) == place > 20
    assert "item 9" in refused(lambda: next(found))


# --- forms of items --------------------------------------------------------------------------------------------------

X, Y = torch.arange(12.0).view(4, 3), torch.tensor([0, 1, 2, 0])
DICTS = [{"ids": X[i].long(), "mask": [1, 1, 0], "label": int(Y[i]), "text": f"{i}"} for i in range(4)]


def only(dataset: Any, **options: Any) -> Any:
    (batch,) = batches(dataset, **options).in_order()
    return batch


@pytest.mark.parametrize(
    ("items", "options", "inputs", "targets"),
    [
        ([(X[i], int(Y[i])) for i in range(4)], {}, X, Y),
        ([[X[i].numpy(), float(i)] for i in range(4)], {}, X, torch.arange(4.0).view(4, 1)),
        (TensorDataset(X, Y), {}, X, Y),
        (TensorDataset(X), {}, X, None),
        ([*X], {}, X, None),
        ([((X[i], Y[i]), int(Y[i])) for i in range(4)], {}, (X, Y), Y),
        (DICTS, {"inputs": ("ids",)}, X.long(), Y),
        (DICTS, {"inputs": ("ids", "mask")}, {"ids": X.long(), "mask": torch.tensor([[1, 1, 0]] * 4)}, Y),
        (DICTS, {"inputs": ("ids", "label"), "targets": ()}, {"ids": X.long(), "label": Y}, None),
        (DICTS, {"inputs": ("label",), "targets": ("ids", "label")}, Y, {"ids": X.long(), "label": Y}),
        ([{"x": X[i], "label": int(Y[i])} for i in range(4)], {}, X, Y),
    ],
)
def test_an_item_is_a_pair_or_a_dict_or_inputs_alone(items: Any, options: Any, inputs: Any, targets: Any) -> None:
    for dataset in (items, Listed(items)):
        batch = only(dataset, **options)
        assert_close(batch.inputs, inputs, rtol=0, atol=0)
        assert_close(batch.targets, targets, rtol=0, atol=0) if targets is not None else None
        assert (batch.targets is None) == (targets is None)


def padded(items: list[Any]) -> Any:
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(ids) for ids, _ in items], batch_first=True)
    return {"ids": ids, "labels": torch.tensor([label for _, label in items])}


def test_a_collate_fn_makes_batches_of_items_of_different_lengths() -> None:
    items = [([1] * (i + 1), i % 2) for i in range(4)]
    data = as_data(Data(items, items, items, collate_fn=padded), "mine", Asked())
    check(data, "mine")
    assert data.meaning == Classes(2)
    splits = prepare(data, CPU, torch.float32)
    (batch,) = splits.val.in_order()
    assert batch.inputs.tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    assert batch.inputs.dtype == torch.int64
    message = refused(lambda: only(Listed([(torch.ones(n), 0) for n in (1, 2)])))
    assert "items of the train split have different shapes, [[1]] and [[2]]. Give a collate_fn" in message


@pytest.mark.parametrize(
    ("first", "other", "message"),
    [
        ((["a", "b"], 0), (["c", "d"], 1), "an item has a list that is no array of numbers, ['a', 'b']."),
        (([1.0, None], 0), ([1.0, 2.0], 1), "an item has a list that is no array of numbers, [1.0, None]."),
        (([[1, 2], [1]], 0), ([[1, 2], [1]], 1), "an item has a list that is no array of numbers, [[1, 2], [1]]."),
        (([1.0], ["a"]), ([1.0], ["b"]), "for several labels 0 and 1 for each"),
        (([1.0], 0.5), (None, 0.5), "some items have no number where others have one (None). Take them out."),
        (([1.0], 0.5), ([1.0], None), "some items have no number where others have one (None). Take them out."),
        (([1.0], None), ([1.0], 0.5), "some items have no number where others have one (None). Take them out."),
    ],
)
def test_what_is_no_number_is_a_line(first: Any, other: Any, message: str) -> None:
    assert message in refused(lambda: only(Listed([first, other])))


@pytest.mark.parametrize("asked", [Asked(), Asked(inputs=["ids"], targets=["labels"])])
def test_labels_that_a_batch_alone_has_under_that_name_are_counted(asked: Asked) -> None:
    items = [{"ids": [1] * (i % 5 + 1), "kind": i % 3 + 4} for i in range(60)]
    data = Data(Listed(items), collate_fn=lambda some: padded([(item["ids"], item["kind"]) for item in some]))
    found = as_data(data, "mine", asked)
    assert found.meaning == Classes(3, ("4", "5", "6"))
    assert torch.bincount(found.test.known).tolist() == [4, 4, 4]


def test_items_with_a_gradient_come_without_it_from_a_worker() -> None:
    items = Listed([(torch.ones(3, requires_grad=True), torch.ones(1, requires_grad=True))] * 8)
    (batch,) = batches(items, num_workers=1).in_order()
    assert not batch.inputs.requires_grad
    assert not batch.targets.requires_grad


@pytest.mark.parametrize("is_in_memory", [False, True])
def test_a_column_of_whole_numbers_is_one_class_each(is_in_memory: bool) -> None:
    labels = torch.arange(60) % 3 + 1
    whole: Any = (torch.rand(60, 4), labels[:, None])
    items = whole if is_in_memory else Listed([*zip(whole[0], whole[1], strict=True)])
    data = as_data(items, "mine", Asked())
    assert data.meaning == Classes(3, ("1", "2", "3"))
    (batch,) = prepare(data, CPU, torch.float32).test.in_order()
    assert batch.targets.unique(return_counts=True)[1].tolist() == [4, 4, 4]
    assert as_data(items, "mine", Asked(task="regression")).meaning == Numbers(1)


def test_a_list_of_data_sets_is_one_of_splits() -> None:
    """`random_split` gives a list."""
    parts = random_split(Drawing(30), [18, 6, 6], generator=torch.Generator().manual_seed(0))
    data = as_data(parts, "mine", Asked())
    assert [len(part) for part in (data.train, data.val, data.test)] == [18, 6, 6]


def test_images_with_their_channels_last_are_named() -> None:
    data = as_data(Listed([(torch.zeros(12, 9, 3, dtype=torch.uint8), i % 2) for i in range(40)]), "mine", Asked())
    assert "have 12 channels and are 3 wide. If their" in doubts(data, "mine", torch.float32)[0]
    assert "12 channels; only 1 and 3" in refused(lambda: prepare(data, CPU, torch.float32, channels=1))


def test_words_are_classes_however_many_are_told_and_never_labels_of_several() -> None:
    items = [([float(i)], "abc"[i % 3]) for i in range(30)]
    assert as_data(items, "mine", Asked(num_classes=4)).meaning == Classes(4, ("a", "b", "c"))
    for asked, message in ((Asked(num_classes=2), "are 3 words: a, b, c"), (Asked(task="multilabel"), "has words as")):
        assert message in refused(lambda asked=asked: as_data(items, "mine", asked))  # type: ignore[misc]


NAMED: list[tuple[list[Any], list[str], list[str], str]] = [  # labels, names, what they are called, what is said
    ([0, 2, 1], ["a", "b", "c"], ["a", "c", "b"], ""),
    ([0, 2, 2], ["a", "b", "c"], ["a", "c", "c"], ""),  # class 1 has no sample
    ([3, 2, 1], ["a", "b", "c"], ["c", "b", "a"], ""),  # numbered from 0, in their order
    (["dog", "cow", "cat"], ["cow", "cat", "dog", "owl"], ["dog", "cow", "cat"], ""),
    (["dog", "cow"], ["cow", "cat"], ["dog", "cow"], "are 2 names, and not those of its 2 classes. They are left out."),
    ([0, 2, 1], ["a", "b"], ["0", "2", "1"], "are 2 names, and not those of its 3 classes. They are left out."),
    ([2, 5, 9], ["a", "b"], ["2", "5", "9"], "are 2 names, and not those of its 3 classes. They are left out."),
    (
        [2, 5, 9],
        ["a", "b", "c", "d"],
        ["2", "5", "9"],
        "are 4 names, and not those of its 3 classes.",
    ),
    ([0.0, 1.5], ["a", "b"], [], "are 2 names, and its targets are numbers."),
]


@pytest.mark.parametrize(("labels", "names", "called", "said"), NAMED)
@pytest.mark.parametrize("is_in_memory", [False, True])
def test_classes_are_called_as_their_samples_are(
    labels: list[Any], names: list[str], called: list[str], said: str, is_in_memory: bool
) -> None:
    every = labels * 8
    given: Any = [(torch.zeros(2), label) for label in every]
    if is_in_memory:
        given = Samples(torch.zeros(len(every), 2), np.array(every) if "dog" in every else torch.tensor(every))
    data = as_data(Data(given, given, given, class_names=tuple(names)), "mine", Asked())
    assert from_dict(as_dict(data.meaning)) == data.meaning  # what a run keeps can be read again
    if called:
        assert isinstance(data.meaning, Classes)
        classes = data.train.known if isinstance(data.train, Items) else data.train.targets
        assert [data.meaning.name(int(label)) for label in classes[: len(labels)]] == called
    notes = [note for note in data.notes if "class_names" in note]
    assert len(notes) == bool(said)
    assert all(said in note for note in notes)


def test_a_number_that_is_none_is_named_by_its_row_in_the_data() -> None:
    inputs = torch.zeros(60, 3)
    inputs[41, 1] = math.nan
    data = as_data(Data(Samples(inputs, torch.arange(60) % 3)), "mine", Asked())
    assert "(row 41 of the data)." in refused(lambda: check(data, "mine"))


def test_names_fewer_than_classes_are_those_of_the_first() -> None:
    """As in `data.num_classes=5` of three words: a run that has them can be used."""
    given = Samples(torch.zeros(9, 2), torch.arange(9) % 3)
    data = as_data(Data(given, given, given, num_classes=3, class_names=("a", "b")), "mine", Asked())
    assert from_dict(as_dict(data.meaning)) == data.meaning == Classes(3, ("a", "b"))
    assert data.notes == ("class_names are 2 names for 3 classes. The others are called by their numbers.",)


def test_pictures_are_images_of_the_models_size(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    items = [{"image": Image.fromarray(pixels[i]), "label": i % 2} for i in range(6)]
    data = as_data((items, items, items), "mine", Asked())
    assert data.is_images
    splits = prepare(data, CPU, torch.float32)
    samples = Samples(torch.from_numpy(pixels).movedim(3, 1), torch.arange(6) % 2)
    whole = prepare(Data(samples, samples, samples, num_classes=2), CPU, torch.float32)
    (batch,), (expected,) = splits.val.in_order(), whole.val.in_order()
    assert_close(batch.inputs, expected.inputs, rtol=1e-6, atol=1e-6)
    assert splits.input_shape == (3, 8, 8)
    small = prepare(as_data((items, items, items), "mine", Asked()), CPU, torch.float32, channels=1, image_size=4)
    assert small.input_shape == (1, 4, 4)
    assert next(small.train.training(3, 0, 1)).inputs.shape == (3, 1, 4, 4)
