"""One self-contained HTML page about a run: what was trained, how good it is, what it looked at."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from loss_attention.data.sample import LabelledImages
from loss_attention.evaluation.metric import Evaluation, Metric
from loss_attention.explanation import check_map, default_map
from loss_attention.heads import HEADS
from loss_attention.metrics.locality import Locality
from loss_attention.model import PatchClassifier
from loss_attention.prediction import MapName
from loss_attention.report.charts import SIDES, curve_chart
from loss_attention.report.confusion import readable_confusion
from loss_attention.report.gallery import (
    MOST_BYTES,
    Card,
    choose_mistakes,
    choose_right_answers,
    make_cards,
    mistake_confidence,
)
from loss_attention.report.scores import best_mean, evaluation_tables, grouped
from loss_attention.report.summary import key_metrics, key_table, sentences
from loss_attention.report.templates import part, template
from loss_attention.report.verdict import ending
from loss_attention.training.run_folder import RunFolder

REPORT_FILE = "report.html"
TEMPLATE, STYLE, SCRIPT = "page.html.jinja", "page.css", "page.js"
SHOWN_FIRST, SHOWN_FIRST_WIDE = 3, 2
"""Right answers at the top of the page: a row of cards, which are wider beside counterparts."""
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


def write_report(
    run: Path,
    model: PatchClassifier,
    test: LabelledImages,
    evaluation: Evaluation,
    *,
    comparisons: Mapping[str, Evaluation] | None = None,
    counterparts: Mapping[str, PatchClassifier] | None = None,
    map: MapName | None = None,
) -> Path:
    """Write report.html into a run folder: no network needed, under 5 MB, light and dark.

    Args:
        run: the run's folder, with recipe.yaml, run.json and metrics.jsonl in it.
        model: the run's best weights.
        test: the images that `evaluation` is of.
        evaluation: of the model, with its results image by image.
        comparisons: other models' scores on the same images, by what to call them.
        counterparts: models whose evidence the gallery shows beside the model's, mean pooling for
            example, by what to call them.
        map: what the heat maps of the gallery show; None: see `explanation.default_map`.

    Returns:
        The path of the page.

    Raises:
        InputError: a map that the model does not have.
        SaveError: it could not be written; an earlier one stays.
    """
    results = evaluation.per_image
    if results is None:
        raise ValueError("the report needs an evaluation with its results image by image")
    folder = RunFolder(run)
    trained, facts = folder.recipe(), folder.facts()
    kernel, stride = trained.patch_size  # which follow from the backbone where none were chosen
    recipe = asdict(trained) | {"patch_kernel": kernel, "patch_stride": stride}
    recipe["centre"] = model.spec.centre  # likewise, from head and data
    head = HEADS[recipe["head"]]
    check_map(map, has_evidence=head.has_evidence, competing=model.competing)
    evaluations = {recipe["head"]: evaluation, **(comparisons or {})}
    correct = results.correct
    confidence = mistake_confidence(model, test, correct, results.probabilities)
    shown_first = SHOWN_FIRST_WIDE if counterparts else SHOWN_FIRST
    answers = choose_right_answers(correct, results.predictions)
    first = choose_right_answers(correct, results.predictions, shown_first)
    chosen = (
        choose_mistakes(correct, confidence),
        first + [index for index in answers if index not in first],
    )
    seen = {name: _r90(one.locality) for name, one in evaluations.items()}
    mistakes, right = (
        make_cards(model, test, some, counterparts, map=map, seen=seen, most_bytes=MOST_BYTES // 2)
        for some in chosen
    )
    history = folder.metrics()
    history = history[::-1][:: -(-len(history) // MOST_EPOCHS) or 1][::-1]
    tables = evaluation_tables(evaluations)
    script = part(SCRIPT)
    page = template(TEMPLATE).render(
        style=part(STYLE),
        script=script,
        # The browser runs this script and no other, whatever a name may hold.
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        verdict=sentences(evaluation),
        metric_cards=_metric_cards(evaluations),
        shown_first=shown_first,
        shown_classes=_shown_classes((*mistakes, *right), test.class_names),
        why_not=head.has_evidence and model.competing and not test.multi_label,
        recipe=recipe,
        facts=facts,
        tables=[
            (table, [_gauge(found) for _, _, found in rows])
            for table, (_, rows) in zip(tables, grouped(evaluations), strict=True)
        ],
        notes=tables[-1].notes,
        images=evaluation.images,
        ending=ending(evaluation, trained, facts),
        confusion=readable_confusion(evaluation.confusion, test.class_names),
        history=history,
        columns=[name for name in COLUMNS if any(name in line for line in history)],
        charts=_charts(history, facts),
        mistakes=mistakes,
        mistake_count=int((~correct).sum()),
        right=right,
        has_patches=not head.pooled_backbone,
        has_evidence=head.has_evidence,
        map=map or default_map(competing=model.competing),
        has_boxes=test.boxes is not None,
        has_counterparts=bool(counterparts),
        multi_label=test.multi_label,
        one_vs_rest=model.spec.one_vs_rest,
        locality=evaluation.locality,
        locality_chart=_locality_chart(evaluation.locality),
    )
    folder.write(REPORT_FILE, page)
    return run / REPORT_FILE


class Gauge(NamedTuple):
    """A score as a bar, all in percent of the way from the least to the greatest value."""

    percent: float
    baselines: list[float]


def _gauge(metric: Metric | None) -> Gauge | None:
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


def _metric_cards(evaluations: Mapping[str, Evaluation]) -> list[MetricCard]:
    table, first = key_table(evaluations), next(iter(evaluations.values()))
    cards = []
    for metric, (label, score, *others, baseline) in zip(
        key_metrics(first), table.rows, strict=True
    ):
        best = best_mean([metric])
        known = {} if best is None else dict([best])
        names = list(evaluations)[1:]
        cards.append(
            MetricCard(
                label=label,
                score=score,
                gauge=_gauge(replace(metric, baselines=known)),
                baseline=baseline if known else "",
                others=list(zip(names, others, strict=True)),
            )
        )
    return cards


def _shown_classes(cards: Sequence[Card], names: Sequence[str]) -> list[str]:
    """Return the classes that cards can be filtered by, in the order of the data."""
    said = {card.answer for card in cards} | {card.labels for card in cards}
    said |= {name for several in said for name in several.split(", ")}
    return [name for name in names if name in said]


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


def _r90(found: Locality | None) -> int | None:
    """Return the side of the square that nine tenths of the heaviest patches' vectors hang on."""
    return None if found is None else found.heaviest.r90


def _locality_chart(found: Locality | None) -> dict[str, Any] | None:
    """Return the drawn curve of what patches see; None where there is none."""
    if found is None or not (found.random.values and found.heaviest.values):
        return None
    lines = {"random patches": found.random.values, "heaviest": found.heaviest.values}
    svg = curve_chart("L", found.random.sides, lines, found.random.window, axis=SIDES)
    return {"svg": svg, "names": list(lines)}
