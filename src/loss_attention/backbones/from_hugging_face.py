"""Models of the library transformers, by their ID on the Hugging Face hub: `hf/ID`.

A model is built from its configuration, which is kept with ours: a file of weights then needs no
hub. That text comes from files as well, so it is checked before anything is built from it, and no
code but the library's own is run.
"""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from loss_attention.backbones.foreign import (
    ForeignBackbone,
    ImageSizes,
    Level,
    chosen_levels,
    hushed,
    not_given,
    sizes_taken,
)
from loss_attention.backbones.levels import Normalisation
from loss_attention.backbones.weights import (
    Loaded,
    check_finite,
    file_facts,
    is_unused,
    read_tensors,
)
from loss_attention.errors import InputError, guarded, printable, quoted, reason
from loss_attention.model_spec import HUGGING_FACE, ModelSpec

IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""What images are given where a model's repository does not say."""
USUAL_SIZE = 224
"""Side of the images of a model whose configuration names none."""

MOST_LETTERS = 100_000
MOST_LAYERS = 512
LARGEST_SIZE = 1_000_000
LARGEST_COUNT = 1_024
MOST_VALUES = 2_000
"""Values in a configuration, those in lists included."""
COUNTED = ("layers", "depths", "blocks", "stages", "levels", "groups")
"""What is in the names of values that say how many layers there are."""
SIZED = (
    *("size", "dim", "channel", "width", "resolution", "position", "vocab", "features"),
    *("theta", "expan", "interval"),
)
"""What is in the names of values that are sizes, and no numbers of modules."""
LEFT_OUT = (
    *("id2label", "label2id", "architectures", "transformers_version", "auto_map", "dtype"),
    *("torch_dtype", "quantization_config", "name_or_path", "problem_type", "output_attentions"),
    *("output_hidden_states", "return_dict", "out_features", "out_indices", "stage_names"),
    *(
        "attn_implementation",
        "backbone",
        "backbone_config",
        "backbone_kwargs",
        "task_specific_params",
    ),
)
"""What a configuration says that is not of the network, or would have it load or run something."""
NEW_LAYERS = ("hidden_states_norms",)
"""Layers of transformers' backbones that no published weights have: they begin as they are."""
HEADS = ("classifier", "cls_classifier", "distillation_classifier", "pooler", "head", "layernorm")
"""Parts of names of layers that come after the last feature map."""
VISION_MODELS = ("clip_vision_model", "siglip_vision_model")


class HuggingFaceBackbone(ForeignBackbone):
    """A model of transformers whose maps are `(B, D, h, w)`, prefix tokens dropped."""

    def __init__(
        self, network: nn.Module, levels: Sequence[Level], plan: Plan, spec: ModelSpec
    ) -> None:
        super().__init__(network, levels, spec, plan.normalisation, plan.sizes)
        self.options, self.patch = plan.options, plan.patch
        positions = tuple(level.position for level in levels)
        for name in unused_parameters(spec.backbone_config, positions):
            network.get_parameter(name).requires_grad_(False)

    def from_file(self, path: Path) -> Loaded:
        """Return its weights from a file."""
        tensors = read_tensors(path)
        check_finite(tensors, path)
        try:
            found = self._published(None, state_dict=tensors)
        except InputError:
            raise
        except Exception as error:  # whatever the library raises about what is not its own
            raise InputError(
                f"the weights in {printable(str(path))} cannot be read: {reason(error)}"
            ) from error
        return Loaded(found.state_dict(), file_facts(path))

    def from_hub(self, revision: str | None) -> Loaded:
        """Return its weights from the hub, or from a folder."""
        source = self.name.removeprefix(HUGGING_FACE)
        try:
            found = self._published(source, revision=revision or "main", trust_remote_code=False)
        except InputError:
            raise
        except Exception as error:  # whatever the hub's client and the library raise
            raise not_given(source, revision, error) from error
        commit = getattr(found.config, "_commit_hash", None) or ""
        return Loaded(found.state_dict(), {"repository": source, "revision": commit})

    def _published(self, source: str | None, **where: Any) -> Any:
        """Return the model with published weights, which the library renames to its own names.

        Raises:
            InputError: they are another model's.
        """
        network: Any = self.network
        if "add_pooling_layer" in inspect.signature(type(network).__init__).parameters:
            where["add_pooling_layer"] = False
        with quiet():
            found, told = type(network).from_pretrained(
                source,
                config=copy.deepcopy(network.config),
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **where,
            )
        for name, theirs, ours in sorted(told["mismatched_keys"]):
            raise self._other(f"{name} has the shape {tuple(theirs)}, not {tuple(ours)}")
        for name in sorted(told["missing_keys"]):
            if not any(part in name for part in NEW_LAYERS):
                raise self._other(f"{name} is missing")
        for name in sorted(told["unexpected_keys"]):
            if not is_unused(name) and not any(part in name.split(".") for part in HEADS):
                raise self._other(f"{quoted(name)} is too many")
        return found

    def _other(self, difference: str) -> InputError:
        return InputError(f"these weights are not those of {self.name}: {difference}")

    def maps(self, images: Float[Tensor, "B C H W"]) -> Sequence[Tensor]:
        """Return the maps of the levels."""
        found = self.network(images, **self.options)
        return maps_of(found, images, self.patch)


