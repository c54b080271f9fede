"""`model.explain`: the prediction spelled out, in any mode, and its messages."""

from __future__ import annotations

import io

import numpy as np
import pytest
import reference
import torch
from heads.used import patches_of, used_baseline, used_model
from PIL import Image

from loss_attention.errors import InputError
from loss_attention.model import PatchClassifier, as_images


def test_explain_is_the_prediction_spelled_out() -> None:
    model = used_model(threshold=1.0)  # keeps patches above the average alone
    images = torch.rand(3, 3, 24, 21)
    prediction = patches_of(model, images)
    explanation = model.explain(images, map="evidence")
    torch.testing.assert_close(explanation.logits, prediction.logits)
    torch.testing.assert_close(explanation.evidence.sum(dim=1), prediction.logits)
    assert explanation.target.tolist() == prediction.logits.argmax(dim=1).tolist()
    assert explanation.probabilities.sum(dim=1).tolist() == pytest.approx([1.0] * 3)
    windows = prediction.grid.windows().double().numpy()
    for i in range(3):
        evidence = prediction.evidence[i, :, explanation.target[i]].detach().double().numpy()
        painted = reference.painted(evidence, windows, 24, 21)
        np.testing.assert_allclose(explanation.heat_maps[i].numpy(), painted, rtol=0, atol=1e-5)
        chosen = windows[(prediction.patch_weights[i] > 0).numpy()]
        assert 0 < len(chosen) < len(windows)
        low, high = chosen[:, :2].min(axis=0), chosen[:, 2:].max(axis=0)
        assert explanation.boxes[i].tolist() == [*low, *high]


def test_explain_takes_a_target_for_all_or_one_an_image() -> None:
    model = used_model()
    images = torch.rand(2, 3, 20, 20)
    assert model.explain(images, 4).target.tolist() == [4, 4]
    assert model.explain(images, torch.tensor([3, 0])).target.tolist() == [3, 0]
    with pytest.raises(InputError, match=r"0\.\.4, got \[5, 5\]"):
        model.explain(images, 5)


def test_explaining_works_under_inference_mode_and_keeps_no_graph() -> None:
    model = used_model()
    images = torch.rand(2, 3, 20, 20)
    with torch.inference_mode():
        inside = model.explain(images)
    outside = model.explain(images)
    torch.testing.assert_close(inside.heat_maps, outside.heat_maps)
    assert not outside.evidence.requires_grad


def test_explaining_leaves_every_mode_as_it_was() -> None:
    model = used_model()
    images = torch.rand(2, 3, 20, 20)
    expected = model.explain(images).logits
    model.train()
    frozen = model.backbone.layers[1]
    frozen.eval()
    before = {name: module.training for name, module in model.named_modules()}
    statistics = model.state_dict()["backbone.layers.1.running_mean"].clone()

    torch.testing.assert_close(model.explain(images).logits, expected)

    assert {name: module.training for name, module in model.named_modules()} == before
    assert torch.equal(model.state_dict()["backbone.layers.1.running_mean"], statistics)
    with pytest.raises(InputError):
        model.explain(images, target=99)
    assert {name: module.training for name, module in model.named_modules()} == before


def test_a_baseline_says_why_it_explains_nothing() -> None:
    with pytest.raises(InputError, match="no patches") as caught:
        used_baseline().explain(torch.rand(1, 3, 20, 20))
    assert "\n" not in str(caught.value)


def test_probabilities_of_a_multi_label_model_are_sigmoids() -> None:
    model = used_model(multi_label=True)
    explanation = model.explain(torch.rand(3, 3, 20, 20))
    torch.testing.assert_close(explanation.probabilities, 1 / (1 + (-explanation.logits).exp()))


NAMES = ("red", "green", "blue")
PIXELS = np.random.default_rng(0).integers(0, 256, (2, 3, 20, 24), dtype=np.uint8)


@pytest.fixture(scope="module")
def named() -> PatchClassifier:
    return used_model(num_classes=3, class_names=NAMES)


