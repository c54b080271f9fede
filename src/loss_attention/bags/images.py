"""A data set of images as a folder of bags: a file for each image, its tiles the instances.

Files appear one by one, each whole, so that an interrupted folder is gone on with. What made them
is in tiles.json: nothing else is added to them.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from loss_attention.bags.formats import CLASSES, COORDS, FEATURES, LABELS, READERS
from loss_attention.bags.labels import OF_BAGS, read_csv, read_labels, usual_columns
from loss_attention.bags.tiles import (
    BadBox,
    Objects,
    Tiling,
    covered_fractions,
    object_pixels,
    tile_features,
    tile_labels,
)
from loss_attention.bags.writing import image_names
from loss_attention.data.decoding import UnreadableImage
from loss_attention.data.division import SPLITS
from loss_attention.data.groups import shared_groups, with_groups
from loss_attention.data.loading import MADE, open_source, understood
from loss_attention.data.records import (
    Encoded,
    Part,
    Record,
    Source,
    class_name,
    count,
    few,
    labels_of,
    refuse,
    unlabelled,
)
from loss_attention.data.stacking import read_encoded
from loss_attention.errors import InputError, guarded, printable, quoted
from loss_attention.explained.pipeline import in_order, threads
from loss_attention.saving import TEMPORARY, make_folder, read_object, whole_file, write_whole
from loss_attention.terminal import json_text
from loss_attention.training.features import FrozenBackbone

FORMAT_VERSION = 1
SETTINGS_FILE, LABELS_FILE = "tiles.json", "labels.csv"
IMAGE, IMAGE_BYTES = "image", "image_bytes"
"""Attributes of `coords`: the image by its name in the data, and the bytes of its file."""

_BLOCK = 64  # images looked up at once
_AHEAD = 2  # images that are decoded, or wait for the network

Progress = Callable[[int, int], object]


class TiledImage(NamedTuple):
    """An image and the bag that it becomes.

    Attributes:
        bag: the name of the bag and of its file, without the ending.
        record: the image.
        part: the split that it is in.
        labels: its classes, by number.
    """

    bag: str
    record: Record
    part: Part
    labels: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Of its file; 0 where it has none of its own."""
        content = self.record.content
        if not isinstance(content, Path):
            return 0
        with guarded(printable(self.record.name)):
            return content.stat().st_size


@dataclass(frozen=True)
class ImageBags:
    """Images that become bags.

    Attributes:
        where: what the data is called.
        folder: that it lies in; None: in none.
        images: all of them, the training split's first.
        class_names: of the K classes.
        values: what labels of records hold, for each class.
        several: an image may have several classes.
        divided: the data has splits.
        grouped: images have groups.
        notes: what was left out, a line each.
    """

    where: str
    folder: Path | None
    images: tuple[TiledImage, ...]
    class_names: tuple[str, ...]
    values: tuple[Any, ...]
    several: bool
    divided: bool
    grouped: bool
    notes: tuple[str, ...]

    def marked(self, objects: Objects) -> list[bool]:
        """Return whether something says where the objects of each image are.

        Raises:
            InputError: nothing of the kind that is asked for says so of any image.
        """
        found = [
            (one.record.mask is not None and objects in ("auto", "masks"))
            or (bool(one.record.boxes) and objects in ("auto", "boxes"))
            for one in self.images
        ]
        if objects in ("masks", "boxes") and not any(found):
            raise InputError(f"{self.where} has no {objects}: leave `objects` out")
        return found


@dataclass
class Tiled:
    """What became of images.

    Attributes:
        bags: files that are there.
        made: of these, those that were made now.
        tiles: of all files together, the least and the most of one.
        width: features of a tile.
        unmarked: images with neither mask nor box, where others have one.
        unseen: images made now whose objects cover no tile far enough.
        broken: what was wrong with images that were left out.
    """

    bags: int = 0
    made: int = 0
    tiles: list[int] = field(default_factory=list)
    width: int = 0
    unmarked: int = 0
    unseen: int = 0
    broken: list[str] = field(default_factory=list)


