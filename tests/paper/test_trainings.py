"""One training of the ledger: what its record says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from training.tiny import start_run, tiny_recipe, tiny_splits

from loss_attention.data.sample import Splits
from loss_attention.paper import trainings
from loss_attention.paper.tables import training_key
from loss_attention.paper.trainings import Ledger
from loss_attention.training.recipe import Recipe, RunOptions
from loss_attention.training.run_folder import RunFolder

FITTED = "gt_known_loc_heat_map"


@pytest.mark.parametrize("held_out", [0.2, 0.0])
def test_figures_that_need_a_threshold_need_a_validation_slice(
    held_out: float, tmp_path: Path
) -> None:
    shelf = SimpleNamespace(data_root=None, splits=lambda *_: tiny_splits(held_out=held_out))
    recipe = tiny_recipe(epochs=1, validation_fraction=held_out)
    record = trainings.train(recipe, tmp_path, shelf, "cpu", None).record
    assert (record.metrics[FITTED] is None) == (not held_out)
    # What needs none is there either way.
    assert record.metrics[f"{FITTED}_oracle"] is not None


def test_the_papers_numbers_are_of_the_evidence(tmp_path: Path) -> None:
    """Whatever `evaluate` measured of a training since."""
    shelf = SimpleNamespace(data_root=None, splits=lambda *_: tiny_splits())
    recipe = tiny_recipe(epochs=1)
    before = trainings.train(recipe, tmp_path, shelf, "cpu", None).record
    run = RunFolder(trainings.run_path(tmp_path, recipe))
    written = run.read_json("evaluation.json")
    assert written["map"] == "evidence"
    assert "energy_pointing_game" in before.metrics
    assert "empty_maps" not in before.metrics
    with run.locked():
        run.write_json("evaluation.json", {**written, "map": "margin", "metrics": []})
    after = trainings.train(recipe, tmp_path, shelf, "cpu", None).record
    assert run.read_json("evaluation.json") == written
    assert after.metrics == before.metrics


def test_a_training_that_has_begun_holds_its_images_as_it_did(tmp_path: Path) -> None:
    asked = []

    def splits(recipe: Recipe, options: RunOptions) -> Splits:
        asked.append(options)
        return replace(tiny_splits(), seed=recipe.seed)

    shelf = SimpleNamespace(data_root=None, splits=splits)
    recipe, begun = tiny_recipe(epochs=1), RunOptions(accelerator="cpu", stream="no", workers=2)
    start_run(trainings.run_path(tmp_path, recipe), recipe, tiny_splits(), begun)
    trainings.train(recipe, tmp_path, shelf, "auto", None)
    trainings.train(replace(recipe, seed=1), tmp_path, shelf, "cpu", None)
    assert asked == [begun, RunOptions(accelerator="cpu")]


def test_what_was_measured_is_still_what_its_recipe_is_called(repository: Path) -> None:
    records = Ledger(repository / "results" / "ledger" / "ledger.json")._records.values()
    assert records
    for record in records:
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in record.recipe.items()}
        assert training_key(Recipe(**values)) == record.training
