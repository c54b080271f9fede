"""Exported classifiers of bags say what the models say, of bags of any size."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from bags import bags_written

import loss_attention as la
from loss_attention.bags.exported import WEIGHTS
from loss_attention.bags.exporting import described
from loss_attention.bags.pooling import POOLINGS
from loss_attention.cli import main
from loss_attention.saving import METADATA_KEY

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
        model, reader = (
            bags_written.model_of(name),
            la.ExportedBagClassifier(tmp_path / f"{name}.onnx"),
        )
        for bag, size in enumerate(bags_written.SIZES):
            logits, evidence = bags_written.said_alone(model, bag)
            for at_once in (1, 4, 100):
                said = reader(features[bag, :size], at_once)
                np.testing.assert_allclose(said.logits, logits, atol=1e-5)
                np.testing.assert_allclose(said.evidence, evidence, atol=1e-5)
                np.testing.assert_allclose(said.weights, found["weights"][bag, :size], atol=1e-5)
                probabilities = found["probabilities"][bag]
                np.testing.assert_allclose(said.probabilities, probabilities, atol=1e-5)
                assert said.prediction == str(logits.argmax())
            np.testing.assert_allclose(found["logits"][bag], logits, atol=1e-5)
            np.testing.assert_allclose(found["evidence"][bag, :size], evidence, atol=1e-5)
            assert found["weights"][bag].sum() == pytest.approx(1, abs=1e-6)


def said_by(code: int, capsys: pytest.CaptureFixture[str], *words: object) -> Any:
    """What a command that ends with a code has printed."""
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    assert ended.value.code == code
    return capsys.readouterr()


def test_what_cannot_be_written_leaves_no_file(tmp_path: Path, plain: Any) -> None:
    plain(bags_written.refuse, tmp_path)


@pytest.mark.parametrize("name", list(WEIGHTS))
@pytest.mark.parametrize("classes", [2, 3])
def test_weights_are_those_of_the_poolings(name: str, classes: int) -> None:
    random = np.random.default_rng(0)
    positive = 0 if classes == 2 else None
    pooling = POOLINGS[name].build(4, 0.5, positive)
    about = described(bags_written.model_of(name, classes), mask=False)
    about = replace(about, threshold=0.5, positive=positive)
    for vectors in (
        random.normal(size=(7, classes)),
        np.zeros((3, classes)),
        -np.ones((4, classes)),
    ):
        scores = random.normal(size=len(vectors))
        some = torch.from_numpy(vectors)[None], torch.from_numpy(scores)[None]
        wanted = pooling.weights(*some, None)[0].numpy()
        np.testing.assert_allclose(WEIGHTS[name](vectors, scores, about), wanted, atol=1e-12)
    assert set(WEIGHTS) == {name for name in POOLINGS if not POOLINGS[name].additive}


def test_a_file_is_read_without_torch_and_what_is_none_is_named(
    tmp_path: Path, plain: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    plain(bags_written.write_onnx_files, tmp_path, ["gated-attention"])
    path = tmp_path / "gated-attention.onnx"
    features = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float16)
    (tmp_path / "bags").mkdir()
    bag = tmp_path / "bags" / "bag.h5"
    with h5py.File(bag, "w") as file:
        file["features"] = features
    program = (
        "import sys, h5py, loss_attention as la\n"
        "bag = h5py.File(sys.argv[2])['features']\n"
        "said = la.ExportedBagClassifier(sys.argv[1])(bag, at_once=7)\n"
        "assert not {'torch', 'onnx', 'pyarrow'} & set(sys.modules)\n"
        "print(*said.logits)"
    )
    words = [sys.executable, "-c", program, str(path), str(bag)]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    with torch.no_grad():
        model = bags_written.model_of("gated-attention")
        wanted = model(torch.from_numpy(features)[None].float()).logits[0]
    np.testing.assert_allclose([float(one) for one in ended.stdout.split()], wanted, atol=1e-5)

    folder = bag.parent
    line = json.loads(said_by(0, capsys, "predict", path, folder, "--format", "jsonl").out)
    assert (line["bag"], line["prediction"]) == ("bag", str(int(wanted.argmax())))
    found = list(line["probabilities"].values())
    np.testing.assert_allclose(found, wanted.softmax(dim=0), atol=1e-5)
    refused = said_by(2, capsys, "explain", path, folder, "--out", tmp_path / "maps").err
    assert "is an exported file, which `predict` and Exported" in refused
    with h5py.File(bag, "r+") as file:
        file["features"][20, 2] = np.nan
    refused = said_by(2, capsys, "predict", path, folder).err
    assert "bag.h5: row 21, feature 3 is not finite" in refused
    np.save(bag.with_suffix(".npy"), features[:, :3])
    bag.unlink()
    assert "3 features" in said_by(2, capsys, "predict", path, folder).err

    reader = la.ExportedBagClassifier(path)
    for wrong, said in (
        (features[:, :3], r"shape \(M, 4\), got \(50, 3\)"),
        (features[:0], r"got \(0, 4\)"),
        (features.astype(int), "must be floating point, got int64"),
        (
            np.where(features == features[20, 2], np.nan, features),
            "row 21, feature 3 is not finite",
        ),
    ):
        with pytest.raises(ValueError, match=said):
            reader(wrong, at_once=8)
    assert reader.metadata.class_names == ("0", "1", "2")
    proto = onnx.load(path)
    about = json.loads(proto.metadata_props[0].value)
    for changes, said in (
        ({"kind": None}, "of images: ExportedModel runs it"),
        ({"format_version": 99}, "is of format 99"),
        ({"pooling": "of tomorrow"}, "its pooling of tomorrow is unknown"),
        ({"in_features": "4"}, "metadata is damaged"),
        ({"positive": 2}, "metadata is damaged"),
        ({"class_names": None}, "metadata is damaged"),
    ):
        proto.metadata_props[0].value = json.dumps(about | changes)
        onnx.save(proto, tmp_path / "changed.onnx")
        with pytest.raises(ValueError, match=rf"changed\.onnx: .*{said}"):
            la.ExportedBagClassifier(tmp_path / "changed.onnx")
    (tmp_path / "cut.onnx").write_bytes(path.read_bytes()[:500])
    for name, said in (
        ("cut.onnx", "cannot be opened as onnx"),
        ("none.onnx", "there is no file"),
        ("bags.pt2", "bags are read from .onnx files"),
    ):
        with pytest.raises(ValueError, match=said):
            la.ExportedBagClassifier(tmp_path / name)
