"""The command as people type it: what works, and one clear line for what does not."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from statistics import mode

import pytest
import torch
from typed import SMALL, complaint, exit_code, make_folder, run

import loss_attention as la
from loss_attention.cli import SUBCOMMANDS
from loss_attention.training.recipes import RECIPES


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder of images and a finished run on it."""
    place = tmp_path_factory.mktemp("trained")
    images = make_folder(place / "images")
    run("train", "folder", "--data", str(images), *SMALL, "--out", str(place / "run"))
    return place


def test_training_on_ones_own_folder_leaves_a_whole_run(trained):
    found = {path.name for path in (trained / "run").iterdir()}
    assert found == {
        "recipe.yaml",
        "model.safetensors",
        "state.pt",
        "metrics.jsonl",
        "run.json",
        "evaluation.json",
        "report.html",
        "tensorboard",
        ".lock",
    }
    facts = json.loads((trained / "run" / "run.json").read_text())
    assert facts["finished"]
    assert facts["classes"] == ["dark", "light"]
    assert facts["train_images"] + facts["validation_images"] + facts["test_images"] == 20


def test_evaluate_report_and_resume_of_a_finished_run(trained, capsys):
    folder = str(trained / "run")
    before = (trained / "run" / "model.safetensors").read_bytes()
    (trained / "run" / "report.html").unlink()
    run("evaluate", folder)
    assert "accuracy" in capsys.readouterr().out
    run("report", folder)
    assert (trained / "run" / "report.html").exists()
    run("resume", folder)
    assert "finished" in capsys.readouterr().out
    assert (trained / "run" / "model.safetensors").read_bytes() == before


def test_the_evidence_of_a_trained_model_adds_up_in_batches(trained):
    model = la.load(trained / "run")
    images = torch.randint(0, 256, (50, 3, 16, 16), dtype=torch.uint8)
    with torch.inference_mode():
        for batch in images.split(16):
            prediction = model(batch)
            gap = prediction.evidence.sum(dim=1) - prediction.logits
            assert gap.abs().max() < 1e-4
            assert prediction.logits.abs().max() > 0.01  # or agreeing would mean nothing


def test_explaining_a_folder_goes_on_past_what_is_no_image(trained, tmp_path, capsys):
    (tmp_path / "notes.png").write_text("no image at all")
    words = ["explain", str(trained / "run"), str(trained / "images" / "dark")]
    said = complaint(capsys, *words, str(tmp_path / "notes.png"), "--out", str(tmp_path / "out"))
    assert "notes.png" in said
    assert len(list((tmp_path / "out").glob("*.json"))) == 10
    again = complaint(capsys, *words, "--out", str(tmp_path / "out"))
    assert "--overwrite" in again
    run(*words, "--out", str(tmp_path / "out"), "--overwrite")


def test_an_existing_run_is_not_overwritten_unasked(trained, capsys):
    words = ["train", "folder", "--data", str(trained / "images"), *SMALL]
    said = complaint(capsys, *words, "--out", str(trained / "run"))
    assert "exists already" in said
    assert "--overwrite" in said


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["trian"], ["unknown subcommand 'trian'", "did you mean 'train'"]),
        (["train"], ["name of a recipe", "digits"]),
        (["train", "digit"], ["unknown recipe 'digit'", "did you mean 'digits'"]),
        (["train", "digits", "--epochz", "3"], ["--epochz", "did you mean --epochs?"]),
        (["train", "digits", "--epochs", "many"], ["--epochs", "'many'"]),
        (["train", "digits", "--epochs", "0"], ["--epochs must be above 0, got 0"]),
        (["train", "digits", "--threshold", "2"], ["--threshold must be in [0, 1], got 2"]),
        (["train", "digits", "--schedule", "fast"], ["'fast'", "one-cycle"]),
        (["train", "folder"], ["needs --data"]),
        (["train", "folder", "--data", "digitz"], ["'digitz'", "did you mean 'digits'"]),
        (["train", "folder", "--data", "./nothing-here"], ["nothing-here", "does not exist"]),
        (["resume", "nothing-here"], ["nothing-here is not a folder"]),
        (["evaluate"], ["missing", "--help"]),
        (["explain", "runs/x", "--out", "y"], ["image"]),
        (["recipes", "please"], ["unrecognized options: please"]),
    ],
)
def test_what_is_typed_wrong_gets_one_line(words, parts, capsys):
    said = complaint(capsys, *words)
    for part in parts:
        assert part.lower() in said.lower()


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--head", "loss_attention"], ["unknown head", "did you mean 'loss-attention'"]),
        (["--backbone", "resnet81"], ["unknown backbone", "did you mean 'resnet18'"]),
        (
            ["--backbone", "resnet18", "--strided-layers", "7"],
            ["cannot stride in layer 7", "1, 6, 10, 14"],
        ),
        (["--patch-kernel", "30"], ["smaller than one patch", "30 x 30"]),
        (["--devices", "4000"], ["--devices 4000", "cores"]),
    ],
)
def test_a_model_that_cannot_be_leaves_no_folder(flags, parts, trained, tmp_path, capsys):
    words = ["train", "folder", "--data", str(trained / "images"), *SMALL[:8]]
    words += ["--strided-layers", *flags] if flags[0] == "--patch-kernel" else flags
    said = complaint(capsys, *words, "--accelerator", "cpu", "--out", str(tmp_path / "run"))
    for part in parts:
        assert part in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--centre", "--objective", "one-vs-rest"], ["--centre takes away", "with one-vs-rest"]),
        (["--centre", "--head", "baseline"], ["--centre: the head baseline has no patch logits"]),
        (
            [
                "--objective",
                "one-vs-rest",
                "--head",
                "capsule-dynamic-routing",
                "--balance",
                "none",
            ],
            ["--objective one-vs-rest is not for the head capsule-dynamic-routing"],
        ),
        (["--objective", "one-vs-all"], ["'one-vs-all'", "one-vs-rest"]),
    ],
)
def test_an_objective_that_cannot_be_leaves_no_folder(flags, parts, trained, tmp_path, capsys):
    words = ["train", "folder", "--data", trained / "images", *SMALL, *flags]
    said = complaint(capsys, *words, "--out", tmp_path / "run")
    for part in parts:
        assert part in said
    assert not (tmp_path / "run").exists()


