"""Bags in a folder of one file each: which files there are, and what is said of them.

A CSV among the files says it, or the folders do that they lie in, one a class. A bag is called as
its file is, without the ending; of two files of one bag in two forms, as CLAM writes them, one is
read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from loss_attention.bags.bag_set import BagSet, ReadLabels
from loss_attention.bags.files import BagFile, FileInstances, Progress, look_at_files
from loss_attention.bags.formats import COORDS, LABELS, READERS
from loss_attention.bags.labels import (
    AS_TRAINED,
    OF_BAGS,
    BagLabels,
    HowRead,
    csv_header,
    one_hot_columns,
    read_csv,
    read_labels,
    usual_columns,
)
from loss_attention.data.division import SPLITS
from loss_attention.data.records import few
from loss_attention.errors import InputError, guarded, printable, quoted

LISTS = (".csv", ".tsv")
_BEST_FIRST = {ending: rank for rank, ending in enumerate(READERS)}


@dataclass
class BagFolder:
    """A folder of bags, before their files are opened.

    Attributes:
        root: the folder.
        said: what is said of the bags that have a file, and what is wrong with that.
        files: the file of each, from the folder.
        source: what says it: a CSV, or folders.
        notes: what else there is to know.
    """

    root: Path
    said: BagLabels
    files: tuple[str, ...]
    source: str
    notes: list[str] = field(default_factory=list)

    @property
    def faults(self) -> list[str]:
        """What is wrong with it, a line each."""
        return self.said.faults


def read_bag_folder(
    root: Path,
    labels: Path | None = None,
    progress: Progress | None = None,
    how: HowRead = AS_TRAINED,
) -> BagSet:
    """Read what a folder of bags says of them; their features stay in their files.

    Args:
        root: the folder.
        labels: the CSV that says which bag has which label; None: the one in the folder, or the
            names of its folders.
        progress: called with the number of files looked at and their total.
        how: what columns of a CSV are called, and whether labels are needed.

    Raises:
        InputError: the first thing that is wrong: a bag without a file, a file without a label or
            that is not what its ending says, features of several widths, or a patient in two
            splits.
    """
    folder = open_folder(root, labels, how)
    if folder.faults:
        rest = len(folder.faults) - 1
        more = f"; `data check` shows {rest:,} more" if rest else ""
        raise InputError(folder.faults[0] + more)
    files: list[BagFile] = []
    for name, found in zip(folder.files, look_at_files(root, folder.files, progress), strict=True):
        if isinstance(found, InputError):
            raise found
        files.append(found)
        for fault in (unlike(folder.files[0], files[0], name, found), unfit(folder, name, found)):
            if fault is not None:
                raise InputError(fault)
    return bag_set(folder, files)


def bag_set(folder: BagFolder, files: Sequence[BagFile]) -> BagSet:
    """Return the bags of a folder in which nothing is wrong."""
    said = folder.said
    instances, rows = FileInstances(folder.root, folder.files, files), np.arange(len(said.names))
    known = None
    if said.class_names and all(file.labels is not None for file in files):
        several = said.labels.ndim == 2
        read = partial(instances.instance_labels, classes=said.class_names, several=several)
        known = ReadLabels(read, rows)
    return BagSet(
        instances=instances,
        rows=rows,
        labels=said.labels,
        class_names=said.class_names,
        names=said.names,
        instance_labels=known,
        groups=said.groups,
        splits=said.splits,
    )


def unlike(name: str, file: BagFile, other_name: str, other: BagFile) -> str | None:
    """Return what a file of a set must be like the first one in, and is not."""
    first, second = printable(name), printable(other_name)
    if file.width != other.width:
        return f"{second} has {other.width:,} features an instance, and {first} {file.width:,}"
    for what, there, there_too in (
        (COORDS, file.placed, other.placed),
        (LABELS, file.labels is not None, other.labels is not None),
    ):
        if there != there_too:
            without, having = (second, first) if there else (first, second)
            return f"{without} has no `{what}`, and {having} has: give them to all bags, or to none"
    return None


def unfit(folder: BagFolder, name: str, file: BagFile) -> str | None:
    """Return what is wrong with the shape of a file's labels of instances, by those of the bags."""
    if file.labels is None or not folder.said.class_names:
        return None
    several, shape = folder.said.labels.ndim == 2, tuple(file.labels)
    classes = len(file.classes or folder.said.class_names)
    if shape == (file.size,) or (several and shape == (file.size, classes)):
        return None
    rule = f"({file.size})" + (f", or ({file.size}, {classes}) of 0 and 1" if several else "")
    found = ", ".join(map(str, shape))
    return f"{printable(name)}: `{LABELS}` is ({found}), and it must be {rule}"


def selected(folder: BagFolder, index: Sequence[int]) -> BagFolder:
    """Return a folder with these of its bags alone."""
    names = [folder.said.names[i] for i in index]
    return replace(
        folder,
        said=_of(folder.said, index, names),
        files=tuple(folder.files[i] for i in index),
    )


