"""What a step does to its images, and that it follows from the place in the run alone."""

from __future__ import annotations

import torch

from loss_attention.training.augmentation import Augmenter
from loss_attention.training.recipe import Recipe
from loss_attention.training.sampling import process_part

IMAGES = torch.randint(
    1, 256, (60, 3, 7, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)
BATCH = torch.randperm(60, generator=torch.Generator().manual_seed(1))[:40]
WHOLE = slice(0, 40)


def augmented(epoch: int, step: int, part: slice = WHOLE, **fields: object) -> torch.Tensor:
    recipe = Recipe("a", "b", **({"crop_padding": 0, "horizontal_flip": False} | fields))
    make = Augmenter(recipe, len(IMAGES))
    return make(IMAGES[BATCH[part]], BATCH, part, epoch=epoch, step=step)


def mirrored(images: torch.Tensor) -> torch.Tensor:
    """Whether each image of the batch is the other way round."""
    original = IMAGES[BATCH]
    same = (images == original).flatten(1).all(dim=1)
    turned = (images == original.flip(3)).flatten(1).all(dim=1)
    assert (same ^ turned).all()
    return turned


def test_nothing_is_changed_unless_asked_for() -> None:
    assert torch.equal(augmented(0, 0), IMAGES[BATCH])


def test_draws_depend_on_the_place_and_no_two_places_are_alike() -> None:
    fields = {"crop_padding": 2, "horizontal_flip": True, "cutout": 2}
    first = augmented(1, 0, **fields)
    assert torch.equal(first, augmented(1, 0, **fields))
    for epoch, step, seed in ((1, 1, 0), (2, 0, 0), (1, 0, 1)):
        assert not torch.equal(first, augmented(epoch, step, seed=seed, **fields))


def test_processes_change_their_parts_as_one_would() -> None:
    fields = {"crop_padding": 2, "horizontal_flip": True, "alternate_flips": True, "cutout": 3}
    parts = [process_part(BATCH, rank, 3) for rank in range(3)]
    together = torch.cat([augmented(3, 5, part, **fields) for part in parts])
    assert torch.equal(together, augmented(3, 5, **fields))


def test_alternating_images_show_the_other_side_in_the_next_epoch() -> None:
    fields = {"horizontal_flip": True, "alternate_flips": True}
    sides = [mirrored(augmented(epoch, step, **fields)) for epoch, step in ((0, 4), (1, 2), (2, 0))]
    assert torch.equal(sides[0], ~sides[1])
    assert torch.equal(sides[0], sides[2])
    assert 8 < sides[0].sum() < 32
    by_chance = [mirrored(augmented(epoch, 0, horizontal_flip=True)) for epoch in (0, 1)]
    assert not torch.equal(by_chance[0], ~by_chance[1])


def test_a_square_is_missing_after_the_shift() -> None:
    erased = augmented(0, 0, cutout=3, crop_padding=0)
    assert ((erased == 0).sum(dim=(2, 3)) == 9).all()
    changed = augmented(0, 0, cutout=3, horizontal_flip=True)
    sides = augmented(0, 0, horizontal_flip=True)
    assert torch.equal(changed[changed > 0], sides[changed > 0])
