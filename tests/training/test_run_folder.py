import resource
import subprocess
import sys
import textwrap

import pytest
import torch
from training.tiny import new_run, tiny_recipe

from loss_attention.errors import InputError
from loss_attention.saving import SaveError
from loss_attention.training.run_folder import RunFolder


def test_a_run_is_never_overwritten_unasked(tmp_path):
    new_run(tmp_path / "run", tiny_recipe())
    with pytest.raises(InputError, match=r"exists already: continue it with .*resume.*`overwrite`"):
        new_run(tmp_path / "run", tiny_recipe())


def test_overwriting_removes_what_a_run_writes_and_nothing_else(tmp_path):
    run = new_run(tmp_path, tiny_recipe())
    run.write("model.safetensors", b"old")
    (tmp_path / "notes.txt").write_text("mine")
    new_run(tmp_path, tiny_recipe(epochs=9), overwrite=True)
    assert not (tmp_path / "model.safetensors").exists()
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert run.recipe().epochs == 9


def test_a_folder_that_is_no_run_is_never_touched(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="is not a run folder"):
        new_run(tmp_path, tiny_recipe(), overwrite=True)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_out_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "x").write_text("file")
    with pytest.raises(InputError, match="is a file"):
        new_run(tmp_path / "x", tiny_recipe(), overwrite=True)


def test_opening_what_is_no_run(tmp_path):
    with pytest.raises(InputError, match="is not a folder"):
        RunFolder.open(tmp_path / "missing")
    with pytest.raises(InputError, match=r"has no recipe\.yaml"):
        RunFolder.open(tmp_path)


def test_a_run_of_a_newer_version_says_upgrade(tmp_path):
    run = new_run(tmp_path, tiny_recipe())
    run.write_facts({"format_version": 99})
    with pytest.raises(InputError, match=r"newer loss-attention \(format 99.*upgrade"):
        RunFolder.open(tmp_path)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({}, "has no run.json: its run ended before it began"),
        ({"format_version": "x"}, "run.json: format_version cannot be 'x'"),
        ({"options": {"warp": 9}}, "run.json: unknown fields warp"),
        ({"options": {"devices": "two"}}, "run.json: devices cannot be 'two'"),
        ({"options": {"accelerator": "abacus"}}, "run.json: accelerator cannot be 'abacus'"),
        ({"options": 3}, "run.json: 3 where its settings should be"),
    ],
)
def test_facts_that_cannot_be_say_what_is_wrong(facts, message, tmp_path):
    new_run(tmp_path, tiny_recipe()).write_facts(facts)
    with pytest.raises(InputError, match=message) as caught:
        RunFolder.open(tmp_path).options()
    assert "\n" not in str(caught.value)


def test_damaged_metrics_say_so(tmp_path):
    run = new_run(tmp_path, tiny_recipe())
    run.write("metrics.jsonl", '{"epoch": 1}\n{"epo')
    with pytest.raises(InputError, match=r"metrics\.jsonl cannot be read"):
        run.metrics()


def test_a_failing_write_keeps_the_old_file_and_leaves_nothing_behind(tmp_path, monkeypatch):
    run = new_run(tmp_path, tiny_recipe())
    run.write("model.safetensors", b"good")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(SaveError, match=r"No space left on device; the one before it is kept"):
        run.write("model.safetensors", b"new and longer")
    assert (tmp_path / "model.safetensors").read_bytes() == b"good"
    assert {path.name for path in tmp_path.iterdir()} == {
        ".lock",
        "model.safetensors",
        "recipe.yaml",
    }


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="needs POSIX file size limits")
def test_a_disk_that_takes_no_more_keeps_the_last_good_checkpoint(tmp_path):
    """A real failing write, by the limit on file sizes that a process can set itself."""
    script = f"""
        import resource, signal, sys, torch
        from pathlib import Path
        from loss_attention.saving import SaveError
        from loss_attention.training.run_folder import RunFolder
        run = RunFolder(Path({str(tmp_path)!r}))
        run.save_state({{"tensor": torch.zeros(10)}})
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            run.save_state({{"tensor": torch.zeros(100_000)}})
        except SaveError as error:
            print(error)
            sys.exit(error.exit_code)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True
    )
    assert done.returncode == 74, done.stderr
    assert "cannot write" in done.stdout
    assert "File too large" in done.stdout
    state = RunFolder(tmp_path).load_state()
    assert state is not None
    assert torch.equal(state["tensor"], torch.zeros(10))
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]


def test_a_truncated_checkpoint_is_one_clear_line(tmp_path):
    run = RunFolder(tmp_path)
    run.save_state({"tensor": torch.arange(1000)})
    path = tmp_path / "state.pt"
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(InputError, match=r"state\.pt is truncated or damaged") as caught:
        run.load_state()
    assert "\n" not in str(caught.value)


def test_leftovers_of_a_kill_are_removed(tmp_path):
    run = new_run(tmp_path, tiny_recipe())
    (tmp_path / ".loss-attention-0123456789abcdef.tmp").write_text("half")
    for mine in (".hidden", ".recipe.yaml.swp", ".state.pt.original", ".loss-attention-notes.tmp"):
        (tmp_path / mine).write_text("mine")
    before = {path.name for path in tmp_path.iterdir()}
    run.settle()
    after = {path.name for path in tmp_path.iterdir()}
    assert before - after == {".loss-attention-0123456789abcdef.tmp"}
