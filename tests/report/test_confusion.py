"""Confusion matrices as people can read them, of a few classes and of many."""

from __future__ import annotations

from pathlib import Path

import pytest
from report.pages import report_of

from loss_attention.report.confusion import MOST_CLASSES, MOST_PAIRS, readable_confusion


def test_a_matrix_has_counts_and_percentages_of_its_rows() -> None:
    counts = {"bee": {"ant": 1, "bee": 3}, "cow": {"dog": 2}}
    found = readable_confusion(counts, ("ant", "bee", "cow", "dog", "elk"))
    assert found is not None
    assert found.columns == ("ant", "bee", "cow", "dog")
    assert [(row.name, row.images) for row in found.rows] == [("bee", 4), ("cow", 2)]
    assert [[cell.images for cell in row.cells] for row in found.rows] == [
        [1, 3, 0, 0],
        [0, 0, 0, 2],
    ]
    assert [[cell.percent for cell in row.cells] for row in found.rows] == [
        [25, 75, 0, 0],
        [0, 0, 0, 100],
    ]
    assert [cell.right for cell in found.rows[0].cells] == [False, True, False, False]
    assert readable_confusion({}, ("ant",)) is None


def test_of_many_classes_the_most_confused_pairs_are_named() -> None:
    names = tuple(f"class {k}" for k in range(MOST_CLASSES + 5))
    counts = {name: {name: 9, names[(k + 1) % len(names)]: k} for k, name in enumerate(names) if k}
    found = readable_confusion(counts, names)
    assert found is not None
    assert found.rows == ()
    assert len(found.pairs) == MOST_PAIRS
    assert found.confused == len(names) - 1
    first = found.pairs[0]
    assert (first.name, first.called, first.images) == (names[-1], names[0], len(names) - 1)
    assert first.percent == pytest.approx(100 * first.images / (first.images + 9))


def test_the_report_has_a_matrix_of_few_classes_and_pairs_of_many(tmp_path: Path) -> None:
    few = report_of(tmp_path / "few", classes=("ant", "bee", "<b>cow"))
    assert "Which classes are taken for which" in few.text
    columns = [one["title"] for one in few.of("th") if one.get("scope") == "col" and "title" in one]
    assert columns == ["ant", "bee", "<b>cow"]
    assert not few.of("b")
    many = report_of(tmp_path / "many", classes=tuple(f"c{k}" for k in range(40)), count=60)
    assert "Of 4" in many.text or "classes, the" in many.text
    assert "confused most often" in many.text
    several = report_of(tmp_path / "several", multi_label=True)
    assert "Which classes are taken for which" not in several.text
