"""Zips and tars that are not what they say: names, links, sizes, and what comes out of them."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from functools import cache
from random import Random

from fuzz.hostile import TEXTS, Mutator, shown

Members = dict[str, bytes]
_NAMES = (
    *("../a.png", "..\\a.png", "/a.png", "C:/a.png", "C:\\a.png", "a/../../b.png", "./a.png"),
    *("cat\\1.png", "cat//1.png", "cat/./1.png", "cat/", "/", "a" * 60_000 + ".png", "cat/\ud800"),
    *("cat/é.png", "\\\\host\\a.png", "cat/1.png/2.png", "__MACOSX/1.png", "CAT/1.png", "cat"),
)
_MIB = 2**20
_BOMB = 3 * 2**30
"""What comes out of a bomb: more than a reader may take."""
_BOMBS = 0.003
"""The part of all archives that are bombs: each takes seconds to see through."""


def plain_zip(members: Mapping[str, bytes]) -> bytes:
    """Return a zip of these members."""
    return _zip([(name, content, 0) for name, content in members.items()])


def plain_tar(members: Mapping[str, bytes], compression: str = "") -> bytes:
    """Return a tar of these members; compression: "", gz, xz or bz2."""
    return _compressed(_tar([(_info(n, len(c)), c) for n, c in members.items()]), compression)


def hostile_zip(members: Mapping[str, bytes]) -> Mutator:
    """Return a mutator that makes a zip of these members anew, with something wrong in it."""

    def changed(rng: Random, content: bytes) -> tuple[bytes, str]:
        if rng.random() < _BOMBS:
            return _zip_bomb(rng, dict(members))
        return rng.choice(_ZIPS)(rng, dict(members))

    return changed


def hostile_tar(members: Mapping[str, bytes], compression: str = "") -> Mutator:
    """Return a mutator that makes a tar of these members anew, with something wrong in it."""

    def changed(rng: Random, content: bytes) -> tuple[bytes, str]:
        if rng.random() < _BOMBS:
            return _tar_bomb(rng, dict(members), compression)
        made, what = rng.choice(_TARS)(rng, dict(members))
        return _compressed(made, compression), what

    return changed


def _zip(entries: list[tuple[str, bytes, int]]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content, mode in entries:
            info = zipfile.ZipInfo()
            info.filename = name  # as it is: the constructor would mend it
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = mode << 16
            archive.writestr(info, content)
    return file.getvalue()


def _entries(members: Members) -> list[tuple[str, bytes, int]]:
    return [(name, content, 0) for name, content in members.items()]


def _some_name(rng: Random) -> str:
    name = rng.choice(_NAMES + TEXTS)
    return name if rng.random() < 0.3 or name.endswith(".png") else f"cat/{name[:60_000]}.png"


def _zip_name(rng: Random, members: Members) -> tuple[bytes, str]:
    old = rng.choice(list(members))
    new = _some_name(rng)[:65_000].encode("utf-8", "replace").decode()[:20_000]
    entries = [(new if name == old else name, content, 0) for name, content in members.items()]
    return _zip(entries), f"{old} named {shown(new)}"


def _zip_twice(rng: Random, members: Members) -> tuple[bytes, str]:
    import warnings

    name = rng.choice(list(members))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _zip([*_entries(members), (name, rng.randbytes(50), 0)]), f"{name} twice"


def _zip_link(rng: Random, members: Members) -> tuple[bytes, str]:
    mode = rng.choice((0o120777, 0o010644, 0o020666, 0o060666, 0o140777, 0o040755, 0o100000))
    target = rng.choice((b"/etc/passwd", b"..", b"cat/1.png", b"link.png"))
    return _zip([*_entries(members), ("cat/link.png", target, mode)]), f"a member of mode {mode:o}"


def _zip_encrypted(rng: Random, members: Members) -> tuple[bytes, str]:
    made = bytearray(plain_zip(members))
    at = made.find(b"PK\x01\x02")
    made[at + 8] |= 1
    return bytes(made), "said to be encrypted"


def _patched(rng: Random, made: bytes, fields: tuple[tuple[int, int, str], ...]) -> bytes:
    """Overwrite a field of a member's local and central header, or of one of them."""
    changed = bytearray(made)
    central = made.find(b"PK\x01\x02")
    local = made.find(b"PK\x03\x04")
    values = (0, 1, 10, 2**16, 10**9, 2**30 + 1, 2**31, 2**32 - 1)
    value = rng.choice(values)
    in_local, in_central, code = rng.choice(fields)
    places = rng.choice(((central, in_central), (local, in_local), None))
    for home, offset in ((central, in_central), (local, in_local)) if places is None else (places,):
        struct.pack_into(f"<{code}", changed, home + offset, value % 256 ** struct.calcsize(code))
    return bytes(changed)


