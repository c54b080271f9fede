"""What is kept of trainings, and how several seeds become a cell."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from loss_attention.errors import InputError
from loss_attention.paper.numbers import PaperRow, PaperTable
from loss_attention.paper.reproduction import Reproduction, write_table
from loss_attention.paper.tables import SCALES, Cell, training_key
from loss_attention.paper.trainings import LEDGER_FILE, Ledger, Record, located
from loss_attention.training.recipe import Recipe
from loss_attention.training.recipes import paper_recipe

RECIPE = paper_recipe("tiny-imagenet")


def record(seed: int, accuracy: float, recipe: Recipe = RECIPE) -> Record:
    return Record(
        training=training_key(recipe),
        seed=seed,
        recipe={},
        metrics={
            "accuracy": accuracy,
            "gt_known_loc_patches": 0.5,
            "patch_recall": None,
            "epoch_seconds": 12.4,
        },
        baselines={"gt_known_loc_patches": {"whole image": 0.25 + seed / 10, "centred box": None}},
        minutes=1.0,
        source="made up",
        test_images=10,
        hardware={},
        versions={},
        finished="2026-01-01",
    )


@pytest.fixture
def reproduction(tmp_path):
    made = Reproduction(SCALES["paper"], tmp_path, accelerator="cpu")
    for seed, accuracy in ((1, 0.7), (0, 0.5), (2, 0.6)):
        made.ledger.add(record(seed, accuracy))
    return made


def cell(metric, paper=62.0, factor=100.0, recipe=RECIPE, labels=("ours",)):
    return Cell(labels, metric, paper, metric, recipe, factor)


def test_seeds_become_mean_and_sample_deviation(reproduction):
    result = reproduction.result(cell("accuracy"))
    assert result.values == pytest.approx((50.0, 70.0, 60.0))
    assert result.mean == pytest.approx(60.0)
    assert result.standard_deviation == pytest.approx(10.0)  # sqrt((100 + 100 + 0) / 2)
    assert reproduction.result(cell("gt_known_loc_patches")).baselines == pytest.approx(
        {"whole image": 35.0}
    )


def test_one_seed_has_no_deviation(tmp_path):
    made = Reproduction(SCALES["paper"], tmp_path, accelerator="cpu")
    made.ledger.add(record(0, 0.5))
    assert made.result(cell("accuracy")).standard_deviation is None


def test_a_table_on_the_terminal_and_in_both_files(reproduction, tmp_path):
    other = replace(RECIPE, head="mean")
    columns = ("accuracy", "gt_known_loc_patches", "patch_recall", "epoch_seconds")
    rows = (
        PaperRow(("ours",), (62.0, 48.0, 1.0, 10.0)),
        PaperRow(("theirs",), (91.0, None, None, None)),
        PaperRow(("later",), (None, 50.0, None, None)),
    )
    paper = PaperTable("table9", "Made up", ("Method",), columns, rows, ("a doubt",))
    cells = [
        cell(c, p, 1.0 if c == "epoch_seconds" else 100.0)
        for c, p in zip(columns, rows[0].values, strict=True)
    ]
    cells.append(cell("accuracy", 91.0, recipe=None, labels=("theirs",)))
    cells.append(cell("gt_known_loc_patches", 50.0, recipe=other, labels=("later",)))
    reproduction.console = Console(file=(terminal := io.StringIO()), width=100)
    written = write_table(paper, cells, reproduction, tmp_path)
    markdown, data = (path.read_text() for path in written)
    assert markdown.splitlines()[2:7] == [
        "| Method | accuracy | gt_known_loc_patches | patch_recall | epoch_seconds |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| ours | 62.00<br>60.00 ± 10.00<br>(-2.00) | 48.00<br>50.00 ± 0.00<br>(+2.00)<br>"
        "trivial 35.00 | 1.00<br>undefined | 10<br>12 ± 0<br>(+2) |",
        "| theirs | 91.00<br>cited | - | - | - |",
        "| later | - | 50.00<br>not measured | - | - |",
    ]
    assert "a doubt" in markdown
    assert "the paper's settings" in markdown
    assert "Seeds measured: 3." in markdown
    first = json.loads(data)["cells"][0]
    assert (first["mean"], first["difference"]) == pytest.approx((60.0, -2.0))
    shown = terminal.getvalue()
    for text in ("60.00 ± 10.00", "(-2.00)", "cited", "not measured", "trivial 35.00"):
        assert text in shown


def test_what_is_missing_goes_seed_by_seed_and_each_training_once(tmp_path):
    made = Reproduction(SCALES["paper"], tmp_path, seeds=2, accelerator="cpu")
    other = replace(RECIPE, head="mean")
    cells = [
        cell("accuracy"),
        cell("gt_known_loc_patches"),
        cell("accuracy", recipe=other),
        cell("accuracy", recipe=None),
    ]
    todo = [(recipe.head, recipe.seed) for recipe in made.missing(cells)]
    assert todo == [(h, s) for s in (0, 1) for h in ("loss-attention", "mean")]
    made.ledger.add(record(0, 0.5))
    assert [(r.head, r.seed) for r in made.missing(cells)] == todo[1:]
    # A figure needs the weights themselves, and they are not here.
    wanting = [replace(cell("accuracy"), weights=True)]
    assert [(r.head, r.seed) for r in made.missing(wanting)] == [todo[0], todo[2]]


def test_records_survive_the_file_and_what_others_wrote_meanwhile_is_kept(tmp_path):
    path = tmp_path / "new" / LEDGER_FILE
    one, two = Ledger(path), Ledger(path)
    one.add(record(0, 0.5))
    two.add(record(1, 0.7))
    two.add(record(1, 0.9))  # replaces
    kept = Ledger(path).seeds(training_key(RECIPE))
    assert kept == [record(0, 0.5), record(1, 0.9)]
    assert Ledger(path).get(training_key(RECIPE), 2) is None


def test_damage_is_one_line(tmp_path):
    path = tmp_path / LEDGER_FILE
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="damaged") as caught:
        Ledger(path)
    assert "\n" not in str(caught.value)


def test_data_under_the_data_root_is_found_by_its_usual_names(tmp_path):
    assert located(RECIPE, tmp_path) == RECIPE
    assert located(RECIPE, None) == RECIPE
    folder = tmp_path / "tiny-imagenet-200"
    folder.mkdir()
    assert located(RECIPE, tmp_path).data == f"tiny-imagenet:{folder}"
    assert located(replace(RECIPE, data="digits"), Path("/")).data == "digits"
