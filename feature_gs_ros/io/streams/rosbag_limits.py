"""What `rosbags` unpacks, within limits: a few kilobytes of zstd, LZ4 or SQL may stand for gigabytes.

`rosbags` decompresses a message or a chunk whole, and looks at its size afterwards. `limit_rosbags` puts functions of
the same meaning in their place, which stop at the size that is declared, and at `MAX_UNPACKED` in any case.
"""

from __future__ import annotations

import bz2
import re
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import lz4.frame  # type: ignore[import-untyped] # comes with rosbags
from rosbags.rosbag1 import reader as rosbag1_reader
from rosbags.rosbag2 import ReaderError, reader, storage_mcap, storage_sqlite3

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_STORED = re.compile(r"\s*create\s+(table|(unique\s+)?index)\s", re.IGNORECASE)
DISK_FRACTION = 0.9  # of the free space that a recording compressed as whole files may take
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


def check_sqlite(path: str | Path) -> None:
    """Let through what is stored in a SQLite file, and nothing that is computed: a view or a column may have no end.

    Raises:
        ReaderError: a view, a trigger, a virtual table or a computed column, or a name that SQLite takes for another.
        sqlite3.Error: it is damaged.
    """
    path = Path(path)
    if any(sign in str(path) for sign in "?#%"):  # rosbags hands it on within a URI
        raise ReaderError(f"its path holds ?, # or %: rename it, as SQLite takes '{path.name}' for another name")
    with closing(sqlite3.connect(f"file:{quote(str(path.absolute()))}?immutable=1", uri=True)) as database:
        for name, definition in database.execute("SELECT name, sql FROM sqlite_master").fetchall():
            if definition is not None and not _STORED.match(definition):
                raise ReaderError(f"'{str(name)[:80]}' in it is no plain table or index; only those are read")
            if any(hidden for *_, hidden in database.execute("SELECT * FROM pragma_table_xinfo(?)", (name,))):
                raise ReaderError(f"the table '{str(name)[:80]}' in it has computed columns; only stored ones are read")


def unpack_file(packed: Path, target: Path) -> None:
    """Write what a zstd file holds to another file.

    Raises:
        ReaderError: it takes more than `DISK_FRACTION` of the disk's free space.
        OSError, EOFError, ZstdError: it can't be read or written, or is damaged.
    """
    with packed.open("rb") as file, _BoundedFile(file) as source, target.open("wb") as unpacked:
        while data := source.read(1 << 20):
            unpacked.write(data)


class _BoundedFile:
    """A zstd file as what it holds, as far as the folder of temporary files has room for that."""

    def __init__(self, file: Any, _mode: str = "rb") -> None:
        self._file = zstd.open(file, "rb")
        self._folder = tempfile.gettempdir()
        self._left = int(DISK_FRACTION * shutil.disk_usage(self._folder).free)

    def __enter__(self) -> _BoundedFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, size: int) -> bytes:
        data: bytes = self._file.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise ReaderError(
                f"unpacked it takes more than {DISK_FRACTION:.0%} of what is free in '{self._folder}': "
                "set TMPDIR to a folder with more room"
            )
        return data


class _BoundedZstd:
    """Stands for the module ``zstd`` within `rosbags`."""

    decompress = staticmethod(unpacked_zstd)
    open = _BoundedFile

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
    opened = storage_sqlite3.Sqlite3Reader.open

    def open_checked(self: storage_sqlite3.Sqlite3Reader) -> None:
        check_sqlite(str(self.path))
        opened(self)

    setattr(storage_sqlite3.Sqlite3Reader, "open", open_checked)  # noqa: B010 - mypy knows it for a method
    rosbag1_reader.decompressors.update(bz2=unpacked_bz2, lz4=unpacked_lz4)
