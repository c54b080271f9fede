"""The weights that a run begins with where they are another run's: checked, taken, written down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from loss_attention.errors import InputError, guarded, quoted
from loss_attention.model import PatchClassifier, load
from loss_attention.model_spec import ModelOptions, ModelSpec
from loss_attention.saving import FACTS_FILE, file_digest
from loss_attention.training.recipe import Recipe
from loss_attention.training.run_folder import RunFolder

MAY_DIFFER = ("threshold", "resize", "dropout", "centre")
"""Options of a model that its weights do not depend on."""
DIVIDING = ("seed", "validation_fraction", "limit_images", "group")
"""Fields of a recipe that decide which of the same images are held out."""


@dataclass(frozen=True)
class InitialWeights:
    """The best weights of a finished run.

    Attributes:
        run: its folder.
        digest: the SHA-256 of the file of weights.
        model: its network, on the CPU.
        recipe: its recipe.
        data: what it keeps of where its data lies.
    """

    run: Path
    digest: str
    model: PatchClassifier
    recipe: Recipe
    data: Mapping[str, Any]

    @classmethod
    def of(cls, run: Path) -> InitialWeights:
        """Read those of a run.

        Raises:
            InputError: there is no run, it is not finished, or its weights are damaged.
        """
        with guarded("`initial`"):
            folder = RunFolder.open(run)
            facts = folder.facts()
            if not facts.get("finished"):
                raise InputError(
                    f"the run {run} is not finished, so its best weights may still change: finish "
                    f"it with loss-attention resume {run}"
                )
            folder.check_weights()
            return cls(
                run.absolute(),
                file_digest(folder.weights),
                load(folder.weights),
                folder.recipe(),
                facts.get("data") or {"given": folder.recipe().data},
            )

    @classmethod
    def for_new(cls, run: RunFolder, recipe: Recipe, data: Mapping[str, Any]) -> InitialWeights:
        """Read those that a new run begins with.

        Args:
            run: the new one.
            recipe: its recipe, which names the other.
            data: what it keeps of where its data lies.

        Raises:
            InputError: see `of` and `check_division`; or it is the same run.
        """
        assert recipe.initial is not None
        path = Path(recipe.initial)
        if path.resolve() == run.path.resolve():
            raise InputError(
                f"`initial` {path} is the folder of the new run; name another with `out`"
            )
        initial = cls.of(path)
        initial.check_division(recipe, data)
        return initial

    @classmethod
    def again(cls, facts: Mapping[str, Any], run: Path) -> InitialWeights:
        """Read those that a run began with once more, by its run.json.

        Raises:
            InputError: they are gone, or are others now.
        """
        with guarded(str(run / FACTS_FILE)):
            where, digest = str(facts["initial"]["run"]), facts["initial"]["weights"]
        found = cls.of(Path(where))
        if found.digest != digest:
            raise InputError(
                f"the weights in {where} are not those that the run {run} began with, and it has "
                "no checkpoint yet: begin again with `overwrite`"
            )
        return found

    def record(self) -> dict[str, str]:
        """Return what run.json says of them."""
        record = {"run": str(self.run), "weights": self.digest}
        # What these were guided by is in the weights of the new run too.
        guided_by = self.model.spec.guided_by
        return record | ({"guided_by": guided_by} if guided_by else {})

    def check_division(self, recipe: Recipe, data: Mapping[str, Any]) -> None:
        """Raise `InputError` where images that are held out now were trained on then.

        Args:
            recipe: of the new run.
            data: what the new run keeps of where its data lies.
        """
        same = [data.get(key) == self.data.get(key) for key in ("path", "given")]
        if not (same[0] if "path" in data else same[1]):
            return
        for name in DIVIDING:
            now, then = getattr(recipe, name), getattr(self.recipe, name)
            if now != then:
                raise InputError(
                    f"`{name}` is {now} and was {then} in {self.run}, the run that `initial` takes "
                    "the weights from: images that would be held out were trained on there"
                )

    def check(self, spec: ModelSpec) -> None:
        """Raise `InputError` unless a network of this spec is like the run's, class by class."""
        own = self.model.spec
        all_wanted, all_found = _decisive(spec), _decisive(own)
        for name, wanted in all_wanted.items():
            found = all_found[name]
            if found != wanted:
                raise InputError(
                    f"`{name}` is {quoted(wanted)} and was {quoted(found)} in {self.run}, the run "
                    "that `initial` takes the weights from: they have to be the same"
                )
        if own.class_names != spec.class_names:
            raise InputError(
                f"the data {_difference(own.class_names, spec.class_names)} the run {self.run} "
                "that `initial` takes the weights from: they have to be the same, in this order"
            )
        if own.multi_label != spec.multi_label:
            kinds = ("one class", "several classes")
            raise InputError(
                f"an image of the data has {kinds[spec.multi_label]}, and one of {self.run}, the "
                f"run that `initial` takes the weights from, has {kinds[own.multi_label]}"
            )

    @torch.no_grad()
    def give(self, model: PatchClassifier) -> None:
        """Give a model these weights, and with them the normalisation that they were trained with.

        Raises:
            InputError: see `check`; or it has weights for each location, of another image size.
        """
        self.check(model.spec)
        weights, size = self.model.state_dict(), self.model.image_size
        for name, tensor in model.state_dict().items():
            if name not in weights or weights[name].shape != tensor.shape:
                raise InputError(
                    f"the weights of {self.run} that `initial` names are for images of "
                    f"{_size(size)}, and {name} has another shape at {_size(model.image_size)}: "
                    "take the same `image_size`"
                )
        model.load_state_dict(weights)


def _decisive(spec: ModelSpec) -> dict[str, Any]:
    """Return the options that a model's weights depend on, as the network has them."""
    values = {field.name: getattr(spec, field.name) for field in fields(ModelOptions)}
    values["patch_kernel"], values["patch_stride"] = spec.patch_size
    return {name: value for name, value in values.items() if name not in MAY_DIFFER}


def _size(size: tuple[int, int] | None) -> str:
    return "any size" if size is None else f"{size[0]} x {size[1]} pixels"


def _difference(there: tuple[str, ...], here: tuple[str, ...]) -> str:
    """Say what classes the data has in comparison with those of a run, before the run's name."""
    surplus = [name for name in here if name not in there]
    missing = [name for name in there if name not in here]
    if surplus:
        return f"has the class {quoted(surplus[0])}, which is none of"
    if missing:
        return f"lacks the class {quoted(missing[0])} of"
    return "has its classes in another order than"
