"""YAML as texts, beside PyYAML's own loader of texts; and what is refused of it."""

from __future__ import annotations

import pytest
import yaml

from loss_attention.data.formats.yolo_config import read_yaml


@pytest.mark.parametrize(
    "text",
    [
        "names: {0: cat, 1: dog}\nnc: 2",
        "names: [no, yes, on, off, y, n, True, null, ~, '', 010, 0x1f, 1e3, 1_000, .inf, 12:30:45]",
        "names:\n- cat  # the first\n- 'no'\n- \"a\\tb\"\n- |\n  several\n  lines\n",
        "names:\n  '0': a\n  ? 1\n  : b\n  2:\n",
        "path: ../x\ntrain: [a/b, c]\nval:\ntest: null\n",
        "a: &x [1, 2]\nb: *x\nc: {d: *x}",
        "<<: {a: 1}\ndate: 2001-01-01\n!!int 3: !!bool yes",
        "%YAML 1.1\n---\na: ünï\n...\n",
        "[]",
        "",
        "# nothing\n",
        "text",
    ],
)
def test_texts_stay_what_stands_in_the_file(text: str) -> None:
    for content in (text.encode(), b"\xef\xbb\xbf" + text.encode(), text.encode("utf-16")):
        assert read_yaml(content) == yaml.load(text, yaml.BaseLoader)


def test_aliases_are_the_same_object() -> None:
    """A billion laughs are no more than their lines."""
    lines = [f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}]" for i in range(24)]
    content = read_yaml("\n".join(["a: &a [x, x]", *lines]).encode())
    assert content["y"][0] is content["y"][1] is content["x"]
    assert read_yaml(b"a: &a [*a]")["a"][0][0] is not None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[" * 10**6, "nested more than 20 deep"),
        (b"{a: " * 10**5, "nested more than 20 deep"),
        (b"- " * 10**5, "nested more than 20 deep"),
        (b"? " * 10**5, "where a name should be"),
        (b"a" * (2**20 + 1), "larger than 1 MiB"),
        (b"a: 1\nb: 2\na: 3", "line 3: 'a' stands there a second time"),
        (b"a: *b", "line 1: the alias 'b' refers to nothing before it"),
        (b"{[1]: 2}", "line 1: a list or a mapping where a name should be"),
        (b"a: 1\n---\nb: 2", "several documents"),
    ],
)
def test_what_is_refused(content: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_yaml(content)


@pytest.mark.parametrize(
    "content", [b"a: [", b"a: b: c", b"\ta: 1", b"a: \xff", b"\0", b"a: 'x", b"@a", b"a: !<x"]
)
def test_what_is_no_yaml(content: bytes) -> None:
    with pytest.raises(yaml.YAMLError):
        read_yaml(content)
