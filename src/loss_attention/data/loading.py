"""From what a user names as data to decoded training, validation and test images.

A name is understood first: made here, a data set of the paper, one of the hub, or a path. What lies
at a path is in a layout that is told from its files (`data/formats/`). Where a run's data lay is
kept with the run, so that it is found again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from PIL import Image

from loss_attention.data.archives import is_archive
from loss_attention.data.assembling import assemble, chosen, select_classes
from loss_attention.data.decoding import may_be_meant, to_tensor
from loss_attention.data.digits import digits, multi_digits
from loss_attention.data.formats.coco import coco_files, open_coco, read_coco
from loss_attention.data.formats.folder import (
    SAVED,
    open_metadata,
    open_parquet,
    open_saved,
    open_tiny_imagenet,
    read_class_folders,
)
from loss_attention.data.formats.hub import HUB_ID, open_hub, source_of_tables
from loss_attention.data.formats.listed import read_listed
from loss_attention.data.formats.tables import find_tables
from loss_attention.data.formats.voc import open_voc
from loss_attention.data.formats.yolo import open_data_yaml, open_yolo
from loss_attention.data.groups import shared_groups, with_groups
from loss_attention.data.placement import ImageSize, Resize, placement_of
from loss_attention.data.records import Source, count, refuse, stored_classes
from loss_attention.data.sample import (
    IN_REACH,
    ImageSet,
    Splits,
    Storage,
    to_image,
)
from loss_attention.data.stacking import Form, Progress
from loss_attention.data.tree import Tree, open_tree
from loss_attention.errors import InputError, printable, unknown_name

Opener = Callable[[Tree, str, bool, str | None], tuple[Tree, Source] | None]
"""Looks at the files of a folder or an archive, and reads them if they are in its layout.

Its arguments are the files, what the data is called in errors, whether to draw masks, and the known
data set that is meant to lie there, if any. It returns None where the files are in no such layout,
else the files as seen from the folder that the layout starts at, and the images.
"""

LAYOUTS: dict[str, Opener] = {
    "Tiny ImageNet": open_tiny_imagenet,
    "COCO": open_coco,
    "Pascal VOC": open_voc,
    "YOLO": open_yolo,
}
"""From the most to the least particular: the first that knows the files reads them.

