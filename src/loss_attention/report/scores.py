"""The tables of an evaluation: each score beside its trivial baselines; and how seeds spread."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from rich.console import Console

from loss_attention.evaluation.metric import LOCALITY, Evaluation, Metric
from loss_attention.report.tables import ABSENT, Column, Table, metric_column, show_table
from loss_attention.terminal import plain

UNDEFINED = "n/a"
LOWER = " ↓"
HEAT_MAPS = ("energy_pointing_game", "pxap")
"""One of them is among the metrics of an evaluation that measured heat maps."""
# Headings have to be short on a terminal: five baselines stand side by side in 80 columns.
_SHORT = {
    "whole image": "whole",
    "centred box": "centred",
    # Of bags.
    "bag size alone": "bag\nsize",
    "mean feature, logistic regression": "mean\nfeature",
    "single best instance, logistic regression": "best\ninstance",
}


def show_evaluations(evaluations: Mapping[str, Evaluation], console: Console) -> None:
    """Print a table for each group of metrics, and under them what a reader needs to read them.

    Args:
        evaluations: by what to call each model.
        console: where to.
    """
    console.print(plain(_images(evaluations), "bold"))
    for table in evaluation_tables(evaluations):
        show_table(table, console)


def seeds_table(
    evaluations: Mapping[int, Evaluation], only: Collection[str] | None = None
) -> Table:
    """Return the table of how the scores of runs spread that differ by their seed.

    Args:
        evaluations: by seed.
        only: the names of the metrics that it has; None: all.
    """
    rows = []
    for name, metric in _first_of_each({str(k): one for k, one in evaluations.items()}).items():
        if only is not None and name not in only:
            continue
        found = [one.get(name) for one in evaluations.values()]
        values = [one.value for one in found if one is not None and one.value is not None]
        if not values:
            continue
        up = metric.higher_is_better
        rows.append(
            [
                metric.label + ("" if up else LOWER),
                score_text(statistics.fmean(values), metric.unit),
                score_text(statistics.stdev(values) if len(values) > 1 else None, metric.unit),
                f"{score_text(min(values), metric.unit)} to {score_text(max(values), metric.unit)}",
                score_text(min(values) if up else max(values), metric.unit),
                best_baseline([one for one in found if one is not None]),
            ]
        )
    heads = [
        metric_column("metric", [one.guided_by for one in evaluations.values()]),
        Column("mean", style="bold"),
        Column("standard deviation", narrow="std"),
        Column("range"),
        Column("worst"),
        Column("best trivial baseline", style="dim", narrow="best trivial\nbaseline"),
    ]
    seeds = ", ".join(map(str, evaluations))
    notes = [
        f"Of {len(evaluations)} runs, seeds {seeds}; the standard deviation is that of a sample.",
        "Trivial baselines: what an answer that ignores the model scores on the same images; "
        "the best of them by its mean.",
        *_maps(evaluations.values()),
    ]
    return Table(heads, rows, notes=notes)


def _maps(evaluations: Collection[Evaluation]) -> list[str]:
    """Say which heat maps were measured, where any were."""
    shown = [one.map for one in evaluations if any(name in one for name in HEAT_MAPS)]
    return [f"Heat maps: of the {' or the '.join(sorted(set(shown)))}."] if shown else []


def best_baseline(metrics: Sequence[Metric]) -> str:
    """Return the best mean score of a trivial baseline, and its name, as a cell of a table."""
    best = best_mean(metrics)
    return ABSENT if best is None else f"{score_text(best[1], metrics[0].unit)} ({best[0]})"


def best_mean(metrics: Sequence[Metric]) -> tuple[str, float] | None:
    """Return the trivial baseline with the best mean score, and that; None without any.

    Args:
        metrics: one metric, of one model or of several.
    """
    known: dict[str, list[float]] = {}
    for metric in metrics:
        for name, value in metric.baselines.items():
            if value is not None:
                known.setdefault(name, []).append(value)
    means = {name: statistics.fmean(values) for name, values in known.items()}
    best = max if metrics[0].higher_is_better else min
    return best(means.items(), key=lambda one: one[1], default=None)


def evaluation_tables(evaluations: Mapping[str, Evaluation]) -> list[Table]:
    """Return a table for each group of metrics; the last has the notes of all.

    Bold is the score, and dim are its trivial baselines: a column for each of them, or a single one
    where each measure of the group has another.
    """
    guided_by = {name: evaluation.guided_by for name, evaluation in evaluations.items()}
    tables = [metrics_table(title, rows, guided_by) for title, rows in grouped(evaluations)]
    tables[-1] = replace(tables[-1], notes=_evaluation_notes(evaluations, tables))
    return tables


Rows = list[tuple[Metric, str, Metric | None]]


def grouped(evaluations: Mapping[str, Evaluation]) -> list[tuple[str, Rows]]:
    """Return the title of each table and what its rows are about: a measure of a model.

    Measure by measure, and of each measure model by model: the measure, the name of the model, and
    what this has; None where it does not have it. What is undefined of every model has no row,
    unless all is.
    """
    groups: dict[str, Rows] = {}
    unknown = _undefined(evaluations.values())
    for metric in _first_of_each(evaluations).values():
        if metric.name in unknown:
            continue
        groups.setdefault(metric.group, []).extend(
            (metric, model, evaluation.get(metric.name))
            for model, evaluation in evaluations.items()
        )
    return list(groups.items())


def metrics_table(title: str, rows: Rows, guided_by: Mapping[str, str]) -> Table:
    """Return the table of some metrics, of one model or several, beside their trivial baselines.

    Args:
        title: of the table.
        rows: see `grouped`.
        guided_by: of each model, as `Evaluation.guided_by` has it.
    """
    several = len(guided_by) > 1
    present = [found for _, _, found in rows if found is not None]
    baselines = list(dict.fromkeys(name for found in present for name in found.baselines))
    # Where measures have one or two of many, columns would be all but empty.
    most = max((len(found.baselines) for found in present), default=0)
    alone = most < len(baselines) and most <= 2
    heads = [metric_column(title or "metric", [] if several else list(guided_by.values()))]
    heads += [Column("model", "left")] if several else []
    heads += [Column("score", style="bold")]
    heads += [
        Column(name, narrow=_SHORT.get(name, ""), style="dim") for name in baselines if not alone
    ]
    heads += [Column("trivial baseline" + "s" * (most > 1), style="dim")] if alone else []
    cells = []
    for metric, model, found in rows:
        label = metric.label + ("" if metric.higher_is_better else LOWER)
        value = ABSENT if found is None else score_text(found.value, metric.unit)
        scores = {}
        if found is not None:
            scores = {name: score_text(v, metric.unit) for name, v in found.baselines.items()}
        if alone:
            lines = [f"{score} ({name})" for name, score in scores.items()]
            beside = ["\n".join(lines) or ABSENT]
        else:
            beside = [scores.get(name, ABSENT) for name in baselines]
        guided = f", guided by {guided_by[model]}" if guided_by[model] else ""
        cells.append([label, *([f"{model}{guided}"] if several else []), value, *beside])
    return Table(heads, cells, title, labels=2 if several else 1)


def _first_of_each(evaluations: Mapping[str, Evaluation]) -> dict[str, Metric]:
    """Return every measure that some model has, in order, by name."""
    metrics: dict[str, Metric] = {}
    for evaluation in evaluations.values():
        for metric in evaluation.metrics:
            metrics.setdefault(metric.name, metric)
    return metrics


def _undefined(evaluations: Collection[Evaluation]) -> dict[str, str]:
    """Return the labels, by name, of the metrics defined of no model; none where no metric is."""
    labels = {metric.name: metric.label for one in evaluations for metric in one.metrics}
    known = {m.name for one in evaluations for m in one.metrics if m.value is not None}
    return {n: label for n, label in labels.items() if n not in known} if known else {}


def score_text(value: float | None, unit: str = "") -> str:
    """Return a score in three decimals, or in one where it has a unit: pixels, that is."""
    if value is None:
        return UNDEFINED
    return f"{value:.1f}" if unit else f"{value:.3f}"


def _images(evaluations: Mapping[str, Evaluation]) -> str:
    """Say which images the scores are of; each model's where they differ."""
    what = {
        name: f"{evaluation.images:,} {evaluation.split} images"
        + (
            f", {evaluation.boxed_images:,} of them with boxes"
            if 0 < evaluation.boxed_images < evaluation.images
            else ""
        )
        for name, evaluation in evaluations.items()
    }
    if len(set(what.values())) == 1:
        return next(iter(what.values()))
    return "; ".join(f"{name}: {images}" for name, images in what.items())


