"""What the table of photos runs, and what it does not run again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import peers
import photos
import photos_page
import pytest
import torch
from benchmarks.stand_ins import write_json
from measuring import Finished

from loss_attention import runs
from loss_attention.data.sample import ImageSet, Splits
from loss_attention.errors import InputError


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The commands that are run; they write what the real ones would."""
    seen: list[tuple[str, ...]] = []

    def timed(_command: str, *words: str, environment: dict[str, str] | None = None) -> Finished:
        seen.append((*words, *(environment or {})))
        if words[0] == "compare":
            scores = {"pxap": {"value": 0.3}, "time_ratio": {"value": 1.04}}
            write_json(
                Path(words[1]) / "compare" / "comparison.json",
                images=5,
                metrics={"pxap": {"label": "PxAP"}},
                methods={"margin": {"scores": scores}},
            )
        else:
            out = Path(words[1] if words[0] == "resume" else words[words.index("--out") + 1])
            seed = 0 if words[0] == "resume" else int(words[words.index("--seed") + 1])
            (out / "recipe.yaml").parent.mkdir(parents=True, exist_ok=True)
            (out / "recipe.yaml").touch()
            write_json(out / "run.json", source="photos", parameters=1, train_seconds=2.0)
            metrics = [{"name": "accuracy", "value": 0.95 - seed / 100}]
            write_json(out / "evaluation.json", images=5, metrics=metrics)
        return Finished(3.0, 100.0, "")

    monkeypatch.setattr(photos, "timed", timed)
    return seen


@pytest.fixture
def place(tmp_path: Path) -> photos.Place:
    (tmp_path / "data" / "magnetic-tile").mkdir(parents=True)
    return photos.Place(tmp_path / "data", tmp_path / "lite0.pth", tmp_path / "runs", 5)


def measured(place: photos.Place, name: str = "tiles", seed: int = 0) -> dict[str, Any]:
    return photos.measured(name, photos.ROWS[name], seed, place)


def test_each_run_is_trained_and_compared_once(place: photos.Place, commands) -> None:
    found = measured(place)
    assert [words[0] for words in commands] == ["train", "compare"]
    assert commands[0][:2] == ("train", "photos")
    assert commands[0][-2:] == ("--out", str(place.runs / "tiles-0"))
    assert str(place.weights) in commands[0]
    assert found["train_command_seconds"] == 3.0
    assert found["metrics"] == [{"name": "accuracy", "value": 0.95}]
    assert "runs" not in "".join(found["commands"])
    assert str(place.data_root) not in "".join(found["commands"])
    commands.clear()
    assert measured(place) == found
    assert commands == []


def test_an_interrupted_run_is_continued(place: photos.Place, commands) -> None:
    measured(place)
    commands.clear()
    (place.runs / "tiles-0" / "evaluation.json").unlink()
    assert measured(place)["train_command_seconds"] is None
    assert [words[0] for words in commands] == ["resume"]


def test_what_is_trained_first_is_compared_later(place: photos.Place, commands) -> None:
    photos.trained("tiles", photos.ROWS["tiles"], 0, place)
    assert measured(place)["train_command_seconds"] == 3.0
    assert [words[0] for words in commands] == ["train", "compare"]


def test_a_run_of_another_command_is_not_taken(place: photos.Place, commands) -> None:
    measured(place)
    other = photos.Place(place.data_root, place.weights, place.runs, 6)
    with pytest.raises(InputError, match="holds a run of another command"):
        measured(other)


def test_a_fine_tuned_run_begins_with_the_frozen_one(place: photos.Place, commands) -> None:
    measured(place, "tiles-fine-tuned", 2)
    words = commands[0]
    assert words[words.index("--from") + 1] == str(place.runs / "tiles-2")
    assert "--weights" not in words
    scratch = place.options(photos.ROWS["tiles-scratch"], 0)
    assert not {"--weights", "--pretrained"} & set(scratch)


def test_seconds_beside_other_work_are_not_kept(place: photos.Place, commands) -> None:
    found = measured(replace(place, alone=False))
    assert found["train_command_seconds"] is None
    assert found["compare_command_seconds"] is None
    assert len(commands) == 2


def test_a_row_may_have_an_environment(place: photos.Place, commands) -> None:
    found = measured(place, "tiles-avx2")
    assert "ATEN_CPU_CAPABILITY" in commands[0]
    assert found["commands"][0].startswith("ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 loss")