Files in none of these are images that a table lists, parquet files, or class folders: `open_place`
looks for these last.
"""


def load_splits(
    data: str,
    *,
    in_channels: int,
    image_size: ImageSize,
    seed: int,
    validation_fraction: float = 0.0,
    resize: Resize = "squash",
    classes: Sequence[str] = (),
    masks: bool = False,
    skip_broken: bool = False,
    group: str | None = None,
    storage: Storage = IN_REACH,
    progress: Progress | None = None,
) -> Splits:
    """Load data, decoded, in memory, or to be decoded on demand.

    Args:
        data: a name of `MADE` or `KNOWN`; `NAME:PATH`, a known data set that lies at a path; a
            local folder, archive, parquet file, table of images or YOLO's data.yaml; or a Hugging
            Face data set (`org/name`, or `org/name:configuration`, with or without `hub:` before
            it). A name that is both known and a folder here is the known one; `./NAME` is the
            folder.
        in_channels: 1 or 3: images are converted to grey or to colour.
        image_size: bring each image to this height and width in pixels, one number for both; None:
            they must be of one size already, or are of a known data set with a size of its own.
        seed: decides made data, which classes are drawn, what is held out where there is no test
            split, and the validation images.
        validation_fraction: the part of the training split that is held out to choose by.
        resize: squash images to that shape, or pad them and keep their aspect.
        classes: names of the classes to keep, or one number of classes to draw by the seed; none:
            all of them.
        masks: read the masks of objects too.
        skip_broken: go on without the images that something is wrong with.
        group: the column of the table that lists the images, or a regular expression with one group
            that is found in their paths, which says which images belong together: all of them are
            held out or none.
        storage: decode images on demand, hold them all in memory, or choose by their size.
        progress: called with the number of images looked at and their total, now and then.

    Returns:
        Training images, those held out of them, and the reported split: the test split, else the
        validation split, else a fifth of the training split; `Splits.source` says which.

    Raises:
        InputError: nothing of this name, nothing usable there, a known data set without its test
            split, unreadable images, labels outside the classes, classes that training lacks, one
            class only, or images of unequal sizes.
    """
    form = Form(in_channels, image_size, resize, masks)
    if data in MADE:
        if classes or masks:
            raise InputError(f"{data} is generated here: `classes` and `masks` do not apply to it")
        if group is not None:
            raise InputError(f"{data} is generated here: `group` does not apply to it")
        if storage.stream == "yes":
            raise InputError(
                f"{data} is generated here, in memory: `stream` yes does not apply to it"
            )
        made = MADE[data](seed)
        train, test = (_in_form(part.decoded(), form) for part in (made.trainval, made.test))
        return replace(
            made,
            trainval=train,
            test=test,
            validation_fraction=validation_fraction,
            seed=seed,
            drawn=True,
        )
    source = open_source(data, masks=masks, group=group)
    if not skip_broken:  # before a split seems to be missing for want of sound images
        refuse(source.where, source.problems)
    source = chosen(source)
    if group is not None:
        source = with_groups(source, group)
        source = replace(source, notes=(*source.notes, *shared_groups(source)))
    known = KNOWN.get(understood(data).name)
    if known is not None:
        source = known.verified(source)
        if known.size is not None and image_size is None:
            form = replace(form, image_size=known.size)
            note = f"brought to {known.size} x {known.size} pixels; `image_size` N for others"
            source = replace(source, notes=(*source.notes, note))
    source = select_classes(source, classes, seed)
    splits = assemble(
        source, form, seed, skip_broken=skip_broken, storage=storage, progress=progress
    )
    drawn = splits.drawn or len(classes) == 1
    return replace(
        splits, validation_fraction=validation_fraction, seed=seed, group=group, drawn=drawn
    )


def open_source(
    data: str,
    *,
    masks: bool = False,
    known_classes: Collection[str] | None = None,
    group: str | None = None,
) -> Source:
    """Return all that there is of the data of a name or at a path, undecoded; see `load_splits`.

    Args:
        data: not of `MADE`.
        masks: draw masks where the layout has them.
        known_classes: those of a model that is to be measured on the data, which then needs no
            training split; None: it is to be trained on.
        group: the column of a table that says which images belong together, if it has it.

    Raises:
        InputError: nothing of this name, or nothing usable there.
    """
    named = understood(data)
    if named.path is not None:
        where = f"{named.name} in {data.partition(':')[2]}" if named.name else f"data folder {data}"
        return open_path(
            named.path,
            where,
            masks=masks,
            known=named.name or None,
            known_classes=known_classes,
            group=group,
        )
    if named.kind == "hub":
        return source_of_tables(open_hub(named.name), named.name, group=group)
    known = KNOWN[named.name]
    if known.hub is None:
        raise InputError(f"{data} is not downloaded by itself: {known.get}")
    return source_of_tables(open_hub(known.hub, known.get), known.hub, group=group)


def _in_form(images: ImageSet, form: Form) -> ImageSet:
    """Bring made grey scenes to the channels and the size that were asked for, boxes with them."""
    pixels, boxes, size = images.images, images.boxes, form.size
    if size is not None and size != images.size:
        placed = placement_of(images.size[::-1], size, form.resize)
        scenes = (Image.fromarray(scene[0].numpy()) for scene in pixels)
        pixels = torch.stack([to_tensor(scene, size, form.resize) for scene in scenes])
        if boxes is not None:
            boxes = to_image(boxes, torch.tensor([placed] * len(boxes)).float())
    if form.in_channels != pixels.shape[1]:
        pixels = pixels.repeat(1, form.in_channels, 1, 1)
    return replace(images, images=pixels, boxes=boxes)


MADE: dict[str, Callable[[int], Splits]] = {"digits": digits, "multi-digits": multi_digits}
"""Data made here, from a seed."""
HUB_PREFIX = "hub:"
"""Before the id of a data set of the hub, where it could be taken for a path."""
_TABLES = (".parquet", ".csv", ".tsv", ".jsonl", ".json", ".yaml", ".yml")


@dataclass(frozen=True)
class Named:
    """What a user names as data.

    Attributes:
        kind: made here; a known data set, fetched by its name; one of the Hugging Face hub; or what
            lies at a path.
        name: the name, or the hub's id; of a path the known data set that is said to lie there.
        path: of a path.
    """

    kind: Literal["made", "known", "hub", "path"]
    name: str = ""
    path: Path | None = None


def understood(data: str) -> Named:
    """Tell what data a user means; a name that is both known and a folder here is the known one.

    Raises:
        InputError: nothing of this name, or a hub id that may be a mistyped path.
    """
    if data in MADE:
        return Named("made", data)
    if data in KNOWN:
        return Named("known", data)
    name, path = known_at(data)
    if name:
        return Named("path", name, expanded(path))
    hub = data.removeprefix(HUB_PREFIX)
    if hub != data and HUB_ID.fullmatch(hub):
        return Named("hub", hub)
    if looks_local(data):
        return Named("path", path=expanded(data))
    if not HUB_ID.fullmatch(data):
        raise unknown_name("dataset", data, [*MADE, *KNOWN])
    folder, _, inside = data.partition("/")
    if is_there(Path(folder)):
        raise InputError(
            f"there is a folder {folder} here and no {inside} in it: correct the path, or write "
            f"{HUB_PREFIX}{data} for the data set of that name on the Hugging Face hub"
        )
    return Named("hub", data)


def known_at(data: str) -> tuple[str, str]:
    """Return name and path of `NAME:PATH`; two empty texts for anything else."""
    name, _, path = data.partition(":")
    return (name, path) if name in KNOWN and path else ("", "")


def looks_local(data: str) -> bool:
    """Tell a path from a name: it exists, is written like one, or is not `org/name`."""
    path = expanded(data)
    if data and is_there(path):
        return True
    written_so = (
        data.startswith((".", "~", "/", os.sep))
        or path.suffix.lower() in _TABLES
        or is_archive(path)
    )
    return written_so or (bool({"/", os.sep} & set(data)) and not HUB_ID.fullmatch(data))


def expanded(path: str) -> Path:
    """Return a path as it was written, a `~` before it replaced by the folder that it means."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # no such user
        return Path(path)


