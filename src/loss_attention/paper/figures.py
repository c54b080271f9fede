"""The paper's Figures 4 to 7 with our networks: what they show, and what their captions say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Int
from PIL import Image
from torch import Tensor

from loss_attention.attribution.maps import attribute
from loss_attention.data.sample import LabelledImages
from loss_attention.errors import InputError
from loss_attention.evaluation.measuring import evaluation_mode
from loss_attention.explanation import Explanation
from loss_attention.geometry import box_area
from loss_attention.metrics.localisation import relevant_boxes
from loss_attention.paper.drawings import (
    Drawing,
    HeatMaps,
    Panel,
    Point,
    Sample,
    draw_boxes,
    draw_curves,
    draw_heat_maps,
    draw_patches,
    save_drawing,
)
from loss_attention.paper.numbers import CONV, LOSS_ATTENTION, PAPER_TABLES, RESNET, VGG
from loss_attention.paper.reproduction import Reproduction, Target
from loss_attention.paper.tables import BACKBONES, METRICS, Cell, Scale, table_cells, training_key
from loss_attention.paper.trainings import Record, Trained, is_trained, run_path
from loss_attention.prediction import probabilities_of
from loss_attention.report.gallery import choose_right_answers
from loss_attention.terminal import say
from loss_attention.training.recipes import paper_recipe

_WORDS = {
    "mean_average_precision": "mean average precision",
    "accuracy": "accuracy",
    "patch_precision": "patch precision",
    "patch_recall": "patch recall",
    "patch_f1": "patch F1",
    "gt_known_loc_patches": "GT-known Loc (patches)",
}


def facts(scale: Scale, data: str, seeds: str) -> str:
    """Return what every caption says of where its numbers come from."""
    return f"Data: {data}. Scale {scale.name}: {scale.summary}; {seeds}."


def data_words(record: Record) -> str:
    """Return what the data was, by its name rather than by the folder that it lay in."""
    if record.source.startswith("data folder "):
        return f"{record.recipe['data']}, {record.source.partition(': ')[2]}"
    return record.source


def seed_words(counts: Sequence[int]) -> str:
    """Say of how many seeds the means are.

    Example:
        >>> seed_words([4, 3, 4]), seed_words([1]), seed_words([])
        ('3 to 4 seeds', '1 seed', 'no seed')
    """
    if not counts:
        return "no seed"
    if min(counts) < max(counts):
        return f"{min(counts)} to {max(counts)} seeds"
    return "1 seed" if counts[0] == 1 else f"{counts[0]} seeds"


def scores(record: Record, metrics: Sequence[str]) -> str:
    """Say what a network scores on the test split, each score with its trivial baselines."""
    parts = []
    for name in metrics:
        value = record.metrics.get(name)
        if value is None:
            continue
        baselines = [
            f"{baseline} {100 * score:.1f}%"
            for baseline, score in record.baselines.get(name, {}).items()
            if score is not None
        ]
        beside = f" ({', '.join(baselines)})" if baselines else ""
        parts.append(f"{_WORDS[name]} {100 * value:.1f}%{beside}")
    return ", ".join(parts) or "not defined there"


HEAT_MAP_SAMPLES, SAMPLES = 6, 12
_CHOICE = (
    "The images are the first of the test split of each class that comes up, whatever the "
    "networks answer."
)


def choose_samples(data: LabelledImages, most: int) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """Return which images to show, and the class to explain in each; no network has a say.

    The class of an image is its only label, or the one with the largest box (without boxes, the
    first). Shown are the first image of each class, then the second, in the order of the set.
    """
    matrix = data.label_matrix().bool()
    classes = torch.where(matrix.any(dim=1), matrix.int().argmax(dim=1), -1)
    if data.multi_label and data.boxes is not None and data.box_labels is not None:
        relevant = relevant_boxes(data.box_labels, data.labels)
        areas = torch.where(relevant, box_area(data.boxes), -1.0)
        largest = data.box_labels.gather(1, areas.argmax(dim=1, keepdim=True)).squeeze(1)
        classes = torch.where(relevant.any(dim=1), largest, classes)
    # The report spreads its right answers over the classes by the same rule.
    index = torch.tensor(choose_right_answers(classes >= 0, classes, most), dtype=torch.int64)
    return index, classes[index]


def samples_of(
    data: LabelledImages, index: Int[Tensor, " n"], target: Int[Tensor, " n"]
) -> list[Sample]:
    """Return images as figures show them, with the true boxes of their labels."""
    part = data.take(index)
    truths = [torch.empty(0, 4)] * len(part)
    if part.boxes is not None and part.box_labels is not None:
        relevant = relevant_boxes(part.box_labels, part.labels)
        truths = [boxes[kept] for boxes, kept in zip(part.boxes, relevant, strict=True)]
    return [
        Sample(
            part.names[i] if part.names else f"test image {int(index[i])}",
            Image.fromarray(part.images[i].permute(1, 2, 0).squeeze(2).numpy()),
            data.class_names[int(target[i])],
            truths[i],
        )
        for i in range(len(part))
    ]


def figure4(networks: Mapping[str, Trained], facts: str) -> tuple[Drawing, str]:
    """Return the heat maps of the baseline and of Loss-Attention, and the caption.

    Args:
        networks: by the method's name.
        facts: what the caption says of data, scale and seed.
    """
    baseline, ours = networks["Baseline"], networks[LOSS_ATTENTION]
    index, target = choose_samples(ours.splits.test, HEAT_MAP_SAMPLES)
    images = ours.splits.test.take(index).images
    systems = []
    for words, network, method in (
        ("Grad-CAM\nof the baseline", baseline, "grad-cam"),
        ("Grad-CAM of\nLoss-Attention", ours, "grad-cam"),
        ("Evidence of\nLoss-Attention", ours, "evidence"),
    ):
        model = network.model
        with torch.inference_mode(), evaluation_mode(model):
            logits = model(images).logits.float()
        probabilities = probabilities_of(logits, competing=model.competing)
        given = probabilities[torch.arange(len(index)), target]
        systems.append(HeatMaps(words, attribute(model, images, method, target), given))
    metrics = ("mean_average_precision", "accuracy")
    caption = (
        "Figure 4. Heat maps of test images: Grad-CAM of the baseline, Grad-CAM of Loss-Attention "
        "(convolutional), and the exact evidence of Loss-Attention, all with ResNet18. Above each "
        "image is the explained class, of its labels the one with the largest box; p is the "
        "probability that the network gives it. Grad-CAM shows only what speaks for a "
        "class, and leaves an image grey where nothing does. "
        f"{_CHOICE} {facts} Baseline: {scores(baseline.record, metrics)}. Loss-Attention: "
        f"{scores(ours.record, metrics)}."
    )
    return draw_heat_maps(samples_of(ours.splits.test, index, target), systems, caption), caption


def figure5(networks: Mapping[str, Trained], facts: str) -> tuple[Drawing, str]:
    """Return the selected patches of Loss-Attention, and the caption; see `figure4`."""
    words = (
        "Figure 5. Selected patches of test images by Loss-Attention (convolutional) with "
        "ResNet18: those with a weight above 0. What no window of theirs covers is pale; a "
        "network sees beyond its windows. Above each image is one of its labels, that of the "
        "largest box."
    )
    metrics = ("patch_precision", "patch_recall", "patch_f1")
    return _explained(networks[LOSS_ATTENTION], draw_patches, words, facts, metrics)


def figure6(networks: Mapping[str, Trained], facts: str) -> tuple[Drawing, str]:
    """Return the boxes of Loss-Attention beside the true ones, and the caption; see `figure4`."""
    words = (
        "Figure 6. Boxes of test images by Loss-Attention (convolutional) with ResNet18: the "
        "smallest rectangle around the windows of the selected patches, and the true boxes of the "
        "image's labels. One box stands for the whole image, so with several objects it can frame "
        "them all and match none. Above each image is one of its labels, that of the largest box; "
        "IoU is with the true box that fits best."
    )
    return _explained(networks[LOSS_ATTENTION], draw_boxes, words, facts, ("gt_known_loc_patches",))


def _explained(
    network: Trained,
    draw: Callable[[Sequence[Sample], Explanation, str], Drawing],
    words: str,
    facts: str,
    metrics: Sequence[str],
) -> tuple[Drawing, str]:
    """Draw what a network says of test images, with what it scores on all of them."""
    test = network.splits.test
    index, target = choose_samples(test, SAMPLES)
    caption = (
        f"{words} {_CHOICE} {facts} On the whole test split: {scores(network.record, metrics)}."
    )
    said = network.model.explain(test.take(index).images)
    return draw(samples_of(test, index, target), said, caption), caption


GAMMAS: tuple[float, ...] = (0.0, 0.1, 0.5, 1.0, 5.0)
"""The paper names 0, 0.1, 0.5 and 5; it prints no list."""
THRESHOLDS: tuple[float, ...] = (0.0, 0.1, 0.25, 0.5, 1.0)
"""Ours: the paper names 0, 0.1 and 1."""
USUAL = 0.1
"""Both parameters, where the other one varies."""
SWEPT = ("Accuracy", "AP", "Precision", "Recall")
LOCALISED = ("AP", "Precision", "Recall")
"""Metrics whose trivial baselines are drawn."""


def swept(scale: Scale) -> dict[str, tuple[float, ...]]:
    """Return the points of Figure 7: of each parameter, the other one being `USUAL`."""
    if scale.name == "smoke":  # Table VI's trainings and one at each far end
        return {"gamma_max": (0.0, USUAL, GAMMAS[-1]), "xi": (0.0, USUAL, THRESHOLDS[-1])}
    return {"gamma_max": GAMMAS, "xi": THRESHOLDS}


def _setting(parameter: str, value: float) -> str:
    """Return what Table VI calls a point of the sweep."""
    both = {"gamma_max": USUAL, "xi": USUAL} | {parameter: value}
    return ", ".join(f"{name} {at:g}" for name, at in both.items())


def sweep_cells(scale: Scale) -> tuple[Cell, ...]:
    """Return the cells of Figure 7; those of Table VI are among them, with the same trainings.

    Raises:
        InputError: the scale is not made for this figure.
    """
    scale.check("figure7")
    cells = {}
    for parameter, values in swept(scale).items():
        for backbone in (VGG, RESNET):
            base = paper_recipe("tiny-imagenet", BACKBONES[backbone])
            for value in values:
                both = {"gamma_max": USUAL, "threshold": USUAL}
                both["gamma_max" if parameter == "gamma_max" else "threshold"] = value
                recipe = scale.recipe(replace(base, **both))  # type: ignore[arg-type]
                labels = (backbone, _setting(parameter, value))
                for column in SWEPT:
                    paper = _printed(column, labels)
                    cells[labels, column] = Cell(labels, column, paper, METRICS[column], recipe)
    return tuple(cells.values())


def _printed(column: str, labels: tuple[str, ...]) -> float | None:
    """Return the paper's number at a point, which Table VI has for some of them."""
    try:
        return PAPER_TABLES["table6"].value(column, *labels)
    except KeyError:
        return None


