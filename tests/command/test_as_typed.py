"""What is typed is what is read: names and paths letter by letter, anywhere on a disk; and what a line says to type.

Hydra's grammar gives `,=[]{}()~#:` and backslashes a meaning, and a shell has one of its own.
"""

import os
import re
import shlex
import string
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trainer.command import main as cli
from trainer.command.complaints import unreadable
from trainer.command.composing import composer
from trainer.command.words import sorted_words
from trainer.config.compose import for_hydra
from trainer.config.grammar import quoted, written
from trainer.config.schema import typed
from trainer.errors import UserError

Train = Callable[..., dict[str, Any]]
QUICK = ("model=two_layer", "monitor=off", "data.limit=40", "max_steps=1")

# What grammars give a meaning to, letters of other languages, and some plain ones.
SIGNS = "ab1 \\\"'${}[](),=:#~äß中.%*-+!|&;<>?@^`\t_/"
TEXTS = st.text(SIGNS, max_size=12)
PRINTABLE = st.text(string.printable + "äöüßéñ中文🙂“”‘’", max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(-1e9, 1e9) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.from_regex("[a-z]{1,5}", fullmatch=True), inner),
    max_leaves=5,
)


def read(word: str) -> Any:
    """The value that Hydra's grammar finds in a word."""
    return OverridesParser.create().parse_override(word).value()


def read_in_a_shell(words: str, is_sweep: bool = False) -> Any:
    """The value of the one override that a shell makes of a text."""
    (word,) = sorted_words(shlex.split(words)).overrides
    return read(for_hydra(word, is_sweep))


def without_references(value: Any) -> bool:
    return "${" not in str(value)


@given(TEXTS | PRINTABLE)
def test_quotes_change_nothing(text: str) -> None:
    assert read(f"x={quoted(text)}") == text


@pytest.mark.slow
@given(VALUES.filter(without_references))
def test_every_value_reads_back_as_it_was(value: Any) -> None:
    assert read(f"x={written(value)}") == value


@given(st.sampled_from(["name", "resume", "run_dir", "data.path", "data.targets", "model.note"]), TEXTS | PRINTABLE)
@example("resume", "runs/lr=0.1,seed=0")
@example("resume", "a\\")
@example("data.path", "'quoted'")
def test_what_a_command_line_prints_is_read_as_it_was_meant(key: str, text: str) -> None:
    if without_references(text):
        for is_sweep in (False, True):
            assert read_in_a_shell(typed(key, text), is_sweep) == (text or ("" if key.startswith("m") else text))


@given(TEXTS)
def test_names_and_paths_are_taken_letter_by_letter(text: str) -> None:
    """But for quotes around the whole, and references."""
    if without_references(text) and text.strip() and text[0] not in "'\"" and text != "null":
        for key in ("name", "run_dir", "data.path"):
            assert read(for_hydra(f"{key}={text}")) == text


@settings(max_examples=300)
@given(TEXTS | PRINTABLE)
@example("[Fläche]")
@example("[a,Fläche (m²)]")
@example("{a:größer}")
@example("choice(ä,b)")
@example("a;b")
@example("${")
def test_any_other_word_is_read_or_refused_with_a_word_that_is_read(text: str) -> None:
    word = f"model.note={text}"
    try:
        value = read(for_hydra(word))
    except Exception:
        line = str(unreadable(word))
        assert line.startswith(f"{word}: can't be read")
        proposed = re.search(r"(?:quote it:|Type) (.+)\.$", line, re.DOTALL)
        assert proposed is not None
        if "..." not in proposed[1]:
            read_in_a_shell(proposed[1])
    else:
        assert value is None or value == value or text.strip().lower() == "nan"


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("data.targets=[Fläche]", ["Fläche"]),
        ("data.targets=[a,größe (m²)]", ["a", "größe (m²)"]),
        ("data.targets=['a,b',ü]", ["a,b", "ü"]),
        ("loss.terms={ä b:1,c:größer}", None),
        ("model.title=größer", "größer"),
        ("model.title=a#b", "a#b"),
        ("model.title=l'eau", "l'eau"),
        ("+model.title=x=y", "x=y"),
        ("optimizer.betas=[0.9,0.99]", [0.9, 0.99]),
        ("batch_size=64", 64),
    ],
)
def test_a_text_that_hydra_does_not_know_is_quoted_where_it_stands(word: str, value: Any) -> None:
    if value is not None:
        assert read(for_hydra(word)) == value


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["2026_11_22", "1e5", "1.50", "007", "true", "größer", "a,b", "lr=0.1,seed=0", "0x10"])
def test_a_name_is_the_name_of_the_folder(train: Train, name: str) -> None:
    train(*QUICK, f"name={name}")
    assert Path("runs", name, "config.yaml").is_file()
    assert yaml.safe_load(Path("runs", name, "overrides.yaml").read_text())[-1] == f"name={name}"


