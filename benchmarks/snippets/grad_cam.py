"""Grad-CAM by pytorch-grad-cam, at the last feature map, which is where it is told to look."""

from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget


def explain(model, images, classes):
    layer = model.get_submodule(model.feature_info[-1]["module"])
    with GradCAM(model=model, target_layers=[layer]) as method:
        return method(images, [ClassifierOutputTarget(int(k)) for k in classes])
