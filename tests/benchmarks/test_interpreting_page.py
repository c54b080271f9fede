"""The page of explanations compared, from numbers put in by hand."""

from __future__ import annotations

import math

import pytest
from interpreting_page import interpreting_page, standard_error

METRICS = {
    "pointing_game": {"label": "pointing game", "higher_is_better": True},
    "deletion": {"label": "deletion", "higher_is_better": False},
    "seconds": {"label": "seconds an image", "higher_is_better": False},
}


def method(baseline: bool, pointing: float, error: float | None, seconds: float) -> dict:
    def measurement(value: float, error: float | None) -> dict:
        return {"value": value, "standard_error": error, "count": 7}

    numbers = {
        "pointing_game": measurement(pointing, error),
        "seconds": measurement(seconds, None),
    }
    if not baseline:
        numbers["deletion"] = measurement(0.25, 0.0)
    return {"trivial_baseline": baseline, "scores": numbers}


def run(head: str, seed: int, pointing: float, error: float | None = 0.03) -> dict:
    return {
        "recipe": "digits",
        "head": head,
        "seed": seed,
        "commands": [f"loss-attention train digits --head {head} --seed {seed}", "compare it"],
        "source": "scenes",
        "test_images": 2000,
        "training_seconds": 40.0 + seed,
        "train_command_seconds": None if seed else 70.0,
        "metrics": [
            {
                "name": "accuracy",
                "label": "accuracy",
                "value": 0.9 + seed / 100,
                "baselines": {"majority class": 0.1},
                "higher_is_better": True,
            },
            {
                "name": "gt_known_loc_heat_map_oracle",
                "label": "GT-known Loc (patches)",
                "value": None,
                "baselines": {},
                "higher_is_better": True,
            },
        ],
        "comparison": {
            "images": 7,
            "boxed_images": 6,
            "mosaics": {},
            "left_out": {"cam": "it has none"},
            "metrics": METRICS,
            "methods": {
                "evidence": method(False, pointing, error, 0.001234),
                "uniform": method(True, 0.5, error, 0.1),
            },
            "hardware": {"cpu": "a CPU", "cores": 2, "device": "CPU"},
            "versions": {"python": "3.11", "torch": "2.13"},
            "loss_attention": "1.0",
        },
    }


def page(part: float = 1.0, runs: list[dict] | None = None) -> str:
    heads = ("loss-attention", "mean")
    runs = runs or [run(head, seed, 0.6 + seed / 10) for seed in (0, 1) for head in heads]
    numbers = {
        "command": "python benchmarks/run.py interpreting",
        "part": part,
        "remarks": {"digits": "Few scenes."},
        "runs": runs,
        "measured": "2026-01-02",
        "hardware": {"precision": "bf16"},
    }
    return interpreting_page(numbers)


def test_errors_are_the_larger_of_two_estimates() -> None:
    assert standard_error([0.5], [0.1]) == 0.1
    assert standard_error([0.5, 0.5], [0.3, 0.4]) == pytest.approx(0.25)  # sqrt(0.09 + 0.16) / 2
    assert standard_error([0.2, 0.8], [0.3, 0.4]) == pytest.approx(0.3)  # 0.6 / sqrt(2) / sqrt(2)
    assert standard_error([0.2, 0.8], [None, 0.4]) == pytest.approx(0.3)
    assert standard_error([0.5], [None]) is None


def test_every_measure_has_direction_error_and_floors() -> None:
    lines = page().splitlines()
    error = max(0.05, math.sqrt(2) * 0.03 / 2)  # over the two seeds, over their images
    rows = [line for line in lines if line.startswith("| pointing game \N{UPWARDS ARROW} |")]
    assert rows[0].count(f"0.650 ± {error:.3f}") == 2
    assert rows[0].endswith("| 0.500 ± 0.021 |")
    assert len(rows) == 3  # side by side, and each network
    assert "| deletion \N{DOWNWARDS ARROW} | 0.250 ± 0.000 | - |" in lines
    assert "| seconds an image \N{DOWNWARDS ARROW} | 0.0012 | 0.1 |" in lines
    assert (
        "| accuracy \N{UPWARDS ARROW} | 0.905 ± 0.007 | 0.905 ± 0.007 "
        "| majority class 0.100 ± 0.000 |"
    ) in lines
    assert "| GT-known Loc (patches) (oracle) \N{UPWARDS ARROW} | - | - | |" in lines
    assert "training and evaluation, seconds" not in "".join(lines)  # not known of every seed


