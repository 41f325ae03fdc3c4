"""Samples of several tensors, a dict or a tuple: predicted from files, lines and Python, and exported."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from trainer import load
from trainer.command import main as cli
from trainer.data.preparation import Theirs, from_dict
from trainer.errors import UserError

Train = Callable[..., dict[str, Any]]
NET = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.words, self.head = nn.Embedding(20, 8), nn.Linear(8, num_classes)
    def forward(self, ids, mask, unused=None):
        return self.head((self.words(ids) * mask.unsqueeze(-1)).sum(1))
class Data(torch.utils.data.Dataset):
    def __init__(self, is_dict):
        self.ids, self.mask = torch.arange(280).view(40, 7) % 19, torch.arange(280).view(40, 7) % 3 > 0
        self.is_dict = is_dict
    def __len__(self):
        return 40
    def __getitem__(self, i):
        ids, mask = self.ids[i], self.mask[i].float()
        return {"ids": ids, "mask": mask, "unused": mask} if self.is_dict else (ids, mask), i % 3
"""
IDS, MASK = torch.arange(14).view(2, 7), torch.tensor([1.0, 1, 1, 0, 1, 0, 1]).expand(2, 7)
NAMES = {True: ["ids", "mask", "unused"], False: ["inputs.0", "inputs.1"]}


@pytest.fixture(params=[True, False])
def is_dict(request: pytest.FixtureRequest, train: Train, tmp_path: Path) -> bool:
    """A run `x` of a model that takes a dict, or a tuple."""
    name = f"sev{request.param}".lower()
    (tmp_path / f"{name}.py").write_text(NET)
    words = (f"data._target_={name}.Data", f"+data.is_dict={request.param}", f"model._target_={name}.Net")
    train(*words, f"trust=[{name}]", "max_steps=6", "name=x", "monitor=off")
    return bool(request.param)


def named(is_dict: bool) -> dict[str, Tensor]:
    return dict(zip(NAMES[is_dict], (IDS, MASK, MASK), strict=False))


def expected(is_dict: bool) -> np.ndarray:
    model = load("x", trust=[f"sev{is_dict}".lower()])
    return model.network(IDS, MASK).softmax(1).detach().numpy()


