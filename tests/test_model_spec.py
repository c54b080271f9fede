"""The one description of a model: what shares it, and what it is checked for."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields

import pytest

import loss_attention as la
from loss_attention.errors import InputError
from loss_attention.model_spec import ModelOptions, ModelSpec
from loss_attention.training.recipe import Recipe

OF_DATA = {
    "num_classes": 2,
    "class_names": ("cat", "dog"),
    "image_size": (24, 32),
    "multi_label": True,
    "one_vs_rest": False,
    "backbone_config": "",
    "guided_by": "90 boxes",
}
CHOSEN = {
    "backbone": "vgg11_bn",
    "levels": (),
    "feature_stride": None,
    "head": "mean",
    "in_channels": 1,
    "width": 0.03,
    "strided_layers": (1,),
    "patch_kernel": 3,
    "patch_stride": 2,
    "hidden_channels": (64, 32),
    "dropout": 0.25,
    "threshold": 0.5,
    "centre": False,
    "resize": "pad",
}


def test_no_field_is_left_out_here() -> None:
    assert [field.name for field in fields(ModelOptions)] == list(CHOSEN)
    assert [field.name for field in fields(ModelSpec)] == [*CHOSEN, *OF_DATA]


def test_recipes_models_and_files_share_it() -> None:
    spec = ModelSpec(**CHOSEN, **OF_DATA)
    assert Recipe("x", "y", image_size=24, **CHOSEN).model_spec(**OF_DATA) == spec
    model = la.create_model(spec)
    assert model.spec == spec == la.create_model(**CHOSEN, **OF_DATA).spec
    assert ModelSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert model.config == spec.to_dict()
    assert la.create_model(spec, width=0.02).spec.width == 0.02


def test_every_field_of_a_recipes_model_has_its_option(capsys: pytest.CaptureFixture[str]) -> None:
    from loss_attention.cli import main

    with pytest.raises(SystemExit):
        main(["train", "digits", "--help"])
    shown = capsys.readouterr().out
    assert all(f"--{name.replace('_', '-')}" in shown for name in CHOSEN)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"width": 10**400}, "`width` must be at most 1,000"),
        ({"patch_kernel": 2.0}, "`patch_kernel` must be a whole number, got 2.0"),
        ({"strided_layers": "16"}, "`strided_layers` must be a list of layers, got '16'"),
        ({"strided_layers": (True,)}, "`strided_layers` must be a list of layers, got (True,)"),
        ({"backbone": "custom", "strided_layers": (1,)}, "`strided_layers` are those of a named"),
        ({"levels": (8,)}, "`levels` are those of a backbone timm/NAME or hf/ID; 'resnet18'"),
        ({"backbone": "timm/a", "levels": "8"}, "`levels` must be strides in pixels, each once"),
        ({"backbone": "timm/a", "levels": (8, 8)}, "`levels` must be strides in pixels, each once"),
        ({"backbone": "timm/a", "levels": (0,)}, "`levels` must be between 1 and 1,024, got (0,)"),
        ({"feature_stride": 8}, "`feature_stride` must be one of `levels` (none are given), got 8"),
        ({"resize": "crop"}, "unknown `resize` 'crop'"),
        ({"num_classes": 3, "class_names": ["a", "b"]}, "`class_names` must name all 3 classes"),
    ],
)
def test_what_cannot_be_is_named_by_its_field(values: dict[str, object], message: str) -> None:
    for make in (lambda: ModelSpec(**values), lambda: ModelSpec.from_dict(values)):
        with pytest.raises(InputError) as caught:
            make()
        assert str(caught.value).startswith(message)


def test_describing_a_model_needs_no_torch() -> None:
    program = (
        "import sys, loss_attention; loss_attention.ModelSpec(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
