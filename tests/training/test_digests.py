"""What is read of a run is what was written: digests, and the checkpoint before the last."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from training.tiny import new_run, run_stopped_at, start_run, tiny_recipe, tiny_splits

from loss_attention.errors import InputError
from loss_attention.model import load
from loss_attention.training.job import continue_run
from loss_attention.training.recipe import RunOptions
from loss_attention.training.run_folder import RunFolder
from loss_attention.training.trainer import Trainer

CPU = RunOptions(accelerator="cpu")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is finished."""
    path = tmp_path_factory.mktemp("whole") / "run"
    run = start_run(path, tiny_recipe(), tiny_splits(), CPU)
    assert continue_run(run, tiny_splits())
    return path


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped in its third of four epochs, 6 steps each."""
    path = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.MonkeyPatch.context() as patch:
        step = Trainer.train_step

        def until(self: Trainer, batch: Any, gamma: float) -> None:
            step(self, batch, gamma)
            self.stop.requested = self._finished_steps + 1 >= 14

        patch.setattr(Trainer, "train_step", until)
        assert not continue_run(start_run(path, tiny_recipe(), tiny_splits(), CPU), tiny_splits())
    return path


def copied(path: Path, to: Path) -> Path:
    return Path(shutil.copytree(path, to / "run"))


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def loads_the_same(path: Path, content: bytes) -> bool:
    try:
        return bool(json.loads(path.read_text()) == json.loads(content))
    except ValueError:
        return False


def assert_same_weights(path: Path, other: Path) -> None:
    ours, expected = load(path).state_dict(), load(other).state_dict()
    assert all(torch.equal(ours[name], expected[name]) for name in expected)


def test_digests_are_those_of_the_files(stopped: Path) -> None:
    files = json.loads((stopped / "run.json").read_text())["files"]
    assert set(files) == {"recipe.yaml", "model.safetensors", "metrics.jsonl", "state.pt"}
    for name, digests in files.items():
        assert hashlib.sha256((stopped / name).read_bytes()).hexdigest() == digests[0]
    before = hashlib.sha256((stopped / "state.previous.pt").read_bytes()).hexdigest()
    assert before == files["state.pt"][1]


@pytest.mark.parametrize(
    "name", ["recipe.yaml", "model.safetensors", "metrics.jsonl", "run.json", "evaluation.json"]
)
def test_a_flipped_bit_is_one_line(name: str, whole: Path, tmp_path: Path) -> None:
    path = copied(whole, tmp_path)
    RunFolder(path).write_json("evaluation.json", {"thresholds": {"detection_ap50": 0.5}})
    readers = {
        "model.safetensors": lambda: load(path),
        "metrics.jsonl": lambda: RunFolder(path).metrics(),
        "evaluation.json": lambda: RunFolder(path).read_json("evaluation.json"),
    }
    read = readers.get(name, lambda: RunFolder.open(path))
    read()
    content, chance = (path / name).read_bytes(), random.Random(0)
    for _ in range(25):
        flip(path / name, bit := chance.randrange(8 * len(content)))
        # White space in run.json may be other white space.
        harmless = name == "run.json" and loads_the_same(path / name, content)
        with nullcontext() if harmless else pytest.raises(InputError, match=f"^{path}.*") as caught:
            read()
        assert harmless or "\n" not in str(caught.value)
        flip(path / name, bit)
    read()


@pytest.mark.parametrize("harm", ["flipped", "cut", "gone"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    harm: str, stopped: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copied(stopped, tmp_path)
    state = path / "state.pt"
    if harm == "flipped":
        flip(state, 4 * len(state.read_bytes()))
    elif harm == "cut":
        state.write_bytes(state.read_bytes()[:2000])
    else:
        state.unlink()
    assert continue_run(RunFolder.open(path), tiny_splits())
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "going on from the checkpoint before it, state.previous.pt" in said
    assert_same_weights(path, whole)


def test_the_checkpoint_fallen_back_to_is_not_lost_to_the_damaged_one(
    stopped: Path, tmp_path: Path
) -> None:
    path = copied(stopped, tmp_path)
    good = (path / "state.previous.pt").read_bytes()
    flip(path / "state.pt", 9999)
    run = RunFolder.open(path)
    state = run.load_state(lambda _: None)
    assert state is not None
    run.save_state(state)
    assert (path / "state.previous.pt").read_bytes() == good


def test_two_damaged_checkpoints_are_one_line(stopped: Path, tmp_path: Path) -> None:
    path = copied(stopped, tmp_path)
    for name in ("state.pt", "state.previous.pt"):
        flip(path / name, 12345)
    with pytest.raises(InputError, match=r"state\.pt is truncated or damaged: .*may still load"):
        continue_run(RunFolder.open(path), tiny_splits())


@pytest.mark.parametrize("writes", range(6))
def test_a_crash_between_any_two_writes_leaves_a_run_that_resumes(
    writes: int, stopped: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writes of an epoch's end: run.json, weights, metrics, and the checkpoint."""
    path, left = copied(stopped, tmp_path), writes
    replace = Path.replace

    def dying(self: Path, target: Path) -> Path:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return replace(self, target)

    for _ in range(3):  # the same crash again and again
        left = writes
        monkeypatch.setattr(Path, "replace", dying)
        with pytest.raises(KeyboardInterrupt):
            continue_run(RunFolder.open(path), tiny_splits())
        monkeypatch.setattr(Path, "replace", replace)
    assert continue_run(RunFolder.open(path), tiny_splits())
    assert_same_weights(path, whole)


