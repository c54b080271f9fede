"""Photos are turned, cropped and enlarged, and boxes and masks go where their pixels go."""

from __future__ import annotations

import random
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from loss_attention.errors import InputError
from loss_attention.training import augmentation
from loss_attention.training.augmentation import (
    ASPECTS,
    Augmenter,
    Scenes,
    check_augmentation,
)
from loss_attention.training.recipe import Recipe
from loss_attention.training.sampling import process_part

COUNT = 24
BATCH = torch.arange(COUNT)
WHOLE = slice(0, COUNT)
STILL: dict[str, Any] = {"crop_padding": 0, "horizontal_flip": False}


def augmenter(**fields: Any) -> Augmenter:
    return Augmenter(Recipe("a", "b", **(STILL | fields)), COUNT)


def rectangles(height: int, width: int) -> Scenes:
    """A bright rectangle in each image, its box and its mask, and no second box."""
    rng = np.random.default_rng(0)
    images = torch.zeros(COUNT, 3, height, width, dtype=torch.uint8)
    boxes = torch.full((COUNT, 2, 4), torch.nan)
    for i in range(COUNT):
        x, y = int(rng.integers(0, width - 9)), int(rng.integers(0, height - 7))
        w, h = int(rng.integers(3, 9)), int(rng.integers(3, 7))
        images[i, :, y : y + h, x : x + w] = 200
        boxes[i, 0] = torch.tensor([x, y, x + w, y + h])
    return Scenes(images, boxes, images[:, 0] > 0)


def box_around(pixels: Tensor) -> list[int] | None:
    """The box around what is set in one mask."""
    rows, columns = pixels.nonzero().unbind(1)
    if not len(rows):
        return None
    return [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]


@pytest.mark.parametrize(
    ("size", "fields"),
    [
        ((26, 38), {"crop_padding": 6}),
        ((26, 38), {"horizontal_flip": True}),
        ((26, 38), {"crop_padding": 6, "horizontal_flip": True, "vertical_flip": True}),
        ((30, 30), {"quarter_turns": True}),
        ((30, 30), {"quarter_turns": True, "vertical_flip": True, "crop_padding": 9}),
    ],
)
def test_boxes_and_masks_are_where_the_pixels_went(
    size: tuple[int, int], fields: dict[str, Any]
) -> None:
    before = rectangles(*size)
    after = augmenter(**fields).with_targets(before, BATCH, WHOLE, epoch=1, step=2)
    assert after.boxes is not None
    assert after.masks is not None
    assert torch.equal(after.masks, after.images[:, 0] > 0)
    assert not torch.equal(after.images, before.images)
    for i in range(COUNT):
        found = box_around(after.masks[i])
        if found is None:
            assert after.boxes[i, 0].isnan().all()
        else:
            assert after.boxes[i, 0].tolist() == found
    assert after.boxes[:, 1].isnan().all()


@pytest.mark.parametrize("size", [(40, 40), (32, 56)])
def test_an_enlarged_part_has_its_boxes_and_masks(size: tuple[int, int]) -> None:
    before = rectangles(*size)
    make = augmenter(random_resized_crop=(0.2, 0.7), colour_jitter=0.1, vertical_flip=True)
    after = make.with_targets(before, BATCH, WHOLE, epoch=0, step=0)
    assert after.boxes is not None
    assert after.masks is not None
    assert after.images.shape == before.images.shape
    alone = make(before.images, BATCH, WHOLE, epoch=0, step=0)
    assert torch.equal(alone, after.images)  # targets change nothing that is drawn
    seen = 0
    for i in range(COUNT):
        found = box_around(after.images[i, 0] > 90)
        if found is None:
            continue
        seen += 1
        # Resizing blurs an edge by two pixels or three.
        assert np.abs(np.array(found) - after.boxes[i, 0].numpy()).max() <= 3
        masked = box_around(after.masks[i])
        assert masked is not None
        assert np.abs(np.array(masked) - after.boxes[i, 0].numpy()).max() <= 2
    assert seen > COUNT // 3
    assert after.boxes[:, 0].isnan().any()  # some are cut away whole


