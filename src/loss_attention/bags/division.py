"""Which bags of a set are trained on, validated on and tested on, and other bags of its classes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Int

from loss_attention.bags.bag_set import BagSet, ReadLabels
from loss_attention.bags.recipe import BagRunRecipe
from loss_attention.data.division import hold_out
from loss_attention.errors import InputError, quoted


@dataclass(frozen=True)
class BagParts:
    """A set of bags, divided.

    Attributes:
        train: bags to train on.
        validation: those that the best epoch is chosen on; may be none.
        test: those that are reported on.
        left_out: how many are in none of these, as the data says.
    """

    train: BagSet
    validation: BagSet
    test: BagSet
    left_out: int

    def digest(self) -> str:
        """Return a hash of which bags are in which part."""
        digest = hashlib.sha256()
        for part in (self.train, self.validation, self.test):
            digest.update(repr(part.rows.tolist()).encode())
        return digest.hexdigest()[:16]


def parts_of(bags: BagSet, recipe: BagRunRecipe) -> BagParts:
    """Return the parts that the data names; one that it does not name is drawn by the seed.

    What is drawn comes from the training bags: of each class alike, and groups whole.

    Raises:
        InputError: a group in two parts, no bag to test on, or training bags of a single class.
    """
    named = np.array(bags.splits or ("train",) * len(bags))
    index = {name: np.flatnonzero(named == name) for name in ("train", "validation", "test")}
    for name, fraction in (
        ("test", recipe.test_fraction),
        ("validation", recipe.validation_fraction),
    ):
        if len(index[name]) or not fraction:
            continue
        rest = index["train"]
        groups = None if bags.groups is None else bags.groups[torch.from_numpy(rest)]
        kept, held = hold_out(bags.labels[torch.from_numpy(rest)], fraction, recipe.seed, groups)
        index["train"], index[name] = rest[kept.numpy()], rest[held.numpy()]
    _check_groups(bags, index)
    train, validation, test = (bags.subset(index[n]) for n in ("train", "validation", "test"))
    if not len(test):
        raise InputError("there are too few bags for a test part: give more of them")
    if not bags.multi_label and int((train.labels.bincount() > 0).sum()) < 2:
        raise InputError("all training bags are of one class, and at least two classes are needed")
    used = len(train) + len(validation) + len(test)
    return BagParts(train, validation, test, len(bags) - used)


def spread_labels(
    labels: Int[np.ndarray, "N K"], folds: int, seed: int, groups: Int[np.ndarray, " N"] | None
) -> Int[np.ndarray, " N"]:
    """Return the fold of each bag of several labels, each class spread over all folds alike.

    After the iterative stratification of Sechidis, Tsoumakas & Vlahavas ("On the Stratification of
    Multi-label Data", ECML PKDD 2011): again and again, those that have the class with the fewest
    bags left go one by one to the fold that lacks most. There it is most of this class, and here,
    as a group brings bags of many classes with it, of all that the group has, each class (and the
    number of bags) by its part of all its bags. The groups with most bags of the class go first.

    Args:
        labels: 0 or 1 for each class.
        folds: how many there are.
        seed: draws the order of what is alike.
        groups: bags of the same number stay together; None: each stands alone.
    """
    random = np.random.default_rng(seed)
    alone = np.arange(len(labels)) if groups is None else groups
    _, member = np.unique(alone, return_inverse=True)
    counts = np.zeros((int(member.max()) + 1, labels.shape[1] + 1))
    np.add.at(counts, member, np.concatenate([labels, np.ones((len(labels), 1))], axis=1))
    lacking = np.tile(counts.sum(axis=0) / folds, (folds, 1))  # the last column: bags
    parts = counts / np.maximum(counts.sum(axis=0), 1)
    fold_of = np.full(len(counts), -1)
    order = random.permutation(len(counts))
    while (fold_of < 0).any():
        rest = order[fold_of[order] < 0]
        left = counts[rest].sum(axis=0)
        # What has no class, at the end, is spread by the number of bags alone.
        kinds = np.flatnonzero(left[:-1]) if left[:-1].any() else np.array([len(left) - 1])
        kind = int(kinds[left[kinds].argmin()])
        having = rest[counts[rest, kind] > 0]
        for one in having[np.argsort(-counts[having, kind], kind="stable")]:
            ties = random.permutation(folds)
            best = ties[(lacking[ties] @ parts[one]).argmax()]
            fold_of[one] = best
            lacking[best] -= counts[one]
    found: Int[np.ndarray, " N"] = fold_of[member]
    return found


def _check_groups(bags: BagSet, index: dict[str, np.ndarray]) -> None:
    """Raise `InputError` where bags of one group are in two parts."""
    if bags.groups is None:
        return
    groups, seen = bags.groups.numpy(), dict[int, tuple[str, int]]()
    for part, members in index.items():
        for bag in members.tolist():
            other, first = seen.setdefault(int(groups[bag]), (part, bag))
            if other != part:
                raise InputError(
                    f"the bags {quoted(bags.names[first])} and {quoted(bags.names[bag])} are of "
                    f"one patient or group, and in the parts {other} and {part}: put it into one"
                )


def of_classes(bags: BagSet, names: tuple[str, ...]) -> BagSet:
    """Return bags with their labels by the classes of a model.

    Raises:
        InputError: they have a class that the model does not know.
    """
    if bags.class_names == names:
        return bags
    unknown = [name for name in bags.class_names if name not in names]
    if unknown:
        raise InputError(
            f"the bags have the class {quoted(unknown[0])}, and the model knows "
            f"{', '.join(map(quoted, names[:10]))}"
        )
    place = torch.tensor([names.index(name) for name in bags.class_names])
    known = bags.instance_labels
    if bags.multi_label:
        labels = bags.labels.new_zeros(len(bags), len(names))
        labels[:, place] = bags.labels
        known = _each(known, partial(_spread, place=place.numpy(), classes=len(names)))
    else:
        labels = place[bags.labels]
        known = _each(known, partial(_renumbered, place=place.numpy()))
    return replace(bags, labels=labels, class_names=names, instance_labels=known)


Known = tuple[np.ndarray, ...] | ReadLabels | None


def _each(known: Known, change: Callable[[np.ndarray], np.ndarray]) -> Known:
    """Return what a function makes of the labels of each bag's instances."""
    if isinstance(known, ReadLabels):
        return known.changed(change)
    return None if known is None else tuple(map(change, known))


def _renumbered(labels: np.ndarray, place: np.ndarray) -> np.ndarray:
    renumbered: np.ndarray = np.append(place, -1)[labels]  # of no class, -1, the last
    return renumbered


def _spread(labels: np.ndarray, place: np.ndarray, classes: int) -> np.ndarray:
    spread = np.zeros((len(labels), classes), dtype=labels.dtype)
    spread[:, place] = labels
    return spread


def check_width(bags: BagSet, features: int) -> None:
    """Raise `InputError` where instances have not as many features as a model takes."""
    if bags.width != features:
        raise InputError(
            f"the instances have {bags.width:,} features, and the model takes {features:,}: they "
            "must be those that it was trained on, in the same order"
        )
