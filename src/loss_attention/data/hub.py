"""Data sets by the `datasets` library, quietly: from the Hugging Face hub or from files here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from loss_attention.errors import InputError, printable

HUB_ID = re.compile(r"(?P<id>[\w.-]+/[\w.-]+)(:(?P<configuration>[\w.+-]+))?")
"""`org/name`, or `org/name:configuration` where a data set has several."""


def open_hub(name: str, otherwise: str = "a local folder works too") -> Mapping[str, Any]:
    """Return the splits of a data set on the Hugging Face hub, downloaded once and cached there.

    Args:
        name: matches `HUB_ID`.
        otherwise: what an error says of other ways.

    Raises:
        InputError: unknown, private, of several configurations, or the hub cannot be reached.
    """
    match = HUB_ID.fullmatch(name)
    assert match is not None
    failure = f"cannot load {name!r} from the Hugging Face hub"
    with quiet_datasets(failure, f"; {otherwise}") as datasets:
        loaded = datasets.load_dataset(match["id"], match["configuration"])
        return dict(loaded)


@contextmanager
def quiet_datasets(failure: str, hint: str = "") -> Iterator[Any]:
    """Lend the `datasets` library, without its bars and notes, and its errors made one line.

    Args:
        failure: what an error says before the cause.
        hint: what it says after it.

    Raises:
        InputError: for whatever `datasets`, or a library under it, raises.
    """
    import datasets  # over a second: only when data comes from files

    library = _loggers()
    levels = [log.get_verbosity() for log in library]
    bars = not datasets.are_progress_bars_disabled()
    for log in library:
        log.set_verbosity(log.CRITICAL)
    if bars:
        datasets.disable_progress_bars()
    try:
        yield datasets
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{failure}: {_cause(error)}{hint}") from error
    finally:
        for log, level in zip(library, levels, strict=True):
            log.set_verbosity(level)
        if bars:
            datasets.enable_progress_bars()


def _loggers() -> list[Any]:
    import datasets
    import huggingface_hub

    return [datasets.logging, huggingface_hub.logging]


def _cause(error: BaseException) -> str:
    """Say in one line what went wrong at the bottom of a chain of exceptions."""
    import datasets

    wrappers = (datasets.exceptions.DatasetGenerationError,)
    while isinstance(error, wrappers) and error.__cause__ is not None:
        error = error.__cause__
    line = printable(" ".join(str(error).split()))
    short = line if len(line) <= 300 else f"{line[:300]}..."
    return short or type(error).__name__
