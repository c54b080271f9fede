"""What classifiers of bags are worth: the tables of results/bags.md, a part at a time.

    python benchmarks/mil.py classic --data FOLDER    # MUSK1 to Tiger, 5 x 10 folds, each pooling
    python benchmarks/mil.py assumptions    # tests of what a pooling assumes, five seeds
    python benchmarks/mil.py digits    # bags of digits, five seeds
    python benchmarks/mil.py tiles --data PHOTOS --weights FILE    # tiles of photos, three seeds
    python benchmarks/mil.py page    # results/bags.md, of the parts that are there
    python benchmarks/mil.py classic --data FOLDER --only musk1 --repeats 1    # a try

FOLDER has `musk1.parquet` and so on: a row an instance, with `bag`, `label` and features. PHOTOS
has the images/, masks/ and labels.csv of the magnetic tiles, and FILE has weights of the backbone;
without it they come from the hub. What came of each fold and photo is kept in --runs, so that a
part that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from measuring import keep, read_numbers, refuse_below, told, typed, write_and_list

from loss_attention.errors import InputError
from loss_attention.terminal import markdown_table

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("classic", "assumptions", "digits", "tiles")
NEED_DATA = {
    "classic": "with musk1.parquet and so on",
    "tiles": "with images/, masks/ and labels.csv",
}
EPOCHS = {"classic": 100, "assumptions": 200, "digits": 200, "tiles": 30}
SETS = ("musk1", "musk2", "elephant", "fox", "tiger")
ILSE = {"musk1": 0.892, "musk2": 0.858, "elephant": 0.868, "fox": 0.615, "tiger": 0.839}
"""Accuracy of attention pooling as its paper has it (Ilse et al. 2018, Table 1)."""
SHI = {"musk1": 0.917, "musk2": 0.911, "elephant": 0.900, "fox": 0.712, "tiger": 0.897}
"""Accuracy of loss-based attention as its first paper has it (Shi et al., AAAI 2020)."""
WEIGHT_DECAYS = (0.01, 1.0)
INNER = 2
PASSES = 0.9
"""A pooling passes a test with at least this AUC in each seed."""
TRAINED, TESTED = 200, 400
DIGIT_BAGS = (50, 100, 200)
TILING = ("--tile", "64", "--stride", "32", "--levels", "8", "16", "32")
"""How photos are cut, and what of the backbone's maps is taken."""
POOLED = ("loss-attention", "attention", "mean", "positive-evidence")
"""Poolings that are compared on photos, unless others are asked for."""
HELD_OUT = 0.2
"""Of the training photos, the part that settings are chosen on."""
IMAGE_MODELS = ("tiles", "tiles-mean")
"""Rows of results/photos.json on the same photos."""


def classic(given: argparse.Namespace) -> dict[str, Any]:
    """Cross-validate every pooling on the classic sets."""
    from loss_attention.bags.crossval import Plan, cross_validated
    from loss_attention.bags.reading import read_bags
    from loss_attention.bags.recipe import BagRecipe

    base = BagRecipe(epochs=given.epochs, batch_bags=32)
    plan = Plan(folds=10, repeats=given.repeats, inner=INNER)
    found = {}
    for name in given.only or SETS:
        bags = read_bags(str(given.data / f"{name}.parquet"))
        models = {
            pooling: [replace(base, pooling=pooling, weight_decay=decay) for decay in WEIGHT_DECAYS]
            for pooling in given.poolings
        }

        def said(task: Any, done: int, whole: int, name: str = name) -> None:
            if done % 50 == 0 or done == whole:
                print(f"{name}: {done} of {whole}, {task.name}", flush=True)

        found[name] = cross_validated(bags, models, plan, given.runs / name, said)
    return {"sets": found, "epochs": base.epochs, "batch_bags": base.batch_bags}


