"""Our metrics of explanations beside those of Quantus, on the same maps of the same network.

    pip install quantus
    python benchmarks/against_quantus.py

Trains a small network on scenes of digits, explains test scenes by several methods, and measures
each map twice: by the functions that `compare` uses, and by Quantus (Hedström et al. 2023), an
independent library of such metrics. Where the two define the same thing they have to agree to
rounding; where they do not, the page says by how much and why. Quantus is not a dependency of the
package, nor of its tests: what it said is kept in results/quantus.*, with versions.
"""

from __future__ import annotations

import importlib.metadata
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import tyro
from measuring import command, keep, same_settings, timed, write_and_list
from numpy.typing import NDArray
from torch import Tensor, nn

from loss_attention.errors import InputError
from loss_attention.terminal import markdown_table

if TYPE_CHECKING:
    from loss_attention.data.sample import ImageSet
    from loss_attention.model import PatchClassifier

ROOT = Path(__file__).resolve().parent.parent
TRAINING = ("--limit-images", "1000", "--epochs", "3", "--seed", "0")
METHODS = ("margin", "evidence", "grad-cam-competition")
SIDE = 2
"""Of mosaics."""
STEPS = 16
ROUNDING = 1e-5
"""Both compute in float32, in another order."""
PLAIN: dict[str, Any] = {"abs": False, "normalise": False, "disable_warnings": True}
"""Arguments of every metric of Quantus: the map as it is."""
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Arguments:
    """Measure the same maps by our metrics and by those of Quantus."""

    images: int = 32
    """Test scenes that are explained."""
    out: Path = ROOT / "runs" / "quantus"
    """Where the run goes; what lies there is not trained again."""
    results: Path = ROOT / "results"
    """Where quantus.json and quantus.md go."""


@dataclass(frozen=True)
class Row:
    """What the two libraries measure of the maps of one method.

    Attributes:
        metric: ours.
        counterpart: the class or function of Quantus.
        method: of explanation.
        of: how many maps, or cells of mosaics.
        ours: our mean score.
        theirs: their mean score, where it is a number.
        largest: difference of two scores of one map.
        differing: how many maps have scores that differ by more than rounding.
        undefined: how many they have no score for.
    """

    metric: str
    counterpart: str
    method: str
    of: int
    ours: float
    theirs: float
    largest: float
    differing: int
    undefined: int


ABOUT: dict[str, str] = {
    "pointing game": "Quantus counts a hit where any of several pixels with the greatest value is "
    "in the box. Maps painted from patches have many; ours takes the one nearest to the middle of "
    "them all. An empty map is a hit for Quantus, as all of its pixels are equal, and none for us.",
    "pointing game, one greatest pixel": "The same, of the maps that have a single greatest pixel.",
    "energy pointing game (EPG)": "An empty map has 0 with us and no score with Quantus (0 / 0).",
    "grid pointing game, 2 x 2": "Quantus adds 1e-9 to the sum that it divides by.",
    "deletion, mean, pixels: curve": "The greatest difference of a probability along the curve; "
    "the scores are the areas by our definition, also of their curve. Maps without ties, which "
    "Quantus takes in the order that NumPy's sort leaves them in, and we in a fixed random one.",
    "Sensitivity-1 (masking)": "Quantus draws random subsets of pixels; here its draws are our "
    "windows, one after the other. The value of a window is the mean of the map there.",
    "randomisation test: rank correlation": "Of the same two maps, of the network and of the one "
    "whose weights we shuffled. A constant map has 0 with us and no score with Quantus.",
    "randomisation test: whole": "Not the same network: Quantus draws the weights of each layer "
    "anew as PyTorch initialises them, and resets batch norm's statistics, so that activations "
    "grow or vanish; ours shuffles the values of each tensor and counts the statistics anew.",
}
"""By metric, what a reader of its rows has to know."""
DEFINED_OTHERWISE = ("pointing game", "randomisation test: whole")
"""Metrics whose definitions differ: of all others, what both define has to agree."""
WITHOUT = (
    "Insertion, deletion of whole windows, GT-known Loc, MaxBoxAccV2, PxAP and the metrics within "
    "some pixels have no counterpart: the region perturbation of Quantus takes blocks that do not "
    "overlap, IROF superpixels, and its Sensitivity-n adds one more pixel at a time in the order "
    "of the map. These are tested against loops, scikit-learn and pycocotools instead."
)


