"""Guidance by boxes and masks: its equation, what it is given, and what comes of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import torch
from numpy.typing import NDArray
from torch import Tensor
from training.stored import load_stored, store_tiny
from training.test_features import source_of
from training.test_moving_targets import STILL, rectangles
from training.test_processes import one_epoch
from training.test_resume import assert_same_run
from training.test_saving_memory import assert_same_epoch
from training.tiny import run_stopped_at, start_run, tiny_recipe, tiny_splits
from typed import complaint

from loss_attention.data.sample import ImageSet, Splits
from loss_attention.errors import InputError
from loss_attention.evaluation.measuring import evaluate
from loss_attention.geometry import PatchGrid
from loss_attention.model import load
from loss_attention.prediction import PatchPrediction
from loss_attention.training import trainer
from loss_attention.training.augmentation import Augmenter, Scenes
from loss_attention.training.guidance import (
    MOST_OFTEN,
    Guide,
    Objects,
    drawn_images,
    energy_loss,
)
from loss_attention.training.job import continue_run
from loss_attention.training.recipe import Recipe, RunOptions

Array = NDArray[np.float64]
CPU = RunOptions(accelerator="cpu")
GRID = PatchGrid(rows=2, columns=3, window=9, stride=4, height=14, width=18)
"""Windows lie over each other, and the last rows and columns are under none."""
BOXES = torch.tensor(
    [
        [[1.0, 2.0, 7.5, 9.0], [5.0, 5.0, 12.0, 14.0]],
        [[0.0, 0.0, 4.0, 4.0], [torch.nan] * 4],
        [[10.2, 1.0, 18.0, 3.6], [torch.nan] * 4],
        [[torch.nan] * 4, [torch.nan] * 4],
    ]
)


def scenes(boxes: Tensor, masks: Tensor | None = None) -> Scenes:
    images = torch.zeros(len(boxes), 1, GRID.height, GRID.width, dtype=torch.uint8)
    return Scenes(images, boxes, masks)


def predicted(scale: float = 9.0, classes: int = 4, images: int = 3) -> PatchPrediction:
    generator = torch.Generator().manual_seed(2)
    shape = (images, GRID.patches, classes)
    p = scale * torch.randn(shape, generator=generator, dtype=torch.float64)
    alpha = torch.rand(shape[:2], generator=generator, dtype=torch.float64)
    alpha = alpha / alpha.sum(dim=1, keepdim=True)
    return PatchPrediction((alpha.unsqueeze(2) * p).sum(dim=1), p, alpha, GRID, 0.0)


OBJECTS = Objects(torch.tensor([0, 0, 2, 2]), torch.tensor([1, 3, 0, 2]), scenes(BOXES))


def inside(boxes: Tensor) -> NDArray[np.bool_]:
    """The pixels whose centre is in one of the boxes."""
    y, x = np.mgrid[: GRID.height, : GRID.width] + 0.5
    found = np.zeros((GRID.height, GRID.width), dtype=bool)
    for x0, y0, x1, y1 in boxes.tolist():
        found |= (x0 <= x) & (x < x1) & (y0 <= y) & (y < y1)
    return found


def painted(values: Array) -> Array:
    """What is painted of the positive part of patches' values."""
    windows = GRID.windows().numpy().astype(np.float64)
    return reference.painted(np.maximum(values, 0), windows, GRID.height, GRID.width)


def shown(one: PatchPrediction, row: int, k: int, *, competing: bool) -> Array:
    """The margin or the evidence of the patches of an image for a class."""
    alpha = one.patch_weights[row].detach().numpy()
    p = one.patch_logits[row].detach().numpy()
    rivals = np.delete(p, k, axis=1).max(axis=1) if competing else 0.0
    return alpha * (p[:, k] - rivals)


