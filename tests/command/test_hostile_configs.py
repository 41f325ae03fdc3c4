"""Configs and run folders that somebody sent: nothing that they name runs, what they say of this machine stays here.

A config comes in three ways: in the folder of a run that goes on (`resume=`), in a folder of configs (`--config-dir`),
and typed. Each call below is made once without us, so that a test which sees nothing happen says something.
"""

import importlib
import io
import json
import logging.config
import os
import pickle
import re
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
import torch
import yaml
from hydra.utils import instantiate
from omegaconf import OmegaConf

from trainer.command import main as cli
from trainer.command.folders import CONFIGS
from trainer.config.request import Request, resolved
from trainer.config.schema import GROUPS
from trainer.disk import foreign
from trainer.errors import UserError
from trainer.run.run import run


class Weapon:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


Call = dict[str, Any]  # what a config says: `_target_` and arguments

# What makes the folder `marker` when it is called: the four that Hydra lets through, and others.
CALLS: dict[str, Callable[[Path, Path], Call]] = {
    "torch.load": lambda folder, marker: {"f": pickled(folder, marker), "weights_only": False},
    "torch.hub.load": lambda folder, marker: {
        "repo_or_dir": script(folder / "hubconf.py", marker).parent,
        "model": "fire",
        "source": "local",
    },
    "numpy.load": lambda folder, marker: {"file": pickled_array(folder, marker), "allow_pickle": True},
    "setuptools._distutils.spawn.spawn": lambda folder, marker: {"cmd": ["mkdir", marker]},
    "torch.utils.collect_env.run": lambda folder, marker: {"command": ["mkdir", marker]},
    "os.system": lambda folder, marker: {"command": f"mkdir {marker}"},
    "posix.system": lambda folder, marker: {"command": f"mkdir {marker}"},
    "os.makedirs": lambda folder, marker: {"name": marker},
    "subprocess.run": lambda folder, marker: {"args": ["mkdir", marker]},
    "subprocess.getoutput": lambda folder, marker: {"cmd": f"mkdir {marker}"},
    "builtins.eval": lambda folder, marker: {"_args_": [f"__import__('os').mkdir('{marker}')"]},
    "builtins.exec": lambda folder, marker: {"_args_": [f"import os; os.mkdir('{marker}')"]},
    "timeit.timeit": lambda folder, marker: {"stmt": f"import os; os.mkdir('{marker}')", "number": 1},
    "runpy.run_path": lambda folder, marker: {"path_name": script(folder / "weapon.py", marker)},
    "importlib.import_module": lambda folder, marker: {"name": script(folder / "weapon.py", marker).stem},
    "pydoc.locate": lambda folder, marker: {"path": script(folder / "weapon.py", marker).stem},
    "hydra.utils.get_object": lambda folder, marker: {"path": script(folder / "weapon.py", marker).stem},
    "yaml.unsafe_load": lambda folder, marker: {"stream": f"!!python/object/apply:os.mkdir ['{marker}']"},
    "pickle.loads": lambda folder, marker: {"_args_": [pickle.dumps(Weapon(marker))]},
    "functools.reduce": lambda folder, marker: {
        "_args_": [{"_target_": "os.mkdir", "_partial_": True}, [marker, 0o777]]
    },
    "torch.nn.modules.module.torch.hub.os.mkdir": lambda folder, marker: {"path": marker},
    "weapon.fire": lambda folder, marker: {"x": script(folder / "weapon.py", marker)},
}
BYPASSES = list(CALLS)[:4]


def pickled(folder: Path, marker: Path) -> Path:
    torch.save(Weapon(marker), folder / "weapon.pt")
    return folder / "weapon.pt"


def pickled_array(folder: Path, marker: Path) -> Path:
    np.save(folder / "weapon.npy", np.array([Weapon(marker)], object), allow_pickle=True)
    return folder / "weapon.npy"


def script(path: Path, marker: Path) -> Path:
    path.write_text(f"import os\nif not os.path.exists({str(marker)!r}): os.mkdir({str(marker)!r})\ndef fire(**_): 0\n")
    return path


