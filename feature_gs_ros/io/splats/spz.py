"""Niantic's SPZ, versions 1 to 4, through ``gsply``: quantised to 24-bit positions and 8 bits for the rest.

gsply unpacks what a file says; here the sizes that it says are held against the file before that.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from feature_gs_ros.core.errors import MapError
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.io.atomic import atomic_path
from feature_gs_ros.io.files import open_regular
from feature_gs_ros.io.splats.extras import need
from feature_gs_ros.io.splats.gaussian_ply import MAX_LOGIT, as_antialiased

MAGIC = b"NGSP"
GZIP = b"\x1f\x8b"
_HEADER = struct.Struct("<4sIIBBBB")  # magic, version, points, SH degree, fractional bits, flags, reserved or streams
_ANTIALIASED = 1  # of the flags
_MIN_BYTES = 9 + 1 + 3 + 3 + 3  # of a point before compression: position, alpha, colour, scale, rotation
_MAX_RATIO = 1100  # of deflate; beyond it a count stands for bytes that can't be there
_TRAILER = 1 << 20  # bytes of extensions behind the points that are let through
_CHUNK = 1 << 20
_ZSTD_HEADER = 18  # bytes at most of a zstd frame before its first block
_STREAM = struct.Struct("<QQ")  # of version 4, for each stream: bytes packed and unpacked


class Spz:
    """See `SplatFormat`."""

    name = "SPZ"

    def matches(self, path: Path, start: bytes) -> bool:
        return start[:4] == MAGIC or (start[:2] == GZIP and path.suffix.lower() == ".spz")

    def load(self, path: Path) -> GaussianMap:
        gsply = need("gsply", f"'{path}', an SPZ,")
        header = _checked_header(path)
        try:
            data = gsply.read_spz(path)
        except (ValueError, RuntimeError, OverflowError, MemoryError, LookupError) as error:
            raise MapError(f"'{path}' can't be read as SPZ: {error}; export it again", code="map.format") from error
        except Exception as error:  # zstandard's own class, which this module doesn't know
            if type(error).__module__.partition(".")[0] not in ("zstandard", "zstd", "isal"):
                raise
            raise MapError(f"'{path}' can't be read as SPZ: {error}; export it again", code="map.format") from error
        gaussians = from_gsply(data, f"'{path}'")
        return as_antialiased(gaussians) if header.flags & _ANTIALIASED else gaussians


class _Header(NamedTuple):
    version: int
    points: int
    degree: int
    flags: int


def save_spz(gaussians: GaussianMap, path: str | Path) -> None:
    """Write an SPZ (version 3) that web viewers open; it is lossy: see docs/formats.md.

    Raises:
        MapError: the map is empty, gsply isn't installed, or the file can't be written.
    """
    path = Path(path)
    gsply = need("gsply", "writing SPZ")
    if len(gaussians) == 0:
        raise MapError(f"no Gaussian is left to write to '{path}'; a splat file can't be empty", code="map.empty")
    opacities = gaussians.opacities.double()
    logits = (opacities.log() - torch.log1p(-opacities)).clamp(-MAX_LOGIT, MAX_LOGIT)
    sh = gaussians.sh.numpy()
    data = gsply.GSData.from_arrays(
        gaussians.means.numpy(),
        gaussians.scales.double().log().float().numpy(),
        gaussians.quats_wxyz.numpy(),
        logits.float().numpy(),
        np.ascontiguousarray(sh[:, 0]),
        np.ascontiguousarray(sh[:, 1:]) if sh.shape[1] > 1 else None,
        format="ply",
    )
    try:
        with atomic_path(path) as temporary:
            gsply.write_spz(temporary, data)
            if gaussians.antialiased:
                _set_flags(temporary, _ANTIALIASED)
    except OSError as error:
        raise MapError(f"can't write '{path}': {error.strerror}", code="map.unwritable") from error


def _set_flags(path: Path, flags: int) -> None:
    """Write an SPZ of version 3 again with these flags, which gsply leaves at 0."""
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[14] |= flags  # after magic, version, points, degree and fractional bits
    path.write_bytes(gzip.compress(bytes(content), compresslevel=6))


def from_gsply(data: Any, source: str) -> GaussianMap:
    """A map from gsply's container, which holds what a 3DGS PLY does.

    Raises:
        MapError: as `GaussianMap.from_tensors`.
    """
    first = np.asarray(data.sh0, np.float32)[:, None]
    rest = np.zeros((len(first), 0, 3), np.float32) if data.shN is None else np.asarray(data.shN, np.float32)
    return GaussianMap.from_parameters(
        torch.from_numpy(np.array(data.means, np.float32)),
        torch.from_numpy(np.array(data.quats, np.float32)),
        torch.from_numpy(np.array(data.scales, np.float32)),
        torch.from_numpy(np.array(data.opacities, np.float32).reshape(-1)),
        torch.from_numpy(np.concatenate([first, rest], axis=1)),
        source,
    )


def _checked_header(path: Path) -> _Header:
    """What the file says of itself, if as many bytes are there; only so much is unpacked as it says.

    Raises:
        MapError: it isn't SPZ, or is damaged.
    """
    with open_regular(path) as file:
        start = file.read(_HEADER.size)
        size = file.seek(0, 2)
        is_gzip = start[:2] == GZIP
        if is_gzip:
            file.seek(0)
            start = _unpacked_start(file.read(_CHUNK), path)
        if len(start) < _HEADER.size or start[:4] != MAGIC:
            raise MapError(
                f"'{path}' is not an SPZ, or cut off: it has {size} bytes; copy it again", code="map.damaged"
            )
        _, version, points, degree, _, flags, _ = _HEADER.unpack(start[: _HEADER.size])
        if points == 0 or points * _MIN_BYTES > size * _MAX_RATIO:
            raise MapError(
                f"'{path}' says that it holds {points} Gaussians, in {size} bytes: damaged; copy it again",
                code="map.damaged",
            )
        if degree > 3:
            raise MapError(
                f"'{path}' has spherical harmonics of degree {degree}, up to 3 are read from SPZ: export it with 3",
                code="map.unsupported",
            )
        if is_gzip:
            most = _HEADER.size + points * (_MIN_BYTES + 1 + 3 * ((degree + 1) ** 2 - 1)) + _TRAILER
            file.seek(0)
            _check_unpacked_size(file, most, path)
        else:
            _check_streams(file, size, path)
    return _Header(version, points, degree, flags)


def _check_streams(file: Any, size: int, path: Path) -> None:
    """Raise a MapError where a zstd frame of version 4 says that it holds more than the table of streams says.

    gsply gives the table's size as a limit, which zstandard doesn't keep to where a frame names its own.
    """
    zstandard = need("zstandard", f"'{path}', an SPZ of version 4,")
    file.seek(0)
    head = file.read(_HEADER.size + 4)
    count, table = head[15], int.from_bytes(head[16:20], "little")
    offset = table + count * _STREAM.size
    for number in range(count):
        file.seek(table + number * _STREAM.size)
        entry = file.read(_STREAM.size)
        packed, unpacked = _STREAM.unpack(entry) if len(entry) == _STREAM.size else (size, 0)
        if offset + packed > size:
            raise MapError(f"'{path}' is cut off: its streams don't fit into {size} bytes", code="map.damaged")
        file.seek(offset)
        try:
            declared = zstandard.frame_content_size(file.read(_ZSTD_HEADER))
        except zstandard.ZstdError as error:
            raise MapError(f"'{path}' is damaged: {error}; export it again", code="map.damaged") from error
        if declared > unpacked:
            raise MapError(
                f"a stream of '{path}' unpacks to {declared} bytes instead of {unpacked}: damaged; export it again",
                code="map.damaged",
            )
        offset += packed


def _unpacked_start(data: bytes, path: Path) -> bytes:
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(data, _HEADER.size)
    except zlib.error as error:
        raise MapError(f"'{path}' is damaged: {error}; copy it again", code="map.damaged") from error


def _check_unpacked_size(file: Any, most: int, path: Path) -> None:
    """Raise a MapError where gzip's stream holds more than ``most`` bytes, ends too early, or others follow."""
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
    unpacked = 0
    try:
        while not unpacker.eof:
            data = unpacker.unconsumed_tail or file.read(_CHUNK)
            if not data:
                raise MapError(
                    f"'{path}' is cut off: its compressed data ends too early; copy it again", code="map.damaged"
                )
            unpacked += len(unpacker.decompress(data, _CHUNK))
            if unpacked > most:
                raise MapError(
                    f"'{path}' unpacks to more than the {most} bytes of its Gaussians: damaged", code="map.damaged"
                )
    except zlib.error as error:
        raise MapError(f"'{path}' is damaged: {error}; copy it again", code="map.damaged") from error
    if unpacker.unused_data or file.read(1):
        raise MapError(
            f"'{path}' holds further data behind its Gaussians: damaged; export it again", code="map.damaged"
        )
