"""What is read first: few scores, all defined, beside the best baseline; and what they mean."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rich.console import Console

from loss_attention.evaluation.metric import Evaluation, Metric
from loss_attention.metrics.locality import Locality, LocalityCurve
from loss_attention.report.summary import (
    KEY_METRICS,
    key_metrics,
    key_table,
    sentences,
    show_scores,
    standing,
)


def metric(name: str, value: float | None, label: str = "", **baselines: float | None) -> Metric:
    named = {key.replace("_", " "): score for key, score in baselines.items()}
    return Metric(name, label or name.replace("_", " "), value, named)


ACCURACY = metric("accuracy", 0.966, majority_class=0.498, chance_level=1 / 6)
BALANCED = metric("balanced_accuracy", 0.962, majority_class=1 / 6)
POINTING = metric("pointing_within_16_px", 0.87, "pointing within 16 px", random=0.12, edges=0.33)
SIDES = (0, 16, 96, 320)
BOXES = metric("gt_known_loc_heat_map", None, "GT-known Loc (heat map)", centred_box=None)
SPREAD = metric("gt_known_loc_spread", 0.7, "GT-known Loc (spread)", centred_box=0.6)


def evaluation(*metrics: Metric, images: int = 237, boxed: int = 0, masked: int = 0) -> Evaluation:
    return Evaluation("test", images, boxed, metrics, masked_images=masked, map="margin")


def lines(evaluations: dict[str, Evaluation], *, verbose: bool = False) -> list[str]:
    console = Console(width=80, color_system=None, legacy_windows=False)
    with console.capture() as capture:
        show_scores(evaluations, console, verbose=verbose)
    return capture.get().splitlines()


def test_the_key_metrics_are_defined_and_at_most_six() -> None:
    found = evaluation(BOXES, SPREAD, POINTING, BALANCED, ACCURACY)
    names = ["accuracy", "balanced_accuracy", "pointing_within_16_px", "gt_known_loc_spread"]
    assert [one.name for one in key_metrics(found)] == names
    assert len(KEY_METRICS) == 6
    # Thresholds chosen on the reported images are not scores of theirs.
    oracle = metric("gt_known_loc_heat_map_oracle", 0.9, "GT-known Loc (heat map)")
    assert [one.name for one in key_metrics(evaluation(BOXES, oracle))] == []
    even = replace(ACCURACY, name="balanced_accuracy")
    assert [one.name for one in key_metrics(evaluation(ACCURACY, even))] == ["accuracy"]
    assert key_metrics(evaluation(BOXES)) == []


def test_each_score_stands_beside_the_best_baseline() -> None:
    one, other = evaluation(ACCURACY, POINTING), evaluation(replace(ACCURACY, value=0.9))
    assert key_table({"a": one, "b": other}).rows == [
        ["accuracy", "0.966", "0.900", "0.498 (majority class)"],
        ["pointing within 16 px", "0.870", "-", "0.330 (edges)"],
    ]
    assert key_table({"score": one}).rows[0] == ["accuracy", "0.966", "0.498 (majority class)"]


# Wilson's intervals of 95 of 100, 50 of 100 and 1 of 100: 0.888 to 0.978, 0.404 to 0.596, 0.002 to
# 0.054.
@pytest.mark.parametrize(
    ("value", "baseline", "held"),
    [(0.95, 0.88, "better"), (0.95, 0.89, "alike"), (0.5, 0.59, "alike"), (0.01, 0.06, "worse")],
)
def test_a_fraction_is_told_apart_by_its_interval(value, baseline, held) -> None:
    assert standing(metric("accuracy", value, edges=baseline), 100) == held


def test_without_a_baseline_nothing_is_told_apart() -> None:
    assert standing(metric("accuracy", 0.5), 100) is None
    assert standing(metric("accuracy", 0.5, edges=0.1), 0) is None


def test_sentences_say_what_the_scores_mean() -> None:
    assert sentences(evaluation(ACCURACY, POINTING, masked=117)) == [
        "Right in 97 % of 237 test images; calling all by the commonest class would in 50 %.",
        "The margin points within 16 px of the object in 87 % of 117 images with a mask; an edge "
        "detector would in 33 %.",
    ]
    pointing = metric("pointing_game", 0.995, "pointing game", whole_image=0.36)
    assert sentences(evaluation(pointing, boxed=2000)) == [
        "The margin points at the object in 99.5 % of 2,000 images with a box; the whole image "
        "would in 36 %."
    ]


@pytest.mark.parametrize(
    ("value", "how"), [(0.34, ", and the two are not told apart"), (0.1, ", which is better")]
)
def test_a_map_that_is_no_better_than_a_baseline_is_not_to_be_believed(value, how) -> None:
    (said,) = sentences(evaluation(replace(POINTING, value=value), masked=100))
    assert said.endswith(
        f"an edge detector would in 33 %{how}: do not take the map for where the object is."
    )


def test_where_nothing_was_measured_that_is_said() -> None:
    unmeasured = "Whether the map lies on the object has not been measured"
    assert sentences(evaluation(ACCURACY))[1].startswith(unmeasured)
    # Patches without evidence have no map; of boxes there are other scores.
    assert len(sentences(evaluation(ACCURACY, metric("weight_inside", 0.5), boxed=10))) == 1


@pytest.mark.parametrize(
    ("r90", "said"),
    [
        (16, "What the heaviest patch says is settled within its window of 16 px."),
        (96, "What is drawn in a window of 16 px depends on 96 px around it (90 % of what the"),
        (320, "What is drawn in a window of 16 px depends on the whole image around it (90 %"),
    ],
)
def test_what_a_patch_sees_is_said(r90: int, said: str) -> None:
    values = tuple(0.95 if side >= r90 else 0.4 for side in SIDES)
    curve = LocalityCurve(16, SIDES, values, values, values)
    found = replace(evaluation(ACCURACY), locality=Locality(8, curve, curve))
    assert sentences(found)[-1].startswith(said)


def test_little_is_printed_unless_all_is_asked_for() -> None:
    found = {"loss-attention": evaluation(ACCURACY, BALANCED, POINTING, BOXES, masked=117)}
    both = found | {"mean-pooling": evaluation(ACCURACY, BALANCED, POINTING)}
    short = lines(both)
    assert len(short) <= 14
    assert sum("best trivial" in line for line in short) == 1, "all columns fit side by side"
    assert max(map(len, short[:-2])) <= 80
    whole = lines(found, verbose=True)
    assert len(whole) > len(lines(found))
    assert any(line.startswith("Not shown, as there is nothing to count") for line in whole)
    assert not any("n/a" in line for line in short + whole)
