"""Tables beside images: read, or refused, or named as not used; never passed over silently."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from data.making import image_folder, parquet, stored, text, write
from data.refusing import load, refusal
from typed import exit_code


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Two class folders whose names are not the labels."""
    return image_folder(tmp_path, {f"{name}/id_{i}.png": i for name in "xy" for i in range(3)})


def lines(mark: str = ",", header: str = "image,label") -> list[str]:
    pairs = [f"{name}/id_{i}.png,{'cat' if i else 'dog'}" for name in "xy" for i in range(3)]
    return [line.replace(",", mark) for line in (header, *pairs)]


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
@pytest.mark.parametrize("name", ["labels.csv", "labels.tsv", "anything.csv", "labels.txt"])
def test_the_table_is_read_and_not_the_folders(folders: Path, mark: str, name: str) -> None:
    text(folders / name, *lines(mark))
    assert load(folders).train.class_names == ("cat", "dog")


@pytest.mark.parametrize("name", ["labels.json", "labels.jsonl", "metadata.jsonl", "x.ndjson"])
@pytest.mark.parametrize("array", [False, True])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_json_is_read(folders: Path, name: str, array: bool, encoding: str) -> None:
    rows = [dict(zip(("image", "label"), line.split(","), strict=True)) for line in lines()[1:]]
    content = json.dumps(rows) if array else "\n".join(map(json.dumps, rows))
    write(folders / name, content.encode(encoding))
    assert load(folders).train.class_names == ("cat", "dog")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("labels.csv", "", "labels.csv is empty"),
        ("labels.csv", "image,label\n", "labels.csv lists no images"),
        ("metadata.jsonl", "", "metadata.jsonl is empty"),
        (
            "labels.csv",
            "Bild;Klasse\nx/id_0.png;cat\n",
            "it has Bild, Klasse. Images may be called",
        ),
        ("any.csv", "Bild;Klasse\nx/id_0.png;cat\n", "it has Bild, Klasse. Images may be called"),
        ("any.csv", "id,diagnosis\nid_0,cat\nid_1,dog\n", "it has id, diagnosis"),
        ("train.csv", "id,diagnosis\n5,cat\n", "it has id, diagnosis"),
        ("my_annotations.csv", "a,b\n1,2\n", "it has a, b"),
        ("any.csv", "x/id_0.png,cat\n", "begins with an image and not with names of columns"),
        ("any.csv", "image,breed\nx/id_0.png,cat\n", "has no label column among image, breed"),
        ("any.csv", "image,class,target\nx/id_0.png,a,b\n", "several label columns, class, target"),
        ("any.csv", "image,label,label\nx/id_0.png,a,b\n", "has the column label twice"),
        ("labels.jsonl", '["x/id_0.png", "cat"]\n', "row 1 is not a JSON object"),
        ("labels.jsonl", "{oops\n", "labels.jsonl row 1 is not valid JSON"),
        ("labels.jsonl", '{"bild": "x/id_0.png", "label": 1}\n', "is not a table of images"),
        ("labels.json", '{"x/id_0.png": "cat"}', "is not a table of images"),
        ("labels.json", '{"image": ["x/id_0.png"], "label": ["cat"]}', "is not a table of images"),
        ("annotations.json", '{"data": [{"name": "x/id_0.png"}]}', "is not a table of images"),
        ("labels.xlsx", "PK", "labels.xlsx is a table in a format that is not read"),
        ("labels.csv.gz", "PK", "labels.csv.gz is a table in a format that is not read"),
        ("train.txt", "x/id_0.png 1\nx/id_1.png 2\n", "train.txt is not a CSV"),
        ("any.jsonl", '[{"image": "x/id_0.png"}, {', "any.jsonl is not valid JSON"),
        ("any.csv", '"image,label\nx/id_0.png,cat\n', "row 1 is malformed"),
        ("any.json", '{"x/id_0.png": "cat", "y/id_1.png": "dog"}', "is not a table of images"),
        ("any.jsonl", '["x/id_0.png", "cat"]\n', "row 1 is not a JSON object"),
        ("sub/labels.csv", "a,b\n1,2\n", "sub/labels.csv is not a CSV"),
    ],
)
def test_what_is_there_and_not_understood_is_refused(
    folders: Path, name: str, content: str, said: str
) -> None:
    text(folders / name, *content.splitlines())
    found = refusal(folders)
    assert name in found
    assert said in found
    assert len(found) < 700
    assert exit_code("data", "check", folders) == 2


