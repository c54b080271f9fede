"""From image files to uint8 arrays and tensors, one image at a time; and which files are images.

What files hold is brought to one form: upright (EXIF orientation applied), 8 bits, grey or colour.
Transparent parts show white, as most viewers and web pages have it. Deeper pixels are scaled by the
range that the file states, and not clipped (`pixels.py`). Of animations and multi-page files the
first picture is taken. Files are told to be images by their names; what looks like an image and is
not read is said.
"""

from __future__ import annotations

import io
import os
import posixpath
import re
import stat
import threading
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageStat, TiffImagePlugin, UnidentifiedImageError

from loss_attention.data.pixels import in_8_bits, picture_alone, unread_tiff
from loss_attention.data.placement import Resize, placement_of
from loss_attention.errors import InputError, printable
from loss_attention.errors import reason as reason_of
from loss_attention.memory import free_memory

if TYPE_CHECKING:  # exported files are run where there is no torch
    from torch import Tensor

MOST_PIXELS = 89_478_485
"""A larger image is refused: it would take over 256 MB decoded (Pillow's own limit)."""

_MODES = {1: "L", 3: "RGB"}
_LARGE = 2**25  # pixels; what is larger is decoded one at a time, and only if memory is free for it
_BYTES_A_PIXEL = 12  # decoded, without transparency and turned: Pillow has 4 for each
_AT_ONCE = 2**22  # pixels, where a picture is worked through in bands
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = 5  # from here on, width and height are exchanged
# `warnings.catch_warnings` changes the whole process: only one thread at a time may.
_quiet = threading.Lock()
_alone = threading.Lock()
# Formats whose files begin with another size than they hold; and one that a program would draw.
_SIZED_WHEN_DECODED = ("CUR", "ICNS", "ICO")
_DRAWN = "EPS"
_HEIF, _READS_HEIF = rb"....ftyp(hei[cmsx]|hev[cmx]|mif1|msf1)", "`pip install pillow-heif` reads"
_JXL, _READS_JXL = rb"\xff\x0a|\0\0\0\x0cJXL ", "`pip install pillow-jxl-plugin` reads"
_AS_PNG = "which is not read; save it as PNG"
# What people take for an image, by what the file begins with.
_OTHER_FILES = (
    (_HEIF, f"HEIC, which {_READS_HEIF}"),
    (_JXL, f"JPEG XL, which {_READS_JXL}"),
    (rb"\W*(<(\?xml|!--|!DOCTYPE svg)[^>]*>\s*)*<svg\b", f"an SVG drawing, {_AS_PNG}"),
    (rb"%!PS|\xc5\xd0\xd3\xc6", f"a PostScript drawing, {_AS_PNG}"),
    (rb"%PDF", f"a PDF document, {_AS_PNG}"),
    (rb".{128}DICM", f"DICOM, {_AS_PNG} of 8 or 16 bits"),
    (rb"\x93NUMPY", f"a NumPy array, {_AS_PNG}"),
    (rb"\s*<(!doctype )?html", "a web page (did its download fail?)"),
    (rb"version https://git-lfs", "a pointer of Git LFS; `git lfs pull` fetches the image"),
)


