"""One self-contained HTML page about a run: what was trained, how good it is, what it looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from loss_attention.data.sample import LabelledImages
from loss_attention.evaluation.metric import Evaluation
from loss_attention.explanation import check_map, default_map
from loss_attention.heads import HEADS
from loss_attention.metrics.locality import Locality
from loss_attention.model import PatchClassifier
from loss_attention.prediction import MapName
from loss_attention.report.charts import SIDES, curve_chart
from loss_attention.report.confusion import readable_confusion
from loss_attention.report.gallery import (
    MOST_BYTES,
    choose_mistakes,
    choose_right_answers,
    make_cards,
    mistake_confidence,
)
from loss_attention.report.scores import evaluation_tables, grouped
from loss_attention.report.sections import (
    MetricCard,
    frame,
    gauge,
    how_trained,
    metric_card,
    shown_classes,
)
from loss_attention.report.summary import key_metrics, key_table, sentences
from loss_attention.report.templates import template
from loss_attention.report.verdict import ending
from loss_attention.training.run_folder import RunFolder

REPORT_FILE = "report.html"
TEMPLATE = "page.html.jinja"
SHOWN_FIRST, SHOWN_FIRST_WIDE = 3, 2
"""Right answers at the top of the page: a row of cards, which are wider beside counterparts."""


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
    tables = evaluation_tables(evaluations)
    page = template(TEMPLATE).render(
        **frame(),
        **how_trained(folder.metrics(), facts),
        title=recipe["name"],
        article="an",
        noun="image",
        train_count=facts["train_images"],
        validation_count=facts["validation_images"],
        verdict=sentences(evaluation),
        metric_cards=_metric_cards(evaluations),
        shown_first=shown_first,
        shown_classes=shown_classes((*mistakes, *right), test.class_names),
        why_not=head.has_evidence and model.competing and not test.multi_label,
        recipe=recipe,
        facts=facts,
        tables=[
            (table, [gauge(found) for _, _, found in rows])
            for table, (_, rows) in zip(tables, grouped(evaluations), strict=True)
        ],
        notes=tables[-1].notes,
        images=evaluation.images,
        ending=ending(evaluation, trained, facts),
        confusion=readable_confusion(evaluation.confusion, test.class_names),
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


def _metric_cards(evaluations: Mapping[str, Evaluation]) -> list[MetricCard]:
    table, first = key_table(evaluations), next(iter(evaluations.values()))
    cards = []
    for metric, (label, score, *others, baseline) in zip(
        key_metrics(first), table.rows, strict=True
    ):
        names = list(evaluations)[1:]
        beside = list(zip(names, others, strict=True))
        cards.append(metric_card(metric, label, score, baseline, beside))
    return cards


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
