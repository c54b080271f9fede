"""Which map a command shows or measures, as people ask for it; what cannot be is one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from heads.used import used_model
from PIL import Image
from typed import complaint, exit_code

SIDE = 24


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "a.png"
    Image.effect_noise((SIDE, SIDE), 60).convert("RGB").save(path)
    return path


def saved(path: Path, **options: object) -> Path:
    names = ("cat", "dog", "ewe", "fox", "gnu")
    model = used_model(image_size=(SIDE, SIDE), class_names=names, **options)
    model.save_pretrained(path)
    return path / "model.safetensors"


@pytest.mark.parametrize(
    ("options", "words", "message"),
    [
        ({}, ("--target", "cat", "--versus", "cat"), "--versus 'cat' is the --target itself"),
        ({}, ("--target", "cat", "--versus", "kat"), "unknown class 'kat'; did you mean 'cat'"),
        ({}, ("--versus", "cat"), "--versus needs --target"),
        ({}, ("--target", "cat", "--versus", "dog", "--map", "margin"), "leave --map"),
        ({}, ("--map", "margins"), "unknown map 'margins'; did you mean 'margin'"),
        ({"multi_label": True}, ("--map", "margin"), "--map margin is for models of one label"),
        (
            {"head": "capsule-dynamic-routing"},
            ("--map", "margin"),
            "--map needs a head with exact evidence, such as loss-attention",
        ),
        (
            {"head": "capsule-dynamic-routing"},
            ("--target", "cat", "--versus", "dog"),
            "--versus needs a head with exact evidence",
        ),
    ],
)
def test_a_map_that_cannot_be_is_one_line(
    options, words, message, photo: Path, tmp_path: Path, capsys
) -> None:
    model = saved(tmp_path / "model", **options)
    said = complaint(capsys, "explain", model, photo, "--out", tmp_path / "out", *words)
    assert message in said
    assert not (tmp_path / "out").exists()


def test_what_is_shown_and_why_not_another_class(photo: Path, tmp_path: Path) -> None:
    model = saved(tmp_path / "model")
    for words, shows in (
        ((), {"margin", "contrast"}),  # contrast where the margin is empty
        (("--map", "evidence"), {"evidence"}),
        (("--target", "cat", "--versus", "fox"), {"difference"}),
    ):
        out = tmp_path / "-".join(("out", *words))
        assert exit_code("explain", model, photo, "--out", out, *words) == 0
        found = json.loads((out / "a.json").read_text(encoding="utf-8"))
        assert found["heat_map"]["shows"] in shows
        assert ("note" in found["heat_map"]) == (found["heat_map"]["shows"] == "contrast")
    difference = torch.tensor(found["versus"]["difference_of_evidence"]).sum()
    assert float(difference) == pytest.approx(found["logits"][0] - found["logits"][3], rel=1e-4)
