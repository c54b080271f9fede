"""A pretrained backbone from the command line: trained, resumed, measured and explained."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import apart
import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from training.tiny import tiny_recipe

import loss_attention as la
from loss_attention import runs
from loss_attention.interruption import StopRequest
from loss_attention.training import job
from loss_attention.training.recipe import RunOptions
from loss_attention.training.run_folder import RunFolder

TINY = [
    *("--epochs", "2", "--batch-size", "8", "--width", "0.05", "--patch-kernel", "1"),
    *("--patch-stride", "1", "--strided-layers", "--image-size", "64", "--accelerator", "cpu"),
    *("--precision", "32"),
]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for label in ("dark", "light"):
        folder = tmp_path / "images" / label
        folder.mkdir(parents=True)
        for number in range(12):
            pixels = rng.integers(0, 128, (64, 64, 3), dtype=np.uint8) + 100 * (label == "light")
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    return tmp_path / "images"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    import timm

    path = tmp_path / "weights.pth"
    torch.save({"state_dict": timm.create_model("test_convnext").state_dict()}, path)
    return path


def test_a_run_keeps_what_it_began_with_and_needs_it_no_more(
    images: Path, weights: Path, tmp_path: Path
) -> None:
    words = ["train", "folder", "--data", "images", "--backbone", "timm/test_convnext", *TINY]
    words += ["--levels", "8", "16", "--weights", weights.name, "--out", "run"]
    code, said = apart.command(words, tmp_path)
    assert code == 0, said
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["backbone_weights"]["file"] == "weights.pth"
    assert len(facts["backbone_weights"]["sha256"]) == 64
    assert facts["normalisation"]["mean"] == [0.5, 0.5, 0.5]
    measured = json.loads((tmp_path / "run" / "evaluation.json").read_text())

    weights.unlink()
    for words in (["evaluate", "run"], ["explain", "run", "images/dark/0.png", "--out", "out"]):
        code, said = apart.command(words, tmp_path)
        assert code == 0, said
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text()) == measured
    model = la.load(tmp_path / "run")
    assert model.backbone.weights == {}
    assert model.backbone.level_strides == (8, 16)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A model of transformers in a folder, as its maker would put it on the hub."""
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = ViTConfig(**sizes, intermediate_size=32, image_size=64, patch_size=16)
    ViTForImageClassification(config).save_pretrained(tmp_path / "published")
    return tmp_path / "published"


@pytest.mark.parametrize("library", ["timm", "hf"])
def test_a_run_that_was_stopped_goes_on_without_hub_or_file(
    library: str, images: Path, weights: Path, published: Path, tmp_path: Path
) -> None:
    started = {
        "timm": {"backbone": "timm/test_convnext", "weights": str(weights)},
        "hf": {"backbone": f"hf/{published}", "pretrained": True},
    }
    recipe = tiny_recipe(
        data=str(images),
        in_channels=3,
        image_size=64,
        strided_layers=(),
        patch_kernel=1,
        epochs=1,
        **started[library],
    )
    run = RunFolder(tmp_path / "run")
    splits = runs.load_data(recipe, Console(quiet=True))
    with run.claimed():
        begun = job.begin_run(run, recipe, splits, RunOptions(accelerator="cpu"))
    assert run.facts()["backbone_weights"] == begun.backbone.weights != {}
    stop = StopRequest()
    stop.requested = True
    assert not job.continue_run(run, splits, model=begun, stop=stop)  # which leaves a checkpoint
    weights.unlink()
    shutil.rmtree(published)
    again = job.build_model(recipe, splits, begun=run.facts())
    assert again.spec == begun.spec
    assert again.backbone.normalisation == begun.backbone.normalisation
    assert job.continue_run(run, splits)
    assert la.load(run.path).spec == begun.spec


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--backbone", "timm/resnet81"],
            "unknown backbone 'timm/resnet81'; did you mean 'timm/resnet18'",
        ),
        (["--backbone", "timm/resnet18", "--levels", "7"], "--levels: timm/resnet18 has no map of"),
        (["--backbone", "timm/resnet18", "--pretrained"], "give a file of its weights: --weights"),
        (["--backbone", "timm/vit_tiny_patch16_224", "--image-size", "60"], "multiples of 16"),
        (["--backbone", "hf/google/vit"], "the Hugging Face hub does not give 'google/vit'"),
        (["--backbone", "resnet18", "--pretrained"], "--pretrained is for a backbone timm/NAME"),
    ],
)
def test_what_cannot_be_is_one_line(
    words: list[str], message: str, images: Path, tmp_path: Path
) -> None:
    code, said = apart.command(["train", "folder", "--data", "images", *TINY, *words], tmp_path)
    assert code == 2
    last = said.strip().splitlines()[-1]
    assert last.startswith("loss-attention: ")
    assert message in last
    assert "Traceback" not in said
    assert not (tmp_path / "runs" / "folder" / "recipe.yaml").exists()


@pytest.mark.parametrize(("name", "library"), [("timm/resnet18", "timm"), ("hf/a/b", "hf")])
def test_an_extra_that_is_missing_is_named_with_what_needs_none(name: str, library: str) -> None:
    package = {"timm": "timm", "hf": "transformers"}[library]
    program = (
        f"import sys; sys.modules[{package!r}] = None; import loss_attention as la\n"
        f"try: la.create_model({name!r})\n"
        "except la.errors.InputError as error: print(error)"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=os.environ
    ).stdout
    assert f'pip install "loss-attention[{library}]"' in said
    assert "such as resnet18, need" in said


def test_the_papers_networks_import_no_other_library() -> None:
    program = (
        "import sys, loss_attention as la; la.create_model('resnet18', width=0.1)\n"
        "print({'timm', 'transformers', 'torchvision'} & set(sys.modules))"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert said.stdout.strip() == "set()"
