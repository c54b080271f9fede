"""Values and bytes that no reader expects, and how to put them into a file.

A mutator takes a `random.Random` and the content of a file and returns another content with a few
words on what was done to it. All choices are the generator's: the same seed gives the same file.
"""

from __future__ import annotations

import codecs
import json
import struct
from collections.abc import Callable
from random import Random

Mutator = Callable[[Random, bytes], tuple[bytes, str]]

LONG = "x" * 200_000
DEEP = 10_000

TEXTS = (
    "",
    " ",
    "0",
    "-1",
    "1.5",
    "1e400",
    "nan",
    "-inf",
    "null",
    "true",
    "1" + "0" * 30,
    "9" * 5000,
    "0x10",
    "1_000",
    "\x00",
    "a\x00b.png",
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "[/b]",
    "[link=file:///]",
    "a\nb",
    "a\r\nb",
    "\u2028",
    "\u202egnp.a",
    "\ufeff",
    "\x7f\x9b31m",
    "../../../../etc/passwd",
    "/etc/passwd",
    "/dev/zero",
    "..",
    ".",
    "C:\\a.png",
    "..\\a.png",
    "a/" * 3000,
    "n" * 300 + ".png",
    "'",
    '"',
    "{0}%s%n",
    "<b>&amp;",
    "\u0663",
    "\uff11\uff12",
    LONG,
)
"""What a word, a cell or a name may be."""

_NUMBERS = (
    *("null", "true", "false", "NaN", "Infinity", "-Infinity", "1e400", "-1e400", "1e-320", "-0.0"),
    *("-1", "0", "1", "0.5", "2", "255", "65536", "2147483648", "-2147483649"),
    *("4294967296", "9223372036854775807", "9223372036854775808", "1e18", "1e308"),
    *(str(10**30), str(-(10**30)), "1" + "0" * 400, "9" * 5000),
)
_NESTED = (
    *("[]", "{}", "[[]]", "[null]", '[""]', "[{}]", '{"": null}', '{"a": {"b": []}}', "[1, 2]"),
    *("[1, 2, 3, 4]", '["1", "2", "3", "4"]', "[NaN, NaN, NaN, NaN]", "[1e400, 0, 1e400, 0]"),
    *("[[1, 2], [3, 4]]", "[" + "1, " * 20_000 + "1]", "[" * DEEP + "]" * DEEP),
    *("[" * 900 + "]" * 900, '{"a":' * DEEP + "1" + "}" * DEEP, "[" * DEEP),
)
VALUES = (*_NUMBERS, *_NESTED, *map(json.dumps, TEXTS), '"\\ud800"', '"\\udcff.png"', "'single'")
"""What a value of JSON may be, as it is written; a few are no JSON."""

_INTEGERS = (0, 1, 2, 7, 16, 100, 127, 128, 255, 256, 1000, 4096, 9000, 9400, 32767, 32768, 65535)
_LARGE = (65536, 10**6, 2**24, 2**30, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63, 2**64 - 1)
_INVALID = (b"\xff", b"\xc3\x28", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"\x80", b"\xfe\xff")


def bytewise(rng: Random, content: bytes) -> tuple[bytes, str]:
    """Change bytes, whatever they mean."""
    change = rng.choice(
        (_flip, _flip, _truncate, _insert, _delete, _duplicate, _splice, _number, _number, _spoil)
    )
    return change(rng, content)


def _place(rng: Random, content: bytes) -> int:
    """Return a position; half of them near the start, where headers are."""
    end = len(content)
    return rng.randint(0, min(end, 64)) if rng.random() < 0.5 else rng.randint(0, end)


def _flip(rng: Random, content: bytes) -> tuple[bytes, str]:
    changed = bytearray(content or b"\0")
    flips = rng.choice((1, 1, 1, 2, 8, 64))
    for _ in range(flips):
        changed[min(_place(rng, content), len(changed) - 1)] ^= 1 << rng.randrange(8)
    return bytes(changed), f"{flips} bits flipped"


def _truncate(rng: Random, content: bytes) -> tuple[bytes, str]:
    end = rng.choice((0, 1, 4, _place(rng, content), max(len(content) - 1, 0), len(content) // 2))
    return content[:end], f"cut after {end} of {len(content)} bytes"


def _insert(rng: Random, content: bytes) -> tuple[bytes, str]:
    at, count = _place(rng, content), rng.choice((1, 2, 4, 100, 5000))
    return content[:at] + rng.randbytes(count) + content[at:], f"{count} bytes put in at {at}"


def _delete(rng: Random, content: bytes) -> tuple[bytes, str]:
    at, count = _place(rng, content), rng.choice((1, 2, 4, 16, 256))
    return content[:at] + content[at + count :], f"{count} bytes taken out at {at}"


def _duplicate(rng: Random, content: bytes) -> tuple[bytes, str]:
    at, count = _place(rng, content), rng.choice((1, 8, 64, 512))
    times = rng.choice((1, 2, 100))
    piece = content[at : at + count]
    return content[:at] + piece * times + content[at:], f"{count} bytes at {at} {times} times more"


def _splice(rng: Random, content: bytes) -> tuple[bytes, str]:
    """Go on from one position with what follows another."""
    first, second = sorted((_place(rng, content), _place(rng, content)))
    if rng.random() < 0.5:
        first, second = second, first
    return content[:first] + content[second:], f"from byte {first} on what follows byte {second}"


def _number(rng: Random, content: bytes) -> tuple[bytes, str]:
    """Overwrite with an integer that is the first or last of its kind."""
    code = rng.choice("BHIQ")
    size, order = struct.calcsize(f"={code}"), rng.choice("<>")
    value = rng.choice(_INTEGERS + _LARGE) % (1 << 8 * size)
    at = _place(rng, content)
    packed = struct.pack(f"{order}{code}", value)
    return content[:at] + packed + content[at + size :], f"{size}-byte {order} {value} at {at}"


def _spoil(rng: Random, content: bytes) -> tuple[bytes, str]:
    """Put in what is not UTF-8, or NUL."""
    at = _place(rng, content)
    piece = rng.choice((*_INVALID, b"\0", b"\0" * 64, b"\r", b"\x1b[2J"))
    return content[:at] + piece + content[at:], f"{piece[:8]!r} put in at {at}"


def recoded(rng: Random, content: bytes) -> tuple[bytes, str]:
    """Write a text in another encoding or with other ends of lines."""
    text = content.decode("utf-8", "replace")
    how = rng.choice(
        ("utf-16", "utf-16-le", "utf-32", "utf-8-sig", "utf-7", "cp1252", "\r", "\r\n")
    )
    if how in ("\r", "\r\n"):
        return text.replace("\n", how).encode("utf-8", "replace"), f"lines end with {how!r}"
    both = codecs.BOM_UTF8 * 2 if how == "utf-8-sig" and rng.random() < 0.2 else b""
    return both + text.encode(how, "replace"), f"written in {how}"


def one_of(*mutators: Mutator) -> Mutator:
    """Return a mutator that chooses among others."""

    def chosen(rng: Random, content: bytes) -> tuple[bytes, str]:
        return rng.choice(mutators)(rng, content)

    return chosen


def shown(text: str | bytes) -> str:
    """Return the beginning of a text, for the few words on what was done."""
    quoted = repr(text)
    return quoted if len(quoted) <= 60 else f"{quoted[:57]}..."
