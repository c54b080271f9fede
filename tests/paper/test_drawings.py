"""A sheet with its caption, and its files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from loss_attention.paper.drawings import Drawing, bare, rounded, save_drawing, sheet


def test_a_sheet_holds_its_caption_below_the_drawing() -> None:
    caption = " ".join(["WWWW MMMM"] * 60)
    figure = sheet(2.0, caption)
    figure.add_subplot()
    figure.draw_without_rendering()
    (text,) = figure.texts
    box = text.get_window_extent()
    assert text.get_text().replace("\n", " ") == caption
    assert 0 < box.x0 < box.x1 < figure.bbox.width
    assert 0 < box.y0 < box.y1 < figure.axes[0].get_window_extent().y0
    drawn = (figure.bbox.height - box.y1) / figure.dpi
    assert drawn == pytest.approx(2.16, abs=0.01)  # and a margin above and below


def test_long_names_do_not_run_into_each_other() -> None:
    axes = Figure().add_subplot()
    bare(axes, "a very long name of a class of an image")
    assert axes.get_title().endswith("…")
    assert len(axes.get_title()) <= 20


def test_files_are_a_picture_a_page_the_numbers_and_the_caption(tmp_path: Path) -> None:
    caption = "Figure 9. Costs $5 of $10."  # dollars are not formulas
    figure = sheet(1.0, caption)
    assert not figure.texts[0].get_parse_math()
    numbers = {"rows": rounded(torch.tensor([[1 / 3, math.nan]])), "names": ["a, b", "c"]}
    paths = save_drawing("figure9", Drawing(figure, numbers), caption, tmp_path / "x", {"s": 1})

    by_suffix = {path.suffix: path for path in paths}
    assert {path.stem for path in paths} == {"figure9"}
    with Image.open(by_suffix[".png"]) as picture:
        assert picture.format == "PNG"
        assert picture.width == round(7.16 * 300)
        assert picture.text["Description"] == caption
    page = by_suffix[".pdf"].read_bytes()
    assert page.startswith(b"%PDF")
    assert b"CreationDate" not in page  # the same drawing is the same file on any day
    text = by_suffix[".json"].read_text(encoding="utf-8")
    assert json.loads(text) == {
        "format_version": 2,
        "figure": "figure9",
        "caption": caption,
        "s": 1,
        "rows": [[0.33333, None]],
        "names": ["a, b", "c"],
    }
    assert "[ 0.33333, null ]" in text  # a row of a heat map is a line
    assert by_suffix[".md"].read_text(encoding="utf-8").splitlines()[0] == "![figure9](figure9.png)"
    again = save_drawing("figure9", Drawing(figure, numbers), caption, tmp_path / "y", {"s": 1})
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in paths]
