"""Bags explained: the maps show what is where, files say what the model says, names are text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pyarrow import parquet
from report.pages import Page

from loss_attention.bags.bag_set import BagSet, PackedInstances
from loss_attention.bags.elsewhere import write_table, write_tiles
from loss_attention.bags.explaining import bag_question, explained
from loss_attention.bags.maps import LONGEST, frame_of, painted, tile_size
from loss_attention.bags.model import BagClassifier
from loss_attention.bags.recipe import BagRecipe
from loss_attention.bags.saved import as_bytes
from loss_attention.bags.training import fit_bags
from loss_attention.bags.writing import Maps, file_names, write_bags
from loss_attention.cli import main
from loss_attention.errors import InputError

ROWS, COLUMNS, TILE, WIDTH = 40, 60, 256, 16
NAMES = ("slide one", '"><img src=x onerror=y>')


def slides(count: int, seed: int) -> tuple[BagSet, list[np.ndarray]]:
    """Slides of 60 x 40 tiles, every second with a round blob of higher signal; and the blobs."""
    random = np.random.default_rng(seed)
    y, x = (axis.ravel() for axis in np.mgrid[:ROWS, :COLUMNS])
    parts, blobs = [], []
    for number in range(count):
        features = random.normal(size=(len(x), WIDTH)).astype(np.float32)
        left, top = random.integers(12, 48), random.integers(10, 30)
        blob = ((x - left) / 7) ** 2 + ((y - top) / 5) ** 2 < 1
        blob &= number % 2 == 1
        features[blob, :4] += 2
        parts.append(features)
        blobs.append(blob)
    sizes = np.full(count, len(x))
    places = np.tile(np.stack([TILE * x + 1000, TILE * y + 300], axis=1), (count, 1))
    bags = BagSet(
        PackedInstances(np.concatenate(parts), sizes, places),
        np.arange(count),
        torch.arange(count) % 2,
        ("normal", "tumour"),
        tuple(f"slide {number}" for number in range(count)),
    )
    return bags, blobs


@pytest.fixture(scope="module")
def learned() -> BagClassifier:
    recipe = BagRecipe(
        pooling="loss-attention",
        hidden=(16,),
        dropout=0,
        epochs=20,
        batch_bags=2,
        learning_rate=2e-2,
    )
    return fit_bags(slides(12, 0)[0], recipe)


def few(coordinates: Any = None, names: tuple[str, ...] = NAMES) -> BagSet:
    """Two bags of three and five instances with four features."""
    random = np.random.default_rng(2)
    sizes = np.array([3, 5])
    values = random.normal(size=(8, 4)).astype(np.float32)
    return BagSet(
        PackedInstances(values, sizes, coordinates),
        np.arange(2),
        torch.tensor([0, 1]),
        ("no", "yes", "maybe"),
        names,
    )


def placed() -> np.ndarray:
    return np.array([[0, 0], [10, 0], [0, 10], [0, 0], [10, 0], [20, 0], [0, 10], [20, 10]])


def made(pooling: str = "gated-attention", **options: Any) -> BagClassifier:
    torch.manual_seed(0)
    names = ("no", "yes", "maybe")
    return BagClassifier(4, 3, pooling=pooling, hidden=(6,), class_names=names, **options).eval()


def evidence_of(model: BagClassifier, bags: BagSet, bag: int) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(bags.features(bag)[None])).evidence[0].numpy()


def test_the_blob_lights_up(learned: BagClassifier, tmp_path: Path) -> None:
    bags, blobs = slides(4, 9)
    write_bags(learned, bags.subset([3]), tmp_path, bag_question(learned, target="tumour"))
    picture = np.asarray(Image.open(tmp_path / "slide 3.png").convert("RGB")).astype(int)
    side = LONGEST / COLUMNS
    top = 3 * round(LONGEST / 45)  # the title
    red = picture[..., 0] - picture[..., 2]
    middles = [
        red[top + int((row + 0.5) * side), int((column + 0.5) * side)]
        for row in range(ROWS)
        for column in range(COLUMNS)
    ]
    values = np.array(middles)
    blob = blobs[3]
    assert values[blob].mean() > 20
    assert abs(values[~blob].mean()) < 2
    with Image.open(tmp_path / "x4" / "slide 3.png") as large:
        assert large.width == 4 * LONGEST


def test_each_tile_is_painted_where_it_lies_by_its_sign() -> None:
    places = np.array([[100, 50], [110, 50], [100, 60], [130, 60]])
    assert tile_size(places) == 10
    frame = frame_of("a", places, 10, None, None)
    assert frame == (100, 50, 40, 20)
    heat, there = painted(np.array([1.0, -2.0, 3.0, 4.0]), places, 10, frame, longest=8)
    wanted = np.array([[1, 1, -2, -2, 0, 0, 0, 0], [3, 3, 0, 0, 0, 0, 4, 4]]).repeat(2, axis=0)
    np.testing.assert_array_equal(heat, wanted)
    np.testing.assert_array_equal(there, wanted != 0)
    tiny, _ = painted(np.array([1.0, -2.0, 3.0, 4.0]), places, 10, frame, longest=2)
    np.testing.assert_array_equal(tiny, [[3.0, 4.0]])  # the strongest of those that share a pixel


def test_the_side_of_tiles_holds_where_pieces_have_grids_of_their_own() -> None:
    y, x = (axis.ravel() * 256 for axis in np.mgrid[:5, :6])
    first = np.stack([x, y], axis=1)
    second = np.stack([x + 1999, y + 3], axis=1)  # not a multiple of 256 away
    third = np.stack([x + 1100, y], axis=1)  # in the rows of the first, which it overlaps
    assert tile_size(np.concatenate([first, second, third])) == 256
    assert tile_size(np.array([[7, 7]])) > 0
    assert tile_size(np.random.default_rng(0).uniform(0, 100, (100, 2))) == pytest.approx(
        10, rel=0.1
    )


def test_files_say_what_the_model_says(tmp_path: Path) -> None:
    model, bags = made(), few(placed())
    summary = write_bags(model, bags, tmp_path, bag_question(model), maps=None, top=2)
    for bag, path in enumerate(summary.written):
        said = json.loads(path.read_text())
        evidence = evidence_of(model, bags, bag)
        k = int(evidence.sum(axis=0).argmax())
        assert (said["bag"], said["class"]) == (NAMES[bag], model.class_names[k])
        assert said["sums"]["evidence"] == pytest.approx(said["logits"][k], abs=1e-5)
        contrast = evidence[:, k] - evidence.mean(axis=1)  # this pooling is not centred
        assert said["shows"] == "contrast"
        assert said["sums"]["for"] == pytest.approx(contrast[contrast > 0].sum(), abs=1e-5)
        assert said["sums"]["against"] == pytest.approx(contrast[contrast < 0].sum(), abs=1e-5)
        order = np.argsort(-contrast)
        wanted = [int(one) for one in order if contrast[one] > 0][:2]
        assert [one["index"] for one in said["top_for"]] == wanted
        wanted = [int(one) for one in order[::-1] if contrast[one] < 0][:2]
        assert [one["index"] for one in said["top_against"]] == wanted
        for one in said["top_for"] + said["top_against"]:
            assert one["coordinates"] == bags.coordinates(bag)[one["index"]].tolist()
            assert one["evidence"] == pytest.approx(float(evidence[one["index"], k]), abs=1e-6)


def test_the_page_shows_every_bag_and_no_name_becomes_markup(tmp_path: Path) -> None:
    model = made("positive-evidence")
    summary = write_bags(model, few(placed()), tmp_path, bag_question(model), maps=Maps((1,)))
    page = Page(summary.index)
    assert len(page.of("img")) == 2
    assert all("onerror" not in attributes for _, attributes in page.elements)
    assert "2 explained bags" in page.text
    for name in NAMES:
        assert name in page.text
    bare = write_bags(model, few(), tmp_path / "bare", bag_question(model))
    assert bare.without == 2
    assert not Page(bare.index).of("img")
    assert not list((tmp_path / "bare").rglob("*.png"))


def test_tiles_are_closed_rings_of_the_strongest(tmp_path: Path) -> None:
    model, bags = made(), few(placed())
    question = bag_question(model, target="yes", versus="no")
    summary = write_tiles(model, bags, tmp_path, question, most=4)
    assert summary.left_out == 1
    for bag, path in enumerate(summary.written):
        content = json.loads(path.read_text())
        assert content["type"] == "FeatureCollection"
        evidence = evidence_of(model, bags, bag)
        difference = evidence[:, 1] - evidence[:, 0]
        order = np.argsort(-np.abs(difference))[:4]
        assert len(content["features"]) == len(order)
        for index, tile in zip(order, content["features"], strict=True):
            (ring,) = tile["geometry"]["coordinates"]
            x, y = bags.coordinates(bag)[index]
            assert tile["geometry"]["type"] == "Polygon"
            assert ring == [[x, y], [x + 10, y], [x + 10, y + 10], [x, y + 10], [x, y]]
            about = tile["properties"]
            assert about["measurements"]["evidence"] == pytest.approx(evidence[index, 1], abs=1e-6)
            assert about["measurements"]["difference"] == pytest.approx(difference[index], abs=1e-6)
            side = "for" if difference[index] > 0 else "against"
            assert about["classification"]["name"] == f"{side} yes against no"
    with pytest.raises(InputError, match="'slide one' has no coordinates"):
        write_tiles(model, few(), tmp_path / "none", question)


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_a_table_has_a_row_a_bag(
    kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loss_attention.explained.shards.NUMBERS", 2)  # a row group each
    model, bags = made("loss-attention"), few(placed())
    summary = write_table(model, bags, tmp_path, bag_question(model), kind)
    (path,) = summary.written
    if kind == "parquet":
        assert parquet.ParquetFile(path).num_row_groups == 2
        rows = parquet.read_table(path).to_pylist()
    else:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
    for bag, row in enumerate(rows):
        evidence = evidence_of(model, bags, bag)
        k = int(evidence.sum(axis=0).argmax())
        assert (row["bag"], row["label"], row["target"]) == (
            NAMES[bag],
            ("no", "yes")[bag],
            model.class_names[k],
        )
        np.testing.assert_allclose(row["evidence"], evidence[:, k], atol=1e-6)
        assert sum(row["evidence"]) == pytest.approx(row["logits"][k], abs=1e-6)
        assert sum(row["weights"]) == pytest.approx(1, abs=1e-6)
        np.testing.assert_array_equal(np.stack([row["x"], row["y"]], 1), bags.coordinates(bag))
    if kind == "jsonl":
        with pytest.raises(InputError, match="exists already"):
            write_table(model, bags, tmp_path, bag_question(model), kind)


def test_maps_show_what_is_asked_for() -> None:
    model, bags = made(), few(placed())
    evidence = evidence_of(model, bags, 1)

    def shown(**asked: Any) -> np.ndarray:
        question = bag_question(model, target="yes", **asked)
        return list(explained(model, bags, question))[1].shown(weights=question.weights)[0]

    rivals = np.maximum(evidence[:, 0], evidence[:, 2])
    near = {"atol": 1e-6, "rtol": 1e-5}
    np.testing.assert_allclose(shown(map="evidence"), evidence[:, 1], **near)
    np.testing.assert_allclose(shown(map="margin"), (evidence[:, 1] - rivals).clip(0), **near)
    np.testing.assert_allclose(shown(versus="maybe"), evidence[:, 1] - evidence[:, 2], **near)
    np.testing.assert_allclose(shown(), evidence[:, 1] - evidence.mean(axis=1), **near)
    assert shown(map="weights").sum() == pytest.approx(1, abs=1e-6)
    assert bag_question(made("mean")).signed.name == "evidence"  # as it is centred
    assert bag_question(made(multi_label=True)).signed.name == "evidence"
    with pytest.raises(InputError, match="decides each class by itself"):
        bag_question(made(multi_label=True), map="margin")


def test_thumbnails_lie_under_the_tiles_or_are_refused(tmp_path: Path) -> None:
    model, bags = made("mean"), few(placed(), ("a", "b")).subset([0])
    thumbs = tmp_path / "thumbs"
    thumbs.mkdir()
    grey = np.full((8, 16), 60, np.uint8)
    grey[:4, :4] = 250  # 5 pixels of the slide in one: the four tiles of 10 x 10 at the corner
    Image.fromarray(grey).save(thumbs / "a.png")
    maps = Maps((1,), None, thumbs, 5)
    write_bags(model, bags, tmp_path / "out", bag_question(model), maps=maps)
    drawn = np.asarray(Image.open(tmp_path / "out" / "a.png").convert("L"))[3 * 18 :]
    assert drawn[350, 700] < 120  # beyond the tiles, dark as it is
    assert drawn[150, 150] > 200  # the fourth corner, where no tile is
    with pytest.raises(InputError, match="say its scale with `thumbnail_downsample`"):
        write_bags(model, bags, tmp_path / "o", bag_question(model), maps=Maps((1,), None, thumbs))
    with Image.open(thumbs / "a.png") as thumbnail:  # all of it, wherever the tiles begin
        assert frame_of("a", placed() + 15, 10, thumbnail, 5) == (0, 0, 80, 40)
    maps = Maps((1,), None, thumbs, 0.5)
    with pytest.raises(InputError, match=r"`thumbnail_downsample` is not 0\.5"):
        write_bags(model, bags, tmp_path / "p", bag_question(model), maps=maps)


def test_names_of_files_are_their_own_and_stay_in_the_folder() -> None:
    names = ["a", "A", "../a", "x/y", "", "index", "a\0b\n", "n" * 400]
    found = file_names(names)
    assert len({name.casefold() for name in found}) == len(names)
    assert all(Path(f"{name}.json").name == f"{name}.json" for name in found)
    assert "index" not in found
    assert all(name.isprintable() and len(name) <= 210 for name in found)


def rows_of(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
    return rows


def command(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    assert isinstance(stop.value.code, int)
    return stop.value.code


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model.safetensors").write_bytes(as_bytes(made()))
    rows = [
        f"{bag},{label},{x},0,{x},1,0,{bag}"
        for bag, label in (("1", "no"), ("2", "yes"))
        for x in (0, 10, 20)
    ]
    text = "\n".join(["bag,label,x,y,a,b,c,d", *rows])
    (tmp_path / "bags.csv").write_text(text)
    return tmp_path / "run"


def test_the_command(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = tmp_path / "bags.csv", tmp_path / "out"
    assert command("explain", run, data, "--out", out, "--bags", "2", "--zooms", 1) == 0
    assert {one.name for one in out.iterdir()} == {"index.html", "2.json", "2.png"}
    assert "1 bag explained in" in capsys.readouterr().out
    assert command("explain", run, data, "--out", out, "--format", "geojson") == 0
    assert (out / "1.geojson").is_file()
    table = ("explain", run, data, "--out", out, "--format", "parquet")
    assert command(*table, "--shard", "2/2") == command(*table, "--shards", 2) == 0
    assert "part-00002-of-00002.parquet exists already: skipped" in capsys.readouterr().out
    names = [row["bag"] for part in sorted(out.glob("part-*")) for row in rows_of(part)]
    assert names == ["1", "2"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--tile", "3"], "--tile is for images, and "),
        (["--engine=ray"], "--engine is for images, and "),
        (["--format", "jsonl", "--zooms", "2"], "--zooms is for --format json, not for jsonl"),
        (["--format", "parquet", "--tile-size", "2"], "--tile-size is for maps and tiles"),
        (["--most-tiles", "5"], "--most-tiles is for --format geojson, not for json"),
        (["--shard", "1/2"], "--shard is for --format parquet, not for json"),
        (["--format", "parquet", "--shard", "3/2"], "--shard counts from 1: 1/2 to 2/2"),
        (["--format", "parquet", "--shards", "0"], "--shards must be at least 1, got 0"),
        (["--format", "parquet", "--shards", "3"], "there are 2 bags, so at most 2 shards"),
        (["--format", "parquet", "--shards", "2", "--shard", "1/2"], "leave --shard"),
        (["--zooms", "11"], "--zooms must be from 1 to 10, got 11"),
        (["--tile-size", "-1"], "--tile-size must be a number above 0"),
        (["--thumbnails", "nowhere"], "--thumbnails nowhere: there is no such folder"),
        (["--thumbnail-downsample", "4"], "--thumbnail-downsample is for --thumbnails"),
        (["--target", "maybee"], "unknown class 'maybee'; did you mean 'maybe'?"),
        (["--target", "no", "--versus", "no"], "--versus must be another class"),
        (["--versus", "no", "--map", "weights"], "leave --map"),
        (["--bags", "3"], "--bags: there is no bag '3'"),
        (["--top", "-1"], "--top must be at least 0"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    options: list[str], said: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert command("explain", run, tmp_path / "bags.csv", "--out", out, *options) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_features_of_another_width_are_refused(run: Path, tmp_path: Path) -> None:
    data = tmp_path / "wide.csv"
    data.write_text("bag,label,a,b\n1,no,1,2\n2,yes,3,4\n")
    assert command("explain", run, data, "--out", tmp_path / "out") == 2


def test_a_damaged_file_is_not_taken_for_one_of_bags(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = run / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    assert command("explain", run, run.parent / "bags.csv", "--out", run.parent / "o") == 2
    assert "model.safetensors" in capsys.readouterr().err
