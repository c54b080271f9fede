"""What is in a set of bags and what is wrong with it: every instance is looked at."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from jaxtyping import Num

from loss_attention.bags.bag_set import BagSet, not_finite, slices
from loss_attention.bags.files import BagFile, Progress, look_at_files
from loss_attention.bags.folders import bag_set, open_folder, selected, unfit, unlike
from loss_attention.bags.formats import READERS
from loss_attention.bags.labels import AS_TRAINED, HowRead, csv_header, is_usual
from loss_attention.bags.tables import is_bag_table, read_bag_table
from loss_attention.data.check import Checked
from loss_attention.data.decoding import is_image
from loss_attention.data.formats.cells import LISTED_IMAGES, named_column
from loss_attention.data.records import count
from loss_attention.errors import InputError, guarded, printable

_AT_ONCE = 4  # bags, each a slice at a time
_MOST_CLASSES = 40


def is_bags(data: str) -> bool:
    """Return whether data is bags and not images.

    A folder is, which has a file of a bag and no image; and a table is, which has columns for the
    bag and its label and none for an image.
    """
    path = Path(data).expanduser()
    if path.is_dir():
        return _has_bags_alone(path)
    if not path.is_file() or not is_bag_table(path):
        return False
    try:
        header = _header(path)
    except InputError:  # which the reader of images tells as it tells those of its tables
        return False
    usual = [any(is_usual(name, (kind,)) for name in header) for kind in ("bag", "label")]
    return all(usual) and named_column(tuple(header), LISTED_IMAGES) is None


def _header(path: Path) -> list[str]:
    if path.suffix.lower() != ".parquet":
        return csv_header(path)
    with guarded(printable(path.name)):
        return list(pa.parquet.read_schema(path).names)


def _has_bags_alone(root: Path) -> bool:
    found = False
    for _, folders, names in os.walk(root):
        stores = [name for name in folders if name.lower().endswith(".zarr")]
        folders[:] = [name for name in folders if name not in stores and not name.startswith(".")]
        for name in names + stores:
            if is_image(name):
                return False
            found |= Path(name).suffix.lower() in READERS
    return found


def check_bags(
    data: str,
    labels: Path | None = None,
    progress: Progress | None = None,
    how: HowRead = AS_TRAINED,
) -> tuple[int, Checked]:
    """Look at every instance of a table or folder of bags for all that is wrong.

    Args:
        data: a table of instances, or a folder of one file a bag.
        labels: a CSV of the labels of the bags of a folder; None: the one in the folder, or the
            names of its folders.
        progress: called with the number of bags looked at and their total.
        how: what columns are called.

    Returns:
        How many bags could be read, and what is there, wrong and doubtful.

    Raises:
        InputError: nothing that can be looked at.
    """
    path = Path(data).expanduser()
    if path.is_dir():
        return _check_folder(path, labels, progress, how)
    if labels is not None:
        raise InputError(f"`labels` is for a folder of bags, and {path} is not one")
    result = Checked()
    try:
        bags = read_bag_table(path, how)
    except InputError as error:
        result.faults.append(str(error))
        return 0, result
    result.facts += [*_facts(bags), "features: float32, as read", _places(bags, None)]
    _look_at_all(bags, result, progress)
    return len(bags), result


def _check_folder(
    root: Path, labels: Path | None, progress: Progress | None, how: HowRead
) -> tuple[int, Checked]:
    folder = open_folder(root, labels, how)
    endings = Counter(Path(name).suffix.lower() for name in folder.files)
    kinds = ", ".join(f"{number:,} {ending}" for ending, number in endings.items())
    result = Checked(
        [f"{count(len(folder.files), 'file')} ({kinds}), {folder.source}"],
        list(folder.faults),
        list(folder.notes),
    )
    good: list[int] = []
    files: list[BagFile] = []
    for bag, found in enumerate(look_at_files(root, folder.files)):
        if isinstance(found, InputError):
            result.faults.append(str(found))
            continue
        if good:
            fault = unlike(folder.files[good[0]], files[0], folder.files[bag], found)
            result.faults += [] if fault is None else [fault]
        if (fault := unfit(folder, folder.files[bag], found)) is not None:
            result.faults.append(fault)
            continue
        if good and files[0].width != found.width:
            continue
        good.append(bag)
        files.append(found)
    if good:
        bags = bag_set(selected(folder, good), files)
        result.facts += [*_facts(bags), _kinds(files, bags, result), _places(bags, files)]
        result.facts += [] if bags.instance_labels is None else ["labels of instances: yes"]
        _look_at_all(bags, result, progress)
    return len(good), result


def _facts(bags: BagSet) -> Iterator[str]:
    """Yield a line each on bags, instances, patients and splits."""
    yield f"{count(len(bags), 'bag')} of {count(len(bags.class_names), 'class')}: {_classes(bags)}"
    sizes = bags.sizes
    yield (
        f"{count(int(sizes.sum()), 'instance')}: {sizes.min():,} to {sizes.max():,} in a bag, "
        f"median {np.median(sizes):,.0f}"
    )
    if bags.groups is None:
        yield "patients: not said"
    else:
        of_each = np.bincount(bags.groups.numpy())
        of_each = of_each[of_each > 0]
        yield f"patients: {len(of_each):,}, of {of_each.min():,} to {of_each.max():,} bags"
    splits = [name for name in dict.fromkeys(bags.splits) if name]
    if not splits:
        yield "splits: not said"
    for name in splits:
        part = bags.split(name)
        yield f"{name}: {count(len(part), 'bag')}: {_classes(part)}"


def _classes(bags: BagSet) -> str:
    labels = bags.labels
    numbers = (
        labels.sum(dim=0) if bags.multi_label else labels.bincount(minlength=len(bags.class_names))
    )
    shown = [
        f"{number:,} of {printable(name)}"
        for name, number in zip(bags.class_names[:_MOST_CLASSES], numbers.tolist(), strict=False)
    ]
    rest = len(bags.class_names) - len(shown)
    return ", ".join(shown) + (f" and {rest:,} more classes" if rest else "")


def _kinds(files: Sequence[BagFile], bags: BagSet, result: Checked) -> str:
    """Return the width and type of the features; several types are a warning."""
    kinds = Counter(file.kind for file in files)
    if len(kinds) > 1:
        rare = kinds.most_common()[-1][0]
        one = next(bag for bag, file in enumerate(files) if file.kind == rare)
        numbers = " and ".join(f"{kind} in {count(n, 'file')}" for kind, n in kinds.most_common())
        result.doubts.append(f"features are {numbers} ({bags.location(one)})")
    return f"features: {bags.width:,}, {' and '.join(kinds)}"


def _places(bags: BagSet, files: Sequence[BagFile] | None) -> str:
    if files is None:
        return f"coordinates: {'none' if bags.coordinates(0) is None else 'yes'}"
    tiles = sorted({file.tile for file in files if file.tile is not None})
    of_tiles = f", tiles of {' or '.join(map(str, tiles[:5]))} pixels" if tiles else ""
    placed = sum(file.placed for file in files)
    some = "yes" if placed == len(files) else f"in {placed:,} of {len(files):,} bags"
    return f"coordinates: {some if placed else 'none'}{of_tiles}"


def _look_at_all(bags: BagSet, result: Checked, progress: Progress | None) -> None:
    """Look at every feature and every place."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for done, (fault, doubt) in enumerate(
            pool.map(lambda bag: _look(bags, bag), range(len(bags))), start=1
        ):
            result.faults += [fault] if fault else []
            result.doubts += [doubt] if doubt else []
            if progress is not None:
                progress(done, len(bags))