def each(objects: Objects) -> list[tuple[int, int, NDArray[np.bool_]]]:
    boxes = objects.scenes.boxes
    assert boxes is not None
    pixels = [inside(one) for one in boxes]
    return list(zip(objects.row.tolist(), objects.classes.tolist(), pixels, strict=True))


@pytest.mark.parametrize("competing", [True, False])
@pytest.mark.parametrize("scale", [9.0, 0.7, 0.0])
def test_the_loss_is_that_of_the_painted_maps(scale: float, competing: bool) -> None:
    one = predicted(scale)
    found = energy_loss(one, OBJECTS, competing=competing)
    for value, (row, k, pixels) in zip(found.tolist(), each(OBJECTS), strict=True):
        heat = painted(shown(one, row, k, competing=competing))
        energy = heat[pixels].sum() / heat.sum() if heat.sum() else 0.0
        assert value == pytest.approx(1 - energy if pixels.any() else 0.0, abs=1e-6)
    assert found[3] == 0  # nothing of it is in the picture


@pytest.mark.parametrize("competing", [True, False])
@pytest.mark.parametrize("scale", [9.0, 0.7, 0.0])
def test_the_gradient_is_its_equation(scale: float, competing: bool) -> None:
    """In loops over patches, each painted by itself; and then through margin or evidence."""
    one = predicted(scale)
    p = one.patch_logits.requires_grad_()
    energy_loss(one, OBJECTS, competing=competing).sum().backward()
    wanted, patches = np.zeros(p.shape), np.eye(GRID.patches)
    whole = [painted(patch).sum() for patch in patches]
    for row, k, pixels in each(OBJECTS)[:3]:
        values = shown(one, row, k, competing=competing)
        heat = painted(values)
        energy = heat[pixels].sum() / heat.sum() if heat.sum() else 0.0
        for m, patch in enumerate(patches):
            slope = energy * whole[m] - painted(patch)[pixels].sum()
            slope /= max(heat.sum(), np.mean(whole))
            if values[m] <= 0 and slope > 0:
                continue
            slope *= float(one.patch_weights[row, m])
            wanted[row, m, k] += slope
            if competing:
                others = p[row, m].detach().numpy().copy()
                others[k] = -np.inf
                wanted[row, m, others.argmax()] -= slope
    assert p.grad is not None
    if scale:  # of equal classes, any is the closest rival
        np.testing.assert_allclose(p.grad.numpy(), wanted, atol=1e-6)
    assert p.grad[0].abs().max() > 1e-3  # also of empty maps, and of those that lie elsewhere


@pytest.mark.parametrize("competing", [True, False])
def test_gradients_of_full_maps_are_those_of_finite_differences(competing: bool) -> None:
    """Where all patches speak for the class, nothing is changed of the equation's gradient."""
    one = predicted(3.0, classes=3, images=1)
    some = Objects(torch.tensor([0]), torch.tensor([1]), OBJECTS.scenes[:1])

    def loss(p: Tensor, alpha: Tensor) -> Tensor:
        here = replace(one, patch_logits=p, patch_weights=alpha)
        return energy_loss(here, some, competing=competing).sum()

    given = (one.patch_logits + torch.tensor([0.0, 40.0, 0.0]), one.patch_weights)
    for which, values in enumerate(given):
        (found,) = torch.autograd.grad(loss(*(one.requires_grad_() for one in given)), [values])
        for number in range(values.numel()):
            ends = []
            for step in (1e-5, -1e-5):
                moved = values.detach().clone()
                moved.view(-1)[number] += step
                ends.append(loss(*(moved if which == n else one for n, one in enumerate(given))))
            slope = float((ends[0] - ends[1]).detach()) / 2e-5
            assert float(found.view(-1)[number]) == pytest.approx(slope, abs=1e-6)
        assert found.abs().max() > 1e-3


def test_the_gradient_stays_bounded_where_a_map_fades() -> None:
    for scale in (1.0, 1e-4, 1e-30):
        one = predicted(scale)
        p = one.patch_logits.requires_grad_()
        energy_loss(one, OBJECTS, competing=True).sum().backward()
        assert p.grad is not None
        assert 0.01 < p.grad.abs().max() < 2


