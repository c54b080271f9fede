"""The notebooks of the documentation: they run, and what they show is what their code gave."""

from __future__ import annotations

import base64
import io
import json
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import notebooks
import numpy as np
import pytest
from PIL import Image

from loss_attention.data import loading
from loss_attention.data.digits import digits

LARGEST = 150_000
"""Bytes that all stored outputs together may take."""
SMALL = 'training |= {"epochs": 1, "limit_images": 40, "width": 0.05}; compared = 10'
"""Settings for the cells tagged `parameters`, with which a notebook takes seconds."""
PATHS = notebooks.paths()
PIXEL = "iVBORw0KGgo//="


def notebook_of(*sources: str, tags: tuple[str, ...] = ()) -> dict[str, Any]:
    cells = [
        {"cell_type": "code", "metadata": {}, "outputs": [], "source": source.splitlines(True)}
        for source in sources
    ]
    cells[0]["metadata"] = {"tags": list(tags)}
    title = {"cell_type": "markdown", "metadata": {}, "source": ["# A title\n", "\n", "Words.\n"]}
    return {"cells": [title, *cells], "metadata": {}}


def outputs_of(notebook: dict[str, Any]) -> list[Any]:
    return [cell["outputs"] for cell in notebook["cells"] if cell["cell_type"] == "code"]


class Words:
    def _repr_html_(self) -> str:
        return "<p>one</p>\n\n<p>two</p>"


class Pictures:
    """A PNG in HTML."""

    def __init__(self, png: bytes) -> None:
        self.png = png

    def _repr_html_(self) -> str:
        return f'<img src="data:image/png;base64,{base64.b64encode(self.png).decode()}">'


def test_there_are_notebooks() -> None:
    assert [path.stem for path in PATHS] == ["explain-an-answer", "is-the-map-right"]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_notebooks_run_at_small_size(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(loading.MADE, "digits", lambda seed: digits(seed, 60, 40))
    notebook = notebooks.read(path)
    notebooks.run(notebook, path.name, SMALL)
    assert all(outputs_of(notebook)[1:]), "a cell shows nothing"


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_stored_outputs_are_of_the_code_that_is_there(path: Path) -> None:
    notebook = notebooks.read(path)
    assert notebooks.is_current(notebook), f"{path.name} was changed: run `make notebooks`"
    changed = deepcopy(notebook)
    next(cell for cell in changed["cells"] if cell["cell_type"] == "code")["source"] += ["\nx = 1"]
    assert not notebooks.is_current(changed)
    assert notebooks.as_text(notebook) == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_notebooks_are_what_jupyter_reads(path: Path) -> None:
    notebook = notebooks.read(path)
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    identifiers = [cell["id"] for cell in notebook["cells"]]
    assert len(set(identifiers)) == len(identifiers)
    for cell in notebook["cells"]:
        wanted = {"cell_type", "id", "metadata", "source"}
        if cell["cell_type"] == "code":
            wanted |= {"execution_count", "outputs"}
            assert cell["execution_count"] is not None
        assert set(cell) == wanted


def test_stored_outputs_are_small_and_of_no_machine() -> None:
    stored = [json.dumps(outputs_of(notebooks.read(path))) for path in PATHS]
    assert sum(map(len, stored)) < LARGEST
    for text in stored:
        assert "image/png" in text or "data:image/png" in text
        assert not re.search(r"/(home|root|tmp|work|Users)/", re.sub(r"base64,[^\"\\]*", "", text))


def test_a_cell_shows_what_it_prints_and_its_last_value() -> None:
    notebook = notebook_of("a = 1\nprint('said')\na + 1", "a;", "a = 3", "shown")
    notebook["cells"].insert(1, {"cell_type": "code", "metadata": {}, "source": ["shown = 7"]})
    notebooks.run(notebook, "made.ipynb")
    _, first, *rest = outputs_of(notebook)
    assert first == [
        {"name": "stdout", "output_type": "stream", "text": ["said\n"]},
        {
            "data": {"text/plain": ["2"]},
            "execution_count": 2,
            "metadata": {},
            "output_type": "execute_result",
        },
    ]
    assert rest[:2] == [[], []]
    assert rest[2][0]["data"] == {"text/plain": ["7"]}
    assert notebooks.is_current(notebook)


def test_what_is_better_than_text_is_shown() -> None:
    assert notebooks.shown(Words()) == {
        "text/html": ["<p>one</p>\n", "\n", "<p>two</p>"],
        "text/plain": ["<Words>"],
    }


def test_pictures_are_stored_small() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (80, 60, 3), dtype=np.uint8)
    picture = Image.fromarray(colours)
    png = picture._repr_png_()
    by_itself = notebooks.shown(picture)["image/png"]
    within = re.fullmatch('<img src="data:image/png;base64,(.*)">', *html_of(Pictures(png)))
    assert within is not None
    for stored in (by_itself, within[1]):
        file = base64.b64decode(stored)
        found = Image.open(io.BytesIO(file))
        assert found.size == (60, 80)
        assert len(file) < len(png) / 2
        # Of noise, so many colours are near enough.
        off = np.abs(np.asarray(found.convert("RGB"), dtype=int) - colours)
        assert off.mean() < 30


def html_of(value: object) -> list[str]:
    html: list[str] = notebooks.shown(value)["text/html"]
    return html


def test_parameters_come_after_their_cell() -> None:
    notebook = notebook_of("size = 100", "size", tags=("parameters",))
    notebooks.run(notebook, "made.ipynb", "size = 2")
    assert outputs_of(notebook)[1][0]["data"]["text/plain"] == ["2"]
    with pytest.raises(ValueError, match="0 cells have the tag parameters, not one"):
        notebooks.run(notebook_of("1"), "made.ipynb", "size = 2")


def test_a_cell_that_fails_is_named() -> None:
    with pytest.raises(ZeroDivisionError) as failed:
        notebooks.run(notebook_of("1", "1 / 0"), "made.ipynb")
    assert "made.ipynb, code cell 2" in {str(entry.path) for entry in failed.traceback}


def test_a_page_has_the_text_the_code_and_what_it_showed() -> None:
    notebook = notebook_of("print('said')", "2")
    shown = {"text/html": ["<p>one</p>\n", "\n", "<p>two</p>"], "text/plain": ["<Picture>"]}
    picture = {"image/png": PIXEL, "text/plain": ["<Image>"]}
    notebooks.run(notebook, "made.ipynb")
    for data in (shown, picture):
        result = {"data": data, "execution_count": 3, "output_type": "execute_result"}
        notebook["cells"][-1]["outputs"].append(result)
    assert notebooks.as_markdown(notebook, "made.ipynb") == "\n\n".join(
        [
            "# A title",
            "*This page is a notebook, with what it showed when it was last run: "
            '<a href="made.ipynb" download>made.ipynb</a>*',
            "Words.",
            "```python\nprint('said')\n```",
            "```text\nsaid\n```",
            "```python\n2\n```",
            "```text\n2\n```",
            "<div><p>one</p>\n<p>two</p></div>",
            f'<img alt="output of code cell 3" src="data:image/png;base64,{PIXEL}">\n',
        ]
    )
