from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from loss_attention.metrics import localisation as boxes_module
from loss_attention.metrics.localisation import (
    centred_box,
    correct_boxes,
    fit_centred_box,
    relevant_boxes,
)

NAN = float("nan")


def reference_iou(a, b) -> float:
    across = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    down = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return across * down / (areas - across * down)


def random_boxes(count: int, each: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return boxes in an image of 40 x 30 (width x height) and which are relevant."""
    rng = np.random.default_rng(11)
    centre = rng.normal([20, 15], 4, (count, each, 2))
    side = rng.uniform([10, 8], [38, 30], (count, each, 2))
    boxes = np.concatenate([centre - side / 2, centre + side / 2], axis=2)
    boxes = boxes.clip(0, [40, 30, 40, 30])
    boxes[::4, 1:] = np.nan
    relevant = (rng.random((count, each)) < 0.7) & ~np.isnan(boxes[..., 0])
    return torch.from_numpy(boxes.astype(np.float32)), torch.from_numpy(relevant)


def reference_share(box, boxes: torch.Tensor, relevant: torch.Tensor, iou: float = 0.5) -> float:
    hits = [
        any(reference_iou(box, b) > iou for b, r in zip(row, keep, strict=True) if r)
        for row, keep in zip(boxes.double().tolist(), relevant.tolist(), strict=True)
        if any(keep)
    ]
    return sum(hits) / len(hits)


def test_relevant_boxes_are_of_the_images_labels() -> None:
    box_labels = torch.tensor([[0, 2, -1], [1, 1, 2]])
    single = relevant_boxes(box_labels, torch.tensor([2, 1]))
    assert single.tolist() == [[False, True, False], [True, True, False]]
    labels = torch.tensor([[1, 0, 1], [0, 0, 1]], dtype=torch.uint8)
    multi = relevant_boxes(box_labels, labels)
    assert multi.tolist() == [[True, True, False], [False, False, True]]


def test_correct_boxes_by_hand() -> None:
    truth = torch.tensor([[[0.0, 0.0, 4.0, 4.0], [10.0, 10.0, 14.0, 14.0], [NAN] * 4]])
    relevant = torch.tensor([[True, False, False]])
    # 16 of 32 pixels: exactly one half, not above it.
    assert not correct_boxes(torch.tensor([[0.0, 0.0, 8.0, 4.0]]), truth, relevant).item()
    assert correct_boxes(torch.tensor([[0.0, 0.0, 7.0, 4.0]]), truth, relevant).item()
    assert not correct_boxes(torch.tensor([[10.0, 10.0, 14.0, 14.0]]), truth, relevant).item()
    either = torch.tensor([[True, True, False]])
    assert correct_boxes(torch.tensor([[10.0, 10.0, 14.0, 14.0]]), truth, either).item()
    assert not correct_boxes(torch.full((1, 4), NAN), truth, either).item()


def test_correct_boxes_are_those_of_a_loop() -> None:
    boxes, relevant = random_boxes(60, 3)
    box = torch.tensor([6.0, 5.0, 33.0, 27.0])
    found = correct_boxes(box.expand(60, 4), boxes, relevant)[relevant.any(1)].double().mean()
    expected = reference_share(box.tolist(), boxes, relevant)
    assert found.item() == pytest.approx(expected, abs=1e-12)
    assert 0.1 < expected < 0.9


def test_centred_box() -> None:
    assert centred_box(1.0, 1.0, height=30, width=40).tolist() == [0, 0, 40, 30]
    assert centred_box(0.5, 0.2, height=30, width=40).tolist() == pytest.approx([10, 12, 30, 18])


@pytest.mark.parametrize("iou", [0.3, 0.5, 0.7])
def test_the_fitted_box_is_the_best_of_all_tried(
    iou: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boxes_module, "CENTRED_STEPS", 8)
    boxes, relevant = random_boxes(60, 3)
    fitted = fit_centred_box(boxes, relevant, height=30, width=40, iou=iou)
    fractions = [step / 8 for step in range(1, 9)]
    shares = {}
    for a, b in itertools.product(fractions, fractions):
        box = (20 - 20 * a, 15 - 15 * b, 20 + 20 * a, 15 + 15 * b)
        shares[a, b] = reference_share(box, boxes, relevant, iou)
    best = max(shares.values())
    largest = max((a * b for (a, b), share in shares.items() if share == best))
    assert fitted is not None
    assert shares[fitted] == best
    assert fitted[0] * fitted[1] == largest
    assert best > shares[1.0, 1.0]


def test_the_fit_finds_the_box_that_all_images_share() -> None:
    box = centred_box(0.25, 0.75, height=64, width=64)
    boxes = box.expand(5, 1, 4).clone()
    fitted = fit_centred_box(boxes, torch.ones(5, 1, dtype=torch.bool), height=64, width=64)
    assert fitted is not None
    # Any box within an IoU of 1/2 is as good; the largest of them holds the shared one twice over.
    assert fitted[0] * fitted[1] == pytest.approx(2 * 0.25 * 0.75, abs=0.05)
    assert fitted[0] * fitted[1] < 2 * 0.25 * 0.75


def test_the_fit_counts_images_not_boxes() -> None:
    small, large = [28.0, 28.0, 36.0, 36.0], [4.0, 4.0, 60.0, 60.0]
    boxes = torch.tensor([[small] * 3, [large] + [[NAN] * 4] * 2, [large] + [[NAN] * 4] * 2])
    fitted = fit_centred_box(boxes, ~boxes.isnan().any(dim=2), height=64, width=64)
    assert fitted == (1.0, 1.0)


def test_no_relevant_box_no_fit_and_no_hit_the_whole_image() -> None:
    boxes = torch.tensor([[[0.0, 0.0, 2.0, 2.0]]])
    assert fit_centred_box(boxes, torch.tensor([[False]]), height=64, width=64) is None
    assert fit_centred_box(boxes, torch.tensor([[True]]), height=64, width=64) == (1.0, 1.0)
