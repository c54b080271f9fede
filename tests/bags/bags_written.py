"""What `test_bag_export.py` has written in a process of its own, and what the models said."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from loss_attention.bags import exporting
from loss_attention.bags.exporting import export_bags
from loss_attention.bags.model import BagClassifier
from loss_attention.errors import InputError
from loss_attention.exporting.reading import ExportedModel
from loss_attention.exporting.writing import ExportError
from loss_attention.saving import METADATA_KEY

SIZES = (9, 4)
"""Of two bags; none of them is tried by `export_bags`."""


def model_of(pooling: str, classes: int = 3) -> BagClassifier:
    """A classifier whose bags are normalised."""
    torch.manual_seed(3)
    model = BagClassifier(4, classes, pooling=pooling, hidden=(6,))
    model.set_normalisation(torch.tensor([1.0, 0.0, -1.0, 5.0]), torch.tensor([2.0, 1.0, 0.5, 3.0]))
    return model.eval()


def bags() -> tuple[torch.Tensor, torch.Tensor]:
    """Features and mask of two bags; what is masked is not a number."""
    features = torch.randn(2, max(SIZES), 4, generator=torch.manual_seed(5))
    mask = torch.arange(max(SIZES)) < torch.tensor(SIZES).unsqueeze(1)
    features[~mask] = torch.nan
    return features, mask


def said_alone(model: BagClassifier, bag: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits and evidence of one bag, by the way that takes a part at a time."""
    features = bags()[0][bag, : SIZES[bag]]
    prediction = model.predict(lambda start, stop: features[start:stop], SIZES[bag], at_once=3)
    return prediction.logits[0].numpy(), prediction.evidence[0].numpy()


def check_torch(folder: Path, names: list[str]) -> None:
    """Write files for torch, and compare what they say with the models."""
    for name in names:
        model, path = model_of(name), folder / f"{name}.pt2"
        for mask in (True, False):
            export_bags(model, path, mask=mask, overwrite=True)
            extra = {METADATA_KEY: ""}
            network = torch.export.load(path, extra_files=extra).module()
            assert json.loads(extra[METADATA_KEY])["pooling"] == name
            features, real = bags()
            for bag, size in enumerate(SIZES):
                logits, evidence = said_alone(model, bag)
                with torch.no_grad():
                    if mask:
                        found = {key: value[bag] for key, value in network(features, real).items()}
                    else:
                        alone = network(features[bag : bag + 1, :size])
                        found = {key: value[0] for key, value in alone.items()}
                np.testing.assert_allclose(found["logits"], logits, atol=1e-5)
                np.testing.assert_allclose(found["evidence"][:size], evidence, atol=1e-5)
                assert not found["evidence"][size:].any()


def write_onnx_files(folder: Path, names: list[str]) -> None:
    """Write files as ONNX."""
    for name in names:
        export_bags(model_of(name), folder / f"{name}.onnx", mask=True)


def refuse(folder: Path) -> None:
    """Try what cannot be."""
    model, path = model_of("mean"), folder / "mean.pt2"
    with pytest.raises(InputError, match="not for OpenVINO"):
        export_bags(model, folder / "mean.xml")
    export_bags(model, path)
    with pytest.raises(InputError, match="exists already"):
        export_bags(model, path)
    with pytest.raises(InputError, match="it holds a classifier of bags, not of images"):
        ExportedModel(path)
    path.unlink()
    most, exporting.MOST_DIFFERENCE = exporting.MOST_DIFFERENCE, -1.0
    try:
        with pytest.raises(ExportError, match=r"was not written: its output .*differs"):
            export_bags(model, path)
    finally:
        exporting.MOST_DIFFERENCE = most
    assert not list(folder.iterdir())
