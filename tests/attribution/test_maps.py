"""Heat maps of every method against closed forms and loops written out by hand."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

import loss_attention as la
from loss_attention.attribution import maps as methods
from loss_attention.attribution.maps import METHODS, attribute, attribute_classes
from loss_attention.errors import InputError
from loss_attention.heads import HEADS

SIZE = (32, 40)
CLASSES = 4
OWN = [name for name in METHODS if name not in ("evidence", "contrast", "margin")]


def make_model(head: str, backbone: str = "resnet18", **options) -> la.PatchClassifier:
    torch.manual_seed(1)
    model = la.create_model(backbone, head=head, width=0.05, num_classes=CLASSES, **options)
    for module in model.modules():  # running statistics as training leaves them: not 0 and 1
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.1, 0.5)
            module.bias.data.uniform_(-0.2, 0.2)
    model.set_normalisation(torch.tensor([0.3, 0.5, 0.6]), torch.tensor([0.2, 0.25, 0.3]))
    return model.eval()


@pytest.fixture(scope="module")
def baseline() -> la.PatchClassifier:
    return make_model("baseline")


@pytest.fixture(scope="module")
def patches() -> la.PatchClassifier:
    return make_model("loss-attention", threshold=0.5)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(0, 256, (3, 3, *SIZE), dtype=torch.uint8)


TARGET = torch.tensor([2, 0, 3])


def features_of(model: la.PatchClassifier, images: torch.Tensor) -> torch.Tensor:
    """The backbone's feature map, normalised by hand."""
    mean, std = torch.tensor([0.3, 0.5, 0.6]), torch.tensor([0.2, 0.25, 0.3])
    scaled = (images.double() / 255 - mean[:, None, None]) / std[:, None, None]
    return model.backbone(scaled.float())


def enlarge(maps: np.ndarray) -> np.ndarray:
    """Linear interpolation between the middles of places, one axis after the other."""
    for axis, size in ((1, SIZE[0]), (2, SIZE[1])):
        known = np.arange(maps.shape[axis])
        wanted = (np.arange(size) + 0.5) * len(known) / size - 0.5
        ends = (0, len(known) - 1)
        low = np.floor(wanted.clip(*ends)).astype(int).clip(max=max(0, ends[1] - 1))
        share = (wanted.clip(*ends) - low)[:, None] if axis == 1 else wanted.clip(*ends) - low
        high = (low + 1).clip(max=ends[1])
        maps = maps.take(low, axis) * (1 - share) + maps.take(high, axis) * share
    return maps


