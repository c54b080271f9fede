"""Tables: a row for each image, the numbers of the JSON, and shards that are whole or not there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from explained.test_files import CLASSES, listing, make_model, read, save_image
from filelock import FileLock
from PIL import Image
from pyarrow import parquet

import loss_attention as la
from loss_attention.errors import InputError
from loss_attention.explained import answers
from loss_attention.explained.columns import NAMES, columns_of, table_schema
from loss_attention.explained.files import explain_files
from loss_attention.explained.questions import OwnQuestion, own_question
from loss_attention.explained.reading import ReadImage
from loss_attention.explained.shards import Shard, explain_table
from loss_attention.tiling import Tiles


@pytest.fixture(scope="module")
def model() -> la.PatchClassifier:
    return make_model()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Seven images of unequal size, the fourth of which is none."""
    for number in range(7):
        save_image(tmp_path / "in" / f"{number}.png", (20 + number, 30), number)
    (tmp_path / "in" / "3.png").write_bytes(b"no image")
    return tmp_path / "in"


def asked(model: la.PatchClassifier, **how) -> OwnQuestion:
    return own_question(model, **how)


def table(model: la.PatchClassifier, folder: Path, out: Path, shard: str = "1/1", **how):
    question = asked(model, **{k: how.pop(k) for k in ("target", "tiles") if k in how})
    summary = explain_table(model, question, [folder], out, shard=Shard.named(shard), **how)
    return summary, parquet.read_table(summary.path).to_pylist()


@pytest.mark.parametrize("resize", ["squash", "pad"])
def test_a_row_says_what_the_json_says(resize, folder, tmp_path):
    model = make_model(resize=resize)
    summary, rows = table(model, folder, tmp_path / "table", batch_size=3)
    explain_files(model, [folder], tmp_path / "files", batch_size=3)
    assert [Path(row["path"]).name for row in rows] == [f"{n}.png" for n in range(7)]
    assert summary.rows == 7
    assert "no image" in rows[3]["error"] or "cannot be read" in rows[3]["error"]
    assert {name for name, value in rows[3].items() if value is not None} == {"path", "error"}
    assert summary.unreadable == [rows[3]["error"]]
    for number in (0, 1, 2, 4, 5, 6):
        row, said = rows[number], read(tmp_path / "files" / f"{number}.json")
        assert row["error"] is None
        for of_row, of_json in (
            ("path", "file"),
            ("width", "width"),
            ("height", "height"),
            ("class", "prediction"),
            ("target", "target"),
            ("margin_is_empty", "margin_is_empty"),
        ):
            assert row[of_row] == said[of_json]
        assert row["probability"] == pytest.approx(said["probability"])
        np.testing.assert_allclose(row["logits"], said["logits"], rtol=1e-5)
        for name, of_json in (
            ("patch_weights", "patch_weights"),
            ("evidence", "target_evidence"),
            ("margin", "target_margin"),
        ):
            np.testing.assert_allclose(row[name], said[of_json], rtol=1e-3, atol=1e-6)
        logit = said["logits"][CLASSES.index(row["target"])]
        assert sum(map(float, row["evidence"])) == pytest.approx(logit, rel=1e-3)
        np.testing.assert_allclose(row["box"], said["box"], atol=0.01)
        assert [one["class"] for one in row["objects"]] == [
            one["class"] for one in said["objects"]["found"]
        ]
        for mine, its in zip(row["objects"], said["objects"]["found"], strict=True):
            assert mine["score"] == pytest.approx(its["score"])
            np.testing.assert_allclose(mine["box"], its["box"], atol=0.01)


@pytest.mark.parametrize("resize", ["squash", "pad"])
def test_the_grid_gives_the_windows_of_the_json(resize, tmp_path):
    model = make_model(resize=resize)
    save_image(tmp_path / "in" / "a.png", (60, 30))
    _, [row] = table(model, tmp_path / "in", tmp_path / "table")
    explain_files(model, [tmp_path / "in"], tmp_path / "files")
    grid, said = row["grid"], read(tmp_path / "files" / "a.json")["grid"]
    assert (grid["rows"], grid["columns"]) == (said["rows"], said["columns"])
    for patch, window in enumerate(said["windows"]):
        down, across = divmod(patch, grid["columns"])
        x, y = grid["x"] + across * grid["step_x"], grid["y"] + down * grid["step_y"]
        box = np.array([x, y, x + grid["window_width"], y + grid["window_height"]])
        np.testing.assert_allclose(box.clip(0, [60, 30, 60, 30]), window, atol=0.02)


