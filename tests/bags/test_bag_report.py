"""The report of a run on bags: what it holds, that it needs nothing else, and odd names in it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from browsing import open_page
from report.pages import Page
from typed import run

from loss_attention.bags.division import parts_of
from loss_attention.bags.evaluation import BagEvaluation, evaluate_bags
from loss_attention.bags.reading import read_bags
from loss_attention.bags.recipe import BagRunRecipe
from loss_attention.bags.report import ending, sentences, write_bag_report
from loss_attention.bags.run import own_bags
from loss_attention.bags.saved import load_bag_model
from loss_attention.bags.training import build_bag_model
from loss_attention.evaluation.metric import Metric
from loss_attention.training.run_folder import RunFolder

TUMOUR = "<script>alert`1`</script>"
NAMES = "[b]<i>%d\x1b[31m&\"'"
WORDS = [
    *("--hidden", "8", "--epochs", "3", "--learning-rate", "0.02", "--batch-bags", "4"),
    *("--test-fraction", "0.5", "--validation-fraction", "0", "--accelerator", "cpu"),
]


def write_slides(path: Path, *, placed: bool = True) -> Path:
    """Write 24 bags of 6 to 29 tiles, of which every second has tumour, in odd names."""
    random = np.random.default_rng(0)
    columns: dict[str, list[Any]] = {name: [] for name in ("bag", "label", "instance_label")}
    places, features = [], []
    for number in range(24):
        size = 6 + number
        known = np.zeros(size, bool)
        known[: 3 * (number % 2)] = True
        features.append(random.normal(size=(size, 3)) + 2 * known[:, None])
        columns["bag"] += [NAMES % number] * size
        columns["label"] += [(TUMOUR if number % 2 else "normal")] * size
        columns["instance_label"] += [TUMOUR if one else "normal" for one in known]
        places.append(256 * np.stack([np.arange(size) % 5, np.arange(size) // 5], axis=1))
    found: dict[str, Any] = dict(columns)
    if placed:
        found |= dict(zip("xy", np.concatenate(places).T, strict=True))
    found |= {f"f{n}": column for n, column in enumerate(np.concatenate(features).T)}
    pq.write_table(pa.table(found), path)
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("report")
    table = write_slides(home / "<b>slides.parquet")
    words = ["--positive", TUMOUR, "--pooling", "loss-attention", *WORDS]
    run("train", "bags", "--data", table, "--out", home / "run", *words)
    return home / "run"


@pytest.fixture(scope="module")
def page(trained: Path) -> Page:
    return Page(trained / "report.html")


def test_it_is_one_file_of_its_own_markup_alone(page: Page) -> None:
    assert [one for one, _ in page.elements].count("script") == 1
    assert not {"b", "link", "iframe"} & {one for one, _ in page.elements}
    assert not re.search(r"https?://|\x1b", page.source)
    assert all(image["src"].startswith("data:image/") for image in page.of("img") if image["src"])
    assert "<script>alert`1`</script>" in page.text
    assert r"[b]<i>1\x1b[31m&\"'".replace('\\"', '"') in page.text
    assert "Bags of <b>slides.parquet" in page.text


def test_it_says_what_it_was_trained_on(page: Page, trained: Path) -> None:
    _, parts = own_bags(RunFolder(trained))
    sizes = np.concatenate([one.sizes for one in (parts.train, parts.test)])
    said = f"{sizes.sum()} instances of 3 features in 24 bags of 2 classes; 6 to 29 in a bag"
    assert said in page.text
    assert "normal 6 0 6" in page.text
    assert "bags 12 0 12" in page.text
    bars = page.text.split("how many bags have so many ")[1].split(" How good")[0].split(" ")
    assert sum(int(count) for count in re.findall(r"(?:to \d+|^\d+) (\d+)", " ".join(bars))) == 24


def test_scores_stand_beside_trivial_baselines(page: Page, trained: Path) -> None:
    stored = json.loads((trained / "evaluation.json").read_text())
    for metric in stored["metrics"]:
        assert f"{metric['label']}" in page.text
        assert f"{metric['value']:.3f}" in page.text
        for value in metric["baselines"].values():
            assert f"{value:.3f}" in page.text
    cells = stored["confusion"]
    assert sum(sum(row.values()) for row in cells.values()) == 12
    right = sum(row.get(name, 0) for name, row in cells.items())
    accuracy = next(one["value"] for one in stored["metrics"] if one["name"] == "accuracy")
    assert accuracy == right / 12


def cards(page: Page) -> list[dict[str, str | None]]:
    return [one for one in page.of("article") if "card" in (one["class"] or "").split()]


def test_cards_show_the_strongest_instances_and_where_they_lie(page: Page, trained: Path) -> None:
    _, parts = own_bags(RunFolder(trained))
    model, test = load_bag_model(trained), parts.test
    shown = cards(page)
    pieces = page.source.split("<article")[1:]
    assert len(pieces) == len(shown) == len(page.of("img")) > 4
    names = [re.sub("\x1b", r"\\x1b", name) for name in test.names]
    for piece in pieces:
        text = " ".join(re.sub(r"<[^>]*>", " ", piece).split())
        for old, new in (("&lt;", "<"), ("&gt;", ">"), ("&#34;", '"'), ("&#39;", "'")):
            text = text.replace(old, new)
        text = text.replace("&amp;", "&")
        bag = next(i for i, name in enumerate(names) if f"· {name} ·" in text)
        with torch.no_grad():
            one = model(torch.from_numpy(test.features(bag))[None])
        said, label = int(one.logits.argmax()), int(test.labels[bag])
        assert ("✓" in text) == (said == label)
        evidence = (one.patch_weights[0, :, None] * one.patch_logits[0]).numpy()
        signed = evidence[:, said] - (0 if said == label else evidence[:, label])
        first = int(signed.argmax())
        place = test.coordinates(bag)
        assert place is not None
        x, y = place[first]
        value = f"+{float(f'{signed[first]:.3g}'):.12g}"
        assert (
            f"strongest for it instance x, y {'evidence' if said == label else 'difference'}"
            in text
        )
        row = text.split("weight, % ")[1]
        assert row.startswith(f"{first} {x:.0f}, {y:.0f} {value} ")
        total = signed.clip(min=0).sum()
        assert f"summed: +{float(f'{total:.3g}'):.12g} for it" in text


def test_it_is_written_again(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (trained / "report.html").read_bytes()
    scores = (trained / "evaluation.json").read_bytes()
    (trained / "report.html").unlink()
    run("report", trained, "--accelerator", "cpu")
    assert (trained / "report.html").read_bytes() == before
    assert (trained / "evaluation.json").read_bytes() == scores
    said = capsys.readouterr().out
    assert f"report: {trained / 'report.html'}" in said.replace("\n", "")


def test_bags_that_lie_nowhere_have_no_map(trained: Path, tmp_path: Path) -> None:
    table = write_slides(tmp_path / "slides.parquet", placed=False)
    words = ["train", "bags", "--data", table, "--out", tmp_path / "run", *WORDS, "--epochs", "1"]
    run(*words, "--pooling", "attention")
    page = Page(tmp_path / "run" / "report.html")
    assert not page.of("img")
    assert len(cards(page)) > 4
    assert "x, y" not in page.text
    # Class vectors of this pooling are not centred.
    assert "so the contrast is shown" in page.text
    assert "so the contrast is shown" not in Page(trained / "report.html").text


def test_bags_of_several_labels(trained: Path, tmp_path: Path) -> None:
    bags = read_bags(str(trained.parent / "<b>slides.parquet"))
    several = torch.nn.functional.one_hot(bags.labels, 2).to(torch.uint8)
    several[0] = 1
    several[2] = 0
    bags = replace(bags, labels=several, instance_labels=None)
    recipe = BagRunRecipe(data="made", epochs=1, hidden=(4,))
    parts = parts_of(bags, recipe)
    model = build_bag_model(recipe, parts.train).eval()
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    folder.write_facts(RunFolder(trained).facts() | {"multi_label": True})
    evaluation = evaluate_bags(model, parts.test, train=parts.train)
    page = Page(write_bag_report(folder, recipe, model, parts, evaluation))
    assert "bags, which may have several classes" in page.text
    assert "Which classes are taken for which" not in page.text
    assert len(cards(page)) == len(parts.test)


def test_the_verdict_is_in_words() -> None:
    confusion = {"normal": {"normal": 30}, "tumour": {"normal": 10}}
    accuracy = Metric("accuracy", "accuracy", 0.75, {"majority class": 0.75, "bag size alone": 0.5})
    found = BagEvaluation("test", 40, 4000, (accuracy,), confusion=confusion)
    facts = {"train_bags": 80, "classes": ["normal", "tumour"], "class_bags": [75, 5]}
    recipe = BagRunRecipe(data="my slides")
    said = ending(found, recipe, facts)
    assert said == (
        "all 40 test bags are called normal: nothing was learned beyond the commonest class; next: "
        "another `pooling`, which loss-attention crossval --data 'my slides' compares; or more "
        "`epochs`, another `learning_rate`, `balance` weights, and more bags of tumour (5)"
    )
    few = ending(found, recipe, facts | {"train_bags": 12})
    assert few is not None
    assert "next: more bags, as 12 for 2 classes are few" in few
    assert sentences(found)[0] == (
        "Right in 75 % of 40 test bags; calling all by the commonest class would in 75 %, and the "
        "two are not told apart."
    )
    unmeasured = "Whether the evidence points at the right instances has not been measured"
    assert sentences(found)[1].startswith(unmeasured)
    learned = {"normal": {"normal": 30}, "tumour": {"tumour": 10}}
    better = replace(accuracy, value=1.0)
    assert ending(replace(found, confusion=learned, metrics=(better,)), recipe, facts) is None


@pytest.mark.parametrize("width", [1200, 390])
def test_in_a_browser_it_complains_of_nothing_and_fits(
    browser: Any, trained: Path, width: int
) -> None:
    how = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", how)
    try:
        open_page(browser, (trained / "report.html").as_uri())
        assert browser.get_log("browser") == []
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        every = len(browser.find_elements("css selector", ".card"))
        status = browser.find_element("css selector", ".filter [role=status]")
        assert status.text == f"{every} of {every} bags on this page"
        browser.find_element("css selector", ".card .pictures").click()
        assert browser.find_element("css selector", "dialog .frame img").is_displayed()
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