def test_masks_count_as_boxes_do() -> None:
    assert OBJECTS.scenes.boxes is not None
    masks = torch.from_numpy(np.stack([inside(boxes) for boxes in BOXES]))
    nothing = torch.full_like(BOXES, torch.nan)
    masked = replace(OBJECTS, scenes=scenes(nothing, masks))
    one = predicted()
    found = energy_loss(one, masked, competing=True)
    assert torch.equal(found, energy_loss(one, OBJECTS, competing=True))


def test_objects_of_parts_are_those_of_the_whole() -> None:
    one = predicted()
    whole = energy_loss(one, OBJECTS, competing=True).sum()
    parts = torch.zeros(())
    for start, count in ((0, 1), (1, 1), (2, 1)):
        some = OBJECTS.part(start, count)
        rows = slice(start, start + count)
        here = replace(
            one,
            logits=one.logits[rows],
            patch_logits=one.patch_logits[rows],
            patch_weights=one.patch_weights[rows],
        )
        parts = parts + energy_loss(here, some, competing=True).sum()
    assert parts.item() == pytest.approx(whole.item())
    assert len(OBJECTS.part(1, 1)) == 0


def boxed(labels: Tensor, box_labels: Tensor, masks: Tensor | None = None) -> ImageSet:
    """Black images of 6 x 8 pixels whose box number j is j + 1 pixels wide."""
    count, most = box_labels.shape
    boxes = torch.tensor([[0.0, 0.0, j + 1.0, 6.0] for j in range(most)]).expand(count, -1, -1)
    boxes = boxes.masked_fill((box_labels < 0).unsqueeze(2), torch.nan)
    images = torch.zeros(count, 1, 6, 8, dtype=torch.uint8)
    names = ("a", "b", "c")
    return ImageSet(images, labels, names, boxes, box_labels, masks=masks)


def recipe_of(**fields: Any) -> Recipe:
    return Recipe("a", "b", **({"guide": 1.0} | STILL | fields))


def test_boxes_of_other_classes_and_images_without_any_say_nothing() -> None:
    several = torch.tensor([[1, 0, 1], [0, 1, 0], [0, 0, 0], [1, 0, 0]], dtype=torch.uint8)
    box_labels = torch.tensor([[0, 1, 2, 0], [0, -1, -1, -1], [0, 1, 2, -1], [0, -1, -1, -1]])
    guide = Guide.of(boxed(several, box_labels), recipe_of())
    assert guide.image.tolist() == [0, 0, 3]
    assert guide.classes.tolist() == [0, 2, 0]
    widths = (guide.boxes[..., 2] - guide.boxes[..., 0]).nan_to_num(0)[:, 0]
    assert widths.tolist() == [[1, 4], [3, 0], [1, 0]]
    assert (guide.record["boxes"], guide.record["images"], guide.name) == (4, 2, "4 boxes")
    assert guide.factor == pytest.approx(4 / 3)
    found = guide.objects(torch.tensor([3, 1, 0, 3]))
    assert found.row.tolist() == [0, 2, 2, 3]
    assert found.classes.tolist() == [0, 0, 2, 0]


def test_a_mask_takes_the_place_of_boxes_where_it_is_of_one_class() -> None:
    several = torch.tensor([[1, 0, 1], [0, 1, 0], [0, 0, 1]], dtype=torch.uint8)
    masks = torch.zeros(3, 6, 8, dtype=torch.bool)
    masks[:, 2, 5] = True
    masks[2] = False
    guide = Guide.of(boxed(several, torch.tensor([[0], [1], [2]]), masks), recipe_of())
    assert guide.image.tolist() == [0, 1, 2]
    pixels = guide.objects(torch.arange(3)).pixels(torch.device("cpu"))
    assert pixels[1].nonzero().tolist() == [[2, 5]]
    assert [int(one.sum()) for one in pixels] == [6, 1, 6]
    assert guide.name == "2 boxes and 1 mask"