def assumptions(given: argparse.Namespace) -> dict[str, Any]:
    """Train every pooling on the three tests of its assumptions."""
    from loss_attention.bags.made_up import ASSUMPTIONS
    from loss_attention.bags.recipe import BagRecipe

    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    for name, made in ASSUMPTIONS.items():
        for pooling in given.poolings:
            for seed in range(given.seeds):
                train = made(TRAINED, 2 * seed, training=True)
                test = made(TESTED, 2 * seed + 1, training=False)
                recipe = BagRecipe(pooling=pooling, epochs=given.epochs, seed=seed)
                scores = trained_and_tested(recipe, train, {"train": train, "test": test})
                found.setdefault(name, {}).setdefault(pooling, []).append(scores)
            print(f"{name}: {pooling}, {[one['test'] for one in found[name][pooling]]}", flush=True)
    return {"tests": found, "epochs": given.epochs, "bags": [TRAINED, TESTED]}


def digits(given: argparse.Namespace) -> dict[str, Any]:
    """Train every pooling on bags of digits."""
    from loss_attention.bags.made_up import digit_bags
    from loss_attention.bags.recipe import BagRecipe

    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    for count in DIGIT_BAGS:
        for pooling in given.poolings:
            for seed in range(given.seeds):
                train, test = digit_bags(count, 2 * seed), digit_bags(TESTED, 2 * seed + 1)
                recipe = BagRecipe(pooling=pooling, epochs=given.epochs, seed=seed)
                scores = trained_and_tested(recipe, train, {"test": test})
                found.setdefault(str(count), {}).setdefault(pooling, []).append(scores)
            print(f"{count} bags: {pooling}, {found[str(count)][pooling][-1]}", flush=True)
    return {"bags": found, "epochs": given.epochs, "tested": TESTED}


def trained_and_tested(recipe: Any, train: Any, sets: Mapping[str, Any]) -> dict[str, float]:
    """Return the AUC of bags of each set, and of the instances of the last."""
    from sklearn.metrics import roc_auc_score

    from loss_attention.bags.measures import instance_auc
    from loss_attention.bags.training import fit_bags, predicted

    model = fit_bags(train, recipe)
    scores = {}
    for name, bags in sets.items():
        said = list(predicted(model, bags))
        leads = [float(one.logits[0, 1] - one.logits[0, 0]) for one in said]
        scores[name] = float(roc_auc_score(bags.labels.numpy(), leads))
    known = [labels == 1 for labels in bags.instance_labels]
    for name, values in (
        ("evidence", [one.evidence[0, :, 1].numpy() for one in said]),
        ("weights", [one.real_weights[0].numpy() for one in said]),
    ):
        scores[f"instances, {name}"] = instance_auc(known, values)
    return scores


def tiles(given: argparse.Namespace) -> dict[str, Any]:
    """Train poolings on tiles of photos, with settings that validation bags choose.

    The test bags are looked at once, by classifiers that were trained on all others.
    """
    from loss_attention.bags.measures import BASELINES, bag_scores
    from loss_attention.bags.reading import read_bags
    from loss_attention.bags.recipe import BagRecipe
    from loss_attention.bags.training import fit_bags
    from loss_attention.data.division import hold_out

    folder = given.runs / "tiles"
    weights = ("--weights", str(given.weights)) if given.weights else ()
    code, said = typed("tile", str(given.data), *TILING, *weights, "--out", str(folder))
    if code:
        raise InputError(said.strip())
    bags = in_memory(read_bags(str(folder)))
    train, test = bags.split("train"), bags.split("test")
    kept, held = hold_out(train.labels, HELD_OUT, 0, train.groups)
    fitted, validation = train.subset(kept.numpy()), train.subset(held.numpy())
    base = BagRecipe(epochs=given.epochs, balance="weights")
    found: dict[str, Any] = {}
    for pooling in given.poolings:
        recipes = [replace(base, pooling=pooling, weight_decay=decay) for decay in WEIGHT_DECAYS]
        tried = [scores_of_bags(fit_bags(fitted, one), validation) for one in recipes]
        best = min(range(len(recipes)), key=lambda i: tried[i]["nll"])
        seeds = [
            scores_of_bags(fit_bags(train, replace(recipes[best], seed=seed)), test)
            for seed in range(given.seeds)
        ]
        decay = WEIGHT_DECAYS[best]
        found[pooling] = {"validation": tried, "weight_decay": decay, "test": seeds}
        print(f"{pooling}: {decay:g}, {[one['accuracy'] for one in seeds]}", flush=True)
    trivial = {
        name: bag_scores(test.labels.numpy(), answer(train, test))
        for name, answer in BASELINES.items()
    }
    return {
        "poolings": found,
        "baselines": trivial,
        "epochs": given.epochs,
        "tiling": " ".join(TILING),
        "bags": [len(train), len(test)],
        "validated_on": len(validation),
        "instances": [int(bags.sizes.min()), int(bags.sizes.max())],
        "image_models": image_models(given.out),
    }


