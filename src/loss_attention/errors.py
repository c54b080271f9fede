"""Errors that are told in one line, and what such a line may hold of other people's text."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import ClassVar

MOST_LETTERS = 1900
"""Of a longer line the middle is left out."""
_JOINERS = "\u200c\u200d"  # between letters and within emoji; not printable by Unicode's book
_QUOTED = reprlib.Repr()
_QUOTED.maxlevel = 2
_QUOTED.maxstring = _QUOTED.maxother = _QUOTED.maxlong = 60
_QUOTED.maxlist = _QUOTED.maxtuple = _QUOTED.maxset = _QUOTED.maxfrozenset = 5
_QUOTED.maxdict = 4


class ReportedError(Exception):
    """Something that ends a command: told in one line, which then exits with `exit_code`.

    Whatever names of files and the like the line holds, it is printable and not too long to read.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, *args: object) -> None:
        super().__init__(*(_readable(arg) if isinstance(arg, str) else arg for arg in args))


class InputError(ReportedError, ValueError):
    """Something that the user gave is wrong. The command prints it in one line and exits with 2."""

    exit_code = 2


class KilledError(ReportedError):
    """A process of ours was ended by something else, most likely for want of memory."""

    exit_code = 71  # EX_OSERR of sysexits.h


def unknown_name(kind: str, name: str, known: Iterable[str]) -> InputError:
    """Return the error for a name that is not in a registry, with the nearest that is.

    Example:
        >>> str(unknown_name("head", "men", ["mean", "baseline"]))
        "unknown head 'men'; did you mean 'mean'? known: mean, baseline"
    """
    names = list(known)
    nearest = nearest_name(name, names)
    hint = "" if nearest is None else f"did you mean {nearest!r}? "
    return InputError(f"unknown {kind} {quoted(name)}; {hint}known: {', '.join(names)}")


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """Return the name that one most likely stands for, None where none is near.

    Example:
        >>> nearest_name("CAT ", ["cart", "cat"]), nearest_name("owl", ["cart", "cat"])
        ('cat', None)
    """
    names = list(known)
    alike = [one for one in names if one.strip().casefold() == name.strip().casefold()]
    return next(iter(alike or difflib.get_close_matches(name, names, n=1, cutoff=0.5)), None)


@contextmanager
def guarded(location: str) -> Iterator[None]:
    """Read what a file holds: whatever is malformed in it becomes one line that says where.

    Args:
        location: file and, where there is one, row.

    Raises:
        InputError: for every exception within but those that are told in one line already.

    Example:
        >>> with guarded("labels.json entry 3"):
        ...     int("three")
        Traceback (most recent call last):
        ...
        loss_attention.errors.InputError: labels.json entry 3 cannot be read: invalid literal for int() with base 10: 'three'
    """  # noqa: E501
    try:
        yield
    except ReportedError:
        raise
    except Exception as error:  # parsers raise whatever broken content leads them into
        raise InputError(f"{location} cannot be read: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """Say in part of a line why something failed: what the exception says, else what it is."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, KeyError) and error.args:
        return f"it lacks {quoted(error.args[0])}"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, MemoryError):
        return "it does not fit in memory"
    text = printable(" ".join(str(error).split()))
    return (text if len(text) <= 300 else f"{text[:300]}...") or type(error).__name__


def quoted(value: object) -> str:
    """Return what a file or a user gave, as an error quotes it: in one line, cut where it is long.

    Example:
        >>> quoted("a" * 1000)
        "'aaaaaaaaaaaaaaaaaaaaaaaaaaa...aaaaaaaaaaaaaaaaaaaaaaaaaaaa'"
    """
    return printable(_QUOTED.repr(value))


def printable(text: str) -> str:
    r"""Return a text that a terminal shows and does not obey: what is not printable is escaped.

    Bytes of file names that are not UTF-8 are shown as such.

    Example:
        >>> printable("grün [b] \x1b[31m\n")
        'grün [b] \\x1b[31m\\n'
    """
    return text if text.isprintable() else "".join(map(_escaped, text))


def _readable(message: str) -> str:
    line = printable(message)
    half = MOST_LETTERS // 2
    return line if len(line) <= MOST_LETTERS else f"{line[:half]} ... {line[-half:]}"


def _escaped(character: str) -> str:
    if character.isprintable() or character in _JOINERS:
        return character
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return repr(character)[1:-1]
