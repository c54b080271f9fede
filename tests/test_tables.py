from __future__ import annotations

from rich.console import Console

from loss_attention.evaluation import Evaluation, Measure
from loss_attention.tables import evaluation_markdown, show_evaluations


def evaluation(*measures: Measure, images: int = 2000, boxed: int = 2000) -> Evaluation:
    return Evaluation("test", images, boxed, measures)


ACCURACY = Measure("accuracy", "accuracy", 0.9954, {"majority class": 0.1085})
BOX_AP = Measure("box_ap", "box AP", 0.75, {"whole image": 0.0, "best centred box": 0.25})
RECALL = Measure("patch_recall", "patch recall", 0.5, {"uniform weights": 0.625})


def rendered(evaluations: dict[str, Evaluation], width: int = 80) -> list[str]:
    console = Console(width=width, color_system=None, legacy_windows=False)
    with console.capture() as capture:
        show_evaluations(evaluations, console)
    return capture.get().splitlines()


def cells(lines: list[str], separator: str = "│") -> list[list[str]]:
    return [
        [cell.strip(" *") for cell in line.strip(separator).split(separator)]
        for line in lines
        if line.startswith(separator) and "---" not in line
    ]


def test_floors_stand_under_their_measure() -> None:
    assert cells(rendered({"digits": evaluation(ACCURACY, BOX_AP)})) == [
        ["accuracy", "0.995"],
        ["floor: majority class", "0.108"],
        ["box AP", "0.750"],
        ["floor: whole image", "0.000"],
        ["floor: best centred box", "0.250"],
    ]


def test_models_stand_side_by_side() -> None:
    other = Measure("accuracy", "accuracy", 0.5, {"majority class": None})
    evaluations = {"a": evaluation(ACCURACY, BOX_AP), "b": evaluation(other)}
    lines = rendered(evaluations)
    assert cells(lines)[:4] == [
        ["accuracy", "0.995", "0.500"],
        ["floor: majority class", "0.108", "n/a"],
        ["box AP", "0.750", "-"],
        ["floor: whole image", "0.000", "-"],
    ]
    text = " ".join(line.strip() for line in lines)
    assert "n/a: nothing to count, or no training data to fit the floor to." in text
    assert "-: the model has no patches, or the data no boxes." in text


def test_markdown_has_the_same_rows() -> None:
    evaluations = {"a": evaluation(ACCURACY, RECALL, BOX_AP), "b": evaluation(BOX_AP)}
    markdown = evaluation_markdown(evaluations).splitlines()
    assert markdown[0] == "2,000 test images"
    table = cells(markdown, "|")
    assert table[0] == ["measure", "a", "b"]
    assert table[1:] == cells(rendered(evaluations))
    assert any("No selection has a higher recall" in line for line in markdown)


def test_notes_explain_only_what_is_there() -> None:
    text = evaluation_markdown({"digits": evaluation(ACCURACY)})
    assert "higher is better" in text
    assert "Floor: what a constant answer" in text
    assert "n/a" not in text
    assert "recall" not in text


def test_it_says_which_images_the_figures_are_of() -> None:
    some = evaluation(BOX_AP, images=5000, boxed=4000)
    assert rendered({"a": some})[0].startswith("5,000 test images, 4,000 of them")
    assert evaluation_markdown({"a": some}).startswith(
        "5,000 test images, 4,000 of them with boxes\n"
    )
    both = evaluation_markdown({"a": some, "b": evaluation(ACCURACY)})
    assert both.startswith("a: 5,000 test images, 4,000 of them with boxes; b: 2,000 test images\n")


def test_a_name_is_not_markup() -> None:
    lines = rendered({"[bold]x|y": evaluation(ACCURACY)})
    assert any("[bold]x|y" in line for line in lines)
    assert "[bold]x&#124;y" in evaluation_markdown({"[bold]x|y": evaluation(ACCURACY)})


def test_four_models_fit_eighty_columns() -> None:
    names = ("loss-attention", "mean-pooling", "baseline", "gated")
    lines = rendered({name: evaluation(ACCURACY, BOX_AP) for name in names})
    assert max(map(len, lines)) <= 80
    assert all(any(name in line for line in lines) for name in names)
