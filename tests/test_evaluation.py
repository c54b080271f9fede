from __future__ import annotations

import contextlib
import dataclasses
import json

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, average_precision_score, log_loss
from torch import Tensor, nn

import loss_attention as la
from loss_attention.data.digits import digits, multi_digits
from loss_attention.data.sample import ImageSet
from loss_attention.errors import InputError
from loss_attention.evaluation import Evaluation, evaluate, validate
from loss_attention.geometry import PatchGrid
from loss_attention.prediction import ImagePrediction, PatchPrediction, RoutedPrediction

NONE = [float("nan")] * 4
GRID = PatchGrid(2, 2, window=4, stride=4, height=8, width=8)
LOCAL = (
    "patch_precision",
    "patch_recall",
    "patch_f",
    "weight_inside",
    "evidence_inside",
    "pointing_game",
    "box_ap",
    "box_ap_named",
    "map_box_ap",
    "map_box_ap_named",
    "max_box_acc_v2",
    "max_box_acc_v2_0.3",
    "max_box_acc_v2_0.5",
    "max_box_acc_v2_0.7",
    "object_ap",
    "map_box_ap_oracle",
    "max_box_acc_v2_oracle",
    "max_box_acc_v2_0.3_oracle",
    "max_box_acc_v2_0.5_oracle",
    "max_box_acc_v2_0.7_oracle",
)
NEED_A_THRESHOLD = list(LOCAL[8:15])
CLASSES = ("accuracy", "class_accuracy", "calibration_error")
FLOORS = ["whole image", "best centred box", "uniform weights", "random weights", "edge detector"]


class Canned(nn.Module):
    """Gives prepared answers; the first pixel of an image is its number."""

    def __init__(self, answers: PatchPrediction | ImagePrediction) -> None:
        super().__init__()
        self.answers = answers
        self.norm = nn.BatchNorm2d(1)
        self.seen: list[tuple[int, bool, bool, torch.dtype]] = []

    def forward(self, images: Tensor) -> ImagePrediction:
        state = (self.training or self.norm.training, torch.is_inference_mode_enabled())
        self.seen.append((len(images), *state, images.dtype))
        index, answers = images[:, 0, 0, 0].long(), self.answers
        if not isinstance(answers, PatchPrediction):
            return ImagePrediction(answers.logits[index])
        return PatchPrediction(
            answers.logits[index],
            answers.patch_logits[index],
            answers.patch_weights[index],
            answers.grid,
            answers.selection,
        )


def numbered(labels: Tensor, classes: int, side: int = 8, **boxes: Tensor) -> ImageSet:
    images = torch.arange(len(labels), dtype=torch.uint8)[:, None, None, None]
    names = tuple(f"class {k}" for k in range(classes))
    return ImageSet(images.expand(-1, 1, side, side).clone(), labels, names, **boxes)


def one_hot_logits(classes: list, count: int = 2) -> Tensor:
    return nn.functional.one_hot(torch.tensor(classes), count).float()


@pytest.fixture
def worked() -> tuple[Canned, ImageSet, ImageSet]:
    """Five images of four patches, worked out by hand in `test_hand_worked_example`."""
    boxes = [
        [[0, 0, 8, 4], NONE],
        [[4, 4, 8, 8], [0, 0, 4, 4]],  # the second is of another class
        [NONE, NONE],  # nobody drew a box
        [[0, 0, 3, 8], NONE],
        [[0, 0, 8, 7], NONE],
    ]
    data = numbered(
        torch.tensor([0, 1, 0, 1, 0]),
        2,
        boxes=torch.tensor(boxes),
        box_labels=torch.tensor([[0, -1], [1, 0], [-1, -1], [1, -1], [0, -1]]),
    )
    patch_classes = [[0, 1, 0, 0], [1, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 1], [0, 0, 1, 1]]
    weights = [[5, 3, 2, 0], [0, 0, 0, 10], [2.5] * 4, [4, 0, 6, 0], [2.5] * 4]
    answers = PatchPrediction(
        one_hot_logits([0, 1, 1, 1, 0]),
        one_hot_logits(patch_classes),
        torch.tensor(weights) / 10,
        GRID,
        selection=0.0,
    )
    # A training set of another size: its one box covers the middle quarter of either side.
    train = numbered(
        torch.tensor([0, 0, 1]),
        2,
        side=16,
        boxes=torch.tensor([[[6.0, 6.0, 10.0, 10.0]], [NONE], [NONE]]),
        box_labels=torch.tensor([[0], [-1], [-1]]),
    )
    return Canned(answers), data, train


