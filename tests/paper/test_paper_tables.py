"""Which training stands behind each figure of the paper, and what it counts and shares."""

import json
from collections import Counter
from dataclasses import fields, replace

import pytest

from loss_attention.errors import InputError
from loss_attention.heads import HEADS
from loss_attention.paper.numbers import PAPER_TABLES
from loss_attention.paper.reproduction import parameters
from loss_attention.paper.tables import (
    NO_TRACE,
    PARAMETERS,
    SCALES,
    matching,
    scale,
    table_at,
    table_cells,
    training_key,
)
from loss_attention.paper.trainings import LEDGER_FILE, Ledger
from loss_attention.training.recipe import Recipe
from loss_attention.training.recipes import PAPER_DATA, paper_recipe

PAPER = SCALES["paper"]

# The counts (millions) by architecture, backbone and method: the paper's own but for the
# ungated attention (30.80, 32.73 in print) and the unused 0.27 of its capsules (31.02, 32.96).
COUNTS = {
    ("ConvNet", "VGG11_bn", "Baseline"): 28.15,
    ("ConvNet", "VGG16_bn", "Baseline"): 33.65,
    ("ConvNet", "VGG11_bn", "Mean-pooling"): 30.73,
    ("ConvNet", "VGG11_bn", "Attention"): 30.79,
    ("ConvNet", "VGG11_bn", "Gated-Attention"): 30.86,
    ("ConvNet", "VGG11_bn", "Loss-Attention"): 30.73,
    ("ConvNet", "ResNet18", "Baseline"): 11.17,
    ("ConvNet", "ResNet50", "Baseline"): 58.16,
    ("ConvNet", "ResNet18", "Mean-pooling"): 32.67,
    ("ConvNet", "ResNet18", "Attention"): 32.74,
    ("ConvNet", "ResNet18", "Gated-Attention"): 32.80,
    ("ConvNet", "ResNet18", "Loss-Attention"): 32.67,
    ("CapNet", "VGG11_bn", "Dynamic Routing"): 33.41,
    ("CapNet", "VGG11_bn", "Loss-Attention"): 30.75,
    ("CapNet", "ResNet18", "Dynamic Routing"): 35.35,
    ("CapNet", "ResNet18", "Loss-Attention"): 32.69,
}


def test_the_parameter_column_of_table_ii_is_complete():
    cells = [cell for cell in table_cells("table2", PAPER) if cell.metric == PARAMETERS]
    counted = {cell.labels: round(parameters(cell.recipe) / 1e6, 2) for cell in cells}
    assert counted == COUNTS


def cell(name, column, *labels, at=PAPER):
    found = [c for c in table_cells(name, at) if c.labels == labels and c.column == column]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("name", PAPER_TABLES)
def test_every_figure_of_the_paper_has_a_cell(name):
    table, cells = PAPER_TABLES[name], table_cells(name, PAPER)
    found = {(c.labels, c.column): c.paper for c in cells}
    assert len(found) == len(cells)
    printed = {
        (row.labels, column): value
        for row in table.rows
        for column, value in zip(table.columns, row.values, strict=True)
        if value is not None
    }
    assert found == printed
    cited = {c.labels for c in cells if c.recipe is None}
    assert len(cited) == (4 if name == "table2" else 0)
    for c in cells:
        if c.recipe is not None:
            assert c.recipe.data in PAPER_DATA


def test_mean_pooling_and_routing_are_trained_with_adam_and_the_rest_with_sgd():
    for name in ("table2", "table4", "table5"):
        for c in table_cells(name, PAPER):
            if c.recipe is not None:
                adam = c.labels[-1] in ("Mean-pooling", "Dynamic Routing")
                assert c.recipe.optimizer == ("adam" if adam else "sgd")