def plain(value: Any) -> Any:
    """Paths as texts."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "it_ran"


@pytest.fixture
def call(tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Call]]:
    """`call(name)` is what a config says to make that call."""
    monkeypatch.syspath_prepend(str(tmp_path))
    yield lambda name: {"_target_": name, **plain(CALLS[name](tmp_path, marker))}
    sys.modules.pop("weapon", None)


def naively(config: Any) -> Any:
    """What `_target_` means, without anybody who checks it."""
    if isinstance(config, list):
        return [naively(item) for item in config]
    if not isinstance(config, dict):
        return config
    arguments = {name: naively(value) for name, value in config.items() if not name.startswith("_")}
    if "_target_" not in config:
        return arguments
    parts = config["_target_"].split(".")
    for i in range(len(parts), 0, -1):
        with suppress(ImportError):
            found = importlib.import_module(".".join(parts[:i]))
            break
    for part in parts[i:]:
        found = getattr(found, part)
    return found if config.get("_partial_") else found(*naively(config.get("_args_", [])), **arguments)


@pytest.mark.parametrize("name", CALLS)
def test_each_call_makes_the_folder_where_nobody_checks(call, marker, name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        naively(call(name))
    assert marker.exists()


@pytest.mark.parametrize("name", BYPASSES)
def test_hydra_makes_these_calls(call, marker, name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        instantiate(call(name))
    assert marker.exists()


# --- a config in a run's folder ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run of one step in `runs/it`, whose model is a list of layers and whose loss has terms; and what is composed
    where nothing is typed.
    """
    folder = tmp_path_factory.mktemp("base")
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["train"])
        patch.setenv("HYDRA_FULL_ERROR", "1")
        words = ["model=sequential", "loss=composite", "loss.terms.cross_entropy.criterion._target_=torch.nn.NLLLoss"]
        words += ["scheduler=step", "monitor=off", "data.limit=40", "max_steps=1", "name=it"]
        assert cli.run_command(words) == 0
        with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
            composed: Any = OmegaConf.to_container(hydra.compose("train"))
    return folder, composed


Train = Callable[..., dict[str, Any]]


@pytest.fixture
def go_on(base: tuple[Path, dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """`train resume=runs/it max_steps=2` without Hydra, which would compose the same each time."""

    def run_it(**typed: Any) -> dict[str, Any]:
        typed = {"resume": "runs/it", "max_steps": 2, **typed}
        words = [f"{key}={value}" for key, value in typed.items()]
        return run(Request({**base[1], **typed}, dict.fromkeys(GROUPS, "own"), words))

    return run_it


@pytest.fixture
def stored(base: tuple[Path, dict[str, Any]]) -> dict[str, Any]:
    """The run lies in `runs/it` of the folder that the test is in; its config."""
    shutil.copytree(base[0] / "runs", "runs")
    config: dict[str, Any] = yaml.safe_load(Path("runs/it/config.yaml").read_text())
    return config


def everything() -> dict[str, bytes]:
    """Of the folder that the test is in, but for Python's cache."""
    files = (path for path in Path().rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path): path.read_bytes() for path in files}


def refusal(command: Callable[..., object], *words: str, says: str = "", **typed: Any) -> str:
    """The one line that refuses a command, which has written nothing."""
    before = everything()
    with pytest.raises(UserError) as caught:
        command(*words, **typed)
    message = str(caught.value)
    assert "\n" not in message
    assert says in message
    assert everything() == before
    return message


def refused(go_on: Train, config: Any, says: str = "") -> str:
    """The one line that refuses to go on with a run of that config."""
    text = config if isinstance(config, str | bytes) else yaml.safe_dump(config)
    Path("runs/it/config.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    return refusal(go_on, says=says)


def test_the_run_goes_on_as_it_is(go_on, stored):
    Path("runs/it/config.yaml").write_text(yaml.safe_dump(stored))
    assert go_on()["steps"] == 2


@pytest.mark.parametrize("name", CALLS)
def test_a_stored_call_is_refused_as_a_group_and_in_a_list(go_on, stored, call, marker, name):
    refused(go_on, {**stored, "model": call(name)}, "model.")
    stored["model"]["layers"].append(call(name))
    refused(go_on, stored, "model.layers.8.")
    assert not marker.exists()
    assert "weapon" not in sys.modules


def put(config: Any, keys: str, value: Any) -> None:
    *above, last = keys.split("/")
    for key in above:
        config = config[int(key) if isinstance(config, list) else key]
    config[int(last) if isinstance(config, list) else last] = value


PLACES = [
    *("model/layers/1", "model/layers/1/in_features", "model/init", "data", "data/augment", "data/augment/rotation"),
    *("data/image_size", "loss/terms/l1", "loss/terms/l1/criterion", "loss/terms/l1/weight", "optimizer/betas/0"),
    *("optimizer/params", "scheduler", "scheduler/interval", "scheduler/lr_lambda", "monitor", "checkpoint/metric"),
    *("hydra", "seed", "_target_", "choices", "choices/model", "model/_args_"),
]


@pytest.mark.parametrize("place", PLACES)
def test_a_stored_call_is_refused_wherever_it_stands(go_on, stored, call, marker, place):
    made = call("setuptools._distutils.spawn.spawn")
    put(stored, place, [made] if place == "model/_args_" else made)
    refused(go_on, stored)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(
            ("_recursive_", False),
            ("_recursive_", "no"),
            ("_partial_", True),
            ("_partial_", 1),
            ("_convert_", "object"),
        ),
        *(("_convert_", {"_target_": "os.getcwd"}), ("_args_", None)),
    ],
)
def test_hydras_own_keys_open_no_way(go_on, stored, call, marker, key, value):
    made = call("setuptools._distutils.spawn.spawn")
    stored["model"]["layers"][1] |= {key: value, "bias": made}
    refused(go_on, stored)
    stored["model"]["layers"][1]["bias"] = True
    stored["model"][key] = value
    stored["model"]["layers"].append(made)
    refused(go_on, stored)
    assert not marker.exists()


