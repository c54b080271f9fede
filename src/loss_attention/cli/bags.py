"""The subcommand for bags of instances: `crossval`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from loss_attention.bags.recipe import BagRecipe
from loss_attention.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

SCORES_FILE = "crossval.json"


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
    labels: Path | None = None,
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
        labels: Of bags in a folder: the CSV of their labels. None: the one in the folder, or the
            names of its folders.
    """
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
    with counted("looking at files", console) as progress:
        bags = read_bags(data, labels, progress)
    say_line(console, f"{data}: {described(bags)}")
    with counted("cross-validating", console) as progress:
        found = cross_validated(
            bags,
            models,
            plan,
            out,
            lambda _task, done, whole: progress(done, whole),
            baselines=baselines,
        )
    write_whole(out / SCORES_FILE, json_text({"data": data} | found, indent=2) + "\n")
    console.print(scores_table(found))
    say_line(console, f"scores and predictions: {out / SCORES_FILE}")
    return 0


def described(bags: Any) -> str:
    """Return what a set of bags holds, in a line."""
    sizes = bags.sizes
    if bags.multi_label:
        counts = bags.labels.sum(dim=0).tolist()
    else:
        counts = bags.labels.bincount(minlength=len(bags.class_names)).tolist()
    classes = ", ".join(
        f"{count} of {name}" for name, count in zip(bags.class_names, counts, strict=True)
    )
    return (
        f"{len(bags):,} bags ({classes}) of {sizes.min():,} to {sizes.max():,} instances, "
        f"{int(sizes.sum()):,} in all, of {bags.width:,} features"
    )


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
