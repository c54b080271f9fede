"""Several seeds of a recipe: trained one after the other, gone on with, and counted up."""

from __future__ import annotations

import json
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from training.tiny import tiny_recipe
from typed import SMALL, complaint, make_folder, run

from loss_attention import seeds
from loss_attention.data.loading import load_splits
from loss_attention.errors import InputError
from loss_attention.evaluation.metric import Evaluation, Metric
from loss_attention.interruption import RunStopped
from loss_attention.report.scores import seeds_table
from loss_attention.runs import FinishedRun
from loss_attention.seeds import SeedRuns
from loss_attention.training.recipe import RunOptions
from loss_attention.training.run_folder import RunFolder

CPU = RunOptions(accelerator="cpu")


def evaluation(accuracy: float, error: float | None) -> Evaluation:
    return Evaluation(
        "test",
        10,
        0,
        (
            Metric("accuracy", "accuracy", accuracy, {"chance level": 0.25, "majority class": 0.5}),
            Metric("ece", "ECE", error, {"class frequencies": 0.1}, higher_is_better=False),
        ),
    )


def test_the_table_has_mean_spread_and_the_worst_by_its_direction():
    table = seeds_table({0: evaluation(0.5, 0.2), 4: evaluation(0.75, 0.4), 5: evaluation(1, None)})
    assert [list(row) for row in table.rows] == [
        ["accuracy", "0.750", "0.250", "0.500 to 1.000", "0.500", "0.500 (majority class)"],
        ["ECE ↓", "0.300", "0.141", "0.200 to 0.400", "0.400", "0.100 (class frequencies)"],
    ]
    assert table.notes[0].startswith("Of 3 runs, seeds 0, 4, 5;")
    assert seeds_table({3: evaluation(0.5, None)}).rows[0][2] == "n/a"


def test_the_table_says_what_guided_the_runs():
    guided = [replace(evaluation(0.5, 0.2), guided_by=f"{count} boxes") for count in (20, 21, 20)]
    heading = seeds_table(dict(enumerate(guided))).columns[0].heading
    assert heading == "metric, guided by 20 boxes or 21 boxes"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of a small frozen run, trained by the command."""
    where = tmp_path_factory.mktemp("seeds")
    data = make_folder(where / "data", each=6)
    run("train", "folder", "--data", data, "--out", where / "runs" / "two", *SMALL, *FROZEN)
    return where


FROZEN = ("--epochs", "1", "--frozen", "--views", "2", "--seeds", "2", "--seed", "3")


def test_two_seeds_are_two_runs_and_a_table(folder, capsys):
    path = folder / "runs" / "two"
    found = json.loads((path / "seeds.json").read_text())["metrics"]["accuracy"]
    values = []
    for seed in (3, 4):
        scores = json.loads((path / f"seed-{seed}" / "evaluation.json").read_text())["metrics"]
        values.append(next(one["value"] for one in scores if one["name"] == "accuracy"))
        assert f"seed: {seed}\n" in (path / f"seed-{seed}" / "recipe.yaml").read_text()
        assert (path / f"seed-{seed}" / "report.html").exists()
    assert found["by_seed"] == {"3": values[0], "4": values[1]}
    assert found["mean"] == pytest.approx(statistics.fmean(values))
    assert found["worst"] == min(values)
    assert "| accuracy | **" in (path / "seeds.md").read_text()
    assert (folder / "runs" / "features").is_dir()
    assert not (path / "features").exists()


def test_each_seed_begins_with_the_run_of_its_seed(folder):
    where = ("--data", folder / "data", "--out", folder / "runs" / "fine")
    fine = ("--epochs", "1", "--seeds", "2", "--seed", "3", "--from", folder / "runs" / "two")
    run("train", "folder", *where, *SMALL, *fine)
    for seed in (3, 4):
        name = f"seed-{seed}"
        facts = RunFolder.open(folder / "runs" / "fine" / name).facts()
        assert facts["initial"]["run"] == str(folder / "runs" / "two" / name)


def test_finished_ones_are_shown_again_and_more_can_follow(folder, capsys):
    path = folder / "runs" / "two"
    before = (path / "seed-3" / "model.safetensors").stat().st_mtime_ns
    measured = path / "seed-3" / "evaluation.json"
    text = measured.read_text()
    assert '"map": "margin"' in text
    run("evaluate", path / "seed-3", "--map", "evidence")
    assert '"map": "evidence"' in measured.read_text()
    run("resume", path)
    assert measured.read_text() == text  # another map: measured again, before it is averaged
    more = [*FROZEN[:-3], "3", *FROZEN[-2:]]
    run("train", "folder", "--data", folder / "data", "--out", path, *SMALL, *more)
    assert "seeds 3, 4, 5;" in " ".join(capsys.readouterr().out.split())
    assert (path / "seed-3" / "model.safetensors").stat().st_mtime_ns == before
    run("resume", path / "seed-5")


def test_other_settings_and_odd_folders_are_refused(folder, capsys):
    path, data = folder / "runs" / "two", ("--data", folder / "data")
    said = complaint(capsys, "train", "folder", *data, "--out", path, "--seeds", 2)
    assert "holds runs with other settings: name another folder with --out" in said
    said = complaint(capsys, "train", "folder", *data, "--out", path / "seed-3", "--seeds", 2)
    assert "is not a folder of seeds, and not empty: name another with --out" in said
    said = complaint(capsys, "train", "folder", *data, "--out", folder / "new", "--seeds", 0)
    assert "--seeds must be between 1 and 1,000, got 0" in said
    said = complaint(capsys, "resume", path, "--learning-rate", 0.1)
    assert (
        "holds several runs: --data, --learning-rate, --loggers, --devices and --num-nodes are"
        in said
    )


def test_a_signal_between_them_says_how_to_go_on(tmp_path, monkeypatch):
    data = make_folder(tmp_path / "data", each=4)
    recipe = tiny_recipe(data=str(data), image_size=12, epochs=1, in_channels=1)
    several = SeedRuns.asked(tmp_path / "runs", recipe, CPU, 2, overwrite=False)

    def stopped(*_: object) -> FinishedRun:
        raise RunStopped("stopped", 15)

    monkeypatch.setattr(seeds, "finish", stopped)
    with pytest.raises(RunStopped, match=f"continue with: loss-attention resume {several.path}"):
        several.train(Console(quiet=True))
    monkeypatch.undo()
    SeedRuns.open(several.path).train(Console(quiet=True))
    assert (tmp_path / "runs" / "seeds.md").exists()


@pytest.mark.usefixtures("few_scenes")
def test_what_else_the_seed_draws_is_known_of_the_data(tmp_path):
    def drawn(data: object) -> bool:
        return load_splits(str(data), in_channels=1, image_size=8, seed=0).drawn

    assert drawn(make_folder(tmp_path / "data", each=4))  # the test split is held out
    for split in ("train", "test"):
        make_folder(tmp_path / "split" / split, each=2)
    assert not drawn(tmp_path / "split")
    assert drawn("digits")


def test_a_damaged_list_of_seeds_is_told_in_a_line(tmp_path):
    (tmp_path / "seeds.json").write_text('{"recipe": {"name": "x"}}')
    with pytest.raises(InputError, match=r"seeds.json"):
        SeedRuns.open(tmp_path)
