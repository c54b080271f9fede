"""Masks of COCO's segmentations and of polygons: to the pixel, or a line that says why not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from data.making import coco_json, png, text, write
from data.refusing import load, refusal
from PIL import Image
from pycocotools import mask as coco

from loss_attention.data.decoding import UnreadableImage
from loss_attention.data.masks import MOST_CORNER, draw_segments, read_shape, run_lengths

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
SIZE = (30, 20)
"""Width and height."""


def drawn(*segments, size=SIZE, scale=(1, 1)) -> np.ndarray:
    return np.asarray(draw_segments(segments, "a.png", size, scale)) == 255


def published(polygons, size=SIZE) -> np.ndarray:
    width, height = size
    return coco.decode(coco.merge(coco.frPyObjects(polygons, height, width))) == 1


def test_a_rectangle_has_the_pixels_that_it_covers() -> None:
    rectangle = [[5, 5, 20, 5, 20, 15, 5, 15]]
    assert drawn(rectangle).sum() == 150
    assert drawn(rectangle)[5:15, 5:20].all()
    assert (drawn(rectangle[0]) == drawn(rectangle)).all()  # without the list around it


def test_polygons_equal_pycocotools() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        corners = [rng.uniform(-10, 40, 2 * rng.integers(3, 9)) for _ in range(3)]
        polygons = [[3.5, 2, 9.25, 4, 6, 11.5], *(c.tolist() for c in corners)]
        inside = [p for p in polygons if max(p[::2]) > 0 > min(p[::2]) - 30 and max(p[1::2]) > 0]
        inside = [p for p in inside if min(p[::2]) < 30 and min(p[1::2]) < 20]
        assert (drawn(inside) == published(inside)).all()
        assert (drawn(*([p] for p in inside)) == published(inside)).all()  # several objects
        shares = [(np.array(p).reshape(-1, 2) / SIZE).ravel().tolist() for p in inside]
        pixels = [(np.array(p).reshape(-1, 2) * SIZE).ravel().tolist() for p in shares]
        assert (drawn(shares, scale=SIZE) == published(pixels)).all()


def test_run_lengths_equal_pycocotools() -> None:
    rng = np.random.default_rng(0)
    for k in range(100):
        wanted = rng.random((20, 30)) < rng.random() if k else np.ones((20, 30))
        packed = coco.encode(np.asfortranarray(wanted.astype(np.uint8)))["counts"].decode()
        lengths = run_lengths(packed).tolist()
        assert sum(lengths) == 600
        for counts in (packed, lengths):
            runs = {"size": [20, 30], "counts": counts}
            assert (drawn(runs) == wanted).all()
            assert (drawn([runs]) == wanted).all()
    large = np.zeros((3000, 2000), np.uint8)  # runs of several groups of bits
    large[1000:2000, 500:] = 1
    packed = coco.encode(np.asfortranarray(large))["counts"].decode()
    assert (drawn({"size": [3000, 2000], "counts": packed}, size=(2000, 3000)) == large).all()


def test_lists_of_runs_and_of_both_are_joined() -> None:
    left, right = np.zeros((2, 20, 30), np.uint8)
    left[2:9, 3:7], right[10:12, 20:] = 1, 1
    runs = []
    for one in (left, right):
        packed = coco.encode(np.asfortranarray(one))["counts"].decode()
        runs.append({"size": [20, 30], "counts": packed})
    assert (drawn(runs) == (left | right)).all()
    polygon = [5, 5, 20, 5, 20, 15, 5, 15]
    assert (drawn([runs[0], polygon]) == (published([polygon]) | (left == 1))).all()


NAN, INF = float("nan"), float("inf")
BROKEN = [
    ([[5, 5, 20, 15]], "a polygon of 2 corners"),
    ([[]], "a polygon of 0 corners"),
    ([5, 5, 20, 15], "a polygon of 2 corners"),
    ([[1, 1], [9, 1], [9, 9]], "a polygon of 1 corners"),
    ([[1, 1, 9, 1, 9, 9], [2, 2]], "a polygon of 1 corners"),
    ([[1, 1, 9, 1, 9, 9, 4]], "a polygon of 7 numbers"),
    ([[1, 1, 9, 1, 9, NAN]], "a corner that is not finite"),
    ([[1, 1, 9, 1, 9, INF]], "a corner that is not finite"),
    ([[1, 1, 9, 1, 9, 10**400]], "a corner that is not finite"),
    ([[0, 0, 1e12, 0, 1e12, 1e12]], f"a corner more than {MOST_CORNER:,} pixels away"),
    ([[0, 0, 9, 0, 9, -1e300]], f"a corner more than {MOST_CORNER:,} pixels away"),
    ([[1, 1, 9, 1, 9, "9"]], "'9' in a polygon is not a number"),
    ([[1, 1, 9, 1, 9, True]], "True in a polygon is not a number"),
    ([[1, 1, 9, 1, 9, None]], "None in a polygon is not a number"),
    ([[[1, 1], [9, 1], [9, 9]]], "[1, 1] in a polygon is not a number"),
    (["1 1 9 1 9 9"], "'1 1 9 1 9 9' is not a polygon"),
    ("1 1 9 1 9 9", "is neither polygons nor run lengths"),
    ("", "'' is neither polygons nor run lengths"),
    (7, "7 is neither polygons nor run lengths"),
    (False, "False is neither polygons nor run lengths"),
    ({}, "size None is not a height and width"),
    ({"size": [20, 30]}, "counts None are not whole numbers"),
    ({"counts": [600]}, "size None is not a height and width"),
    ({"size": [20], "counts": [600]}, "size [20] is not a height and width"),
    ({"size": ["20", "30"], "counts": [600]}, "is not a height and width"),
    ({"size": [0, 30], "counts": []}, "size [0, 30] is not a height and width"),
    ({"size": [-20, -30], "counts": [600]}, "is not a height and width"),
    ({"size": [10**9, 1], "counts": [10**9]}, "more than any image"),
    ({"size": [10**400, 1], "counts": [1]}, "more than any image"),
    ({"size": [20, 30], "counts": [100, 20]}, "its runs cover 120 of 600 pixels"),
    ({"size": [20, 30], "counts": []}, "its runs cover 0 of 600 pixels"),
    ({"size": [20, 30], "counts": [700]}, "its runs cover 700 of 600 pixels"),
    ({"size": [20, 30], "counts": [-5, 605]}, "a run of a length below 0"),
    ({"size": [20, 30], "counts": [-(10**30), 10**30]}, "a run of a length below 0"),
    ({"size": [20, 30], "counts": [1.5, 598.5]}, "are not whole numbers"),
    ({"size": [20, 30], "counts": [True, 599]}, "are not whole numbers"),
    ({"size": [20, 30], "counts": ["600"]}, "are not whole numbers"),
    ({"size": [20, 30], "counts": ""}, "its runs cover 0 of 600 pixels"),
    ({"size": [20, 30], "counts": "h"}, "its counts are not packed run lengths"),
    ({"size": [20, 30], "counts": "\x00\n"}, "its counts are not packed run lengths"),
    ({"size": [20, 30], "counts": "猫"}, "its counts are not packed run lengths"),
    ({"size": [20, 30], "counts": "o" * 1000 + "0"}, "a run longer than any image"),
    ({"size": [20, 30], "counts": "O"}, "a run of a length below 0"),
    ([{"size": [20, 30], "counts": [600]}, {"size": [20, 30]}], "counts None"),
]


@pytest.mark.parametrize(("segment", "said"), BROKEN)
def test_what_is_no_segmentation(segment, said: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        read_shape(segment)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200
    with pytest.raises(UnreadableImage):
        drawn(segment)


@pytest.mark.parametrize(
    ("segment", "said"),
    [
        ([[0, 0, 90_000, 90_000] * 10], "an outline of more than 1,000,000 pixels"),
        ([[40, 2, 50, 2, 50, 9]], "lies at (40, 2)-(50, 9), outside the image of 30 x 20"),
        ([[1, -9, 9, -9, 9, -2]], "outside the image of 30 x 20"),
        ({"size": [30, 20], "counts": [600]}, "its mask is 20 x 30, the image 30 x 20"),
        ([{"size": [2, 3], "counts": [6]}], "its mask is 3 x 2, the image 30 x 20"),
    ],
)
def test_what_does_not_fit_the_image(segment, said: str) -> None:
    with pytest.raises(UnreadableImage) as caught:
        drawn(segment)
    assert said in str(caught.value)


def test_shares_beyond_any_image() -> None:
    with pytest.raises(UnreadableImage, match="a corner more than"):
        drawn([[0, 0, 9000, 0, 9000, 1]], scale=SIZE)


@pytest.fixture
def one(tmp_path: Path):
    """Two training images of 30 x 20 and a test image, all of cats and dogs."""

    def make(segments: list) -> Path:
        for split, number in (("train", 1), ("train", 2), ("test", 3)):
            write(tmp_path / split / f"{number}.png", png(number, SIZE))
        objects = [(1, 7, [0, 0, 9, 9]), (2, 3, [0, 0, 9, 9]), (2, 7, [0, 0, 9, 9])]
        segments = [*segments, [[0, 0, 9, 0, 9, 9]]]
        images = {n: (f"{n}.png", *SIZE) for n in (1, 2)}
        coco_json(tmp_path / "train" / "_annotations.coco.json", images, objects, segments)
        coco_json(
            tmp_path / "test" / "_annotations.coco.json",
            {3: ("3.png", *SIZE)},
            [(3, 7, [0, 0, 9, 9])],
            [[[0, 0, 9, 0, 9, 9]]],
        )
        return tmp_path

    return make


@pytest.mark.parametrize(("segment", "said"), BROKEN[::4])
def test_each_is_named_with_file_and_id(one, segment, said: str) -> None:
    root = one([segment, [[0, 0, 9, 0, 9, 9]]])
    line = refusal(root, masks=True)
    assert "train/_annotations.coco.json annotation 100: its segmentation " in line
    assert said in line
    assert load(root, masks=True, skip_broken=True).train.names == ("train/2.png",)
    assert len(load(root).train) == 2  # nobody asked for masks


def test_those_that_do_not_fit_are_named_with_file_and_id(one) -> None:
    root = one([[[90, 90, 99, 90, 99, 99]], [[0, 0, 9, 0, 9, 9]]])
    said = "train/1.png (train/_annotations.coco.json annotation 100: its segmentation lies at"
    assert said in refusal(root, masks=True)
    assert load(root, masks=True, skip_broken=True).train.names == ("train/2.png",)


@pytest.mark.parametrize("nothing", [None, []])
def test_objects_without_segmentation_are_counted(one, nothing) -> None:
    splits = load(one([nothing, [[0, 0, 9, 0, 9, 9]]]), masks=True)
    assert splits.train.masks.any(dim=(1, 2)).tolist() == [False, True]
    note = "1 image left without mask: no object in it is segmented (first: train/1.png)"
    assert note in splits.notes


def test_a_polygon_without_area_is_counted(one) -> None:
    """As two of COCO's training set are, whose boxes have no area either."""
    flat = [[2, 3, 2, 3, 9, 3, 9, 3]]
    splits = load(one([flat, [[0, 0, 9, 0, 9, 9]]]), masks=True)
    assert "1 segmentation without area" in splits.notes
    assert not splits.train.masks[0].any()