@pytest.mark.parametrize("group", ["model", "data", "loss"])
def test_a_group_that_is_only_half_made_is_refused(go_on, stored, group):
    stored[group]["_partial_"] = True
    refused(go_on, stored, f"{group}=")


# --- interpolations


def flow(value: Any) -> str:
    """In OmegaConf's grammar, whose words need no quotes."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {flow(item)}" for key, item in value.items()) + "}"
    return f"[{', '.join(map(flow, value))}]" if isinstance(value, list) else str(value)


def create(call: Call) -> str:
    return f"${{oc.create:{flow(call)}}}"


TRICKS: dict[str, Callable[[Call], str]] = {
    "created": create,
    "created later": lambda call: "\\" + create(call),  # a backslash: to be resolved once more
    "created much later": lambda call: "\\\\\\" + create(call),
    "decoded": lambda call: f"${{oc.decode:'{flow(call)}'}}",
    "decoded later": lambda call: f"\\${{oc.decode:'{flow(call)}'}}",
    "by way of a name": lambda call: "${oc.create:${name}}",
    "selected": lambda call: "${oc.select:checkpoint.metric," + create(call)[2:-1] + "}",
    "in the middle": lambda call: "a${oc.env:HOME}b",
}


@pytest.mark.parametrize("trick", TRICKS)
def test_an_interpolation_makes_no_call(go_on, stored, call, marker, trick):
    made = call("setuptools._distutils.spawn.spawn")
    stored["model"]["layers"].append(TRICKS[trick](made))
    refused(go_on, stored)
    stored["model"]["layers"][-1] = {"_target_": "torch.nn.Identity", "x": TRICKS[trick](made)}
    refused(go_on, stored)
    assert not marker.exists()


def test_an_interpolation_would_make_the_call_when_it_is_resolved_twice(call, marker):
    text = TRICKS["created later"](call("setuptools._distutils.spawn.spawn"))
    once = OmegaConf.to_container(OmegaConf.create({"layer": text}), resolve=True)
    assert isinstance(once["layer"], str)
    instantiate(once)
    assert marker.exists()


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("data/limit", "${oc.env:SECRET}"),
        ("model/note", "a ${oc.env:SECRET} b"),
        ("scheduler/interval", "${oc.env:NONE,${oc.env:SECRET}}"),
        ("checkpoint/metric", "val/${oc.decode:${oc.env:SECRET}}"),
        ("loss/terms/l1/weight", "${oc.env:${seed},SECRET}"),
        ("model/layers/1/in_features", "${oc.select:seed,${oc.env:SECRET}}"),
        ("seed", "${hydra:runtime.cwd}"),
        ("data/limit", "${now:%Y}"),
        ("batch_size", "${python_version:}"),
        ("batch_size", "${eval:1}"),
    ],
)
def test_a_stored_config_does_not_ask_about_this_machine(go_on, stored, monkeypatch, place, text):
    """Or else what it asked for would stand in the event file, in a message, or in an address that is fetched."""
    monkeypatch.setenv("SECRET", "hunter2")
    put(stored, place, text)
    message = refused(go_on, stored, f"{place.replace('/', '.')}={text}: ")
    assert "hunter2" not in message
    assert str(Path.cwd()) not in message


def test_who_types_such_a_question_stores_the_answer(train, monkeypatch):
    """A run that continues asks no more, whatever the machine would say by then."""
    monkeypatch.setenv("RATE", "0.01")
    words = ("model=two_layer", "monitor=off", "data.limit=40", "optimizer.lr=${oc.env:RATE}")
    train(*words, "max_steps=1", "name=mine")
    assert yaml.safe_load(Path("runs/mine/config.yaml").read_text())["optimizer"]["lr"] == 0.01
    assert train(*words, "max_steps=2", "name=mine")["steps"] == 2
    monkeypatch.setenv("RATE", "0.5")
    assert train("resume=runs/mine", "max_steps=3")["steps"] == 3
    refusal(train, *words, "max_steps=4", "name=mine", says="optimizer.lr=0.5 (was 0.01)")


# --- whom to trust


def test_a_stored_config_does_not_say_whom_to_trust(go_on, stored, call, marker):
    made = call("weapon.fire")
    stored["trust"] = ["weapon", "os", "setuptools"]
    stored["model"] = made
    refused(go_on, stored, "is in none of the trusted packages")
    assert not marker.exists()

    with suppress(UserError):  # it makes no module
        go_on(trust=["weapon"])
    assert marker.exists()


# --- YAML


YAMLS = {
    "python/object/apply": "{text}\nx: !!python/object/apply:os.mkdir ['{marker}']\n",
    "python/object/new": "{text}\nx: !!python/object/new:os.mkdir ['{marker}']\n",
    "python/name": "{text}\nx: !!python/name:os.mkdir\n",
    "python/module": "{text}\nx: !!python/module:weapon\n",
    "a tag of its own": "{text}\nx: !weapon [1]\n",
    "a key twice": "{text}\nmodel: {{_target_: os.getcwd}}\n",
    "two documents": "{text}\n---\n{text}",
    "nothing": "",
    "a list": "- 1\n",
    "a word": "word\n",
    "a tab": "\t{text}",
    "a null byte": "{text}\0",
    "an escape": "{text}\nx: \x1b[2J\n",
    "itself": "{text}\nx: &x [*x]\n",
    "itself as a key": "{text}\nx: &x {{y: *x}}\n",
    "a billion laughs": "{text}\n"
    + "".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9 if i else ['ha'])}]\n" for i in range(10)),
    "a deep list": "{text}\nx: " + "[" * 60_000,
    "a deep row": "{text}\nx:\n  " + "- " * 60_000 + "1\n",
    "a number of a million digits": "{text}\nx: 0x" + "f" * 1_000_000,
    "no text": b"\xff\xfe\x00\xd8",
    "a hundred thousand keys": "{text}\n" + "".join(f"k{i}:\n" for i in range(100_000)),
    "a hundred thousand numbers": "{text}\nx: [" + "1," * 100_000 + "1]\n",
    "a large file": "{text}\n" + "# nothing\n" * (foreign.MAX_TEXT_BYTES // 10 + 1),
}


# What takes ever longer to resolve, though there is little of it.
ENDLESS = {
    "references that unfold": "".join(f"l{i}: '{f'${{l{i - 1}}}' * 9 if i else 'ha'}'\n" for i in range(10)),
    "references to what unfolds": "".join(f"l{i}: [{f'${{l{i - 1}}},' * 9 if i else 'ha'}]\n" for i in range(10)),
    "references in a roundabout way": "".join(
        f"i{i}: {i}\nl{i}: '{f'${{l${{i{i - 1}}}}}' * 9 if i else 'ha'}'\n" for i in range(10)
    ),
    "selected": "".join(f"l{i}: '{f'${{oc.select:l{i - 1}}}' * 9 if i else 'ha'}'\n" for i in range(10)),
    "a reference to itself": "x: ${x}\n",
    "two references to each other": "x: ${y}\ny: ${x}\n",
    "a reference to all above it": "x: {y: {z: '${x}'}}\n",
    "references in references": f"x: {'${' * 5000}x{'}' * 5000}\n",
    "a long chain": "".join(f"l{i}: ${{l{i - 1}}}\n" for i in range(1, 1000)) + "l0: 1\n",
}


@pytest.mark.parametrize("name", ENDLESS)
def test_references_without_an_end_are_refused_at_once(go_on, train, stored, name):
    """In the folder of a run, and in a folder of configs."""
    text = Path("runs/it/config.yaml").read_text() + ENDLESS[name]
    began = time.monotonic()
    refused(go_on, text, "runs/it/config.yaml: ")
    Path("conf/experiment").mkdir(parents=True)
    indented = "".join(f"  {line}\n" for line in ENDLESS[name].splitlines()).replace("${", "${.")
    Path("conf/experiment/x.yaml").write_text(f"{GLOBAL}model:\n{indented}")
    refusal(train, "--config-dir=conf", "experiment=x", "model=own", "model._target_=torch.nn.Linear")
    assert time.monotonic() - began < 10


def test_references_with_an_end_are_resolved():
    assert resolved({"a": 2, "b": {"c": "${a}", "d": ["${..c}", "${.0}"], "e": "${b[c]} ${oc.env:HOME}"}})["b"] == {
        "c": 2,
        "d": [2, 2],
        "e": f"2 {os.environ['HOME']}",
    }
    many = {"width": 8, "layers": [{"in": "${width}", "out": "${.in}"} for _ in range(300)]}
    assert resolved(many)["layers"] == [{"in": 8, "out": 8}] * 300


def test_what_stands_behind_an_anchor_counts_wherever_it_is_repeated():
    assert foreign.read_yaml("a: &a {x: 1, y: 1}\nb: {<<: *a, y: 2}\nc: [*a]") == {
        "a": {"x": 1, "y": 1},
        "b": {"x": 1, "y": 2},
        "c": [{"x": 1, "y": 1}],
    }
    ten = f"a: &a [{'1,' * 9_990}]\n"
    references = "a: &a [" + "'${b}'," * 600 + "]\n"
    chain = "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 60))
    for text in (f"{ten}b: [*a, *a]", f"{references}b: [*a, *a]", f"a0: &a0 1\n{chain[: chain.index('a48')]}"):
        assert foreign.read_yaml(text)
    for text in (f"{ten}b: [*a, *a, *a]", f"{references}b: [*a, *a, *a]", f"a0: &a0 1\n{chain}", "x: &x [{y: *x}]"):
        with pytest.raises(ValueError, match=r"it holds more than 30,000|too many references|50 deep|holds itself by"):
            foreign.read_yaml(text)


@pytest.mark.parametrize("name", YAMLS)
def test_a_stored_text_that_is_no_config_is_refused(go_on, stored, call, marker, name):
    call("weapon.fire")
    made = YAMLS[name]
    if isinstance(made, str):
        text = Path("runs/it/config.yaml").read_text()
        made = made.replace("{text}", text).replace("{marker}", str(marker)).replace("{{", "{").replace("}}", "}")
    refused(go_on, made, "runs/it/config.yaml")
    assert not marker.exists()


def test_a_tag_would_make_the_call(marker):
    yaml.unsafe_load(YAMLS["python/object/apply"].replace("{text}", "").replace("{marker}", str(marker)))
    assert marker.exists()


# --- a folder of configs, and what is typed ------------------------------------------------------------------------


@pytest.mark.parametrize("name", BYPASSES)
def test_a_typed_call_is_refused(train, call, marker, name):
    made = call(name)
    arguments = [f"++model.{key}={json.dumps(value)}" for key, value in made.items() if key != "_target_"]
    refusal(train, f"model._target_={name}", *arguments, says="model._target_=")
    layer = ",".join(f"{key}:{json.dumps(value)}" for key, value in made.items())
    refusal(train, "model=sequential", f"model.layers=[{{{layer}}}]", says="model.layers.0.")
    assert not marker.exists()


@pytest.mark.parametrize("name", [*BYPASSES[1:], "weapon.fire"])
def test_a_call_in_a_folder_of_configs_is_refused(train, call, marker, name):
    made = call(name)
    Path("conf/model").mkdir(parents=True)
    Path("conf/experiment").mkdir()
    Path("conf/model/theirs.yaml").write_text(yaml.safe_dump(made))
    Path("conf/experiment/theirs.yaml").write_text("# @package _global_\n" + yaml.safe_dump({"loss": made}))
    refusal(train, "--config-dir", "conf", "model=theirs", says="model.")
    refusal(train, "--config-dir", "conf", "experiment=theirs", says="loss.")
    assert not marker.exists()


def test_trust_in_an_experiment_is_refused_and_what_is_typed_counts(train, call, marker):
    Path("conf/experiment").mkdir(parents=True)
    experiment = {"trust": ["weapon"], "data": call("weapon.fire")}
    Path("conf/experiment/theirs.yaml").write_text("# @package _global_\n" + yaml.safe_dump(experiment))
    refusal(train, "--config-dir", "conf", "experiment=theirs", says="trust=[weapon]: stands in a config file")
    assert not marker.exists()
    with suppress(UserError):  # it gives no data
        train("--config-dir", "conf", "experiment=theirs", "trust=[weapon]")
    assert marker.exists()


@pytest.mark.slow
def test_nor_does_it_count_in_a_sweep(train, command, call, marker):
    """Whose jobs are built, one of each kind, before the first is run."""
    Path("conf/experiment").mkdir(parents=True)
    experiment = {"trust": ["weapon"], "data": call("weapon.fire")}
    Path("conf/experiment/theirs.yaml").write_text(GLOBAL + yaml.safe_dump(experiment))
    words = ("--config-dir", "conf", "experiment=theirs", "--multirun", "seed=0,1")
    refusal(train, *words, says="trust=[weapon]: stands in a config file")
    assert not marker.exists()
    assert "made a NoneType; a" in command(*words, "trust=[weapon]").stderr
    assert marker.exists()


@pytest.mark.parametrize("key", ["run_dir", "resume"])
@pytest.mark.parametrize("more", [(), ("--multirun", "seed=0,1")], ids=["a run", "a sweep"])
def test_a_folder_of_configs_does_not_say_where_to_write(train, stored, key, more):
    Path("conf/experiment").mkdir(parents=True)
    Path("conf/experiment/theirs.yaml").write_text(GLOBAL + yaml.safe_dump({key: "runs/it", "max_steps": 1}))
    words = ("--config-dir", "conf", "experiment=theirs", "monitor=off", "data.limit=40", *more)
    refusal(train, *words, says=f"{key}=runs/it: stands in a config file")
    if not more:
        shutil.rmtree("runs/it")
        train(*words, f"{key}=null", "run_dir=mine")
        assert os.listdir("runs") == []


GLOBAL = "# @package _global_\n"
HYDRAS = {
    "callbacks": ("experiment/x.yaml", GLOBAL, {"hydra": {"callbacks": {"x": "CALL"}}}),
    "launcher": ("experiment/x.yaml", GLOBAL, {"hydra": {"launcher": "CALL"}}),
    "logging": (
        "experiment/x.yaml",
        GLOBAL,
        {"hydra": {"job_logging": {"version": 1, "handlers": {"x": {"()": "os.mkdir", "path": "MARKER"}}}}},
    ),
    "environment": ("experiment/x.yaml", GLOBAL, {"hydra": {"job": {"env_set": {"PYTHONSTARTUP": "x.py"}}}}),
    "elsewhere": ("experiment/x.yaml", GLOBAL, {"hydra": {"job": {"chdir": True}, "run": {"dir": "MARKER"}}}),
    "sweep": (
        "experiment/x.yaml",
        GLOBAL,
        {"hydra": {"mode": "MULTIRUN", "sweeper": {"params": {"trust": "[weapon]"}}}},
    ),
    "escaped": ("experiment/x.yaml", GLOBAL, '"hy\\x64ra": {callbacks: {x: CALL}}'),
    "merged": ("experiment/x.yaml", GLOBAL, "a: &a {hydra: {callbacks: {x: CALL}}}\n<<: *a"),
    "package": ("experiment/x.yaml", "#  @package  hydra.callbacks\n", {"x": "CALL"}),
    "moved": ("experiment/x.yaml", GLOBAL, {"defaults": [{"/model@hydra.callbacks.x": "own"}]}),
    "a group": ("hydra/launcher/mine.yaml", "", "CALL"),
    "primary": ("train.yaml", "", {"hydra": {"callbacks": {"x": "CALL"}}}),
}


@pytest.mark.parametrize("name", HYDRAS)
def test_a_folder_of_configs_does_not_say_what_hydra_does(train, call, marker, name):
    """Hydra would call what its own section names before the run knows of it."""
    path, header, content = HYDRAS[name]
    text = content if isinstance(content, str) else yaml.safe_dump(content)
    made = json.dumps(call("setuptools._distutils.spawn.spawn"))
    text = text.replace("CALL", made).replace("MARKER", str(marker))
    file = Path("conf", path)
    file.parent.mkdir(parents=True)
    file.write_text(header + text)
    words = ["experiment=x"] if path.startswith("experiment") else ["hydra/launcher=mine"] if "hydra/" in path else []
    flag = "--config-path" if path == "train.yaml" else "--config-dir"
    before = everything()
    with pytest.raises(UserError) as caught:  # if for no other reason, since there is no step to train
        train(flag, str(Path("conf").absolute()), *words, "max_steps=0")
    assert "\n" not in str(caught.value)
    assert everything() == before
    assert not marker.exists()


QUESTIONS = ["--hydra-help", "--cfg=job", "--cfg=hydra", "--cfg=all", "--info=all", "--info=config", "--info=plugins"]


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("word", ["experiment=x", "+experiment=x", "++experiment=x"])
def test_a_question_about_a_folder_of_configs_calls_nothing(train, marker, question, word, capsys):
    """To set up a logging is to call what it names."""
    handlers = {"version": 1, "filters": {"x": {"()": "os.mkdir", "path": str(marker)}}}
    Path("conf/experiment").mkdir(parents=True)
    hydras = {"hydra_logging": handlers, "job_logging": handlers}
    Path("conf/experiment/x.yaml").write_text(GLOBAL + yaml.safe_dump({"hydra": hydras}))
    with suppress(UserError, SystemExit):
        cli.run_command(["--config-dir", "conf", question, word])
    assert not marker.exists()
    logging.config.DictConfigurator(handlers).configure_filter({"()": "os.mkdir", "path": str(marker)})
    assert marker.exists()


def test_what_is_typed_for_hydra_does_not_go_with_a_folder_of_configs(train, call, marker):
    Path("conf/experiment").mkdir(parents=True)
    made = {"hydra": {"callbacks": {"x": call("setuptools._distutils.spawn.spawn")}}}
    Path("conf/experiment/x.yaml").write_text(GLOBAL + yaml.safe_dump(made))
    for word in ("hydra.verbose=true", "++hydra.verbose=true", "hydra/launcher=basic"):
        refusal(train, "--config-dir=conf", "experiment=x", word, "--multirun", says=word)
    assert not marker.exists()


def test_hydra_would_call_it(call, marker, monkeypatch):
    Path("conf").mkdir()
    made = {"hydra": {"callbacks": {"x": call("setuptools._distutils.spawn.spawn")}, "run": {"dir": "."}}}
    made["hydra"] |= {"output_subdir": None}
    Path("conf/train.yaml").write_text(yaml.safe_dump(made))
    monkeypatch.setattr(sys, "argv", ["train"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(logging.root, "handlers", [])  # Hydra's writes into a folder that is gone when this test is
    with pytest.warns(UserWarning, match="Callback"):  # what was called is no callback
        hydra.main(version_base="1.3", config_path=str(Path("conf").absolute()), config_name="train")(print)()
    for handler in logging.root.handlers:
        handler.close()
    assert marker.exists()


def test_what_can_not_be_chosen_is_no_option(train):
    """An editor's lock, a link to nothing, a folder: as an option it is not there, and harms no other."""
    Path("conf/model/folder.yaml").mkdir(parents=True)
    for name in (".#my.yaml", "gone.yaml"):
        os.symlink("nowhere", f"conf/model/{name}")
    for name in ("gone", "folder"):
        said = refusal(train, "--config-dir", "conf", f"model={name}", says=f"model={name}: there is no such model.")
        assert not re.search(r"There is .*(gone|folder|#my)", said)
    train("--config-dir", "conf", "model=two_layer", "max_steps=1", "monitor=off")


