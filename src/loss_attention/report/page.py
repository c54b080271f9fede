"""One self-contained HTML page about a run: what was trained, how good it is, what it looked at.

The pictures of a report: which images to show, and what to show of each.

Curves over epochs as inline SVG that takes its colours from the page, light or dark.
"""

from __future__ import annotations

import base64
import io
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from PIL import Image
from torch import Tensor

from loss_attention.data.sample import ImageSet, LabelledImages
from loss_attention.errors import printable
from loss_attention.evaluation import Evaluation, Measure
from loss_attention.explanation import Explanation, explain_prediction
from loss_attention.geometry import box_iou
from loss_attention.heads.catalog import HEADS
from loss_attention.inference import run_batches
from loss_attention.metrics.localisation import relevant_boxes
from loss_attention.models import PatchClassifier
from loss_attention.prediction import ImagePrediction, WeightedPrediction, on_cpu
from loss_attention.report.drawing import marks_of, number, panel, resized
from loss_attention.report.tables import Section, evaluation_notes, evaluation_sections
from loss_attention.training.run_folder import RunFolder

REPORT_FILE = "report.html"
TEMPLATE, STYLE = "page.html.jinja", "page.css"
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
    recipe, facts = asdict(folder.recipe()), folder.facts()
    head = HEADS[recipe["head"]]
    figures = {recipe["head"]: evaluation, **(comparisons or {})}
    mistakes, right = _gallery(model, test, evaluation, twins)
    history = _thinned(folder.metrics())
    page = _template().render(
        style=resources.files("loss_attention.report").joinpath(STYLE).read_text("utf-8"),
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
        loader=PackageLoader("loss_attention", "report"),
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


MISTAKES = RIGHT_ANSWERS = 12
BARS = 5
BATCH = 256
SHORTEST, LONGEST = 240, 360
QUALITIES = (88, 75, 60, 45, 30)
MOST_BYTES = 3_000_000
"""All pictures of a report together, before base64 makes them a third longer."""


@dataclass(frozen=True)
class Picture:
    """A picture of a card.

    Attributes:
        caption: the image, or whose heat map it is.
        alt: for those who cannot see it.
        uri: the picture itself, as a data URI.
        limit: the value that the colour scale ends with; empty for the plain image.
        facts: what is shown where, in words.
        signed: the scale begins at minus the limit, not at 0.
    """

    caption: str
    alt: str
    uri: str
    limit: str = ""
    facts: str = ""
    signed: bool = True


@dataclass(frozen=True)
class Bar:
    """A class and its logit for an image.

    Attributes:
        name: the class.
        logit: the sum of its evidence over patches, where the model has evidence.
        percent: the bar's length, of the longest; negative to the left.
        is_label: the image has this label.
    """

    name: str
    logit: float
    percent: float
    is_label: bool


@dataclass(frozen=True)
class Card:
    """One image of the gallery.

    Attributes:
        name: what it is called.
        answer: the predicted class (multi-label: all of them).
        labels: the true classes.
        correct: whether the answer counts as right.
        target: the class that the heat maps are for, the predicted one; of a multi-label mistake,
            the class that is most wrong.
        probability: of that class.
        pictures: the image, and its heat map where the model has patches; then those of the twins.
        bars: the classes of the highest logits, and the labels.
    """

    name: str
    answer: str
    labels: str
    correct: bool
    target: str
    probability: float
    pictures: tuple[Picture, ...]
    bars: tuple[Bar, ...]


def choose_mistakes(
    correct: Bool[Tensor, " N"], confidence: Float[Tensor, " N"], most: int = MISTAKES
) -> list[int]:
    """Return the wrong answers, the most confident first."""
    wrong = (~correct).nonzero().squeeze(1)
    order = confidence[wrong].argsort(descending=True, stable=True)
    return [int(index) for index in wrong[order][:most]]


def choose_right_answers(
    correct: Bool[Tensor, " N"], predictions: Int[Tensor, " N"], most: int = RIGHT_ANSWERS
) -> list[int]:
    """Return right answers spread over the predicted classes, in the order of the set.

    The first of each class, then the second of each, and so on; not the most flattering ones.
    """
    by_class: dict[int, list[int]] = defaultdict(list)
    for index in correct.nonzero().squeeze(1).tolist():
        by_class[int(predictions[index])].append(index)
    rounds = [
        (turn, members[turn]) for members in by_class.values() for turn in range(len(members))
    ]
    return sorted(index for _, index in sorted(rounds)[:most])


def wrongness(
    logits: Float[Tensor, "B K"], labels: Shaped[Tensor, "B K"]
) -> tuple[Float[Tensor, " B"], Int[Tensor, " B"]]:
    """Return how wrong the most wrong class of each multi-label answer is, and which it is.

    That is the distance of its probability from its label, in [0, 1]; above 0.5 for a mistake.
    """
    worst = (logits.sigmoid() - labels.float()).abs().max(dim=1)
    return worst.values, worst.indices


def mistake_confidence(
    model: PatchClassifier,
    data: LabelledImages,
    correct: Bool[Tensor, " N"],
    probabilities: Float[Tensor, " N"],
) -> Float[Tensor, " N"]:
    """Return by what to order mistakes, the most confident being the highest.

    Args:
        model: that made them.
        data: the images.
        correct: whether each is right.
        probabilities: of the predicted class of each. It is the answer where there is one label;
            with several, the most confident class may be right, and mistakes are looked at again.
    """
    wrong = (~correct).nonzero().squeeze(1)
    if not data.multi_label or len(wrong) == 0:
        return probabilities
    confidence = torch.zeros_like(probabilities)
    confidence[wrong] = torch.cat(
        run_batches(
            model,
            data.subset(wrong.to(data.labels.device)),
            lambda batch, prediction: wrongness(prediction.logits.float(), batch.labels)[0].cpu(),
            batch_size=BATCH,
            autocast=nullcontext,
        )
    ).to(confidence.dtype)
    return confidence


def make_cards(
    model: PatchClassifier,
    data: LabelledImages,
    chosen: Sequence[int],
    twins: Mapping[str, PatchClassifier] | None = None,
    *,
    most_bytes: int = MOST_BYTES,
) -> list[Card]:
    """Explain the chosen images, and describe each; in this order.

    Args:
        model: the report's model.
        data: the images to choose from.
        chosen: their indices.
        twins: models whose heat map for the same class is shown beside it, by what to call them.
        most_bytes: of all pictures together.
    """
    if not chosen:
        return []
    part = data.take(torch.tensor(chosen)).to("cpu")
    prediction = _predict(model, part)
    logits = prediction.logits.float()
    matrix = part.label_matrix().bool()
    target = logits.argmax(dim=1)
    correct = matrix[torch.arange(len(part)), target]
    if part.multi_label:
        correct = ((logits > 0) == matrix).all(dim=1)
        target = torch.where(correct, target, wrongness(logits, matrix)[1])
    predictions = {model.config["head"]: prediction}
    predictions |= {name: _predict(twin, part) for name, twin in (twins or {}).items()}
    explanations = {
        name: explain_prediction(one, target, multi_label=part.multi_label)
        for name, one in predictions.items()
        if isinstance(one, WeightedPrediction)
    }
    room = most_bytes // (len(chosen) * (1 + len(explanations)))
    return [
        _card(part, i, chosen[i], logits[i], int(target[i]), bool(correct[i]), explanations, room)
        for i in range(len(chosen))
    ]


def data_uri(image: Image.Image, room: int) -> str:
    """Return a picture as a data URI, as good as so many bytes (before base64) allow."""
    for quality in QUALITIES:
        file = io.BytesIO()
        # Full resolution of colour: the lines are thin.
        image.convert("RGB").save(file, "JPEG", quality=quality, subsampling=0)
        if file.tell() <= room or image.size == (1, 1):
            return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
    width, height = image.size
    return data_uri(image.resize((max(1, width // 2), max(1, height // 2))), room)


def _predict(model: PatchClassifier, part: ImageSet) -> ImagePrediction:
    """Run a model over a few images; the prediction is on the CPU."""
    return run_batches(
        model,
        part,
        lambda _, prediction: on_cpu(prediction),
        batch_size=len(part),
        autocast=nullcontext,
    )[0]


def _card(
    part: ImageSet,
    i: int,
    number_in_set: int,
    logits: Float[Tensor, " K"],
    target: int,
    correct: bool,
    explanations: Mapping[str, Explanation],
    room: int,
) -> Card:
    names = part.class_names
    labels = part.label_matrix()[i].bool()
    answer = (logits > 0) if part.multi_label else torch.arange(len(names)) == target
    probabilities = logits.sigmoid() if part.multi_label else logits.softmax(dim=0)
    name = part.names[i] if part.names else f"test image {number_in_set}"
    image = _image(part.images[i])
    plain = Picture("image", name, data_uri(resized(image, SHORTEST, LONGEST), room))
    truths = _true_boxes(part, i)
    drawn = [
        _heat_map(image, caption, one, i, names[target], truths, room)
        for caption, one in explanations.items()
    ]
    return Card(
        name=name,
        answer=_listed(names, answer),
        labels=_listed(names, labels),
        correct=correct,
        target=names[target],
        probability=float(probabilities[target]),
        pictures=(plain, *drawn),
        bars=_bars(logits, labels, names),
    )


def _heat_map(
    image: Image.Image,
    caption: str,
    explanation: Explanation,
    i: int,
    target: str,
    truths: Float[Tensor, "G 4"],
    room: int,
) -> Picture:
    marks = marks_of(explanation, i, truths.numpy())
    return Picture(
        caption=caption,
        alt=f"{caption}, {marks.shown.name} for {target}",
        uri=data_uri(panel(image, marks, shortest=SHORTEST, longest=LONGEST), room),
        limit=number(marks.limit),
        facts=_facts(explanation, i, truths),
        signed=marks.shown.signed,
    )


def _facts(explanation: Explanation, i: int, truths: Float[Tensor, "G 4"]) -> str:
    """Say what was selected and where, for those who cannot or need not see it."""
    selected = explanation.selected[i]
    facts = f"{int(selected.sum())} of {len(selected)} patches"
    if len(truths):
        facts += f", IoU of the boxes {float(box_iou(explanation.boxes[i], truths).max()):.2f}"
    return facts


def _bars(
    logits: Float[Tensor, " K"], labels: Bool[Tensor, " K"], names: Sequence[str]
) -> tuple[Bar, ...]:
    top = logits.argsort(descending=True, stable=True)[:BARS].tolist()
    shown = top + [k for k in labels.nonzero().squeeze(1).tolist() if k not in top][:BARS]
    longest = max(1e-9, max(abs(float(logits[k])) for k in shown))
    return tuple(
        Bar(names[k], float(logits[k]), 100 * float(logits[k]) / longest, bool(labels[k]))
        for k in shown
    )


def _true_boxes(part: ImageSet, i: int) -> Float[Tensor, "G 4"]:
    """Return the boxes of the image's labels; the measures count no others."""
    if part.boxes is None or part.box_labels is None:
        return torch.empty(0, 4)
    relevant = relevant_boxes(part.box_labels[i : i + 1], part.labels[i : i + 1])[0]
    return part.boxes[i][relevant & ~part.boxes[i].isnan().any(dim=1)]


def _listed(names: Sequence[str], has: Bool[Tensor, " K"]) -> str:
    return ", ".join(names[k] for k in has.nonzero().squeeze(1).tolist()) or "none"


def _image(pixels: Tensor) -> Image.Image:
    array = pixels.permute(1, 2, 0).numpy()
    return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)


WIDTH, HEIGHT = 360, 200
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 14, 30
TICKS = 4


def curve_chart(
    title: str,
    epochs: Sequence[int],
    lines: Mapping[str, Sequence[float | None]],
    chosen: int | None = None,
) -> str:
    """Return an SVG element with one line a series over the epochs.

    Lines are told apart by colour and by dashes. Empty when there is nothing to draw.

    Args:
        title: names the chart for those who hear it; lower case.
        epochs: the x axis, rising.
        lines: values by epoch under the name of each series; None where an epoch has none.
        chosen: the epoch to mark, whose weights were kept.
    """
    known = {
        name: [
            (x, y)
            for x, y in zip(epochs, values, strict=True)
            if y is not None and math.isfinite(y)
        ]
        for name, values in lines.items()
    }
    known = {name: points for name, points in known.items() if points}
    if not known:
        return ""
    first, last = epochs[0], epochs[-1]
    low, high, ticks = axis([y for points in known.values() for _, y in points])

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - first) / max(1, last - first)
        up = (y - low) / (high - low)
        return (
            LEFT + across * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM),
        )

    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(_spoken(title, known, chosen))}">'
    ]
    for tick in ticks:
        y = place(first, tick)[1]
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>'
        )
    for epoch in sorted({first, last}):
        anchor = "middle" if epoch == first else "end"
        parts.append(_text(place(epoch, low)[0], HEIGHT - 12, str(epoch), anchor))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, "epoch", "middle"))
    if chosen is not None and first <= chosen <= last:
        x = place(chosen, low)[0]
        parts.append(
            f'<line class="chosen" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        )
        parts.append(_text(x, TOP - 4, f"kept: {chosen}", "end" if x > WIDTH / 2 else "start"))
    for index, points in enumerate(known.values()):
        placed = [place(x, y) for x, y in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        parts.append(f'<polyline class="series{index}" points="{path}"/>')
        x, y = placed[-1]
        parts.append(f'<circle class="series{index}" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>')
    return "".join([*parts, "</svg>"])


def axis(values: Sequence[float]) -> tuple[float, float, list[float]]:
    """Return the ends of an axis that holds the values, and round numbers along it.

    Example:
        >>> axis([0.12, 0.93])
        (0.0, 1.0, [0.0, 0.25, 0.5, 0.75, 1.0])
    """
    low, high = min(values), max(values)
    if high - low < 1e-9 * max(1.0, abs(high)):
        low, high = low - 0.5 * max(1.0, abs(low)), high + 0.5 * max(1.0, abs(high))
    rough = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    first, final = math.floor(low / step), math.ceil(high / step)
    ticks = [float(f"{step * i:.10g}") for i in range(first, final + 1)]
    return ticks[0], ticks[-1], ticks


def _spoken(
    title: str, known: Mapping[str, Sequence[tuple[int, float]]], chosen: int | None
) -> str:
    """Say what the chart shows, for those who hear it."""
    ends = [
        f"{name} from {points[0][1]:.3g} to {points[-1][1]:.3g}" for name, points in known.items()
    ]
    kept = "" if chosen is None else f"; epoch {chosen} was kept"
    return f"{title} over epochs: {', '.join(ends)}{kept}"


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'
