"""Which files are images, told by their names; and which look like images and are not read."""

from __future__ import annotations

import posixpath
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from importlib import import_module

from PIL import Image

from loss_attention.errors import printable

IMAGE_SUFFIXES = (
    *(".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png"),
    *(".pnm", ".ppm", ".tif", ".tiff", ".webp"),
)

_HEIF, _JXL = "pillow-heif", "pillow-jxl-plugin"
# Pillow's plugins: the module to import, and the function in it that registers the formats.
_PLUGINS = {"pillow_heif": "register_heif_opener", "pillow_jxl": ""}
_RAW = "save them as PNG, JPEG or TIFF with a converter for raw photos"
_HINTS = {
    **dict.fromkeys((".heic", ".heif", ".hif", ".heics"), f"`pip install {_HEIF}` reads them"),
    ".jxl": f"`pip install {_JXL}` reads them",
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
    (rb"....ftyp(hei[cmsx]|hev[cmx]|mif1|msf1)", "HEIF", ".heic"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "JPEG XL", ".jxl"),
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
    """Return whether a file that is no image by its name may be meant as one."""
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
    return [_line(suffix, hint, found) for (suffix, hint), found in kinds.items()]


def _by_content(content: bytes) -> str:
    for beginning, kind, suffix in _HEADS:
        if re.match(beginning, content, re.DOTALL):
            more = f"; {_HINTS[suffix]}" if suffix in _HINTS else ""
            return f"{kind} by the content; end the name in {suffix}{more}"
    return ""


def _line(suffix: str, hint: str, names: list[str]) -> str:
    what = "1 file" if len(names) == 1 else f"{len(names):,} files"
    verb = "is" if len(names) == 1 else "are"
    kind = printable(suffix) if suffix else "without suffix"
    example = printable(min(names))
    shown = f" ({example})" if len(names) == 1 else f" ({example}, say)"
    return f"{what} {kind} {verb} not read{shown}: {hint}"
