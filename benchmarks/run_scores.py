"""Scores of runs, as the JSON files in results/ have them, in the words and cells of a page."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

SHOWN = (
    ("accuracy", "accuracy"),
    ("patch_precision", "patch precision"),
    ("patch_recall", "patch recall"),
    ("patch_f1", "patch F1"),
    ("weight_inside", "weight inside the box"),
    ("energy_pointing_game", "energy pointing game (EPG)"),
    ("pointing_game", "pointing game"),
    ("gt_known_loc_patches", "GT-known Loc (patches)"),
    ("gt_known_loc_spread", "GT-known Loc (spread)"),
)
"""Metrics of a run that its table has, and what they are called there."""
SHOWN_HEADS = {"loss-attention": "loss-attention", "mean": "mean pooling"}
ABSENT = "-"
"""In a cell whose score was not measured, or is not defined."""
CENTRED = {"digits", "demo", "cifar10-small", "cifar10-fast", "tiny-imagenet-small"}
"""What centres patch logits, and did not before runs recorded which map was measured."""


def by_head_of(runs: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return the runs of each head."""
    heads = dict.fromkeys(run["head"] for run in runs)
    return {head: [run for run in runs if run["head"] == head] for head in heads}


def compared_by(run: dict[str, Any], method: str, name: str) -> float | None:
    """Return a score of a method in a run's comparison, None where it does not have it."""
    measurement = run["comparison"]["methods"][method]["scores"].get(name)
    value: float | None = measurement and measurement["value"]
    return value


def before_centring(numbers: dict[str, Any]) -> str:
    """Return what to type today for what was measured, where defaults were others; else ""."""
    runs = [run for run in numbers.get("runs", ()) if "map" not in run and "metrics" in run]
    commands = [run.get("command", "") for run in runs]
    commands += [command for run in runs for command in run.get("commands", ())]
    commands += [numbers.get("command", "")] if runs else []
    if not CENTRED & {word.rstrip(",") for command in commands for word in command.split()}:
        return ""
    return (
        "Measured before these recipes centred patch logits and before the margin was what is "
        "measured by default: today, add `--no-centre` to `train` and `--map evidence` to "
        "`evaluate` for the same."
    )


def value_of(run: dict[str, Any], name: str) -> float | None:
    """Return a score of a run, None where it does not have it."""
    for metric in run["metrics"]:
        if metric["name"] == name:
            value: float | None = metric["value"]
            return value
    return None


def baselines_of(runs: Sequence[dict[str, Any]], name: str) -> str:
    """Return what the trivial baselines of a metric score."""
    baselines: dict[str, list[float | None]] = {}
    for run in runs:
        for metric in run["metrics"]:
            if metric["name"] == name:
                for label, value in metric["baselines"].items():
                    baselines.setdefault(label, []).append(value)
    return "; ".join(f"{label} {spread(values)}" for label, values in baselines.items())


def spread(values: Sequence[float | None], digits: int = 3) -> str:
    """Return the mean of what is known and, of several, their sample standard deviation."""
    known = [value for value in values if value is not None]
    if not known:
        return ABSENT
    mean = f"{statistics.mean(known):.{digits}f}"
    return f"{mean} ± {statistics.stdev(known):.{digits}f}" if len(known) > 1 else mean
