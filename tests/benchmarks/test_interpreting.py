"""What the comparison of explanations runs, and what it does not run again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import interpreting
import pytest
from benchmarks.stand_ins import write_json
from measuring import Finished

from loss_attention.cli import parse
from loss_attention.cli.subcommands import Flat
from loss_attention.errors import InputError
from loss_attention.training.recipe import Recipe
from loss_attention.training.recipes import recipe

PART = 0.01
ONE = replace(recipe("digits"), limit_images=80, epochs=1)


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The commands that are run; they write what the real ones would."""
    seen: list[tuple[str, ...]] = []

    def timed(_command: str, *words: str) -> Finished:
        seen.append(words)
        if words[0] == "compare":
            write_json(
                Path(words[words.index("--out") + 1]) / "comparison.json",
                images=words[3],
                metrics={"deletion": {}, "seconds": {}},
                methods={"evidence": {"scores": {"deletion": 0.5, "seconds": 0.25}}},
            )
        else:
            out = Path(words[1] if words[0] == "resume" else words[words.index("--out") + 1])
            write_json(out / "run.json", source="scenes", parameters=1, train_seconds=2.0)
            write_json(out / "evaluation.json", images=80, metrics=[])
            if words[0] == "train":
                made = replace(ONE, name=words[1], data=words[1], head=words[3])
                multi = replace(recipe("multi-digits"), head=words[3], limit_images=80, epochs=1)
                chosen: Recipe = made if words[1] == "digits" else multi
                (out / "recipe.yaml").write_text(chosen.to_yaml())
        return Finished(3.0, 100.0, "")

    monkeypatch.setattr(interpreting, "timed", timed)
    return seen


def test_each_network_is_trained_and_compared_once(tmp_path: Path, commands) -> None:
    numbers = interpreting.interpreting("interpreting", PART, tmp_path)
    slow = ["train", "compare", "compare"]  # multi-digits has methods of its own for few images
    assert [words[0] for words in commands] == ["train", "compare"] * 2 + slow * 2
    flags = ("--head", "mean", "--seed", "0", "--limit-images", "80", "--epochs", "1")
    assert commands[2] == ("train", "digits", *flags, "--out", str(tmp_path / "digits-mean-0"))
    run = tmp_path / "digits-mean-0"
    out = ("--out", str(run / "compare"), "--overwrite")
    assert commands[3] == ("compare", str(run), "--images", "2", *out)
    assert [(run["recipe"], run["head"]) for run in numbers["runs"]] == [
        (name, head) for name in ("digits", "multi-digits") for head in ("loss-attention", "mean")
    ]
    assert numbers["runs"][0]["compare_command_seconds"] == 3.0
    assert list(numbers["runs"][0]["comparison"]["metrics"]) == ["deletion", "seconds"]
    commands.clear()
    assert interpreting.interpreting("interpreting", PART, tmp_path) == numbers
    assert commands == []


def test_an_interrupted_network_is_continued(tmp_path: Path, commands) -> None:
    interpreting.interpreting("interpreting", PART, tmp_path)
    commands.clear()
    (tmp_path / "digits-mean-0" / "evaluation.json").unlink()
    (tmp_path / "digits-mean-0" / "compare" / "comparison.json").unlink()
    (tmp_path / "multi-digits-mean-0" / "evaluation.json").unlink()
    (tmp_path / "multi-digits-mean-0" / "run.json").unlink()  # it had not begun
    numbers = interpreting.interpreting("interpreting", PART, tmp_path)
    assert [words[0] for words in commands] == ["resume", "compare", "train"]
    assert commands[-1][-1] == "--overwrite"
    # What is left of a training says nothing of the time that it took.
    assert numbers["runs"][1]["train_command_seconds"] is None


def test_seconds_beside_other_work_are_not_kept(tmp_path: Path, commands) -> None:
    numbers = interpreting.interpreting("interpreting", PART, tmp_path, alone=False)
    assert all(run["training_seconds"] is None for run in numbers["runs"])
    assert all(run["train_command_seconds"] is None for run in numbers["runs"])
    assert all(run["compare_command_seconds"] is None for run in numbers["runs"])
    comparison = numbers["runs"][0]["comparison"]
    assert list(comparison["metrics"]) == ["deletion"]
    assert comparison["methods"]["evidence"]["scores"] == {"deletion": 0.5}
    # Nor are they later, by one who had the machine for the rest.
    assert interpreting.interpreting("interpreting", PART, tmp_path) == numbers


