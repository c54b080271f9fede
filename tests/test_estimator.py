"""The scikit-learn estimator: on images, and by scikit-learn's own checks of rows of numbers."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import check_is_fitted, validate_data

import loss_attention as la
from loss_attention.errors import InputError
from loss_attention.training.run_folder import RunFolder

SMALL = {
    "backbone": "vgg11_bn",
    "width": 0.05,
    "strided_layers": (8,),
    "patch_kernel": 2,
    "patch_stride": 1,
    "crop_padding": 0,
    "horizontal_flip": False,
    "optimizer": "sgd",
    "learning_rate": 0.1,
    "batch_size": 16,
    "epochs": 2,
    "precision": "32",
    "accelerator": "cpu",
}


class RowsAsImages(la.PatchClassifierEstimator):
    """Takes rows of numbers, of which scikit-learn's checks are made, as images of 8 x 8 pixels."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        return tags

    def _pixels(self, rows: NDArray[Any]) -> NDArray[np.uint8]:
        scaled = (rows - self.low_) / np.where(self.high_ > self.low_, self.high_ - self.low_, 1)
        levels = (scaled.clip(0, 1) * 255).astype(np.uint8)
        return np.repeat(levels, -(-64 // levels.shape[1]), axis=1)[:, :64].reshape(-1, 8, 8)

    def fit(self, X: Any, y: Any) -> RowsAsImages:  # noqa: N803
        X, y = validate_data(self, X, y)  # noqa: N806
        self.low_, self.high_ = X.min(axis=0), X.max(axis=0)
        super().fit(self._pixels(X), y)
        return self

    def predict_proba(self, X: Any) -> NDArray[np.float64]:  # noqa: N803
        check_is_fitted(self)
        return super().predict_proba(self._pixels(validate_data(self, X, reset=False)))


class TakenAsTable(la.PatchClassifierEstimator):
    """The estimator itself, on whose behalf scikit-learn is told that it takes tables."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        return tags


NEED_TABLES = (
    "check_classifier_data_not_an_array",
    "check_classifiers_classes",
    "check_classifiers_one_label",
    "check_classifiers_train",
    "check_dict_unchanged",
    "check_dont_overwrite_parameters",
    "check_dtype_object",
    "check_estimator_sparse_array",
    "check_estimator_sparse_matrix",
    "check_estimator_sparse_tag",
    "check_estimators_dtypes",
    "check_estimators_empty_data_messages",
    "check_estimators_fit_returns_self",
    "check_estimators_nan_inf",
    "check_estimators_overwrite_params",
    "check_estimators_pickle",
    "check_f_contiguous_array_estimator",
    "check_fit2d_1feature",
    "check_fit2d_1sample",
    "check_fit2d_predict1d",
    "check_fit_check_is_fitted",
    "check_fit_idempotent",
    "check_fit_score_takes_y",
    "check_methods_sample_order_invariance",
    "check_methods_subset_invariance",
    "check_n_features_in",
    "check_n_features_in_after_fitting",
    "check_pipeline_consistency",
    "check_positive_only_tag_during_fit",
    "check_readonly_memmap_input",
    "check_supervised_y_2d",
)
"""Checks that train on a table, or ask for an error about one; `RowsAsImages` passes them."""
TABLES = dict.fromkeys(
    NEED_TABLES, "X of the check is a table of rows, which is not an image and is refused"
)


def expected(estimator: Any) -> dict[str, str]:
    return TABLES if isinstance(estimator, TakenAsTable) else {}


@parametrize_with_checks(
    [RowsAsImages("folder", params=SMALL), TakenAsTable("folder", params=SMALL)],
    expected_failed_checks=expected,
    xfail_strict=True,
)
def test_scikit_learns_own_checks(estimator: Any, check: Any) -> None:
    check(estimator)


def squares(count: int = 40, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.str_]]:
    """Noise of 12 x 12 pixels with a bright square in its left or right half."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 100, (count, 12, 12), dtype=np.uint8)
    right = random.integers(0, 2, count)
    for image, side in zip(images, right, strict=True):
        image[4:8, 1 + 6 * side : 5 + 6 * side] = 255
    return images, np.array(["left", "right"])[right]


def estimator(**params: Any) -> la.PatchClassifierEstimator:
    return la.PatchClassifierEstimator("folder", params={**SMALL, **params})


@pytest.fixture(scope="module")
def fitted() -> la.PatchClassifierEstimator:
    return estimator(epochs=12).fit(*squares())


def test_it_learns_and_says_where(fitted: la.PatchClassifierEstimator) -> None:
    images, sides = squares(30, seed=1)
    assert fitted.classes_.tolist() == ["left", "right"]
    assert fitted.image_size_ == (12, 12)
    assert fitted.score(images, sides) > 0.9
    assert fitted.score(images, sides) == accuracy_score(sides, fitted.predict(images))
    with torch.inference_mode():
        logits = fitted.model_(torch.from_numpy(images).unsqueeze(1)).logits.double().numpy()
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    softmax = raised / raised.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(fitted.predict_proba(images), softmax, rtol=1e-5)
    explained = fitted.explain(images, target="left")
    np.testing.assert_allclose(explained.evidence.sum(1), logits, atol=1e-5)
    assert explained.heat_maps.shape == (30, 12, 12)


def test_all_forms_of_images_are_the_same(
    fitted: la.PatchClassifierEstimator, tmp_path: Path
) -> None:
    images, _ = squares(6, seed=2)
    pictures = [Image.fromarray(image) for image in images]
    for number, picture in enumerate(pictures):
        picture.save(tmp_path / f"{number}.png")
    paths = sorted(tmp_path.glob("*.png"))
    expected = fitted.predict_proba(images)
    for same in (
        images[..., None],
        images[:, None],
        torch.from_numpy(images),
        (images / 255).astype(np.float32),
        list(images),
        pictures,
        paths,
        [str(path) for path in paths],
        np.array([str(path) for path in paths]),
    ):
        np.testing.assert_allclose(fitted.predict_proba(same), expected, rtol=1e-4)


def test_pictures_are_brought_to_the_size_of_the_recipe() -> None:
    images, sides = squares()
    large = [Image.fromarray(image).resize((24, 30)).convert("RGB") for image in images]
    small = estimator(image_size=12).fit(large, sides)
    assert small.image_size_ == (12, 12)
    assert small.model_.spec.in_channels == 3
    assert small.predict(large[:3]).shape == (3,)
    with pytest.raises(InputError, match="differ in size"):
        estimator(image_size=None).fit([*large[:-1], Image.fromarray(images[0])], sides)


def test_a_run_is_kept_where_out_says(tmp_path: Path) -> None:
    images, sides = squares()
    kept = estimator().set_params(out=tmp_path / "run").fit(images, sides)
    loaded = la.load(tmp_path / "run").state_dict()
    for name, value in kept.model_.state_dict().items():
        assert torch.equal(loaded[name], value)
    assert not (tmp_path / "run" / "evaluation.json").exists()
    assert RunFolder(tmp_path / "run").recipe().image_size is None  # an array is taken as it is
    with pytest.raises(InputError, match="exists already"):
        kept.fit(images, sides)
    again = clone(kept).set_params(overwrite=True).fit(images, sides)
    np.testing.assert_array_equal(again.predict_proba(images), kept.predict_proba(images))


def test_searches_and_copies() -> None:
    images, labels = squares()[0], np.arange(40) % 3 - 1
    search = GridSearchCV(estimator(), {"params__width": [0.05, 0.06]}, cv=2).fit(images, labels)
    best = search.best_estimator_
    assert best.params == {**SMALL, "width": search.best_params_["params__width"]}
    assert best.model_.spec.width == search.best_params_["params__width"]
    assert best.classes_.tolist() == [-1, 0, 1]
    again = pickle.loads(pickle.dumps(best))
    np.testing.assert_array_equal(again.predict_proba(images), best.predict_proba(images))
    assert cross_val_predict(clone(best), images, labels, cv=2).shape == (40,)
    assert estimator().set_params(params__seed=3).get_params()["params__seed"] == 3


def test_the_probabilities_of_sigmoids_sum_to_1() -> None:
    images, labels = squares()[0], np.arange(40) % 3
    found = estimator(objective="one-vs-rest").fit(images, labels).predict_proba(images)
    np.testing.assert_allclose(found.sum(axis=1), 1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"params": {"epoch": 3}}, "unknown field 'epoch'; did you mean 'epochs'"),
        ({"params": 3}, "`params` must be a mapping of fields, got 3"),
        ({"params": {"classes": ("a",)}}, "`classes` is for data that is read"),
        ({"params": {"image_size": 24}}, "`image_size` is for pictures"),
        ({"recipe": "folders"}, "unknown recipe 'folders'; did you mean 'folder'"),
        ({"X": np.zeros((40, 5))}, "images must be an array (N, H, W)"),
        ({"X": np.zeros((40, 12, 12), np.int64)}, "int64"),
        ({"X": np.full((40, 12, 12), 200.0)}, "must be in "),
        ({"X": [np.zeros((12, 12)), np.zeros((9, 9))]}, "must all have one size"),
        ({"X": []}, "there are no images"),
        ({"y": np.zeros(40, int)}, "y has one class, 0: a classifier needs two"),
        ({"y": np.zeros(39, int)}, "inconsistent numbers of samples"),
        ({"y": np.linspace(0, 1, 40)}, "Unknown label type"),
        ({"y": [float("nan")] * 40}, "NaN"),
    ],
)
def test_what_cannot_be_trained_is_said(changes: dict[str, Any], said: str) -> None:
    images, sides = squares()
    images, sides = changes.pop("X", images), changes.pop("y", sides)
    with pytest.raises(ValueError, match=re.escape(said)):
        estimator().set_params(**changes).fit(images, sides)


def test_nothing_is_predicted_before_it_is_trained() -> None:
    for ask in (estimator().predict, estimator().predict_proba, estimator().explain):
        with pytest.raises(NotFittedError):
            ask(squares()[0])
