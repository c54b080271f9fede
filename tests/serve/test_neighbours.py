"""The training images that a photo is most like, by what a run with a frozen backbone keeps."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from training.tiny import CLASSES, start_run, tiny_recipe, tiny_splits

from loss_attention.data.sample import Splits
from loss_attention.errors import InputError
from loss_attention.serve.answering import ServedModel
from loss_attention.serve.neighbours import has_features, neighbours_of
from loss_attention.training.finished import load_weights
from loss_attention.training.job import RunOptions, continue_run
from loss_attention.training.run_folder import RunFolder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, Splits]:
    folder, splits = tmp_path_factory.mktemp("neighbours"), tiny_splits(images=30)
    recipe = tiny_recipe(frozen=True, views=2, epochs=1)
    run = start_run(folder / "run", recipe, splits, RunOptions(accelerator="cpu"))
    assert continue_run(run, splits)
    return run, splits


def test_a_training_image_is_most_like_itself(trained: tuple[RunFolder, Splits]) -> None:
    run, splits = trained
    assert has_features(run)
    model = load_weights(run)
    data = splits.trainval
    neighbours = neighbours_of(run, model, data)
    # By themselves, in NumPy.
    with torch.no_grad():
        maps = model.features(data.images).double().numpy()
        predicted = model(data.images).logits.argmax(dim=1)
    means = maps.mean(axis=(2, 3))
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    served = ServedModel(model)
    served.wants_means = True
    said = served.said(data.images[:4].numpy())
    for number in range(4):
        mean = said[number].mean
        assert mean is not None
        np.testing.assert_allclose(mean.numpy(), means[number], atol=1e-4)
        found = neighbours.of(mean, 3)
        order = np.argsort(-means @ means[number])
        assert order[0] == number
        # What is kept has fewer bits, so that near ones may change places.
        assert [one.similarity for one in found] == pytest.approx(
            np.sort(-means @ means[number])[:3] * -1, abs=2e-3
        )
        first = found[0]
        assert first.similarity == pytest.approx(1, abs=1e-3)
        assert first.label == CLASSES[int(data.labels[number])]
        assert first.prediction == CLASSES[int(predicted[number])]
        np.testing.assert_array_equal(np.asarray(first.picture), data.images[number, 0].numpy())
    assert len(neighbours.of(mean, 100)) == 30


def test_features_of_others_are_refused(trained: tuple[RunFolder, Splits], tmp_path: Path) -> None:
    run, splits = trained
    model = load_weights(run)
    with pytest.raises(InputError, match="not of the run's images"):
        neighbours_of(run, model, tiny_splits(images=30, seed=1).trainval)
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            parameter.copy_(torch.randn_like(parameter))
    with pytest.raises(InputError, match="not those of this model's backbone"):
        neighbours_of(run, model, splits.trainval)


def test_features_are_found_where_the_run_is_now(
    trained: tuple[RunFolder, Splits], tmp_path: Path
) -> None:
    run, splits = trained
    shutil.copytree(run.path.parent, tmp_path / "moved")
    moved = RunFolder.open(tmp_path / "moved" / "run")
    told = moved.facts()["features"]
    with moved.locked():
        moved.note(features=told | {"folder": told["folder"].replace("neighbours", "gone")})
    assert has_features(moved)
    found = neighbours_of(moved, load_weights(moved), splits.trainval)
    assert isinstance(found.of(torch.zeros(31), 1)[0].picture, Image.Image)
    shutil.rmtree(tmp_path / "moved" / "features")
    assert not has_features(moved)
