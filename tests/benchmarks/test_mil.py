"""`benchmarks/mil.py`: what it measures of a few small classifiers, and its page."""

from __future__ import annotations

import json
from pathlib import Path

import mil
import pandas as pd
import pytest

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
    monkeypatch.setattr(mil, "TRAINED", 8)
    monkeypatch.setattr(mil, "TESTED", 8)
    monkeypatch.setattr(mil, "DIGIT_BAGS", (8,))
    table(digit_bags(40, seed=0), tmp_path / "musk1.parquet")
    small = ("--poolings", "max", "--epochs", "1", "--out", tmp_path)
    run(monkeypatch, "assumptions", "--seeds", "2", *small)
    run(monkeypatch, "digits", "--seeds", "2", *small)
    classic = ("--data", tmp_path, "--only", "musk1", "--repeats", "1", "--runs", tmp_path / "runs")
    run(monkeypatch, "classic", *classic, *small)
    page = (tmp_path / "bags.md").read_text()
    numbers = json.loads((tmp_path / "bags-classic.json").read_text())
    score = numbers["sets"]["musk1"]["models"]["max"]["scores"]["accuracy"]["mean"]
    assert f"| max | accuracy | {score:.3f} |" in page
    assert "| attention, its paper | accuracy | 0.892 |" in page
    tests = json.loads((tmp_path / "bags-assumptions.json").read_text())["tests"]
    aucs = [one["test"] for one in tests["poisoned"]["max"]]
    assert f"{sum(aucs) / 2:.2f} ({min(aucs):.2f})" in page
    assert "python benchmarks/mil.py digits --seeds 2" in page


def test_a_pooling_passes_where_its_worst_seed_does() -> None:
    assert mil._passed([0.95, 0.91]) == "**0.93 (0.91)**"
    assert mil._passed([1.0, 0.88]) == "0.94 (0.88)"
