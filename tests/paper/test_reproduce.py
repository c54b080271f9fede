"""`loss-attention reproduce` from the command line, every table and figure at the smoke scale."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from paper.few import begin_with_few
from typed import complaint

from loss_attention.cli import main
from loss_attention.errors import InputError
from loss_attention.paper import trainings
from loss_attention.paper.trainings import LEDGER_FILE, Ledger
from loss_attention.training.trainer import Trainer

TABLES = tuple(f"table{number}" for number in range(1, 8))
FIGURES = tuple(f"figure{number}" for number in range(4, 8))
THREE = ("table6", "--only", "ResNet18")  # three trainings of one backbone


def reproduce(out: Path, *words: str, code: int = 0) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["reproduce", *words, "--scale", "smoke", "--out", str(out), "--accelerator", "cpu"])
    assert ended.value.code == code


def table(out: Path, name: str, scale: str = "smoke") -> dict:
    return json.loads((out / scale / f"{name}.json").read_text())


def measured(out: Path, name: str) -> dict:
    return {
        "/".join((*cell["labels"], cell["column"])): cell["values"]
        for cell in table(out, name)["cells"]
        if cell["state"] == "measured"
    }


@pytest.fixture(scope="module", autouse=True)
def _few_scenes(few_scenes: None) -> Iterator[None]:
    """In workers too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainings, "_begin", begin_with_few)
        yield


@pytest.fixture(scope="module")
def everything(tmp_path_factory) -> Path:
    """The folder of every table and figure."""
    out = tmp_path_factory.mktemp("everything")
    reproduce(out, "all")
    return out


@pytest.fixture
def no_training(monkeypatch) -> None:
    def refuse(*arguments, **options):
        raise AssertionError("trained again")

    monkeypatch.setattr(trainings, "continue_run", refuse)
    monkeypatch.setattr(trainings, "begin_run", refuse)


