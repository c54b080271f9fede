"""Cropping and flipping a batch, against a loop over images in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loss_attention.training.augmentation import Shifts, crop_and_flip, draw_shifts, erase_squares


def by_loop(images: np.ndarray, shifts: Shifts, padding: int) -> np.ndarray:
    """Put each pixel where the shift says, one image after the other."""
    height, width = images.shape[2:]
    moved = np.zeros_like(images)
    for i in range(len(images)):
        row, column = shifts.offset[i].tolist()
        for y in range(height):
            for x in range(width):
                from_y, from_x = y + row - padding, x + column - padding
                if 0 <= from_y < height and 0 <= from_x < width:
                    moved[i, :, y, width - 1 - x if shifts.flip[i] else x] = images[
                        i, :, from_y, from_x
                    ]
    return moved


def random_images(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8)


@given(
    st.integers(1, 6),
    st.sampled_from([1, 3]),
    st.integers(1, 7),
    st.integers(1, 7),
    st.integers(0, 4),
    st.integers(0, 99),
)
def test_agrees_with_a_loop(
    batch: int, channels: int, height: int, width: int, padding: int, seed: int
) -> None:
    images = random_images(batch, channels, height, width)
    shifts = draw_shifts(batch, padding, True, torch.Generator().manual_seed(seed))
    moved = crop_and_flip(images, shifts, padding)
    assert np.array_equal(moved, by_loop(images.numpy(), shifts, padding))


def test_each_image_has_its_own_shift_and_flip() -> None:
    image = random_images(1, 3, 8, 8)
    shifts = draw_shifts(400, 2, True, torch.Generator().manual_seed(0))
    moved = crop_and_flip(image.repeat(400, 1, 1, 1), shifts, 2)
    assert len({picture.numpy().tobytes() for picture in moved}) == 5 * 5 * 2  # all there are


def test_no_padding_and_no_flip_change_nothing() -> None:
    images = random_images(5, 3, 6, 4)
    before = images.clone()
    shifts = draw_shifts(5, 0, False, torch.Generator().manual_seed(0))
    assert torch.equal(crop_and_flip(images, shifts, 0), before)
    assert torch.equal(images, before)


def test_leaves_its_input_as_it_was() -> None:
    images = random_images(5, 3, 6, 4)
    before = images.clone()
    crop_and_flip(images, draw_shifts(5, 3, True, torch.Generator().manual_seed(0)), 3)
    assert torch.equal(images, before)


def test_draws_every_shift_and_half_the_flips() -> None:
    shifts = draw_shifts(9000, 1, True, torch.Generator().manual_seed(0))
    counts = torch.bincount(shifts.offset[:, 0] * 3 + shifts.offset[:, 1], minlength=9)
    assert counts.min() > 850  # 1000 expected, standard deviation 30
    assert counts.max() < 1150
    assert 0.48 < shifts.flip.float().mean() < 0.52
    assert not draw_shifts(100, 1, False, torch.Generator().manual_seed(0)).flip.any()


def test_the_generator_alone_decides() -> None:
    first, again, other = (
        draw_shifts(50, 4, True, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first.offset, again.offset)
    assert torch.equal(first.flip, again.flip)
    assert not torch.equal(first.offset, other.offset)


def test_a_part_of_the_shifts_moves_a_part_of_the_batch() -> None:
    images = random_images(6, 1, 5, 5)
    shifts = draw_shifts(6, 2, True, torch.Generator().manual_seed(0))
    whole = crop_and_flip(images, shifts, 2)
    chosen = torch.tensor([4, 1])
    assert torch.equal(crop_and_flip(images[chosen], shifts[chosen], 2), whole[chosen])
    assert torch.equal(crop_and_flip(images[:2], shifts[:2], 2), whole[:2])


@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 99))
def test_each_image_lacks_one_whole_square(batch: int, side: int, seed: int) -> None:
    images = random_images(batch, 3, 5, 9).clamp(min=1)
    before = images.clone()
    places = torch.rand(batch, 2, generator=torch.Generator().manual_seed(seed))
    erased = erase_squares(images, places, side).numpy()
    for found, whole, place in zip(erased, before.numpy(), places.tolist(), strict=True):
        y, x = int(place[0] * (5 - side + 1)), int(place[1] * (9 - side + 1))
        whole[:, y : y + side, x : x + side] = 0
        assert np.array_equal(found, whole)
        assert (found == 0).sum() == 3 * side * side
    assert images.min() > 0  # left as they were


def test_squares_get_to_every_corner() -> None:
    places = torch.tensor([[0.0, 0.0], [0.999, 0.999]])
    left = erase_squares(torch.ones(2, 1, 3, 3, dtype=torch.uint8), places, 2)
    assert left[0, 0].tolist() == [[0, 0, 1], [0, 0, 1], [1, 1, 1]]
    assert left[1, 0].tolist() == [[1, 1, 1], [1, 0, 0], [1, 0, 0]]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_same_pixels_on_a_gpu() -> None:
    images = random_images(16, 3, 9, 7)
    shifts = draw_shifts(16, 3, True, torch.Generator().manual_seed(0))
    on_gpu = crop_and_flip(images.cuda(), shifts, 3)
    assert torch.equal(on_gpu.cpu(), crop_and_flip(images, shifts, 3))