def test_hand_worked_example(worked) -> None:
    model, data, train = worked
    found = evaluate(model, data, train=train, split="held-out")
    # Image 0: B = {0, 1}, S&A = {0, 2}, found {0}; 0.8 inside; whole image on half a box: wrong.
    # Image 1: B = {3}, S&A = {3}, found {3}; 1.0 inside; box right.
    # Image 2: not counted, as it has no box.
    # Image 3: B = {0, 2}, S&A = {}; 1.0 inside; 4 x 8 on 3 x 8 pixels: right.
    # Image 4: B = all four, S&A = {0, 1}, found both; 1.0 inside; 8 x 8 on 8 x 7 pixels: right.
    # Evidence for the label: image 0 has 5 and 2 of 7 in patches 0 and 2, of which 5 inside; image
    # 1 all in patch 3; image 3 none; image 4 has 5 each in 0 and 1, all inside.
    # The best centred box is 7 x 4.5 of 16 x 16 pixels (31.5, just below twice the true 16), so
    # 3.5 x 2.25 here. It fills half of no patch, so the nearest, all four, stand for it. Of its
    # pixels, x 2 to 5 and y 3 to 4, the boxes hold 4, 2, 2 and 8 of 8.
    same = {"whole image": 4 / 10, "best centred box": 4 / 10, "uniform weights": 4 / 10}
    recall = dict.fromkeys(same, 4 / 9)
    quarter = dict.fromkeys(same, 2.25 / 4)
    expected = {
        "accuracy": (4 / 5, {"majority class": 3 / 5}),
        "class_accuracy": ((2 / 3 + 1) / 2, {"majority class": 1 / 2}),
        "patch_precision": (4 / 5, same),
        "patch_recall": (4 / 9, recall),
        "patch_f": (8 / 14, dict.fromkeys(same, 8 / 19)),
        "weight_inside": (3.8 / 4, quarter),
        "evidence_inside": (
            # The boxes cover 32, 16, 24 and 56 of 64 pixels.
            (5 / 7 + 1 + 0 + 1) / 4,
            {"whole image": 128 / 256, "best centred box": 16 / 32, "uniform weights": 128 / 256},
        ),
        "pointing_game": (3 / 4, {"whole image": 2 / 4}),
        "box_ap": (
            3 / 4,
            {"whole image": 1 / 4, "best centred box": 0.0, "uniform weights": 1 / 4},
        ),
        "box_ap_named": (3 / 4, {"whole image": 1 / 4}),
    }
    for name, (value, floors) in expected.items():
        assert found.value(name) == pytest.approx(value), name
        for floor, score in floors.items():
            assert found[name].floors[floor] == pytest.approx(score), (name, floor)
    assert [measure.name for measure in found.measures] == [*CLASSES, *LOCAL]
    for name in LOCAL:
        assert list(found[name].floors) == FLOORS
    assert (found.split, found.images, found.boxed_images) == ("held-out", 5, 4)
    assert found.per_image is not None
    assert found.per_image.predictions.tolist() == [0, 1, 1, 1, 0]
    assert found.per_image.correct.tolist() == [True, True, False, True, True]
    sure = np.e / (np.e + 1)
    assert found.per_image.probabilities.tolist() == pytest.approx([sure] * 5)


def test_the_centred_box_is_fitted_to_the_training_set(worked) -> None:
    model, data, train = worked
    boxes = torch.tensor([[[0.0, 0.0, 16.0, 14.0]], [NONE], [NONE]])
    found = evaluate(model, data, train=dataclasses.replace(train, boxes=boxes))
    floors = found["box_ap"].floors
    assert (floors["whole image"], floors["best centred box"]) == (0.25, 0.25)


