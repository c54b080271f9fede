"""Pascal VOC as tools and people write it: encodings, names, lists, and what is malformed."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from data.formats.test_voc import official, xml
from data.making import png, text, write
from data.refusing import load, refusal

A = "Annotations/a.xml"
CAT = [("cat", (2, 3, 4, 5))]


def described(inside: str, head: str = "") -> bytes:
    """Return an XML file of the text within its root."""
    return f"{head}<annotation>{inside}</annotation>".encode()


def box(x0="1", y0="1", x1="3", y1="3") -> str:
    return f"<bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox>"


def an_object(inside: str = "", name: str = "<name>dog</name>") -> str:
    return f"<object>{name}{inside or box()}</object>"


@pytest.mark.parametrize(
    ("encoding", "declared"),
    [
        ("gb2312", "gb2312"),
        ("gbk", "GB2312"),  # as most files that say so
        ("gb18030", "gb18030"),
        ("big5", "big5"),
        ("utf-8", "utf-8"),
        ("utf-8-sig", "UTF-8"),
        ("utf-8", None),
        ("utf-8-sig", None),
        ("utf-16", "utf-16"),
        ("utf-16-le", None),
        ("utf-16-be", "UTF-16"),
        ("utf-32", "utf-32"),
    ],
)
def test_encodings(tmp_path: Path, encoding: str, declared: str | None) -> None:
    root = official(tmp_path)
    name = "猫" if encoding not in ("gbk", "big5") else "貓"  # gb2312 lacks the second
    head = f"<?xml version='1.0' encoding='{declared}'?>\n" if declared else ""
    content = head + described(an_object() + an_object(name=f"<name>{name}</name>")).decode()
    write(root / A, content.encode(encoding))
    assert load(root).train.class_names == ("cat", "dog", name)


def test_latin_1(tmp_path: Path) -> None:
    head = "<?xml version='1.0' encoding='ISO-8859-1'?>"
    content = head + described(an_object() + an_object(name="<name>Käse</name>")).decode()
    root = official(tmp_path)
    write(root / A, content.encode("latin-1"))
    assert load(root).train.class_names == ("Käse", "cat", "dog")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            b"<annotation>\xb0\xa1</annotation>",
            "is not text in the encoding 'utf-8', and declares no other",
        ),
        (
            b"<?xml encoding='gbk'?><annotation>\xff\xff</annotation>",
            "is not text in the encoding 'gbk'",
        ),
        (b"<?xml version='1.0' encoding='bogus'?><annotation/>", "declares the encoding 'bogus'"),
        (b"<?xml version='1.0' encoding='hex'?><annotation/>", "declares the encoding 'hex'"),
        (b"<?xml version='1.0' encoding=''?><annotation/>", "declares the encoding ''"),
        (b"<?xml version='1.0' encoding='utf-16'?><annotation/>", "declares the encoding 'utf-16'"),
        (b"<?xml version='1.0' encoding='punycode'?><annotation/>", "encoding 'punycode'"),
        (b"<?xml version='1.0' encoding='\x1b[31m'?><annotation/>", r"encoding '\x1b[31m'"),
        (b"", "is not valid XML: no element found"),
        (b"<annotation><object>", "is not valid XML: "),
        (b"<annotation>\x00\x01</annotation>", "is not valid XML: "),
        (b"<v:annotation></v:annotation>", "is not valid XML: unbound prefix"),
        (b"<annotation>&cat;</annotation>", "is not valid XML: undefined entity"),
        (b"<!DOCTYPE annotation><annotation/>", "holds a DOCTYPE or entities"),
        (
            b"<!DOCTYPE annotation SYSTEM 'file:///etc/passwd'><annotation/>",
            "holds a DOCTYPE or entities",
        ),
        (
            b"<!DOCTYPE a [<!ENTITY a 'ha'><!ENTITY b '&a;&a;&a;'>]><annotation>&b;</annotation>",
            "holds a DOCTYPE or entities",
        ),
        (b"<annotations><image/></annotations>", "holds 'annotations', not VOC's annotation"),
        (b"<results/>", "holds 'results', not VOC's annotation"),
        (b"<annotation>" + b"<a>" * 100_000, "is not valid XML: "),
        (described(f"<objects>{an_object()}</objects>"), "holds an object within another element"),
        (described("<object><name>dog</name></object>"), "object 1 has no bndbox of four numbers"),
        (described(an_object(name="")), "object 1 has no name"),
        (described(an_object(name="<name/>")), "object 1 has no name"),
        (described(an_object(name="<name> \n </name>")), "object 1 has no name"),
        (described(an_object() + an_object(name="")), "object 2 has no name"),
        (described(an_object(name="<name>a</name><name>b</name>")), "has more than one name"),
        (described(an_object(box() + box())), "object 1 has more than one bndbox"),
        (described(an_object(box(x0="5", x1="2"))), "object 1: box (4, 0, 2, 3) has x1 < x0"),
        (described(an_object(box(x0="nan"))), "object 1: box (nan, 0, 3, 3) holds no numbers"),
        (described(an_object(box(x1="1e999"))), "object 1: box (0, 0, inf, 3) holds no numbers"),
        (described(an_object(box(x1="9" * 400))), "object 1: box (0, 0, inf, 3) holds no numbers"),
        (described(an_object(box(x1="900"))), "object 1: box (0, 0, 900, 3) lies outside"),
        (described(an_object(box(x1=""))), "object 1 has no bndbox of four numbers"),
        (described(an_object(box(x1="1,5"))), "object 1 has no bndbox of four numbers"),
        (described(an_object(box(x1="1_5"))), "object 1 has no bndbox of four numbers"),
        (
            described("<object><name>dog</name><robndbox><cx>1</cx></robndbox></object>"),
            "object 1 has no bndbox of four numbers",
        ),
        (described("<size><width>x</width><height>6</height></size>"), "are not numbers of pixels"),
        (described("<size><width>-8</width><height>6</height></size>"), "not numbers of pixels"),
        (
            described("<size><width>999999</width><height>999999</height></size>"),
            "pixels are more than an image may have",
        ),
    ],
)
def test_a_malformed_file_is_named_and_its_image_left_out(
    tmp_path: Path, content: bytes, said: str
) -> None:
    root = official(tmp_path)
    text(root / "ImageSets" / "Main" / "train.txt", "a", "b", "d")
    write(root / "Annotations" / "d.xml", xml("d", [("dog", (1, 1, 2, 2)), *CAT]))
    write(root / A, content)
    line = refusal(root)
    assert A in line
    assert said in line
    assert len(line) < 600
    assert load(root, skip_broken=True).train.names == ("JPEGImages/b.png", "JPEGImages/d.png")


@pytest.mark.parametrize("prefix", ["", "v:"])
def test_namespaces_are_ignored(tmp_path: Path, prefix: str) -> None:
    root = official(tmp_path)
    plain = load(root).train
    for file in root.rglob("*.xml"):
        content = file.read_text().replace("</", "\0").replace("<", f"<{prefix}")
        content = content.replace("\0", f"</{prefix}")
        mark = f"xmlns{prefix and ':v'}='http://example.org/voc'"
        file.write_text(content.replace("annotation>", f"annotation {mark}>", 1))
    assert load(root).train.fingerprint() == plain.fingerprint()


def test_numbers_and_parts(tmp_path: Path) -> None:
    """Floats are read as they are; a part's box and name are not the object's."""
    root = official(tmp_path)
    part = f"<part><name>head</name>{box('7', '5', '8', '6')}</part>"
    float_box = box(" 1.5 ", "2.25", "3e0", "\n4.75\n")
    write(root / A, described(an_object(part + float_box) + an_object(name="<name> cat\n</name>")))
    train = load(root).train
    assert train.class_names == ("cat", "dog")
    assert train.boxes[0].tolist() == [[0.5, 1.25, 3, 4.75], [0, 0, 3, 3]]


def loose(root: Path, files: dict[str, str], images: dict[str, int]) -> Path:
    """Write XML files, each of the filename given, and images, each of the level given."""
    for name, filename in files.items():
        inside = an_object() + an_object(name="<name>cat</name>")
        said = f"<filename>{filename}</filename>" if filename else ""
        write(root / name, described(said + inside))
    for name, level in images.items():
        write(root / name, png(level, (8, 6)))
    return root


@pytest.mark.parametrize(
    "filename",
    [
        "photo.png",
        "photo",  # without suffix
        "photo.jpg",  # of another suffix
        " photo.png\n",
        "./photo.png",
        "images/photo.png",
        "../images/photo.png",
        "images\\photo.png",
        "C:\\data\\images\\photo.png",
        "/mnt/images/photo.png",
    ],
)
def test_an_image_that_the_filename_says(tmp_path: Path, filename: str) -> None:
    root = loose(
        tmp_path,
        {"labels/1.xml": filename, "labels/2.xml": "2.png"},
        {"images/photo.png": 5, "images/2.png": 6},
    )
    splits = load(root)
    assert sorted(splits.train.names + splits.test.names) == ["images/2.png", "images/photo.png"]


@pytest.mark.parametrize("filename", ["", "gone.png", "old/name.jpg", "..", "/", "a\x7f/\u2028"])
def test_a_filename_that_says_nothing(tmp_path: Path, filename: str) -> None:
    root = loose(tmp_path, {"1.xml": filename, "2.xml": ""}, {"1.png": 5, "2.png": 6})
    splits = load(root)
    assert sorted(splits.train.names + splits.test.names) == ["1.png", "2.png"]


def test_copies_that_keep_the_filename_of_the_first(tmp_path: Path) -> None:
    """As augmentation leaves them: the name of the file decides."""
    files = {"a.xml": "a.png", "a_flipped.xml": "a.png", "b.xml": "b.png"}
    root = loose(tmp_path, files, {"a.png": 1, "a_flipped.png": 2, "b.png": 3})
    splits = load(root)
    assert sorted(splits.train.names + splits.test.names) == ["a.png", "a_flipped.png", "b.png"]
    (root / "a_flipped.png").unlink()
    assert "a_flipped.xml: its image a.png is missing" in refusal(root)


def test_two_images_of_one_name(tmp_path: Path) -> None:
    root = loose(
        tmp_path,
        {"x/1.xml": "1.png", "x/2.xml": "2.png"},
        {"y/1.jpg": 1, "y/1.png": 2, "y/2.png": 3},
    )
    line = refusal(root)
    assert "the image y/1.jpg has no annotation in any XML file" in line
    assert "y/1.png" not in line


@pytest.mark.parametrize(
    ("files", "images", "said"),
    [
        (
            {"1.xml": "0.png", "0.xml": "x.png"},
            {"0.png": 1, "1.png": 2, "x.png": 3},
            "1.xml is of 1.png by its name, and of 0.png by its filename",
        ),
        (
            {"1.xml": "photo.png", "2.xml": "2.png"},
            {"photo.png": 1, "1.png": 2, "2.png": 3},
            "1.xml is of 1.png by its name, and of photo.png by its filename",
        ),
        (
            {"1.xml": "photo.png", "2.xml": "photo.png"},
            {"photo.png": 1},
            "2.xml: its image photo.png is that of 1.xml too",
        ),
        ({"1.xml": "\x9b31m.png"}, {"2.png": 1}, r"1.xml: its image \x9b31m.png is missing"),
    ],
)
def test_what_cannot_be_told(tmp_path: Path, files, images, said: str) -> None:
    assert said in refusal(loose(tmp_path, files, images))


@pytest.mark.parametrize(
    "lines",
    [
        ["my cat 1", "b"],
        ["my cat 1.png", "b.png"],
        ["my cat 1.xml", "b.xml"],
        ["JPEGImages/my cat 1.png", "JPEGImages\\b.png"],
        ["  my cat 1\t", "", "b", ""],
        ["my cat 1  1", "b -1"],
        ["my cat 1", "b\t-1"],
        ["my cat 1 \rb  1"],
        ["my cat 1 0", "b\t+1"],
    ],
)
def test_names_in_lists(tmp_path: Path, lines: list[str]) -> None:
    root = official(tmp_path)
    for folder, suffix in (("JPEGImages", "png"), ("Annotations", "xml")):
        (root / folder / f"a.{suffix}").rename(root / folder / f"my cat 1.{suffix}")
    text(root / "ImageSets" / "Main" / "train.txt", *lines)
    assert load(root).train.names == ("JPEGImages/my cat 1.png", "JPEGImages/b.png")


def test_several_names_in_a_line_and_twice(tmp_path: Path) -> None:
    root = official(tmp_path)
    text(root / "ImageSets" / "Main" / "train.txt", "a b", "a")
    assert load(root).train.names == ("JPEGImages/a.png", "JPEGImages/b.png")


def test_lists_of_classes_alone(tmp_path: Path) -> None:
    root = official(tmp_path)
    lists = root / "ImageSets" / "Main"
    for name in ("train", "val"):
        (lists / f"{name}.txt").unlink()
    text(lists / "dog_train.txt", "a  1", "b -1")
    text(lists / "cat_train.txt", "a  1", "b  0")
    text(lists / "cat_val.txt", "c -1")
    splits = load(root)
    assert splits.train.names == ("JPEGImages/a.png", "JPEGImages/b.png")
    assert splits.test.names == ("JPEGImages/c.png",)


def test_lists_of_two_years(tmp_path: Path) -> None:
    for year in ("VOC2007", "VOC2012"):
        official(tmp_path / "VOCdevkit" / year)
    splits = load(tmp_path)
    assert splits.train.names == tuple(
        f"{year}/JPEGImages/{name}.png" for year in ("VOC2007", "VOC2012") for name in "ab"
    )
    assert "2 XML files in no list of ImageSets/Main left out" in splits.notes


def test_empty_lists(tmp_path: Path) -> None:
    root = official(tmp_path)
    for file in (root / "ImageSets" / "Main").iterdir():
        write(file, b"\n")
    assert "ImageSets/Main/dog_train.txt and the lists beside it are empty" in refusal(root)


def test_in_an_archive(tmp_path: Path) -> None:
    root = official(tmp_path / "made")
    head = "<?xml version='1.0' encoding='gb2312'?>"
    said = "<filename>JPEGImages\\b.png</filename>"
    (root / "Annotations" / "b.xml").rename(root / "Annotations" / "other.xml")
    content = head + described(said + an_object(name="<name>猫</name>")).decode()
    write(root / "Annotations" / "other.xml", content.encode("gb2312"))
    text(root / "ImageSets" / "Main" / "train.txt", "a", "other")
    with zipfile.ZipFile(tmp_path / "voc.zip", "w") as archive:
        for file in root.rglob("*.*"):
            archive.write(file, f"set/{file.relative_to(root)}")
    splits = load(tmp_path / "voc.zip")
    assert splits.train.names == ("JPEGImages/a.png", "JPEGImages/b.png")
    assert splits.train.class_names == ("cat", "dog", "猫")


def test_a_file_in_utf_16_is_not_another_layout(tmp_path: Path) -> None:
    root = loose(tmp_path, {"cat/1.xml": "", "cat/2.xml": ""}, {"cat/1.png": 1, "cat/2.png": 2})
    for file in root.rglob("*.xml"):
        file.write_bytes(file.read_text().encode("utf-16"))
    assert load(root).train.class_names == ("cat", "dog")


def test_a_huge_file_is_refused(tmp_path: Path) -> None:
    root = official(tmp_path)
    with (root / A).open("wb") as file:
        file.write(b"<annotation>")
        file.truncate(2**27)  # of zeros that take no room
    assert f"{A} is of 134,217,728 bytes" in refusal(root)