class UnreadableImage(InputError):  # noqa: N818
    """An image that cannot be decoded: `name` says which, `reason` why."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{printable(name)} cannot be read as an image: {reason}")
        self.name = name
        self.reason = reason


def read_image(source: Path | bytes, in_channels: int, name: str | None = None) -> Image.Image:
    """Decode an image, upright and in 8 bits; see the module's text for how.

    Args:
        source: a file, or the bytes of one.
        in_channels: 1 gives grey (mode L), 3 colour (mode RGB).
        name: what an error calls the image; None: the path, or "image" for bytes.

    Raises:
        UnreadableImage: missing, no image, truncated, over `MOST_PIXELS` or the free memory, or of
            values whose meaning is unknown (32-bit integers beyond 65535, floats outside [0, 1]).
        InputError: `in_channels` other than 1 and 3.

    Example:
        >>> file = io.BytesIO()
        >>> Image.new("I;16", (3, 2), 65535).save(file, "png")
        >>> image = read_image(file.getvalue(), in_channels=1)
        >>> image.size, image.getpixel((0, 0))
        ((3, 2), 255)
    """
    _check_channels(in_channels)
    name = name or (str(source) if isinstance(source, Path) else "image")
    with _opened(source, name) as image, ExitStack() as stack:
        if image.width * image.height > _LARGE:
            stack.enter_context(_alone)
            _require_memory(image)
        return upright(image, in_channels)


def read_numbers(source: Path | bytes, name: str) -> UInt8[np.ndarray, "H W *3"]:
    """Return a picture's pixels as stored: numbers of a palette or levels of grey, else colours.

    Raises:
        UnreadableImage: as `read_image`.
    """
    with _opened(source, name) as image:
        _orientation(image)  # Pillow looks as well, and is not to warn of it
        if image.mode.startswith("I"):  # more bits than the numbers need
            low, high = map(int, image.getextrema())  # type: ignore[arg-type]
            if low < 0 or high > 255:
                raise ValueError(f"it has numbers of {low}..{high}, at most 0..255 are read")
            return np.asarray(image).astype(np.uint8)
        pixels = image if image.mode in ("L", "P") else image.convert("RGB")
        return np.array(pixels, np.uint8)


def read_size(source: Path | bytes, name: str) -> tuple[int, int]:
    """Return width and height of an image once it is upright, from the beginning of its file.

    Raises:
        UnreadableImage: missing, no image, or over `MOST_PIXELS`; what is broken further on is not
            noticed.
    """
    with _opened(source, name) as image:
        if image.format in _SIZED_WHEN_DECODED:
            image.load()
        size = image.size
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            # Newer versions of Pillow have turned that size, and have not for all files.
            tags = image.tag_v2
            size = tags[TiffImagePlugin.IMAGEWIDTH], tags[TiffImagePlugin.IMAGELENGTH]
        return size if _orientation(image) < _SIDEWAYS else size[::-1]


def to_array(
    image: Image.Image, size: tuple[int, int] | None = None, resize: Resize = "squash"
) -> UInt8[np.ndarray, "C H W"]:
    """Return an image of mode L or RGB as an array.

    Args:
        image: what `read_image` returns.
        size: height and width in pixels to resize to, with bilinear interpolation that averages
            when it shrinks; nothing is cropped. None: as it is.
        resize: squash the picture to that shape; or keep its aspect and centre it on a border of
            its own mean colour, which needs nothing but the picture and so is the same in
            training and in explaining.

    Example:
        >>> to_array(Image.new("RGB", (6, 4)), size=(2, 3)).shape
        (3, 2, 3)
    """
    if size is not None:
        image = fitted(image, size, resize)
    pixels = np.array(image, np.uint8)  # a copy: Pillow's own buffer is read-only
    return pixels[np.newaxis] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def to_tensor(
    image: Image.Image, size: tuple[int, int] | None = None, resize: Resize = "squash"
) -> UInt8[Tensor, "C H W"]:
    """Return an image as `to_array` does, as a tensor."""
    import torch

    return torch.from_numpy(to_array(image, size, resize))


def fitted(
    image: Image.Image,
    size: tuple[int, int],
    resize: Resize,
    border: tuple[int, ...] | None = None,
) -> Image.Image:
    """Return an image resized to height and width, on a border where it is padded.

    Args:
        image: of any size.
        size: height and width in pixels.
        resize: see `to_array`.
        border: the border's colour, a level for each band; None: the image's mean.
    """
    _, _, left, top, right, bottom = placement_of(image.size, size, resize)
    if image.size != (right - left, bottom - top):
        image = image.resize((right - left, bottom - top), Image.Resampling.BILINEAR)
    if image.size == (size[1], size[0]):
        return image
    colour = border or tuple(round(mean) for mean in ImageStat.Stat(image).mean)
    canvas = Image.new(image.mode, (size[1], size[0]), colour if len(colour) > 1 else colour[0])
    canvas.paste(image, (left, top))
    return canvas


def upright(image: Image.Image, in_channels: int) -> Image.Image:
    """Turn a picture as EXIF says, and reduce it to 8-bit pixels without transparency.

    Args:
        image: of any mode, decoded or not.
        in_channels: 1 gives grey (mode L), 3 colour (mode RGB).

    Raises:
        InputError: `in_channels` other than 1 and 3.
        ValueError: pixels whose range is unknown; whatever decoders raise.
    """
    _check_channels(in_channels)
    orientation = _orientation(image)  # Pillow looks as well, and is not to warn of it
    image.load()
    _require_few_pixels(image)
    # Pillow turns TIFF files itself; what is turned is no longer said to be.
    turn = _UPRIGHT.get(_orientation(image) if image.format == "TIFF" else orientation)
    plain = _without_transparency(in_8_bits(image), _MODES[in_channels])
    return plain if turn is None else plain.transpose(turn)


class _File(io.BufferedReader):
    """A file that sets aside no memory for more bytes than it has, whatever its header claims."""

    def __init__(self, path: Path) -> None:
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # a pipe would be waited for
            raise ValueError("it is a pipe, a socket or a device, not a file")
        raw = io.FileIO(path)
        super().__init__(raw)
        self._size = os.fstat(raw.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        """Return up to so many bytes from here on; -1 or None: all."""
        if size is None or size < 0:
            return super().read()
        return super().read(min(size, max(0, self._size - self.tell())))


def _reader(source: Path | bytes) -> BinaryIO:
    return io.BytesIO(source) if isinstance(source, bytes) else _File(source)


def _check_channels(in_channels: int) -> None:
    if in_channels not in _MODES:
        raise InputError(f"in_channels must be 1 or 3, got {in_channels}")


@contextmanager
def _opened(source: Path | bytes, name: str) -> Iterator[Image.Image]:
    """Open an image without decoding it, if it is not too large.

    Raises:
        UnreadableImage: for whatever goes wrong then and within.
    """
    load_plugins()
    try:
        # Opened here: given a path, Pillow maps plain TIFF files and garbles those that are turned.
        with _reader(source) as file:
            with _quiet, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # odd metadata, and sizes that are checked here
                image = Image.open(picture_alone(file))
            with image:
                if image.format == _DRAWN:
                    raise UnidentifiedImageError
                _require_few_pixels(image)
                yield image
    except Exception as error:  # decoders raise whatever a broken file leads them into
        raise UnreadableImage(name, _reason(error, source)) from error


def _require_few_pixels(image: Image.Image) -> None:
    if image.width * image.height > MOST_PIXELS:
        raise Image.DecompressionBombError


def _require_memory(image: Image.Image) -> None:
    needed, free = image.width * image.height * _BYTES_A_PIXEL, free_memory()
    if needed > free:
        raise MemoryError(
            f"{image.width} x {image.height} pixels take {needed / 1e9:.2g} GB to decode, and "
            f"{free / 1e9:.2g} GB are free"
        )


def _orientation(image: Image.Image) -> int:
    """Return how EXIF says that an image is turned; 1 where it is upright."""
    orientation = 1
    with _quiet, warnings.catch_warnings(), suppress(Exception):  # a broken tag: as stored
        warnings.simplefilter("ignore")
        # Not the method of PNG files, which decodes them first: here it stands in front.
        orientation = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
        return orientation if orientation in _UPRIGHT else 1
    return 1


def _without_transparency(image: Image.Image, mode: str) -> Image.Image:
    """Return an image in a mode without transparency; what is transparent is white."""
    if image.mode in ("La", "RGBa"):  # colours multiplied by how opaque they are
        image = image.convert(image.mode.upper())
    if not image.has_transparency_data:
        return image if image.mode == mode else image.convert(mode)
    width, height = image.size
    result = Image.new(mode, image.size)
    rows = max(1, _AT_ONCE // max(1, width))
    for top in range(0, height, rows):
        band = image if rows >= height else image.crop((0, top, width, min(height, top + rows)))
        band = band.convert("RGBA")
        white = Image.new("RGBA", band.size, "white")
        result.paste(Image.alpha_composite(white, band).convert("RGB").convert(mode), (0, top))
    return result


def _reason(error: Exception, source: Path | bytes) -> str:
    """Say in a few words why an image could not be decoded."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, IsADirectoryError):
        return "it is a folder"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {MOST_PIXELS:,} pixels (a decompression bomb?)"
    if isinstance(error, MemoryError) and error.args:
        return str(error)
    if isinstance(error, (KeyError, UnidentifiedImageError)):
        return _unknown_format(source)
    return reason_of(error)


