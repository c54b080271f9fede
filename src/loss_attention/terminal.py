"""Text that we did not write, where people read it: on the terminal, in Markdown, in files of text.

Names of files and classes may hold anything. A terminal must not obey them, nor may they be taken
for markup: brackets are shown as brackets, and control characters are escaped. So they are in the
bar for a job that counts things: images read, evaluated, explained.
"""

from __future__ import annotations

import contextlib
import html
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from loss_attention.errors import printable

_MARKS = re.compile(r"([\\`*_\[\]#|])")


def plain(text: str, style: str = "") -> Text:
    r"""Return a text, of one or several lines, that is shown as it is.

    Example:
        >>> print(plain("[/b] \x1b[31m"))
        [/b] \x1b[31m
    """
    return Text("\n".join(map(printable, text.split("\n"))), style)


def say(console: Console, text: str, style: str = "") -> None:
    """Print a line, or several; long ones are left to the terminal to wrap."""
    console.print(plain(text, style), soft_wrap=True)


def say_line(console: Console, text: str, style: str = "") -> None:
    """Print one line; where a name in it holds ends of lines, these are escaped too."""
    say(console, printable(text), style)


def markdown(text: str) -> str:
    r"""Return a text, in one line, that Markdown shows as it is.

    Example:
        >>> markdown("a|b <i> [x](y)")
        'a\\|b &lt;i&gt; \\[x\\](y)'
    """
    return html.escape(_MARKS.sub(r"\\\1", printable(text)), quote=False)


def markdown_table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], align: str | None = None
) -> str:
    """Lay out cells that are Markdown already.

    Args:
        headings: of the columns.
        rows: a text in one line for each column.
        align: a letter for each column, l or r; None: the first left, the others right.

    Example:
        >>> print(markdown_table(["part", "ms"], [["all", "12"]]))
        | part | ms |
        | --- | ---: |
        | all | 12 |
    """
    letters = "l".ljust(len(headings), "r") if align is None else align
    rule = ["---:" if letter == "r" else "---" for letter in letters]
    return "\n".join(
        "|" + "".join(f" {cell} |" if cell else " |" for cell in cells)
        for cells in (headings, rule, *rows)
    )


def json_text(value: Any, indent: int | None = None) -> str:
    """Return a value as JSON, its letters readable where they are Unicode.

    Names of files that are not Unicode are written as lone surrogates, as Python has them, so that
    reading gives the same name.
    """
    return as_unicode(json.dumps(value, indent=indent, ensure_ascii=False))


def as_unicode(text: str) -> str:
    r"""Return a text whose lone surrogates, of names that are not Unicode, are written out.

    Example:
        >>> as_unicode("a\udcff")
        'a\\udcff'
    """
    return text.encode("utf-8", "backslashreplace").decode()


@contextlib.contextmanager
def counted(label: str, console: Console) -> Iterator[Callable[..., None]]:
    """Show a bar while the context lasts; call what it yields with (done, total).

    A third argument, if any, says what is being done now.
    """
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(label, total=None)

        def update(done: int, total: int, now: str = "") -> None:
            text = f"{label}: {now}" if now else label
            bar.update(task, completed=done, total=total, description=printable(text))

        yield update
