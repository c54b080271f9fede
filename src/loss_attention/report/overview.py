"""Many explained images at a glance: a page that links them all, and a sheet of the first."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import quote

from PIL import Image, ImageOps

from loss_attention.report.templates import part, template

INDEX_FILE, SHEET_FILE = "index.html", "contact-sheet.jpg"
TEMPLATE, STYLE = "overview.html.jinja", "page.css"
COLUMNS, MOST = 6, 60
CELL = (240, 300)
"""Width and height of a picture on the sheet, in pixels."""


class Entry(NamedTuple):
    """An explained image, or a bag.

    Attributes:
        source: where it lies, or its name.
        picture: the name of the file with its explanation drawn; of a bag "" where there is none.
        description: the name of its JSON file.
        prediction: what it is called.
        probability: of that, in [0, 1].
        target: what is explained.
        small: the picture, no larger than `CELL`; None after the first `MOST`.
    """

    source: str
    picture: str
    description: str
    prediction: str
    probability: float
    target: str
    small: Image.Image | None


def small(picture: Image.Image) -> Image.Image:
    """Return a picture no larger than a cell of the sheet."""
    return ImageOps.contain(picture.convert("RGB"), CELL)


def contact_sheet(entries: Sequence[Entry]) -> bytes:
    """Return the first pictures side by side, as a JPEG."""
    shown = [entry.small for entry in entries if entry.small is not None][:MOST]
    columns = min(COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    width, height = CELL
    sheet = Image.new("RGB", (columns * width, rows * height), "white")
    for number, picture in enumerate(shown):
        row, column = divmod(number, columns)
        sheet.paste(picture, (column * width + (width - picture.width) // 2, row * height))
    drawn = io.BytesIO()
    sheet.save(drawn, "JPEG", quality=88)
    return drawn.getvalue()


def index_page(entries: Sequence[Entry], kind: str = "image") -> str:
    """Return a page with all pictures, which lie beside it, and what each image is called.

    Args:
        entries: what was explained.
        kind: what each of them is, with an s for several.
    """
    page: str = template(TEMPLATE).render(
        style=part(STYLE),
        entries=entries,
        kind=kind,
        address=lambda name: quote(os.fsencode(name)),
        classes=sorted({entry.prediction for entry in entries}),
    )
    return page
