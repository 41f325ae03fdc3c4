"""The README and the manual are true: every command in them is typed, in a folder with the files that the page shows.

A command that needs the network, a GPU, a cluster or minutes says so in a comment; it is composed, or built and listed,
but not run. Examples with their output are typed, too, and the output is compared but for its numbers.
"""

import contextlib
import functools
import importlib.util
import io
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from trainer.command import main as cli
from trainer.command.help import MANUAL, topics
from trainer.command.listed import USING
from trainer.command.options import places_and_options
from trainer.errors import UserError

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = {"README": README, **{topic: MANUAL / f"{topic}.md" for topic in topics()}}
SETUP = ("pip install . && train", 'pip install -e ".[test]" && pytest')  # .ci/run types these, word for word
NOT_RUN = re.compile(r"#.*\b(needs|fetches|minutes?)\b")
FILE = re.compile(r"`([\w/]+\.(?:py|yaml))`:\s*$")


@dataclass(frozen=True)
class Block:
    """What stands between two lines of three backticks.

    Args:
        name: of the file that it is, as the line above says; empty for any other block.
    """

    language: str
    text: str
    name: str


def blocks(page: Path) -> Iterator[Block]:
    before, inside, language = "", None, ""
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("```") and inside is None:
            inside, language = [], line[3:]
        elif line.startswith("```"):
            name = FILE.search(before) if language in ("python", "yaml") else None
            yield Block(language, "\n".join(inside or []) + "\n", name[1] if name else "")
            before, inside = "", None
        elif inside is not None:
            inside.append(line)
        elif line:
            before = line


def commands(text: str) -> Iterator[str]:
    """The lines of a shell script, those that go on in the next joined, comments alone left out."""
    for line in text.replace("\\\n", " ").splitlines():
        if line and not line.startswith("#"):
            yield line