def images_to_tile(data: str, *, group: str | None = None, skip_broken: bool = False) -> ImageBags:
    """Return the images of a data set that become bags: of all splits that have labels.

    Args:
        data: as `train --data` takes it, but for what is made here.
        group: what says which images belong together; see `load_splits`.
        skip_broken: go on without the images that something is wrong with.

    Raises:
        InputError: nothing usable there, or one class only.
    """
    if data in MADE:
        raise InputError(f"{data} is made here, in memory: name images that lie somewhere")
    source = open_source(data, masks=True, group=group)
    if not skip_broken:
        refuse(source.where, source.problems)
    if group is not None:
        source = with_groups(source, group)
        leak = next((one for one in shared_groups(source) if one.startswith("leak")), None)
        if leak is not None:
            raise InputError(f"{source.where}: {leak}: put each into one, or leave `group` out")
    parts, notes = _used_parts(source)
    named = {class_name(source, one): one for part in parts for one in _stored(source, part)}
    names = tuple(class_name(source, one) for one in _in_order(source, named.values()))
    number = {named[name]: place for place, name in enumerate(names)}
    records = [(record, part) for part in parts for record in part.records]
    bags = image_names([Path(record.name) for record, _ in records])
    images = []
    for bag, (record, part) in zip(bags, records, strict=True):
        labels = labels_of(source, record)
        if not (labels or source.multi_label):
            raise InputError(f"{source.where}: {printable(record.called)} has no label")
        images.append(TiledImage(bag, record, part, tuple(number[one] for one in labels)))
    if len(names) < 2:
        only = f", {quoted(names[0])}" if names else ""
        raise InputError(f"{source.where} has one class only{only}: a classifier needs two")
    return ImageBags(
        where=source.where,
        folder=path if (path := understood(data).path) is not None and path.is_dir() else None,
        images=tuple(images),
        class_names=names,
        values=tuple(named[name] for name in names),
        several=source.multi_label,
        divided=len(parts) > 1,
        grouped=group is not None,
        notes=(*source.notes, *notes),
    )


def _used_parts(source: Source) -> tuple[list[Part], list[str]]:
    """Return the splits that have labels and a known name, training first; and what is left."""
    used, notes = [], []
    several = len([part for part in source.parts if len(part)]) > 1
    for part in source.parts:
        if not len(part):
            continue
        if several and part.name.casefold() not in SPLITS:
            notes.append(
                f"split {printable(part.name)} left out: it is none of {', '.join(SPLITS)}"
            )
        elif unlabelled(record.label for record in part.records):
            notes.append(f"split {printable(part.name)} left out: it has no labels")
        else:
            used.append(part)
    if not used:
        raise InputError(f"{source.where} holds no images with labels")
    return sorted(used, key=lambda part: part.name != "train"), notes


def _stored(source: Source, part: Part) -> Iterator[Any]:
    for record in part.records:
        yield from labels_of(source, record)


def _in_order(source: Source, labels: Any) -> list[Any]:
    """Return labels in the order of their classes; of several kinds, as texts."""
    try:
        return sorted(labels)
    except TypeError:
        return sorted(labels, key=lambda one: class_name(source, one))


def tile_images(
    images: ImageBags,
    backbone: FrozenBackbone,
    tiling: Tiling,
    out: Path,
    *,
    skip_broken: bool = False,
    progress: Progress | None = None,
) -> Tiled:
    """Write a bag for each image, and the CSV of their labels; go on where that was stopped.

    Args:
        images: what becomes bags.
        backbone: makes the features.
        tiling: how images are cut.
        out: the folder; see the module's text.
        skip_broken: go on without images that cannot be read.
        progress: called with the number of images done and of all.

    Raises:
        InputError: an image that cannot be read, a size that the network does not take, or a folder
            that holds something else.
        SaveError: a full disk, for instance.
    """
    backbone.model.check_image_size(tiling.seen, tiling.seen)
    of_each = images.marked(tiling.objects)
    marked = any(of_each)
    facts = settings(backbone, tiling, marked=marked)
    if images.folder is not None and out.resolve().is_relative_to(images.folder.resolve()):
        raise InputError(
            f"`out` {out} lies within {images.where}, and would be taken for part of it: name "
            "another folder"
        )
    check_labels_csv(images)
    form = _claim(out, facts)
    writer = _Writer(out, form, images, tiling, marked=marked)
    result = Tiled()
    missing = _missing(images, writer, result)
    write_whole(out / LABELS_FILE, labels_csv(images))
    result.unmarked = of_each.count(False) if marked else 0
    left, whole = set[str](), len(images.images)
    if progress is not None:
        progress(result.bags, whole)
    with threads(1) as submit:
        for image, picture in in_order(submit, _decoded, _encoded(missing), _AHEAD):
            try:
                if isinstance(picture, UnreadableImage):
                    raise picture
                writer.write(image, picture, backbone, result)
            except (UnreadableImage, BadBox) as error:
                if not skip_broken:
                    raise
                left.add(image.bag)
                result.broken.append(str(error))
            if progress is not None:
                progress(result.bags + len(left), whole)
    if left:
        if not result.bags:
            raise InputError(f"{images.where}: no image can be read: {result.broken[0]}")
        write_whole(out / LABELS_FILE, labels_csv(images, frozenset(left)))
    return result


