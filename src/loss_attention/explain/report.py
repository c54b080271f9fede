"""One self-contained HTML page about a run: what was trained, how good it is, what it looked at."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from loss_attention.data.sample import ImageSet
from loss_attention.evaluation import Evaluation
from loss_attention.explain.curves import curve_chart
from loss_attention.explain.gallery import choose_mistakes, choose_right_answers, make_cards
from loss_attention.heads.catalog import HEADS
from loss_attention.models import PatchClassifier
from loss_attention.saving import write_whole
from loss_attention.tables import evaluation_notes, evaluation_rows

REPORT_FILE = "report.html"
TEMPLATE, STYLE = "report.html.jinja", "report.css"
CHARTS = (
    ("loss", {"training": "loss", "validation": "validation_loss"}),
    ("accuracy", {"training": "accuracy", "validation": "validation_accuracy"}),
)


def write_report(
    run: Path,
    model: PatchClassifier,
    test: ImageSet,
    evaluation: Evaluation,
    *,
    comparisons: Mapping[str, Evaluation] | None = None,
) -> Path:
    """Write report.html into a run folder: no network needed, under 5 MB, light and dark.

    Args:
        run: the run's folder, with recipe.yaml, run.json and metrics.jsonl in it.
        model: the run's best weights.
        test: the images that `evaluation` is of.
        evaluation: of the model, with its results image by image.
        comparisons: other models' figures on the same images, by what to call them.

    Returns:
        The path of the page.

    Raises:
        SaveError: it could not be written; an earlier one stays.
    """
    if evaluation.per_image is None:
        raise ValueError("the report needs an evaluation with its results image by image")
    recipe = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
    facts = json.loads((run / "run.json").read_text(encoding="utf-8"))
    results = evaluation.per_image
    mistakes = choose_mistakes(results.correct, results.probabilities)
    right = choose_right_answers(results.correct, results.predictions)
    figures = {_model_name(recipe): evaluation, **(comparisons or {})}
    page = _template().render(
        style=resources.files("loss_attention.explain").joinpath(STYLE).read_text("utf-8"),
        recipe=recipe,
        facts=facts,
        model_names=list(figures),
        rows=evaluation_rows(figures),
        notes=evaluation_notes(figures),
        images=evaluation.images,
        charts=_charts(run),
        mistakes=make_cards(model, test, mistakes),
        mistake_count=int((~results.correct).sum()),
        right=make_cards(model, test, right),
        has_evidence=not HEADS[recipe["head"]].pooled_backbone,
        has_boxes=test.boxes is not None,
    )
    path = run / REPORT_FILE
    write_whole(path, page)
    return path


def _template() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("loss_attention", "explain"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE)


def _charts(run: Path) -> list[dict[str, Any]]:
    path = run / "metrics.jsonl"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    lines = [json.loads(line) for line in text.splitlines()]
    charts = []
    for title, series in CHARTS:
        values = {name: [line[field] for line in lines] for name, field in series.items()}
        drawn = curve_chart(title, values)
        if drawn:
            names = [name for name, found in values.items() if any(v is not None for v in found)]
            charts.append({"title": title, "svg": drawn, "names": names})
    return charts


def _model_name(recipe: Mapping[str, Any]) -> str:
    return str(recipe["head"])
