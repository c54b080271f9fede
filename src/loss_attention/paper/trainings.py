"""One training, from its data to its record in the ledger, and several side by side.

The ledger is one JSON file of what has been measured. Each training has a run folder of its own;
side by side they run in a process each, and on a GPU for each process, where there are some.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from queue import Empty
from typing import Any

import torch
from rich.console import Console

from loss_attention import __version__
from loss_attention.data.sample import Splits, limited
from loss_attention.errors import InputError, ReportedError
from loss_attention.evaluation.metric import Evaluation, current_record
from loss_attention.heads import HEADS
from loss_attention.interruption import (
    RunStopped,
    StopRequest,
    blocked_signals,
    leave_signals_to_the_parent,
    shared_byte,
)
from loss_attention.model import PatchClassifier
from loss_attention.paper.tables import EPOCH_SECONDS, training_key
from loss_attention.prediction import MapName
from loss_attention.runs import MapOptions, load_data, measure
from loss_attention.saving import make_folder, write_whole
from loss_attention.training.devices import choose_accelerator, choose_device
from loss_attention.training.finished import load_weights
from loss_attention.training.job import begin_run, continue_run
from loss_attention.training.recipe import Accelerator, Recipe, RunOptions
from loss_attention.training.run_folder import RunFolder

LEDGER_FILE = "ledger.json"
FORMAT_VERSION = 2
PAPERS_MAP: MapName = "evidence"
"""What heat maps are of here: what the paper calls evidence, whatever is shown elsewhere."""


@dataclass(frozen=True)
class Record:
    """The scores of one training with one seed.

    Attributes:
        training: its key, see `cells.training_key`.
        seed: the seed.
        recipe: the whole recipe.
        metrics: by name; None where undefined.
        baselines: of each metric that has some, what trivial baselines score, by name.
        minutes: of training, validation included.
        source: what the data was, in a line.
        test_images: how many images the scores are of.
        hardware: see `training.environment.hardware`.
        versions: of Python and the packages that decide scores, ours included.
        finished: the day, ISO 8601.
    """

    training: str
    seed: int
    recipe: dict[str, Any]
    metrics: dict[str, float | None]
    baselines: dict[str, dict[str, float | None]]
    minutes: float
    source: str
    test_images: int
    hardware: dict[str, Any]
    versions: dict[str, str]
    finished: str


class Ledger:
    """The records in one file. Reading is lenient about nothing; writing is whole or not at all.

    Args:
        path: the file; it need not exist yet.

    Raises:
        InputError: it is damaged, or from another version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._records = _read(path)

    def get(self, training: str, seed: int) -> Record | None:
        """Return a record, None where it has not been measured."""
        return self._records.get((training, seed))

    def seeds(self, training: str) -> list[Record]:
        """Return all records of a training, by seed."""
        found = [record for (key, _), record in self._records.items() if key == training]
        return sorted(found, key=lambda record: record.seed)

    def add(self, record: Record) -> None:
        """Add a record, or replace the one of the same training and seed, and write the file.

        What another command wrote into the file meanwhile is kept.
        """
        self._records = {**_read(self.path), (record.training, record.seed): record}
        rows = [asdict(self._records[key]) for key in sorted(self._records)]
        content = json.dumps({"format_version": FORMAT_VERSION, "records": rows}, indent=1)
        make_folder(self.path.parent)
        write_whole(self.path, content + "\n")


def _read(path: Path) -> dict[tuple[str, int], Record]:
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content["format_version"]
        if version not in (1, FORMAT_VERSION):
            raise InputError(
                f"the ledger {path} is of format {version}, this version of loss-attention reads "
                f"format {FORMAT_VERSION}: use the version that wrote it, or another `out`"
            )
        records = [Record(**current_record(row)) for row in content["records"]]
    except InputError:
        raise
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{path} is damaged or no ledger of loss-attention ({error!r})") from error
    return {(record.training, record.seed): record for record in records}


KEPT = 3
"""Data sets kept in memory at a time."""
FOLDERS: dict[str, tuple[str, ...]] = {
    "cifar10": ("cifar10",),
    "cifar100": ("cifar100",),
    "svhn": ("svhn",),
    "tiny-imagenet": ("tiny-imagenet-200", "tiny-imagenet", "tiny-imagenet-200.zip"),
    "coco2014": ("coco2014", "coco"),
}
"""What each data set may be called under `data_root`, the likeliest name first."""


