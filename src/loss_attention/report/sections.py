"""What all pages about a run have: their frame, scores as bars and cards, and the training."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

from loss_attention.evaluation.metric import Metric
from loss_attention.report.charts import curve_chart
from loss_attention.report.scores import best_mean
from loss_attention.report.templates import part

STYLE, SCRIPT = "page.css", "page.js"
MOST_EPOCHS = 300
"""Of longer runs, evenly spaced epochs are shown."""
COLUMNS = (
    "loss",
    "accuracy",
    "validation_loss",
    "validation_accuracy",
    "validation_balanced_accuracy",
    "learning_rate",
    "gamma",
)
"""What is told of each epoch; runs of version 0.1 do not have all of it."""


def frame() -> dict[str, str]:
    """Return the style and the script of a page; the browser runs this script and no other."""
    script = part(SCRIPT)
    digest = hashlib.sha256(script.encode()).digest()
    return {
        "style": part(STYLE),
        "script": script,
        "script_hash": base64.b64encode(digest).decode(),
    }


class Gauge(NamedTuple):
    """A score as a bar, all in percent of the way from the least to the greatest value."""

    percent: float
    baselines: list[float]


def gauge(metric: Metric | None) -> Gauge | None:
    """Return the bar of a row of a table; None where its score is undefined."""
    if metric is None or metric.value is None:
        return None
    low, high = metric.range

    def percent(value: float) -> float:
        return 100 * min(1.0, max(0.0, (value - low) / (high - low)))

    return Gauge(
        percent(metric.value), [percent(v) for v in metric.baselines.values() if v is not None]
    )


class MetricCard(NamedTuple):
    """A score that says much, as a card.

    Attributes:
        label: of the metric.
        score: of the report's model.
        gauge: the same, and the best baseline, as a bar.
        baseline: the best trivial baseline; "": there is none.
        others: names and scores of the models beside it.
    """

    label: str
    score: str
    gauge: Gauge | None
    baseline: str
    others: list[tuple[str, str]]


def metric_card(
    metric: Metric,
    label: str,
    score: str,
    baseline: str,
    others: Sequence[tuple[str, str]] = (),
) -> MetricCard:
    """Return the card of a metric, from its texts as tables have them."""
    best = best_mean([metric])
    known = {} if best is None else dict([best])
    return MetricCard(
        label=label,
        score=score,
        gauge=gauge(replace(metric, baselines=known)),
        baseline=baseline if known else "",
        others=list(others),
    )


def how_trained(history: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the curves of a training and their numbers, as the page has them.

    Args:
        history: the lines of metrics.jsonl.
        facts: the run's run.json.
    """
    history = history[::-1][:: -(-len(history) // MOST_EPOCHS) or 1][::-1]
    return {
        "history": history,
        "columns": [name for name in COLUMNS if any(name in line for line in history)],
        "charts": _charts(history, facts),
    }


def _charts(history: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    right = "exact matches" if facts.get("multi_label") else "accuracy"
    charts = []
    for title, series in (
        ("loss", {"training": "loss", "validation": "validation_loss"}),
        (right, {"training": "accuracy", "validation": "validation_accuracy"}),
    ):
        values = {name: [line[field] for line in history] for name, field in series.items()}
        epochs = [line["epoch"] for line in history]
        drawn = curve_chart(title, epochs, values, facts.get("best_epoch"))
        if drawn:
            names = [name for name, found in values.items() if any(v is not None for v in found)]
            charts.append({"title": title, "svg": drawn, "names": names})
    return charts


class Answered(Protocol):
    """A card of an image or a bag: what it is called, and what it is, several with commas."""

    @property
    def answer(self) -> str:
        """What it is called."""

    @property
    def labels(self) -> str:
        """What it is."""


def shown_classes(cards: Sequence[Answered], names: Sequence[str]) -> list[str]:
    """Return the classes that cards can be filtered by, in the order of the data."""
    said = {card.answer for card in cards} | {card.labels for card in cards}
    said |= {name for several in said for name in several.split(", ")}
    return [name for name in names if name in said]