def test_hand_worked_boxes_around_heat_maps(worked) -> None:
    model, data, train = worked
    found = evaluate(model, data, train=train, held_out=data)
    # Image 0: above 0.4 of the maximum patch 0 alone, half of the true box; below it with patch 2,
    # an IoU of 16 / 48. Image 1: the true box. Image 3: no evidence. Image 4: 32 of 56 pixels.
    expected = {
        "map_box_ap": 2 / 4,
        "map_box_ap_named": 2 / 4,
        "max_box_acc_v2_0.3": 3 / 4,
        "max_box_acc_v2_0.5": 3 / 4,
        "max_box_acc_v2_0.7": 1 / 4,
        "max_box_acc_v2": 7 / 12,
        # Class 0 has three true boxes: image 4's is found, image 0's by patch 0 alone with IoU
        # 1/2, nobody looks for image 1's; so precision 1 up to recall 2/3, 67 of the 101 recalls.
        # Class 1 has two: image 1's is found, and image 3 has no evidence: up to recall 1/2.
        "object_ap": (67 / 101 + 51 / 101) / 2,
    }
    for name, value in expected.items():
        assert found.value(name) == pytest.approx(value), name
        if name.startswith("max_box") or name == "map_box_ap":
            assert found.value(f"{name}_oracle") == pytest.approx(value), name
    assert set(found.thresholds) == set(NEED_A_THRESHOLD) - {"map_box_ap_named", "max_box_acc_v2"}
    assert 0.4 <= found.thresholds["max_box_acc_v2_0.5"] < 1
    assert 0.4 <= found.thresholds["object_ap"] < 1
    whole = [found[name].floors["whole image"] for name in expected if name != "object_ap"]
    # Boxes of 1/2, 1/4, 3/8 and 7/8 of the image; at 1/2, at least is not above.
    assert whole == pytest.approx([1 / 4, 1 / 4, 3 / 4, 2 / 4, 1 / 4, 6 / 12])


def test_where_the_class_has_to_be_right_too(worked) -> None:
    model, data, _ = worked
    wrong = model.answers.logits.clone()
    wrong[4] = wrong[4].flip(0)
    mistaken = Canned(dataclasses.replace(model.answers, logits=wrong))
    found = evaluate(mistaken, data, held_out=data)
    assert (found.value("box_ap"), found.value("box_ap_named")) == (3 / 4, 2 / 4)
    assert (found.value("map_box_ap"), found.value("map_box_ap_named")) == (2 / 4, 1 / 4)
    assert found["box_ap_named"].floors["whole image"] == 0  # right for image 4 alone


def test_thresholds_are_those_of_the_held_out_images(worked) -> None:
    model, data, train = worked
    only_the_oracle_is_right = data.subset(torch.tensor([0]))
    # Held out: on image 0 seen the other way, the box around both of its patches is right.
    assert data.boxes is not None
    boxes = data.boxes[:1].clone()
    boxes[0, 0] = torch.tensor([0.0, 0.0, 4.0, 8.0])
    held_out = dataclasses.replace(only_the_oracle_is_right, boxes=boxes)
    found = evaluate(model, only_the_oracle_is_right, train=train, held_out=held_out)
    assert found.thresholds["max_box_acc_v2_0.5"] < 0.4
    assert found.value("max_box_acc_v2_0.5") == 0.0
    assert found.value("max_box_acc_v2_0.5_oracle") == 1.0
    without = evaluate(model, data, train=train, held_out=data.subset(torch.arange(0)))
    assert without.thresholds == {}
    undefined = [measure.name for measure in without.measures if measure.value is None]
    assert undefined == NEED_A_THRESHOLD


def test_weights_without_evidence_have_patch_figures_only(worked) -> None:
    model, data, train = worked

    class Routed(Canned):
        def forward(self, images: Tensor) -> ImagePrediction:
            seen = super().forward(images)
            assert isinstance(seen, PatchPrediction)
            scores = seen.patch_logits
            return RoutedPrediction(
                seen.logits, scores, scores, seen.patch_weights, seen.grid, seen.selection
            )

    with_evidence = evaluate(model, data, train=train)
    found = evaluate(Routed(model.answers), data, train=train, held_out=data)
    shared = [*CLASSES, *LOCAL[:4], "box_ap", "box_ap_named"]
    assert [measure.name for measure in found.measures] == shared
    for name in shared:
        assert found[name] == with_evidence[name]
    assert found.thresholds == {}


def test_masks_bring_the_average_precision_of_pixels(worked) -> None:
    model, data, train = worked
    masks = torch.zeros(5, 8, 8, dtype=torch.bool)
    masks[0, :4, :4] = True  # patch 0: all of the evidence above 0.4, of image 0
    masks[1, 4:, 4:] = True
    masked = dataclasses.replace(data, masks=masks)
    found = evaluate(model, masked, train=train)
    assert found.value("pixel_ap") == pytest.approx(1.0)
    # 32 of the 128 pixels of the two images with a mask.
    assert found["pixel_ap"].floors["whole image"] == pytest.approx(1 / 4)
    assert "pixel_ap" not in evaluate(model, data, train=train)


