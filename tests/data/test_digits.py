"""The made scenes: what they promise about labels, boxes and seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from loss_attention.data import digits as module
from loss_attention.data.digits import SCENE, SIZES, digits, multi_digits
from loss_attention.data.sample import ImageSet, Splits

# The faintest ink that counts (a tenth of full) of the faintest digit (0.6 of full), in 0..255.
FAINTEST = int(0.1 * 0.6 * 255)


def whole_digits(images: ImageSet) -> Iterator[tuple[int, tuple[int, int, int, int], int]]:
    """Yield the scene, box and class of every whole digit."""
    assert images.boxes is not None
    assert images.box_labels is not None
    for scene, (boxes, labels) in enumerate(zip(images.boxes, images.box_labels, strict=True)):
        for box, label in zip(boxes, labels.tolist(), strict=True):
            if label >= 0:
                x0, y0, x1, y1 = box.int().tolist()
                yield scene, (x0, y0, x1, y1), label


@pytest.fixture(scope="module")
def single() -> Splits:
    return digits(seed=3, train=150, test=60)


@pytest.fixture(scope="module")
def several() -> Splits:
    return multi_digits(seed=3, train=150, test=60)


def test_single_label_scenes(single: Splits) -> None:
    for part, count in ((single.train, 150), (single.test, 60)):
        assert part.images.shape == (count, 1, SCENE, SCENE)
        assert part.labels.shape == (count,)
        assert not part.multi_label
        assert part.class_names == tuple("0123456789")
        assert set(part.labels.tolist()) == set(range(10))
        assert part.box_labels is not None
        assert torch.equal(part.box_labels[:, 0], part.labels)
        assert part.box_labels.shape == (count, 1)
    assert "150 training and 60 test scenes" in single.source
    assert "seed 3" in single.source


def test_multi_label_scenes_hold_one_to_four_digits(several: Splits) -> None:
    part = several.train
    assert part.multi_label
    assert part.boxes is not None
    assert part.box_labels is not None
    present = part.box_labels >= 0
    counts = present.sum(1)
    assert set(counts.tolist()) == {1, 2, 3, 4}
    # Boxes come first, "no box" after them, and both tensors agree on which is which.
    assert torch.equal(present, torch.arange(4) < counts[:, None])
    assert torch.equal(part.boxes.isnan().all(-1), ~present)
    assert torch.equal(part.boxes.isnan().any(-1), ~present)
    for labels, boxed in zip(part.labels, part.box_labels, strict=True):
        assert set(labels.nonzero().flatten().tolist()) == set(boxed.tolist()) - {-1}


@pytest.mark.parametrize("make", [digits, multi_digits])
def test_boxes_are_the_smallest_around_the_ink(
    make: Callable[..., Splits], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "NOISE", 0.0)
    monkeypatch.setattr(module, "_place_fragments", lambda *_: None)
    part = make(seed=1, train=80, test=20).train
    outside = part.images[:, 0].numpy().copy()
    for scene, (x0, y0, x1, y1), _ in whole_digits(part):
        assert 0 <= x0 < x1 <= SCENE
        assert 0 <= y0 < y1 <= SCENE
        inside = part.images[scene, 0, y0:y1, x0:x1].numpy()
        for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]):
            assert edge.max() >= FAINTEST
        assert outside[scene, y0:y1, x0:x1].any(), "boxes of one scene overlap"
        outside[scene, y0:y1, x0:x1] = 0
    assert not outside.any()


def test_boxes_do_not_overlap_and_vary(several: Splits) -> None:
    coverage = np.zeros((150, SCENE, SCENE), int)
    places, sides = set(), set()
    for scene, (x0, y0, x1, y1), _ in whole_digits(several.train):
        coverage[scene, y0:y1, x0:x1] += 1
        places.add((x0 * 4 // SCENE, y0 * 4 // SCENE))
        sides.add(y1 - y0)
    assert coverage.max() == 1
    assert len(places) >= 9
    assert max(sides) <= SIZES.stop - 1
    assert len(sides) >= 8


def tight(scan: NDArray[np.float32]) -> NDArray[np.float32]:
    """Crop a picture to its ink and bring it to 8 x 8 pixels, from 0 to 1."""
    rows, columns = np.nonzero(scan.max(1) > 0.1)[0], np.nonzero(scan.max(0) > 0.1)[0]
    crop = scan[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    small = np.asarray(Image.fromarray(crop).resize((8, 8), Image.Resampling.BILINEAR))
    return (small / small.max()).ravel()


def test_a_classifier_of_scans_reads_the_boxes(several: Splits) -> None:
    from sklearn.datasets import load_digits
    from sklearn.svm import SVC

    scans, labels = load_digits(return_X_y=True)
    pictures = scans.reshape(-1, 8, 8).astype(np.float32) / 16
    reader = SVC(gamma="scale", C=10).fit([tight(picture) for picture in pictures], labels)
    crops, truth = [], []
    for scene, (x0, y0, x1, y1), label in whole_digits(several.test):
        crop = several.test.images[scene, 0, y0:y1, x0:x1].numpy().astype(np.float32) / 255
        crops.append(tight(crop))
        truth.append(label)
    assert len(truth) > 100
    assert (reader.predict(crops) == truth).mean() > 0.95


def test_the_same_seed_makes_the_same_scenes(single: Splits, several: Splits) -> None:
    for make, first in ((digits, single), (multi_digits, several)):
        again, other = (make(seed=seed, train=150, test=60) for seed in (3, 4))
        for part, same, different in (
            (first.train, again.train, other.train),
            (first.test, again.test, other.test),
        ):
            assert part.fingerprint() == same.fingerprint()
            assert part.boxes is not None
            assert same.boxes is not None
            assert torch.equal(part.boxes.nan_to_num(), same.boxes.nan_to_num())
            assert part.fingerprint() != different.fingerprint()


def test_more_training_scenes_leave_the_test_scenes_alone(single: Splits) -> None:
    longer = digits(seed=3, train=170, test=60)
    assert longer.test.fingerprint() == single.test.fingerprint()
    assert torch.equal(longer.train.images[:150], single.train.images)


def test_no_scan_is_in_both_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[NDArray[np.float32]] = []

    class Recorded(module._Bank):
        def __init__(self, scans: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
            super().__init__(scans, labels)
            used.append(scans)

    monkeypatch.setattr(module, "_Bank", Recorded)
    digits(seed=0, train=2, test=2)
    train, test = ({scan.tobytes() for scan in scans} for scans in used)
    assert len(train) + len(test) == 1797  # every scan is used, and no two are alike
    assert not train & test
