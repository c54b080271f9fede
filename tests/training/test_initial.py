"""A run that begins with another's weights: the same to the bit, refused where they do not fit."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from training.tiny import run_stopped_at, start_run, tiny_recipe, tiny_splits

from loss_attention.data.sample import Splits
from loss_attention.errors import InputError
from loss_attention.model import load
from loss_attention.training.job import begin_run, continue_run
from loss_attention.training.recipe import RunOptions
from loss_attention.training.run_folder import RunFolder

CPU = RunOptions(accelerator="cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose data has another normalisation than the runs that begin with it."""
    torch.set_num_threads(1)
    folder, splits = tmp_path_factory.mktemp("trained") / "run", tiny_splits(seed=5)
    dark = replace(splits, trainval=replace(splits.trainval, images=splits.trainval.images // 2))
    run = start_run(folder, tiny_recipe(epochs=1), dark, CPU)
    assert continue_run(run, dark)
    return folder


def begun(path: Path, trained: Path, splits: Splits | None = None, **changes: object) -> RunFolder:
    recipe = tiny_recipe(**{"epochs": 1, "initial": str(trained), **changes})
    return start_run(path, recipe, splits or tiny_splits(), CPU)


def test_it_begins_with_these_weights_and_their_normalisation(
    trained: Path, tmp_path: Path
) -> None:
    run, recipe = RunFolder(tmp_path / "run"), tiny_recipe(initial=str(trained))
    with run.claimed():
        model = begin_run(run, recipe, tiny_splits(), CPU)
    found, expected = model.state_dict(), load(trained).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    content = (trained / "model.safetensors").read_bytes()
    facts = run.facts()
    assert facts["initial"] == {
        "run": str(trained),
        "weights": hashlib.sha256(content).hexdigest(),
    }
    assert facts["normalisation"]["mean"] == expected["mean"].flatten().tolist()


@pytest.mark.parametrize("steps", [(), (2,)])
def test_it_can_be_resumed_before_and_after_its_first_checkpoint(
    steps: tuple[int, ...], trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, splits = RunFolder(tmp_path / "whole"), tiny_splits()
    recipe = tiny_recipe(initial=str(trained), epochs=2)
    with run.claimed():
        model = begin_run(run, recipe, splits, CPU)
        assert continue_run(run, splits, model=model)
    stopped = run_stopped_at(tmp_path / "stopped", recipe, splits, steps, monkeypatch)
    one, two = load(run.path).state_dict(), load(stopped.path).state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_once_it_has_a_checkpoint_the_other_run_is_not_needed(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = shutil.copytree(trained, tmp_path / "other")
    run = start_run(tmp_path / "run", tiny_recipe(initial=str(other), epochs=2), tiny_splits(), CPU)
    moved = shutil.move(other, tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"other is not a folder"):
        continue_run(run, tiny_splits())
    shutil.move(moved, other)
    run_stopped_at(tmp_path / "stopped", run.recipe(), tiny_splits(), (2,), monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr("loss_attention.training.job.InitialWeights", None)  # so that any use fails
        stopped = RunFolder.open(tmp_path / "stopped")
        stopped.note(finished=False)
        assert continue_run(stopped, tiny_splits())


def test_other_weights_than_it_began_with_are_refused(trained: Path, tmp_path: Path) -> None:
    other = shutil.copytree(trained, tmp_path / "other")
    run = begun(tmp_path / "run", other)
    shutil.rmtree(other)
    again = start_run(other, tiny_recipe(epochs=2), tiny_splits(), CPU)
    assert continue_run(again, tiny_splits())
    with pytest.raises(
        InputError, match=r"are not those that the run .* began with, and it has no"
    ):
        continue_run(run, tiny_splits())


def test_neither_hub_nor_file_is_needed(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    splits = tiny_splits(16)
    images = splits.trainval.images.repeat(1, 3, 3, 3)
    large = replace(splits.trainval, images=images, boxes=None, box_labels=None)
    splits = replace(splits, trainval=large, test=large)
    recipe = tiny_recipe(
        backbone="timm/test_efficientnet",
        width=1.0,
        strided_layers=(),
        in_channels=3,
        patch_kernel=1,
        epochs=1,
    )
    run = start_run(tmp_path / "frozen", recipe, splits, CPU)
    assert continue_run(run, splits)
    fine = replace(recipe, initial=str(run.path), pretrained=True)  # and there is no hub
    begun = start_run(tmp_path / "fine", fine, splits, CPU)
    assert begun.facts()["backbone_weights"] == {}
    assert continue_run(begun, splits)  # no checkpoint yet: they are read again
    with pytest.raises(InputError, match="does not give"):
        start_run(tmp_path / "hub", replace(fine, initial=None), splits, CPU)


def test_what_weights_do_not_depend_on_may_differ(trained: Path, tmp_path: Path) -> None:
    run = begun(tmp_path / "run", trained, threshold=0.7, dropout=0.2, centre=True)
    assert continue_run(run, tiny_splits())
    assert load(run.path).spec.threshold == 0.7
    assert load(run.path).spec.centre is True


def test_a_patch_is_as_large_whether_told_or_by_default(tmp_path: Path) -> None:
    pixels = {"patch_kernel": None, "patch_stride": None, "strided_layers": ()}
    splits = tiny_splits(16)
    images = nn.functional.pad(splits.trainval.images, (0, 8, 0, 8))
    large = replace(splits.trainval, images=images, boxes=None, box_labels=None)
    splits = replace(splits, trainval=large, test=large)
    other = start_run(tmp_path / "other", tiny_recipe(epochs=1, **pixels), splits, CPU)
    assert continue_run(other, splits)
    told = {**pixels, "patch_kernel": 9, "patch_stride": 4}
    begun(tmp_path / "run", other.path, splits, **told)
    with pytest.raises(InputError, match=r"^`patch_stride` is 2 and was 4 in"):
        begun(tmp_path / "third", other.path, splits, **{**told, "patch_stride": 2})


@pytest.mark.parametrize(
    "changes", [{"seed": 1}, {"validation_fraction": 0.2}, {"limit_images": 30}, {"group": "tile"}]
)
def test_images_that_were_trained_on_are_not_held_out(
    changes: dict[str, object], trained: Path, tmp_path: Path
) -> None:
    (name,) = changes
    splits = replace(tiny_splits(), **{k: v for k, v in changes.items() if k != "limit_images"})
    with pytest.raises(InputError, match=rf"^`{name}` is .* and was .* trained on there"):
        begun(tmp_path / "run", trained, splits, **changes)
    begun(tmp_path / "other", trained, splits, data="others", **changes)  # of which none was


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 0.07}, r"`width` is 0\.07 and was 0\.06 in .*run, the run that `initial` takes"),
        ({"backbone": "resnet18", "strided_layers": ()}, "`backbone` is 'resnet18' and was 'vgg11"),
        ({"head": "mean"}, "`head` is 'mean' and was 'loss-attention' in"),
    ],
)
def test_another_network_is_refused(
    changes: dict[str, object], message: str, trained: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="^" + message):
        begun(tmp_path / "run", trained, **changes)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (("left", "up"), "the data has the class 'up', which is none of the run .* that `initial`"),
        (("right", "left"), "the data has its classes in another order than the run"),
        (("left", "right", "up"), "the data has the class 'up', which is none of the run"),
    ],
)
def test_other_classes_are_refused(
    classes: tuple[str, ...], message: str, trained: Path, tmp_path: Path
) -> None:
    splits = tiny_splits()
    other = replace(
        splits,
        trainval=replace(splits.trainval, class_names=classes),
        test=replace(splits.test, class_names=classes),
    )
    with pytest.raises(InputError, match="^" + message):
        begun(tmp_path / "run", trained, other)