def test_several_labels_are_decided_by_sigmoids_already(tmp_path, capsys):
    images = make_folder(tmp_path / "images", each=6)
    rows = ["dark/0.png,light", *(f"{k}/{i}.png,{k}" for k in ("dark", "light") for i in range(6))]
    (images / "labels.csv").write_text("\n".join(["image,label", *rows]))
    words = [
        "train",
        "folder",
        "--data",
        images,
        *SMALL,
        "--epochs",
        "1",
        "--out",
        tmp_path / "run",
    ]
    said = complaint(capsys, *words, "--objective", "one-vs-rest")
    assert "--objective one-vs-rest is for one label an image; where there may be several" in said
    said = complaint(capsys, *words, "--centre")
    assert "--centre takes away a number that a softmax does not see; with several labels" in said
    assert not (tmp_path / "run").exists()
    run(*words)  # the recipe's own centring is not asked for there
    model = la.load(tmp_path / "run")
    assert model.multi_label
    assert model.spec.centre is False


def test_folders_that_cannot_be_trained_on(tmp_path, capsys):
    def said_of(folder: Path, *flags: str) -> str:
        words = ["train", "folder", "--data", str(folder), *flags, "--out", str(tmp_path / "run")]
        return complaint(capsys, *words)

    (tmp_path / "empty").mkdir()
    assert "no image" in said_of(tmp_path / "empty").lower()
    assert "one class" in said_of(make_folder(tmp_path / "single", ("only",)), *SMALL)
    unequal = said_of(make_folder(tmp_path / "unequal"), "--image-size", "None")
    assert "--image-size" in unequal
    broken = make_folder(tmp_path / "broken", each=14)
    for i in range(12):
        (broken / "dark" / f"{i}.png").write_bytes(b"not an image")
    said = said_of(broken, *SMALL)
    assert "0.png" in said
    assert "2 more" in said
    assert not (tmp_path / "run").exists()


