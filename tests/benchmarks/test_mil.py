"""`benchmarks/mil.py`: what it measures of a few small classifiers, and its page."""

from __future__ import annotations

import json
from pathlib import Path

import mil
import mil_page
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from loss_attention.bags.bag_set import BagSet
from loss_attention.bags.made_up import digit_bags


def table(bags: BagSet, path: Path) -> None:
    rows = [
        {"bag": bag, "label": int(bags.labels[bag])}
        | {f"f{n}": value for n, value in enumerate(row)}
        for bag in range(len(bags))
        for row in bags.features(bag)
    ]
    pd.DataFrame(rows).to_parquet(path)


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr("sys.argv", ["mil.py", *map(str, words)])
    mil.main()


def test_each_part_writes_its_numbers_and_the_page_has_them_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mil, "ASSUMED_BAGS", (8, 16))
    monkeypatch.setattr(mil, "TESTED", 8)
    monkeypatch.setattr(mil, "DIGIT_BAGS", (8,))
    table(digit_bags(40, seed=0), tmp_path / "musk1.parquet")
    small = ("--poolings", "max", "--epochs", "1", "--out", tmp_path)
    run(monkeypatch, "assumptions", "--seeds", "2", *small)
    run(monkeypatch, "digits", "--seeds", "2", *small)
    classic = ("--data", tmp_path, "--only", "musk1", "--repeats", "1", "--runs", tmp_path / "runs")
    run(monkeypatch, "classic", *classic, *small)
    table(digit_bags(40, seed=1), tmp_path / "fox.parquet")
    more = ("--data", tmp_path, "--only", "fox", "--repeats", "1", "--runs", tmp_path / "runs")
    run(monkeypatch, "classic", *more, *small)  # beside the set that is there
    page = (tmp_path / "bags.md").read_text()
    assert "| classifier | | musk1 | fox |" in page
    numbers = json.loads((tmp_path / "bags-classic.json").read_text())
    score = numbers["sets"]["musk1"]["models"]["max"]["scores"]["accuracy"]["mean"]
    assert f"| max | accuracy | {score:.3f} |" in page
    assert "| attention, its paper | accuracy | 0.892 | 0.615 |" in page
    tests = json.loads((tmp_path / "bags-assumptions.json").read_text())["tests"]
    assert list(tests["poisoned"]) == ["8", "16"]
    aucs = [one["test"] for one in tests["poisoned"]["16"]["max"]]
    assert f"{sum(aucs) / 2:.2f} ({min(aucs):.2f})" in page
    assert "python benchmarks/mil.py digits --seeds 2" in page
    assert "one hidden layer of 64 and a dropout of 0, as chosen on other seeds" in page
    other = ("--data", tmp_path, "--only", "fox", "--repeats", "1", "--runs", tmp_path / "runs")
    run(monkeypatch, "classic", *other, *small, "--epochs", "2")  # not beside other settings
    assert set(json.loads((tmp_path / "bags-classic.json").read_text())["sets"]) == {"fox"}


def test_tiles_of_photos_are_measured_beside_models_of_the_whole_photo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, numbers = tmp_path / "photos", np.random.default_rng(0)
    photos.mkdir()
    rows = ["image,label,mask,split"]
    for number in range(20):
        kind = ("free", "blowhole")[number % 2]
        pixels, mask = numbers.integers(90, 110, (24, 32)), np.zeros((24, 32))
        if kind == "blowhole":
            pixels[8:16, 16:24], mask[8:16, 16:24] = 0, 255
        for name, values in (("photo", pixels), ("mask", mask)):
            Image.fromarray(values.astype(np.uint8)).save(photos / f"{name}{number}.png")
        shown = f"mask{number}.png" if kind == "blowhole" else ""
        rows.append(f"photo{number}.png,{kind},{shown},{'test' if number > 13 else 'train'}")
    (photos / "labels.csv").write_text("\n".join(rows) + "\n")
    row = {"row": "tiles", "seed": 0, "what": "tiles, frozen", "metrics": []}
    row["metrics"] = [{"name": "accuracy", "value": 0.875}, {"name": "nll", "value": 1.0}]
    row["metrics"].append({"name": "balanced_accuracy", "value": 0.75})
    (tmp_path / "photos.json").write_text(json.dumps({"runs": [row, {**row, "row": "other"}]}))
    small = ("--tile", "8", "--image-size", "32", "--backbone", "timm/test_resnet")
    monkeypatch.setattr(mil, "TILING", (*small, "--no-pretrained"))
    run(
        monkeypatch,
        *("tiles", "--data", photos, "--runs", tmp_path / "runs", "--out", tmp_path),
        *("--poolings", "mean", "loss-attention", "--epochs", "20", "--seeds", "2"),
    )
    text = (tmp_path / "bags-tiles.json").read_text()
    assert str(tmp_path) not in text
    found = json.loads(text)
    assert found["bags"] == [14, 6]
    assert found["instances"] == [12, 12]
    scores = found["poolings"]["loss-attention"]["test"]
    assert [one["accuracy"] for one in scores] == [1.0, 1.0]
    assert all(one["instances, evidence"] > 0.9 for one in scores)
    assert [one["instances, weights"] for one in found["poolings"]["mean"]["test"]] == [0.5, 0.5]
    page = (tmp_path / "bags.md").read_text()
    assert "| image model: tiles, frozen | 0.875 (0.875) | 0.750 (0.750) |" in page
    assert "python benchmarks/mil.py tiles --seeds 2 --data FOLDER`" in page
    with pytest.raises(SystemExit):
        run(monkeypatch, "tiles", "--out", tmp_path)


def test_a_pooling_passes_where_its_worst_seed_does() -> None:
    assert mil_page._passed([0.95, 0.91]) == "**0.93 (0.91)**"
    assert mil_page._passed([1.0, 0.88]) == "0.94 (0.88)"


def test_poolings_are_compared_division_by_division() -> None:
    theirs = {"repeats": [0.90, 0.80, 0.85]}
    # Differences of 0.02, 0.04 and 0.03: a mean of 0.03, a standard deviation of 0.01.
    assert mil_page.difference({"repeats": [0.92, 0.84, 0.88]}, theirs) == "**+0.030 ± 0.006**"
    assert mil_page.difference({"repeats": [0.92, 0.78, 0.86]}, theirs) == "+0.003 ± 0.012"
    assert mil_page.difference({"repeats": [0.92]}, {"repeats": [0.90]}) == "+0.020"
