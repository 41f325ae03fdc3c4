"""Data sets of other libraries by name: what is on this disk trains without the network; what is missing is a line."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from trainer.data import hf_sets, torchvision_sets
from trainer.data.given import Asked, as_data
from trainer.data.prepare import check, prepare
from trainer.errors import UserError
from trainer.meaning import Classes, Numbers, Places

Train = Callable[..., dict[str, Any]]
PIXELS = np.random.default_rng(0).integers(0, 256, (30, 32, 32, 3), dtype=np.uint8)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved data set of pictures, tokens and words, and a table of some of its columns."""
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    folder = tmp_path_factory.mktemp("hf")
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["cat", "dog", "eel"]),
            "ids": datasets.Sequence(datasets.Value("int64")),
            "mask": datasets.Sequence(datasets.Value("int64")),
            "word": datasets.Value("string"),
        }
    )
    rows = [
        {"image": Image.fromarray(PIXELS[i]), "label": i % 3, "ids": [i, 1], "mask": [1, i % 2], "word": "ab"[i % 2]}
        for i in range(30)
    ]
    found = datasets.Dataset.from_list(rows, features=features)
    found.save_to_disk(str(folder / "saved"))
    found.train_test_split(0.4, shuffle=False).save_to_disk(str(folder / "splits"))
    found.select_columns(["ids", "word"]).to_parquet(str(folder / "words.parquet"))
    return folder


def read(path: Path, inputs: Any, targets: Any) -> Any:
    data = as_data(hf_sets.load(str(path), inputs, targets), "hf", Asked(num_workers=0))
    check(data, "hf")
    return data


def test_pictures_and_their_classes_train(saved: Path, train: Train) -> None:
    words = ("model=lenet", "data=hf", "data.inputs=[image]", "data.targets=[label]", "max_steps=3", "monitor=off")
    result = train(*words, f"data.path={saved / 'saved'}", "data.num_workers=1")
    assert 0 < result["test/loss"] < 3


def test_columns_become_what_they_are(saved: Path) -> None:
    data = read(saved / "splits", ["ids", "mask"], ["label"])
    assert data.meaning == Classes(3, ("cat", "dog", "eel"))
    assert [len(getattr(data, split)) for split in ("train", "val", "test")] == [16, 2, 12]
    (batch,) = prepare(data, CPU, torch.float32).test.in_order()
    assert batch.inputs["ids"].equal(torch.tensor([[i, 1] for i in range(18, 30)]))
    assert batch.inputs["mask"].equal(torch.tensor([[1, i % 2] for i in range(18, 30)]))
    assert batch.targets.tolist() == [i % 3 for i in range(18, 30)]
    words = read(saved / "words.parquet", "ids", "word")
    assert words.meaning == Classes(2, ("a", "b"))
    assert words.train.sample[0].shape == (1, 2)


def test_several_files_are_one_data_set(saved: Path) -> None:
    words = saved / "words.parquet"
    (saved / "[a,b] c.parquet").write_bytes(words.read_bytes())  # a name, and no list
    assert len(hf_sets.load(str(saved / "[a,b] c.parquet"), "ids", "word").train) == 30
    second = saved / "second.parquet"
    second.write_bytes(words.read_bytes())
    data = hf_sets.load(f"[{words}, {second}]", "ids", "word")
    assert len(data.train) == 60
    assert data.description == "hf: words.parquet + second.parquet, train 60"
    for wrong, said in (
        (f"[{words},{words}]", "a file is there twice"),
        (f"[{words},{saved / 'saved'}]", "must be of one kind"),
        (f"[{words},{saved / 'nowhere.parquet'}]", "there is no "),
        ("[]", "no path was given"),
    ):
        with pytest.raises(UserError, match=said):
            hf_sets.load(wrong, "ids", "word")


