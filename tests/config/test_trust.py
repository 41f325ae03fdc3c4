"""Trust: what a config may name, decided before anything of it is imported."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from plain import request_of
from trainer.config.settings import settings_of
from trainer.config.trust import check_keys, check_targets, parameters, resolve, takes_any
from trainer.data.source import Data
from trainer.errors import UserError
from trainer.models.two_layer import TwoLayer

CONFIGS = Path(__file__).parents[2] / "configs"
KINDS = {"model": nn.Module, "loss": nn.Module, "optimizer": Optimizer, "scheduler": LRScheduler, "data": Data}


def resolved(group: str, target: Any, *own: str) -> Any:
    return resolve(f"{group}._target_", target, KINDS[group], own)


def refusal(group: str, target: Any, *own: str) -> str:
    """The one line that refuses a target."""
    with pytest.raises(UserError) as caught:
        resolved(group, target, *own)
    message = str(caught.value)
    assert message.startswith(f"{group}._target_=")
    assert "\n" not in message
    return message


def targets_in(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        if value.get("_target_") not in (None, "???"):
            yield value["_target_"]
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from targets_in(item)


SHIPPED = [
    pytest.param(group, target, id=f"{group}/{path.stem}: {target}")
    for group in KINDS
    for path in sorted((CONFIGS / group).glob("*.yaml"))
    for target in dict.fromkeys(targets_in(OmegaConf.to_container(OmegaConf.load(path))))
]


@pytest.mark.parametrize(("group", "target"), SHIPPED)
def test_whatever_is_shipped_is_trusted_and_of_its_kind(group, target):
    found = resolved(group, target)
    assert f"{found.__module__}.{found.__qualname__}".split(".")[-1] == target.split(".")[-1]


HOSTILE = [
    "os.system",
    "posix.system",
    "subprocess.Popen",
    "builtins.eval",
    "builtins.exec",
    "eval",
    "importlib.import_module",
    "pickle.loads",
    "shutil.rmtree",
    "webbrowser.open",
    "numpy.load",
    "torch.load",
    "torch.hub.load",
    "torch.hub.load_state_dict_from_url",
    "torch.utils.cpp_extension.load",
    "torch.jit.load",
    "torch.distributed.rpc.remote",
    "hydra.utils.instantiate",
    "hydra.utils.get_object",
    "trainer.command.main.main",
    "trainer.disk.checkpoint.write_text",
    "torch.nnx.Linear",
    "torch.nn_evil.Linear",
    "trainer.models_evil.Net",
    ".torch.nn.Linear",
    "torch",
    "trainer",
]
# Their names begin with a trusted package and lead out of it, or to something that makes no module.
SNEAKY = [
    "torch.nn",
    "torch.nn.modules",
    "torch.nn.modules.module.torch.load",
    "torch.nn.modules.module.torch.hub.load",
    "torch.nn.modules.module.torch.nn.Linear",
    "torch.nn.modules.module.functools.partial",
    "torch.nn.modules.module.warnings.warn",
    "torch.nn.modules.module.weakref.ref",
    "torch.nn.parallel.distributed.os.system",
    "torch.nn.parallel.distributed.sys.exit",
    "torch.nn.functional.importlib.import_module",
    "torch.nn.functional.relu",
    "torch.nn.functional.linear_cross_entropy",
    "torch.nn.init.normal_",
    "torch.nn.init.trunc_normal_",
    "torch.nn.utils.clip_grad_norm_",
    "torch.nn.Module.__class__",
    "torch.nn.Module.__base__",
    "torch.nn.Module.__init__",
    "torch.nn.Module.__init__.__globals__",
    "torch.nn.Module.__init__.__globals__.get",
    "torch.nn.Module.__subclasses__",
    "torch.nn.Module.__reduce__",
    "torch.nn.Module.__dict__",
    "torch.nn.Module.forward",
    "torch.nn.Module.load_state_dict",
    "torch.nn.ModuleDict.update",
    "torch.nn.Container.__new__",
    "torch.nn.Embedding.from_pretrained",
    "torch.nn.Parameter",
    "torch.nn.parameter.torch.load",
    "torch.nn..Linear",
    "torch.nn.Linear.",
    "torch.nn.",
    "trainer.models.resnet.torch.hub.load",
    "trainer.models.resnet.torch.load",
    "trainer.models.two_layer.math.sqrt",
    "trainer.models.two_layer.GRADIENTS",
    "trainer.models.two_layer.GRADIENTS.get",
    "trainer.models.initialise.initialise",
]


@pytest.mark.parametrize("group", KINDS)
@pytest.mark.parametrize("target", HOSTILE)
def test_what_lies_outside_is_refused(group, target):
    assert "is in none of the trusted packages" in refusal(group, target)


@pytest.mark.parametrize("target", ["os.system", "builtins.eval", "subprocess.Popen", "torch.hub.load", "torch.load"])
def test_nobody_is_told_to_trust_what_is_nobodys_own(target):
    """A config that somebody sent must not talk its reader into trust=[os]."""
    assert "trust=[" not in refusal("model", target)
    assert refusal("model", "mypackage.Net").endswith("If it is yours, type trust=[mypackage].")


@pytest.mark.parametrize("group", ["model", "loss"])
@pytest.mark.parametrize("target", SNEAKY)
def test_what_leads_outside_or_makes_no_module_is_refused(group, target):
    refusal(group, target)


@pytest.mark.parametrize(
    "target", [5, 1.5, True, ["os.system"], {"_target_": "os.system"}, "", "???", " torch.nn.Linear"]
)
def test_what_is_no_name_is_refused(target):
    refusal("model", target)


@pytest.mark.parametrize(
    ("group", "target"),
    [
        ("model", "torch.optim.SGD"),
        ("loss", "trainer.models.lenet.LeNet"),
        ("optimizer", "torch.nn.Linear"),
        ("optimizer", "torch.optim.lr_scheduler.StepLR"),
        ("optimizer", "torch.optim.swa_utils.AveragedModel"),
        ("optimizer", "torch.optim.swa_utils.update_bn"),
        ("scheduler", "torch.optim.SGD"),
        ("scheduler", "trainer.optim.schedulers.Schedule"),
        ("data", "trainer.data.download.fetch"),
        ("data", "trainer.data.batches.ResidentBatches"),
        ("data", "trainer.data.source.split_indices"),
        ("data", "torch.nn.Linear"),
    ],
)
def test_what_makes_another_kind_is_refused(group, target):
    refusal(group, target)


def test_a_package_may_be_called_like_a_number() -> None:
    """YAML takes nan and inf for numbers."""
    assert settings_of(request_of("trust=[nan,inf,mypackage]")).own == ("nan", "inf", "mypackage")


class TestOwn:
    """A user's package, which leaves a file behind when it is imported."""

    @pytest.fixture
    def marker(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        folder = tmp_path / "ownnet"
        folder.mkdir()
        marker = tmp_path / "imported"
        (folder / "__init__.py").write_text(f"open({str(marker)!r}, 'w').close()\n" + PACKAGE)
        (folder / "layers.py").write_text("from torch import nn\nclass Layer(nn.Identity): pass\n")
        (folder / "broken.py").write_text("class Net(: pass\n")
        (folder / "raising.py").write_text("raise ValueError('first\\nsecond')\n")
        (folder / "lacking.py").write_text("import own\n")  # a module that is not there, its name part of ours
        monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
        yield marker
        for name in [name for name in sys.modules if name.split(".")[0] == "ownnet"]:
            del sys.modules[name]

    @pytest.mark.parametrize("own", [(), ("other",), ("own",), ("ownnet.layers",), ("ownnet.Ne",)], ids=str)
    def test_is_not_imported_untrusted(self, marker, own):
        assert refusal("model", "ownnet.Net", *own).endswith("If it is yours, type trust=[ownnet].")
        assert not marker.exists()

    @pytest.mark.parametrize(
        "config",
        [
            {"_target_": "trainer.models.sequential.Sequential", "layers": [{"_target_": "ownnet.Net"}]},
            {"_target_": "torch.nn.Sequential", "_args_": [{"_target_": "ownnet.Net"}]},
            {"_target_": "torch.nn.Identity", "x": {"y": [[{"z": {"_target_": "ownnet.Net", "_partial_": True}}]]}},
            {"_target_": "trainer.models.finetune.Finetune", "backbone": {"_target_": "ownnet.Net"}, "num_classes": 3},
        ],
        ids=["layers", "_args_", "deep", "backbone"],
    )
    def test_is_found_wherever_it_hides_in_a_config(self, marker, config):
        with pytest.raises(UserError, match=r"_target_=ownnet\.Net: is in none of the trusted packages"):
            check_targets("model", config, nn.Module, nn.Module, ())
        assert not marker.exists()
        check_targets("model", config, nn.Module, nn.Module, ("ownnet",))
        assert marker.exists()

    @pytest.mark.parametrize("target", ["ownnet.Net", "ownnet.layers.Layer", "ownnet.make", "ownnet.Linear"])
    def test_is_taken_when_trusted(self, marker, target):
        made = resolved("model", target, "ownnet")()
        assert isinstance(made, nn.Module)
        assert marker.exists()

    @pytest.mark.parametrize(
        ("target", "says"),
        [
            ("ownnet.os.system", ""),
            ("ownnet.system", "is a builtin_function_or_method"),
            ("ownnet.Popen", "comes from subprocess"),
            ("ownnet.run", "comes from subprocess"),
            ("ownnet.half_done", "is a partial"),
            ("ownnet.NUMBER", "is a int"),
            ("ownnet.Plain", "does not make a torch Module"),
            ("ownnet.wipe", "does not make a torch Module"),
            ("ownnet.exit_code", "does not make a torch Module"),
            ("ownnet.Nett", "Did you mean Net?"),
            ("ownnet.Net.size.real", ""),
            ("ownnet.layer.Layer", "there is no"),
            ("ownnet.broken.Net", "importing ownnet.broken failed: SyntaxError"),
            ("ownnet.raising.Net", "importing ownnet.raising failed: ValueError: first second"),
            ("ownnet.lacking.Net", "needs the module own"),
        ],
    )
    def test_is_refused_where_it_is_something_else(self, marker, target, says):
        assert says in refusal("model", target, "ownnet")

    def test_is_found_beside_the_user(self, marker, monkeypatch):
        monkeypatch.setattr(sys, "path", sys.path[1:])
        monkeypatch.chdir(marker.parent)
        assert resolved("model", "ownnet.Net", "ownnet").__name__ == "Net"

    def test_may_be_data_and_optimizer_too(self, marker):
        assert resolved("data", "ownnet.make", "ownnet").__name__ == "make"
        assert resolved("optimizer", "ownnet.Descent", "ownnet").__name__ == "Descent"
        refusal("optimizer", "ownnet.Net", "ownnet")


PACKAGE = """
import functools, os
from os import system
from subprocess import Popen, run
from torch import nn, optim
from torch.nn import Linear as _Linear

NUMBER = 3
half_done = functools.partial(system, "true")

class Net(nn.Identity):
    size = 3

class Linear(_Linear):
    def __init__(self): super().__init__(1, 1)

class Plain: pass

class Descent(optim.SGD): pass

def wipe(folder="/") -> None:
    raise AssertionError

def exit_code(words=()) -> "int":
    raise AssertionError

def make():
    return Net()
"""


class TestKeys:
    @pytest.mark.parametrize(
        ("target", "key", "hint"),
        [
            (torch.optim.SGD, "momentun", "Did you mean optimizer.momentum?"),
            (torch.optim.Adam, "beta", "Did you mean optimizer.betas?"),
            (TwoLayer, "hiden_features", "Did you mean optimizer.hidden_features?"),
        ],
    )
    def test_a_key_that_the_class_does_not_take_is_refused_with_the_nearest(self, target, key, hint):
        with pytest.raises(UserError) as caught:
            check_keys("optimizer", {"_target_": "x", "_partial_": True, key: 1}, target)
        assert str(caught.value) == f"optimizer.{key}: nothing reads this key. {hint}"

    def test_hydras_keys_and_those_of_the_class_pass(self):
        config = {
            "_target_": "x",
            "_partial_": True,
            "_convert_": "all",
            "_recursive_": True,
            "lr": 0.1,
            "momentum": 0.9,
        }
        check_keys("optimizer", config, torch.optim.SGD)

    def test_a_class_that_takes_any_key_is_given_any(self):
        class Own(nn.Module):
            def __init__(self, width: int, /, depth: int, **more: int) -> None:
                super().__init__()

        assert takes_any(Own)
        assert not takes_any(TwoLayer)
        assert [*parameters(Own)] == ["depth", "more"]  # what can be given by name
        check_keys("model", {"anything": 1}, Own)

    def test_a_hint_never_names_what_is_passed_by_us(self):
        with pytest.raises(UserError) as caught:
            check_keys("optimizer", {"param": 1}, torch.optim.SGD)
        assert "params" not in str(caught.value)