def sweep_panels(reproduction: Reproduction, cells: Sequence[Cell]) -> list[Panel]:
    """Return Figure 7's eight pairs of axes with what is measured so far."""
    by_place = {(cell.labels, cell.column): cell for cell in cells}

    def point(backbone: str, parameter: str, value: float, column: str) -> Point:
        cell = by_place[(backbone, _setting(parameter, value)), column]
        result = reproduction.result(cell)
        if result is None:
            return Point(value, paper=cell.paper)
        baselines = result.baselines if column in LOCALISED else {}
        return Point(value, result.mean, result.standard_deviation, cell.paper, baselines)

    return [
        Panel(
            parameter,
            column,
            {
                backbone: tuple(point(backbone, parameter, value, column) for value in values)
                for backbone in (VGG, RESNET)
            },
        )
        for parameter, values in swept(reproduction.scale).items()
        for column in SWEPT
    ]


def write_figure7(reproduction: Reproduction, cells: Sequence[Cell], folder: Path) -> list[Path]:
    """Write the figure with what is measured so far."""
    caption = (
        "Figure 7. The effect of gamma_max (a to d, xi = 0.1) and of the threshold xi (e to h, "
        "gamma_max = 0.1) on Loss-Attention (convolutional): accuracy, AP, patch precision and "
        "patch recall, mean over seeds, bars the sample standard deviation. gamma_max is drawn "
        "linearly up to 0.1 and logarithmically above. Hollow marks: the paper's numbers on Tiny "
        "ImageNet, of which it prints those of Table VI; the other points are our choice. Grey and "
        f"thin lines: what trivial baselines score. {_measured(reproduction, cells)}"
    )
    drawing = draw_curves(sweep_panels(reproduction, cells), caption)
    return _save("figure7", drawing, caption, reproduction, folder)


