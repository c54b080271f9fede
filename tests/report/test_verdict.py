"""Runs that learned nothing say so, and what to try next."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluation.canned import Canned, numbered
from report.pages import Page, make_model, make_run, make_set
from rich.console import Console
from scipy.stats import binomtest

from loss_attention.evaluation.measuring import evaluate
from loss_attention.evaluation.metric import Evaluation
from loss_attention.prediction import ImagePrediction
from loss_attention.report.page import write_report
from loss_attention.report.verdict import ending, nothing_learned, wilson_interval
from loss_attention.training.recipes import recipe

FACTS = {"train_images": 547, "classes": ["a"] * 6}


def measured(labels: list[int], answers: list[int]) -> Evaluation:
    """The evaluation of a model with these answers, of three classes; class 0 is the commonest."""
    logits = torch.nn.functional.one_hot(torch.tensor(answers), 3).float()
    data = numbered(torch.tensor(labels), 3)
    train = numbered(torch.tensor([0] * 5 + [1, 2]), 3)
    return evaluate(Canned(ImagePrediction(logits)), data, train=train)


@pytest.mark.parametrize(
    ("labels", "answers", "said"),
    [
        ([0] * 118 + [1] * 119, [1] * 237, "all 237 test images are called class 1: nothing was"),
        ([0] * 100 + [1] * 100, [0] * 198 + [1] * 2, "198 of 200 test images are called class 0"),
        ([0] * 9 + [1] + [2], [1] * 11, "are called class 1: nothing was learned beyond a single"),
        ([0, 1] * 50, [0, 0, 1, 1] * 25, "accuracy 0.500 (95 % interval 0.404 to 0.596) is no"),
        (
            [0] * 99 + [1],
            [0] * 100,
            "of the majority class, 0.990: on 100 test images there is no sign that anything",
        ),
    ],
)
def test_what_is_no_better_than_one_name_for_all_is_said(
    labels: list[int], answers: list[int], said: str
) -> None:
    found = nothing_learned(measured(labels, answers))
    assert found is not None
    assert said in found


@pytest.mark.parametrize(
    ("labels", "answers"),
    [
        ([0, 1, 2] * 20, [0, 1, 2] * 20),
        ([0] * 190 + [1] * 10, [0] * 182 + [1] * 18),  # accuracy as the majority's, and useful
        ([0] * 20, [0] * 20),
    ],
)
def test_what_was_learned_is_not_put_down(labels: list[int], answers: list[int]) -> None:
    assert nothing_learned(measured(labels, answers)) is None


def test_the_interval_is_wilsons() -> None:
    expected = binomtest(7, 30).proportion_ci(method="wilson")
    assert wilson_interval(7, 30) == pytest.approx((expected.low, expected.high), abs=1e-4)


@pytest.mark.parametrize(
    ("of", "facts", "said"),
    [
        ("folder", {}, "next: loss-attention train photos --data my-images (a pretrained backb"),
        (
            "photos",
            {},
            "next: more `views`, a larger `image_size`, or loss-attention train photos-",
        ),
        ("photos-finetune", {}, "next: loss-attention train photos --data my-images, whose backb"),
        ("folder", {"train_images": 50}, "next: more images, as 50 for 6 classes are few"),
        ("digits", {}, "class; next: more `steps` or `epochs`, another `learning_rate`"),
    ],
)
def test_the_next_thing_to_try_fits_the_recipe(of: str, facts: dict[str, Any], said: str) -> None:
    begun = recipe(of) if of == "digits" else replace(recipe(of), data="my-images")
    evaluation = measured([0] * 118 + [1] * 119, [0] * 237)
    found = ending(evaluation, begun, FACTS | facts)
    assert found is not None
    assert said in found
    assert "\n" not in found
    assert ending(measured([0, 1, 2] * 20, [0, 1, 2] * 20), begun, FACTS) is None


def test_rare_classes_are_named_the_rarest_first() -> None:
    evaluation = measured([0] * 118 + [1] * 119, [0] * 237)
    begun = replace(recipe("photos"), data="my-images")
    facts = {"train_images": 547, "classes": ["a", "b\n", "c", "d"]}
    found = ending(evaluation, begun, {**facts, "class_images": [500, 19, 20, 8]})
    assert found is not None
    assert found.endswith(r", and more images of d (8), b\n (19)")
    even = ending(evaluation, begun, {**facts, "class_images": [200, 147, 100, 100]})
    assert even == ending(evaluation, begun, facts)  # as of a run that does not say
    assert even is not None
    assert "more images" not in even


def test_the_report_and_the_terminal_say_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from loss_attention.data.sample import Splits
    from loss_attention.runs import FinishedRun
    from loss_attention.training.run_folder import RunFolder

    data = make_set(("ant", "<b>bee"))
    model = make_model("loss-attention", data.class_names)
    with torch.no_grad():
        model.head.classifier.bias[1] += 1e4
    evaluation = evaluate(model, data, train=data)
    run = make_run(tmp_path / "run")
    page = Page(write_report(run, model, data, evaluation))
    line = "all 30 test images are called <b>bee: nothing was learned beyond the commonest class"
    assert f"This model is of no use yet: {line}; next: loss-attention train photos" in page.text
    console = Console(width=300, color_system=None)
    FinishedRun(RunFolder(run), model, Splits(data, data, ""), evaluation).conclude(console)
    assert line in capsys.readouterr().out
