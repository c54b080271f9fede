"""A layout is a function in a registry: one's own is read like those of the package."""

from __future__ import annotations

from pathlib import Path

import pytest
from data.making import image_folder
from data.refusing import load

from loss_attention.data.loading import LAYOUTS
from loss_attention.data.records import Part, Record, Source
from loss_attention.data.tree import Tree

FILES = {"cat_1.png": 1, "cat_2.png": 2, "dog_1.png": 3, "dog_2.png": 4, "dog_3.png": 5}


def named_images(
    tree: Tree, where: str, masks: bool, known: str | None
) -> tuple[Tree, Source] | None:
    """A layout whose images are called after their class: `cat_1.png`."""
    if not all("_" in name for name in tree.names):
        return None
    records = [Record(name, tree.content(name), name.split("_")[0]) for name in tree.names]
    return tree, Source(where, (Part("train", records),))


def test_a_layout_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image_folder(tmp_path, FILES)
    monkeypatch.setitem(LAYOUTS, "images called after their class", named_images)
    splits = load(tmp_path)
    assert splits.train.class_names == ("cat", "dog")
    assert len(splits.train) + len(splits.test) == len(FILES)


def test_no_layout_takes_images_of_which_nothing_is_said(tmp_path: Path) -> None:
    image_folder(tmp_path, FILES)
    tree = Tree(tmp_path, tuple(FILES), tmp_path.joinpath)
    assert [name for name, opened in LAYOUTS.items() if opened(tree, "x", False, None)] == []