def in_memory(bags: Any) -> Any:
    """Return bags whose instances, and labels of these, are read from their files once."""
    from loss_attention.bags.bag_set import PackedInstances

    values = [bags.features(bag).astype("float32") for bag in range(len(bags))]
    return replace(
        bags,
        instances=PackedInstances(np.concatenate(values), bags.sizes),
        rows=np.arange(len(bags)),
        instance_labels=tuple(bags.instance_labels),
    )


def scores_of_bags(model: Any, bags: Any) -> dict[str, float]:
    """Return the scores of bags, and how well their tiles are found in those with an object."""
    from loss_attention.bags.measures import bag_scores, instance_auc
    from loss_attention.bags.training import predicted

    said = list(predicted(model, bags))
    probabilities = np.stack([one.logits[0].double().softmax(dim=0).numpy() for one in said])
    scores = bag_scores(bags.labels.numpy(), probabilities)
    shown = [i for i, known in enumerate(bags.instance_labels) if (known >= 0).any()]
    truth = [bags.instance_labels[i] == int(bags.labels[i]) for i in shown]
    of_class = [said[i].evidence[0, :, int(bags.labels[i])].numpy() for i in shown]
    scores["instances, evidence"] = instance_auc(truth, of_class)
    weights = [said[i].real_weights[0].numpy() for i in shown]
    scores["instances, weights"] = instance_auc(truth, weights)
    return scores


def image_models(folder: Path) -> dict[str, dict[str, Any]]:
    """Return what models of the whole photos reached on the same ones, where that was measured."""
    path = folder / "photos.json"
    found: dict[str, dict[str, Any]] = {}
    for run in read_numbers(path)["runs"] if path.exists() else ():
        if run["row"] in IMAGE_MODELS:
            one = found.setdefault(run["row"], {"what": run["what"]})
            for metric in run["metrics"]:
                if metric["name"] in ("accuracy", "balanced_accuracy"):
                    one.setdefault(metric["name"], []).append(metric["value"])
    return found


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
    quoted = [
        ("attention, its paper", "accuracy", *(f"{ILSE[name]:.3f}" for name in sets)),
        ("loss-attention-2020, its paper", "accuracy", *(f"{SHI[name]:.3f}" for name in sets)),
    ]
    plan = next(iter(sets.values()))["plan"]
    decays = " or ".join(f"{decay:g}" for decay in WEIGHT_DECAYS)
    return [
        "## The classic sets",
        _stood_on(numbers),
        f"{plan['folds']} folds, {plan['repeats']} divisions, the same for all; mean over the "
        f"divisions and their standard deviation. One hidden layer of 256, {numbers['epochs']} "
        f"epochs, steps of {numbers['batch_bags']} bags; weight decay {decays}, chosen for each "
        f"fold on {plan['inner']} inner folds of its training bags. The last two rows are the "
        "papers' own figures, measured on other divisions.",
        markdown_table(["classifier", "", *sets], [*rows, *quoted], "ll" + "r" * len(sets)),
    ]


