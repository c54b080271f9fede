"""results/README.md, from numbers put in by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pages

STAND = {
    "measured": "2026-01-02",
    "hardware": {"cpu": "a CPU", "cores": 2, "device": "CPU", "precision": "bf16"},
    "versions": {"python": "3.11", "torch": "2.13"},
}


def written(folder: Path, **subjects: dict) -> str:
    for name, numbers in subjects.items():
        path = folder / f"{name.replace('_', '-')}.json"
        path.write_text(json.dumps(STAND | numbers), encoding="utf-8")
    pages.write_summary(folder)
    return (folder / "README.md").read_text(encoding="utf-8")


def run(head: str, seed: int, ap: float) -> dict:
    metric = {
        "name": "gt_known_loc_patches",
        "value": ap,
        "baselines": {"whole image": 0.25 + seed},
    }
    return {
        "recipe": "tiny",
        "head": head,
        "seed": seed,
        "training_seconds": 60.0,
        "metrics": [metric],
    }


def test_pages_of_the_benchmarks_are_linked_but_not_their_notes(tmp_path: Path) -> None:
    assert "a step grows (`python benchmarks/growth.py`): nothing yet." in written(tmp_path)
    (tmp_path / "bench").mkdir()
    for name in ("box.md", "box-notes.md", "growth-box.md", "box.json"):
        (tmp_path / "bench" / name).touch()
    assert "[box](bench/box.md), [growth-box](bench/growth-box.md)." in written(tmp_path)


def test_no_page_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "bags.md").write_text("# Bags of instances\n\nA text.\n")
    (tmp_path / "trade-off.md").write_text("# How local a patch can be\n")
    numbers = {"command": "python benchmarks/trade_off.py", "runs": []}
    text = written(tmp_path, trade_off=numbers)
    assert text.endswith("\n\n## Other pages\n\n- [Bags of instances](bags.md)\n")
    assert written(tmp_path, trade_off=numbers) == text  # which does not link itself


def test_what_was_measured_with_other_defaults_is_marked(tmp_path: Path) -> None:
    took = {"whole_command_seconds": 9.0, "peak_memory_mib": 9.0}
    one = run("loss-attention", 0, 0.5) | took
    one |= {"command": "loss-attention train digits --seed 0"}
    before = [one, one | {"head": "mean"}]
    marked = "add `--no-centre` to `train`"
    assert marked in written(tmp_path, digits={"runs": before})
    assert marked not in written(
        tmp_path, digits={"runs": [each | {"map": "margin"} for each in before]}
    )
    maps = {"maps": {"margin": {}}, "command": "loss-attention train digits --seed 0"}
    assert marked not in written(tmp_path, centring={"command": "centring.py", "runs": [maps]})
    (tmp_path / "centring.json").unlink()
    other = [each | {"command": "loss-attention train multi-digits"} for each in before]
    assert marked not in written(tmp_path, digits={"runs": other})


def test_a_study_is_linked_with_its_remark_and_its_main_figures(tmp_path: Path) -> None:
    runs = [run(head, seed, 0.5 + seed) for head in ("loss-attention", "mean") for seed in (0, 1)]
    numbers = {
        "command": "python benchmarks/run.py tiny-imagenet",
        "remarks": {"tiny": "The seed draws the classes."},
        "runs": runs,
    }
    text = written(tmp_path, tiny_imagenet=numbers, coco=numbers | {"remarks": {}})
    assert text.count("[tiny-imagenet.md](tiny-imagenet.md)") == 2
    assert text.count("The seed draws the classes.") == 1
    assert (
        text.count(
            "| GT-known Loc (patches) | 1.000 ± 0.707 | 1.000 ± 0.707 | whole image 0.750 ± 0.707 |"
        )
        == 1
    )
    assert text.index("## tiny-imagenet") < text.index("## coco")


def test_what_has_a_page_of_its_own_is_linked(tmp_path: Path) -> None:
    numbers = {"command": "python benchmarks/trade_off.py", "runs": []}
    text = written(tmp_path, trade_off=numbers)
    assert "## trade-off" in text
    assert "that costs: [trade-off.md](trade-off.md)." in text


def test_cifar10_is_told_with_its_grid_pointing(tmp_path: Path) -> None:
    comparison = {
        "mosaics": {"grid_pointing_2x2": 3},
        "metrics": {
            "grid_pointing_2x2": {"label": "grid pointing"},
            "deletion": {"label": "deletion"},
        },
        "methods": {
            "evidence": {
                "scores": {"grid_pointing_2x2": {"value": 0.75}, "deletion": {"value": 0.5}}
            },
            "edges": {"scores": {}},
        },
    }
    one = run("loss-attention", 0, 0.5) | {"comparison": comparison, "parameters": 2_000_000}
    one["metrics"] = [{"name": "accuracy", "value": 0.875, "baselines": {}}]
    numbers = {"command": "run.py cifar10-small", "remarks": {}, "runs": [one]}
    lines = written(tmp_path, cifar10_small=numbers).splitlines()
    first = lines.index("| accuracy | 0.8750 |")
    assert lines[first + 1 : first + 6] == [
        "| grid pointing, evidence | 0.750 |",
        "| grid pointing, edges | - |",
        "| training, minutes | 1.0 |",
        "| parameters, millions | 2.00 |",
        "| peak memory, MiB | - |",
    ]


def test_the_demo_says_what_it_takes_once_installed(tmp_path: Path) -> None:
    numbers = {
        "command": "make demo",
        "seconds": 114.2,
        "report_mib": 1.25,
        "peak_memory_mib": 700.0,
        "runs": [{"source": "scenes"} | run(head, 0, 0.5) for head in ("loss-attention", "mean")],
        "output": ["done"],
    }
    assert "grid pointing" not in written(tmp_path, demo=numbers)
    numbers |= {
        "warm_command": "loss-attention demo, again",
        "warm_seconds": {"median": 41.6, "lowest": 40.9, "highest": 43.2, "turns": 3},
        "compare_command": "loss-attention compare runs/demo",
        "grid_pointing": {"grid pointing game, 2 x 2": 0.98765},
    }
    page = written(tmp_path, demo=numbers)
    assert "`loss-attention demo, again`: 42 (41 to 43) seconds." in page
    assert "(`loss-attention compare runs/demo`): grid pointing game, 2 x 2 0.988." in page
