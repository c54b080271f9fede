"""What all figures share: a sheet with its caption under the drawing, and the files they go to."""

from __future__ import annotations

import io
import re
import textwrap
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

from loss_attention.saving import make_folder, write_whole
from loss_attention.terminal import json_text

FORMAT_VERSION = 1
WIDTH = 7.16
"""Inches of the paper's two columns."""
DOTS_PER_INCH = 300
LETTERS = 7.0
"""Points, as small as the letters of a printed figure may be."""
_SPACING = 1.25
_LINE = _SPACING * LETTERS / 72
_MARGIN = 0.08
"""Inches around the drawing and its caption."""


class Drawing(NamedTuple):
    """A figure, and the numbers that it shows, as JSON holds them."""

    figure: Figure
    numbers: dict[str, Any]


def sheet(height: float, caption: str) -> Figure:
    """Return an empty figure with so many inches of height to draw on, and the caption below."""
    lines = _wrapped(caption, (WIDTH - 2 * _MARGIN) * 72)
    foot = len(lines) * _LINE + 2 * _MARGIN
    whole = height + foot + _MARGIN
    figure = Figure(figsize=(WIDTH, whole), layout="constrained")
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.set(rect=(0, foot / whole, 1, height / whole))  # type: ignore[call-arg]
    figure.text(
        _MARGIN / WIDTH,
        (foot - _MARGIN) / whole,
        "\n".join(lines),
        fontsize=LETTERS,
        linespacing=_SPACING,
        verticalalignment="top",
        parse_math=False,
    )
    return figure


def _wrapped(text: str, room: float) -> list[str]:
    """Break a text into lines of at most so many points."""
    letters, lines = FontProperties(size=LETTERS), [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".lstrip()
        if text_to_path.get_text_width_height_descent(longer, letters, ismath=False)[0] > room:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def bare(axes: Axes, title: str = "", below: str = "") -> None:
    """Leave a picture without ticks and frame, words above and below it."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(
        textwrap.shorten(title, 20, placeholder="…"), fontsize=LETTERS, pad=2.5, parse_math=False
    )
    axes.set_xlabel(below, fontsize=LETTERS, labelpad=2.5)
    for spine in axes.spines.values():
        spine.set_visible(False)


def rounded(values: Any) -> Any:
    """Return numbers in nested lists of five significant digits; NaN becomes None.

    Example:
        >>> rounded(np.array([[1.23456789, np.nan]]))
        [[1.2346, None]]
    """
    array = np.asarray(values, np.float64)
    if array.ndim:
        return [rounded(row) for row in array]
    return None if np.isnan(array) else float(f"{array:.5g}")


def save_drawing(
    name: str, drawing: Drawing, caption: str, folder: Path, facts: dict[str, Any]
) -> list[Path]:
    """Write a figure as PNG and PDF, its numbers as JSON and its caption as Markdown.

    Args:
        name: what the files are called.
        drawing: what to write.
        caption: what stands below it.
        folder: where the files go.
        facts: what the JSON says besides: of which scale the figure is, say.
    """
    make_folder(folder)
    content = {
        "format_version": FORMAT_VERSION,
        "figure": name,
        "caption": caption,
        **facts,
        **drawing.numbers,
    }
    files: dict[str, str | bytes] = {
        "png": _rendered(drawing.figure, "png", {"Description": caption, "Software": None}),
        # Without a date, the same drawing is the same file.
        "pdf": _rendered(drawing.figure, "pdf", {"Subject": caption, "CreationDate": None}),
        "json": _json(content),
        "md": f"![{name}]({name}.png)\n\n{caption}\n",
    }
    paths = []
    for suffix, data in files.items():
        paths.append(folder / f"{name}.{suffix}")
        write_whole(paths[-1], data)
    return paths


def _rendered(figure: Figure, suffix: str, metadata: dict[str, str | None]) -> bytes:
    file = io.BytesIO()
    # TrueType letters: journals refuse matplotlib's own kind.
    with matplotlib.rc_context({"pdf.fonttype": 42}):
        figure.savefig(file, format=suffix, dpi=DOTS_PER_INCH, metadata=metadata)
    return file.getvalue()


def _json(content: dict[str, Any]) -> str:
    """Return JSON with a list of plain numbers on one line."""
    text = json_text(content, indent=1)
    flat = re.sub(
        r"\[\s+([-+\deE.,\s]|null)+?\s+\]", lambda found: re.sub(r"\s+", " ", found[0]), text
    )
    return flat + "\n"
