"""The data of a run: loaded as its recipe says, found again, and other data for its model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console

from loss_attention.data.loading import load_splits
from loss_attention.data.memory import Storage
from loss_attention.data.naming import find_again, lies_within, same_data
from loss_attention.data.outside import Outside, Wanted, load_outside
from loss_attention.data.sample import LabelledImages, Splits, limited
from loss_attention.data.stacking import Form
from loss_attention.errors import InputError
from loss_attention.models import PatchClassifier
from loss_attention.terminal import counted, say_line
from loss_attention.training.environment import image_memory
from loss_attention.training.recipe import Recipe, RunOptions
from loss_attention.training.run_folder import RunFolder


@dataclass(frozen=True)
class OtherData:
    """Data to measure a run's model on that is not the run's own.

    Attributes:
        data: as for `load_splits`.
        classes: those of the model to measure; none: all, and others are an error.
        skip_broken: go on without images that something is wrong with, or whose classes the model
            does not know, and say how many.
    """

    data: str
    classes: tuple[str, ...] = ()
    skip_broken: bool = False

    @classmethod
    def asked(
        cls, data: str | None, classes: Sequence[str], *, skip_broken: bool
    ) -> OtherData | None:
        """Return what a command asks for; None: the run's own data.

        Raises:
            InputError: a choice from other data, and no other data.
        """
        if data is not None:
            return cls(data, tuple(classes), skip_broken)
        if classes or skip_broken:
            raise InputError("--classes and --skip-broken are for other data: name it with --data")
        return None


@dataclass(frozen=True)
class Measured:
    """Images to measure a run's model on, and the run's own data.

    Attributes:
        images: the images.
        source: what they are, in a line for people.
        split: what to call them.
        own: the run's own data; None: gone, which leaves undefined what is fitted to them.
        others: the images are not the run's own.
    """

    images: LabelledImages
    source: str
    split: str
    own: Splits | None
    others: bool


def load_data(recipe: Recipe, console: Console, options: RunOptions | None = None) -> Splits:
    """Load a recipe's data, with a bar where that takes a while, and say what was done with it.

    Args:
        recipe: names the data.
        console: where the bar goes, and what is to be said of the data.
        options: say how to hold it; None: in memory, where that is large enough.
    """
    options = options or RunOptions()
    storage = Storage(options.stream, image_memory(options), options.workers)
    with counted("reading images", console) as progress:
        splits = load_splits(
            recipe.data,
            in_channels=recipe.in_channels,
            image_size=recipe.image_size,
            seed=recipe.seed,
            validation_fraction=recipe.validation_fraction,
            resize=recipe.resize,
            classes=recipe.classes,
            masks=recipe.masks,
            skip_broken=recipe.skip_broken,
            storage=storage,
            progress=progress,
        )
    for note in (*splits.notes, splits.storage):
        say_line(console, f"{recipe.data}: {note}")
    if recipe.limit_images is not None:
        return limited(splits, recipe.limit_images, recipe.seed)
    return splits


def own_data(
    run: RunFolder, console: Console, *, data: str | None = None, masks: bool = False
) -> Splits:
    """Load a run's own data, from where it lies now.

    Args:
        run: the run.
        console: where the bar goes, and what is to be said of the data.
        data: where it lies; None: where it lay, or as it lay from here or from the run's folder.
        masks: read the masks of objects too, where the run was trained without.

    Raises:
        InputError: it is gone, cannot be used, or is other data than the run was trained on.
    """
    recipe, certain = located(run) if data is None else (replace(run.recipe(), data=data), False)
    wanted, options = replace(recipe, masks=masks or recipe.masks), run.options()
    splits = load_data(wanted, console, options)
    streamed_alike = options.stream == "yes" and wanted.masks == recipe.masks
    if splits.trainval.in_memory or streamed_alike:
        check_own(run, splits, recipe.data, console, certain=certain)
    return splits


def measured(
    run: RunFolder,
    model: PatchClassifier,
    other: OtherData | None,
    console: Console,
    *,
    masks: bool = False,
) -> Measured:
    """Load what a run's model is to be measured on, and beside it the run's own data if it is here.

    Args:
        run: the run.
        model: its model.
        other: other data than the run's own; None: its own.
        console: where the bar goes, and what is to be said of the data.
        masks: read the masks of objects too, where the run was trained without.

    Raises:
        InputError: the data cannot be used; or the run's own is gone, and there is no other.
    """
    own: Splits | None = None
    if other is None or is_own(run, other):
        own = own_data(run, console, masks=masks)
    elif _has_moved(run, other):
        own = own_data(run, console, data=other.data, masks=masks)
    if own is not None:
        if other is not None:
            say_line(console, f"{other.data} is the run's own data: its test images are measured")
        return Measured(own.test, own.source, "test", own, others=False)
    assert other is not None
    found = load_other(run, model, other, console, masks=masks)
    try:
        own = own_data(run, console)
    except InputError as error:
        say_line(console, f"what is fitted to the run's own images stays undefined: {error}")
    return Measured(found.images, found.source, found.split or "given", own, others=True)


def located(run: RunFolder) -> tuple[Recipe, bool]:
    """Return a run's recipe with its data where that lies now, and whether it is there for certain.

    Raises:
        InputError: it lies nowhere.
    """
    recipe = run.recipe()
    found = find_again(recipe.data, run.facts(), run.path)
    return replace(recipe, data=found.data), found.certain


def check_own(
    run: RunFolder, splits: Splits, data: str, console: Console, *, certain: bool
) -> None:
    """Hold data that was loaded against what a run was trained on.

    Args:
        run: the run.
        splits: the data, loaded as the run had it.
        data: where it was found.
        console: where a doubt is said.
        certain: it lies where it lay, so that a difference is said and not an error: a later
            version may also read the same files otherwise.

    Raises:
        InputError: it was found elsewhere, and is other data.
    """
    wanted = run.facts().get("data_fingerprint")
    if splits.trainval.fingerprint() == wanted:
        return
    if not certain:
        raise InputError(
            f"{data} is not the data that the run {run.path} was trained on; say where that is now "
            "with --data"
        )
    if wanted is not None:
        say_line(
            console,
            f"{data}: the training images are not those that the run {run.path} began with, or are "
            "read otherwise now: what is held out may have been trained on",
        )


def _has_moved(run: RunFolder, other: OtherData) -> bool:
    """Return whether a run's own data is gone from its place and lies where other data is said to.

    All of it would be measured otherwise, what the run was trained on too.
    """
    if other.classes or other.skip_broken:
        return False
    try:
        located(run)
    except InputError:
        recipe = replace(run.recipe(), data=other.data)
        try:
            splits = load_data(recipe, Console(quiet=True), run.options())
        except InputError:
            return False
        return splits.trainval.fingerprint() == run.facts().get("data_fingerprint")
    return False


def is_own(run: RunFolder, other: OtherData) -> bool:
    """Return whether what is called other data is a run's own, by its name or path.

    Raises:
        InputError: it is, and only a part of it is asked for.
    """
    record: Any = run.facts().get("data")
    path = record.get("path") if isinstance(record, dict) else None
    # Where a path was kept, what was written need not lead there from here.
    own = path if isinstance(path, str) else run.recipe().data
    found = same_data(other.data, own)
    if found and (other.classes or other.skip_broken):
        raise InputError(
            f"{other.data} is the run's own data, read as in training: --classes and --skip-broken "
            "are for other data"
        )
    return found


def load_other(
    run: RunFolder, model: PatchClassifier, other: OtherData, console: Console, *, masks: bool
) -> Outside:
    """Load other data for a run's model, in the form that it was trained with, and describe it.

    Args:
        run: the run.
        model: its model.
        other: the data.
        console: where the bar goes, and what is to be said of the data.
        masks: it must have masks of objects, to measure against.

    Raises:
        InputError: see `load_outside`.
    """
    recipe, options = run.recipe(), run.options()
    masks, needed = masks or recipe.masks, masks
    size = model.image_size
    side = size[0] if size is not None and size[0] == size[1] else recipe.image_size
    wanted = Wanted(
        model.class_names,
        multi_label=model.multi_label,
        classes=other.classes or _chosen(recipe, model),
        skip_broken=other.skip_broken or recipe.skip_broken,
        skip_unknown=other.skip_broken,
        masks=needed,
    )
    # They may be of another size, and need not fit in a GPU's memory: nothing is trained.
    storage = Storage("auto", image_memory(replace(options, accelerator="cpu")), options.workers)
    with counted("reading images", console) as progress:
        found = load_outside(
            other.data,
            wanted,
            Form(recipe.in_channels, side, model.resize, masks),
            storage=storage,
            progress=progress,
        )
    if size is not None and found.images.size != size:
        raise InputError(
            f"{other.data}: its images have {_by(found.images.size)} pixels, and the model was "
            f"trained at {_by(size)}; bring them to that"
        )
    for note in found.notes:
        say_line(console, f"{other.data}: {note}")
    if recipe.image_size is None and found.images.placements is not None:
        say_line(
            console, f"{other.data}: brought to {_by(found.images.size)} pixels, as in training"
        )
    own = run.facts().get("data")
    path = own.get("path") if isinstance(own, dict) else None
    if isinstance(path, str) and lies_within(other.data, path):
        say_line(console, f"{other.data}: part of the run's own data, some of it was trained on")
    return found


def _chosen(recipe: Recipe, model: PatchClassifier) -> tuple[str, ...]:
    """Return the model's classes where they were chosen from more: other images show those too."""
    return model.class_names if recipe.classes else ()


def _by(size: tuple[int, int]) -> str:
    return f"{size[1]} x {size[0]}"