def settings(backbone: FrozenBackbone, tiling: Tiling, *, marked: bool) -> dict[str, Any]:
    """Return all but the images that decides what is in the files, as JSON can hold it."""
    cut = asdict(tiling) | {"stride": tiling.step, "image_size": tiling.seen}
    if not marked:
        cut |= {"objects": "none", "covered": None}
    levels = list(getattr(backbone.model.backbone, "level_strides", ()))
    return {"format_version": FORMAT_VERSION, **cut, **backbone.facts(), "levels": levels}


def _claim(out: Path, facts: Mapping[str, Any]) -> str:
    """Return the form of the files in a folder, which holds none or those of these settings.

    Raises:
        InputError: it holds something else.
    """
    file = out / SETTINGS_FILE
    if not file.exists():
        if out.is_dir() and (other := _first_of_others(out)) is not None:
            raise InputError(
                f"{out} holds {printable(other)}, which was not written here: name another `out`"
            )
        form = ".h5" if importlib.util.find_spec("h5py") else ".safetensors"
        make_folder(out)
        write_whole(file, json_text({"form": form, **facts}, indent=2) + "\n")
        return form
    make_folder(out)
    there = read_object(file)
    form = there.pop("form", None)
    if form not in (".h5", ".safetensors"):
        raise InputError(f"{file} is damaged: restore it, or name another `out`")
    for name in {**facts, **there}:
        if there.get(name) != facts.get(name):
            old, new = (quoted(one.get(name)) for one in (there, facts))
            raise InputError(
                f"{out} holds tiles of another {name}, {old}, and {new} is asked for: name "
                "another `out`"
            )
    return str(form)


def _first_of_others(out: Path) -> str | None:
    """Return the first name in a folder that is no leftover of a write."""
    names = sorted(path.name for path in out.iterdir())
    return next((name for name in names if not TEMPORARY.fullmatch(name)), None)


def _bag_files(out: Path) -> Iterator[Path]:
    return (path for path in sorted(out.iterdir()) if path.suffix.lower() in READERS)


def _missing(images: ImageBags, writer: _Writer, result: Tiled) -> list[TiledImage]:
    """Return the images whose file is not there; note what is.

    Raises:
        InputError: a file is of another image, or of none.
    """
    there = {path.name: path for path in _bag_files(writer.out)}
    missing = []
    for image in images.images:
        path = there.pop(writer.path(image).name, None)
        if path is None:
            missing.append(image)
            continue
        try:
            name, size, shape = said_of(path)
        except InputError as error:
            raise InputError(f"{error}; remove it, and it is made again") from error
        if (name, size) != (printable(image.record.name), image.bytes):
            raise InputError(
                f"{path} holds the tiles of another image, {name} of {size:,} bytes: name another "
                "`out`, or remove it"
            )
        result.bags, result.width = result.bags + 1, shape[1]
        result.tiles.append(shape[0])
    if there:
        other = printable(min(there))
        raise InputError(
            f"{writer.out / other} is of no image of {images.where}: name another `out`, or remove "
            "it"
        )
    return missing


