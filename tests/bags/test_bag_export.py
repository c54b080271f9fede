"""Exported classifiers of bags say what the models say, of bags of any size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bags import bags_written

from loss_attention.bags.pooling import POOLINGS
from loss_attention.exporting.reading import METADATA_KEY

SOME = ["additive"]
"""The one that classifies what it has weighed; the others have one form."""
OTHERS = [name for name in POOLINGS if name not in SOME]


@pytest.mark.parametrize("names", [SOME, pytest.param(OTHERS, marks=pytest.mark.slow)])
def test_files_for_torch(names: list[str], tmp_path: Path, plain: Any) -> None:
    plain(bags_written.check_torch, tmp_path, names)


@pytest.mark.parametrize(
    "names", [["positive-evidence"], pytest.param(SOME + OTHERS, marks=pytest.mark.slow)]
)
def test_onnx_files_need_no_torch(names: list[str], tmp_path: Path, plain: Any) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    plain(bags_written.write_onnx_files, tmp_path, names)
    features, mask = (value.numpy() for value in bags_written.bags())
    for name in names:
        session = runtime.InferenceSession(str(tmp_path / f"{name}.onnx"))
        about = json.loads(session.get_modelmeta().custom_metadata_map[METADATA_KEY])
        assert about["kind"] == "bags"
        assert [(one.name, one.shape) for one in session.get_inputs()] == [
            ("features", ["batch", "instances", 4]),
            ("mask", ["batch", "instances"]),
        ]
        values = session.run(list(about["outputs"]), {"features": features, "mask": mask})
        found = dict(zip(about["outputs"], values, strict=True))
        model = bags_written.model_of(name)
        for bag, size in enumerate(bags_written.SIZES):
            logits, evidence = bags_written.said_alone(model, bag)
            np.testing.assert_allclose(found["logits"][bag], logits, atol=1e-5)
            np.testing.assert_allclose(found["evidence"][bag, :size], evidence, atol=1e-5)
            assert found["weights"][bag].sum() == pytest.approx(1, abs=1e-6)


def test_what_cannot_be_written_leaves_no_file(tmp_path: Path, plain: Any) -> None:
    plain(bags_written.refuse, tmp_path)