@pytest.mark.parametrize(
    "options",
    [
        {"head": "capsule-dynamic-routing"},
        {"multi_label": True},
        {"one_vs_rest": True},
        {"head": "mean"},
    ],
)
def test_what_a_model_does_not_have_is_null(options, tmp_path):
    model = make_model(**options)
    save_image(tmp_path / "in" / "a.png")
    _, [row] = table(model, tmp_path / "in", tmp_path / "out")
    routed = options.get("head") == "capsule-dynamic-routing"
    assert (row["evidence"] is None) is routed
    assert (row["objects"] is None) is routed
    assert (row["margin"] is None) is (routed or "head" not in options)
    assert sum(map(float, row["patch_weights"])) == pytest.approx(1, abs=0.01)


def test_the_shards_together_are_the_whole_table(model, folder, tmp_path):
    _, whole = table(model, folder, tmp_path / "whole", batch_size=2)
    rows, names = [], []
    for number in (1, 2, 3):
        summary, part = table(model, folder, tmp_path / "out", f"{number}/3", batch_size=2)
        rows += part
        names.append(summary.path.name)
        assert 2 <= len(part) <= 3
    assert names == [f"part-0000{number}-of-00003.parquet" for number in (1, 2, 3)]
    assert [row["path"] for row in rows] == [row["path"] for row in whole]
    for mine, its in zip(rows, whole, strict=True):
        np.testing.assert_allclose(mine["logits"] or [], its["logits"] or [], atol=1e-5)


def test_a_shard_that_is_there_is_skipped_and_any_other_refused(model, folder, tmp_path):
    out = tmp_path / "out"
    summary, _ = table(model, folder, out, "1/2")
    before = summary.path.stat()
    again, _ = table(model, folder, out, "1/2")
    assert again.skipped
    assert (again.path.stat().st_ino, again.path.stat().st_mtime_ns) == (
        before.st_ino,
        before.st_mtime_ns,
    )
    others = (
        (make_model(threshold=0.1), {}, folder),
        (model, {"target": "cat"}, folder),
    )
    for other, how, images in others:
        with pytest.raises(InputError, match=r"is a shard of other images, of another model"):
            table(other, images, out, "1/2", **how)
    changed = make_model()
    with torch.no_grad():
        changed.head.classifier.bias[0] += 1
    with pytest.raises(InputError, match="of another model"):
        table(changed, folder, out, "1/2")
    with pytest.raises(InputError, match=r"one of 2 shards, and `shard` 1/3 one of 3"):
        table(model, folder, out, "1/3")
    save_image(folder / "0-more.png")
    with pytest.raises(InputError, match="of other images"):
        table(model, folder, out, "1/2")
    summary, rows = table(model, folder, out, "1/2", overwrite=True)
    assert not summary.skipped
    assert "0-more.png" in str([row["path"] for row in rows])
    summary.path.write_bytes(b"something else")
    with pytest.raises(InputError, match="is not a shard of this command"):
        table(model, folder, out, "1/2")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3/2", "counts from 1: 1/2 to 2/2, got '3/2'"),
        ("0/2", "counts from 1"),
        ("1/0", "counts from 1: 1/1 to 1/1"),
        ("1", "is NUMBER/OF, such as 2/8"),
        ("-1/2", "is NUMBER/OF"),
        ("a/b", "is NUMBER/OF"),
        ("1/99999999999999", "is NUMBER/OF"),
    ],
)
def test_a_shard_that_is_none_is_told_in_a_line(text, message):
    with pytest.raises(InputError, match=message) as caught:
        Shard.named(text)
    assert "\n" not in str(caught.value)


def test_more_shards_than_images_are_refused(model, folder, tmp_path):
    with pytest.raises(InputError, match="there are 7 images, so at most 7 shards"):
        table(model, folder, tmp_path / "out", "1/8")
    assert not (tmp_path / "out").exists()


