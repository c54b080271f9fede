"""Errors that a user can mend: one line that names what was wrong and what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Something that the user gave is wrong. The command prints it in one line and exits with 2."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> InputError:
    """Return the error for a name that is not in a registry, with the nearest that is.

    Example:
        >>> str(unknown_name("head", "men", ["mean", "baseline"]))
        "unknown head 'men'; did you mean 'mean'? known: mean, baseline"
    """
    names = list(known)
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    return InputError(f"unknown {kind} {name!r}; {hint}known: {', '.join(names)}")
