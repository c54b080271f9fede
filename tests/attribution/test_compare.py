"""The comparison of methods: what is measured, and on what."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from attribution.colour_scenes import CLASSES, COLOURS, SIZE, colour_model, make_model, scenes

from loss_attention.attribution import compare as compare_module
from loss_attention.attribution import maps as methods
from loss_attention.attribution import measures
from loss_attention.attribution.compare import BASELINES, compare
from loss_attention.attribution.maps import METHODS, attribute
from loss_attention.attribution.measures import METRICS, Boxed, window_means
from loss_attention.attribution.scores import MeanScore
from loss_attention.data.sample import ImageSet
from loss_attention.errors import InputError
from loss_attention.geometry import PatchGrid
from loss_attention.metrics import faithfulness as curves
from loss_attention.metrics.detection import REACHES
from loss_attention.metrics.faithfulness import sensitivity_1
from loss_attention.report.compared import comparison_table
from loss_attention.report.tables import table_markdown

NEAR_AND_MASKS = {"pxap", "evidence_within_{within}_px", "pointing_within_{within}_px"}
"""Not measured on scenes of 12 x 12 pixels without masks."""


def test_a_model_that_is_right_by_construction(compared) -> None:
    comparison, _ = compared
    assert list(comparison.scores) == ["evidence", *BASELINES]
    assert comparison.images == comparison.boxed == 12
    assert comparison.mosaics == {"grid_pointing_2x2": 3, "grid_pointing_3x3": 1}
    own, uniform = (comparison.scores[name] for name in ("evidence", "uniform"))
    places = (
        "energy_pointing_game",
        "pointing_game",
        "gt_known_loc_spread",
        "gt_known_loc_heat_map",
        "gt_known_loc_heat_map_oracle",
        "max_box_acc_v2",
        "grid_pointing_2x2",
        "grid_pointing_3x3",
    )
    for metric in places:
        assert own[metric].value == pytest.approx(1.0)
    # Under mean pooling, what a patch adds is what is lost without it.
    assert own["sensitivity_1"].value == pytest.approx(1.0)
    assert uniform["energy_pointing_game"].value == pytest.approx(0.25)
    assert uniform["sensitivity_1"].value == 0
    assert uniform["grid_pointing_2x2"].value == pytest.approx(1 / 4)
    assert uniform["grid_pointing_3x3"].value == pytest.approx(1 / 9)
    for unit in ("patches", "pixels"):
        for fill in ("blurred", "mean"):
            noise = comparison.scores["random"]
            assert own[f"insertion_{fill}_{unit}"].value > noise[f"insertion_{fill}_{unit}"].value
            assert own[f"deletion_{fill}_{unit}"].value < noise[f"deletion_{fill}_{unit}"].value
    for baseline in BASELINES:  # they do not heed the weights
        assert comparison.scores[baseline]["randomisation_all"].value == 1.0
    assert own["randomisation_all"].value < 0.9
    for scores in comparison.scores.values():
        assert set(scores) == set(METRICS) - NEAR_AND_MASKS
        assert scores["time_ratio"].value > 0
        for name, score in scores.items():
            low, high = METRICS[name].range
            assert low <= score.value <= (math.inf if high is None else high)


def test_the_images_do_not_depend_on_the_batch_size(compared) -> None:
    comparison, subject = compared
    again, other = compare(
        colour_model(), scenes(40), ["evidence"], train=scenes(20, seed=1), images=12, batch_size=64
    )
    assert subject.images.equal(other.images)
    for method, scores in comparison.scores.items():
        for name, score in scores.items():
            if name not in (
                "seconds",
                "time_ratio",
                "randomisation_all",
                "randomisation_last_third",
            ):
                assert again.scores[method][name].value == pytest.approx(score.value, abs=1e-6)
    moved = compare(colour_model(), scenes(40), ["evidence"], images=12, seed=1)[1]
    assert not subject.images.equal(moved.images)
    assert moved.fitting is None


def test_groups_of_metrics_are_measured_alone_and_as_with_all(compared) -> None:
    asked, found = ("grid-pointing", "localisation"), []
    for groups in (("insertion-deletion",), asked):
        comparison, subject = compare(
            *(colour_model(), scenes(40), ["evidence"]),
            train=scenes(20, seed=1),
            images=12,
            metrics=groups,
        )
        assert subject.falls is None
        assert not subject.randomised
        found.append(comparison)
        assert (subject.fitting is None) is ("localisation" not in groups)
    assert found[0].mosaics == {}
    assert "fitted cuts" not in table_markdown(comparison_table(found[0]))
    assert "mosaics" not in table_markdown(comparison_table(found[0])).lower()
    assert all("insertion" in name or "deletion" in name for name in found[0].scores["random"])
    assert found[1].groups == asked[::-1]
    assert (found[0].locality, found[0].no_locality) == (None, "")
    assert compared[0].locality is not None
    whole = compared[0].scores["evidence"]
    for comparison in found:
        for name, score in comparison.scores["evidence"].items():
            assert score.value == pytest.approx(whole[name].value, abs=1e-6)
    assert {"grid_pointing_2x2", "pointing_game"} <= set(found[1].scores["evidence"])
    for wrong in (("seconds",), ()):
        with pytest.raises(InputError, match="known: localisation, insertion-deletion,"):
            compare(colour_model(), scenes(40), images=12, metrics=wrong)


def test_few_images_to_fit_boxes_on_are_no_fault() -> None:
    """A small set holds one image out, or none with a label; what is compared is the test set."""
    for count in (1, 2):
        held_out = scenes(count, seed=1)
        found, subject = compare(colour_model(), scenes(9), ["evidence"], train=held_out, images=2)
        assert subject.fitting is not None
        assert len(subject.fitting.images) == count
        assert "gt_known_loc_heat_map" in found.scores["evidence"]
    unlabelled = replace(scenes(2, seed=1), labels=torch.zeros(2, 9, dtype=torch.uint8))
    assert compare_module._fitting(make_model(), unlabelled, 2, 2, seed=0) is None


def test_maps_on_and_near_small_objects_whose_masks_are_known() -> None:
    """Objects of a pixel, in the corner of the square that the model finds."""
    data = scenes(12)
    masks = torch.zeros(12, SIZE, SIZE, dtype=torch.bool)
    x, y = data.boxes[:, 0, :2].long().unbind(1)
    masks[torch.arange(12), y, x] = True
    masks[0] = False  # nothing to find here
    methods_ = ["evidence", "margin", "grad-cam-competition"]
    data = replace(data, masks=masks)
    found, subject = compare(colour_model(), data, methods_, images=12, within=1)
    assert list(found.scores) == [*methods_, *BASELINES]
    maps = attribute(subject.model, subject.images, "margin", subject.target)
    inside = []
    for one, mask in zip(maps.double(), subject.masks, strict=True):
        if mask.any():
            row, column = mask.nonzero()[0].tolist()
            near = [(row, column), (row + 1, column), (row, column + 1)]
            near += [(row - 1, column)] if row else []
            near += [(row, column - 1)] if column else []
            inside.append(sum(float(one[at].clamp(min=0)) for at in near) / float(one.sum()))
    scores = found.scores["margin"]
    assert scores["evidence_within_1_px"].value == pytest.approx(np.mean(inside))
    assert scores["evidence_within_1_px"].images == scores["pxap"].images == 11
    assert scores["pxap"].error is None
    assert scores["pxap"].interval == pytest.approx((1 / 36, 1 / 36))  # whoever is drawn
    assert scores["pointing_within_1_px"].value == 0  # the middle of the square
    assert scores["pxap"].value == pytest.approx(1 / 36)  # all 36 pixels alike, 1 of them right
    assert found.scores["uniform"]["pxap"].value == pytest.approx(1 / SIZE**2)
    assert "| positive evidence within 1 px \N{UPWARDS ARROW} |" in table_markdown(
        comparison_table(found)
    )
    assert "over 11 images with a mask" in table_markdown(comparison_table(found))
    assert not found.scores["margin"]["empty_maps"].value
    with pytest.raises(InputError, match="`within` must be at least 1 pixel, got 0"):
        compare(colour_model(), data, methods_, images=12, within=0)


def test_how_often_a_map_is_empty_is_told() -> None:
    model = colour_model()
    with torch.no_grad():
        model.head.classifier.bias[0] = 100.0  # the first class is first in every patch
    found, _ = compare(model, scenes(18), ["evidence", "margin", "contrast"], images=18)
    assert found.scores["margin"]["empty_maps"].value == pytest.approx(16 / 18)
    assert found.scores["evidence"]["empty_maps"].value == 0


def test_of_several_labels_a_mask_does_not_say_whose_it_is() -> None:
    labels = torch.eye(9, dtype=torch.uint8)[[0, 1]]
    labels[1, 3] = 1
    masks = torch.ones(2, SIZE, SIZE, dtype=torch.bool)
    found = compare_module._masks_of(replace(scenes(2), labels=labels, masks=masks))
    assert found.all(dim=(1, 2)).tolist() == [True, False]
    assert not found[1].any()


def test_methods_are_held_against_what_is_shown_or_what_is_asked_for(monkeypatch) -> None:
    """Image by image; what was measured of each is kept."""
    monkeypatch.setattr(measures, "REPEATS", 1)
    names = ["grad-cam", "margin"]
    found, subject = compare(colour_model(), scenes(30), names, images=12)
    assert found.against == "margin"
    score = found.scores["uniform"]["energy_pointing_game"]
    assert score.value == pytest.approx(0.25)
    assert score.difference.value == pytest.approx(-0.75)
    assert score.difference.interval == pytest.approx((-0.75, -0.75))
    assert score.difference.told_apart
    assert found.scores["margin"]["energy_pointing_game"].difference is None
    random = found.values["random"]["energy_pointing_game"]
    assert random.mean() == pytest.approx(found.scores["random"]["energy_pointing_game"].value)
    assert found.values["margin"]["grid_pointing_2x2"].shape == (3, 4)
    assert found.scores["random"]["grid_pointing_2x2"].difference.interval is None  # of 3 mosaics
    assert found.scores["random"]["seconds"].difference is None
    assert scenes(30).take(found.drawn).images.equal(subject.images)
    for names, against, wanted in (
        (["cam", "margin"], "cam", "cam"),
        (["margin"], "uniform", "uniform"),
        (["cam"], None, "cam"),
    ):
        other, _ = compare(colour_model(), scenes(9), names, images=2, against=against)
        assert other.against == wanted
    text = table_markdown(comparison_table(found))
    assert (
        "| energy pointing game (EPG) \N{UPWARDS ARROW} | 1.000 \N{ALMOST EQUAL TO} | 1.000 |"
        in text
    )
    assert "| 0.250 \N{MINUS SIGN} |" in text
    assert "+ better than margin, \N{MINUS SIGN} worse: the 95 % interval of the difference" in text
    assert "No sign: of fewer than 10 images or mosaics nothing can be told." in text


def test_what_cannot_be_held_against_is_refused_before_anything_is_measured() -> None:
    for names, against, message in (
        (None, "margn", "unknown method 'margn'; did you mean 'margin'"),
        (["cam"], "margin", "`against` is margin, which is not compared; add it to `methods`, or "),
        (None, "contrast", "`against` contrast is not possible: contrast is for models of one lab"),
    ):
        several = replace(scenes(9), labels=scenes(9).label_matrix())
        model = colour_model()
        model.multi_label = True
        with pytest.raises(InputError, match=message) as caught:
            compare(model, several, names, images=2, against=against)
        assert "\n" not in str(caught.value)


def test_a_damaged_model_is_not_compared() -> None:
    model = colour_model()
    with torch.no_grad():
        model.head.classifier.bias[0] = torch.nan
    with pytest.raises(InputError, match="logits are not finite numbers: its weights are damaged"):
        compare(model, scenes(9), ["margin"], images=2)


def test_the_model_is_left_as_it_was() -> None:
    model = colour_model().train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    compare(model, scenes(12), ["layer-cam"], images=3)
    assert model.training
    assert all(value.equal(state[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_progress_says_what_comes_next() -> None:
    told = []
    compare(
        colour_model(), scenes(12), ["cam"], images=3, progress=lambda *words: told.append(words)
    )
    assert told[:2] == [(0, 24, "preparing"), (0, 24, "cam")]
    assert told[-1] == (24, 24, BASELINES[-1])
    assert [done for done, _, _ in told] == sorted(done for done, _, _ in told)
    assert list(dict.fromkeys(now for _, _, now in told)) == ["preparing", "cam", *BASELINES]


def test_locality_is_that_of_the_model_and_the_seed() -> None:
    model, measured = make_model("loss-attention"), compare_module._locality
    found, reason = measured(model, scenes(12), 3, seed=1)
    assert found is not None
    assert (found.images, reason) == (3, "")
    assert measured(model, scenes(12), 3, seed=1)[0] == found
    assert measured(model, scenes(12), 3, seed=2)[0] != found
    one_class = scenes(20).subset(torch.tensor([0, 9, 18]))
    assert measured(model, one_class, 2, seed=0) == (
        None,
        "no image has one of another class beside it",
    )


def test_data_without_boxes_and_with_few_classes() -> None:
    data = replace(scenes(20), boxes=None, box_labels=None)
    few = data.subset((data.labels < 5).nonzero().squeeze(1))
    comparison, _ = compare(colour_model(), few, ["evidence"], images=4)
    assert comparison.boxed == 0
    assert set(comparison.mosaics) == {"grid_pointing_2x2"}
    absent = NEAR_AND_MASKS | {
        "energy_pointing_game",
        "pointing_game",
        "gt_known_loc_spread",
        "gt_known_loc_heat_map",
        "gt_known_loc_heat_map_oracle",
        "max_box_acc_v2",
        "grid_pointing_3x3",
    }
    assert set(comparison.scores["evidence"]) == set(METRICS) - absent
    text = table_markdown(comparison_table(comparison))
    assert "No grid pointing game, 3 x 3: too few classes" in text
    free = {**comparison.scores, "edges": {"seconds": MeanScore(0.00009, None, 1)}}
    assert "| < 0.0001 |" in table_markdown(comparison_table(replace(comparison, scores=free)))


def test_mosaics_are_of_rightly_classified_images() -> None:
    data = scenes(36)
    # No image of the first four classes is called what its label says.
    labels = torch.where(data.labels < 4, (data.labels + 1) % 4, data.labels)
    _, subject = compare(colour_model(), replace(data, labels=labels), ["cam"], images=8)
    images, target, side = subject.mosaics["grid_pointing_2x2"]
    assert target.shape == (len(images), side**2) == (2, 4)
    assert target.min() >= 4
    assert "grid_pointing_3x3" not in subject.mosaics
    for mosaic, labels in zip(images, target, strict=True):
        for cell, label in enumerate(labels):
            y, x = SIZE * (cell // side), SIZE * (cell % side)
            colour = mosaic[:, y : y + SIZE, x : x + SIZE].flatten(1).amax(dim=1)
            assert colour.tolist() == (255 * COLOURS[label]).round().tolist()


def test_patches_have_their_own_values_and_pixels_the_map(monkeypatch: pytest.MonkeyPatch) -> None:
    """With overlapping windows the two are not the same."""
    monkeypatch.setattr(measures, "REPEATS", 1)
    model = colour_model(stride=2)
    comparison, subject = compare(model, scenes(12), ["evidence"], images=6)
    images, target = subject.images / 255, subject.target
    with torch.no_grad():
        prediction = model(images)
        own = prediction.evidence[torch.arange(6), :, target]
        fill, score = torch.zeros_like(images), measures.probability(model, target)
        orders = {
            "patches": curves.patch_order(own, prediction.grid),
            "pixels": curves.pixel_order(attribute(model, images, "evidence", target)),
        }
        areas = {
            unit: curves.deletion_curve(score, images, fill, order).area.mean().item()
            for unit, order in orders.items()
        }
    found = comparison.scores["evidence"]
    assert found["sensitivity_1"].value == pytest.approx(
        sensitivity_1(own, subject.falls).mean().item(), abs=1e-6
    )
    means = window_means(attribute(model, images, "evidence", target), prediction.grid)
    assert abs(sensitivity_1(means, subject.falls).mean() - found["sensitivity_1"].value) > 1e-3
    assert areas["patches"] != pytest.approx(areas["pixels"], abs=1e-3)
    for unit, area in areas.items():
        assert found[f"deletion_mean_{unit}"].value == pytest.approx(area, abs=1e-6)


def test_the_cut_is_chosen_on_the_training_images(compared, monkeypatch) -> None:
    """Maps whose right box lies under a high cut in training, and a low one in the test images."""
    _, subject = compared
    box = torch.tensor([0.0, 0.0, 6.0, 6.0]).expand(12, 1, 4)
    small, large = torch.zeros(12, SIZE, SIZE), torch.full((12, SIZE, SIZE), 0.5)
    small[:, :6, :6], small[:, :2, :2] = 0.5, 1.0  # right below a cut of a half
    large[:, :6, :6] = 1.0  # right from there on
    fitting = Boxed(subject.images, subject.target, box)
    shown = measures.Explained("cam", small, torch.zeros(12, 1))
    monkeypatch.setattr(measures, "maps_of", lambda *_: large)
    found = measures._localisation(replace(subject, boxes=box, fitting=fitting), shown)
    assert found["gt_known_loc_heat_map"].tolist() == [False] * 12
    assert found["gt_known_loc_heat_map_oracle"].tolist() == [True] * 12
    assert found["max_box_acc_v2"].tolist() == [0] * 12  # 4 pixels of 36
    monkeypatch.setattr(measures, "maps_of", lambda *_: small)
    found = measures._localisation(replace(subject, boxes=box, fitting=fitting), shown)
    assert found["gt_known_loc_heat_map"].tolist() == [True] * 12
    assert found["max_box_acc_v2"].tolist() == [1] * 12
    small[:, 4:6] = 0.0  # 24 pixels of 36 are enough for an IoU of 0.3 and of 0.5
    shown = measures.Explained("cam", small, torch.zeros(12, 1))
    found = measures._localisation(replace(subject, boxes=box, fitting=fitting), shown)
    assert found["max_box_acc_v2"].tolist() == pytest.approx([2 / 3] * 12)


def test_an_iou_of_exactly_one_half_frames_nothing_and_is_enough_for_max_box(
    compared, monkeypatch
) -> None:
    """As in `evaluate`: above 0.5 is the paper's bound, at least 0.5 that of MaxBoxAccV2."""
    _, subject = compared
    box = torch.tensor([0.0, 0.0, 6.0, 6.0]).expand(12, 1, 4)
    half, more = torch.zeros(12, SIZE, SIZE), torch.zeros(12, SIZE, SIZE)
    half[:, :6, :3] = 1.0  # 18 of 36 pixels
    more[:, :6, :4] = 1.0
    fitting = Boxed(subject.images, subject.target, box)
    for maps, overlap, right, parts in ((half, 0.5, False, 2 / 3), (more, 2 / 3, True, 2 / 3)):
        reaches = torch.full((12, len(REACHES)), overlap)
        monkeypatch.setattr(measures, "maps_of", lambda *_, maps=maps: maps)
        monkeypatch.setattr(measures, "spread_overlaps", lambda *_, r=reaches: r)
        shown = measures.Explained("cam", maps, torch.zeros(12, 1))
        found = measures._localisation(replace(subject, boxes=box, fitting=fitting), shown)
        for name in (
            "gt_known_loc_heat_map",
            "gt_known_loc_heat_map_oracle",
            "gt_known_loc_spread",
        ):
            assert found[name].tolist() == [right] * 12, name
        assert found["max_box_acc_v2"].tolist() == pytest.approx([parts] * 12)


