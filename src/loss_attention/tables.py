"""The one table of figures: each measure with what a constant answer scores right under it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from loss_attention.evaluation import Evaluation, Measure

UNDEFINED = "n/a"
ABSENT = "-"


@dataclass(frozen=True)
class Row:
    """A measure, or one of its floors, of every model."""

    label: str
    cells: tuple[str, ...]
    is_floor: bool


def show_evaluations(evaluations: Mapping[str, Evaluation], console: Console) -> None:
    """Print the table, and under it what a reader needs to read it."""
    console.print(evaluation_table(evaluations))
    # Not the table's caption, which would be wrapped to the table's width.
    console.print(Text("\n".join(evaluation_notes(evaluations)), style="italic"))


def evaluation_table(evaluations: Mapping[str, Evaluation]) -> Table:
    """Return a table for the terminal, a column for each model.

    Floors stand under their measure, in each column, as those of uniform weights differ from model
    to model (they are measured with its patch logits).

    Args:
        evaluations: by the name to put over the column.
    """
    table = Table(
        title=Text(_title(evaluations)),
        title_justify="left",
    )
    table.add_column("measure", no_wrap=True)
    for name in evaluations:
        table.add_column(Text(name), justify="right")
    for row in evaluation_rows(evaluations):
        label = f"  floor: {row.label}" if row.is_floor else row.label
        table.add_row(label, *row.cells, style="dim" if row.is_floor else "bold")
    return table


def evaluation_markdown(evaluations: Mapping[str, Evaluation]) -> str:
    """Return the same rows and notes as Markdown."""
    lines = [_title(evaluations), ""]
    lines.append(f"| measure | {' | '.join(name.replace('|', '&#124;') for name in evaluations)} |")
    lines.append(f"| --- |{' ---: |' * len(evaluations)}")
    for row in evaluation_rows(evaluations):
        cells = row.cells if row.is_floor else [f"**{cell}**" for cell in row.cells]
        label = f"floor: {row.label}" if row.is_floor else f"**{row.label}**"
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return (
        "\n".join([*lines, "", *(f"{note}  " for note in evaluation_notes(evaluations))]).rstrip()
        + "\n"
    )


def evaluation_rows(evaluations: Mapping[str, Evaluation]) -> list[Row]:
    """Return the rows of the table, each floor under its measure, a cell for each model."""
    rows = []
    for measure in _first_of_each(evaluations).values():
        found = [evaluation.get(measure.name) for evaluation in evaluations.values()]
        values = tuple(ABSENT if one is None else _number(one.value) for one in found)
        rows.append(Row(measure.label, values, is_floor=False))
        for floor in {name: None for one in found if one is not None for name in one.floors}:
            cells = tuple(
                ABSENT if one is None or floor not in one.floors else _number(one.floors[floor])
                for one in found
            )
            rows.append(Row(floor, cells, is_floor=True))
    return rows


def _first_of_each(evaluations: Mapping[str, Evaluation]) -> dict[str, Measure]:
    """Return every measure that some model has, in order, by name."""
    measures: dict[str, Measure] = {}
    for evaluation in evaluations.values():
        for measure in evaluation.measures:
            measures.setdefault(measure.name, measure)
    return measures


def _number(value: float | None) -> str:
    return UNDEFINED if value is None else f"{value:.3f}"


def _title(evaluations: Mapping[str, Evaluation]) -> str:
    """Say which images the figures are of; each model's where they differ."""
    what = {
        name: f"{evaluation.images:,} {evaluation.split} images"
        + (
            f", {evaluation.boxed_images:,} of them with boxes"
            if 0 < evaluation.boxed_images < evaluation.images
            else ""
        )
        for name, evaluation in evaluations.items()
    }
    if len(set(what.values())) == 1:
        return next(iter(what.values()))
    return "; ".join(f"{name}: {images}" for name, images in what.items())


def evaluation_notes(evaluations: Mapping[str, Evaluation]) -> list[str]:
    """Return what a reader needs to read this table, and nothing that does not occur in it."""
    measures = _first_of_each(evaluations)
    notes = ["Floor: what a constant answer scores on the same images."]
    if all(m.higher_is_better and m.range == (0, 1) for m in measures.values()):
        notes.insert(0, "All measures: 0 to 1, higher is better.")
    if "patch_recall" in measures:
        notes.append("No selection has a higher recall than all patches (uniform weights): read F.")
    cells = {cell for row in evaluation_rows(evaluations) for cell in row.cells}
    if UNDEFINED in cells:
        notes.append(f"{UNDEFINED}: nothing to count, or no training data to fit the floor to.")
    if ABSENT in cells:
        notes.append(f"{ABSENT}: the model has no patches, or the data no boxes.")
    return notes