def test_a_cut_hides_objects_and_moves_no_box() -> None:
    before = rectangles(26, 38)
    after = augmenter(cutout=20).with_targets(before, BATCH, WHOLE, epoch=0, step=0)
    assert after.masks is not None
    assert torch.equal(after.masks, after.images[:, 0] > 0)
    assert torch.equal(after.boxes.nan_to_num(-1), before.boxes.nan_to_num(-1))  # type: ignore[union-attr]


@pytest.mark.parametrize("size", [(64, 64), (32, 64)])
def test_a_part_has_the_area_and_aspect_that_it_should(size: tuple[int, int]) -> None:
    """Measured in images whose levels say where each pixel was."""
    height, width = size
    columns = (torch.arange(width) * 3).expand(height, width)
    rows = (torch.arange(height) * 3).unsqueeze(1).expand(height, width)
    images = torch.stack([columns, rows, rows]).to(torch.uint8).repeat(COUNT, 1, 1, 1)
    parts = augmenter(random_resized_crop=(0.3, 0.5))(images, BATCH, WHOLE, epoch=0, step=0)
    parts = parts.float() / 3
    # Centres of the first and of the last pixel: those between lie evenly.
    wide = (parts[:, 0, height // 2, -2] - parts[:, 0, height // 2, 1]) * width / (width - 3)
    high = (parts[:, 1, -2, width // 2] - parts[:, 1, 1, width // 2]) * height / (height - 3)
    areas = wide * high / (height * width)
    assert areas.min() > 0.27
    assert areas.max() < 0.55
    aspects = (wide / width) / (high / height)
    assert aspects.min() > 0.9 * ASPECTS[0]
    assert aspects.max() < 1.1 * ASPECTS[1]
    assert areas.std() > 0.02
    assert aspects.std() > 0.05


def test_the_whole_part_of_the_same_aspect_is_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augmentation, "ASPECTS", (1.0, 1.0))
    images = torch.randint(0, 256, (COUNT, 3, 20, 30), dtype=torch.uint8)
    whole = augmenter(random_resized_crop=(1.0, 1.0))(images, BATCH, WHOLE, epoch=0, step=0)
    assert torch.equal(whole, images)


def test_turns_are_the_eight_ways_to_lay_down_a_square() -> None:
    image = torch.arange(9, dtype=torch.uint8).reshape(1, 1, 3, 3).expand(COUNT, 1, 3, 3)
    make = augmenter(quarter_turns=True, vertical_flip=True)
    found = {
        tuple(one.flatten().tolist())
        for step in range(4)
        for one in make(image, BATCH, WHOLE, epoch=0, step=step)
    }
    plain = np.arange(9).reshape(3, 3)
    assert found == {
        tuple(np.rot90(side, k).flatten().tolist())
        for side in (plain, plain[::-1])
        for k in range(4)
    }


@pytest.mark.parametrize("channels", [1, 3])
def test_colours_change_and_nothing_else_draws_other_numbers(channels: int) -> None:
    images = torch.randint(0, 256, (COUNT, channels, 24, 16), dtype=torch.uint8)
    make = augmenter(colour_jitter=0.4, rand_augment=9)
    before = torch.get_rng_state()
    first = make(images, BATCH, WHOLE, epoch=1, step=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert first.shape == images.shape
    assert first.dtype == torch.uint8
    assert (first != images).flatten(1).any(dim=1).float().mean() > 0.8
    for seeded in (torch.manual_seed, random.seed, np.random.seed):
        seeded(1)
    assert torch.equal(first, make(images, BATCH, WHOLE, epoch=1, step=3))
    for epoch, step, seed in ((1, 4, 0), (2, 3, 0), (1, 3, 5)):
        other = augmenter(colour_jitter=0.4, rand_augment=9, seed=seed)
        assert not torch.equal(first, other(images, BATCH, WHOLE, epoch=epoch, step=step))
    alike = make(images[:1].expand_as(images), BATCH, WHOLE, epoch=0, step=0)
    assert len({one.numpy().tobytes() for one in alike}) > COUNT // 2  # each draws for itself


def test_processes_change_their_parts_as_one_would() -> None:
    images = torch.randint(0, 256, (COUNT, 3, 16, 16), dtype=torch.uint8)
    make = augmenter(
        random_resized_crop=(0.3, 1.0),
        colour_jitter=0.2,
        rand_augment=5,
        vertical_flip=True,
        quarter_turns=True,
        horizontal_flip=True,
        crop_padding=2,
        cutout=3,
    )
    whole = make(images, BATCH, WHOLE, epoch=2, step=1)
    parts = [process_part(BATCH, rank, 3) for rank in range(3)]
    found = [make(images[part], BATCH, part, epoch=2, step=1) for part in parts]
    assert torch.equal(torch.cat(found), whole)
    some = torch.tensor([7, 2, 11])
    assert torch.equal(make(images[some], BATCH, some, epoch=2, step=1), whole[some])


def test_other_options_draw_what_they_drew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augmentation, "ASPECTS", (1.0, 1.0))
    images = torch.randint(0, 256, (COUNT, 3, 12, 12), dtype=torch.uint8)
    old: dict[str, Any] = {"crop_padding": 3, "horizontal_flip": True, "cutout": 4}
    before = augmenter(**old)(images, BATCH, WHOLE, epoch=0, step=0)
    beside = augmenter(**old, random_resized_crop=(1.0, 1.0))
    assert torch.equal(beside(images, BATCH, WHOLE, epoch=0, step=0), before)
    without = old | {"cutout": 0}
    flat = augmenter(**without)(images, BATCH, WHOLE, epoch=0, step=0)
    flipped = augmenter(**without, vertical_flip=True)(images, BATCH, WHOLE, epoch=0, step=0)
    upside_down = (flipped == flat.flip(2)).flatten(1).all(dim=1)
    assert ((flipped == flat).flatten(1).all(dim=1) ^ upside_down).all()
    assert 4 < upside_down.sum() < 20


def test_boxes_do_not_follow_rand_augment() -> None:
    with pytest.raises(InputError, match="boxes and masks cannot follow `rand_augment`"):
        augmenter(rand_augment=3).with_targets(rectangles(20, 20), BATCH, WHOLE, epoch=0, step=0)


@pytest.mark.parametrize("name", ["random_resized_crop", "colour_jitter", "rand_augment"])
def test_without_torchvision_one_line_says_what_to_install(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    value = {"random_resized_crop": (0.5, 1.0), "colour_jitter": 0.1, "rand_augment": 2}[name]
    recipe = Recipe("a", "b", **{name: value})
    for asked in (lambda: Augmenter(recipe, 4), lambda: check_augmentation(recipe, (16, 16))):
        with pytest.raises(InputError) as caught:
            asked()
        said = str(caught.value)
        assert said.startswith(f"`{name}` needs torchvision")
        assert 'pip install "loss-attention[timm]"' in said
        assert "\n" not in said
    check_augmentation(Recipe("a", "b", quarter_turns=True, vertical_flip=True), (16, 16))


def test_quarters_need_squares() -> None:
    with pytest.raises(InputError, match="these have 16 x 20 pixels"):
        check_augmentation(Recipe("a", "b", quarter_turns=True), (16, 20))
    with pytest.raises(InputError, match=r"`quarter_turns` needs square images, not \(16, 20\)"):
        Recipe("a", "b", quarter_turns=True, image_size=(16, 20))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"random_resized_crop": (0.0, 1.0)}, "`random_resized_crop` must be two fractions"),
        ({"random_resized_crop": (0.9, 0.3)}, "the smaller one first, got (0.9, 0.3)"),
        ({"random_resized_crop": (0.5, 1.1)}, "of the area in (0, 1]"),
        ({"random_resized_crop": (0.5, float("nan"))}, "of the area in (0, 1]"),
        ({"colour_jitter": 1.5}, "`colour_jitter` must be in [0, 1], got 1.5"),
        ({"rand_augment": 31}, "`rand_augment` must be from 0 to 30, got 31"),
        ({"mixup": -0.2}, "`mixup` must be 0, or from 0.01 to 100, got -0.2"),
        ({"mixup": 0.2, "frozen": True}, "`mixup` mixes images, and `frozen` trains on features"),
        ({"mixup": float("inf")}, "`mixup` must be 0, or from 0.01 to 100, got inf"),
    ],
)
def test_values_out_of_range_are_named(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        Recipe("a", "b", **fields)
    assert said in str(caught.value)
