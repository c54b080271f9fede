"""Names that people give files and classes are shown as they are: no markup, no control codes."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

import loss_attention as la
from loss_attention.attribution import measures
from loss_attention.cli import main
from loss_attention.report import side_by_side
from loss_attention.terminal import counted, json_text, markdown, say
from loss_attention.training.bookkeeping import TrainingLog

CLASSES = (
    "[b]x[red] $a_{",
    "<script>al|ert`1`",
    "esc\x1b[31m\rbell\x07",
    "caf\udce9 \u202eexe",
    "two\nlines",
)
FAST = [
    *("--epochs", "1", "--width", "0.05", "--image-size", "24", "--strided-layers", "6"),
    *("--patch-kernel", "2", "--patch-stride", "1", "--in-channels", "1", "--batch-size", "8"),
    *("--accelerator", "cpu", "--workers", "0", "--crop-padding", "1", "--backbone", "vgg11_bn"),
]
OBEYED = ("\x1b", "\r", "\x07", "\u202e")


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder of odd names: the images' classes, and where the run goes."""
    home = tmp_path_factory.mktemp("named") / "o[red]x[/b]\x1b[2J"
    generator = np.random.default_rng(0)
    for number, name in enumerate(CLASSES):
        folder = home / "data" / name
        folder.mkdir(parents=True)
        for k in range(8 + number):
            pixels = generator.integers(0, 60, (24, 24), dtype=np.uint8)
            pixels[6 * number : 6 * number + 6] = 255
            Image.fromarray(pixels).save(folder / f"[{k}]\x1b[1m$.png")
    return home


@pytest.fixture(scope="module")
def run(home: Path) -> Path:
    """A run trained on them, by the command; whatever it prints is looked at elsewhere."""
    out = home / "run[/b]"
    with pytest.raises(SystemExit) as stop:
        main(["train", "folder", "--data", str(home / "data"), "--out", str(out), *FAST])
    assert not stop.value.code
    return out


def said(words: list[str], capfd) -> tuple[int, str]:
    """Run the command and return its exit code and what it printed on both streams."""
    with pytest.raises(SystemExit) as stop:
        main(words)
    out, err = capfd.readouterr()
    assert not any(code in out + err for code in OBEYED)
    return int(stop.value.code or 0), out + err


def test_every_command_prints_brackets_and_escapes_control_characters(
    home, run, capfd, monkeypatch
) -> None:
    monkeypatch.setattr(measures, "REPEATS", 1)
    monkeypatch.setattr(measures, "ENOUGH_SECONDS", 0)
    data, target = str(home / "data"), CLASSES[0]
    code, text = said(["data", "check", data, "--out", str(home / "sheet.png")], capfd)
    assert code == 0
    assert r"[b]x[red] $a_{" in text
    assert r"esc\x1b[31m\rbell\x07" in text
    assert r"caf\xe9 \u202eexe" in text
    assert r"two\nlines" in text
    for words in (
        ["evaluate", str(run), "--data", f"{data}/{CLASSES[4]}", "--accelerator", "cpu"],
        ["evaluate", str(run), "--accelerator", "cpu"],
        ["compare", str(run), "--methods", "evidence", "--images", "3", "--accelerator", "cpu"],
        ["report", str(run), "--accelerator", "cpu"],
        ["resume", str(run)],
    ):
        code, text = said(words, capfd)
        assert code == 0, text
    assert r"o[red]x[/b]\x1b[2J" in text.replace("\n", "")
    out = home / "out[/i]"
    words = ["explain", str(run), data, "--out", str(out), "--target", target]
    code, text = said(words, capfd)
    assert code == 0
    assert "[/i]" in text
    names = {json.loads(file.read_text())["prediction"] for file in out.glob("*.json")}
    assert names <= set(CLASSES)


def test_errors_show_what_they_quote(home, run, capfd) -> None:
    broken = home / "[/b]\x1b[5m.png"
    broken.parent.mkdir()
    broken.write_bytes(b"no image")
    unknown = home / "unknown" / "[" / "b]\x1b[5m\udcff"
    unknown.mkdir(parents=True)
    shutil.copy(next((home / "data").rglob("*.png")), unknown)
    for words in (
        ["train", "folder", "--data", "no[/b]\x1b[31m\nsuch", *FAST],
        ["train", "folder", "--data", "x", "--epochs", "[/b]\x1b[31m"],
        ["evaluate", "[/red]\x1b[31m"],
        ["\x1b[31m[/b]"],
        ["explain", str(run), str(broken), "--out", str(home / "none")],
        ["explain", str(run), str(home / "data"), "--out", str(home / "n"), "--target", "\x1b[/b]"],
        ["data", "check", "\x1b[31m/[/b]"],
        ["resume", "\udce9[/b]\x1b"],
        ["compare", str(run), "--methods", "[/b]\x1b[31m"],
        ["reproduce", "[/b]\x1b[31m"],
        ["evaluate", str(run), "--data", str(home / "data" / "[/b]\x1b[31m")],
        ["evaluate", str(run), "--data", str(run.parent / "unknown")],
    ):
        code, text = said(words, capfd)
        assert code == 2
        assert text.count("\n") == 1 or "explained" in text
        assert "[/" in text
    words = ["train", "folder", "--data", str(home / "data"), "--out", "o\udcff[/b]", *FAST]
    code, text = said(words, capfd)
    assert code == 2
    assert text.endswith(
        r"the name of the run folder o\xff[/b] is not UTF-8; rename it, or name another with --out"
        "\n"
    )


