"""The report: one page that stands alone, says what was measured, and escapes what it is given."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from report.pages import Page, epoch_line, make_model, make_run, make_set, report_of

from loss_attention.evaluation.measuring import evaluate
from loss_attention.report.page import SHOWN_FIRST, SHOWN_FIRST_WIDE, write_report
from loss_attention.report.sections import MOST_EPOCHS
from loss_attention.report.summary import key_metrics, sentences
from loss_attention.saving import SaveError
from loss_attention.training.run_folder import METRICS_FILE, RunFolder, metrics_text

HOSTILE = ("<script>alert(1)</script>", '"><img src=x onerror=y>', "{{ 7 * 7 }} & so")


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Page:
    return report_of(tmp_path_factory.mktemp("report"), counterpart=True)


def test_the_page_needs_nothing_but_itself(page):
    for tag, attributes in page.elements:
        assert tag not in {"link", "iframe", "object", "base"}
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            value = attributes.get(name)
            within = value is None or value.startswith(("data:image/", "#"))
            assert within, (tag, name, value)
    assert not re.search(r"https?://|@import|url\(", page.source)
    policy = next(a for a in page.of("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy["content"]
    # Its own script, and no other.
    assert page.of("script") == [{}]
    script = page.source.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy["content"]
    assert "innerHTML" not in script
    assert not [name for _, attributes in page.elements for name in attributes if name[:2] == "on"]


def test_every_picture_says_what_it_shows(page):
    pictures = page.of("img") + page.of("svg")
    # The image, two maps, and of mistakes why not the label.
    mistakes = [a["class"] for a in page.of("article")].count("card wrong")
    assert len(page.of("img")) == 3 * len(page.of("article")) + mistakes
    assert len(page.of("svg")) == 3
    for attributes in pictures:
        assert (attributes.get("alt") or attributes.get("aria-label", "")).strip()


def test_headings_follow_one_another(page):
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_the_page_is_for_phones_and_for_the_dark(page):
    viewport = next(a for a in page.of("meta") if a.get("name") == "viewport")
    assert "width=device-width" in viewport["content"]
    assert "prefers-color-scheme: dark" in page.source
    assert page.of("html")[0]["lang"] == "en"


def test_every_figure_stands_on_the_page_with_its_floors(tmp_path):
    page = report_of(tmp_path, counterpart=True)
    data = make_set(("ant", "bee", "cow"))
    names = set()
    for head in ("loss-attention", "mean"):
        figures = evaluate(make_model(head, data.class_names), data, train=data)
        for metric in figures.metrics:
            assert metric.label in page.text
            for value in (metric.value, *metric.baselines.values()):
                shown = None if value is None else f"{value:.1f}" if metric.unit else f"{value:.3f}"
                assert shown is None or shown in page.text
            names.update(metric.baselines)
    assert len(names) > 2
    for name in names:
        assert name in page.text
    assert "a counterpart" in page.text
    assert "30 test images" in page.text


def test_bars_are_as_long_as_their_figures(page):
    data = make_set(("ant", "bee", "cow"))
    figures = evaluate(make_model("loss-attention", data.class_names), data, train=data)
    value, baseline = figures["accuracy"].value, figures["accuracy"].baselines["majority class"]
    tables = page.source.partition('id="scores"')[2]
    first = re.search(r'class="gauge".*?width:([\d.]+)%.*?left:([\d.]+)%', tables, re.DOTALL)
    assert first
    assert float(first[1]) == pytest.approx(100 * value, abs=0.06)
    assert float(first[2]) == pytest.approx(100 * baseline, abs=0.06)


def test_what_was_trained_and_on_what_is_said(page):
    for words in (
        "A vgg11_bn with the loss-attention head, 1.50 million parameters",
        "Data: made for a test.",
        "1,234 training images and 56 held out",
        "epoch 2 of 200",
        "79 seconds",
        "loss-attention train trial",
        "python 3.11.4",
        "memory gib 7.5",
        "patch_kernel 9",
        "strided_layers",
    ):
        assert words in page.text
    assert "kept: 2" in page.text
    assert "not finished" not in page.text


def test_right_answers_and_scores_come_first_then_mistakes_by_confidence(page):
    marks = [a["class"].split()[-1] for a in page.of("article")]
    first, rest = marks[:SHOWN_FIRST_WIDE], marks[SHOWN_FIRST_WIDE:]
    assert set(first) == {"right"}
    assert rest == sorted(rest, reverse=True)  # wrong, ..., right
    assert set(rest) == {"wrong", "right"}
    wrong = page.source.partition("<h3>Mistakes")[2].partition("<h3>Right answers")[0]
    confidence = [float(found) for found in re.findall(r'<span class="quiet">([\d.]+) %', wrong)]
    assert len(confidence) == 12
    assert confidence == sorted(confidence, reverse=True)
    assert len(set(confidence)) > 6
    headings = re.findall(r"<h2>([^<]*)", page.source)
    assert headings == [
        "What it looks at",
        "How good it is",
        "Its answers, one by one",
        "Which classes are taken for which",
        "How far a patch sees",
        "How to read this page",
        "All scores",
        "How it was trained",
    ]


def test_the_first_right_answers_are_of_a_class_each(tmp_path):
    page = report_of(tmp_path)
    right = [one for one in page.of("article") if one["class"] == "card right"]
    first = page.of("article")[:SHOWN_FIRST]
    assert first == right[:SHOWN_FIRST]
    classes = {one["data-answer"] for one in right}
    assert len({one["data-answer"] for one in first}) == min(SHOWN_FIRST, len(classes)) > 1


def test_the_scores_that_say_most_are_cards_with_their_best_baseline(page):
    data = make_set(("ant", "bee", "cow"))
    one = evaluate(make_model("loss-attention", data.class_names), data, train=data)
    other = evaluate(make_model("mean", data.class_names), data, train=data)
    cards = page.source.partition('class="metrics"')[2].partition("</section>")[0]
    shown = re.findall(r'<p class="quiet">([^<]*)</p>\s*<p class="big">([\d.]+)</p>', cards)
    assert shown == [(m.label, f"{m.value:.3f}") for m in key_metrics(one)]
    assert f"a counterpart: {other.value('accuracy'):.3f}" in cards
    best = max(one["pointing_game"].baselines.items(), key=lambda item: item[1])
    assert f"best trivial baseline: {best[1]:.3f} ({best[0]})" in cards
    assert all(sentence in page.text for sentence in sentences(one))


def test_a_mistake_says_why_it_is_not_the_label(page):
    mistakes = page.source.partition("<h3>Mistakes")[2].partition("<h3>Right answers")[0]
    answers = re.findall(r'data-answer="(\w+)" data-labels="(\w+)"', mistakes)
    whys = re.findall(r"<figcaption>why (\w+), not (\w+): in all [\d.]+</figcaption>", mistakes)
    assert whys == answers
    assert len(answers) == 12


def test_what_each_patch_says_is_on_the_page(page):
    data = make_set(("ant", "bee", "cow"))
    explanation = make_model("loss-attention", data.class_names).explain(data.images)
    card = next(a for a in page.of("article") if a["class"] == "card right")
    number = int(re.search(r"test image (\d+)", page.text)[1])
    patches = json.loads(card["data-patches"])
    rows, columns = explanation.grid.rows, explanation.grid.columns
    assert (len(patches["y"]), len(patches["x"])) == (rows, columns)
    assert sorted(patches["values"]) == ["evidence", "margin", "weight"]
    for name, found in (
        ("evidence", explanation.target_evidence),
        ("margin", explanation.target_margin),
        ("weight", explanation.patch_weights),
    ):
        assert patches["values"][name] == pytest.approx(found[number].tolist(), rel=0.006, abs=1e-6)
    assert sum(patches["values"]["weight"]) == pytest.approx(1, abs=0.01)
    # The first window covers 5 of 16 pixels.
    assert patches["window"] == pytest.approx([5 / 16, 5 / 16], abs=1e-3)
    assert (patches["x"][0], patches["y"][0]) == pytest.approx((2.5 / 16, 2.5 / 16), abs=1e-3)


def test_what_a_patch_sees_is_said_and_drawn(page, tmp_path):
    data = make_set(("ant", "bee", "cow"))
    model = make_model("loss-attention", data.class_names)
    found = evaluate(model, data).locality
    assert found is not None
    window, settled = found.random.window, 100 * max(0, found.random.in_window)
    for words in (
        f"If only the {window} x {window} pixels of its window are kept",
        f"{settled:.0f} % of what a patch says to the classes is settled",
        f"on {found.images} images",
        "what the heaviest patch sees (r90)",
    ):
        assert words in page.text
    squares = [
        "the whole image" if c.r90 == c.sides[-1] else f"a square of {c.r90} x {c.r90} pixels"
        for c in (found.random, found.heaviest)
    ]
    more = " for both" if squares[0] == squares[1] else f", and {squares[1]} for the heaviest"
    assert f"90 % takes {squares[0]}{more} (r90)" in page.text
    assert "A patch sees more than its window." in page.text
    labels = [str(svg["aria-label"]) for svg in page.of("svg")]
    assert sum("L over sides of the square that is kept" in label for label in labels) == 1
    assert any(f"the window has {window} pixels" in label for label in labels)
    bare = evaluate(model, data, locality=0)
    without = Page(write_report(make_run(tmp_path / "run"), model, data, bare))
    assert len(without.of("svg")) == 2
    assert "r90" not in without.text


def test_a_counterpart_is_drawn_beside_the_model(page):
    captions = re.findall(r"<figcaption>([^<:]*)", page.source.partition("<article")[2])
    assert captions[:3] == ["image", "loss-attention", "a counterpart"]


def test_hostile_names_are_text_and_nothing_else(tmp_path):
    facts = {"source": HOSTILE[0], "command": HOSTILE[1], "versions": {HOSTILE[1]: HOSTILE[0]}}
    page = report_of(tmp_path, classes=HOSTILE, facts=facts)
    assert page.of("script") == [{}]
    assert all("onerror" not in attributes for _, attributes in page.elements)
    for name in HOSTILE:
        assert name in page.text


def test_without_mistakes_it_says_so(tmp_path):
    data = make_set(("ant", "bee"))
    model = make_model("loss-attention", data.class_names)
    with torch.inference_mode():
        answers = model(data.images).logits.argmax(dim=1)
    data = replace(data, labels=answers)
    page = Page(write_report(make_run(tmp_path / "run"), model, data, evaluate(model, data)))
    assert "Mistakes, the most confident first There are none." in page.text
    assert {a["class"] for a in page.of("article")} == {"card right"}


def test_without_a_right_answer_it_says_so(tmp_path):
    data = make_set(("ant", "bee"))
    model = make_model("loss-attention", data.class_names)
    with torch.inference_mode():
        answers = model(data.images).logits.argmax(dim=1)
    data = replace(data, labels=1 - answers)
    page = Page(write_report(make_run(tmp_path / "run"), model, data, evaluate(model, data)))
    assert "not the best looking" not in page.text
    assert "12 of 30." in page.text


def test_a_baseline_says_that_there_is_no_evidence(tmp_path):
    page = report_of(tmp_path, "baseline")
    assert "no patches whose evidence could be shown" in page.text
    assert len(page.of("img")) == len(page.of("article")) > 0
    assert "outline of the selected patches" not in page.text
    assert "patch F1" not in page.text


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_head_without_exact_evidence_says_what_it_shows_instead(tmp_path, multi_label):
    page = report_of(tmp_path, "capsule-dynamic-routing", multi_label=multi_label)
    assert "This network's answer has no exact evidence" in page.text
    assert "routing weights of" in page.text
    assert "outline of the selected patches" in page.text
    assert "log-odds of" in page.text
    assert "blue against it" not in page.text
    assert "exactly, a weighted sum" not in page.text
    assert "patch F1" in page.text
    pictures = [str(picture["alt"]) for picture in page.of("img")]
    assert len(pictures) == 2 * len(page.of("article")) > 0
    named = [alt for alt in pictures if "routing weight for" in alt]
    assert len(named) == len(page.of("article"))
    assert "ramp half" in page.source


@pytest.mark.parametrize("head", ["gated-attention", "capsule-loss-attention"])
def test_heads_with_evidence_show_it(tmp_path, head):
    page = report_of(tmp_path, head)
    assert "exactly, a weighted sum" in page.text
    assert "evidence, summed over patches" in page.text
    wrong = [a["class"] for a in page.of("article")].count("card wrong")
    assert len(page.of("img")) == 2 * len(page.of("article")) + wrong


def test_sets_without_boxes_promise_none(tmp_path):
    page = report_of(tmp_path, boxes=False)
    assert "IoU" not in page.text
    assert "true box" not in page.text
    assert "25 patches" not in page.text  # 16 x 16 pixels have 9
    assert re.search(r"\d of 9 patches", page.text)


def test_multi_label_sets(tmp_path):
    page = report_of(tmp_path, multi_label=True)
    assert "exact matches" in page.text
    assert "one class, named under it" in page.text
    assert "evidence for " in page.text


def test_one_vs_rest_says_what_a_probability_is_and_shows_evidence(tmp_path):
    page = report_of(tmp_path / "own", one_vs_rest=True, counterpart=True)
    assert "against all others (one-vs-rest): a probability is the sigmoid" in page.text
    assert "the evidence for the predicted class" in page.text
    assert "margin" not in page.text
    assert "(one-vs-rest)" not in report_of(tmp_path / "other").text
    said = re.findall(r'<span class="quiet">(\d+\.\d) %</span></h4>', page.source)
    data = make_set(("ant", "bee", "cow"))
    model = make_model("loss-attention", data.class_names, one_vs_rest=True)
    with torch.inference_mode():
        best = 100 * model(data.images).logits.sigmoid().amax(dim=1)
    assert len(said) == len(page.of("article"))
    assert set(said) <= {f"{float(one):.1f}" for one in best}


def test_a_thousand_classes_of_long_names(tmp_path):
    classes = tuple(f"{i} " + "long-name " * 30 for i in range(1000))
    page = report_of(tmp_path, classes=classes, count=40)
    bars = page.source.count('<th scope="row" title=')
    assert bars <= 6 * len(page.of("article"))


def test_large_images_of_noise_stay_under_the_limit(tmp_path):
    classes = tuple("abcdefghijkl")
    data = make_set(classes, count=26, size=400)
    model = make_model("loss-attention", classes, strided_layers=(1, 3, 5))
    correct = torch.arange(26) % 2 == 0
    with torch.inference_mode():
        answers = torch.cat([model(images).logits.argmax(1) for images in data.images.split(4)])
    data = replace(data, labels=torch.where(correct, answers, (answers + 1) % 12))
    figures = evaluate(model, data, batch_size=4)
    written = write_report(
        make_run(tmp_path / "run"), model, data, figures, counterparts={"t": model}
    )
    assert len(Page(written).of("img")) == 3 * 24 + 12
    assert 1_000_000 < written.stat().st_size < 5_000_000


@pytest.mark.parametrize("epochs", [0, 1, 5000])
def test_runs_of_any_length(tmp_path, epochs):
    run = make_run(tmp_path / "run")
    lines = [epoch_line(epoch) for epoch in range(1, epochs + 1)]
    for line in lines[:1]:  # a run without validation has no such figures, and a bad start none
        line |= {"validation_loss": None, "validation_accuracy": None, "loss": math.inf}
    RunFolder(run).write(METRICS_FILE, metrics_text(lines))
    data = make_set(("ant", "bee"), count=2)
    model = make_model("loss-attention", data.class_names)
    page = Page(write_report(run, model, data, evaluate(model, data, locality=0)))
    assert len(page.of("svg")) == {0: 0, 1: 1, 5000: 2}[epochs]
    rows = page.source.count("<td>0.05</td>")  # the learning rate, in each row
    assert rows == epochs or 200 < rows <= MOST_EPOCHS
    if epochs:
        assert f'<th scope="row">{epochs}</th>' in page.source


def test_an_unfinished_run_says_so(tmp_path):
    page = report_of(tmp_path, facts={"finished": False})
    assert "This run is not finished" in page.text


def test_a_run_without_validation_says_so(tmp_path):
    page = report_of(tmp_path, facts={"validation_images": 0})
    assert "1,234 training images; the weights" in page.text


def test_an_old_report_stays_when_the_new_one_cannot_be_written(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run")
    (run / "report.html").write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    data = make_set(("ant", "bee"), count=2)
    model = make_model("loss-attention", data.class_names)
    with pytest.raises(SaveError, match="No space left"):
        write_report(run, model, data, evaluate(model, data))
    assert (run / "report.html").read_text() == "old"
    assert not list(run.glob(".report*"))


def test_figures_without_results_image_by_image_are_refused(tmp_path):
    data = make_set(("ant", "bee"), count=2)
    model = make_model("loss-attention", data.class_names)
    figures = replace(evaluate(model, data), per_image=None)
    with pytest.raises(ValueError, match="image by image"):
        write_report(make_run(tmp_path / "run"), model, data, figures)