def _measured(reproduction: Reproduction, cells: Sequence[Cell]) -> str:
    """Say what the curves are of, and how much of it is there."""
    recipes = {training_key(cell.recipe): cell.recipe for cell in cells if cell.recipe}
    records = {key: reproduction.ledger.seeds(key) for key in recipes}
    found = [of_one for of_one in records.values() if of_one]
    data = data_words(found[0][0]) if found else next(iter(recipes.values())).data
    missing = len(records) - len(found)
    absent = f" Missing, as not measured yet: {missing} of {len(records)} trainings."
    counts = [len(of_one) for of_one in found]
    return facts(reproduction.scale, data, seed_words(counts)) + (absent if missing else "")


SEED = 0
"""Whose networks Figures 4 to 6 show."""


def _coco_cells(name: str, *methods: str) -> Callable[[Scale], tuple[Cell, ...]]:
    """Return what gives Table V's cells of the convolutional ResNet18 with these methods."""

    def cells(scale: Scale) -> tuple[Cell, ...]:
        scale.check(name)
        found = {cell.labels: cell for cell in table_cells("table5", scale) if cell.column == "mAP"}
        return tuple(replace(found[RESNET, CONV, method], weights=True) for method in methods)

    return cells


def _pictures(
    name: str, draw: Callable[[Mapping[str, Trained], str], tuple[Drawing, str]]
) -> Callable[[Reproduction, Sequence[Cell], Path], list[Path]]:
    """Return what draws a figure of trained networks, and leaves it out where they are not."""

    def write(reproduction: Reproduction, cells: Sequence[Cell], folder: Path) -> list[Path]:
        recipes = {cell.labels[-1]: cell.recipe for cell in cells if cell.recipe is not None}
        for recipe in recipes.values():
            seeded = replace(recipe, seed=SEED)
            if not is_trained(reproduction.out, seeded):
                run = run_path(reproduction.out, seeded)
                say(reproduction.console, f"{name} is not drawn: no trained weights in {run}")
                return []
        try:
            networks = {
                method: reproduction.trained(recipe, SEED) for method, recipe in recipes.items()
            }
            data = data_words(networks[LOSS_ATTENTION].record)
            drawing, caption = draw(networks, facts(reproduction.scale, data, f"seed {SEED}"))
        except InputError as error:
            problem = f"{name} is not drawn: {error}"
            reproduction.problems[problem] = None
            say(reproduction.console, problem)
            return []
        return _save(name, drawing, caption, reproduction, folder)

    return write


def _save(
    name: str, drawing: Drawing, caption: str, reproduction: Reproduction, folder: Path
) -> list[Path]:
    say(reproduction.console, caption)
    scale = reproduction.scale
    about = {"scale": scale.name, "scale_summary": scale.summary}
    return save_drawing(name, drawing, caption, folder, about)


FIGURES: dict[str, Target] = {
    "figure4": Target(
        _coco_cells("figure4", "Baseline", LOSS_ATTENTION), _pictures("figure4", figure4)
    ),
    "figure5": Target(_coco_cells("figure5", LOSS_ATTENTION), _pictures("figure5", figure5)),
    "figure6": Target(_coco_cells("figure6", LOSS_ATTENTION), _pictures("figure6", figure6)),
    "figure7": Target(sweep_cells, write_figure7),
}
