"""Scenes of real scanned digits: the data set that travels with the package.

Scikit-learn ships 1,797 handwritten digits of 8 x 8 pixels (UCI, Alpaydin & Kaynak 1998). A scene
shows one whole digit (`digits`) or one to four (`multi-digits`) at random positions and sizes,
among fragments of other digits and noise, so a network has to find the digit before it can name it.
The box of each whole digit is known exactly: the smallest that holds its ink.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from loss_attention.data.sample import ImageSet, Splits

CLASSES = tuple("0123456789")
SCENE = 48
SIZES = range(22, 39)  # sides of a whole digit before its empty margin is cut off
MULTI_SIZES = range(14, 25)  # so that four fit beside each other
FRAGMENT_SIZES = range(12, 25)
TEST_FRACTION = 0.25
MOST_DIGITS = 4
INK = 0.1  # a digit ends where it is fainter than this part of full black
NOISE = 0.06


class _Bank:
    """Scanned digits and their labels, each resized when first drawn in a size."""

    def __init__(self, scans: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
        self.labels = labels
        self._scans = [Image.fromarray(scan) for scan in scans]
        self._resized: dict[tuple[int, int], NDArray[np.float32]] = {}

    def __len__(self) -> int:
        return len(self.labels)

    def resized(self, which: int, size: int) -> NDArray[np.float32]:
        """Return a digit of `size` x `size` pixels, ink from 0 to 1."""
        if (which, size) not in self._resized:
            image = self._scans[which].resize((size, size), Image.Resampling.BICUBIC)
            self._resized[which, size] = np.asarray(image).clip(0, 1)
        return self._resized[which, size]


def digits(seed: int = 0, train: int = 8000, test: int = 2000) -> Splits:
    """Make single-label scenes of 48 x 48 pixels, one whole digit and its box in each.

    Args:
        seed: the same seed makes the same scenes.
        train: number of training scenes.
        test: number of test scenes; no scanned digit is used in both.
    """
    return _splits(seed, train, test, most=1)


def multi_digits(seed: int = 0, train: int = 8000, test: int = 2000) -> Splits:
    """Make multi-label scenes, one to four whole digits and their boxes in each; see `digits`."""
    return _splits(seed, train, test, most=MOST_DIGITS)


def _splits(seed: int, train: int, test: int, most: int) -> Splits:
    from sklearn.datasets import load_digits  # a second's import that only this source needs

    scans, labels = load_digits(return_X_y=True)
    scans = scans.reshape(-1, 8, 8).astype(np.float32) / 16
    shuffle = np.random.default_rng([seed, most, 0]).permutation(len(scans))
    cut = round(TEST_FRACTION * len(scans))
    parts = {"test": shuffle[:cut], "train": shuffle[cut:]}
    sets = {}
    for stream, (name, count) in enumerate([("train", train), ("test", test)], start=1):
        bank = _Bank(scans[parts[name]], labels[parts[name]].astype(np.int64))
        sets[name] = _scenes(bank, count, most, np.random.default_rng([seed, most, stream]))
    what = "one whole digit" if most == 1 else f"one to {most} whole digits"
    source = (
        f"scenes of scikit-learn's scanned digits, {what} in each "
        f"({train:,} training and {test:,} test scenes from disjoint scans, seed {seed})"
    )
    return Splits(sets["train"], sets["test"], source)


def _scenes(bank: _Bank, count: int, most: int, rng: np.random.Generator) -> ImageSet:
    images = np.empty((count, 1, SCENE, SCENE), np.uint8)
    boxes = np.full((count, most, 4), np.nan, np.float32)
    box_labels = np.full((count, most), -1, np.int64)
    for i in range(count):
        canvas = np.zeros((SCENE, SCENE), np.float32)
        taken: list[tuple[int, int, int, int]] = []
        for g in range(rng.integers(1, most + 1)):
            placed = _place_digit(canvas, bank, taken, rng, alone=most == 1)
            if placed is not None:
                box_labels[i, g], boxes[i, g] = placed
        _place_fragments(canvas, bank, taken, rng)
        canvas += rng.normal(0.0, NOISE, canvas.shape)
        images[i, 0] = (canvas.clip(0, 1) * 255).round()
    order = np.argsort(box_labels < 0, axis=1, kind="stable")  # digits that did not fit go last
    boxes = np.take_along_axis(boxes, order[..., None], axis=1)
    box_labels = np.take_along_axis(box_labels, order, axis=1)
    labels = torch.from_numpy(box_labels[:, 0].copy())
    if most > 1:
        matrix = np.zeros((count, len(CLASSES) + 1), np.uint8)
        np.put_along_axis(matrix, box_labels, 1, axis=1)  # -1 falls into the extra column
        labels = torch.from_numpy(matrix[:, :-1].copy())
    return ImageSet(
        torch.from_numpy(images),
        labels,
        CLASSES,
        torch.from_numpy(boxes),
        torch.from_numpy(box_labels),
    )


def _place_digit(
    canvas: NDArray[np.float32],
    bank: _Bank,
    taken: list[tuple[int, int, int, int]],
    rng: np.random.Generator,
    *,
    alone: bool,
) -> tuple[int, tuple[int, int, int, int]] | None:
    """Draw a whole digit where none is yet; return its label and the box of its ink."""
    sizes = SIZES if alone else MULTI_SIZES
    which = int(rng.integers(len(bank)))
    for _ in range(20):
        size = int(rng.integers(sizes.start, sizes.stop))
        digit = bank.resized(which, size)
        ink = digit > INK
        rows, columns = np.nonzero(ink.any(axis=1))[0], np.nonzero(ink.any(axis=0))[0]
        digit = digit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        height, width = digit.shape
        y, x = (int(rng.integers(SCENE - side + 1)) for side in (height, width))
        box = (x, y, x + width, y + height)
        if not any(_overlap(box, other) for other in taken):
            _draw(canvas, digit, x, y, rng)
            taken.append(box)
            return int(bank.labels[which]), box
    return None


def _place_fragments(
    canvas: NDArray[np.float32],
    bank: _Bank,
    taken: list[tuple[int, int, int, int]],
    rng: np.random.Generator,
) -> None:
    """Scatter parts of other digits, about a quarter of each, clear of the whole ones' boxes."""
    for _ in range(rng.integers(6, 12)):
        size = int(rng.integers(FRAGMENT_SIZES.start, FRAGMENT_SIZES.stop))
        digit = bank.resized(int(rng.integers(len(bank))), size)
        height, width = rng.integers(size // 3, size * 5 // 8, 2)
        top, left = rng.integers(size - height + 1), rng.integers(size - width + 1)
        fragment = digit[top : top + height, left : left + width]
        y, x = int(rng.integers(SCENE - height + 1)), int(rng.integers(SCENE - width + 1))
        if not any(_overlap((x, y, x + int(width), y + int(height)), box) for box in taken):
            _draw(canvas, fragment, x, y, rng)


def _draw(
    canvas: NDArray[np.float32], ink: NDArray[np.float32], x: int, y: int, rng: np.random.Generator
) -> None:
    height, width = ink.shape
    view = canvas[y : y + height, x : x + width]
    np.maximum(view, ink * rng.uniform(0.6, 1.0), out=view)


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
