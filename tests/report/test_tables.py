from __future__ import annotations

import io

import pytest
from rich.console import Console

from loss_attention.evaluation.metric import Evaluation, Metric
from loss_attention.report.scores import evaluation_tables, show_evaluations
from loss_attention.report.tables import Column, Table, show_table, table_markdown

BASELINES = (
    "whole image",
    "centred box",
    "uniform",
    "random",
    "edges",
)


def evaluation(*metrics: Metric, images: int = 2000, boxed: int = 2000, **more) -> Evaluation:
    return Evaluation("test", images, boxed, metrics, **more)


ACCURACY = Metric("accuracy", "accuracy", 0.9954, {"majority class": 0.1085}, group="classes")
ERROR = Metric(
    "expected_calibration_error",
    "expected calibration error (ECE)",
    0.0123,
    {"class frequencies": 0.001},
    higher_is_better=False,
    group="classes",
)
BOX_AP = Metric(
    "gt_known_loc_patches",
    "GT-known Loc (patches)",
    0.75,
    dict.fromkeys(BASELINES, 0.25),
    group="boxes",
)
RECALL = Metric("patch_recall", "patch recall", 0.5, {"uniform": 0.625}, group="patches")


def rendered(evaluations: dict[str, Evaluation], width: int = 80) -> list[str]:
    console = Console(width=width, color_system=None, legacy_windows=False)
    with console.capture() as capture:
        show_evaluations(evaluations, console)
    return capture.get().splitlines()


def evaluation_markdown(evaluations: dict[str, Evaluation]) -> str:
    return "\n".join(map(table_markdown, evaluation_tables(evaluations)))


def cells(lines: list[str], separator: str = "│") -> list[list[str]]:
    return [
        [cell.strip(" *") for cell in line.strip(separator).split(separator)]
        for line in lines
        if line.startswith(separator) and "---" not in line
    ]


def test_baselines_stand_beside_their_measure() -> None:
    lines = rendered({"digits": evaluation(ACCURACY, ERROR, BOX_AP)})
    assert cells(lines) == [
        ["accuracy", "0.995", "0.108 (majority class)"],
        ["expected calibration error (ECE) ↓", "0.012", "0.001 (class frequencies)"],
        ["GT-known Loc (patches)", "0.750", *["0.250"] * 5],
    ]
    heads = [line for line in lines if " score " in line]
    assert [" ".join(head.split()).strip("┃ ") for head in heads] == [
        "metric ┃ score ┃ trivial baseline",
        "metric ┃ score ┃ whole ┃ centred ┃ uniform ┃ random ┃ edges",
    ]
    titles = [line.strip() for line in lines if line.strip() in ("classes", "boxes")]
    assert titles == ["classes", "boxes"]


def test_each_model_has_a_line() -> None:
    other = Metric("accuracy", "accuracy", 0.5, {"majority class": None}, group="classes")
    evaluations = {"a": evaluation(ACCURACY, BOX_AP), "b": evaluation(other)}
    lines = rendered(evaluations)
    assert cells(lines) == [
        ["accuracy", "", ""],
        ["a", "0.995", "0.108"],
        ["b", "0.500", "n/a"],
        ["GT-known Loc (patches)", "", "", "", "", "", ""],
        ["a", "0.750", *["0.250"] * 5],
        ["b", "-", *["-"] * 5],
    ]
    text = " ".join(line.strip() for line in lines)
    assert "n/a: nothing to count, or nothing to choose or fit it on." in text
    assert "-: the model has no patches or no exact evidence, or the data no boxes." in text


def test_markdown_has_the_same_figures() -> None:
    one = {"a": evaluation(ACCURACY, ERROR, RECALL, BOX_AP)}
    markdown = evaluation_markdown(one).splitlines()
    table = cells(markdown, "|")
    assert [row for row in table if row[1] != "score"] == cells(rendered(one))
    assert ["boxes", "score", *BASELINES] in table
    assert any("No selection has a higher recall" in line for line in markdown)
    two = cells(evaluation_markdown({**one, "b": evaluation(BOX_AP)}).splitlines(), "|")
    assert ["GT-known Loc (patches)", "b", "0.750", *["0.250"] * 5] in two
    assert ["boxes", "model", "score", *BASELINES] in two


def test_notes_explain_only_what_is_there() -> None:
    text = evaluation_markdown({"digits": evaluation(ACCURACY)})
    assert "All metrics: 0 to 1, higher is better." in text
    assert "Trivial baselines: what an answer that ignores the model scores" in text
    for absent in ("n/a", "recall", "↓", "threshold"):
        assert absent not in text
    more = evaluation_markdown(
        {"digits": evaluation(ERROR, thresholds={"gt_known_loc_heat_map": 0.4})}
    )
    assert "higher is better, ↓ lower" in more
    assert "threshold chosen on held-out images" in more


def test_it_says_which_images_the_figures_are_of() -> None:
    some = evaluation(BOX_AP, images=5000, boxed=4000)
    assert rendered({"a": some})[0].startswith("5,000 test images, 4,000 of them")
    both = " ".join(rendered({"a": some, "b": evaluation(ACCURACY)}))
    assert both.startswith("a: 5,000 test images, 4,000 of them with boxes; b: 2,000 test images ")