def _evaluation_notes(evaluations: Mapping[str, Evaluation], tables: Sequence[Table]) -> list[str]:
    """Return what a reader needs to read these tables, and nothing that does not occur in them."""
    metrics = _first_of_each(evaluations)
    down = any(not metric.higher_is_better for metric in metrics.values())
    notes = ["Trivial baselines: what an answer that ignores the model scores on the same images."]
    seen = any(metric.group == LOCALITY for metric in metrics.values())
    if all(metric.range == (0, 1) for metric in metrics.values() if metric.group != LOCALITY):
        better = "higher is better" + (f",{LOWER} lower" if down else "")
        notes.insert(0, f"All metrics{' but locality' if seen else ''}: 0 to 1, {better}.")
    if seen:
        notes.append(
            "Locality: L(s) is the fraction of a patch's class vector that a square of s pixels "
            "around it settles, another class's image being everywhere else; below 0 it misleads. "
            "r90 is the first side with 0.9. Whole image: a patch that sees all of it evenly. "
            "Other image: nothing of the patch's own image is kept."
        )
    if "patch_recall" in metrics:
        notes.append("No selection has a higher recall than all patches (uniform weights): read F.")
    notes += _maps(evaluations.values())
    if any(evaluation.thresholds for evaluation in evaluations.values()):
        notes.append("Boxes around heat maps: each answer's threshold chosen on held-out images.")
    elif any(one.boxed_images and "gt_known_loc_heat_map" in one for one in evaluations.values()):
        notes.append(
            "Boxes around heat maps: no held-out images (`validation_fraction`) to choose a "
            "threshold on."
        )
    cells = {text.split(" ")[0] for table in tables for row in table.rows for text in row[1:]}
    why = "nothing to count, or nothing to choose or fit it on"
    if unknown := _undefined(evaluations.values()):
        notes.append(f"Not shown, as there is {why}: {', '.join(unknown.values())}.")
    if UNDEFINED in cells:
        notes.append(f"{UNDEFINED}: {why}.")
    if ABSENT in cells:
        notes.append(
            f"{ABSENT}: the model has no patches or no exact evidence, or the data no boxes."
        )
    return notes