def refused(model: PatchClassifier, images: object, target: object = None) -> str:
    with pytest.raises(InputError) as caught:
        model.explain(images, target)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    return str(caught.value)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("green", [1, 1]),
        (["blue", "red"], [2, 0]),
        (("blue", 1), [2, 1]),
        (np.array(["red", "blue"]), [0, 2]),
        (np.array([2, 1]), [2, 1]),
        (np.int64(2), [2, 2]),
        (np.uint8(1), [1, 1]),
        ([np.int32(0), 2], [0, 2]),
        (torch.tensor([0, 2], dtype=torch.uint8), [0, 2]),
        (torch.tensor(1), [1, 1]),
    ],
)
def test_a_target_by_name_or_index(named, target: object, expected: list[int]) -> None:
    explanation = named.explain(PIXELS, target)
    assert explanation.target.tolist() == expected
    by_index = named.explain(torch.from_numpy(PIXELS), torch.tensor(expected))
    assert torch.equal(explanation.heat_maps, by_index.heat_maps)


def test_an_unknown_name_is_told_with_the_nearest(named) -> None:
    message = "unknown class 'gren'; did you mean 'green'? known: red, green, blue"
    assert refused(named, PIXELS, "gren") == message
    assert refused(named, PIXELS, ["red", "gren"]) == message
    many = used_model(num_classes=40, class_names=[f"kind {i}" for i in range(39)] + ["\x1b[2Jx"])
    told = refused(many, PIXELS, "kind7")
    assert "did you mean 'kind 7'?" in told
    assert told.endswith("(of 40 classes)")
    assert "\x1b" not in refused(many, PIXELS, "[2Jx")


@pytest.mark.parametrize(
    "target",
    [
        *(3, -1, True, 1.0, 2**70, np.bool_(True), b"red", object()),
        *([0], [0, 1, 2], [0, 3], [0, -1], [0, None], [True, False], [0.0, 1.0], [[0, 1]], []),
        *(np.array([0.0, 1.0]), np.array([True, False]), np.array([[0, 1]])),
        *(torch.tensor([0, 3]), torch.tensor([True, False]), torch.tensor([0.0, 1.0])),
    ],
)
def test_what_is_no_class_is_refused(named, target: object) -> None:
    told = refused(named, PIXELS, target)
    assert told.startswith("target must be 2 class indices or names in 0..2, got ")


