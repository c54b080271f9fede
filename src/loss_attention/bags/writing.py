"""What `explain` writes of bags: a JSON and maps for each, and a page of all."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from PIL import Image

from loss_attention.bags.bag_set import BagSet
from loss_attention.bags.explaining import BagQuestion, ExplainedBag, explained
from loss_attention.bags.maps import (
    LONGEST,
    check_side,
    check_zooms,
    frame_of,
    slide_marks,
    tile_size,
)
from loss_attention.bags.model import BagClassifier
from loss_attention.data.decoding import is_image, read_image
from loss_attention.data.records import count
from loss_attention.errors import InputError
from loss_attention.explained.encoding import encoded
from loss_attention.explained.sources import cut, refuse_to_replace
from loss_attention.report.drawing import overlay
from loss_attention.report.overview import INDEX_FILE, Entry, index_page
from loss_attention.saving import make_folder, write_whole
from loss_attention.terminal import json_text

TOP = 10
ZOOMS = (1, 4)
THUMBNAILS = (".png", ".jpg", ".jpeg")

Progress = Callable[[int, int], None]


@dataclass
class BagSummary:
    """What became of bags.

    Attributes:
        count: how many were explained.
        written: the files, but for pictures.
        skipped: files that were there already, whole.
        index: the page of all; None: none was written.
        without: bags that have no coordinates, and so no map.
        bare: bags that have no thumbnail though a folder of them was given.
        left_out: tiles that were not written, as there are stronger ones.
    """

    count: int = 0
    written: list[Path] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    index: Path | None = None
    without: int = 0
    bare: int = 0
    left_out: int = 0


@dataclass(frozen=True)
class Maps:
    """How maps of bags are drawn.

    Attributes:
        zooms: 1: the longer side of the slide has 800 pixels; 4: four times as many. Maps of the
            first lie in the folder itself, those of the others in x4 and so on.
        tile: side of a tile in pixels of the slide; None: as its file or its coordinates say.
        thumbnails: folder of NAME.png or NAME.jpg for the bag NAME, or of the photos that were cut
            into tiles; None: there are none.
        downsample: pixels of the slide in one of a thumbnail, which begins at the slide's corner.
            None: a thumbnail shows the rectangle around the tiles.
    """

    zooms: tuple[int, ...] = ZOOMS
    tile: float | None = None
    thumbnails: Path | None = None
    downsample: float | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn."""
        check_zooms(self.zooms)
        check_side("tile_size", self.tile)
        check_side("thumbnail_downsample", self.downsample)
        if self.downsample is not None and self.thumbnails is None:
            raise InputError("`thumbnail_downsample` is for `thumbnails`: name their folder")
        if self.thumbnails is not None and not self.thumbnails.is_dir():
            raise InputError(f"`thumbnails` {self.thumbnails}: there is no such folder")

    def folder(self, out: Path, zoom: int) -> Path:
        """Return where the maps of a zoom go."""
        return out if zoom == self.zooms[0] else out / f"x{zoom}"

    def thumbnail(self, bag: str, name: str) -> Image.Image | None:
        """Return the thumbnail of a bag, by its name or by that of its files.

        Of photos, it is the one that `image_names` calls so, also in a folder within.
        """
        if self.thumbnails is None:
            return None
        for stem, ending in itertools.product(dict.fromkeys((bag, name)), THUMBNAILS):
            path, there = self.thumbnails / f"{stem}{ending}", False
            with suppress(OSError, ValueError):  # a name that no file can have
                there = path.parent == self.thumbnails and path.is_file()
            if there:
                return read_image(path, 1)
        photo = self._photos.get(bag)
        return None if photo is None else read_image(photo, 1)

    @cached_property
    def _photos(self) -> dict[str, Path]:
        """The images in the folder of thumbnails and those within, by the names of their bags."""
        assert self.thumbnails is not None
        walked = os.walk(self.thumbnails)
        paths = sorted(
            Path(place) / name for place, _, names in walked for name in names if is_image(name)
        )
        names = image_names([path.relative_to(self.thumbnails) for path in paths])
        return dict(zip(names, paths, strict=True))


