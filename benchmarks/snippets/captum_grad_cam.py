"""Grad-CAM by captum, at the last feature map, which is where it is told to look."""

from captum.attr import LayerAttribution, LayerGradCam


def explain(model, images, classes):
    layer = model.get_submodule(model.feature_info[-1]["module"])
    maps = LayerGradCam(model, layer).attribute(images, classes, relu_attributions=True)
    return LayerAttribution.interpolate(maps, images.shape[2:], "bilinear")[:, 0]
