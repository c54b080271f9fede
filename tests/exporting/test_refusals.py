"""Exporting and reading files that cannot be: one line each, and nothing written."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from heads.used import used_model

import loss_attention as la
from loss_attention.errors import InputError
from loss_attention.exporting.network import TakenSizes, sizes_for
from loss_attention.exporting.reading import ExportedModel, Metadata
from loss_attention.saving import METADATA_KEY

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

ABOUT = Metadata(
    format_version=1,
    package_version="0.1.0",
    class_names=("cat", "dog"),
    multi_label=False,
    competing=True,
    head="mean",
    backbone="resnet18",
    threshold=0.1,
    in_channels=3,
    image_size=(8, 8),
    resize="squash",
    fixed_size=False,
    size_multiple=4,
    least_size=8,
    input={"name": "images", "type": "float32"},
    normalisation={"mean": [0.5] * 3, "std": [0.25] * 3},
    outputs={"logits": "(B, K)"},
)


def save(path: Path, about: str | None, opset: int = 18) -> Path:
    """An ONNX file of means over the pixels, with a description or without."""
    axes = ["batch", 3, "height", "width"]
    kind = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("GlobalAveragePool", ["images"], ["mean"]),
            onnx.helper.make_node("Flatten", ["mean"], ["logits"]),
        ],
        "means",
        [onnx.helper.make_tensor_value_info("images", kind, axes)],
        [onnx.helper.make_tensor_value_info("logits", kind, ["batch", 3])],
    )
    opsets = [onnx.helper.make_opsetid("", opset)]
    proto = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
    if about is not None:
        proto.metadata_props.add(key=METADATA_KEY, value=about)
    onnx.save(proto, path)
    return path


def refused(path: Path) -> str:
    with pytest.raises(InputError) as error:
        ExportedModel(path)
    line = str(error.value)
    assert "\n" not in line
    assert str(path) in line
    return line


def test_a_file_of_ours_is_run(tmp_path: Path) -> None:
    model = ExportedModel(save(tmp_path / "a.onnx", ABOUT.to_json()))
    assert model.metadata == ABOUT
    images = np.full((2, 3, 8, 12), 51, np.uint8)
    np.testing.assert_allclose(model(images)["logits"], np.full((2, 3), 0.2), rtol=1e-6)


@pytest.mark.parametrize(
    ("shape", "kind", "wrong"),
    [
        ((2, 1, 8, 8), np.uint8, r"must have shape \(B, 3, H, W\), got \(2, 1, 8, 8\)"),
        ((3, 8, 8), np.uint8, r"must have shape"),
        ((2, 3, 8, 8), np.int64, "must be uint8 or floating point, got int64"),
        ((2, 3, 4, 8), np.uint8, "8 pixels a side and more, got 4 x 8"),
        ((2, 3, 8, 9), np.uint8, "multiples of 4 pixels, got 8 x 9"),
    ],
)
def test_images_that_a_file_does_not_take(
    tmp_path: Path, shape: tuple[int, ...], kind: Any, wrong: str
) -> None:
    model = ExportedModel(save(tmp_path / "a.onnx", ABOUT.to_json()))
    with pytest.raises(InputError, match=wrong):
        model(np.zeros(shape, kind))


def test_files_that_are_not_ours(tmp_path: Path) -> None:
    assert "not written by loss-attention" in refused(save(tmp_path / "a.onnx", None))
    damaged = json.dumps(json.loads(ABOUT.to_json()) | {"class_names": "cat"})
    assert "metadata is damaged" in refused(save(tmp_path / "b.onnx", damaged))
    assert "metadata is damaged" in refused(save(tmp_path / "c.onnx", "{"))
    newer = replace(ABOUT, format_version=2).to_json()
    assert "reads up to 1: upgrade loss-attention" in refused(save(tmp_path / "d.onnx", newer))
    opset = refused(save(tmp_path / "e.onnx", ABOUT.to_json(), opset=99))
    assert "is of opset 99, which the installed onnxruntime does not know: upgrade it" in opset


@pytest.mark.parametrize("name", ["a.onnx", "a.xml", "a.pt2"])
def test_files_that_are_damaged(tmp_path: Path, name: str) -> None:
    if name == "a.xml":
        pytest.importorskip("openvino")
    path = tmp_path / name
    assert "there is no file" in refused(path)
    for content in (b"", b"<html></html>", bytes(range(256)) * 9):
        path.write_bytes(content)
        refused(path)
    whole = save(tmp_path / "whole.onnx", ABOUT.to_json()).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused(path)


def test_an_unknown_ending(tmp_path: Path) -> None:
    assert "no format has the ending '.tflite'; these are known: .onnx" in refused(
        tmp_path / "a.tflite"
    )


@pytest.mark.parametrize(
    ("name", "library", "extra"),
    [
        ("a.onnx", "onnxruntime", 'pip install "loss-attention[export]"'),
        ("a.xml", "openvino", 'pip install "loss-attention[openvino]"'),
    ],
)
def test_a_library_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, library: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    (tmp_path / name).write_bytes(b"any")
    line = refused(tmp_path / name)
    assert f"{library} is not installed" in line
    assert extra in line
    model = used_model(image_size=(32, 32))
    with pytest.raises(InputError, match=f"{library} is not installed"):
        la.export(model, tmp_path / f"new{Path(name).suffix}")


def test_targets_that_cannot_be(tmp_path: Path) -> None:
    model = used_model(image_size=(32, 32))
    there = tmp_path / "there.onnx"
    there.write_bytes(b"kept")
    (tmp_path / "there.bin").write_bytes(b"kept")
    for path, options, wrong in (
        (there, {}, "there.onnx exists already"),
        (tmp_path / "there.xml", {}, "there.bin exists already"),
        (tmp_path / "a.onnx", {"format": "openvino"}, "the format openvino end in .xml"),
        (tmp_path / "a.onnx", {"format": "tflite"}, "`format` must be one of onnx, torch"),
        (tmp_path / "a.pth", {}, "no format has the ending '.pth'"),
        (tmp_path / "none" / "a.onnx", {}, "there is no folder"),
        (tmp_path / "a.pt2", {"calibration": np.zeros((1, 3, 32, 32), np.uint8)}, "as onnx"),
        (tmp_path / "a.onnx", {"image_size": (4, 4)}, "smaller than one patch"),
    ):
        with pytest.raises(InputError, match=wrong):
            la.export(model, path, **options)
    with pytest.raises(InputError, match="give `image_size`"):
        la.export(used_model(), tmp_path / "a.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there.bin", "there.onnx"]
    assert there.read_bytes() == b"kept"


def test_sizes_that_networks_take() -> None:
    own = used_model(image_size=(32, 40))
    assert sizes_for(own, None, None) == TakenSizes(
        32, 40, fixed=False, least=13
    )  # patches of 9, every 4 pixels
    assert sizes_for(own, (48, 48), "fixed") == TakenSizes(48, 48, fixed=True)
    assert sizes_for(own, (12, 32), None) == TakenSizes(12, 32, fixed=True)  # a row of patches
    with pytest.raises(InputError, match="two patches along each side, 13 x 13 pixels and more"):
        sizes_for(own, (12, 32), "any")
    routed = used_model(head="capsule-dynamic-routing", image_size=(40, 40))
    assert sizes_for(routed, None, None).fixed
    with pytest.raises(InputError, match="parameters for each position"):
        sizes_for(routed, None, "any")


def test_same_padding_is_a_constant_where_the_stride_divides_the_size() -> None:
    layers = pytest.importorskip("timm.layers")
    from loss_attention.exporting.network import with_constant_padding

    for kernel, stride in ((3, 2), (5, 2), (3, 1), (2, 2), (7, 4)):
        same = torch.nn.Sequential(layers.Conv2dSame(2, 3, kernel, stride))
        images = torch.rand(1, 2, 4 * 5, 4 * 6)
        expected = same(images)
        with_constant_padding(same)
        assert not isinstance(same[0], layers.Conv2dSame)
        torch.testing.assert_close(same(images), expected)
