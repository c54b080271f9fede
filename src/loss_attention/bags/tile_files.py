"""The files of bags of tiles, one an image, written one by one, each whole.

An interrupted folder is gone on with. What made the files is in tiles.json: nothing else is added
to them.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from loss_attention.bags.formats import CLASSES, COORDS, FEATURES, LABELS, READERS
from loss_attention.bags.images import (
    LABELS_FILE,
    ImageBags,
    TiledImage,
    check_labels_csv,
    labels_csv,
)
from loss_attention.bags.tiles import (
    BadBox,
    Tiling,
    covered_fractions,
    object_pixels,
    tile_features,
    tile_labels,
)
from loss_attention.data.decoding import UnreadableImage
from loss_attention.data.records import Encoded, count, few
from loss_attention.data.stacking import read_encoded
from loss_attention.errors import InputError, guarded, printable, quoted
from loss_attention.explained.pipeline import in_order, threads
from loss_attention.saving import TEMPORARY, make_folder, read_object, whole_file, write_whole
from loss_attention.terminal import json_text
from loss_attention.training.features import FrozenBackbone

FORMAT_VERSION = 1
SETTINGS_FILE = "tiles.json"
IMAGE, IMAGE_BYTES = "image", "image_bytes"
"""Attributes of `coords`: the image by its name in the data, and the bytes of its file."""

_BLOCK = 64  # images looked up at once
_AHEAD = 2  # images that are decoded, or wait for the network

Progress = Callable[[int, int], object]


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
    """Return the first name in a folder that is not a leftover of a write."""
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
                    f"{printable(record.called)}: an object is of {quoted(label)}, which is "
                    "not a class of an image's label"
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
