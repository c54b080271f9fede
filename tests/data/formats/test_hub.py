"""Data sets of the Hugging Face hub, without the hub: what is asked of it, and what if it fails."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from typing import Any

import datasets
import huggingface_hub
import pytest
from data.making import stored
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value

from loss_attention.data.formats.hub import quiet_datasets
from loss_attention.data.loading import load_splits
from loss_attention.data.sample import Splits
from loss_attention.errors import InputError

PETS = ClassLabel(names=["cat", "dog", "hen"])


def table(labels: list[Any], label_type: Any = PETS, **more: Any) -> Dataset:
    columns = {"img": stored(*range(len(labels))), "label": labels}
    return Dataset.from_dict(columns, features=Features({"img": Image(), "label": label_type}))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[Any, Any]:
    """Data sets by id and configuration, in place of the hub's."""
    there: dict[Any, Any] = {}

    def load_dataset(name: str, configuration: str | None = None) -> Any:
        found = there[name, configuration]
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return there


def load(name: str) -> Splits:
    return load_splits(name, in_channels=3, image_size=None, seed=0)


def refusal(name: str) -> str:
    with pytest.raises(InputError) as caught:
        load(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_data_set_of_the_hub(hub: dict[Any, Any]) -> None:
    hub["farm/pets", None] = DatasetDict(train=table([0, 1, 2]), test=table([2, 0]))
    splits = load("farm/pets")
    assert splits.source == "farm/pets: 3 training and 2 test images"
    assert splits.train.class_names == ("cat", "dog", "hen")
    assert splits.train.labels.tolist() == [0, 1, 2]
    assert splits.train.images[:, :, 0, 0].tolist() == [[0] * 3, [1] * 3, [2] * 3]
    assert splits.test.labels.tolist() == [2, 0]
    assert splits.test.images[1, 0, 0, 0] == 1
    assert splits.test.names == ("test[0]", "test[1]")


def test_known_names_stand_for_ids(hub: dict[Any, Any]) -> None:
    hub["uoft-cs/cifar10", None] = DatasetDict(train=table([0, 1]), test=table([1]))
    assert load("cifar10").source.startswith("uoft-cs/cifar10: 2 training")


def test_configurations(hub: dict[Any, Any]) -> None:
    hub["farm/pets", "small"] = DatasetDict(train=table([0, 1]), test=table([1]))
    assert len(load("farm/pets:small").train) == 2


def test_multi_label(hub: dict[Any, Any]) -> None:
    rows = table([[0, 2], [], [1]], List(PETS))
    hub["farm/pets", None] = DatasetDict(train=rows, test=rows)
    assert load("farm/pets").train.labels.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize("hidden", [[-1, -1], [None, None]])
def test_hidden_test_labels_leave_the_validation_split(
    hub: dict[Any, Any], hidden: list[int | None]
) -> None:
    hub["farm/pets", None] = DatasetDict(
        train=table([0, 1]), test=table(hidden), validation=table([1, 1, 0])
    )
    splits = load("farm/pets")
    assert splits.test.labels.tolist() == [1, 1, 0]
    assert "(no labelled test split, so split validation is the test set)" in splits.source
    hub["farm/pets", None].pop("validation")
    hub["farm/pets", None]["train"] = table([0, 1] * 5)
    assert len(load("farm/pets").test) == 2  # held out


def test_a_test_split_without_the_label_column(hub: dict[Any, Any]) -> None:
    hub["farm/pets", None] = DatasetDict(
        train=table([0, 1] * 5), test=table([0]).remove_columns("label")
    )
    assert len(load("farm/pets").test) == 2


def test_a_single_split_of_any_name_is_divided(hub: dict[Any, Any]) -> None:
    hub["farm/pets", None] = DatasetDict(full=table([0, 1] * 5))
    splits = load("farm/pets")
    assert (len(splits.train), len(splits.test)) == (8, 2)
    assert "20% of full held out by seed 0" in splits.source


def test_splits_without_a_training_split(hub: dict[Any, Any]) -> None:
    hub["farm/pets", None] = DatasetDict(one=table([0, 1]), two=table([0, 1]))
    assert refusal("farm/pets") == "farm/pets has no split named train among one, two"
    hub["farm/pets", None] = DatasetDict(train=table([]))
    assert refusal("farm/pets") == "farm/pets holds no images"


def test_splits_of_different_classes(hub: dict[Any, Any]) -> None:
    other = ClassLabel(names=["dog", "cat", "hen"])
    hub["farm/pets", None] = DatasetDict(train=table([0, 1]), test=table([0], other))
    assert refusal("farm/pets") == ("farm/pets: splits train and test declare different classes")


def test_labels_are_checked(hub: dict[Any, Any]) -> None:
    rows = table([0, 1, 9], Value("int64"))
    rows = rows.remove_columns("label").add_column("label", [0, 1, None])
    bad = rows.cast_column("label", PETS)
    hub["farm/pets", None] = DatasetDict(train=bad, test=table([0]))
    assert refusal("farm/pets") == "farm/pets: train[2] has no label"


def test_a_missing_image_is_named(hub: dict[Any, Any]) -> None:
    rows = Dataset.from_dict(
        {"img": [*stored(1), None, *stored(2)], "label": [0, 1, 1]},
        features=Features({"img": Image(), "label": PETS}),
    )
    hub["farm/pets", None] = DatasetDict(train=rows, test=table([0]))
    assert refusal("farm/pets") == "1 image cannot be read: train[1] (nothing is stored there)"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("Config name is missing.\nPick of:\n  ['a', 'b']"), "Pick of: ['a', 'b']"),
        (ConnectionError("x" * 1000), "x" * 300 + "..."),
        (KeyError(), "KeyError"),
    ],
)
def test_whatever_the_hub_raises_is_one_line(
    hub: dict[Any, Any], error: Exception, message: str
) -> None:
    hub["farm/pets", None] = error
    line = refusal("farm/pets")
    assert line.startswith("cannot load 'farm/pets' from the Hugging Face hub: ")
    assert line.endswith(f"{message}; a local folder works too")


