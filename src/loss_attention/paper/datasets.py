"""The paper's data: where it may lie under `--data-root`; what is loaded is kept a while."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from loss_attention.data.sample import Splits, limited
from loss_attention.errors import InputError
from loss_attention.run_data import load_data
from loss_attention.training.recipe import Recipe, RunOptions

KEPT = 3
"""Data sets kept in memory at a time."""
FOLDERS: dict[str, tuple[str, ...]] = {
    "cifar10": ("cifar10",),
    "cifar100": ("cifar100",),
    "svhn": ("svhn",),
    "tiny-imagenet": ("tiny-imagenet-200", "tiny-imagenet", "tiny-imagenet-200.zip"),
    "coco2014": ("coco2014", "coco"),
}
"""What each data set may be called under `--data-root`, the likeliest name first."""


class MissingDataError(InputError):
    """A data set is not here."""


def located(recipe: Recipe, data_root: Path | None) -> Recipe:
    """Return the recipe with its data's place under `data_root`, if it is there."""
    if data_root is not None:
        for folder in FOLDERS.get(recipe.data, ()):
            if (data_root / folder).exists():
                return replace(recipe, data=f"{recipe.data}:{data_root / folder}")
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
        self._missing: dict[str, MissingDataError] = {}

    def splits(self, recipe: Recipe, options: RunOptions) -> Splits:
        """Return a recipe's data, no more images of it than it asks for.

        Args:
            recipe: names the data.
            options: say how to hold it.

        Raises:
            MissingDataError: it cannot be loaded; the message says where to get it.
        """
        if recipe.data in self._missing:
            raise self._missing[recipe.data]
        whole = replace(located(recipe, self.data_root), limit_images=None)
        # The seed decides made data. The paper's sets have a test split, so nothing is drawn there.
        seed = None if recipe.data in FOLDERS else recipe.seed
        held = (options.stream, options.workers)
        key = (whole.data, whole.in_channels, whole.image_size, seed, held)
        if key not in self._whole:
            self._whole[key] = self._load(recipe.data, whole, options)
            if len(self._whole) > KEPT:
                self._whole.popitem(last=False)
        self._whole.move_to_end(key)
        found = replace(
            self._whole[key], validation_fraction=recipe.validation_fraction, seed=recipe.seed
        )
        if recipe.limit_images is None:
            return found
        return limited(found, recipe.limit_images, recipe.seed)

    def _load(self, name: str, recipe: Recipe, options: RunOptions) -> Splits:
        try:
            return load_data(recipe, self.console, options)
        except InputError as error:
            here = f"; or put it under --data-root as {FOLDERS[name][0]}" if name in FOLDERS else ""
            self._missing[name] = MissingDataError(f"{name} is not here: {error}{here}")
            raise self._missing[name] from error
