"""What the comparison with today's way counts and scores, and the folders that all of it reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import peers
import pytest
import torch
from measuring import same_settings
from PIL import Image

from loss_attention.data.sample import ImageSet, Splits
from loss_attention.errors import InputError

PROGRAM = '''"""What it is.

More of it.
"""

import torch  # a library


def double(x):
    """Docstring."""
    # a comment
    return torch.cat(
        [x, x]
    )
'''


def test_lines_are_those_that_a_user_writes() -> None:
    assert peers.lines_of(PROGRAM) == 5
    assert peers.lines_of('x = """text\n\nmore"""\n') == 3


def test_every_snippet_is_there_and_counted_once() -> None:
    for peer in peers.PEERS.values():
        for name in (peer.train, *peer.explain.values()):
            assert 2 <= peers.lines(name) < 40
            assert peers.lines(name, name) == peers.lines(name)


def test_scores_of_maps_worked_out_by_hand() -> None:
    masks = torch.zeros(2, 40, 40, dtype=torch.bool)
    masks[:, 0, :4] = True
    maps = torch.zeros(2, 40, 40)
    maps[0, 16, 0] = 1.0  # 16 pixels below the mask: just near enough
    maps[1, 17, 0] = 1.0
    assert peers.scores(maps, masks)["pointing"] == 0.5
    # Each map has one pixel at the top, of no object; then all others, 4 of 1,600 an object's.
    assert peers.scores(maps, masks)["pxap"] == pytest.approx(8 / 3200)
    assert peers.scores(masks.float(), masks) == {"pxap": pytest.approx(1.0), "pointing": 1.0}


def splits_of(names: tuple[str, ...]) -> Splits:
    images = torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1).expand(4, 3, 8, 8).clone()
    whole = ImageSet(images, torch.tensor([0, 1, 1, 0]), names)
    first, last = torch.tensor([0, 1]), torch.tensor([2, 3])
    return Splits(whole.subset(first), whole.subset(last), "made up")


def test_all_read_the_same_pixels_from_class_folders(tmp_path: Path) -> None:
    peers.class_folders(splits_of(("cat", "dog")), tmp_path)
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.png"))
    assert found == [
        "test/cat/000001.png",
        "test/dog/000000.png",
        "train/cat/000000.png",
        "train/dog/000001.png",
    ]
    assert np.unique(Image.open(tmp_path / "test" / "dog" / "000000.png")) == [2]
    with pytest.raises(InputError, match="must be names of folders"):
        peers.class_folders(splits_of(("a/dog", "b/dog")), tmp_path / "other")


def test_runs_of_other_settings_are_not_continued(tmp_path: Path) -> None:
    same_settings(tmp_path / "runs", {"limit": 3})
    same_settings(tmp_path / "runs", {"limit": 3})
    with pytest.raises(InputError, match="holds runs of other settings"):
        same_settings(tmp_path / "runs", {"limit": None})


def test_the_page_shows_means_and_ranges() -> None:
    run = {"peer": "probe", "accuracy": 0.9, "balanced_accuracy": 0.8, "train_seconds": 61.2}
    of_map = {"lines": 30, "pxap": 0.25, "pointing": 0.5, "explain_seconds": 0.01}
    runs = [
        run
        | {"seed": seed, "train_seconds": None if seed else 61.2}  # seed 1 beside other work
        | {"explained": {"Grad-CAM": of_map | {"pxap": 0.25 + seed / 10}}}
        for seed in (0, 1)
    ]
    text = peers.page(
        {
            "command": "python benchmarks/peers.py",
            "measured": "2026-01-01",
            "hardware": {"cpu": "a CPU", "cores": 2},
            "vector_units": "AVX2",
            "versions": {"torch": "2"},
            "image_size": 320,
            "training_images": 1000,
            "test_images": 10,
            "masked_images": 5,
            "uniform_pxap": 0.06,
            "runs": runs,
        }
    )
    row = "| timm, linear probe | Grad-CAM | 0.900 | 0.800 | 0.300 (0.250 to 0.350) |"
    assert f"{row} 0.500 | 61 | 10.0 | 30 |" in text
