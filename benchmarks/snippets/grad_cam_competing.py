"""Grad-CAM of a class's logit less the largest of the others, by pytorch-grad-cam."""

import torch
from pytorch_grad_cam import GradCAM


def explain(model, images, classes):
    def against_the_others(k):
        return lambda logits: logits[k] - torch.cat([logits[:k], logits[k + 1 :]]).max()

    layer = model.get_submodule(model.feature_info[-1]["module"])
    with GradCAM(model=model, target_layers=[layer]) as method:
        return method(images, [against_the_others(int(k)) for k in classes])
