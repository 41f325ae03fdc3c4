"""The words after `train`, sorted into flags and overrides; a word that is neither is told what it may have been."""

import itertools
import re
from dataclasses import dataclass, field

from trainer.command.advice import Advice, is_a_key
from trainer.command.listed import VERBS
from trainer.config import synonyms
from trainer.config.schema import GROUPS, RULES, MapOf, is_as_typed
from trainer.errors import UserError, nearest, one_of
from trainer.system import shell

# Hydra's flags, and those of them that take a value as the next word.
FLAGS = {"--multirun", "-m", "--resolve", "--run", "-r", "--hydra-help", "--version", "--shell-completion", "-sc"}
_WITH_VALUE = {"--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp", "--cfg", "-c", "--package", "-p"}
_WITH_CHOICE = {"--info", "-i"}
_REFUSED = "--experimental-rerun"  # Hydra's, too: it unpickles a file
_QUESTIONS = {"--cfg", "-c", "--info", "-i", "--hydra-help"}  # nothing runs
CHOICES = {
    **dict.fromkeys(("--cfg", "-c"), ("job", "hydra", "all")),
    **dict.fromkeys(("--info", "-i"), ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")),
}
# Characters. Hydra's parser takes some seconds for a list of 5,000 numbers, ten minutes for one of 40,000.
MAX_WORD = 10_000
_CURLY = str.maketrans(dict.fromkeys("“”„‟", '"') | dict.fromkeys("‘’‚‛", "'"))


@dataclass
class Words:
    """What was typed.

    Args:
        flags: with their values.
        overrides: `key=value`, `~key`, `+key=value`.
    """

    flags: list[str] = field(default_factory=list)
    overrides: list[str] = field(default_factory=list)

    @property
    def is_question(self) -> bool:
        return not _QUESTIONS.isdisjoint(flag.partition("=")[0] for flag in self.flags)

    @property
    def is_sweep(self) -> bool:
        return bool({"-m", "--multirun"} & set(self.flags))

    @property
    def of_hydra(self) -> str | None:
        """The first override of Hydra's own section."""
        return next((word for word in self.overrides if word.lstrip("+~").startswith(("hydra.", "hydra/"))), None)

    def value_of(self, *flags: str) -> str | None:
        """The value of the first of these flags that is there."""
        pairs = [flag.split("=", 1) for flag in self.flags if "=" in flag]
        return next((value for flag, value in [*pairs, *itertools.pairwise(self.flags)] if flag in flags), None)


def sorted_words(argv: list[str]) -> Words:
    """The flags and the overrides.

    Raises:
        UserError: a word is neither KEY=VALUE nor one of the flags.
    """
    found = Words()
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        refuse_curly(word, argv)
        name, sign, value = word.partition("=")
        if name in _WITH_VALUE:
            if not sign and not rest:
                raise UserError(f"{word}: has no value. Type train --help, or train --cfg job for the config.")
            refuse_no_choice(name, value if sign else rest[0])
            found.flags += [word] if sign else [word, rest.pop(0)]
        elif name in FLAGS | _WITH_CHOICE:
            if sign and name in FLAGS:
                raise UserError(f"{word}: takes no value. Type {name}.")
            if sign:
                refuse_no_choice(name, value)
            found.flags.append(word)
        elif word.startswith("-"):
            raise no_flag(word, rest, argv)
        elif (sign and name and not name[-1].isspace()) or word.startswith("~"):
            refuse_two_in_one(word, argv)
            found.overrides.append(word)
        elif found.flags and found.flags[-1] in _WITH_CHOICE and word not in VERBS:
            refuse_no_choice(found.flags[-1], word)
            found.flags.append(word)
        else:
            raise no_word(word, found, rest, argv)
    refuse_lost_braces(found.overrides)
    return found


def refuse_long(words: list[str]) -> None:
    """Refuses words of more than `MAX_WORD` characters."""
    if (word := next((word for word in words if len(word) > MAX_WORD), None)) is not None:
        raise UserError(
            f"{word[:40]}...: has {len(word):,} characters; a word has at most {MAX_WORD:,}. Write the value into "
            "a config file: --config-dir=conf experiment=mine."
        )


def refuse_no_choice(flag: str, value: str) -> None:
    """Of a flag that takes one of some words."""
    if flag in CHOICES and value not in CHOICES[flag]:
        raise UserError(f"{flag} {value}: takes {one_of(CHOICES[flag])}.{nearest(value, CHOICES[flag])}")


def refuse_curly(word: str, argv: list[str]) -> None:
    """Refuses quotes and dashes of a text editor: a shell does not know them."""
    key, _, value = word.partition("=")
    if word[0:1] in "–—−" and len(word) > 1:
        dashes = "--" if len(word) > 2 else "-"
        raise UserError(f"{word}: begins with a dash of a text editor. Type {dashes}{word.lstrip('–—−-')}.")
    if key.translate(_CURLY) != key or value[:1] in tuple("“”„‟‘‚‛") or value[-1:] in tuple("“”„‟"):
        plain = word.translate(_CURLY).strip("\"'")
        key, _, value = plain.partition("=")
        inner = value.strip("\"'")
        straight = f"{key}={inner}" if re.fullmatch(r"[\w./:+-]*", inner) else plain.replace("'", '"')
        raise UserError(f"{word}: has the curly quotes of a text editor. Type {Advice(argv).word(straight)}.")


def refuse_two_in_one(word: str, argv: list[str]) -> None:
    """Refuses two words in one pair of quotes."""
    parts = word.split()
    keys = [part.lstrip("+~").partition("=")[0] for part in parts]
    # A path may have a part such as `lr=0.1` in it; that of a run of a sweep has.
    is_path = is_as_typed(keys[0]) and any(key not in (*GROUPS, *RULES) for key in keys)
    if len(parts) > 1 and not is_path and all("=" in p and is_a_key(key) for p, key in zip(parts, keys, strict=True)):
        typed = " ".join(map(Advice(argv).word, parts))
        raise UserError(f"'{word}': is one word, because it stands in one pair of quotes. Type {typed}.")


def no_flag(word: str, rest: list[str], argv: list[str]) -> UserError:
    """The line for a flag that there is not: often it is a key, which has no dashes here."""
    if len(parts := word.split()) > 1:
        typed = " ".join(map(Advice([*argv, *parts]).word, parts))
        return UserError(f"'{word}': is one word, because it stands in one pair of quotes. Type {typed}.")
    name, sign, value = word.partition("=")
    known = FLAGS | _WITH_VALUE | _WITH_CHOICE | {"--help"}
    if not sign and rest and "=" not in rest[0] and not rest[0].startswith("--"):
        value = rest[0]
    close = nearest(name, known, cutoff=0.85) or ("" if name != _REFUSED else " It would unpickle a file.")
    if not close:
        advice, key = Advice(argv), name.strip("-")
        lacking, words = advice.lacking(key, value), advice.words(key, value)
        if words is not None and words.startswith("--"):
            return UserError(f"{word}: there is no such flag. Type {words}.")
        if lacking is not None or words is not None:
            return UserError(f"{word}: a key has no dashes. {f'Type {words}.' if words is not None else lacking}")
    return UserError(f"{word}: there is no such flag.{close or nearest(name, known)} Type train --help.")


def no_word(word: str, before: Words, rest: list[str], argv: list[str]) -> UserError:
    """The line for a word without `=`: a value after a space, an option without its group, a verb."""
    line = f"{word}: is neither KEY=VALUE nor a flag."
    advice = Advice(argv)
    if (verb := synonyms.verb_meant(word)) is not None and argv[0] == word and rest[:1] not in (["best"], ["last"]):
        are_keys = all("=" in after and after[0] != "-" for after in rest)
        typed = " ".join(map(advice.word if are_keys and verb in ("", "--multirun") else shell.quote, rest))
        said = f"is called {verb} here" if verb else "a run has no verb"
        return UserError(f"{word}: {said}. Type {f'train {verb}'.strip()} {typed}".rstrip() + ".")
    if (whole := _cut_in_brackets(word, before, rest)) is not None:
        return UserError(f"{line} A shell cuts words at blanks. Type {shell.quote(whole)}.")
    if (found := _spaced(word, before, rest)) is not None:
        key, value, how = found
        return UserError(f"{line} Type {advice.words(key, value) or f'{key}={value}'}{how}.")
    if word in (*GROUPS, *RULES):
        return UserError(f"{line} Type {word}=... without spaces.")
    if (option := advice.option_named(word)) is not None:
        return UserError(f"{line} Did you mean {option}?")
    return UserError(f"{line}{nearest(word, (*VERBS, 'find-lr', 'help'))} Type train --help.")


def _cut_in_brackets(word: str, before: Words, rest: list[str]) -> str | None:
    """What a shell has cut at the blanks between its brackets: `optimizer.betas=[0.9, 0.99]`; None of anything else."""
    whole = before.overrides[-1] if before.overrides else ""
    for part in (word, *rest):
        if not _is_open(whole):
            break
        whole += f" {part}"
    return whole if whole.endswith(("]", "}", ")")) and " " in whole and not _is_open(whole) else None


def _is_open(word: str) -> bool:
    return sum(map(word.count, "[{(")) > sum(map(word.count, "]})"))


def refuse_lost_braces(overrides: list[str]) -> None:
    """Refuses `loss.weights=a:1 loss.weights=b:2`: a shell has taken `loss.weights={a:1,b:2}` apart."""
    found: dict[str, list[str]] = {}
    for word in overrides:
        key, _, value = word.partition("=")
        found.setdefault(key, []).append(value)
    for key, values in found.items():
        if isinstance(RULES.get(key), MapOf) and all(re.fullmatch(r"[^{}:]+:[^{}:]+", value) for value in values):
            typed, meant = " ".join(f"{key}={value}" for value in values), f"{key}={{{','.join(values)}}}"
            raise UserError(f"{typed}: has no braces; a shell takes them away. Type {shell.quote(meant)}.")


def _spaced(word: str, before: Words, rest: list[str]) -> tuple[str, str, str] | None:
    """The key and the value of `lr= 0.1`, `lr = 0.1`, `lr =0.1`, `lr 0.1`, `lr:0.1`, and how to type them."""
    how = " without spaces"
    last = before.overrides[-1] if before.overrides else ""
    if last.endswith("="):
        return last[:-1], word, how
    key, sign, value = (part.strip() for part in word.partition("="))
    if sign and is_a_key(key):  # in quotes
        return key, value, how
    colon = re.fullmatch(r"([\w./-]+):\s*(\S+)", word)
    if colon is not None and is_a_key(colon[1]):
        return colon[1], colon[2], ""
    if not is_a_key(word) or not rest:
        return None
    following = "".join(rest[:2]) if rest[0] == "=" else rest[0]
    if following[:1] == "=":
        return word, following[1:], how
    return (word, following, "") if "=" not in following and following[:1] != "-" else None