def write_bags(
    model: BagClassifier,
    bags: BagSet,
    out: Path,
    question: BagQuestion,
    *,
    maps: Maps | None = Maps(),
    top: int = TOP,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> BagSummary:
    """Explain bags: NAME.json for each, NAME.png where it has coordinates, and a page of all.

    Args:
        model: a classifier of bags.
        bags: to explain.
        out: the folder of the files; see `file_names` for NAME.
        question: what is asked; see `bag_question`.
        maps: how they are drawn; None: none are.
        top: how many instances the JSON has for the class, and as many against it.
        overwrite: replace files that are there.
        progress: called with the number of bags done and of all.

    Raises:
        InputError: files in the way, bags that the model does not take, or thumbnails that do not
            fit their bags.
        SaveError: a full disk, for instance.
    """
    names = file_names(bags.names)
    zooms = maps.zooms if maps is not None else ()
    pictures = [
        maps.folder(out, zoom) / f"{name}.png"
        for name in names
        for zoom in zooms
        if maps is not None
    ]
    descriptions = [out / f"{name}.json" for name in names]
    index = out / INDEX_FILE
    refuse_to_replace([], [*pictures, *descriptions, index], overwrite=overwrite)
    for folder in (out, *(maps.folder(out, zoom) for zoom in zooms if maps is not None)):
        make_folder(folder)
    summary, entries = BagSummary(), list[Entry]()
    for name, bag in zip(
        names, counted_bags(model, bags, question, summary, progress), strict=True
    ):
        picture = ""
        if maps is not None and bag.coordinates is None:
            summary.without += 1
        elif maps is not None:
            _draw(model, bag, name, out, maps, question, summary)
            picture = f"{name}.png"
        path = out / f"{name}.json"
        write_whole(path, json_text(bag.described(model.class_names, top)) + "\n", durable=False)
        summary.written.append(path)
        entries.append(
            Entry(
                bag.name,
                picture,
                path.name,
                model.class_names[bag.predicted],
                float(bag.probabilities[bag.predicted]),
                target_name(model, bag),
                None,
            )
        )
    write_whole(index, index_page(entries, "bag"))
    summary.index = index
    return summary


def _draw(
    model: BagClassifier,
    bag: ExplainedBag,
    name: str,
    out: Path,
    maps: Maps,
    question: BagQuestion,
    summary: BagSummary,
) -> None:
    """Draw the maps of a bag."""
    assert bag.coordinates is not None
    tile = maps.tile or bag.tile or tile_size(bag.coordinates)
    thumbnail = maps.thumbnail(bag.name, name)
    summary.bare += maps.thumbnails is not None and thumbnail is None
    frame = frame_of(bag.name, bag.coordinates, tile, thumbnail, maps.downsample)
    values, quantity = bag.shown(weights=question.weights)
    for zoom in maps.zooms:
        longest = LONGEST * zoom
        below, marks = slide_marks(
            values, quantity, bag.coordinates, tile, frame, longest, thumbnail
        )
        drawn = overlay(
            below,
            marks,
            shortest=1,
            longest=longest,
            prediction=f"{bag.name}: {model.class_names[bag.predicted]}",
            probability=float(bag.probabilities[bag.predicted]),
            target=target_name(model, bag),
        )
        path = maps.folder(out, zoom) / f"{name}.png"
        write_whole(path, encoded(drawn, "png"), durable=False)


def file_names(bags: Sequence[str]) -> list[str]:
    r"""Return what the files of each bag are called, all different, upper and lower case alike.

    It is the bag's name, without what names of files or of folders cannot have.

    Example:
        >>> file_names(["a.1", "A.1", "x/b", "../c", ""])
        ['a.1', 'A.1-2', 'x_b', '.._c', 'bag']
    """
    found, taken = [], {Path(INDEX_FILE).stem}
    for bag in bags:
        letters = (one if one.isprintable() and one not in '/\\:*?"<>|' else "_" for one in bag)
        base = cut("".join(letters)).strip(" ") or "bag"
        numbered = (f"{base}-{number}" for number in itertools.count(2))
        name = next(n for n in itertools.chain([base], numbered) if n.casefold() not in taken)
        taken.add(name.casefold())
        found.append(name)
    return found


def image_names(paths: Sequence[Path]) -> list[str]:
    """Return what the bags of image files are called, and their files without the ending.

    It is the file's name without its ending, and its whole path where another file has that name.

    Example:
        >>> image_names([Path("x/a.jpg"), Path("x/b.png"), Path("y/b.png"), Path("y/c:d.jpg")])
        ['a', 'x-b.png', 'y-b.png', 'c_d']
    """
    times = Counter(path.stem.casefold() for path in paths)
    names = (
        path.stem if times[path.stem.casefold()] == 1 else "-".join(path.parts) for path in paths
    )
    return file_names([name.lstrip(".") for name in names])


def counted_bags(
    model: BagClassifier,
    bags: BagSet,
    question: BagQuestion,
    summary: BagSummary,
    progress: Progress | None,
) -> Iterator[ExplainedBag]:
    """Yield bags explained, and tell after each how many were."""
    for bag in explained(model, bags, question):
        yield bag
        summary.count += 1
        if progress is not None:
            progress(summary.count, len(bags))


def target_name(model: BagClassifier, bag: ExplainedBag) -> str:
    """Return what the explained class of a bag is called, and what it is held against."""
    target = model.class_names[bag.target]
    return target if bag.versus is None else f"{target} against {model.class_names[bag.versus]}"


def said(summary: BagSummary, out: Path) -> list[str]:
    """Return what was written, in lines for people."""
    place = summary.written[0] if len(summary.written) == 1 and summary.index is None else out
    page = "" if summary.index is None else f"; all of them: {summary.index}"
    lines = [f"{count(summary.count, 'bag')} explained in {place}{page}"]
    if summary.skipped and not summary.written:
        lines = []
    if len(summary.skipped) == 1:
        lines.append(f"{summary.skipped[0]} exists already: skipped")
    elif summary.skipped:
        lines.append(f"{len(summary.skipped):,} shards in {out} exist already: skipped")
    if summary.without:
        lines.append(f"without coordinates, and so without a map: {count(summary.without, 'bag')}")
    if summary.bare:
        lines.append(f"without a thumbnail: {count(summary.bare, 'bag')}")
    if summary.left_out:
        lines.append(
            f"{summary.left_out:,} weaker tiles left out; `most_tiles` says how many a bag has"
        )
    return lines
