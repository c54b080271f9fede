from __future__ import annotations

import numpy as np
import pytest
import torch

from loss_attention.geometry import PatchGrid
from loss_attention.metrics.localisation import (
    PatchCounts,
    count_patches,
    patches_in_boxes,
    relevant_boxes,
    right_patches,
    weight_inside,
)

NAN = float("nan")


def reference_counts(patch_logits, selected, windows, boxes, box_labels, label_sets, multi):
    """Return |S & A|, |S & A & B| and |B| in float64, patch by patch, from the definitions."""
    chosen = found = wanted = 0
    for i, labels in enumerate(label_sets):
        for m, (x0, y0, x1, y1) in enumerate(windows):
            p = patch_logits[i, m].astype(np.float64)
            if multi:
                in_a = any(1 / (1 + np.exp(-p[k])) > 0.5 for k in labels)
            else:
                in_a = int(np.argmax(p)) in labels
            in_b = False
            for (u0, v0, u1, v1), k in zip(boxes[i], box_labels[i], strict=True):
                if k in labels:
                    across = max(0.0, min(x1, u1) - max(x0, u0))
                    down = max(0.0, min(y1, v1) - max(y0, v0))
                    in_b |= across * down / ((x1 - x0) * (y1 - y0)) > 0.5
            chosen += bool(selected[i, m]) and in_a
            found += bool(selected[i, m]) and in_a and in_b
            wanted += in_b
    return chosen, found, wanted


def random_boxes(count: int, side: int) -> np.ndarray:
    rng = np.random.default_rng(3)
    corner = rng.integers(0, side - 8, (count, 3, 2))
    boxes = np.concatenate([corner, corner + rng.integers(6, 24, (count, 3, 2))], axis=2)
    boxes = boxes.clip(0, side).astype(np.float32)
    boxes[::3, 2] = np.nan
    return boxes


@pytest.mark.parametrize("multi", [False, True])
def test_counts_are_those_of_a_loop_over_the_definitions(multi: bool) -> None:
    rng = np.random.default_rng(5)
    grid = PatchGrid(4, 5, window=9, stride=6, height=27, width=31)
    windows, boxes = grid.windows(), torch.from_numpy(random_boxes(40, 30))
    box_labels = torch.from_numpy(rng.integers(0, 4, (40, 3)))
    box_labels[boxes.isnan().any(dim=2)] = -1
    labels = torch.from_numpy(rng.integers(0, 4, 40))
    label_sets = [{k} for k in labels.tolist()]
    if multi:
        labels = torch.from_numpy(rng.integers(0, 2, (40, 4)).astype(np.uint8))
        label_sets = [{k for k in range(4) if row[k]} for row in labels.tolist()]
    logits = torch.from_numpy(rng.normal(size=(40, 20, 4)).astype(np.float32))
    selected = torch.from_numpy(rng.random((40, 20)) < 0.6)

    inside = patches_in_boxes(windows, boxes, relevant_boxes(box_labels, labels))
    counts = count_patches(selected, right_patches(logits, labels), inside)

    chosen, found, wanted = reference_counts(
        logits.numpy(),
        selected.numpy(),
        windows.double().numpy(),
        boxes.double().numpy(),
        box_labels.numpy(),
        label_sets,
        multi,
    )
    assert (int(counts.chosen), int(counts.found), int(counts.wanted)) == (chosen, found, wanted)
    assert 0 < found < min(chosen, wanted)
    assert counts.precision == pytest.approx(found / chosen)
    assert counts.recall == pytest.approx(found / wanted)
    assert counts.f == pytest.approx(2 / (chosen / found + wanted / found))


def test_half_a_window_is_not_more_than_half() -> None:
    windows = torch.tensor([[0.0, 0.0, 4.0, 4.0]])
    yes = torch.tensor([[True]])
    half, more = torch.tensor([[[0.0, 0.0, 2.0, 4.0]]]), torch.tensor([[[0.0, 0.0, 2.5, 4.0]]])
    assert not patches_in_boxes(windows, half, yes).item()
    assert patches_in_boxes(windows, more, yes).item()


def test_two_boxes_do_not_add_up_and_other_boxes_do_not_count() -> None:
    windows = torch.tensor([[0.0, 0.0, 4.0, 4.0]])
    halves = torch.tensor([[[0.0, 0.0, 2.0, 4.0], [2.0, 0.0, 4.0, 4.0]]])
    assert not patches_in_boxes(windows, halves, torch.tensor([[True, True]])).item()
    whole = torch.tensor([[[0.0, 0.0, 4.0, 4.0], [NAN] * 4]])
    assert not patches_in_boxes(windows, whole, torch.tensor([[False, False]])).item()


def test_weight_inside() -> None:
    weights = torch.tensor([[0.5, 0.3, 0.2], [1.0, 0.0, 0.0]])
    inside = torch.tensor([[True, False, True], [False, True, True]])
    assert weight_inside(weights, inside).tolist() == pytest.approx([0.7, 0.0])


def counts_of(chosen: int, found: int, wanted: int) -> PatchCounts:
    return PatchCounts(torch.tensor(chosen), torch.tensor(found), torch.tensor(wanted))


def test_counts_add_up_before_they_are_divided() -> None:
    total = counts_of(4, 1, 2) + counts_of(0, 0, 8)
    assert (total.precision, total.recall) == (0.25, 0.1)
    assert total.f == pytest.approx(2 * 0.25 * 0.1 / 0.35)


@pytest.mark.parametrize(
    ("counts", "precision", "recall", "f"),
    [
        ((0, 0, 5), None, 0.0, None),
        ((5, 0, 0), 0.0, None, None),
        ((0, 0, 0), None, None, None),
        ((5, 0, 5), 0.0, 0.0, 0.0),
        ((5, 5, 5), 1.0, 1.0, 1.0),
    ],
)
def test_nothing_to_divide_by_is_undefined(counts, precision, recall, f) -> None:
    found = counts_of(*counts)
    assert (found.precision, found.recall, found.f) == (precision, recall, f)


def test_the_patches_own_class_decides() -> None:
    logits = torch.tensor([[[1.0, -1.0, 0.0], [0.0, 2.0, 1.0], [0.0, -1.0, -2.0]]])
    assert right_patches(logits, torch.tensor([0])).tolist() == [[True, False, True]]
    labels = torch.tensor([[1, 0, 1]], dtype=torch.uint8)
    assert right_patches(logits, labels).tolist() == [[True, True, False]]
    assert not right_patches(logits, torch.zeros(1, 3)).any()