def _unknown_format(source: Path | bytes) -> str:
    """Say what a file holds that is not an image to Pillow."""
    with _reader(source) as file:
        head = file.read(1024)
        if not head:
            return "empty"
        for beginning, what in _OTHER_FILES:
            if re.match(beginning, head, re.DOTALL | re.IGNORECASE):
                return what
        file.seek(0)
        with _quiet, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return unread_tiff(file) or "of no known image format"


IMAGE_SUFFIXES = (
    *(".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png"),
    *(".pnm", ".ppm", ".tif", ".tiff", ".webp"),
)

# Pillow's plugins: the module to import, and the function in it that registers the formats.
_PLUGINS = {"pillow_heif": "register_heif_opener", "pillow_jxl": ""}
_RAW = "save them as PNG, JPEG or TIFF with a converter for raw photos"
_HINTS = {
    **dict.fromkeys((".heic", ".heif", ".hif", ".heics"), f"{_READS_HEIF} them"),
    ".jxl": f"{_READS_JXL} them",
    **dict.fromkeys(
        (
            *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".iiq", ".kdc"),
            *(".mef", ".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2"),
            *(".rwl", ".sr2", ".srf", ".srw", ".x3f"),
        ),
        _RAW,
    ),
    **dict.fromkeys(
        (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"),
        "they are videos: save their pictures as PNG or JPEG",
    ),
    **dict.fromkeys(
        (
            *(".ai", ".apng", ".bpg", ".dcm", ".dds", ".dicom", ".emf", ".eps", ".exr", ".fits"),
            *(".hdr", ".icns", ".ico", ".j2c", ".j2k", ".jpc", ".jpf", ".jpx", ".jxr", ".mpo"),
            *(".nii", ".npy", ".pcx", ".psb", ".psd", ".qoi", ".ras", ".sgi", ".svg", ".svgz"),
            *(".tga", ".wdp", ".wmf", ".xbm", ".xcf", ".xpm"),
        ),
        "save them as PNG or JPEG",
    ),
}
_HEADS = (
    (rb"\xff\xd8\xff", "JPEG", ".jpg"),
    (rb"\x89PNG\r\n\x1a\n", "PNG", ".png"),
    (rb"GIF8[79]a", "GIF", ".gif"),
    (rb"RIFF....WEBP", "WebP", ".webp"),
    (rb"II\*\0|MM\0\*", "TIFF", ".tif"),
    (rb"BM....\0\0\0\0", "BMP", ".bmp"),
    (rb"P[1-6]\s[\d\s#]", "PNM", ".pnm"),
    (rb"....ftypavi[fs]", "AVIF", ".avif"),
    (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "JPEG 2000", ".jp2"),
    (_HEIF, "HEIF", ".heic"),
    (_JXL, "JPEG XL", ".jxl"),
)
HEAD = 16
"""So many bytes at the beginning of a file tell whether it is an image."""
_MOST_HEADS = 200  # files looked into; of more, the others are told by name alone

