"""What is read first of an evaluation: the scores that say most, and in words what they mean.

At most six scores, each beside the best of its trivial baselines. The sentences hold the two that
everybody asks for against that baseline: is the answer right, and is the map where the object is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from rich.console import Console

from loss_attention.errors import printable
from loss_attention.evaluation.metric import Evaluation, Metric
from loss_attention.report.scores import (
    LOWER,
    best_baseline,
    best_mean,
    score_text,
    show_evaluations,
)
from loss_attention.report.tables import ABSENT, Column, Table, metric_column, show_table
from loss_attention.report.verdict import wilson_interval
from loss_attention.terminal import say_line

KEY_METRICS: tuple[tuple[str, ...], ...] = (
    ("accuracy", "mean_average_precision"),
    ("balanced_accuracy", "exact_match"),
    ("pointing_game", "pointing_within_"),
    ("energy_pointing_game", "evidence_within_", "weight_inside"),
    ("gt_known_loc_heat_map", "gt_known_loc_spread", "gt_known_loc_patches"),
    ("pxap", "patch_f1"),
)
"""Of each line the first that is defined of the first model. Names that end with "_" are the
beginnings of several, which go on with a number of pixels."""
EVEN = 0.0005
"""Balanced accuracy that is so close to accuracy says nothing more."""
SAID = {
    "whole image": "the whole image",
    "centred box": "the best centred box",
    "uniform": "equal weights",
    "random": "random weights",
    "edges": "an edge detector",
    "majority class": "calling all by the commonest class",
    "chance level": "guessing",
    "most frequent labels": "giving all the most frequent labels",
    # Of bags.
    "class frequencies": "giving all the commonest classes",
    "bag size alone": "a regression on the bag's size alone",
    "mean feature, logistic regression": "a regression on the bag's mean feature",
    "single best instance, logistic regression": "a regression on single instances",
}
"""What the sentences call the trivial baselines."""
Standing = Literal["better", "alike", "worse"]


def show_scores(
    evaluations: Mapping[str, Evaluation], console: Console, *, verbose: bool = False
) -> None:
    """Print the scores that say most of some models, and what those of the first mean.

    Args:
        evaluations: by what to call each model, on the same images.
        console: where to.
        verbose: print all other scores before them.
    """
    if verbose:
        show_evaluations(evaluations, console)
    show_table(key_table(evaluations), console)
    for sentence in sentences(next(iter(evaluations.values()))):
        say_line(console, sentence)


def key_metrics(evaluation: Evaluation) -> list[Metric]:
    """Return the metrics that say most about a model, at most six, all of them defined."""
    chosen = []
    for names in KEY_METRICS:
        found = (
            metric
            for name in names
            for metric in evaluation.metrics
            if metric.value is not None
            and (metric.name == name or (name.endswith("_") and metric.name.startswith(name)))
        )
        metric = next(found, None)
        if metric is not None:
            chosen.append(metric)
    values = {metric.name: metric.value for metric in chosen}
    accuracy, balanced = values.get("accuracy"), values.get("balanced_accuracy")
    even = accuracy is not None and balanced is not None and abs(accuracy - balanced) < EVEN
    return [metric for metric in chosen if not (even and metric.name == "balanced_accuracy")]


def key_table(evaluations: Mapping[str, Evaluation]) -> Table:
    """Return the table of the key metrics of the first of some models: a column for each model.

    Args:
        evaluations: by what to call each model, on the same images.
    """
    first = next(iter(evaluations.values()))
    rows = []
    for metric in key_metrics(first):
        found = [one.get(metric.name) for one in evaluations.values()]
        scores = [
            ABSENT if one is None or one.value is None else score_text(one.value, one.unit)
            for one in found
        ]
        label = metric.label + ("" if metric.higher_is_better else LOWER)
        rows.append([label, *scores, best_baseline([metric])])
    heads = [
        metric_column("metric", [one.guided_by for one in evaluations.values()]),
        *(
            Column(name, narrow="\n".join(name.replace("-", "- ").split()), style="bold")
            for name in evaluations
        ),
        Column("best trivial baseline", narrow="best trivial\nbaseline", style="dim"),
    ]
    return Table(heads, rows)


def standing(metric: Metric, images: int) -> Standing | None:
    """Return how a fraction of images stands to the best trivial baseline.

    Args:
        metric: the higher the better.
        images: of how many it is a fraction.

    Returns:
        Better or worse where its 95 % interval leaves the baseline out; None without one.
    """
    best = best_mean([metric])
    if best is None or metric.value is None or not images:
        return None
    low, high = wilson_interval(round(metric.value * images), images)
    return "better" if low > best[1] else "worse" if high < best[1] else "alike"


def sentences(evaluation: Evaluation) -> list[str]:
    """Say whether the answers are right, whether the map is where the objects are, what it sees."""
    metric = evaluation.get("accuracy") or evaluation.get("exact_match")
    answers = right_answers(metric, evaluation.images, f"{evaluation.split} images")
    said = [answers, _pointing(evaluation), _seen(evaluation)]
    return [sentence for sentence in said if sentence]


def right_answers(metric: Metric | None, count: int, what: str) -> str:
    """Say how many answers are right, and how many of the best trivial baseline; "" without any.

    Args:
        metric: the accuracy, or of several labels the exact matches.
        count: how many answers there are.
        what: they are about.
    """
    if metric is None or metric.value is None:
        return ""
    right = "Right" if metric.name == "accuracy" else "All labels right"
    said = f"{right} in {percent(metric.value)} of {count:,} {what}"
    return f"{said}{against(metric, count)}."


def _pointing(evaluation: Evaluation) -> str:
    """Say how often the map points at the object, and whether that says anything."""
    metric = next((m for m in key_metrics(evaluation) if m.name.startswith("pointing_")), None)
    if metric is None or metric.value is None:
        if evaluation.boxed_images or "weight_inside" in evaluation:
            return ""
        return (
            "Whether the map lies on the object has not been measured: there are no boxes or "
            "masks to compare it with."
        )
    # Of masks, near the object is enough.
    whole = metric.name == "pointing_game"
    images = evaluation.boxed_images if whole else evaluation.masked_images
    where = "at" if whole else f"{metric.label.removeprefix('pointing ')} of"
    marked = f" of {images:,} images with a {'box' if whole else 'mask'}" if images else ""
    said = (
        f"The {evaluation.map} points {where} the object in {percent(metric.value)}{marked}"
        f"{against(metric, images)}"
    )
    if standing(metric, images) in ("alike", "worse"):
        return f"{said}: do not take the map for where the object is."
    return f"{said}."


def against(metric: Metric, images: int) -> str:
    """Say what the best trivial baseline scores, where there is one."""
    best = best_mean([metric])
    if best is None:
        return ""
    name, value = best
    held = standing(metric, images)
    rather = ", which is better" if held == "worse" else ""
    apart = ", and the two are not told apart" if held == "alike" else ""
    return f"; {printable(SAID.get(name, name))} would in {percent(value)}{rather}{apart}"


def _seen(evaluation: Evaluation) -> str:
    """Say how far around its window the heaviest patch sees."""
    curve = None if evaluation.locality is None else evaluation.locality.heaviest
    if curve is None or curve.r90 is None:
        return ""
    if curve.r90 <= curve.window:
        return f"What the heaviest patch says is settled within its window of {curve.window} px."
    whole = curve.r90 == curve.sides[-1]
    around = "the whole image" if whole else f"{curve.r90} px"
    return (
        f"What is drawn in a window of {curve.window} px depends on {around} around it "
        "(90 % of what the heaviest patch says)."
    )


def percent(value: float) -> str:
    """Return a fraction in percent, in as many digits as say whether it is all or nothing."""
    return f"{100 * value:.0f} %" if 0.01 <= value <= 0.99 else f"{100 * value:.1f} %"
