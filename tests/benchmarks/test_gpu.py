"""`benchmarks/gpu.py` as far as a CPU can try it: its checks, with the CPU in the GPU's place."""

from __future__ import annotations

import json
from pathlib import Path

import gpu
import pytest
import torch


def test_without_a_gpu_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["gpu.py"])
    with pytest.raises(SystemExit) as ended:
        gpu.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "no CUDA device\n"


@pytest.mark.parametrize("head", ["loss-attention", "capsule-dynamic-routing", "baseline"])
def test_every_head_agrees_with_itself(head: str) -> None:
    assert gpu.agreement(head, "cpu") == "differs by 0.0e+00 of the largest value"


def test_what_differs_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    told = iter([[torch.tensor([1.0, -2.0])], [torch.tensor([1.0, -2.01])]])
    monkeypatch.setattr(gpu, "outcomes", lambda *_: next(told))
    with pytest.raises(RuntimeError, match=r"differs by 5\.0e-03"):
        gpu.agreement("mean", "cpu")


def test_a_head_goes_through_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, seen = gpu.made_up(tmp_path / "images"), []

    def typed(*words: str) -> tuple[int, str]:
        seen.append(words)
        return (2, "no such image") if words[0] == "explain" else (0, "")

    monkeypatch.setattr(gpu, "typed", typed)
    with pytest.raises(RuntimeError, match=r"^explain ended with 2: no such image$"):
        gpu.commands("mean", images, tmp_path / "run", "cuda")
    assert [words[0] for words in seen] == ["train", "evaluate", "explain"]
    assert all(words[-2:] == ("--accelerator", "cuda") for words in seen)
    assert Path(seen[2][2]).is_file()
    assert gpu.commands("baseline", images, tmp_path / "run", "cuda") == "done"


def test_what_fails_does_not_keep_the_rest_from_being_done(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail() -> str:
        raise ValueError("nothing")

    assert not gpu.passed({"one": fail, "two": lambda: "done"}, 60)
    assert gpu.passed({"three": lambda: "done"}, 60)
    assert gpu.passed({"four": fail}, -1)
    lines = [line.split(" [")[0] for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "one: FAILED: ValueError: nothing",
        "two: done",
        "something is not well",
        "three: done",
        "all is well",
        "four: left out, no time",
        "all is well",
    ]


def test_what_passed_before_is_not_done_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> str:
        raise ValueError("nothing")

    assert not gpu.passed({"one": lambda: "done", "two": fail}, 60, tmp_path)
    assert gpu.passed({"one": fail, "two": lambda: "well"}, 60, tmp_path)
    lines = [line.split(" [")[0] for line in capsys.readouterr().out.splitlines()]
    assert lines[3:] == ["one: done", "two: well", "all is well"]


def test_photos_are_trained_frozen_and_fine_tuned_from_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def typed(*words: str) -> tuple[int, str]:
        seen.append(words)
        run = Path(words[words.index("--out") + 1])
        run.mkdir()
        scores = [{"name": "accuracy", "value": 0.9}, {"name": "nll", "value": 0.3}]
        (run / "evaluation.json").write_text(json.dumps({"metrics": scores}))
        (run / "run.json").write_text(json.dumps({"train_seconds": 5}))
        return 0, ""

    monkeypatch.setattr(gpu, "typed", typed)
    checks = gpu.photo_checks(tmp_path, "DATA", "lite0.pth")
    assert [check() for check in checks.values()] == ["accuracy 0.9000 after 5 s of training"] * 2
    assert seen[0][:6] == ("train", "photos", "--data", "DATA", "--weights", "lite0.pth")
    assert seen[1][4:6] == ("--from", str(tmp_path / "photos"))


def test_the_tests_that_it_runs_are_there() -> None:
    assert [name for name in gpu.TESTS if not (gpu.ROOT / name).exists()] == []