LAYOUTS = {
    "NCHW": PIXELS,
    "NHWC": PIXELS.transpose(0, 2, 3, 1),
    "CHW": PIXELS[0],
    "HWC": PIXELS[0].transpose(1, 2, 0),
    "list of HWC": [*PIXELS.transpose(0, 2, 3, 1)],
    "list of CHW": (*PIXELS,),
    "list of tensors": [*torch.from_numpy(PIXELS)],
    "NHWC tensor": torch.from_numpy(PIXELS).permute(0, 2, 3, 1),
    "read-only": np.frombuffer(PIXELS.tobytes(), np.uint8).reshape(PIXELS.shape),
    "reversed twice": PIXELS[:, :, ::-1].copy()[:, :, ::-1],
    "PIL": [Image.fromarray(one) for one in PIXELS.transpose(0, 2, 3, 1)],
    "one of PIL": Image.fromarray(PIXELS[0].transpose(1, 2, 0)),
    "float64": PIXELS / 255,
    "float32 of the other byte order": (PIXELS / 255).astype(">f4"),
    "float16": (PIXELS / 255).astype(np.float16),
    "long double": (PIXELS / 255).astype(np.longdouble),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_images_of_every_layout(named, layout: str) -> None:
    images = LAYOUTS[layout]
    logits = named.explain(images).logits
    expected = named.explain(torch.from_numpy(PIXELS)).logits[: len(logits)]
    assert len(logits) == (1 if layout in ("CHW", "HWC", "one of PIL") else 2)
    torch.testing.assert_close(logits, expected, atol=2e-2 if layout == "float16" else 1e-4, rtol=0)


def test_grey_images_of_every_layout() -> None:
    grey = PIXELS[:, :1]
    expected = torch.from_numpy(grey)
    for images in (grey, grey[:, 0], grey.transpose(0, 2, 3, 1), [*grey[:, 0]]):
        assert torch.equal(as_images(images, 1, torch.device("cpu")), expected)
    one = grey[0, 0]
    for images in (one, one[None], one[..., None], Image.fromarray(one)):
        assert torch.equal(as_images(images, 1, torch.device("cpu")), expected[:1])


def test_pil_images_are_turned_scaled_and_put_on_white() -> None:
    device = torch.device("cpu")
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.fromarray(PIXELS[0].transpose(1, 2, 0)).save(file, "png", exif=exif)
    turned = as_images(Image.open(file), 3, device)[0]
    assert np.array_equal(turned, np.rot90(PIXELS[0], -1, (1, 2)))
    deep = Image.fromarray(np.full((2, 2), 40_000, np.uint16))
    assert as_images(deep, 1, device).unique().tolist() == [156]
    assert as_images(Image.new("RGBA", (2, 2)), 3, device).unique().tolist() == [255]


NOT_IN_RANGE = np.array([[-2.1, 2.6]]).repeat(300, 0).reshape(1, 1, 30, 20).repeat(3, 1)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (PIXELS.astype(np.float32), "must be in [0, 1], these are in [0, 255]; divide by 255"),
        (torch.from_numpy(PIXELS).float(), "must be in [0, 1], these are in [0, 255]"),
        (NOT_IN_RANGE, "these are in [-2.1, 2.6]"),
        (np.full((1, 3, 20, 20), np.nan), "NaN or infinite"),
        (torch.full((1, 3, 20, 20), torch.inf), "NaN or infinite"),
        (np.where(PIXELS == 7, np.nan, 0.5), "NaN or infinite"),
        (PIXELS.astype(np.int64), "uint8 in 0..255 or floating point in [0, 1], got int64"),
        (PIXELS.astype(np.uint16), "got uint16"),
        (PIXELS > 9, "got bool"),
        (torch.from_numpy(PIXELS).int(), "got torch.int32"),
        (torch.from_numpy(PIXELS) > 9, "got torch.bool"),
        (PIXELS.astype(complex), "got complex128"),
        (PIXELS.astype(object), "got object"),
        (PIXELS[:, :1], "must have shape (B, 3, H, W) or (B, H, W, 3)"),
        (np.zeros((20, 20, 4), np.uint8), "got (20, 20, 4)"),
        (np.zeros((20, 20), np.uint8), "got (20, 20)"),
        (np.zeros((1, 1, 3, 20, 20), np.uint8), "got (1, 1, 3, 20, 20)"),
        (np.zeros((), np.uint8), "got ()"),
        (np.zeros((3, 20, 3), np.uint8), "may have their channels first or last"),
        (np.zeros((2, 3, 20, 3), np.uint8), "may have their channels first or last"),
        (np.zeros((0, 3, 20, 20), np.uint8), "there are no images"),
        (torch.zeros(0, 3, 20, 20), "there are no images"),
        ([], "there are no images"),
        ([PIXELS[0], PIXELS[0, :, :-1]], "must all have one size"),
        (torch.zeros(1, 3, 8, 20), "smaller than one patch"),
        ("photo.jpg", "must be a tensor, a NumPy array, PIL images or a list of these, got str"),
        (None, "got NoneType"),
        ([None], "got NoneType"),
    ],
)
def test_images_that_could_be_anything_are_refused(named, images: object, said: str) -> None:
    assert said in refused(named, images)


def test_rounding_beyond_the_range_is_no_fault(named) -> None:
    images = torch.rand(1, 3, 20, 20)
    images[0, 0, 0, :2] = torch.tensor([-1e-6, 1 + 2e-3])
    assert named.explain(images).logits.isfinite().all()


def test_forward_leaves_values_unchecked() -> None:
    # Reading them would make every step of a training wait for the GPU.
    assert used_model()(torch.full((1, 3, 20, 20), torch.nan)).logits.isnan().all()
