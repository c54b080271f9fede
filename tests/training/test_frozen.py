"""Runs whose backbone is frozen: what is trained, what is not, and what runs share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_sample_weight
from torch import nn
from torch.nn import functional as F
from training.test_features import counted
from training.tiny import run_stopped_at, start_run, tiny_recipe, tiny_splits

from loss_attention.data.sample import Splits
from loss_attention.errors import InputError
from loss_attention.model import PatchClassifier, load
from loss_attention.training import job
from loss_attention.training.job import RunOptions, build_model, continue_run
from loss_attention.training.recipe import Recipe
from loss_attention.training.run_folder import RunFolder
from loss_attention.training.sampling import epoch_batches

__all__ = ["counted"]

CPU = RunOptions(accelerator="cpu")
RECIPE = tiny_recipe(frozen=True, views=3, epochs=2, horizontal_flip=True)


def trained(path: Path, recipe: Recipe = RECIPE, options: RunOptions = CPU) -> RunFolder:
    splits = replaced(recipe)
    run = start_run(path, recipe, splits, options)
    assert continue_run(run, splits)
    return run


def replaced(recipe: Recipe) -> Splits:
    return Splits(
        tiny_splits().trainval,
        tiny_splits().test,
        "bright squares",
        validation_fraction=recipe.validation_fraction,
        seed=recipe.seed,
    )


def state(run: RunFolder) -> dict[str, Any]:
    found = run.load_state()
    assert found is not None
    return found


@pytest.mark.parametrize("balance", ["none", "weights"])
def test_the_head_learns_as_in_a_plain_loop_on_features_and_the_backbone_stays(tmp_path, balance):
    """No Fabric, no cache, no view: plain torch on what the backbone makes, rounded to 16 bits."""
    recipe = tiny_recipe(
        frozen=True,
        epochs=1,
        batch_size=16,
        gamma_max=0.0,
        validation_fraction=0.0,
        learning_rate=0.01,
        balance=balance,
    )
    splits = replaced(recipe)
    labels = splits.trainval.labels.clone()
    labels[:20] = 0
    splits = replace(splits, trainval=replace(splits.trainval, labels=labels))
    run = start_run(tmp_path / "run", recipe, splits, CPU)
    assert continue_run(run, splits)
    of_classes = "balanced" if balance == "weights" else None
    of_images = torch.from_numpy(compute_sample_weight(of_classes, labels.numpy())).float()
    model = build_model(recipe, splits).to(memory_format=torch.channels_last)
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.head.train()
    images = (splits.trainval.images / 255 - model.mean) / model.std
    with torch.no_grad():
        computed = model.backbone.eval()(images)
    (file,) = (tmp_path / "features").rglob("level-0.bin")
    stored = np.fromfile(file, np.float16).reshape(46, 6, 6, 31)
    features = torch.from_numpy(stored.astype(np.float32)).permute(0, 3, 1, 2)
    torch.testing.assert_close(features, computed, rtol=2**-10, atol=1e-4)
    optimizer = torch.optim.SGD(model.head.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)
    batches = epoch_batches(46, 16, recipe.seed, 0)
    assert len(batches) == 3
    for batch, rate in zip(batches, (0.01, 0.01, 0.001), strict=True):
        optimizer.param_groups[0]["lr"] = rate
        logits = model.head(features[batch], (12, 12)).logits
        optimizer.zero_grad()
        losses = F.cross_entropy(logits, labels[batch], reduction="none")
        (of_images[batch] * losses).mean().backward()
        optimizer.step()
    found = state(run)["model"]
    for name, expected in model.state_dict().items():
        torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-5)
        learned = name.startswith("head.")
        assert torch.equal(found[name], start[name]) == (not learned), name
    whole = load(run.weights).state_dict()
    assert all(torch.equal(whole[name], found[name]) for name in found)


def test_a_step_stopped_in_training_ends_bit_identical(tmp_path, monkeypatch):
    whole = trained(tmp_path / "whole")
    run = run_stopped_at(tmp_path / "a", RECIPE, replaced(RECIPE), [2, 8], monkeypatch)
    one, two = state(whole), state(run)
    assert all(torch.equal(one["model"][name], two["model"][name]) for name in one["model"])
    assert one["position"]["best"] == two["position"]["best"]


def test_a_run_is_resumed_on_the_backbone_of_its_checkpoint(tmp_path, monkeypatch):
    """Even where another would be built now, as without the file of its weights."""
    whole = trained(tmp_path / "whole")
    build = job.build_model

    def other(*given: Any, begun: Any = None, **also: Any) -> PatchClassifier:
        model = build(*given, begun=begun, **also)
        if begun is not None:
            nn.init.ones_(next(model.backbone.parameters()))
        return model

    monkeypatch.setattr(job, "build_model", other)
    run = run_stopped_at(tmp_path / "a", RECIPE, replaced(RECIPE), [7], monkeypatch)
    one, two = state(whole), state(run)
    assert all(torch.equal(one["model"][name], two["model"][name]) for name in one["model"])


def test_without_a_checkpoint_other_weights_than_at_the_beginning_are_refused(
    tmp_path, monkeypatch
):
    run = run_stopped_before_training(tmp_path / "run", monkeypatch)
    build = job.build_model

    def other(*given: Any, **also: Any) -> PatchClassifier:
        model = build(*given, **also)
        nn.init.ones_(next(model.backbone.parameters()))
        return model

    monkeypatch.setattr(job, "build_model", other)
    with pytest.raises(InputError, match=r"weights are not those that the run .* began with"):
        continue_run(run, replaced(RECIPE))


def run_stopped_before_training(path: Path, patch: pytest.MonkeyPatch) -> RunFolder:
    run = start_run(path, RECIPE, replaced(RECIPE), CPU)
    with patch.context() as within:
        within.setattr(job._Work, "train", lambda *_: {"finished": False})
        assert not continue_run(run, replaced(RECIPE))
    return run


def pretrained(patch: pytest.MonkeyPatch) -> None:
    """Have every model begin with one and the same backbone, whatever the seed."""
    build = job.build_model

    def same(*given: Any, **also: Any) -> PatchClassifier:
        model = build(*given, **also)
        generator = torch.Generator().manual_seed(5)
        for parameter in model.backbone.parameters():
            nn.init.normal_(parameter, std=0.1, generator=generator)
        model.set_normalisation(torch.tensor([0.3]), torch.tensor([0.3]))
        return model

    patch.setattr(job, "build_model", same)


def test_seeds_and_thresholds_share_their_features(tmp_path, monkeypatch, counted):
    pretrained(monkeypatch)
    first = trained(tmp_path / "a")
    assert sum(counted) == 46
    counted.clear()
    for number, changes in enumerate(({"seed": 1}, {"threshold": 0.5}, {"head": "mean"})):
        second = trained(tmp_path / str(number), tiny_recipe(**RECIPE_CHANGES | changes))
        assert first.facts()["features"]["folder"] == second.facts()["features"]["folder"]
    assert counted == []
    assert len(list((tmp_path / "features").iterdir())) == 1


RECIPE_CHANGES: dict[str, Any] = {
    "frozen": True,
    "views": 3,
    "epochs": 2,
    "horizontal_flip": True,
}


def test_a_folder_for_features_can_be_named(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    run = trained(
        tmp_path / "a" / "run", options=RunOptions(accelerator="cpu", features=str(elsewhere))
    )
    assert Path(run.facts()["features"]["folder"]).parent == elsewhere
    assert not (tmp_path / "a" / "features").exists()


def test_averaged_weights_of_a_frozen_run_have_its_backbone(tmp_path):
    run = trained(tmp_path / "run", tiny_recipe(**RECIPE_CHANGES, average_weights=0.9))
    found, averaged = state(run)["model"], state(run)["averaged"]
    for name in found:
        if name.startswith("backbone."):
            assert torch.equal(found[name], averaged[name]), name


def test_views_need_a_frozen_backbone():
    with pytest.raises(InputError, match="`views` above 1 needs `frozen`, got 2"):
        tiny_recipe(views=2)
    with pytest.raises(InputError, match="`views` must be above 0, got 0"):
        tiny_recipe(views=0, frozen=True)