def test_images_are_drawn_by_the_seed_and_of_each_class_one() -> None:
    labels = torch.arange(600) % 3
    labels[:597] = 0
    image = torch.arange(600)
    few = drawn_images(image, labels, 0.01, seed=0)
    assert len(few) == 6
    assert set(labels[few].tolist()) == {0, 1, 2}
    more = drawn_images(image, labels, 0.1, seed=0)
    assert len(more) == 60
    assert torch.isin(few, more).all()
    assert not torch.equal(few, drawn_images(image, labels, 0.01, seed=1))
    assert len(drawn_images(image, labels, 1e-9, seed=0)) == 3
    assert torch.equal(drawn_images(image, labels, 1.0, seed=5), image)


def test_few_images_weigh_as_much_as_all() -> None:
    labels = torch.arange(600) % 3
    data = boxed(labels, labels.unsqueeze(1))
    assert Guide.of(data, recipe_of()).factor == 1
    assert Guide.of(data, recipe_of(guide_fraction=0.05)).factor == 20
    assert Guide.of(data, recipe_of(guide_fraction=1e-3)).factor == MOST_OFTEN


AUGMENTED: dict[str, Any] = {
    "crop_padding": 5,
    "horizontal_flip": True,
    "vertical_flip": True,
    "quarter_turns": True,
}


