"""The evidence for a class: what the decision is a sum of. There is no layer to choose."""


def explain(model, images, classes):
    return model.explain(images, classes, map="evidence").heat_maps