@pytest.mark.parametrize("name", TABLES)
def test_every_figure_of_every_table_is_measured_beside_the_papers(everything, name):
    found = table(everything, name)
    assert found["scale"] == "smoke"
    for cell in found["cells"]:
        assert cell["paper"] is not None
        cited = cell["labels"][1:2] == ["-"]
        # So few images that precision can have nothing to divide by.
        assert cell["state"] in (("cited",) if cited else ("measured", "undefined"))
        assert cell["state"] != "undefined" or cell["metric"].startswith("patch_")
        if cell["state"] == "measured":
            assert cell["difference"] == cell["mean"] - cell["paper"]
            assert len(cell["values"]) == 1
    markdown = (everything / "smoke" / f"{name}.md").read_text()
    assert "not measured" not in markdown
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in rows}) == 1


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_drawn(everything, name):
    assert (everything / "smoke" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_figures_in_a_table_are_those_of_the_runs_evaluation(everything):
    checked = 0
    for cell in table(everything, "table4")["cells"]:
        run = everything / "trainings" / cell["training"] / "seed-0"
        evaluation = json.loads((run / "evaluation.json").read_text())
        metrics = evaluation["metrics"]
        values = {metric["name"]: metric for metric in metrics}
        assert evaluation["map"] == "evidence" or "energy_pointing_game" not in values
        value = values[cell["metric"]]["value"]
        if cell["state"] == "undefined":  # of so few images
            assert value is None
            continue
        assert cell["values"] == [100 * value]
        for baseline, value in cell["baselines"].items():
            checked += 1
            assert value == 100 * values[cell["metric"]]["baselines"][baseline]
    assert checked > 40


def test_seconds_of_an_epoch_are_positive_and_no_percentage(everything):
    seconds = [
        cell["mean"]
        for cell in table(everything, "table7")["cells"]
        if cell["metric"] == "epoch_seconds"
    ]
    assert len(seconds) == 8
    assert all(0 < value < 60 for value in seconds)


def test_the_ledger_says_what_everything_was_measured_with(everything):
    ledger = json.loads((everything / LEDGER_FILE).read_text())
    assert ledger["format_version"] == 2
    assert len(ledger["records"]) == 51
    for record in ledger["records"]:
        assert record["seed"] == 0
        assert record["hardware"]["device"] == "CPU"
        assert {"loss-attention", "torch", "python"} <= set(record["versions"])
        assert record["minutes"] > 0
        assert "scikit-learn's scanned digits" in record["source"]
        assert record["test_images"] == 16
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", record["finished"])


def test_a_finished_training_keeps_its_weights_and_no_optimiser_state(everything):
    runs = list((everything / "trainings").glob("*/seed-0"))
    assert len(runs) == 51
    assert all((run / "model.safetensors").exists() for run in runs)
    assert not any((run / "state.pt").exists() for run in runs)


@pytest.mark.usefixtures("no_training")
def test_run_again_it_trains_nothing(everything):
    before = {name: table(everything, name) for name in TABLES}
    reproduce(everything, *TABLES)
    assert {name: table(everything, name) for name in TABLES} == before


@pytest.mark.usefixtures("no_training")
def test_the_ledger_alone_is_enough_for_a_table(everything, tmp_path):
    (tmp_path / LEDGER_FILE).write_bytes((everything / LEDGER_FILE).read_bytes())
    reproduce(tmp_path, "table6")
    assert table(tmp_path, "table6") == table(everything, "table6")


@pytest.mark.usefixtures("no_training")
def test_what_is_not_measured_says_so(tmp_path, capsys):
    reproduce(tmp_path, "table2", "figure5", "--show")
    cells = table(tmp_path, "table2")["cells"]
    # The parameters need no training.
    assert {cell["column"] for cell in cells if cell["state"] == "measured"} == {
        "Params (millions)"
    }
    row = next(
        line
        for line in (tmp_path / "smoke" / "table2.md").read_text().splitlines()
        if line.startswith("| CapNet | ResNet18 | Loss-Attention |")
    )
    assert row.split(" | ")[4:5] == ["95.47<br>not measured"]
    assert "32.96<br>32.69<br>(-0.27)" in row
    assert "not measured" in capsys.readouterr().out


def test_stopped_and_run_again_it_ends_with_the_same_figures(everything, tmp_path, monkeypatch):
    train_step, steps = Trainer.train_step, []

    def until(self, batch, gamma):
        train_step(self, batch, gamma)
        steps.append(self)
        self.stop.requested = len(steps) == 7  # in the second of three trainings of 4 steps

    monkeypatch.setattr(Trainer, "train_step", until)
    reproduce(tmp_path, *THREE, code=130)
    assert len(Ledger(tmp_path / LEDGER_FILE)._records) == 1
    reproduce(tmp_path, *THREE)
    # Of 12 steps the first try did 7, and none was done twice.
    assert len(steps) == 12
    expected = measured(everything, "table6")
    found = measured(tmp_path, "table6")
    assert len(found) == 15
    assert found == {path: expected[path] for path in found}


def test_two_trainings_side_by_side_give_the_same_figures(everything, tmp_path, capsys):
    reproduce(tmp_path, "table6", "--only", "vgg11_bn gamma_max xi accuracy", "--workers", "2")
    assert "3 trainings, 2 side by side" in capsys.readouterr().out
    expected, found = measured(everything, "table6"), measured(tmp_path, "table6")
    assert len(found) == 15
    assert found == {path: expected[path] for path in found}


def test_data_that_is_not_here_costs_its_own_cells_alone(tmp_path, monkeypatch, capsys):
    load = trainings.load_data

    def without_coco(recipe, *how):
        if recipe.data == "multi-digits":
            raise InputError("no such data set; get it from its makers")
        return load(recipe, *how)

    monkeypatch.setattr(trainings, "load_data", without_coco)
    reproduce(tmp_path, "table1", "--only", "sgd", code=2)
    found = {cell["column"]: cell["state"] for cell in table(tmp_path, "table1")["cells"][:4]}
    assert found == {
        "Dynamic Routing, CIFAR-10, Accuracy": "measured",
        "Dynamic Routing, CIFAR-100, Accuracy": "measured",
        "Dynamic Routing, COCO, mAP": "not measured",
        "Mean-pooling, COCO, mAP": "not measured",
    }
    error = capsys.readouterr().err
    line = "loss-attention: multi-digits is not here: no such data set; get it from its makers\n"
    assert error == line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("table8",), "unknown table or figure 'table8'; did you mean 'table7'?"),
        (("figure3",), "unknown table or figure 'figure3'; did you mean 'figure"),
        ((), "reproduce needs a table or figure: table1 to table7, figure4 to figure7"),
        (("table2", "--only", "resnet19"), "--only 'resnet19' matches none of 72 cells"),
        (("table2", "--data-root", "nowhere"), "--data-root nowhere is not a folder"),
        (("table2", "--seeds", "0"), "--seeds must be at least 1, got 0"),
        (("table2", "--workers", "0"), "--workers must be at least 1, got 0"),
        (("table2", "--workers", "9999"), "--workers 9999: this CPU has"),
        (("table3", "--scale", "reduced"), "table3 has no scale reduced"),
        (("table3", "--scale", "papr"), "unknown scale 'papr'; did you mean 'paper'?"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(words, message, tmp_path, capsys):
    said = complaint(capsys, "reproduce", *words, "--out", tmp_path, "--accelerator", "cpu")
    # The command's options, where the library names the fields that they set.
    said = re.sub(r"`(\w+)`", lambda field: f"--{field[1].replace('_', '-')}", said)
    assert said.startswith(f"loss-attention: {message}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"format_version": 3, "records": []}', "is of format 3, this version"),
        ('{"format_version": 1, "records": [{}]}', "is damaged or no ledger"),
        ("{", "is damaged or no ledger"),
        ("[]", "is damaged or no ledger"),
    ],
)
def test_a_ledger_of_another_version_is_left_alone(content, message, tmp_path, capsys):
    ledger = tmp_path / LEDGER_FILE
    ledger.write_text(content)
    reproduce(tmp_path, "table2", code=2)
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert ledger.read_text() == content