def test_a_changed_recipe_says_what_to_do(stopped: Path, tmp_path: Path) -> None:
    path = copied(stopped, tmp_path)
    text = (path / "recipe.yaml").read_text()
    (path / "recipe.yaml").write_text(text.replace("epochs: 4", "epochs: 5"))
    with pytest.raises(InputError, match=r"recipe\.yaml was changed since the run began: put it"):
        RunFolder.open(path)
    (path / "recipe.yaml").write_text(text)
    RunFolder.open(path)


def without_digests(path: Path) -> None:
    """Make a run what version 0.1 wrote: the same files, and no digests."""
    facts = json.loads((path / "run.json").read_text())
    del facts["files"], facts["digest"]
    (path / "run.json").write_text(json.dumps(facts | {"format_version": 1}))
    (path / "state.previous.pt").unlink(missing_ok=True)
    state = torch.load(path / "state.pt", weights_only=True)
    for name in ("epoch_seconds", "images_per_second"):
        del state["position"][name]
    torch.save(state, path / "state.pt")


def test_a_run_of_version_0_1_goes_on_and_has_digests_from_then_on(
    stopped: Path, whole: Path, tmp_path: Path
) -> None:
    path = copied(stopped, tmp_path)
    without_digests(path)
    load(path)
    assert RunFolder.open(path).recipe() == tiny_recipe()
    assert continue_run(RunFolder.open(path), tiny_splits())
    assert_same_weights(path, whole)
    assert set(json.loads((path / "run.json").read_text())["files"]) >= {"recipe.yaml", "state.pt"}
    flip(path / "recipe.yaml", 8)
    with pytest.raises(InputError, match=r"recipe\.yaml was changed"):
        RunFolder.open(path)


def test_a_page_that_nobody_reads_is_named(whole: Path, tmp_path: Path) -> None:
    run = RunFolder(copied(whole, tmp_path))
    run.write("report.html", "<p>92 %</p>")
    assert run.changed_pages() == []
    (run.path / "report.html").write_text("<p>93 %</p>")
    (line,) = run.changed_pages()
    assert "report.html" in line
    assert "`loss-attention report` writes it anew" in line