@pytest.mark.parametrize("name", ["labels.csv", "pets.csv"])
def test_text_in_another_encoding_is_refused(folders: Path, name: str) -> None:
    write(folders / name, "image,label\nx/id_0.png,café\n".encode("latin-1"))
    assert f"{name} is not UTF-8 text" in refusal(folders)
    assert "save it as UTF-8" in refusal(folders)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("results.csv", b"epoch,loss\n1,0.5\n2,0.4\n"),
        ("results.csv", b"class,precision\nx,0.5\ny,0.4\n"),
        ("results.csv", b""),
        ("results.csv", "run,note\n1,schön\n".encode("latin-1")),
        ("results.csv", b"\0\1\2"),
        ("log.jsonl", b'{"epoch": 1, "loss": 0.5}\n'),
        ("budget.xlsx", b"PK"),
        ("x/boxes.csv", b"Filename,ClassId\nid_0.png,1\n"),
    ],
)
def test_other_tables_beside_class_folders_are_said(
    folders: Path, name: str, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    write(folders / name, content)
    splits = load(folders)
    assert splits.train.class_names == ("x", "y")
    said = f"1 table not used, without columns of images and labels: {name}"
    assert said in splits.notes
    assert exit_code("data", "check", folders) == 0
    assert said in capsys.readouterr().out


@pytest.mark.parametrize("name", ["README.txt", "classes.txt", "config.json", "LICENSE"])
def test_what_is_no_table_is_not_spoken_of(folders: Path, name: str) -> None:
    text(folders / name, '{"icon": "x/id_0.png"}' if name.endswith("json") else "see a.png")
    assert not load(folders).notes


def test_folders_that_are_no_classes(tmp_path: Path) -> None:
    image_folder(tmp_path, {f"{name}/{i}.png": i for name in ("images", "masks") for i in range(3)})
    text(tmp_path / "data.csv", "id,diagnosis", "0,cat", "1,dog")
    assert "data.csv is not a CSV or JSON-lines file with a column of images" in refusal(tmp_path)


def test_loose_images(tmp_path: Path) -> None:
    image_folder(tmp_path, {f"{i}.png": i for i in range(3)})
    text(tmp_path / "data.csv", "id,diagnosis", "0,cat", "1,dog")
    assert "data.csv is not a CSV or JSON-lines file with a column of images" in refusal(tmp_path)


def test_parquet_beside_another_table(tmp_path: Path) -> None:
    parquet(tmp_path / "train.parquet", {"image": stored(*range(4)), "label": [0, 1] * 2})
    text(tmp_path / "results.csv", "epoch,loss", "1,0.5")
    assert load(tmp_path).train.class_names == ("0", "1")


def test_in_an_archive(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    text(folders / "labels.csv", *lines(";"))
    archive = tmp_path_factory.mktemp("archive") / "pets"
    shutil.make_archive(str(archive), "zip", folders)
    assert load(f"{archive}.zip").train.class_names == ("cat", "dog")


def test_a_list_of_classes_beside_the_labels(folders: Path) -> None:
    text(folders / "labels.csv", *lines())
    text(folders / "class_labels.csv", "number,name", "0,cat", "1,dog")
    assert load(folders).train.class_names == ("cat", "dog")
    assert any("class_labels.csv" in note for note in load(folders).notes)


def test_a_test_table_that_is_not_understood(folders: Path) -> None:
    text(folders / "train.csv", *lines())
    text(folders / "test.csv", "id,x", "id_1,5")
    assert "test.csv is not a CSV or JSON-lines file with a column of images" in refusal(folders)


def test_two_tables_of_the_same_images(folders: Path) -> None:
    text(folders / "labels.csv", *lines())
    text(folders / "predictions.csv", "image,label", "x/id_0.png,dog")
    said = refusal(folders)
    assert "predictions.csv and labels.csv both list x/id_0.png; keep one of them" in said
    assert load(folders / "labels.csv").train.class_names == ("cat", "dog")


def test_an_empty_test_table(folders: Path) -> None:
    text(folders / "train.csv", *lines())
    text(folders / "test.csv", "image,label")
    assert "test.csv lists no images" in refusal(folders)


def test_a_results_table_beside_the_labels(folders: Path) -> None:
    text(folders / "labels.csv", *lines())
    text(folders / "scores.csv", "sample,score", "x/id_0.png,0.5")
    assert load(folders).train.class_names == ("cat", "dog")
    assert any("scores.csv" in note for note in load(folders).notes)
