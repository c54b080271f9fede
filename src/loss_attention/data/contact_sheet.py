"""Some images of a data set in one picture, with their labels and boxes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice, zip_longest

from PIL import Image, ImageDraw

from loss_attention.data.decoding import UnreadableImage, fitted
from loss_attention.data.placement import place
from loss_attention.data.records import Part, Record, Source, class_name, labels_of
from loss_attention.data.stacking import Encoded, read_encoded
from loss_attention.errors import printable

CELL = 128
CAPTION = 16
COLUMNS, ROWS = 8, 6
_BOX = (255, 80, 0)


def contact_sheet(source: Source) -> Image.Image:
    """Draw up to 48 images of the training split, of every class in turn, upright and whole."""
    part = next((part for part in source.parts if part.name == "train"), source.parts[0])
    records = list(islice(_in_turn(source, part.records), COLUMNS * ROWS))
    rows = max(1, -(-len(records) // COLUMNS))
    sheet = Image.new("RGB", (COLUMNS * CELL, rows * (CELL + CAPTION)), "white")
    for number, cell in enumerate(_cells(source, part, records)):
        row, column = divmod(number, COLUMNS)
        sheet.paste(cell, (column * CELL, row * (CELL + CAPTION)))
    return sheet


def _in_turn(source: Source, records: Sequence[Record]) -> Iterator[Record]:
    """Yield records class by class in turn, by the first label of each."""
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        labels = labels_of(source, record)
        groups[class_name(source, labels[0]) if labels else ""].append(record)
    for row in zip_longest(*(groups[name] for name in sorted(groups))):
        yield from (record for record in row if record is not None)


def _cells(source: Source, part: Part, records: Sequence[Record]) -> Iterator[Image.Image]:
    for record, content in zip(records, part.contents(records), strict=True):
        cell = Image.new("RGB", (CELL, CELL + CAPTION), "white")
        draw = ImageDraw.Draw(cell)
        labels = ", ".join(class_name(source, label) for label in labels_of(source, record))
        try:
            image = read_encoded(Encoded(record.name, content, record.size), in_channels=3)
        except UnreadableImage:
            labels = f"broken: {record.name}"
        else:
            cell.paste(fitted(image, (CELL, CELL), "pad", border=(255, 255, 255)), (0, 0))
            _draw_boxes(draw, record, image.size)
        draw.text((2, CELL + 2), _latin(printable(labels))[:20], fill="black")
        yield cell


def _draw_boxes(draw: ImageDraw.ImageDraw, record: Record, size: tuple[int, int]) -> None:
    width, height, left, top, right, bottom = place(size, (CELL, CELL), "pad")
    across, down = (right - left) / width, (bottom - top) / height
    for box in record.boxes:
        scale = (width, height) if record.relative else (1, 1)
        x0, x1 = (left + x * scale[0] * across for x in (box.x0, box.x1))
        y0, y1 = (top + y * scale[1] * down for y in (box.y0, box.y1))
        draw.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=_BOX)


def _latin(text: str) -> str:
    """Return a text in the letters that Pillow's own font has."""
    return text.encode("latin-1", "replace").decode("latin-1")
