"""Many explained images at a glance: every one is linked, and names are text."""

from __future__ import annotations

import io
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image
from report.pages import Page, make_model

from loss_attention.errors import InputError
from loss_attention.explained.files import explain_files
from loss_attention.report import overview

NAMES = ("a.png", "b #1.png", 'c"><img src=x onerror=y>.png', "d%41.png")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (len(NAMES), 20, 30, 3), np.uint8)
    (tmp_path / "in").mkdir()
    for name, picture in zip(NAMES, pixels, strict=True):
        Image.fromarray(picture).save(tmp_path / "in" / name, "PNG")
    return tmp_path / "in"


def test_a_folder_gets_a_page_that_links_all_of_its_images(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = explain_files(make_model("loss-attention", ("cat", "<dog>")), [folder], out)
    assert found.index == out / "index.html"
    page = Page(out / "index.html")
    pictures = [str(one["src"]) for one in page.of("img")]
    assert len(pictures) == len(NAMES)
    assert all((out / unquote(one)).is_file() for one in pictures)
    links = {unquote(str(one["href"])) for one in page.of("a")}
    assert links == {one.name for one in out.iterdir()} - {"index.html", "contact-sheet.jpg"}
    assert all("onerror" not in attributes for _, attributes in page.elements)
    assert not page.of("script")
    assert f"{len(NAMES)} explained images" in page.text
    for name in NAMES:
        assert name in page.text


def test_the_sheet_shows_the_first_side_by_side(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overview, "COLUMNS", 2)
    monkeypatch.setattr(overview, "MOST", 3)
    out = tmp_path / "out"
    found = explain_files(make_model("loss-attention", ("cat", "dog")), [folder], out)
    sheet = Image.open(out / "contact-sheet.jpg")
    width, height = overview.CELL
    assert sheet.size == (2 * width, 2 * height)
    first = found.entries[0].small
    assert first is not None
    assert first.width <= width
    cell = np.asarray(sheet.crop((0, 0, width, first.height)).convert("L"), float)
    left = (width - first.width) // 2
    wanted = np.asarray(first.convert("L"), float)
    assert np.abs(cell[:, left : left + first.width] - wanted).mean() < 8
    assert np.asarray(sheet.crop((width, height, 2 * width, 2 * height))).min() > 240  # empty


def test_single_files_get_none_and_nothing_is_replaced(folder: Path, tmp_path: Path) -> None:
    model, out = make_model("loss-attention", ("cat", "dog")), tmp_path / "out"
    assert explain_files(model, [folder / "a.png"], out).index is None
    assert not (out / "index.html").exists()
    other = tmp_path / "other"
    other.mkdir()
    (other / "index.html").write_text("mine")
    with pytest.raises(InputError, match=r"index\.html exists already"):
        explain_files(model, [folder], other)
    assert [one.name for one in other.iterdir()] == ["index.html"]
    assert (other / "index.html").read_text() == "mine"
    explain_files(model, [folder], other, overwrite=True)
    assert Image.open(io.BytesIO((other / "contact-sheet.jpg").read_bytes())).format == "JPEG"