# --- what a page speaks of -------------------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a table, arrays and pictures, which is home, too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "argv", ["train"])
    draw = np.random.default_rng(0)
    numbers, kinds = draw.normal(size=(60, 3)), np.arange(60) % 3
    rows = [",".join(f"{n:.3f}" for n in row) + f",{kind}" for row, kind in zip(numbers, kinds, strict=True)]
    Path("mine.csv").write_text("\n".join(["width,length,weight,kind", *rows]) + "\n")
    np.savez("mine.npz", inputs=numbers.astype(np.float32), targets=draw.normal(size=(60, 1)).astype(np.float32))
    for name in ("cat", "dog"):
        Path("photos", name).mkdir(parents=True)
        for i in range(12):
            Image.fromarray(draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(f"photos/{name}/{i}.png")
    return tmp_path


Serve = Callable[[Path], contextlib.AbstractContextManager[Callable[..., Any]]]


@dataclass
class Shell:
    """Types commands in this process where it can be."""

    tensorboard: Serve

    def __call__(self, line: str) -> None:
        words = shlex.split(line, comments=True)
        is_run = NOT_RUN.search(line) is None
        variables = {}
        while "=" in words[0] and words[0].partition("=")[0].isupper():
            name, _, value = words.pop(0).partition("=")
            variables[name] = value
        program = words[0]
        with pytest.MonkeyPatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            getattr(self, f"_{program}", self._unknown)(words[1:], line, is_run)

    def _unknown(self, words: list[str], line: str, is_run: bool) -> None:
        raise AssertionError(f"nobody types this: {line}")

    def _train(self, words: list[str], line: str, is_run: bool) -> None:
        if words[:1] == ["board"]:
            return self._served([sys.executable, "-u", "-m", "trainer", *words])
        if not is_run and words[0] in USING:
            assert places_and_options(words[0], words[1:])[0]
            return None
        if not is_run:
            return composed(words)
        assert "|" not in words or words[-2:] == ["|", "source"]
        assert cli.run_command([word for word in words if word not in ("|", "source")]) == 0, line
        return None

    def _eval(self, words: list[str], line: str, is_run: bool) -> None:
        """A shell takes what `train` prints."""
        done = subprocess.run(
            ["bash", "-c", f'train() {{ "{sys.executable}" -m trainer "$@"; }}\n{line}\ncomplete -p train'],
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert (done.returncode, done.stderr) == (0, ""), line

    def _pip(self, words: list[str], line: str, is_run: bool) -> None:
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        (extra,) = re.findall(r"train-cli\[(\w+)\]", line)
        assert words[0] == "install"
        assert extra in extras
        assert not is_run

    def _tensorboard(self, words: list[str], line: str, is_run: bool) -> None:
        assert words == ["--logdir", "runs"]
        with self.tensorboard(Path("runs")) as get:
            assert get("environment")["data_location"].endswith("runs")

    def _torchrun(self, words: list[str], line: str, is_run: bool) -> None:
        at = words.index("trainer")
        if not is_run:
            return composed(words[at + 1 :])
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "torch.distributed.run", *words]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=180)
        assert done.returncode == 0, done.stderr
        return None

    def _head(self, words: list[str], line: str, is_run: bool) -> None:
        """Some lines of a file, through a pipe into `train`."""
        count, name, sign, program, *rest = words
        assert (sign, program, is_run) == ("|", "train", True)
        lines = Path(name).read_bytes().splitlines(keepends=True)[: -int(count)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"".join(lines))))
            assert cli.run_command(rest) == 0, line

    def _ray(self, words: list[str], line: str, is_run: bool) -> None:
        assert not is_run

    def _python(self, words: list[str], line: str, is_run: bool) -> None:
        where = Path.cwd() if Path(words[0]).is_file() else ROOT
        done = subprocess.run([sys.executable, *words], cwd=where, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr

    def _served(self, command: list[str]) -> None:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
            assert server.stdout is not None
            assert "http://" in server.stdout.readline()
            server.terminate()


def composed(words: list[str]) -> None:
    """Looks at what can't be run here: a run is composed, a sweep is built and listed."""
    own = [word for word in words if not word.startswith(("hydra/", "hydra."))]
    question = ["dry_run=true"] if "--multirun" in own else ["--cfg", "job"]
    assert cli.run_command([*own, *question]) == 0
    if own != words:
        missing = r"its plugin is missing. Type pip install 'train-cli\[\w+\]'.$"
        is_there = importlib.util.find_spec("hydra_plugins.hydra_ray_launcher") or "ray_cluster" not in " ".join(words)
        with contextlib.nullcontext() if is_there else pytest.raises(UserError, match=missing):
            assert cli.run_command([*words, "dry_run=true"]) == 0


LONG = ("after", "choices", "why")


def marked(page: str) -> Any:
    """Of a page; the README's commands are typed in every suite."""
    marks = pytest.mark.long if page in LONG else () if page == "README" else pytest.mark.slow
    return pytest.param(page, marks=marks)


@pytest.mark.parametrize("page", [marked(page) for page in PAGES])
def test_every_command_of_a_page_works(page: str, here: Path, tensorboard: Serve) -> None:
    found = list(blocks(PAGES[page]))
    for block in found:
        if block.name:
            Path(block.name).parent.mkdir(parents=True, exist_ok=True)
            Path(block.name).write_text(block.text)
            sys.modules.pop(Path(block.name).stem, None)  # another page's
        assert block.language in ("sh", "python", "yaml", ""), block
        assert block.name or block.language not in ("python", "yaml"), "a file without a name"
    shell = Shell(tensorboard)
    for block in found:
        for line in commands(block.text) if block.language == "sh" else ():
            shell(line)
        if block.language == "" and block.text.startswith("$ "):
            for example in block.text.removeprefix("$ ").split("\n$ "):
                said_so(*example.split("\n", 1))


def said_so(command: str, shown: str) -> None:
    """Compares what a command says with what a page shows of it, but for the numbers; `...` stands for any lines."""
    words = shlex.split(command)[1:]
    if "--multirun" in words:  # minutes: the whole of it is another test's
        return composed(words)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.run_command(words)
        except UserError as error:
            print(f"error: {error}", file=err)
    said = without_numbers(out.getvalue() + err.getvalue()).splitlines()
    for line in without_numbers(shown).splitlines():
        if line != "...":
            assert line in said, line
    return None


def without_numbers(text: str) -> str:
    return re.sub(r"\d+(\.\d+)?(e[+-]?\d+)?", "#", text)


def test_a_shell_takes_no_command_of_a_page_apart(tmp_path: Path) -> None:
    """Braces with a comma in them, stars and brackets stand in quotes where bash would read them."""
    lines = []
    for page in PAGES.values():
        found = list(blocks(page))
        lines += [line for block in found if block.language == "sh" for line in commands(block.text)]
        shown = "".join(block.text for block in found if not block.language)
        lines += [line.removeprefix("$ ") for line in shown.splitlines() if line.startswith("$ ")]
    lines = [line for line in lines if not re.search(r"[|&]|\$\(", line)]
    script = "".join(f"printf '%s\\n' {line.partition(' #')[0]}\necho\n" for line in lines)
    said = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    for line, words in zip(lines, said.removesuffix("\n\n").split("\n\n"), strict=True):
        assert words.split("\n") == shlex.split(line, comments=True), line


# --- the pages themselves --------------------------------------------------------------------------------------------


def test_the_readme_is_read_in_five_minutes() -> None:
    text = README.read_text()
    assert text.count("\n") <= 250
    assert len(text.split()) <= 1900  # of which tables and examples are half; 200 words a minute


def test_the_two_commands_of_the_setup_are_what_ci_types() -> None:
    lines = README.read_text().splitlines()
    script = (ROOT / ".ci/run").read_text()
    for command in SETUP:
        assert lines.count(command) == 1
        assert f"grep -qxF '{command}' README.md" in script


@pytest.mark.parametrize("page", PAGES)
def test_links_and_pictures_lead_somewhere(page: str) -> None:
    path = PAGES[page]
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)]+)\)|src=\"([^\"]+)\"", text)
    for link in (a or b for a, b in links):
        place, _, heading = link.partition("#")
        if not link.startswith("https://"):
            assert not place or (path.parent / place).is_file(), link
            titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
            assert not heading or heading in [re.sub(r"[^\w -]", "", t).lower().replace(" ", "-") for t in titles], link


