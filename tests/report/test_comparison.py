"""How a comparison is written down: as JSON, Markdown, a table for the terminal and a picture."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from loss_attention.attribution.compare import BASELINES
from loss_attention.attribution.measures import COSTS, METRICS
from loss_attention.attribution.scores import MeanScore
from loss_attention.report.compared import comparison_json, comparison_table, differences_table
from loss_attention.report.side_by_side import maps_picture
from loss_attention.report.tables import show_table, table_markdown


def test_json_and_markdown_say_the_same(compared) -> None:
    comparison, _ = compared
    values = comparison_json(comparison)
    text = table_markdown(comparison_table(comparison, intervals=True))
    for method, entry in values["methods"].items():
        assert entry["trivial_baseline"] == (method in BASELINES)
        for name, score in entry["scores"].items():
            assert name in values["metrics"]
            assert score["value"] == comparison.scores[method][name].value
            apart = score["difference"]
            if method == "evidence" or name in COSTS:
                assert apart is None
            elif "grid" in name:  # few mosaics
                assert score["interval"] is apart["interval"] is None
            else:
                low, high = score["interval"]
                assert low <= score["value"] <= high
                low, high = apart["interval"]
                assert low <= apart["value"] <= high
                assert apart["told_apart"] == (low > 0 or high < 0)
    assert values["against"] == "evidence"
    assert values["bootstrap"] == {"level": 0.95, "resamples": 2000, "least": 10}
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("|")]
    assert [cell.strip() for cell in rows[0][1:]] == [
        "evidence",
        "baseline: uniform",
        "baseline: random",
        "baseline: edges",
    ]
    assert len(rows) == 2 + len(METRICS) - 3  # without masks, and too small for distances
    inside = next(row for row in rows if "energy pointing" in row[0])
    assert inside[0].strip().endswith("\N{UPWARDS ARROW}")
    assert inside[1].strip() == "1.000 (1.000 to 1.000)"
    assert inside[2].strip() == "0.250 (0.250 to 0.250) \N{MINUS SIGN}"
    assert "3 of 2 x 2, 1 of 3 x 3" in text
    differences = table_markdown(differences_table(comparison))
    rows = [line.split("|")[1:-1] for line in differences.splitlines()[2:]]
    assert [len(row) for row in rows] == [4] * (len(METRICS) - 3 - len(COSTS))
    inside = next(row for row in rows if "energy pointing" in row[0])
    assert inside[1].strip() == "-0.750 (-0.750 to -0.750) \N{MINUS SIGN}"


def test_a_guided_model_is_said_to_be_one(compared) -> None:
    comparison, _ = compared
    guided = replace(comparison, guided_by="90 boxes")
    assert table_markdown(comparison_table(guided)).startswith("| metric, guided by 90 boxes |")
    assert comparison_json(guided)["guided_by"] == "90 boxes"
    assert "guided_by" not in comparison_json(comparison)


def test_what_the_patches_see_is_said_once(compared) -> None:
    comparison, _ = compared
    said = comparison_json(comparison)["locality"]
    assert said["images"] == 12
    assert said["random"]["sides"] == (0, 3, 5, 7, 9, 12)
    for which in ("random", "heaviest"):  # a model that sees its windows of 3 pixels alone
        assert said[which]["in_window"] == pytest.approx(1.0, abs=1e-9)
        assert (said[which]["r90"], said[which]["r90_by_window"]) == (3, 1.0)
    text = table_markdown(comparison_table(comparison))
    assert (
        text.count("L(window) 1.00, r90 3 px or 1 windows, same top class in the window 1.00") == 2
    )
    without = replace(comparison, locality=None, no_locality="the model has no patches")
    assert comparison_json(without)["locality"] == {"not_measured": "the model has no patches"}
    assert "locality" not in comparison_json(replace(without, no_locality=""))
    assert "Locality is not measured: the model has no patches." in table_markdown(
        comparison_table(without)
    )


@pytest.mark.parametrize("width", [60, 70, 200])
def test_the_table_fits_the_terminal(compared, width: int) -> None:
    comparison, _ = compared
    out = io.StringIO()
    show_table(comparison_table(comparison), Console(file=out, width=width))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    shown = [line for line in lines if "grid pointing game, 3 x 3" in line]
    assert len(shown) == (1 if width == 200 else 2)
    assert sum(line.count("0.111") for line in shown) >= 1
    assert "…" not in out.getvalue()


@pytest.mark.parametrize("width", range(76, 92))  # among them those that just hold a table
def test_methods_of_any_speed_keep_their_names_in_a_narrow_terminal(compared, width: int) -> None:
    comparison, _ = compared
    instant = {"seconds": MeanScore(1e-6, None, 3)}  # "< 0.0001" is the widest cell there is
    names = ("layer-cam", *BASELINES)
    scores = dict.fromkeys(("evidence", *names), comparison.scores["evidence"] | instant)
    out = io.StringIO()
    show_table(comparison_table(replace(comparison, scores=scores)), Console(file=out, width=width))
    shown = out.getvalue()
    assert max(map(len, shown.splitlines())) <= width
    for name in names:
        assert name in shown
    assert shown.count("< 0.0001") == len(scores)


def test_the_picture_has_a_row_an_image_and_a_column_a_method(compared) -> None:
    _, subject = compared
    one = Image.open(io.BytesIO(maps_picture(subject, ["evidence"], images=1)))
    more = Image.open(io.BytesIO(maps_picture(subject, ["evidence", "edges", "random"], images=3)))
    assert more.width == 2 * one.width
    assert more.height > 2.5 * one.height
    # Red where the evidence is: in the panel of the method, not in that of the image.
    pixels = np.asarray(one.convert("RGB")).astype(int)
    red = (pixels[..., 0] > 120) & (pixels[..., 1:].max(axis=2) < 90)
    assert red[:, one.width // 2 :].mean() > 0.05