def is_there(path: Path) -> bool:
    """Return whether something lies at a path, as far as can be told."""
    try:
        return path.exists()
    except OSError:  # too long for a name, or in a folder that may not be looked into
        return False


def recorded(data: str, run: Path) -> dict[str, str]:
    """Return what a run keeps of where its data lies, for `run_data.find_again`.

    Args:
        data: what the user wrote.
        run: the run's folder.
    """
    named = meant(data)
    if named is None:  # data that did not come from its name
        return {"given": data}
    kept = {"given": data, "kind": named.kind}
    if named.path is not None:
        kept["path"] = str(named.path.absolute())
        kept["from_run"] = os.path.relpath(named.path, run)
    return kept


def meant(data: str) -> Named | None:
    """Return what a user names as data; None: nothing of the name, or it cannot be told."""
    try:
        return understood(data)
    except InputError:
        return None


@dataclass(frozen=True)
class Known:
    """A published data set.

    Attributes:
        train: how many training images the paper's split has.
        test: how many images its reported split has.
        classes: how many classes there are.
        hub: its id on the Hugging Face hub; None: it is not there in the form that is needed.
        get: where to get it otherwise and how to point to it.
        size: the side in pixels that images are brought to where no other is asked for; None: they
            stay as they are. The paper's for COCO.
    """

    train: int
    test: int
    classes: int
    hub: str | None
    get: str
    size: int | None = None

    def verified(self, source: Source) -> Source:
        """Return what was found, with a note for each count that is not the published one.

        Raises:
            InputError: it lacks the split that the paper reports on.
        """
        if len(source.parts) < 2:
            raise InputError(
                f"{source.where} lacks the split to report on: {self.test:,} labelled test or "
                f"validation images; {self.get}"
            )
        return replace(source, notes=(*source.notes, *self.differences(source)))

    def differences(self, source: Source) -> tuple[str, ...]:
        """Return a line for each count in which the chosen splits of a source are not these."""
        sizes = [*map(len, source.parts), 0][:2]
        counts = (
            ("training images", sizes[0], self.train),
            ("test images", sizes[1], self.test),
            ("classes", len(stored_classes(source)), self.classes),
        )
        return tuple(
            f"{found:,} {what} found where the whole set has {wanted:,}"
            for what, found, wanted in counts
            if found != wanted
        )