def test_shards_of_any_number_hold_each_image_once():
    for count in (1, 2, 7, 10):
        items = list(range(count))
        for of in range(1, count + 1):
            parts = [Shard(number, of).part(items) for number in range(1, of + 1)]
            assert [one for part in parts for one in part] == items
            assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_second_writer_of_a_shard_is_refused(model, folder, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    with (
        FileLock(out / ".part-00001-of-00002.parquet.lock"),
        pytest.raises(InputError, match=r"another process is writing shard 1/2") as caught,
    ):
        table(model, folder, out, "1/2")
    assert "\n" not in str(caught.value)
    assert table(model, folder, out, "1/2")[0].rows == 3


def test_a_shard_that_is_cut_short_leaves_nothing(model, folder, tmp_path, monkeypatch):
    calls = []

    def stopped(*values):
        calls.append(values)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return columns_of(*values)

    monkeypatch.setattr(answers, "columns_of", stopped)
    with pytest.raises(KeyboardInterrupt):
        table(model, folder, tmp_path / "out", batch_size=2)
    assert listing(tmp_path / "out") == [".part-00001-of-00001.parquet.lock"]
    monkeypatch.undo()
    assert len(table(model, folder, tmp_path / "out", batch_size=2)[1]) == 7


def test_damaged_weights_are_said_and_no_table_is_left(folder, tmp_path):
    broken = make_model()
    torch.nn.init.constant_(broken.head.classifier.bias, torch.nan)
    with pytest.raises(InputError, match="not finite"):
        table(broken, folder, tmp_path / "out")
    assert listing(tmp_path / "out") == [".part-00001-of-00001.parquet.lock"]


def test_pictures_beside_a_table_are_those_of_the_files(model, folder, tmp_path):
    table(model, folder, tmp_path / "table", pictures=True)
    explain_files(model, [folder], tmp_path / "files")
    for number in (0, 1, 2, 4, 5, 6):
        mine, its = (
            np.asarray(Image.open(tmp_path / kind / f"{number}.png")) for kind in ("table", "files")
        )
        np.testing.assert_array_equal(mine, its)


def test_photos_in_tiles_have_grids_of_their_own(tmp_path):
    model = make_model(image_size=(24, 24))
    for number, size in enumerate(((48, 32), (64, 24))):
        save_image(tmp_path / "in" / f"{number}.png", size, number)
    summary, rows = table(model, tmp_path / "in", tmp_path / "out", tiles=Tiles(tile=24))
    assert summary.unreadable == []
    for row, (width, _) in zip(rows, ((48, 32), (64, 24)), strict=True):
        grid = row["grid"]
        assert len(row["evidence"]) == grid["rows"] * grid["columns"]
        reach = grid["x"] + (grid["columns"] - 1) * grid["step_x"] + grid["window_width"]
        assert reach == pytest.approx(width, abs=4)
        logit = row["logits"][CLASSES.index(row["target"])]
        assert sum(map(float, row["evidence"])) == pytest.approx(logit, rel=1e-3)


def test_columns_are_a_function_of_the_batch_alone(model, tmp_path):
    images = torch.randint(0, 256, (2, 3, 24, 24), dtype=torch.uint8)
    own, objects = asked(model).answer(model, images)
    batch = [
        ReadImage(0, Path("a.png"), images[0], (24, 24)),
        ReadImage(1, Path(os.fsdecode(b"\xff.png")), None, error="why"),
        ReadImage(2, Path("c.png"), images[1], (48, 48)),
    ]
    first, second = (columns_of(batch, own, objects, CLASSES) for _ in range(2))
    assert tuple(first) == NAMES == tuple(table_schema().names)
    assert first["path"] == ["a.png", "\\udcff.png", "c.png"]
    assert first["error"] == [None, "why", None]
    assert first["logits"][1] is None
    np.testing.assert_array_equal(first["evidence"][2], second["evidence"][2])
    np.testing.assert_allclose(first["logits"][2], own.logits[1], rtol=1e-6)
    assert listing(tmp_path) == []


def test_two_shards_are_written_at_once_from_the_command_line(model, folder, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(model.to_bytes())
    out = tmp_path / "out"
    program = "import sys; from loss_attention.cli import main; main(sys.argv[1:])"
    words = [sys.executable, "-c", program, "explain"]
    words += [str(tmp_path / "model.safetensors"), str(folder), "--out", str(out)]
    words += ["--format", "parquet", "--accelerator", "cpu", "--shard"]
    jobs = [
        subprocess.Popen([*words, f"{n}/2"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for n in (1, 2)
    ]
    said = [job.communicate() for job in jobs]
    assert [job.returncode for job in jobs] == [0, 2]  # the second holds what is not an image
    assert said[0][0].decode() == f"3 images explained in {out / 'part-00001-of-00002.parquet'}\n"
    assert said[1][1].count(b"\n") == 1
    assert parquet.read_table(out / "part-00001-of-00002.parquet").num_rows == 3
    told = parquet.read_schema(out / "part-00002-of-00002.parquet").metadata[b"loss-attention"]
    assert json.loads(told)["classes"] == list(CLASSES)