def maps_of(found: Any, images: Tensor, patch: int) -> Sequence[Tensor]:
    """Return the maps in what a model returns: as such, or as tokens after those of no patch."""
    maps: Sequence[Tensor] | None = getattr(found, "feature_maps", None)
    if maps is not None:
        return maps
    last: Tensor = found.last_hidden_state
    if last.ndim == 4:
        return [last]
    rows, columns = images.shape[2] // patch, images.shape[3] // patch
    tokens = last[:, last.shape[1] - rows * columns :]
    # Of a shape that can be traced for any batch, as `len` cannot.
    return [tokens.transpose(1, 2).reshape(last.shape[0], last.shape[2], rows, columns)]


class Plan(NamedTuple):
    """What is known of a model before it is built.

    Attributes:
        levels: the maps that it has.
        options: what its forward pass is given beside images.
        patch: pixels along a side of what its tokens stand for, where its map is of these.
        native: height and width of the images that it was made for.
        sizes: the image sizes that it takes.
        normalisation: what its weights were trained with.
    """

    levels: tuple[Level, ...]
    options: dict[str, Any]
    patch: int
    native: tuple[int, int]
    sizes: ImageSizes
    normalisation: Normalisation


def hugging_face_backbone(spec: ModelSpec) -> HuggingFaceBackbone:
    """Build the model of transformers that a spec describes, without weights.

    Raises:
        InputError: transformers is not installed; a configuration that is none, or of a model
            without feature maps or without one of the levels.
    """
    plan = plan_for(spec.backbone_config)
    levels = chosen_levels(spec, plan.levels)
    network = _build(spec.backbone_config, tuple(level.position for level in levels))
    return HuggingFaceBackbone(network, levels, plan, spec)


def transformers_library() -> Any:
    """Return transformers.

    Raises:
        InputError: it is not installed.
    """
    try:
        import transformers
    except Exception as error:
        raise InputError(
            f"a backbone {HUGGING_FACE}ID needs transformers ({reason(error)}): "
            'pip install "loss-attention[hf]"; the paper\'s networks, such as resnet18, need none'
        ) from error
    return transformers


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the library and the hub's client from printing what an error says in a line."""
    told = transformers_library().utils.logging
    before, bars = told.get_verbosity(), told.is_progress_bar_enabled()
    told.set_verbosity_error()
    told.disable_progress_bar()
    try:
        with hushed():
            yield
    finally:
        told.set_verbosity(before)
        if bars:
            told.enable_progress_bar()


