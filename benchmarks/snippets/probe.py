"""A linear probe, as timm's users train one: a logistic regression on pooled features."""

import timm
import torch
from sklearn.linear_model import LogisticRegression
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import Compose, Normalize, ToTensor


def train(folder, backbone, weights, seed):
    from_file = {"pretrained_cfg_overlay": {"file": weights}} if weights else {}
    model = timm.create_model(backbone, pretrained=True, num_classes=0, **from_file).eval()
    config = timm.data.resolve_data_config(model=model)
    transform = Compose([ToTensor(), Normalize(config["mean"], config["std"])])
    data = ImageFolder(f"{folder}/train", transform)
    with torch.inference_mode():
        features = torch.cat([model(images) for images, _ in DataLoader(data, batch_size=16)])
    probe = LogisticRegression(max_iter=3000, class_weight="balanced", random_state=seed)
    probe.fit(features, data.targets)
    rows = len(probe.coef_)  # one row alone for two classes
    model.reset_classifier(len(data.classes))
    classifier = model.get_classifier()
    with torch.no_grad():
        classifier.weight.zero_()[-rows:] = torch.from_numpy(probe.coef_)
        classifier.bias.zero_()[-rows:] = torch.from_numpy(probe.intercept_)
    return model.eval(), transform
