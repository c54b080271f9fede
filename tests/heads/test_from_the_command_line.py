"""Every head from the command line, on images of digits: from training to explaining."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typed import run

from loss_attention.data.digits import digits
from loss_attention.heads import HEADS

CPU = ("--accelerator", "cpu")
TINY = [
    *("--epochs", "1", "--batch-size", "16", "--width", "0.05", "--strided-layers", "1", "6"),
    *("--patch-kernel", "3", "--image-size", "24", "--in-channels", "1", *CPU),
]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes of three of the ten digits as a folder of images for each."""
    folder = tmp_path_factory.mktemp("digits")
    scenes = digits(train=150, test=1).train
    for label in range(3):
        (folder / str(label)).mkdir()
        for number in (scenes.labels == label).nonzero().squeeze(1).tolist()[:10]:
            pixels = scenes.images[number, 0].numpy()
            Image.fromarray(pixels).save(folder / str(label) / f"{number}.png")
    return folder


@pytest.mark.parametrize("head", [name for name in HEADS if name != "baseline"])
def test_a_head_does_all_that_the_command_offers(head: str, images: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "run", tmp_path / "out"
    words = ["train", "folder", "--data", str(images), "--head", head, *TINY]
    words += ["--balance", "none"] if HEADS[head].objective == "margin" else []
    run(*words, "--out", str(folder))
    measured = json.loads((folder / "evaluation.json").read_text())
    run("evaluate", str(folder), *CPU)
    assert json.loads((folder / "evaluation.json").read_text()) == measured
    assert head in (folder / "report.html").read_text()
    run("explain", str(folder), str(images / "0"), "--out", str(out), *CPU)
    explained = [json.loads(path.read_text()) for path in sorted(out.glob("*.json"))]
    assert len(explained) == len(list(out.glob("*.png"))) == 10
    for found in explained:
        assert np.sum(found["patch_weights"]) == pytest.approx(1, abs=1e-5)
        if HEADS[head].has_evidence:
            sums = np.sum(found["evidence"], axis=0)
            np.testing.assert_allclose(sums, found["logits"], rtol=0, atol=1e-4)
        else:
            assert found["evidence"] is None
