"""Image sets and their division."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loss_attention.data.division import hold_out
from loss_attention.data.sample import ImageSet, Splits, limited


def image_set(labels: torch.Tensor, classes: int = 3) -> ImageSet:
    n = len(labels)
    images = torch.arange(n * 12, dtype=torch.uint8).reshape(n, 1, 3, 4)
    boxes = torch.arange(n * 8, dtype=torch.float32).reshape(n, 2, 4)
    box_labels = torch.arange(n * 2).reshape(n, 2)
    names = tuple(f"{i}.png" for i in range(n))
    masks = torch.arange(n * 12).reshape(n, 3, 4) % 5 == 0
    placements = torch.tensor([[8.0, 6.0 + i, 0.0, 0.0, 4.0, 3.0] for i in range(n)])
    kinds = tuple("abc"[:classes])
    return ImageSet(images, labels, kinds, boxes, box_labels, names, masks, placements)


@given(
    st.lists(st.integers(0, 4), max_size=60),
    st.floats(0, 1, exclude_max=True),
    st.integers(0, 3),
)
def test_hold_out_divides_every_class(labels: list[int], fraction: float, seed: int) -> None:
    kept, held = hold_out(torch.tensor(labels, dtype=torch.int64), fraction, seed)
    assert sorted(kept.tolist() + held.tolist()) == list(range(len(labels)))
    assert kept.tolist() == sorted(kept.tolist())
    assert held.tolist() == sorted(held.tolist())
    taken = Counter(labels[i] for i in held.tolist())
    for value, size in Counter(labels).items():
        if fraction == 0 or size == 1:
            assert taken[value] == 0
        else:
            assert 1 <= taken[value] <= size - 1
            if 1 <= fraction * size <= size - 1:
                assert abs(taken[value] - fraction * size) <= 0.5


def test_hold_out_of_tiny_classes() -> None:
    kept, held = hold_out(torch.tensor([0, 1, 1, 2, 2, 2]), 0.9, seed=0)
    assert 0 in kept  # a class of one is kept whole
    assert len(held) == 1 + 2  # of two, one stays; of three, one stays


def test_hold_out_of_a_multi_label_set_divides_the_whole() -> None:
    labels = torch.zeros(40, 3, dtype=torch.uint8)
    kept, held = hold_out(labels, 0.25, seed=0)
    assert (len(kept), len(held)) == (30, 10)
    assert [len(part) for part in hold_out(labels[:1], 0.5, seed=0)] == [1, 0]
    assert [len(part) for part in hold_out(labels, 0, seed=0)] == [40, 0]


def test_hold_out_depends_on_the_seed_and_on_nothing_else() -> None:
    labels = torch.arange(100) % 5
    torch.manual_seed(1)
    first = hold_out(labels, 0.2, seed=7)[1]
    torch.manual_seed(2)
    assert torch.equal(first, hold_out(labels, 0.2, seed=7)[1])
    assert not torch.equal(first, hold_out(labels, 0.2, seed=8)[1])


def test_hold_out_takes_a_sample_and_not_the_first() -> None:
    held = hold_out(torch.zeros(1000, dtype=torch.int64), 0.5, seed=0)[1]
    assert 400 < held.float().mean() < 600  # the mean index of a fair sample: 500, deviation 9


def test_subset_keeps_rows_together() -> None:
    whole = image_set(torch.tensor([0, 1, 2, 1]))
    part = whole.subset(torch.tensor([3, 0]))
    assert torch.equal(part.images, whole.images[[3, 0]])
    assert part.labels.tolist() == [1, 0]
    assert part.boxes is not None
    assert part.box_labels is not None
    assert part.boxes[0, 0].tolist() == [24, 25, 26, 27]
    assert part.box_labels.tolist() == [[6, 7], [0, 1]]
    assert part.names == ("3.png", "0.png")
    assert part.masks is not None
    assert part.placements is not None
    assert part.masks[0].tolist() == whole.masks[3].tolist() != whole.masks[0].tolist()
    assert part.placements[:, 1].tolist() == [9, 6]
    assert len(part) == 2
    assert part.size == (3, 4)


def test_limiting_and_moving_keep_masks_and_placements() -> None:
    whole = image_set(torch.tensor([0, 1, 2, 1]))
    few = limited(Splits(whole, whole, "x"), 2, seed=0).test
    assert few.masks is not None
    assert few.placements is not None
    rows = [whole.names.index(name) for name in few.names]
    assert torch.equal(few.masks, whole.masks[rows])
    assert torch.equal(few.placements, whole.placements[rows])
    moved = whole.to("meta")
    assert moved.masks.device.type == moved.placements.device.type == "meta"


def test_boxes_in_pixels_of_the_originals() -> None:
    data = image_set(torch.tensor([0, 1]))  # 4 x 3 pixels, of 8 x 6 and 8 x 7
    boxes = torch.tensor([[[0.0, 0.0, 4.0, 3.0]], [[1.0, 0.0, 2.0, 1.5]]])
    assert data.original_boxes(boxes).tolist() == [[[0, 0, 8, 6]], [[2, 0, 4, 3.5]]]
    assert replace(data, placements=None).original_boxes(boxes) is boxes


def test_label_matrix_of_both_kinds() -> None:
    single = image_set(torch.tensor([0, 2]))
    matrix = np.array([[1, 0, 0], [0, 0, 1]])
    assert not single.multi_label
    assert np.array_equal(single.label_matrix(), matrix)
    multi = image_set(torch.tensor([[1, 1, 0], [0, 0, 0]], dtype=torch.uint8))
    assert multi.multi_label
    assert multi.label_matrix().tolist() == [[1, 1, 0], [0, 0, 0]]


@pytest.mark.parametrize("change", ["images", "labels", "class_names"])
def test_fingerprint_sees_each_change(change: str) -> None:
    same, other = image_set(torch.tensor([0, 1])), image_set(torch.tensor([0, 1]))
    assert same.fingerprint() == other.fingerprint()
    if change == "images":
        other.images[1, 0, 2, 3] += 1
    elif change == "labels":
        other.labels[0] = 2
    else:
        other = image_set(torch.tensor([0, 1]), classes=2)
    assert same.fingerprint() != other.fingerprint()


def test_fingerprint_does_not_depend_on_the_memory_layout() -> None:
    plain = image_set(torch.tensor([0, 1]))
    turned = plain.subset(torch.tensor([0, 1]))
    turned.images.set_(plain.images.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2))
    assert turned.images.stride() != plain.images.stride()
    assert turned.fingerprint() == plain.fingerprint()


def test_splits_hold_the_validation_images_out_of_the_whole_training_split() -> None:
    whole = image_set(torch.arange(40) % 3)
    splits = Splits(whole, whole.subset(torch.arange(3)), "x", validation_fraction=0.25, seed=3)
    kept, held = hold_out(whole.labels, 0.25, seed=3)
    assert splits.train.names == tuple(whole.names[i] for i in kept)
    assert splits.validation.names == tuple(whole.names[i] for i in held)
    assert sorted(splits.train.names + splits.validation.names) == sorted(whole.names)
    few = limited(splits, 20, seed=0)
    kept, held = hold_out(few.trainval.labels, 0.25, seed=3)
    assert (len(few.train), len(few.validation)) == (len(kept), len(held))
    assert few.validation.names == tuple(few.trainval.names[i] for i in held)
    all_of_it = replace(splits, validation_fraction=0.0)
    assert all_of_it.train is whole
    assert not len(all_of_it.validation)
