"""Models whose weights were shuffled, for the randomisation check."""

from __future__ import annotations

import torch
from attribution.colour_scenes import SIZE, make_model

from loss_attention.attribution.compare import randomised
from loss_attention.attribution.maps import attribute


def test_randomised_weights_keep_their_values_and_lose_their_order() -> None:
    model = make_model()
    images = torch.rand(4, 3, SIZE, SIZE)
    with torch.no_grad():
        everything, top = (randomised(model, images, share) for share in (1.0, 0.2))
    changed = set()
    for (name, old), new, upper in zip(
        model.named_parameters(), everything.parameters(), top.parameters(), strict=True
    ):
        assert new.flatten().sort().values.equal(old.flatten().sort().values)
        if not upper.equal(old):
            changed.add(name.split(".")[0])
        if old.unique().numel() > 3:
            assert not new.equal(old), name
    assert changed == {"head"}
    assert not everything.training
    assert not any(module.training for module in everything.modules())
    # The activations stay healthy: batch norms have seen the new features.
    features = everything.backbone(images).detach()
    assert 0.1 < float(features.std()) < 10
    before = model.backbone.layers[0].weight.clone()
    assert model.backbone.layers[0].weight.equal(before)
    torch.testing.assert_close(
        attribute(randomised(model, images, 1.0), images, "evidence", 0),
        attribute(everything, images, "evidence", 0),
    )
