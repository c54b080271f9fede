"""`loss-attention compare` as people type it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from training.tiny import start_run, tiny_recipe, tiny_splits
from typed import exit_code

from loss_attention import runs
from loss_attention.attribution import compare as comparing
from loss_attention.attribution import measures
from loss_attention.cli import subcommands
from loss_attention.data.division import hold_out
from loss_attention.data.outside import Outside
from loss_attention.data.sample import ImageSet, Splits, Storage
from loss_attention.metrics.localisation import NEAR
from loss_attention.report import side_by_side
from loss_attention.training.finished import load_weights
from loss_attention.training.job import continue_run
from loss_attention.training.recipe import Recipe, RunOptions
from loss_attention.training.run_folder import RunFolder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a single epoch."""
    path = tmp_path_factory.mktemp("compare") / "run"
    splits = tiny_splits()
    options = RunOptions(accelerator="cpu", stream="no", workers=3)
    folder = start_run(path, tiny_recipe(epochs=1), splits, options)
    assert continue_run(folder, splits, Console(quiet=True))
    return path


@pytest.fixture(autouse=True)
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Recipe, RunOptions]]:
    """Whatever is asked for, the tiny data are loaded; what was asked for comes to be here."""
    asked: list[tuple[Recipe, RunOptions]] = []

    def load(recipe: Recipe, _console: Console, options: RunOptions) -> Splits:
        asked.append((recipe, options))
        return tiny_splits()

    monkeypatch.setattr(runs, "load_data", load)
    return asked


