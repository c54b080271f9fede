"""JSON and YAML with a value, a key or the order changed; what is written need not be either.

Objects are lists of pairs, so that a key can be there twice; what is put in is text as it stands.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import yaml
from fuzz.hostile import TEXTS, VALUES, shown


class Raw(str):
    """Text that is written as it is."""


class Pairs(list[list[Any]]):
    """An object: its keys, as they are written, and its values."""


Slot = tuple[Any, int, str]
"""A list or object, the number of one of its values, and a path to it for people."""

ALIASES = "{a: &a [x,x,x,x,x,x,x,x,x], " + ", ".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]"
    for before, name in zip("abcdefghi", "bcdefghij", strict=True)
)
_YAML_VALUES = (
    *("no", "yes", "010", "~", ".nan", "-.inf", "1:30", "2001-99-99", "2001-01-01", "&a [*a]"),
    *("&a {k: *a}", "*missing", "!!python/object/apply:os.system ['true']", "!!binary '?'"),
    *("!!set {a, b}", "!!float x", "!!int ''", "!!timestamp x", "!unknown x", "? [a]", "{[1]: 2}"),
    *("'open", '"\\q"', "@at", "`tick`", "%per", "- a", "a: b: c", "\tx", "|", ">\n x", "<<: 3"),
    *("!!omap [a: 1]", "{a: 1, <<: [1, 2]}", "!!null x", "!!merge x", ALIASES + "}", ALIASES),
)
_YAML_LINES = (
    *("---\n", "...\n", "%YAML 9.9\n---\n", "%TAG ! !\n", "\t- a\n", "? [a, b]\n: c\n", "<<: 3\n"),
    *("<<: {names: [a]}\n", "&a : *a\n", "- a\n", "!!python/name:os.system\n", "x: *a\n", "\x1b\n"),
)


def json_value(rng: Random, content: bytes) -> tuple[bytes, str]:
    """Change one thing in a JSON document."""
    try:
        document = json.loads(
            content,
            object_pairs_hook=lambda found: Pairs([json.dumps(key), one] for key, one in found),
        )
        what = _changed(rng, document, lambda: Raw(rng.choice(VALUES)))
        return _as_json(document).encode("utf-8", "surrogatepass"), what
    except (ValueError, RecursionError):  # an earlier change has left no JSON
        return content, "no JSON any more"


def json_lines(rng: Random, content: bytes) -> tuple[bytes, str]:
    """Change one thing in one line of JSON."""
    lines = content.split(b"\n")
    at = rng.randrange(len(lines))
    lines[at], what = json_value(rng, lines[at])
    return b"\n".join(lines), f"line {at + 1}: {what}"


def yaml_value(rng: Random, content: bytes) -> tuple[bytes, str]:
    """Change one thing in a YAML mapping."""
    if rng.random() < 0.15:
        line = rng.choice(_YAML_LINES)
        lines = content.decode("utf-8", "replace").splitlines(keepends=True)
        at = rng.randint(0, len(lines))
        return "".join((*lines[:at], line, *lines[at:])).encode(), f"line {line!r} put in at {at}"
    if b"&" in content:
        return content, "aliases, which would be written out"
    try:
        document = _paired(yaml.safe_load(content))
    except Exception:  # an earlier change has left no YAML; the library raises what it likes
        return content, "no YAML any more"
    if not isinstance(document, Pairs):
        return content, "no mapping any more"
    values = VALUES + _YAML_VALUES * 4
    try:
        what = _changed(rng, document, lambda: Raw(rng.choice(values)))
        lines = [f"{_plain(key)}: {_as_json(value)}\n" for key, value in document]
    except RecursionError:
        return content, "too deep for another change"
    return "".join(lines).encode("utf-8", "surrogatepass"), what


def _plain(key: str) -> str:
    """Return a key without its quotes, where it does not need them."""
    return key[1:-1] if key[1:-1].isidentifier() or key[1:-1].isdigit() else key


def _paired(value: Any) -> Any:
    if isinstance(value, dict):
        return Pairs([json.dumps(str(key)), _paired(one)] for key, one in value.items())
    return [_paired(one) for one in value] if isinstance(value, list) else value


def _as_json(value: Any) -> str:
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, Pairs):
        return "{" + ", ".join(f"{key}: {_as_json(one)}" for key, one in value) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_as_json, value)) + "]"
    return json.dumps(value, default=str)


def _slots(value: Any, path: str = "$") -> Iterator[Slot]:
    """Yield where every value of a document stands, the document itself aside."""
    for at, one in enumerate(value if isinstance(value, list) else ()):
        inner = one[1] if isinstance(value, Pairs) else one
        name = f"{path}.{one[0][1:-1][:30]}" if isinstance(value, Pairs) else f"{path}[{at}]"
        yield value, at, name
        yield from _slots(inner, name)


def _changed(rng: Random, document: Any, value: Callable[[], Raw]) -> str:
    """Change one thing in place, and say what."""
    slots = list(_slots(document))
    if not slots:
        return "nothing in it to change"
    # As often near the top, where few values stand, as anywhere.
    top = [slot for slot in slots if slot[2].count(".") + slot[2].count("[") <= 2]
    home, at, path = rng.choice(top if rng.random() < 0.4 else slots)
    how = rng.choice(("value",) * 6 + ("drop", "twice", "rename", "reorder", "swap", "empty"))
    if how == "value":
        new = value()
        _put(home, at, new)
        return f"{path} = {shown(new)}"
    if how == "drop":
        del home[at]
    elif how == "twice":
        home.insert(rng.randint(0, len(home)), home[at])
    elif how == "rename" and isinstance(home, Pairs):
        home[at] = [json.dumps(rng.choice(TEXTS)), home[at][1]]
        how = f"renamed {shown(home[at][0])}"
    elif how == "swap":
        other_home, other, other_path = rng.choice(slots)
        _put(home, at, _get(other_home, other) if not other_path.startswith(path) else Raw("null"))
        how = f"set to {other_path}"
    elif how == "empty":
        _put(home, at, Raw(rng.choice(("[]", "{}", '""', "null"))))
    else:
        rng.shuffle(home)
        how = "reordered with its siblings"
    return f"{path} {how}"


def _get(home: Any, at: int) -> Any:
    return home[at][1] if isinstance(home, Pairs) else home[at]


def _put(home: Any, at: int, value: Any) -> None:
    if isinstance(home, Pairs):
        home[at] = [home[at][0], value]
    else:
        home[at] = value
