"""Tables of text: separators, encodings, line ends, and rows that are malformed."""

from __future__ import annotations

import csv
import io
import json
import threading
from pathlib import Path

import pandas as pd
import pytest
from data.making import write
from data.refusing import short

from loss_attention.data.formats.tables import Row, open_table
from loss_attention.data.tree import Tree
from loss_attention.errors import InputError

TABLE = "image;label;note\na.png;cat;one, two\nb.png;dog;three\n"
ROWS = [
    {"image": "a.png", "label": "cat", "note": "one, two"},
    {"image": "b.png", "label": "dog", "note": "three"},
]


def read(root: Path, content: str | bytes, name: str = "labels.csv") -> list[Row]:
    write(root / name, content if isinstance(content, bytes) else content.encode())
    tree = Tree(root, (name,), root.joinpath)
    return list(open_table(tree, name, "pets").rows())


def values(root: Path, content: str | bytes, name: str = "labels.csv") -> list[dict[str, str]]:
    rows = read(root, content, name)
    assert not [row.fault for row in rows if row.fault]
    return [dict(row.values) for row in rows]


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
@pytest.mark.parametrize("name", ["labels.csv", "labels.tsv", "labels.txt"])
def test_the_separator_is_told_from_the_header(tmp_path: Path, mark: str, name: str) -> None:
    text = pd.DataFrame(ROWS).to_csv(sep=mark, index=False)
    assert values(tmp_path, text, name) == ROWS


@pytest.mark.parametrize(
    ("content", "label"),
    [
        ("image,label\na.png,cat;dog\n", "cat;dog"),
        ("image;label\na.png;cat,dog\n", "cat,dog"),
        ("image\tlabel\na.png\tcat;dog|owl, elk\n", "cat;dog|owl, elk"),
        ("image,label,a;b;c;d;e\na.png,cat,\n", "cat"),
        ("sep=;\nimage;label\na.png;cat\n", "cat"),
        ("sep=|\r\nimage|label\r\na.png|cat\r\n", "cat"),
        ("image label\na.png cat\n", "cat"),
        ("image    label\na.png    cat\n", "cat"),
        ("'image','label'\n'a.png','cat, dog'\n", "cat, dog"),
        ('"image","label"\n"a.png","cat ""x"""\n', 'cat "x"'),
        ('image, label\na.png, "cat, dog"\n', "cat, dog"),
        (' "Image"; LABEL \na.png;cat\n', "cat"),
        ("\n\n  \nimage,label\n\na.png,cat\n\n", "cat"),
        ("image,label\na.png,cat,\n", "cat"),
        ('image,label\na.png,"cat\ndog"\n', "cat\ndog"),
        ("image,label,x,x\na.png,cat,1,2\n", "cat"),
        (f"image,label,note\na.png,cat,{'x' * 200_000}\n", "cat"),
        (f"image,label\na.png,{'x' * 200_000}\n", "x" * 200_000),
    ],
    ids=short,
)
def test_cells_as_they_stand(tmp_path: Path, content: str, label: str) -> None:
    (row,) = values(tmp_path, content)
    assert (row["image"], row["label"]) == ("a.png", label)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    "encoding",
    ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"],
)
@pytest.mark.parametrize("name", ["labels.csv", "labels.jsonl"])
def test_encodings_and_line_ends(tmp_path: Path, end: str, encoding: str, name: str) -> None:
    rows = [{"image": "a.png", "label": "café"}, {"image": "猫.png", "label": "dog"}]
    if name.endswith("csv"):
        text = pd.DataFrame(rows).to_csv(index=False)
    else:
        text = pd.DataFrame(rows).to_json(orient="records", lines=True, force_ascii=False)
    assert values(tmp_path, text.replace("\n", end).encode(encoding), name) == rows


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1e"])
def test_only_line_ends_end_a_line(tmp_path: Path, mark: str) -> None:
    lines = f'{{"image": "a.png", "label": "x{mark}y"}}\n{{"image": "b.png", "label": "z"}}\n'
    assert [row["label"] for row in values(tmp_path, lines, "x.jsonl")] == [f"x{mark}y", "z"]
    assert [row["label"] for row in values(tmp_path, f"image,label\na,x{mark}y\nb,z\n")] == [
        f"x{mark}y",
        "z",
    ]


