"""The recipe photos-finetune, by the command."""

import subprocess

import torch

import loss_attention as la


def train(folder, backbone, weights, seed, run):
    words = ["loss-attention", "train", "photos-finetune", "--data", folder, "--seed", str(seed)]
    words += ["--weights", weights] if weights else ["--pretrained"]
    subprocess.run([*words, "--backbone", f"timm/{backbone}", "--out", run], check=True)
    return la.load(run), lambda picture: torch.from_numpy(picture).permute(2, 0, 1)