def open_folder(root: Path, labels: Path | None = None, how: HowRead = AS_TRAINED) -> BagFolder:
    """Return which bags a folder has and what is said of them, with what is wrong in that.

    Raises:
        InputError: no files of bags, nothing that says their labels where they are needed, or two
            things that do.
    """
    if root.suffix.lower() in READERS:
        raise InputError(f"{root} is one bag: name the folder that it is in")
    files = list(_files(root))
    if not files:
        raise InputError(f"{root} holds no bags ({', '.join(READERS)})")
    if how.labelled is False and how.named and how.required:
        raise InputError(f"{root}: only files are read here, and `columns` is for a table")
    table = labels if labels is not None or how.labelled is False else _table_in(root, how)
    if table is not None:
        return _listed(root, files, table, how)
    return _in_class_folders(root, files, how)


def _files(root: Path) -> Iterator[str]:
    """Yield the files of bags in a folder and those within it, in order; hidden ones are left."""
    with guarded(printable(str(root))):
        for place, folders, names in os.walk(root):
            stores = [name for name in folders if PurePosixPath(name).suffix.lower() == ".zarr"]
            folders[:] = sorted(
                one for one in folders if one not in stores and not one.startswith(".")
            )
            for name in sorted(names + stores):
                ending = PurePosixPath(name).suffix.lower()
                if ending in READERS and not name.startswith("."):
                    yield (Path(place) / name).relative_to(root).as_posix()


def _table_in(root: Path, how: HowRead) -> Path | None:
    """Return the CSV at the top of a folder that says the labels of bags, if there is one.

    Raises:
        InputError: there are two, or none with the columns that were named.
    """
    found: list[Path] = []
    flagged: list[Path] = []
    tables = sorted(one for one in root.iterdir() if one.suffix.lower() in LISTS and one.is_file())
    for path in tables:
        header = csv_header(path)
        if how.has(header, "bag"):
            (found if how.has(header, "label") else flagged).append(path)
    if not found:
        found = [path for path in flagged if _has_classes(path, how)]
    if not found and how.named and how.required:
        if len(tables) == 1:
            usual_columns(csv_header(tables[0]), printable(tables[0].name), how, OF_BAGS)
        there = f"{tables[0].name} has {few(csv_header(tables[0]))}" if tables else "there is none"
        raise InputError(f"{root}: no CSV of labels has the columns that `columns` names: {there}")
    if len(found) > 1:
        raise InputError(
            f"{root}: {found[0].name} and {found[1].name} both say labels of bags: say which "
            "counts with `labels`"
        )
    return next(iter(found), None)


def _has_classes(table: Path, how: HowRead) -> bool:
    """Return whether a CSV has a column of 0 and 1 for each of several classes."""
    rows = read_csv(table, how)
    where = printable(table.name)
    return bool(one_hot_columns(rows, usual_columns(rows.column_names, where, how, OF_BAGS)))


def _in_folders_by_form(files: Sequence[str]) -> bool:
    """Return whether a bag is there in several forms, each in a folder of its own, as of CLAM."""
    forms: dict[str, set[str]] = {}
    for file in map(PurePosixPath, files):
        forms.setdefault(file.stem, set()).add(file.suffix.lower())
    return any(len(some) > 1 for some in forms.values())


def _unlabelled(root: Path, files: Sequence[str]) -> BagFolder:
    """Return all bags of a folder, of which nothing is said.

    They are called as their files are; where two in different folders have one name, by their path.
    """
    faults: list[str] = []
    of_names, notes = _by_name(files, lambda file: PurePosixPath(file).stem, faults)
    if faults:
        of_names, notes = _by_name(files, lambda file: str(PurePosixPath(file).with_suffix("")), [])
    return _unsaid(root, of_names, notes)


def _unsaid(root: Path, of_names: dict[str, str], notes: list[str]) -> BagFolder:
    """Return bags by the names of their files, of which nothing else is said."""
    each = np.arange(len(of_names))
    labels = torch.zeros(len(each), dtype=torch.int64)
    said = BagLabels(tuple(of_names), each, each, labels=labels)
    return BagFolder(root, said, tuple(of_names.values()), "no labels", notes)