def class_maps(model: la.PatchClassifier, images: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The baseline's feature map and the weights of the target classes, in float64."""
    with torch.no_grad():
        features = features_of(model, images).double().numpy()
    return features, model.head.classifier[0].weight.detach().double().numpy()[TARGET]


def test_cam_of_a_baseline_is_the_classifier_at_each_place(baseline, images):
    features, weights = class_maps(baseline, images)
    maps = np.einsum("bd,bdhw->bhw", weights, features)
    np.testing.assert_allclose(
        attribute(baseline, images, "cam", TARGET), enlarge(maps), rtol=1e-4, atol=1e-6
    )
    bias = baseline.head.classifier[0].bias.detach().double().numpy()[TARGET]
    logits = baseline(images).logits.detach().numpy()[np.arange(3), TARGET]
    np.testing.assert_allclose(maps.mean(axis=(1, 2)) + bias, logits, rtol=1e-4)


def test_cams_of_a_baseline_by_closed_form(baseline, images):
    # After average pooling and one linear layer, the gradient of a logit is its weight over h w.
    features, weights = class_maps(baseline, images)
    places = features.shape[2] * features.shape[3]
    grad = np.einsum("bd,bdhw->bhw", weights, features).clip(min=0) / places
    layer = np.einsum("bd,bdhw->bhw", weights.clip(min=0), features) / places
    assert (grad > 0).any()
    assert not np.allclose(grad, layer)
    for name, maps in (("grad-cam", grad), ("layer-cam", layer)):
        np.testing.assert_allclose(
            attribute(baseline, images, name, TARGET), enlarge(maps), rtol=1e-4, atol=1e-7
        )


def test_cams_of_a_patch_model_by_autograd(patches, images):
    features = features_of(patches, images).detach().requires_grad_()
    logits = patches.head(features, SIZE).logits
    (gradient,) = torch.autograd.grad(logits[torch.arange(3), TARGET].sum(), features)
    gradient, places = gradient.double().numpy(), features.detach().double().numpy()
    grad = (gradient.mean(axis=(2, 3), keepdims=True) * places).sum(axis=1).clip(min=0)
    layer = (gradient.clip(min=0) * places).sum(axis=1).clip(min=0)
    for name, maps in (("grad-cam", grad), ("layer-cam", layer)):
        assert (maps > 0).any()
        np.testing.assert_allclose(
            attribute(patches, images, name, TARGET),
            enlarge(maps),
            rtol=1e-3,
            atol=1e-5 * maps.max(),
        )


def test_competition_is_the_logit_less_the_greatest_other_by_autograd(patches, images):
    features = features_of(patches, images).detach().requires_grad_()
    logits = patches.head(features, SIZE).logits
    rest = logits.clone()
    rest[torch.arange(3), TARGET] = -torch.inf
    gap = logits[torch.arange(3), TARGET] - rest.max(dim=1).values
    (gradient,) = torch.autograd.grad(gap.sum(), features)
    gradient, places = gradient.double().numpy(), features.detach().double().numpy()
    grad = (gradient.mean(axis=(2, 3), keepdims=True) * places).sum(axis=1).clip(min=0)
    layer = (gradient.clip(min=0) * places).sum(axis=1).clip(min=0)
    for name, maps in (("grad-cam", grad), ("layer-cam", layer)):
        assert (maps > 0).any()
        found = attribute(patches, images, f"{name}-competition", TARGET)
        atol = 1e-5 * maps.max()
        np.testing.assert_allclose(found, enlarge(maps), rtol=1e-3, atol=atol)
        assert not np.allclose(attribute(patches, images, name, TARGET), found, atol=10 * atol)


class Rectified(torch.nn.Module):
    """A backbone of one layer: what each pixel is by itself, in seven features."""

    channels, stride, receptive_field, normalisation = 7, 1, None, None

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 7, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layer(images).relu()


def test_competition_in_closed_form_of_a_network_of_one_layer():
    """All three methods in float64 NumPy, whose gradients are written down, not computed."""
    torch.manual_seed(2)
    model = la.create_model(
        Rectified(), head="mean", num_classes=5, patch_kernel=1, patch_stride=1, width=0.05
    )
    mean, std = np.array([0.3, 0.5, 0.6]), np.array([0.2, 0.25, 0.3])
    model.set_normalisation(torch.tensor(mean).float(), torch.tensor(std).float())
    model.head.patch_layers, model.head.classifier = torch.nn.Identity(), torch.nn.Linear(7, 5)
    torch.nn.init.normal_(model.head.classifier.weight, std=2.0)
    model.eval()
    image = torch.rand(1, 3, 6, 8)
    x = image[0].double().numpy()
    weight, bias = (p.detach().double().numpy() for p in model.backbone.layer.parameters())
    classes, offset = (p.detach().double().numpy() for p in model.head.classifier.parameters())
    weight = weight[:, :, 0, 0]

    def features(pixels: np.ndarray) -> np.ndarray:
        scaled = (pixels - mean[:, None, None]) / std[:, None, None]
        return np.maximum(np.einsum("dc,chw->dhw", weight, scaled) + bias[:, None, None], 0)

    def against(seen: np.ndarray, target: int) -> tuple[np.ndarray, int]:
        """What the gap's gradient is for each feature, whose rival is the greatest other."""
        logits = classes @ seen.mean(axis=(1, 2)) + offset
        rival = max((k for k in range(5) if k != target), key=lambda k: logits[k])
        return (classes[target] - classes[rival]) / seen[0].size, rival

    seen, rivals = features(x), set()
    nodes, lengths = np.polynomial.legendre.leggauss(50)
    for target in range(5):
        slope, _ = against(seen, target)
        wanted = {
            "grad-cam": np.einsum("d,dhw->hw", slope, seen).clip(min=0),
            "layer-cam": np.einsum("d,dhw->hw", slope.clip(min=0), seen),
        }
        # From the mean colour to the image, in the steps of Gauss and Legendre.
        total = np.zeros_like(x)
        for node, length in zip((1 + nodes) / 2, lengths / 2, strict=True):
            at = features(mean[:, None, None] + node * (x - mean[:, None, None]))
            slope, rival = against(at, target)
            rivals.add((target, rival))
            total += length * np.einsum("d,dhw,dc->chw", slope, at > 0, weight / std)
        wanted["integrated-gradients"] = (total * (x - mean[:, None, None])).sum(axis=0)
        for name, maps in wanted.items():
            found = attribute(model, image, f"{name}-competition", target)[0]
            np.testing.assert_allclose(found, maps, rtol=1e-4, atol=1e-5)
            assert not np.allclose(attribute(model, image, name, target)[0], maps, atol=1e-3)
    assert len(rivals) > 5  # it changes on the way


def test_integrated_gradients_with_competition_sum_to_the_change_of_the_gap(patches, images):
    def gap(batch: torch.Tensor) -> torch.Tensor:
        logits = patches(batch).logits
        others = torch.stack([logits[i, torch.arange(CLASSES) != k] for i, k in enumerate(TARGET)])
        return logits[torch.arange(3), TARGET] - others.max(dim=1).values

    with torch.no_grad():
        change = gap(images) - gap(patches.mean.expand(3, -1, *SIZE))
    sums = attribute(patches, images, "integrated-gradients-competition", TARGET).sum(dim=(1, 2))
    np.testing.assert_allclose(sums, change, rtol=0.05, atol=0.03 * float(change.abs().max()))


def test_what_is_explained_of_several_levels_is_their_joined_map(images):
    """As of a backbone that joins them itself, with the same layers."""
    import torch.nn.functional as F

    class Levels(torch.nn.Module):
        channels, stride, receptive_field, normalisation = 10, 4, None, None
        level_channels, level_strides = (4, 6), (4, 8)

        def __init__(self):
            super().__init__()
            self.fine, self.coarse = torch.nn.Conv2d(3, 4, 4, 4), torch.nn.Conv2d(4, 6, 2, 2)

        def forward(self, images):
            fine = self.fine(images).relu()
            return fine, self.coarse(fine).relu()

    class Whole(Levels):
        level_channels = level_strides = ()

        def forward(self, images):
            fine, coarse = super().forward(images)
            return torch.cat([fine, F.interpolate(coarse, fine.shape[2:], mode="bilinear")], 1)

    torch.manual_seed(0)
    models = [
        la.create_model(kind(), head="mean", num_classes=4, width=0.05, patch_kernel=3).eval()
        for kind in (Levels, Whole)
    ]
    models[1].load_state_dict(models[0].state_dict())
    for name in METHODS:
        maps = [attribute(model, images, name, TARGET) for model in models]
        torch.testing.assert_close(*maps)


def painted(values: np.ndarray, grid, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Each pixel the mean over the windows that cover it, in a loop over windows."""
    total, count = np.zeros((len(values), *size)), np.zeros(size)
    for m, (x0, y0, x1, y1) in enumerate(grid.windows().int().tolist()):
        total[:, y0:y1, x0:x1] += values[:, m, None, None]
        count[y0:y1, x0:x1] += 1
    return total / count.clip(min=1)


def test_evidence_and_cam_of_a_patch_model(patches, images):
    with torch.no_grad():
        prediction = patches(images)
    scores = prediction.patch_logits.double().numpy()[np.arange(3), :, TARGET]
    weights = prediction.patch_weights.double().numpy()
    assert (weights == 0).any()
    for name, values in (("cam", scores), ("evidence", scores * weights)):
        np.testing.assert_allclose(
            attribute(patches, images, name, TARGET), painted(values, prediction.grid), atol=1e-6
        )


@pytest.mark.parametrize("name", ["baseline", "patches"])
def test_integrated_gradients_are_complete(name, request, images):
    model = request.getfixturevalue(name)
    with torch.no_grad():
        plain = model.mean.expand(3, -1, *SIZE)
        change = (model(images).logits - model(plain).logits)[torch.arange(3), TARGET]
    sums = attribute(model, images, "integrated-gradients", TARGET).sum(dim=(1, 2))
    np.testing.assert_allclose(sums, change, rtol=0.05, atol=0.02 * float(change.abs().max()))


@pytest.mark.parametrize(
    ("name", "window", "stride", "most"),
    [("baseline", 8, 4, 256), ("patches", 9, 4, 256), ("patches", 9, 8, 62), ("patches", 9, 9, 1)],
)
def test_occlusion_by_hand(name, window, stride, most, request, images, monkeypatch):
    monkeypatch.setattr(methods, "MOST_WINDOWS", most)
    model = request.getfixturevalue(name)
    scaled = images / 255

    def logit(batch: torch.Tensor) -> np.ndarray:
        with torch.no_grad():
            return model(batch).logits.double().numpy()[np.arange(3), TARGET]

    whole, total, count = logit(scaled), np.zeros((3, *SIZE)), np.zeros(SIZE)
    # The last windows of a row and column reach past the edge where they must.
    tops, lefts = (range(0, side - window + stride, stride) for side in SIZE)
    for y in tops:
        for x in lefts:
            covered = scaled.clone()
            covered[:, :, y : y + window, x : x + window] = model.mean
            total[:, y : y + window, x : x + window] += (whole - logit(covered))[:, None, None]
            count[y : y + window, x : x + window] += 1
    found = attribute(model, images, "occlusion", TARGET)
    np.testing.assert_allclose(found, total / count, atol=1e-5)
    assert np.abs(total).max() > 1e-3


@pytest.mark.parametrize("method", METHODS)
def test_several_classes_of_an_image_are_each_explained(method, patches, images, monkeypatch):
    """As one after the other, in fewer forward passes where that can be."""
    monkeypatch.setattr(methods, "INTEGRATION_STEPS", 3)
    targets = torch.tensor([[2, 0], [0, 1], [3, 3]])
    maps = attribute_classes(patches, images, method, targets)
    one, other = (attribute(patches, images, method, column) for column in targets.unbind(1))
    torch.testing.assert_close(maps, torch.stack([one, other], dim=1))
    if not METHODS[method].baseline:
        assert not maps[0, 0].equal(maps[0, 1])


def test_occlusion_covers_once_for_all_classes(patches, images):
    seen = []
    hook = patches.register_forward_hook(lambda _m, inputs, _o: seen.append(len(inputs[0])))
    attribute_classes(patches, images, "occlusion", TARGET[:, None])
    once = sum(seen)
    seen.clear()
    attribute_classes(patches, images, "occlusion", TARGET[:, None].expand(-1, 4))
    hook.remove()
    assert sum(seen) == once


def test_edges_of_a_step_and_of_nothing():
    model = make_model("baseline")
    step = torch.zeros(2, 3, 32, 32)
    step[0, :, :, 16:] = 1.0
    found = attribute(model, step, "edges")
    # Sobel over 8: half of a step of 1 on either side of it.
    assert found[0, :, 15:17].eq(0.5).all()
    assert found[0].sum() == 32
    assert found[1].eq(0).all()


def test_the_margin_is_what_no_other_class_disputes(patches, images):
    with torch.no_grad():
        prediction = patches(images)
    evidence = prediction.evidence.double().numpy()
    own = evidence[np.arange(3), :, TARGET]
    for i, k in enumerate(TARGET.tolist()):
        own[i] -= np.delete(evidence[i], k, axis=1).max(axis=1)
    found = attribute(patches, images, "margin", TARGET)
    np.testing.assert_allclose(found, painted(own.clip(min=0), prediction.grid, SIZE), atol=1e-6)


@pytest.mark.parametrize(
    "method",
    [
        "margin",
        "contrast",
        "grad-cam-competition",
        "layer-cam-competition",
        "integrated-gradients-competition",
    ],
)
def test_classes_that_are_decided_alone_do_not_compete(method, images):
    several = make_model("mean", multi_label=True)
    instead = "evidence" if method in ("margin", "contrast") else method[: -len("-competition")]
    with pytest.raises(InputError, match=f"{method} is for models of one .*`method` {instead} "):
        attribute(several, images, method, TARGET)


def test_contrast_is_evidence_without_what_is_said_to_all_classes(patches, images):
    with torch.no_grad():
        prediction = patches(images)
    evidence = prediction.evidence.double().numpy()
    wanted = evidence[np.arange(3), :, TARGET] - evidence.mean(axis=2)
    found = attribute(patches, images, "contrast", TARGET)
    np.testing.assert_allclose(found, painted(wanted, prediction.grid, SIZE), atol=1e-6)
    # It is still all of the decision: the logits less their mean.
    logits = prediction.logits.double().numpy()
    np.testing.assert_allclose(
        wanted.sum(axis=1), logits[np.arange(3), TARGET] - logits.mean(axis=1), atol=1e-5
    )
    # A model that says 5 to every class besides decides the same, and has the same contrast.
    model = make_model("mean")
    before = {name: attribute(model, images, name, TARGET) for name in ("contrast", "evidence")}
    model.head.classifier.bias.data += 5
    torch.testing.assert_close(attribute(model, images, "contrast", TARGET), before["contrast"])
    assert (attribute(model, images, "evidence", TARGET) > before["evidence"]).any()


@pytest.mark.parametrize("name", ["baseline", "patches"])
def test_random_maps_differ_by_image_and_not_by_batch(name, request, images):
    model = request.getfixturevalue(name)
    together = attribute(model, images, "random")
    for i in range(3):
        assert attribute(model, images[i : i + 1] / 255, "random")[0].equal(together[i])
    assert not together[0].equal(together[1])
    assert 0 <= together.min() < 0.3 < 0.7 < together.max() < 1
    if name == "patches":  # as coarse as the evidence
        grid = model(images[:1]).grid
        assert len(together[0].unique()) <= 2 * grid.patches**2
        assert together[:, 1:4, 1:4].std(dim=(1, 2)).eq(0).all()


@pytest.mark.parametrize("head", ["baseline", "loss-attention"])
@pytest.mark.parametrize("method", OWN)
def test_models_are_left_as_they_were(head, method, images, monkeypatch):
    monkeypatch.setattr(methods, "INTEGRATION_STEPS", 2)
    model = make_model(head)
    model.train()
    model.backbone.layers[1].eval()
    model.backbone.layers[0].weight.requires_grad = False
    for parameter in model.head.parameters():
        parameter.grad = torch.ones_like(parameter)
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.inference_mode():
        maps = attribute(model, images, method)
    assert maps.shape == (3, *SIZE)
    assert maps.isfinite().all()
    assert not maps.requires_grad
    assert [module.training for module in model.modules()] == modes
    assert all(value.equal(state[name]) for name, value in model.state_dict().items())
    for parameter in model.backbone.parameters():
        assert parameter.grad is None
    assert all((p.grad == 1).all() for p in model.head.parameters())
    assert not model.backbone.layers[0].weight.requires_grad
    assert not model.backbone._forward_hooks


def test_a_model_without_gradients_is_explained_by_gradients(patches, images):
    wanted = attribute(patches, images, "grad-cam")
    frozen = make_model("loss-attention", threshold=0.5).requires_grad_(False)
    torch.testing.assert_close(attribute(frozen, images, "grad-cam"), wanted)


@pytest.mark.parametrize("method", ["evidence", "cam", "grad-cam", "layer-cam"])
def test_one_class_for_all_and_the_predicted_one(patches, images, method):
    best = patches(images).logits.argmax(dim=1)
    torch.testing.assert_close(
        attribute(patches, images, method), attribute(patches, images, method, best)
    )
    one = attribute(patches, images, method, 1)
    torch.testing.assert_close(one, attribute(patches, images, method, torch.full((3,), 1)))
    alone = attribute(patches, images[1:2], method, 1)
    torch.testing.assert_close(alone, one[1:2], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("head", HEADS)
def test_every_head_is_explained(head):
    model = make_model(head, "vgg11_bn", image_size=(16, 16), patch_kernel=5)
    images = torch.rand(2, 3, 16, 16)
    maps = {}
    for method in ("evidence", "contrast", "cam", "grad-cam", "layer-cam", "random"):
        try:
            maps[method] = attribute(model, images, method)
        except InputError as error:
            maps[method] = str(error)
    without_evidence = {"baseline", "capsule-dynamic-routing"}
    assert isinstance(maps["evidence"], str) == (head in without_evidence)
    assert isinstance(maps["contrast"], str) == (head in without_evidence)
    assert isinstance(maps["cam"], str) == (head == "baseline")
    for method in ("grad-cam", "layer-cam", "random"):
        assert maps[method].shape == (2, 16, 16)
    with torch.no_grad():
        prediction = model(images)
    if head == "capsule-dynamic-routing":
        best = prediction.logits.argmax(dim=1)
        votes = prediction.votes.double().numpy()[np.arange(2), :, best]
        size = (16, 16)
        np.testing.assert_allclose(maps["cam"], painted(votes, prediction.grid, size), atol=1e-6)


def test_refusals(baseline, patches, images, monkeypatch):
    with pytest.raises(InputError, match="unknown method 'gradcam'; did you mean 'grad-cam'"):
        attribute(patches, images, "gradcam")
    with pytest.raises(InputError, match="head baseline has no exact evidence"):
        attribute(baseline, images, "evidence")
    several = make_model("mean", multi_label=True)
    with pytest.raises(InputError, match="contrast is for models of one label an image"):
        attribute(several, images, "contrast")
    with pytest.raises(InputError, match="no class activation map for vgg11_bn with the head base"):
        attribute(make_model("baseline", "vgg11_bn"), images, "cam")
    with pytest.raises(InputError, match=r"target must be 3 class indices in 0\.\.3"):
        attribute(patches, images, "evidence", 4)
    monkeypatch.setitem(sys.modules, "captum", None)
    for method in ("grad-cam", "integrated-gradients", "occlusion"):
        with pytest.raises(InputError, match=r"pip install 'loss-attention\[compare\]'"):
            attribute(patches, images, method)
    assert attribute(patches, images, "layer-cam").shape == (3, *SIZE)
