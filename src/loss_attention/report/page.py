"""One self-contained HTML page about a run: what was trained, how good it is, what it looked at.

The pictures of a report: which images to show, and what to show of each.
"""

from __future__ import annotations

import base64
import io
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.style
import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
from PIL import Image
from torch import Tensor

from loss_attention.data.sample import ImageSet, LabelledImages
from loss_attention.errors import printable
from loss_attention.evaluation.measuring import images_at_once, run_batches
from loss_attention.evaluation.metric import Evaluation, Metric
from loss_attention.explanation import (
    CONTRAST,
    Explanation,
    check_map,
    default_map,
    explain_prediction,
)
from loss_attention.geometry import box_iou
from loss_attention.heads import HEADS
from loss_attention.metrics.localisation import relevant_boxes
from loss_attention.metrics.locality import Locality, kept_squares
from loss_attention.model import PatchClassifier
from loss_attention.prediction import (
    ImagePrediction,
    MapName,
    PatchPrediction,
    WeightedPrediction,
    on_cpu,
    probabilities_of,
)
from loss_attention.report.confusion import readable_confusion
from loss_attention.report.drawing import marks_of, number, panel, resized
from loss_attention.report.scores import evaluation_tables, grouped
from loss_attention.report.verdict import ending
from loss_attention.training.run_folder import RunFolder

