"""Fine-tuning, as timm's users do it: a plain loop with AdamW, a cosine and flips."""

import timm
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import (
    Compose,
    Normalize,
    RandomHorizontalFlip,
    RandomVerticalFlip,
    ToTensor,
)


def train(folder, backbone, weights, seed, epochs=10, rate=1e-3):
    torch.manual_seed(seed)
    from_file = {"pretrained_cfg_overlay": {"file": weights}} if weights else {}
    classes = ImageFolder(f"{folder}/train").classes
    model = timm.create_model(backbone, pretrained=True, num_classes=len(classes), **from_file)
    config = timm.data.resolve_data_config(model=model)
    transform = Compose([ToTensor(), Normalize(config["mean"], config["std"])])
    augmented = Compose([RandomHorizontalFlip(), RandomVerticalFlip(), transform])
    data = ImageFolder(f"{folder}/train", augmented)
    loader = DataLoader(data, batch_size=32, shuffle=True, drop_last=len(data) > 32)
    weight = 1 / torch.bincount(torch.tensor(data.targets)).float()
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.05)
    steps = epochs * len(loader)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    model.train()
    for _ in range(epochs):
        for images, labels in loader:
            optimizer.zero_grad()
            cross_entropy(model(images), labels, weight=weight).backward()
            optimizer.step()
            schedule.step()
    return model.eval(), transform
