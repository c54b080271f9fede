"""Networks of other libraries as backbones: levels by stride, and which image sizes they take.

What they take is tried, on the meta device, where shapes are all there is: a network whose position
table or windows allow other sizes than its own says so nowhere in a way that holds for all.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from loss_attention.backbones.levels import Features, Normalisation
from loss_attention.backbones.receptive_field import ReceptiveField
from loss_attention.backbones.weights import Loaded
from loss_attention.errors import InputError, quoted
from loss_attention.model_spec import ModelSpec


class ImageSizes(NamedTuple):
    """Which heights and widths a network takes.

    Attributes:
        multiple: they are multiples of so many pixels.
        least: and no fewer than these.
        only: the one height and width, where it takes no other.
    """

    multiple: int = 1
    least: int = 1
    only: tuple[int, int] | None = None

    def check(self, name: str, height: int, width: int) -> None:
        """Raise `InputError` for a size that the network does not take."""
        if self.only is not None and (height, width) != self.only:
            made_for = " x ".join(map(str, self.only))
            raise InputError(
                f"{name} takes images of {made_for} pixels alone, got {height} x {width}; "
                "set `image_size`"
            )
        if min(height, width) < self.least:
            raise InputError(
                f"{name} takes images of {self.least} x {self.least} pixels and more, got "
                f"{height} x {width}; set `image_size`"
            )
        if height % self.multiple or width % self.multiple:
            near = (max(1, round(side / self.multiple)) * self.multiple for side in (height, width))
            raise InputError(
                f"{name} takes images whose sides are multiples of {self.multiple} pixels, got "
                f"{height} x {width}; the nearest `image_size` is {' x '.join(map(str, near))}"
            )


def sizes_taken(
    takes: Callable[[int, int], bool], native: tuple[int, int], multiples: Sequence[int]
) -> ImageSizes | None:
    """Find out which sizes a network takes; None: not even its own.

    Args:
        takes: whether it takes a height and a width.
        native: the size that it was made for.
        multiples: what sides may have to be multiples of, of which the least that works is taken.
    """
    for multiple in sorted({1, *multiples}):
        tall, wide = (-(-side // multiple) * multiple for side in native)
        larger = (side + side // (2 * multiple) * multiple for side in (tall, wide))
        if takes(tall + multiple, wide + 2 * multiple) and takes(*larger):
            sides = sorted({-(-side // multiple) * multiple for side in (1, *multiples)})
            least = next((side for side in sides if takes(side, side)), min(native))
            return ImageSizes(multiple, least)
    return ImageSizes(only=native) if takes(*native) else None


class Level(NamedTuple):
    """A feature map of a network.

    Attributes:
        position: which of the network's maps it is.
        channels: features of each cell.
        stride: pixels of the image between neighbouring cells.
    """

    position: int
    channels: int
    stride: int


def chosen_levels(spec: ModelSpec, known: Sequence[Level]) -> tuple[Level, ...]:
    """Return the levels that a spec names, the finest first; the last one where it names none.

    Of several maps of the same stride, the last is taken.

    Raises:
        InputError: a stride that the network has no map of.
    """
    if not spec.levels:
        return (known[-1],)
    by_stride = {level.stride: level for level in known}
    for stride in spec.levels:
        if stride not in by_stride:
            strides = ", ".join(map(str, sorted(by_stride)))
            raise InputError(
                f"`levels`: {spec.backbone} has no map of stride {stride}; it has those of "
                f"{strides}"
            )
    return tuple(by_stride[stride] for stride in spec.levels)


class ForeignBackbone(nn.Module):
    """A network of another library: a `backbones.Backbone`.

    Args:
        network: what the library built.
        levels: the maps to return, the finest first.
        spec: where they are joined, and the name for errors.
        normalisation: what its weights were trained with.
        sizes: the image sizes that it takes.

    Attributes:
        channels: features of each cell of the joined map.
        stride: pixels of the image between its cells.
        level_channels, level_strides: of each level, the finest first.
        receptive_field: which pixels each cell sees, of one level where that can be computed.
        normalisation: what its weights were trained with.
        weights: what was loaded: repository and revision, or file, and its SHA-256; empty: nothing.
    """

    receptive_field: ReceptiveField | None = None

    def __init__(
        self,
        network: nn.Module,
        levels: Sequence[Level],
        spec: ModelSpec,
        normalisation: Normalisation,
        sizes: ImageSizes,
    ) -> None:
        super().__init__()
        self.network = network
        self.level_channels: Final = tuple(level.channels for level in levels)
        self.level_strides: Final = tuple(level.stride for level in levels)
        self.channels: Final = sum(self.level_channels)
        self.stride: Final = spec.feature_stride or self.level_strides[0]
        self.normalisation: Final = normalisation
        self.name: Final = spec.backbone
        self.sizes: Final = sizes
        self.weights: dict[str, str] = {}

    @abstractmethod
    def maps(self, images: Float[Tensor, "B C H W"]) -> Sequence[Tensor]:
        """Return the maps of the levels."""

    def forward(self, images: Float[Tensor, "B C H W"]) -> Features:
        """Return the feature map of a batch of normalised images, or those of several levels."""
        maps = self.maps(images)
        return maps[0] if len(maps) == 1 else tuple(maps)

    @abstractmethod
    def from_file(self, path: Path) -> Loaded:
        """Return its weights from a file.

        Raises:
            InputError: see `weights.read_weights_file`.
        """

    @abstractmethod
    def from_hub(self, revision: str | None) -> Loaded:
        """Return its weights from the Hugging Face hub.

        Raises:
            InputError: there are none, or the hub does not give them.
        """

    def take(self, loaded: Loaded) -> None:
        """Put weights in the place of those that the network has."""
        self.network.load_state_dict(loaded.state, strict=False)
        self.weights = loaded.facts | ({} if loaded.note is None else {"note": loaded.note})

    def check_image_size(self, height: int, width: int) -> None:
        """Raise `InputError` for images of a size that the network does not take."""
        self.sizes.check(self.name, height, width)

    @property
    def checkpoint_activations(self) -> bool:
        """Whether training computes activations twice, as far as the library can do that."""
        return self._checkpoints

    @checkpoint_activations.setter
    def checkpoint_activations(self, on: bool) -> None:
        if on or self._checkpoints:
            self.set_checkpoints(on)
        self._checkpoints = on

    _checkpoints = False

    def set_checkpoints(self, on: bool) -> None:
        """Have the library compute activations twice or not.

        Raises:
            InputError: it cannot for this network.
        """
        set_them: Any = getattr(self.network, "set_grad_checkpointing", None)
        try:
            assert set_them is not None
            set_them(on)
        except AssertionError as error:
            raise InputError(f"`checkpoint_activations`: {self.name} cannot do that") from error


class WantedWeights(NamedTuple):
    """Which weights a backbone begins with; none: random ones.

    Attributes:
        pretrained: those of the Hugging Face hub.
        weights: those of a file.
        revision: branch, tag or commit of the hub's repository; None: its main branch.
    """

    pretrained: bool = False
    weights: str | Path | None = None
    revision: str | None = None

    def check(self, spec: ModelSpec) -> None:
        """Raise `InputError` for what cannot be asked for, or not of this backbone."""
        if self.pretrained and self.weights is not None:
            raise InputError(
                "`pretrained` and `weights` both say where weights come from: give one"
            )
        if self.revision is not None and not self.pretrained:
            raise InputError("`revision` is for the weights on the hub: it needs `pretrained`")
        if (self.pretrained or self.weights is not None) and not spec.is_foreign:
            field = "pretrained" if self.pretrained else "weights"
            raise InputError(
                f"`{field}` is for a backbone timm/NAME or hf/ID; {quoted(spec.backbone)} has no "
                "weights of its own"
            )

    def load_into(self, backbone: Any) -> None:
        """Give a backbone these weights, and note there what they are.

        Raises:
            InputError: they are not to be had, or another network's.
        """
        if self.pretrained:
            loaded = backbone.from_hub(self.revision)
        elif self.weights is not None:
            loaded = backbone.from_file(Path(self.weights))
        else:
            return
        backbone.take(loaded)


@contextmanager
def hushed() -> Iterator[None]:
    """Keep libraries from logging warnings of what an error then says in a line."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def from_the_hub(repository: str, filename: str, revision: str | None) -> tuple[Path, str]:
    """Return a file of the Hugging Face hub, or of its cache here, and the commit that it is of.

    Raises:
        InputError: the hub does not give it.
    """
    from huggingface_hub import hf_hub_download

    try:
        with hushed():
            path = Path(hf_hub_download(repository, filename, revision=revision))
    except Exception as error:  # whatever the hub's client raises: offline, unknown, gated
        raise not_given(repository, revision, error) from error
    parts = path.parts
    commit = parts[parts.index("snapshots") + 1] if "snapshots" in parts[:-1] else ""
    return path, commit


def not_given(repository: str, revision: str | None, error: Exception) -> InputError:
    """Return the error for what the hub does not give, which says how to go on."""
    at = "" if revision is None else f" at `revision` {quoted(revision)}"
    return InputError(
        f"the Hugging Face hub does not give {quoted(repository)}{at} ({type(error).__name__}); "
        "without a connection, give a file of its weights: `weights`"
    )
