"""Checkpoints in shards: as whole as those in one piece, whoever wrote and whoever reads them."""

from __future__ import annotations

import pickle
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file
from training.several import in_processes
from training.shards import (
    assert_same,
    full_after,
    load,
    save,
    save_where_the_second_is_full,
    state,
)
from training.test_digests import assert_same_weights, copied, flip
from training.tiny import run_stopped_at, start_run, tiny_recipe, tiny_splits

from loss_attention.errors import InputError
from loss_attention.saving import SaveError
from loss_attention.training import sharded
from loss_attention.training.bookkeeping import Checkpoints
from loss_attention.training.job import continue_run
from loss_attention.training.recipe import RunOptions
from loss_attention.training.run_folder import RunFolder
from loss_attention.training.sharded import outlined, shares, staged
from loss_attention.training.trainer import Trainer

FORMS = ("sharded", "async")
ADAM = tiny_recipe(optimizer="adam", learning_rate=0.003)


def options(form: Any, every: int = 2) -> RunOptions:
    return RunOptions(accelerator="cpu", checkpoint=form, checkpoint_every_steps=every)


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("state.*.shards/*.safetensors"))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("writers", "readers"), [(1, 1), (2, 1), (1, 2)])
def test_what_some_processes_write_others_read(
    writers: int, readers: int, form: str, tmp_path: Path
) -> None:
    in_processes(partial(save, path=tmp_path, form=form), writers)
    held = [set(load_file(shard)) for shard in shards(tmp_path)]
    assert len(held) == writers
    assert all(held)  # each has some
    assert len(set.union(*held)) == sum(map(len, held)) == 6  # and none two have
    assert (tmp_path / "metrics.jsonl").read_text() == '{"epoch": 1}\n'
    in_processes(partial(load, path=tmp_path), readers)


def test_shares_are_about_equal() -> None:
    sizes = torch.randint(1, 1000, (200,)).tolist()
    tensors = {f"{number}": torch.zeros(size) for number, size in enumerate(sizes)}
    found = shares(tensors, 7)
    assert sorted(name for share in found for name in share) == sorted(tensors)
    bytes_each = [sum(tensors[name].nbytes for name in share) for share in found]
    assert max(bytes_each) - min(bytes_each) <= 4 * 1000


