"""The command as a process: help, one-line errors, exit codes, the user's own classes, an installed wheel."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from trainer.command.help import topics

Command = Callable[..., subprocess.CompletedProcess[str]]


def test_the_same_as_a_process(command: Command, tmp_path: Path) -> None:
    done = command("optimzer.lr=0.1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: optimzer.lr: nothing reads this key. Did you mean optimizer.lr?\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_with_3(command: Command, tmp_path: Path) -> None:
    done = command(
        "model=two_layer", "optimizer=sgd", "optimizer.lr=1e9", "loss=mse", "monitor.every=1", "name=diverged"
    )
    assert done.returncode == 3
    assert re.search(
        r"^error: train/loss=(nan|inf) at step \d+: the loss is not finite. lr=1e\+09 grad_norm=(nan|inf)."
        r" The first value that is not finite: (output of|weight|the loss itself).*"
        r" Last: train/loss=.* Try optimizer.lr=1e\+08, ",
        done.stderr,
    )
    assert done.stderr.count("\n") == 1
    assert json.loads((tmp_path / "runs/diverged/result.json").read_text())["status"] == "stopped"


@pytest.mark.slow
def test_weights_that_are_not_finite_are_not_saved_by_ctrl_c(command: Command, tmp_path: Path) -> None:
    """A finite loss whose slope is not, and a signal in the same step, before any validation could notice."""
    (tmp_path / "root.py").write_text(
        "import os, signal\n"
        "from torch import nn\n"
        "class Root(nn.Module):\n"
        "    def forward(self, outputs, targets):\n"
        "        if outputs.requires_grad:  # which only a step goes back through\n"
        "            outputs.register_hook(lambda slope: os.kill(os.getpid(), signal.SIGINT))\n"
        "        return (outputs - outputs.detach()).abs().sum().sqrt()\n"
    )
    words = ("model=two_layer", "loss._target_=root.Root", "trust=[root]", "max_steps=5", "eval_every=9", "name=root")
    done = command(*words, "monitor=off")
    assert done.returncode == 3, done.stderr
    assert "a weight is not finite after step 1" in done.stderr
    assert not (tmp_path / "runs/root/checkpoints").exists()


@pytest.mark.parametrize("words", [["--help"], ["--cfg", "job"], ["-sc", "query=model="]])
def test_short_commands_import_no_torch(words: list[str], tmp_path: Path) -> None:
    code = (
        "import sys; from trainer.command import main as cli; sys.argv[1:] = sys.argv[1:]\n"
        "try: cli.main()\nexcept SystemExit as e: print(e.code, 'torch' in sys.modules, file=sys.stderr)"
    )
    env = {**os.environ, "COMP_LINE": "train model=l", "COMP_POINT": "13"}
    words = ["-sc", "query=bash"] if words[0] == "-sc" else words
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600
    )
    assert done.stderr.splitlines()[-1] in ("0 False", "None False"), done.stderr
    expected = {"--help": "Choices, GROUP=OPTION:", "--cfg": "kernel_size: 5", "-sc": "model=lenet"}[words[0]]
    assert expected in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_flags_and_overrides_in_any_order(command: Command) -> None:
    done = command("max_steps=3", "--cfg", "job", "model=two_layer")
    assert done.returncode == 0, done.stderr
    assert "max_steps: 3" in done.stdout
    assert "TwoLayer" in done.stdout


@pytest.mark.slow
def test_the_users_own_classes(command: Command, tmp_path: Path) -> None:
    """A model, a loss, an optimizer and data of their own: nothing of ours is touched."""
    (tmp_path / "mine.py").write_text(
        """
import torch
from torch import nn
from trainer.data.source import Data, Samples

class Net(nn.Module):
    def __init__(self, in_features, num_classes, width=4):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(in_features, width), nn.Tanh(),
                                    nn.Linear(width, num_classes))
    def forward(self, x):
        return self.layers(x)

class Margin(nn.Module):
    def forward(self, outputs, targets):
        return nn.functional.multi_margin_loss(outputs, targets)

class Slow(torch.optim.SGD):
    pass

def load(n=30):
    x = torch.randn(n, 3, generator=torch.Generator().manual_seed(0))
    samples = Samples(x, (x.sum(1) > 0).long())
    return Data(samples, samples, samples, "half spaces", num_classes=2)
"""
    )
    words = ["model._target_=mine.Net", "model.width=16", "loss._target_=mine.Margin", "data._target_=mine.load"]
    words += ["optimizer._target_=mine.Slow", "optimizer.lr=0.1", "max_steps=200", "name=own"]
    refused = command(*words)
    assert refused.returncode == 2
    assert "type trust=[mine]" in refused.stderr
    done = command(*words, "trust=[mine]")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "runs/own/result.json").read_text())
    assert result["num_parameters"] == 3 * 16 + 16 + 16 * 2 + 2
    assert result["test/accuracy"] > 0.9
    wrong = command("model._target_=mine.Net", "model.widht=16", "trust=[mine]")
    assert "model.widht: nothing reads this key. Did you mean model.width?" in wrong.stderr
    kind = command("model._target_=mine.Margin", "trust=[mine]", "optimizer._target_=mine.Net")
    assert kind.returncode == 2
    assert "Traceback" not in kind.stderr


@pytest.mark.slow
def test_an_own_config_folder(command: Command, tmp_path: Path) -> None:
    (tmp_path / "conf/model").mkdir(parents=True)
    (tmp_path / "conf/model/tiny.yaml").write_text(
        "# A tiny network\n_target_: trainer.models.two_layer.TwoLayer\nin_features: null\nout_features: null\n"
        "hidden_features: 3\n"
    )
    done = command("--config-dir", "conf", "model=tiny", "max_steps=2", "name=tiny")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "runs/tiny/result.json").read_text())["num_parameters"] == 64 * 3 + 3 + 3 * 10 + 10
    assert "A tiny network" in command("--config-dir", "conf", "--help").stdout
    assert "Did you mean tiny?" in command("--config-dir", "conf", "model=tyni").stderr


def test_from_an_installed_wheel(tmp_path: Path) -> None:
    """The wheel carries configs, digits and the manual; `train` works from another folder, without the checkout."""
    root = Path(__file__).parents[2]
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path / "dist"), str(root)]
    subprocess.run(build, check=True, timeout=600)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    install = [*pip, "install", "--no-deps", "--no-index", "--target", str(tmp_path / "site"), str(wheel)]
    subprocess.run(install, check=True, timeout=600)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    def installed(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, str(tmp_path / "site/bin/train"), *words],
            cwd=elsewhere,
            env={**os.environ, "PYTHONPATH": str(tmp_path / "site"), "PYTHONWARNINGS": "error", "PYTHONSAFEPATH": "1"},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    listed = installed("help")
    for topic, about in topics().items():
        assert about in listed
        assert (tmp_path / f"site/trainer/manual/{topic}.md").read_text().startswith(f"# {about}\n")
    assert "LeNet-5" in installed("--help")
    installed("max_steps=5", "model=two_layer")
    (result,) = elsewhere.rglob("result.json")
    assert json.loads(result.read_text())["status"] == "finished"
