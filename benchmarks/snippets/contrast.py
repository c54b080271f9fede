"""The evidence for a class over the mean of all classes."""


def explain(model, images, classes):
    return model.explain(images, classes, map="contrast").heat_maps