def test_several_labels() -> None:
    """The explained class is the likeliest of the labels, and its boxes alone count."""
    one = scenes(12)
    labels = one.label_matrix()
    labels[0] = 0  # no label: left out
    labels[1, :] = 1
    box_labels = torch.cat([one.box_labels, torch.full((12, 1), 8)], dim=1)
    boxes = torch.cat([one.boxes, torch.tensor([0.0, 0.0, 12.0, 12.0]).expand(12, 1, 4)], dim=1)
    data = ImageSet(one.images, labels, CLASSES, boxes, box_labels)
    model = colour_model()
    model.multi_label = True
    comparison, subject = compare(model, data, ["cam"], images=12)
    assert comparison.images == 11
    assert sorted(subject.target.tolist()) == sorted(one.labels[1:].tolist())
    assert comparison.scores["cam"]["energy_pointing_game"].value == pytest.approx(1.0)
    # Only where the class is the last one, the box of the whole image is one of its boxes.
    whole = int((subject.target == 8).sum())
    uniform = comparison.scores["uniform"]["energy_pointing_game"].value
    assert uniform == pytest.approx((whole + 0.25 * (11 - whole)) / 11)


def test_methods_that_a_model_does_not_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "REPEATS", 1)
    monkeypatch.setattr(methods, "INTEGRATION_STEPS", 2)
    data = scenes(12)
    model = make_model("baseline")
    with pytest.raises(InputError, match="no exact evidence"):
        compare(model, data, ["evidence", "grad-cam"], images=2)
    with pytest.raises(InputError, match="unknown method 'gradcam'; did you mean 'grad-cam'"):
        compare(model, data, ["gradcam"], images=2)
    with pytest.raises(InputError, match="`images` must be at least 2, got 1"):
        compare(model, data, images=1)
    with pytest.raises(InputError, match="same in the same order"):
        compare(model, replace(data, class_names=tuple("ihgfedcba")), images=2)
    comparison, _ = compare(model, data, images=2)
    absent = {"evidence", "contrast", "margin", "cam"}
    assert set(comparison.left_out) == absent
    assert list(comparison.scores) == [
        name for name in METHODS if name not in {*absent, *BASELINES}
    ] + list(BASELINES)
    assert "Not possible with this model: margin (" in table_markdown(comparison_table(comparison))