def test_a_name_in_quotes_and_null(train: Train) -> None:
    train(*QUICK, 'name="x"')
    assert Path("runs/x/config.yaml").is_file()
    train(*QUICK, "name=null")
    assert len(list(Path("runs/two_layer-digits").iterdir())) == 1


def test_names_and_places_refer_to_other_keys_and_the_environment(train: Train, monkeypatch: Any) -> None:
    monkeypatch.setenv("PLACE", os.path.join(os.getcwd(), "größe"))
    train(*QUICK, "name=b${batch_size}-${optimizer.lr}")
    assert Path("runs/b64-0.002/config.yaml").is_file()
    train(*QUICK, "run_dir=${oc.env:PLACE}/one")
    assert Path("größe/one/config.yaml").is_file()
    assert train("resume=${oc.env:PLACE}/one", "max_steps=2")["steps"] == 2
    train(*QUICK, "run_dir=${oc.env:NONE,runs}/${seed},x")
    assert Path("runs/0,x/config.yaml").is_file()


def test_names_and_places_refer_to_the_options_that_are_chosen(train: Train) -> None:
    choices = "${hydra:runtime.choices.model}-${hydra:runtime.choices.optimizer}"
    train(*QUICK, f"run_dir=${{hydra:runtime.cwd}}/x/{choices}")
    assert Path("x/two_layer-adam/config.yaml").is_file()
    for asked in ("job.num", "runtime.choices.nope", "runtime.output_dir"):
        with pytest.raises(UserError, match=r": Hydra runs nothing here. Type \$\{hydra:runtime.choices.model\}"):
            train(*QUICK, f"name=a-${{hydra:{asked}}}")
    assert os.listdir() == ["x"]


@pytest.mark.parametrize(
    ("word", "text", "names"),
    [
        ("metric=[${oc.env:M}]", "f1", ["f1"]),
        ("metric=${oc.env:M}", "[f1,auroc]", ["f1", "auroc"]),
        ("metric=[${oc.env:M},recall]", "f1,auroc", ["f1", "auroc", "recall"]),
        ("metric=[${oc.env:NONE,f1}]", "", ["f1"]),
        ("experiment=mine", "f1, auroc", ["f1", "auroc"]),
    ],
)
def test_metrics_of_the_environment(monkeypatch: Any, tmp_path: Path, word: str, text: str, names: list[str]) -> None:
    monkeypatch.setenv("M", text)
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/mine.yaml").write_text("metric: ['${oc.env:M}']\n")
    argv = ["--config-dir", str(tmp_path), word]
    with composer(argv, sorted_words(argv)) as made:
        assert [*made.request().config["metric"]] == names


@pytest.mark.parametrize("word", ["metric=[${oc.env:NONE}]", "metric=${oc.env:NONE}", "optimizer=${oc.env:NONE}"])
def test_an_option_of_a_variable_that_is_not_set(train: Train, word: str) -> None:
    with pytest.raises(UserError, match=r"stands for no option. Type its name, or \$\{oc.env:NAME\} of a set variable"):
        train(*QUICK, word)


def test_null_in_the_environment_is_no_name_and_no_folder(train: Train, monkeypatch: Any) -> None:
    monkeypatch.setenv("NONE", "null")
    for key in ("name", "run_dir", "resume"):
        train(*QUICK, f"{key}=${{oc.env:NONE}}")
    assert os.listdir() == ["runs"]
    assert os.listdir("runs") == ["two_layer-digits"]