def test_slow_methods_have_a_table_of_their_own() -> None:
    title = "### The slow methods on loss-attention, others on the same images"
    assert title not in page()
    first = run("loss-attention", 0, 0.6)
    others = {"methods": {"occlusion": method(False, 0.4, None, 2.5)}, "images": 3}
    first["slow_comparison"] = first["comparison"] | others
    second = run("mean", 0, 0.7)
    for one in (first, second):
        one["compare_slow_command_seconds"] = 60.2
    text = page(runs=[first, second])
    table = text[text.index(title) : text.index("### All methods on mean pooling")]
    assert "| metric | occlusion |" in table
    assert "| seconds an image \N{DOWNWARDS ARROW} | 2.5 |" in table
    assert "Of 3 images, 6 with a box" in table
    assert "| comparison of the slow methods, seconds | 60 | 60 | |" in text
    assert "| training and evaluation, seconds | 70 | 70 | |" in text
    assert text.count(title) == 1


def test_what_it_stands_on_is_told() -> None:
    text = page()
    assert "--head mean --seed 1" in text
    assert text.count("compare it") == 1
    assert "Of 7 images a network, 6 with a box of their class. Not possible" in text
    assert "cam (it has none)." in text
    assert "Seeds: 0, 1;" in text
    assert "are explained. Few scenes.\n" in text
    assert "trains loss-attention and mean pooling on the same data" in text
    assert "a CPU, 2 cores" in text
    assert "no number here says anything" not in text
    assert "**Tried with 1% of the whole: no number here says anything.**" in page(part=0.01)


def test_seeds_of_several_machines_stand_apart() -> None:
    stand = {"measured": "2026-11-28", "vector_units": "AVX2", "hardware": {"precision": "32"}}
    runs = [run(head, seed, 0.5) for seed in (0, 1) for head in ("loss-attention", "mean")]
    runs = [one | ({"stand": stand} if one["seed"] else {}) for one in runs]
    text = page(runs=runs)
    assert "\n\nSeeds 0: Written " in text
    assert "\n\nSeeds 1: Written 2026-11-28; measured on a CPU, 2 cores" in text
    assert "vector units AVX2, comparisons in float32, training in float32" in text
    assert "Seeds 0" not in page()


def test_the_worst_seed_of_grid_pointing_is_told() -> None:
    def pointed(head: str, seed: int, margin: float, competing: float | None) -> dict:
        one = run(head, seed, 0.5)
        name, label = "grid_pointing_2x2", "grid pointing game, 2 x 2"
        one["comparison"]["mosaics"] = {name: 5}
        one["comparison"]["metrics"] = METRICS | {name: {"label": label, "higher_is_better": True}}
        for told, value in (("margin", margin), ("grad-cam-competition", competing)):
            scores = {} if value is None else {name: {"value": value, "standard_error": 0.01}}
            one["comparison"]["methods"][told] = {"trivial_baseline": False, "scores": scores}
        return one

    runs = [
        pointed("loss-attention", 0, 0.99, 0.5),
        pointed("mean", 0, 0.9, 0.25),
        pointed("loss-attention", 1, 0.97, 0.75),
        pointed("mean", 1, 0.8, None),
    ]
    text = page(runs=runs)
    assert "### Grid pointing, seed by seed" in text
    mosaic = "grid pointing game, 2 x 2"
    assert f"| loss-attention: margin, {mosaic} | 0.990 | 0.970 | 0.970 |" in text
    assert f"| loss-attention: grad-cam-competition, {mosaic} | 0.500 | 0.750 | 0.500 |" in text
    assert f"| mean pooling: grad-cam-competition, {mosaic} | 0.250 | - | 0.250 |" in text
    assert "seed by seed" not in page(runs=runs[:2])
