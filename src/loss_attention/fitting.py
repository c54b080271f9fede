"""Train a recipe from its data to its report: what `loss-attention train` and `la.train` do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from loss_attention.data.sample import Splits
from loss_attention.errors import InputError, unknown_name
from loss_attention.evaluation.metric import Evaluation
from loss_attention.model import PatchClassifier
from loss_attention.report.notebook import run_html
from loss_attention.report.page import REPORT_FILE
from loss_attention.runs import FinishedRun, finish, load_data, resumable, train_out
from loss_attention.terminal import say_line
from loss_attention.training.job import begin_run
from loss_attention.training.loggers import check_loggers
from loss_attention.training.processes import leads
from loss_attention.training.recipe import Recipe, RunOptions
from loss_attention.training.recipes import recipe as find_recipe
from loss_attention.training.restarting import goes_on, going_on
from loss_attention.training.run_folder import RunFolder


def check_data(recipe: Recipe) -> None:
    """Raise `InputError` for a recipe that does not say what to train on."""
    if not recipe.data:
        raise InputError(f"the recipe {recipe.name} needs `data`: a folder of images, or a hub id")


def fit(
    recipe: Recipe,
    path: Path,
    console: Console,
    options: RunOptions,
    *,
    overwrite: bool = False,
    verbose: bool = False,
) -> FinishedRun:
    """Train, checkpoint, evaluate and report, in a folder.

    Args:
        recipe: what to train, on which data.
        path: the run's folder.
        console: what is said meanwhile, and the scores.
        options: what to train on.
        overwrite: replace the run that is in the folder already.
        verbose: print all scores, not only those that say most.

    Raises:
        InputError: the recipe or its data cannot be used, or a run is in the folder.
        RunStopped: a signal came; everything is saved.
    """
    check_data(recipe)
    check_loggers(options.loggers)  # what is missing should not wait for the data
    run = RunFolder(path, writes=leads(options))
    console.quiet = console.quiet or not run.writes
    again = goes_on(run)
    if recipe.initial is not None and not again:
        RunFolder.open(Path(recipe.initial))  # nor an error there
    with going_on(run, recipe, options) if again else run.claimed(overwrite=overwrite):
        splits = load_data(recipe, console, options)
        model = _begin(run, recipe, splits, console, options, again=again)
        with resumable(run):
            finished = finish(run, splits, console, options.accelerator, model)
            finished.report(console, verbose=verbose)
    return finished


def fit_images(
    recipe: Recipe,
    splits: Splits,
    path: Path,
    console: Console,
    options: RunOptions,
    *,
    overwrite: bool = False,
) -> PatchClassifier:
    """Train on images that are there already, and leave the test to the caller.

    Args:
        recipe: what to train; its `data` is not read.
        splits: the images; those for the test are not looked at.
        path: the run's folder.
        console: what is said meanwhile.
        options: what to train on.
        overwrite: replace the run that is in the folder already.

    Returns:
        The best weights.

    Raises:
        InputError: the recipe or the images cannot be used, or a run is in the folder.
        RunStopped: a signal came; everything is saved.
    """
    run = RunFolder(path, writes=leads(options))
    again = goes_on(run)
    with going_on(run, recipe, options) if again else run.claimed(overwrite=overwrite):
        model = _begin(run, recipe, splits, console, options, again=again)
        with resumable(run):
            return train_out(run, splits, console, options.accelerator, model)


def _begin(
    run: RunFolder,
    recipe: Recipe,
    splits: Splits,
    console: Console,
    options: RunOptions,
    *,
    again: bool,
) -> PatchClassifier | None:
    """Begin a run in a folder that is claimed, and say what it begins with.

    Where it is started `again` there is nothing to begin: its last checkpoint has the model.
    """
    if again:
        say_line(console, f"started again by torchrun: going on with {run.path}")
        return None
    model = begin_run(run, recipe, splits, options)
    if recipe.initial is not None:
        say_line(console, f"begins with the best weights of the run {recipe.initial}")
    if loaded := getattr(model.backbone, "weights", {}):
        say_line(console, "backbone: " + ", ".join(f"{k} {v}" for k, v in loaded.items()))
    return model


@dataclass(frozen=True)
class TrainedRun:
    """A run that was trained and measured; a notebook shows its scores.

    Attributes:
        path: its folder, which the command takes too.
        model: its best weights, in evaluation mode.
        evaluation: on the test images, with all metrics and their trivial baselines.
    """

    path: Path
    model: PatchClassifier
    evaluation: Evaluation

    @property
    def metrics(self) -> dict[str, float | None]:
        """The score of each metric by its name in evaluation.json; None: it is undefined."""
        return {metric.name: metric.value for metric in self.evaluation.metrics}

    @property
    def report(self) -> Path:
        """The page about the run, to be opened in a browser."""
        return self.path / REPORT_FILE

    def _repr_html_(self) -> str:
        return run_html(self.evaluation, self.report)


def train(
    recipe: str | Recipe = "photos",
    *,
    data: str | Path | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    quiet: bool = False,
    **changes: Any,
) -> TrainedRun:
    """Train a recipe and measure it: `loss-attention train` in Python.

    Args:
        recipe: its name, or a recipe of your own.
        data: a folder of images with a sub-folder for each class, or anything that --data takes;
            None: the recipe's own.
        out: the run's folder; None: runs/NAME.
        overwrite: replace the run that is in the folder already.
        quiet: print nothing.
        changes: fields of the recipe (`epochs=10`) or of `RunOptions` (`accelerator="cpu"`).

    Returns:
        The run, with `.model`, `.metrics` and `.report`.

    Raises:
        InputError: an unknown recipe or field, values or data that cannot be used, or a run that is
            in the folder already.

    Example:
        >>> import loss_attention as la
        >>> la.train("photos", data="my-images", epoch=3)
        Traceback (most recent call last):
        ...
        loss_attention.errors.InputError: unknown field 'epoch'; did you mean 'epochs'? ...
    """
    given = changes if data is None else {**changes, "data": data}
    wanted, options = settings(recipe, given)
    path = Path("runs") / wanted.name if out is None else Path(out)
    done = fit(wanted, path, Console(quiet=quiet, markup=False), options, overwrite=overwrite)
    return TrainedRun(path, done.model.eval(), done.evaluation)


def settings(recipe: str | Recipe, changes: Mapping[str, Any]) -> tuple[Recipe, RunOptions]:
    """Return a recipe with some of its fields changed, and what to run it on.

    Args:
        recipe: its name, or a recipe of your own.
        changes: fields of the recipe or of `RunOptions`.

    Raises:
        InputError: an unknown recipe or field, or a value that it cannot have.
    """
    base = find_recipe(recipe) if isinstance(recipe, str) else recipe
    of_recipe, of_options = ({one.name for one in fields(kind)} for kind in (Recipe, RunOptions))
    for name in changes:
        if name not in of_recipe | of_options:
            raise unknown_name("field", name, sorted(of_recipe | of_options))
    given = {name: _value(value) for name, value in changes.items()}
    if isinstance(given.get("loggers"), str):
        given["loggers"] = (given["loggers"],)
    if ("steps" in given) != ("epochs" in given):  # each is a length of its own
        given |= {"epochs": 0} if given.get("steps") else {"steps": None}
    wanted = replace(base, **{name: v for name, v in given.items() if name in of_recipe})
    options = replace(RunOptions(), **{name: v for name, v in given.items() if name in of_options})
    return wanted, options


def _value(value: Any) -> Any:
    """Return a value as recipes have it: no lists, and paths as text."""
    if isinstance(value, list):
        return tuple(value)
    return str(value) if isinstance(value, Path) else value
