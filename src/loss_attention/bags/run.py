"""A run on bags as a whole: its data found again, trained out, measured, and what is said of it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from loss_attention.bags.bag_set import BagSet, Features, described
from loss_attention.bags.division import BagParts, check_width, of_classes, parts_of
from loss_attention.bags.evaluation import BagEvaluation, evaluate_bags
from loss_attention.bags.exported import BagMetadata, ExportedBagClassifier
from loss_attention.bags.labels import how_asked
from loss_attention.bags.model import BagClassifier
from loss_attention.bags.reading import read_bags
from loss_attention.bags.recipe import BagRunRecipe, bag_recipe, is_bag_run
from loss_attention.bags.report import ending, sentences, write_bag_report
from loss_attention.bags.saved import load_bag_model
from loss_attention.bags.training import predicted
from loss_attention.data.loading import recorded
from loss_attention.errors import InputError, guarded
from loss_attention.interruption import StopRequest
from loss_attention.predicting import Predicted, predicted_of
from loss_attention.prediction import probabilities_of
from loss_attention.report.tables import show_table
from loss_attention.runs import find_again, opened_to_write, resumable, stopped
from loss_attention.saving import FACTS_FILE
from loss_attention.terminal import counted, say_line
from loss_attention.training.devices import choose_accelerator, choose_device, count_devices
from loss_attention.training.recipe import Accelerator
from loss_attention.training.run_folder import EVALUATION_FILE, RunFolder

if TYPE_CHECKING:
    from numpy.typing import NDArray


def own_bags(
    run: RunFolder, data: str | None = None, columns: Sequence[str] = ()
) -> tuple[BagSet, BagParts]:
    """Load a run's own bags, from where they lie now, divided as they were.

    Args:
        run: the run.
        data: where they lie; None: where they lay, or as they lay from here or from the run's
            folder.
        columns: what their columns are called; none: as the recipe says.

    Raises:
        InputError: they are gone, cannot be read, or are others than the run began with.
    """
    recipe, facts = bag_recipe(run.path), run.facts()
    where = find_again(recipe.data, facts, run.path).data if data is None else data
    bags = read_bags(where, how=how_asked(columns or recipe.columns))
    if bags.fingerprint() != facts.get("data_fingerprint"):
        raise InputError(
            f"the bags of {run.path} have changed since it began ({where}); begin a new run with "
            "them, or say where its own are with `data`"
        )
    parts = parts_of(bags, recipe)
    if parts.digest() != facts.get("division"):
        raise InputError(
            f"the splits or groups of {where} have changed since the run {run.path} began: what "
            "is tested may have been trained on; begin a new run"
        )
    return bags, parts


def load_bag_weights(run: RunFolder) -> BagClassifier:
    """Load the best weights of a run on bags, to the CPU.

    Raises:
        InputError: there are none yet, they are damaged, or not those of the run's recipe.
    """
    run.check_weights()
    model, recipe = load_bag_model(run.weights), bag_recipe(run.path)
    for name in ("pooling", "hidden", "dropout", "threshold"):
        found, wanted = model.settings[name], getattr(recipe, name)
        if found != wanted:
            raise InputError(
                f"the weights in {run.path} are not those of its recipe.yaml: {name} is {found} in "
                f"the weights and {wanted} in the recipe"
            )
    return model


def finish_bag_run(
    run: RunFolder,
    parts: BagParts,
    console: Console,
    accelerator: Accelerator,
    model: BagClassifier | None = None,
) -> BagEvaluation:
    """Train what is left of a run, measure its best weights on its test bags, and report.

    Raises:
        RunStopped: a signal came; everything is saved.
    """
    facts, stop = run.facts(), StopRequest()
    if facts.get("finished"):
        say_line(console, f"{run.path} is finished ({bag_recipe(run.path).epochs} epochs)")
    else:
        with guarded(str(run.path / FACTS_FILE)):
            said = (
                f"{facts['train_bags']:,} training, {facts['validation_bags']:,} validation and "
                f"{facts['test_bags']:,} test bags; {facts['parameters'] / 1e6:.2f} M parameters; "
                f"float32 on {facts['hardware']['device']}"
            )
        say_line(console, said)
        if parts.left_out:
            say_line(console, f"{parts.left_out:,} bags are of another split, and left out")
        from loss_attention.bags.job import continue_bag_run  # with Fabric, which training needs

        done = continue_bag_run(run, parts, console, model=model, stop=stop)
        if not done or stop.requested:
            raise stopped(run, stop.number)
    best = load_bag_weights(run).to(choose_device(accelerator))
    return reported(run, best, parts, console)


def reported(
    run: RunFolder, model: BagClassifier, parts: BagParts, console: Console
) -> BagEvaluation:
    """Measure a model on its run's test bags, write scores and report down, and say them."""
    evaluation = measured(model, parts.test, parts.train, console)
    run.write_json(EVALUATION_FILE, evaluation.to_json())
    conclude(run, model, parts, evaluation, console)
    return evaluation