def test_a_table_its_json_and_a_picture(run: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(measures, "REPEATS", 1)
    out = tmp_path / "out"
    words = ("compare", run, "--methods", "evidence, layer-cam", "--images", 3, "--out", out)
    assert exit_code(*words, "--within", 1) == 0
    printed = capsys.readouterr().out
    assert "layer-cam" in printed
    assert "pointing within 1 px" in printed
    assert "energy pointing game (EPG)" in printed
    assert sorted(path.name for path in out.iterdir()) == [
        "comparison.json",
        "comparison.md",
        "maps.png",
        "values.npz",
    ]
    found = json.loads((out / "comparison.json").read_text(encoding="utf-8"))
    assert list(found["methods"]) == ["evidence", "layer-cam", "uniform", "random", "edges"]
    assert found["images"] == 3
    assert found["run"] == "tiny"
    assert found["hardware"]["device"] == "CPU"
    assert "torch" in found["versions"]
    assert found["methods"]["evidence"]["scores"]["energy_pointing_game"]["count"] == 3
    text = (out / "comparison.md").read_text(encoding="utf-8")
    assert text.startswith("# tiny: methods of explanation compared\n\nbright squares\n\n| metric")
    assert "## How much more than evidence, on the same images" in text
    with np.load(out / "values.npz") as values:
        assert values["layer-cam/pointing_game"].shape == values["image"].shape == (3,)
    with Image.open(out / "maps.png") as picture:
        assert picture.width > 500
    # A second time needs a word.
    assert exit_code(*words) == 2
    said = capsys.readouterr().err
    assert "comparison.json exists already" in said
    assert said.count("\n") == 1
    monkeypatch.setattr(side_by_side, "maps_picture", lambda *_: b"new")
    assert exit_code(*words, "--images", 2, "--methods", "evidence", "--overwrite") == 0
    assert (out / "maps.png").read_bytes() == b"new"


def test_which_map_and_which_distance_can_be_asked_for(run: Path, tmp_path: Path, capsys) -> None:
    assert exit_code("evaluate", run, "--map", "margin", "--within", 1, "--verbose") == 0
    printed = capsys.readouterr().out
    assert "Heat maps: of the margin." in printed
    assert "pointing within 1 px" in printed
    found = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    assert found["map"] == "margin"
    assert any(one["name"] == "evidence_within_1_px" for one in found["metrics"])
    assert found["locality"]["images"] == 8
    assert exit_code("evaluate", run, "--locality", 2, "--verbose") == 0
    assert "r90 / window, heaviest patch" in " ".join(capsys.readouterr().out.split())
    found = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    assert found["locality"]["images"] == 2
    assert exit_code("report", run, "--map", "contrast", "--locality", 0) == 0
    assert "(r90)" not in (run / "report.html").read_text("utf-8")
    assert "the contrast of the predicted class" in (run / "report.html").read_text("utf-8")
    capsys.readouterr()
    for words, line in (
        (("evaluate", run, "--map", "margn"), "unknown map 'margn'; did you mean 'margin'"),
        (("report", run, "--within", 0), "--within must be at least 1 pixel, got 0"),
        (("evaluate", run, "--locality", -1), "--locality must be at least 0 images, got -1"),
        (("compare", run, "--within", 0, "--out", tmp_path / "no"), "--within must be at least 1"),
    ):
        assert exit_code(*words) == 2
        assert line in capsys.readouterr().err
    assert subcommands.NEAR == NEAR


def test_images_are_held_as_the_run_held_them(
    run: Path, tmp_path: Path, loaded, monkeypatch
) -> None:
    """Its own are streamed or not as recorded; of others nothing is known."""
    monkeypatch.setattr(measures, "REPEATS", 1)
    others: list[tuple[str, Storage]] = []

    def load(data: str, *_: object, storage: Storage, progress: object) -> Outside:
        others.append((data, storage))
        return Outside(tiny_splits().test, data, "test", ())

    monkeypatch.setattr(runs, "load_outside", load)
    words = ("compare", run, "--methods", "evidence", "--images", 2, "--out")
    assert exit_code(*words, tmp_path / "own") == 0
    assert exit_code(*words, tmp_path / "other", "--data", "elsewhere") == 0
    assert (
        loaded
        == [(tiny_recipe(epochs=1), RunOptions(accelerator="cpu", stream="no", workers=3))] * 2
    )
    ((data, storage),) = others
    assert data == "elsewhere"
    assert (storage.stream, storage.workers) == ("auto", 3)


def test_what_is_typed_wrong_gets_one_line(run: Path, tmp_path: Path, capsys) -> None:
    for words, message in (
        (("--methods", "evidance"), "unknown method 'evidance'; did you mean 'evidence'?"),
        (("--metrics", "grid_pointing"), "did you mean 'grid-pointing'? known: localisation,"),
        (("--methods", "evidence", "--images", "0"), "--images must be at least 2, got 0"),
        (("--against", "grad-kam"), "unknown method 'grad-kam'; did you mean 'grad-cam'?"),
        (
            ("--methods", "evidence", "--against", "cam"),
            "--against is cam, which is not compared; add it to --methods",
        ),
        (("--method", "evidence"), "did you mean --methods"),
    ):
        out = tmp_path / "out"
        assert exit_code("compare", run, "--out", out, *words) == 2
        said = capsys.readouterr().err
        assert message in said
        assert said.count("\n") == 1
        assert not out.exists()
    assert exit_code("compare", tmp_path / "none") == 2
    assert "none" in capsys.readouterr().err


def test_a_baseline_run_is_explained_by_name_only(tmp_path: Path, capsys) -> None:
    splits = tiny_splits()
    path = tmp_path / "run"
    recipe = tiny_recipe(epochs=1, head="baseline")
    assert continue_run(
        start_run(path, recipe, splits, RunOptions(accelerator="cpu")), splits, Console(quiet=True)
    )
    Image.new("L", (12, 12), 99).save(tmp_path / "a.png")
    words = ("explain", path, tmp_path / "a.png", "--out", tmp_path / "out")
    assert exit_code(*words) == 2
    assert "--method cam or --method grad-cam" in capsys.readouterr().err
    assert exit_code(*words, "--method", "grad-cam") == 0
    assert json.loads((tmp_path / "out" / "a.json").read_text())["method"] == "grad-cam"
    assert load_weights(runs.RunFolder.open(path)).config["head"] == "baseline"


def test_cuts_are_chosen_on_the_images_that_were_not_trained_on(
    run: Path, tmp_path: Path, monkeypatch
) -> None:
    seen: list[ImageSet] = []

    def watched(*args, train: ImageSet, **options):
        seen.append(train)
        raise KeyboardInterrupt

    monkeypatch.setattr(comparing, "compare", watched)
    assert exit_code("compare", run, "--out", tmp_path / "out") == 130
    recipe, whole = RunFolder(run).recipe(), tiny_splits().trainval
    _, held_out = hold_out(whole.labels, recipe.validation_fraction, recipe.seed)
    assert 0 < len(held_out) < len(whole) / 2
    assert torch.equal(seen[0].images, whole.images[held_out])