@pytest.mark.parametrize("name", ["x.json", "x.jsonl", "x.ndjson"])
def test_json_as_lines_or_as_an_array(tmp_path: Path, name: str) -> None:
    lines = "\n\n".join(map(json.dumps, ROWS))
    for text in (json.dumps(ROWS), json.dumps(ROWS, indent=2), lines, f"  {json.dumps(ROWS)}\n"):
        assert values(tmp_path, text, name) == ROWS


def test_keys_may_differ_from_row_to_row(tmp_path: Path) -> None:
    rows = values(tmp_path, '{"Image": "a.png"}\n{"image": "b.png"}\n', "x.jsonl")
    assert rows == [{"image": "a.png"}, {"image": "b.png"}]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("b.png,dog,x", "row 3 has 3 cells, the header 2: put those with commas into quotes"),
        ('b.png,"dog', "row 3 is malformed: its quotes do not close"),
        ('b.png,"dog"s', "row 3 is malformed: "),
    ],
)
def test_malformed_rows_of_csv(tmp_path: Path, row: str, said: str) -> None:
    rows = read(tmp_path, f"image,label\na.png,cat\n{row}\n")
    assert [f"row {row.number} {row.fault}".startswith(said) for row in rows] == [False, True]
    assert rows[0].values == {"image": "a.png", "label": "cat"}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{oops", "is not valid JSON: "),
        ("[" * 100_000, "is not valid JSON: it is nested too deeply"),
        ('{"a": ' * 100_000, "is not valid JSON: it is nested too deeply"),
        ('{"label": ' + "1" * 5000 + "}", "is not valid JSON: it holds a number of 5,000 digits"),
        ('{"label": 1, "label": 2}', "is not valid JSON: it has 'label' twice"),
        ('{"label": 1, "Label": 2}', "has label twice"),
        ("3", 'is not a JSON object, {"image": ..., "label": ...}, but 3'),
        ('["a.png", "cat"]', "is not a JSON object"),
    ],
    ids=short,
)
def test_malformed_rows_of_json(tmp_path: Path, line: str, said: str) -> None:
    sound = '{"image": "a.png", "label": "cat"}\n' * 30
    rows = read(tmp_path, f"{sound}{line}\n{sound}", "x.jsonl")
    assert [row.number for row in rows if row.fault] == [31]
    assert rows[30].fault.startswith(said)
    assert len(rows[30].fault) < 400


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.csv", "image,label\na.png,café\n".encode("latin-1"), "is not UTF-8 text ("),
        ("x.csv", "image,label\na.png,cat\n".encode("utf-16")[:-1], "is not UTF-16 text ("),
        ("x.csv", b"image,label\na.png,c\0t\n", "holds zero bytes, in line 2"),
        ("x.csv", b"image,label,Label\na.png,cat,dog\n", "has the column label twice"),
        ("x.csv", b'"image,label\na.png,cat\n', "row 1 is malformed"),
        ("x.json", b'[{"image": "a.png"}, {', "is not valid JSON: "),
        ("x.jsonl", b"[" * 100_000, "is nested too deeply"),
    ],
    ids=short,
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, content, name)
    assert str(caught.value).startswith(f"pets: {name} ")
    assert said in str(caught.value)
    assert len(str(caught.value)) < 400


def test_an_empty_file_has_no_rows(tmp_path: Path) -> None:
    assert read(tmp_path, b"") == read(tmp_path, b"\n \n") == read(tmp_path, b"", "x.jsonl") == []


def test_long_cells_leave_the_limit_of_others_as_it_was(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    long = f"image,label\na.png,{'x' * (2 * before)}\n"
    found: list[int] = []

    def run(i: int) -> None:
        found.append(len(values(tmp_path / str(i), long)[0]["label"]))

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [2 * before] * 4
    assert csv.field_size_limit() == before
    with pytest.raises(csv.Error):
        list(csv.reader(io.StringIO(long)))
