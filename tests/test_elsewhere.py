"""Runs measured on other data than their own, and runs whose data has moved."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from typed import complaint, exit_code, run

from loss_attention import runs
from loss_attention.attribution import compare as comparing
from loss_attention.data.sample import LabelledImages
from loss_attention.errors import InputError
from loss_attention.evaluation.metric import Evaluation
from loss_attention.training.finished import load_weights
from loss_attention.training.run_folder import RunFolder

CLASSES = ("ash", "elm", "fir")
QUIET = Console(quiet=True)


def evaluated(run: Path, data: str | None, console: Console) -> Evaluation:
    """What `evaluate` measures of a run, on its own data or others."""
    folder = RunFolder.open(run)
    model, other = load_weights(folder), runs.OtherData.asked(data, (), skip_broken=False)
    found = runs.measured(folder, model, other, console)
    return runs.measure(model, found.images, found.own, console, found.split)


SMALL = (
    *("--image-size", "12", "--epochs", "1", "--batch-size", "8", "--width", "0.06"),
    *("--strided-layers", "6", "--patch-kernel", "3", "--patch-stride", "1"),
    *("--accelerator", "cpu", "--validation-fraction", "0.25"),
)


def trees(root: Path, classes: tuple[str, ...] = CLASSES, each: int = 8) -> Path:
    """Squares on grey, each with a box, listed in a table; a level for each class."""
    rng, rows = np.random.default_rng(len(classes)), ["image,label,x0,y0,x1,y1"]
    root.mkdir(parents=True)
    for name in classes:
        for i in range(each):
            pixels = rng.integers(0, 60, (12, 12, 3), np.uint8)
            x, y = rng.integers(0, 6, 2)
            pixels[y : y + 6, x : x + 6] = 80 + 60 * CLASSES.index(name)
            Image.fromarray(pixels).save(root / f"{name}{i}.png")
            rows.append(f"{name}{i}.png,{name},{x},{y},{x + 6},{y + 6}")
    (root / "all.csv").write_text("\n".join(rows))
    return root


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project: `data/trees` and a run on it in `runs/one`, trained from within."""
    root = tmp_path_factory.mktemp("elsewhere") / "project"
    trees(root / "data" / "trees")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        run("train", "folder", "--data", "data/trees", *SMALL, "--out", "runs/one")
    return root