def said_of(path: Path) -> tuple[str, int, tuple[int, int]]:
    """Return which image a file is of, the bytes of that, and the shape of the features.

    Raises:
        InputError: the file was not written here, or is damaged.
    """
    with guarded(printable(str(path))):
        if path.suffix == ".h5":
            import h5py

            with h5py.File(path, "r", locking=False) as file:
                said, shape = dict(file[COORDS].attrs), file[FEATURES].shape
        else:
            from safetensors import safe_open

            with safe_open(path, framework="numpy") as file:
                opened: Any = file
                said, shape = opened.metadata(), opened.get_slice(FEATURES).get_shape()
        rows, width = shape
        return str(said[IMAGE]), int(said[IMAGE_BYTES]), (int(rows), int(width))


def _encoded(images: Sequence[TiledImage]) -> Iterator[tuple[TiledImage, Encoded]]:
    """Yield images as they are stored, those of one split looked up together."""
    for start in range(0, len(images), _BLOCK):
        some = images[start : start + _BLOCK]
        for part in dict.fromkeys(id(one.part) for one in some):
            of_part = [one for one in some if id(one.part) == part]
            found = of_part[0].part.encoded([one.record for one in of_part])
            yield from zip(of_part, found, strict=True)


def _decoded(
    one: tuple[TiledImage, Encoded],
) -> tuple[TiledImage, Image.Image | UnreadableImage]:
    image, encoded = one
    try:
        return image, read_encoded(encoded, in_channels=3)
    except UnreadableImage as error:
        return image, error


class _Writer:
    """Writes the files of bags.

    Args:
        out: the folder.
        form: the ending of the files.
        images: all of them.
        tiling: how they are cut.
        marked: tiles have labels.
    """

    def __init__(
        self, out: Path, form: str, images: ImageBags, tiling: Tiling, *, marked: bool
    ) -> None:
        self.out, self.form, self.images, self.tiling = out, form, images, tiling
        self.marked = marked

    def path(self, image: TiledImage) -> Path:
        """Return the file of an image's bag."""
        return self.out / f"{image.bag}{self.form}"

    def write(
        self, image: TiledImage, picture: Image.Image, backbone: FrozenBackbone, result: Tiled
    ) -> None:
        """Write the bag of an image, and note what it holds.

        Raises:
            InputError: see `tile_features` and `object_pixels`.
        """
        name, (width, height) = printable(image.record.name), picture.size
        labels = None
        if self.marked:  # first, as it may be refused
            labels = self._labels(image, width, height, result)
        features, corners = tile_features(backbone, self.tiling, picture, name)
        said: dict[str, str | int] = {
            "patch_size": self.tiling.tile,
            "patch_size_level0": self.tiling.tile,
            "patch_level": 0,
            "overlap": self.tiling.tile - self.tiling.step,
            "level0_width": width,
            "level0_height": height,
            "name": image.bag,
            IMAGE: name,
            IMAGE_BYTES: image.bytes,
        }
        self._save(self.path(image), features, corners.astype(np.int32), labels, said)
        result.bags, result.made = result.bags + 1, result.made + 1
        result.tiles.append(len(features))
        result.width = features.shape[1]

    def _labels(
        self, image: TiledImage, width: int, height: int, result: Tiled
    ) -> Int[np.ndarray, "M *K"]:
        """Return the class of each tile."""
        values, record = self.images.values, image.record
        own = [values[number] for number in image.labels]
        pixels = object_pixels(record, own, self.tiling.objects, width, height)
        for label in pixels:
            if label not in values:
                raise InputError(
                    f"{printable(record.called)}: an object is of {quoted(label)}, which is no "
                    "class of an image's label"
                )
        corners = self.tiling.coordinates(width, height)
        fractions = covered_fractions(pixels, values, corners, self.tiling.tile)
        found = tile_labels(fractions, self.tiling.covered, several=self.images.several)
        any_tile = bool((found > 0).any()) if self.images.several else bool((found >= 0).any())
        result.unseen += bool(pixels) and not any_tile
        return found

    def _save(
        self,
        path: Path,
        features: Float[np.ndarray, "M D"],
        corners: Int[np.ndarray, "M 2"],
        labels: Int[np.ndarray, "M *K"] | None,
        said: Mapping[str, str | int],
    ) -> None:
        """Write a file: HDF5 as CLAM and TRIDENT have it, or safetensors."""
        arrays = {FEATURES: features, COORDS: corners}
        arrays |= {} if labels is None else {LABELS: labels}
        names = list(self.images.class_names)
        with whole_file(path) as temporary:
            if self.form == ".h5":
                import h5py

                with h5py.File(temporary.name, "w", locking=False) as file:
                    for name, array in arrays.items():
                        file[name] = array
                    file[COORDS].attrs.update(said)
                    if labels is not None:
                        file[LABELS].attrs[CLASSES] = names
            else:
                from safetensors.numpy import save

                metadata = {key: str(value) for key, value in said.items()}
                metadata |= {} if labels is None else {CLASSES: json.dumps(names)}
                temporary.write(save(arrays, metadata))


