"""A file is explained as its model is, whatever its head; its grid is found again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exporting import written
from serve.photos import CLASSES, SIZE, model_of

import loss_attention as la
from loss_attention.errors import InputError
from loss_attention.explained.objects import find_objects
from loss_attention.exporting.reading import ExportedModel
from loss_attention.geometry import PatchGrid
from loss_attention.serve.answering import (
    Asked,
    ServedFile,
    ServedModel,
    asked,
    explained,
    grid_of,
)

QUESTIONS = (Asked(), Asked(target=3), Asked(map="evidence"), Asked(map="contrast", target=1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, plain: Any) -> Path:
    folder = tmp_path_factory.mktemp("served")
    plain(written.write_model_and_file, folder)
    return folder


def images(count: int = 3) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, *SIZE), dtype=torch.uint8)


def test_a_file_is_explained_as_its_model_is(folder: Path) -> None:
    pytest.importorskip("onnxruntime")
    model = la.load(folder / "model.safetensors")
    served = ServedFile(ExportedModel(folder / "model.onnx"))
    some = images()
    said = served.said(some.numpy())
    assert len(said) == 3
    for number, (prediction, _) in enumerate(said):
        for question in (*QUESTIONS, Asked(target=0, versus=2)):
            found = explained(served, prediction, question)
            own = model.explain(
                some[number], question.target, map=question.map, versus=question.versus
            )
            assert found.grid == own.grid
            assert found.shown == own.shown
            for name in ("logits", "probabilities", "evidence", "heat_maps", "boxes", "patch_map"):
                torch.testing.assert_close(
                    getattr(found, name),
                    getattr(own, name),
                    atol=1e-5,
                    rtol=1e-4,
                    equal_nan=True,
                    msg=lambda said, name=name: f"{name}: {said}",
                )
            assert (found.selected == own.selected).all()
            for one, other in zip(find_objects(found)[0], find_objects(own)[0], strict=True):
                assert (one.class_index, one.box) == (other.class_index, other.box)
                assert one.share == pytest.approx(other.share, abs=1e-5)


@pytest.mark.parametrize(
    "head", ["loss-attention", "mean", "capsule-loss-attention", "capsule-dynamic-routing"]
)
def test_one_of_a_batch_is_explained_as_alone(head: str) -> None:
    model = model_of(head)
    served = ServedModel(model)
    some = images()
    for number, (prediction, _) in enumerate(served.said(some.numpy())):
        for target in (None, 2):
            found = explained(served, prediction, Asked(target))
            own = model.explain(some[number], target)
            torch.testing.assert_close(found.heat_maps, own.heat_maps, atol=1e-5, rtol=1e-4)
            assert found.shown == own.shown
            assert found.boxes.shape == (1, 4)


def test_the_map_of_patches_is_what_is_painted() -> None:
    model = model_of(patch_stride=3)  # as far as a window reaches: no pixel is under two
    some = images(1)
    for question in ({}, {"map": "evidence"}, {"target": 0, "versus": 1}):
        own = model.explain(some, **question)  # type: ignore[arg-type]
        assert own.patch_map is not None
        for window, value in zip(own.grid.windows().int().tolist(), own.patch_map[0], strict=True):
            x0, y0, x1, y1 = window
            if (x1 - x0, y1 - y0) == (own.grid.window, own.grid.window) == (own.grid.stride,) * 2:
                assert (own.heat_maps[0, y0:y1, x0:x1] == value).all()
        if "versus" in question:
            difference = own.logits[0, 0] - own.logits[0, 1]
            torch.testing.assert_close(own.patch_map.sum(), difference, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "grid",
    [
        PatchGrid(2, 3, window=9, stride=4, height=12, width=17),
        PatchGrid(1, 1, window=9, stride=9, height=7, width=9),
        PatchGrid(1, 4, window=8, stride=8, height=8, width=30),
        PatchGrid(5, 1, window=30, stride=2, height=20, width=4),
    ],
)
def test_a_grid_is_known_by_its_windows(grid: PatchGrid) -> None:
    found = grid_of(grid.windows(), grid.height, grid.width)
    assert (found.rows, found.columns) == (grid.rows, grid.columns)
    assert torch.equal(found.windows(), grid.windows())


def test_windows_of_no_grid_are_refused() -> None:
    windows = PatchGrid(2, 3, window=9, stride=4, height=12, width=17).windows()
    windows[3] += 1
    with pytest.raises(InputError, match="not those of a grid"):
        grid_of(windows, 12, 17)


def test_what_cannot_be_asked() -> None:
    served = ServedModel(model_of())
    with pytest.raises(InputError, match="unknown class 'dig'; did you mean 'dog'"):
        asked(served, target="dig")
    with pytest.raises(InputError, match="unknown map 'margins'"):
        asked(served, map="margins")
    with pytest.raises(InputError, match="`versus` shows the evidence"):
        asked(served, target="dog", versus="cat", map="margin")
    assert asked(served, "dog", "cat") == Asked(1, 0)
    routing = ServedModel(model_of("capsule-dynamic-routing"))
    with pytest.raises(InputError, match="needs a head with exact evidence"):
        asked(routing, versus="cat")
    assert CLASSES[1] == "dog"


def test_a_file_without_evidence_explains_what_it_predicts(tmp_path: Path) -> None:
    class Exported:
        """What `ExportedModel` is of a file with routing, without one."""

        class metadata:  # noqa: N801
            class_names, image_size, resize, in_channels = CLASSES, SIZE, "squash", 3
            multi_label, competing, backbone, head = False, True, "vgg", "routing"
            outputs = dict.fromkeys(("logits", "patch_weights", "selected", "windows"), "")

        def __call__(self, given: Any) -> dict[str, Any]:
            grid = PatchGrid(2, 2, window=12, stride=8, height=24, width=20)
            weights = np.array([[0.1, 0.2, 0.3, 0.4]], np.float32)
            return {
                "logits": np.array([[0, 2, 1, 0, 0]], np.float32),
                "patch_weights": weights,
                "selected": weights > 0.25,
                "windows": grid.windows().numpy(),
            }

    served = ServedFile(Exported())  # type: ignore[arg-type]
    [(prediction, _)] = served.said(images(1).numpy())
    found = explained(served, prediction, Asked(target=1))
    assert found.shown.name == "routing weight"
    assert found.patch_map.tolist() == found.patch_weights.tolist()  # type: ignore[union-attr]
    assert found.selected.tolist() == [[False, False, True, True]]
    with pytest.raises(InputError, match="of the predicted class alone"):
        explained(served, prediction, Asked(target=2))