@pytest.fixture
def project(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The project where it was trained; another folder is the current one.

    What a test moves is put back.
    """
    there = tmp_path / "there"
    there.mkdir()
    monkeypatch.chdir(there)
    before = tmp_path / "before"
    shutil.copytree(trained, before)
    yield trained
    shutil.rmtree(trained, ignore_errors=True)
    before.rename(trained)


def test_thresholds_come_from_the_run_and_images_from_elsewhere(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = evaluated(project / "runs/one", None, QUIET)
    written = (project / "runs/one/evaluation.json").read_bytes()
    other = trees(tmp_path / "other", ("fir", "ash"), each=5)
    found = evaluated(project / "runs/one", str(other), Console())
    assert found.images == found.boxed_images == 10
    assert own.thresholds
    assert found.thresholds == own.thresholds
    assert found.held_out == own.held_out
    assert found["balanced_accuracy"].label == "balanced accuracy (2 of 3 occur)"
    assert found.per_class["accuracy"]["elm"] is None
    assert found["accuracy"].baselines["majority class"] == pytest.approx(0.5)
    assert found["gt_known_loc_heat_map"].baselines["centred box"] is not None
    assert (project / "runs/one/evaluation.json").read_bytes() == written
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "1 class of the model not in it, so measures taken class by class are over the others: elm"
        in said
    )
    assert f"{other}: all of it measured, 10 images" in said


def test_without_its_own_data_what_is_fitted_to_it_is_undefined(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = trees(tmp_path / "other", ("elm",), each=4)
    before = evaluated(project / "runs/one", str(other), QUIET)
    shutil.rmtree(project / "data")
    found = evaluated(project / "runs/one", str(other), Console())
    said = capsys.readouterr().out
    assert "what is fitted to the run's own images stays undefined: the data of the run" in said
    assert found.value("accuracy") == before.value("accuracy")
    assert found["accuracy"].baselines["majority class"] is None
    assert found.thresholds == {}
    assert found.value("gt_known_loc_heat_map") is None
    assert before.value("gt_known_loc_heat_map") is not None


def test_what_other_data_may_not_be(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, one = tmp_path / "some", project / "runs/one"
    for name in ("Ash", "fir"):
        (folder / name).mkdir(parents=True)
        Image.new("RGB", (30, 20), "red").save(folder / name / "a.png")
    said = complaint(capsys, "evaluate", one, "--data", folder)
    assert "'Ash' (1 image, did you mean 'ash'?)" in said
    assert said == complaint(capsys, "compare", one, "--data", folder)
    run("evaluate", one, "--data", folder, "--skip-broken")
    said = capsys.readouterr().out
    assert "1 image of classes that the model does not know left out: Ash" in said
    assert "1 given images" in said or "1 given image" in said
    run("evaluate", one, "--data", folder, "--classes", "fir", "ash")
    assert "1 image of other classes left out" in capsys.readouterr().out
    assert "has no masks; leave --masks out" in complaint(
        capsys, "evaluate", one, "--data", folder / "fir", "--masks"
    )
    assert "name it with --data" in complaint(capsys, "evaluate", one, "--classes", "fir")


def test_a_run_knows_its_own_data_by_any_name(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = evaluated(project / "runs/one", None, QUIET)
    (tmp_path / "link").symlink_to(project / "data")
    for word in (str(project / "data/trees"), str(tmp_path / "link" / "trees")):
        assert evaluated(project / "runs/one", word, Console()) == own
        assert "is the run's own data: its test images are measured" in capsys.readouterr().out
    part = shutil.copytree(project / "data/trees", project / "data/trees/ash")
    (part / "all.csv").unlink()
    found = evaluated(project / "runs/one", str(part), Console())
    assert found.images == 24
    assert "part of the run's own data, some of it was trained on" in capsys.readouterr().out


@pytest.mark.parametrize("word", ["evaluate", "report", "resume", "compare"])
def test_a_run_is_found_with_its_data_from_anywhere(
    word: str, project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    monkeypatch.setattr(comparing, "compare", stop_and_say)
    # Measuring is slow, and begins after what is looked at here.
    monkeypatch.setattr(runs, "evaluate", stop_and_say)
    assert exit_code(word, project / "runs/one") == 130
    assert f"{project}/data/trees: images held" in capsys.readouterr().out
    moved = shutil.move(project, tmp_path / "moved")
    assert exit_code(word, moved / "runs/one") == 130
    assert f"{moved}/data/trees: images held" in capsys.readouterr().out
    now = shutil.move(moved / "data/trees", tmp_path / "now")
    said = complaint(capsys, word, moved / "runs/one")
    assert "was given as data/trees, and there is nothing at" in said
    assert str(project / "data/trees") in said
    assert "say where it is now with --data" in said
    assert exit_code(word, moved / "runs/one", "--data", now) == 130
    wrong = trees(tmp_path / "wrong", each=8)
    (wrong / "ash0.png").write_bytes((wrong / "ash1.png").read_bytes())
    if word in ("resume", "report"):
        said = complaint(capsys, word, moved / "runs/one", "--data", wrong)
        assert "is not the data that the run" in said


def stop_and_say(*_: object, train: LabelledImages | None, **__: object) -> None:
    raise KeyboardInterrupt(f"{0 if train is None else len(train)} held out")


def test_other_data_in_the_place_of_its_own_is_not_taken_for_it(
    project: Path, tmp_path: Path
) -> None:
    moved = Path(shutil.move(project, tmp_path / "moved"))
    shutil.rmtree(moved / "data")
    trees(moved / "data/trees", each=7)
    with pytest.raises(InputError, match=r"is not the data that the run .* was trained on"):
        evaluated(moved / "runs/one", None, QUIET)


def test_changed_training_images_are_said(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluated(project / "runs/one", None, Console())
    assert "what is held out may have been trained on" not in capsys.readouterr().out
    Image.new("RGB", (12, 12)).save(project / "data/trees/ash0.png")
    evaluated(project / "runs/one", None, Console())
    assert "what is held out may have been trained on" in capsys.readouterr().out


def test_resuming_with_a_new_place_keeps_it(project: Path, tmp_path: Path) -> None:
    now = shutil.move(project / "data/trees", tmp_path / "now")
    recipe = (project / "runs/one/recipe.yaml").read_bytes()
    run("resume", project / "runs/one", "--data", now)
    assert (project / "runs/one/recipe.yaml").read_bytes() == recipe
    assert json.loads((project / "runs/one/run.json").read_text())["data"]["path"] == str(now)
    run("evaluate", project / "runs/one")


def test_a_run_of_before_finds_its_data(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    file = project / "runs/one/run.json"
    facts = json.loads(file.read_text())
    for later in ("data", "files", "digest"):
        del facts[later]
    file.write_text(json.dumps(facts | {"format_version": 1}))
    run("evaluate", project / "runs/one")
    assert f"{project}/data/trees: images held" in capsys.readouterr().out
    monkeypatch.chdir(project)
    run("evaluate", "runs/one")
    assert "data/trees: images held" in capsys.readouterr().out
    shutil.move(project / "data/trees", tmp_path / "now")
    said = complaint(capsys, "evaluate", "runs/one")
    assert "was given as data/trees, and there is nothing at" in said


@pytest.mark.parametrize(("fraction", "told"), [(0.25, "6 held out"), (0.0, "0 held out")])
def test_compare_tunes_no_cut_on_training_images(
    fraction: float, told: str, project: Path, monkeypatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(comparing, "compare", stop_and_say)
    one = RunFolder(project / "runs/one")
    one.write("recipe.yaml", replace(one.recipe(), validation_fraction=fraction).to_yaml())
    assert exit_code("compare", one.path) == 130
    assert told in capsys.readouterr().err