def labels_csv(images: ImageBags, left: frozenset[str] = frozenset()) -> str:
    """Return the CSV of the bags' labels, splits and patients.

    Args:
        images: that become bags.
        left: bags that are not there.
    """
    columns = ["bag", "label", *_optional(images), "image"]
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    for image in images.images:
        if image.bag not in left:
            row = _row(images, image) | {"image": printable(image.record.name)}
            table.writerow([row[name] for name in columns])
    return text.getvalue()


def _optional(images: ImageBags) -> list[str]:
    found = {"split": images.divided, "patient": images.grouped}
    return [name for name, there in found.items() if there]


def _row(images: ImageBags, image: TiledImage) -> dict[str, str]:
    """Return what the CSV says of a bag."""
    names = [images.class_names[number] for number in image.labels]
    return {
        "bag": image.bag,
        "label": json.dumps(names, ensure_ascii=False) if images.several else names[0],
        "split": SPLITS.get(image.part.name.casefold(), "train"),
        "patient": image.record.group,
    }


def check_labels_csv(images: ImageBags) -> None:
    """Read the CSV of the labels as `read_bags` will, and compare it with what is meant.

    Raises:
        InputError: a name that would be read as another, a patient in two splits, or one class.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder) / LABELS_FILE
        path.write_text(labels_csv(images), encoding="utf-8")
        rows = read_csv(path)
    for name in ("bag", "label", *_optional(images)):
        for image, value in zip(images.images, rows.column(name).to_pylist(), strict=True):
            _require_same(images, image, name, _row(images, image)[name], value)
    columns = usual_columns(rows.column_names, LABELS_FILE, kinds=OF_BAGS)
    said = read_labels(rows, columns, LABELS_FILE, one_hot=True)
    if said.faults:
        raise InputError(f"{images.where}: {said.faults[0]}")
    for image, row in zip(images.images, said.labels.tolist(), strict=True):
        of_row = [row] if isinstance(row, int) else [k for k, one in enumerate(row) if one]
        found = sorted(said.class_names[number] for number in of_row)
        meant = sorted(images.class_names[number] for number in image.labels)
        _require_same(images, image, "label", meant, found)


def _require_same(images: ImageBags, image: TiledImage, what: str, meant: Any, found: Any) -> None:
    if found is None or (found if isinstance(found, list) else str(found)) != meant:
        shown, other = (
            quoted("; ".join(one) if isinstance(one, list) else one) for one in (meant, found)
        )
        other = "no name" if found is None else other
        raise InputError(
            f"{images.where}: the {what} {shown} of {printable(image.record.name)} would be read "
            f"as {other} from a CSV: rename it"
        )


def told(result: Tiled, tiling: Tiling, out: Path) -> list[str]:
    """Return what was written, in lines for people."""
    least, most = min(result.tiles), max(result.tiles)
    sizes = f"{least:,}" if least == most else f"{least:,} to {most:,}"
    before = "" if result.made == result.bags else f", {result.bags - result.made:,} of them before"
    lines = [
        f"{count(result.bags, 'bag')} in {out}{before}: {sizes} tiles of {result.width:,} features "
        f"each, {sum(result.tiles):,} in all"
    ]
    if result.unmarked:
        lines.append(
            f"with neither mask nor box, so that none of their tiles has a class: "
            f"{count(result.unmarked, 'image')}"
        )
    if result.unseen:
        lines.append(
            f"with an object that covers {tiling.covered:.3g} of no tile (`covered`): "
            f"{count(result.unseen, 'image')}"
        )
    if result.broken:
        lines.append(f"left out, as asked: {few(result.broken, '; ')}")
    return lines