def test_the_sgd_recipe_is_the_papers():
    recipe = cell("table2", "CIFAR-10", "ConvNet", "ResNet18", "Loss-Attention").recipe
    assert (recipe.learning_rate, recipe.momentum, recipe.weight_decay) == (0.1, 0.9, 5e-4)
    assert (recipe.epochs, recipe.batch_size, recipe.schedule) == (200, 128, "steps")
    assert (recipe.gamma_max, recipe.threshold, recipe.gamma_epochs) == (0.1, 0.1, 80 / 200)
    assert (recipe.crop_padding, recipe.horizontal_flip) == (4, True)
    assert (recipe.validation_fraction, recipe.nesterov, recipe.strided_layers) == (0.0, False, ())


def test_the_adam_recipe_is_the_papers():
    recipe = cell("table2", "SVHN", "CapNet", "VGG11_bn", "Dynamic Routing").recipe
    assert (recipe.optimizer, recipe.schedule, recipe.learning_rate) == ("adam", "paper-adam", 3e-3)
    assert (recipe.momentum, recipe.weight_decay, recipe.epochs) == (0.9, 0.0, 200)
    assert not recipe.horizontal_flip


def test_resnet50_has_small_batches_and_the_other_form_of_the_bottleneck():
    for c in table_cells("table3", PAPER):
        small = c.column.startswith("ResNet50")
        expected = ("resnet50_paper", 48, 0.02) if small else ("googlenet", 128, 0.1)
        assert (c.recipe.backbone, c.recipe.batch_size, c.recipe.learning_rate) == expected


def test_images_of_64_pixels_stride_in_the_4th_layer_of_vgg_and_the_6th_of_resnet():
    for name in ("table4", "table5", "table6"):
        for c in table_cells(name, PAPER):
            assert c.recipe.image_size == 64
            expected = {"vgg11_bn": (4,), "resnet18": (6,)}[c.recipe.backbone]
            assert c.recipe.strided_layers == (() if c.labels[-1] == "Baseline" else expected)


def test_table_vi_changes_the_two_parameters_alone():
    both, no_gamma, no_xi = (
        cell("table6", "AP", "VGG11_bn", words).recipe
        for words in ("gamma_max 0.1, xi 0.1", "gamma_max 0, xi 0.1", "gamma_max 0.1, xi 0")
    )
    assert (no_gamma.gamma_max, no_gamma.threshold) == (0.0, 0.1)
    assert (no_xi.gamma_max, no_xi.threshold) == (0.1, 0.0)
    assert both == cell("table4", "AP", "VGG11_bn", "ConvNet", "Loss-Attention").recipe


def test_table_vii_strides_in_ever_more_layers():
    strides = [
        cell("table7", "Patch stride 2, Accuracy", str(k)).recipe.strided_layers for k in range(4)
    ]
    assert strides == [(), (6,), (6, 10), (6, 10, 14)]
    recipe = cell("table7", "Patch stride 2, Seconds an epoch", "3").recipe
    assert (recipe.patch_stride, recipe.batch_size, recipe.image_size) == (2, 48, 64)
    assert cell("table7", "Patch stride 4, Accuracy", "3").recipe.patch_stride == 4


def test_tables_share_trainings():
    def keys(name, at):
        return {training_key(c.recipe) for c in table_cells(name, at) if c.trained}

    assert len(keys("table2", PAPER)) == 16 * 3
    routing = keys("table1", PAPER) & keys("table2", PAPER)
    assert len(routing) == 2  # Adam's dynamic routing on CIFAR-10 and CIFAR-100
    assert len(keys("table1", PAPER) & keys("table5", PAPER)) == 2
    assert len(keys("table3", PAPER) - keys("table2", PAPER)) == 6
    smoke = SCALES["smoke"]
    everything = set().union(*(keys(name, smoke) for name in PAPER_TABLES))
    assert len(everything) == 47


def test_a_training_is_known_by_what_decides_its_figures():
    recipe = paper_recipe("cifar10")
    key = training_key(recipe)
    assert training_key(replace(recipe, name="other", seed=7)) == key
    for change in ({"width": 0.5}, {"data": "svhn"}, {"head": "mean"}, {"threshold": 0.2}):
        assert training_key(replace(recipe, **change)) != key


