"""COCO JSON: the official layout and one's own, labels, boxes, masks and what is wrong."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from data.making import coco_json, image_folder, png, text, write
from data.refusing import load, refusal

from loss_attention.data.decoding import UnreadableImage
from loss_attention.data.masks import draw_segments, run_lengths

TRAIN = {1: ("1.png", 8, 6), 2: ("2.png", 8, 6), 3: ("3.png", 8, 6)}
OBJECTS = [(1, 7, [1, 1, 4, 2]), (1, 3, [0, 0, 8, 6]), (2, 7, [2.5, 0, 1, 1])]


def official(root: Path, year: str = "2017", segments: list | None = None) -> Path:
    """Three training images, one of them without annotation, and one validation image."""
    image_folder(root / f"train{year}", {f"{i}.png": i for i in (1, 2, 3)}, (8, 6))
    image_folder(root / f"val{year}", {"9.png": 9}, (8, 6))
    annotations = root / "annotations"
    coco_json(annotations / f"instances_train{year}.json", TRAIN, OBJECTS, segments or [])
    coco_json(
        annotations / f"instances_val{year}.json", {9: ("9.png", 8, 6)}, [(9, 3, [0, 0, 2, 2])]
    )
    write(annotations / f"captions_train{year}.json", b'{"images": [], "annotations": []}')
    return root


def test_the_official_layout(tmp_path: Path) -> None:
    splits = load(official(tmp_path))
    assert splits.train.class_names == ("cat", "dog")  # by their ids, 3 and 7
    assert splits.train.labels.tolist() == [[1, 1], [0, 1]]
    assert splits.train.boxes[0].tolist() == [[1, 1, 5, 3], [0, 0, 8, 6]]
    assert splits.train.boxes[1, 0].tolist() == [2.5, 0, 3.5, 1]
    assert splits.train.boxes[1, 1].isnan().all()
    assert splits.train.box_labels.tolist() == [[1, 0], [1, -1]]
    assert splits.train.names == ("train2017/1.png", "train2017/2.png")
    assert splits.test.labels.tolist() == [[1, 0]]
    assert splits.notes == (
        "1 image of annotations/instances_train2017.json without annotation left out",
    )
    assert splits.train.masks is None


def test_as_it_is_downloaded(tmp_path: Path) -> None:
    root = official(tmp_path / "made")
    for name in ("train2017", "val2017", "annotations"):
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            for file in (root / name).iterdir():
                archive.write(file, f"{name}/{file.name}")
    (tmp_path / "zips").mkdir()
    for file in tmp_path.glob("*.zip"):
        file.rename(tmp_path / "zips" / file.name)
    plain = load(root)
    assert load(tmp_path / "zips").train.fingerprint() == plain.train.fingerprint()
    named = load(f"coco2017:{tmp_path / 'zips'}")
    assert named.train.fingerprint() == load(root, image_size=64).train.fingerprint()
    assert "brought to 64 x 64 pixels; `image_size` N for others" in named.notes
    assert "2 training images found where the whole set has 117,266" in named.notes


def test_two_years_in_one_folder(tmp_path: Path) -> None:
    official(tmp_path)
    official(tmp_path, "2014")
    assert "coco2014:PATH or coco2017:PATH" in refusal(tmp_path)
    assert load(f"coco2014:{tmp_path}").train.names[0] == "train2014/1.png"
    assert "train2014.zip, val2014.zip and annotations_trainval2014.zip" in refusal("coco2014")


def test_a_missing_training_split(tmp_path: Path) -> None:
    (official(tmp_path) / "annotations" / "instances_train2017.json").unlink()
    assert refusal(tmp_path).endswith("has no split named train among validation")


def test_ones_own_file_keeps_images_that_show_nothing(tmp_path: Path) -> None:
    image_folder(tmp_path / "pics", {f"{i}.png": i for i in range(1, 6)}, (8, 6))
    images = {i: (f"pics/{i}.png", 8, 6) for i in range(1, 6)}
    path = coco_json(tmp_path / "mine.json", images, [*OBJECTS, (4, 3, [0, 0, 1, 1])])
    for place in (tmp_path, path):
        splits = load(place)
        both = torch.cat([splits.train.labels, splits.test.labels])
        names = [*splits.train.names, *splits.test.names]
        found = {name: row.tolist() for name, row in zip(names, both, strict=True)}
        assert found == {
            "pics/1.png": [1, 1],
            "pics/2.png": [0, 1],
            "pics/3.png": [0, 0],
            "pics/4.png": [1, 0],
            "pics/5.png": [0, 0],
        }


def test_a_folder_a_split(tmp_path: Path) -> None:
    for split, number in (("train", 1), ("valid", 2)):
        image_folder(tmp_path / split, {f"{number}.png": number}, (8, 6))
        objects = [(1, 7, [0, 0, 1, 1]), (1, 3, [0, 0, 1, 1])]
        images = {1: (f"{number}.png", 8, 6)}
        coco_json(tmp_path / split / "_annotations.coco.json", images, objects)
    splits = load(tmp_path)
    assert (splits.train.names, splits.test.names) == (("train/1.png",), ("valid/2.png",))


@pytest.mark.parametrize(
    ("objects", "said"),
    [
        ([(1, 7, [5, 0, -2, 1])], "annotation 100: box (5, 0, 3, 1) has x1 < x0"),
        ([(1, 7, [0, 3, 1, -1])], "annotation 100: box (0, 3, 1, 2) has y1 < y0"),
        (
            [(1, 7, [0, 0, 3, 3]), (1, 7, [4, 0, 8, 3])],
            "annotation 101: box (4, 0, 12, 3) lies outside train2017/1.png, which is 8 x 6",
        ),
        ([(77, 7, [0, 0, 1, 1])], "annotation 100: its image 77 is missing from the file's images"),
        ([(1, 5, [0, 0, 1, 1])], "annotation 100: unknown category 5"),
        ([(1, 7, [0, 0, 1])], "annotation 100 has no bbox of four numbers"),
        ([(1, 7, [0, 0, float("nan"), 1])], "annotation 100: box (0, 0, nan, 1) holds no numbers"),
    ],
)
def test_boxes_that_cannot_be(tmp_path: Path, objects: list, said: str) -> None:
    official(tmp_path)
    coco_json(tmp_path / "annotations" / "instances_train2017.json", TRAIN, objects + OBJECTS)
    assert f"annotations/instances_train2017.json {said}" in refusal(tmp_path)


def test_boxes_without_area_and_a_rounding_error_are_no_faults(tmp_path: Path) -> None:
    official(tmp_path)
    objects = [*OBJECTS, (1, 7, [2, 2, 0, 3]), (2, 7, [-0.4, 0, 9, 3])]
    coco_json(tmp_path / "annotations" / "instances_train2017.json", TRAIN, objects)
    splits = load(tmp_path)
    assert "1 box without area left out" in splits.notes
    assert splits.train.boxes[1, 1].tolist() == [0, 0, 8, 3]


def test_images_that_do_not_fit_the_file(tmp_path: Path) -> None:
    official(tmp_path)
    listing = tmp_path / "annotations" / "instances_train2017.json"
    write(tmp_path / "train2017" / "extra.png", png(1, (8, 6)))
    said = "the image train2017/extra.png has no annotation in annotations/instances_train2017.json"
    assert said in refusal(tmp_path)
    (tmp_path / "train2017" / "extra.png").unlink()
    coco_json(listing, {**TRAIN, 4: ("gone.png", 8, 6)}, OBJECTS)
    assert "instances_train2017.json image 4: 'gone.png' is missing" in refusal(tmp_path)
    assert len(load(tmp_path, skip_broken=True).train) == 2
    coco_json(listing, {**TRAIN, 1: ("1.png", 6, 8)}, OBJECTS)
    said = refusal(tmp_path)
    assert "train2017/1.png (its annotations say 6 x 8, upright it is 8 x 6)" in said


def test_files_that_are_no_coco_json(tmp_path: Path) -> None:
    official(tmp_path)
    listing = tmp_path / "annotations" / "instances_train2017.json"
    text(listing, '{"images": [')
    assert "instances_train2017.json is not valid JSON: " in refusal(tmp_path)
    text(listing, '{"images": []}')
    assert "instances_train2017.json is not COCO JSON: it lacks 'annotations'" in refusal(tmp_path)
    other = json.loads(coco_json(listing, TRAIN, OBJECTS).read_text())
    other["categories"][0]["name"] = "wolf"
    write(listing, json.dumps(other).encode())
    assert "instances_val2017.json declares other classes than" in refusal(tmp_path)
    other["categories"][0]["name"] = "cat"
    write(listing, json.dumps(other).encode())
    assert "instances_train2017.json gives 1 class a name twice" in refusal(tmp_path)


def test_masks_from_polygons_and_runs(tmp_path: Path) -> None:
    runs = {"size": [6, 8], "counts": [6, 2, 40]}  # two pixels at the top of the second column
    segments = [[[3, 2, 6, 2, 6, 4, 3, 4]], runs, []]
    masks = load(official(tmp_path, segments=segments), masks=True).train.masks
    assert masks.shape == (2, 6, 8)
    expected = torch.zeros(6, 8, dtype=torch.bool)
    expected[2:4, 3:6] = True
    expected[:2, 1] = True
    assert torch.equal(masks[0], expected)
    assert not masks[1].any()


def test_masks_that_cannot_be(tmp_path: Path) -> None:
    wrong = {"size": [5, 8], "counts": [40]}
    root = official(tmp_path, segments=[wrong, wrong, []])
    said = refusal(root, masks=True)
    assert "instances_train2017.json annotation 100: its mask is 8 x 5, the image 8 x 6)" in said
    short = {"size": [6, 8], "counts": [40]}
    official(tmp_path, segments=[short, short, []])
    assert "its runs cover 40 of 48 pixels" in refusal(root, masks=True)
    official(tmp_path)
    assert refusal(root, masks=True).endswith("has no masks; leave `masks` out")


def packed(lengths: list[int]) -> str:
    """Pack run lengths as COCO's text, from its description: an encoder to test the decoder by."""
    text = ""
    for i, length in enumerate(lengths):
        number = length - lengths[i - 2] if i > 2 else length
        while True:
            group, number = number & 31, number >> 5
            last = number == (-1 if group & 16 else 0)
            text += chr(48 + (group | (0 if last else 32)))
            if last:
                break
    return text


