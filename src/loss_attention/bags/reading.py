"""Bags from wherever they are: a table of instances, or a folder of one file a bag."""

from __future__ import annotations

from pathlib import Path

from loss_attention.bags.bag_set import BagSet
from loss_attention.bags.files import Progress
from loss_attention.bags.folders import read_bag_folder
from loss_attention.bags.formats import READERS
from loss_attention.bags.labels import AS_TRAINED, HowRead
from loss_attention.bags.tables import ENDINGS, is_bag_table, read_bag_table
from loss_attention.errors import InputError


def read_bags(
    data: str,
    labels: Path | None = None,
    progress: Progress | None = None,
    how: HowRead = AS_TRAINED,
) -> BagSet:
    """Return the bags of a table or folder.

    Args:
        data: a table of instances, or a folder of one file a bag.
        labels: a CSV of the labels of the bags of a folder; None: the one in the folder, or the
            names of its folders.
        progress: called with the number of files looked at and their total.
        how: what columns are called, and whether labels are needed.

    Raises:
        InputError: there is none, or it is malformed; file and row are named.
    """
    path = Path(data).expanduser()
    if not path.exists():
        raise InputError(f"no bags at {path}: there is no such file or folder")
    if path.is_dir():
        return read_bag_folder(path, labels, progress, how)
    if labels is not None:
        raise InputError(f"`labels` is for a folder of bags, and {path} is not one")
    if is_bag_table(path):
        return read_bag_table(path, how)
    raise InputError(
        f"{path} is neither a table of instances ({', '.join(ENDINGS)}) nor a folder of bags "
        f"({', '.join(READERS)})"
    )
