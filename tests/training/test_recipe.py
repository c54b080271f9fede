from pathlib import Path
from typing import Annotated

import pytest

from loss_attention import cli
from loss_attention.cli.subcommands import Flat
from loss_attention.errors import InputError
from loss_attention.training.recipe import Recipe
from loss_attention.training.recipes import RECIPES, recipe


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_survives_yaml(name, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe(name).to_yaml())
    assert Recipe.from_yaml(path) == recipe(name)


def test_the_choice_of_data_survives_yaml(tmp_path):
    path = tmp_path / "recipe.yaml"
    chosen = Recipe("x", "y", image_size=8, resize="pad", classes=("cat", "7"), skip_broken=True)
    path.write_text(chosen.to_yaml())
    assert Recipe.from_yaml(path) == chosen
    lines = [line for line in path.read_text().splitlines() if line.split(":")[0] != "classes"]
    path.write_text("\n".join(line for line in lines if not line.startswith("- ")))
    assert Recipe.from_yaml(path).classes == ()  # a run from before there was a choice


SIZE = "`image_size` must be one side of 1 to 10,000 pixels, or a height and a width"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("epochs", 0, "`epochs` must be above 0, got 0"),
        ("threshold", 1.5, "`threshold` must be in [0, 1], got 1.5"),
        ("validation_fraction", 1.0, "`validation_fraction` must be in [0, 1), got 1.0"),
        ("in_channels", 2, "`in_channels` must be 1 or 3, got 2"),
        ("image_size", 0, f"{SIZE}, got 0"),
        ("image_size", 10_001, f"{SIZE}, got 10001"),
        ("image_size", (32, 0), f"{SIZE}, got (32, 0)"),
        ("image_size", (32, 32, 3), f"{SIZE}, got (32, 32, 3)"),
        ("image_size", (), f"{SIZE}, got ()"),
        ("seed", 2**63, "`seed` must be below 2**63, got 9223372036854775808"),
        ("gamma_max", -0.1, "`gamma_max` must be at least 0, got -0.1"),
        ("resize", "pad", "`resize` needs `image_size`, got pad"),
        ("width", float("nan"), "`width` must be above 0 and finite, got nan"),
    ],
)
def test_a_value_out_of_range_names_the_field(field, value, message):
    with pytest.raises(InputError) as caught:
        Recipe(**{"name": "x", "data": "digits", field: value})
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\ndata: d\nepoch: 3\n", "unknown fields epoch"),
        ("name: x\ndata: d\nepochs: many\n", "epochs cannot be 'many'"),
        ("name: x\ndata: d\nepochs: true\n", "epochs cannot be True"),
        ("name: x\ndata: d\nepochs: 1.5\n", "epochs cannot be 1.5"),
        ("name: x\ndata: d\nhead:\n", "head cannot be None"),
        ("name: x\ndata: d\nstrided_layers: [1, two]\n", r"strided_layers cannot be \[1, 'two'\]"),
        ("name: x\ndata: d\nclasses: cat\n", "classes cannot be 'cat'"),
        ("name: x\ndata: d\nresize: crop\n", "resize cannot be 'crop'"),
        ("- 1\n", "no recipe in it"),
        ("name: x\n", "no recipe in it"),
        ("name: [x\n", "cannot read the recipe"),
    ],
)
def test_a_damaged_recipe_file_says_what_is_wrong(text, message, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        Recipe.from_yaml(path)
    assert "\n" not in str(caught.value)


def test_a_whole_number_is_a_number(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("name: x\ndata: d\nwidth: 2\nimage_size: null\n")
    assert Recipe.from_yaml(path) == Recipe("x", "d", width=2.0)


def test_a_height_and_a_width_survive_yaml(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(Recipe("x", "d", image_size=(20, 30)).to_yaml())
    assert Recipe.from_yaml(path).image_size == (20, 30)
    path.write_text("name: x\ndata: d\nimage_size: 64\n")  # as version 0.1 wrote it
    assert Recipe.from_yaml(path).image_size == 64
    for text in ("[20]", "[20, 30, 3]", "[20, 30.5]"):
        path.write_text(f"name: x\ndata: d\nimage_size: {text}\n")
        with pytest.raises(InputError, match="image_size cannot be"):
            Recipe.from_yaml(path)


def test_unknown_recipe_suggests_the_nearest():
    with pytest.raises(InputError, match="did you mean 'digits'"):
        recipe("digit")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": "paper-adam"}, "`schedule` needs `optimizer` adam, got paper-adam"),
        (
            {"optimizer": "adam", "nesterov": True},
            "`nesterov` does not belong to adam, got True",
        ),
        (
            {"horizontal_flip": False, "alternate_flips": True},
            "`alternate_flips` needs `horizontal_flip`, got True",
        ),
        ({"cutout": -1}, "`cutout` must be at least 0, got -1"),
    ],
)
def test_what_does_not_go_together_is_refused(changes, message):
    with pytest.raises(InputError) as caught:
        Recipe(name="x", data="digits", **changes)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("learning_rate: .inf", "learning_rate cannot be inf"),
        ("learning_rate: .nan", "learning_rate cannot be nan"),
        ("weight_decay: .inf", "weight_decay cannot be inf"),
        ("epochs: 1" + "0" * 40, "epochs cannot be 1000"),
        ("epochs: 1" + "0" * 5000, "cannot read the recipe"),
        ("epochs: -3", "recipe.yaml: `epochs` must be above 0"),
        ("classes: [[a]]", "classes cannot be"),
        ("classes: &a [x]\nstrided_layers: *a", "it has aliases"),
        ("a: &a {x: 1}\nb: &b {<<: [*a, *a]}\nc: {<<: [*b, *b]}", "it has aliases"),
        ("classes: " + "[" * 20_000, "nested too deeply"),
        ("\x1b[31m: 1", "cannot read the recipe"),
        ("? {a: 1}\n: 2", "cannot read the recipe"),
        ("resize: [squash]", "resize cannot be"),
        ("name: !!python/object/apply:os.system [ls]", "cannot read the recipe"),
    ],
)
def test_a_hostile_recipe_is_one_line(lines: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"name: trial\ndata: somewhere\n{lines}\n")
    with pytest.raises(InputError) as caught:
        Recipe.from_yaml(path)
    assert message in str(caught.value)
    assert "recipe.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_a_length_is_in_steps_or_in_epochs():
    assert Recipe("x", "y", steps=100, epochs=0).steps == 100
    with pytest.raises(InputError, match=r"`steps` 100 and `epochs` 200 both say how long"):
        Recipe("x", "y", steps=100)
    with pytest.raises(InputError, match="`steps` must be above 0, got 0"):
        Recipe("x", "y", steps=0, epochs=0)


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["--steps", "70"], (70, 0)),
        (["--steps=70"], (70, 0)),
        (["--epochs", "3"], (None, 3)),
        (["--epochs=3", "--batch-size", "4"], (None, 3)),
    ],
)
@pytest.mark.parametrize("name", ["digits", "folder"])
def test_a_length_that_is_typed_takes_the_place_of_the_recipes_own(name, typed, expected):
    found = {}

    def train(console, recipe: Annotated[Recipe, Flat]) -> int:
        found["recipe"] = recipe
        return 0

    call = cli.parse(train, typed, "train", recipe=cli._of_one_length(recipe(name), typed))
    assert call(None) == 0
    assert (found["recipe"].steps, found["recipe"].epochs) == expected