def test_packed_runs() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        lengths = rng.integers(0, 3000, rng.integers(1, 12)).tolist()
        assert run_lengths(packed(lengths)).tolist() == lengths
    column = draw_segments([{"size": [4, 3], "counts": packed([4, 4, 4])}], "x", (3, 4))
    assert np.asarray(column).tolist() == [[0, 255, 0]] * 4
    with pytest.raises(UnreadableImage, match="its segmentation is none of COCO's"):
        draw_segments([{"counts": [1]}], "x", (3, 4))


def test_a_real_sample(shared_data: Path) -> None:
    folder = shared_data / "coco-mini"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data/coco-mini beside the repository")
    splits = load(folder, in_channels=3, image_size=64, resize="pad")
    assert (len(splits.train), len(splits.test)) == (160, 158)
    assert len(splits.train.class_names) == 80
    for data, boxes in ((splits.train, 1444), (splits.test, 1424)):
        assert (data.box_labels >= 0).sum() == boxes
        originals = data.original_boxes(data.boxes)
        inside = data.placements[:, None, [0, 1, 0, 1]]
        assert ((originals <= inside) | originals.isnan()).all()
        # An image has the classes of its boxes and no others.
        matrix = torch.zeros(len(data), 81, dtype=torch.uint8)
        matrix.scatter_(1, data.box_labels.where(data.box_labels >= 0, 80), 1)
        assert torch.equal(matrix[:, :80], data.labels)
    listed = json.loads((folder / "annotations" / "instances_val2017.json").read_text())
    first = next(a for a in listed["annotations"] if a["image_id"] == listed["images"][0]["id"])
    x, y, width, height = first["bbox"]
    row = splits.test.names.index(f"val2017/{listed['images'][0]['file_name']}")
    back = splits.test.original_boxes(splits.test.boxes)[row, 0].tolist()
    assert back == pytest.approx([x, y, x + width, y + height], abs=0.01)
