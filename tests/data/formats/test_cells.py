"""What cells of tables say: labels and boxes, in the ways that people and programs write them."""

from __future__ import annotations

import io
import math
from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd
import pytest
from data.refusing import short

from loss_attention.data.formats.cells import (
    CellError,
    NoLabelError,
    read_boxes_cell,
    read_label,
    read_labels_cell,
)

BOTH = ["cat", "dog"]


@pytest.mark.parametrize(
    "cell",
    [
        *("cat;dog", "cat|dog", " cat ; dog ", "cat;dog;", "'cat';'dog'", '"cat"|"dog"'),
        *("['cat', 'dog']", '["cat","dog"]', "[cat, dog]", "[u'cat', u'dog']", "['cat', \"dog\"]"),
        *("('cat', 'dog')", "('cat', 'dog',)", "{cat,dog}", '{"cat","dog"}', '{cat,"dog"}'),
        *("  ['cat' , 'dog' ]  ", "['cat'\n 'dog']", BOTH, ("cat", "dog"), [" cat ", "dog"]),
        *(str(BOTH), str(tuple(BOTH)), str(np.array(BOTH)), str(np.array(BOTH, dtype=object))),
    ],
)
def test_several_labels_in_any_notation(cell: Any) -> None:
    assert read_labels_cell(cell).labels == BOTH


@pytest.mark.parametrize(
    ("cell", "labels"),
    [
        ("cat", ["cat"]),
        ("polar bear", ["polar bear"]),
        ("['cat']", ["cat"]),
        ("[polar bear]", ["polar bear"]),
        ("[]", []),
        ("{}", []),
        ("()", []),
        ([], []),
        ("[1, 2]", [1, 2]),
        (str(np.array([1, 2])), ["1", "2"]),
        (str(np.array([1.0, 2.0])), ["1.", "2."]),
        ("(1, 2)", ["1", "2"]),
        ("cat;dog;cat", ["cat", "dog", "cat"]),
        # A text in quotes of its own, and entries of lists, are what they are.
        ('"tench, Tinca tinca"', ["tench, Tinca tinca"]),
        ("'a;b'", ["a;b"]),
        ('"None"', ["None"]),
        ('"[x]"', ["[x]"]),
        ('"say ""hi"""', ['say "hi"']),
        ('["tench, Tinca tinca"]', ["tench, Tinca tinca"]),
        (["a, b", "c;d"], ["a, b", "c;d"]),
        ("['caf\\xe9']", ["café"]),
        ('["caf\\u00e9"]', ["café"]),
        ('["Don\'t"]', ["Don't"]),
        ("it's", ["it's"]),
        ("'tis", ["'tis"]),
        ("(left) lung", ["(left) lung"]),
        ("[1] cat", ["[1] cat"]),
        ("cat & dog", ["cat & dog"]),
        ("none", ["none"]),
        (3, [3]),
        (2.0, [2.0]),
        (True, [True]),
    ],
)
def test_labels_as_they_are_meant(cell: Any, labels: list[Any]) -> None:
    assert read_labels_cell(cell).labels == labels


def test_a_list_of_one_is_a_list_and_a_text_is_none() -> None:
    assert read_labels_cell("['cat']").several
    assert read_labels_cell(["cat"]).several
    assert not read_labels_cell('"cat"').several