# What lies in data sets beside the images and is not meant to be one.
_QUIET_NAMES = re.compile(
    r"(thumbs\.db|ehthumbs\.db|desktop\.ini|icon\r|makefile|dockerfile|"
    r"(readme|licen[cs]e|copying|notice|authors|changelog|changes|citation|contributing|version|"
    r"todo|md5sums?|sha\d+sums?|checksums?)\b.*)",
    re.IGNORECASE,
)
_QUIET_SUFFIXES = frozenset(
    (
        # texts and documents
        *(".bib", ".doc", ".docx", ".htm", ".html", ".log", ".md", ".odt", ".pdf", ".rst", ".rtf"),
        *(".tex", ".txt", ".url", ".lnk"),
        # annotations and tables
        *(".cache", ".cfg", ".csv", ".data", ".db", ".feather", ".h5", ".hdf5", ".ini", ".json"),
        *(".jsonl", ".labels", ".lst", ".mat", ".names", ".ndjson", ".npz", ".ods", ".parquet"),
        *(".arrow", ".pickle", ".pkl", ".sqlite", ".toml", ".tsv", ".xls", ".xlsx", ".xml"),
        *(".yaml", ".yml", ".lock"),
        # programs and what they leave
        *(".bat", ".c", ".cpp", ".ipynb", ".js", ".m", ".onnx", ".pt", ".pth", ".py", ".pyc"),
        *(".r", ".safetensors", ".sh"),
        # archives and sums
        *(".7z", ".bz2", ".gz", ".md5", ".rar", ".sha1", ".sha256", ".tar", ".tbz2", ".tgz"),
        *(".txz", ".xz", ".zip", ".zst"),
    )
)
_HIDDEN_FOLDERS = frozenset(
    (
        *("__macosx", "__pycache__", "@eadir", "$recycle.bin", "#recycle", "lost+found"),
        "system volume information",
    )
)


