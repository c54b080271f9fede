"""The files of one explained image, written by any process; no torch: it begins at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from loss_attention.explained.encoding import encoded
from loss_attention.explained.formats import ImageFormat
from loss_attention.report.drawing import Marks, overlay
from loss_attention.report.overview import Entry, small
from loss_attention.saving import write_whole
from loss_attention.terminal import json_text


class Drawing(NamedTuple):
    """A picture that is to be drawn.

    Attributes:
        path: where it goes.
        image_format: how.
        image: to draw on.
        marks: what to draw.
        small: a small copy is wanted, for an overview.
    """

    path: Path
    image_format: ImageFormat
    image: Image.Image
    marks: Marks
    small: bool


class Explained(NamedTuple):
    """An explained image, as it is written.

    Attributes:
        number: which of the image files it is, from 0.
        source: the image's file.
        path: where its JSON goes; None: nowhere.
        described: that JSON, but for the file.
        drawing: its picture; None: there is none.
    """

    number: int
    source: str
    path: Path | None
    described: dict[str, Any]
    drawing: Drawing | None

    @property
    def said(self) -> dict[str, Any]:
        """What stands above and below the picture."""
        return said_of(self.described)


class Written(NamedTuple):
    """What was written of an image: the number of that, its JSON, its entry of an overview."""

    number: int
    description: Path | None
    entry: Entry | None


def said_of(described: dict[str, Any]) -> dict[str, Any]:
    """Return what stands above and below the picture of an image, from its JSON."""
    said = {key: described[key] for key in ("prediction", "probability", "target")}
    if described.get("versus"):
        said["target"] += f" against {described['versus']['class']}"
    return said


def write_explained(explained: Explained) -> Written:
    """Write the files of an image, each whole, without waiting for the disk.

    Raises:
        SaveError: they cannot be written.
    """
    drawing, path, entry = explained.drawing, explained.path, None
    if drawing is not None:
        said = explained.said
        picture = overlay(drawing.image, drawing.marks, **said)
        write_whole(drawing.path, encoded(picture, drawing.image_format), durable=False)
        names = (explained.source, drawing.path.name, "" if path is None else path.name)
        entry = Entry(*names, **said, small=small(picture) if drawing.small else None)
    if path is not None:
        text = json_text({"file": explained.source} | explained.described)
        write_whole(path, text + "\n", durable=False)
    return Written(explained.number, path, entry)