@pytest.mark.parametrize(
    "cell",
    [
        *(
            "cat,dog",
            "cat, dog",
            "tench, Tinca tinca",
            "a,b;c",
            '"cat","dog"',
            "猫\uff0c狗",
            "قط، كلب",
        ),
        *("cat\ndog", "cat\tdog", "set()", "array(['a'], dtype=object)", "frozenset({'a'})"),
        *(
            "['cat', 'dog'",
            "['Don't']",
            "[0 1 ... 7]",
            "['a' 'b' ... 'z']",
            "{cat: 1}",
            "[a] b [c]",
        ),
        *("{'cat': 1}", '{"cat": 1}', "[['cat'], ['dog']]", "[[1]]", "1,5"),
        *([["cat"]], {"cat": 1}, [{"a": 1}], b"cat", math.inf, -math.inf, [math.inf], "[" * 10**5),
    ],
    ids=short,
)
def test_what_can_be_read_in_two_ways_or_is_no_label(cell: Any) -> None:
    if cell == "[" * 10**5:
        assert read_labels_cell(cell).labels == [cell]
        cell += "]" * 10**5
    with pytest.raises(CellError) as caught:
        read_labels_cell(cell)
    assert not isinstance(caught.value, NoLabelError)
    assert len(str(caught.value)) < 400
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("word", ["", "NA", "N/A", "nan", "NaN", "null", "NULL", "None", "<NA>"])
def test_the_words_that_pandas_reads_as_missing_say_that_there_is_no_label(word: str) -> None:
    frame = pd.read_csv(io.StringIO(f"image,label\na.png,{word}\n"))
    assert frame["label"].isna().all()
    for cell in (word, f"  {word} ", [word], f"['cat', {word or None}]", f"cat;{word};dog"):
        with pytest.raises(NoLabelError):
            read_labels_cell(cell)


@pytest.mark.parametrize(
    "cell", [None, math.nan, [None], ["cat", math.nan], '["cat", null]', "[NaN]", "[nan, 'cat']"]
)
def test_missing_values_of_data(cell: Any) -> None:
    with pytest.raises(NoLabelError):
        read_labels_cell(cell)
    with pytest.raises(NoLabelError):
        read_label(None)


@pytest.mark.parametrize(
    "cell",
    [
        *("12 30 80 96", "12,30,80,96", "[12, 30, 80, 96]", "(12, 30, 80, 96)", "[12 30 80 96]"),
        *("[[12, 30, 80, 96]]", "[(12, 30, 80, 96)]", "12 30 80 96;", "1.2e1 30. +80 96"),
        *([12, 30, 80, 96], [[12, 30, 80, 96]], ["12", "30", "80", "96"], ((12, 30, 80, 96),)),
        str(np.array([12, 30, 80, 96])),
    ],
)
def test_a_box(cell: Any) -> None:
    assert read_boxes_cell(cell) == [(12, 30, 80, 96)]


@pytest.mark.parametrize(
    "cell", ["12 30 80 96;5 5 40 60", "[[12,30,80,96],[5,5,40,60]]", "12,30,80,96|5,5,40,60"]
)
def test_several_boxes(cell: str) -> None:
    assert read_boxes_cell(cell) == [(12, 30, 80, 96), (5, 5, 40, 60)]


@pytest.mark.parametrize("cell", ["", " ", "nan", "None", "[]", [], None, math.nan])
def test_no_box(cell: Any) -> None:
    assert read_boxes_cell(cell) == []


@pytest.mark.parametrize(
    "cell",
    [
        *("1 2 3", "1 2 3 4 5", "x", "1 2 x 4", "inf 0 1 1", "0 0 nan 1", "1e400 0 1 1", "1;2;3;4"),
        *("1_0 2 3 4", "{'x': 1}", "[[1,2,3,4]", "1 2 3 4;;1 2 3 4", "True 0 1 1", "[" * 10**5),
        *(5, True, {"x": 1}, [1, 2, 3], [1, 2, [3], 4], [True, 0, 1, 1], [None] * 4, [[]]),
        *([1, 2, math.nan, 4], [1, 2, math.inf, 4], [10**400, 1, 2, 3], [[1, 2, 3, 4], None]),
    ],
    ids=short,
)
def test_what_is_no_box(cell: Any) -> None:
    with pytest.raises(CellError, match="a box is four numbers, x0 y0 x1 y1, not") as caught:
        read_boxes_cell(cell)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "cell",
    ["'a;" * 10**5, "a" + " " * 10**6 + "b", "\"';" * 10**5, "['a'," * 10**5],
    ids=short,
)
def test_long_cells_take_no_longer_than_their_length(cell: str) -> None:
    with suppress(CellError):
        read_labels_cell(cell)
