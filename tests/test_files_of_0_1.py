"""What version 0.1 wrote still loads, says the same and can be gone on with (fixtures/make_0_1)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from fixtures.make_0_1 import fixed_images

import loss_attention as la
from loss_attention.cli import main

FOLDER = Path(__file__).parent / "fixtures" / "0.1"
LOGITS = json.loads((FOLDER / "logits.json").read_text())


@pytest.mark.parametrize("name", LOGITS)
def test_weights_load_and_give_the_logits_that_they_gave(name: str) -> None:
    model = la.load(FOLDER / name)
    with torch.inference_mode():
        logits = model(fixed_images()).logits
    torch.testing.assert_close(logits, torch.tensor(LOGITS[name]), rtol=1e-3, atol=1e-4)


def test_every_head_is_among_them() -> None:
    from loss_attention.heads import HEADS

    assert {la.load(FOLDER / name).config["head"] for name in LOGITS} == set(HEADS)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """The run folders beside their images, as nothing is written into the repository."""
    shutil.copytree(FOLDER, tmp_path / "0.1", ignore=shutil.ignore_patterns("weights"))
    return tmp_path / "0.1"


def command(*arguments: object) -> None:
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    assert end.value.code in (0, None)


def test_a_finished_run_is_evaluated_and_explained(runs: Path) -> None:
    run = runs / "second-finished"
    before = json.loads((run / "evaluation.json").read_text())
    command("evaluate", run, "--accelerator", "cpu")
    after = json.loads((run / "evaluation.json").read_text())
    assert after["images"] == before["images"]
    command("explain", run, runs / "images" / "test" / "disc" / "0.png", "--out", runs / "shown")
    assert any((runs / "shown").glob("*.json"))


@pytest.mark.parametrize("edition", ["first", "second"])
def test_an_unfinished_run_is_resumed(edition: str, runs: Path) -> None:
    run = runs / f"{edition}-unfinished"
    done = (run / "metrics.jsonl").read_text().splitlines()
    command("resume", run)
    lines = (run / "metrics.jsonl").read_text().splitlines()
    assert lines[:2] == done
    assert len(lines) == 3
    assert json.loads((run / "run.json").read_text())["finished"]
    # It ends where the run ended that nothing stopped, to what other CPUs round.
    losses = [
        json.loads(text.splitlines()[2])["loss"]
        for text in ("\n".join(lines), (runs / "second-finished/metrics.jsonl").read_text())
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)