@pytest.mark.parametrize("word", ["name=${nope}", "run_dir=${oc.env:NO_SUCH}", "resume=${oc.env:NO_SUCH}/x"])
def test_a_reference_that_leads_nowhere_is_one_line(train: Train, word: str) -> None:
    with pytest.raises(UserError, match=r"^(name|run_dir|resume): .*not found") as caught:
        train(*QUICK, word)
    assert "\n" not in str(caught.value)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("seed", "7", 7),
        ("optimizer.lr", "1e-3", 1e-3),
        ("max_steps", "null", None),
        ("fast", "false", False),
        ("optimizer.betas", "[0.8,0.9]", [0.8, 0.9]),
        ("checkpoint.metric", "val/loss", "val/loss"),
        ("name", "2026_11_22", "2026_11_22"),
        ("max_time", "null", None),
    ],
)
def test_a_value_of_the_environment_counts_as_if_it_were_typed(
    train: Train, monkeypatch: Any, key: str, text: str, value: Any
) -> None:
    monkeypatch.setenv("VALUE", text)
    place = () if key == "name" else ("name=it",)
    asked = "${oc.decode:${oc.env:VALUE}}" if key == "optimizer.lr" else "${oc.env:VALUE}"
    train(*QUICK, "max_epochs=1", *place, f"{key}={asked}")
    (config,) = Path("runs").glob("*/config.yaml")
    stored = yaml.safe_load(config.read_text())
    section, _, last = key.rpartition(".")
    assert (stored[section][last] if section else stored[last]) == value


# --- places on a disk ------------------------------------------------------------------------------------------------

# The last has all the signs of those that are typed with `-m slow`; the others mean something as whole words.
PLACES = ["[x]", "{y}", "~z", "1e5", "Mü (b)[x]{y},c#d=1l'eau q\"q a~b 100% a\\b $x"]
SLOW_PLACES = ["Müller", "a(b)", "a,b", "c#d", "x=1", "l'eau", 'q"q', "a~b", "ä ö", "100%", "a\\b", "$x"]


@pytest.mark.parametrize("place", [*PLACES, *(pytest.param(x, marks=pytest.mark.slow) for x in SLOW_PLACES)])
def test_files_and_folders_may_lie_anywhere(train: Train, place: str, monkeypatch: Any) -> None:
    there = Path(place)
    recipe = there / "conf/experiment/mine.yaml"
    recipe.parent.mkdir(parents=True)
    recipe.write_text("# @package _global_\nmax_steps: 1\n")
    (there / "t.csv").write_text("x,y\n" + "".join(f"{i},{i % 2}\n" for i in range(30)))
    data = ("data=arrays", "data.targets=[y]", "model=two_layer", "monitor=off")
    words = [f"data.path={place}/t.csv", f"run_dir={place}/run"]
    train("--config-dir", f"{place}/conf", "experiment=mine", *data, *words)
    assert (there / "run/config.yaml").is_file()
    assert train(f"resume={place}/run", "max_steps=2")["steps"] == 2
    assert cli.run_command(["show", f"{place}/run"]) == 0
    (there / "conf/experiment/mine.yaml").write_text("# @package _global_\nmax_steps: 3\n")
    assert train(f"--config-dir={place}/conf", "experiment=mine", *data, *words)["steps"] == 3
    monkeypatch.chdir(there)
    assert train("--config-dir=conf", "experiment=mine", *data, "data.path=t.csv", "run_dir=here")["steps"] == 3


@pytest.mark.parametrize("place", ["lr=0.1,seed=0", "a b", "Müller's"])
def test_what_show_says_to_type_continues_the_run(train: Train, place: str, capsys: Any) -> None:
    train(*QUICK, f"run_dir={place}")
    capsys.readouterr()
    assert cli.run_command(["show", place]) == 0
    out = capsys.readouterr().out
    (line,) = (
        line.strip() for line in out.splitlines() if line.startswith("  train resume") or "train 'resume" in line
    )
    assert train(*shlex.split(line)[1:])["steps"] == 2


