"""What the command's words do: train, resume, evaluate, explain, report, demo."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from rich.console import Console

from loss_attention.data.naming import recorded
from loss_attention.data.sample import LabelledImages, Splits
from loss_attention.errors import InputError, guarded
from loss_attention.evaluation import Evaluation, evaluate
from loss_attention.interruption import Interrupted, RunStopped, StopRequest
from loss_attention.models import PatchClassifier, load
from loss_attention.report.explained import THRESHOLD, ExplainSummary, explain_files
from loss_attention.report.page import write_report
from loss_attention.report.tables import show_evaluations
from loss_attention.run_data import OtherData, load_data, measured, own_data
from loss_attention.terminal import counted, say, say_line
from loss_attention.training.environment import (
    choose_device,
    count_devices,
    shown_precision,
)
from loss_attention.training.job import begin_run, change_learning_rate, continue_run
from loss_attention.training.processes import cluster_of, leads
from loss_attention.training.recipe import Accelerator, Recipe, RunOptions
from loss_attention.training.run_folder import RunFolder

MODEL_FIELDS = (
    "backbone",
    "head",
    "in_channels",
    "width",
    "strided_layers",
    "patch_kernel",
    "patch_stride",
    "threshold",
    "resize",
)
TWIN = "mean-pooling"


@dataclass(frozen=True)
class FinishedRun:
    """A trained and evaluated run."""

    folder: RunFolder
    model: PatchClassifier
    splits: Splits
    evaluation: Evaluation


def train(
    recipe: Recipe, out: Path, options: RunOptions, console: Console, *, overwrite: bool = False
) -> FinishedRun:
    """Train a recipe in a new run folder, evaluate the best epoch and write the report.

    Raises:
        InputError: anything that the recipe, the data or the folder has wrong.
        RunStopped: stopped by a signal; `resume` continues.
    """
    run = RunFolder(out, writes=leads(options))
    console = console if run.writes else Console(quiet=True)
    with run.claimed(overwrite=overwrite):
        splits = load_data(recipe, console, options)
        model = begin_run(run, recipe, splits, options)
        with _resumable(run):
            finished = _finish(run, splits, console, options.accelerator, model)
            _report(finished, console)
    return finished


def resume(
    path: Path, console: Console, *, data: str | None = None, learning_rate: float | None = None
) -> FinishedRun:
    """Continue an interrupted run to its end; a finished one is only evaluated again.

    Args:
        path: the run's folder.
        console: where its progress goes.
        data: where the run's data lies now, if it has moved; kept with the run.
        learning_rate: what is left of the run takes this one, after a divergence for instance.

    Raises:
        InputError: what the run needs is damaged, changed or not here.
        RunStopped: stopped by a signal again.
    """
    writes = leads(RunFolder.open(path).options())
    console = console if writes else Console(quiet=True)
    with _opened_to_write(path, console, writes=writes) as run, _resumable(run):
        if learning_rate is not None:
            change_learning_rate(run, learning_rate, partial(say_line, console))
        finished = _resumed(run, data, console)
        _report(finished, console)
    return finished


def _resumed(run: RunFolder, data: str | None, console: Console) -> FinishedRun:
    path, options = run.path, run.options()
    accelerator = options.accelerator
    if not count_devices("cpu" if accelerator == "auto" else accelerator):
        if not run.facts().get("finished"):
            raise InputError(f"{path} began on a GPU and torch finds none here: resume it on one")
        accelerator = "auto"  # the whole run has come here from another machine
    splits = own_data(run, console, data=data)
    if data is not None:
        run.note(data=recorded(data, path))
    return _finish(run, splits, console, accelerator)


def evaluate_run(
    path: Path,
    data: str | None,
    console: Console,
    *,
    masks: bool = False,
    classes: Sequence[str] = (),
    skip_broken: bool = False,
    accelerator: Accelerator = "auto",
) -> Evaluation:
    """Evaluate a run's best weights on the test split of its own data, or on other data.

    The figures of its own data are also written to the run folder. What needs a threshold takes it
    from the run's own held-out images either way.

    Args:
        path: the run's folder.
        data: other data than the run's own; None: its own.
        console: where the table goes.
        masks: measure against the masks of objects too.
        classes: of other data measure these classes of the model alone; none: all.
        skip_broken: of other data leave out images that something is wrong with, or whose classes
            the model does not know.
        accelerator: auto, cpu, cuda, mps or xpu.

    Raises:
        InputError: what the run needs is damaged or not here, or other data that cannot be used.
    """
    device = choose_device(accelerator)
    other = OtherData.asked(data, classes, skip_broken=skip_broken)
    with contextlib.ExitStack() as held:
        if other is None:
            run = held.enter_context(_opened_to_write(path, console))
        else:
            run = RunFolder.open(path)
        model = load_weights(run).to(device)
        found, recipe = measured(run, model, other, console, masks=masks), run.recipe()
        figures = _evaluate(model, found.images, found.own, console, split=found.split)
        if not found.others:
            with run.locked():
                run.write_json("evaluation.json", figures.to_json())
        show_evaluations({recipe.name: figures}, console)
    return figures


def explain(
    path: Path,
    images: Sequence[Path],
    out: Path,
    console: Console,
    *,
    target: str | None = None,
    method: str | None = None,
    accelerator: Accelerator = "auto",
    overwrite: bool = False,
) -> ExplainSummary:
    """Explain image files with a run, a weights file or a hub model; a picture and a JSON each."""
    device = choose_device(accelerator)
    run = RunFolder.open(path) if (path / "recipe.yaml").is_file() else None
    model = (load(path) if run is None else load_weights(run)).to(device)
    threshold = _object_threshold(run) if run is not None and method is None else None
    with written_to(run, out), counted("explaining", console) as progress:
        return explain_files(
            model,
            images,
            out,
            target=target,
            method=method,
            object_threshold=THRESHOLD if threshold is None else threshold,
            overwrite=overwrite,
            progress=progress,
        )


def written_to(run: RunFolder | None, out: Path) -> AbstractContextManager[None]:
    """Keep others from a run while something is written into its folder; elsewhere, from nothing.

    A run that is only read need not be in a folder that can be written to.
    """
    if run is None or run.path.resolve() not in (out.resolve(), *out.resolve().parents):
        return nullcontext()
    return run.locked()


@contextlib.contextmanager
def _opened_to_write(path: Path, console: Console, *, writes: bool = True) -> Iterator[RunFolder]:
    with RunFolder.opened_to_write(path, writes=writes) as run:
        for line in run.changed_pages():
            say_line(console, line)
        yield run


@contextlib.contextmanager
def _resumable(run: RunFolder) -> Iterator[None]:
    """Say how to go on where a signal comes while nothing is trained."""
    try:
        yield
    except Interrupted as stop:
        raise _stopped(run, stop.number) from stop


def _stopped(run: RunFolder, number: int | None) -> RunStopped:
    return RunStopped(f"stopped; continue with: loss-attention resume {run.path}", number)


def _object_threshold(run: RunFolder) -> float | None:
    """Return what `evaluate` found best on held-out images for several boxes, if it did."""
    if not (run.path / "evaluation.json").is_file():
        return None
    thresholds = run.read_json("evaluation.json").get("thresholds")
    found = thresholds.get("object_ap") if isinstance(thresholds, dict) else None
    return found if isinstance(found, float) and 0 <= found < 1 else None


def report(
    path: Path, console: Console, *, data: str | None = None, accelerator: Accelerator = "auto"
) -> Path:
    """Write a finished run's report anew; `data` is where its data lies now, if it has moved."""
    device = choose_device(accelerator)
    with _opened_to_write(path, console) as run:
        model, splits = load_weights(run).to(device), own_data(run, console, data=data)
        figures = evaluate_weights(model, splits, console)
        return _report(FinishedRun(run, model, splits, figures), console)


