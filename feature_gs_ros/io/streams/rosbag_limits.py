"""What `rosbags` unpacks, within limits: a few kilobytes of zstd or LZ4 may stand for gigabytes.

`rosbags` decompresses a message or a chunk whole, and looks at its size afterwards. `limit_rosbags` puts functions of
the same meaning in their place, which stop at the size that is declared, and at `MAX_UNPACKED` in any case.
"""

from __future__ import annotations

import bz2
import sys
from collections.abc import Callable
from typing import Any

import lz4.frame  # type: ignore[import-untyped] # comes with rosbags
from rosbags.rosbag1 import reader as rosbag1_reader
from rosbags.rosbag2 import ReaderError, reader, storage_mcap

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAX_UNPACKED = 1 << 29  # bytes of a message or chunk: an image of 178 million pixels


def unpacked_zstd(data: bytes, limit: int = MAX_UNPACKED) -> bytes:
    """All frames of zstd data, unpacked.

    Raises:
        ReaderError: they hold more than ``limit`` bytes, or end too early.
        ZstdError: they are damaged.
    """
    parts: list[bytes] = []
    left, rest = limit, bytes(data)
    while rest:
        unpacker = zstd.ZstdDecompressor()
        parts.append(_unpacked(unpacker, rest, left))
        left, rest = left - len(parts[-1]), unpacker.unused_data
    return parts[0] if len(parts) == 1 else b"".join(parts)


def unpacked_lz4(data: bytes, limit: int = MAX_UNPACKED) -> bytes:
    """An LZ4 frame, unpacked.

    Raises:
        ReaderError: it holds more than ``limit`` bytes, or ends too early.
        RuntimeError: it is damaged.
    """
    return _unpacked(lz4.frame.LZ4FrameDecompressor(), data, limit)


def unpacked_bz2(data: bytes) -> bytes:
    """A bzip2 stream, unpacked.

    Raises:
        ReaderError: it holds more than `MAX_UNPACKED` bytes, or ends too early.
        OSError: it is damaged.
    """
    return _unpacked(bz2.BZ2Decompressor(), data, MAX_UNPACKED)


def _unpacked(unpacker: Any, data: bytes, limit: int) -> bytes:
    result: bytes = unpacker.decompress(data, max_length=limit + 1)
    if len(result) > limit:
        raise ReaderError(f"{len(data)} compressed bytes hold more than {limit}, which is the limit")
    if not unpacker.eof:
        raise ReaderError(f"compressed data ends after {len(data)} bytes in the middle of a frame")
    return result


class _BoundedZstd:
    """Stands for the module ``zstd`` within `rosbags`."""

    decompress = staticmethod(unpacked_zstd)

    def __getattr__(self, name: str) -> Any:
        return getattr(zstd, name)


def limit_rosbags() -> None:
    """Let `rosbags` unpack within limits from now on, in this process."""
    if isinstance(vars(reader)["zstd"], _BoundedZstd):
        return
    vars(reader)["zstd"] = _BoundedZstd()
    unpackers: dict[str, Callable[[bytes, int], bytes]] = {
        "zstd": lambda data, size: unpacked_zstd(data, min(size, MAX_UNPACKED)),
        "lz4": lambda data, size: unpacked_lz4(data, min(size, MAX_UNPACKED)),
    }
    storage_mcap.DECOMPRESSORS.update(unpackers)
    rosbag1_reader.decompressors.update(bz2=unpacked_bz2, lz4=unpacked_lz4)
