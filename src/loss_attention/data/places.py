"""What lies at a place: which layout a folder, an archive or a file is in, told from its files."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from loss_attention.data.archives import is_archive
from loss_attention.data.file_types import may_be_meant
from loss_attention.data.formats import LAYOUTS
from loss_attention.data.formats.coco import coco_files, read_coco
from loss_attention.data.formats.folder import (
    SAVED,
    open_metadata,
    open_parquet,
    open_saved,
    read_class_folders,
)
from loss_attention.data.formats.listed import read_listed
from loss_attention.data.formats.tables import find_tables
from loss_attention.data.formats.yolo import open_data_yaml
from loss_attention.data.records import Source, count
from loss_attention.data.tree import Tree, open_tree
from loss_attention.errors import InputError, printable


def open_place(
    path: Path,
    where: str,
    *,
    masks: bool = False,
    known: str | None = None,
    known_classes: Collection[str] | None = None,
) -> Source:
    """Return what is at a path, whatever its layout.

    Args:
        path: a folder, an archive, a parquet file, or a table, COCO JSON or YOLO's YAML of images.
        where: what the data is called in errors and descriptions.
        masks: draw masks where the layout has them.
        known: the known data set that is meant to lie there; of COCO it decides the year.
        known_classes: those of a model that is to be measured on it; see `read_class_folders`.

    Raises:
        InputError: nothing there, nothing of use in it, or a layout that can be read in two ways.
    """
    if not path.exists():
        raise InputError(f"{where} does not exist")
    try:
        if path.is_dir() and any((path / name).is_file() for name in SAVED):
            return open_saved(path, where)
        if path.is_file() and not is_archive(path):
            return _open_file(path, where, masks=masks)
        tree = open_tree(path)
        return _open_tree(tree, where, masks=masks, known=known, known_classes=known_classes)
    except OSError as error:
        raise InputError(f"{where} cannot be read: {error}") from error


def _open_file(path: Path, where: str, *, masks: bool) -> Source:
    if path.suffix.lower() == ".parquet":
        return open_parquet(path, [path], where)
    if path.suffix.lower() in (".yaml", ".yml"):
        return _with_odd(*open_data_yaml(path, where, masks=masks))
    tree = Tree(path.parent, (path.name,), lambda name: path.parent / name)
    if found := coco_files(tree, None):
        return read_coco(open_tree(path.parent), found, where, masks=masks)
    if find_tables(tree, where).used:
        return _twice_named(read_listed(open_tree(path.parent), [path.name], where, masks=masks))
    raise InputError(
        f"{where} is no parquet file, archive, COCO JSON, YOLO data.yaml, or CSV or JSON-lines "
        "file with a column of images; a folder of images works too"
    )


def _open_tree(
    tree: Tree,
    where: str,
    *,
    masks: bool,
    known: str | None,
    known_classes: Collection[str] | None,
) -> Source:
    """Try the layouts from the most to the least particular."""
    whole, tree = tree, tree.unwrapped()
    for open_layout in LAYOUTS.values():
        if (opened := open_layout(tree, where, masks, known)) is not None:
            return _with_odd(*opened)
    tables = find_tables(tree, where)
    if tables.used:
        return _twice_named(tables.beside(read_listed(tree, tables.used, where, masks=masks)))
    if parquet := [name for name in whole.names if name.lower().endswith(".parquet")]:
        return tables.beside(_open_parquet(whole, parquet, where))
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


def _open_parquet(tree: Tree, parquet: list[str], where: str) -> Source:
    files = [tree.content(name) for name in parquet]
    here = [file for file in files if isinstance(file, Path)]
    if len(here) < len(files):
        raise InputError(f"{where}: parquet files are not read from archives; unpack {tree.path}")
    if any(file.name == "metadata.parquet" for file in here):
        images = [tree.content(name) for name in tree.names]
        return open_metadata(tree.path, [p for p in images if isinstance(p, Path)], where)
    return open_parquet(tree.path, here, where)