REPORT_FILE = "report.html"
TEMPLATE, STYLE = "page.html.jinja", "page.css"
MOST_EPOCHS = 300
"""Of longer runs, evenly spaced epochs are shown."""
MISTAKES = RIGHT_ANSWERS = 12
BARS = 5
BATCH = 256
SHORTEST, LONGEST = 240, 360
QUALITIES = (88, 75, 60, 45, 30)
MOST_BYTES = 3_000_000
"""All pictures of a report together, before base64 makes them a third longer."""
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
CHART_COLOURS = {"#5b5b5b": "quiet", "#d9d9d9": "rule", "#b40426": "first", "#3b4cc0": "second"}
"""As they are drawn on white, and what the style of the page calls them, light and dark."""
CHART_SETTINGS = {
    "axes.autolimit_mode": "round_numbers",
    "axes.labelcolor": "#5b5b5b",
    "axes.xmargin": 0,
    "axes.ymargin": 0,
    "font.size": 11,
    "lines.linewidth": 2,
    "svg.fonttype": "none",
    "svg.hashsalt": "the same each time",
    "text.color": "#5b5b5b",
    "text.parse_math": False,
    "xtick.bottom": False,
    "xtick.color": "#5b5b5b",
    "ytick.color": "#5b5b5b",
    "ytick.left": False,
}


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
    chosen = (
        choose_mistakes(correct, confidence),
        choose_right_answers(correct, results.predictions),
    )
    seen = {name: _r90(one.locality) for name, one in evaluations.items()}
    mistakes, right = (
        make_cards(model, test, some, counterparts, map=map, seen=seen, most_bytes=MOST_BYTES // 2)
        for some in chosen
    )
    history = folder.metrics()
    history = history[::-1][:: -(-len(history) // MOST_EPOCHS) or 1][::-1]
    tables = evaluation_tables(evaluations)
    page = _template().render(
        style=resources.files("loss_attention.report").joinpath(STYLE).read_text("utf-8"),
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
        has_counterparts=any(len(card.pictures) > 2 for card in (*mistakes, *right)),
        multi_label=test.multi_label,
        one_vs_rest=model.spec.one_vs_rest,
        locality=evaluation.locality,
        locality_chart=_locality_chart(evaluation.locality),
    )
    folder.write(REPORT_FILE, page)
    return run / REPORT_FILE


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


class Axis(NamedTuple):
    """What the values along a chart are.

    Attributes:
        label: stands under the chart.
        over: how those hear it who cannot see it, in "TITLE over OVER".
        mark: stands beside the value that is marked, with this in its place.
        said: says the same.
    """

    label: str
    over: str
    mark: str
    said: str


EPOCHS = Axis("epoch", "epochs", "kept: {}", "epoch {} was kept")
SIDES = Axis(
    "side of the square that is kept, in pixels",
    "sides of the square that is kept",
    "window: {}",
    "the window has {} pixels",
)


def curve_chart(
    title: str,
    epochs: Sequence[int],
    lines: Mapping[str, Sequence[float | None]],
    chosen: int | None = None,
    axis: Axis = EPOCHS,
) -> str:
    """Return an SVG element with one line a series over the epochs, in colours of the page.

    Lines are told apart by colour and by dashes. Empty when there is nothing to draw.

    Args:
        title: names the chart for those who hear it; lower case.
        epochs: the x axis, rising.
        lines: values by epoch under the name of each series, of two; None where an epoch has none.
        chosen: the epoch to mark, whose weights were kept.
        axis: what stands in the epochs' place.
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
    quiet, rule, *colours = CHART_COLOURS
    with matplotlib.style.context(["default", CHART_SETTINGS]):
        figure = Figure(figsize=(5, 2.78), dpi=72)
        axes = figure.add_axes((0.13, 0.14, 0.84, 0.77), frameon=False)
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
        for points, colour, dash in zip(known.values(), colours, ("-", (0, (3, 2))), strict=False):
            x, y = zip(*points, strict=True)
            axes.plot(x, y, color=colour, linestyle=dash, clip_on=False)
            # A dot at the end: one epoch makes no line.
            dot: dict[str, Any] = {"linewidth": 5, "solid_capstyle": "round", "clip_on": False}
            axes.plot(x[-1:] * 2, y[-1:] * 2, color=colour, **dot)
        axes.set_xlim(first, max(last, first + 1))
        axes.set_xticks(sorted({first, last}))
        axes.set_xlabel(axis.label, labelpad=-11)
        for ticks in (axes.xaxis, axes.yaxis):
            ticks.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.grid(axis="y", color=rule, clip_on=False)
        if chosen is not None and first <= chosen <= last:
            axes.axvline(chosen, color=quiet, linewidth=1, linestyle=":", clip_on=False)
            side = "right" if chosen > (first + last) / 2 else "left"
            above = axes.get_xaxis_transform()
            axes.text(chosen, 1.03, axis.mark.format(chosen), transform=above, ha=side)
        drawn = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(drawn, format="svg", transparent=True, metadata=nothing)
    # Inline it needs no namespaces, and its letters and colours are the page's.
    svg = drawn.getvalue().partition("<svg")[2]
    svg = re.sub(
        r' xmlns(:xlink)?="[^"]*"| id="[^"]*"|font-family: [^;]*; |<defs>.*?</defs>',
        "",
        svg,
        flags=re.DOTALL,
    )
    for colour, name in CHART_COLOURS.items():
        svg = svg.replace(colour, f"var(--{name})")
    label = escape(_spoken(title, known, chosen, axis))
    return f'<svg role="img" aria-label="{label}" {" ".join(svg.split())}'


def _spoken(
    title: str, known: Mapping[str, Sequence[tuple[int, float]]], chosen: int | None, axis: Axis
) -> str:
    """Say what the chart shows, for those who hear it."""
    ends = [
        f"{name} from {points[0][1]:.3g} to {points[-1][1]:.3g}" for name, points in known.items()
    ]
    kept = "" if chosen is None else f"; {axis.said.format(chosen)}"
    return f"{title} over {axis.over}: {', '.join(ends)}{kept}"


class Picture(NamedTuple):
    """A picture of a card.

    Attributes:
        caption: the image, or whose heat map it is.
        alt: for those who cannot see it.
        uri: the picture itself, as a data URI.
        limit: the value that the colour scale ends with; empty for the plain image.
        facts: what is shown where, as text.
        signed: the scale begins at minus the limit, not at 0.
    """

    caption: str
    alt: str
    uri: str
    limit: str = ""
    facts: str = ""
    signed: bool = True


class Bar(NamedTuple):
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


class Card(NamedTuple):
    """One image of the gallery.

    Attributes:
        name: what it is called.
        answer: the predicted class (multi-label: all of them).
        labels: the true classes.
        correct: whether the answer counts as right.
        target: the class that the heat maps are for, the predicted one; of a multi-label mistake,
            the class that is most wrong.
        probability: of that class.
        pictures: the image, and its heat map where the model has patches; then those of its
            counterparts.
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
            batch_size=images_at_once(data.size, BATCH),
            autocast=nullcontext,
        )
    ).to(confidence.dtype)
    return confidence


def make_cards(
    model: PatchClassifier,
    data: LabelledImages,
    chosen: Sequence[int],
    counterparts: Mapping[str, PatchClassifier] | None = None,
    *,
    map: MapName | None = None,
    seen: Mapping[str, int | None] | None = None,
    most_bytes: int = MOST_BYTES,
) -> list[Card]:
    """Explain the chosen images, and describe each; in this order.

    Args:
        model: the report's model.
        data: the images to choose from.
        chosen: their indices.
        counterparts: models whose heat map for the same class is shown beside it, by what to call
            them.
        map: what is shown of models with evidence; None: see `explanation.default_map`.
        seen: r90 of the heaviest patches of each model, by its head or what to call it, which is
            outlined around the heaviest patch; None: nothing is.
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
    predictions = {model.spec.head: (prediction, model.competing)}
    predictions |= {
        name: (_predict(one, part), one.competing) for name, one in (counterparts or {}).items()
    }
    explanations = {
        name: explain_prediction(
            one,
            target,
            competing=competing,
            map=map if isinstance(one, PatchPrediction) else None,
        )
        for name, (one, competing) in predictions.items()
        if isinstance(one, WeightedPrediction)
    }
    probabilities = probabilities_of(logits, competing=model.competing)
    sure = probabilities.gather(1, target.unsqueeze(1)).squeeze(1).tolist()
    room = most_bytes // (len(chosen) * (1 + len(explanations)))
    names = part.names or [f"test image {index}" for index in chosen]
    return [
        _card(
            part,
            i,
            names[i],
            logits[i],
            int(target[i]),
            sure[i],
            bool(correct[i]),
            explanations,
            seen or {},
            room,
        )
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
    name: str,
    logits: Float[Tensor, " K"],
    target: int,
    probability: float,
    correct: bool,
    explanations: Mapping[str, Explanation],
    seen: Mapping[str, int | None],
    room: int,
) -> Card:
    names = part.class_names
    labels = part.label_matrix()[i].bool()
    answer = (logits > 0) if part.multi_label else torch.arange(len(names)) == target
    pixels = part.images[i].permute(1, 2, 0).numpy()
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    plain = Picture("image", name, data_uri(resized(image, SHORTEST, LONGEST), room))
    truths = _true_boxes(part, i)
    drawn = [
        _heat_map(image, caption, one, i, names[target], truths, seen.get(caption), room)
        for caption, one in explanations.items()
    ]
    return Card(
        name=name,
        answer=_listed(names, answer),
        labels=_listed(names, labels),
        correct=correct,
        target=names[target],
        probability=probability,
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
    seen: int | None,
    room: int,
) -> Picture:
    marks = replace(marks_of(explanation, i, truths.numpy()), seen=_seen(explanation, i, seen))
    return Picture(
        caption=caption,
        alt=f"{caption}, {marks.shown.name} for {target}",
        uri=data_uri(panel(image, marks, shortest=SHORTEST, longest=LONGEST), room),
        limit=number(marks.limit),
        facts=_facts(explanation, i, truths)
        + (f"; {marks.note}: {CONTRAST.name}" if marks.note else ""),
        signed=marks.shown.signed,
    )


def _seen(explanation: Explanation, i: int, side: int | None) -> Float[np.ndarray, "P 4"]:
    """Return the square of this side around the heaviest patch; none where several are equal."""
    weights = explanation.patch_weights[i]
    heaviest = (weights == weights.max()).nonzero().squeeze(1)
    if side is None or len(heaviest) > 1:
        return np.empty((0, 4), np.float32)
    square = kept_squares(explanation.grid, heaviest, torch.tensor([side]))
    return square.float().numpy()


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