def test_random_weights_are_the_models_own(worked) -> None:
    model, data, train = worked
    data, train = (part.subset(torch.arange(len(part)).repeat(24)) for part in (data, train))
    found = evaluate(model, data, train=train)
    again = evaluate(model, data, train=train, batch_size=37)
    for name in LOCAL:
        assert found[name].floors == pytest.approx(again[name].floors, abs=1e-6)
    # A shuffled weight is inside with the chance that a patch is.
    shares = found["weight_inside"].floors
    assert shares["random weights"] == pytest.approx(shares["uniform weights"], abs=0.1)
    assert shares["random weights"] != pytest.approx(shares["uniform weights"], abs=1e-4)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4])
def test_batches_do_not_change_the_result(worked, batch_size: int) -> None:
    model, data, train = worked
    whole = evaluate(model, data, train=train, held_out=data)
    parts = evaluate(model, data, train=train, held_out=data, batch_size=batch_size)
    assert whole.thresholds == parts.thresholds
    for one, other in zip(whole.measures, parts.measures, strict=True):
        assert one.value == pytest.approx(other.value, abs=1e-7)
        assert one.floors == pytest.approx(other.floors, abs=1e-7)
    assert whole.per_image is not None
    assert parts.per_image is not None
    assert torch.equal(whole.per_image.predictions, parts.per_image.predictions)
    assert torch.equal(whole.per_image.correct, parts.per_image.correct)


def test_without_training_set_fitted_floors_are_empty(worked) -> None:
    model, data, train = worked
    found = evaluate(model, data)
    assert found["accuracy"].floors == {"majority class": None}
    assert found["box_ap"].floors["whole image"] == 0.25
    for name in LOCAL:
        assert found[name].floors["best centred box"] is None
    boxless = evaluate(model, data, train=dataclasses.replace(train, boxes=None, box_labels=None))
    assert boxless["accuracy"].floors == {"majority class": 0.6}
    assert boxless["box_ap"].floors["best centred box"] is None


def test_without_boxes_or_patches_only_the_classification_is_measured(worked) -> None:
    model, data, train = worked
    boxless = evaluate(model, dataclasses.replace(data, boxes=None, box_labels=None), train=train)
    assert [measure.name for measure in boxless.measures] == list(CLASSES)
    assert boxless.boxed_images == 0
    flat = evaluate(Canned(ImagePrediction(model.answers.logits)), data, train=train)
    assert [measure.name for measure in flat.measures] == list(CLASSES)
    assert flat["accuracy"] == boxless["accuracy"]
    assert "box_ap" not in flat
    with pytest.raises(KeyError, match="'box_ap' is not among accuracy, "):
        flat["box_ap"]


def test_boxes_of_other_classes_only_leave_everything_undefined(worked) -> None:
    model, data, train = worked
    assert data.box_labels is not None
    alien = dataclasses.replace(data, box_labels=torch.full_like(data.box_labels, -1))
    found = evaluate(model, alien, train=train)
    assert found.boxed_images == 0
    for name in LOCAL:
        assert found.value(name) is None
        assert set(found[name].floors.values()) == {None}


def test_the_model_runs_once_in_evaluation_mode_and_is_left_as_it_was(worked) -> None:
    model, data, train = worked
    model.train()
    model.norm.eval()
    ticks = []
    evaluate(model, data, train=train, batch_size=2, progress=lambda *now: ticks.append(now))
    assert model.seen == [(n, False, True, torch.uint8) for n in (2, 2, 1)]
    assert ticks == [(2, 5), (4, 5), (5, 5)]
    assert model.training
    assert not model.norm.training


def test_the_mode_comes_back_after_an_error(worked) -> None:
    model, data, _ = worked
    model.train()

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(model, data, progress=stop)
    assert model.training
    assert model.norm.training
    assert not torch.is_inference_mode_enabled()


def test_the_autocast_context_is_entered_for_each_batch(worked) -> None:
    model, data, _ = worked
    entered = []

    @contextlib.contextmanager
    def autocast():
        entered.append(len(model.seen))
        yield

    evaluate(model, data, batch_size=2, autocast=autocast)
    validate(model, data, 3, autocast)
    assert entered == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("batch_size", [3, 64])
