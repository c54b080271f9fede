"""What a word for data means, and where the data of a run lies when it is looked for again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from loss_attention.data.loading import Named, recorded, understood
from loss_attention.errors import InputError
from loss_attention.runs import find_again, lies_within, same_data


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "base" / "rgb").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("data", "meant"),
    [
        ("digits", Named("made", "digits")),
        ("cifar10", Named("known", "cifar10")),
        ("cifar10:base", Named("path", "cifar10", Path("base"))),
        ("base", Named("path", path=Path("base"))),
        ("base/rgb", Named("path", path=Path("base/rgb"))),
        ("base/rgb/", Named("path", path=Path("base/rgb"))),
        ("./digits", Named("path", path=Path("digits"))),
        ("/nowhere", Named("path", path=Path("/nowhere"))),
        ("a/b/c", Named("path", path=Path("a/b/c"))),
        ("org/some.zip", Named("path", path=Path("org/some.zip"))),
        ("org/Some.CSV", Named("path", path=Path("org/Some.CSV"))),
        ("~nobody-of-this-name/x", Named("path", path=Path("~nobody-of-this-name/x"))),
        ("x" * 300 + "/y/z", Named("path", path=Path("x" * 300 + "/y/z"))),
        ("org/name", Named("hub", "org/name")),
        ("org/name:plain_text", Named("hub", "org/name:plain_text")),
        ("hub:base/rgb", Named("hub", "base/rgb")),
        ("hub:org/name:one", Named("hub", "org/name:one")),
    ],
)
def test_words_for_data(data: str, meant: Named) -> None:
    assert understood(data) == meant


def test_a_mistyped_path_is_not_asked_of_the_hub() -> None:
    with pytest.raises(InputError) as caught:
        understood("base/rbg")
    assert str(caught.value) == (
        "there is a folder base here and no rbg in it: correct the path, or write hub:base/rbg for "
        "the data set of that name on the Hugging Face hub"
    )


def test_what_is_kept_is_found_wherever_the_command_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "runs" / "one"
    facts = {"data": json.loads(json.dumps(recorded("base/rgb", Path("runs/one"))))}
    assert facts["data"] == {
        "given": "base/rgb",
        "kind": "path",
        "path": str(tmp_path / "base" / "rgb"),
        "from_run": "../../base/rgb",
    }
    assert find_again("base/rgb", facts, run) == ("base/rgb", True)
    monkeypatch.chdir("elsewhere")
    assert find_again("base/rgb", facts, run) == (str(tmp_path / "base" / "rgb"), True)
    (tmp_path / "base").rename(tmp_path / "elsewhere" / "base")
    assert find_again("base/rgb", facts, run) == ("base/rgb", False)  # as written, from here


def test_a_run_that_moved_with_its_data_finds_it(tmp_path: Path) -> None:
    facts = {"data": recorded("base/rgb", Path("base/runs/one"))}
    (tmp_path / "base").rename(tmp_path / "elsewhere" / "new")
    found = find_again("base/rgb", facts, Path("elsewhere/new/runs/one"))
    assert found == (str(tmp_path / "elsewhere" / "new" / "rgb"), False)


@pytest.mark.parametrize("facts", ["new", "old"])
def test_a_local_path_is_never_a_hub_id(facts: str, tmp_path: Path) -> None:
    known: dict[str, Any] = {"source": "data folder base/rgb: 24 training and 6 test images"}
    if facts == "new":
        known["data"] = recorded("base/rgb", Path("run"))
    (tmp_path / "base" / "rgb").rmdir()
    with pytest.raises(InputError) as caught:
        find_again("base/rgb", known, Path("run"))
    said = str(caught.value)
    assert said.startswith(
        "the data of the run run is gone: it was given as base/rgb, and there is"
    )
    assert str(tmp_path / "base" / "rgb") in said
    assert said.endswith("; say where it is now with `data`")


@pytest.mark.parametrize(
    ("data", "found"),
    [
        ("digits", "digits"),
        ("cifar10", "cifar10"),
        ("org/name:one", "hub:org/name:one"),
        ("hub:org/name", "hub:org/name"),
        ("tiny", "tiny"),
    ],
)
def test_names_stay_names(data: str, found: str, tmp_path: Path) -> None:
    facts = {"data": recorded(data, Path("run"))}
    for folder in ("org/name", "digits", "tiny"):  # since then
        (tmp_path / folder).mkdir(parents=True)
    assert find_again(data, facts, Path("run")) == (found, True)


def test_a_known_set_at_a_path_stays_one(tmp_path: Path) -> None:
    facts = {"data": recorded("cifar10:base/rgb", Path("run"))}
    assert find_again("", facts, Path("run")) == ("cifar10:base/rgb", True)
    (tmp_path / "base").rename(tmp_path / "elsewhere" / "base")
    run = Path("elsewhere/run")
    assert find_again("", facts, run) == (f"cifar10:{tmp_path}/elsewhere/base/rgb", False)


@pytest.mark.parametrize(
    ("data", "source", "found"),
    [
        ("digits", "made by seed 0", "digits"),
        ("org/name", "org/name: 5 training and 5 test images", "hub:org/name"),
        ("base/rgb", "base/rgb: 5 training and 5 test images", "hub:base/rgb"),
        ("base/rgb", "data folder base/rgb: 5 training", "base/rgb"),
        ("base/rgb", "", "base/rgb"),
        ("cifar10:base", "cifar10 in base: 5 training", "cifar10:base"),
        ("tiny", 5, "tiny"),
    ],
)
def test_runs_of_before_are_told_by_their_description(
    data: str, source: Any, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path("base/runs/one").absolute()
    assert find_again(data, {"source": source}, run).data == found
    for broken in (5, [], {"given": 5}, {"kind": "path"}):
        assert find_again(data, {"source": source, "data": broken}, run).data == found
    monkeypatch.chdir("elsewhere")
    there = find_again(data, {"source": source}, run).data if source else found
    assert there in (found, found.replace("base", str(run.parent.parent)))


def test_runs_of_before_that_do_not_tell_are_asked_about() -> None:
    with pytest.raises(InputError, match=r"`data` PATH or `data` hub:org/name$"):
        find_again("org/name", {}, Path("run"))


def test_the_same_data_by_other_words(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("base")
    for other in ("base/rgb", "./base/rgb", f"{tmp_path}/base/../base/rgb/", "link/rgb"):
        assert same_data(other, str(tmp_path / "base" / "rgb"))
        assert lies_within(other, "base")
        assert not lies_within("base", other)
    assert same_data("hub:org/name", "org/name")
    assert not same_data("base", "base/rgb")
    assert not same_data("base/typo", "base/rgb")
    assert not same_data("digits", "./digits")
    assert not lies_within("digits", "base")
