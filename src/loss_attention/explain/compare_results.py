"""A comparison as a table for the terminal, as Markdown and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from loss_attention.explain.attributions import METHODS
from loss_attention.explain.compare import Comparison, Figure
from loss_attention.explain.compare_measures import MEASURES, MOSAICS
from loss_attention.showing import plain

FORMAT_VERSION = 1
ABSENT = "-"
LEAST_SECONDS = 0.0001
"""Less is as good as nothing, and shown as less."""
_FRAME = 3
"""Letters that a column takes beside its text: a space on both sides and a line."""
_LABEL_WIDTH = 1 + _FRAME + max(len(measure.label) + 2 for measure in MEASURES.values())
"""Of the first column, with the table's outer line."""


def show_comparison(comparison: Comparison, console: Console) -> None:
    """Print the table, as many methods side by side as there is room for, and its notes."""
    for methods in _that_fit(comparison, console.width):
        console.print(_table(comparison, methods))
    console.print(plain("\n".join(comparison_notes(comparison)), "italic"))


def comparison_markdown(comparison: Comparison) -> str:
    """Return the whole table and its notes as Markdown, with standard errors."""
    methods = list(comparison.figures)
    lines = [
        f"| measure | {' | '.join(map(_title, methods))} |",
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


def _table(comparison: Comparison, methods: Sequence[str]) -> Table:
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


def _title(method: str) -> str:
    return f"floor: {method}" if METHODS[method].floor else method


def _cell(comparison: Comparison, method: str, measure: str, *, errors: bool = False) -> str:
    figure: Figure | None = comparison.figures[method].get(measure)
    if figure is None:
        return ABSENT
    if measure == "seconds":
        return f"{figure.value:.2g}" if figure.value >= LEAST_SECONDS else f"< {LEAST_SECONDS:g}"
    if measure == "time_ratio":
        return f"{figure.value:.2f}"
    error = f" ± {figure.error:.3f}" if errors and figure.error is not None else ""
    return f"{figure.value:.3f}{error}"
