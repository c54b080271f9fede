"""How a set is run through: batches, modes, real models, and input that is refused."""

from __future__ import annotations

import contextlib

import pytest
import torch
from evaluation.canned import LOCAL, NEED_A_THRESHOLD

import loss_attention as la
from loss_attention.data.digits import digits, multi_digits
from loss_attention.errors import InputError
from loss_attention.evaluation.measuring import evaluate, validate
from loss_attention.evaluation.metric import LOCALITY


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4])
def test_batches_do_not_change_the_result(worked, batch_size: int) -> None:
    model, data, train = worked
    whole = evaluate(model, data, train=train, held_out=data)
    parts = evaluate(model, data, train=train, held_out=data, batch_size=batch_size)
    assert whole.thresholds == parts.thresholds
    for one, other in zip(whole.metrics, parts.metrics, strict=True):
        assert one.value == pytest.approx(other.value, abs=1e-7)
        assert one.baselines == pytest.approx(other.baselines, abs=1e-7)
    assert whole.per_image is not None
    assert parts.per_image is not None
    assert torch.equal(whole.per_image.predictions, parts.per_image.predictions)
    assert torch.equal(whole.per_image.correct, parts.per_image.correct)


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


def small_model(head: str, **options) -> la.PatchClassifier:
    settings = {"width": 0.05, "in_channels": 1, "strided_layers": (1, 6)}
    return la.create_model(
        "resnet18", head=head, patch_kernel=3, patch_stride=2, **settings, **options
    )


def test_mean_pooling_is_its_own_floor() -> None:
    splits = digits(train=40, test=21)
    found = evaluate(small_model("mean"), splits.test, train=splits.trainval, batch_size=8)
    for name in ("patch_precision", "patch_recall", "patch_f1", "weight_inside"):
        assert found[name].baselines["uniform"] == pytest.approx(found.value(name), abs=1e-6)
    share = found.value("weight_inside")
    assert share is not None
    assert 0 < share < 0.5


def test_a_real_baseline_and_bf16() -> None:
    splits = digits(train=40, test=21)
    found = evaluate(
        small_model("baseline"),
        splits.test,
        train=splits.trainval,
        batch_size=8,
        autocast=lambda: torch.autocast("cpu", torch.bfloat16),
    )
    assert [metric.name for metric in found.metrics][2] == "top5_accuracy"
    assert not {"localisation: boxes", "oracle"} & {metric.group for metric in found.metrics}
    assert found.per_image is not None
    assert found.per_image.probabilities.dtype == torch.float32


def test_multi_label_scenes_count_any_box() -> None:
    splits = multi_digits(train=20, test=13)
    model = small_model("loss-attention", multi_label=True)
    found = evaluate(model, splits.test, train=splits.trainval, batch_size=8)
    assert found.boxed_images == 13
    assert found.map == "evidence"
    names = [metric.name for metric in found.metrics[4:] if metric.group != LOCALITY]
    assert names == [name for name in LOCAL if name != "empty_maps"]
    undefined = [metric.name for metric in found.metrics if metric.value is None]
    assert undefined == NEED_A_THRESHOLD


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
