"""The layouts that data comes in, a module each. A new one is a module, and a line in `LAYOUTS`."""

from __future__ import annotations

from collections.abc import Callable

from loss_attention.data.formats.coco import open_coco
from loss_attention.data.formats.tiny_imagenet import open_tiny_imagenet
from loss_attention.data.formats.voc import open_voc
from loss_attention.data.formats.yolo import open_yolo
from loss_attention.data.records import Source
from loss_attention.data.tree import Tree

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
