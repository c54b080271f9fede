"""Objects in the forms of other programs: the boxes of the JSON, as each program has them."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stdout
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from explained.test_files import CLASSES, listing, make_model, read, save_image
from pycocotools.coco import COCO

from loss_attention.errors import InputError
from loss_attention.explained.elsewhere import explain_elsewhere
from loss_attention.explained.files import explain_files
from loss_attention.explained.questions import own_question

FORMS = {
    "coco": ["coco.json"],
    "label-studio": ["label-studio.json"],
    "fiftyone": ["data.json", "labels.json"],
    "qupath": ["0.geojson", "1.geojson"],
}


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for number, size in enumerate(((60, 40), (48, 96))):
        save_image(tmp_path / "in" / f"{number}.png", size, number)
    (tmp_path / "in" / "x.png").write_bytes(b"no image")
    return tmp_path / "in"


@pytest.fixture
def said(model, images, tmp_path: Path) -> list[dict]:
    explain_files(model, [images], tmp_path / "said", pictures=False)
    found = [read(tmp_path / "said" / f"{number}.json") for number in range(2)]
    assert all(one["objects"]["found"] for one in found)
    return found


def written(model, images: Path, out: Path, form, **how):
    question = own_question(model)
    summary = explain_elsewhere(model, question, [images], out, form, **how)
    assert summary.count == 2
    assert len(summary.unreadable) == 1
    assert "x.png cannot be read as an image" in summary.unreadable[0]
    assert listing(out) == FORMS[form]
    return [json.loads((out / name).read_text(encoding="utf-8")) for name in listing(out)]


def test_pycocotools_reads_coco(model, images, said, tmp_path):
    written(model, images, tmp_path / "out", "coco")
    with redirect_stdout(io.StringIO()):
        found = COCO(str(tmp_path / "out" / "coco.json"))
    assert [one["name"] for one in found.loadCats(found.getCatIds())] == list(CLASSES)
    for image, its in zip(found.loadImgs(found.getImgIds()), said, strict=True):
        assert (image["file_name"], image["width"]) == (its["file"], its["width"])
        boxes = found.loadAnns(found.getAnnIds(imgIds=[image["id"]]))
        for mine, one in zip(boxes, its["objects"]["found"], strict=True):
            x, y, width, height = mine["bbox"]
            np.testing.assert_allclose([x, y, x + width, y + height], one["box"], atol=0.02)
            assert mine["area"] == pytest.approx(width * height)
            assert mine["score"] == pytest.approx(one["score"])
            assert found.loadCats(mine["category_id"])[0]["name"] == one["class"]


def test_label_studio_has_boxes_in_percent(model, images, said, tmp_path):
    [tasks] = written(model, images, tmp_path / "out", "label-studio")
    for task, its in zip(tasks, said, strict=True):
        address, _, path = task["data"]["image"].partition("?d=")
        assert address == "/data/local-files/"
        assert Path("/", unquote(path)) == Path(its["file"]).absolute()
        [prediction] = task["predictions"]
        choice, *boxes = prediction["result"]
        assert choice["value"]["choices"] == [its["prediction"]]
        for mine, one in zip(boxes, its["objects"]["found"], strict=True):
            assert mine["type"] == "rectanglelabels"
            value, width, height = mine["value"], mine["original_width"], mine["original_height"]
            assert (width, height) == (its["width"], its["height"])
            x, y = value["x"] * width / 100, value["y"] * height / 100
            box = [x, y, x + value["width"] * width / 100, y + value["height"] * height / 100]
            np.testing.assert_allclose(box, one["box"], atol=0.02)
            assert value["rectanglelabels"] == [one["class"]]


def test_fiftyone_has_boxes_in_fractions(model, images, said, tmp_path):
    data, labels = written(model, images, tmp_path / "out", "fiftyone")
    assert labels["classes"] == list(CLASSES)
    assert data == {str(number): str(images / f"{number}.png") for number in range(2)}
    for number, its in enumerate(said):
        for mine, one in zip(labels["labels"][str(number)], its["objects"]["found"], strict=True):
            x, y, width, height = np.array(mine["bounding_box"]) * (
                [its["width"], its["height"]] * 2
            )
            np.testing.assert_allclose([x, y, x + width, y + height], one["box"], atol=0.02)
            assert labels["classes"][mine["label"]] == one["class"]
            assert mine["confidence"] == pytest.approx(one["score"])


def test_qupath_has_a_closed_ring_for_each_object(model, images, said, tmp_path):
    for page, its in zip(written(model, images, tmp_path / "out", "qupath"), said, strict=True):
        assert page["type"] == "FeatureCollection"
        for mine, one in zip(page["features"], its["objects"]["found"], strict=True):
            [ring] = mine["geometry"]["coordinates"]
            assert mine["geometry"]["type"] == "Polygon"
            assert ring[0] == ring[-1]
            assert len(ring) == 5
            low, high = np.min(ring, axis=0), np.max(ring, axis=0)
            np.testing.assert_allclose([*low, *high], one["box"], atol=0.02)
            about = mine["properties"]
            assert about["objectType"] == "annotation"
            assert about["classification"]["name"] == one["class"]
            assert all(0 <= part <= 255 for part in about["classification"]["color"])
            assert about["measurements"]["score"] == pytest.approx(one["score"])


@pytest.mark.parametrize("form", FORMS)
def test_nothing_is_written_over_unless_asked(form, model, images, tmp_path):
    first = written(model, images, tmp_path / "out", form)
    with pytest.raises(InputError, match=r"exists already.*`overwrite`"):
        written(model, images, tmp_path / "out", form)
    assert written(model, images, tmp_path / "out", form, overwrite=True) == first


def test_a_head_without_evidence_finds_no_objects(images, tmp_path):
    with pytest.raises(InputError, match="`format` coco needs a head with exact evidence"):
        written(make_model(head="capsule-dynamic-routing"), images, tmp_path / "out", "coco")
    assert not (tmp_path / "out").exists()
