"""Config files as people write them: a recipe of `experiment/` works, or a line names file, line and cure."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from trainer.command import main as cli
from trainer.command.composing import composer
from trainer.command.reading import as_recipe
from trainer.command.words import sorted_words
from trainer.errors import UserError

Train = Callable[..., dict[str, Any]]
HEADER = "# @package _global_\n"
CHOICE = "defaults:\n  - override /optimizer: sgd\n"
BODY = "optimizer:\n  lr: 0.05\nmax_steps: 1\n"
WHOLE = HEADER + CHOICE + BODY

# What is written; each is a recipe for one step of SGD with a learning rate of 0.05.
RECIPES: dict[str, str | bytes] = {
    "as the manual has it": WHOLE,
    "a comment above": "# mine\n" + WHOLE,
    "a licence above": "# Copyright\n#\n# All rights reserved\n\n" + WHOLE,
    "a byte order mark": b"\xef\xbb\xbf" + WHOLE.encode(),
    "a mark and the line ends of Windows": b"\xef\xbb\xbf" + WHOLE.replace("\n", "\r\n").encode(),
    "no package line": CHOICE + BODY,
    "a package line without spaces": WHOLE.replace("# @package", "#@package"),
    "a package line with a colon": WHOLE.replace("@package", "@package:"),
    "a package line in capitals": WHOLE.replace("@package _global_", "@Package _GLOBAL_"),
    "global without underscores": WHOLE.replace("_global_", "global"),
    "a package line below the keys": CHOICE + BODY + HEADER,
    "three dashes": HEADER + "---\n" + CHOICE + BODY,
    "without override": WHOLE.replace("override ", ""),
    "without slash": WHOLE.replace("/optimizer", "optimizer"),
    "without both": WHOLE.replace("override /", ""),
    "with the ending": WHOLE.replace("sgd", "sgd.yaml"),
    "as a path": WHOLE.replace("override /optimizer: sgd", "/optimizer/sgd"),
    "as a path without slash": WHOLE.replace("override /optimizer: sgd", "optimizer/sgd"),
    "choices without dashes": WHOLE.replace("  - override /optimizer", "  optimizer"),
    "with an equals sign": WHOLE.replace("override /optimizer: sgd", "optimizer=sgd"),
    "with _self_": WHOLE.replace("defaults:\n", "defaults:\n  - _self_\n"),
    "a key with a dot": CHOICE + "optimizer.lr: 0.05\nmax_steps: 1\n",
    "a key with a dot beside its section": CHOICE + "optimizer: {momentum: 0.5}\noptimizer.lr: 0.05\nmax_steps: 1\n",
    "a choice among the keys and a key with a dot": "optimizer: sgd\noptimizer.lr: 0.05\nmax_steps: 1\n",
    "umlauts": WHOLE + "name: größe\n",
    "an anchor": CHOICE + "optimizer: {lr: &rate 0.05, weight_decay: *rate}\nmax_steps: &one 1\neval_every: *one\n",
    "an anchor over keys": "optimizer: sgd\noptimizer.lr: 0.05\nmonitor: &m {every: 1}\nconsole: *m\nmax_steps: 1\n",
    "an empty line in the end": WHOLE + "\n\n",
}


def write(path: str, content: str | bytes) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(content.encode() if isinstance(content, str) else content)


def stored() -> dict[str, Any]:
    (path,) = Path("runs").rglob("config.yaml")
    config: dict[str, Any] = yaml.safe_load(path.read_text())
    return config


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_works(train: Train, recipe: str) -> None:
    write("conf/experiment/mine.yaml", RECIPES[recipe])
    assert train("--config-dir", "conf", "experiment=mine", "model=two_layer", "monitor=off")["steps"] == 1
    assert stored()["choices"]["optimizer"] == "sgd"
    assert stored()["optimizer"]["lr"] == 0.05


@pytest.mark.parametrize("ending", [".yaml", ".yml"])
def test_a_choice_among_the_keys_and_either_ending(train: Train, ending: str) -> None:
    keys = "optimizer: sgd\nscheduler: cosine\nmonitor: off\nmetric: [f1, recall.yaml]\nmax_steps: 1\n"
    write(f"conf/experiment/mine{ending}", keys)
    train("--config-dir", "conf", "experiment=mine", "model=two_layer", "optimizer.lr=0.5")
    assert (stored()["choices"]["optimizer"], stored()["choices"]["scheduler"]) == ("sgd", "cosine")
    assert [*stored()["metric"]] == ["f1", "recall"]
    assert stored()["monitor"]["events"] is False


@pytest.mark.parametrize("name", ["2026_11_22", "1e5", "1.50", "007", "yes", "2026-11-22"])
def test_a_name_of_a_recipe_is_the_name_of_the_folder(train: Train, name: str) -> None:
    write("conf/experiment/mine.yaml", f"name: {name}\nmax_steps: 1\n")
    train("--config-dir", "conf", "experiment=mine", "model=two_layer", "monitor=off", "data.limit=40")
    assert Path("runs", name, "config.yaml").is_file()


def test_names_and_paths_of_a_group_and_of_a_config_by_name(train: Train) -> None:
    write("1_0", b"")
    write("conf/data/ours.yaml", "defaults: [arrays]\npath: 1_0\n")
    write("conf/root.yaml", "defaults: [train, _self_]\nname: 1_5\ndata: ours\n")
    argv = ["--config-dir", "conf", "--config-name", "root"]
    with composer(argv, sorted_words(argv)) as made:
        config = made.request().config
    assert (config["name"], config["data"]["path"]) == ("1_5", "1_0")


def test_a_name_behind_an_anchor_is_taken_as_it_is_written(train: Train) -> None:
    write("1_0", b"")
    write("conf/data/ours.yaml", "defaults: [arrays]\nroot: &r 1_5\npath: *r\n")
    write("conf/data/merged.yaml", "defaults: [arrays]\naugment: &a {path: 1_5, root: 1_6}\nroot: 1_0\n<<: *a\n")
    for option, places in (("ours", ("1_5", "1_5")), ("merged", ("1_5", "1_0"))):
        argv = ["--config-dir", "conf", f"data={option}"]
        with composer(argv, sorted_words(argv)) as made:
            data = made.request().config["data"]
        assert (data["path"], data["root"]) == places


def test_what_is_typed_counts_more_than_the_recipe(train: Train) -> None:
    write("conf/experiment/mine.yaml", WHOLE)
    train("--config-dir", "conf", "experiment=mine", "optimizer=rmsprop", "model=two_layer", "monitor=off")
    assert stored()["choices"]["optimizer"] == "rmsprop"


@pytest.mark.parametrize(
    "stands_on",
    [
        "defaults:\n  - base\n",
        "defaults:\n  - experiment: base\n",
        "defaults:\n  - override /experiment: base.yaml\n  - override /scheduler: cosine\n",
        "defaults:\n  - scheduler: cosine\nexperiment: base\n",
    ],
)
def test_a_recipe_on_another(train: Train, stands_on: str) -> None:
    write("conf/experiment/base.yaml", WHOLE)
    write("conf/experiment/mine.yaml", f"{stands_on}optimizer: {{momentum: 0.5}}\nmax_steps: 2\n")
    assert train("--config-dir", "conf", "experiment=mine", "model=two_layer", "monitor=off")["steps"] == 2
    assert stored()["choices"]["optimizer"] == "sgd"
    assert stored()["choices"]["scheduler"] == ("cosine" if "cosine" in stands_on else "constant")
    assert (stored()["optimizer"]["lr"], stored()["optimizer"]["momentum"]) == (0.05, 0.5)


def test_an_option_that_is_called_by_a_number(train: Train) -> None:
    write("conf/experiment/2.yaml", WHOLE)
    train("--config-dir", "conf", "experiment=2", "model=two_layer", "monitor=off")
    assert stored()["optimizer"]["lr"] == 0.05


def test_a_model_of_ones_own_with_a_mark(train: Train) -> None:
    write("conf/model/tiny.yaml", b"\xef\xbb\xbf# A tiny one\r\n_target_: trainer.models.two_layer.TwoLayer\r\n")
    assert train("--config-dir", "conf", "model=tiny", "monitor=off", "max_steps=1")["steps"] == 1


@pytest.mark.long
def test_a_run_with_an_option_of_ones_own_continues_without_its_folder(train: Train) -> None:
    target = "_target_: trainer.models.two_layer.TwoLayer\nin_features: null\nout_features: null\n"
    write("conf/model/mine.yaml", target + "hidden_features: 7\ninit: default\n")
    train("--config-dir", "conf", "model=mine", "max_steps=1", "monitor=off", "name=a")
    assert train("resume=runs/a", "max_steps=2")["steps"] == 2
    assert train("resume=runs/a", "max_steps=3", "model.hidden_features=7")["steps"] == 3
    with pytest.raises(UserError, match=r"started differently: model\.hidden_features=8 \(was 7\)"):
        train("resume=runs/a", "max_steps=4", "model.hidden_features=8")
    assert cli.run_command(["replay", "a", "step=1"]) == 0


FAULTS: dict[str, tuple[str | bytes, str]] = {
    "a tab": (HEADER + "optimizer:\n\tlr: 1\n", "conf/experiment/mine.yaml: no YAML: line 3, column 1: "),
    "a key twice": (HEADER + "seed: 1\nseed: 2\n", "mine.yaml: no YAML: line 3, column 1: found duplicate key seed."),
    "UTF-16": (WHOLE.encode("utf-16"), "mine.yaml: no YAML: it is no text in UTF-8. Save it as UTF-8."),
    "Latin-1": ("name: größe\n".encode("latin-1"), "mine.yaml: no YAML: it is no text in UTF-8. Save it as UTF-8."),
    "an option that there is not": (
        WHOLE.replace("sgd", "sdg"),
        "optimizer=sdg: there is no such optimizer. Did you mean sgd?",
    ),
    "no scheduler": ("scheduler: null\n", "scheduler=null: holds keys of its own. For none type scheduler=constant."),
    "no optimizer": ("defaults:\n  - optimizer: null\n", "optimizer=null: holds keys of its own."),
    "two choices": (
        "optimizer: adamw\n" + CHOICE,
        "mine.yaml: chooses optimizer twice. Write one of the two, or type both: --multirun optimizer=sgd,adamw.",
    ),
    "two values": ("optimizer: {lr: 1}\noptimizer.lr: 2\n", "mine.yaml: has optimizer.lr twice. Write it once."),
    "a section and a value": ("gradient: 3\ngradient.clip_norm: 2\n", "mine.yaml: has gradient.clip_norm twice. "),
    "a dot in the end": ("optimizer.: 2\n", "optimizer.: nothing reads this key. Did you mean optimizer.lr?"),
    "an octal number": ("seed: 1\nmax_steps: 010\n", "line 2: 010 is 8 to YAML. Write 10 or 8, or '010' for a text."),
    "a number of base 60": ("max_time: 1:30\n", "line 1: 1:30 is 90 to YAML. Write '1:30' for a text."),
    "a key that there is not": (HEADER + "optimzer: {lr: 1}\n", "optimzer.lr: nothing reads this key. Did you mean"),
    "itself": ("defaults: [mine]\n", "a config file: its defaults lead back to itself."),
    "a list": ("- seed: 1\n", "conf/experiment/mine.yaml: holds a list. Write keys with their values, without dashes"),
    "what Hydra is to do": (
        WHOLE + "hydra:\n  run: {dir: elsewhere}\n",
        "mine.yaml: hydra: a file does not say what Hydra does here. Take it out, and type what it is for: run_dir=",
    ),
    "what Hydra is to do, with dots": ("hydra.sweeper.n_trials: 3\n", "mine.yaml: hydra: a file does not say what"),
    "a sweeper": (
        "defaults:\n  - override /hydra/sweeper: optuna\n",
        "mine.yaml: hydra/sweeper: a file does not say what Hydra does here.",
    ),
    "an anchor of itself": ("x: &x [*x]\n", "mine.yaml: no YAML: "),
    "nested without an end": ("x: " + "[" * 2000, "mine.yaml: no YAML: "),
    "too large": ("# x\n" * (1 << 23), "mine.yaml: can't be read: it has more than 1,048,576 bytes."),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_a_line_that_names_the_file(train: Train, fault: str) -> None:
    content, says = FAULTS[fault]
    write("conf/experiment/mine.yaml", content)
    with pytest.raises(UserError) as caught:
        train("--config-dir", "conf", "experiment=mine")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not Path("runs").exists()


@pytest.mark.parametrize("words", [["--help"], ["experiment=mine"], ["--cfg", "job"], ["-sc", "query=bash"]])
def test_a_pipe_among_the_configs_is_not_waited_for(train: Train, words: list[str], capsys: Any) -> None:
    Path("conf/experiment").mkdir(parents=True)
    os.mkfifo("conf/experiment/mine.yaml")
    if words == ["experiment=mine"]:
        with pytest.raises(UserError, match=r"mine.yaml: can't be read: It is no plain file"):
            cli.run_command(["--config-dir", "conf", *words])
    else:
        assert cli.run_command(["--config-dir", "conf", *words]) == 0


@pytest.mark.parametrize("words", [[], ["max_epochs=2"], ["--multirun", "seed=1,2"], ["--cfg", "job"]])
def test_a_config_by_name_stands_on_ours(train: Train, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    write("conf/mine.yaml", "model: two_layer\nmax_epochs: 1\n")
    says = r"--config-name=mine: has no data, loss or optimizer. Move it into experiment/ and type experiment=mine, or"
    with pytest.raises(UserError, match=says):
        cli.run_command(["--config-dir", "conf", "--config-name", "mine", *words])
    with pytest.raises(
        UserError, match=r"--config-name=conf/mine.yaml: .* Type --config-dir conf --config-name mine.$"
    ):
        cli.run_command(["--config-name", "conf/mine.yaml", *words])
    write("conf/mine.yaml", "defaults: [train, _self_]\nmodel: two_layer\nmax_epochs: 1\n")
    assert cli.run_command(["--config-dir", "conf", "--config-name", "mine", "--cfg", "job"]) == 0
    said = capsys.readouterr().out
    assert "max_epochs: 1" in said
    assert "hidden_features" in said
    write("conf/mine.yaml", "defaults: [train, experiment: base, _self_]\nmax_epochs: 1\n")
    write("conf/experiment/base.yaml", "model: two_layer\nmax_epochs: 3\noptimizer.lr: 0.5\n")
    assert cli.run_command(["--config-dir", "conf", "--config-name", "mine", "--cfg", "job"]) == 0
    said = capsys.readouterr().out
    assert "hidden_features" in said
    assert "lr: 0.5" in said


@pytest.mark.parametrize("place", ["conf", "conf/experiments", "conf/Experiment"])
def test_a_file_in_the_wrong_place(train: Train, place: str) -> None:
    write(f"{place}/mine.yaml", WHOLE)
    says = rf"experiment=mine: mine.yaml lies in .*{place}. Move it into .*conf/experiment.$"
    with pytest.raises(UserError, match=says):
        train("--config-dir", "conf", "experiment=mine")


@pytest.mark.parametrize("words", ["model=wide", "experiment=wide"])
def test_a_key_of_the_class_that_its_config_does_not_list(train: Train, words: str) -> None:
    write(
        "widenet.py",
        "from torch import nn\nclass Net(nn.Sequential):\n"
        "    def __init__(self, in_features, num_classes, width=4):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(in_features, width), nn.Linear(width, num_classes))\n",
    )
    write("conf/model/wide.yaml", "_target_: widenet.Net\nin_features: null\nnum_classes: null\n")
    write("conf/experiment/wide.yaml", "model: wide\nmax_steps: 1\n")
    typed = ("--config-dir", "conf", words, "trust=[widenet]", "monitor=off", "max_steps=1")
    assert train(*typed, "model.width=8", "name=x")["num_parameters"] == 64 * 8 + 8 + 8 * 10 + 10
    assert train(
        "--config-dir", "conf", words, "trust=[widenet]", "monitor=off", "model.width=8", "name=x", "max_steps=2"
    )
    with pytest.raises(UserError, match=r"model.widht: nothing reads this key. Did you mean model.width\?"):
        train(*typed, "model.widht=8", "model.width=8")
    with pytest.raises(UserError, match=r"optimizer.x: nothing reads this key"):
        train(*typed, "optimizer.x=8")


@pytest.mark.parametrize(
    ("config", "defaults"),
    [
        ({"defaults": [{"/optimizer": "sgd"}]}, [{"override /optimizer": "sgd"}]),
        ({"defaults": [{"/model": "x"}, {"/cell@model": "y"}]}, [{"/cell@model": "y"}, {"override /model": "x"}]),
        ({"defaults": [{"monitor": False}]}, [{"override /monitor": "off"}]),
        ({"metric": "f1", "defaults": ["base"]}, ["base", {"override /metric": "f1"}]),
        ({"defaults": [{"override /metric": ["f1"]}, "base"]}, ["base", {"override /metric": ["f1"]}]),
        ({"defaults": [{"override /model@x": "lenet"}]}, [{"override /model@x": "lenet"}]),
        ({"defaults": ["_self_", "base", {"/db": "x"}]}, ["_self_", "base", {"/db": "x"}]),
        ({"defaults": [{"optimizer": None}]}, [{"override /optimizer": None}]),
        ({"defaults": [{"a": 1, "b": 2}, 3]}, [{"a": 1, "b": 2}, 3]),
    ],
)
def test_choices_in_hydras_words(config: dict[str, Any], defaults: list[Any]) -> None:
    assert as_recipe(config)["defaults"] == defaults


def test_what_is_no_recipe_stays_as_it_is() -> None:
    for config in ({"seed": 1}, {"optimizer": {"lr": 1}}, [1], None, {"defaults": None}, {"defaults": "x"}):
        assert as_recipe(config) == config
