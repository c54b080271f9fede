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
part that was stopped goes on. Results keep the classic sets that were measured with the same
settings, on another day or machine, so that --only adds one.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from measuring import keep, read_numbers, refuse_below, stand, told, typed, write_and_list
from mil_page import PARTS, WEIGHT_DECAYS, page

from loss_attention.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
NEED_DATA = {
    "classic": "with musk1.parquet and so on",
    "tiles": "with images/, masks/ and labels.csv",
}
EPOCHS = {"classic": 100, "assumptions": 200, "digits": 200, "tiles": 30}
SETS = ("musk1", "musk2", "elephant", "fox", "tiger")
INNER = 2
TESTED = 400
ASSUMED_BAGS = (200, 4000)
"""Training bags of the tests of assumptions: as few as many data sets have, and more than can be
learned by heart. As many steps are taken with all of them."""
DIGIT_BAGS = (50, 100, 200)
FEW_FEATURES: dict[str, Any] = {"hidden": (64,), "dropout": 0.0}
"""For instances of 16 features; the best of seven settings for positive evidence on seeds 100 and
101 of the test `poisoned`, and for `max` too."""
FEW_BAGS: dict[str, Any] = {"hidden": (512,), "dropout": 0.5, "normalise": False}
"""For bags of digits: the best of nine layers for positive evidence on seeds 100 and 101; pixels as
they are, which is better with each of four poolings on seeds 100 to 104: dividing by the standard
deviation makes much of the pixels that hardly any digit reaches."""
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
    settings = {
        "epochs": base.epochs,
        "batch_bags": base.batch_bags,
        "plan": asdict(plan),
        "poolings": given.poolings,
        "weight_decays": list(WEIGHT_DECAYS),
    }
    found = measured_before(given.out / "bags-classic.json", settings)
    for name in given.only or SETS:
        bags = read_bags(str(given.data / f"{name}.parquet"))
        models = {
            pooling: [replace(base, pooling=pooling, weight_decay=decay) for decay in WEIGHT_DECAYS]
            for pooling in given.poolings
        }

        def said(task: Any, done: int, whole: int, name: str = name) -> None:
            if done % 50 == 0 or done == whole:
                print(f"{name}: {done} of {whole}, {task.name}", flush=True)

        scores = cross_validated(bags, models, plan, given.runs / name, said, jobs=given.jobs)
        found[name] = scores | {"stand": stand()}
    return {"sets": {name: found[name] for name in SETS if name in found}, **settings}


def measured_before(file: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sets that results have with these settings, perhaps of another day or machine."""
    if not file.exists():
        return {}
    numbers: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    same = all(numbers.get(name) == value for name, value in settings.items())
    return dict(numbers["sets"]) if same else {}


def assumptions(given: argparse.Namespace) -> dict[str, Any]:
    """Train every pooling on the three tests of its assumptions."""
    from loss_attention.bags.made_up import ASSUMPTIONS
    from loss_attention.bags.recipe import BagRecipe

    few = ASSUMED_BAGS[0]
    epochs = {bags: max(1, given.epochs * few // bags) for bags in ASSUMED_BAGS}
    found: dict[str, dict[str, dict[str, list[dict[str, float]]]]] = {}
    for name, bags in product(ASSUMPTIONS, ASSUMED_BAGS):
        of_test = found.setdefault(name, {}).setdefault(str(bags), {})
        for pooling in given.poolings:
            for seed in range(given.seeds):
                train = ASSUMPTIONS[name](bags, 2 * seed, training=True)
                test = ASSUMPTIONS[name](TESTED, 2 * seed + 1, training=False)
                recipe = BagRecipe(pooling=pooling, epochs=epochs[bags], seed=seed, **FEW_FEATURES)
                scores = trained_and_tested(recipe, train, {"train": train, "test": test})
                of_test.setdefault(pooling, []).append(scores)
            aucs = [one["test"] for one in of_test[pooling]]
            print(f"{name}, {bags} bags: {pooling}, {aucs}", flush=True)
    return {"tests": found, "epochs": list(epochs.values()), "tested": TESTED, **FEW_FEATURES}


def digits(given: argparse.Namespace) -> dict[str, Any]:
    """Train every pooling on bags of digits."""
    from loss_attention.bags.made_up import digit_bags
    from loss_attention.bags.recipe import BagRecipe

    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    for count in DIGIT_BAGS:
        for pooling in given.poolings:
            for seed in range(given.seeds):
                train, test = digit_bags(count, 2 * seed), digit_bags(TESTED, 2 * seed + 1)
                recipe = BagRecipe(pooling=pooling, epochs=given.epochs, seed=seed, **FEW_BAGS)
                scores = trained_and_tested(recipe, train, {"test": test})
                found.setdefault(str(count), {}).setdefault(pooling, []).append(scores)
            print(f"{count} bags: {pooling}, {found[str(count)][pooling][-1]}", flush=True)
    return {"bags": found, "epochs": given.epochs, "tested": TESTED, **FEW_BAGS}


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
    parser.add_argument("--jobs", type=int, default=1, help="with classic: folds at a time")
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
