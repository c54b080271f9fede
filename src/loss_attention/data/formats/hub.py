"""Tables of the `datasets` library, from the Hugging Face hub or from files here.

The library is lent without its bars and notes; its tables, one a split, become records. Boxes are
read in the ways that people store them. A column `objects` holds the boxes of an image and the
class of each, `{"bbox": [[...], ...], "category": [...]}` or a list of such pairs; or a column
`bbox` holds the boxes alone, and their class is the image's label. Four numbers are x, y, width,
height, as the library's documentation has it, or x0, y0, x1, y1: both are usual, and only the
numbers themselves tell.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from loss_attention.data.decoding import UnreadableImage, read_size
from loss_attention.data.formats.cells import (
    Labels,
    NoLabelError,
    class_names,
    column_called,
    has_label_column,
    image_column,
    is_list,
    is_missing,
    is_number,
    label_column,
    read_label,
    read_labels_cell,
)
from loss_attention.data.records import (
    Box,
    CellError,
    Content,
    Findings,
    LabelKind,
    Part,
    Record,
    Source,
    unlabelled,
)
from loss_attention.data.sample import find_training_split, reported_split
from loss_attention.errors import InputError, guarded, quoted

HUB_ID = re.compile(r"(?P<id>[\w.-]+/[\w.-]+)(:(?P<configuration>[\w.+-]+))?")
"""`org/name`, or `org/name:configuration` where a data set has several."""
_BLOCK = 512  # rows looked through at once
_HOLDERS = ("objects", "object", "annotations", "instances", "detections")
_BOXES = ("bbox", "bboxes", "box", "boxes")
_CLASSES = (
    *("category", "categories", "category_id", "category_ids"),
    *("label", "labels", "class", "classes"),
)
_LOOKED_AT = 256  # images whose boxes decide what all mean
_NUMBERS = {"sized": "x, y, width, height", "corners": "x0, y0, x1, y1"}

Numbers = Sequence[float]


def open_hub(name: str, otherwise: str = "a local folder works too") -> Mapping[str, Any]:
    """Return the splits of a data set on the Hugging Face hub, downloaded once and cached there.

    Args:
        name: matches `HUB_ID`.
        otherwise: what an error says of other ways.

    Raises:
        InputError: unknown, private, of several configurations, or the hub cannot be reached.
    """
    match = HUB_ID.fullmatch(name)
    assert match is not None
    failure = f"cannot load {name!r} from the Hugging Face hub"
    with quiet_datasets(failure, f"; {otherwise}") as datasets:
        return dict(datasets.load_dataset(match["id"], match["configuration"]))


@contextmanager
def quiet_datasets(failure: str, hint: str = "") -> Iterator[Any]:
    """Lend the `datasets` library, without its bars and notes, and its errors made one line.

    Args:
        failure: what an error says before the cause.
        hint: what it says after it.

    Raises:
        InputError: for whatever `datasets`, or a library under it, raises.
    """
    import datasets  # over a second: only when data comes from files
    import huggingface_hub

    library: list[Any] = [datasets.logging, huggingface_hub.logging]
    levels = [log.get_verbosity() for log in library]
    bars = not datasets.are_progress_bars_disabled()
    for log in library:
        log.set_verbosity(log.CRITICAL)
    if bars:
        datasets.disable_progress_bars()
    try:
        yield datasets
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{failure}: {_cause(error)}{hint}") from error
    finally:
        for log, level in zip(library, levels, strict=True):
            log.set_verbosity(level)
        if bars:
            datasets.enable_progress_bars()


def _cause(error: BaseException) -> str:
    """Say in one line what went wrong at the bottom of a chain of exceptions."""
    import datasets

    wrapper = datasets.exceptions.DatasetGenerationError
    while isinstance(error, wrapper) and error.__cause__ is not None:
        error = error.__cause__
    line = " ".join(str(error).split())
    return (line if len(line) <= 300 else f"{line[:300]}...") or type(error).__name__


@dataclass(frozen=True)
class _Columns:
    """Where tables have what; without `label`, the labels are the classes of the objects."""

    image: str
    label: str | None
    objects: ObjectColumns | None
    group: str | None = None

    def all(self) -> list[str]:
        """Return the columns that are read."""
        boxes = None if self.objects is None else self.objects.column
        found = (self.image, self.label, boxes, self.group)
        return list(dict.fromkeys(name for name in found if name is not None))

    def declared(self, features: Mapping[str, Any], where: str) -> tuple[str, ...] | None:
        """Return the classes that a table declares.

        Raises:
            InputError: its labels and its boxes declare different ones.
        """
        names = None if self.label is None else class_names(features[self.label])
        if self.objects is None or self.objects.classes is None:
            return names
        own = find_objects({self.objects.column: features[self.objects.column]})
        objects = None if own is None else own.names
        if self.label is None:
            return objects
        if names != objects:
            raise InputError(
                f"{where}: columns {self.label} and {self.objects.column} declare different "
                "classes; leave one of them out"
            )
        return names


def source_of_tables(
    tables: Mapping[str, Any], where: str, root: Path | None = None, *, group: str | None = None
) -> Source:
    """Choose splits and columns of tables.

    Args:
        tables: a `datasets.Dataset` for each split.
        where: what the data is called.
        root: the local folder that image paths are relative to.
        group: the column that says which images belong together, in tables that have it.

    Returns:
        The training split and, if there is one with labels, the split to report on; without a
        training split, all that have labels.

    Raises:
        InputError: no rows, or no or several candidates for a column.
    """
    tables = {name: table for name, table in tables.items() if len(table)}
    if not tables:
        raise InputError(f"{where} holds no images")
    training = find_training_split(tables)
    first = training or next(iter(tables))
    features = tables[first].features
    columns = replace(_columns(features, where), group=column_called(group or "", features))
    chosen = [_Table(first, tables[first], columns, root, where)]
    opened: dict[str, _Table] = {}

    def reportable(split: str) -> bool:
        table = tables[split]
        if not set(columns.all()) <= set(table.features):
            return False
        opened[split] = _Table(split, table, columns, root, where)
        return not unlabelled(opened[split].labels)

    if training is None:
        chosen += [opened[name] for name in tables if name != first and reportable(name)]
    elif (reported := reported_split(tables, reportable)) is not None:
        chosen.append(opened[reported])
    declared = [columns.declared(tables[table.name].features, where) for table in chosen]
    if len(set(declared)) > 1:
        names = " and ".join(table.name for table in chosen)
        raise InputError(f"{where}: splits {names} declare different classes")
    layout = next((layout_of(t.boxes, t.size) for t in chosen if any(t.boxes)), None)
    notes = () if layout is None else (f"boxes read as {layout}",)
    kind: Callable[[Any], Any] = _as_declared
    if declared[0] is None:
        labels = chain.from_iterable((*table.labels, *table.classes) for table in chosen)
        kind = LabelKind.of(label for row in labels for label in row or ())
    several = any(table.several for table in chosen)
    findings = Findings()
    parts = tuple(table.part(layout, findings, kind, several=several) for table in chosen)
    source = Source(where, parts, declared[0], several, notes=notes, columns=tuple(features))
    return findings.finish(source)


def _columns(features: Mapping[str, Any], where: str) -> _Columns:
    objects = find_objects(features)
    of_objects = objects is not None and objects.classes is not None
    by_objects = of_objects and not has_label_column(features)
    label = None if by_objects else label_column(features, where)
    return _Columns(image_column(features, where), label, objects)


class _Table:
    """One split's rows of images, labels and boxes; images are looked up a block at a time.

    What is wrong with single rows is in `faults`, to be said of those that are used.
    """

    def __init__(
        self, name: str, table: Any, columns: _Columns, root: Path | None, where: str
    ) -> None:
        self.name, self.image, self.root = name, columns.image, root
        self.failure = f"cannot read split {name} of {where}"
        with quiet_datasets(self.failure) as datasets:
            # Decoded here and not by `datasets`, so that a broken image can be named.
            self.table = table.select_columns(columns.all()).cast_column(
                self.image, datasets.Image(decode=False)
            )
            given = [] if columns.label is None else list(self.table[columns.label][:])
            grouped = [] if columns.group is None else list(self.table[columns.group][:])
            self.titles = list(self._titles())
        self.groups = ["" if is_missing(one) else str(one).strip() for one in grouped]
        self.faults: dict[int, str] = {}
        self.boxes: list[list[Numbers]] = []
        self.classes: list[list[Any]] = []
        self.labels: list[list[Any] | None] = []
        self.several = True
        if columns.label is not None:
            self.several = is_list(table.features[columns.label])
            names = class_names(table.features[columns.label])
            self.labels += [self._labels(row, value, names) for row, value in enumerate(given)]
        if columns.objects is not None:
            self._read_objects(columns.objects)
        if columns.label is None:
            self.labels += self.classes

    def part(
        self,
        layout: BoxLayout | None,
        findings: Findings,
        kind: Callable[[Any], Any],
        *,
        several: bool,
    ) -> Part:
        """Return the rows as records; note those that something is wrong with.

        Args:
            layout: what the numbers of boxes are.
            findings: where to note it.
            kind: makes a label the class that it is of.
            several: images may have several.
        """
        records = []
        for row, title in enumerate(self.titles):
            fault = self.faults.get(row)
            try:
                labels = [kind(label) for label in self.labels[row] or ()]
                classes = [kind(label) for label in self.classes[row]] if self.classes else []
            except CellError as error:
                fault = fault or f"{self._place(row)} {error}"
            if fault is not None:
                findings.add(f"{self.name}[{row}]", fault)
                continue
            label, origin = sorted(set(labels)) if several else labels[0], f"{self.name} row"
            found: Iterable[Box] = ()
            if layout is not None:
                both = zip(classes, map(layout.corners, self.boxes[row]), strict=True)
                found = (Box(one, *corners, row) for one, corners in both)
            boxes = findings.boxes(title, origin, found)
            relative = layout is not None and layout.fractions
            group = self.groups[row] if self.groups else ""
            records.append(
                Record(title, row, label, boxes, origin=origin, relative=relative, group=group)
            )
        return Part(self.name, records, self._contents)

    def _place(self, row: int) -> str:
        """What an error calls a row: with the image's path, where it has one."""
        title = self.titles[row]
        return title if title == f"{self.name}[{row}]" else f"{title} ({self.name} row {row})"

    def _labels(self, row: int, value: Any, names: tuple[str, ...] | None) -> list[Any] | None:
        """Return the labels of a row; None, and its fault, where there are none."""
        try:
            labels, several = read_labels_cell(value) if names is None else _declared(value, names)
        except CellError as error:
            self.faults[row] = f"{self._place(row)} {error}"
            return None if isinstance(error, NoLabelError) else []
        self.several |= several or len(labels) > 1
        return labels

    def _read_objects(self, objects: ObjectColumns) -> None:
        """Read the boxes of each row and their classes."""
        with quiet_datasets(self.failure):
            rows = list(self.table[objects.column][:])
        for row, value in enumerate(rows):
            location = f"{self.name} row {row}"
            boxes: list[Numbers] = []
            classes: list[Any] = []
            try:
                with guarded(location):
                    boxes, named = objects.read(value, location)
                    if named is None:
                        classes = _of_the_image(self.labels[row] or [], len(boxes), location)
                    elif objects.names is None:
                        classes = [read_label(one) for one in named]
                    else:
                        classes = [_declared(one, objects.names).labels[0] for one in named]
            except CellError as error:
                self.faults.setdefault(row, f"{location} {error}")
            except InputError as error:
                self.faults.setdefault(row, str(error))
            whole = len(boxes) == len(classes)
            self.boxes.append(boxes if whole else [])
            self.classes.append(classes if whole else [])

    def size(self, row: int) -> tuple[int, int] | None:
        """Return an image's width and height; None where it cannot be read."""
        (content,) = self._contents([row])
        try:
            return read_size(content, "") if isinstance(content, (Path, bytes)) else None
        except UnreadableImage:
            return None

    def _titles(self) -> Iterator[str]:
        """Yield what each image is called: the path that it is stored with; no image is read."""
        import pyarrow.compute as pc

        blocks = self.table.with_format("arrow").iter(_BLOCK)
        paths = (pc.struct_field(block[self.image], "path").to_pylist() for block in blocks)
        for row, path in enumerate(chain.from_iterable(paths)):
            if not path:
                yield f"{self.name}[{row}]"
            elif self.root is not None and Path(path).is_relative_to(self.root):
                yield Path(path).relative_to(self.root).as_posix()
            else:
                yield path

    def _contents(self, rows: list[int]) -> list[Content]:
        with quiet_datasets(self.failure):
            return [self._content(image) for image in self.table[rows][self.image]]

    def _content(self, image: dict[str, Any] | None) -> Content:
        if image is None or (image["bytes"] is None and not image["path"]):
            return None
        if image["bytes"] is not None:
            content: bytes = image["bytes"]
            return content
        path = str(image["path"])
        if self.root is None:
            return Path(path)
        found = self.root / path
        if "\\" in path and not found.exists():  # written on Windows
            return self.root / path.replace("\\", "/")
        return found


