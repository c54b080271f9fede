"""A run as a whole: its data, found again, and other data; its best weights, scores and report."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from loss_attention.data.formats.hub import HUB_ID
from loss_attention.data.loading import (
    HUB_PREFIX,
    KNOWN,
    MADE,
    expanded,
    is_there,
    known_at,
    load_splits,
    looks_local,
    meant,
)
from loss_attention.data.outside import Outside, Wanted, load_outside
from loss_attention.data.records import count
from loss_attention.data.sample import LabelledImages, Splits, Storage, Stream, limited
from loss_attention.data.stacking import Form
from loss_attention.errors import InputError, guarded, quoted
from loss_attention.evaluation.measuring import evaluate
from loss_attention.evaluation.metric import Evaluation
from loss_attention.interruption import Interrupted, RunStopped, StopRequest
from loss_attention.metrics.localisation import NEAR
from loss_attention.model import PatchClassifier
from loss_attention.prediction import MapName
from loss_attention.report.page import write_report
from loss_attention.report.summary import show_scores
from loss_attention.report.verdict import ending
from loss_attention.saving import FACTS_FILE
from loss_attention.terminal import counted, say, say_line
from loss_attention.training.devices import choose_device
from loss_attention.training.environment import image_memory, shown_precision
from loss_attention.training.finished import load_weights
from loss_attention.training.recipe import Accelerator, Recipe, RunOptions
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
            raise InputError("`classes` and `skip_broken` are for other data: name it with `data`")
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
            group=recipe.group,
            storage=storage,
            progress=progress,
        )
    for note in (*splits.notes, splits.storage):
        say_line(console, f"{recipe.data}: {note}")
    if recipe.limit_images is not None:
        return limited(splits, recipe.limit_images, recipe.seed)
    return splits


def own_data(
    run: RunFolder,
    console: Console,
    *,
    data: str | None = None,
    masks: bool = False,
    stream: Stream | None = None,
) -> Splits:
    """Load a run's own data, from where it lies now.

    Args:
        run: the run.
        console: where the bar goes, and what is to be said of the data.
        data: where it lies; None: where it lay, or as it lay from here or from the run's folder.
        masks: read the masks of objects too, where the run was trained without.
        stream: whether to decode images on demand; None: as in training. Streamed otherwise than
            in training, it is not compared with what the run was trained on.

    Raises:
        InputError: it is gone, cannot be used, or is other data than the run was trained on.
    """
    recipe, certain = _located(run) if data is None else (replace(run.recipe(), data=data), False)
    wanted, options = replace(recipe, masks=masks or recipe.masks), run.options()
    used = replace(options, stream=stream or options.stream)
    splits = load_data(wanted, console, used)
    streamed_alike = options.stream == "yes" and wanted.masks == recipe.masks
    if splits.trainval.in_memory or streamed_alike:
        _check_own(run, splits, recipe.data, console, certain=certain)
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
    if other is None or _is_own(run, other):
        own = own_data(run, console, masks=masks)
    elif _has_moved(run, other):
        own = own_data(run, console, data=other.data, masks=masks)
    if own is not None:
        if other is not None:
            say_line(console, f"{other.data} is the run's own data: its test images are measured")
        return Measured(own.test, own.source, "test", own, others=False)
    assert other is not None
    found = _load_other(run, model, other, console, masks=masks)
    try:
        own = own_data(run, console)
    except InputError as error:
        say_line(console, f"what is fitted to the run's own images stays undefined: {error}")
    return Measured(found.images, found.source, found.split or "given", own, others=True)


def _located(run: RunFolder) -> tuple[Recipe, bool]:
    """Return a run's recipe with its data where that lies now, and whether it is there for certain.

    Raises:
        InputError: it lies nowhere.
    """
    recipe = run.recipe()
    found = find_again(recipe.data, run.facts(), run.path)
    return replace(recipe, data=found.data), found.certain


def _check_own(
    run: RunFolder, splits: Splits, data: str, console: Console, *, certain: bool
) -> None:
    """Hold data that was loaded from `data` against what a run was trained on.

    Where it lies as it lay, for `certain`, a difference is said and no error: a later version may
    also read the same files otherwise.
    """
    wanted = run.facts().get("data_fingerprint")
    if splits.trainval.fingerprint() == wanted:
        return
    if not certain:
        raise InputError(
            f"{data} is not the data that the run {run.path} was trained on; say where that is now "
            "with `data`"
        )
    if wanted is not None:
        say_line(
            console,
            f"{data}: the training images are not those that the run {run.path} began with, or are "
            "read otherwise now: what is held out may have been trained on",
        )


def _has_moved(run: RunFolder, other: OtherData) -> bool:
    """Return whether a run's own data is gone from its path and lies where other data is said to.

    All of it would be measured otherwise, what the run was trained on too.
    """
    if other.classes or other.skip_broken:
        return False
    try:
        _located(run)
    except InputError:
        recipe = replace(run.recipe(), data=other.data)
        try:
            splits = load_data(recipe, Console(quiet=True), run.options())
        except InputError:
            return False
        return splits.trainval.fingerprint() == run.facts().get("data_fingerprint")
    return False


def _is_own(run: RunFolder, other: OtherData) -> bool:
    """Return whether what is called other data is a run's own, by its name or path.

    Raises:
        InputError: it is, and only a part of it is asked for.
    """
    # Where a path was kept, what was written need not lead there from here.
    found = same_data(other.data, _own_path(run) or run.recipe().data)
    if found and (other.classes or other.skip_broken):
        raise InputError(
            f"{other.data} is the run's own data, read as in training: `classes` and `skip_broken` "
            "are for other data"
        )
    return found


def _own_path(run: RunFolder) -> str | None:
    """Return the path that a run keeps of its data; None: it has none."""
    record = run.facts().get("data")
    path = record.get("path") if isinstance(record, dict) else None
    return path if isinstance(path, str) else None


def _load_other(
    run: RunFolder, model: PatchClassifier, other: OtherData, console: Console, *, masks: bool
) -> Outside:
    """Load other data for a run's model, in the form that it was trained with, and describe it.

    With `masks` it must have masks of objects, to measure against.
    """
    recipe, options, size = run.recipe(), run.options(), model.image_size
    wanted = Wanted(
        model.class_names,
        multi_label=model.multi_label,
        # Where they were chosen from more, other images show those too.
        classes=other.classes or (model.class_names if recipe.classes else ()),
        skip_broken=other.skip_broken or recipe.skip_broken,
        skip_unknown=other.skip_broken,
        masks=masks,
    )
    # They may be of another size, and need not fit in a GPU's memory: nothing is trained.
    storage = Storage("auto", image_memory(replace(options, accelerator="cpu")), options.workers)
    brought = size or recipe.image_size
    form = Form(recipe.in_channels, brought, model.resize, masks or recipe.masks)
    with counted("reading images", console) as progress:
        found = load_outside(other.data, wanted, form, storage=storage, progress=progress)
    height, width = found.images.size
    notes = [*found.notes]
    if recipe.image_size is None and found.images.placements is not None:
        notes.append(f"brought to {width} x {height} pixels, as in training")
    own = _own_path(run)
    if own is not None and lies_within(other.data, own):
        notes.append("part of the run's own data, some of it was trained on")
    for note in notes:
        say_line(console, f"{other.data}: {note}")
    return found


class Found(NamedTuple):
    """A run's data, found again.

    Attributes:
        data: what to load.
        certain: it lies where it lay when the run began; elsewhere it may be other data.
    """

    data: str
    certain: bool


def find_again(data: str, facts: Mapping[str, Any], run: Path) -> Found:
    """Return where the data of a run lies now.

    Looked for where it lay, then as it was written from the current folder, then as it lay from the
    run's folder. What was a local path is never looked for on the hub.

    Args:
        data: as the run's recipe has it.
        facts: the run's run.json; those of version 0.1 do not say where the data lay.
        run: the run's folder.

    Raises:
        InputError: it was a path, and there is nothing now.
    """
    record = facts.get("data")
    if not isinstance(record, dict) or not isinstance(record.get("given"), str):
        record = {"given": data, "kind": _kind_of_old(data, facts.get("source"))}
    given, kind = record["given"], record.get("kind")
    if kind == "hub":
        return Found(HUB_PREFIX + given.removeprefix(HUB_PREFIX), certain=True)
    if kind != "path":
        return Found(given, certain=True)
    name, path_of_known = known_at(given)
    written = expanded(path_of_known or given)
    paths = _paths(written, record, run)
    for number, path in enumerate(paths):
        if is_there(path):
            as_written = is_there(written) and written.samefile(path)
            shown = str(written if as_written else path)
            if name:
                shown = f"{name}:{shown}"
            elif as_written:
                shown = given
            return Found(shown, certain=number == 0)
    looked = ", ".join(map(str, paths[:3]))
    raise InputError(
        f"the data of the run {run} is gone: it was given as {given}, and there is nothing at "
        f"{looked}; say where it is now with `data`"
    )


def _paths(written: Path, record: Mapping[str, Any], run: Path) -> list[Path]:
    """Return where local data of a run may lie, the likeliest first."""
    path, from_run = record.get("path"), record.get("from_run")
    paths = [Path(path)] if isinstance(path, str) else []
    paths.append(written.absolute())
    if isinstance(from_run, str):
        paths.append(Path(os.path.normpath(run.absolute() / from_run)))
    elif not written.is_absolute():  # of version 0.1: `train` most often ran in a folder above
        paths += [folder / written for folder in run.absolute().parents]
    return list(dict.fromkeys(paths))


def _kind_of_old(data: str, source: Any) -> str:
    """Return of what kind the data of a run of version 0.1 is: its description begins with it.

    Raises:
        InputError: it may have been a path or a data set of the hub.
    """
    told = source if isinstance(source, str) else ""
    if data in MADE or data in KNOWN or not data:
        return ""
    if HUB_ID.fullmatch(data) and told.startswith(f"{data}: "):
        return "hub"
    name, path = known_at(data)
    local = (f"data folder {data}: ", f"{name} in {path}: ")
    if name or told.startswith(local) or looks_local(data):
        return "path"
    if HUB_ID.fullmatch(data):
        raise InputError(
            f"the run's data {quoted(data)} was a folder or a data set of the Hugging Face hub, "
            f"and there is no such folder here: say which with `data` PATH or `data` "
            f"{HUB_PREFIX}{data}"
        )
    return ""


def same_data(data: str, own: str) -> bool:
    """Return whether two names or paths of data mean the same."""
    if data == own:
        return True
    one, other = meant(data), meant(own)
    if one is None or other is None:
        return False
    if one.path is None or other.path is None:
        return one == other
    return one.path.resolve() == other.path.resolve()


def lies_within(data: str, own: str) -> bool:
    """Return whether data at a path is a part of other data by its path."""
    inner, outer = meant(data), meant(own)
    if inner is None or outer is None or inner.path is None or outer.path is None:
        return False
    return outer.path.resolve() in inner.path.resolve().parents


class MapOptions(NamedTuple):
    """What is measured of heat maps and patches.

    Attributes:
        map: what heat maps show; None: what is shown of such a model.
        within: how many pixels from an object are near it.
        locality: images to measure on what patches see; None: as usual.
    """

    map: MapName | None = None
    within: int = NEAR
    locality: int | None = None


@dataclass(frozen=True)
class FinishedRun:
    """A trained and evaluated run, and what the heat maps of its report show."""

    folder: RunFolder
    model: PatchClassifier
    splits: Splits
    evaluation: Evaluation
    map: MapName | None = None

    def report(
        self,
        console: Console,
        beside: Mapping[str, FinishedRun] | None = None,
        *,
        label: str = "",
        verbose: bool = False,
    ) -> None:
        """Write the report; print the scores, what they mean, where the report is, what is next.

        Args:
            console: where to.
            beside: other runs on the same data, by what to call them.
            label: what to call this one beside them.
            verbose: print all scores, not only those that say most.
        """
        beside = beside or {}
        scores = {name: run.evaluation for name, run in beside.items()}
        path = self.write_report(beside)
        say_line(console, self._what(), "bold")
        show_scores({label or "score": self.evaluation, **scores}, console, verbose=verbose)
        if not self.conclude(console):
            folder = shlex.quote(str(self.folder.path))
            say_line(console, f"next: loss-attention explain {folder} PHOTO --out explained")
        say_line(console, f"report: {path}", "bold")

    def _what(self) -> str:
        """Say what was trained, on what, and for how long."""
        recipe, facts = self.folder.recipe(), self.folder.facts()
        with guarded(str(self.folder.path / FACTS_FILE)):
            seconds = facts.get("train_seconds")
            took = f" in {seconds:,.0f} s" if seconds is not None else ""
            return (
                f"{recipe.name}: {recipe.backbone}{', frozen,' if recipe.frozen else ''} with the "
                f"{recipe.head} head, trained on {facts['train_images']:,} images of "
                f"{count(len(self.model.class_names), 'class')}{took}"
            )

    def conclude(self, console: Console) -> bool:
        """Say so where nothing was learned, and what to try next; return whether that is so."""
        folder = self.folder
        said = ending(self.evaluation, folder.recipe(), folder.facts())
        if said is not None:
            say_line(console, said, "bold")
        return said is not None

    def write_report(self, beside: Mapping[str, FinishedRun]) -> Path:
        """Write the report, with other runs on the same data beside this one; return its path."""
        return write_report(
            self.folder.path,
            self.model,
            self.splits.test,
            self.evaluation,
            comparisons={label: run.evaluation for label, run in beside.items()},
            counterparts={label: run.model for label, run in beside.items()},
            map=self.map,
        )


@contextlib.contextmanager
def opened_to_write(path: Path, console: Console, *, writes: bool = True) -> Iterator[RunFolder]:
    """Open a run that is going to be written to, and say which of its pages are not as written."""
    with RunFolder.opened_to_write(path, writes=writes) as run:
        for line in run.changed_pages():
            say_line(console, line)
        yield run


@contextlib.contextmanager
def resumable(run: RunFolder) -> Iterator[None]:
    """Say how to go on where a signal comes while nothing is trained."""
    try:
        yield
    except Interrupted as stop:
        raise stopped(run, stop.number) from stop


def stopped(run: RunFolder, number: int | None) -> RunStopped:
    """Return what says that a run was stopped by a signal, and how to go on."""
    return RunStopped(f"stopped; continue with: loss-attention resume {run.path}", number)


def measure(
    model: PatchClassifier,
    images: LabelledImages,
    own: Splits | None,
    console: Console,
    split: str = "test",
    how: MapOptions | None = None,
) -> Evaluation:
    """Measure a model on images, where the model is; they get there batch by batch.

    What needs a threshold takes the one that is best on the run's validation slice. A recipe
    without one leaves no image that is neither trained on nor reported, and such scores undefined.

    Args:
        model: the model.
        images: what to measure it on.
        own: what there is of the data that it was trained on.
        console: where the bar goes.
        split: what to call the images.
        how: which heat maps are measured, and by what tolerance; None: as usual.
    """
    how = how or MapOptions()
    with counted("evaluating", console) as progress:
        return evaluate(
            model,
            images,
            train=None if own is None else own.trainval,
            held_out=None if own is None else own.validation,
            split=split,
            progress=progress,
            map=how.map,
            within=how.within,
            locality=how.locality,
        )


def train_out(
    run: RunFolder,
    splits: Splits,
    console: Console,
    accelerator: Accelerator,
    model: PatchClassifier | None = None,
) -> PatchClassifier:
    """Train what is left of a run, and return its best weights, on a device of the accelerator.

    Of the processes that torchrun or srun started, the first one alone comes back.
    """
    facts, stop = run.facts(), StopRequest()
    if facts.get("finished"):
        say_line(console, f"{run.path} is finished ({run.recipe().epochs} epochs)")
    else:
        with guarded(str(run.path / FACTS_FILE)):
            line = (
                f"{facts['train_images']:,} training, {facts['validation_images']:,} validation "
                f"and {facts['test_images']:,} test images; "
                f"{facts['parameters'] / 1e6:.2f} M parameters; "
                f"{shown_precision(facts['precision'])} on {facts['hardware']['device']}"
            )
        say(console, line)
        from loss_attention.training.job import continue_run  # with Fabric, which training needs

        if not continue_run(run, splits, console, model=model, stop=stop) or stop.requested:
            raise stopped(run, stop.number)
    if not run.writes:
        raise SystemExit(0)
    return load_weights(run).to(choose_device(accelerator))


def finish(
    run: RunFolder,
    splits: Splits,
    console: Console,
    accelerator: Accelerator,
    model: PatchClassifier | None = None,
) -> FinishedRun:
    """Train what is left of a run, and evaluate its best weights on the test split, once."""
    model = train_out(run, splits, console, accelerator, model)
    evaluation = measure(model, splits.test, splits, console)
    run.write_json("evaluation.json", evaluation.to_json())
    return FinishedRun(run, model, splits, evaluation)
