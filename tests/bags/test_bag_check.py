"""`data check` of bags: what it prints, and what it takes for bags."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from bags.bag_files import change, features, folder, places, write
from typed import exit_code, make_folder

from loss_attention.bags.check import is_bags


def checked(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, list[str], str]:
    """Return the exit code of `data check`, the lines that it prints, and its error."""
    capsys.readouterr()
    code = exit_code("data", "check", *words)
    said = capsys.readouterr()
    return code, [line.strip() for line in said.out.splitlines()], said.err


def test_a_folder_is_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = folder(tmp_path)
    write(root / "s1.h5", features(5).astype("f4"), places(5), patch_size_level0=512)
    code, lines, error = checked(capsys, root)
    assert (code, error) == (0, "")
    assert lines == [
        str(root),
        "4 files (4 .h5), labels in labels.csv",
        "4 bags of 2 classes: 2 of normal, 2 of tumour",
        "14 instances: 2 to 5 in a bag, median 4",
        "patients: 2, of 2 to 2 bags",
        "train: 2 bags: 1 of normal, 1 of tumour",
        "test: 2 bags: 1 of normal, 1 of tumour",
        "features: 4, float16 and float32",
        "coordinates: yes, tiles of 512 pixels",
        "warning: features are float16 in 3 files and float32 in 1 file (s1.h5)",
        "no errors in 4 bags",
    ]


def test_a_table_is_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "bags.csv"
    table.write_text("bag,label,x,y,f\na,0,1,1,2\na,0,1,1,3\nb,1,2,2,4\n")
    code, lines, _ = checked(capsys, table)
    assert code == 0
    assert "2 bags of 2 classes: 1 of 0, 1 of 1" in lines
    assert "warning: bag 'a': rows 1 and 2 are both at (1, 1)" in lines
    change(table, "a,0,1,1,3", "a,1,1,1,3")
    code, lines, error = checked(capsys, table)
    assert code == 2
    assert "error: bags.csv: row 2 says label 1 of the bag 'a', and row 1 0" in lines
    assert error.startswith(f"loss-attention: 1 error in {table}")


def test_all_that_is_wrong_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = folder(tmp_path, sizes=(3, 5, 2, 4, 3, 3, 3, 3))
    change(root / "labels.csv", "s7,", "gone,")
    bad = features(5)
    bad[4, 1] = np.inf
    write(root / "s1.h5", bad, places(5))
    twice = places(4)
    twice[2] = twice[0]
    write(root / "s3.h5", features(4), twice)
    write(root / "s4.h5", features(3))
    write(root / "s5.h5", features(3, 9), places(3))
    (root / "s6.h5").write_text("no")
    code, lines, error = checked(capsys, root)
    assert code == 2
    assert lines[-7:] == [
        "warning: s3.h5: rows 1 and 3 are both at (0, 0)",
        "error: labels.csv: row 8: no file of the bag 'gone'",
        "error: s7.h5: no row of labels.csv has 's7'",
        "error: s4.h5 has no `coords`, and s0.h5 has: give them to all bags, or to none",
        "error: s5.h5 has 9 features an instance, and s0.h5 4",
        "error: s6.h5 is not an HDF5 file, despite its ending",
        "error: s1.h5: row 5, feature 2 is infinite",
    ]
    assert "coordinates: in 4 of 5 bags" in lines
    assert error.count("\n") == 1
    assert "6 errors" in error


def test_what_is_taken_for_bags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = folder(tmp_path / "bags")
    assert is_bags(str(root))
    images = make_folder(tmp_path / "images")
    assert not is_bags(str(images))
    write(images / "features.npy", features(3))
    assert not is_bags(str(images))
    listed = tmp_path / "images.csv"
    listed.write_text("image,label,slide_id\na.png,1,s\n")
    assert not is_bags(str(listed))
    assert not is_bags("digits")
    listed.write_bytes(b"PAR1")
    assert not is_bags(str(listed.rename(tmp_path / "images.parquet")))
    code, _, error = checked(capsys, root, "--group", "patient")
    assert code == 2
    assert "holds bags, and --out and --group are for images" in error
    labels = (root / "labels.csv").rename(tmp_path / "labels.csv")
    code, lines, error = checked(capsys, root, "--labels", labels)
    assert (code, lines[-1]) == (0, "no errors in 4 bags")


def test_labels_of_instances_are_looked_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = folder(tmp_path, sizes=(2, 2))
    for bag, labels in enumerate(([0, 0], [1, -1])):
        with h5py.File(root / f"s{bag}.h5", "a") as file:
            file["instance_labels"] = np.array(labels)
    code, lines, _ = checked(capsys, root)
    assert (code, "labels of instances: yes" in lines) == (0, True)
    with h5py.File(root / "s1.h5", "a") as file:
        file["instance_labels"][...] = [0, 2]
    code, lines, _ = checked(capsys, root)
    said = "error: s1.h5: row 2 of `instance_labels` is 2: it must be the number of a class, below"
    assert (code, lines[-1].startswith(said)) == (2, True)
