"""Bags in a folder of files: what a CSV or folders say of them, and training from the files."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from bags.bag_files import change, features, folder, places, write
from typed import complaint, run

from loss_attention.bags.bag_set import feature_statistics
from loss_attention.bags.division import of_classes
from loss_attention.bags.reading import read_bags
from loss_attention.bags.recipe import BagRunRecipe
from loss_attention.errors import InputError


@pytest.mark.parametrize("ending", [".h5", ".pt", ".npy", ".safetensors", ".zarr"])
def test_bags_have_what_their_csv_says(ending: str, tmp_path: Path) -> None:
    bags = read_bags(str(folder(tmp_path, ending=ending)))
    assert bags.names == ("s0", "s1", "s2", "s3")
    assert bags.class_names == ("normal", "tumour")
    assert bags.labels.tolist() == [0, 1, 0, 1]
    assert bags.sizes.tolist() == [3, 5, 2, 4]
    assert bags.groups is not None
    assert bags.groups.tolist() == [0, 0, 1, 1]
    assert bags.splits == ("train", "train", "test", "test")
    np.testing.assert_array_equal(bags.subset([3]).features(0, 1), features(4, seed=3)[1:])
    if ending != ".npy":
        np.testing.assert_array_equal(bags.coordinates(1), places(5))
    assert bags.location(2) == f"s2{ending}"


def test_names_are_found_by_what_files_are_called(tmp_path: Path) -> None:
    for place, name in (("a/b", "01"), ("a", "T.1-2.x"), ("", "s")):
        write(tmp_path / place / f"{name}.h5", features(2), places(2))
    write(tmp_path / ".hidden" / "no.h5", features(2))
    listed = tmp_path / "elsewhere" / "who.csv"
    listed.parent.mkdir()
    listed.write_text("\ufeffslide_id;class\n01;0\nraw\\T.1-2.x.svs;1\ns.h5;1\n", encoding="utf-8")
    bags = read_bags(str(tmp_path), labels=listed)
    assert bags.names == ("01", "T.1-2.x", "s")
    assert bags.class_names == ("0", "1")
    assert bags.labels.tolist() == [0, 1, 1]


def test_names_of_digits_stay_as_written(tmp_path: Path) -> None:
    for name in ("007", "08"):
        write(tmp_path / f"{name}.npy", features(2))
    (tmp_path / "labels.tsv").write_text("bag\tlabel\tpatient\n007\t10\t01\n08\t9\t1\n")
    bags = read_bags(str(tmp_path))
    assert bags.names == ("007", "08")
    assert bags.class_names == ("9", "10")
    assert bags.groups is not None
    assert bags.groups.tolist() == [0, 1]


def test_of_two_forms_of_a_bag_one_is_read(tmp_path: Path) -> None:
    folder(tmp_path / "h5_files")
    (tmp_path / "h5_files" / "labels.csv").rename(tmp_path / "labels.csv")
    for number, size in enumerate((3, 5, 2, 4)):
        write(tmp_path / "pt_files" / f"s{number}.pt", features(size, seed=number))
    bags = read_bags(str(tmp_path))
    assert bags.location(0) == "h5_files/s0.h5"
    assert len(bags) == 4


def test_folders_are_classes_and_splits(tmp_path: Path) -> None:
    for place in ("train/a/1", "train/b/1", "val/a/2"):
        write(tmp_path / f"{place}.pt", features(3))
    bags = read_bags(str(tmp_path))
    assert bags.names == ("train/a/1", "train/b/1", "val/a/2")
    assert bags.class_names == ("a", "b")
    assert bags.labels.tolist() == [0, 1, 0]
    assert bags.splits == ("train", "train", "validation")
    bags = read_bags(str(tmp_path / "train"))
    assert (bags.names, bags.splits) == (("a/1", "b/1"), ())


@pytest.mark.parametrize(
    "text",
    [
        "bag,label\ns0,x;y\ns1,y\ns2,x\ns3,[]\n",
        "bag,x,age,y\ns0,1,70,1\ns1,0,60,1\ns2,1,50,0\ns3,0,40,0\n",
    ],
)
def test_bags_may_have_several_labels(text: str, tmp_path: Path) -> None:
    (folder(tmp_path) / "labels.csv").write_text(text)
    bags = read_bags(str(tmp_path))
    assert bags.class_names == ("x", "y")
    assert bags.labels.dtype == torch.uint8
    assert bags.labels.tolist() == [[1, 1], [0, 1], [1, 0], [0, 0]]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("s1,", "s9,", "labels.csv: row 2: no file of the bag 's9'; `data check` shows 1 more"),
        ("s1,tumour,p0,train\n", "", "s1.h5: no row of labels.csv has 's1'"),
        ("s3,", "s2,", "labels.csv: row 4 says label 'tumour' of the bag 's2', and row 3 'normal'"),
        ("s1,tumour,p0", "s1,tumour,p1", "labels.csv: patient 'p1' is in two splits, train and te"),
        ("tumour,p0", ",p0", "labels.csv: row 2 has no 'label'"),
        ("p0,train\ns2", "p0,fold\ns2", "labels.csv: row 2: split 'fold' is none of train"),
        ("label", "grade", "nothing"),
        ("label", "case", "labels.csv: 'case' and 'patient' may both be the patient: rename one"),
        ("s3,", "s2.h5,", "labels.csv: row 4: 's2.h5' is the file of 's2'"),
    ],
)
def test_what_is_wrong_with_a_csv_is_named(old: str, new: str, said: str, tmp_path: Path) -> None:
    change(folder(tmp_path) / "labels.csv", old, new)
    with pytest.raises(InputError) as error:
        read_bags(str(tmp_path))
    if said == "nothing":
        said = f"{tmp_path}: nothing says which bag has which label: put a CSV"
    assert str(error.value).startswith(said)


def test_what_is_wrong_with_a_folder_is_named(tmp_path: Path) -> None:
    def said(root: Path) -> str:
        with pytest.raises(InputError) as error:
            read_bags(str(root))
        return str(error.value).replace(str(tmp_path), "")

    root = folder(tmp_path / "widths")
    write(root / "s2.h5", features(2, 3), places(2))
    assert said(root) == "s2.h5 has 3 features an instance, and s0.h5 4"
    root = folder(tmp_path / "places")
    write(root / "s1.h5", features(5))
    assert said(root).startswith("s1.h5 has no `coords`, and s0.h5 has: give them to all bags")
    root = folder(tmp_path / "twice")
    write(root / "more" / "s1.h5", features(5))
    assert said(root).startswith("s1.h5 and more/s1.h5 are both the bag 's1'")
    root = folder(tmp_path / "tables")
    (root / "more.csv").write_text("slide,target\ns0,1\n")
    assert said(root).startswith("/tables: labels.csv and more.csv both say labels of bags: say")
    root = folder(tmp_path / "strangers")
    (root / "labels.csv").write_text("bag,label\nx,1\ny,0\n")
    assert said(root).startswith("labels.csv: none of its bags has a file in /strangers: 'x' is to")
    (tmp_path / "none").mkdir()
    assert said(tmp_path / "none").startswith("/none holds no bags (.h5, .hdf5, .safetensors")
    write(tmp_path / "one.zarr", features(3))
    assert said(tmp_path / "one.zarr") == "/one.zarr is one bag: name the folder that it is in"


def test_a_feature_that_is_not_finite_is_named_before_training(tmp_path: Path) -> None:
    root = folder(tmp_path)
    bad = features(5)
    bad[3, 2] = np.nan
    write(root / "s1.h5", bad, places(5))
    bags = read_bags(str(root))
    for at_once in (None, 2):
        with pytest.raises(InputError, match=r"^s1\.h5: row 4, feature 3 is NaN$"):
            feature_statistics(bags, at_once)


def test_training_from_files_is_training_from_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    lines, rows = [], ["bag,label"]
    for number in range(12):
        name, label = f"s{number:02d}", number % 2
        values = rng.standard_normal((int(rng.integers(1, 9)), 3)).astype(np.float32) + label
        write(tmp_path / "files" / f"{name}.h5", values)
        rows.append(f"{name},{label}")
        named = [{f"f{i}": value for i, value in enumerate(row)} for row in values]
        lines += [{"bag": name, "label": label} | row for row in named]
    (tmp_path / "files" / "labels.csv").write_text("\n".join(rows))
    frame = pd.DataFrame(lines)
    frame.astype({f"f{i}": "float32" for i in range(3)}).to_parquet(tmp_path / "bags.parquet")
    scores = []
    for data in ("files", "bags.parquet"):
        words = ["crossval", "--data", tmp_path / data, "--out", tmp_path / f"out-{data}"]
        words += ["--folds", 2, "--repeats", 1, "--epochs", 3, "--hidden", 8]
        run(*words, "--poolings", "attention", "--most-instances", 4, "--no-baselines")
        found = json.loads((tmp_path / f"out-{data}" / "crossval.json").read_text())
        scores.append({name: one["scores"] for name, one in found["models"].items()})
        assert "12 bags (6 of 0, 6 of 1)" in capsys.readouterr().out
    assert scores[0] == scores[1]
    assert "--labels is for a folder" in complaint(
        capsys,
        *("crossval", "--data", tmp_path / "bags.parquet", "--out", tmp_path / "o"),
        *("--labels", tmp_path / "files" / "labels.csv"),
    )


def test_new_slides_need_no_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bags = folder(tmp_path / "bags")
    run("train", "bags", "--data", bags, "--out", tmp_path / "run", "--epochs", "1", *CPU)
    new = tmp_path / "new"
    for name in ("a", "b"):
        write(new / "h5_files" / f"{name}.h5", features(3), places(3))
    write(new / "pt_files" / "a.pt", features(3), places(3))
    for name in ("a", "b"):  # which nobody looks at here
        label_instances(new / "h5_files" / f"{name}.h5", np.zeros((3, 2), int))
    capsys.readouterr()
    run("predict", tmp_path / "run", new, "--format", "jsonl")
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["bag"] for line in said] == ["a", "b"]
    run("explain", tmp_path / "run", new, "--out", tmp_path / "maps")
    told = json.loads((tmp_path / "maps" / "b.json").read_text())
    assert (told["label"], told["class"]) == ("", said[1]["prediction"])
    assert told["probability"] == pytest.approx(max(said[1]["probabilities"].values()))
    # Two of one name are called by their paths.
    shutil.rmtree(new / "h5_files")
    for name in ("a", "b"):
        write(new / "h5_files" / f"{name}.h5", features(3), places(3))
    write(new / "again" / "a.h5", features(3), places(3))
    run("predict", tmp_path / "run", new, "--format", "jsonl")
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()[-4:]]
    assert [line["bag"] for line in said] == ["again/a", "h5_files/a", "h5_files/b", "pt_files/a"]
    (tmp_path / "classes").mkdir()
    for name in ("x", "y"):
        write(tmp_path / "classes" / f"of-{name}" / f"{name}.h5", features(3), places(3))
    run("predict", tmp_path / "run", tmp_path / "classes", "--format", "jsonl")
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()[-2:]]
    assert [line["bag"] for line in said] == ["of-x/x", "of-y/y"]  # as they are called in training
    # What a broken CSV says hinders no prediction, but training.
    change(bags / "labels.csv", "s3,tumour", "s9,tumour")
    run("predict", tmp_path / "run", bags)
    bare = write(tmp_path / "bare" / "a.h5", features(3), places(3)).parent
    for words in (["train", "bags", "--data", bare], ["crossval", "--data", bare]):
        told = complaint(capsys, *words, "--out", tmp_path / "other")
        assert "nothing says which bag has which label" in told


def test_labels_are_shown_where_there_are_some(tmp_path: Path) -> None:
    bags = folder(tmp_path / "bags")
    run("train", "bags", "--data", bags, "--out", tmp_path / "run", "--epochs", "1", *CPU)
    for name, number in (("x", 0), ("y", 1)):
        write(tmp_path / "new" / f"{name}.h5", features(3, seed=number), places(3))
    (tmp_path / "new" / "labels.csv").write_text("bag,label\nx,tumour\ny,tumour\n")
    run("explain", tmp_path / "run", tmp_path / "new", "--out", tmp_path / "maps")
    assert json.loads((tmp_path / "maps" / "x.json").read_text())["label"] == "tumour"


CPU = ("--hidden", "4", "--validation-fraction", "0", "--accelerator", "cpu")


def test_columns_of_other_names_in_every_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bags, names = folder(tmp_path / "bags"), ("--columns", "bag=slide name", "label=diagnosis")
    change(bags / "labels.csv", "slide_id,label,patient", "slide name,diagnosis,who")
    whole = tmp_path / "run"
    run("data", "check", bags, *names)
    assert "4 bags of 2 classes" in capsys.readouterr().out
    run("train", "bags", "--data", bags, "--out", whole, "--epochs", "1", *CPU, *names)
    assert BagRunRecipe.from_yaml(whole / "recipe.yaml").columns == names[1:]
    words = ["crossval", "--data", bags, "--out", tmp_path / "scores", "--folds", "2", *names]
    run(*words, "--repeats", "1", "--epochs", "1", "--poolings", "mean", "--hidden", "4")
    run("evaluate", whole)  # finds them by its recipe
    run("report", whole)
    run("explain", whole, bags, "--out", tmp_path / "maps")
    assert json.loads((tmp_path / "maps" / "s1.json").read_text())["label"] == "tumour"
    # Other data may have those names, or the usual ones, or names of its own.
    for number, header in enumerate(("slide name,diagnosis", "slide,label", "piece,kind")):
        other = folder(tmp_path / f"other{number}", sizes=(3, 4))
        change(other / "labels.csv", "slide_id,label", header)
        more = ["--columns", "bag=piece", "label=kind"] if number == 2 else []
        capsys.readouterr()
        run("evaluate", whole, "--data", other, *more)
        assert "2 given bags" in capsys.readouterr().out
        run("explain", whole, other, "--out", tmp_path / f"maps{number}", *more)
        assert json.loads((tmp_path / f"maps{number}" / "s1.json").read_text())["label"] == "tumour"
    for more, said in (
        (["bag=slide"], "labels.csv: no column 'slide' for the bag among slide name, diagnosis"),
        (["x=left"], "labels.csv says what bags are: it has no column for --columns x"),
        (["bag"], "--columns 'bag': write WHAT=COLUMN"),
    ):
        told = complaint(capsys, "data", "check", bags, "--columns", *more)
        assert said in told
    told = complaint(capsys, "evaluate", whole, *names)
    assert "--columns is for --data" in told
    told = complaint(capsys, "predict", whole, bags, *names)
    assert "only files are read here, and --columns is for a table" in told
    (bags / "labels.csv").unlink()
    told = complaint(capsys, "data", "check", bags, *names)
    assert "no CSV of labels has the columns that --columns names: there is none" in told


def test_a_recipe_of_before_has_the_usual_columns(tmp_path: Path) -> None:
    text = BagRunRecipe(data="x").to_yaml()
    assert "columns: []\n" in text
    (tmp_path / "recipe.yaml").write_text(text.replace("columns: []\n", ""))
    assert BagRunRecipe.from_yaml(tmp_path / "recipe.yaml").columns == ()


def label_instances(
    path: Path, labels: Any, classes: tuple[str, ...] = ("tumour", "normal")
) -> None:
    """Put labels of instances into a file that is there."""
    with h5py.File(path, "a") as file:
        file.pop("instance_labels", None)
        file["instance_labels"] = np.asarray(labels)
        file["instance_labels"].attrs["classes"] = list(classes)


def test_instances_of_files_have_labels_that_stay_in_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = folder(tmp_path)
    for bag, labels in enumerate(([1, 1, 1], [0, -1, 1, 0, -1], [1, 1], [0, 0, 0, -1])):
        label_instances(root / f"s{bag}.h5", labels)
    bags = read_bags(str(root))
    known = bags.subset([3, 1]).instance_labels
    assert [one.tolist() for one in known] == [[1, 1, 1, -1], [1, -1, 0, 1, -1]]
    others = of_classes(bags, ("odd", "tumour", "normal"))
    assert others.instance_labels[1].tolist() == [1, -1, 2, 1, -1]
    in_memory = replace(bags, instance_labels=tuple(bags.instance_labels))
    in_memory = of_classes(in_memory, ("odd", "tumour", "normal"))
    assert in_memory.instance_labels[1].tolist() == [1, -1, 2, 1, -1]
    label_instances(root / "s1.h5", [0, 7, 1, 0, -1])
    with pytest.raises(InputError, match=r"^s1\.h5: row 2 of `instance_labels` is 7: it must be "):
        known[1]
    with h5py.File(root / "s2.h5", "a") as file:
        del file["instance_labels"]
    with pytest.raises(InputError, match=r"^s2\.h5 has no `instance_labels`, and s0\.h5 has: give"):
        read_bags(str(root))


def test_labels_of_instances_are_those_of_one_class_or_several_as_the_bags_are(
    tmp_path: Path,
) -> None:
    root = folder(tmp_path, sizes=(2, 3))
    label_instances(root / "s0.h5", [[0, 1], [0, 0]])
    label_instances(root / "s1.h5", [0, -1, 1])
    said = r"^s0\.h5: `instance_labels` is \(2, 2\), and it must be \(2\)$"
    with pytest.raises(InputError, match=said):
        read_bags(str(root))
    change(root / "labels.csv", "tumour", "tumour;normal")
    several = read_bags(str(root)).instance_labels
    assert [one.tolist() for one in several] == [[[1, 0], [0, 0]], [[0, 1], [0, 0], [1, 0]]]
    label_instances(root / "s0.h5", [[0, 1, 0], [0, 0, 0]])
    with pytest.raises(InputError, match=r"\(2, 3\), and it must be \(2\), or \(2, 2\) of 0 and 1"):
        read_bags(str(root))


def test_a_class_may_have_brackets_in_its_name(tmp_path: Path) -> None:
    root = folder(tmp_path)
    change(root / "labels.csv", "tumour", "tumour (large)")
    bags = read_bags(str(root))
    assert not bags.multi_label
    assert bags.class_names == ("normal", "tumour (large)")