def test_the_readme_names_every_topic() -> None:
    text = README.read_text()
    for topic in topics():
        assert f"| `{topic}` | [" in text
        assert f"](src/trainer/manual/{topic}.md) |" in text


def test_every_picture_is_shown() -> None:
    text = "".join(path.read_text() for path in PAGES.values())
    assert all(f".pictures/{path.name}" in text for path in (ROOT / ".pictures").iterdir())


def test_every_key_has_its_line() -> None:
    """In `train help keys`: those that belong to no group or that any option takes, those of sections by their end."""
    from trainer.config.schema import GROUPS, READ_HERE, RULES

    text = (MANUAL / "keys.md").read_text()
    for key in (*RULES, *(f"{group}.{key}" for group, keys in READ_HERE.items() for key in keys if "." not in key)):
        section, _, last = key.partition(".")
        if section not in GROUPS or (last in READ_HERE[section] and "." not in last):
            assert f"`{key}`" in text or f"`.{last}`" in text, key


def test_every_default_is_the_one_of_the_config() -> None:
    """A row of several keys has a default for each, or one for all; an empty cell says nothing."""
    config = yaml.safe_load((ROOT / "configs/train.yaml").read_text())
    config["monitor"] = yaml.safe_load((ROOT / "configs/monitor/full.yaml").read_text())
    rows = re.findall(r"^\| (`.+?) \| (.*?) \| .+ \|$", (MANUAL / "keys.md").read_text(), re.MULTILINE)
    seen = 0
    for names, defaults in rows:
        keys, values = re.findall(r"`([^`]+)`", names), re.findall(r"`([^`]+)`", defaults)
        section = keys[0].rpartition(".")[0]
        keys = [f"{section}{key}" if key.startswith(".") else key for key in keys]
        for key, value in zip(keys, values * len(keys) if len(values) == 1 else values, strict=bool(values)):
            *parents, last = key.split(".")
            holder = functools.reduce(dict.__getitem__, parents, config) if {*parents} <= {*config} else {}
            if last in holder and key != "metric":
                assert yaml.safe_load(value) == holder[last], key
                seen += 1
    assert seen > 60


@pytest.mark.parametrize("page", PAGES)
def test_the_english_is_plain(page: str) -> None:
    text = re.sub(r"```.*?```", "", PAGES[page].read_text(), flags=re.DOTALL)
    assert not re.search(r"\b(goes? on|going on|of late|lest|whereof|thereof|whilst|naught)\b", text)