def test_a_run_of_other_settings_is_not_taken(tmp_path: Path, commands) -> None:
    interpreting.interpreting("interpreting", PART, tmp_path)
    other = replace(ONE, head="mean", gamma_max=0.3)
    (tmp_path / "digits-mean-0" / "recipe.yaml").write_text(other.to_yaml())
    with pytest.raises(InputError, match="digits-mean-0 holds a run with other settings"):
        interpreting.interpreting("interpreting", PART, tmp_path)
    assert len(commands) == 10


def test_what_a_study_changes_is_in_its_command(tmp_path: Path, monkeypatch) -> None:
    changes = {"name": "mine", "data": "DATA"}
    study = interpreting.Study("folder", (3,), ("mean",), changes, "evidence,cam", 50)
    monkeypatch.setitem(interpreting.SUBJECTS, "tried", (study,))
    words: list[tuple[str, ...]] = []

    out = tmp_path / "mine-mean-3"

    def timed(_command: str, *given: str) -> Finished:
        words.append(given)
        if given[0] == "compare":
            raise KeyboardInterrupt
        out.mkdir()
        wanted = replace(recipe("folder"), head="mean", seed=3, **changes)
        (out / "recipe.yaml").write_text(wanted.to_yaml())
        return Finished(3.0, 100.0, "")

    monkeypatch.setattr(interpreting, "timed", timed)
    with pytest.raises(KeyboardInterrupt):
        interpreting.interpreting("tried", 1.0, tmp_path)
    flags = ("--head", "mean", "--seed", "3", "--name", "mine", "--data", "DATA")
    explained = ("--images", "50", "--methods", "evidence,cam", "--out", str(out / "compare"))
    assert words == [
        ("train", "folder", *flags, "--out", str(out)),
        ("compare", str(out), *explained, "--overwrite"),
    ]


def test_slow_methods_are_compared_on_fewer_images(tmp_path: Path, commands, monkeypatch) -> None:
    study = interpreting.Study(
        "digits",
        (0,),
        ("mean",),
        {},
        "evidence,cam",
        500,
        slow_methods="occlusion",
        slow_images=300,
    )
    monkeypatch.setitem(interpreting.SUBJECTS, "tried", (study,))
    (run,) = interpreting.interpreting("tried", PART, tmp_path)["runs"]
    assert [words[2:6] for words in commands[1:]] == [
        ("--images", "5", "--methods", "evidence,cam"),
        ("--images", "3", "--methods", "occlusion"),
    ]
    assert run["commands"][1:] == [
        "loss-attention compare RUN --images 5 --methods evidence,cam",
        "loss-attention compare RUN --images 3 --methods occlusion",
    ]
    assert run["comparison"]["images"] == "5"
    assert run["slow_comparison"]["images"] == "3"
    assert run["compare_slow_command_seconds"] == 3.0
    commands.clear()
    assert interpreting.interpreting("tried", PART, tmp_path)["runs"] == [run]
    assert commands == []


def is_it(console: object, recipe: Annotated[Recipe, Flat]) -> int:
    """Whether the options make a recipe, which comes in the place of the console."""
    return recipe == console


@pytest.mark.parametrize("subject", sorted(interpreting.SUBJECTS))
def test_the_flags_of_every_study_make_its_recipe(subject: str) -> None:
    for study in interpreting.SUBJECTS[subject]:
        base = recipe(study.recipe)
        changed = replace(base, **study.changes)
        assert parse(is_it, study.flags(), "train", recipe=base)(changed)


def test_what_the_results_have_is_not_measured_again(tmp_path: Path, commands) -> None:
    known = interpreting.interpreting("interpreting", PART, tmp_path / "there")["runs"]
    known[1] = known[1] | {"settings": known[1]["settings"] | {"gamma_max": 0.3}}
    commands.clear()
    numbers = interpreting.interpreting("interpreting", PART, tmp_path / "here", known=known)
    # That of other settings, and that alone, is.
    assert [words[0] for words in commands] == ["train", "compare"]
    assert [run["seed"] for run in numbers["runs"]] == [run["seed"] for run in known]
    assert numbers["runs"][0] is known[0]
    assert numbers["runs"][1]["settings"]["gamma_max"] != 0.3
