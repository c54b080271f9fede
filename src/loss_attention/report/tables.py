"""The tables of figures: a section for each kind, and beside each figure what its floors score.

A comparison as a table for the terminal, as Markdown and as JSON.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from loss_attention.attribution.compare import Comparison, Figure
from loss_attention.attribution.maps import METHODS
from loss_attention.attribution.measures import MEASURES, MOSAICS
from loss_attention.errors import printable
from loss_attention.evaluation import Evaluation, Measure
from loss_attention.terminal import plain

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


FORMAT_VERSION = 1
NOT_MEASURED = "-"
LEAST_SECONDS = 0.0001
"""Less is as good as nothing, and shown as less."""
_FRAME = 3
"""Letters that a column takes beside its text: a space on both sides and a line."""
_LABEL_WIDTH = 1 + _FRAME + max(len(measure.label) + 2 for measure in MEASURES.values())
"""Of the first column, with the table's outer line."""


def show_comparison(comparison: Comparison, console: Console) -> None:
    """Print the table, as many methods side by side as there is room for, and its notes."""
    for methods in _that_fit(comparison, console.width):
        console.print(_comparison_table(comparison, methods))
    console.print(plain("\n".join(comparison_notes(comparison)), "italic"))


def comparison_markdown(comparison: Comparison) -> str:
    """Return the whole table and its notes as Markdown, with standard errors."""
    methods = list(comparison.figures)
    lines = [
        f"| measure | {' | '.join(map(_method_title, methods))} |",
        f"| --- |{' ---: |' * len(methods)}",
    ]
    for name, label in _rows(comparison):
        cells = [_cell(comparison, method, name, errors=True) for method in methods]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    notes = [f"{note}  " for note in comparison_notes(comparison)]
    return "\n".join([*lines, "", *notes]).rstrip() + "\n"


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """Return all figures as plain values, with what each measure is."""
    return {
        "format_version": FORMAT_VERSION,
        "images": comparison.images,
        "boxed_images": comparison.boxed,
        "mosaics": dict(comparison.mosaics),
        "seed": comparison.seed,
        "left_out": dict(comparison.left_out),
        "measures": {
            name: {
                "label": MEASURES[name].label,
                "higher_is_better": MEASURES[name].higher_is_better,
                "range": list(MEASURES[name].range),
            }
            for name, _ in _rows(comparison)
        },
        "methods": {
            method: {
                "floor": METHODS[method].floor,
                "figures": {
                    name: {"value": f.value, "standard_error": f.error, "count": f.images}
                    for name, f in figures.items()
                },
            }
            for method, figures in comparison.figures.items()
        },
    }


def comparison_notes(comparison: Comparison) -> list[str]:
    """Return what a reader needs to read the table."""
    notes = [
        f"{comparison.images} images, {comparison.boxed} with a box of the explained class: the "
        "image's label, of several the one that the model finds likeliest.",
        "\N{UPWARDS ARROW} higher is better, \N{DOWNWARDS ARROW} lower. Floors know nothing of the "
        "model; a method that does not beat them explains nothing.",
        "Areas and boxes: 0 to 1. Agreement and likeness: correlations, -1 to 1.",
    ]
    if comparison.mosaics:
        counts = ", ".join(
            f"{count} of {MEASURES[name].label.split(', ')[1]}"
            for name, count in comparison.mosaics.items()
        )
        notes.append(f"Mosaics of rightly classified images: {counts}.")
    missing = [measure.label for name, measure in MOSAICS.items() if name not in comparison.mosaics]
    if missing:
        notes.append(
            f"No {' and '.join(missing)}: too few classes have a rightly classified image of one "
            "label, or the model takes images of one size only."
        )
    if comparison.boxed and not any("box" in found for found in comparison.figures.values()):
        notes.append(
            "No boxes with fitted cuts: no held-out images with boxes (--validation-fraction) to "
            "choose a cut on."
        )
    if comparison.left_out:
        notes.append(
            "Not possible with this model: "
            + "; ".join(f"{name} ({why})" for name, why in comparison.left_out.items())
            + "."
        )
    return notes


def _comparison_table(comparison: Comparison, methods: Sequence[str]) -> Table:
    table = Table()
    table.add_column("measure", no_wrap=True)
    for method in methods:
        style = "dim" if METHODS[method].floor else ""
        table.add_column(plain("\n".join(_heading(method))), justify="right", style=style)
    for name, label in _rows(comparison):
        table.add_row(plain(label), *(plain(_cell(comparison, method, name)) for method in methods))
    return table


def _that_fit(comparison: Comparison, width: int) -> list[list[str]]:
    """Divide methods into tables that are no wider than so many letters, if that can be."""
    tables: list[list[str]] = []
    left = 0
    for method in comparison.figures:
        cells = [_cell(comparison, method, name) for name, _ in _rows(comparison)]
        needed = _FRAME + max(map(len, [*_heading(method), *cells]))
        if needed > left or not tables:
            tables.append([])
            left = width - _LABEL_WIDTH
        tables[-1].append(method)
        left -= needed
    return tables


def _heading(method: str) -> list[str]:
    """Return the lines over a method's column."""
    if METHODS[method].floor:
        return ["floor:", method]
    return [method] if len(method) <= 12 else method.replace("-", "- ").split()


def _rows(comparison: Comparison) -> list[tuple[str, str]]:
    """Return the measures that some method has, in order, with their labels."""
    found = {name for figures in comparison.figures.values() for name in figures}
    arrows = {True: "\N{UPWARDS ARROW}", False: "\N{DOWNWARDS ARROW}"}
    return [
        (name, f"{measure.label} {arrows[measure.higher_is_better]}")
        for name, measure in MEASURES.items()
        if name in found
    ]


def _method_title(method: str) -> str:
    return f"floor: {method}" if METHODS[method].floor else method


def _cell(comparison: Comparison, method: str, measure: str, *, errors: bool = False) -> str:
    figure: Figure | None = comparison.figures[method].get(measure)
    if figure is None:
        return NOT_MEASURED
    if measure == "seconds":
        return f"{figure.value:.2g}" if figure.value >= LEAST_SECONDS else f"< {LEAST_SECONDS:g}"
    if measure == "time_ratio":
        return f"{figure.value:.2f}"
    error = f" ± {figure.error:.3f}" if errors and figure.error is not None else ""
    return f"{figure.value:.3f}{error}"
