"""The page of `mil.py`, results/bags.md: the parts that were measured, each with what it is of."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from loss_attention.terminal import markdown_table

PARTS = ("classic", "assumptions", "digits", "tiles")
ILSE = {"musk1": 0.892, "musk2": 0.858, "elephant": 0.868, "fox": 0.615, "tiger": 0.839}
"""Accuracy of attention pooling as its paper has it (Ilse et al. 2018, Table 1)."""
SHI = {"musk1": 0.917, "musk2": 0.911, "elephant": 0.900, "fox": 0.712, "tiger": 0.897}
"""Accuracy of loss-based attention as its first paper has it (Shi et al., AAAI 2020)."""
OURS, THEIRS = "loss-attention", "attention"
"""Poolings whose difference is told."""
WEIGHT_DECAYS = (0.01, 1.0)
"""One of which is chosen."""
PASSES = 0.9
"""A pooling passes a test with at least this AUC in each seed."""


def page(folder: Path) -> list[Path]:
    """Write the page of the parts that are there."""
    parts = {
        name: json.loads(path.read_text(encoding="utf-8"))
        for name in PARTS
        if (path := folder / f"bags-{name}.json").exists()
    }
    sections = ["# Bags of instances"]
    if "classic" in parts:
        sections += classic_section(parts["classic"])
    if "assumptions" in parts:
        sections += assumptions_section(parts["assumptions"])
    if "digits" in parts:
        sections += digits_section(parts["digits"])
    if "tiles" in parts:
        sections += tiles_section(parts["tiles"])
    written = folder / "bags.md"
    written.write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    return [written]


def classic_section(numbers: Mapping[str, Any]) -> list[str]:
    """Return the table of the classic sets."""
    sets = numbers["sets"]
    names = list(next(iter(sets.values()))["models"])
    rows = []
    for kind, label in (("accuracy", "accuracy"), ("auc", "AUC")):
        for name in names:
            scores = [one["models"][name]["scores"][kind] for one in sets.values()]
            rows.append((name, label, *map(_spread, scores)))
    if {OURS, THEIRS} <= set(names):
        pairs = [
            [one["models"][name]["scores"]["accuracy"] for name in (OURS, THEIRS)]
            for one in sets.values()
        ]
        rows.append((f"{OURS} less {THEIRS}", "accuracy", *(difference(*pair) for pair in pairs)))
    quoted = [
        ("attention, its paper", "accuracy", *(f"{ILSE[name]:.3f}" for name in sets)),
        ("loss-attention-2020, its paper", "accuracy", *(f"{SHI[name]:.3f}" for name in sets)),
    ]
    plan = next(iter(sets.values()))["plan"]
    decays = " or ".join(f"{decay:g}" for decay in WEIGHT_DECAYS)
    days: dict[str, list[str]] = {}
    for name, one in sets.items():
        days.setdefault(_stood_on(numbers | one["stand"]), []).append(name)
    return [
        "## The classic sets",
        *(day if len(days) == 1 else f"{', '.join(those)}: {day}" for day, those in days.items()),
        f"{plan['folds']} folds, {plan['repeats']} divisions, the same for all; mean over the "
        f"divisions and their standard deviation. One hidden layer of 256, {numbers['epochs']} "
        f"epochs, steps of {numbers['batch_bags']} bags; weight decay {decays}, chosen for each "
        f"fold on {plan['inner']} inner folds of its training bags. Beside the difference of two "
        "poolings stands the standard error of its mean over the divisions, in bold where the "
        "difference is larger. The last two rows are the papers' own figures, measured on other "
        "divisions.",
        markdown_table(["classifier", "", *sets], [*rows, *quoted], "ll" + "r" * len(sets)),
    ]


def assumptions_section(numbers: Mapping[str, Any]) -> list[str]:
    """Return the table of the tests of assumptions."""
    tests = numbers["tests"]
    columns = {
        f"{name}, {int(bags):,} bags": of_test
        for name, sizes in tests.items()
        for bags, of_test in sizes.items()
    }
    first = next(iter(columns.values()))
    rows = [
        (pooling, *(_passed([one["test"] for one in each[pooling]]) for each in columns.values()))
        for pooling in first
    ]
    trained = " or ".join(f"{int(bags):,}" for bags in next(iter(tests.values())))
    epochs = " or ".join(map(str, numbers["epochs"]))
    return [
        "## What a pooling assumes",
        _stood_on(numbers),
        f"The tests of Raff and Holt (NeurIPS 2023; `loss_attention.bags.made_up`), {trained} "
        f"training bags, which take as many steps in {epochs} epochs, and {numbers['tested']} test "
        f"bags; {_layer(numbers)}. AUC of the test bags: the mean of "
        f"{len(next(iter(first.values())))} seeds and the worst; in bold "
        f"where the worst is {PASSES} or more, which is to pass. Below 0.5 a classifier learned "
        "what must not matter. Few bags are learned by heart, which costs AUC too; with many, what "
        "is left is what the pooling assumes. Instances that each speak for themselves cannot say "
        "that two concepts must come together, so no pooling here can pass the last two tests in "
        "full.",
        markdown_table(["pooling", *columns], rows, "l" + "r" * len(columns)),
    ]


def digits_section(numbers: Mapping[str, Any]) -> list[str]:
    """Return the table of bags of digits."""
    found = numbers["bags"]
    rows = []
    for pooling in next(iter(found.values())):
        for kind, label in (
            ("test", "bags"),
            ("instances, evidence", "instances, by evidence"),
            ("instances, weights", "instances, by weight"),
        ):
            each = [[one[kind] for one in found[count][pooling]] for count in found]
            rows.append((pooling, label, *map(_worst, each)))
    return [
        "## Bags of digits",
        _stood_on(numbers),
        "scikit-learn's digits, 10 a bag on average; one 9 or two make a bag positive. "
        f"{_layer(numbers).capitalize()}, {numbers['epochs']} epochs. AUC of "
        f"{numbers['tested']} test bags and of all of their instances; mean of "
        f"{len(each[0])} seeds and, in brackets, the worst.",
        markdown_table(
            ["pooling", "AUC of", *(f"{count} training bags" for count in found)],
            rows,
            "ll" + "r" * len(found),
        ),
    ]


def tiles_section(numbers: Mapping[str, Any]) -> list[str]:
    """Return the table of tiles of photos."""
    kinds = ("accuracy", "balanced_accuracy", "auc", "instances, evidence", "instances, weights")
    rows = [
        (name, *(_worst([seed[kind] for seed in one["test"]]) for kind in kinds))
        for name, one in numbers["poolings"].items()
    ]
    for name, scores in numbers["baselines"].items():
        rows.append((name, *(f"{scores[kind]:.3f}" for kind in kinds[:3]), "", ""))
    for one in numbers["image_models"].values():
        measured = [_worst(one[kind]) for kind in kinds[:2]]
        rows.append((f"image model: {one['what']}", *measured, "", "", ""))
    train, test = numbers["bags"]
    least, most = numbers["instances"]
    seeds = len(next(iter(numbers["poolings"].values()))["test"])
    decays = " or ".join(f"{decay:g}" for decay in WEIGHT_DECAYS)
    return [
        "## Photos as bags of tiles",
        _stood_on(numbers),
        f"Magnetic tiles, five kinds of defects and none: {train} training and {test} test photos, "
        f"each a bag of {least} to {most} tiles of 64 pixels, of which a frozen "
        "tf_efficientnet_lite0 made the features (`loss-attention tile DATA "
        f"{numbers['tiling']}`). A photo has one label; a tile has the class of the defect where "
        "the photo's mask covers 0.01 of it, which no training sees. Instance AUC: of all tiles of "
        "the test photos with a defect, by their evidence for the photo's class and by their "
        "weight (with mean pooling it tells the size of a photo and no more). Mean of "
        f"{seeds} seeds and, in brackets, the worst. One hidden layer of 256, "
        f"{numbers['epochs']} epochs, classes weighed alike; weight decay {decays}, by the log "
        f"loss of {numbers['validated_on']} held-out training photos, then trained on all of them, "
        "and the test photos looked at once.",
        markdown_table(
            ["classifier", "accuracy", "balanced", "AUC", "instances, evidence", "weights"],
            rows,
            "lrrrrr",
        ),
        "Image models are those of [results/photos.md](photos.md), on the same split, of which is "
        "said there that most test photos show a tile of the training photos too. They see a photo "
        "as a whole, enlarged, and a changed view of it, and here they are better.",
    ]


def _layer(numbers: Mapping[str, Any]) -> str:
    """Say what each instance goes through; before it was chosen, it was the recipe's."""
    (width,), dropout = numbers.get("hidden", (256,)), numbers.get("dropout", 0.25)
    chosen = ", as chosen on other seeds" if "hidden" in numbers else ""
    layer = f"one hidden layer of {width} and a dropout of {dropout:g}{chosen}"
    return layer if numbers.get("normalise", True) else f"features as they are, {layer}"


def _stood_on(numbers: Mapping[str, Any]) -> str:
    machine = numbers["hardware"]
    return (
        f"`{numbers['command']}`, {numbers['measured']}, on {machine['cpu']}, "
        f"{machine['cores']} cores; torch {numbers['versions']['torch']}."
    )


def difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """Return how much higher one score is than another on the same divisions."""
    each = [a - b for a, b in zip(ours["repeats"], theirs["repeats"], strict=True)]
    if len(each) < 2:  # nothing is known of how far it may be off
        return f"{mean(each):+.3f}"
    error = stdev(each) / len(each) ** 0.5
    cell = f"{mean(each):+.3f} ± {error:.3f}"
    return f"**{cell}**" if abs(mean(each)) > error else cell


def _spread(score: Mapping[str, Any]) -> str:
    return f"{score['mean']:.3f}" + ("" if score["sd"] is None else f" ± {score['sd']:.3f}")


def _worst(values: Sequence[float]) -> str:
    return f"{mean(values):.3f} ({min(values):.3f})"


def _passed(values: Sequence[float]) -> str:
    cell = f"{mean(values):.2f} ({min(values):.2f})"
    return f"**{cell}**" if min(values) >= PASSES else cell
