"""Images that are not square, from training to every picture of what was learned."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typed import SMALL, complaint, run

from loss_attention.data.loading import MADE, load_splits
from loss_attention.data.sample import ImageSet, Splits
from loss_attention.training.finished import load_weights
from loss_attention.training.run_folder import RunFolder

SIZE = (16, 28)  # height, width
OPTIONS = [*SMALL, "--image-size", *map(str, SIZE), "--epochs", "1", "--resize", "pad"]


def photos(root: Path, size: tuple[int, int] = (20, 40), each: int = 8) -> Path:
    """Squares on grey, each with a box and a mask, listed in a table; a level for each class."""
    rng, rows = np.random.default_rng(0), ["image,label,mask,x0,y0,x1,y1"]
    root.mkdir(parents=True)
    height, width = size
    for k, name in enumerate(("ash", "elm")):
        for i in range(each):
            pixels = rng.integers(0, 60, (height, width, 3), np.uint8)
            x, y = rng.integers(0, width - 8), rng.integers(0, height - 8)
            mask = np.zeros((height, width), np.uint8)
            mask[y : y + 8, x : x + 8] = 255
            pixels[mask > 0] = 120 + 100 * k
            Image.fromarray(pixels).save(root / f"{name}{i}.png")
            Image.fromarray(mask).save(root / f"{name}{i}_mask.png")
            rows.append(f"{name}{i}.png,{name},{name}{i}_mask.png,{x},{y},{x + 8},{y + 8}")
    (root / "all.csv").write_text("\n".join(rows))
    return root


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The photos, and a run on them that ends with its evaluation and report."""
    root = tmp_path_factory.mktemp("photos")
    data = photos(root / "data")
    run("train", "folder", "--data", data, *OPTIONS, "--masks", "--out", root / "run")
    return data, root / "run"


def test_a_run_is_of_that_shape_throughout(trained: tuple[Path, Path]) -> None:
    folder = RunFolder.open(trained[1])
    assert folder.recipe().image_size == SIZE
    assert load_weights(folder).image_size == SIZE
    scores = json.loads((trained[1] / "evaluation.json").read_text())
    assert scores["boxed_images"] > 0
    assert "pxap" in json.dumps(scores).lower()
    page = (trained[1] / "report.html").read_text()
    assert "<img" in page


def test_what_is_explained_is_in_pixels_of_the_photo(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    data, folder = trained
    run("explain", folder, data / "ash0.png", "--out", tmp_path / "out", "--accelerator", "cpu")
    said = json.loads((tmp_path / "out" / "ash0.json").read_text())
    assert (said["width"], said["height"]) == (40, 20)
    windows = np.array(said["grid"]["windows"])
    assert windows[:, [0, 2]].max() <= 40
    assert windows[:, [1, 3]].max() <= 20
    assert windows[:, 2].max() > 20  # the right half is looked at too
    with Image.open(tmp_path / "out" / "ash0.png") as picture:
        assert picture.width > 0


@pytest.mark.slow
def test_methods_are_compared(trained: tuple[Path, Path]) -> None:
    methods = ("--methods", "evidence,grad-cam", "--images", "4", "--accelerator", "cpu")
    run("compare", trained[1], *methods)


def test_other_data_is_brought_to_the_shape(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = photos(tmp_path / "other", size=(30, 24), each=2)
    run("evaluate", trained[1], "--data", other, "--masks", "--accelerator", "cpu")
    assert "all of it measured, 4 images" in " ".join(capsys.readouterr().out.split())


def test_boxes_and_masks_of_a_padded_photo_by_hand(tmp_path: Path) -> None:
    data = photos(tmp_path / "data", size=(10, 40), each=4)
    rows = (data / "all.csv").read_text().splitlines()
    part = load_splits(
        str(data), in_channels=1, image_size=(20, 40), seed=0, resize="pad", masks=True
    ).trainval.decoded()
    assert part.images.shape[1:] == (1, 20, 40)
    name = Path(part.names[0]).name
    x0, y0, x1, y1 = map(int, next(row for row in rows if row.startswith(name)).split(",")[3:])
    # As wide as it was, so nothing is scaled: five rows of border above.
    assert part.boxes is not None
    assert part.masks is not None
    assert part.boxes[0, 0].tolist() == [x0, y0 + 5, x1, y1 + 5]
    rows_of, columns = part.masks[0].nonzero().unbind(1)
    found = [columns.min(), rows_of.min(), columns.max() + 1, rows_of.max() + 1]
    assert [int(one) for one in found] == [x0, y0 + 5, x1, y1 + 5]


def test_scenes_made_here_take_any_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    box = torch.tensor([[[2.0, 4.0, 6.0, 8.0], [torch.nan] * 4]])
    pixels, labels = torch.zeros(1, 1, 10, 20, dtype=torch.uint8), torch.tensor([0])
    one = ImageSet(pixels, labels, ("a",), box, torch.tensor([[0, -1]]))
    monkeypatch.setitem(MADE, "digits", lambda _: Splits(one, one, "scenes"))
    made = load_splits("digits", in_channels=3, image_size=(20, 30), seed=0).test.decoded()
    assert made.images.shape == (1, 3, 20, 30)
    assert made.boxes is not None
    assert made.boxes[0, 0].tolist() == [3, 8, 9, 16]
    assert made.boxes[0, 1].isnan().all()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("0",), "--image-size must be one side of 1 to 10,000 pixels, or a height and a width"),
        (("20", "0"), "or a height and a width, got (20, 0)"),
        (("20", "30", "40"), "Error parsing --image-size: no type matching"),
    ],
)
def test_a_size_that_is_none_is_one_line(
    given: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in complaint(capsys, "train", "folder", "--data", "x", "--image-size", *given)
