"""`predict`: the same answer of a model and of its file, without torch for the latter."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from apart import command
from exporting import written
from markdown_pages import fenced_blocks
from PIL import Image

import loss_attention as la
from loss_attention.data.decoding import read_image, to_tensor
from loss_attention.predicting import Predicted, as_csv, as_jsonl, table_rows

pytest.importorskip("onnxruntime")

BLOCKED = """
import sys

class NoTorch:
    def find_spec(self, name, *_):
        if name.partition(".")[0] == "torch":
            raise AssertionError("torch is imported")

sys.meta_path.insert(0, NoTorch())
"""
"""Before what has to do without torch."""
COMMAND = f"{BLOCKED}from loss_attention.cli import main; main()"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, plain: Any) -> Path:
    """A model, its file, and images of several sizes and kinds; one is none."""
    folder = tmp_path_factory.mktemp("predicting")
    plain(written.write_model_and_file, folder)
    rng = np.random.default_rng(0)
    photos = folder / "photos"
    photos.mkdir()
    for number, size in enumerate([(30, 40), (24, 20), (9, 70)]):
        pixels = rng.integers(0, 100, (*size, 3), dtype=np.uint8)
        pixels[:, :, number] += 155  # red, green and blue, so that answers differ
        Image.fromarray(pixels).save(photos / f"{number}.png")
    grey = Image.fromarray(rng.integers(0, 256, (50, 50), dtype=np.uint8))
    grey.save(photos / "grey.jpg", exif=turned())
    return folder


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def without_torch(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", COMMAND, *words],
        cwd=folder,
        env=os.environ | {"COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_file_without_torch_says_what_the_model_says(folder: Path) -> None:
    done = without_torch(["predict", "model.onnx", "photos", "--format", "jsonl"], folder)
    assert (done.returncode, done.stderr) == (0, "")
    of_file = [json.loads(line) for line in done.stdout.splitlines()]
    code, said = command(
        ["predict", "model.safetensors", "photos", "--out", "of-model.jsonl"], folder
    )
    assert (code, said.strip()) == (0, "4 images: of-model.jsonl")
    lines = (folder / "of-model.jsonl").read_text(encoding="utf-8").splitlines()
    of_model = [json.loads(line) for line in lines]
    model = la.load(folder / "model.safetensors")
    for one, other in zip(of_file, of_model, strict=True):
        assert one["file"] == other["file"]
        assert one["prediction"] == other["prediction"]
        # What `explain` says, decoded by itself.
        pixels = to_tensor(read_image(folder / one["file"], 3), (24, 20), "pad")
        own = model.explain(pixels).probabilities[0].numpy()
        for found in (one, other):
            assert list(found["probabilities"]) == list(written.CLASSES)
            np.testing.assert_allclose(list(found["probabilities"].values()), own, atol=1e-5)
            assert found["probability"] == max(found["probabilities"].values())
    # They differ by more than what is allowed above.
    assert np.ptp([one["probability"] for one in of_file]) > 1e-4


def test_the_example_of_the_documentation_needs_no_torch(folder: Path, repository: Path) -> None:
    page = (repository / "docs" / "exporting.md").read_text(encoding="utf-8")
    example = next(block.text for block in fenced_blocks(page) if block.language == "python")
    shutil.copy(folder / "model.onnx", folder / "animals.onnx")
    Image.open(folder / "photos" / "1.png").save(folder / "photo.jpg", quality=95)
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED + example],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    pixels = to_tensor(read_image(folder / "photo.jpg", 3))
    explained = la.load(folder / "model.safetensors").explain(pixels)
    said = done.stdout.split()
    assert said[0] == written.CLASSES[int(explained.target[0])]
    assert float(said[1]) == pytest.approx(float(explained.probabilities.max()), abs=1e-4)


def test_what_is_no_image_is_said_and_the_others_are_done(folder: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    words = ["predict", "model.onnx", str(bad), "photos/0.png", "photos/0.png"]
    done = without_torch([*words, "--format", "csv"], folder)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "bad.png cannot be read as an image" in done.stderr
    headings, *rows = csv.reader(done.stdout.splitlines())
    assert headings == ["file", "prediction", "probability", *written.CLASSES]
    assert [row[0] for row in rows] == ["photos/0.png"]  # named twice, done once
    assert float(rows[0][2]) == max(map(float, rows[0][3:]))
    table = without_torch(words, folder)
    assert table.returncode == 2
    assert "photos/0.png" in table.stdout
    assert rows[0][1] in table.stdout


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        (["model.onnx"], "predict needs image files or folders after the run"),
        (["model.onnx", "none.png"], "there is no file or folder none.png"),
        (["none.onnx", "photos"], "there is no file none.onnx"),
        (["model.npz", "photos"], "model.npz: no format has the ending '.npz'"),
        (["model.onnx", "photos", "--out", "a.txt"], "--out a.txt: write --format csv or jsonl"),
        (["model.onnx", "photos", "--out", "none/a.csv"], "there is no folder none"),
        (["model.onnx", "photos", "--out", "there.csv"], "there.csv exists already"),
    ],
)
def test_what_cannot_be_is_one_line(folder: Path, words: list[str], wrong: str) -> None:
    (folder / "there.csv").write_text("kept", encoding="utf-8")
    (folder / "model.npz").write_bytes(b"")
    done = without_torch(["predict", *words], folder)
    assert done.returncode == 2
    assert wrong in done.stderr
    assert done.stderr.count("\n") == 1
    assert (folder / "there.csv").read_text(encoding="utf-8") == "kept"


def test_export_by_the_command(folder: Path) -> None:
    words = ["export", "model.safetensors", "--out", "by-command.pt2"]
    code, said = command([*words, "--sizes", "fixed"], folder)
    assert code == 0, said
    assert "by-command.pt2: " in said
    assert "takes images of 24 x 20 pixels alone" in said
    assert "largest difference from the model: " in said
    code, said = command(words, folder)
    assert code == 2
    assert "exists already; name another, or replace it with --overwrite" in said
    code, said = command(["export", "model.safetensors", "--out", "b.onnx", "--int8"], folder)
    assert code == 2
    assert "--int8 needs a run's folder" in said


def test_rows_of_images_with_several_labels() -> None:
    several = [
        Predicted("a", "cat", 0.9, ("cat", "dog"), (0.9, 0.6, 0.1)),
        Predicted("b", "ewe", 0.2, (), (0.1, 0.1, 0.2)),
    ]
    names = ("cat", "dog", "ewe")
    assert table_rows(several, names) == [
        ["a", "cat, dog", "0.900"],
        ["b", "none (likeliest: ewe)", "0.200"],
    ]
    assert json.loads(as_jsonl(several, names).splitlines()[0])["labels"] == ["cat", "dog"]
    assert as_csv(several, names).splitlines()[2] == "b,ewe,0.2,0.1,0.1,0.2"
    alone = Predicted("a", "cat", 0.7, None, (0.7, 0.1, 0.2))
    assert table_rows([alone], names) == [["a", "cat", "0.700", "ewe", "0.200"]]
