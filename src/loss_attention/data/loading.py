"""From what a user names as data to decoded training and test images."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

from loss_attention.data.decoding import to_tensor
from loss_attention.data.digits import digits, multi_digits
from loss_attention.data.folder import open_local
from loss_attention.data.hub import HUB_ID, open_hub
from loss_attention.data.sample import ImageSet, Splits
from loss_attention.data.splits import decode_tables
from loss_attention.data.stacking import Progress
from loss_attention.errors import unknown_name

MADE: dict[str, Callable[[int], Splits]] = {"digits": digits, "multi-digits": multi_digits}
"""Data made here, from a seed."""

HUB_IDS: dict[str, str] = {"cifar10": "uoft-cs/cifar10"}
"""Short names of data sets on the Hugging Face hub."""


def load_splits(
    data: str,
    *,
    in_channels: int,
    image_size: int | None,
    seed: int,
    progress: Progress | None = None,
) -> Splits:
    """Load data, decoded, in memory.

    Args:
        data: a known name (`digits`, `multi-digits`, `cifar10`), a local folder or parquet file, or
            a Hugging Face data set (`org/name`, or `org/name:configuration`). A name that is
            both known and a folder here is the known one; `./NAME` is the folder.
        in_channels: 1 or 3: images are converted to grey or to colour.
        image_size: resize each image to this many pixels square, whatever its shape was; None:
            they must be of one size already.
        seed: decides made data, and what is held out where there is no test split.
        progress: called with the number of decoded images and their total, now and then.

    Returns:
        The training split and the reported one: the test split, else the validation split, else
        a fifth of the training split; `Splits.source` says which.

    Raises:
        InputError: nothing of this name, nothing usable there, unreadable images, labels outside
            the classes, one class only, or images of unequal sizes.
    """
    if data in MADE:
        made = MADE[data](seed)
        train, test = (_in_form(part, in_channels, image_size) for part in (made.train, made.test))
        return replace(made, train=train, test=test)
    path = Path(data).expanduser()
    root = None
    if data in HUB_IDS:
        tables, where = open_hub(HUB_IDS[data]), HUB_IDS[data]
    elif _looks_local(data, path):
        tables, where = open_local(path), f"data folder {data}"
        root = (path if path.is_dir() else path.parent).absolute()
    elif HUB_ID.fullmatch(data):
        tables, where = open_hub(data), data
    else:
        raise unknown_name("dataset", data, [*MADE, *HUB_IDS])
    return decode_tables(
        tables,
        where,
        root,
        in_channels=in_channels,
        image_size=image_size,
        seed=seed,
        progress=progress,
    )


def _looks_local(data: str, path: Path) -> bool:
    """Tell a path from a name: it exists, is written like one, or is not `org/name`."""
    if data and path.exists():
        return True
    written_so = data.startswith((".", "~", "/", os.sep)) or path.suffix == ".parquet"
    return written_so or (bool({"/", os.sep} & set(data)) and not HUB_ID.fullmatch(data))


def _in_form(images: ImageSet, in_channels: int, image_size: int | None) -> ImageSet:
    """Bring made grey scenes to the channels and the size that were asked for, boxes with them."""
    pixels, boxes = images.images, images.boxes
    height, width = images.size
    if image_size is not None and image_size != height:
        size = (image_size, image_size)
        pixels = torch.stack([to_tensor(Image.fromarray(x[0].numpy()), size) for x in pixels])
        if boxes is not None:
            boxes = boxes * torch.tensor([image_size / width, image_size / height] * 2)
    if in_channels != pixels.shape[1]:
        pixels = pixels.repeat(1, in_channels, 1, 1)
    return replace(images, images=pixels, boxes=boxes)
