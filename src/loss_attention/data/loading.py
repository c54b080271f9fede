"""From what a user names as data to decoded training and test images."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import torch
from PIL import Image

from loss_attention.data.assembling import assemble, chosen
from loss_attention.data.classes import select_classes
from loss_attention.data.decoding import to_tensor
from loss_attention.data.formats.hub import open_hub, source_of_tables
from loss_attention.data.known import KNOWN
from loss_attention.data.memory import IN_REACH, Storage
from loss_attention.data.naming import MADE, understood
from loss_attention.data.placement import Resize
from loss_attention.data.places import open_place
from loss_attention.data.records import Source, refuse
from loss_attention.data.sample import ImageSet, Splits
from loss_attention.data.stacking import Form, Progress
from loss_attention.errors import InputError


def load_splits(
    data: str,
    *,
    in_channels: int,
    image_size: int | None,
    seed: int,
    validation_fraction: float = 0.0,
    resize: Resize = "squash",
    classes: Sequence[str] = (),
    masks: bool = False,
    skip_broken: bool = False,
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
        image_size: bring each image to this many pixels square; None: they must be of one size
            already, or are of a known data set with a size of its own.
        seed: decides made data, which classes are drawn, what is held out where there is no test
            split, and the validation images.
        validation_fraction: the part of the training split that is held out to choose by.
        resize: squash images to the square, or pad them and keep their aspect.
        classes: names of the classes to keep, or one number of classes to draw by the seed; none:
            all of them.
        masks: read the masks of objects too.
        skip_broken: go on without the images that something is wrong with.
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
            raise InputError(f"{data} is made here: --classes and --masks do not apply to it")
        if storage.stream == "yes":
            raise InputError(f"{data} is made here, in memory: --stream yes does not apply to it")
        made = MADE[data](seed)
        train, test = (
            _in_form(part.decoded(), in_channels, image_size) for part in (made.trainval, made.test)
        )
        return replace(
            made, trainval=train, test=test, validation_fraction=validation_fraction, seed=seed
        )
    source = open_source(data, masks=masks)
    if not skip_broken:  # before a split seems to be missing for want of sound images
        refuse(source.where, source.problems)
    source = chosen(source)
    known = KNOWN.get(understood(data).name)
    if known is not None:
        source = known.verified(source)
        if known.size is not None and image_size is None:
            form = replace(form, image_size=known.size)
            note = f"brought to {known.size} x {known.size} pixels; --image-size N for others"
            source = replace(source, notes=(*source.notes, note))
    source = select_classes(source, classes, seed)
    splits = assemble(
        source,
        form,
        seed,
        skip_broken=skip_broken,
        storage=storage,
        progress=progress,
    )
    return replace(splits, validation_fraction=validation_fraction, seed=seed)


def open_source(
    data: str, *, masks: bool = False, known_classes: Collection[str] | None = None
) -> Source:
    """Return all that there is of the data of a name or at a place, undecoded; see `load_splits`.

    Args:
        data: not of `MADE`.
        masks: draw masks where the layout has them.
        known_classes: those of a model that is to be measured on the data, which then needs no
            training split; None: it is to be trained on.

    Raises:
        InputError: nothing of this name, or nothing usable there.
    """
    named = understood(data)
    if named.path is not None:
        where = f"{named.name} in {data.partition(':')[2]}" if named.name else f"data folder {data}"
        return open_place(
            named.path, where, masks=masks, known=named.name or None, known_classes=known_classes
        )
    if named.kind == "hub":
        return source_of_tables(open_hub(named.name), named.name)
    known = KNOWN[named.name]
    if known.hub is None:
        raise InputError(f"{data} is not downloaded by itself: {known.get}")
    return source_of_tables(open_hub(known.hub, known.get), known.hub)


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
