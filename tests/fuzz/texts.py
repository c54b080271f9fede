"""XML, tables and plain lines with a cell, a row, an element or the encoding changed."""

from __future__ import annotations

import re
from collections.abc import Callable
from random import Random

from fuzz.hostile import DEEP, LONG, TEXTS, VALUES, Mutator, shown

_LAUGHS = "".join(
    f'<!ENTITY {name} "{("&" + before + ";") * 10}">'
    for before, name in zip("abcdefghi", "bcdefghij", strict=True)
)
_HEADS = (
    f'<!DOCTYPE x [<!ENTITY a "ha">{_LAUGHS}]>',
    '<!DOCTYPE x [<!ENTITY j SYSTEM "file:///etc/passwd">]>',
    '<!DOCTYPE x [<!ENTITY j SYSTEM "http://localhost/x">]>',
    f'<!DOCTYPE x [<!ENTITY j "{LONG}">]>',
    '<!DOCTYPE x SYSTEM "http://localhost/x.dtd">',
    '<?xml version="1.0" encoding="bogus"?>',
    '<?xml version="1.0" encoding="utf-16"?>',
    '<?xml version="1.0" encoding="gb2312"?>',
    '<?xml version="9.0"?>',
    "<!-- a comment -->",
    "text before",
)
_WORDS = re.compile(rb"[^\s,;]+")


def xml(rng: Random, content: bytes) -> tuple[bytes, str]:
    """Change an element, a text or the beginning of an XML file."""
    text = content.decode("utf-8", "replace")
    how = rng.choice(("text",) * 5 + ("drop", "twice", "rename", "head", "nest", "attribute"))
    if how == "head":
        head = rng.choice(_HEADS)
        used = re.sub(r">[^<>]*</", ">&j;</", text, count=1) if "ENTITY" in head else text
        return (head + used).encode("utf-8", "surrogatepass"), f"begins with {shown(head)}"
    elements = list(re.finditer(r"<(\w+)>([^<>]*)</\1>", text))
    larger = list(re.finditer(r"<(object|bndbox|size|annotation)>.*</\1>", text, re.DOTALL))
    if not elements:
        return content, "no elements any more"
    found = rng.choice(elements + larger)
    name, inner = found[1], found[2] if found in elements else ""
    if how == "text":
        value = rng.choice(TEXTS)
        value = value.replace("<", "&lt;") if rng.random() < 0.8 else value
        new, what = f"<{name}>{value}</{name}>", f"= {shown(value)}"
    elif how == "drop":
        new, what = "", "dropped"
    elif how == "twice":
        times = rng.choice((2, 2, 1000))
        new, what = found[0] * times, f"{times} times"
    elif how == "rename":
        other = rng.choice(("x:" + name, "n:a", name.upper(), "object", "bndbox", "name", "ä"))
        new, what = f"<{other}>{inner}</{other}>", f"named {other}"
    elif how == "nest":
        new, what = f"<{name}>" * DEEP + inner + f"</{name}>" * DEEP, f"nested {DEEP} deep"
    else:
        extra = rng.choice(('xmlns="urn:x"', 'a="1" a="2"', f'a="{LONG}"', 'a="&#0;"', "a"))
        new, what = f"<{name} {extra}>{inner}</{name}>", f"with {shown(extra)}"
    changed = text[: found.start()] + new + text[found.end() :]
    return changed.encode("utf-8", "surrogatepass"), f"<{name}> {what}"


def table(delimiter: str) -> Mutator:
    """Return a mutator of tables with a separator between cells."""

    def changed(rng: Random, content: bytes) -> tuple[bytes, str]:
        # Cells of the seeds have no separators in them; `csv` would have limits of its own.
        text = content.decode("utf-8", "replace")
        rows = [line.split(delimiter) for line in text.split("\n") if line]
        if not rows:
            return content, "no rows any more"
        end, what = "\n", _change_table(rng, rows)
        if rng.random() < 0.1:
            end = rng.choice(("\r", "\r\n", "\n\n", "\x0b", "\u2028"))
            what += f", rows end with {end!r}"
        separator = delimiter
        if rng.random() < 0.1:
            separator = rng.choice(",;\t| ")
            what += f", separated by {separator!r}"
        written = end.join(separator.join(_cell(rng, c, separator) for c in row) for row in rows)
        return (written + end).encode("utf-8", "surrogatepass"), what

    return changed


def _cell(rng: Random, text: str, separator: str) -> str:
    """Return a cell in quotes where it needs them, most of the time."""
    if any(character in text for character in f'{separator}"\r\n') and rng.random() < 0.9:
        return '"' + text.replace('"', '""') + '"'
    return text


def _change_table(rng: Random, rows: list[list[str]]) -> str:
    at = rng.randrange(len(rows))
    row = rows[at]
    column = rng.randrange(len(row))
    how = rng.choice(("cell",) * 8 + ("drop", "twice", "short", "long", "column", "shuffle"))
    place = f"row {at + 1} column {column + 1}"
    if how == "cell":
        row[column] = rng.choice(TEXTS + VALUES)
        return f"{place} = {shown(row[column])}"
    if how == "drop":
        del rows[at]
        return f"row {at + 1} dropped"
    if how == "twice":
        times = rng.choice((1, 1, 2000))
        rows[at:at] = [list(row) for _ in range(times)]
        return f"row {at + 1} {times} times more"
    if how == "short":
        del row[column]
        return f"{place} dropped"
    if how == "long":
        row[column:column] = [""] * rng.choice((1, 2, 10_000))
        return f"cells put in at {place}"
    if how == "column":
        for one in rows:
            del one[column : column + 1]
        return f"column {column + 1} dropped"
    rng.shuffle(rows)
    return "rows shuffled"


def lines(rng: Random, content: bytes) -> tuple[bytes, str]:
    """Change a word or a line of a text."""
    found = content.split(b"\n")
    at = rng.randrange(len(found))
    changes: tuple[Callable[[], str], ...] = (
        lambda: _word(rng, found, at),
        lambda: _word(rng, found, at),
        lambda: _word(rng, found, at),
        lambda: _repeat(found, at, rng.choice((1, 1, 2000))),
        lambda: _repeat(found, at, -1),
    )
    what = rng.choice(changes)()
    return b"\n".join(found), f"line {at + 1}: {what}"


def _word(rng: Random, found: list[bytes], at: int) -> str:
    words = list(_WORDS.finditer(found[at]))
    new = rng.choice(TEXTS).encode("utf-8", "surrogatepass")
    if not words:
        found[at] = new
        return f"= {shown(new)}"
    word = rng.choice(words)
    how = rng.choice(("replaced", "replaced", "dropped", "twice"))
    piece = {"replaced": new, "dropped": b"", "twice": word[0] + b" " + word[0]}[how]
    found[at] = found[at][: word.start()] + piece + found[at][word.end() :]
    return f"{shown(word[0])} {how}" + (f" by {shown(new)}" if how == "replaced" else "")


def _repeat(found: list[bytes], at: int, times: int) -> str:
    found[at : at + 1] = [found[at]] * (1 + times)
    return f"{times} times more"
