"""The tables of figures: a section for each kind, and beside each figure what its floors score."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from loss_attention.errors import printable
from loss_attention.evaluation import Evaluation, Measure
from loss_attention.showing import plain

UNDEFINED = "n/a"
ABSENT = "-"
LOWER = " ↓"
# Column heads have to be short: five floors stand side by side in 80 columns.
_SHORT = {
    "whole image": "whole",
    "best centred box": "centred",
    "uniform weights": "uniform",
    "random weights": "random",
    "edge detector": "edges",
}


@dataclass(frozen=True)
class Row:
    """A measure of one model.

    Attributes:
        label: the measure.
        model: whose figure it is.
        measure: None where the model does not have it.
        value: the figure as text.
        floors: what the floors score, a cell for each column of the section.
    """

    label: str
    model: str
    measure: Measure | None
    value: str
    floors: tuple[str, ...]


@dataclass(frozen=True)
class Section:
    """The measures of one group.

    Attributes:
        title: what they are about.
        floors: the heads of their columns; a single "floor" where each measure has its own.
        rows: measure by measure, and of each measure model by model.
    """

    title: str
    floors: tuple[str, ...]
    rows: tuple[Row, ...]


def show_evaluations(evaluations: Mapping[str, Evaluation], console: Console) -> None:
    """Print a table for each section, and under them what a reader needs to read them.

    Args:
        evaluations: by what to call each model.
        console: where to.
    """
    console.print(plain(_title(evaluations), "bold"))
    for section in evaluation_sections(evaluations):
        console.print(_table(section, several=len(evaluations) > 1))
    for note in evaluation_notes(evaluations):
        console.print(plain(note, "italic"))


def evaluation_markdown(evaluations: Mapping[str, Evaluation]) -> str:
    """Return the same sections and notes as Markdown."""
    lines = [_title(evaluations)]
    several = len(evaluations) > 1
    for section in evaluation_sections(evaluations):
        heads = [section.title or "measure", *(["model"] if several else []), "figure"]
        heads += section.floors
        lines += ["", _markdown_row(heads)]
        aligned = ["---"] * (len(heads) - 1 - len(section.floors))
        lines.append(_markdown_row([*aligned, *["---:"] * (1 + len(section.floors))]))
        for row in section.rows:
            name = [row.model] if several else []
            cells = [row.label, *name, f"**{row.value}**", *row.floors]
            lines.append(_markdown_row(cells))
    notes = [f"{note}  " for note in evaluation_notes(evaluations)]
    return "\n".join([*lines, "", *notes]).rstrip() + "\n"


def evaluation_sections(evaluations: Mapping[str, Evaluation]) -> list[Section]:
    """Return the figures group by group, in the order in which they come."""
    groups: dict[str, list[Measure]] = {}
    for measure in _first_of_each(evaluations).values():
        groups.setdefault(measure.group, []).append(measure)
    return [_section(title, measures, evaluations) for title, measures in groups.items()]


def _section(title: str, measures: list[Measure], evaluations: Mapping[str, Evaluation]) -> Section:
    found = [
        (measure, model, evaluation.get(measure.name))
        for measure in measures
        for model, evaluation in evaluations.items()
    ]
    present = [one for _, _, one in found if one is not None]
    floors = tuple({name: None for one in present for name in one.floors})
    # Where each measure has a floor of its own, columns would be all but empty.
    alone = all(len(one.floors) <= 1 for one in present) and len(floors) > 1
    rows = tuple(
        Row(
            measure.label + ("" if measure.higher_is_better else LOWER),
            model,
            one,
            ABSENT if one is None else _number(one.value),
            (_own_floor(one),) if alone else tuple(_floor(one, floor) for floor in floors),
        )
        for measure, model, one in found
    )
    return Section(title, ("floor",) if alone else floors, rows)


def _floor(measure: Measure | None, name: str) -> str:
    if measure is None or name not in measure.floors:
        return ABSENT
    return _number(measure.floors[name])


def _own_floor(measure: Measure | None) -> str:
    if measure is None or not measure.floors:
        return ABSENT
    ((name, value),) = measure.floors.items()
    return f"{_number(value)} ({name})"


def _table(section: Section, *, several: bool) -> Table:
    """Return a section for the terminal; of several models each has a line under its measure."""
    table = Table(title=plain(section.title), title_justify="left", pad_edge=False)
    table.add_column("measure", no_wrap=True)
    table.add_column("figure", justify="right", no_wrap=True)
    for floor in section.floors:
        table.add_column(plain(_SHORT.get(floor, floor)), justify="right", style="dim")
    for row, before in zip(section.rows, (None, *section.rows[:-1]), strict=True):
        label = plain(row.label, "bold")
        if several:
            if before is None or before.label != row.label:
                table.add_row(label)
            label = plain(f"  {row.model}")
        table.add_row(label, plain(row.value, "bold"), *map(plain, row.floors))
    return table


def _markdown_row(cells: list[str]) -> str:
    shown = (html.escape(printable(cell), quote=False).replace("|", "&#124;") for cell in cells)
    return f"| {' | '.join(shown)} |"


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
    """Return what a reader needs to read these tables, and nothing that does not occur in them."""
    measures = _first_of_each(evaluations)
    down = any(not measure.higher_is_better for measure in measures.values())
    notes = ["Floors: what an answer scores on the same images that knows nothing of the model."]
    if all(measure.range == (0, 1) for measure in measures.values()):
        better = "higher is better" + (f",{LOWER} lower" if down else "")
        notes.insert(0, f"All measures: 0 to 1, {better}.")
    if "patch_recall" in measures:
        notes.append("No selection has a higher recall than all patches (uniform weights): read F.")
    if any(evaluation.thresholds for evaluation in evaluations.values()):
        notes.append("Boxes around heat maps: each answer's threshold chosen on held-out images.")
    elif any(one.boxed_images and "map_box_ap" in one for one in evaluations.values()):
        notes.append(
            "Boxes around heat maps: no held-out images (--validation-fraction) to choose a "
            "threshold on."
        )
    cells = {
        cell
        for section in evaluation_sections(evaluations)
        for row in section.rows
        for cell in (row.value, *(floor.split(" ")[0] for floor in row.floors))
    }
    if UNDEFINED in cells:
        notes.append(f"{UNDEFINED}: nothing to count, or nothing to choose or fit it by.")
    if ABSENT in cells:
        notes.append(
            f"{ABSENT}: the model has no patches or no exact evidence, or the data no boxes."
        )
    return notes