def demo(recipe: Recipe, out: Path, options: RunOptions, console: Console) -> Path:
    """Train a recipe and its mean-pooling twin, and report on the two side by side.

    Run again, it continues where it stopped; finished, it only shows the result again.
    """
    if options.num_nodes > 1 or cluster_of(options) is not None:
        raise InputError("the demo trains on one machine, without torchrun or srun")
    variants = {recipe.head: recipe, TWIN: replace(recipe, name=f"{recipe.name}-mean", head="mean")}
    folders = {recipe.head: RunFolder(out), TWIN: RunFolder(out / TWIN)}
    runs: dict[str, FinishedRun] = {}
    with contextlib.ExitStack() as held:
        held.enter_context(_begun_or_claimed(folders[recipe.head]))
        splits = load_data(recipe, console, options)
        for label, run in folders.items():
            held.enter_context(_begun_or_claimed(run))
            model = None
            if not _has_begun(run):
                model = begin_run(run, variants[label], splits, options)
            run.check()
            if run.recipe() != variants[label]:
                raise InputError(
                    f"{run.path} holds a run with other settings; name another folder with --out"
                )
            say_line(console, f"{label} in {run.path}", "bold")
            try:
                runs[label] = _finish(run, splits, console, options.accelerator, model)
            except (Interrupted, RunStopped) as stop:
                how = f"continue with: loss-attention demo --out {out}"
                raise RunStopped(f"stopped; {how}", stop.number) from stop
        figures = {label: finished.evaluation for label, finished in runs.items()}
        show_evaluations(figures, console)
        return _write_report(runs[recipe.head], console, {TWIN: runs[TWIN]})