@pytest.mark.parametrize("value", ["a" * 100_000, f"[{'1,' * 40_000}1]", "[" * 10_001, "name=" * 5000])
def test_a_word_without_end_is_refused_at_once(train, value):
    began = time.process_time()
    for words in ((f"model.x={value}",), (f"name={value}",), ("--multirun", f"seed={value}"), ("runs", value)):
        assert len(refusal(train, *words, says="a word has at most 10,000")) < 300
    assert time.process_time() - began < 2


def test_a_weight_for_each_of_a_thousand_classes_can_be_typed(train):
    refusal(train, f"loss.weight=[{','.join(['0.125'] * 1000)}]", says="loss.weight: has 1000 numbers")


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_pickled_config_is_not_read(train, marker, tmp_path):
    (tmp_path / "config.pickle").write_bytes(pickle.dumps(Weapon(marker)))
    for words in (["--experimental-rerun", "config.pickle"], ["--experimental-rerun=config.pickle"]):
        refusal(train, *words, says="there is no such flag")
    assert not marker.exists()


# --- what else lies in a run's folder ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [".lock", "metrics.jsonl", "result.json", "config.yaml", "overrides.yaml", "projector", "checkpoints", "x/y"],
)
@pytest.mark.parametrize("is_there", [True, False])
def test_a_link_in_a_run_s_folder_is_not_written_through(go_on, stored, tmp_path, name, is_there):
    outside = tmp_path / "outside"
    path = Path("runs/it", name)
    path.parent.mkdir(exist_ok=True)
    if is_there and path.exists():
        path.rename(outside)
    elif is_there:
        outside.write_text("mine")
    elif path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    path.symlink_to(outside)
    refusal(go_on, says=f"runs/it: {name} is a link to {outside}")
    assert outside.exists() == is_there