def test_a_run_whose_name_has_an_equals_sign_is_found_by_its_name(train: Train, capsys: Any) -> None:
    train(*QUICK, "name=lr=0.1,seed=0")
    train(*QUICK, "name=b")
    for words in (
        "show lr=0.1,seed=0",
        "compare lr=0.1,seed=0 b",
        "evaluate lr=0.1,seed=0",
        "replay lr=0.1,seed=0 step=1",
    ):
        assert cli.run_command(words.split()) == 0
    with pytest.raises(UserError, match=r"lr=0.2: train show has no such word"):
        cli.run_command(["show", "lr=0.2"])


def test_a_home_folder_is_found(train: Train, monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home/conf/model").mkdir(parents=True)
    (tmp_path / "home/conf/model/tiny.yaml").write_text(
        "_target_: trainer.models.two_layer.TwoLayer\nin_features: null\nout_features: null\nhidden_features: 3\n"
    )
    train("--config-dir=~/conf", "model=tiny", *QUICK[1:], "run_dir=~/run")
    assert (tmp_path / "home/run/config.yaml").is_file()


def test_commas_of_a_path_are_no_sweep_and_those_between_paths_are(train: Train) -> None:
    for name in ("a.csv", "b.csv", "a.csv,b.csv"):
        Path(name).write_text("x,y\n" + "".join(f"{i},{i % 2}\n" for i in range(30)))
    data = ("data=arrays", "data.targets=[y]", "model=two_layer", "monitor=off", "max_steps=1")
    train(*data, "data.path=a.csv,b.csv", "name=one")
    assert yaml.safe_load(Path("runs/one/config.yaml").read_text())["data"]["path"] == "a.csv,b.csv"
    Path("a.csv,b.csv").unlink()
    assert for_hydra("data.path=a.csv,b.csv", is_sweep=True) == 'data.path="a.csv","b.csv"'


@pytest.mark.slow
def test_the_line_ends_of_windows(tmp_path: Path) -> None:
    (tmp_path / "go.sh").write_bytes(
        f"{sys.executable} -m trainer {' '.join(QUICK)} name=one\r\n{sys.executable} -m trainer show one\r\n".encode()
    )
    done = subprocess.run(["bash", "go.sh"], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["one"]
    assert "runs/one: finished" in done.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("sweep.jobs=2", "sweep.jobs=2: is of a sweep. Type --multirun and values of a key, such as seed=0,1;"),
        ("name=a run_dir=b", "name=a run_dir=b: a run lies in one folder. Type name=a or run_dir=b."),
        ("name=a resume=runs/b", "name=a resume=runs/b: a run lies in one folder. Type name=a or resume=runs/b."),
    ],
)
def test_what_one_run_has_no_use_for_is_refused(
    words: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        cli.run_command([*QUICK, *words.split()])
    assert says in str(caught.value)
    assert not Path("runs").exists()


# --- sweeps ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("name=a,b", "name=a,b: a sweep has one name, and its jobs are named by what differs. Type name=a."),
        ("name=x${seed}", "a sweep has one name. Type one that refers to no key which differs."),
        ("run_dir=a,b", "run_dir=a,b: a sweep lies in runs/<name>, each job in a folder there. Type name=a."),
        ("run_dir=x", "Type name=x."),
        ("resume=runs/x", "resume=runs/x: a sweep continues by its name."),
        ("name=../x", "name=../x: must be letters, digits"),
        ("sweep.jobs=1,2", "sweep.jobs=1,2: is of the sweep itself, which has one. Type sweep.jobs=1."),
    ],
)
def test_where_the_jobs_of_a_sweep_lie_is_not_swept(train: Train, word: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        train("--multirun", *QUICK, "seed=0,1", "dry_run=true", word)
    assert says in str(caught.value)
    assert not Path("runs").exists()


@pytest.mark.parametrize(("word", "folder"), [("name=1e5", "1e5"), ("name=b${batch_size}", "b64"), ('name="x"', "x")])
def test_a_sweep_has_the_name_that_was_typed(train: Train, word: str, folder: str) -> None:
    assert cli.run_command(["--multirun", *QUICK, "seed=0,1", "sweep.retry=true", word]) == 0
    assert (Path("runs") / folder / "seed=1/result.json").is_file()
    typed_words = yaml.safe_load((Path("runs") / folder / "seed=1/overrides.yaml").read_text())
    assert typed_words == [*QUICK, "seed=1"]
