"""Figures 4 to 7: what is drawn is what was given, and says what it is of."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from rich.console import Console

from loss_attention.data import loading
from loss_attention.data.digits import multi_digits
from loss_attention.data.sample import ImageSet
from loss_attention.explanation import Explanation, explain_prediction
from loss_attention.geometry import PatchGrid
from loss_attention.paper.catalog import TARGETS
from loss_attention.paper.cells import training_key
from loss_attention.paper.command import reproduce
from loss_attention.paper.figures_captions import data_words, scores
from loss_attention.paper.figures_curves import LOOKS, Panel, Point, draw_curves
from loss_attention.paper.figures_layout import Drawing, bare, rounded, save_drawing, sheet
from loss_attention.paper.figures_networks import choose_samples, samples_of
from loss_attention.paper.figures_pictures import (
    HeatMaps,
    Sample,
    draw_boxes,
    draw_heat_maps,
    draw_patches,
)
from loss_attention.paper.figures_sweep import sweep_cells, sweep_panels
from loss_attention.paper.ledger import Record
from loss_attention.paper.reproduction import Reproduction
from loss_attention.paper.scales import SCALES, scale
from loss_attention.paper.tables import table_cells
from loss_attention.prediction import PatchPrediction

CAPTION = "Figure 0. What it shows."
GRID = PatchGrid(rows=2, columns=2, window=8, stride=8, height=16, width=16)
NO_BOX = (math.nan,) * 4


def sample(name: str = "a", truths: tuple[tuple[float, ...], ...] = ()) -> Sample:
    image = Image.new("RGB", (16, 16), (200, 40, 40))
    return Sample(name, image, f"class {name}", torch.tensor(truths).reshape(-1, 4))


def explanation(*weights: tuple[float, ...]) -> Explanation:
    """Of one image for each row of four patch weights."""
    alpha = torch.tensor(weights)
    logits = torch.ones(len(weights), 4, 3)
    prediction = PatchPrediction(torch.ones(len(weights), 3), logits, alpha, GRID, 0.0)
    return explain_prediction(prediction)


def words_of(figure: Figure) -> str:
    return " ".join(text.get_text() for text in figure.texts)


def legend_of(figure: Figure) -> list[str]:
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]


def redness(picture: Any) -> np.ndarray:
    pixels = np.asarray(picture, np.int64)
    return pixels[..., 0] - pixels[..., 2]


def test_heat_maps_stand_in_a_row_for_each_system() -> None:
    hot = torch.zeros(2, 16, 16)
    hot[0, :8, :8], hot[1, 8:, 8:] = 3.0, -0.5
    systems = [
        HeatMaps("Grad-CAM\nof it", torch.zeros(2, 16, 16), torch.tensor([0.25, 0.5])),
        HeatMaps("Evidence", hot, torch.tensor([0.75, 1.0])),
    ]
    figure, numbers = draw_heat_maps([sample("a"), sample("b")], systems, CAPTION)

    *pictures, colour_scale = figure.axes
    first, second = pictures[:3], pictures[3:]
    assert len(pictures) == 2 * 3
    assert [axes.get_title() for axes in pictures] == ["class a", "", "", "class b", "", ""]
    assert [axes.get_ylabel() for axes in first] == ["Image", "Grad-CAM\nof it", "Evidence"]
    assert [axes.get_xlabel() for axes in second] == ["", "p = 0.50", "p = 1.00"]
    nothing, warm = (redness(axes.images[0].get_array()) for axes in first[1:])
    assert (nothing == 0).all()
    assert warm[:140, :140].min() > 100 > 0 == warm[180:].max()
    cold = redness(second[2].images[0].get_array())
    assert cold[180:, 180:].max() < -100
    assert cold[:140].any() == False  # noqa: E712 (an array's own truth)
    assert list(colour_scale.get_xticks()) == [-1, -0.5, 0, 0.5, 1]
    ramp = redness(colour_scale.images[0].get_array())[0]
    assert ramp[0] < -50 < 50 < ramp[-1]
    assert numbers["samples"] == [{"name": n, "class": f"class {n}"} for n in "ab"]
    assert numbers["systems"][0]["system"] == "Grad-CAM of it"
    assert numbers["systems"][1]["probabilities"] == [0.75, 1.0]
    assert numbers["systems"][1]["heat_maps"] == hot.tolist()


def test_selected_patches_are_clear_outlined_and_dotted_by_weight() -> None:
    said = explanation((0.8, 0.0, 0.0, 0.2), (0.0, 1.0, 0.0, 0.0))
    figure, numbers = draw_patches([sample("a"), sample("b")], said, CAPTION)

    axes = figure.axes[0]
    assert [a.get_xlabel() for a in figure.axes] == ["2 of 4 patches", "1 of 4 patches"]
    dark, outline, dots = axes.collections
    assert isinstance(outline, LineCollection)
    assert outline.get_linewidth() < dark.get_linewidth()
    assert dots.get_offsets().tolist() == [[4.0, 4.0], [12.0, 12.0]]
    assert dots.get_sizes()[1] / dots.get_sizes()[0] == pytest.approx(0.2 / 0.8)
    edges = {tuple(np.sort(segment, axis=0).ravel()) for segment in outline.get_segments()}
    squares = ((0, 0, 8, 8), (8, 8, 16, 16))
    assert edges == {
        side
        for x0, y0, x1, y1 in squares
        for side in ((x0, y0, x1, y0), (x0, y1, x1, y1), (x0, y0, x0, y1), (x1, y0, x1, y1))
    }
    red = redness(axes.images[0].get_array())
    side = len(red)
    assert (red[: side // 2, : side // 2] == 160).all()
    assert (red[: side // 2, side // 2 :] == 0).all()
    assert (red[side // 2 :, side // 2 :] == 160).all()
    other = redness(figure.axes[1].images[0].get_array())
    assert (other[: side // 2, side // 2 :] == 160).all()
    assert other.sum() == 160 * (side // 2) ** 2
    assert legend_of(figure) == [
        "windows of the selected patches",
        "middle of a selected patch, area by weight",
    ]
    assert numbers["grid"]["window"] == 8
    assert numbers["samples"][0]["selected"] == [0, 3]
    assert numbers["samples"][0]["windows"] == [[0, 0, 8, 8], [8, 8, 16, 16]]
    assert numbers["samples"][0]["weights"] == [0.8, 0.2]


def test_an_image_without_a_selected_patch_has_no_dot() -> None:
    figure, numbers = draw_patches([sample()], explanation((0.0, 0.0, 0.0, 0.0)), CAPTION)
    _, outline, dots = figure.axes[0].collections
    assert len(dots.get_offsets()) == len(outline.get_segments()) == 0
    assert numbers["samples"][0]["windows"] == []


def test_boxes_are_drawn_where_they_lie_with_their_iou() -> None:
    said = explanation((0.5, 0.5, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0))
    samples = [
        sample("a", ((0.0, 0.0, 8.0, 8.0), (0.0, 0.0, 16.0, 12.0))),
        sample("b", ((1.0, 2.0, 3.0, 5.0),)),
        sample("c"),
    ]
    figure, numbers = draw_boxes(samples, said, CAPTION)

    drawn = [
        [(*patch.get_xy(), patch.get_width(), patch.get_height()) for patch in axes.patches]
        for axes in figure.axes
    ]
    assert all(isinstance(patch, Rectangle) for axes in figure.axes for patch in axes.patches)
    assert drawn[0] == [(0, 0, 8, 8), (0, 0, 16, 12), (0, 0, 16, 8)]  # the predicted one on top
    assert drawn[1] == [(1, 2, 2, 3)]  # nothing is selected: no box
    assert drawn[2] == [(0, 0, 8, 8)]
    below = [axes.get_xlabel() for axes in figure.axes]
    assert below == ["IoU 0.67", "IoU 0.00", "no true box"]  # 16 x 8 within 16 x 12
    assert [entry["iou"] for entry in numbers["samples"]] == [0.66667, 0.0, None]
    assert numbers["samples"][0]["predicted"] == [0, 0, 16, 8]
    assert numbers["samples"][1]["predicted"] == [None] * 4
    assert numbers["samples"][0]["true"] == [[0, 0, 8, 8], [0, 0, 16, 12]]
    assert legend_of(figure) == [
        "predicted: around the selected patches",
        "true boxes of the image's labels",
    ]
    truth, predicted = figure.axes[0].patches[1:]
    assert truth.get_linestyle() != predicted.get_linestyle()  # not by colour alone


def test_many_pictures_fill_rows_of_six() -> None:
    said = explanation(*[(1.0, 0.0, 0.0, 0.0)] * 8)
    figure, _ = draw_boxes([sample(str(i)) for i in range(8)], said, CAPTION)
    figure.draw_without_rendering()
    tops = {round(axes.get_position().y1, 3) for axes in figure.axes}
    assert len(figure.axes) == 8
    assert len(tops) == 2


def panel(parameter: str, measure: str, floors: dict[str, tuple[float, float]]) -> Panel:
    def curve(base: float, which: int) -> tuple[Point, ...]:
        given = {name: values[which] for name, values in floors.items()}
        return (
            Point(0.0, base, 0.5, base + 2, given),
            Point(0.1, paper=base + 3),
            Point(1.0, base + 1, 0.25, None, given),
        )

    return Panel(parameter, measure, {"VGG": curve(50.0, 0), "ResNet": curve(60.0, 1)})


def test_curves_are_the_points_with_gaps_where_nothing_is_measured() -> None:
    panels = [
        panel("gamma_max", "Accuracy", {}),
        panel("gamma_max", "AP", {"whole image": (40.0, 40.0), "best": (45.0, 45.0)}),
        panel("xi", "Recall", {"uniform": (41.0, 42.0)}),
    ]
    figure, numbers = draw_curves(panels, CAPTION, columns=2)

    accuracy, ap, recall = figure.axes
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["(a)", "(b)", "(c)"]
    labels = [(axes.get_xlabel(), axes.get_ylabel()) for axes in figure.axes]
    assert labels[0] == (r"$\gamma_{max}$", "Accuracy (%)")
    assert labels[2] == (r"$\xi$", "Recall (%)")
    assert (accuracy.get_xscale(), recall.get_xscale()) == ("symlog", "linear")
    assert [tick.get_text() for tick in accuracy.get_xticklabels()] == ["0", "0.1", "1"]

    ours, ours_too = (container.lines[0] for container in accuracy.containers)
    np.testing.assert_array_equal(ours.get_xydata(), [[0, 50], [0.1, math.nan], [1, 51]])
    np.testing.assert_array_equal(ours_too.get_xydata()[:, 1], [60, math.nan, 61])
    (bars,) = accuracy.containers[0].lines[2]
    np.testing.assert_array_equal(bars.get_segments()[0], [[0, 49.5], [0, 50.5]])
    assert (ours.get_marker(), ours_too.get_marker()) == (LOOKS[0].marker, LOOKS[1].marker)
    marks = {line.get_label(): line.get_xydata().tolist() for line in accuracy.lines}
    assert marks["VGG, the paper (Table VI)"] == [[0, 52], [0.1, 53]]
    assert marks["ResNet, the paper (Table VI)"] == [[0, 62], [0.1, 63]]

    level = {line.get_label(): line for line in ap.lines}
    assert list(level["whole image"].get_ydata()) == [40, 40]
    assert level["whole image"].get_linestyle() != level["best"].get_linestyle()
    uniform = [line.get_xydata()[:, 1] for line in recall.lines if line.get_label() == "uniform"]
    np.testing.assert_array_equal(uniform, [[41, math.nan, 41], [42, math.nan, 42]])

    assert legend_of(figure) == [
        "VGG, ours",
        "ResNet, ours",
        "VGG, the paper (Table VI)",
        "ResNet, the paper (Table VI)",
        "best",
        "uniform",
        "whole image",
    ]
    assert numbers["panels"][1]["curves"]["VGG"][0] == {
        "x": 0.0,
        "mean": 50.0,
        "deviation": 0.5,
        "paper": 52.0,
        "floors": {"whole image": 40.0, "best": 45.0},
    }
    assert numbers["panels"][0]["curves"]["ResNet"][1]["mean"] is None


def test_networks_are_told_apart_without_colour() -> None:
    assert len({(look.marker, look.line) for look in LOOKS}) == len(LOOKS)


def test_a_sheet_holds_its_caption_below_the_drawing() -> None:
    caption = " ".join(["WWWW MMMM"] * 60)
    figure = sheet(2.0, caption)
    figure.add_subplot()
    figure.draw_without_rendering()
    (text,) = figure.texts
    box = text.get_window_extent()
    assert text.get_text().replace("\n", " ") == caption
    assert 0 < box.x0 < box.x1 < figure.bbox.width
    assert 0 < box.y0 < box.y1 < figure.axes[0].get_window_extent().y0
    drawn = (figure.bbox.height - box.y1) / figure.dpi
    assert drawn == pytest.approx(2.16, abs=0.01)  # and a margin above and below


def test_long_names_do_not_run_into_each_other() -> None:
    axes = Figure().add_subplot()
    bare(axes, "a very long name of a class of an image")
    assert axes.get_title().endswith("…")
    assert len(axes.get_title()) <= 20


def test_files_are_a_picture_a_page_the_numbers_and_the_caption(tmp_path: Path) -> None:
    caption = "Figure 9. Costs $5 of $10."  # dollars are no formula
    figure = sheet(1.0, caption)
    assert not figure.texts[0].get_parse_math()
    numbers = {"rows": rounded(torch.tensor([[1 / 3, math.nan]])), "names": ["a, b", "c"]}
    paths = save_drawing("figure9", Drawing(figure, numbers), caption, tmp_path / "x", {"s": 1})

    by_suffix = {path.suffix: path for path in paths}
    assert {path.stem for path in paths} == {"figure9"}
    with Image.open(by_suffix[".png"]) as picture:
        assert picture.format == "PNG"
        assert picture.width == round(7.16 * 300)
        assert picture.text["Description"] == caption
    page = by_suffix[".pdf"].read_bytes()
    assert page.startswith(b"%PDF")
    assert b"CreationDate" not in page  # the same drawing is the same file on any day
    text = by_suffix[".json"].read_text(encoding="utf-8")
    assert json.loads(text) == {
        "format_version": 1,
        "figure": "figure9",
        "caption": caption,
        "s": 1,
        "rows": [[0.33333, None]],
        "names": ["a, b", "c"],
    }
    assert "[ 0.33333, null ]" in text  # a row of a heat map is a line
    assert by_suffix[".md"].read_text(encoding="utf-8").splitlines()[0] == "![figure9](figure9.png)"
    again = save_drawing("figure9", Drawing(figure, numbers), caption, tmp_path / "y", {"s": 1})
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in paths]


def test_the_shown_class_is_that_of_the_largest_box_of_the_labels() -> None:
    nan = NO_BOX
    boxes = [
        [(0, 0, 2, 2), (0, 0, 9, 9), (0, 0, 3, 3)],  # the largest is of no label
        [(0, 0, 5, 5), nan, nan],  # a class that has been shown
        [nan, nan, nan],  # labelled without a box
        [nan, nan, nan],  # without a label: never shown
        [(0, 0, 4, 4), (1, 1, 2, 2), nan],
    ]
    box_labels = [[0, 1, 2], [2, -1, -1], [-1, -1, -1], [-1, -1, -1], [3, 2, -1]]
    labels = [[1, 0, 1, 0], [0, 0, 1, 0], [0, 1, 0, 1], [0, 0, 0, 0], [0, 0, 1, 1]]
    data = ImageSet(
        torch.arange(5, dtype=torch.uint8).reshape(5, 1, 1, 1).expand(5, 1, 16, 16),
        torch.tensor(labels, dtype=torch.uint8),
        ("zero", "one", "two", "three"),
        torch.tensor(boxes, dtype=torch.float32),
        torch.tensor(box_labels),
    )
    index, target = choose_samples(data, 3)
    assert (index.tolist(), target.tolist()) == ([0, 2, 4], [2, 1, 3])
    index, target = choose_samples(data, 9)
    assert (index.tolist(), target.tolist()) == ([0, 1, 2, 4], [2, 2, 1, 3])

    first, *_, last = samples_of(data, index, target)
    assert (first.name, first.target, last.target) == ("test image 0", "two", "three")
    assert first.truths.tolist() == [[0, 0, 2, 2], [0, 0, 3, 3]]
    assert last.image.getpixel((3, 3)) == 4
    assert last.image.size == (16, 16)


def test_single_labels_need_no_boxes() -> None:
    images = torch.zeros(4, 3, 16, 16, dtype=torch.uint8)
    data = ImageSet(images, torch.tensor([1, 1, 0, 1]), ("zero", "one"))
    index, target = choose_samples(data, 3)
    assert (index.tolist(), target.tolist()) == ([0, 1, 2], [1, 1, 0])
    assert len(samples_of(data, index, target)[0].truths) == 0


def test_the_sweep_shares_the_trainings_of_table_6() -> None:
    for name in ("paper", "smoke"):
        swept = {training_key(cell.recipe) for cell in sweep_cells(scale(name)) if cell.recipe}
        table = {
            training_key(cell.recipe)
            for cell in table_cells("table6", scale(name))
            if cell.recipe is not None
        }
        assert table < swept
        assert len(table) == 6


def test_the_sweep_covers_the_papers_ranges() -> None:
    cells = sweep_cells(scale("paper"))
    recipes = [cell.recipe for cell in cells if cell.recipe is not None]
    assert len(recipes) == len(cells) == 4 * 2 * 9
    assert {(r.gamma_max, r.threshold) for r in recipes} == {
        *((gamma, 0.1) for gamma in (0.0, 0.1, 0.5, 1.0, 5.0)),
        *((0.1, xi) for xi in (0.0, 0.25, 0.5, 1.0)),
    }
    assert {r.backbone for r in recipes} == {"vgg11_bn", "resnet18"}
    assert {r.data for r in recipes} == {"tiny-imagenet"}
    printed = {(cell.labels, cell.column): cell.paper for cell in cells}
    assert printed[("ResNet18", "gamma_max 0.1, xi 0"), "AP"] == 52.26
    assert printed[("VGG11_bn", "gamma_max 0, xi 0.1"), "Recall"] == 29.18
    assert printed[("VGG11_bn", "gamma_max 5, xi 0.1"), "Recall"] is None


def record(**changes: Any) -> Record:
    made = Record("key", 0, {"data": "coco2014"}, {}, {}, 1.0, "", 10, {}, {}, "2030-01-01")
    return replace(made, **changes)


def test_measured_points_are_those_of_the_ledger(tmp_path: Path) -> None:
    cells = sweep_cells(scale("smoke"))
    reproduction = Reproduction(scale("smoke"), tmp_path)
    chosen = next(c for c in cells if c.labels == ("ResNet18", "gamma_max 5, xi 0.1"))
    assert chosen.recipe is not None
    key = training_key(chosen.recipe)
    for seed, ap in ((0, 0.5), (1, 0.6)):
        floors = {"box_ap": {"whole image": 0.52}, "accuracy": {"majority class": 0.01}}
        measures = {"box_ap": ap, "accuracy": 0.25, "patch_recall": None}
        reproduction.ledger.add(record(training=key, seed=seed, measures=measures, floors=floors))

    panels = sweep_panels(reproduction, cells)
    named = {(panel.parameter, panel.measure): panel.curves for panel in panels}
    assert len(panels) == len(named) == 8
    zero, usual, far = named["gamma_max", "AP"]["ResNet18"]
    assert (zero.x, usual.x, far.x) == (0.0, 0.1, 5.0)
    assert (zero.mean, zero.paper, far.paper) == (None, 53.24, None)
    assert far.mean == pytest.approx(55.0)
    assert far.deviation == pytest.approx(math.sqrt(50))
    assert far.floors == {"whole image": pytest.approx(52.0)}
    assert named["gamma_max", "Accuracy"]["ResNet18"][2].floors == {}
    assert named["gamma_max", "Recall"]["ResNet18"][2].mean is None
    assert named["gamma_max", "AP"]["VGG11_bn"][2].mean is None


def test_captions_name_the_data_and_not_its_folder() -> None:
    found = record(source="data folder /somewhere/here: 7 training and 8 test images")
    assert data_words(found) == "coco2014, 7 training and 8 test images"
    assert data_words(record(source="scenes of digits")) == "scenes of digits"


def test_captions_give_scores_with_their_floors() -> None:
    found = record(
        measures={"box_ap": 0.25, "accuracy": None},
        floors={"box_ap": {"whole image": 0.5, "best centred box": None}},
    )
    assert scores(found, ("accuracy", "box_ap")) == "box AP 25.0% (whole image 50.0%)"
    assert scores(found, ("accuracy",)) == "not defined there"


def test_without_trainings_pictures_wait_and_curves_say_what_is_missing(tmp_path: Path) -> None:
    said = io.StringIO()
    console = Console(file=said, width=10_000)
    reproduction = Reproduction(scale("smoke"), tmp_path, console=console)
    names = ["figure4", "figure5", "figure6", "figure7"]
    outcome = reproduce(names, reproduction, train=False)

    assert {path.stem for path in outcome.written} == {"figure7"}
    assert not outcome.problems
    lines = said.getvalue().splitlines()
    for name in names[:3]:
        (line,) = (line for line in lines if line.startswith(name))
        assert "is not drawn: no trained weights in" in line
    numbers = json.loads((tmp_path / "smoke" / "figure7.json").read_text(encoding="utf-8"))
    assert "Missing, as not measured yet: 10 of 10 trainings." in numbers["caption"]
    assert "Scale smoke: tiny" in numbers["caption"]
    assert len(numbers["panels"]) == 8
    means = [
        point["mean"]
        for panel in numbers["panels"]
        for curve in panel["curves"].values()
        for point in curve
    ]
    assert means == [None] * (8 * 2 * 3)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Reproduction:
    """Figures 4 to 6 of two tiny networks, and the data that they were trained on."""
    reproduction = Reproduction(scale("smoke"), tmp_path_factory.mktemp("figures"))
    with pytest.MonkeyPatch.context() as patch:  # 10,000 scenes take longer than all the rest
        patch.setitem(loading.MADE, "multi-digits", partial(multi_digits, train=40, test=40))
        outcome = reproduce(["figure4", "figure5", "figure6"], reproduction)
    assert not outcome.problems
    assert len(outcome.written) == 3 * 4
    return reproduction


def numbers_of(reproduction: Reproduction, name: str) -> dict[str, Any]:
    path = reproduction.out / "smoke" / f"{name}.json"
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def test_trained_networks_are_shown_with_their_own_maps(trained: Reproduction) -> None:
    shown = numbers_of(trained, "figure4")
    maps = {system["system"]: torch.tensor(system["heat_maps"]) for system in shown["systems"]}
    assert list(maps) == [
        "Grad-CAM of the baseline",
        "Grad-CAM of Loss-Attention",
        "Evidence of Loss-Attention",
    ]
    assert all(values.shape == (6, 16, 16) for values in maps.values())
    assert maps["Grad-CAM of the baseline"].min() >= 0

    (cell,) = TARGETS["figure5"].cells(scale("smoke"))
    assert cell.weights
    assert cell.recipe is not None
    network = trained.trained(cell.recipe)
    test = network.splits.test
    names = [entry["name"] for entry in shown["samples"]]
    index = torch.tensor([int(name.removeprefix("test image ")) for name in names])
    target = torch.tensor([test.class_names.index(entry["class"]) for entry in shown["samples"]])
    assert test.label_matrix()[index, target].all()
    said = network.model.explain(test.images[index], target)
    evidence = maps["Evidence of Loss-Attention"]
    torch.testing.assert_close(evidence, said.heat_maps, rtol=1e-3, atol=1e-5)
    given = torch.tensor(shown["systems"][2]["probabilities"])
    own = said.probabilities[torch.arange(len(index)), target]
    torch.testing.assert_close(given, own, rtol=1e-3, atol=1e-5)

    entries = {name: numbers_of(trained, name)["samples"] for name in ("figure5", "figure6")}
    (patches,) = (entry for entry in entries["figure5"] if entry["name"] == names[0])
    assert patches["selected"] == said.selected[0].nonzero().squeeze(1).tolist()
    (box,) = (entry for entry in entries["figure6"] if entry["name"] == names[0])
    assert box["predicted"] == said.boxes[0].tolist()


def test_captions_name_data_scale_and_seed(trained: Reproduction) -> None:
    for name in ("figure4", "figure5", "figure6"):
        caption = numbers_of(trained, name)["caption"]
        assert caption.startswith(f"Figure {name[-1]}. ")
        assert "Data: scenes of scikit-learn's scanned digits" in caption
        assert f"Scale smoke: {SCALES['smoke'].summary}; seed 0." in caption
    assert "box AP" in numbers_of(trained, "figure6")["caption"]
    assert "uniform weights" in numbers_of(trained, "figure5")["caption"]


def test_drawing_again_trains_nothing(trained: Reproduction) -> None:
    ledger = (trained.out / "ledger.json").read_bytes()
    outcome = reproduce(["figure5"], trained, train=False)
    assert len(outcome.written) == 4
    assert (trained.out / "ledger.json").read_bytes() == ledger


def test_what_cannot_be_drawn_is_a_problem_in_a_line(trained: Reproduction) -> None:
    (cell,) = TARGETS["figure6"].cells(scale("smoke"))
    assert cell.recipe is not None
    # Weights of other settings under this training's name.
    moved = replace(cell.recipe, learning_rate=0.5)
    trainings = trained.out / "trainings"
    (trainings / training_key(moved)).symlink_to(trainings / training_key(cell.recipe))
    cells = [replace(cell, recipe=moved)]
    assert TARGETS["figure6"].write(trained, cells, trained.out / "smoke") == []
    (problem,) = trained.problems
    assert problem.startswith("figure6 is not drawn: ")
    assert "\n" not in problem