@pytest.mark.parametrize("form", FORMS)
def test_a_run_ends_as_with_plain_checkpoints_stopped_and_resumed(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = tiny_splits()
    plain = start_run(tmp_path / "plain", ADAM, splits, options("plain"))
    assert continue_run(plain, splits)
    run = run_stopped_at(tmp_path / form, ADAM, splits, [3, 14], monkeypatch, options(form))
    assert_same_weights(run.path, plain.path)
    ours, theirs = run.load_state(), plain.load_state()
    assert ours is not None
    assert theirs is not None
    clock = {"seconds", "epoch_seconds", "images_per_second", "history"}
    for one in (ours, theirs):
        one["position"] = {k: v for k, v in one["position"].items() if k not in clock}
    ours.pop("shards")
    assert_same(ours, theirs)
    assert not (run.path / "state.previous.pt").exists()
    assert len(list(run.path.glob("state.*.shards*"))) == 1


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped with two checkpoints."""
    path, splits = tmp_path_factory.mktemp("stopped") / "run", tiny_splits()
    run = start_run(path, ADAM, splits, options("sharded"))
    with pytest.MonkeyPatch.context() as patch:
        step = Trainer.train_step

        def until(self: Trainer, batch: Any, gamma: float) -> None:
            step(self, batch, gamma)
            self.stop.requested = self._finished_steps + 1 >= 9

        patch.setattr(Trainer, "train_step", until)
        assert not continue_run(run, splits)
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path, splits = tmp_path_factory.mktemp("whole") / "run", tiny_splits()
    run = start_run(path, ADAM, splits, options("plain"))
    assert continue_run(run, splits)
    return path


def newest(path: Path) -> Path:
    """The shard of the last checkpoint."""
    last = torch.load(path / "state.pt", weights_only=True)["shards"]["folder"]
    (shard,) = (path / last).iterdir()
    return shard


def flipped(shard: Path) -> None:
    flip(shard, 4 * shard.stat().st_size)


def cut(shard: Path) -> None:
    shard.write_bytes(shard.read_bytes()[:1000])


def lost(shard: Path) -> None:
    shard.unlink()


def joined(shard: Path) -> None:
    shard.with_name("shard-00002.safetensors").write_bytes(shard.read_bytes())


def gone(shard: Path) -> None:
    shard.unlink()
    shard.parent.rmdir()


@pytest.mark.parametrize("harm", [flipped, cut, lost, joined, gone])
def test_damaged_shards_fall_back_to_the_checkpoint_before(
    harm: Any, stopped: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copied(stopped, tmp_path)
    harm(newest(path))
    if harm is flipped:
        assert continue_run(RunFolder.open(path), tiny_splits())
        assert_same_weights(path, whole)
    else:
        state = RunFolder.open(path).load_state()
        assert state is not None
        assert state["position"]["step"] == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "going on from the checkpoint before it, state.previous.pt" in said


def test_no_sound_checkpoint_is_one_line(stopped: Path, tmp_path: Path) -> None:
    path = copied(stopped, tmp_path)
    for shard in shards(path):
        flipped(shard)
    with pytest.raises(InputError, match=r"truncated or damaged: .*may still load") as caught:
        continue_run(RunFolder.open(path), tiny_splits())
    assert "\n" not in str(caught.value)


def test_what_a_kill_leaves_half_written_goes_and_nothing_else(
    stopped: Path, tmp_path: Path
) -> None:
    path = copied(stopped, tmp_path)
    before = {one.name for one in path.iterdir()}
    assert len([name for name in before if name.endswith(".shards")]) == 2
    half = path / f"state.{'0' * 16}.shards.tmp"
    orphan = path / f"state.{'1' * 16}.shards"
    for folder in (half, orphan, path / "state.mine.shards"):
        folder.mkdir()
        (folder / "part.safetensors").write_bytes(b"half")
    RunFolder.open(path).settle()
    assert {one.name for one in path.iterdir()} - {".lock"} == (before - {".lock"}) | {
        "state.mine.shards"
    }


def test_a_new_run_in_the_folder_removes_shards(stopped: Path, tmp_path: Path) -> None:
    path = copied(stopped, tmp_path)
    start_run(path, ADAM, tiny_splits(), options("plain"), overwrite=True)
    assert not list(path.glob("state.*"))


def test_nothing_is_unpickled_but_plain_values(
    stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("unpickled")

    read = torch.load

    def only_weights(*given: Any, **how: Any) -> Any:
        assert how.get("weights_only") is True
        return read(*given, **how)

    for name in ("load", "loads", "Unpickler", "_Unpickler"):
        monkeypatch.setattr(pickle, name, refused)
    monkeypatch.setattr(torch, "load", only_weights)
    assert RunFolder.open(stopped).load_state() is not None


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("all", "its shards cannot be 'all'"),
        ({"folder": "../elsewhere", "files": {}}, "its shards cannot be"),
        ({"folder": f"state.{'0' * 16}.shards", "files": ["a"]}, "its shards cannot be"),
        ({"folder": f"state.{'0' * 16}.shards", "files": {"a": ""}}, "is not whole: it has no 'a'"),
    ],
)
def test_shards_that_cannot_be_are_one_line(record: Any, message: str, tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.save_state({"position": {}, "shards": record})
    with pytest.raises(InputError, match=message) as caught:
        run.load_state()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "outline",
    [
        torch.empty(10**9, 10**6, device="meta"),
        torch.empty(3, 3, device="meta"),
        torch.empty(6, dtype=torch.float64, device="meta"),
    ],
)
def test_an_outline_of_another_tensor_takes_no_memory(
    outline: torch.Tensor, tmp_path: Path
) -> None:
    in_processes(partial(save, path=tmp_path, form="sharded"), 1)
    found = RunFolder(tmp_path).find_state()
    assert found is not None
    found["optimizer"]["state"][0]["moment"] = outline
    with pytest.raises(InputError, match="has other tensors than its checkpoint"):
        RunFolder(tmp_path).whole_state(found)


@pytest.mark.parametrize("form", FORMS)
def test_a_full_disk_ends_the_run_with_the_checkpoint_before(
    form: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start_run(tmp_path / "run", ADAM, tiny_splits(), options(form))
    seen = 0

    def counted(*given: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen == 2:  # the second checkpoint, at step 4
            full_after(monkeypatch, 5)
        return outlined(*given)

    monkeypatch.setattr(sharded, "outlined", counted)
    with pytest.raises(SaveError, match="No space left on device; the checkpoint before") as caught:
        continue_run(run, tiny_splits())
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    left = run.find_state()
    assert left is not None
    assert (left["position"]["epoch"], left["position"]["step"]) == (0, 2)
    assert [one.name for one in run.path.glob("state.*.shards*")] == [left["shards"]["folder"]]
    assert continue_run(run, tiny_splits())
    assert_same_weights(run.path, whole)


@pytest.mark.parametrize("form", FORMS)
def test_a_full_disk_of_one_process_is_told_in_all(form: str, tmp_path: Path) -> None:
    in_processes(partial(save_where_the_second_is_full, path=tmp_path, form=form), 2)
    load(_alone(), path=tmp_path)
    assert len(list(tmp_path.glob("state.*.shards*"))) == 1


def _alone() -> Fabric:
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    return fabric


def test_training_goes_on_while_a_checkpoint_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writing waits for a step to be taken, so it ends only if that one does not wait for it.

    And the next checkpoint waits for it.
    """
    goes_on, events = threading.Event(), []
    write = sharded.write_shards

    def waiting(*given: Any) -> None:
        events.append("begun")
        assert goes_on.wait(60)
        write(*given)
        events.append("written")

    monkeypatch.setattr(sharded, "write_shards", waiting)
    checkpoints = Checkpoints(_alone(), RunFolder(tmp_path), form="async")
    moving = state()
    checkpoints.save(moving, [], None)
    weights = moving["model"]["conv.weight"]
    weights += 1  # a step
    moving["optimizer"]["state"][0]["step"] += 1
    checkpoints.check()
    assert not (tmp_path / "state.pt").exists()
    goes_on.set()
    checkpoints.save(moving, [], None)
    assert events[:2] == ["begun", "written"]
    checkpoints.finish()
    assert events == ["begun", "written"] * 2
    (tmp_path / "state.pt").unlink()
    (tmp_path / "state.previous.pt").rename(tmp_path / "state.pt")
    load(_alone(), path=tmp_path)  # what it was when it was saved


def test_an_error_in_the_background_is_told_at_the_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start_run(tmp_path / "run", ADAM, tiny_splits(), options("async"))
    steps = 0
    step = Trainer.train_step

    def watched(self: Trainer, batch: Any, gamma: float) -> None:
        nonlocal steps
        writing = self.checkpoints._writing
        if writing is not None:
            writing.exception()  # wait for it
        steps += 1
        step(self, batch, gamma)

    monkeypatch.setattr(Trainer, "train_step", watched)
    full_after(monkeypatch, 0)
    with pytest.raises(SaveError, match="No space left"):
        continue_run(run, tiny_splits())
    assert steps == 3  # saved after the second


def test_what_ended_the_training_is_told_before_what_could_not_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(_alone(), RunFolder(tmp_path), form="async")
    full_after(monkeypatch, 0)

    def train() -> None:
        with checkpoints.written():
            checkpoints.save(state(), [], None)
            raise InputError("the reason")

    with pytest.raises(InputError, match="the reason"):
        train()


def test_staged_tensors_are_copies() -> None:
    tensors = {"a": torch.ones(2, 3).t(), "b": torch.ones(2)}
    (copied_one,) = staged(tensors, ["a"]).values()
    tensors["a"] += 1
    assert copied_one.is_contiguous()
    assert torch.equal(copied_one, torch.ones(3, 2))


def test_an_unknown_form_is_one_line() -> None:
    with pytest.raises(InputError, match="unknown checkpoint 'shards'; did you mean 'sharded'"):
        replace(RunOptions(), checkpoint="shards")  # type: ignore[arg-type]
