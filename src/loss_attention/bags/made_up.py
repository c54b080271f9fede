"""Made-up bags: digits with one that makes a bag positive, and tests of what a pooling assumes.

The three tests are those of Raff and Holt ("Reproducibility in Multiple Instance Learning: A Case
For Algorithmic Unit Tests", NeurIPS 2023). In each, training and test bags differ in what must not
matter, so that a classifier which learned that is worse than chance on the test bags: the presence
of an instance that speaks against a class (`poisoned`, `two_concepts`), and how many there are of
one kind (`false_frequency`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.datasets import load_digits

from loss_attention.bags.bag_set import BagSet, PackedInstances

WIDTH = 16
"""Features of the instances of the tests."""
BACKGROUND = 10
"""Instances of no meaning in a bag of the first test; in the others at most so many."""
FINDING, FINDINGS = 9, 2
"""The digit that makes a bag positive, and how many of them a positive bag has at most."""
LEVELS = 16
"""Of the pixels of scikit-learn's digits."""

Values = Float[np.ndarray, "M D"]


def poisoned(bags: int, seed: int, *, training: bool) -> BagSet:
    """Return bags that are positive where one to three instances of a concept are among others.

    Negative training bags have an instance that speaks against the concept, and so have the
    positive test bags: a classifier may not call a bag positive for lack of it.
    """

    def made(label: int, chance: np.random.Generator) -> tuple[Values, Int[np.ndarray, " M"]]:
        parts = [_around(chance, 0, 1, BACKGROUND)]
        found = int(chance.integers(1, 4)) if label else 0
        for _ in range(found):
            wide = chance.integers(2)
            parts.append(_around(chance, 0, 3, 1) if wide else _around(chance, 1, 1, 1))
        if bool(label) != training:
            parts.append(_poison(chance))
        return _shuffled(parts, [0] * BACKGROUND + [1] * found, chance)

    return _bags(bags, seed, made)


def two_concepts(bags: int, seed: int, *, training: bool) -> BagSet:
    """Return bags that are positive where instances of two concepts are both among others.

    Negative bags have an instance of one of them. What speaks against is as in `poisoned`.
    """

    def made(label: int, chance: np.random.Generator) -> tuple[Values, Int[np.ndarray, " M"]]:
        background = int(chance.integers(1, BACKGROUND))
        parts = [_around(chance, 0, 1, background)]
        if label:
            each = int(chance.integers(1, 4))
            parts += [_around(chance, 2, 0.1, each), _around(chance, 3, 0.1, each)]
            known = [0] * background + [1] * 2 * each
        else:
            parts.append(_around(chance, 2 + int(chance.integers(2)), 0.1, 1))
            known = [0] * (background + 1)
        if bool(label) != training:
            parts.append(_poison(chance))
        return _shuffled(parts, known, chance)

    return _bags(bags, seed, made)


def false_frequency(bags: int, seed: int, *, training: bool) -> BagSet:
    """Return bags as `two_concepts`, where negative test bags have some 40 of one concept.

    A classifier may not call a bag positive for how many instances of one concept it has.
    """

    def made(label: int, chance: np.random.Generator) -> tuple[Values, Int[np.ndarray, " M"]]:
        background = int(chance.integers(1, BACKGROUND))
        parts = [_around(chance, 0, 1, background)]
        if label:
            parts += [_around(chance, 2, 0.1, 1), _around(chance, 3, 0.1, 1)]
            known = [0] * background + [1, 1]
        else:
            alike = 1 if training else int(chance.integers(35, 45))
            parts.append(_around(chance, 2 + int(chance.integers(2)), 0.1, alike))
            known = [0] * (background + alike)
        return _shuffled(parts, known, chance)

    return _bags(bags, seed, made)


ASSUMPTIONS: dict[str, Callable[..., BagSet]] = {
    "poisoned": poisoned,
    "two concepts": two_concepts,
    "false frequency": false_frequency,
}
"""The tests, by name. A classifier whose instances each speak for themselves cannot learn that two
concepts must come together, so that it cannot pass the second and third in full."""


def digit_bags(bags: int, seed: int, size: float = 10, spread: float = 2) -> BagSet:
    """Return bags of scikit-learn's digits, of which one 9 or more makes a bag positive.

    Half of the bags are positive and hold one or two nines. Pixels are in [0, 1].

    Args:
        bags: how many.
        seed: of the digits that are drawn.
        size: the mean number of instances.
        spread: its standard deviation.
    """
    pixels, digits = load_digits(return_X_y=True)
    pixels = (pixels / LEVELS).astype(np.float32)
    nines, others = np.flatnonzero(digits == FINDING), np.flatnonzero(digits != FINDING)

    def made(label: int, chance: np.random.Generator) -> tuple[Values, Int[np.ndarray, " M"]]:
        instances = max(FINDINGS + 1, round(chance.normal(size, spread)))
        found = int(chance.integers(1, FINDINGS + 1)) if label else 0
        drawn = [chance.choice(others, instances - found), chance.choice(nines, found)]
        known = [0] * (instances - found) + [1] * found
        return _shuffled([pixels[some] for some in drawn], known, chance)

    return _bags(bags, seed, made)


def _bags(
    count: int,
    seed: int,
    made: Callable[[int, np.random.Generator], tuple[Values, Int[np.ndarray, " M"]]],
) -> BagSet:
    """Return so many bags, every second of them positive."""
    chance = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    each = [made(int(label), chance) for label in labels]
    sizes = np.array([len(values) for values, _ in each], dtype=np.int64)
    return BagSet(
        PackedInstances(np.concatenate([values for values, _ in each]), sizes),
        rows=np.arange(count),
        labels=torch.from_numpy(labels.astype(np.int64)),
        class_names=("negative", "positive"),
        names=tuple(f"bag {number}" for number in range(count)),
        instance_labels=tuple(known for _, known in each),
    )


def _around(chance: np.random.Generator, centre: float, spread: float, count: int) -> Values:
    return chance.normal(centre, spread, (count, WIDTH)).astype(np.float32)


def _poison(chance: np.random.Generator) -> Values:
    return _around(chance, -10, 0.1, 1)


def _shuffled(
    parts: Sequence[Values], known: Sequence[int], chance: np.random.Generator
) -> tuple[Values, Int[np.ndarray, " M"]]:
    """Return instances in an order of chance, and which of them are positive; 0 where not said."""
    values = np.concatenate([part for part in parts if len(part)])
    labels = np.zeros(len(values), dtype=np.int64)
    labels[: len(known)] = known
    order = chance.permutation(len(values))
    return values[order], labels[order]
