"""What is printed for those who ask: `train --help`, `train --version`, and the manual of `train help TOPIC`."""

import re
import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from trainer import __version__
from trainer.command.folders import options
from trainer.command.listed import ASKING, HELP, USES, USING, VERBS
from trainer.config.schema import GROUPS
from trainer.errors import UserError, nearest
from trainer.system.terminal import is_terminal

_NARROWEST = 24  # columns for what is explained; where there are fewer, it stands below the name
_BELOW = " " * 8

MANUAL = Path(__file__).parents[1] / "manual"

EXAMPLES = """\
  train                                                    LeNet on the shipped digits
  train model=lenet optimizer=sgd optimizer.lr=0.1 device=cuda
  train data=mnist max_epochs=5 batch_size=128             fetched once, then cached
  train experiment=seed_two_layer model.gradient=numpy     the tutorial's network, backward pass by hand
  train model=frozen_resnet data=cifar10                   only the new head trains
  train model=sequential loss=nll data=arrays data.path=mine.csv data.targets=[label]
  train model._target_=mypackage.Net trust=[mypackage]     your own module, no file of ours touched
  train name=try1 max_epochs=50                            the same command continues where it stopped
  train resume=runs/try1 max_epochs=100                    continues exactly, and further
  train --multirun optimizer.lr=0.1,0.01 seed=0,1,2        a sweep: six runs"""


def version_line() -> str:
    """`train 0.1.0 (torch 2.13.0, Python 3.12.1)`, from what pip has noted."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        torch = f"torch {version('torch')}"
    except PackageNotFoundError:
        torch = "no torch"
    return f"train {__version__} ({torch}, Python {sys.version.split()[0]})"


def help_text(folders: list[Path]) -> str:
    """What `train --help` prints."""
    groups = options(folders)
    order = [*GROUPS, "monitor", "experiment", *(g for g in groups if g not in (*GROUPS, "monitor", "experiment"))]
    lines = [
        "train: see a network learn.",
        "",
        "usage: train [KEY=VALUE ...] [--multirun] [--cfg job] [--config-dir DIR]",
        "",
    ]
    lines += ["Choices, GROUP=OPTION:"]
    for group in order:
        lines.append(f"  {group}")
        lines += [f"    {option:<21} {about}" for option, about in groups.get(group, {}).items()]
    lines += [
        "",
        "Keys: device=auto|cpu|cuda|cuda:1|mps precision=float32|bfloat16|float16 max_epochs= max_steps= batch_size=",
        "seed= name= resume= ...; train --cfg job shows them all, with those of what is chosen.",
        "",
        "Examples:",
        EXAMPLES,
        "",
        "Looking at finished runs:",
        HELP,
        "",
        "Using them (train help after):",
        USES,
        "",
        f"The manual: train help TOPIC, of {', '.join(topics())}.",
        'Tab completion: eval "$(train -sc install=bash)". More flags, Hydra\'s own: train --hydra-help.',
    ]
    return "\n".join(lines)


def fitted(text: str) -> str:
    """On a terminal, lines that are longer than it is wide are cut at a blank; what is explained keeps its column.

    A command is not cut: it can be copied whole.
    """
    if not is_terminal(sys.stdout):
        return text
    width = shutil.get_terminal_size().columns
    lines: list[str] = []
    for line in text.splitlines():
        found = re.match(r"( +\S.*?  +)(\S.*)", line)  # a name, and what it is
        if len(line) <= width or (found is None and line.lstrip().startswith("train ")):
            lines.append(line)
        elif found is None:
            lines += _wrapped(line, width, "", "")
        elif width - len(found[1]) < _NARROWEST:
            lines += [found[1].rstrip(), *_wrapped(found[2], width, _BELOW, _BELOW)]
        else:
            lines += _wrapped(found[2], width, found[1], " " * len(found[1]))
    return "\n".join(lines)


def _wrapped(text: str, width: int, first: str, later: str) -> list[str]:
    """Lines that begin with `first`, and all after the first one with `later`."""
    wrapper = textwrap.TextWrapper(width, first, later, break_long_words=False, break_on_hyphens=False)
    return wrapper.wrap(text)


def topics() -> dict[str, str]:
    """Topic of the manual to what its first line says."""
    found = {}
    for path in sorted(MANUAL.glob("*.md")):
        with open(path, encoding="utf-8") as file:
            found[path.stem] = file.readline().lstrip("# ").strip()
    return found


def show_help(words: Sequence[str]) -> int:
    """`train help`, or a page of the manual. Returns the exit code.

    Raises:
        UserError: there is no such page.
    """
    known = topics()
    if not words:
        width = max(map(len, known))
        print("The manual. Type train help TOPIC:\n")
        print(fitted("\n".join(f"  {topic:<{width}}  {about}" for topic, about in known.items())))
        print("\ntrain --help lists what can be chosen, with examples.")
        return 0
    of_verbs = {
        **dict.fromkeys(VERBS, "runs"),
        **dict.fromkeys(USING, "after"),
        **dict.fromkeys(ASKING, "why"),
        "find-lr": "choices",
    }
    topic = of_verbs.get(words[0], words[0].lower())
    if topic not in known or len(words) > 1:
        what = " ".join(words)
        is_misspelt = len(words) > 1 or any(name.startswith(topic[:4]) for name in known)
        hint = (not is_misspelt and _page_with(topic)) or nearest(topic, known)
        raise UserError(f"help {what}: there is no such topic.{hint} There is {', '.join(known)}.")
    print_page((MANUAL / f"{topic}.md").read_text(encoding="utf-8"))
    return 0


def _page_with(word: str) -> str:
    """Which page to type for a word that is no topic: the one that has it most, in its headings first; else empty."""
    counts = {}
    for path in MANUAL.glob("*.md"):
        text = path.read_text(encoding="utf-8").lower()
        is_heading = re.search(rf"^#.*\b{re.escape(word)}\b", text, re.MULTILINE) is not None
        counts[path.stem] = is_heading, len(re.findall(rf"\b{re.escape(word)}\b", text))
    page = max(sorted(counts), key=lambda name: counts[name])
    return f" It is spoken of in {page}: type train help {page}." if counts[page][1] else ""


def print_page(text: str) -> None:
    """A page of Markdown: drawn on a terminal, as it is anywhere else."""
    if not is_terminal(sys.stdout):
        print(text, end="")
        return
    from rich.markdown import Markdown
    from rich.theme import Theme

    from trainer.finished.table import open_console

    console = open_console()
    console.push_theme(Theme({"markdown.code": "cyan"}))  # rich's own has a black ground
    text = re.sub(r"^(!\[.*\]\(.*\)|<img .*>)\n+", "", text, flags=re.MULTILINE)  # pictures are for a browser
    console.print(Markdown(text, code_theme="ansi_light", hyperlinks=False), width=min(console.width, 120))
