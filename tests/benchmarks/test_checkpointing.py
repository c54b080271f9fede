"""What a checkpoint of the benchmark has, and the page, tried with a tiny one."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from checkpointing import Arguments, checkpoint, measure
from torch.utils._pytree import tree_leaves


def test_the_checkpoint_is_as_large_as_the_page_says() -> None:
    tensors = [one for one in tree_leaves(checkpoint(60)) if isinstance(one, torch.Tensor)]
    assert abs(sum(one.nbytes for one in tensors) / 1e6 - 60) < 10


def test_each_form_is_written_and_on_the_page(tmp_path: Path) -> None:
    kept, written = measure(Arguments(megabytes=1, turns=2, folder=tmp_path, results=tmp_path))
    found = json.loads(kept.read_text())["forms"]
    assert found["plain"]["of_plain"]["median"] == 1
    assert found["async"]["waits_seconds"]["turns"] == 2
    text = written.read_text()
    assert "Tried with a small checkpoint" in text
    for form in ("plain", "sharded", "async"):
        one = found[form]
        assert one["waits_seconds"]["highest"] <= one["written_seconds"]["highest"]
        assert f"| `{form}` | {one['waits_seconds']['median']:,.2f} " in text
    assert {path.name for path in tmp_path.iterdir()} == {kept.name, written.name}
