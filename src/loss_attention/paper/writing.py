"""A table of the paper with ours beside it: on the terminal, as Markdown and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from loss_attention.paper.cells import EPOCH_SECONDS, Cell, training_key
from loss_attention.paper.numbers import PaperTable
from loss_attention.paper.reproduction import Reproduction, Result
from loss_attention.saving import write_whole
from loss_attention.terminal import json_text, plain

MEASURED, NOT_MEASURED = "measured", "not measured"
NOT_OURS = "cited"
"""A figure that the paper takes from others, whose network we do not build."""
UNDEFINED = "undefined"
"""Measured, and there was nothing to divide by: no right patch at all, say."""
ABSENT = "-"
Rows = list[tuple[tuple[str, ...], list[str]]]
"""The labels of each row, and the texts of its cells."""
PLACE_MEASURES = ("box_ap", "patch_precision", "patch_recall", "patch_f")


def write_table(
    paper: PaperTable, cells: Sequence[Cell], reproduction: Reproduction, folder: Path
) -> list[Path]:
    """Show a table on the terminal and write it as Markdown and JSON; return the files."""
    results = [
        (cell, result, _state(cell, result, reproduction))
        for cell, result in zip(cells, map(reproduction.result, cells), strict=True)
    ]
    texts = {
        (cell.labels, cell.column): _text(cell, result, state) for cell, result, state in results
    }
    rows = [
        (row.labels, [texts.get((row.labels, column), ABSENT) for column in paper.columns])
        for row in paper.rows
    ]
    title = f"{paper.name}, scale {reproduction.scale.name}: {paper.title}"
    notes = _notes(paper, cells, reproduction)
    reproduction.console.print(_terminal(title, paper, rows))
    reproduction.console.print(plain("\n".join(notes), "italic"))

    markdown, data = folder / f"{paper.name}.md", folder / f"{paper.name}.json"
    write_whole(markdown, _markdown(title, paper, rows, notes))
    content = {
        "format_version": 1,
        "table": paper.name,
        "title": paper.title,
        "scale": reproduction.scale.name,
        "notes": notes,
        "cells": [_cell_json(cell, result, state) for cell, result, state in results],
    }
    write_whole(data, json_text(content, indent=1) + "\n")
    return [markdown, data]


def _text(cell: Cell, result: Result | None, state: str) -> str:
    """Return a cell's lines: the paper's figure, ours, the difference, and the best floor."""
    digits = 0 if cell.measure == EPOCH_SECONDS else 2
    lines = [] if cell.paper is None else [f"{cell.paper:.{digits}f}"]
    if result is None:
        return "\n".join([*lines, state])
    spread = "" if result.deviation is None else f" ± {result.deviation:.{digits}f}"
    lines.append(f"{result.mean:.{digits}f}{spread}")
    if cell.paper is not None:
        # Rounded first, so that no difference is a negative zero.
        lines.append(f"({round(result.mean - cell.paper, digits) + 0.0:+.{digits}f})")
    if cell.measure in PLACE_MEASURES and result.floors:
        lines.append(f"floor {max(result.floors.values()):.{digits}f}")
    return "\n".join(lines)


def _state(cell: Cell, result: Result | None, reproduction: Reproduction) -> str:
    """Return whether a cell has a figure of ours, or why not."""
    if result is not None:
        return MEASURED
    if cell.recipe is None:
        return NOT_OURS
    return UNDEFINED if reproduction.ledger.seeds(training_key(cell.recipe)) else NOT_MEASURED


def _terminal(title: str, paper: PaperTable, rows: Rows) -> Table:
    """Return the table for 80 columns: a row's labels stand one under the other."""
    table = Table(title=plain(title), title_justify="left", show_lines=True)
    table.add_column(Text("\n".join(paper.headings)), no_wrap=True)
    for column in paper.columns:
        table.add_column(Text(_in_lines(column)), justify="right", overflow="fold")
    for labels, texts in rows:
        table.add_row(*(plain(text) for text in (_in_lines(*labels), *texts)))
    return table


def _in_lines(*labels: str) -> str:
    return "\n".join(labels).replace(", ", "\n")


def _markdown(title: str, paper: PaperTable, rows: Rows, notes: Sequence[str]) -> str:
    lines = [f"# {title}", ""]
    lines.append(f"| {' | '.join((*paper.headings, *paper.columns))} |")
    lines.append(f"|{' --- |' * len(paper.headings)}{' ---: |' * len(paper.columns)}")
    for labels, texts in rows:
        cells = [*labels, *(text.replace("\n", "<br>") for text in texts)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"- {note}" for note in notes)]) + "\n"


def _notes(paper: PaperTable, cells: Sequence[Cell], reproduction: Reproduction) -> list[str]:
    scale = reproduction.scale
    counts = sorted({len(r.values) for c in cells if c.trained and (r := reproduction.result(c))})
    ends = dict.fromkeys([*counts[:1], *counts[-1:]])
    seeds = f" Seeds measured: {' to '.join(map(str, ends))}." if counts else ""
    notes = [
        "Each cell: the paper's figure where it prints one, ours as mean ± sample deviation over "
        "seeds, and in brackets ours less the paper's. Percent, if the column does not say "
        f"otherwise. Scale {scale.name}: {scale.summary}.{seeds}"
    ]
    if any(cell.measure in PLACE_MEASURES for cell in cells):
        notes.append("Floor: the best that a constant answer scores on the same images.")
    return [*notes, *(f"The paper: {doubt}" for doubt in paper.doubts)]


def _cell_json(cell: Cell, result: Result | None, state: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "labels": list(cell.labels),
        "column": cell.column,
        "paper": cell.paper,
        "measure": cell.measure,
        "state": state,
    }
    if result is not None:
        found |= {
            "values": list(result.values),
            "mean": result.mean,
            "deviation": result.deviation,
            "difference": None if cell.paper is None else result.mean - cell.paper,
            "floors": result.floors,
        }
    if cell.recipe is not None:
        found["training"] = training_key(cell.recipe) if cell.trained else None
        found["recipe"] = asdict(cell.recipe)
    return found
