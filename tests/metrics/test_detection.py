from __future__ import annotations

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from loss_attention.geometry import PatchGrid
from loss_attention.metrics.detection import (
    Detections,
    detection_average_precisions,
    group_boxes,
    match_detections,
)

NAN = float("nan")


def test_groups_of_patches_are_boxes_by_hand() -> None:
    grid = PatchGrid(2, 4, window=4, stride=2, height=6, width=9)
    values = torch.tensor(
        [
            [4.0, 1.0, 0.0, 2.0, -5.0, 0.0, 0.0, 1.0],  # two groups at 0, at 1/4 one less patch
            [-1.0, 0.0, -2.0, 0.0, 0.0, 0.0, 0.0, 0.0],  # nothing speaks for it
            [0.0, 3.0, 0.0, 0.0, 3.0, 0.0, 0.0, 0.0],  # touch by a corner: one
        ]
    )
    scores = torch.tensor([0.8, 0.9, 0.5])
    found = group_boxes(values, scores, grid, 0.0)
    assert found.question.tolist() == [0, 0, 2]
    assert found.boxes.tolist() == [[0, 0, 6, 4], [6, 0, 9, 6], [0, 0, 6, 6]]
    assert found.scores.tolist() == pytest.approx([0.8 * 5 / 8, 0.8 * 3 / 8, 0.5])
    higher = group_boxes(values, scores, grid, 0.25)
    assert higher.boxes.tolist() == [[0, 0, 4, 4], [6, 0, 9, 4], [0, 0, 6, 6]]
    assert higher.scores.tolist() == pytest.approx([0.8 * 4 / 8, 0.8 * 2 / 8, 0.5])


def test_a_true_box_is_found_once_and_by_the_surest() -> None:
    truth = torch.tensor([[[0.0, 0.0, 4.0, 4.0], [10.0, 0.0, 14.0, 4.0]], [[NAN] * 4] * 2])
    boxes = [
        [0, 0, 4, 3],  # IoU 3/4 with the first
        [0, 0, 4, 4],  # IoU 1, but less sure: too late
        [10, 0, 14, 2],  # IoU 1/2 is enough
        [0, 0, 4, 4],  # the other question has no true box
        [10, 0, 14, 1],  # too little
    ]
    found = Detections(
        torch.tensor([0, 0, 0, 1, 0]),
        torch.tensor(boxes).float(),
        torch.tensor([0.9, 0.8, 0.1, 0.7, 0.95]),
    )
    assert match_detections(found, truth).tolist() == [True, False, True, False, False]


def test_an_overlap_of_exactly_one_half_is_enough_as_coco_has_it() -> None:
    truth = torch.tensor([[[0.0, 0.0, 4.0, 4.0]]])
    for wide, right in ((8.0, True), (8.1, False)):  # 16 of 32 pixels
        box = torch.tensor([[0.0, 0.0, wide, 4.0]])
        found = Detections(torch.tensor([0]), box, torch.tensor([1.0]))
        assert match_detections(found, truth).tolist() == [right]


def test_a_detection_takes_the_box_that_it_overlaps_most_with() -> None:
    truth = torch.tensor([[[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 5.0]]])
    boxes = torch.tensor([[0.0, 0.0, 4.0, 5.0], [0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 5.0]])
    found = Detections(torch.zeros(3, dtype=torch.int64), boxes, torch.tensor([3.0, 2.0, 1.0]))
    assert match_detections(found, truth).tolist() == [True, True, False]


def reference(boxes, scores, images, classes, true_boxes, true_images, true_classes, count):
    """Average precision at IoU 0.5, written box by box from COCO's definition in float64."""
    results = []
    for k in range(count):
        wanted = int((true_classes == k).sum())
        if not wanted:
            results.append(np.nan)
            continue
        taken, hits = set(), []
        for d in sorted(np.flatnonzero(classes == k), key=lambda d: -scores[d]):
            best, chosen = 0.5, None
            for g in np.flatnonzero((true_classes == k) & (true_images == images[d])):
                a, b = boxes[d], true_boxes[g]
                shared = max(0, min(a[2], b[2]) - max(a[0], b[0]))
                shared *= max(0, min(a[3], b[3]) - max(a[1], b[1]))
                total = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
                if g not in taken and shared / total >= best:
                    best, chosen = shared / total, g
            taken |= {chosen} - {None}
            hits.append(chosen is not None)
        area = 0.0
        for recall in np.linspace(0, 1, 101):  # rounded as COCO's own evaluation has them
            above = [
                sum(hits[: n + 1]) / (n + 1)
                for n in range(len(hits))
                if sum(hits[: n + 1]) / wanted >= recall
            ]
            area += max(above, default=0.0) / 101
        results.append(area)
    return results