def configuration_of(backbone: str, revision: str | None) -> str:
    """Return what a model of the hub, or in a folder, is built from, as JSON.

    Raises:
        InputError: the hub does not give it, or it is of no model that makes feature maps.
    """
    transformers = transformers_library()
    source = backbone.removeprefix(HUGGING_FACE)
    at = {"revision": revision or "main", "trust_remote_code": False}
    try:
        with quiet():
            config: Any = transformers.AutoConfig.from_pretrained(source, **at)
    except Exception as error:  # whatever the hub's client and the library raise
        raise not_given(source, revision, error) from error
    config = getattr(config, "vision_config", config)
    try:
        with quiet():
            given, _ = (
                transformers.image_processing_base.ImageProcessingMixin.get_image_processor_dict(
                    source, **at
                )
            )
    except Exception:  # it has none
        given = {}
    mean, std = given.get("image_mean"), given.get("image_std")
    if not given.get("do_normalize", True):
        mean, std = [0.0] * 3, [1.0] * 3
    values = {name: value for name, value in config.to_dict().items() if name not in LEFT_OUT}
    values = {name: value for name, value in values.items() if not name.startswith("_")}
    description = {"config": values, "mean": mean or IMAGENET.mean, "std": std or IMAGENET.std}
    text = json.dumps(description, sort_keys=True)
    checked(text)
    return text


def checked(text: str) -> tuple[Any, Normalisation]:
    """Return the configuration and normalisation that a text describes.

    Raises:
        InputError: it is not valid JSON, or not of a model that transformers knows, or it has
            values that are none of that model's, or sizes that no network has.
    """
    with guarded("`backbone_config`"):
        if len(text) > MOST_LETTERS:
            raise InputError(f"`backbone_config` has more than {MOST_LETTERS:,} characters")
        description = json.loads(text)
        if not isinstance(description, dict) or set(description) != {"config", "mean", "std"}:
            raise InputError("`backbone_config` holds config, mean and std, and nothing else")
        return _configuration(description["config"]), _normalisation(description)


def _normalisation(description: Mapping[str, Any]) -> Normalisation:
    mean, std = (tuple(map(float, description[name])) for name in ("mean", "std"))
    fits = len(mean) == len(std) and 1 <= len(mean) <= 16
    if (
        not fits
        or not all(abs(value) <= 1e3 for value in mean)
        or not all(0 < v <= 1e3 for v in std)
    ):
        raise InputError("`backbone_config`: mean and std are a number above 0 for each channel")
    return Normalisation(mean, std)


def _configuration(values: Any) -> Any:
    transformers = transformers_library()
    kind = values.get("model_type") if isinstance(values, dict) else None
    known = vision_models()
    if kind not in known:
        raise InputError(
            f"transformers has no backbone of the kind {quoted(kind)}; it has: {', '.join(known)}"
        )
    usual = transformers.CONFIG_MAPPING[kind]().to_dict()
    count = 0
    for name, value in values.items():
        if name not in usual or name in LEFT_OUT or name.startswith("_"):
            raise InputError(f"`backbone_config`: {kind} has no {quoted(name)}")
        parts = _parts(value)
        count += len(parts)
        layered = any(part in name for part in COUNTED)
        most = LARGEST_SIZE if any(part in name for part in SIZED) else LARGEST_COUNT
        numbers = [one for one in parts if isinstance(one, int | float)]
        total = sum(map(abs, numbers)) if layered else max(map(abs, numbers), default=0)
        if not total <= (MOST_LAYERS if layered else most):
            raise InputError(f"`backbone_config`: {name} cannot be {quoted(value)}")
    if count > MOST_VALUES:
        raise InputError(f"`backbone_config` has more than {MOST_VALUES:,} values")
    return transformers.CONFIG_MAPPING[kind].from_dict(
        {name: value for name, value in values.items() if name != "model_type"}
    )


def _parts(value: Any, depth: int = 0) -> list[Any]:
    """Return the plain values in a value of JSON."""
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list):
        return [value]
    if depth > 3:
        raise InputError("`backbone_config` is nested too deeply")
    return [part for one in value for part in _parts(one, depth + 1)]


