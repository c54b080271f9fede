"""Tables for people: what stands in them is said once, and shown on a terminal or as Markdown.

JSON is not made of tables: its numbers are exact, and have names.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import rich.table
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from loss_attention.terminal import markdown, markdown_table, plain

ABSENT = "-"
_FRAME = 3
"""Letters that a column takes beside its text: a space on both sides and a line."""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        heading: what stands over it, in one line.
        align: where its heading and its cells stand.
        narrow: its heading on a terminal, in one line or several, where that is another.
        style: of its cells; Markdown has no dim text.
    """

    heading: str
    align: Literal["left", "right"] = "right"
    narrow: str = ""
    style: Literal["", "bold", "dim"] = ""


@dataclass(frozen=True)
class Table:
    """What a table shows, wherever it is shown. No text in it is markup, whoever wrote it.

    Attributes:
        columns: from left to right.
        rows: a text for each column, in one line or several.
        title: over it on a terminal; pages of Markdown have headings of their own.
        notes: what a reader needs to read it, a line each.
        labels: how many columns, from the left, say what a row is. A terminal shows two as one:
            rows of the same first label stand indented under it.
        ruled: a terminal has a line between rows.
    """

    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]
    title: str = ""
    notes: Sequence[str] = ()
    labels: Literal[1, 2] = 1
    ruled: bool = False


def show_table(table: Table, console: Console) -> None:
    """Print a table, as many columns side by side as fit, and its notes."""
    columns = [table.columns[0], *table.columns[table.labels :]]
    headings = [plain(column.narrow or column.heading) for column in columns]
    rows = list(_terminal_rows(table))
    for chosen in _that_fit([headings, *rows], console.width):
        shown = rich.table.Table(
            title=plain(table.title) if table.title else None,
            title_justify="left",
            pad_edge=False,
            show_lines=table.ruled,
        )
        for number in chosen:
            shown.add_column(headings[number], justify=columns[number].align, overflow="fold")
        for row in rows:
            shown.add_row(*(row[number] for number in chosen))
        console.print(shown)
    for note in table.notes:
        console.print(plain(note, "italic"))


def _terminal_rows(table: Table) -> Iterator[list[Text]]:
    before = None
    for row in table.rows:
        cells = [
            plain(text, column.style)
            for text, column in zip(row[table.labels :], table.columns[table.labels :], strict=True)
        ]
        if table.labels == 1:
            yield [plain(row[0], "bold"), *cells]
            continue
        if row[0] != before:
            yield [plain(row[0], "bold"), *(Text() for _ in cells)]
        yield [plain(f"  {row[1]}"), *cells]
        before = row[0]


def _that_fit(rows: Sequence[Sequence[Text]], width: int) -> list[list[int]]:
    """Divide columns into as few tables as are no wider, if that can be; each has the first.

    Where but few letters are missing, the longest labels are wrapped instead.
    """
    label, *others = (
        max(cell_len(line) for cell in column for line in cell.plain.split("\n"))
        for column in zip(*rows, strict=True)
    )
    tables: list[list[int]] = []
    left = 0
    for number, letters in enumerate(others, start=1):
        if letters + _FRAME > left or not tables:
            tables.append([0])
            left = width - label - 2 + label // 8
        tables[-1].append(number)
        left -= letters + _FRAME
    return tables


def table_markdown(table: Table) -> str:
    """Return a table and its notes as Markdown."""
    rows = [
        [
            f"**{_cell(text)}**" if column.style == "bold" else _cell(text)
            for text, column in zip(row, table.columns, strict=True)
        ]
        for row in table.rows
    ]
    align = "".join(column.align[0] for column in table.columns)
    shown = markdown_table([_cell(column.heading) for column in table.columns], rows, align)
    notes = [f"- {markdown(note)}" for note in table.notes]
    return "\n".join([shown, "", *notes]).rstrip() + "\n"


def _cell(text: str) -> str:
    # With a space after them these are signs of numbers, within a line: no tags, and no quotation.
    lines = (markdown(line).replace("&lt; ", "< ") for line in text.split("\n"))
    return "<br>".join(line.replace(" &gt; ", " > ") for line in lines)


def metric_column(heading: str, guided_by: Sequence[str]) -> Column:
    """Return the column of metrics, which says what trainings were guided by beside labels.

    It is in each of the tables that a terminal makes of a wide one.

    Args:
        heading: of the column, unless a terminal shows it under a title.
        guided_by: of each model, as `Evaluation.guided_by` has it.
    """
    known = list(dict.fromkeys(guided_by))
    if not any(known):
        return Column(heading, "left", "metric")
    names = " or ".join(one or "labels alone" for one in known)
    return Column(f"{heading}, guided by {names}", "left", f"metric,\nguided by\n{names}")
