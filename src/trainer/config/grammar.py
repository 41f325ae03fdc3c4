"""A value such as `Müller/a,b.csv` in Hydra's grammar, so that what is typed is what is read.

Hydra reads `2026_11_22` as a number and a comma as a sweep, and outside of quotes it knows neither `#` nor an umlaut.
"""

import os
import re
from collections.abc import Callable, Mapping
from typing import Any

CanBeRead = Callable[[str], bool]  # whether Hydra's parser takes a value

# What stands for several values after `--multirun`.
_FUNCTION = re.compile(r"(choice|range|interval|glob|shuffle|sort|tag|extend_list|str|int|float|bool|json_str)\(.*\)")
_VARIABLE = re.compile(r"\$\{oc\.env:\s*(\w+)\s*(?:,\s*([^${},\s]+)\s*)?\}")
_PLAIN = re.compile(r"[A-Za-z_/.@%?|*$+-][\w/.@%?|*$:+-]*", re.ASCII)  # a text that needs no quotes


def quoted(text: str) -> str:
    """The text in quotes of Hydra's grammar, in which a backslash counts before a quote alone.

    `${...}` in it still refers to another key.
    """
    escaped = re.sub(r'(\\*)("|\Z)', lambda found: 2 * found[1] + (found[2] and '\\"'), text)
    return f'"{escaped}"'


def written(value: Any) -> str:
    """A value as Hydra reads it back: texts are in quotes where they need them."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{','.join(map(written, value))}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{written(item)}' for key, item in value.items())}}}"
    if not isinstance(value, str):
        return str(value)
    text = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)  # or else it would refer to another key
    return text if _PLAIN.fullmatch(text) and not _is_no_text(text) else quoted(text)


def as_typed(value: str, can_be_read: CanBeRead, is_sweep: bool) -> str:
    """The value of a key that takes a name or a path, letter by letter.

    Args:
        is_sweep: commas separate several of them, unless a file of that name is there.
    """
    if value in ("", "null") or (value[0] in "'\"" and value[-1] == value[0] and can_be_read(value)):
        return value
    if is_sweep and not os.path.exists(os.path.expanduser(value)):
        if _FUNCTION.fullmatch(value):
            return value
        return ",".join(as_typed(part, can_be_read, False) for part in split(value))
    return quoted(value)


def mended(value: str, can_be_read: CanBeRead) -> str | None:
    """The value with quotes around those of its texts that Hydra can't read; None where that does not help."""
    parts = split(value)
    if len(parts) > 1:
        whole = [mended(part, can_be_read) for part in parts]
        return None if None in whole else ",".join(map(str, whole))
    value = value.strip()
    if can_be_read(value):
        return value
    if value[:1] == "[" and value[-1:] == "]":
        inner = mended(value[1:-1], can_be_read)
        return None if inner is None else f"[{inner}]"
    if value[:1] == "{" and value[-1:] == "}":
        pairs = [part.partition(":") for part in split(value[1:-1])]
        # JSON and Python quote names, Hydra's grammar does not.
        items = [(re.sub(r"""^\s*(["'])(.*)\1\s*$""", r"\2", key), mended(item, can_be_read)) for key, _, item in pairs]
        return None if any(item is None for _, item in items) else f"{{{','.join(f'{k}:{item}' for k, item in items)}}}"
    is_open = value.count("${") > value.count("}")
    return None if not value or is_open or _FUNCTION.fullmatch(value) else quoted(value)


def numbered(value: str, is_sweep: bool) -> str:
    """The name of an option, in quotes where Hydra would read a number: `experiment=2` is experiment/2.yaml.

    Args:
        is_sweep: commas separate several of them.
    """
    parts = split(value) if is_sweep else [value]
    return ",".join(quoted(part) if re.match(r"[-+.]?\d", part) and _is_no_text(part) else part for part in parts)


def from_environment(options: str) -> str:
    """Names of options, in which `${oc.env:NAME}` stands for one or several: Hydra takes it for one alone.

    A variable that is not set stays as it is, unless `${oc.env:NAME,instead}` says what counts then.
    """
    return _VARIABLE.sub(lambda found: os.environ.get(found[1], found[2] or found[0]), options)


def key_twice(value: str) -> str | None:
    """A key that stands twice within one `{...}` of a value; None where there is none. Hydra would keep the last."""
    for part in map(str.strip, split(value)):
        called = _FUNCTION.fullmatch(part)
        if called is not None or (part[:1] == "[" and part[-1:] == "]"):
            found = key_twice(part[part.index("(" if called else "[") + 1 : -1])
        elif part[:1] == "{" and part[-1:] == "}":
            pairs = [item.partition(":") for item in split(part[1:-1])]
            names = [name.strip().strip("'\"") for name, _, _ in pairs]
            twice = (name for i, name in enumerate(names) if _as_key(name) in map(_as_key, names[:i]))
            found = next(twice, None) or key_twice(",".join(item for _, _, item in pairs))
        else:
            continue
        if found is not None:
            return found
    return None


def _as_key(name: str) -> str | float:
    """The name of a mapping as Hydra reads it: 0 and 0.0 are one."""
    try:
        return float(name)
    except ValueError:
        return name


def split(text: str) -> list[str]:
    """The parts between commas that stand in no brackets and no quotes."""
    parts, depth, quote, before = [""], 0, "", ","
    for i, sign in enumerate(text):
        if quote:
            num_backslashes = len(text[:i]) - len(text[:i].rstrip("\\"))
            quote = "" if sign == quote and num_backslashes % 2 == 0 else quote
        elif sign in "'\"" and before in ",([{:=":  # an apostrophe within a word is none
            quote = sign
        elif sign in "([{":
            depth += 1
        elif sign in ")]}":
            depth -= 1
        if sign == "," and depth <= 0 and not quote:
            parts.append("")
        else:
            parts[-1] += sign
        before = before if sign.isspace() else sign
    return parts


def _is_no_text(text: str) -> bool:
    """Whether Hydra would read a number, true, false or null."""
    if text.lower() in ("true", "false", "null"):
        return True
    try:
        float(text)
    except ValueError:
        return False
    return True