_HUB = "https://huggingface.co/datasets"
_ONE_FOLDER = "into one folder and give that: `data`"
_COCO_ZIPS = "train{0}.zip, val{0}.zip and annotations_trainval{0}.zip"
_OF_COCO = f"get {_COCO_ZIPS} from https://cocodataset.org/#download {_ONE_FOLDER} coco{{0}}:FOLDER"
_CLASS_FOLDERS = "give a folder train/CLASS/... and val/CLASS/... of its images"

KNOWN: dict[str, Known] = {
    "cifar10": Known(
        50_000,
        10_000,
        10,
        "uoft-cs/cifar10",
        f"get its parquet files from {_HUB}/uoft-cs/cifar10 {_ONE_FOLDER} cifar10:FOLDER",
    ),
    "cifar100": Known(
        50_000,
        10_000,
        100,
        "uoft-cs/cifar100",
        f"get its parquet files from {_HUB}/uoft-cs/cifar100 {_ONE_FOLDER} cifar100:FOLDER",
    ),
    "svhn": Known(
        73_257,
        26_032,
        10,
        "ufldl-stanford/svhn:cropped_digits",
        f"get its parquet files of cropped digits from {_HUB}/ufldl-stanford/svhn {_ONE_FOLDER} "
        "svhn:FOLDER",
    ),
    "tiny-imagenet": Known(
        100_000,
        10_000,
        200,
        None,
        "get http://cs231n.stanford.edu/tiny-imagenet-200.zip and give the zip, or the folder in "
        "it: `data` tiny-imagenet:PATH",
    ),
    "coco2014": Known(82_081, 40_137, 80, None, _OF_COCO.format(2014), size=64),
    "coco2017": Known(117_266, 4_952, 80, None, _OF_COCO.format(2017), size=64),
    "imagenet32": Known(
        1_281_167,
        50_000,
        1000,
        "benjamin-paine/imagenet-1k-32x32",
        f"{_CLASS_FOLDERS}, of this or any other size: `data` imagenet32:FOLDER",
        size=32,
    ),
    "imagenet": Known(
        1_281_167,
        50_000,
        1000,
        "ILSVRC/imagenet-1k",
        f"accept its terms at {_HUB}/ILSVRC/imagenet-1k and log in with `hf auth login`, or "
        f"{_CLASS_FOLDERS}: `data` imagenet:FOLDER",
    ),
}
"""The paper's six, COCO in both years and ImageNet in both sizes. COCO counts the images that have
an annotation: the paper trains and tests on those alone."""


def open_path(
    path: Path,
    where: str,
    *,
    masks: bool = False,
    known: str | None = None,
    known_classes: Collection[str] | None = None,
    group: str | None = None,
) -> Source:
    """Return what is at a path, whatever its layout.

    Args:
        path: a folder, an archive, a parquet file, or a table, COCO JSON or YOLO's YAML of images.
        where: what the data is called in errors and descriptions.
        masks: draw masks where the layout has them.
        known: the known data set that is meant to lie there; of COCO it decides the year.
        known_classes: those of a model that is to be measured on it; see `read_class_folders`.
        group: the column of a table that says which images belong together, if it has it.

    Raises:
        InputError: nothing there, nothing of use in it, or a layout that can be read in two ways.
    """
    if not path.exists():
        raise InputError(f"{where} does not exist")
    try:
        if path.is_dir() and any((path / name).is_file() for name in SAVED):
            return open_saved(path, where, group)
        if path.is_file() and not is_archive(path):
            return _open_file(path, where, masks=masks, group=group)
        return _open_tree(
            open_tree(path),
            where,
            masks=masks,
            known=known,
            known_classes=known_classes,
            group=group,
        )
    except OSError as error:
        raise InputError(f"{where} cannot be read: {error}") from error