class MissingDataError(InputError):
    """A data set is not here."""


def located(recipe: Recipe, data_root: Path | None) -> Recipe:
    """Return the recipe with its data's path under `data_root`, if it is there."""
    if data_root is not None:
        for folder in FOLDERS.get(recipe.data, ()):
            if (data_root / folder).exists():
                return replace(recipe, data=f"{recipe.data}:{data_root / folder}")
    return recipe


class Shelf:
    """Loads data for recipes, and keeps the last few sets for the trainings that follow.

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
            here = f"; or put it under `data_root` as {FOLDERS[name][0]}" if name in FOLDERS else ""
            self._missing[name] = MissingDataError(f"{name} is not here: {error}{here}")
            raise self._missing[name] from error


@dataclass(frozen=True)
class Trained:
    """A trained model and the data it was trained on."""

    model: PatchClassifier
    splits: Splits
    record: Record


def run_path(out: Path, recipe: Recipe) -> Path:
    """Return the folder of a training with its seed."""
    return out / "trainings" / training_key(recipe) / f"seed-{recipe.seed}"


def is_trained(out: Path, recipe: Recipe) -> bool:
    """Whether the weights of a finished training are here."""
    return (run_path(out, recipe) / "evaluation.json").exists()


def train(
    recipe: Recipe,
    out: Path,
    shelf: Shelf,
    accelerator: Accelerator,
    console: Console | None,
    stop: StopRequest | None = None,
) -> Trained:
    """Train a recipe, or what is left of it, and evaluate it once on the test split.

    Args:
        recipe: names its data, and has its seed.
        out: the folder that holds all trainings.
        shelf: loads the data.
        accelerator: what to train on.
        console: where to show progress; None: nowhere.
        stop: hears of signals; None: one of its own.

    Raises:
        InputError: data that is not there, or another run in the folder.
        DivergedError: the loss or the weights became NaN.
        RunStopped: stopped by a signal, with everything saved.
    """
    stop, run = stop or StopRequest(), RunFolder(run_path(out, recipe))
    begun = run.begun
    # A folder without run.json was cut short before its first step: nothing to lose there.
    with run.locked() if begun else run.claimed(overwrite=run.path.exists()):
        return _train(recipe, run, shelf, RunOptions(accelerator=accelerator), console, stop)


def _train(
    recipe: Recipe,
    run: RunFolder,
    shelf: Shelf,
    asked: RunOptions,
    console: Console | None,
    stop: StopRequest,
) -> Trained:
    begun = run.begun
    options = RunFolder.open(run.path).options() if begun else asked
    splits, wanted = shelf.splits(recipe, options), located(recipe, shelf.data_root)
    model = None
    if not begun:
        model = begin_run(run, wanted, splits, options)
    elif replace(run.recipe(), data=wanted.data) != wanted:
        raise InputError(
            f"{run.path} holds a run with other settings; name another folder as `out`"
        )
    unfinished = not run.facts().get("finished")
    if unfinished and not continue_run(run, splits, console, model=model, stop=stop):
        raise RunStopped("stopped; the same command continues", stop.number)
    model = load_weights(run)
    evaluated = run.read_json("evaluation.json")
    evaluation = Evaluation.from_json(evaluated) if evaluated else None
    has_evidence = HEADS[model.spec.head].has_evidence
    if evaluation is None or (has_evidence and evaluation.map != PAPERS_MAP):
        model.to(choose_device(asked.accelerator))
        shown = console or Console(quiet=True)
        how = MapOptions(map=PAPERS_MAP if has_evidence else None, locality=0)
        evaluation = measure(model, splits.test, splits, shown, how=how)
        model.cpu()
        run.write_json("evaluation.json", evaluation.to_json())
        # Only an unfinished run is continued, and the ledger has many runs.
        run.remove_state()
    return Trained(model, splits, _record(recipe, run, evaluation))


def _record(recipe: Recipe, run: RunFolder, evaluation: Evaluation) -> Record:
    facts, history = run.facts(), run.metrics()
    metrics = {metric.name: metric.value for metric in evaluation.metrics}
    seconds = [facts["train_images"] / line["images_per_second"] for line in history]
    metrics[EPOCH_SECONDS] = sum(seconds) / len(seconds)
    return Record(
        training=training_key(recipe),
        seed=recipe.seed,
        recipe=asdict(recipe),
        metrics=metrics,
        baselines={metric.name: dict(metric.baselines) for metric in evaluation.metrics},
        minutes=round(facts["train_seconds"] / 60, 5),
        source=facts["source"],
        test_images=evaluation.images,
        hardware=facts["hardware"],
        versions={"loss-attention": __version__, **facts["versions"]},
        finished=datetime.now(UTC).date().isoformat(),
    )


LOOK_EVERY = 1.0
"""Seconds between the looks at whether Ctrl-C was pressed."""


def count_workers(wanted: int | None, accelerator: Accelerator) -> int:
    """Return how many trainings to run side by side.

    Args:
        wanted: as many; None: one for each GPU, or one on a CPU.
        accelerator: what to train on.

    Raises:
        InputError: fewer than one, or more than a CPU has cores.
    """
    cuda = choose_accelerator(accelerator, 1) == "cuda"
    if wanted is None:
        return torch.cuda.device_count() if cuda else 1
    cores = os.cpu_count() or 1
    if wanted < 1:
        raise InputError(f"`workers` must be at least 1, got {wanted}")
    if not cuda and wanted > cores:
        raise InputError(f"`workers` {wanted}: this CPU has {cores} cores")
    return wanted


def train_side_by_side(
    recipes: Sequence[Recipe],
    workers: int,
    out: Path,
    data_root: Path | None,
    accelerator: Accelerator,
) -> Iterator[tuple[Recipe, Record | ReportedError]]:
    """Train recipes in several processes; yield each with its record or problem as it ends.

    Raises:
        RunStopped: stopped by a signal; every process has finished its step and saved.
    """
    context = multiprocessing.get_context("spawn")
    with blocked_signals():  # Python begins a process for the queue, which a signal would end
        devices = context.Queue()
    for device in _devices(workers, accelerator):
        devices.put(device)
    shared = shared_byte(context)
    stop = StopRequest(shared)
    begin = (devices, workers, shared, data_root)
    with stop.listening(), ProcessPoolExecutor(workers, context, _begin, begin) as pool:
        with blocked_signals():  # processes begin with them blocked
            running = {
                pool.submit(_train_in_worker, recipe, out, accelerator): recipe
                for recipe in recipes
            }
        while running:
            done, _ = wait(running, timeout=LOOK_EVERY, return_when=FIRST_COMPLETED)
            if stop.requested:
                for future in running:
                    future.cancel()
            for future in done:
                recipe = running.pop(future)
                if (outcome := _outcome(future)) is not None:
                    yield recipe, outcome
    if stop.requested:
        raise RunStopped("stopped; the same command continues", stop.number)


def _outcome(future: Future[Record]) -> Record | ReportedError | None:
    """Return what came of a training; None: it was stopped."""
    if future.cancelled():
        return None
    error = future.exception()
    if isinstance(error, RunStopped):
        return None
    return error if isinstance(error, ReportedError) else future.result()


def _devices(workers: int, accelerator: Accelerator) -> list[str | None]:
    """Return the GPU of each worker as CUDA_VISIBLE_DEVICES names it; None on a CPU."""
    if choose_accelerator(accelerator, 1) != "cuda":
        return [None] * workers
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]
    return [gpus[i % len(gpus)] for i in range(workers)]


# What a worker keeps from one training to the next.
_worker: dict[str, Any] = {}


def _begin(devices: Any, workers: int, shared: Any, data_root: Path | None) -> None:
    leave_signals_to_the_parent()
    try:
        device = devices.get(timeout=60)
    except Empty:
        device = None
    if device is None:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
    else:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    _worker["stop"] = StopRequest(shared)
    _worker["shelf"] = Shelf(data_root, Console(quiet=True))


def _train_in_worker(recipe: Recipe, out: Path, accelerator: Accelerator) -> Record:
    stop: StopRequest = _worker["stop"]
    if stop.requested:
        raise RunStopped("stopped; the same command continues", stop.number)
    return train(recipe, out, _worker["shelf"], accelerator, None, stop).record