def _as_declared(label: Any) -> Any:
    return label


def _declared(value: Any, names: Sequence[str]) -> Labels:
    """Return the indices of declared classes in a cell; -1 is how `datasets` stores none."""
    labels = value if isinstance(value, list) else [value]
    if any(label is None or label == -1 for label in labels):
        raise NoLabelError("has no label" if labels == [None] else f"has label {quoted(value)}")
    for label in labels:
        if label not in range(len(names)):
            last = len(names) - 1
            raise CellError(
                f"has label {quoted(label)}, outside the {len(names)} classes, 0 to {last}"
            )
    return Labels(labels, isinstance(value, list))


def _of_the_image(labels: list[Any], boxes: int, location: str) -> list[Any]:
    """Return the class of each box of an image, from the image's own."""
    if len(labels) == 1:
        return labels * boxes
    if boxes and len(labels) != boxes:
        raise InputError(
            f"{location} has {boxes} boxes and {len(labels)} labels; give one label a box"
        )
    return labels[:boxes]


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

    def read(self, value: Any, location: str) -> tuple[list[Numbers], list[Any] | None]:
        """Return the boxes of a row and, where it has them, their classes.

        Raises:
            InputError: not four numbers a box, or not one class a box.
        """
        if self.boxes is not None:
            value = self._fields(value, location)
        boxes = value if self.boxes is None else value.get(self.boxes)
        if not isinstance(boxes, (list, tuple, type(None))):
            raise InputError(f"{location}: boxes are lists of four numbers, not {quoted(boxes)}")
        boxes = list(boxes or ())
        if boxes and not any(isinstance(box, (list, tuple)) for box in boxes):
            boxes = [boxes]
        for box in boxes:
            if not isinstance(box, (list, tuple)) or len(box) != 4 or not all(map(is_number, box)):
                raise InputError(f"{location}: a box is four numbers, not {quoted(box)}")
        if self.classes is None:
            return boxes, None
        classes = value.get(self.classes)
        if isinstance(classes, (str, int)):  # of a single object
            classes = [classes]
        if not isinstance(classes or [], (list, tuple)):
            raise InputError(f"{location}: classes of objects are a list, not {quoted(classes)}")
        classes = list(classes or [])
        if len(classes) != len(boxes):
            raise InputError(
                f"{location} has {len(boxes)} boxes and {len(classes)} classes of them"
            )
        return boxes, classes

    def _fields(self, value: Any, location: str) -> Mapping[str, Any]:
        """Return an object of lists, which may be stored as a list of objects."""
        objects = value if isinstance(value, (list, tuple)) else [value or {}]
        for one in objects:
            if not isinstance(one, Mapping):
                raise InputError(
                    f"{location}: objects have fields {self.boxes} and {self.classes}, but one is "
                    f"{quoted(one)}"
                )
        if isinstance(value, (list, tuple)):
            fields = [field for field in (self.boxes, self.classes) if field is not None]
            return {field: [one.get(field) for one in value] for field in fields}
        return value or {}


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


