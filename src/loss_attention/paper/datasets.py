"""The paper's data sets: where each may lie and where to get it; those loaded are kept a while."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from loss_attention.data.sample import Splits, limited
from loss_attention.errors import InputError
from loss_attention.jobs import load_data
from loss_attention.training.recipe import Recipe

KEPT = 3
"""Data sets kept in memory at a time."""


@dataclass(frozen=True)
class Source:
    """Where a data set of the paper comes from.

    Attributes:
        folders: what it may be called under `--data-root`.
        where: where to get it.
    """

    folders: tuple[str, ...]
    where: str


_CIFAR = "https://www.cs.toronto.edu/~kriz/cifar.html or the Hugging Face hub"
_COCO = "https://cocodataset.org/#download"
SOURCES: dict[str, Source] = {
    "cifar10": Source(("cifar10",), _CIFAR),
    "cifar100": Source(("cifar100",), _CIFAR),
    "svhn": Source(("svhn",), "http://ufldl.stanford.edu/housenumbers or the Hugging Face hub"),
    "tiny-imagenet": Source(
        ("tiny-imagenet-200", "tiny-imagenet"), "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
    ),
    "coco2014": Source(("coco2014", "coco"), f"{_COCO} (2014 train, 2014 val, annotations)"),
    "coco2017": Source(("coco2017",), f"{_COCO} (2017 train, 2017 val, annotations)"),
}


class MissingDataError(InputError):
    """A data set is not here."""


def located(recipe: Recipe, data_root: Path | None) -> Recipe:
    """Return the recipe with its data's folder under `data_root`, if it is there."""
    source = SOURCES.get(recipe.data)
    if data_root is not None and source is not None:
        for folder in source.folders:
            if (data_root / folder).exists():
                return replace(recipe, data=str(data_root / folder))
    return recipe


class Shelf:
    """Loads data for recipes, and keeps the last few sets: trainings share them.

    Args:
        data_root: a folder with data sets in it; None: names alone decide.
        console: where loading shows its progress.
    """

    def __init__(self, data_root: Path | None, console: Console) -> None:
        self.data_root, self.console = data_root, console
        self._whole: OrderedDict[tuple[object, ...], Splits] = OrderedDict()
        self._missing: dict[str, str] = {}

    def splits(self, recipe: Recipe) -> Splits:
        """Return a recipe's data, of which no more than it asks for.

        Raises:
            MissingDataError: it cannot be loaded; the message says where to get it.
        """
        if recipe.data in self._missing:
            raise MissingDataError(self._missing[recipe.data])
        whole = replace(located(recipe, self.data_root), limit_images=None)
        # The seed decides made data, and what is held out where there is no test split.
        key = (whole.data, whole.in_channels, whole.image_size, whole.seed)
        if key not in self._whole:
            self._whole[key] = self._load(recipe.data, lambda: load_data(whole, self.console))
            while len(self._whole) > KEPT:
                self._whole.popitem(last=False)
        self._whole.move_to_end(key)
        found = self._whole[key]
        return (
            found
            if recipe.limit_images is None
            else limited(found, recipe.limit_images, recipe.seed)
        )

    def _load(self, name: str, load: Callable[[], Splits]) -> Splits:
        try:
            return load()
        except InputError as error:
            where = ""
            if name in SOURCES:
                folder = SOURCES[name].folders[0]
                where = (
                    f"; get it from {SOURCES[name].where} and put it under --data-root as {folder}"
                )
            self._missing[name] = f"{name} is not here ({error}){where}"
            raise MissingDataError(self._missing[name]) from error