def test_validation_is_scikit_learns_loss_and_accuracy(batch_size: int) -> None:
    labels = torch.randint(4, (50,))
    logits = torch.randn(50, 4) + 2 * nn.functional.one_hot(labels, 4)
    loss, accuracy = validate(
        Canned(ImagePrediction(logits)), numbered(labels, 4), batch_size, contextlib.nullcontext
    )
    probabilities = logits.double().softmax(dim=1).numpy()
    assert loss == pytest.approx(log_loss(labels, probabilities, labels=range(4)), rel=1e-5)
    assert accuracy == pytest.approx(accuracy_score(labels, logits.argmax(dim=1)), abs=1e-12)


@pytest.mark.parametrize("batch_size", [3, 64])
def test_multi_label_validation(batch_size: int) -> None:
    labels = torch.randint(2, (50, 3), dtype=torch.uint8)
    logits = torch.randn(50, 3) + 3 * labels - 1.5
    loss, share = validate(Canned(ImagePrediction(logits)), numbered(labels, 3), batch_size)
    y, p = labels.double().numpy(), 1 / (1 + np.exp(-logits.double().numpy()))
    entropy = -(y * np.log(p) + (1 - y) * np.log(1 - p)).sum(axis=1).mean()
    assert loss == pytest.approx(entropy, rel=1e-5)
    assert share == pytest.approx(accuracy_score(y, p > 0.5), abs=1e-12)


def test_validation_takes_any_function(worked) -> None:
    model, data, _ = worked
    assert validate(lambda images: model(images), data, 2) == validate(model, data, 2)


def test_multi_label_measures_are_scikit_learns() -> None:
    labels = torch.randint(2, (40, 4), dtype=torch.uint8)
    labels[:, 2] = 0  # a class that does not occur
    train = torch.tensor([[0, 1, 0, 0]] * 2 + [[1, 1, 0, 1]], dtype=torch.uint8)
    logits = torch.randn(40, 4) + labels
    found = evaluate(
        Canned(ImagePrediction(logits)), numbered(labels, 4), train=numbered(train, 4), batch_size=7
    )
    here = [0, 1, 3]
    mean_ap = average_precision_score(labels[:, here], logits[:, here], average="macro")
    assert [measure.name for measure in found.measures] == [
        "mean_average_precision",
        "mean_average_precision_voc2007",
        "exact_match",
        "calibration_error",
    ]
    measure = found["mean_average_precision"]
    assert measure.value == pytest.approx(mean_ap, abs=1e-6)
    assert measure.label == "mean AP (3 of 4 occur)"
    chance = labels[:, here].double().mean().item()
    assert measure.floors == {"constant scores": pytest.approx(chance)}
    y = labels.numpy()
    assert found.value("exact_match") == pytest.approx(accuracy_score(y, logits.numpy() > 0))
    commonest = (y == np.array([0, 1, 0, 0])).all(axis=1).mean()
    assert found["exact_match"].floors == {"commonest labels": pytest.approx(commonest)}
    assert found.per_image is not None
    assert found.per_image.predictions.tolist() == logits.argmax(dim=1).tolist()
    top = logits.double().sigmoid().amax(dim=1)
    torch.testing.assert_close(found.per_image.probabilities.double(), top, rtol=1e-5, atol=0)


def small_model(head: str, **options) -> la.PatchClassifier:
    settings = {"width": 0.05, "in_channels": 1, "strided_layers": (1, 6)}
    return la.create_model(
        "resnet18", head=head, patch_kernel=3, patch_stride=2, **settings, **options
    )


def test_mean_pooling_is_its_own_floor() -> None:
    splits = digits(train=40, test=21)
    found = evaluate(small_model("mean"), splits.test, train=splits.train, batch_size=8)
    for name in ("patch_precision", "patch_recall", "patch_f", "weight_inside"):
        assert found[name].floors["uniform weights"] == pytest.approx(found.value(name), abs=1e-6)
    share = found.value("weight_inside")
    assert share is not None
    assert 0 < share < 0.5