def columns(path: Path, labels: Any, **splits: Any) -> Path:
    """A saved data set of two numbers and a label per row; with splits, if there are labels of such."""
    datasets = pytest.importorskip("datasets")

    def of(labels: Any) -> Any:
        found = datasets.Dataset.from_dict({"v": [[float(i), 1.0] for i in range(len(labels))], "label": labels})
        is_named = all(type(label) is int or label is None for label in labels)
        return found.cast_column("label", datasets.ClassLabel(names=["a", "b", "c"])) if is_named else found

    whole = {"train": of(labels), **{name: of(others) for name, others in splits.items()}}
    (datasets.DatasetDict(whole) if splits else whole["train"]).save_to_disk(str(path))
    return path


def test_the_column_that_is_called_so_has_its_classes_and_its_share_of_each(tmp_path: Path) -> None:
    data = read(columns(tmp_path / "a", [0, 1, 2, 2, 2] * 20), None, None)
    assert data.meaning == Classes(3, ("a", "b", "c"))
    assert [torch.bincount(part.known).tolist() for part in (data.train, data.val, data.test)] == [
        [14, 14, 42],
        [2, 2, 6],
        [4, 4, 12],
    ]
    assert read(columns(tmp_path / "b", [True, False] * 20), None, None).meaning == Classes(2, ())


def test_a_test_split_whose_labels_are_kept_back_is_left_out_in_a_line(tmp_path: Path) -> None:
    data = read(columns(tmp_path / "a", [0, 1, 2] * 20, test=[-1] * 30, validation=[0, 1, 2]), None, None)
    assert [len(part) for part in (data.train, data.val, data.test)] == [48, 3, 12]
    assert "the test split has no labels, and is left out" in data.notes


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, None, 1, 2], "data.targets=[label]: 10 of 40 rows of the train split have nothing there. Take them out"),
        (["a", None, "b", "c"], "data.targets=[label]: 10 of 40 rows of the train split have nothing there."),
        ([0.5, 1.5, 1.0, None], "data.targets=[label]: 10 of 40 rows of the train split have nothing there."),
        ([0, 1, -1, 2], "labels from -1 to 2; with 3 classes they go from 0 to 2. Take out the items that have no"),
        ([["a"], ["b", "c"], ["a"], ["b"]], "an item has a list that is no array of numbers, ['a']."),
    ],
    ids=str,
)
def test_rows_without_a_label_or_with_several_words_are_a_line(labels: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as raised:
        read(columns(tmp_path / "a", labels * 10), None, None)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("name", "inputs", "message"),
    [
        ("saved", ["imag"], "data.inputs=[imag]: "),
        ("saved", None, "the train split has inputs word that are no numbers. Choose with data.inputs=[...]"),
        ("nothing", None, "there is no "),
    ],
)
def test_what_is_not_there_is_a_line(name: str, inputs: Any, message: str, saved: Path) -> None:
    with pytest.raises(UserError) as raised:
        read(saved / name, inputs, None)
    assert message in str(raised.value)


def test_a_file_of_another_kind_is_a_line(saved: Path, tmp_path: Path) -> None:
    for name, message in (("a.txt", "is not read; accepted are .parquet"), ("a.parquet", "datasets can't read it")):
        (tmp_path / name).write_text("nothing of the kind")
        with pytest.raises(UserError) as raised:
            read(tmp_path / name, None, None)
        assert message in str(raised.value)
        assert "\n" not in str(raised.value)


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is not None, reason="torchvision is there")
def test_without_torchvision_a_line_says_what_to_type() -> None:
    with pytest.raises(UserError, match=r"data=torchvision: needs torchvision. Type pip install torchvision."):
        torchvision_sets.load("CIFAR100")