def _listed(root: Path, files: Sequence[str], table: Path, how: HowRead) -> BagFolder:
    """Return the bags that both a CSV and a folder have, and what only one has as what is wrong."""
    where = printable(table.name)
    if not table.is_file():
        raise InputError(f"no labels at {table}: there is no such file")
    rows = read_csv(table, how)
    columns = usual_columns(rows.column_names, where, how, OF_BAGS)
    said = read_labels(rows, columns, where, one_hot=True, how=how)
    of_names, notes = _by_name(files, lambda file: PurePosixPath(file).stem, said.faults)
    found: dict[str, int] = {}
    lost: list[int] = []
    for bag, name in enumerate(said.names):
        stem = next((one for one in _stems(name) if one in of_names), None)
        if stem is None:
            lost.append(bag)
        elif stem in found:
            row, other = said.first[bag] + 1, said.names[found[stem]]
            said.faults.append(f"{where}: row {row}: {quoted(name)} is the file of {quoted(other)}")
        else:
            found[stem] = bag
    if len(lost) == len(said.names):
        raise InputError(
            f"{where}: none of its bags has a file in {root}: {quoted(said.names[0])} is to be the "
            f"name of a file without its ending, as {quoted(next(iter(of_names)))} is"
        )

    def without_file(row: int) -> str:
        return f"{where}: row {row + 1}: no file of the bag {quoted(said.names[said.number[row]])}"

    said.note(said.first[lost], without_file)
    for stem, file in of_names.items():
        if stem not in found:
            said.faults.append(f"{printable(file)}: no row of {where} has {quoted(stem)}")
    stems = sorted(found)
    return BagFolder(
        root,
        _of(said, [found[one] for one in stems], stems),
        tuple(of_names[one] for one in stems),
        f"labels in {where}",
        notes,
    )


def _stems(name: str) -> Iterator[str]:
    """Yield what the file of a bag may be called, without its ending: a path and an ending go."""
    yield name
    last = name.replace("\\", "/").rpartition("/")[2]
    yield last
    yield last.rpartition(".")[0]


def _in_class_folders(root: Path, files: Sequence[str], how: HowRead) -> BagFolder:
    """Return bags whose class is the folder that they are in; above it there may be splits."""
    parts = [PurePosixPath(file).parts for file in files]
    divided = all(len(one) > 2 and one[0].casefold() in SPLITS for one in parts)
    depth = int(divided)
    loose = next(
        (file for file, one in zip(files, parts, strict=True) if len(one) < depth + 2), None
    )
    classes = sorted({one[depth] for one in parts if len(one) > depth + 1})
    none = loose is not None or len(classes) < 2
    if not how.labelled and (none or _in_folders_by_form(files)):
        return _unlabelled(root, files)
    if none:
        raise InputError(
            f"{root}: nothing says which bag has which label: put a CSV with the columns bag and "
            "label beside the files, name one with `labels`, or make a folder a class"
        )
    faults: list[str] = []
    of_names, notes = _by_name(files, lambda file: str(PurePosixPath(file).with_suffix("")), faults)
    names = tuple(of_names)
    kept = [PurePosixPath(one).parts for one in of_names.values()]
    each = np.arange(len(names))
    if how.labelled is False:
        return _unsaid(root, of_names, notes)
    said = BagLabels(
        names,
        each,
        each,
        tuple(classes),
        torch.tensor([classes.index(one[depth]) for one in kept]),
        splits=tuple(SPLITS[one[0].casefold()] for one in kept) if divided else (),
        faults=faults,
    )
    first: dict[str, str] = {}
    for file in of_names.values():
        stem, place = PurePosixPath(file).stem, PurePosixPath(file).parts[depth]
        other = first.setdefault(stem, file)
        if PurePosixPath(other).parts[depth] != place:
            notes.append(f"{other} and {file} have one name and two labels")
    return BagFolder(root, said, tuple(of_names.values()), "a folder a class", notes)


def _by_name(
    files: Sequence[str], named: Callable[[str], str], faults: list[str]
) -> tuple[dict[str, str], list[str]]:
    """Return the file of each bag by its name; two of one form are wrong, of two forms a note."""
    found: dict[str, str] = {}
    double: dict[tuple[str, str], list[str]] = {}
    for file in files:
        name = named(file)
        other = found.setdefault(name, file)
        if other == file:
            continue
        forms = [PurePosixPath(one).suffix.lower() for one in (other, file)]
        if forms[0] == forms[1]:
            faults.append(
                f"{printable(other)} and {printable(file)} are both the bag {quoted(name)}"
            )
            continue
        kept, left = sorted(forms, key=_BEST_FIRST.__getitem__)
        found[name] = other if forms[0] == kept else file
        double.setdefault((kept, left), []).append(name)
    notes = [
        f"{len(names):,} bags have a {kept} and a {left} file, as {quoted(names[0])}: the {kept} "
        "file is read"
        for (kept, left), names in double.items()
    ]
    return found, notes


def _of(said: BagLabels, index: Sequence[int], names: Sequence[str]) -> BagLabels:
    """Return what is said of some bags, under other names."""
    return replace(
        said,
        names=tuple(names),
        number=np.arange(len(index)),
        first=said.first[list(index)],
        labels=said.labels[torch.tensor(list(index))],
        patients=tuple(said.patients[i] for i in index) if said.patients else (),
        splits=tuple(said.splits[i] for i in index) if said.splits else (),
    )
