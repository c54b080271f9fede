"""The page of what a folder of photos reaches, `results/photos.md`, from its JSON file."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from measuring import shown as spread_shown

from loss_attention.terminal import markdown_table

SHOWN: dict[str, tuple[str, ...]] = {
    "accuracy": ("accuracy", "exact_match"),
    "balanced accuracy": ("balanced_accuracy", "mean_average_precision"),
    "PxAP": ("pxap",),
    "pointing within 16 px": ("pointing_within_16_px",),
    "GT-known Loc": ("gt_known_loc_heat_map",),
    "EPG": ("energy_pointing_game",),
}
"""Columns of the first table, and the metrics of `evaluate` that may stand there."""
COMPARED = ("pxap", "pointing", "within", "energy_pointing_game", "gt_known_loc_heat_map", "empty")
"""Parts of the names of those metrics of `compare` that the tables of methods show."""


def shown(values: Sequence[float | None], digits: int = 3, *, worst: bool = False) -> str:
    """Return the mean of what was measured of the seeds, and in brackets from where to where.

    Args:
        values: one a seed; None: it was not measured.
        digits: after the point.
        worst: the values are scores: the lowest is said to be the worst seed's.
    """
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    mean = f"{statistics.mean(known):,.{digits}f}"
    if len(known) == 1:
        return mean
    low, high = f"{min(known):,.{digits}f}", f"{max(known):,.{digits}f}"
    which = f", worst: seed {values.index(min(known))}" if worst and low != high else ""
    return f"{mean} ({low} to {high}{which})"


def stood_on(numbers: Mapping[str, Any]) -> str:
    """Return what was run, when and on what, in a sentence."""
    machine = numbers["hardware"]
    versions = numbers["versions"] | numbers.get("backbone_versions", {})
    return (
        f"`{numbers['command']}`, {numbers['measured']}, on {machine['cpu']}, {machine['cores']} "
        f"cores, vector units {numbers['vector_units']}; "
        f"{', '.join(f'{package} {version}' for package, version in versions.items())}."
    )


def page(numbers: Mapping[str, Any]) -> str:
    """Return what was measured, as Markdown."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for run in numbers["runs"]:
        runs.setdefault(run["row"], []).append(run)
    parts = [
        "# A good model from a folder of photos, in minutes",
        stood_on(numbers),
        "Means over seeds; in brackets the lowest, the highest and the worst seed. Seconds are "
        "those of the whole command, from nothing to the report, where nothing else ran beside it; "
        "frozen runs on the same data share features: the longest of them computed these.",
    ]
    if runs:
        parts.append(_scores(runs))
        firsts = [of_row[0] for of_row in runs.values()]
        parts += [f"{one['what']}: {one['remark']}" for one in firsts if one["remark"]]
        parts.append(_commands(runs))
        parts += [
            f"## {of_row[0]['what']}: methods of explanation\n\n{found}"
            for of_row in runs.values()
            if (found := _methods(of_row))
        ]
    if numbers["times"]:
        parts.append(f"## Explaining beside the forward pass\n\n{_times(numbers['times'])}")
    return "\n\n".join(parts) + "\n"


def _scores(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    def of(metrics: Sequence[Mapping[str, Any]], names: Sequence[str]) -> float | None:
        values: dict[str, float | None] = {one["name"]: one["value"] for one in metrics}
        return next((values[name] for name in names if values.get(name) is not None), None)

    rows = [
        (
            of_row[0]["what"],
            *(
                shown([of(run["metrics"], names) for run in of_row], worst=True)
                for names in SHOWN.values()
            ),
            shown([run.get("train_command_seconds") for run in of_row], 0),
        )
        for of_row in runs.values()
    ]
    return markdown_table(["training", *SHOWN, "seconds"], rows)


def _commands(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    rows = [
        (of_row[0]["what"], " <br> ".join(f"`{line}`" for line in of_row[0]["commands"]))
        for of_row in runs.values()
    ]
    return markdown_table(["training", "commands, of the first seed"], rows, "ll")


def _methods(of_row: Sequence[Mapping[str, Any]]) -> str:
    comparisons = [run["comparison"] for run in of_row if run["comparison"]]
    if not comparisons:
        return ""
    first = comparisons[0]
    metrics = [name for name in first["metrics"] if any(part in name for part in COMPARED)]

    def score(one: Mapping[str, Any], method: str, name: str) -> float | None:
        value: float | None = one["methods"][method]["scores"].get(name, {}).get("value")
        return value

    rows = [
        (
            method,
            *(shown([score(one, method, name) for one in comparisons]) for name in metrics),
            shown([score(one, method, "time_ratio") for one in comparisons], 2),
        )
        for method in first["methods"]
        if all(method in one["methods"] for one in comparisons)
    ]
    labels = [first["metrics"][name]["label"] for name in metrics]
    return markdown_table([f"method, {first['images']} images", *labels, "time / forward"], rows)


def _times(measured_times: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (
            one["kind"],
            one["backbone"],
            spread_shown(one["forward_seconds"], 1, 1000),
            spread_shown(one["ratio"]),
        )
        for one in measured_times
    ]
    return markdown_table(
        ["network", "backbone", "forward, ms an image", "explain / forward"], rows
    )
