"""Image files on their way to the network: decoded by threads, put together to batches."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from torch import Tensor

from loss_attention.data.decoding import UnreadableImage, read_image, to_tensor
from loss_attention.data.placement import Resize
from loss_attention.errors import printable
from loss_attention.explained.pipeline import MOST_THREADS, cores, in_order, threads
from loss_attention.explained.questions import Sight, as_seen
from loss_attention.report.drawing import LONGEST, resized
from loss_attention.tiling import RefusedPhoto

AHEAD = 2
"""Batches that are read or wait: the network has the next one, and threads work on another."""


class ReadImage(NamedTuple):
    """An image file, read.

    Attributes:
        number: which of the files it is, from 0.
        source: the file.
        pixels: uint8 `(C, H, W)`, as the model sees them; None: it cannot be read or explained.
        size: width and height of the upright original; 0 where it is not known.
        picture: in grey, to draw on; None where nothing is drawn.
        error: in a line, why there are no pixels.
    """

    number: int
    source: Path
    pixels: Tensor | None
    size: tuple[int, int] = (0, 0)
    picture: Image.Image | None = None
    error: str = ""


def read_batches(
    sources: Sequence[Path], sight: Sight, in_channels: int, batch_size: int, *, pictures: bool
) -> Generator[list[ReadImage]]:
    """Yield image files in batches, in order, those that cannot be read among them.

    Args:
        sources: the files.
        sight: how the model sees them.
        in_channels: 1 for grey, 3 for colour.
        batch_size: images in a batch; the last may have fewer.
        pictures: keep what is drawn on.
    """
    read = partial(_read, sight, in_channels, pictures)
    with threads(min(MOST_THREADS, cores())) as submit:
        images = in_order(submit, read, enumerate(sources), AHEAD * batch_size)
        while batch := list(islice(images, batch_size)):
            yield batch


def _read(sight: Sight, in_channels: int, pictures: bool, item: tuple[int, Path]) -> ReadImage:
    number, source = item
    try:
        image = read_image(source, in_channels)
        size = sight.of(image)
    except UnreadableImage as error:
        return ReadImage(number, source, None, error=str(error))
    except RefusedPhoto as error:
        return ReadImage(number, source, None, error=refused(source, error))
    pixels = to_tensor(image, size, sight.resize)
    picture = drawn_on(image, size, sight.resize) if pictures else None
    return ReadImage(number, source, pixels, image.size, picture)


def drawn_on(image: Image.Image, size: tuple[int, int], resize: Resize) -> Image.Image:
    """Return what is drawn on of an image: a batch in full size and colour would fill the memory.

    Args:
        image: of any size.
        size: height and width that the model sees it at.
        resize: how it is brought to these.
    """
    return as_seen(resized(image, 1, LONGEST), size, resize).convert("L")


def refused(source: Path, error: RefusedPhoto) -> str:
    """Say which photo cannot be explained, and why."""
    return f"{printable(str(source))}: {error}"
