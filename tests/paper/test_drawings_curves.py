"""Curves over a parameter: what is drawn is what was given."""

from __future__ import annotations

import math

import numpy as np
from paper.sheets import CAPTION, legend_of

from loss_attention.paper.drawings import LOOKS, Panel, Point, draw_curves


def panel(parameter: str, metric: str, baselines: dict[str, tuple[float, float]]) -> Panel:
    def curve(base: float, which: int) -> tuple[Point, ...]:
        given = {name: values[which] for name, values in baselines.items()}
        return (
            Point(0.0, base, 0.5, base + 2, given),
            Point(0.1, paper=base + 3),
            Point(1.0, base + 1, 0.25, None, given),
        )

    return Panel(parameter, metric, {"VGG": curve(50.0, 0), "ResNet": curve(60.0, 1)})


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
        "standard_deviation": 0.5,
        "paper": 52.0,
        "baselines": {"whole image": 40.0, "best": 45.0},
    }
    assert numbers["panels"][0]["curves"]["ResNet"][1]["mean"] is None


def test_networks_are_told_apart_without_colour() -> None:
    assert len({(look.marker, look.line) for look in LOOKS}) == len(LOOKS)