def test_a_name_is_not_markup() -> None:
    names = {"[bold]x|y": evaluation(ACCURACY), "plain": evaluation(ACCURACY)}
    assert any("[bold]x|y" in line for line in rendered(names))
    assert r"\[bold\]x\|y" in evaluation_markdown(names)


def test_many_models_and_five_baselines_fit_eighty_columns() -> None:
    long = Metric("x", "mAP, 11 points (VOC 2007)", 1.0, {"chance level": 0.0}, group="c")
    names = ("capsule-loss-attention", "mean-pooling", "baseline", "gated-attention")
    lines = rendered({name: evaluation(ACCURACY, long, BOX_AP) for name in names})
    assert max(map(len, lines)) <= 80
    assert all(any(name in line for line in lines) for name in names)
    assert any("mAP, 11 points (VOC 2007)" in line for line in lines)


def test_what_needs_a_threshold_and_has_none_says_why() -> None:
    unfitted = Metric(
        "gt_known_loc_heat_map", "GT-known Loc (heat map)", None, dict.fromkeys(BASELINES)
    )

    def said(evaluations: dict[str, Evaluation]) -> str:
        return " ".join(" ".join(rendered(evaluations)).split())

    why = "no held-out images (`validation_fraction`) to choose a threshold on"
    assert why in said({"digits": evaluation(BOX_AP, unfitted)})
    assert why not in said({"digits": evaluation(BOX_AP)})
    assert why not in said({"boxless": evaluation(unfitted, boxed=0)})


def test_what_is_undefined_has_no_row_though_another_metric_is_called_alike() -> None:
    unfitted = Metric("gt_known_loc_heat_map", "GT-known Loc (heat map)", None, {}, group="boxes")
    oracle = Metric("gt_known_loc_heat_map_oracle", unfitted.label, 0.5, {}, group="oracle")
    lines = rendered({"digits": evaluation(ACCURACY, unfitted, oracle)})
    assert cells(lines)[1:] == [["GT-known Loc (heat map)", "0.500"]]
    assert "choose or fit it on: GT-known Loc (heat map)." in " ".join(" ".join(lines).split())


HOSTILE = "a|[b]*c*\x1b[31m<i>"


@pytest.mark.parametrize("width", [30, 40, 80])
def test_a_table_is_divided_where_a_terminal_is_narrow(width: int) -> None:
    columns = [
        Column("what", "left"),
        *(Column(f"number {k}", narrow=f"no\n{k}") for k in range(9)),
    ]
    rows = [[f"row {n}", *(f"{n}.{k}" for k in range(9))] for n in range(2)]
    console = Console(width=width, color_system=None, legacy_windows=False)
    with console.capture() as capture:
        show_table(Table(columns, rows, notes=["read it"]), console)
    lines = capture.get().splitlines()
    assert max(map(len, lines)) <= width
    found = [row for row in cells(lines) if row[0] == "row 1"]
    assert [cell for row in found for cell in row[1:]] == rows[1][1:]
    assert len(found) == {30: 3, 40: 2, 80: 1}[width]
    assert lines[-1].strip() == "read it"


def test_texts_of_a_table_are_no_markup_and_keep_their_lines() -> None:
    columns = [Column(HOSTILE, "left"), Column("n", "left", style="bold"), Column("r")]
    table = Table(columns, [["two\nlines", HOSTILE, "< 1"]], title=HOSTILE, notes=[HOSTILE])
    shown = r"a\|\[b\]\*c\*\\x1b\[31m&lt;i&gt;"
    assert table_markdown(table).splitlines() == [
        f"| {shown} | n | r |",
        "| --- | --- | ---: |",
        f"| two<br>lines | **{shown}** | < 1 |",
        "",
        f"- {shown}",
    ]
    console = Console(width=80, force_terminal=True, legacy_windows=False)
    with console.capture() as capture:
        show_table(table, console)
    assert capture.get().count(r"a|[b]*c*\x1b[31m<i>") == 4


def test_no_table_of_a_guided_model_is_without_what_guided_it() -> None:
    metrics = (ACCURACY, ERROR, BOX_AP, RECALL)
    guided, plainly = evaluation(*metrics, guided_by="90 boxes"), evaluation(*metrics)
    tables = evaluation_tables({"one": guided})
    assert len(tables) == 3
    for table in tables:
        assert ", guided by 90 boxes |" in table_markdown(table)
        shown = Console(width=50, record=True, file=io.StringIO())
        show_table(table, shown)
        text = shown.export_text()
        assert text.count("90 boxes") == text.count("metric,") > 0  # each part of a wide table
    for table in evaluation_tables({"one": guided, "other": plainly}):
        rows = [[cell for cell in row if "one" in cell or "other" in cell] for row in table.rows]
        assert rows[:2] == [["one, guided by 90 boxes"], ["other"]]
    assert guided.to_json()["guided_by"] == "90 boxes"
    assert Evaluation.from_json(guided.to_json()) == guided
    assert "guided_by" not in plainly.to_json()
