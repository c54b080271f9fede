"""Exported files say what the model says, of any batch and size, and nothing of this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exporting import written
from heads.used import PATCH_HEADS

import loss_attention as la
from loss_attention.exporting.quantising import _overlaps, kept_in_float
from loss_attention.exporting.reading import ExportedModel
from loss_attention.saving import METADATA_KEY

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exported")


def both(path: Path) -> tuple[dict[str, Any], dict[str, Any], ExportedModel]:
    """What a file and what the model said of the same images."""
    said = dict(np.load(path.with_suffix(".npz")))
    model = ExportedModel(path)
    return model(said["images"]), said, model


def near(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def margins_of(evidence: Any) -> Any:
    """Each class's evidence less the greatest of the others, class by class, in float64."""
    evidence = evidence.astype(np.float64)
    result = np.empty_like(evidence)
    for k in range(evidence.shape[2]):
        result[:, :, k] = evidence[:, :, k] - np.delete(evidence, k, axis=2).max(axis=2)
    return result


# Each head once, and each option with one of them.
WRITTEN: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "mean": ({"one_vs_rest": True}, {"sizes": "fixed"}),
    "attention": ({}, {"sizes": "fixed"}),
    "gated-attention": ({}, {"upsample": True, "input_type": "float32", "sizes": "fixed"}),
}


@pytest.mark.parametrize("head", PATCH_HEADS)
def test_every_head_with_evidence(head: str, folder: Path, plain: Any) -> None:
    options, how = WRITTEN.get(head, ({}, {}))
    plain(written.write_head, folder, head, f"{head}.onnx", options, how)
    found, said, model = both(folder / f"{head}.onnx")
    for name in ("logits", "evidence", "patch_weights", "boxes", "windows"):
        near(found[name], said[name])
    assert (found["selected"] == said["selected"]).all()
    near(found["evidence"].astype(np.float64).sum(axis=1), found["logits"])
    logits = said["logits"].astype(np.float64)
    best = logits.argmax(axis=1)
    if options:  # each class is decided by itself
        near(found["probabilities"], 1 / (1 + np.exp(-logits)))
        shown = said["evidence"][np.arange(len(best)), :, best]
        near(found["evidence_map"].reshape(shown.shape), shown)
        return
    powers = np.exp(logits)
    near(found["probabilities"], powers / powers.sum(axis=1, keepdims=True))
    if "upsample" in how:  # the map is painted on the pixels, as `explain` shows it
        shown = np.where(said["no_margin"][:, None, None], 0, said["heat_maps"])
        near(found["margin_map"], shown)
        assert model.metadata.input["type"] == "float32"
        near(model(said["images"].astype(np.float32) / 255)["logits"], said["logits"])
    else:
        shown = margins_of(said["evidence"])[np.arange(len(best)), :, best].clip(min=0)
        near(found["margin_map"].reshape(shown.shape), shown)
    assert shown.max() > 0.01


def test_routing_has_weights_of_one_size(folder: Path, plain: Any) -> None:
    head = "capsule-dynamic-routing"
    plain(written.write_head, folder, head, f"{head}.onnx", {}, {})
    found, said, model = both(folder / "capsule-dynamic-routing.onnx")
    for name in ("logits", "patch_weights", "boxes"):
        near(found[name], said[name])
    assert "evidence" not in found
    near(found["weight_map"].reshape(found["patch_weights"].shape), said["patch_weights"])
    assert model.metadata.fixed_size
    with pytest.raises(ValueError, match="images of 9 x 12 pixels alone, got 9 x 13"):
        model(np.zeros((1, 3, 9, 13), np.uint8))


def test_a_baseline_has_a_decision_alone(folder: Path, plain: Any) -> None:
    plain(written.write_baseline, folder)
    found, said, _ = both(folder / "baseline.onnx")
    near(found["logits"], said["logits"])
    assert list(found) == ["logits", "probabilities"]


def test_all_formats_say_the_same(folder: Path, plain: Any) -> None:
    pytest.importorskip("openvino")
    names = ("loss-attention.onnx", "loss-attention.pt2", "loss-attention.xml")
    for name in names[1:]:
        plain(written.write_head, folder, "loss-attention", name, {}, {})
    abouts = []
    for name in names:
        found, said, model = both(folder / name)
        assert list(found) == [*model.metadata.outputs]
        for output in ("logits", "evidence", "boxes"):
            near(found[output], said[output])
        abouts.append(model.metadata)
        for content in (folder / name, (folder / name).with_suffix(".bin")):
            if content.exists():  # names of files of this machine are nobody's business
                assert b"site-packages" not in content.read_bytes()
                assert b"loss_attention/" not in content.read_bytes()
    assert abouts[0] == abouts[1] == abouts[2]
    assert abouts[0].class_names == written.CLASSES
    assert abouts[0].normalisation == {"mean": [0.5] * 3, "std": [0.25] * 3}
    assert abouts[0].threshold == 0.3
    assert abouts[0].package_version == la.__version__


def test_axes_have_names_and_metadata_is_json(folder: Path) -> None:
    proto = onnx.load(folder / "loss-attention.onnx")
    (images,) = proto.graph.input
    sides = [side.dim_param or side.dim_value for side in images.type.tensor_type.shape.dim]
    assert sides == ["batch", 3, "height", "width"]
    (entry,) = proto.metadata_props
    assert entry.key == METADATA_KEY
    assert json.loads(entry.value)["outputs"]["evidence"].startswith("(B, M, K)")


def test_a_file_that_computes_something_else_is_not_left(folder: Path, plain: Any) -> None:
    plain(written.find_out_a_wrong_file, folder)


def test_in_8_bits_the_evidence_still_adds_up(folder: Path, plain: Any) -> None:
    plain(written.write_in_8_bits, folder)
    model = ExportedModel(folder / "int8.onnx")
    assert model.metadata.quantised
    operators = {node.op_type for node in onnx.load(folder / "int8.onnx").graph.node}
    assert "QuantizeLinear" in operators
    images = np.random.default_rng(0).integers(0, 256, (3, 3, 9, 12), dtype=np.uint8)
    found = model(images)
    near(found["evidence"].astype(np.float64).sum(axis=1), found["logits"])


def test_the_first_convolution_and_those_of_each_channel_stay_as_they_are() -> None:
    make = onnx.helper.make_node
    nodes = [
        make("Sub", ["image", "mean"], ["centred"], name="sub"),
        make("Conv", ["centred", "w0"], ["a"], name="stem"),
        make("Conv", ["a", "w1"], ["b"], name="each channel", group=8),
        make("Conv", ["b", "w2"], ["c"], name="plain"),
        make("Conv", ["c", "w3"], ["d"], name="said to be plain", group=1),
    ]
    graph = onnx.helper.make_graph(nodes, "graph", [], [])
    assert kept_in_float(onnx.helper.make_model(graph)) == ["stem", "each channel"]


def test_margin_agreement_by_hand() -> None:
    own = np.array([[[2.0, 2.0, 0.0]], [[0.0, 0.0, 0.0]], [[1.0, 0.0, 0.0]], [[-5.0, 1.0, 0.0]]])
    found = np.array([[[1.0, 0.0, 1.0]], [[0.0, 0.0, 0.0]], [[0.0, 0.0, 0.0]], [[0.0, 3.0, 0.0]]])
    assert _overlaps(own, found) == [0.5, 1.0, 0.0, 1.0]
