"""The data sets of the paper by name: where each comes from, and what it holds when it is whole."""

from __future__ import annotations

from dataclasses import dataclass

from loss_attention.data.records import Source, stored_classes


@dataclass(frozen=True)
class Known:
    """A published data set.

    Attributes:
        train: how many training images the paper's split has.
        test: how many images its reported split has.
        classes: how many classes there are.
        hub: its id on the Hugging Face hub; None: it is not there in the form that is needed.
        get: where to get it otherwise and how to point to it.
    """

    train: int
    test: int
    classes: int
    hub: str | None
    get: str

    def differences(self, source: Source) -> tuple[str, ...]:
        """Return a line for each count in which the chosen splits of a source are not these."""
        wanted, found = [("training images", self.train), ("test images", self.test)], {}
        for (what, _), part in zip(wanted, source.parts, strict=False):
            found[what] = len(part)
        found["classes"] = len(stored_classes(source))
        return tuple(
            f"{found.get(what, 0):,} {what} found where the whole set has {number:,}"
            for what, number in (*wanted, ("classes", self.classes))
            if found.get(what, 0) != number
        )


KNOWN: dict[str, Known] = {
    "cifar10": Known(
        50_000,
        10_000,
        10,
        "uoft-cs/cifar10",
        "a folder of its parquet files: --data cifar10:FOLDER",
    ),
    "cifar100": Known(
        50_000,
        10_000,
        100,
        "uoft-cs/cifar100",
        "a folder of its parquet files: --data cifar100:FOLDER",
    ),
    "svhn": Known(
        73_257,
        26_032,
        10,
        "ufldl-stanford/svhn:cropped_digits",
        "a folder of its parquet files of cropped digits: --data svhn:FOLDER",
    ),
    "tiny-imagenet": Known(
        100_000,
        10_000,
        200,
        None,
        "get http://cs231n.stanford.edu/tiny-imagenet-200.zip and give the zip, or the folder in "
        "it: --data tiny-imagenet:PATH",
    ),
    "coco2014": Known(
        82_081,
        40_137,
        80,
        None,
        "get train2014.zip, val2014.zip and annotations_trainval2014.zip from "
        "https://cocodataset.org/#download into one folder and give that: --data coco2014:FOLDER",
    ),
    "coco2017": Known(
        117_266,
        4_952,
        80,
        None,
        "get train2017.zip, val2017.zip and annotations_trainval2017.zip from "
        "https://cocodataset.org/#download into one folder and give that: --data coco2017:FOLDER",
    ),
    "imagenet32": Known(
        1_281_167,
        50_000,
        1000,
        "benjamin-paine/imagenet-1k-32x32",
        "a folder train/CLASS/... and val/CLASS/... of its images: --data imagenet32:FOLDER",
    ),
    "imagenet": Known(
        1_281_167,
        50_000,
        1000,
        "ILSVRC/imagenet-1k",
        "a folder train/CLASS/... and val/CLASS/... of its images: --data imagenet:FOLDER",
    ),
}
"""The paper's six, COCO in both years and ImageNet in both sizes. COCO counts the images that have
an annotation: the paper trains and tests on those alone."""
