"""Small models of transformers, of each kind one, and models of ours on them."""

from __future__ import annotations

import json
from typing import Any

import loss_attention as la

VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 64,
    "patch_size": 8,
}
DINO = {name: value for name, value in VIT.items() if name != "intermediate_size"}
KINDS: dict[str, tuple[dict[str, Any], int, int]] = {
    # kind: what it is, channels and stride of its last map
    "resnet": (
        {"embedding_size": 8, "hidden_sizes": [16, 24], "depths": [1, 1], "layer_type": "basic"},
        24,
        8,
    ),
    "convnext": ({"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}, 32, 32),
    "swin": (
        {
            "image_size": 64,
            "embed_dim": 16,
            "depths": [2, 2],
            "num_heads": [2, 2],
            "window_size": 4,
        },
        32,
        8,
    ),
    "vit": (VIT, 32, 8),
    "dinov2": (DINO, 32, 8),
    "dinov2_with_registers": (DINO | {"num_register_tokens": 3}, 32, 8),
    "dinov3_vit": (VIT | {"num_register_tokens": 3}, 32, 8),
    "siglip_vision_model": (VIT, 32, 8),
}


def described(kind: str, **values: Any) -> str:
    config = {"model_type": kind} | KINDS[kind][0] | values
    return json.dumps({"config": config, "mean": [0.5] * 3, "std": [0.25] * 3})


def model_on(kind: str, **options: Any) -> la.PatchClassifier:
    given = {"num_classes": 3, "patch_kernel": 1, "patch_stride": 1, "width": 0.1}
    given |= {"backbone_config": described(kind)} | options
    return la.create_model(f"hf/google/{kind}", **given)