def _has_begun(run: RunFolder) -> bool:
    return (run.path / "recipe.yaml").exists()


def _begun_or_claimed(run: RunFolder) -> AbstractContextManager[None]:
    return run.locked() if _has_begun(run) else run.claimed()


def load_weights(run: RunFolder) -> PatchClassifier:
    """Load a run's best weights, to the CPU.

    Raises:
        InputError: there are none yet, they are damaged, or not those of the run's recipe.
    """
    run.check_weights()
    model, recipe = load(run.path), run.recipe()
    for name in MODEL_FIELDS:
        wanted = getattr(recipe, name)
        found = model.config[name]
        if found != (list(wanted) if isinstance(wanted, tuple) else wanted):
            raise InputError(
                f"the weights in {run.path} are not those of its recipe.yaml: "
                f"{name} is {found} in the weights and {wanted} in the recipe"
            )
    return model


def evaluate_weights(model: PatchClassifier, splits: Splits, console: Console) -> Evaluation:
    """Measure a model on the test split, where the model is; images get there batch by batch.

    What needs a threshold takes the one that is best on the run's validation slice. A recipe
    without one leaves no image that is neither trained on nor reported, and such figures undefined.

    Args:
        model: the weights of the recipe.
        splits: the data.
        console: where the bar goes.
    """
    return _evaluate(model, splits.test, splits, console)


def _evaluate(
    model: PatchClassifier,
    images: LabelledImages,
    own: Splits | None,
    console: Console,
    split: str = "test",
) -> Evaluation:
    """Measure a model on images, with what there is of the run's own data to fit things to."""
    with counted("evaluating", console) as progress:
        return evaluate(
            model,
            images,
            train=None if own is None else own.trainval,
            held_out=None if own is None else own.validation,
            split=split,
            progress=progress,
        )


def _finish(
    run: RunFolder,
    splits: Splits,
    console: Console,
    accelerator: Accelerator,
    model: PatchClassifier | None = None,
) -> FinishedRun:
    """Train what is left of a run, and evaluate its best weights on the test split, once."""
    facts, stop = run.facts(), StopRequest()
    if facts.get("finished"):
        say_line(console, f"{run.path} is finished ({run.recipe().epochs} epochs)")
    else:
        with guarded(str(run.path / "run.json")):
            line = (
                f"{facts['train_images']:,} training, {facts['validation_images']:,} validation "
                f"and {facts['test_images']:,} test images; "
                f"{facts['parameters'] / 1e6:.2f} M parameters; "
                f"{shown_precision(facts['precision'])} on {facts['hardware']['device']}"
            )
        say(console, line)
        if not continue_run(run, splits, console, model=model, stop=stop) or stop.requested:
            raise _stopped(run, stop.number)
    if (
        not run.writes
    ):  # of the processes that torchrun or srun started, the first one does the rest
        raise SystemExit(0)
    model = load_weights(run).to(choose_device(accelerator))
    figures = evaluate_weights(model, splits, console)
    run.write_json("evaluation.json", figures.to_json())
    return FinishedRun(run, model, splits, figures)


def _report(finished: FinishedRun, console: Console) -> Path:
    """Print the figures and write the report."""
    name = finished.folder.recipe().name
    show_evaluations({name: finished.evaluation}, console)
    return _write_report(finished, console, {})


def _write_report(finished: FinishedRun, console: Console, twins: dict[str, FinishedRun]) -> Path:
    path = write_report(
        finished.folder.path,
        finished.model,
        finished.splits.test,
        finished.evaluation,
        comparisons={label: twin.evaluation for label, twin in twins.items()},
        twins={label: twin.model for label, twin in twins.items()},
    )
    say_line(console, f"report: {path}")
    return path