class Logits(nn.Module):
    """A model as Quantus takes one: from images in [0, 1] to logits."""

    def __init__(self, model: PatchClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.model(images).logits
        return logits


def against_quantus(images: int, out: Path) -> dict[str, Any]:
    """Train the network, unless that was done, and return what both libraries say of its maps."""
    quantus = _quantus()
    model, scenes, held = _network(images, out)
    rows: list[Row] = []
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of ties, empty maps and divisions by zero: told in rows
        for method in METHODS:
            both = _both(quantus, model, scenes, method)
            rows += [
                *_on_boxes(both),
                _grid(quantus, model, held, method),
                _deletion(both),
                _masking(both),
                *_randomisation(both),
            ]
    return {
        "command": "python benchmarks/against_quantus.py",
        "training": "loss-attention train digits " + " ".join(TRAINING),
        "images": images,
        "accuracy": _accuracy(model, held),
        "quantus": importlib.metadata.version("quantus"),
        "rows": [asdict(row) for row in rows],
    }


def _quantus() -> Any:
    try:
        import quantus
    except ImportError as error:
        raise InputError(f"this needs Quantus: pip install quantus ({error})") from error
    return quantus


def _network(images: int, out: Path) -> tuple[PatchClassifier, ImageSet, ImageSet]:
    """Return a trained network, scenes to explain, and all test scenes."""
    from loss_attention.data.digits import digits
    from loss_attention.training.finished import load_weights
    from loss_attention.training.run_folder import RunFolder

    same_settings(out, {"training": list(TRAINING)})
    run = out / "digits"
    if not (run / "evaluation.json").exists():
        words = ["train", "digits", *TRAINING, "--out", str(run)]
        timed(command(), *words, *(["--overwrite"] if run.exists() else []))
    held = digits(0, train=0, test=500).test
    assert isinstance(held.images, Tensor)
    if not 2 <= images <= len(held):
        raise InputError(f"`images` must be between 2 and {len(held)}, got {images}")
    return load_weights(RunFolder.open(run)), held.take(torch.arange(images)), held


def _accuracy(model: PatchClassifier, held: ImageSet) -> float:
    with torch.inference_mode():
        return float((model(held.images).logits.argmax(dim=1) == held.labels).double().mean())


@dataclass(frozen=True)
class Both:
    """Maps of scenes by one method, to be measured by both libraries.

    Attributes:
        quantus: the module.
        model: what is explained.
        pixels: of the scenes, in [0, 1], `(N, 1, H, W)`.
        target: the class of each.
        inside: the pixels of its box, `(N, H, W)`.
        method: of explanation.
        maps: by it, `(N, H, W)`.
    """

    quantus: Any
    model: PatchClassifier
    pixels: Tensor
    target: Tensor
    inside: Tensor
    method: str
    maps: Tensor

    def ask(self, metric: str, maps: Tensor, asked: Mapping[str, Any], **more: Any) -> Array:
        """Return the scores of Quantus; `asked` are arguments of the metric, `more` of its call."""
        found = getattr(self.quantus, metric)(**PLAIN, **asked)(
            model=Logits(self.model).eval(),
            x_batch=self.pixels.numpy(),
            y_batch=self.target.numpy(),
            a_batch=maps.numpy()[:, None],
            channel_first=True,
            batch_size=len(maps),
            **more,
        )
        return np.asarray(found, dtype=np.float64)


def _both(quantus: Any, model: PatchClassifier, scenes: ImageSet, method: str) -> Both:
    from loss_attention.attribution.maps import attribute
    from loss_attention.metrics.localisation import pixels_in_boxes

    assert scenes.boxes is not None
    inside = pixels_in_boxes(scenes.boxes, *scenes.size)
    maps = attribute(model, scenes.images, method, scenes.labels).float()
    return Both(quantus, model, scenes.images / 255, scenes.labels, inside, method, maps)


def _on_boxes(both: Both) -> Iterator[Row]:
    """Yield how the maps lie on the boxes."""
    from loss_attention.metrics.localisation import energy_pointing, pointing_hits

    maps, truth = both.maps, both.inside.numpy()[:, None]
    hits = pointing_hits(maps, both.inside).double().numpy()
    theirs = both.ask("PointingGame", maps, {}, s_batch=truth)
    yield row("pointing game", "PointingGame", both.method, hits, theirs)
    single = ((maps == maps.amax(dim=(1, 2), keepdim=True)).sum(dim=(1, 2)) == 1).numpy()
    if single.any():
        name = "pointing game, one greatest pixel"
        yield row(name, "PointingGame", both.method, hits[single], theirs[single])
    ours = energy_pointing(maps, both.inside).double().numpy()
    theirs = both.ask("RelevanceMassAccuracy", maps.clamp(min=0), {}, s_batch=truth)
    yield row("energy pointing game (EPG)", "RelevanceMassAccuracy", both.method, ours, theirs)


def _deletion(both: Both) -> Row:
    """Compare deletion in the same order, with the same fill; theirs begins after a step."""
    from loss_attention.attribution.measures import probability
    from loss_attention.metrics.faithfulness import deletion_curve, mean_fill, pixel_order

    maps, model = untied(both.maps), both.model
    fill = mean_fill(both.pixels, model.mean)
    curve = deletion_curve(probability(model, both.target), both.pixels, fill, pixel_order(maps))
    asked = {
        "features_in_step": maps[0].numel() // STEPS,
        "perturb_baseline": float(model.mean),
    }
    theirs = both.ask("PixelFlipping", maps, asked, softmax=True)
    curves = curve.scores.double().numpy()
    theirs = np.concatenate([curves[:, :1], theirs], axis=1)
    ours, areas = (np.trapezoid(one, axis=1) / STEPS for one in (curves, theirs))
    np.testing.assert_allclose(ours, curve.area, atol=1e-9)
    apart = np.abs(curves - theirs).max(axis=1)
    return row("deletion, mean, pixels: curve", "PixelFlipping", both.method, ours, areas, apart)


def _masking(both: Both) -> Row:
    """Compare the correlation of windows' values with what masking each does to the logit."""
    from loss_attention.attribution.maps import window_grid
    from loss_attention.attribution.measures import logit, window_means
    from loss_attention.metrics.faithfulness import masking_falls, mean_fill, sensitivity_1

    model, maps = both.model, both.maps
    grid, fill = window_grid(model, *maps.shape[1:]), mean_fill(both.pixels, model.mean)
    falls = masking_falls(logit(model, both.target), both.pixels, grid.windows(), fill)
    ours = sensitivity_1(window_means(maps, grid), falls).numpy()
    subsets = windows_as_pixels(grid.windows().int().tolist(), grid.width)
    asked = {
        "nr_runs": len(subsets),
        "subset_size": len(subsets[0]),
        "perturb_baseline": float(model.mean),
        "return_aggregate": False,
    }
    with drawing(subsets, times=len(maps)):
        theirs = both.ask("FaithfulnessCorrelation", maps, asked)
    return row("Sensitivity-1 (masking)", "FaithfulnessCorrelation", both.method, ours, theirs)


def _randomisation(both: Both) -> Iterator[Row]:
    """Yield how far the maps stay as they were when the weights say nothing."""
    from loss_attention.attribution.compare import randomised
    from loss_attention.attribution.maps import attribute
    from loss_attention.metrics.faithfulness import randomisation_similarity

    shuffled = randomised(both.model, both.pixels, 1.0)
    after = attribute(shuffled, both.pixels, both.method, both.target).float()
    ours = randomisation_similarity(both.maps, after).numpy()
    flat = [one.flatten(1).double().numpy() for one in (both.maps, after)]
    similarity = both.quantus.similarity_func.correlation_spearman
    name = "randomisation test: rank correlation"
    counterpart = "similarity_func.correlation_spearman"
    yield row(name, counterpart, both.method, ours, similarity(*flat, batched=True))
    explain = _explained_by(both.method)
    asked = {"return_last_correlation": True, "skip_layers": True}
    theirs = both.ask("MPRT", both.maps, asked, explain_func=explain, explain_func_kwargs={})
    yield row("randomisation test: whole", "MPRT", both.method, ours, theirs)


def _explained_by(method: str) -> Callable[..., NDArray[Any]]:
    from loss_attention.attribution.maps import attribute

    def explain(model: Logits, inputs: Any, targets: Any, **_: Any) -> NDArray[Any]:
        images, classes = torch.as_tensor(inputs).float(), torch.as_tensor(targets)
        found: NDArray[Any] = attribute(model.model, images, method, classes).numpy()[:, None]
        return found

    return explain


def _grid(quantus: Any, model: PatchClassifier, held: ImageSet, method: str) -> Row:
    """Compare the grid pointing game, each class of each mosaic."""
    from loss_attention.attribution.maps import attribute_classes
    from loss_attention.metrics import localisation

    with torch.inference_mode():
        probabilities = model(held.images).logits.softmax(dim=1)
    confidence, predicted = probabilities.max(dim=1)
    confidence = confidence.masked_fill(predicted != held.labels, -1.0)
    chosen = localisation.choose_mosaics(confidence, held.labels, SIDE**2, 16, seed=0)
    if chosen is None:
        raise InputError("the network classifies scenes of too few classes rightly for a mosaic")
    pictures = localisation.assemble(held.images[chosen], SIDE)
    maps = attribute_classes(model, pictures, method, held.labels[chosen]).float().flatten(0, 1)
    cell = torch.arange(SIDE**2).repeat(len(chosen))
    ours = localisation.grid_pointing(maps, cell, SIDE).numpy()
    height, width = held.size
    truth = torch.zeros(len(maps), 1, *maps.shape[1:], dtype=torch.bool)
    for one, number in zip(truth, cell.tolist(), strict=True):
        top, left = height * (number // SIDE), width * (number % SIDE)
        one[:, top : top + height, left : left + width] = True
    # It wants absolute values: of maps without negative ones, which it would leave out, the same.
    metric = quantus.AttributionLocalisation(**{**PLAIN, "abs": True})
    found = metric(
        model=Logits(model).eval(),
        x_batch=(pictures / 255).repeat_interleave(SIDE**2, dim=0).numpy(),
        y_batch=held.labels[chosen].flatten().numpy(),
        a_batch=maps.clamp(min=0).numpy()[:, None],
        s_batch=truth.numpy(),
        channel_first=True,
    )
    theirs = np.asarray(found, dtype=np.float64)
    return row("grid pointing game, 2 x 2", "AttributionLocalisation", method, ours, theirs)


def row(
    metric: str,
    counterpart: str,
    method: str,
    ours: Array,
    theirs: Array,
    apart: Array | None = None,
) -> Row:
    """Return how far two scores of the same maps are apart.

    Args:
        metric: ours.
        counterpart: theirs.
        method: of explanation.
        ours: a score a map.
        theirs: likewise; NaN where they have none.
        apart: what is further apart than the scores; None: these.
    """
    known = ~np.isnan(theirs)
    difference = np.abs(ours - theirs)[known] if apart is None else apart[known]
    return Row(
        metric=metric,
        counterpart=counterpart,
        method=method,
        of=len(ours),
        ours=float(np.mean(ours)),
        theirs=float(np.mean(theirs[known])) if known.any() else float("nan"),
        largest=float(difference.max(initial=0.0)),
        differing=int((difference > ROUNDING).sum()),
        undefined=int((~known).sum()),
    )


def untied(maps: Tensor) -> Tensor:
    """Return maps with the same order of pixels and no two equal ones: their ranks.

    Example:
        >>> untied(torch.tensor([[[0.5, -1.0], [2.0, 0.0]]]))
        tensor([[[2., 0.],
                 [3., 1.]]])
    """
    ranks = maps.flatten(1).argsort(dim=1, stable=True).argsort(dim=1)
    return ranks.reshape(maps.shape).float()


def windows_as_pixels(windows: Sequence[Sequence[int]], width: int) -> list[NDArray[np.int64]]:
    """Return the numbers of the pixels in each window, in reading order of an image.

    Example:
        >>> windows_as_pixels([[1, 0, 3, 2]], width=4)[0].tolist()
        [1, 2, 5, 6]
    """
    return [
        (np.arange(y0, y1)[:, None] * width + np.arange(x0, x1)).ravel()
        for x0, y0, x1, y1 in windows
    ]


@contextmanager
def drawing(subsets: Sequence[NDArray[np.int64]], times: int) -> Iterator[None]:
    """Have NumPy's `choice` draw these, each so many times, one after the other."""
    drawn = iter([subset for subset in subsets for _ in range(times)])
    choice = np.random.choice
    np.random.choice = lambda *_, **__: next(drawn)
    try:
        yield
    finally:
        np.random.choice = choice


def page(numbers: Mapping[str, Any]) -> str:
    """Return what was measured, as Markdown."""
    rows = [Row(**found) for found in numbers["rows"]]
    same = [one for one in rows if one.metric not in DEFINED_OTHERWISE]
    worst = max(one.largest for one in same)
    verdict = (
        f"Where both define the same thing, no score of any map differs by more than {worst:.2g}."
        if worst <= ROUNDING
        else f"**Scores differ by up to {worst:.1g} where both define the same thing.**"
    )
    machine, versions = numbers["hardware"], numbers["versions"]
    parts = [
        "# Our metrics beside those of Quantus",
        f"`{numbers['command']}`, {numbers['measured']}, on {machine['cpu']}; Quantus "
        f"{numbers['quantus']}, "
        + ", ".join(f"{package} {version}" for package, version in versions.items())
        + ".",
        f"The network: `{numbers['training']}` (accuracy {numbers['accuracy']:.3f}). Of "
        f"{numbers['images']} test scenes each map is measured twice, by the functions that "
        "`compare` uses and by Quantus. In brackets behind the largest difference: how many maps "
        "differ by more than rounding, and for how many Quantus has no score. " + verdict,
    ]
    for metric, about in ABOUT.items():
        found = [one for one in rows if one.metric == metric]
        if not found:
            continue
        cells = [
            [
                one.method,
                f"{one.of}",
                f"{one.ours:.6f}",
                f"{one.theirs:.6f}",
                f"{one.largest:.1g} ({one.differing}, {one.undefined})",
            ]
            for one in found
        ]
        heads = ["maps by", "maps", "ours", f"Quantus, `{found[0].counterpart}`", "largest"]
        otherwise = "Defined otherwise. " if metric in DEFINED_OTHERWISE else ""
        parts += [f"## {metric}", otherwise + about, markdown_table(heads, cells)]
    return "\n\n".join([*parts, "## Without a counterpart", WITHOUT]) + "\n"


def measure(arguments: Arguments) -> list[Path]:
    """Measure, and write the JSON file and the page of it."""
    from measuring import read_numbers

    keep("quantus", against_quantus(arguments.images, arguments.out), arguments.results)
    kept, written = (arguments.results / f"quantus.{ending}" for ending in ("json", "md"))
    written.write_text(page(read_numbers(kept)), encoding="utf-8")
    return [kept, written]


def main() -> None:
    """Run the command."""
    arguments = tyro.cli(Arguments)
    if arguments.images < 2:
        print(f"against_quantus: --images must be at least 2, got {arguments.images}")
        sys.exit(2)
    write_and_list("against_quantus", lambda: measure(arguments))


if __name__ == "__main__":
    main()