@pytest.mark.parametrize("name", ["config.yaml", "metrics.jsonl", "events.out.tfevents.1.host.1.0", ".lock"])
def test_a_pipe_in_a_run_s_folder_is_not_waited_for(go_on, stored, name):
    Path("runs/it", name).unlink(missing_ok=True)
    os.mkfifo(Path("runs/it", name))
    for typed in ({}, {"resume": None, "name": "it"}):
        refusal(go_on, **typed, says=f"runs/it: {name} is no plain file")


def record(length: int, content: bytes) -> bytes:
    """A record of an event file whose head says so of its length, with checksums that fit."""
    from trainer.monitor.events import _frame_head, _framed

    return _frame_head(length) + _framed(content)[12:]


@pytest.mark.parametrize("damage", ["promises", "no event", "no record"])
def test_an_event_file_that_is_none_ends_where_it_is_damaged(go_on, stored, damage):
    made = {"promises": record(2**62, b"four"), "no event": record(4, b"\xff\xff\xff\xff"), "no record": b"\xff" * 40}
    Path("runs/it/events.out.tfevents.0000000001.host.1.0").write_bytes(made[damage])
    stored["monitor"]["events"] = True
    Path("runs/it/config.yaml").write_text(yaml.safe_dump(stored))
    assert go_on()["steps"] == 2