def vision_models() -> list[str]:
    """Return the kinds of transformers' models that take images alone, by its own lists."""
    transformers_library()
    from transformers.models.auto import modeling_auto

    backbones = modeling_auto.MODEL_FOR_BACKBONE_MAPPING_NAMES
    classifiers = modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
    names = {*backbones, *classifiers, *VISION_MODELS}
    return sorted(name for name in names if not name.startswith("timm"))


def _build(text: str, positions: tuple[int, ...] | None = None) -> nn.Module:
    """Build what a text describes; None: with all the maps that it has."""
    transformers = transformers_library()
    config, _ = checked(text)
    for name in ("use_mask_token", "vision_use_head"):
        if hasattr(config, name):
            setattr(config, name, False)
    stages = getattr(config, "stage_names", None)
    mapping = transformers.models.auto.modeling_auto.MODEL_FOR_BACKBONE_MAPPING
    network: nn.Module
    with quiet():
        if stages is not None and type(config) in mapping:
            chosen = range(len(stages)) if positions is None else positions
            config.out_features = [stages[position] for position in chosen]
            return transformers.AutoBackbone.from_config(config)  # type: ignore[no-any-return]
        try:
            network = transformers.AutoModel.from_config(config, add_pooling_layer=False)
        except TypeError:
            network = transformers.AutoModel.from_config(config)
    return network


@lru_cache(maxsize=64)
@torch.random.fork_rng(devices=[])
def unused_parameters(text: str, positions: tuple[int, ...]) -> list[str]:
    """Return the names of a model's parameters that some of its maps do not depend on.

    Training in several processes would wait for their gradients.
    """
    plan = plan_for(text)
    with torch.device("meta"):
        network = _build(text, positions)
        height, width = plan.native
        images = torch.zeros(1, len(plan.normalisation.mean), height, width)
        with quiet():
            maps = maps_of(network(images, **plan.options), images, plan.patch)
        named = dict(network.named_parameters())
        total = torch.stack([one.sum() for one in maps]).sum()
        gradients = torch.autograd.grad(total, list(named.values()), allow_unused=True)
    return [name for name, gradient in zip(named, gradients, strict=True) if gradient is None]


@lru_cache(maxsize=64)
@torch.random.fork_rng(devices=[])
def plan_for(text: str) -> Plan:
    """Find out what maps a model makes, and of which sizes, without memory for weights.

    Raises:
        InputError: it is described wrongly, or has no feature map.
    """
    config, normalisation = checked(text)
    kind = config.model_type
    size = getattr(config, "image_size", None) or USUAL_SIZE
    native = (size, size) if isinstance(size, int) else tuple(size)
    patch = getattr(config, "patch_size", 1)
    patch = patch if isinstance(patch, int) else patch[0]
    channels = len(normalisation.mean)
    with guarded(f"`backbone_config`: a model {kind}"), torch.device("meta"):
        network = _build(text).eval()
    options: dict[str, Any] = {}
    if "interpolate_pos_encoding" in inspect.signature(network.forward).parameters:
        options["interpolate_pos_encoding"] = True

    def maps(height: int, width: int) -> Sequence[Tensor]:
        images = torch.zeros(1, channels, height, width, device="meta")
        with torch.no_grad(), quiet():
            made = maps_of(network(images, **options), images, patch)
        if any(one.ndim != 4 for one in made):
            raise ValueError("these are not maps")
        return made

    def takes(height: int, width: int) -> bool:
        try:
            return bool(maps(height, width))
        except Exception:  # whatever a network raises of a size that it does not take
            return False

    try:
        made = maps(*native)
    except Exception as error:
        raise InputError(
            f"a model of the kind {kind} has no feature map ({reason(error)})"
        ) from error
    levels = tuple(
        Level(position, one.shape[1], max(1, round(native[0] / one.shape[2])))
        for position, one in enumerate(made)
    )
    sizes = sizes_taken(takes, native, sorted({patch, *(level.stride for level in levels)}))
    return Plan(levels, options, patch, native, sizes or ImageSizes(only=native), normalisation)
