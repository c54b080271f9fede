"""Decoding many images into one tensor."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from data.making import png, write

from loss_attention.data.records import Encoded
from loss_attention.data.stacking import Form, stack_images
from loss_attention.errors import InputError


def stack(images: list[Encoded], image_size: int | None = None) -> torch.Tensor:
    return stack_images(iter(images), len(images), Form(1, image_size)).images


def test_every_image_lands_in_its_row() -> None:
    values = [i % 256 for i in range(1000)]
    images = stack([Encoded(f"{i}", png(value)) for i, value in enumerate(values)])
    assert images.shape == (1000, 1, 4, 4)
    assert images.dtype == torch.uint8
    assert images.amin((1, 2, 3)).tolist() == values
    assert images.amax((1, 2, 3)).tolist() == values


def test_progress_counts_up_to_all() -> None:
    calls: list[tuple[int, int]] = []
    images = [Encoded(str(i), png()) for i in range(500)]
    stack_images(
        images,
        500,
        Form(3),
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == sorted(calls)
    assert calls[-1] == (500, 500)
    assert {total for _, total in calls} == {500}


def test_takes_files_as_well_as_bytes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png", png(9))
    assert stack([Encoded("a", path), Encoded("b", png(8))]).flatten(1)[:, 0].tolist() == [9, 8]


def test_unequal_sizes_name_two_files_and_the_way_out() -> None:
    images = [Encoded("a", png(size=(4, 4))), Encoded("b", png(size=(5, 3)))]
    with pytest.raises(InputError) as caught:
        stack(images)
    assert str(caught.value) == (
        "images of unequal sizes: a is 4 x 4, b is 5 x 3 (width x height); "
        "`image_size` N resizes them all to N x N, `image_size` HEIGHT WIDTH to that shape"
    )
    assert stack(images, image_size=6).shape == (2, 1, 6, 6)
    assert stack(images, image_size=(6, 7)).shape == (2, 1, 6, 7)


def test_all_unreadable_images_are_found_before_one_error() -> None:
    images = [Encoded(f"row {i}", png(size=(4 + i % 2, 4))) for i in range(100)]
    for row in (0, 31, 99):
        images[row] = Encoded(f"row {row}", b"junk")
    images[50] = Encoded("row 50", None)
    with pytest.raises(InputError) as caught:
        stack(images)
    assert str(caught.value) == (
        "4 images cannot be read: row 0 (of no known image format), "
        "row 31 (of no known image format), row 50 (nothing is stored there), "
        "row 99 (of no known image format)"
    )


@pytest.mark.parametrize(
    ("broken", "rest"), [(10, ""), (11, " and 1 more"), (300, " and 290 more")]
)
def test_ten_unreadable_images_are_named_and_the_rest_counted(broken: int, rest: str) -> None:
    with pytest.raises(InputError) as caught:
        stack([Encoded(f"<{i}>", b"") for i in range(broken)])
    message = str(caught.value)
    assert message.startswith(f"{broken} images cannot be read: <0> (empty), <1> (empty), ")
    assert message.endswith(f"<9> (empty){rest}")
    assert message.count("empty") == 10


def test_one_unreadable_image() -> None:
    with pytest.raises(InputError, match=r"^1 image cannot be read: a \(empty\)$"):
        stack([Encoded("a", b"")])
