"""Bags from wherever they are: a table of instances, or a folder of one file a bag."""

from __future__ import annotations

from pathlib import Path

from loss_attention.bags.bag_set import BagSet
from loss_attention.bags.tables import ENDINGS, is_bag_table, read_bag_table
from loss_attention.errors import InputError


def read_bags(data: str) -> BagSet:
    """Return the bags of a table or folder.

    Raises:
        InputError: there is none, or it is malformed; file and row are named.
    """
    path = Path(data).expanduser()
    if not path.exists():
        raise InputError(f"no bags at {path}: it is not there")
    if path.is_file() and is_bag_table(path):
        return read_bag_table(path)
    raise InputError(f"{path} is no table of instances ({', '.join(ENDINGS)})")
