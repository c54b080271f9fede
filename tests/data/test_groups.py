"""Images that belong together are held out together, and named by a column or by their paths."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from data.making import text
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console
from sklearn.model_selection import StratifiedGroupKFold

from loss_attention.cli.checking import check_data
from loss_attention.data import groups as grouping
from loss_attention.data.division import hold_out
from loss_attention.data.loading import load_splits
from loss_attention.data.sample import Splits, Storage
from loss_attention.errors import InputError

PIECES = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 7)), min_size=1, max_size=25)
"""The class and the number of images of each group."""


@settings(max_examples=60)
@given(PIECES, st.sampled_from([0.1, 0.2, 0.5]), st.integers(0, 5))
def test_groups_stay_whole_and_classes_keep_near_their_parts(pieces, fraction, seed):
    labels = torch.tensor([label for label, size in pieces for _ in range(size)])
    groups = torch.tensor(
        [7 * number for number, (_, size) in enumerate(pieces) for _ in range(size)]
    )
    kept, held = hold_out(labels, fraction, seed, groups)
    assert sorted([*kept.tolist(), *held.tolist()]) == list(range(len(labels)))
    assert not set(groups[kept].tolist()) & set(groups[held].tolist())
    assert torch.equal(held, hold_out(labels, fraction, seed, groups)[1])
    for value in labels.unique().tolist():
        sizes = [size for label, size in pieces if label == value]
        got = int((labels[held] == value).sum())
        if len(sizes) == 1:
            assert got == 0
            continue
        assert 0 < got < sum(sizes)
        assert abs(got - max(1, round(fraction * sum(sizes)))) <= max(sizes)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 2)), max_size=60), st.booleans())
def test_groups_of_several_classes_stay_whole(images, several):
    groups = torch.tensor([group for group, _ in images], dtype=torch.int64)
    labels = torch.tensor([label for _, label in images], dtype=torch.int64)
    if several:
        labels = torch.nn.functional.one_hot(labels, 3).to(torch.uint8)
    kept, held = hold_out(labels, 0.3, 0, groups)
    assert len(kept) + len(held) == len(images)
    assert not set(groups[kept].tolist()) & set(groups[held].tolist())


def test_classes_are_as_near_to_their_parts_as_scikit_learns_folds() -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = torch.randint(1, 7, (120,), generator=generator)
    of_group = torch.randint(0, 5, (120,), generator=generator).clamp(max=3)
    labels, groups = of_group.repeat_interleave(sizes), torch.arange(120).repeat_interleave(sizes)
    part = labels.bincount() / 5

    def error(held: Any) -> float:
        return float((labels[held].bincount(minlength=4) - part).abs().max())

    folds = StratifiedGroupKFold(5, shuffle=True, random_state=0).split(labels, labels, groups)
    ours = max(error(hold_out(labels, 0.2, seed, groups)[1]) for seed in range(5))
    assert ours <= max(error(held) for _, held in folds) + 3  # half a group


def pictures(folder: Path, rows: list[str], header: str = "image,label,tile") -> Path:
    folder.mkdir(parents=True)
    for number, row in enumerate(rows):
        image = Image.new("L", (8, 8), number % 256)
        image.save(folder / row.split(",")[0])
    text(folder / "labels.csv", header, *rows)
    return folder


def tiles(folder: Path) -> Path:
    """Twelve tiles of two classes, each photographed three times."""
    rows = [
        f"exp{shot}_num_{tile}.png,{'crack' if tile % 2 else 'free'},tile {tile}"
        for shot in range(3)
        for tile in range(12)
    ]
    return pictures(folder, rows)


def loaded(path: Path, group: str | None, **options: Any) -> Splits:
    form = {"in_channels": 1, "image_size": None, "seed": 0, "validation_fraction": 0.25}
    return load_splits(str(path), group=group, **form | options)


def tiles_of(names: tuple[str, ...]) -> set[str]:
    return {re.findall(r"num_(\d+)", name)[0] for name in names}


@pytest.mark.parametrize("group", ["tile", " Tile ", r"num_(\d+)"])
@pytest.mark.parametrize("stream", ["no", "yes"])
def test_the_same_tile_is_on_one_side_of_validation_and_test(tmp_path, group, stream):
    splits = loaded(tiles(tmp_path / "tiles"), group, storage=Storage(stream, workers=0))
    parts = [tiles_of(one.names) for one in (splits.train, splits.validation, splits.test)]
    assert all(parts)
    assert sum(map(len, parts)) == 12
    assert [len(one) for one in (splits.train, splits.validation, splits.test)] == [24, 6, 6]
    assert "20% of train held out by seed 0, groups whole" in splits.source
    alone = loaded(tmp_path / "tiles", None, storage=Storage(stream, workers=0))
    assert tiles_of(alone.train.names) & tiles_of(alone.validation.names)


def test_class_folders_and_parquet_have_groups_too(tmp_path: Path) -> None:
    for label in ("free", "crack"):
        (tmp_path / "folders" / label).mkdir(parents=True)
        for number in range(8):
            name = f"p{number // 2}_{label}_{number}.png"
            Image.new("L", (8, 8), number).save(tmp_path / "folders" / label / name)
    splits = loaded(tmp_path / "folders", "/(p[0-9]+)_")
    assert splits.trainval.groups is not None
    assert len(splits.trainval.groups.unique()) + len(splits.test.groups.unique()) == 4
    table = datasets.Dataset.from_dict(
        {
            "image": [Image.new("L", (8, 8), n) for n in range(12)],
            "label": [n % 2 for n in range(12)],
            "Patient": [n // 4 for n in range(12)],
        }
    )
    (tmp_path / "stored").mkdir()
    table.to_parquet(tmp_path / "stored" / "train.parquet")
    stored = loaded(tmp_path / "stored", "patient")
    assert stored.trainval.groups is not None
    assert len(stored.trainval.groups.unique()) + len(stored.test.groups.unique()) == 3
    with pytest.raises(
        InputError,
        match=r"'tile' is not a column among image, label, Patient \(did you mean Patient",
    ):
        loaded(tmp_path / "stored", "tile")


@pytest.mark.parametrize(
    ("group", "said"),
    [
        (
            "tiel",
            r"`group` 'tiel' is not a column among image, label, tile \(did you mean tile\?\), a",
        ),
        ("num_(", r"no regular expression with one group such as .*unterminated|missing \)"),
        ("num_", r"no regular expression with one group such as num_\(\\d\+\): it has no groups"),
        (r"(\w+)_num_(\d+)", "it has 2 groups in parentheses"),
        (r"exp1_num_(\d+)", r"the pattern is not in the path of exp0_num_0\.png and 23 more"),
        (r"tile_(\d+)", r"and the pattern is in no path, as exp0_num_0\.png"),
        ("(" * 2000, "over 1,000 characters"),
    ],
)
def test_a_group_that_is_not_there_is_one_line(tmp_path: Path, group: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        loaded(tiles(tmp_path / "tiles"), group)
    assert "\n" not in str(caught.value)


def test_a_pattern_that_would_take_for_ever_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grouping, "SECONDS", 0.5)
    name = "a" * 60 + ".png"
    folder = pictures(tmp_path / "slow", [f"{name},x", "b.png,y"], "image,label")
    with pytest.raises(InputError, match=r"takes too long .* without repeats in repeats"):
        loaded(folder, "((?:a+)+)b")


def test_rows_without_a_group_and_with_two_are_said(tmp_path: Path) -> None:
    rows = ["a.png,x,1", "b.png,y,", "c.png,y,2", "d.png,x,3"]
    folder = pictures(tmp_path / "empty", rows)
    with pytest.raises(InputError, match=r"no tile in the rows of b\.png \(labels\.csv row 3\)"):
        loaded(folder, "tile")
    twice = pictures(tmp_path / "twice", ["a.png,x,1", "b.png,y,2"])
    text(twice / "labels.csv", "image,label,tile", "a.png,x,1", "b.png,y,2", "a.png,x,3")
    with pytest.raises(InputError, match=r"row 2: a\.png is of groups '1' and, in row 4, '3'"):
        loaded(twice, "tile")
    with pytest.raises(InputError, match="digits is generated here: `group` does not apply to it"):
        load_splits("digits", in_channels=1, image_size=None, seed=0, group="tile")


def test_groups_on_both_sides_of_a_given_split_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"{n}_{tile}.png,{'xy'[tile % 2]},{tile}" for n in range(2) for tile in range(6)]
    given_split = [f"{row},{'test' if number > 8 else 'train'}" for number, row in enumerate(rows)]
    folder = pictures(tmp_path / "leak", given_split, "image,label,tile,split")
    line = "leak: 3 groups of test also in train, with 3 of its 3 images (group 3, say)"
    assert line in loaded(folder, "tile").notes
    assert check_data(Console(width=200), str(folder), group=r"_(\d+)") == 0
    said = capsys.readouterr().out
    assert line in said
    assert "train: 6 groups of 1 to 2 images" in said
    assert "test: 3 groups of 1 image" in said


def test_groups_of_one_image_each_are_said(tmp_path: Path) -> None:
    folder = tiles(tmp_path / "tiles")
    said = "no two images are of one group: `group` keeps nothing together"
    assert said in loaded(folder, r"(\w+)\.png").notes
    assert said not in loaded(folder, "tile").notes