def read_objects(value: Any, location: str) -> tuple[list[Numbers], list[Any] | None]:
    """Return boxes and classes of a value like those of a column `objects`, of undeclared fields.

    Raises:
        InputError: no field of boxes, or what `ObjectColumns.read` refuses.
    """
    fields = value[0] if isinstance(value, list) and value else value
    if not fields:
        return [], []
    boxes = _first(_BOXES, fields) if isinstance(fields, dict) else None
    if boxes is None:
        raise InputError(
            f"{location}: objects need a field bbox of boxes, x, y, width, height each"
        )
    return ObjectColumns("objects", boxes, _first(_CLASSES, fields)).read(value, location)


def _first(names: Sequence[str], fields: Mapping[str, Any]) -> str | None:
    lower = {field.lower(): field for field in fields}
    return next((lower[name] for name in names if name in lower), None)


@dataclass(frozen=True)
class BoxLayout:
    """What the four numbers of a box are.

    Attributes:
        kind: x, y, width, height, or x0, y0, x1, y1.
        fractions: they are fractions of the image's width and height, not pixels.
    """

    kind: Literal["sized", "corners"]
    fractions: bool

    def corners(self, box: Numbers) -> tuple[float, float, float, float]:
        """Return x0, y0, x1, y1 of a box."""
        x, y, a, b = map(float, box)
        return (x, y, x + a, y + b) if self.kind == "sized" else (x, y, a, b)

    def __str__(self) -> str:
        unit = "fractions of the image" if self.fractions else "pixels"
        return f"{_NUMBERS[self.kind]} in {unit}"


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
    fractions = bool(few) and all(
        0 <= number <= 1 for row in few for box in rows[row] for number in box
    )
    inside_out = beyond = 0
    for row in few:
        size = (1, 1) if fractions else size_of(row)
        slack = 0.01 if fractions else 1
        for x, y, a, b in rows[row]:
            inside_out += a < x or b < y
            if size is not None:
                beyond += x + a > size[0] + slack or y + b > size[1] + slack
    return BoxLayout("corners" if beyond > inside_out else "sized", fractions)
