"""The margin: the evidence for a class that no other class disputes."""


def explain(model, images, classes):
    return model.explain(images, classes, map="margin").heat_maps
