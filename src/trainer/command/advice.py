"""What to type instead: the right key, option and value for words of other tools, with what they need beside them."""

import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from trainer.command.folders import chosen_options, config_folders, known_values, missing_keys, options, owners
from trainer.config import synonyms
from trainer.config.schema import GROUPS, READ_HERE, RULES, ListOf, beside, key_meant
from trainer.errors import nearest
from trainer.system import shell

_TABLES = (".csv", ".npz", ".npy")
# Options that are proposed before others which would do as well.
_USUAL = ("sgd", "two_layer", "lenet", "resnet18", "cross_entropy")
_INSTALLED = ("torch", "torchvision", "trainer")  # packages that need no trust, or whose classes an option names


def is_a_key(word: str) -> bool:
    """Whether a word is a key or a group, here or in another tool."""
    known = (*GROUPS, "monitor", "experiment", *RULES)
    is_ours = word in known or word.split(".")[0] in known
    return is_ours or bool(synonyms.keys_meant(word)) or synonyms.words_meant(word, "") != ""


@dataclass(frozen=True)
class Advice:
    """What to type instead of a word.

    Args:
        argv: all that was typed: which options are chosen, and which folders have configs.
    """

    argv: list[str]

    @cached_property
    def folders(self) -> list[Path]:
        return config_folders(self.argv)

    @cached_property
    def options(self) -> dict[str, dict[str, str]]:
        return options(self.folders)

    @cached_property
    def values(self) -> dict[str, Any]:
        """Every key of the chosen options, and its value before anything is typed."""
        return known_values(self.folders, self.argv)

    @property
    def known(self) -> list[str]:
        return list(self.values)

    def value(self, key: str) -> str:
        """What was typed after a key; empty where nothing was."""
        words = [word.lstrip("+~").partition("=") for word in self.argv]
        return next((value for name, _, value in reversed(words) if name == key), "")

    def right_key(self, key: str) -> str | None:
        """The key that is meant and that the chosen options have: by another name, in other letters."""
        same = [k for k in (key, *synonyms.keys_meant(key)) if k in self.known or self._is_any_models(k, key)]
        return same[0] if same else synonyms.same_letters(key, self.known)

    def _is_any_models(self, meant: str, key: str) -> bool:
        """Whether a key is read for any model, though not all list it. Published weights are there for some alone."""
        group, _, name = meant.partition(".")
        return group == "model" and name in READ_HERE[group] and self._value(meant, self.value(key)) != "imagenet"

    def owners(self, key: str) -> tuple[str, list[str]] | None:
        """The key that is meant where other options than the chosen have it, and these options."""
        for candidate in (key, *synonyms.keys_meant(key)):
            group = candidate.partition(".")[0]
            found = owners(self.folders, candidate) if group in GROUPS and candidate not in self.known else []
            if found:
                return candidate, sorted(found, key=lambda option: option not in _USUAL)
        return None

    def words(self, key: str, value: str) -> str | None:
        """All that is to be typed for a key and a value, as a shell takes it; None where no key is near."""
        if words := synonyms.words_meant(key, value):
            return words
        right = self.right_key(key)
        if right is None and (owned := self.owners(key)) is not None:
            return self._with_option(*owned, value)
        is_near, right = right is None, right or key_meant(key, self.known)
        if right is None:
            return None
        if right in self.options:
            return self.choice(right, value) or (None if is_near else f"{right}=...")
        return shell.quote(f"{right}={self._value(right, value)}") if value else f"{right}=..."

    def word(self, word: str) -> str:
        """`key=value` for a shell, with the right key where the one that was typed is none."""
        key, sign, value = word.partition("=")
        is_known = not sign or not key.isidentifier() or key in self.known
        return shell.quote(word) if is_known else self.words(key, value) or shell.quote(word)

    def lacking(self, key: str, value: str) -> str | None:
        """What to type for a key that the chosen option lacks and another has; None where none has it."""
        is_anothers = "." in key and key not in self.known and bool(owners(self.folders, key))  # by this very name
        if (self.right_key(key) is not None and not is_anothers) or (owned := self.owners(key)) is None:
            return None
        group, _, last = owned[0].partition(".")
        if key == "loss.reduction":
            return "losses are means over samples, and a sum only has a larger gradient. Leave it out."
        chosen, options = chosen_options(self.folders, self.argv)[group], owned[1]
        has = f"{group}={chosen} has no {last}; {', '.join(options)} {'has' if len(options) == 1 else 'have'} it."
        both = self._with_option(*owned, value)
        return f"{has} Type {both}." if both else f"{has} Leave it out."

    def unknown(self, key: str) -> str:
        """The line for a key that nothing reads."""
        value = self.value(key)
        line = f"{key}: nothing reads this key."
        if words := synonyms.words_meant(key, value):
            return f"{line} Type {words}."
        if (lacking := self.lacking(key, value)) is not None:
            return f"{key}: {lacking}"
        if synonyms.letters(key).endswith("shuffle"):
            return f"{line} Training samples come in another order in every epoch, by the seed. Leave it out."
        right = self.right_key(key) or key_meant(key, self.known)
        is_option = right in self.options and self.choice(right, value) is not None
        if right is not None and value and (self._value(right, value) != value or is_option):
            return f"{line} Type {self.words(right, value)}."
        return f"{line} Did you mean {right}?" if right is not None else f"{line}{beside(key, self.known)}"

    def no_option(self, group: str, option: str, known: list[str]) -> str:
        """The line for an option that there is not."""
        words = self.choice(group, option)
        is_one = words is not None and words.startswith(f"{group}=") and " " not in words and "'" not in words
        line = f"{group}={option}: there is no such {group}."
        if words is not None and not is_one:
            return f"{line} Type {words}."
        hint = nearest(option, known) if words is None else f" Did you mean {words.partition('=')[2]}?"
        return f"{line}{hint} There is {', '.join(known)}."

    def choice(self, group: str, option: str) -> str | None:
        """What to type for an option: its name here, or the user's own class, table or pictures; None if unknown."""
        known = list(self.options.get(group, {}))
        path = Path(os.path.expanduser(option))
        is_config = path.suffix in (".yaml", ".yml")
        if is_config and path.is_file() and path.parent.name == group:
            return shell.join(["--config-dir", str(path.parent.parent), f"{group}={path.stem}"])
        if group == "data" and (found := self._data_at(option)) is not None:
            return found
        if "own" in known and (target := _target_here(group, option)) is not None:
            return f"{group}._target_={target} trust=[{target.partition('.')[0]}]"
        name = path.stem if is_config else option
        if (right := name if name in known else synonyms.value_meant(group, name, known)) is not None:
            return f"{group}={right}"
        package, _, rest = option.partition(".")
        is_dotted = rest and rest != "py" and all(part.isidentifier() for part in option.split("."))
        if is_dotted and not is_config and "own" in known:
            return f"{group}._target_={option}" + ("" if package in _INSTALLED else f" trust=[{package}]")
        return None

    def option_named(self, word: str) -> str | None:
        """`model=lenet` for `lenet`, whatever its case."""
        found = ((group, synonyms.same_letters(word, list(choices))) for group, choices in self.options.items())
        return next((f"{group}={option}" for group, option in found if option is not None), None)

    def _with_option(self, key: str, options: list[str], value: str) -> str | None:
        """A key with an option that has it; None where each of them needs more than that."""
        group = key.partition(".")[0]
        if key in ("data.path", "data.root") and (found := self._data_at(value)) is not None:
            return found
        for option in options:
            missing = missing_keys(self.folders, group, option)
            if group == "data" and not missing:
                continue  # a public data set, which nobody takes for the sake of a key
            if not {k for k in missing if not self.value(k)} - {key}:
                word = f"{key}={self._value(key, value)}" if value else f"{key}=..."
                return shell.join([f"{group}={option}", word])
        return None

    def _value(self, key: str, value: str) -> str:
        """A value by its name here; `[0.1,0.01]` of a key that takes no list is a sweep, which has no brackets."""
        rule = RULES.get(key)
        is_list = value[:1] == "[" and value[-1:] == "]"
        if {"-m", "--multirun"} & {*self.argv} and is_list and rule is not None and not isinstance(rule, ListOf):
            return value[1:-1]
        return synonyms.value_meant(key, value, getattr(rule, "words", ())) or value

    def _data_at(self, word: str) -> str | None:
        """`data=iris.csv` and `data=./photos`: what is there, under its key."""
        path = Path(os.path.expanduser(word))
        is_table = path.suffix.lower() in _TABLES
        if ("/" in word and not is_table) or (word and path.is_dir()):
            return shell.join(["data=image_folder", f"data.root={word}"])
        if not is_table:
            return None
        words = ["data=arrays", f"data.path={word}"]
        if path.suffix.lower() == ".csv" and path.is_file() and not self.value("data.targets"):
            words.append(f"data.targets=[{_last_column(path)}]")
        if not any(other.startswith(("model=", "model._target_=")) for other in self.argv):
            words.append("model=two_layer")
        return shell.join(words)


def _target_here(group: str, option: str) -> str | None:
    """`lenet.LeNet` for `lenet.LeNet` or `lenet.py` where the file `lenet.py` lies here; None for all else.

    It is found by the text of the file, which is not run. Of several classes the last is meant: what it is made of
    stands above it. Data are more often a function.
    """
    is_file = option.endswith(".py")
    parts = list(Path(option).with_suffix("").parts) if is_file else option.split(".")
    module = parts if is_file else parts[:-1]
    file = Path(*module[:-1], f"{module[-1]}.py") if module else Path()
    if not all(part.isidentifier() for part in parts) or not file.is_file():
        return None
    if not is_file:
        return option
    with open(file, encoding="utf-8-sig", errors="replace") as source:
        text = source.read(1_000_000)
    kinds = ("def", "class") if group == "data" else ("class", "def")
    found = [name for kind in kinds for name in re.findall(rf"^{kind} ([^\W_]\w*)", text, re.MULTILINE)[::-1]]
    return ".".join([*module, found[0]]) if found else None


def _last_column(path: Path) -> str:
    """The name in the last place of a table's first line: most tables have their labels there."""
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        line = file.readline(10_000).strip()
    return line.replace(";", ",").rpartition(",")[2].strip("\"' ") or "label"
