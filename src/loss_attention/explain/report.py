"""One self-contained HTML page about a run: what was trained, how good it is, what it looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from loss_attention.data.sample import LabelledImages
from loss_attention.errors import printable
from loss_attention.evaluation import Evaluation, Measure
from loss_attention.explain.curves import curve_chart
from loss_attention.explain.gallery import (
    MOST_BYTES,
    Card,
    choose_mistakes,
    choose_right_answers,
    make_cards,
    mistake_confidence,
)
from loss_attention.heads.catalog import HEADS
from loss_attention.models import PatchClassifier
from loss_attention.tables import Section, evaluation_notes, evaluation_sections
from loss_attention.training.run_folder import RunFolder

REPORT_FILE = "report.html"
TEMPLATE, STYLE = "report.html.jinja", "report.css"
MOST_EPOCHS = 300
"""Of longer runs, evenly spaced epochs are shown."""


@dataclass(frozen=True)
class Gauge:
    """A figure as a bar, all in percent of the way from the least to the greatest value."""

    percent: float
    floors: tuple[float, ...]


def write_report(
    run: Path,
    model: PatchClassifier,
    test: LabelledImages,
    evaluation: Evaluation,
    *,
    comparisons: Mapping[str, Evaluation] | None = None,
    twins: Mapping[str, PatchClassifier] | None = None,
) -> Path:
    """Write report.html into a run folder: no network needed, under 5 MB, light and dark.

    Args:
        run: the run's folder, with recipe.yaml, run.json and metrics.jsonl in it.
        model: the run's best weights.
        test: the images that `evaluation` is of.
        evaluation: of the model, with its results image by image.
        comparisons: other models' figures on the same images, by what to call them.
        twins: models whose evidence the gallery shows beside the model's, by what to call them.

    Returns:
        The path of the page.

    Raises:
        SaveError: it could not be written; an earlier one stays.
    """
    if evaluation.per_image is None:
        raise ValueError("the report needs an evaluation with its results image by image")
    folder = RunFolder(run)
    recipe, facts = asdict(folder.recipe()), folder.read_json("run.json")
    head = HEADS[recipe["head"]]
    figures = {recipe["head"]: evaluation, **(comparisons or {})}
    mistakes, right = _gallery(model, test, evaluation, twins)
    history = _thinned(folder.metrics())
    page = _template().render(
        style=resources.files("loss_attention.explain").joinpath(STYLE).read_text("utf-8"),
        recipe=recipe,
        facts=facts,
        model_names=list(figures),
        sections=[(section, _gauges(section)) for section in evaluation_sections(figures)],
        notes=evaluation_notes(figures),
        images=evaluation.images,
        history=history,
        charts=_charts(history, facts),
        mistakes=mistakes,
        mistake_count=int((~evaluation.per_image.correct).sum()),
        right=right,
        has_patches=not head.pooled_backbone,
        has_evidence=head.has_evidence,
        has_boxes=test.boxes is not None,
        has_twins=any(len(card.pictures) > 2 for card in (*mistakes, *right)),
        multi_label=test.multi_label,
    )
    folder.write(REPORT_FILE, page)
    return run / REPORT_FILE


def _gallery(
    model: PatchClassifier,
    test: LabelledImages,
    evaluation: Evaluation,
    twins: Mapping[str, PatchClassifier] | None,
) -> tuple[list[Card], list[Card]]:
    """Return the mistakes, the most confident first, and right answers of every class."""
    results = evaluation.per_image
    assert results is not None
    confidence = mistake_confidence(model, test, results.correct, results.probabilities)
    chosen = choose_mistakes(results.correct, confidence)
    right = choose_right_answers(results.correct, results.predictions)
    return (
        make_cards(model, test, chosen, twins, most_bytes=MOST_BYTES // 2),
        make_cards(model, test, right, twins, most_bytes=MOST_BYTES // 2),
    )


def _template() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("loss_attention", "explain"),
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE)


def _shown(value: Any) -> Any:
    """Escape control characters in texts of the page that are not its own markup."""
    return printable(value) if type(value) is str else value


def _gauges(section: Section) -> list[Gauge | None]:
    """Return a bar for each row; None where its figure is undefined."""
    return [_gauge(row.measure) for row in section.rows]


def _gauge(measure: Measure | None) -> Gauge | None:
    if measure is None or measure.value is None:
        return None
    low, high = measure.range

    def percent(value: float) -> float:
        return 100 * min(1.0, max(0.0, (value - low) / (high - low)))

    floors = [value for value in measure.floors.values() if value is not None]
    return Gauge(percent(measure.value), tuple(map(percent, floors)))


def _thinned(history: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return evenly spaced epochs where there are many, the last one always."""
    step = -(-len(history) // MOST_EPOCHS) or 1
    return list(history[::-1][::step][::-1])


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
