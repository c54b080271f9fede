"""The subcommands on bags of instances: `train bags`, `crossval`, and what is done with a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from loss_attention.bags.recipe import BAGS, BagRecipe, BagRunRecipe, is_bag_run
from loss_attention.errors import InputError
from loss_attention.interruption import Interrupted, RunStopped
from loss_attention.training.recipe import Accelerator

if TYPE_CHECKING:
    from rich.console import Console

    from loss_attention.predicting import Predicted

SCORES_FILE = "crossval.json"


def train(
    console: Console,
    recipe: Annotated[BagRunRecipe, tyro.conf.arg(name="")],
    accelerator: Annotated[
        Accelerator, tyro.conf.arg(help="auto: a GPU if there is one.")
    ] = "auto",
    out: Path = Path("runs") / BAGS,
    overwrite: bool = False,
) -> int:
    """Train a classifier of bags, checkpoint and evaluate. Every field of the recipe is an option.

    Args:
        out: The run's folder.
        overwrite: Replace the run that is in the folder already.
    """
    from loss_attention.bags.run import train_bags

    train_bags(recipe, out, console, accelerator, overwrite=overwrite)
    return 0


def resume(console: Console, run: Path, data: str | None) -> int:
    """Continue a run on bags, or evaluate a finished one again."""
    from loss_attention.bags.run import resume_bags

    resume_bags(run, console, data)
    return 0


def evaluate(console: Console, run: Path, data: str | None, accelerator: Accelerator) -> int:
    """Measure a run on bags."""
    from loss_attention.bags.run import evaluate_bag_run, show_evaluation

    show_evaluation(evaluate_bag_run(run, console, data, accelerator), console)
    return 0


def predict(
    console: Console, run: Path, data: Sequence[Path], accelerator: Accelerator
) -> tuple[list[Predicted], tuple[str, ...]]:
    """Return what a classifier says of bags, and its classes."""
    from loss_attention.bags.run import predict_bags
    from loss_attention.terminal import counted

    if len(data) != 1:
        raise InputError(
            f"{run} is of bags, and predicts those of one table or folder: {len(data)} were given"
        )
    with counted("predicting", console) as progress:
        return predict_bags(run, str(data[0]), accelerator, progress)


def is_of_bags(path: Path) -> bool:
    """Return whether a run's folder, or a `.safetensors` file, is of bags."""
    if path.suffix.lower() == ".safetensors" and path.is_file():
        from loss_attention.bags.saved import is_bag_model

        return is_bag_model(path)
    return is_bag_run(path)


def refuse(run: Path, given: Mapping[str, bool]) -> None:
    """Raise `InputError` where options were given that a run on bags does not have.

    Args:
        run: the run.
        given: whether each option was given, by its field.
    """
    names = [f"`{name}`" for name, there in given.items() if there]
    if names:
        raise InputError(f"{run} is of bags, and takes no {', '.join(names)}")


def crossval(
    console: Console,
    data: str,
    out: Path,
    recipe: Annotated[BagRecipe, tyro.conf.arg(name="")],
    poolings: tuple[str, ...] = ("positive-evidence", "loss-attention", "attention", "mean", "max"),
    folds: int = 5,
    repeats: int = 3,
    inner: int = 0,
    learning_rates: tuple[float, ...] = (),
    weight_decays: tuple[float, ...] = (),
    baselines: bool = True,
) -> int:
    """Cross-validate classifiers of bags side by side, on the same folds.

    What came of each fold is kept in --out: the same command goes on where it was stopped.

    Args:
        data: A table of instances, CSV or parquet, or a folder of one file a bag.
        out: Where scores and predictions go.
        poolings: The ways of weighing instances that are compared.
        folds: Parts that the bags are divided into, each tested on once.
        repeats: Divisions.
        inner: With several learning rates or weight decays: parts of the training bags that one is
            chosen on, anew for each fold. At least 2.
        learning_rates: To choose from, on inner folds. None: that of the recipe.
        weight_decays: Likewise.
        baselines: Also measure the bag's size alone, its mean feature and its single best instance.
    """
    from loss_attention.bags.bag_set import described
    from loss_attention.bags.crossval import Plan, cross_validated
    from loss_attention.bags.pooling import pooling_named
    from loss_attention.bags.reading import read_bags
    from loss_attention.saving import write_whole
    from loss_attention.terminal import counted, json_text, say_line

    if recipe.pooling != BagRecipe().pooling:
        raise InputError("`pooling` is of one classifier: name those to compare with `poolings`")
    for name in poolings:
        pooling_named(name)
    if len(set(poolings)) < len(poolings) or not poolings:
        raise InputError("`poolings` must be names, each once")
    rates, decays = (
        learning_rates or (recipe.learning_rate,),
        weight_decays or (recipe.weight_decay,),
    )
    if len(rates) * len(decays) > 1 and not inner:
        raise InputError(
            "`inner` must be at least 2 for one of several `learning_rates` or `weight_decays` to "
            "be chosen"
        )
    models = {
        name: [
            replace(recipe, pooling=name, learning_rate=rate, weight_decay=decay)
            for rate in rates
            for decay in decays
        ]
        for name in poolings
    }
    plan = Plan(folds, repeats, recipe.seed, inner)
    bags = read_bags(data)
    say_line(console, f"{data}: {described(bags)}")
    try:
        with counted("cross-validating", console) as progress:
            found = cross_validated(
                bags,
                models,
                plan,
                out,
                lambda _task, done, whole: progress(done, whole),
                baselines=baselines,
            )
    except Interrupted as stop:
        raise RunStopped(
            f"stopped; the folds that are done are kept in {out}: the same command goes on",
            stop.number,
        ) from stop
    write_whole(out / SCORES_FILE, json_text({"data": data} | found, indent=2) + "\n")
    console.print(scores_table(found))
    say_line(console, f"scores and predictions: {out / SCORES_FILE}")
    return 0


def scores_table(found: dict[str, Any]) -> Any:
    """Return the scores of all classifiers as a table."""
    from rich.table import Table

    table = Table("classifier", box=None)
    for heading in ("accuracy", "balanced", "AUC"):
        table.add_column(heading, justify="right")
    for name, one in found["models"].items():
        scores = [one["scores"][kind] for kind in ("accuracy", "balanced_accuracy", "auc")]
        table.add_row(name, *map(_shown, scores))
    return table


def _shown(score: dict[str, Any]) -> str:
    spread = "" if score["sd"] is None else f" ± {score['sd']:.3f}"
    return f"{score['mean']:.3f}{spread}"