def _zip_sizes(rng: Random, members: Members) -> tuple[bytes, str]:
    fields = ((14, 16, "I"), (18, 20, "I"), (22, 24, "I"), (26, 28, "H"), (28, 30, "H"))
    return _patched(rng, plain_zip(members), fields), "a number of the first member is another"


def _zip_method(rng: Random, members: Members) -> tuple[bytes, str]:
    made = bytearray(plain_zip(members))
    method = rng.choice((0, 1, 6, 9, 12, 14, 93, 95, 98, 99, 65535))
    struct.pack_into("<H", made, made.find(b"PK\x01\x02") + 10, method)
    if rng.random() < 0.7:
        struct.pack_into("<H", made, made.find(b"PK\x03\x04") + 8, method)
    return bytes(made), f"compressed by method {method}"


@cache
def _zeros(size: int) -> bytes:
    """Return the deflated form of so many zeros, a block of 16 MiB after the other."""
    block = 16 * _MIB
    engine = zlib.compressobj(9, zlib.DEFLATED, -15)
    piece = engine.compress(bytes(block)) + engine.flush(zlib.Z_FULL_FLUSH)
    return piece * (size // block) + zlib.compressobj(9, zlib.DEFLATED, -15).flush()


def _zip_bomb(rng: Random, members: Members) -> tuple[bytes, str]:
    """Put in a member of zeros whose headers say what they like of its size."""
    said = rng.choice((10, 2**20, _BOMB))
    deflated = _zeros(_BOMB)
    name = b"cat/bomb.png"
    fields = (20, 0, 8, 0, 33, 0, len(deflated), said, len(name))
    local = struct.pack("<4s5HIIIHH", b"PK\x03\x04", *fields, 0) + name + deflated
    made = plain_zip(members)
    start = made.find(b"PK\x01\x02")
    end = made.find(b"PK\x05\x06")
    central = struct.pack("<4s6HIIIHHHHHII", b"PK\x01\x02", 20, *fields, 0, 0, 0, 0, 0, start)
    directory = made[start:end] + central + name
    tail = struct.pack(
        "<4s4HIIH",
        b"PK\x05\x06",
        *(0, 0, len(members) + 1, len(members) + 1, len(directory), start + len(local), 0),
    )
    return made[:start] + local + directory + tail, f"3 GiB of zeros said to be {said} bytes"


_ZIPS: tuple[Callable[[Random, Members], tuple[bytes, str]], ...] = (
    *(_zip_name, _zip_name, _zip_name, _zip_sizes, _zip_sizes),
    *(_zip_method, _zip_link, _zip_twice, _zip_encrypted),
)


def _info(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = size
    return info


def _tar(entries: list[tuple[tarfile.TarInfo, bytes]], form: int = tarfile.PAX_FORMAT) -> bytes:
    made = b""
    for info, content in entries:
        made += info.tobuf(form, "utf-8", "surrogateescape")
        made += content + bytes(-len(content) % 512)
    return made + bytes(1024)


def _compressed(content: bytes, compression: str) -> bytes:
    if compression == "gz":
        return gzip.compress(content, mtime=0)
    if compression == "xz":
        return lzma.compress(content, preset=0)
    return bz2.compress(content) if compression == "bz2" else content


def _tar_name(rng: Random, members: Members) -> tuple[bytes, str]:
    old = rng.choice(list(members))
    new = _some_name(rng).encode("utf-8", "replace").decode()[:5000]
    form = rng.choice((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT))
    entries = [(_info(new if n == old else n, len(c)), c) for n, c in members.items()]
    return _tar(entries, form), f"{old} named {shown(new)}"


def _tar_kind(rng: Random, members: Members) -> tuple[bytes, str]:
    kind = rng.choice((*b"0123456789", *b"KLSVDMNXxgAz", 0))
    info = _info("cat/odd.png", rng.choice((0, 0, 100)))
    info.type = bytes([kind])
    info.linkname = rng.choice(("/etc/passwd", "..", "cat/1.png", "cat/odd.png", "../../x"))
    info.devmajor, info.devminor = 1, 5
    at = rng.randint(0, len(members))
    entries = [(_info(n, len(c)), c) for n, c in members.items()]
    entries[at:at] = [(info, rng.randbytes(info.size))]
    return _tar(entries, tarfile.GNU_FORMAT), f"a member of type {bytes([kind])!r}"


def _summed(made: bytearray, at: int) -> None:
    """Write the checksum of a header that was changed."""
    made[at + 148 : at + 156] = b" " * 8
    made[at + 148 : at + 156] = b"%06o\0 " % sum(made[at : at + 512])


def _tar_sizes(rng: Random, members: Members) -> tuple[bytes, str]:
    made = bytearray(plain_tar(members))
    size = rng.choice((0, 1, 10**6, 2**30 + 1, 8**11 - 1))
    field = rng.choice((b"%011o\0" % size, b"-0000000001\0", b"\x80" + b"\x7f" * 11, b"\xff" * 12))
    made[124:136] = field
    _summed(made, 0)
    return bytes(made), f"size field of the first member {field!r}"


def _tar_field(rng: Random, members: Members) -> tuple[bytes, str]:
    made = bytearray(plain_tar(members))
    at, width = rng.choice(
        ((0, 100), (100, 8), (108, 8), (136, 12), (257, 8), (329, 8), (345, 155))
    )
    made[at : at + width] = rng.choice((rng.randbytes(width), b"\xff" * width, b"9" * width))
    _summed(made, 0)
    return bytes(made), f"header field at {at} spoiled"


def _tar_pax(rng: Random, members: Members) -> tuple[bytes, str]:
    key = rng.choice(
        ("path", "size", "linkpath", "mtime", "GNU.sparse.map", "GNU.sparse.size", "a")
    )
    value = rng.choice(("-1", "1e400", "10" + "0" * 30, "../x.png", "1,2,3", "nan", "\x00", ""))
    entries = [(_info(n, len(c)), c) for n, c in members.items()]
    entries[0][0].pax_headers = {key: value}
    return _tar(entries), f"pax header {key}={value!r}"


def _tar_bomb(rng: Random, members: Members, compression: str) -> tuple[bytes, str]:
    """Put zeros after the members, as one of them: in several streams, where it is compressed."""
    size = _BOMB if compression else 0
    said = rng.choice((size, 2**30 - 512, 100))
    header = plain_tar(members)[:-1024] + _tar([(_info("cat/bomb.png", said), b"")])[:512]
    if not compression:
        return header + bytes(1024), f"{said} bytes said to follow"
    zeros = _streams(size, compression)
    return _compressed(header, compression) + zeros, f"3 GiB of zeros said to be {said} bytes"


@cache
def _streams(size: int, compression: str) -> bytes:
    """Return so many zeros compressed, in streams of 64 MiB one after the other."""
    return _compressed(bytes(64 * _MIB), compression) * (size // (64 * _MIB))


_TARS: tuple[Callable[[Random, Members], tuple[bytes, str]], ...] = (
    *(_tar_name, _tar_name, _tar_name, _tar_kind, _tar_kind),
    *(_tar_sizes, _tar_sizes, _tar_pax, _tar_field),
)