def test_masks_of_turned_and_resized_images(one, tmp_path: Path) -> None:
    root = one([[[0, 0, 30, 0, 30, 10, 0, 10]], [[0, 0, 9, 0, 9, 9]]])
    exif = Image.Exif()
    exif[0x0112] = 6  # stored on its side, 30 x 20 once it is upright
    Image.new("L", (20, 30), 5).save(root / "train" / "1.png", exif=exif)
    upper = load(root, masks=True).train.masks[0]
    assert upper[:10].all()
    assert not upper[10:].any()
    squashed = load(root, masks=True, image_size=10).train.masks[0]
    assert squashed[:5].all()
    assert not squashed[5:].any()
    padded = load(root, masks=True, image_size=30, resize="pad").train.masks[0]
    assert padded.any(dim=1).nonzero().flatten().tolist() == list(range(5, 15))


def test_yolo_polygons_equal_pycocotools(tmp_path: Path) -> None:
    shares = [0.11, 0.23, 0.87, 0.31, 0.52, 0.93]
    for split in ("train", "val"):
        for name, label in (("a", 0), ("b", 1)):
            write(tmp_path / "images" / split / f"{name}{split}.png", png(9, SIZE))
            line = f"{label} {' '.join(map(str, shares))}"
            text(tmp_path / "labels" / split / f"{name}{split}.txt", line)
    text(tmp_path / "data.yaml", "names: [cat, dog]")
    corners = (np.array(shares).reshape(-1, 2) * SIZE).ravel().tolist()
    masks = load(tmp_path, masks=True).train.masks
    assert (masks[0].numpy() == published([corners])).all()


def test_crowds_count_like_others(one) -> None:
    lengths = [0, 20, 580]
    root = one([{"size": [20, 30], "counts": lengths}, [[0, 0, 9, 0, 9, 9]]])
    file = root / "train" / "_annotations.coco.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["iscrowd"] = 1
    file.write_text(json.dumps(content))
    assert load(root, masks=True).train.masks[0].sum() == 20
