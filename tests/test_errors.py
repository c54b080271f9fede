"""Errors of one line: what they quote, and the guard around what files hold."""

from __future__ import annotations

import json

import pytest

from loss_attention.errors import InputError, ReportedError, guarded, printable, quoted


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("a\nb\tc\rd", r"a\nb\tc\rd"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("\x9b31m", r"\x9b31m"),
        ("caf\udce9.png", r"caf\xe9.png"),
        ("[bold]x[/b] grün 👩\u200d🔬", "[bold]x[/b] grün 👩\u200d🔬"),
    ],
)
def test_what_a_terminal_would_obey_is_shown_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_a_quote_is_short_and_one_line_whatever_it_quotes() -> None:
    deep: list[object] = []
    for _ in range(10_000):
        deep = [deep]
    for value in ("x" * 10**6, list(range(10**5)), deep, {"a": "\n" * 500}, 10**4000, "\x1b[2J"):
        assert len(quoted(value)) < 400
        assert quoted(value).isprintable()


def broken(what: str) -> object:
    """Fail as readers of broken files do."""
    failures = {
        "key": lambda: {}["bbox"],
        "deep": lambda: json.loads("[" * 100_000),
        "type": lambda: len(None),  # type: ignore[arg-type]
        "unicode": lambda: b"\xff".decode(),
        "file": lambda: open("no such file"),  # noqa: PTH123, SIM115
    }
    return failures[what]()


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("key", "it lacks 'bbox'"),
        ("deep", "it is nested too deeply"),
        ("type", "has no len()"),
        ("unicode", "invalid start byte"),
        ("file", "No such file or directory"),
    ],
)
def test_whatever_a_broken_file_raises_becomes_one_line_that_names_it(what: str, said: str) -> None:
    with pytest.raises(InputError) as caught, guarded("labels.json entry 3"):
        broken(what)
    assert str(caught.value).startswith("labels.json entry 3 cannot be read: ")
    assert said in str(caught.value)


def test_errors_told_already_pass_a_guard_unchanged() -> None:
    mine = InputError("row 3: no label")
    with pytest.raises(ReportedError) as caught, guarded("a file"):
        raise mine
    assert caught.value is mine


def test_an_error_is_one_readable_line_whatever_it_names() -> None:
    error = InputError("the file \x1b[31m\n.png " + "x" * 10**6 + " is empty")
    assert str(error).isprintable()
    assert len(str(error)) < 2000
    assert str(error).startswith(r"the file \x1b[31m\n.png xxx")
    assert str(error).endswith("xxx is empty")
