"""The data sets of the paper by name: where each comes from, and what it holds when it is whole."""

from __future__ import annotations

from dataclasses import dataclass, replace

from loss_attention.data.records import Source, stored_classes
from loss_attention.errors import InputError


@dataclass(frozen=True)
class Known:
    """A published data set.

    Attributes:
        train: how many training images the paper's split has.
        test: how many images its reported split has.
        classes: how many classes there are.
        hub: its id on the Hugging Face hub; None: it is not there in the form that is needed.
        get: where to get it otherwise and how to point to it.
        size: the side in pixels that images are brought to where no other is asked for; None: they
            stay as they are. The paper's for COCO.
    """

    train: int
    test: int
    classes: int
    hub: str | None
    get: str
    size: int | None = None

    def verified(self, source: Source) -> Source:
        """Return what was found, with a note for each count that is not the published one.

        Raises:
            InputError: it lacks the split that the paper reports on.
        """
        if len(source.parts) < 2:
            raise InputError(
                f"{source.where} lacks the split to report on: {self.test:,} labelled test or "
                f"validation images; {self.get}"
            )
        return replace(source, notes=(*source.notes, *self.differences(source)))

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
        "get its parquet files from https://huggingface.co/datasets/uoft-cs/cifar10 into one "
        "folder and give that: --data cifar10:FOLDER",
    ),
    "cifar100": Known(
        50_000,
        10_000,
        100,
        "uoft-cs/cifar100",
        "get its parquet files from https://huggingface.co/datasets/uoft-cs/cifar100 into one "
        "folder and give that: --data cifar100:FOLDER",
    ),
    "svhn": Known(
        73_257,
        26_032,
        10,
        "ufldl-stanford/svhn:cropped_digits",
        "get its parquet files of cropped digits from "
        "https://huggingface.co/datasets/ufldl-stanford/svhn into one folder and give that: "
        "--data svhn:FOLDER",
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
        size=64,
    ),
    "coco2017": Known(
        117_266,
        4_952,
        80,
        None,
        "get train2017.zip, val2017.zip and annotations_trainval2017.zip from "
        "https://cocodataset.org/#download into one folder and give that: --data coco2017:FOLDER",
        size=64,
    ),
    "imagenet32": Known(
        1_281_167,
        50_000,
        1000,
        "benjamin-paine/imagenet-1k-32x32",
        "give a folder train/CLASS/... and val/CLASS/... of its images, of this or any other size: "
        "--data imagenet32:FOLDER",
        size=32,
    ),
    "imagenet": Known(
        1_281_167,
        50_000,
        1000,
        "ILSVRC/imagenet-1k",
        "accept its terms at https://huggingface.co/datasets/ILSVRC/imagenet-1k and log in with "
        "`hf auth login`, or give a folder train/CLASS/... and val/CLASS/... of its images: "
        "--data imagenet:FOLDER",
    ),
}
"""The paper's six, COCO in both years and ImageNet in both sizes. COCO counts the images that have
an annotation: the paper trains and tests on those alone."""