@pytest.mark.parametrize(
    "facts",
    [
        {"train_images": "many"},
        {"train_images": True},
        {"class_images": ["many"]},
        {"parameters": 10**400},
        {"finished": "yes"},
        {"classes": 3},
        {"normalisation": {"mean": ["x"], "std": [1]}},
        {"normalisation": {"mean": 3}},
        {"normalisation": [1]},
        {"hardware": "CPU"},
        {"best_epoch": 1.5},
        {"options": {"devices": 10**30}},
        {"files": []},
        {"files": {"state.pt": "abc"}},
        {"format_version": 0},
        {"format_version": True},
    ],
)
def test_malformed_facts_are_one_line(facts: dict[str, Any], tmp_path: Path) -> None:
    run = new_run(tmp_path, tiny_recipe())
    run.write_facts({"format_version": 2, **facts})
    with pytest.raises(InputError, match=r"run\.json") as caught:
        RunFolder.open(tmp_path).options()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "[]", "\udcff", '{"a": 1', "3", "null", '{"finished": 1e999}']
)
def test_a_run_json_that_is_none(text: str, tmp_path: Path) -> None:
    new_run(tmp_path, tiny_recipe())
    (tmp_path / "run.json").write_text(text, errors="surrogateescape")
    with pytest.raises(InputError, match=r"run\.json") as caught:
        RunFolder.open(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["{}\n[]", '{"loss": "low"}', '{"step": 1' + "0" * 400 + "}", "[" * 100_000, "\udcff"]
)
def test_malformed_metrics_are_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(text, errors="surrogateescape")
    with pytest.raises(InputError, match=r"metrics\.jsonl cannot be read") as caught:
        RunFolder(tmp_path).metrics()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"position": None},
        {"position": {"epoch": "3"}},
        {"position": {"epoch": -1}},
        {"position": {"epoch": True}},
        {"position": {"unknown": 1}},
        {"position": {"best": [1, 2, 3]}},
        {"position": {"history": [3]}},
        {"position": {"seconds": "long"}},
        {"totals": 3},
        {"totals": torch.zeros(2)},
        {"model": None},
        {"optimizer": {}},
    ],
)
def test_a_malformed_checkpoint_is_one_line(
    change: dict[str, Any], stopped: Path, tmp_path: Path
) -> None:
    run = RunFolder.open(copied(stopped, tmp_path))
    state = run.load_state()
    assert state is not None
    run.save_state(state | change)
    with pytest.raises(InputError, match="checkpoint in") as caught:
        continue_run(run, tiny_splits())
    assert "\n" not in str(caught.value)


def test_stopped_and_resumed_has_the_seconds_of_all_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that gains a second at each look: no wall time in this test."""
    import loss_attention.training.trainer as loop

    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 1
        return now

    monkeypatch.setattr(loop.time, "perf_counter", clock)
    options = RunOptions(accelerator="cpu", checkpoint_every_steps=2)
    step = Trainer.train_step

    def killed(self: Trainer, batch: Any, gamma: float) -> None:
        if self._finished_steps == 9:
            raise KeyboardInterrupt
        step(self, batch, gamma)

    run = start_run(tmp_path / "run", tiny_recipe(), tiny_splits(), options)
    monkeypatch.setattr(Trainer, "train_step", killed)
    with pytest.raises(KeyboardInterrupt):
        continue_run(run, tiny_splits())
    monkeypatch.setattr(Trainer, "train_step", step)
    state = run.load_state()
    assert state is not None
    position = state["position"]
    assert position["step"] == 2
    assert 0 < position["epoch_seconds"] < position["seconds"]
    spent = position["seconds"]
    assert continue_run(run, tiny_splits())
    lines = run.metrics()
    assert lines[1]["seconds"] > position["epoch_seconds"]
    total = run.facts()["train_seconds"]
    assert total > spent
    assert total >= sum(line["seconds"] for line in lines)


def test_stopped_at_any_step_it_ends_alike(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_stopped_at(tmp_path / "run", tiny_recipe(), tiny_splits(), [6, 9, 12], monkeypatch)
    assert_same_weights(run.path, whole)
