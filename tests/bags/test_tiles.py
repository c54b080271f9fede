"""Images as bags of tiles: features, places and labels of tiles, and the folder that they make."""

from __future__ import annotations

import csv
import inspect
import json
import signal
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from bags.bag_files import change
from markdown_pages import run_page
from PIL import Image
from torch import nn
from typed import complaint, exit_code, make_folder, run

import loss_attention as la
from loss_attention.bags import tile_files, tiles
from loss_attention.bags.elsewhere import write_tiles
from loss_attention.bags.explaining import bag_question
from loss_attention.bags.images import images_to_tile
from loss_attention.bags.reading import read_bags
from loss_attention.bags.recipe import BagRecipe
from loss_attention.bags.tile_files import Tiled, tile_images
from loss_attention.bags.tiles import Tiling, object_pixels, tile_features
from loss_attention.bags.training import fit_bags
from loss_attention.bags.writing import Maps
from loss_attention.cli import tiles as command
from loss_attention.data.masks import PictureMask, Segment, SegmentMask
from loss_attention.data.records import Box, Record
from loss_attention.errors import InputError
from loss_attention.interruption import Interrupted
from loss_attention.training.features import FrozenBackbone

RANDOM = ("--backbone", "timm/test_resnet", "--no-pretrained", "--accelerator", "cpu")


def means(scale: float = 1.0) -> FrozenBackbone:
    """A backbone whose features are the mean colour, less 1/2 and times 4."""
    network = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(3, 3, 1, bias=False))
    with torch.no_grad():
        network[1].weight.copy_(scale * torch.eye(3)[:, :, None, None])
    model = la.create_model(network, head="mean", hidden_channels=()).eval()
    return FrozenBackbone(model, "32", torch.device("cpu"))


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(values)


