"""The TEXT tab: the config survives it, and the table of layers counts what the model has."""

import os
import platform
import shutil
import subprocess
from pathlib import Path

import markdown
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from trainer.models.finetune import Finetune
from trainer.models.lenet import LeNet
from trainer.models.resnet import resnet18
from trainer.models.two_layer import TwoLayer
from trainer.monitor import texts


def rows(table: str) -> list[list[str]]:
    """The cells of a Markdown table below its head."""
    return [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in table.splitlines()[2:]]


def test_the_config_comes_back_out_of_its_block() -> None:
    config = OmegaConf.create({"lr": 0.1, "layers": [1, 2], "note": "~~~~\n# no *heading* <b>\n", "deep": {"x": None}})
    html = markdown.markdown(texts.block(OmegaConf.to_yaml(config), "yaml"), extensions=["fenced_code"])
    body = html.removeprefix('<pre><code class="language-yaml">').removesuffix("</code></pre>")
    assert body != html
    for entity, sign in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&amp;", "&")):
        body = body.replace(entity, sign)
    assert OmegaConf.create(body) == config


def test_layers_of_lenet_are_those_of_the_paper() -> None:
    table = texts.model_table(LeNet(num_classes=10), torch.zeros(2, 1, 32, 32))
    assert rows(table) == [
        ["conv1", "Conv2d", "N x 6 x 28 x 28", "156", "trainable"],
        ["conv2", "Conv2d", "N x 16 x 10 x 10", "2,416", "trainable"],
        ["fc1", "Linear", "N x 120", "48,120", "trainable"],
        ["fc2", "Linear", "N x 84", "10,164", "trainable"],
        ["fc3", "Linear", "N x 10", "850", "trainable"],
        ["**all**", "", "", "**61,706**", "**61,706 trainable, 0 frozen**"],
    ]


def test_frozen_layers_are_said_to_be_frozen() -> None:
    model = Finetune(resnet18(num_classes=10), num_classes=10, unfreeze=["layer4.1.bn2"])
    model.backbone.bn1.bias.requires_grad_(True)
    *layers, total = rows(texts.model_table(model, torch.zeros(1, 3, 32, 32)))
    states = {name: state for name, _, _, _, state in layers}
    assert states["head"] == states["backbone.layer4.1.bn2"] == "trainable"
    assert states["backbone.bn1"] == "partly frozen"
    assert states["backbone.conv1"] == "frozen"
    assert total[3:] == ["**11,181,642**", f"**{5130 + 1024 + 64:,} trainable, {11_181_642 - 6218:,} frozen**"]
    assert sum(int(count.replace(",", "")) for _, _, _, count, _ in layers) == 11_181_642


class Tied(nn.Module):
    """Two layers with one weight, another that is never called, and parameters of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.unused = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2)
        self.second.weight = self.first.weight
        self.scale = nn.Parameter(torch.ones(5))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.second(self.first(x)), self.scale


def test_shared_parameters_count_once_and_layers_that_are_not_called_have_no_shape() -> None:
    assert rows(texts.model_table(Tied(), torch.zeros(2, 3))) == [
        ["(model)", "Tied", "N x 3, 5", "5", "trainable"],
        ["first", "Linear", "N x 3", "12", "trainable"],
        ["second", "Linear", "N x 3", "3", "trainable"],
        ["unused", "Linear", "", "8", "trainable"],
        ["**all**", "", "", "**28**", "**28 trainable, 0 frozen**"],
    ]


def test_a_model_that_is_one_layer_has_one_row() -> None:
    *layers, _ = rows(texts.model_table(TwoLayer(in_features=6, out_features=2), torch.zeros(2, 6)))
    assert layers == [["(model)", "TwoLayer", "N x 2", "902", "trainable"]]


def test_looking_leaves_no_trace() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
    model[1].eval()
    inputs = torch.randn(4, 3)
    before, random = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    texts.model_table(model, inputs)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    assert [module.training for module in model] == [True, False, True]
    assert not any(module._forward_hooks for module in model)


def test_tables_survive_bars() -> None:
    assert "<td>a|b</td>" in markdown.markdown(texts.pairs_table({"key": "a|b"}), extensions=["tables"])


def test_the_environment_names_versions_and_device() -> None:
    found = texts.environment(torch.device("cpu"), "1.2.3")
    assert found["train"] == "1.2.3"
    assert found["python"] == platform.python_version()
    assert found["torch"] == torch.__version__
    assert found["hydra-core"].startswith("1.3.")
    assert found["device"].startswith("cpu, ")


GIT = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "protocol.file.allow=always"]
needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def git(*words: str) -> str:
    return subprocess.run([*GIT, *words], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The commit of the repository that the test is in."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    git("init", "-q", "-b", "main")
    Path("file").write_text("one")
    git("add", "file")
    git("commit", "-q", "-m", "first")
    return git("rev-parse", "HEAD")


@needs_git
def test_the_commit_is_that_of_the_working_folder(repository: str, monkeypatch: pytest.MonkeyPatch) -> None:
    git("tag", "v1")
    assert texts.git_commit() == repository
    Path("below").mkdir()
    monkeypatch.chdir("below")
    assert texts.git_commit() == repository
    git("pack-refs", "--all")
    assert texts.git_commit() == repository
    git("commit", "-q", "--allow-empty", "-m", "second")  # now the branch stands in both places
    assert texts.git_commit() == git("rev-parse", "HEAD") != repository
    git("checkout", "-q", "--detach", "v1")
    assert texts.git_commit() == repository


@needs_git
def test_worktrees_and_submodules_have_a_commit(repository: str, monkeypatch: pytest.MonkeyPatch) -> None:
    git("worktree", "add", "-q", "-b", "other", "../other")
    git("submodule", "--quiet", "add", str(Path.cwd()), "part")
    git("commit", "-q", "-m", "second")
    second = git("rev-parse", "HEAD")
    for folder, commit in (("../other", repository), ("../mine/part", repository), ("..", second)):
        monkeypatch.chdir(folder)
        assert texts.git_commit() == commit == git("rev-parse", "HEAD")


@needs_git
@pytest.mark.parametrize("name", ["no commit yet", "a hash of letters", "elsewhere", "a pipe", "no repository"])
def test_where_there_is_no_commit_there_is_none(
    name: str, repository: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.txt").write_text("a" * 40)
    head = Path(".git/HEAD")
    if name == "no commit yet":
        git("checkout", "-q", "--orphan", "new")
    elif name == "a hash of letters":
        head.write_text("x" * 40)
    elif name == "elsewhere":
        head.write_text("ref: refs/../../../mine.txt")
    elif name == "a pipe":
        head.unlink()
        os.mkfifo(head)
    else:
        monkeypatch.chdir(tmp_path)
    assert texts.git_commit() is None