def is_image(name: str) -> bool:
    """Return whether a file is named like an image that is read.

    Beside `IMAGE_SUFFIXES` these are the formats of Pillow's plugins, where they are installed.

    Example:
        >>> is_image("a/b.JPG"), is_image("a.txt")
        (True, False)
    """
    suffix = suffix_of(name)
    return suffix in IMAGE_SUFFIXES or (bool(suffix) and _has_plugin(suffix))


def suffix_of(name: str) -> str:
    """Return what a file's name ends with from its last dot, in lower case."""
    return posixpath.splitext(name)[1].lower()


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is one that systems hide or leave beside people's own."""
    return name.startswith(".") or name.lower() in _HIDDEN_FOLDERS


@cache
def load_plugins() -> None:
    """Let Pillow read what its installed plugins read; whoever opens images calls this before."""
    for module, register in _PLUGINS.items():
        with suppress(ImportError):
            plugin = import_module(module)
            if register:
                getattr(plugin, register)()


def _has_plugin(suffix: str) -> bool:
    """Return whether Pillow opens a suffix by a plugin that is not part of it."""
    load_plugins()
    opener = Image.OPEN.get(Image.registered_extensions().get(suffix, ""))
    return opener is not None and not getattr(opener[0], "__module__", "PIL").startswith("PIL")


def may_be_meant(name: str) -> bool:
    """Return whether a file that is not an image by its name may be meant as one."""
    base = posixpath.basename(name)
    return not (
        is_image(name) or suffix_of(name) in _QUIET_SUFFIXES or _QUIET_NAMES.fullmatch(base)
    )


def told_unread(names: Iterable[str], head: Callable[[str], bytes]) -> list[str]:
    """Return a line for each kind of file that may be meant as an image and is not read as one.

    Args:
        names: of files that `may_be_meant`.
        head: reads the first `HEAD` bytes of one.

    Example:
        >>> told_unread(["a.heic", "b.HEIC"], lambda name: b"")
        ['2 files .heic are not read (a.heic, say): `pip install pillow-heif` reads them']
    """
    kinds: dict[tuple[str, str], list[str]] = defaultdict(list)
    looked = 0
    for name in names:
        suffix = suffix_of(name)
        hint = _HINTS.get(suffix, "")
        if not hint and looked < _MOST_HEADS:
            looked += 1
            hint = _by_content(head(name))
        kinds[suffix, hint or "of no known image format"].append(name)
    lines = []
    for (suffix, hint), found in kinds.items():
        what, say = ("1 file", "") if len(found) == 1 else (f"{len(found):,} files", ", say")
        kind = printable(suffix) if suffix else "without suffix"
        verb, example = "are" if say else "is", printable(min(found))
        lines.append(f"{what} {kind} {verb} not read ({example}{say}): {hint}")
    return lines


def _by_content(content: bytes) -> str:
    for beginning, kind, suffix in _HEADS:
        if re.match(beginning, content, re.DOTALL):
            more = f"; {_HINTS[suffix]}" if suffix in _HINTS else ""
            return f"{kind} by the content; end the name in {suffix}{more}"
    return ""