def white(side: int) -> ImageSet:
    """A white rectangle in each of some black images, known by a box, by a mask, or not at all."""
    found = rectangles(side, side)
    count = len(found.images)
    assert found.boxes is not None
    assert found.masks is not None
    box_labels = torch.full((count, 2), -1)
    box_labels[: count // 2, 0] = 0
    masks = found.masks.clone()
    masks[: count // 2] = False
    labels = torch.zeros(count, dtype=torch.int64)
    return ImageSet(found.images[:, :1], labels, ("a", "b"), found.boxes, box_labels, masks=masks)


def test_objects_are_where_the_images_of_a_step_show_them() -> None:
    data, recipe = white(30), recipe_of(**AUGMENTED)
    guide, batch = Guide.of(data, recipe), torch.arange(24).flip(0)
    augmenter = Augmenter(recipe, 24)
    part = slice(3, 20)
    shown = augmenter(data.images[batch[part]], batch, part, epoch=2, step=1)
    found = guide.changed(augmenter, batch, part, epoch=2, step=1)
    assert found.row.tolist() == list(range(17))
    assert torch.equal(found.pixels(torch.device("cpu")), shown[:, 0] > 0)


@pytest.mark.parametrize("crop", [None, (0.3, 0.8)])
def test_objects_are_where_each_view_of_frozen_features_shows_them(crop: Any) -> None:
    data = white(30)
    fields = {**AUGMENTED, "random_resized_crop": crop, "colour_jitter": 0.1 if crop else 0.0}
    source = source_of(data, views=4, **fields)
    guide = Guide.of(data, replace(source.recipe, guide=1.0)).in_views(
        4, lambda scenes, objects: source.seen(scenes, source.identities(objects))
    )
    shown = source.views(data.images, source.identities())
    index = torch.arange(24)
    for view in range(4):
        found = guide.objects(index, torch.full((24,), view))
        pixels = found.pixels(torch.device("cpu"))
        there = shown[:, view, 0] > 90
        assert pixels.any()
        # A resized edge is blurred by some pixels.
        wrong = (pixels != there).sum(dim=(1, 2)) - (
            8 * there.sum(dim=(1, 2)).sqrt() if crop else 0
        )
        assert wrong.max() <= 0


def test_features_are_the_same_with_guidance_and_without() -> None:
    data = tiny_splits(images=10).trainval
    assert source_of(data, guide=0.5, guide_fraction=0.1).facts() == source_of(data).facts()


IN_PARTS = {"guide": 2.0, "learning_rate": 0.1}


def test_a_guided_step_in_parts_is_the_same_step(tmp_path: Path) -> None:
    whole = one_epoch(tmp_path, 1, freeze=True, changes=IN_PARTS)[0]
    parts = one_epoch(tmp_path, 1, freeze=True, accumulate=3, changes=IN_PARTS)[0]
    assert_same_epoch(parts, whole)
    alone = one_epoch(tmp_path, 1, freeze=True, changes=IN_PARTS | {"guide": 0.0})[0]
    assert whole["history"][0]["loss"] > alone["history"][0]["loss"] + 0.01


@pytest.mark.slow
def test_processes_take_the_same_guided_step(tmp_path: Path) -> None:
    whole = one_epoch(tmp_path, 1, freeze=True, changes=IN_PARTS)[0]
    for one in one_epoch(tmp_path, 2, freeze=True, changes=IN_PARTS):
        assert_same_epoch(one, whole)


def misled(images: int = 60, seed: int = 0) -> Splits:
    """A square says which class it is, and so does a line elsewhere; the square has a box."""
    splits = tiny_splits(images, seed, held_out=0.0)

    def with_line(data: ImageSet) -> ImageSet:
        pixels = data.images.clone()
        pixels[:, :, 10:, :] = 20
        for i, label in enumerate(data.labels.tolist()):
            pixels[i, :, 10:, 6 * label : 6 * label + 6] = 255
        return replace(data, images=pixels)

    return replace(
        splits, trainval=with_line(splits.trainval.decoded()), test=with_line(splits.test.decoded())
    )


@pytest.mark.parametrize(
    "fields",
    [{}, {"frozen": True, "views": 2, "epochs": 12} | {"learning_rate": 0.02, "width": 0.12}],
)
def test_a_guided_training_looks_at_the_object(fields: dict[str, Any], tmp_path: Path) -> None:
    splits, scores = misled(), []
    for guide in (0.0, 1.0):
        recipe = tiny_recipe(**{"validation_fraction": 0.0, "guide": guide, "epochs": 4} | fields)
        run = start_run(tmp_path / str(guide) / "run", recipe, splits, CPU)
        assert continue_run(run, splits)
        found = evaluate(load(run.weights), splits.test, map="margin")
        scores.append(found.value("energy_pointing_game") or 0.0)
        assert found.value("accuracy") == 1.0
        assert found.guided_by == ("60 boxes" if guide else "")
    assert scores[1] > scores[0] + 0.1


def test_a_guided_run_says_so_and_resumes_to_the_bit(tmp_path, monkeypatch) -> None:
    for number, fields in enumerate(({}, {"frozen": True, "views": 2})):
        recipe = tiny_recipe(guide=0.3, guide_fraction=0.5, epochs=2, **fields)
        splits = tiny_splits()
        run = start_run(tmp_path / f"whole-{number}", recipe, splits, CPU)
        assert continue_run(run, splits)
        record = run.facts()["guide"]
        assert (record["images"], record["of_images"], record["weight"]) == (21, 42, 0.3)
        assert load(run.weights).spec.guided_by == "21 boxes"
        stopped = run_stopped_at(
            tmp_path / f"stopped-{number}", recipe, splits, [2, 8], monkeypatch
        )
        assert_same_run(stopped.path, run.path)


@pytest.mark.parametrize("objective", ["auto", "one-vs-rest"])
def test_the_map_that_is_drawn_is_the_one_that_is_shown(objective, tmp_path, monkeypatch) -> None:
    """The margin under a softmax, the evidence where each class is decided by itself."""
    seen = set()

    def noting(*given: Any, competing: bool) -> Tensor:
        seen.add(competing)
        return energy_loss(*given, competing=competing)

    monkeypatch.setattr(trainer, "energy_loss", noting)
    recipe, splits = tiny_recipe(guide=0.3, epochs=1, objective=objective), tiny_splits(20)
    assert continue_run(start_run(tmp_path / "run", recipe, splits, CPU), splits)
    assert seen == {objective == "auto"}


def test_other_boxes_are_not_gone_on_with(tmp_path, monkeypatch) -> None:
    recipe, splits = tiny_recipe(guide=0.3, epochs=2), tiny_splits()
    run = start_run(tmp_path / "run", recipe, splits, CPU)
    run.note(guide={"digest": "that of others"})
    with pytest.raises(InputError, match=r"boxes or masks that guide the run .* have changed"):
        continue_run(run, splits)


def test_a_run_from_guided_weights_says_what_they_were_guided_by(tmp_path) -> None:
    splits = tiny_splits()
    first = start_run(tmp_path / "first", tiny_recipe(guide=0.3, epochs=1), splits, CPU)
    assert continue_run(first, splits)
    recipe = tiny_recipe(epochs=1, initial=str(first.path))
    second = start_run(tmp_path / "second", recipe, splits, CPU)
    assert continue_run(second, splits)
    assert load(second.weights).spec.guided_by == "42 boxes"


def test_streamed_images_guide_by_the_same_boxes(tmp_path) -> None:
    folder = store_tiny(tmp_path)
    recipe = tiny_recipe(guide=0.3, guide_fraction=0.2)
    records = [Guide.of(load_stored(folder, how).train, recipe).record for how in ("yes", "no")]
    assert records[0] == records[1]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"guide": -0.1}, "`guide` must be at least 0 and finite, got -0.1"),
        ({"guide": float("nan")}, "`guide` must be at least 0 and finite, got nan"),
        ({"guide": 0.1, "guide_fraction": 0.0}, "`guide_fraction` must be in (0, 1], got 0.0"),
        ({"guide": 0.1, "guide_fraction": 1.5}, "`guide_fraction` must be in (0, 1], got 1.5"),
        ({"guide_fraction": 0.5}, "`guide_fraction` needs `guide` above 0, got 0.5"),
        ({"guide": 0.1, "mixup": 0.2}, "`mixup` does not go with `guide`: two images lie over"),
        ({"guide": 0.1, "rand_augment": 9}, "`rand_augment` does not go with `guide`: boxes and"),
    ],
)
def test_values_that_cannot_be_are_named(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        Recipe("a", "b", **fields)
    assert said in str(caught.value)


def test_without_boxes_or_evidence_one_line_says_so(tmp_path) -> None:
    splits = tiny_splits()
    bare = replace(splits, trainval=splits.trainval.images_and_labels())
    with pytest.raises(InputError, match="`guide` needs training images with boxes or masks"):
        start_run(tmp_path / "run", tiny_recipe(guide=0.1), bare, CPU)
    other = replace(splits.trainval, box_labels=1 - splits.trainval.label_matrix()[:, 1:].long())
    with pytest.raises(InputError, match="of their labels, and these have none"):
        start_run(tmp_path / "run", tiny_recipe(guide=0.1), replace(splits, trainval=other), CPU)
    for head in ("baseline", "capsule-dynamic-routing"):
        with pytest.raises(InputError, match=f"`guide`: the head {head} has no evidence"):
            start_run(tmp_path / "run", tiny_recipe(guide=0.1, head=head), splits, CPU)
    assert not (tmp_path / "run").exists()


def test_the_command_refuses_in_a_line(tmp_path, capsys) -> None:
    words = ("train", "digits", "--out", tmp_path / "run")
    said = complaint(capsys, *words, "--guide-fraction", "0.5")
    assert said == "loss-attention: --guide-fraction needs --guide above 0, got 0.5\n"
    assert "--guide must be at least 0" in complaint(capsys, *words, "--guide", "-1")
    assert not (tmp_path / "run").exists()