def assumptions_section(numbers: Mapping[str, Any]) -> list[str]:
    """Return the table of the tests of assumptions."""
    tests = numbers["tests"]
    poolings = list(next(iter(tests.values())))
    rows = [
        (pooling, *(_passed([one["test"] for one in tests[name][pooling]]) for name in tests))
        for pooling in poolings
    ]
    trained, tested = numbers["bags"]
    return [
        "## What a pooling assumes",
        _stood_on(numbers),
        f"The tests of Raff and Holt (NeurIPS 2023; `loss_attention.bags.made_up`), {trained} "
        f"training and {tested} test bags, {numbers['epochs']} epochs, AUC of the test bags: the "
        f"mean of {len(next(iter(tests.values()))[poolings[0]])} seeds and the worst; in bold "
        f"where the worst is {PASSES} or more, which is to pass. Below 0.5 a classifier learned "
        "what must not matter. Instances that each speak for themselves cannot say that two "
        "concepts must come together, so no pooling here can pass the last two in full.",
        markdown_table(["pooling", *tests], rows, "l" + "r" * len(tests)),
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
        f"scikit-learn's digits, 10 a bag on average; one 9 or two make a bag positive. AUC of "
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
        f"weight. Mean of {seeds} seeds and, in brackets, the worst. One hidden layer of 256, "
        f"{numbers['epochs']} epochs, classes weighed alike; weight decay {decays}, by the log "
        f"loss of {numbers['validated_on']} held-out training photos, then trained on all of them, "
        "and the test photos looked at once.",
        markdown_table(
            ["classifier", "accuracy", "balanced", "AUC", "instances, evidence", "weights"],
            rows,
            "lrrrrr",
        ),
        "Image models are those of [results/photos.md](photos.md), on the same split: they see a "
        "photo as a whole, with augmented views of it, at a larger size.",
    ]


def _stood_on(numbers: Mapping[str, Any]) -> str:
    machine = numbers["hardware"]
    return (
        f"`{numbers['command']}`, {numbers['measured']}, on {machine['cpu']}, "
        f"{machine['cores']} cores; torch {numbers['versions']['torch']}."
    )


def _spread(score: Mapping[str, Any]) -> str:
    return f"{score['mean']:.3f}" + ("" if score["sd"] is None else f" ± {score['sd']:.3f}")


def _worst(values: Sequence[float]) -> str:
    return f"{mean(values):.3f} ({min(values):.3f})"


def _passed(values: Sequence[float]) -> str:
    cell = f"{mean(values):.2f} ({min(values):.2f})"
    return f"**{cell}**" if min(values) >= PASSES else cell


def main() -> None:
    """Measure a part, or write the page."""
    from loss_attention.bags.pooling import POOLINGS

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("part", choices=(*PARTS, "page"))
    parser.add_argument("--data", type=Path, help="with classic, tiles: the folder of the data")
    parser.add_argument("--weights", type=Path, help="with tiles: those of tf_efficientnet_lite0")
    parser.add_argument("--only", nargs="+", choices=SETS, help="with classic: these sets")
    parser.add_argument("--poolings", nargs="+", choices=list(POOLINGS), help="none: all, or some")
    parser.add_argument("--repeats", type=int, default=5, help="with classic: divisions")
    parser.add_argument("--seeds", type=int, help="none: 3 with tiles, 5 otherwise")
    parser.add_argument("--epochs", type=int, help="none: as many as suit the part")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs/bags", help="folds are kept here")
    parser.add_argument("--out", type=Path, default=ROOT / "results", help="of the results")
    given = parser.parse_args()
    if given.part == "page":
        write_and_list("bags", lambda: page(given.out))
        return
    if given.part in NEED_DATA and given.data is None:
        parser.error(f"{given.part} needs --data FOLDER, {NEED_DATA[given.part]}")
    given.poolings = given.poolings or (POOLED if given.part == "tiles" else list(POOLINGS))
    given.epochs = given.epochs or EPOCHS[given.part]
    usual = 3 if given.part == "tiles" else 5
    given.seeds = usual if given.seeds is None else given.seeds
    least = {"repeats": (given.repeats, 1), "seeds": (given.seeds, 1)}
    refuse_below("bags", least)

    def measure() -> list[Path]:
        parts = {"classic": classic, "assumptions": assumptions, "digits": digits, "tiles": tiles}
        measured = parts[given.part](given)
        defaults = {"repeats": 5, "seeds": usual}
        command = told("mil.py", given, defaults).replace("mil.py", f"mil.py {given.part}", 1)
        command += " --data FOLDER" if given.part in NEED_DATA else ""
        command += " --weights FILE" if given.weights else ""
        keep(f"bags-{given.part}", {"command": command, **measured}, given.out)
        return [given.out / f"bags-{given.part}.json", *page(given.out)]

    write_and_list("bags", measure)


if __name__ == "__main__":
    main()