def test_photos_of_one_tile_are_told_from_their_numbers(place: photos.Place) -> None:
    """A new tile where the exposure does not rise, the number jumps or the class is another."""
    tiles = place.data_root / "magnetic-tile"
    taken = [(1, 10, "a"), (2, 12, "a"), (5, 40, "a"), (5, 41, "a"), (6, 142, "a"), (6, 143, "b")]
    lines = [f"images/exp{e}_num_{n}.jpg,{label},,train" for e, n, label in reversed(taken)]
    (tiles / "labels.csv").write_text("\n".join(["image,label,mask,split", *lines]))
    data = photos.Place(place.data_root, None, place.runs).data(photos.BY_TILE)
    written = (Path(data) / "labels.csv").read_text().split("\n")
    assert written[0].split(",") == ["image", "label", "mask", "tile"]
    assert [line[-1] for line in written[1:-1]] == list("111234")
    assert "split" not in written[0]


def test_data_that_is_not_there_is_said_in_a_line(place: photos.Place) -> None:
    with pytest.raises(InputError, match="there is no cifar10 in --data-root"):
        measured(place, "cifar10")


def test_commands_are_shown_without_folders_of_this_machine() -> None:
    words = ["train", "photos", "--data", "tiny-imagenet:/a/b", "--weights", "/c/w.pth"]
    shown = photos.shown_command([*words, "--classes", "sea cow", "--group", r"num_(\d+)"])
    assert shown == (
        "loss-attention train photos --data tiny-imagenet:b --weights w.pth --classes 'sea cow' "
        r"--group 'num_(\d+)'"
    )


def test_means_come_with_their_range_and_the_worst_seed() -> None:
    assert (
        photos_page.shown([0.5, 0.25, None], worst=True) == "0.375 (0.250 to 0.500, worst: seed 1)"
    )
    assert photos_page.shown([0.5, 0.5], worst=True) == "0.500 (0.500 to 0.500)"
    assert photos_page.shown([None]) == "-"


def test_the_page_has_every_row_and_its_commands(place: photos.Place, commands) -> None:
    runs = [measured(place, "tiles", seed) for seed in (0, 1)]
    spread = {"median": 1.02, "lowest": 1.01, "highest": 1.04, "turns": 9}
    times = [{"kind": "ViT", "backbone": "timm/v", "forward_seconds": spread, "ratio": spread}]
    text = photos_page.page(
        {
            "command": "python benchmarks/photos.py",
            "measured": "2026-01-01",
            "hardware": {"cpu": "a CPU", "cores": 2},
            "vector_units": "AVX2",
            "versions": {"torch": "2"},
            "backbone_versions": {"timm": "1"},
            "runs": runs,
            "times": times,
        }
    )
    first = "| magnetic tiles, frozen | 0.945 (0.940 to 0.950, worst: seed 1) | - | - | - | - |"
    assert f"{first} - | 3 (3 to 3) |" in text
    assert "| margin | 0.300 (0.300 to 0.300) | 1.04 (1.04 to 1.04) |" in text
    assert "| ViT | timm/v | 1,020.0 (1,010.0 to 1,040.0) | 1.02 (1.01 to 1.04) |" in text
    assert runs[0]["commands"][0] in text


def test_a_probe_is_fitted_to_the_images_of_a_row(
    place: photos.Place, commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once; to all the images of its run that are not tests, however its classes are ordered."""
    given = []

    def classified(peer: peers.Peer, task: peers.Task, seed: int) -> tuple[None, None, Any]:
        assert sorted(path.name for path in (task.folder / "train").iterdir()) == [
            ".done",
            "ant",
            "bee",
        ]
        given.append((peer.train, seed, task.test.class_names, task.test.labels.tolist()))
        return None, None, {"accuracy": 0.5, "balanced_accuracy": 0.4, "train_seconds": 7.0}

    pictures = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    whole = ImageSet(pictures, torch.tensor([0, 1, 0, 1]), ("bee", "ant"))
    splits = Splits(whole.subset(torch.arange(2)), whole.subset(torch.arange(2, 4)), "made up")
    monkeypatch.setattr(photos, "classified", classified)
    monkeypatch.setattr(photos, "named_as_timm", lambda weights, *_: weights)
    monkeypatch.setattr(runs, "own_data", lambda *_: splits)
    found = photos.probed("tiles-probe", 1, place)
    assert photos.probed("tiles-probe", 1, place) == found
    assert given == [("probe", 1, ("ant", "bee"), [1, 0])]
    assert [words[0] for words in commands] == ["train"]
    assert (found["row"], found["train_command_seconds"]) == ("tiles-probe", 7.0)
    assert [one["value"] for one in found["metrics"]] == [0.5, 0.4]
    assert found["what"] == "magnetic tiles, linear probe on pooled features"