def data(
    root: Path, sizes: tuple[tuple[int, int], ...] = ((40, 24), (16, 16), (33, 17), (9, 12))
) -> Path:
    """Write images of two classes, two in each split, the second class with masks."""
    root.mkdir(parents=True)
    rows = ["image,label,mask,split,patient"]
    for number, (width, height) in enumerate(sizes):
        kind, split = ("sound", "scratch")[number % 2], ("train", "test")[number // 2 % 2]
        picture(width, height, number).save(root / f"p{number}.png")
        mask = np.zeros((height, width), np.uint8)
        mask[:4, :4] = 255
        Image.fromarray(mask).save(root / f"mask{number}.png")
        marked = f"mask{number}.png" if kind == "scratch" else ""
        rows.append(f"p{number}.png,{kind},{marked},{split},n{number // 2}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    return root


def tiled(root: Path, out: Path, tiling: Tiling = Tiling(16, 8), **how: object) -> Tiled:  # noqa: B008
    return tile_images(images_to_tile(str(root)), means(), tiling, out, **how)


def test_a_tile_has_the_features_of_its_own_pixels() -> None:
    image = picture(50, 37)
    pixels = np.asarray(image).astype(np.float64) / 255
    features, corners = tile_features(means(), Tiling(16, 8), image, "x")
    assert features.dtype == np.float16
    assert len(corners) == 6 * 4
    assert corners[-1].tolist() == [34, 21]
    for row, (x, y) in zip(features, corners.tolist(), strict=True):
        tile = pixels[y : y + 16, x : x + 16]
        assert tile.shape == (16, 16, 3)
        np.testing.assert_allclose(row, 4 * (tile.mean(axis=(0, 1)) - 0.5), atol=2e-3)


@pytest.mark.parametrize(("width", "height"), [(16, 16), (17, 90), (64, 48), (5, 40)])
def test_every_pixel_is_in_a_tile_and_tiles_stay_within(width: int, height: int) -> None:
    seen = np.zeros((height, width), bool)
    corners = Tiling(16, 11).coordinates(width, height)
    for x, y in corners.tolist():
        assert 0 <= x <= max(0, width - 16)
        assert 0 <= y <= max(0, height - 16)
        seen[y : y + 16, x : x + 16] = True
    assert seen.all()
    assert len(np.unique(corners, axis=0)) == len(corners)


def test_an_image_smaller_than_a_tile_lies_on_its_mean_colour() -> None:
    image = picture(6, 20)
    (batch,) = Tiling(16).cut(image, np.array([[0, 0]]), 4)
    pixels = np.asarray(image)
    tile = batch[0].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(tile[:, :6], pixels[:16])
    np.testing.assert_array_equal(
        tile[:, 6:], np.broadcast_to(pixels.mean(axis=(0, 1)).round().astype(np.uint8), (16, 10, 3))
    )


def test_a_tile_is_shown_to_the_network_at_the_size_that_is_asked_for() -> None:
    sizes = [
        batch.shape
        for batch in Tiling(16, image_size=32).cut(
            picture(40, 16), Tiling(16).coordinates(40, 16), 2
        )
    ]
    assert sizes == [(2, 3, 32, 32), (1, 3, 32, 32)]


def test_large_features_are_kept_in_32_bits_and_infinite_ones_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image = picture(32, 16)
    small, _ = tile_features(means(), Tiling(16), image, "x")
    large, _ = tile_features(means(1e7), Tiling(16), image, "x")
    assert large.dtype == np.float32
    np.testing.assert_allclose(large, small.astype(np.float32) * 1e7, rtol=0.02)
    with pytest.raises(InputError, match=r"^x: the backbone makes NaN or infinity of it; try"):
        tile_features(means(float("inf")), Tiling(16), image, "x")
    monkeypatch.setattr(tiles, "free_memory", lambda: 11)
    with pytest.raises(InputError, match=r"^x: the features of its tiles take 1.2e-08 GB"):
        tile_features(means(), Tiling(16), image, "x")


def test_boxes_say_what_tiles_show() -> None:
    boxes = (Box("a", 0, 0, 0.25, 0.5), Box("b", 0.5, 0.0, 1, 1), Box("a", 0.2, 0, 0.3, 0.5))
    record = Record("x", None, ["a"], boxes, relative=True)
    pixels = object_pixels(record, ["a"], "auto", 16, 8)
    expected = {"a": np.zeros((8, 16), bool), "b": np.zeros((8, 16), bool)}
    expected["a"][:4, :5] = True
    expected["b"][:, 8:] = True
    for label, there in expected.items():
        np.testing.assert_array_equal(pixels[label], there)
    corners = np.array([[0, 0], [4, 0], [8, 0]])
    found = tiles.covered_fractions(pixels, ["a", "b"], corners, 8)
    assert found.tolist() == [[20 / 64, 0], [4 / 64, 0.5], [0, 1]]
    assert tiles.tile_labels(found, 0.06, several=False).tolist() == [0, 1, 1]
    assert tiles.tile_labels(found, 0.07, several=True).tolist() == [[1, 0], [0, 1], [0, 1]]
    assert object_pixels(record, ["a"], "masks", 16, 8) == {}
    beyond = Record("x", None, "a", (Box("a", 0, 0, 30, 8, 1),), origin="boxes.csv row")
    with pytest.raises(
        tiles.BadBox, match=r"boxes.csv row 1: box .* lies outside x, which is 16 x"
    ):
        object_pixels(beyond, ["a"], "auto", 16, 8)


def test_a_mask_says_of_each_class_what_tiles_show(tmp_path: Path) -> None:
    runs = [{"size": [2, 4], "counts": counts} for counts in ([0, 4, 4], [6, 2])]
    both = SegmentMask("x", (Segment("a", runs[0]), Segment("b", runs[1])))
    pixels = object_pixels(Record("x", None, ["a", "b"], mask=both), ["a", "b"], "auto", 4, 2)
    assert pixels["a"].tolist() == [[True, True, False, False]] * 2
    assert pixels["b"].tolist() == [[False, False, False, True]] * 2
    Image.fromarray(np.array([[0, 255]], np.uint8)).save(tmp_path / "mask.png")
    picture = PictureMask("x", "mask.png", tmp_path / "mask.png")
    one = object_pixels(Record("x", None, "a", mask=picture), ["a"], "auto", 2, 1)
    assert one["a"].tolist() == [[False, True]]
    box = (Box("b", 0, 0, 1, 1),)
    record = Record("x", None, ["a", "b"], box, picture)
    for objects, asked in (("auto", replace(record, boxes=())), ("masks", record)):
        with pytest.raises(InputError, match=r"^x: its mask does not say which of its classes a"):
            object_pixels(asked, ["a", "b"], objects, 2, 1)
    assert list(object_pixels(record, ["a", "b"], "auto", 2, 1)) == ["b"]


@pytest.mark.parametrize("form", [".h5", ".safetensors"])
def test_images_become_a_folder_of_bags(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if form == ".safetensors":
        monkeypatch.setattr(tile_files.importlib.util, "find_spec", lambda _: None)
    root, out = data(tmp_path / "data"), tmp_path / "bags"
    images = images_to_tile(str(root), group="patient")
    result = tile_images(images, means(), Tiling(16, 8, covered=0.1), out)
    assert (result.bags, result.made, result.width, result.unmarked) == (4, 4, 3, 2)
    assert sorted(path.name for path in out.iterdir()) == [
        "labels.csv",
        *(f"p{n}{form}" for n in range(4)),
        "tiles.json",
    ]
    bags = read_bags(str(out))
    assert bags.names == ("p0", "p1", "p2", "p3")
    assert bags.class_names == ("scratch", "sound")
    assert bags.labels.tolist() == [1, 0, 1, 0]
    assert bags.splits == ("train", "train", "test", "test")
    assert bags.groups.tolist() == [0, 0, 1, 1]
    assert bags.sizes.tolist() == [4 * 2, 1, 4 * 2, 1]
    assert [bags.tile(bag) for bag in range(4)] == [16] * 4
    expected, corners = tile_features(means(), Tiling(16, 8), Image.open(root / "p2.png"), "x")
    np.testing.assert_array_equal(bags.features(2), expected)
    np.testing.assert_array_equal(bags.coordinates(2), corners)
    # 16 of 256 pixels are an object's in p1; of p3, 16 of the 9 x 12 that there are.
    assert [one.tolist() for one in bags.instance_labels] == [[-1] * 8, [-1], [-1] * 8, [0]]
    with (out / "labels.csv").open() as file:
        assert next(csv.DictReader(file)) == {
            "bag": "p0",
            "label": "sound",
            "split": "train",
            "patient": "n0",
            "image": "p0.png",
        }


def test_hdf5_says_of_tiles_what_clam_and_trident_do(tmp_path: Path) -> None:
    tiled(data(tmp_path / "data"), tmp_path / "bags")
    with h5py.File(tmp_path / "bags" / "p0.h5") as file:
        said = dict(file["coords"].attrs)
        assert file["features"].dtype == np.float16
    assert said.pop("image_bytes") == (tmp_path / "data" / "p0.png").stat().st_size
    assert said == {
        "patch_size": 16,
        "patch_size_level0": 16,
        "patch_level": 0,
        "overlap": 8,
        "level0_width": 40,
        "level0_height": 24,
        "name": "p0",
        "image": "p0.png",
    }


def test_a_tile_is_drawn_as_large_as_its_file_says(tmp_path: Path) -> None:
    tiled(data(tmp_path / "data"), tmp_path / "bags")
    bags = read_bags(str(tmp_path / "bags"))
    model = fit_bags(bags, BagRecipe(pooling="mean", hidden=(), epochs=1))
    write_tiles(model, bags, tmp_path / "qupath", bag_question(model))
    for bag, tiles_of_it in (("p1", 1), ("p2", 8)):
        drawn = json.loads((tmp_path / "qupath" / f"{bag}.geojson").read_text())["features"]
        assert len(drawn) == tiles_of_it
        for one in drawn:
            corners = np.array(one["geometry"]["coordinates"][0])
            assert np.ptp(corners, axis=0).tolist() == [16, 16]


def test_what_is_there_is_kept_and_the_rest_is_made(tmp_path: Path) -> None:
    root, out = data(tmp_path / "data"), tmp_path / "bags"

    def stop(done: int, whole: int) -> None:
        if done == 2:
            raise Interrupted(2)

    with pytest.raises(Interrupted):
        tiled(root, out, progress=stop)
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.h5")}
    assert sorted(path.stem for path in before) == ["p0", "p1"]
    result = tiled(root, out)
    assert (result.bags, result.made, result.tiles) == (4, 2, [8, 1, 8, 1])
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(read_bags(str(out))) == 4
    assert tiled(root, out).made == 0


def test_settings_and_images_are_not_mixed_in_a_folder(tmp_path: Path) -> None:
    root, out = data(tmp_path / "data"), tmp_path / "bags"
    tiled(root, out)
    with pytest.raises(InputError, match=r"holds tiles of another stride, 8, and 4 is asked"):
        tiled(root, out, Tiling(16, 4))
    with pytest.raises(InputError, match="holds tiles of another weights, "):
        tile_images(images_to_tile(str(root)), means(2.0), Tiling(16, 8), out)
    picture(40, 25).save(root / "p0.png")
    with pytest.raises(InputError, match=r"p0\.h5 holds the tiles of another image, p0\.png of "):
        tiled(root, out)
    (out / "p0.h5").rename(out / "gone.h5")
    with pytest.raises(InputError, match=r"gone\.h5 is of no image of data folder"):
        tiled(root, out)
    (out / "tiles.json").unlink()
    (out / "labels.csv").unlink()
    with pytest.raises(InputError, match=r"holds gone\.h5, which was not written here: name ano"):
        tiled(root, out)


def test_nothing_of_the_users_is_written_over(tmp_path: Path) -> None:
    root = data(tmp_path / "data")
    before = (root / "labels.csv").read_text()
    for out in (root, root / "features"):
        with pytest.raises(InputError, match=r"lies within data folder .*, and would be taken for"):
            tiled(root, out)
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "labels.csv").write_text(before)
    with pytest.raises(InputError, match=r"holds labels\.csv, which was not written here: name an"):
        tiled(root, tmp_path / "others")
    assert (root / "labels.csv").read_text() == (tmp_path / "others" / "labels.csv").read_text()
    assert sorted(one.name for one in (tmp_path / "others").iterdir()) == ["labels.csv"]


def test_a_damaged_file_is_told_with_what_to_do(tmp_path: Path) -> None:
    root, out = data(tmp_path / "data"), tmp_path / "bags"
    tiled(root, out)
    (out / "p0.h5").write_bytes(b"")
    with pytest.raises(InputError, match=r"p0\.h5 cannot be read: .*; remove it, and it is made a"):
        tiled(root, out)
    (out / "p0.h5").unlink()
    assert tiled(root, out).made == 1


def test_patients_in_two_splits_are_refused(tmp_path: Path) -> None:
    root = data(tmp_path / "data")
    change(root / "labels.csv", "test,n1", "test,n0")
    with pytest.raises(InputError, match=r"leak: 1 group of test also in train, .* leave `group`"):
        images_to_tile(str(root), group="patient")


def test_images_that_cannot_be_read_are_left_out_where_that_is_asked_for(tmp_path: Path) -> None:
    root, out = data(tmp_path / "data"), tmp_path / "bags"
    (root / "p1.png").write_bytes((root / "p1.png").read_bytes()[:60])
    with pytest.raises(InputError, match=r"^p1\.png cannot be read as an image"):
        tiled(root, out)
    result = tiled(root, out, skip_broken=True)
    assert (result.bags, len(result.broken)) == (3, 1)
    assert read_bags(str(out)).names == ("p0", "p2", "p3")


def test_names_that_collide_or_are_odd_make_files_of_their_own(tmp_path: Path) -> None:
    root = tmp_path / "data"
    names = ("a/x.png", "a/x.jpg", "b/x.png", "b/NULLE.png", "b/q:s t.png", "b/index.png")
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        picture(16, 16).save(root / name)
    tiled(root, tmp_path / "bags")
    bags = read_bags(str(tmp_path / "bags"))
    assert sorted(bags.names) == sorted(
        ["a-x.png", "a-x.jpg", "b-x.png", "NULLE", "q_s t", "index-2"]
    )
    picture(16, 16).save(root / "b" / "NULL.png")
    with pytest.raises(
        InputError, match=r"the bag 'NULL' of b/NULL\.png would be read as no name "
    ):
        tiled(root, tmp_path / "others")
    assert not (tmp_path / "others").exists()


def test_classes_that_a_csv_cannot_tell_are_refused(tmp_path: Path) -> None:
    for name, other in (("01", "1"), ("b;c", "'b; c'")):
        root = make_folder(tmp_path / name, ("02", name), each=1)
        with pytest.raises(InputError, match=f"the label '{name}' of .* would be read as {other} "):
            tiled(root, tmp_path / "out")


def test_an_image_may_have_several_classes(tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    for number in range(3):
        picture(32, 16, number).save(root / f"{number}.png")
    rows = (
        {"image": "0.png", "labels": ["cat", "a, dog"], "boxes": [[0, 0, 8, 16], [16, 0, 32, 16]]},
        {"image": "1.png", "labels": ["cat"], "boxes": []},
        {"image": "2.png", "labels": [], "boxes": []},
    )
    (root / "labels.jsonl").write_text("\n".join(map(json.dumps, rows)))
    tiled(root, tmp_path / "bags", Tiling(16, covered=0.5))
    bags = read_bags(str(tmp_path / "bags"))
    assert bags.class_names == ("a, dog", "cat")
    assert bags.labels.tolist() == [[1, 1], [0, 1], [0, 0]]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--tile", "0"), "--tile must be from 1 to 10,000 pixels, got 0"),
        (("--tile", "8", "--stride", "9"), "--stride must be at most --tile, 8, or pixels betwe"),
        (("--tile", "8", "--covered", "0"), "--covered must be in (0, 1], got 0"),
        (("--tile", "8", "--objects", "masks"), "has no masks: leave --objects out"),
        (("--tile", "8", "--backbone", "resnet18", "--pretrained"), "--pretrained is for a back"),
        (("--tile", "8", "--group", "no"), "--group 'no' is not a column, as there is no table"),
        (
            ("--tile", "8", "--backbone", "timm/vit_tiny_patch16_224"),
            "takes images of 16 x 16 pixels and more, got 8 x 8; set --image-size",
        ),
        ((), "--tile"),
    ],
)
def test_what_cannot_be_tiled_is_said_in_a_line(
    words: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_folder(tmp_path / "data", each=1)
    out = tmp_path / "bags"
    assert said in complaint(capsys, "tile", root, "--out", out, *RANDOM, *words)
    assert not out.exists()


def test_a_command_that_is_stopped_says_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object, **__: object) -> Tiled:
        raise Interrupted(signal.SIGINT)

    monkeypatch.setattr(tile_files, "tile_images", stopped)
    root = make_folder(tmp_path / "data", each=1)
    assert exit_code("tile", root, "--tile", "8", "--out", tmp_path / "bags", *RANDOM) == 130
    said = f"stopped; the bags that are done are kept in {tmp_path / 'bags'}: the same command go"
    assert said in capsys.readouterr().err
    default = inspect.signature(command.tile).parameters["covered"].default
    assert default == tiles.COVERED


def test_data_that_is_made_here_has_no_images_to_cut(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = complaint(capsys, "tile", "digits", "--tile", "8", "--out", tmp_path / "bags", *RANDOM)
    assert "digits is generated here, in memory: name images that lie somewhere" in said


def test_a_folder_that_is_there_is_told_and_a_mask_says_what_tiles_show(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data(Path("photos"), sizes=((40, 24), (33, 17), (16, 16), (50, 40)))
    tile = ("tile", "photos", "--tile", "12", "--image-size", "32", "--out", "features", *RANDOM)
    run(*tile)
    said = " ".join(capsys.readouterr().out.split())
    assert "4 bags in features: 4 to 20 tiles of 96 features each, " in said
    assert "with neither mask nor box, so that none of their tiles has a class: 2 images" in said
    assert "covers" not in said
    run(*tile)
    assert "4 bags in features, 4 of them before: " in capsys.readouterr().out
    run(*tile[:-2], "--accelerator", "cpu", "--covered", "1", "--out", "others")
    assert "with an object that covers 1 of no tile (--covered): 2 images" in " ".join(
        capsys.readouterr().out.split()
    )


def test_the_section_on_photos_runs_and_evidence_lies_over_them(
    repository: Path, tmp_path: Path
) -> None:
    page = (repository / "docs" / "bags.md").read_text(encoding="utf-8")
    section = page.partition("## From photos to bags")[2].partition("\n## ")[0]
    make_folder(tmp_path / "photos")
    assert len(run_page(section, tmp_path, "docs/bags.md")) == 3
    assert (tmp_path / "tile-maps" / "dark-3.png.png").is_file()
    thumbnails = Maps(thumbnails=tmp_path / "photos")
    for bag in read_bags(str(tmp_path / "tiles")).names:
        kind, name = bag.split("-")
        photo = Image.open(tmp_path / "photos" / kind / name).convert("L")
        assert thumbnails.thumbnail(bag, bag) == photo
    assert thumbnails.thumbnail("3", "3") is None