class Texts(HTMLParser):
    """The tags of a page and its texts."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.texts: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.add(tag)
        self.texts += [value for name, value in attrs if name in ("alt", "title")]

    def handle_data(self, data) -> None:
        self.texts.append(data)


def test_a_report_shows_odd_names_as_text(run) -> None:
    page = (run / "report.html").read_bytes().decode()  # all of it UTF-8
    assert not any(code in page for code in OBEYED)
    parser = Texts()
    parser.feed(page)
    assert list(parser.tags).count("script") == 1  # its own
    text = " ".join(parser.texts)
    assert "[b]x[red] $a_{" in text
    assert "<script>al|ert`1`" in text
    assert r"esc\x1b[31m\rbell\x07" in text


def test_files_keep_the_names_to_the_byte(home, run) -> None:
    facts = json.loads((run / "run.json").read_text(encoding="utf-8"))
    assert sorted(facts["classes"]) == sorted(CLASSES)
    assert la.load(run).class_names == tuple(facts["classes"])
    for name in facts["classes"]:
        assert os.fsdecode(os.fsencode(name)) == name
        assert (home / "data" / name).is_dir()


def test_explanations_of_files_whose_names_are_no_unicode(home, run, capfd) -> None:
    folder, out = home / "data" / CLASSES[3], home / "told\udcff"
    code, text = said(["explain", str(run), str(folder), "--out", str(out)], capfd)
    assert code == 0
    assert r"told\xff" in text
    told = [json.loads(file.read_text(encoding="utf-8")) for file in out.glob("*.json")]
    assert sorted(one["file"] for one in told) == sorted(map(str, folder.iterdir()))


@pytest.mark.parametrize("word", ["evaluate", "report", "resume", "data check"])
def test_streams_escape_what_their_encoding_lacks(word, home, run, monkeypatch) -> None:
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="ascii") for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    with pytest.raises(SystemExit) as stop:
        main([*word.split(), str(home / "data" if word == "data check" else run)])
    assert not stop.value.code
    streams[0].flush()
    assert len(streams[0].buffer.getvalue()) > 100  # type: ignore[attr-defined]


def test_a_picture_of_maps_takes_any_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_by_side, "maps_of", lambda *_: torch.zeros(4, 12, 12))
    for names in (CLASSES, ("$x_{", "$\\alpha$" * 99, "\udcff", "字")):
        subject = SimpleNamespace(
            images=torch.zeros(4, 3, 12, 12, dtype=torch.uint8),
            target=torch.tensor([0, 1, 2, 3]),
            boxes=None,
            model=SimpleNamespace(class_names=names),
            batch_size=4,
        )
        drawn = side_by_side.maps_picture(subject, ["evidence"])  # type: ignore[arg-type]
        assert drawn.startswith(b"\x89PNG")


def test_bars_hold_no_markup() -> None:
    name = "n[/b]\x1b[1m|`<i>$_{"
    for console in (Console(file=io.StringIO(), force_terminal=True), Console(file=io.StringIO())):
        with counted("reading", console) as tick:
            tick(1, 2, name)
        bar = TrainingLog(name, 1, console)
        with bar.opened(1, 0):
            bar.show(1, 0.5, 0.5, 1.0)
        shown = console.file.getvalue()  # type: ignore[attr-defined]
        assert "\x1b[1m|" not in shown
        assert (r"n[/b]\x1b[1m|`<i>$_{" in shown) == console.is_terminal


def test_a_terminal_without_letters_is_no_reason_to_fail(home) -> None:
    code = "from loss_attention.cli import main; main()"
    ended = subprocess.run(
        [sys.executable, "-c", code, "data", "check", str(home / "data")],
        env=os.environ | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"},
        capture_output=True,
        timeout=600,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert rb"caf\xe9" in ended.stdout


def test_saying_takes_nothing_for_markup(capsys) -> None:
    for console in (Console(), Console(force_terminal=True, width=40)):
        say(console, "[bold]a[/b] :smile: \x1b[31m \x9b31m\nsecond \udcff")
        shown = capsys.readouterr().out
        assert r"[bold]a[/b] :smile: \x1b[31m \x9b31m" in shown
        assert shown.splitlines()[1].rstrip() == r"second \xff"


def test_markdown_and_json_of_odd_names() -> None:
    assert markdown("a|b\n*c* <x>") == r"a\|b\\n\*c\* &lt;x&gt;"
    for value in ("grün", "caf\udce9", "\x1b"):
        assert json.loads(json_text({"name": value}).encode()) == {"name": value}
    assert "grün" in json_text("grün")
