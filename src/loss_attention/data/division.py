"""Which images are for training, validation and testing: as paths say, or drawn by a seed."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, TypeVar

from jaxtyping import Bool, Int, Shaped

from loss_attention.errors import InputError

if TYPE_CHECKING:  # names of splits are read where there is no torch
    from torch import Tensor

SPLITS = {
    name: split
    for split, names in (
        ("train", ("train", "training")),
        ("test", ("test", "testing")),
        ("validation", ("validation", "valid", "val", "dev")),
        # More training images of SVHN, which the paper leaves out, and so does this package.
        ("extra", ("extra",)),
    )
    for name in names
}
"""What splits are called."""

T = TypeVar("T")


def split_of(path: PurePath) -> str:
    """Return the split that a path names, in the file's name or in a folder's; "" if none.

    Example:
        >>> split_of(PurePath("data/val-00000-of-00002.parquet")), split_of(PurePath("cats.csv"))
        ('validation', '')
    """
    for part in reversed(path.parts):
        for word in re.split(r"[^a-z]+", part.lower()):
            if word in SPLITS:
                return SPLITS[word]
    return ""


def by_split(
    items: Iterable[tuple[T, str]], named: Callable[[T], str], where: str
) -> dict[str, list[T]]:
    """Sort items by split; where none has one, all are for training.

    Args:
        items: each with its split, "" where it has none.
        named: what an item is called in an error.
        where: what the data is called in an error.

    Raises:
        InputError: some have none while others say that they are for training.
    """
    parts: dict[str, list[T]] = {}
    for item, split in items:
        parts.setdefault(split, []).append(item)
    unnamed = parts.pop("", [])
    if unnamed and "train" in parts:
        raise InputError(
            f"{where}: the name of {named(unnamed[0])} says no split "
            "(train, test or validation), while others do"
        )
    return {"train": unnamed, **parts} if unnamed else parts


def hold_out(
    labels: Shaped[Tensor, N * K],
    fraction: float,
    seed: int,
    groups: Int[Tensor, " N"] | None = None,
) -> tuple[Tensor, Tensor]:
    """Divide the indices of a set into a kept and a held-out part, both sorted.

    Single-label sets are divided class by class, multi-label sets as a whole. A class (or set) of
    two images or more gives at least one and keeps at least one; a single image is kept.

    Args:
        labels: class indices `(N,)` or a 0/1 matrix `(N, K)`.
        fraction: the part to hold out, in [0, 1).
        seed: the same seed divides the same way, on any machine.
        groups: images of the same number stay together, so that a class gives as near to its part
            as its groups allow, at least one and keeps at least one where it has two; None: each
            image stands alone.

    Example:
        >>> import torch
        >>> kept, held_out = hold_out(torch.tensor([0, 0, 0, 0, 1, 1]), 0.25, seed=0)
        >>> len(kept), len(held_out)
        (4, 2)
    """
    assert 0 <= fraction < 1
    if groups is None:
        held_out = _held_out_images(labels, fraction, seed)
    else:
        held_out = _held_out_groups(labels.cpu(), fraction, seed, groups.cpu())
    return (~held_out).nonzero().squeeze(1), held_out.nonzero().squeeze(1)


def _held_out_images(
    labels: Shaped[Tensor, N * K], fraction: float, seed: int
) -> Bool[Tensor, " N"]:
    """Return which images are held out, each by itself."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    strata = [order]
    if labels.ndim == 1:
        classes = labels.cpu()[order]
        strata = [order[classes == value] for value in sorted(set(classes.tolist()))]
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    for members in strata:
        if fraction > 0 and len(members) > 1:
            count = round(fraction * len(members))
            held_out[members[: min(max(1, count), len(members) - 1)]] = True
    return held_out


def _held_out_groups(
    labels: Shaped[Tensor, N * K], fraction: float, seed: int, groups: Int[Tensor, " N"]
) -> Bool[Tensor, " N"]:
    """Return which images are held out, whole groups in the order that the seed draws.

    A group is held out if that brings the counts of its classes nearer to their parts, by the sum
    over classes of the squared difference in images, divided by the class's images. Where all of a
    group are of one class, no class is further from its part than by half of its largest group,
    but where one is held out, or kept, for there to be one at all.
    """
    import torch

    if fraction == 0 or not len(labels):
        return torch.zeros(len(labels), dtype=torch.bool)
    _, member = torch.unique(groups, return_inverse=True)
    shown = _classes_by_group(labels, member.tolist())
    total: Counter[int] = Counter()
    in_groups: Counter[int] = Counter()
    for classes in shown:
        total.update(classes)
        in_groups.update(classes.keys())
    wanted = {k: max(1, round(fraction * n)) if in_groups[k] > 1 else 0 for k, n in total.items()}
    held: Counter[int] = Counter()
    chosen = torch.zeros(len(shown), dtype=torch.bool)
    order = torch.randperm(len(shown), generator=torch.Generator().manual_seed(seed)).tolist()

    def may_go(group: int) -> bool:
        """Whether of each of its classes a group is left."""
        return all(held[k] + n < total[k] for k, n in shown[group].items())

    def take(group: int) -> None:
        chosen[group] = True
        held.update(shown[group])

    for group in order:
        change = (n * (n - 2 * (wanted[k] - held[k])) / total[k] for k, n in shown[group].items())
        if sum(change) < 0 and may_go(group):
            take(group)
    for value in sorted(k for k in total if in_groups[k] > 1):
        if not held[value]:
            having = [group for group in order if shown[group][value] and may_go(group)]
            if having:
                take(min(having, key=lambda group: sum(shown[group].values())))
    return chosen[member]


_ALL = sys.maxsize
"""Stands beside the classes of a multi-label set, for all of its images: those without any label
count too. The last of them all."""


def _classes_by_group(labels: Tensor, member: Sequence[int]) -> list[Counter[int]]:
    """Return how many images of each class each group has."""
    shown: list[Counter[int]] = [Counter() for _ in range(max(member) + 1)]
    if labels.ndim == 1:
        for group, label in zip(member, labels.tolist(), strict=True):
            shown[group][label] += 1
        return shown
    for group in member:
        shown[group][_ALL] += 1
    for image, label in labels.nonzero().tolist():
        shown[member[image]][label] += 1
    return shown