def _look(bags: BagSet, bag: int) -> tuple[str, str]:
    """Return what is wrong with a bag and what is doubtful, each empty if nothing is."""
    where = bags.location(bag)
    try:
        for start, values in slices(bags, bag):
            if not np.isfinite(values).all():
                return f"{where}: {not_finite(values, start)}", ""
        coords = bags.coordinates(bag)
        if bags.instance_labels is not None:
            bags.instance_labels[bag]  # which is checked as it is read
    except InputError as error:
        return str(error), ""
    return "", "" if coords is None else _doubled(coords, where)


def _doubled(coords: Num[np.ndarray, "M 2"], where: str) -> str:
    """Return which instances of a bag are at one place, empty if none are."""
    places = coords[:, 0].astype(np.float64) + 1j * coords[:, 1].astype(np.float64)
    _, first, member = np.unique(places, return_index=True, return_inverse=True)
    again = np.flatnonzero(first[member] != np.arange(len(places)))
    if not len(again):
        return ""
    row = int(again[0])
    place = ", ".join(f"{value:g}" for value in coords[row])
    more = f", and {len(again) - 1:,} more rows are at a place again" if len(again) > 1 else ""
    return f"{where}: rows {first[member[row]] + 1} and {row + 1} are both at ({place}){more}"
