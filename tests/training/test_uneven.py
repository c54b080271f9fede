"""Runs on uneven classes: weighted losses, balanced epochs, and the epoch that is kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score
from sklearn.utils.class_weight import compute_class_weight
from training.stored import load_stored, store_tiny
from training.tiny import run_stopped_at, start_run, tiny_recipe, tiny_splits

from loss_attention.data.sample import Splits, are_uneven, images_by_class
from loss_attention.errors import InputError
from loss_attention.model import load
from loss_attention.training.bookkeeping import Position, Validated
from loss_attention.training.job import continue_run
from loss_attention.training.recipe import RunOptions
from loss_attention.training.run_folder import RunFolder

CPU = RunOptions(accelerator="cpu")


def uneven_splits(images: int = 46, held_out: float = 0.3) -> Splits:
    """Those of `tiny_splits`, with a quarter of the images on the right."""
    splits = tiny_splits(2 * images, held_out=held_out)
    labels = splits.trainval.labels
    left, right = (labels == 0).nonzero()[:, 0], (labels == 1).nonzero()[:, 0]
    few = images // 4
    kept = torch.cat([left[: images - few], right[:few]]).sort().values
    return replace(splits, trainval=splits.trainval.subset(kept))


def trained(path: Path, splits: Splits, **changes: Any) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl of a run."""
    recipe = tiny_recipe(**{"epochs": 1, "validation_fraction": 0.3, **changes})
    run = start_run(path, recipe, splits, CPU)
    assert continue_run(run, splits)
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def test_images_weigh_as_rare_as_their_class_is_among_those_trained_on(tmp_path: Path) -> None:
    splits = uneven_splits()
    (line,) = trained(tmp_path / "run", splits, balance="weights", learning_rate=1e-9)
    counts = RunFolder(tmp_path / "run").facts()["class_images"]
    assert counts == np.bincount(splits.train.labels.numpy()).tolist()
    weights = compute_class_weight(
        "balanced", classes=np.array([0, 1]), y=splits.train.labels.numpy()
    )
    held, model = splits.validation, load(tmp_path / "run").eval()
    with torch.no_grad():
        p = model(held.decoded().images).logits.double().softmax(dim=1).numpy()
    y = held.labels.numpy()
    expected = np.mean([-weights[k] * np.log(p[i, k]) for i, k in enumerate(y)])
    assert line["validation_loss"] == pytest.approx(expected, rel=1e-5)


def test_balanced_epochs_are_resumed_and_streamed_like_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe(epochs=2, balance="sampling")
    data = store_tiny(tmp_path / "data")
    weights = []
    for name, stream, stops in (("whole", "no", ()), ("parts", "no", (3,)), ("stream", "yes", ())):
        splits = load_stored(data, stream)
        run = run_stopped_at(tmp_path / name, recipe, splits, stops, monkeypatch)
        weights.append(load(run.path).state_dict())
    for other in weights[1:]:
        for name, tensor in weights[0].items():
            assert torch.equal(tensor, other[name]), name


def test_what_cannot_be_balanced_so_is_refused_before_a_run_begins(tmp_path: Path) -> None:
    splits = tiny_splits()
    with pytest.raises(InputError, match="`balance` weights is for cross-entropy, not for the mar"):
        start_run(
            tmp_path / "a",
            tiny_recipe(head="capsule-dynamic-routing", balance="weights"),
            splits,
            CPU,
        )
    several = replace(splits.trainval, labels=splits.trainval.label_matrix())
    with pytest.raises(InputError, match=r"`balance` sampling is for one label .*; .* weights"):
        start_run(
            tmp_path / "b", tiny_recipe(balance="sampling"), replace(splits, trainval=several), CPU
        )
    assert not RunFolder(tmp_path / "b").begun


def test_balanced_accuracy_of_the_validation_is_scikit_learns(tmp_path: Path) -> None:
    splits = uneven_splits()
    lines = trained(tmp_path / "run", splits, epochs=3, learning_rate=0.02)
    best = RunFolder(tmp_path / "run").facts()["best_epoch"]
    held, model = splits.validation, load(tmp_path / "run").eval()
    with torch.no_grad():
        answers = model(held.decoded().images).logits.argmax(dim=1)
    expected = balanced_accuracy_score(held.labels, answers)
    assert lines[best - 1]["validation_balanced_accuracy"] == pytest.approx(expected, abs=1e-12)


def test_uneven_classes_have_the_best_epoch_chosen_by_balanced_accuracy(tmp_path: Path) -> None:
    recipe = tiny_recipe(epochs=1, validation_fraction=0.3)
    for name, splits, changes, expected in (
        ("even", tiny_splits(held_out=0.3), {}, "accuracy"),
        ("uneven", uneven_splits(), {}, "balanced-accuracy"),
        ("asked", uneven_splits(), {"choose_by": "accuracy"}, "accuracy"),
    ):
        assert are_uneven(splits.train.labels) == (name != "even")
        run = start_run(tmp_path / name, replace(recipe, **changes), splits, CPU)
        assert continue_run(run, splits)
        state = run.load_state()
        assert state is not None
        assert state["position"]["chosen_by"] == expected
    high, fair = Validated(0.1, 0.9, 0.5), Validated(0.5, 0.7, 0.7)
    position = Position(chosen_by="balanced-accuracy")
    assert position.is_best(high)
    assert position.is_best(fair)
    assert not position.is_best(Validated(0.6, 0.9, 0.7))  # as balanced, and a higher loss
    assert not position.is_best(high)
    assert Position().is_best(high)
    assert position.is_best(Validated())  # nothing to validate on: the last


def test_a_run_of_version_0_1_goes_on_choosing_by_accuracy() -> None:
    position = Position.read({"epoch": 2, "best": (0.9, -0.3), "best_epoch": 2})
    assert position.chosen_by == "accuracy"
    assert not position.is_best(Validated(0.2, 0.8, 1.0))
    with pytest.raises(ValueError, match="it cannot be chosen by 'loss'"):
        Position.read({"chosen_by": "loss"})


def test_images_of_each_class_are_counted_whatever_labels_an_image_has() -> None:
    data = tiny_splits().trainval.subset(torch.arange(10))
    one = replace(data, labels=torch.zeros(10, dtype=torch.int64), class_names=("a", "b"))
    assert images_by_class(one).tolist() == [10, 0]
    matrix = torch.ones(10, 2, dtype=torch.uint8)
    matrix[:3, 0] = 0
    assert images_by_class(replace(data, labels=matrix)).tolist() == [7, 10]


def test_balanced_accuracy_of_several_labels_is_refused(tmp_path: Path) -> None:
    splits = tiny_splits()
    several = replace(splits.trainval, labels=splits.trainval.label_matrix())
    with pytest.raises(InputError, match="`choose_by` balanced-accuracy is for one label an imag"):
        start_run(
            tmp_path / "run",
            tiny_recipe(choose_by="balanced-accuracy"),
            replace(splits, trainval=several),
            CPU,
        )


def test_steps_become_whole_epochs_when_a_run_begins(tmp_path: Path) -> None:
    splits = tiny_splits(46, held_out=0.3)  # 32 to train on, 4 steps of 8
    for steps, epochs in ((1, 1), (4, 1), (5, 2)):
        recipe = tiny_recipe(validation_fraction=0.3, steps=steps, epochs=0)
        run = start_run(tmp_path / str(steps), recipe, splits, CPU)
        assert (run.recipe().epochs, run.recipe().steps) == (epochs, None)
        assert run.facts()["steps"] == steps
    assert continue_run(run, splits)
    assert len(run.metrics()) == 2