def test_every_field_of_a_recipe_is_known_to_the_key():
    """Give a new field its line in `NO_TRACE`: what earlier versions did without it."""
    assert set(NO_TRACE) | {"name", "data", "seed"} == {field.name for field in fields(Recipe)}


def test_a_default_that_changes_changes_no_key(monkeypatch):
    """Nor the meaning of one: the key says what is computed, and not which default that was."""
    recipes = [paper_recipe("cifar10"), Recipe("a", "b"), Recipe("a", "b", width=0.5, epochs=3)]
    keys = [training_key(recipe) for recipe in recipes]
    later = {"width": 0.5, "epochs": 3, "momentum": 0.8, "threshold": 0.2, "backbone": "vgg11_bn"}
    for name, value in later.items():
        monkeypatch.setattr(Recipe.__dataclass_fields__[name], "default", value)
    assert [training_key(recipe) for recipe in recipes] == keys
    assert len(set(keys)) == 3


def test_the_trainings_of_the_committed_ledger_are_found(repository):
    ledger = Ledger(repository / "results" / "ledger" / LEDGER_FILE)
    rows = json.loads((repository / "results" / "ledger" / LEDGER_FILE).read_text())["records"]
    assert len(rows) == 54
    for row in rows:
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in row["recipe"].items()}
        recipe = Recipe(**values)
        assert training_key(recipe) == row["training"]
        assert ledger.get(training_key(recipe), recipe.seed) is not None
    # And those that the tables ask for today are among them.
    known = {row["training"] for row in rows}
    cells = [c for name in ("table2", "table6") for c in table_cells(name, SCALES["reduced"])]
    assert {training_key(c.recipe) for c in cells if c.trained} == known


def test_the_reduced_scale_compares_heads_on_the_same_images():
    cells = table_cells("table2", SCALES["reduced"])
    recipes = [c.recipe for c in cells]
    for data in ("cifar10", "digits"):
        of_data = [r for r in recipes if r.data == data]
        assert {r.head for r in of_data} == set(HEADS)
        assert len({(r.epochs, r.limit_images, r.batch_size, r.width) for r in of_data}) == 1
    columns = {
        "CIFAR-10, Accuracy": 7,
        "digits, Accuracy": 7,
        "digits, AP": 6,
        "digits, F-score": 6,
    }
    assert Counter(c.column for c in cells) == columns  # the baseline has no patches
    papers = {c.paper for c in cells if "CIFAR-10" in c.column}
    assert {94.76, 94.59, 94.83, 94.89, 95.31, 93.88, 95.47} == papers
    shared = {training_key(c.recipe) for c in table_cells("table6", SCALES["reduced"])}
    assert len(shared) == 6
    assert len(shared & {training_key(r) for r in recipes}) == 2


def test_a_scale_that_a_table_does_not_have():
    message = "^table3 has no scale reduced, which is made for table2, table6$"
    with pytest.raises(InputError, match=message):
        table_at("table3", SCALES["reduced"])


def test_unknown_scales_and_data_suggest_the_nearest():
    with pytest.raises(InputError, match="did you mean 'smoke'"):
        scale("smok")
    with pytest.raises(InputError, match="did you mean 'cifar100'"):
        paper_recipe("cifar-100")


def test_patterns_find_cells_by_their_words():
    cells = table_cells("table2", PAPER)
    assert [c.path for c in matching(cells, "capnet resnet18 loss cifar-100")] == [
        "CapNet/ResNet18/Loss-Attention/CIFAR-100"
    ]
    assert [c.column for c in matching(cells, "vgg16_bn cifar-10")] == ["CIFAR-10"]
    assert matching(cells, None) == list(cells)
    with pytest.raises(InputError, match="`only` 'resnet19' matches none of 72 cells") as caught:
        matching(cells, "resnet19")
    assert "\n" not in str(caught.value)
