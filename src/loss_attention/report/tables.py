"""Tables for people: what stands in them is said once, and shown on a terminal or as Markdown.

Below the renderer are the tables of an evaluation, each score beside its trivial baselines, and of
a comparison. JSON is not made of tables: its numbers are exact, and have names.
"""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import rich.table
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from loss_attention.attribution.compare import Comparison
from loss_attention.attribution.maps import METHODS
from loss_attention.attribution.measures import COSTS, METRICS, MOSAIC_SIDES
from loss_attention.attribution.scores import Difference, MeanScore
from loss_attention.evaluation.metric import LOCALITY, Evaluation, Metric
from loss_attention.metrics.bootstrap import LEAST, LEVEL, RESAMPLES, Interval
from loss_attention.metrics.locality import LocalityCurve
from loss_attention.terminal import markdown, markdown_table, plain

UNDEFINED = "n/a"
ABSENT = "-"
LOWER = " ↓"
BETTER, WORSE, ALIKE = "+", "\N{MINUS SIGN}", "\N{ALMOST EQUAL TO}"
FORMAT_VERSION = 3
HEAT_MAPS = ("energy_pointing_game", "pxap")
"""One of them is among the metrics of an evaluation that measured heat maps."""
LEAST_SECONDS = 0.0001
"""Less is as good as nothing, and shown as less."""
_FRAME = 3
"""Letters that a column takes beside its text: a space on both sides and a line."""
# Headings have to be short on a terminal: five baselines stand side by side in 80 columns.
_SHORT = {"whole image": "whole", "centred box": "centred"}


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        heading: what stands over it, in one line.
        align: where its heading and its cells stand.
        narrow: its heading on a terminal, in one line or several, where that is another.
        style: of its cells; Markdown has no dim text.
    """

    heading: str
    align: Literal["left", "right"] = "right"
    narrow: str = ""
    style: Literal["", "bold", "dim"] = ""


@dataclass(frozen=True)
class Table:
    """What a table shows, wherever it is shown. No text in it is markup, whoever wrote it.

    Attributes:
        columns: from left to right.
        rows: a text for each column, in one line or several.
        title: over it on a terminal; pages of Markdown have headings of their own.
        notes: what a reader needs to read it, a line each.
        labels: how many columns, from the left, say what a row is. A terminal shows two as one:
            rows of the same first label stand indented under it.
        ruled: a terminal has a line between rows.
    """

    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]
    title: str = ""
    notes: Sequence[str] = ()
    labels: Literal[1, 2] = 1
    ruled: bool = False


def show_table(table: Table, console: Console) -> None:
    """Print a table, as many columns side by side as fit, and its notes."""
    columns = [table.columns[0], *table.columns[table.labels :]]
    headings = [plain(column.narrow or column.heading) for column in columns]
    rows = list(_terminal_rows(table))
    for chosen in _that_fit([headings, *rows], console.width):
        shown = rich.table.Table(
            title=plain(table.title) if table.title else None,
            title_justify="left",
            pad_edge=False,
            show_lines=table.ruled,
        )
        for number in chosen:
            shown.add_column(headings[number], justify=columns[number].align, overflow="fold")
        for row in rows:
            shown.add_row(*(row[number] for number in chosen))
        console.print(shown)
    for note in table.notes:
        console.print(plain(note, "italic"))


def _terminal_rows(table: Table) -> Iterator[list[Text]]:
    before = None
    for row in table.rows:
        cells = [
            plain(text, column.style)
            for text, column in zip(row[table.labels :], table.columns[table.labels :], strict=True)
        ]
        if table.labels == 1:
            yield [plain(row[0], "bold"), *cells]
            continue
        if row[0] != before:
            yield [plain(row[0], "bold"), *(Text() for _ in cells)]
        yield [plain(f"  {row[1]}"), *cells]
        before = row[0]


def _that_fit(rows: Sequence[Sequence[Text]], width: int) -> list[list[int]]:
    """Divide columns into as few tables as are no wider, if that can be; each has the first.

    Where but few letters are missing, the longest labels are wrapped instead.
    """
    label, *others = (
        max(cell_len(line) for cell in column for line in cell.plain.split("\n"))
        for column in zip(*rows, strict=True)
    )
    tables: list[list[int]] = []
    left = 0
    for number, letters in enumerate(others, start=1):
        if letters + _FRAME > left or not tables:
            tables.append([0])
            left = width - label - 2 + label // 8
        tables[-1].append(number)
        left -= letters + _FRAME
    return tables


def table_markdown(table: Table) -> str:
    """Return a table and its notes as Markdown."""
    rows = [
        [
            f"**{_cell(text)}**" if column.style == "bold" else _cell(text)
            for text, column in zip(row, table.columns, strict=True)
        ]
        for row in table.rows
    ]
    align = "".join(column.align[0] for column in table.columns)
    shown = markdown_table([_cell(column.heading) for column in table.columns], rows, align)
    notes = [f"- {markdown(note)}" for note in table.notes]
    return "\n".join([shown, "", *notes]).rstrip() + "\n"


def _cell(text: str) -> str:
    # With a space after them these are signs of numbers, within a line: no tags, and no quotation.
    lines = (markdown(line).replace("&lt; ", "< ") for line in text.split("\n"))
    return "<br>".join(line.replace(" &gt; ", " > ") for line in lines)


def show_evaluations(evaluations: Mapping[str, Evaluation], console: Console) -> None:
    """Print a table for each group of metrics, and under them what a reader needs to read them.

    Args:
        evaluations: by what to call each model.
        console: where to.
    """
    console.print(plain(_images(evaluations), "bold"))
    for table in evaluation_tables(evaluations):
        show_table(table, console)


def seeds_table(evaluations: Mapping[int, Evaluation]) -> Table:
    """Return the table of how the scores of runs spread that differ by their seed.

    Args:
        evaluations: by seed.
    """
    rows = []
    for name, metric in _first_of_each({str(k): one for k, one in evaluations.items()}).items():
        found = [one.get(name) for one in evaluations.values()]
        values = [one.value for one in found if one is not None and one.value is not None]
        if not values:
            continue
        up = metric.higher_is_better
        rows.append(
            [
                metric.label + ("" if up else LOWER),
                _number(statistics.fmean(values), metric.unit),
                _number(statistics.stdev(values) if len(values) > 1 else None, metric.unit),
                f"{_number(min(values), metric.unit)} to {_number(max(values), metric.unit)}",
                _number(min(values) if up else max(values), metric.unit),
                _best_baseline([one for one in found if one is not None]),
            ]
        )
    heads = [
        _metric_column("metric", [one.guided_by for one in evaluations.values()]),
        Column("mean", style="bold"),
        Column("standard deviation", narrow="std"),
        Column("range"),
        Column("worst"),
        Column("best trivial baseline", style="dim", narrow="best trivial\nbaseline"),
    ]
    seeds = ", ".join(map(str, evaluations))
    notes = [
        f"Of {len(evaluations)} runs, seeds {seeds}; the standard deviation is that of a sample.",
        "Trivial baselines: what an answer scores on the same images that ignores the model; "
        "the best of them by its mean.",
        *_maps(evaluations.values()),
    ]
    return Table(heads, rows, notes=notes)


def _metric_column(heading: str, guided_by: Sequence[str]) -> Column:
    """Return the column of metrics, which says what trainings were guided by beside labels.

    It is in each of the tables that a terminal makes of a wide one.

    Args:
        heading: of the column, unless a terminal shows it under a title.
        guided_by: of each model, as `Evaluation.guided_by` has it.
    """
    known = list(dict.fromkeys(guided_by))
    if not any(known):
        return Column(heading, "left", "metric")
    names = " or ".join(one or "labels alone" for one in known)
    return Column(f"{heading}, guided by {names}", "left", f"metric,\nguided by\n{names}")


def _maps(evaluations: Collection[Evaluation]) -> list[str]:
    """Say which heat maps were measured, where any were."""
    shown = [one.map for one in evaluations if any(name in one for name in HEAT_MAPS)]
    return [f"Heat maps: of the {' or the '.join(sorted(set(shown)))}."] if shown else []


def _best_baseline(metrics: Sequence[Metric]) -> str:
    """Return the highest mean score of a trivial baseline, or the lowest, and its name."""
    known: dict[str, list[float]] = {}
    for metric in metrics:
        for name, value in metric.baselines.items():
            if value is not None:
                known.setdefault(name, []).append(value)
    if not known:
        return ABSENT
    means = {name: statistics.fmean(values) for name, values in known.items()}
    best = (max if metrics[0].higher_is_better else min)(means, key=lambda name: means[name])
    return f"{_number(means[best], metrics[0].unit)} ({best})"


def evaluation_tables(evaluations: Mapping[str, Evaluation]) -> list[Table]:
    """Return a table for each group of metrics; the last has the notes of all.

    Bold is the score, and dim are its trivial baselines: a column for each of them, or a single one
    where each measure of the group has another.
    """
    guided_by = {name: evaluation.guided_by for name, evaluation in evaluations.items()}
    tables = [_evaluation_table(title, rows, guided_by) for title, rows in grouped(evaluations)]
    tables[-1] = replace(tables[-1], notes=_evaluation_notes(evaluations, tables))
    return tables


Rows = list[tuple[Metric, str, Metric | None]]


def grouped(evaluations: Mapping[str, Evaluation]) -> list[tuple[str, Rows]]:
    """Return the title of each table and what its rows are about: a measure of a model.

    Measure by measure, and of each measure model by model: the measure, the name of the model, and
    what this has; None where it does not have it.
    """
    groups: dict[str, Rows] = {}
    for metric in _first_of_each(evaluations).values():
        groups.setdefault(metric.group, []).extend(
            (metric, model, evaluation.get(metric.name))
            for model, evaluation in evaluations.items()
        )
    return list(groups.items())


def _evaluation_table(title: str, rows: Rows, guided_by: Mapping[str, str]) -> Table:
    several = len(guided_by) > 1
    present = [found for _, _, found in rows if found is not None]
    baselines = list(dict.fromkeys(name for found in present for name in found.baselines))
    # Where measures have one or two of many, columns would be all but empty.
    most = max((len(found.baselines) for found in present), default=0)
    alone = most < len(baselines) and most <= 2
    heads = [_metric_column(title or "metric", [] if several else list(guided_by.values()))]
    heads += [Column("model", "left")] if several else []
    heads += [Column("score", style="bold")]
    heads += [
        Column(name, narrow=_SHORT.get(name, ""), style="dim") for name in baselines if not alone
    ]
    heads += [Column("trivial baseline" + "s" * (most > 1), style="dim")] if alone else []
    cells = []
    for metric, model, found in rows:
        label = metric.label + ("" if metric.higher_is_better else LOWER)
        value = ABSENT if found is None else _number(found.value, metric.unit)
        scores = {}
        if found is not None:
            scores = {name: _number(v, metric.unit) for name, v in found.baselines.items()}
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


def _number(value: float | None, unit: str = "") -> str:
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
    notes = ["Trivial baselines: what an answer scores on the same images that ignores the model."]
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
    if UNDEFINED in cells:
        notes.append(f"{UNDEFINED}: nothing to count, or nothing to choose or fit it by.")
    if ABSENT in cells:
        notes.append(
            f"{ABSENT}: the model has no patches or no exact evidence, or the data no boxes."
        )
    return notes


def comparison_table(comparison: Comparison, *, intervals: bool = False) -> Table:
    """Return the table of a comparison: a row for each measure, a column for each method.

    Args:
        comparison: what was measured.
        intervals: with that of each score.
    """
    scores = comparison.scores.values()
    rows = [
        [label, *(_score(name, one.get(name), higher, intervals) for one in scores)]
        for name, label, higher in _measured(comparison)
    ]
    notes = _comparison_notes(comparison, intervals=intervals)
    return Table(_method_columns(comparison, list(comparison.scores)), rows, notes=notes)


def differences_table(comparison: Comparison) -> Table:
    """Return how much more each method scores than the one they are held against, with intervals.

    Without what no interval can be of: times.
    """
    methods = [name for name in comparison.scores if name != comparison.against]
    rows = [
        [label, *(_difference(comparison.scores[one].get(name), higher) for one in methods)]
        for name, label, higher in _measured(comparison)
        if name not in COSTS
    ]
    return Table(_method_columns(comparison, methods), rows)


def _method_columns(comparison: Comparison, methods: Sequence[str]) -> list[Column]:
    columns = []
    for name in methods:
        narrow = name if len(name) <= 12 else "\n".join(name.replace("-", "- ").split())
        if METHODS[name].baseline:
            columns.append(Column(f"baseline: {name}", narrow=f"baseline\n{name}", style="dim"))
        else:
            columns.append(Column(name, narrow=narrow))
    return [_metric_column("metric", [comparison.guided_by]), *columns]


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """Return all scores as plain values, with what each measure is."""
    return {
        "format_version": FORMAT_VERSION,
        "images": comparison.images,
        "boxed_images": comparison.boxed,
        "mosaics": dict(comparison.mosaics),
        "seed": comparison.seed,
        "against": comparison.against,
        "bootstrap": {"level": LEVEL, "resamples": RESAMPLES, "least": LEAST},
        "left_out": dict(comparison.left_out),
        **({"guided_by": comparison.guided_by} if comparison.guided_by else {}),
        **_locality_json(comparison),
        "metrics": {
            name: {
                "label": comparison.metrics[name].label,
                "higher_is_better": comparison.metrics[name].higher_is_better,
                "range": list(comparison.metrics[name].range),
            }
            for name, _, _ in _measured(comparison)
        },
        "methods": {
            method: {
                "trivial_baseline": METHODS[method].baseline,
                "scores": {name: _score_json(one) for name, one in found.items()},
            }
            for method, found in comparison.scores.items()
        },
    }


def _locality_json(comparison: Comparison) -> dict[str, Any]:
    """Return what the patches see, as plain values, or why that is not known, if it was asked."""
    found = comparison.locality
    if found is None:
        reason = comparison.no_locality
        return {"locality": {"not_measured": reason}} if reason else {}
    derived = {
        name: {"in_window": curve.in_window, "r90": curve.r90, "r90_by_window": curve.windows}
        for name, curve in (("random", found.random), ("heaviest", found.heaviest))
    }
    values = asdict(found)
    return {"locality": values | {name: derived[name] | values[name] for name in derived}}


def _score_json(score: MeanScore) -> dict[str, Any]:
    apart = score.difference
    return {
        "value": score.value,
        "standard_error": score.error,
        "count": score.images,
        "interval": score.interval,
        "difference": None
        if apart is None
        else {
            "value": apart.value,
            "interval": apart.interval,
            "told_apart": apart.told_apart,
        },
    }


def _measured(comparison: Comparison) -> list[tuple[str, str, bool]]:
    """Return the measures that some method has, in order, their labels and if higher is better."""
    found = {name for scores in comparison.scores.values() for name in scores}
    arrows = {True: "\N{UPWARDS ARROW}", False: "\N{DOWNWARDS ARROW}"}
    return [
        (name, f"{metric.label} {arrows[metric.higher_is_better]}", metric.higher_is_better)
        for name, metric in comparison.metrics.items()
        if name in found
    ]


def _score(metric: str, score: MeanScore | None, higher_is_better: bool, intervals: bool) -> str:
    if score is None:
        return ABSENT
    if metric == "seconds":
        return f"{score.value:.2g}" if score.value >= LEAST_SECONDS else f"< {LEAST_SECONDS:g}"
    if metric == "time_ratio":
        return f"{score.value:.2f}"
    interval = f" ({_limits(score.interval)})" if intervals and score.interval else ""
    sign = "" if score.difference is None else f" {_sign(score.difference, higher_is_better)}"
    return f"{score.value:.3f}{interval}{sign}".rstrip()


def _difference(score: MeanScore | None, higher_is_better: bool) -> str:
    if score is None or score.difference is None:
        return ABSENT
    apart = score.difference
    interval = f" ({_limits(apart.interval, sign='+')})" if apart.interval else ""
    return f"{apart.value:+.3f}{interval} {_sign(apart, higher_is_better)}".rstrip()


def _limits(interval: Interval, sign: Literal["", "+"] = "") -> str:
    return " to ".join(f"{limit:{sign}.3f}" for limit in interval)


def _sign(apart: Difference, higher_is_better: bool) -> str:
    """Return whether a method is better or worse than the one it is held against, as a sign.

    Nothing where there are too few images to ask.
    """
    if apart.interval is None:
        return ""
    if not apart.told_apart:
        return ALIKE
    return BETTER if (apart.value > 0) == higher_is_better else WORSE


def _comparison_notes(comparison: Comparison, *, intervals: bool) -> list[str]:
    """Return what a reader needs to read the table."""
    notes = [
        f"{comparison.images} images, {comparison.boxed} with a box of the explained class: the "
        "image's label, of several the one that the model finds likeliest.",
        "\N{UPWARDS ARROW} higher is better, \N{DOWNWARDS ARROW} lower. Trivial baselines ignore "
        "the model; a method that does not beat them explains nothing.",
        "Areas and boxes: 0 to 1. Sensitivity-1 and the randomisation test: correlations, -1 to 1.",
        *_how_sure(comparison, intervals=intervals),
    ]
    masked = next((found["pxap"] for found in comparison.scores.values() if "pxap" in found), None)
    if masked is not None:
        notes.append(f"PxAP, and what is near an object: over {masked.images} images with a mask.")
    if comparison.mosaics:
        counts = ", ".join(
            f"{count} of {METRICS[name].label.split(', ')[1]}"
            for name, count in comparison.mosaics.items()
        )
        notes.append(f"Mosaics of rightly classified images: {counts}.")
    missing = [METRICS[name].label for name in MOSAIC_SIDES if name not in comparison.mosaics]
    if missing and "grid-pointing" in comparison.groups:
        notes.append(
            f"No {' and '.join(missing)}: too few classes have a rightly classified image of one "
            "label, or the model takes images of one size only."
        )
    fitted = any("gt_known_loc_heat_map" in found for found in comparison.scores.values())
    if comparison.boxed and "localisation" in comparison.groups and not fitted:
        notes.append(
            "No boxes with fitted cuts: no held-out images with boxes (`validation_fraction`) to "
            "choose a cut on."
        )
    if comparison.locality is not None or comparison.no_locality:
        notes.append(_locality_note(comparison))
    if comparison.left_out:
        reasons = "; ".join(f"{name} ({why})" for name, why in comparison.left_out.items())
        notes.append(f"Not possible with this model: {reasons}.")
    return notes


def _locality_note(comparison: Comparison) -> str:
    """Say what the patches see, which is the same for all methods."""
    found = comparison.locality
    if found is None:
        return f"Locality is not measured: {comparison.no_locality}."
    what = f"What a patch sees, by any method, on {found.images} images"
    if found.random.in_window is None:
        return f"{what}: nothing, their class vectors are the same in every image."
    return (
        f"{what}, window {found.random.window} px: {_seen(found.random)}; the heaviest patch of "
        f"each, {_seen(found.heaviest)}."
    )


def _seen(curve: LocalityCurve) -> str:
    if curve.in_window is None or curve.windows is None:
        return "undefined"
    return (
        f"L(window) {curve.in_window:.2f}, r90 {curve.r90} px or {curve.windows:.2g} windows, same "
        f"top class in the window {curve.same_in_window:.2f}"
    )


def _how_sure(comparison: Comparison, *, intervals: bool) -> list[str]:
    """Return what the signs say, and of what there are none."""
    scores = [score for of in comparison.scores.values() for score in of.values()]
    apart = [score.difference for score in scores if score.difference is not None]
    notes = []
    if any(one.interval is not None for one in apart):
        notes.append(
            f"{BETTER} better than {comparison.against}, {WORSE} worse: the 95 % interval of the "
            f"difference on the same images excludes 0. {ALIKE} not told apart."
        )
    if intervals and any(score.interval is not None for score in scores):
        notes.append(
            f"In brackets: 95 % intervals, percentiles of {RESAMPLES:,} resamples of the images "
            "(of the mosaics)."
        )
    if any(one.interval is None for one in apart):
        notes.append(f"No sign: of fewer than {LEAST} images or mosaics nothing can be told.")
    return notes