def measured(
    model: BagClassifier,
    bags: BagSet,
    train: BagSet | None,
    console: Console,
    split: str = "test",
) -> BagEvaluation:
    """Measure a classifier, with a bar; see `evaluate_bags`."""
    with counted("evaluating", console) as progress:
        return evaluate_bags(model, bags, train=train, split=split, progress=progress)


def show_evaluation(evaluation: BagEvaluation, console: Console) -> None:
    """Print the scores beside their trivial baselines, and in words what they mean."""
    count = f"{evaluation.bags:,} {evaluation.split} bags of {evaluation.instances:,} instances"
    say_line(console, count, "bold")
    for table in evaluation.tables():
        show_table(table, console)
    for sentence in sentences(evaluation):
        say_line(console, sentence)


def conclude(
    run: RunFolder,
    model: BagClassifier,
    parts: BagParts,
    evaluation: BagEvaluation,
    console: Console,
) -> None:
    """Write the report; say what was trained, for how long, the scores, and what is next."""
    recipe, facts = bag_recipe(run.path), run.facts()
    report = write_bag_report(run, recipe, model, parts, evaluation)
    best = facts.get("best_epoch")
    with guarded(str(run.path / FACTS_FILE)):
        say_line(
            console,
            f"{recipe.pooling} pooling, trained on {facts['train_bags']:,} bags in "
            f"{facts['train_seconds']:,.0f} s; weights of epoch {best}"
            + (", the best by validation loss" if facts["validation_bags"] else ", the last"),
            "bold",
        )
    show_evaluation(evaluation, console)
    said = ending(evaluation, recipe, facts)
    if said is not None:
        say_line(console, said, "bold")
    else:
        folder = shlex.quote(str(run.path))
        say_line(console, f"next: loss-attention explain {folder} BAGS --out explained")
    say_line(console, f"report: {report}", "bold")


def train_bags(
    recipe: BagRunRecipe,
    path: Path,
    console: Console,
    accelerator: Accelerator = "auto",
    *,
    overwrite: bool = False,
) -> BagEvaluation:
    """Train, checkpoint and evaluate, in a folder.

    Raises:
        InputError: the recipe or its data cannot be used, or a run is in the folder.
        RunStopped: a signal came; everything is saved.
    """
    from loss_attention.bags.job import begin_bag_run  # with Fabric, which training needs

    if not recipe.data:
        raise InputError(
            "the recipe bags needs `data`: a table of instances, or a folder of one file a bag"
        )
    choose_accelerator(accelerator, 1)  # what is missing should not wait for the data
    run = RunFolder(path)
    with run.claimed(overwrite=overwrite):
        bags = read_bags(recipe.data, how=how_asked(recipe.columns))
        say_line(console, f"{recipe.data}: {described(bags)}")
        model = begin_bag_run(run, recipe, bags, accelerator)
        if model.positive is not None:
            name = model.class_names[model.positive]
            say_line(console, f"bags are searched for the class {name} (the other: `positive`)")
        with resumable(run):
            parts = parts_of(bags, recipe)
            evaluation = finish_bag_run(run, parts, console, accelerator, model)
    return evaluation


def resume_bags(path: Path, console: Console, data: str | None = None) -> BagEvaluation:
    """Continue an interrupted run on the hardware it began on, and evaluate it."""
    with opened_to_write(path, console) as run, resumable(run):
        accelerator = run.options().accelerator
        if not count_devices("cpu" if accelerator == "auto" else accelerator):
            if not run.facts().get("finished"):
                raise InputError(
                    f"{path} began on a GPU and torch finds none here: resume it on one"
                )
            accelerator = "auto"  # the whole run has come here from another machine
        _, parts = own_bags(run, data)
        if data is not None:
            run.note(data=recorded(data, path))
        return finish_bag_run(run, parts, console, accelerator)


def report_bag_run(
    path: Path, console: Console, data: str | None, accelerator: Accelerator
) -> BagEvaluation:
    """Measure a run on its test bags, and write its scores and its report again.

    Raises:
        InputError: there are no weights, or bags that cannot be used.
    """
    device = choose_device(accelerator)
    with opened_to_write(path, console) as run:
        model = load_bag_weights(run).to(device)
        _, parts = own_bags(run, data)
        return reported(run, model, parts, console)


