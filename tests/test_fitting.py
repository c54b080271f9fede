"""`la.train`: a recipe from its data to its report, in Python."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import loss_attention as la
from loss_attention.errors import InputError
from loss_attention.training.recipes import recipe
from loss_attention.training.run_folder import RunFolder

SMALL = {"width": 0.05, "limit_images": 60, "accelerator": "cpu", "precision": "32"}


@pytest.fixture(scope="module")
def run(few_scenes: None, tmp_path_factory: pytest.TempPathFactory) -> la.TrainedRun:
    out = tmp_path_factory.mktemp("fitting") / "run"
    return la.train("digits", out=out, quiet=True, epochs=1, strided_layers=[1, 3], **SMALL)


def test_a_run_has_its_model_its_metrics_and_its_report(run: la.TrainedRun, capsys) -> None:
    found = json.loads((run.path / "evaluation.json").read_text(encoding="utf-8"))
    assert run.metrics == {one["name"]: one["value"] for one in found["metrics"]}
    assert run.report.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert not run.model.training
    images = torch.rand(2, 1, 24, 24)
    again = la.load(run.path).explain(images)
    torch.testing.assert_close(run.model.explain(images).logits, again.logits)
    assert capsys.readouterr().out == ""
    begun = RunFolder(run.path).recipe()
    assert (begun.epochs, begun.width, begun.strided_layers) == (1, 0.05, (1, 3))


def test_a_notebook_shows_the_scores(run: la.TrainedRun) -> None:
    page = run._repr_html_()
    assert f"<td>{run.metrics['accuracy']:.3f}</td>" in page
    assert "Right in" in page
    hostile = replace(run.evaluation, split="<script>")
    assert "<script>" not in replace(run, evaluation=hostile)._repr_html_()


@pytest.mark.usefixtures("few_scenes")
def test_steps_and_epochs_are_lengths_of_their_own(tmp_path: Path) -> None:
    own = replace(recipe("folder"), data="digits", in_channels=1, image_size=None)
    done = la.train(own, out=tmp_path / "run", quiet=True, epochs=1, **SMALL)
    assert RunFolder(done.path).recipe().steps is None


@pytest.mark.parametrize(
    ("name", "asked", "said"),
    [
        ("photo", {}, "unknown recipe 'photo'; did you mean 'photos'"),
        ("digits", {"epoch": 3}, "unknown field 'epoch'; did you mean 'epochs'"),
        ("digits", {"epochs": -1}, "`epochs`"),
        ("photos", {}, "the recipe photos needs `data`"),
        ("photos", {"data": "nowhere"}, "nowhere"),
    ],
)
def test_what_cannot_be_trained_is_said_in_a_line(tmp_path: Path, name, asked, said) -> None:
    with pytest.raises(InputError) as caught:
        la.train(name, out=tmp_path / "run", quiet=True, **asked)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "recipe.yaml").exists()


def test_a_run_is_not_replaced_unless_asked(run: la.TrainedRun) -> None:
    before = run.report.read_bytes()
    with pytest.raises(InputError, match="overwrite"):
        la.train("digits", out=run.path, quiet=True, epochs=1, **SMALL)
    assert run.report.read_bytes() == before
