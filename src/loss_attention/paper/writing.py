"""A table of the paper with ours beside it: on the terminal, as Markdown and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from loss_attention.paper.cells import PARAMETERS, Cell, training_key
from loss_attention.paper.numbers import PaperTable
from loss_attention.paper.reproduction import Reproduction, Result
from loss_attention.saving import write_whole

NOT_MEASURED = "not measured"
NOT_OURS = "cited"


def write_table(
    paper: PaperTable, cells: Sequence[Cell], reproduction: Reproduction, folder: Path
) -> list[Path]:
    """Show a table on the terminal and write it as Markdown and JSON; return the files."""
    results = {(cell.labels, cell.column): (cell, reproduction.result(cell)) for cell in cells}
    grid = [
        [
            *row.labels,
            *(_text(*results.get((row.labels, column), (None, None))) for column in paper.columns),
        ]
        for row in paper.rows
    ]
    title = f"{paper.name}: {paper.title}. Scale {reproduction.scale.name}"
    notes = _notes(paper, reproduction)
    table = Table(title=Text(title), title_justify="left", show_lines=True)
    for heading in (*paper.headings, *paper.columns):
        table.add_column(Text(heading))
    for line in grid:
        table.add_row(*(Text(text) for text in line))
    reproduction.console.print(table)
    reproduction.console.print(Text("\n".join(notes), style="italic"))

    folder.mkdir(parents=True, exist_ok=True)
    markdown, data = folder / f"{paper.name}.md", folder / f"{paper.name}.json"
    write_whole(markdown, _markdown(title, paper, grid, notes))
    rows = [_cell_json(cell, result) for cell, result in results.values()]
    content = {
        "format_version": 1,
        "table": paper.name,
        "title": paper.title,
        "scale": reproduction.scale.name,
        "notes": notes,
        "cells": rows,
    }
    write_whole(data, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return [markdown, data]


def _text(cell: Cell | None, result: Result | None) -> str:
    """Return a cell's text: the paper's figure, and under it ours and the difference."""
    if cell is None or cell.paper is None:
        return "-"
    digits = 2 if cell.factor != 1.0 or cell.measure == PARAMETERS else 0
    paper = f"{cell.paper:.{digits}f}"
    if cell.recipe is None:
        return f"{paper}\n{NOT_OURS}"
    if result is None:
        return f"{paper}\n{NOT_MEASURED}"
    deviation = "" if result.deviation is None else f" ± {result.deviation:.{digits}f}"
    difference = f"{result.mean - cell.paper:+.{digits}f}"
    return f"{paper}\n{result.mean:.{digits}f}{deviation}\n({difference})"


def _markdown(
    title: str, paper: PaperTable, grid: Sequence[Sequence[str]], notes: Sequence[str]
) -> str:
    lines = [f"# {title}", ""]
    lines.append(f"| {' | '.join((*paper.headings, *paper.columns))} |")
    lines.append(f"|{' --- |' * len(paper.headings)}{' ---: |' * len(paper.columns)}")
    lines += [f"| {' | '.join(text.replace(chr(10), '<br>') for text in row)} |" for row in grid]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes)]) + "\n"


def _notes(paper: PaperTable, reproduction: Reproduction) -> list[str]:
    notes = [
        f"Each cell: the paper's figure, ours as mean ± sample deviation over seeds, and ours less "
        f"the paper's. {reproduction.scale.name}: {reproduction.scale.summary}."
    ]
    return [*notes, *(f"The paper: {doubt}" for doubt in paper.doubts)]


def _cell_json(cell: Cell, result: Result | None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "labels": list(cell.labels),
        "column": cell.column,
        "paper": cell.paper,
        "measure": cell.measure,
        "measured": result is not None,
    }
    if result is not None and cell.paper is not None:
        found |= {
            "values": list(result.values),
            "mean": result.mean,
            "deviation": result.deviation,
            "difference": result.mean - cell.paper,
            "floors": result.floors,
        }
    if cell.recipe is not None:
        found["training"] = training_key(cell.recipe) if cell.trained else None
        found["recipe"] = asdict(cell.recipe)
    return found