def columns_of(source: Path) -> tuple[str, ...]:
    """Return what a run says of the columns of its data; of a `.safetensors` file, nothing."""
    return bag_recipe(RunFolder.open(source).path).columns if is_bag_run(source) else ()


def evaluate_bag_run(
    path: Path,
    console: Console,
    data: str | None,
    accelerator: Accelerator,
    columns: Sequence[str] = (),
) -> BagEvaluation:
    """Measure a run on its test bags, or on other bags; the scores of its own are written down.

    Args:
        path: the run's folder.
        console: where to show progress.
        data: the other bags; None: its own.
        accelerator: where to compute.
        columns: what their columns are called; see `how_asked`.

    Raises:
        InputError: there are no weights, or bags that cannot be used.
    """
    device = choose_device(accelerator)
    run = RunFolder.open(path)
    model = load_bag_weights(run).to(device)
    if columns and data is None:
        raise InputError("`columns` is for `data`: those of the run's own bags are in its recipe")
    how = how_asked(columns, columns_of(path))
    other = None if data is None else read_bags(data, how=how)
    if other is not None and other.fingerprint() == run.facts().get("data_fingerprint"):
        say_line(console, f"{data} is the run's own data: its test bags are measured")
        other = None
    if other is None:
        with run.locked():
            _, parts = own_bags(run, data, columns)
            evaluation = measured(model, parts.test, parts.train, console)
            run.write_json(EVALUATION_FILE, evaluation.to_json())
        return evaluation
    check_width(other, model.in_features)
    if other.multi_label != model.multi_label:
        raise InputError(f"{data}: bags of one label and of several are not told by one model")
    other = of_classes(other, model.class_names)
    train: BagSet | None = None
    try:
        train = own_bags(run)[1].train
    except InputError as error:
        say_line(console, f"what is fitted to the run's own bags stays undefined: {error}")
    named = other.split("test") if "test" in other.splits else other
    split = "test" if "test" in other.splits else "given"
    return measured(model, named, train, console, split)


def predict_bags(
    source: Path,
    data: str,
    accelerator: Accelerator,
    progress: Callable[[int, int], object] = lambda *_: None,
    columns: Sequence[str] = (),
) -> tuple[list[Predicted], tuple[str, ...]]:
    """Return what a classifier says of bags, whose labels it does not look at, and its classes.

    Args:
        source: a run's folder, its `.safetensors` file, or an exported `.onnx` file.
        data: the bags.
        accelerator: where to compute; exported files run on the CPU.
        progress: called with bags done and all of them.
        columns: what columns of a table are called; see `how_asked`.

    Raises:
        InputError: bags or a classifier that cannot be used, or probabilities that are not finite.
    """
    device = choose_device(accelerator)
    of_bags: BagClassifier | BagMetadata
    if source.suffix.lower() == ".onnx" and not source.is_dir():
        of_bags, probabilities = _of_file(ExportedBagClassifier(source))
    elif source.is_dir():
        of_bags, probabilities = _of_model(load_bag_weights(RunFolder.open(source)).to(device))
    else:
        of_bags, probabilities = _of_model(load_bag_model(source).to(device))
    bags = read_bags(data, how=how_asked(columns, columns_of(source), labelled=False))
    check_width(bags, of_bags.in_features)
    found = []
    for name, said in zip(bags.names, probabilities(bags), strict=True):
        found.append(predicted_of(of_bags, name, said))
        progress(len(found), len(bags))
    return found, of_bags.class_names


Probabilities = Callable[[BagSet], Iterator["NDArray[Any]"]]
"""Yields the probabilities `(K,)` of each bag."""


def _of_model(model: BagClassifier) -> tuple[BagClassifier, Probabilities]:
    """Return a classifier and how it classifies."""

    def probabilities(bags: BagSet) -> Iterator[NDArray[Any]]:
        for prediction in predicted(model, bags):
            yield probabilities_of(prediction.logits, competing=model.competing)[0].cpu().numpy()

    return model, probabilities


def _of_file(exported: ExportedBagClassifier) -> tuple[BagMetadata, Probabilities]:
    """Likewise of an exported file, whose bags are read a part at a time."""

    def probabilities(bags: BagSet) -> Iterator[NDArray[Any]]:
        for bag in range(len(bags)):
            try:
                yield exported(Features(bags, bag)).probabilities
            except InputError as error:
                raise InputError(f"{bags.location(bag)}: {error}") from error

    return exported.metadata, probabilities