class TestTorchvision:
    @pytest.fixture(autouse=True)
    def pets(self, tmp_path: Path) -> Path:
        """A few pictures laid out as the Oxford-IIIT Pet data set."""
        pytest.importorskip("torchvision")
        root = tmp_path / "pets" / "oxford-iiit-pet"
        (root / "annotations" / "trimaps").mkdir(parents=True)
        (root / "images").mkdir()
        for split, rows in (("trainval", range(20)), ("test", range(20, 30))):
            for i in rows:
                Image.fromarray(PIXELS[i][: 30 + i % 2]).save(root / "images" / f"Cat_{i}.jpg")
                Image.fromarray(PIXELS[i][: 30 + i % 2, :, 0] % 3 + 1).save(
                    root / "annotations" / "trimaps" / f"Cat_{i}.png"
                )
            lines = [f"Cat_{i} {i % 3 + 1} 1 1" for i in rows]
            (root / "annotations" / f"{split}.txt").write_text("\n".join(lines))
        return tmp_path / "pets"

    def test_pictures_have_the_classes_and_splits_that_it_says(self, pets: Path) -> None:
        data = as_data(torchvision_sets.load("OxfordIIITPet", str(pets)), "torchvision", Asked())
        assert isinstance(data.meaning, Classes)
        assert [len(getattr(data, split)) for split in ("train", "val", "test")] == [18, 2, 10]
        assert torch.bincount(data.train.known).tolist() == [6, 6, 6]
        splits = prepare(data, CPU, torch.float32, image_size=16)
        assert next(splits.train.training(4, 0, 1)).inputs.shape == (4, 3, 16, 16)

    # A mask that torchvision has opened is closed when somebody looks at it; where none does, by the garbage collector.
    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    def test_masks_have_the_size_of_their_images(self, pets: Path) -> None:
        made = torchvision_sets.load("OxfordIIITPet", str(pets), options={"target_types": "segmentation"})
        data = as_data(made, "torchvision", Asked())
        assert data.meaning == Places(3, ("1", "2", "3"))
        splits = prepare(data, CPU, torch.float32, image_size=16)
        batch = next(splits.train.training(4, 0, 1))
        assert batch.targets.shape == (4, 16, 16)
        assert batch.targets.unique().tolist() == [0, 1, 2]

    def test_classes_that_are_not_those_of_the_targets_have_no_names(self, pets: Path) -> None:
        """It has the names of breeds, and was asked for cat or dog; for numbers; for more classes than it has names."""
        (pets / "oxford-iiit-pet/annotations/test.txt").write_text("Cat_20 1 2 1\nCat_21 1 1 1\n")
        made = torchvision_sets.load("OxfordIIITPet", str(pets), options={"target_types": "binary-category"})
        assert as_data(made, "torchvision", Asked()).meaning == Classes(2, ())
        made = torchvision_sets.load("OxfordIIITPet", str(pets))
        assert as_data(made, "torchvision", Asked(num_classes=5)).meaning == Classes(5, ("Cat",) * 3)
        assert as_data(made, "torchvision", Asked(task="regression")).meaning == Numbers(1)

    def test_what_is_not_there_is_a_line(self, tmp_path: Path) -> None:
        for name, options, message in (
            ("CIFR100", None, "torchvision has no such data set. Did you mean CIFAR100?"),
            ("CIFAR100", None, "Type data.root=<its folder>, or data.download=true."),
            ("CIFAR100", {"splt": 1}, "data.options.splt: CIFAR100 does not take it."),
        ):
            with pytest.raises(UserError) as raised:
                torchvision_sets.load(name, str(tmp_path), options=options)
            assert message in str(raised.value)

    @pytest.mark.parametrize(
        ("name", "asked", "message"),
        [
            ("FakeData", {"root": "x"}, "data.root=x: FakeData reads no files. Leave it out."),
            ("FakeData", {"download": True}, "data.download=true: torchvision does not fetch FakeData. Leave it out."),
            ("ImageFolder", {"download": True}, "does not fetch ImageFolder. Get its files, and type data.root="),
            ("EMNIST", {}, "data.name=EMNIST: needs split. Type 'data.options={split: ...}'."),
            ("EMNIST", {"options": {"split": "digit"}}, "to train on: Unknown value 'digit' for argument split. Valid"),
            ("ImageFolder", {"root": "."}, "). Type data.root=<its folder>."),
            ("CIFAR100", {"options": {"download": True}}, "data.options.download: has a key of its own. Type data.do"),
        ],
    )
    def test_what_was_typed_is_used_or_refused(self, name: str, asked: dict[str, Any], message: str) -> None:
        with pytest.raises(UserError) as raised:
            torchvision_sets.load(name, **asked)
        assert message in str(raised.value)
