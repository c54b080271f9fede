"""Photos explained at their own size, in tiles: files, numbers in their pixels, refusals."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from heads.used import used_baseline, used_model
from PIL import Image

import loss_attention as la
from loss_attention.cli import main
from loss_attention.data.decoding import read_image, to_tensor
from loss_attention.errors import InputError
from loss_attention.explained import questions
from loss_attention.explained.files import explain_files
from loss_attention.tiling import Tiles

TILES = Tiles(tile=32)


@pytest.fixture(scope="module")
def model() -> la.PatchClassifier:
    return used_model(backbone="vgg11_bn", threshold=1.0, image_size=(24, 24), resize="pad")


def save_photo(path: Path, width: int, height: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def test_the_json_of_a_photo_is_in_its_pixels_and_adds_up(model, tmp_path: Path) -> None:
    photo = save_photo(tmp_path / "wide.png", 212, 98)
    explain_files(model, [photo], tmp_path / "out", tiles=TILES, scale=0.5)
    found = read(tmp_path / "out" / "wide.json")
    own = model.explain(to_tensor(read_image(photo, 3), (49, 106)), tile=32)
    assert (found["grid"]["rows"], found["grid"]["columns"]) == (11, 25)
    assert found["tiles"] == {"tile": 32, "overlap": 0.25, "scale": 0.5}
    np.testing.assert_allclose(found["logits"], own.logits[0], rtol=1e-5)
    np.testing.assert_allclose(np.sum(found["evidence"], axis=0), found["logits"], rtol=1e-4)
    np.testing.assert_allclose(found["grid"]["windows"], 2 * own.grid.windows(), atol=0.02)
    np.testing.assert_allclose(found["box"], 2 * own.boxes[0], atol=0.02)
    assert found["selected_patches"] == own.selected[0].nonzero().squeeze(1).tolist()
    assert "all its patches were weighed together" in found["units"]
    with Image.open(tmp_path / "out" / "wide.png") as picture:
        assert picture.width > picture.height  # no border, though the model was trained with one


def test_an_empty_margin_and_one_class_against_another(tmp_path: Path) -> None:
    model, photo = used_model(backbone="vgg11_bn"), save_photo(tmp_path / "a.png", 60, 50)
    with torch.no_grad():
        model.head.classifier.bias[0] = 1e3
    asked = {"tiles": TILES, "target": "3"}
    found = read(explain_files(model, [photo], tmp_path / "out", **asked).written[0])
    assert found["margin_is_empty"] is True
    assert found["heat_map"]["shows"] == "contrast"
    assert found["heat_map"]["note"] == "no patch puts this class first"
    against = explain_files(model, [photo], tmp_path / "two", versus="1", **asked).written[0]
    said = read(against)["versus"]
    gap = found["logits"][3] - found["logits"][1]
    assert sum(said["difference_of_evidence"]) == pytest.approx(gap, rel=1e-4)


def test_evidence_for_all_classes_is_left_out_where_it_would_make_a_huge_file(
    model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(questions, "MOST_NUMBERS", 100)
    photo = save_photo(tmp_path / "a.png", 60, 50)
    explain_files(model, [photo], tmp_path / "out", tiles=TILES, target="3")
    found = read(tmp_path / "out" / "a.json")
    assert found["evidence"] is None
    assert sum(found["target_evidence"]) == pytest.approx(found["logits"][3], rel=1e-4)
    assert "evidence: null, as that of all classes" in found["units"]


def test_a_photo_that_cannot_be_cut_is_told_and_the_others_are_explained(
    model, tmp_path: Path
) -> None:
    small = save_photo(tmp_path / "small.png", 99, 15)
    good = [save_photo(tmp_path / f"{width}.png", width, 40) for width in (50, 70)]
    told: list[tuple[int, int, str]] = []
    summary = explain_files(
        model,
        [small, *good],
        tmp_path / "out",
        tiles=TILES,
        scale=0.5,
        progress=lambda *some: told.append(some),
    )
    assert [path.name for path in summary.written] == ["50.json", "70.json"]
    (line,) = summary.unreadable
    assert line.startswith(str(small))
    assert "8 x 50 pixels is smaller than one patch" in line
    assert told == [(1, 2, "70.png"), (2, 2, "70.png")]  # the other is one tile


def test_more_patches_than_memory_has_room_for_are_told(
    model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loss_attention.tiling.free_memory", lambda: 1000)
    photo = save_photo(tmp_path / "a.png", 60, 50)
    summary = explain_files(model, [photo], tmp_path / "out", tiles=TILES)
    assert summary.written == []
    assert "patches, which take" in summary.unreadable[0]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"method": "grad-cam"}, "`tile` is for what the model's own patches say"),
        ({"scale": 0.0}, "`scale` must be above 0 and finite, got 0"),
        ({"scale": math.inf}, "`scale` must be above 0 and finite, got inf"),
        ({"tiles": None, "scale": 0.5}, "`scale` is for photos in tiles"),
        ({"tiles": Tiles(tile=30)}, "`tile` must be a multiple of 4 pixels"),
    ],
)
def test_what_tiles_cannot_do_is_refused_before_anything_is_written(
    model, tmp_path: Path, options: dict, told: str
) -> None:
    photo = save_photo(tmp_path / "a.png", 60, 50)
    with pytest.raises(InputError, match=told):
        explain_files(model, [photo], tmp_path / "out", **{"tiles": TILES, **options})
    assert not (tmp_path / "out").exists()


def test_a_scale_that_makes_a_photo_too_large_is_told(model, tmp_path: Path) -> None:
    photo = save_photo(tmp_path / "a.png", 60, 50)
    summary = explain_files(model, [photo], tmp_path / "out", tiles=TILES, scale=1000)
    assert "50 x 60 pixels at the scale 1000 are more than" in summary.unreadable[0]


def run(*arguments: object) -> object:
    with pytest.raises(SystemExit) as stop:
        main(["explain", *map(str, arguments)])
    return stop.value.code


def test_the_command(model, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = tmp_path / "own.safetensors"
    # A model that says no image size can be asked in tiles alone.
    other = used_model(backbone="vgg11_bn", threshold=1.0)
    weights.write_bytes(other.to_bytes())
    photo, out = save_photo(tmp_path / "a.png", 60, 50), tmp_path / "out"
    given = (weights, photo, "--out", out)
    assert run(*given) == 2
    assert run(*given, "--overlap", 0.5) == 2
    assert run(*given, "--scale", 0.5) == 2
    assert run(*given, "--tile", 33) == 2
    assert run(*given, "--tile", 32, "--method", "edges") == 2
    refused = capsys.readouterr().err.splitlines()
    assert [line.split(": ", 1)[1][:38] for line in refused] == [
        "this model does not say the image size",
        "--overlap is for photos in tiles: it n",
        "--scale is for photos in tiles: it nee",
        "--tile must be a multiple of 4 pixels ",
        "--tile is for what the model's own pat",
    ]
    assert run(*given, "--tile", 32, "--overlap", 0.5) == 0
    with torch.inference_mode():
        logits = other.explain(to_tensor(read_image(photo, 3)), tile=32, overlap=0.5).logits
    np.testing.assert_allclose(read(out / "a.json")["logits"], logits[0], rtol=1e-5)


def test_a_baseline_has_nothing_to_show_in_tiles_either(tmp_path: Path) -> None:
    photo = save_photo(tmp_path / "a.png", 60, 50)
    with pytest.raises(InputError, match="has no patches"):
        explain_files(used_baseline(), [photo], tmp_path / "out", tiles=TILES)