def test_a_real_baseline_and_bf16() -> None:
    splits = digits(train=40, test=21)
    found = evaluate(
        small_model("baseline"),
        splits.test,
        train=splits.train,
        batch_size=8,
        autocast=lambda: torch.autocast("cpu", torch.bfloat16),
    )
    assert [measure.name for measure in found.measures][1] == "top5_accuracy"
    assert not {"where: boxes", "oracle"} & {measure.group for measure in found.measures}
    assert found.per_image is not None
    assert found.per_image.probabilities.dtype == torch.float32


def test_multi_label_scenes_count_any_box() -> None:
    splits = multi_digits(train=20, test=13)
    model = small_model("loss-attention", multi_label=True)
    found = evaluate(model, splits.test, train=splits.train, batch_size=8)
    assert found.boxed_images == 13
    assert [measure.name for measure in found.measures[4:]] == list(LOCAL)
    undefined = [measure.name for measure in found.measures if measure.value is None]
    assert undefined == NEED_A_THRESHOLD


def test_json_round_trip(worked) -> None:
    model, data, train = worked
    found = evaluate(model, data, train=train)
    text = json.dumps(found.to_json(), allow_nan=False)
    assert Evaluation.from_json(json.loads(text)) == found
    assert Evaluation.from_json(json.loads(text)).per_image is None
    assert found.per_class["accuracy"] == {"class 0": 2 / 3, "class 1": 1.0}
    assert json.loads(text)["measures"][5] == {
        "name": "patch_f",
        "label": "patch F",
        "value": found.value("patch_f"),
        "unit": "",
        "higher_is_better": True,
        "range": [0, 1],
        "floors": dict(found["patch_f"].floors),
        "group": "where: patches and pixels",
    }
    assert set(json.loads(text)) == {
        "format_version",
        "split",
        "images",
        "boxed_images",
        "measures",
        "per_class",
        "thresholds",
    }


def test_undefined_values_are_null_in_json(worked) -> None:
    model, data, _ = worked
    assert data.boxes is not None
    undefined = evaluate(model, dataclasses.replace(data, box_labels=torch.full((5, 2), -1)))
    text = json.dumps(undefined.to_json(), allow_nan=False)
    assert Evaluation.from_json(json.loads(text)) == undefined
    assert json.loads(text)["measures"][-1]["value"] is None


def test_json_of_the_first_version_is_read() -> None:
    measure = {"name": "box_ap", "label": "box AP", "value": 0.5, "floors": {"whole image": 0.25}}
    rest = {"unit": "", "higher_is_better": True, "range": [0.0, 1.0]}
    old = {"split": "test", "images": 7, "boxed_images": 5, "measures": [{**measure, **rest}]}
    found = Evaluation.from_json({"format_version": 1, **old})
    assert (found.value("box_ap"), found["box_ap"].group) == (0.5, "where: boxes")
    assert (found.images, found.thresholds) == (7, {})


@pytest.mark.parametrize(
    "spoil",
    [
        lambda values: {},
        lambda values: {**values, "measures": [{"name": "accuracy"}]},
        lambda values: {**values, "measures": 3},
        lambda values: {**values, "extra": 3},
    ],
)
def test_json_that_is_no_evaluation(worked, spoil) -> None:
    model, data, _ = worked
    with pytest.raises(InputError, match="not an evaluation that loss-attention wrote"):
        Evaluation.from_json(spoil(evaluate(model, data).to_json()))


def test_json_of_a_newer_version(worked) -> None:
    model, data, _ = worked
    with pytest.raises(InputError, match="format 3, this version reads up to 2"):
        Evaluation.from_json({**evaluate(model, data).to_json(), "format_version": 3})


def test_bad_input_is_named(worked) -> None:
    model, data, _ = worked
    with pytest.raises(InputError, match="no images"):
        evaluate(model, data.subset(torch.arange(0)))
    with pytest.raises(InputError, match="batch_size must be at least 1, got 0"):
        validate(model, data, 0)


def test_classes_that_are_not_the_models_are_named() -> None:
    data = digits(train=1, test=2).test
    names = [*"012345678", "nine"]
    with pytest.raises(InputError, match="model has 3 classes and the data 10"):
        evaluate(small_model("mean", num_classes=3), data)
    with pytest.raises(InputError, match="class 9 is 'nine' in the model and '9' in the data"):
        evaluate(small_model("mean", class_names=names), data)
    with pytest.raises(InputError, match="made for any number of labels an image"):
        evaluate(small_model("mean", multi_label=True), data)
