"""Boxes in tables of the `datasets` library, in the ways that people store them.

A column `objects` holds the boxes of an image and the class of each, `{"bbox": [[...], ...],
"category": [...]}` or a list of such pairs; or a column `bbox` holds the boxes alone, and their
class is the image's label. Four numbers are x, y, width, height, as the library's documentation has
it, or x0, y0, x1, y1: both are usual, and only the numbers themselves tell.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from loss_attention.data.cells import is_number
from loss_attention.data.columns import class_names, is_list
from loss_attention.errors import InputError, quoted

_HOLDERS = ("objects", "object", "annotations", "instances", "detections")
_BOXES = ("bbox", "bboxes", "box", "boxes")
_CLASSES = (
    *("category", "categories", "category_id", "category_ids"),
    *("label", "labels", "class", "classes"),
)
_LOOKED_AT = 256  # images whose boxes decide what all mean
_WORDS = {"sized": "x, y, width, height", "corners": "x0, y0, x1, y1"}

Numbers = Sequence[float]


@dataclass(frozen=True)
class ObjectColumns:
    """Where a table has boxes.

    Attributes:
        column: the table's column.
        boxes: the field of boxes in it; None: the column itself holds boxes.
        classes: the field of their classes; None: boxes are of their image's label.
        names: the classes that the field declares.
    """

    column: str
    boxes: str | None = None
    classes: str | None = None
    names: tuple[str, ...] | None = None

    def read(self, value: Any, place: str) -> tuple[list[Numbers], list[Any] | None]:
        """Return the boxes of a row and, where it has them, their classes.

        Raises:
            InputError: not four numbers a box, or not one class a box.
        """
        if self.boxes is not None:
            value = self._fields(value, place)
        boxes = _listed(value if self.boxes is None else value.get(self.boxes), place)
        if boxes and not any(isinstance(box, (list, tuple)) for box in boxes):
            boxes = [boxes]
        for box in boxes:
            if not isinstance(box, (list, tuple)) or len(box) != 4 or not all(map(is_number, box)):
                raise InputError(f"{place}: a box is four numbers, not {quoted(box)}")
        if self.classes is None:
            return boxes, None
        classes = value.get(self.classes)
        if isinstance(classes, (str, int)):  # of a single object
            classes = [classes]
        if not isinstance(classes or [], (list, tuple)):
            raise InputError(f"{place}: classes of objects are a list, not {quoted(classes)}")
        classes = list(classes or [])
        if len(classes) != len(boxes):
            raise InputError(f"{place} has {len(boxes)} boxes and {len(classes)} classes of them")
        return boxes, classes

    def _fields(self, value: Any, place: str) -> Mapping[str, Any]:
        """Return an object of lists, which may be stored as a list of objects."""
        objects = value if isinstance(value, (list, tuple)) else [value or {}]
        for one in objects:
            if not isinstance(one, Mapping):
                raise InputError(
                    f"{place}: objects have fields {self.boxes} and {self.classes}, but one is "
                    f"{quoted(one)}"
                )
        if isinstance(value, (list, tuple)):
            fields = [field for field in (self.boxes, self.classes) if field is not None]
            return {field: [one.get(field) for one in value] for field in fields}
        return value or {}


def _listed(boxes: Any, place: str) -> list[Any]:
    if boxes is None:
        return []
    if not isinstance(boxes, (list, tuple)):
        raise InputError(f"{place}: boxes are lists of four numbers, not {quoted(boxes)}")
    return list(boxes)


def find_objects(features: Mapping[str, Any]) -> ObjectColumns | None:
    """Return where a table has boxes, None where it has none.

    Args:
        features: the columns' names and types, as `datasets` gives them.
    """
    for column, feature in features.items():
        fields = feature.feature if is_list(feature) else feature
        if column.lower() in _HOLDERS and isinstance(fields, dict):
            boxes, classes = _first(_BOXES, fields), _first(_CLASSES, fields)
            if boxes is not None:
                names = None if classes is None else class_names(fields[classes])
                return ObjectColumns(column, boxes, classes, names)
    for column, feature in features.items():
        if column.lower() in _BOXES and is_list(feature):
            return ObjectColumns(column)
    return None


def read_objects(value: Any, place: str) -> tuple[list[Numbers], list[Any] | None]:
    """Return boxes and classes of a value like those of a column `objects`, of undeclared fields.

    Raises:
        InputError: no field of boxes, or what `ObjectColumns.read` refuses.
    """
    fields = value[0] if isinstance(value, list) and value else value
    if not fields:
        return [], []
    boxes = _first(_BOXES, fields) if isinstance(fields, dict) else None
    if boxes is None:
        raise InputError(f"{place}: objects need a field bbox of boxes, x, y, width, height each")
    return ObjectColumns("objects", boxes, _first(_CLASSES, fields)).read(value, place)


def _first(names: Sequence[str], fields: Mapping[str, Any]) -> str | None:
    lower = {field.lower(): field for field in fields}
    return next((lower[name] for name in names if name in lower), None)


@dataclass(frozen=True)
class BoxLayout:
    """What the four numbers of a box are.

    Attributes:
        kind: x, y, width, height, or x0, y0, x1, y1.
        shares: they are in shares of the image's width and height, not in pixels.
    """

    kind: Literal["sized", "corners"]
    shares: bool

    def corners(self, box: Numbers) -> tuple[float, float, float, float]:
        """Return x0, y0, x1, y1 of a box."""
        x, y, a, b = map(float, box)
        return (x, y, x + a, y + b) if self.kind == "sized" else (x, y, a, b)

    def __str__(self) -> str:
        unit = "shares of the image" if self.shares else "pixels"
        return f"{_WORDS[self.kind]} in {unit}"


def layout_of(
    rows: Sequence[Sequence[Numbers]], size_of: Callable[[int], tuple[int, int] | None]
) -> BoxLayout:
    """Tell from boxes and the sizes of their images what the numbers are.

    The layout in which fewer boxes are turned inside out or leave their image; where there is
    nothing in it, that of the library's documentation.

    Args:
        rows: the boxes of each image.
        size_of: from a row to the width and height of its image; None: unknown.

    Example:
        >>> layout_of([[[10, 10, 20, 20], [50, 50, 90, 80]]], lambda row: (100, 100)).kind
        'corners'
        >>> layout_of([[[50, 50, 20, 20], [10, 10, 90, 80]]], lambda row: (100, 100)).kind
        'sized'
    """
    boxed = [row for row, boxes in enumerate(rows) if boxes]
    some = min(len(boxed), _LOOKED_AT)
    few = [boxed[i * len(boxed) // some] for i in range(some)]
    shares = bool(few) and all(
        0 <= number <= 1 for row in few for box in rows[row] for number in box
    )
    inside_out = beyond = 0
    for row in few:
        size = (1, 1) if shares else size_of(row)
        slack = 0.01 if shares else 1
        for x, y, a, b in rows[row]:
            inside_out += a < x or b < y
            if size is not None:
                beyond += x + a > size[0] + slack or y + b > size[1] + slack
    return BoxLayout("corners" if beyond > inside_out else "sized", shares)
