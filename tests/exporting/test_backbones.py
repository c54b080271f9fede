"""Exported files of models on backbones of timm and transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backbones.kinds import KINDS
from exporting import written

from loss_attention.exporting.reading import ExportedModel

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

LITE = {"levels": (8, 16, 32), "feature_stride": 16}
SLOW = pytest.mark.slow
FILES = [
    # backbone, options of the model, of the export, ending
    pytest.param("timm/test_vit", {}, {}, "onnx", id="a small ViT", marks=SLOW),
    pytest.param("hf/dinov2_with_registers", {}, {}, "onnx", id="a small DINOv2"),
    pytest.param("timm/tf_efficientnet_lite0", LITE, {}, "onnx", id="lite0", marks=SLOW),
    pytest.param(
        "timm/tf_efficientnet_lite0", LITE, {"sizes": "any"}, "onnx", id="lite0, any", marks=SLOW
    ),
    pytest.param("timm/tf_efficientnet_lite0", LITE, {}, "xml", id="lite0, OpenVINO", marks=SLOW),
    pytest.param("timm/tf_efficientnet_lite0", LITE, {}, "pt2", id="lite0, torch", marks=SLOW),
    *(
        pytest.param(f"timm/{name}", {}, {}, "onnx", id=name, marks=SLOW)
        for name in (
            *("convnext_atto", "resnet18", "swin_tiny_patch4_window7_224", "vit_tiny_patch16_224"),
            "vit_small_patch16_dinov3",
        )
    ),
    pytest.param(
        "timm/vit_small_patch14_reg4_dinov2",
        {"image_size": (56, 70)},
        {},
        "onnx",
        id="vit_small_patch14_reg4_dinov2",
        marks=SLOW,
    ),
    *(
        pytest.param(f"hf/{kind}", {}, {}, "onnx", id=kind, marks=SLOW)
        for kind in KINDS
        if kind != "dinov2_with_registers"
    ),
]


@pytest.mark.parametrize(("backbone", "options", "how", "ending"), FILES)
def test_evidence_is_in_the_file(
    backbone: str,
    options: dict[str, Any],
    how: dict[str, Any],
    ending: str,
    tmp_path: Path,
    plain: Any,
) -> None:
    path = tmp_path / f"model.{ending}"
    plain(written.write_on_backbone, path, backbone, options, how)
    said, model = dict(np.load(path.with_suffix(".npz"))), ExportedModel(path)
    found = model(said["images"])
    assert model.metadata.fixed_size == ("sizes" not in how)
    for name in ("logits", "evidence", "patch_weights", "boxes"):
        np.testing.assert_allclose(found[name], said[name], rtol=0, atol=1e-4)
    sums = found["evidence"].astype(np.float64).sum(axis=1)
    np.testing.assert_allclose(sums, found["logits"], rtol=0, atol=1e-4)
    assert np.ptp(said["logits"]) > 0.01