def test_files_lines_and_python_give_what_the_network_gives(
    is_dict: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trust = f"trust=[sev{is_dict}]".lower()
    arrays = named(is_dict)
    np.savez("new.npz", **{name: tensor.numpy() for name, tensor in arrays.items()})
    assert cli.run_command(["predict", "x", "new.npz", "out=p.npz", trust]) == 0
    with np.load("p.npz") as found:
        assert np.allclose(found["probabilities"], expected(is_dict), atol=1e-6)
    lines = [{name: tensor[i].tolist() for name, tensor in arrays.items()} for i in range(2)]
    (tmp_path / "lines.txt").write_text("\n".join([json.dumps(lines[0]), '{"ids": [1]}', json.dumps(lines[1])]))
    with open("lines.txt") as typed:
        monkeypatch.setattr("sys.stdin", typed)
        assert cli.run_command(["predict", "x", "-", "out=q.jsonl", trust]) == 1
    rows = [json.loads(line) for line in Path("q.jsonl").read_text().splitlines()]
    told = [row["probability"] for row in rows if "probability" in row]
    assert told == pytest.approx(expected(is_dict).max(1), abs=1e-6)
    assert f"line 2: sample: it holds ids; the model takes {', '.join(arrays)}." in capsys.readouterr().err
    model = load("x", trust=[trust[7:-1]])
    samples = [{n: x[i] for n, x in arrays.items()} for i in range(2)]
    both = samples if is_dict else [tuple(sample.values()) for sample in samples]
    for given in (arrays if is_dict else tuple(arrays.values()), both, [arrays]):
        assert np.allclose([p.probabilities for p in model.predict(given)], expected(is_dict), atol=1e-6)
    assert len(model.predict(both[0])) == 1


def test_other_tensors_are_one_line(is_dict: bool) -> None:
    model = load("x", trust=[f"sev{is_dict}".lower()])
    ids, mask, *_ = names = NAMES[is_dict]
    right = named(is_dict)
    for wrong, line in (
        ({name: right[name] for name in names[1:]}, "the model takes " + ", ".join(names)),
        (right | {ids: right[ids] + 0.5}, f"predict: {ids}: float32 with other numbers than int64 holds. Give int64."),
        (right | {mask: MASK[:1]}, "as many samples are needed of each"),
        (right | {mask: MASK[0, 0]}, r"give \[N, ...\] of 2 dimensions"),
        (right | {mask: MASK[:, :6]}, "the model can't take these samples: The size of tensor"),
        (right | {ids: IDS + 90}, "the model can't take these samples: index out of range"),
        (right | {ids: [["a"] * 7] * 2}, f"predict: {ids}: no array of numbers. Give one of int64."),
    ):
        with pytest.raises(UserError, match=line):
            model.predict(wrong)
    assert len(model.predict(right | {ids: IDS.double()})) == 2  # whole numbers, whatever they are kept in


def test_forms_are_kept_and_foreign_ones_refused() -> None:
    for example in ({"a": IDS, "b": MASK}, (IDS, MASK), {"a": {"b": IDS}, "c": MASK}, ({"b": IDS}, (IDS, MASK))):
        kept = Theirs.like(example)
        assert from_dict(json.loads(json.dumps(kept.as_dict()))) == kept
        assert kept.is_tuple == isinstance(example, tuple)
        assert not kept.is_nested or [*kept.tensors] in (["a.b", "c"], ["inputs.0.b", "inputs.1.0", "inputs.1.1"])
    for example in ({"a.b": {"c": IDS}, "a": MASK}, {"a": {"0": IDS}}, {"inputs": (IDS, MASK)}):
        assert not Theirs.like(example).tensors
    with pytest.raises(ValueError, match="leads on from a tensor"):
        from_dict({**Theirs().as_dict(), "tensors": {"a": ["int64", 2], "a.b": ["int64", 2]}, "is_nested": True})
    assert from_dict({"kind": Theirs.kind}) == Theirs()  # of a run before they were kept
    for foreign in ([], {"a": ["save", 2]}, {"a": ["int64", -1]}, {"a": ["int64"]}, {"a": 3}):
        with pytest.raises(ValueError, match="not what is done to inputs"):
            from_dict({"kind": Theirs.kind, "tensors": foreign})


@pytest.mark.long
@pytest.mark.parametrize("form", ["onnx", "pt2"])
def test_an_export_takes_them_by_their_names(is_dict: bool, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    assert cli.run_command(["export", "x", f"format={form}", f"out=m.{form}", f"trust=[sev{is_dict}]".lower()]) == 0
    given = named(is_dict)
    taken = ", ".join(f"{name} {'float32' if i else 'int64'} [N, 7]" for i, name in enumerate(given))
    assert f"takes {taken}; gives" in capsys.readouterr().out
    if form == "onnx":
        session = onnxruntime.InferenceSession("m.onnx")
        found = session.run(["probabilities"], {name: tensor.numpy() for name, tensor in given.items()})[0]
    else:
        found = torch.export.load("m.pt2").module()(*given.values())[1].detach().numpy()
    assert np.allclose(found, expected(is_dict), atol=1e-5)


NESTED = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.words, self.head = nn.Embedding(20, 8), nn.Linear(9, num_classes)
    def forward(self, text, pair):
        found = (self.words(text["ids"]) * text["mask"].unsqueeze(-1)).sum(1)
        return self.head(torch.cat([found, pair[0] - pair[1]], 1))
class Data(torch.utils.data.Dataset):
    def __init__(self, is_dict):
        self.is_dict, self.ids = is_dict, torch.arange(280).view(40, 7) % 19
    def __len__(self):
        return 40
    def __getitem__(self, i):
        text = {"ids": self.ids[i], "mask": (self.ids[i] > 3).float()}
        pair = torch.tensor([i / 40]), torch.tensor([i % 3 * 1.0])
        return ({"text": text, "pair": pair} if self.is_dict else (text, pair)), i % 3
"""


@pytest.mark.parametrize("is_dict", [True, False])
def test_dicts_in_dicts_are_predicted_by_the_way_to_each(
    is_dict: bool, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"nest{is_dict}".lower()
    (tmp_path / f"{name}.py").write_text(NESTED)
    words = (f"data._target_={name}.Data", f"+data.is_dict={is_dict}", f"model._target_={name}.Net")
    train(*words, f"trust=[{name}]", "max_steps=6", "name=x", "monitor=off")
    text, pair = {"ids": IDS, "mask": MASK}, (torch.tensor([[0.5], [0.25]]), torch.tensor([[1.0], [2.0]]))
    model = load("x", trust=[name])
    probabilities = model.network(text, pair).softmax(1).detach().numpy()
    first, second = ("text", "pair") if is_dict else ("inputs.0", "inputs.1")
    flat = {f"{first}.{key}": tensor.numpy() for key, tensor in text.items()}
    flat |= {f"{second}.{i}": tensor.numpy() for i, tensor in enumerate(pair)}
    np.savez("new.npz", **flat)
    assert cli.run_command(["predict", "x", "new.npz", "out=p.npz", f"trust=[{name}]"]) == 0
    with np.load("p.npz") as found:
        assert np.allclose(found["probabilities"], probabilities, atol=1e-6)
    whole = {"text": text, "pair": pair} if is_dict else (text, pair)
    for given in (whole, flat):
        assert np.allclose([p.probabilities for p in model.predict(given)], probabilities, atol=1e-6)
    lines = [
        {first: {key: tensor[i].tolist() for key, tensor in text.items()}, second: [part[i].tolist() for part in pair]}
        for i in range(2)
    ]
    lines.append({first: {"ids": [1]}, second: [[1.0]]})
    Path("lines.txt").write_text("\n".join(map(json.dumps, lines)))
    with open("lines.txt") as typed:
        monkeypatch.setattr("sys.stdin", typed)
        assert cli.run_command(["predict", "x", "-", "out=q.jsonl", f"trust=[{name}]"]) == 1
    rows = [json.loads(line) for line in Path("q.jsonl").read_text().splitlines()]
    assert [row["probability"] for row in rows[:2]] == pytest.approx(probabilities.max(1), abs=1e-6)
    told = f"the model takes {first}.ids, {first}.mask, {second}.0, {second}.1."
    assert told in capsys.readouterr().err