def random_detections(seed: int):
    """Twenty images of four classes with up to three true boxes a class, half found roughly."""
    rng = np.random.default_rng(seed)
    true_images, true_classes = (array.ravel() for array in np.mgrid[0:20, 0:3])
    keep = rng.random(60) < 0.6
    true_images = np.repeat(true_images[keep], 2)
    true_classes = np.repeat(true_classes[keep], 2)
    corner = rng.uniform(0, 30, (len(true_images), 2))
    true_boxes = np.concatenate([corner, corner + rng.uniform(5, 20, corner.shape)], axis=1)
    pick = rng.integers(0, len(true_boxes), 150)
    boxes = true_boxes[pick] + rng.normal(0, 1.5, (150, 4))
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    classes = np.where(rng.random(150) < 0.85, true_classes[pick], rng.integers(0, 4, 150))
    # float32 throughout, so that both see the same numbers.
    boxes, true_boxes = boxes.astype(np.float32), true_boxes.astype(np.float32)
    scores = rng.permutation(150) / 150
    return boxes, scores, true_images[pick], classes, true_boxes, true_images, true_classes


def by_pycocotools(boxes, scores, images, classes, true_boxes, true_images, true_classes, count):
    """Average precision at IoU 0.5 of each class, by COCO's own evaluation."""

    def annotation(number, image, k, box, **more):
        x0, y0, x1, y1 = map(float, box)
        rest = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0), "iscrowd": 0}
        return {"id": number + 1, "image_id": int(image), "category_id": int(k), **rest, **more}

    def coco(annotations):
        made = COCO()
        made.dataset = {
            "images": [{"id": image} for image in range(20)],
            "categories": [{"id": k, "name": str(k)} for k in range(count)],
            "annotations": annotations,
        }
        made.createIndex()
        return made

    truth = zip(range(len(true_boxes)), true_images, true_classes, true_boxes, strict=True)
    found = zip(range(len(boxes)), images, classes, boxes, scores, strict=True)
    evaluation = COCOeval(
        coco([annotation(*one) for one in truth]),
        coco([annotation(*one, score=float(score)) for *one, score in found]),
        "bbox",
    )
    evaluation.params.maxDets = [len(boxes)]
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval["precision"][0, :, :, 0, 0]  # at 0.5, of any size: (R, K)
    return np.where((precision < 0).all(axis=0), np.nan, precision.mean(axis=0))


def test_average_precision_is_that_of_pycocotools_and_of_a_loop_over_boxes() -> None:
    everything = random_detections(4)
    boxes, scores, images, classes, true_boxes, true_images, true_classes = everything
    expected = reference(*everything, 4)
    np.testing.assert_allclose(by_pycocotools(*everything, 4), expected, atol=1e-9)
    truth = torch.full((80, 6, 4), NAN)
    for question in range(80):
        mine = true_boxes[(true_images == question // 4) & (true_classes == question % 4)]
        truth[question, : len(mine)] = torch.from_numpy(mine)
    found = Detections(
        torch.from_numpy(images * 4 + classes), torch.from_numpy(boxes), torch.from_numpy(scores)
    )
    right = match_detections(found, truth)
    counts = torch.bincount(torch.from_numpy(true_classes), minlength=4)
    precisions = detection_average_precisions(
        found.scores, right, torch.from_numpy(classes), counts
    )
    np.testing.assert_allclose(precisions.numpy(), expected, atol=1e-9)
    assert np.isnan(expected[3])
    assert 0.1 < np.nanmean(expected) < 0.9


def test_a_class_that_nobody_looked_for_scores_nothing() -> None:
    none = torch.zeros(0)
    found = detection_average_precisions(none, none.bool(), none.long(), torch.tensor([2, 0]))
    assert found[0] == 0
    assert found[1].isnan()