def test_weights_for_each_location_need_the_same_image_size(tmp_path: Path) -> None:
    routing = {"head": "capsule-dynamic-routing", "optimizer": "adam"}
    run = start_run(tmp_path / "small", tiny_recipe(epochs=1, **routing), tiny_splits(), CPU)
    assert continue_run(run, tiny_splits())
    splits = tiny_splits()
    images = nn.functional.pad(splits.trainval.images, (0, 4, 0, 4))
    large = replace(splits.trainval, images=images, boxes=None, box_labels=None)
    with pytest.raises(
        InputError, match=r"are for images of 12 x 12 pixels, and .* 16 x 16 pixels"
    ):
        begun(tmp_path / "run", run.path, replace(splits, trainval=large), **routing)


def test_a_run_that_is_not_finished_or_none_is_refused(tmp_path: Path) -> None:
    other = start_run(tmp_path / "other", tiny_recipe(), tiny_splits(), CPU)
    with pytest.raises(InputError, match=r"is not finished, .* loss-attention resume .*other$"):
        begun(tmp_path / "run", other.path)
    with pytest.raises(InputError, match="nowhere is not a folder"):
        begun(tmp_path / "run", tmp_path / "nowhere")


def test_damaged_weights_are_refused(trained: Path, tmp_path: Path) -> None:
    other = shutil.copytree(trained, tmp_path / "other")
    content = bytearray((other / "model.safetensors").read_bytes())
    content[-3] ^= 1
    (other / "model.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=r"model\.safetensors"):
        begun(tmp_path / "run", other)


def test_a_run_does_not_begin_with_itself(trained: Path, tmp_path: Path) -> None:
    own = shutil.copytree(trained, tmp_path / "own")
    recipe = tiny_recipe(initial=str(tmp_path / "x" / ".." / "own"))
    (tmp_path / "x").mkdir()
    with pytest.raises(InputError, match="is the folder of the new run; name another with `out`"):
        start_run(own, recipe, tiny_splits(), CPU, overwrite=True)
    load(own)  # nothing is lost