def test_a_head_made_for_one_size_has_no_mosaics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "REPEATS", 1)
    model = make_model("capsule-dynamic-routing", image_size=(SIZE, SIZE))
    data = scenes(18)
    with torch.no_grad():  # labels that make every image correctly classified, in several classes
        labels = model(data.images).logits.argmax(dim=1)
    monkeypatch.setattr(
        compare_module, "choose_mosaics", lambda _c, _t, cells, _n, _s: torch.arange(cells)[None]
    )
    comparison, _ = compare(model, replace(data, labels=labels), ["layer-cam"], images=2)
    assert comparison.mosaics == {}
    assert "grid_pointing_2x2" not in comparison.scores["layer-cam"]
    assert "sensitivity_1" in comparison.scores["layer-cam"]


def test_window_means_by_hand() -> None:
    grid = PatchGrid(rows=1, columns=2, window=3, stride=2, height=3, width=4)
    maps = torch.arange(12.0).reshape(1, 3, 4)
    assert window_means(maps, grid).tolist() == [[5.0, 6.5]]  # the second is clipped to 2 columns


def test_jobs_are_timed_in_turns_that_change_direction() -> None:
    done: list[str] = []

    def job(name: str) -> Callable[[], None]:
        return lambda: done.append(name)

    seconds = measures.take_turns([job("a"), job("b")], 3, torch.device("cpu"), warm_up=1)
    assert "".join(done) == "abbaabba"
    assert [len(taken) for taken in seconds] == [3, 3]