def test_both_lengths_typed_are_refused():
    def train(console, recipe: Annotated[Recipe, Flat]) -> int:
        return 0

    typed = ["--steps", "70", "--epochs", "3"]
    with pytest.raises(InputError, match="both say how long to train: give one of them"):
        cli.parse(train, typed, "train", recipe=cli._of_one_length(recipe("digits"), typed))


def test_our_own_recipes_centre_logits_where_they_can_and_the_papers_do_not():
    papers = {"cifar10", "cifar10-adam"}
    assert {name: recipe(name).centre for name in RECIPES} == {
        name: False if name in papers else None for name in RECIPES
    }
    assert all(recipe(name).objective == "auto" for name in RECIPES)


@pytest.mark.parametrize(
    ("typed", "centre"),
    [([], None), (["--centre"], True), (["--no-centre"], False)],
)
def test_centring_is_a_switch(typed, centre):
    def train(_console, recipe: Annotated[Recipe, Flat]):
        return recipe

    assert cli.parse(train, typed, "train", recipe=recipe("digits"))(None).centre is centre
    assert cli.parse(train, typed, "train", recipe=recipe("cifar10"))(None).centre is bool(centre)


def test_centring_survives_yaml(tmp_path):
    path = tmp_path / "recipe.yaml"
    for centre in (None, True, False):
        path.write_text(Recipe("x", "y", centre=centre, objective="one-vs-rest").to_yaml())
        assert Recipe.from_yaml(path).centre is centre
    path.write_text("name: x\ndata: d\n")  # a run from before there was a choice
    assert Recipe.from_yaml(path).centre is False
    assert Recipe.from_yaml(path).objective == "auto"
