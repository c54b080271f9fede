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
from loss_attention.prediction import ImagePrediction, PatchPrediction

NONE = [float("nan")] * 4
GRID = PatchGrid(2, 2, window=4, stride=4, height=8, width=8)
LOCAL = ("patch_precision", "patch_recall", "patch_f", "weight_inside", "box_ap")


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
    expected = {
        "accuracy": (4 / 5, {"majority class": 3 / 5}),
        "patch_precision": (4 / 5, {"uniform weights": 4 / 10}),
        "patch_recall": (4 / 9, {"uniform weights": 4 / 9}),
        "patch_f": (8 / 14, {"uniform weights": 8 / 19}),
        "weight_inside": (3.8 / 4, {"uniform weights": 2.25 / 4}),
        "box_ap": (3 / 4, {"whole image": 1 / 4, "best centred box": 0.0}),
    }
    assert [measure.name for measure in found.measures] == list(expected)
    for name, (value, floors) in expected.items():
        assert found.value(name) == pytest.approx(value), name
        assert found[name].floors == pytest.approx(floors), name
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
    assert found["box_ap"].floors == {"whole image": 0.25, "best centred box": 0.25}


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4])
def test_batches_do_not_change_the_result(worked, batch_size: int) -> None:
    model, data, train = worked
    whole = evaluate(model, data, train=train)
    parts = evaluate(model, data, train=train, batch_size=batch_size)
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
    assert found["box_ap"].floors == {"whole image": 0.25, "best centred box": None}
    boxless = evaluate(model, data, train=dataclasses.replace(train, boxes=None, box_labels=None))
    assert boxless["accuracy"].floors == {"majority class": 0.6}
    assert boxless["box_ap"].floors["best centred box"] is None


def test_without_boxes_or_patches_only_the_classification_is_measured(worked) -> None:
    model, data, train = worked
    boxless = evaluate(model, dataclasses.replace(data, boxes=None, box_labels=None), train=train)
    assert [measure.name for measure in boxless.measures] == ["accuracy"]
    assert boxless.boxed_images == 0
    flat = evaluate(Canned(ImagePrediction(model.answers.logits)), data, train=train)
    assert [measure.name for measure in flat.measures] == ["accuracy"]
    assert flat["accuracy"] == boxless["accuracy"]
    assert "box_ap" not in flat
    with pytest.raises(KeyError, match="'box_ap' is not among accuracy"):
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
    assert [measure.name for measure in found.measures] == ["mean_average_precision", "exact_match"]
    measure = found["mean_average_precision"]
    assert measure.value == pytest.approx(mean_ap, abs=1e-6)
    assert measure.label == "mean average precision (3 of 4 classes occur)"
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
    assert [measure.name for measure in found.measures] == ["accuracy"]
    assert found.per_image is not None
    assert found.per_image.probabilities.dtype == torch.float32


def test_multi_label_scenes_count_any_box() -> None:
    splits = multi_digits(train=20, test=13)
    model = small_model("loss-attention", multi_label=True)
    found = evaluate(model, splits.test, train=splits.train, batch_size=8)
    assert found.boxed_images == 13
    assert [measure.name for measure in found.measures[2:]] == list(LOCAL)
    assert all(measure.value is not None for measure in found.measures[3:])


def test_json_round_trip(worked) -> None:
    model, data, train = worked
    found = evaluate(model, data, train=train)
    text = json.dumps(found.to_json(), allow_nan=False)
    assert Evaluation.from_json(json.loads(text)) == found
    assert Evaluation.from_json(json.loads(text)).per_image is None
    assert json.loads(text)["measures"][3] == {
        "name": "patch_f",
        "label": "patch F",
        "value": found.value("patch_f"),
        "unit": "",
        "higher_is_better": True,
        "range": [0, 1],
        "floors": {"uniform weights": found["patch_f"].floors["uniform weights"]},
    }
    assert set(json.loads(text)) == {
        "format_version",
        "split",
        "images",
        "boxed_images",
        "measures",
    }


def test_undefined_values_are_null_in_json(worked) -> None:
    model, data, _ = worked
    assert data.boxes is not None
    undefined = evaluate(model, dataclasses.replace(data, box_labels=torch.full((5, 2), -1)))
    text = json.dumps(undefined.to_json(), allow_nan=False)
    assert Evaluation.from_json(json.loads(text)) == undefined
    assert json.loads(text)["measures"][-1]["value"] is None


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
    with pytest.raises(InputError, match="format 2, this version reads up to 1"):
        Evaluation.from_json({**evaluate(model, data).to_json(), "format_version": 2})


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