def test_the_cause_of_a_failed_generation_is_named(hub: dict[Any, Any]) -> None:
    error = datasets.exceptions.DatasetGenerationError("An error occurred")
    error.__cause__ = TypeError("column x is of another type")
    hub["farm/pets", None] = error
    assert "hub: column x is of another type; a local" in refusal("farm/pets")


def test_settings_are_as_before() -> None:
    levels = logging.DEBUG, logging.ERROR
    before = datasets.logging.get_verbosity(), huggingface_hub.logging.get_verbosity()
    datasets.logging.set_verbosity(levels[0])
    huggingface_hub.logging.set_verbosity(levels[1])
    try:
        for bars in (True, False):
            (datasets.enable_progress_bars if bars else datasets.disable_progress_bars)()
            with quiet_datasets("no"):
                assert datasets.are_progress_bars_disabled()
                assert datasets.logging.get_verbosity() == logging.CRITICAL
            with pytest.raises(InputError), quiet_datasets("no"):
                raise ValueError
            assert datasets.are_progress_bars_disabled() is not bars
            assert datasets.logging.get_verbosity() == levels[0]
            assert huggingface_hub.logging.get_verbosity() == levels[1]
    finally:
        datasets.enable_progress_bars()
        datasets.logging.set_verbosity(before[0])
        huggingface_hub.logging.set_verbosity(before[1])


def test_offline(tmp_path: Any) -> None:
    code = (
        "from loss_attention.data.loading import load_splits\n"
        "try: load_splits('farm/pets', in_channels=3, image_size=None, seed=0)\n"
        "except ValueError as error: print(type(error).__name__, error)\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    (line,) = done.stdout.splitlines()
    assert line.startswith("InputError cannot load 'farm/pets' from the Hugging Face hub: ")
    assert "OfflineModeIsEnabled" in line
    assert line.endswith("; a local folder works too")
