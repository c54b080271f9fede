"""What is read of a run once it is trained: its best weights, and what was chosen with them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields
from pathlib import Path

from loss_attention.errors import InputError
from loss_attention.evaluation.metric import current_names
from loss_attention.model import PatchClassifier, load
from loss_attention.model_spec import ModelOptions
from loss_attention.saving import WEIGHTS_FILE
from loss_attention.training.run_folder import RunFolder


def object_threshold(run: RunFolder) -> float | None:
    """Return what `evaluate` found best on held-out images for several boxes, if it did."""
    if not (run.path / "evaluation.json").is_file():
        return None
    thresholds = run.read_json("evaluation.json").get("thresholds")
    found = (
        current_names(thresholds).get("detection_ap50") if isinstance(thresholds, dict) else None
    )
    return found if isinstance(found, float) and 0 <= found < 1 else None


def load_weights(run: RunFolder) -> PatchClassifier:
    """Load a run's best weights, to the CPU.

    Raises:
        InputError: there are none yet, they are damaged, or not those of the run's recipe.
    """
    run.check_weights()
    # The file itself, as a folder's would be compared with its digest once more.
    model, recipe = load(run.path / WEIGHTS_FILE), run.recipe()
    for field in fields(ModelOptions):
        name = field.name
        wanted, found = getattr(recipe, name), getattr(model.spec, name)
        if name == "centre" and wanted is None:
            continue  # what that came to, with the run's data, its weights say
        if found != wanted:
            raise InputError(
                f"the weights in {run.path} are not those of its recipe.yaml: "
                f"{name} is {found} in the weights and {wanted} in the recipe"
            )
    return model


def written_to(run: RunFolder | None, out: Path) -> AbstractContextManager[None]:
    """Keep others from a run while something is written into its folder; elsewhere, from nothing.

    A run that is only read need not be in a folder that can be written to.
    """
    if run is None or run.path.resolve() not in (out.resolve(), *out.resolve().parents):
        return nullcontext()
    return run.locked()
