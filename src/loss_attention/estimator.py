"""A recipe as a scikit-learn estimator: fit, predict, predict_proba, score, explain."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import assert_all_finite
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, check_is_fitted, column_or_1d
from torch import Tensor

from loss_attention.data.decoding import read_image, to_tensor, upright
from loss_attention.data.sample import ImageSet, Splits
from loss_attention.errors import InputError, quoted
from loss_attention.explanation import Explanation
from loss_attention.fitting import fit_images, settings
from loss_attention.model import as_images
from loss_attention.prediction import probabilities_of
from loss_attention.training.recipe import Recipe, RunOptions

SOURCE = "(images given in Python)"
"""What a run has as its data."""
AT_ONCE = 4 * 2**20
"""Pixels that are predicted together."""
NESTED = "params__"
OF_DATA = ("classes", "masks", "skip_broken", "group", "limit_images", "guide")
"""Fields of a recipe that choose from data, or need more of it than images and classes."""


class PatchClassifierEstimator(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier of images whose decision is a weighted sum of patches, for scikit-learn.

    It trains as `train` does; images are held out to choose the epoch by as the recipe says, and
    nothing is tested: scores are the caller's to measure.

    Args:
        recipe: name of a recipe.
        params: fields of the recipe (`{"epochs": 10}`) or of `RunOptions`; a search may set one
            alone, as `params__epochs`.
        out: the run's folder, which the command takes too; None: a temporary one, and no loggers
            unless `params` name some.
        overwrite: replace the run that is in the folder already.
        verbose: show the progress.

    Attributes:
        classes_: the K classes, sorted, of the type that y has.
        model_: the trained `PatchClassifier`, in evaluation mode.
        image_size_: height and width in pixels that images have or are brought to.

    Images X are an array `(N, H, W)`, `(N, H, W, C)` or `(N, C, H, W)`, uint8 in 0..255 or floating
    point in [0, 1], which is taken as it is; or a list of PIL images, or of paths of image files,
    which are brought to the recipe's `image_size`.

    Example:
        >>> import loss_attention as la
        >>> la.PatchClassifierEstimator("digits", params={"epochs": 1}).get_params()["recipe"]
        'digits'
    """

    def __init__(
        self,
        recipe: str = "folder",
        *,
        params: Mapping[str, Any] | None = None,
        out: str | Path | None = None,
        overwrite: bool = False,
        verbose: bool = False,
    ) -> None:
        self.recipe, self.params = recipe, params
        self.out, self.overwrite, self.verbose = out, overwrite, verbose

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters; deep, also each of `params` by itself."""
        found: dict[str, Any] = super().get_params(deep=deep)
        if deep:
            # Whatever else it is, `fit` says so.
            params = self.params if isinstance(self.params, Mapping) else {}
            found |= {f"{NESTED}{name}": value for name, value in params.items()}
        return found

    def set_params(self, **params: Any) -> PatchClassifierEstimator:
        """Set parameters; `params__NAME` sets one of `params` and leaves the others."""
        nested = {
            name.removeprefix(NESTED): params.pop(name)
            for name in list(params)
            if name.startswith(NESTED)
        }
        super().set_params(**params)
        if nested:
            self.params = {**(self.params or {}), **nested}
        return self

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.three_d_array = False, True
        return tags

    def fit(self, X: Any, y: Any) -> PatchClassifierEstimator:  # noqa: N803
        """Train on images and their classes.

        Args:
            X: the images; see the class.
            y: the class of each, of any type that sorts.

        Raises:
            InputError: (a ValueError) images, classes, or settings that cannot be used.
        """
        recipe, options = self._settings(X)
        y = column_or_1d(y, warn=True)
        assert_all_finite(y, input_name="y")
        check_classification_targets(y)
        images = self._images(X, recipe.in_channels, recipe)
        check_consistent_length(images, y)
        classes, labels = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise InputError(
                f"y has one class, {quoted(classes[0].item())}: a classifier needs two"
            )
        data = ImageSet(
            images, torch.from_numpy(labels.astype(np.int64)), tuple(map(str, classes.tolist()))
        )
        splits = Splits(
            data,
            data.subset(torch.arange(0)),
            f"{len(data):,} images given in Python",
            validation_fraction=recipe.validation_fraction,
            seed=recipe.seed,
        )
        console = Console(quiet=not self.verbose, markup=False)
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / recipe.name if self.out is None else Path(self.out)
            self.model_ = fit_images(
                recipe, splits, path, console, options, overwrite=self.overwrite
            ).eval()
        self.classes_, self.image_size_ = classes, data.size
        return self

    def predict_proba(self, X: Any) -> NDArray[np.float64]:  # noqa: N803
        """Return the probability of each class, shape `(N, K)`, rows that sum to 1."""
        check_is_fitted(self)
        model = self.model_
        images = self._images(X, model.spec.in_channels)
        height, width = images.shape[2:]
        found = []
        with torch.inference_mode():
            for some in torch.split(images, max(1, AT_ONCE // (height * width))):
                logits = model(some.to(model.mean.device)).logits
                found.append(probabilities_of(logits, competing=model.competing).double().cpu())
        probabilities = torch.cat(found).numpy()
        sums: NDArray[np.float64] = probabilities.sum(axis=1, keepdims=True)
        # Sigmoids, one for each class, may all be 0.
        return np.where(
            sums > 0, probabilities / np.where(sums > 0, sums, 1), 1 / len(self.classes_)
        )

    def predict(self, X: Any) -> NDArray[Any]:  # noqa: N803
        """Return the likeliest class of each image, shape `(N,)`."""
        likeliest = self.predict_proba(X).argmax(axis=1)
        found: NDArray[Any] = self.classes_[likeliest]
        return found

    def explain(self, X: Any, **how: Any) -> Explanation:  # noqa: N803
        """Return where the evidence lies, as `model.explain` does.

        Args:
            X: the images; see the class.
            how: `target` (a class by index, or its name as text), `map` and `versus`.
        """
        check_is_fitted(self)
        images = self._images(X, self.model_.spec.in_channels)
        return self.model_.explain(images.to(self.model_.mean.device), **how)

    def _settings(self, images: Any) -> tuple[Recipe, RunOptions]:
        """Return what to train, and on what.

        Raises:
            InputError: an unknown name, a value that it cannot have, or what is of other data.
        """
        if not isinstance(self.params, Mapping | None):
            raise InputError(f"`params` must be a mapping of fields, got {quoted(self.params)}")
        given = dict(self.params or {})
        if not _are_pictures(images):
            for name in ("image_size", "resize"):
                if given.get(name) is not None:
                    raise InputError(f"`{name}` is for pictures; an array is taken as it is")
            given |= {"image_size": None, "resize": "squash"}
        if self.out is None:
            given.setdefault("loggers", ())
        given = {"in_channels": _channels(images), **given, "data": SOURCE}
        recipe, options = settings(self.recipe, given)
        for name in OF_DATA:
            if getattr(recipe, name):
                raise InputError(f"`{name}` is for data that is read; X and y are used as given")
        return recipe, options

    def _images(self, given: Any, channels: int, recipe: Recipe | None = None) -> Tensor:
        """Return images as uint8 `(N, C, H, W)`, brought to one size where they are pictures.

        Args:
            given: the images.
            channels: C.
            recipe: says what size they are brought to; None: the model does.
        """
        if _are_pictures(given):
            size, resize = _form(recipe) if recipe else (self.image_size_, self.model_.resize)
            pictures = [to_tensor(_picture(one, channels), size, resize) for one in given]
            if len({picture.shape for picture in pictures}) > 1:
                raise InputError("the pictures differ in size: say `image_size`, or give one size")
            return torch.stack(pictures)
        images = as_images(_stacked(given, channels), channels, torch.device("cpu"))
        if images.dtype != torch.uint8:
            images = (images.clamp(0, 1) * 255).round().to(torch.uint8)
        return images.contiguous()


def _are_pictures(given: Any) -> bool:
    """Whether images are given as files or PIL images."""
    kinds = (str, os.PathLike, Image.Image)
    if isinstance(given, np.ndarray) and given.dtype.kind in "OU" and given.ndim == 1:
        return all(isinstance(one, kinds) for one in given)
    several = isinstance(given, Sequence) and not isinstance(given, str) and len(given) > 0
    return several and all(isinstance(one, kinds) for one in given)


def _stacked(given: Any, channels: int) -> Any:
    """Return images that are an array as one that has all axes but perhaps in another order."""
    if not isinstance(given, Tensor):
        try:
            given = np.asarray(given)
        except ValueError as error:
            raise InputError("images must all have one size and one number of channels") from error
    shape = tuple(given.shape)
    if shape[:1] == (0,):
        raise InputError("there are no images")
    if len(shape) == 3 and channels == 1:
        return given[:, None]
    if len(shape) != 4:
        wanted = "(N, H, W), (N, H, W, C) or (N, C, H, W)" if channels == 1 else "(N, H, W, 3)"
        raise InputError(f"images must be an array {wanted}, or pictures; got the shape {shape}")
    return given


def _picture(one: Any, channels: int) -> Image.Image:
    if isinstance(one, Image.Image):
        return upright(one, channels)
    return read_image(Path(one), channels)


def _form(recipe: Recipe) -> tuple[Any, Any]:
    size = recipe.image_size
    return (size, size) if isinstance(size, int) else size, recipe.resize


def _channels(given: Any) -> int:
    """Return how many channels images have: those of an array as its shape says, else colour."""
    shape = tuple(getattr(given, "shape", ()))
    if len(shape) == 4:
        return 3 if 3 in (shape[1], shape[3]) else 1
    return 3 if _are_pictures(given) else 1
