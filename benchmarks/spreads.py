"""Medians with their spread, of turns that were timed alternately."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

Spread = dict[str, float]
"""`median`, `lowest` and `highest` of so many `turns`."""


def spread(values: Sequence[float]) -> Spread:
    return {
        "median": statistics.median(values),
        "lowest": min(values),
        "highest": max(values),
        "turns": len(values),
    }


def ratio(over: Sequence[float], under: Sequence[float]) -> Spread:
    """Return the ratio of two things turn by turn, so that what slows a turn down meets both."""
    return spread([a / b for a, b in zip(over, under, strict=True)])


def shown(value: Spread | None, digits: int = 2, factor: float = 1.0, unit: str = "") -> str:
    """Return a spread as people read it: the median, and in brackets from where to where."""
    if value is None:
        return "-"
    median, low, high = (
        f"{factor * value[name]:,.{digits}f}" for name in ("median", "lowest", "highest")
    )
    return f"{median}{unit} ({low} to {high})" if value["turns"] > 1 else f"{median}{unit}"