def _open_file(path: Path, where: str, *, masks: bool, group: str | None) -> Source:
    if path.suffix.lower() == ".parquet":
        return open_parquet(path, [path], where, group)
    if path.suffix.lower() in (".yaml", ".yml"):
        return _with_odd(*open_data_yaml(path, where, masks=masks))
    tree = Tree(path.parent, (path.name,), lambda name: path.parent / name)
    if found := coco_files(tree, None):
        return read_coco(open_tree(path.parent), found, where, masks=masks)
    if find_tables(tree, where).used:
        tree = open_tree(path.parent)
        return _twice_named(read_listed(tree, [path.name], where, masks=masks, group=group))
    raise InputError(
        f"{where} is not a parquet file, archive, COCO JSON, YOLO data.yaml, or CSV or JSON-lines "
        "file with a column of images; a folder of images works too"
    )


def _open_tree(
    tree: Tree,
    where: str,
    *,
    masks: bool,
    known: str | None,
    known_classes: Collection[str] | None,
    group: str | None,
) -> Source:
    """Try the layouts from the most to the least particular."""
    whole, tree = tree, tree.unwrapped()
    for open_layout in LAYOUTS.values():
        if (opened := open_layout(tree, where, masks, known)) is not None:
            return _with_odd(*opened)
    tables = find_tables(tree, where)
    if tables.used:
        listed = read_listed(tree, tables.used, where, masks=masks, group=group)
        return _twice_named(tables.beside(listed))
    if parquet := [name for name in whole.names if name.lower().endswith(".parquet")]:
        return tables.beside(_open_parquet(whole, parquet, where, group))
    if known_classes is not None:
        tree = whole.unwrapped(known_classes)
    return _with_odd(tree, tables.beside(read_class_folders(tree, where, known_classes)))


def _with_odd(tree: Tree, source: Source) -> Source:
    """Say what there is of a tree beside the images of a source.

    Not for tables, which name the files that are meant.
    """
    unread = set(filter(may_be_meant, tree.names))
    unread -= {r.name for part in source.parts for r in part.records if r.name in unread}
    lines = tuple(tree.unread(unread)) if unread else ()
    known = {problem.image for problem in source.problems}
    odd = tuple(problem for problem in tree.problems if problem.image not in known)
    return _twice_named(
        replace(
            source,
            problems=(*source.problems, *odd),
            notes=(*source.notes, *tree.notes, *lines),
            unread=lines,
        )
    )


def _twice_named(source: Source) -> Source:
    """Say which images are in several splits of a source."""
    splits: dict[str, str] = {}
    shared: dict[tuple[str, str], list[str]] = {}
    for part in source.parts:
        for record in part.records:
            first = splits.setdefault(record.name, part.name)
            if first != part.name:
                shared.setdefault((first, part.name), []).append(record.name)
    notes = (
        f"{count(len(names), 'image')} of {first} also in {second} ({printable(names[0])}"
        f"{', say' if len(names) > 1 else ''})"
        for (first, second), names in shared.items()
    )
    return replace(source, notes=(*source.notes, *notes))


def _open_parquet(tree: Tree, parquet: list[str], where: str, group: str | None) -> Source:
    files = [tree.content(name) for name in parquet]
    here = [file for file in files if isinstance(file, Path)]
    if len(here) < len(files):
        raise InputError(f"{where}: parquet files are not read from archives; unpack {tree.path}")
    if any(file.name == "metadata.parquet" for file in here):
        images = [tree.content(name) for name in tree.names]
        return open_metadata(tree.path, [p for p in images if isinstance(p, Path)], where, group)
    return open_parquet(tree.path, here, where, group)
