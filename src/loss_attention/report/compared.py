"""The tables of a comparison of methods of explanation, and its JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

from loss_attention.attribution.compare import Comparison
from loss_attention.attribution.maps import METHODS
from loss_attention.attribution.measures import COSTS, METRICS, MOSAIC_SIDES
from loss_attention.attribution.scores import Difference, MeanScore
from loss_attention.metrics.bootstrap import LEAST, LEVEL, RESAMPLES, Interval
from loss_attention.metrics.locality import LocalityCurve
from loss_attention.report.tables import ABSENT, Column, Table, metric_column

FORMAT_VERSION = 3
BETTER, WORSE, ALIKE = "+", "\N{MINUS SIGN}", "\N{ALMOST EQUAL TO}"
LEAST_SECONDS = 0.0001
"""Less is as good as nothing, and shown as less."""


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
    return [metric_column("metric", [comparison.guided_by]), *columns]


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
        notes.append(f"Mosaics of correctly classified images: {counts}.")
    missing = [METRICS[name].label for name in MOSAIC_SIDES if name not in comparison.mosaics]
    if missing and "grid-pointing" in comparison.groups:
        notes.append(
            f"No {' and '.join(missing)}: too few classes have a correctly classified image of one "
            "label, or the model takes images of one size only."
        )
    fitted = any("gt_known_loc_heat_map" in found for found in comparison.scores.values())
    if comparison.boxed and "localisation" in comparison.groups and not fitted:
        notes.append(
            "No boxes with fitted thresholds: no held-out images with boxes "
            "(`validation_fraction`) to choose a threshold on."
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
