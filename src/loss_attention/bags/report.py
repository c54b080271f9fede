"""One self-contained page about a run on bags: its data, its scores, and what its evidence is.

The page has the frame, the style and the tables of the page about a run on images (`report/`); what
is of bags alone is gathered here.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int

from loss_attention.bags.bag_set import BagSet, class_counts
from loss_attention.bags.division import BagParts
from loss_attention.bags.evaluation import BagEvaluation
from loss_attention.bags.explaining import BagQuestion, ExplainedBag, bag_question, explained
from loss_attention.bags.maps import frame_of, slide_marks, tile_size
from loss_attention.bags.model import BagClassifier
from loss_attention.bags.recipe import BagRunRecipe
from loss_attention.report.confusion import readable_confusion
from loss_attention.report.drawing import number, panel
from loss_attention.report.gallery import (
    MOST_BYTES,
    Bar,
    Picture,
    choose_mistakes,
    choose_right_answers,
    class_bars,
    data_uri,
    listed,
)
from loss_attention.report.page import REPORT_FILE
from loss_attention.report.scores import best_baseline, score_text
from loss_attention.report.sections import (
    MetricCard,
    frame,
    gauge,
    how_trained,
    metric_card,
    shown_classes,
)
from loss_attention.report.summary import percent, right_answers
from loss_attention.report.templates import template
from loss_attention.report.verdict import FEW_IMAGES, nothing_learned, rare_classes
from loss_attention.training.run_folder import RunFolder

TEMPLATE = "bags.html.jinja"
MISTAKES = RIGHT_ANSWERS = 9
TOP = 5
"""Instances of a bag that are listed for its class, and as many against it."""
LONGEST = 600
"""Pixels of the longer side of a map."""
MOST_CLASSES = 40
SIZES = 8
"""Bars of the histogram of bag sizes, at most."""
KEY_METRICS = (
    *("mean_average_precision", "auc", "balanced_accuracy", "accuracy", "exact_match"),
    *("precision_at_1", "froc_evidence"),
)
"""Those that are shown first."""


def write_bag_report(
    run: RunFolder,
    recipe: BagRunRecipe,
    model: BagClassifier,
    parts: BagParts,
    evaluation: BagEvaluation,
) -> Path:
    """Write report.html into the folder of a run on bags: it needs no network, and no other file.

    Args:
        run: the run.
        recipe: of the run.
        model: its best weights.
        parts: its bags.
        evaluation: of the model on its test bags, with what it said of each.

    Returns:
        The path of the page.

    Raises:
        InputError: bags that can no longer be read.
        SaveError: it could not be written; an earlier one stays.
    """
    assert evaluation.said is not None
    facts, test = run.facts(), parts.test
    labels = test.labels.numpy()
    said = evaluation.said
    if test.multi_label:
        correct = ((said >= 0.5) == (labels > 0)).all(axis=1)
        wrong = np.abs(said - labels).max(axis=1)
    else:
        correct, wrong = said.argmax(axis=1) == labels, said.max(axis=1)
    right = torch.from_numpy(correct)
    chosen = (
        choose_mistakes(right, torch.from_numpy(wrong), MISTAKES),
        choose_right_answers(right, torch.from_numpy(said.argmax(axis=1)), RIGHT_ANSWERS),
    )
    room = MOST_BYTES // max(1, sum(map(len, chosen)))
    mistakes, answers = (
        [_card(model, test, bag, bool(correct[bag]), said[bag], room) for bag in some]
        for some in chosen
    )
    cards = (*mistakes, *answers)
    tables = evaluation.tables()
    gauges = [[gauge(metric) for metric in some] for some in evaluation.groups()]
    gauges += [[None] * len(table.rows) for table in tables[len(gauges) :]]
    of_parts = (parts.train, parts.validation, parts.test)
    page = template(TEMPLATE).render(
        **frame(),
        **how_trained(run.metrics(), facts),
        title=f"Bags of {Path(recipe.data).name}",
        article="a",
        noun="bag",
        train_count=len(parts.train),
        validation_count=len(parts.validation),
        facts=facts,
        recipe={"pooling": recipe.pooling, **asdict(recipe)},
        verdict=sentences(evaluation),
        ending=ending(evaluation, recipe, facts),
        images=evaluation.bags,
        metric_cards=_metric_cards(evaluation),
        tables=list(zip(tables, gauges, strict=True)),
        notes=tables[-1].notes,
        confusion=readable_confusion(evaluation.confusion, test.class_names),
        classes=_classes(of_parts),
        most_classes=MOST_CLASSES,
        counts=[len(part) for part in of_parts],
        all_bags=sum(map(len, of_parts)),
        left_out=parts.left_out,
        patients=_patients(of_parts),
        sizes=_sizes(np.concatenate([part.sizes for part in of_parts])),
        mistakes=mistakes,
        mistake_count=int((~correct).sum()),
        right=answers,
        shown_classes=shown_classes(cards, test.class_names),
        multi_label=test.multi_label,
        has_maps=any(card.picture for card in cards),
        has_places=any(row.place for card in cards for row in (*card.top_for, *card.top_against)),
        shown_of=bag_question(model).map,
        positive=None if model.positive is None else model.class_names[model.positive],
    )
    run.write(REPORT_FILE, page)
    return run.path / REPORT_FILE


def sentences(evaluation: BagEvaluation) -> list[str]:
    """Say whether the answers are right, and whether evidence points at the right instances."""
    metric = evaluation.get("accuracy") or evaluation.get("exact_match")
    said = [right_answers(metric, evaluation.bags, f"{evaluation.split} bags")]
    best = evaluation.get("precision_at_1")
    if best is None:
        said.append(
            "Whether the evidence points at the right instances has not been measured: they have "
            "no labels to compare it with."
        )
    elif best.value is not None:
        any_one = best.baselines.get("uniform")
        beside = "" if any_one is None else f"; one taken at random would be in {percent(any_one)}"
        said.append(
            f"The instance with the most evidence is of the class in {percent(best.value)} of the "
            f"bags that have one{beside}."
        )
    if evaluation.found is not None:
        found = evaluation.found
        at = found.by["evidence"].false_positives.index(1.0)
        rates = [percent(found.by[name].sensitivity[at]) for name in ("evidence", "random")]
        said.append(
            f"At one false positive a bag, the evidence finds {rates[0]} of {found.lesions:,} "
            f"lesions; random values would find {rates[1]}."
        )
    return [sentence for sentence in said if sentence]


def ending(evaluation: BagEvaluation, recipe: BagRunRecipe, facts: Mapping[str, Any]) -> str | None:
    """Return what to say at the end of a run that learned nothing, and what to try; else None."""
    verdict = nothing_learned(evaluation, "bag")
    if verdict is None:
        return None
    bags, classes = facts.get("train_bags", 0), len(facts.get("classes", ()))
    rare = rare_classes(facts, "class_bags")
    if classes and bags < FEW_IMAGES * classes:
        what = f"more bags, as {bags:,} for {classes:,} classes are few"
    else:
        others = ["more `epochs`", "another `learning_rate`"]
        others += ["`balance` weights"] if recipe.balance == "none" else []
        comparing = f"loss-attention crossval --data {shlex.quote(recipe.data)}"
        what = f"another `pooling`, which {comparing} compares; or {', '.join(others)}"
    return f"{verdict}; next: {what}{f', and more bags of {rare}' if rare else ''}"


def _metric_cards(evaluation: BagEvaluation) -> list[MetricCard]:
    found = [one for name in KEY_METRICS if (one := evaluation.get(name)) is not None]
    return [
        metric_card(one, one.label, score_text(one.value), best_baseline([one]))
        for one in found
        if one.value is not None
    ]


class ClassRow(NamedTuple):
    """A class, and how many bags of each part have it."""

    name: str
    counts: tuple[int, ...]


def _classes(parts: Sequence[BagSet]) -> list[ClassRow]:
    counts = zip(*map(class_counts, parts), strict=True)
    return [ClassRow(*row) for row in zip(parts[0].class_names, counts, strict=True)]


def _patients(parts: Sequence[BagSet]) -> int:
    """Return how many patients or groups there are; 0: it is not said."""
    return len({int(one) for part in parts if part.groups is not None for one in part.groups})


class SizeBar(NamedTuple):
    """How many bags have from so many to so many instances, and the length of the bar."""

    least: int
    most: int
    bags: int
    percent: float


class Sizes(NamedTuple):
    """How many instances bags have; `bars` are empty where all have as many."""

    least: int
    most: int
    median: int
    bars: list[SizeBar]


def _sizes(sizes: Int[np.ndarray, " N"]) -> Sizes:
    """Return how many instances bags have, each bar as many times as the one before."""
    least, most, median = int(sizes.min()), int(sizes.max()), int(np.median(sizes))
    if least == most:
        return Sizes(least, most, median, [])
    edges = np.unique(np.geomspace(least, most + 1, SIZES + 1).round().astype(int))
    counts = np.histogram(sizes, edges)[0].tolist()
    bars = [
        SizeBar(int(a), int(b) - 1, count, 100 * count / max(counts))
        for a, b, count in zip(edges, edges[1:], counts, strict=False)
    ]
    return Sizes(least, most, median, bars)


class InstanceRow(NamedTuple):
    """An instance that says much, in texts.

    Attributes:
        instance: from 0, in the order of the bag.
        place: its x and y; "": it lies nowhere.
        value: what it says, with a sign.
        weight: how much it counts, in percent.
    """

    instance: int
    place: str
    value: str
    weight: str


class BagCard(NamedTuple):
    """One bag of the page.

    Attributes:
        name: of the bag.
        answer: the predicted class (multi-label: all of them).
        labels: the true classes.
        correct: whether the answer counts as right.
        target: the class that is explained, and of a mistake of one label what it is held against.
        probability: of that class.
        instances: how many the bag has.
        shown: what instances are for or against the class by.
        sum_for, sum_against: of that over all instances above and below 0.
        picture: the bag as a slide; None where its instances lie nowhere.
        bars: the classes of the highest logits, and the labels.
        top_for, top_against: the strongest instances.
    """

    name: str
    answer: str
    labels: str
    correct: bool
    target: str
    probability: float
    instances: int
    shown: str
    sum_for: str
    sum_against: str
    picture: Picture | None
    bars: tuple[Bar, ...]
    top_for: list[InstanceRow]
    top_against: list[InstanceRow]


def _card(
    model: BagClassifier,
    bags: BagSet,
    bag: int,
    correct: bool,
    said: np.ndarray,
    room: int,
) -> BagCard:
    names = bags.class_names
    bag_labels = bags.labels[bag]
    has = bag_labels.bool() if bags.multi_label else torch.arange(len(names)) == bag_labels
    answer = torch.from_numpy(said >= 0.5)
    if not bags.multi_label:
        answer = torch.arange(len(names)) == int(said.argmax())
    alone = bags.subset([bag])
    found = next(explained(model, alone, _question(model, correct, said, has.numpy())))
    target = names[found.target]
    if found.versus is not None:
        target += f", not {names[found.versus]}"
    shown = found.signed.astype(np.float64)
    return BagCard(
        name=found.name,
        answer=listed(names, answer),
        labels=listed(names, has),
        correct=correct,
        target=target,
        probability=float(found.probabilities[found.target]),
        instances=len(found.evidence),
        shown=found.quantity.name,
        sum_for=signed(shown.clip(min=0).sum()),
        sum_against=signed(shown.clip(max=0).sum()),
        picture=_picture(found, target, room),
        bars=class_bars(torch.from_numpy(found.logits), has, names),
        top_for=[_row(found, index) for index in found.strongest(TOP)],
        top_against=[_row(found, index) for index in found.strongest(TOP, against=True)],
    )


def _question(
    model: BagClassifier, correct: bool, said: np.ndarray, has: np.ndarray
) -> BagQuestion:
    """Return what is asked of a bag: of a mistake, why it was called that and not what it is."""
    names = model.class_names
    if model.multi_label:
        most = int(said.argmax() if correct else np.abs(said - has).argmax())
        return bag_question(model, target=names[most])
    if correct:
        return bag_question(model)
    return bag_question(model, target=names[int(said.argmax())], versus=names[int(np.argmax(has))])


def _row(bag: ExplainedBag, index: int) -> InstanceRow:
    place = ""
    if bag.coordinates is not None:
        place = ", ".join(_place(float(edge)) for edge in bag.coordinates[index])
    weight = number(100 * float(bag.weights[index]))
    return InstanceRow(index, place, signed(float(bag.signed[index])), weight)


def _place(value: float) -> str:
    return f"{value:.0f}" if value.is_integer() else f"{value:.6g}"


def signed(value: float) -> str:
    """Return a number in three digits with its sign.

    Example:
        >>> signed(0.01234), signed(-2.0), signed(0.0)
        ('+0.0123', '−2', '0')
    """
    sign = "+" if value > 0 else "\N{MINUS SIGN}" if value < 0 else ""
    return f"{sign}{number(abs(value))}"


def _picture(bag: ExplainedBag, target: str, room: int) -> Picture | None:
    """Draw a bag as a slide; None where its instances lie nowhere."""
    if bag.coordinates is None:
        return None
    values, quantity = bag.shown(weights=False)
    tile = bag.tile or tile_size(bag.coordinates)
    area = frame_of(bag.name, bag.coordinates, tile, None, None)
    below, marks = slide_marks(values, quantity, bag.coordinates, tile, area, LONGEST)
    drawn = panel(below, marks, shortest=1, longest=LONGEST)
    return Picture(
        caption=f"{quantity.name} for {target}",
        alt=f"{bag.name}: {quantity.name} for {target}",
        uri=data_uri(drawn, room),
        limit=number(marks.limit),
        signed=quantity.signed,
    )