def test_damaged_runs(trained, tmp_path, capsys):
    def copy(name: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for file in (trained / "run").iterdir():
            if file.is_file():
                (folder / file.name).write_bytes(file.read_bytes())
        return folder

    truncated = copy("truncated")
    weights = truncated / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "truncated" in complaint(capsys, "evaluate", str(truncated))
    other = copy("other")
    recipe = (other / "recipe.yaml").read_text().replace("head: loss-attention", "head: mean")
    (other / "recipe.yaml").write_text(recipe)
    words = ["explain", str(other), str(trained / "images"), "--out", str(tmp_path / "out")]
    for command in (["evaluate", str(other)], words):
        said = complaint(capsys, *command)
        assert "recipe.yaml was changed since the run began: put it back" in said
    # Of version 0.1, which knew no digests, the weights themselves tell.
    facts = json.loads((other / "run.json").read_text())
    del facts["digest"], facts["files"]
    (other / "run.json").write_text(json.dumps(facts | {"format_version": 1}))
    for command in (["evaluate", str(other)], words):
        assert "not those of its recipe" in complaint(capsys, *command)
    assert not (tmp_path / "out").exists()
    newer = copy("newer")
    facts = json.loads((newer / "run.json").read_text()) | {"format_version": 99}
    (newer / "run.json").write_text(json.dumps(facts))
    assert "newer" in complaint(capsys, "report", str(newer))


def test_a_batch_of_no_images(trained, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["compare", trained / "run", "--batch-size", 0, "--accelerator", "cpu", "--out", out]
    assert "--batch-size must be at least 1, got 0" in complaint(capsys, *words)
    assert not out.exists()


@pytest.mark.parametrize(
    "words",
    [
        ["evaluate", "{run}"],
        ["report", "{run}"],
        ["explain", "{run}", "{images}", "--out", "{out}"],
        ["compare", "{run}", "--out", "{out}"],
        ["reproduce", "table6", "--scale", "smoke", "--out", "{out}"],
    ],
)
def test_a_gpu_asked_for_where_there_is_none(words, trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    places = {"run": trained / "run", "images": trained / "images", "out": tmp_path / "out"}
    given = [word.format(**places) for word in words]
    said = complaint(capsys, *given, "--accelerator", "cuda")
    assert "torch finds no GPU here; use --accelerator cpu" in said
    assert not (tmp_path / "out").exists()


def test_help_of_every_command(capsys):
    for word in SUBCOMMANDS:
        run(word, "--help")
        assert f"loss-attention {word}" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["train", "photos"], ["train", "bags"], ["crossval"], ["tile"]])
def test_the_lines_of_help_are_full(words, capsys, monkeypatch):
    """A line ends where the next word has no room, and not where the docstring broke it."""
    monkeypatch.setenv("COLUMNS", "80")
    run(*words, "--help")
    lines = capsys.readouterr().out.splitlines()
    rows = [line[2:-2] for line in lines if len(line) == 80]  # in boxes, or without
    column = mode(len(row) - len(row.lstrip()) for row in rows if re.match(r"   +\S", row))
    room = len(rows[0]) - column
    texts = [row[column:].rstrip() if row[column - 2 : column].isspace() else "" for row in rows]
    options = [row[:column].strip() != "" for row in rows]
    followed = [
        (text, after)
        for text, after, begins in zip(texts, texts[1:], options[1:], strict=False)
        if text and after and not begins
    ]
    assert len(followed) > 10
    for text, after in followed:
        assert len(f"{text} {after.split()[0]}") > room, (text, after)


def test_recipes_are_listed_in_two_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "70")
    run("recipes")
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 70
    names = [line.split()[0] for line in lines if not line.startswith(" ")]
    assert names == [*RECIPES, "bags"]
    starts = {re.search(r"(?<=  )\S", line).start() for line in lines}
    assert starts == {2 + max(map(len, names))}


def test_help_loads_no_torch():
    code = (
        "import sys\nfrom loss_attention.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "assert 'torch' not in sys.modules, 'torch'\nassert 'numpy' not in sys.modules, 'numpy'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage: loss-attention" in done.stdout


STOPPED = """
import os, signal, sys
from loss_attention.cli import main
from loss_attention.training.trainer import Trainer

train_step, done = Trainer.train_step, 0

def interrupted(self, batch, gamma):
    global done
    train_step(self, batch, gamma)
    done += 1
    if done == 5:
        os.kill(os.getpid(), signal.SIGINT)

Trainer.train_step = interrupted
main(sys.argv[1:])
"""


def test_ctrl_c_says_how_to_resume_and_resuming_finishes(trained, tmp_path):
    folder = tmp_path / "run"
    words = ["train", "folder", "--data", str(trained / "images"), *SMALL, "--out", str(folder)]
    words[words.index("--epochs") + 1] = "4"
    done = subprocess.run([sys.executable, "-c", STOPPED, *words], capture_output=True, text=True)
    err = done.stderr
    assert done.returncode == 130
    assert f"loss-attention resume {folder}" in err
    assert err.count("\n") == 1
    run("resume", str(folder))
    assert (folder / "report.html").exists()
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 4


def test_names_that_are_no_utf_8_go_through_every_command(tmp_path, monkeypatch):
    """In a terminal of UTF-8, which refuses to print such names as they are."""
    images = make_folder(tmp_path / "images", (os.fsdecode(b"caf\xe9"), "other"), each=5)
    (images / "other" / "1.png").rename(images / "other" / os.fsdecode(b"\xff.png"))
    (images / "other" / os.fsdecode(b"\xfe.png")).write_bytes(b"junk")
    terminal = io.TextIOWrapper(io.BytesIO(), "utf-8", "strict", write_through=True)
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "stderr", terminal)
    assert exit_code("data", "check", images) == 2
    small = [*SMALL, "--epochs", "1", "--skip-broken"]
    run("train", "folder", "--data", images, *small, "--out", tmp_path / "run")
    assert exit_code("explain", tmp_path / "run", images, "--out", tmp_path / "out") == 2
    said = terminal.buffer.getvalue().decode()
    assert "error: other/\\xfe.png cannot be read as an image" in said
    facts = (tmp_path / "run" / "run.json").read_text()
    assert json.loads(facts)["classes"][0] == os.fsdecode(b"caf\xe9")
    found = {os.fsencode(path.name) for path in (tmp_path / "out").iterdir()}
    assert b"\xff.json" in found