@pytest.mark.parametrize("text", ["[" * 100_000, "\xff", '{"step": [1]}\n5\n{"step": 1e999}\n{"step": 1'])
def test_metrics_that_are_none_are_left_out(go_on, stored, text):
    for name in ("metrics.jsonl", "result.json"):
        Path("runs/it", name).write_bytes(text.encode("latin1"))
    assert go_on()["steps"] == 2


LONG = "9" * 4000
FOREIGN: dict[str, dict[str, str | bytes]] = {
    **{f"config: {name}": {"config.yaml": text.replace("{text}", "") if isinstance(text, str) else text}
       for name, text in YAMLS.items()},
    "no text": dict.fromkeys(("config.yaml", "result.json", "metrics.jsonl", "overrides.yaml"), b"\xff\xfe\x00"),
    "deep": {"result.json": '{"status": "finished", "x": ' + "[" * 900 + "]" * 900 + "}", "metrics.jsonl": "[" * 10**5},
    "deeper": {"result.json": "[" * 100_000, "overrides.yaml": "[" * 60_000},
    "large numbers": {
        "result.json": f'{{"status": "finished", "steps": {LONG}, "seconds": {LONG}, "best/val/loss": {LONG}, '
        f'"val/loss": 1e999, "num_parameters": -{LONG}, "test/loss": NaN, "best/val/accuracy": Infinity}}',
        "metrics.jsonl": f'{{"step": {LONG}, "val/loss": {LONG}}}\n{{"step": 1, "val/loss": {LONG}}}\n'
        f'{{"step": 2, "time/step_ms": {LONG}, "val/loss": 1e300}}\n{{"step": -5, "val/loss": -1e308}}\n',
    },
    "numbers while it runs": {
        "result.json": "",
        "metrics.jsonl": f'{{"step": {LONG}, "time/step_ms": 1e308, "val/loss": 1}}\n{{"step": 9, "val/loss": [1]}}\n',
    },
    "words for numbers": {
        "result.json": '{"status": "finished", "steps": "x", "seconds": [], "best/val/loss": {}, "diagnosis": [[[5]]]}',
        "metrics.jsonl": '{"step": 1, "val/loss": "x"}\n{"step": true}\n{"step": null}\n',
    },
    "laughs": {"overrides.yaml": YAMLS["a billion laughs"].replace("{text}", "")},
    "what a terminal obeys": {
        "result.json": '{"status": "\\u001b[2Jx", "\\u001b]0;x\\u0007": 1, "val/loss": "\\u202e\\n", "diagnosis": '
        '[{"rule": "\\u001b[2J", "step": 1, "layer": "\\r", "meaning": "\\u0007", "advice": "x"}]}',
        "overrides.yaml": "- \"model=\\e[2J\"\n",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", FOREIGN)
def test_looking_at_a_folder_that_somebody_sent(stored, capsys, monkeypatch, name):
    """Every verb shows what it can, or says in one line what it can't; and nothing that a terminal obeys."""
    shutil.copytree("runs/it", "runs/theirs\x1b[2J")
    for file, content in FOREIGN[name].items():
        for folder in Path("runs").iterdir():
            (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    for words in (
        *(["runs"], ["runs", "--csv"], ["runs", "--json"], ["runs", "sort=steps", "where=steps>0"]),
        *(["show", "it"], ["show", "runs/theirs\x1b[2J"], ["compare", "it", "theirs\x1b[2J"]),
    ):
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["train", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        assert ended.value.code in (0, 2), (words, err)
        assert "Traceback" not in err
        assert (out + err).replace("\n", "").isprintable(), words
        assert ended.value.code == 0 or len(err.splitlines()) <= 3, (words, err)


@pytest.mark.parametrize("name", ["config.yaml", "result.json", "metrics.jsonl", "overrides.yaml"])
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: os.symlink("/dev/zero", path), os.mkdir])
def test_looking_at_a_folder_with_something_that_has_no_end(stored, capsys, name, make):
    for other in ("runs/it/result.json", f"runs/it/{name}"):
        Path(other).unlink(missing_ok=True)
    make(f"runs/it/{name}")
    for words in (["runs"], ["show", "it"]):
        with suppress(UserError):
            assert cli.run_command(words) == 0


def test_folders_in_folders_without_end(train, capsys):
    here = os.getcwd()
    Path("runs").mkdir()
    os.chdir("runs")
    for _ in range(1010):  # more than Python's limit for functions in functions
        os.mkdir("d")
        os.chdir("d")
    os.chdir(here)
    try:
        with pytest.raises(UserError, match="holds no run of train"):
            cli.run_command(["runs"])
    finally:
        subprocess.run(["rm", "-r", "runs"], check=True)


def test_nobody_is_talked_into_trusting_what_is_nobody_s_own(go_on, stored, capsys):
    for trusted, is_shown in ((["mine"], True), (["subprocess"], False), (["mine", "os.path"], False)):
        Path("runs/it/config.yaml").write_text(yaml.safe_dump({**stored, "trust": trusted}))
        assert cli.run_command(["show", "it"]) == 0
        assert ("trust=" in capsys.readouterr().out) is is_shown


# --- and nobody is asked -------------------------------------------------------------------------------------------

AUDITED = """
import os, socket, sys

EVENTS = "socket.connect", "socket.getaddrinfo", "socket.gethostby", "socket.bind", "socket.send", "urllib"

def watch(event, arguments):
    if event.startswith(EVENTS):
        print(f"ASKED {event}", file=sys.stderr)

sys.addaudithook(watch)
from trainer.command import main as cli
for words in (["data.limit=40", "max_steps=1"], ["runs"]):
    sys.argv[1:] = words
    assert cli.run_command(words) == 0
print("AND NOW", file=sys.stderr)
with socket.socket() as asked:
    asked.connect_ex(("127.0.0.1", 9))
"""


@pytest.mark.slow
def test_a_run_opens_no_connection():
    """The default command, with all that it draws for TensorBoard."""
    environment = {**os.environ, "HYDRA_FULL_ERROR": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", AUDITED], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    before, after = done.stderr.split("AND NOW")
    assert "ASKED" not in before
    assert "ASKED socket.connect" in after
