"""MCAP of any profile, read from front to back: Foxglove's schemas in JSON or protobuf, and ROS 2's in CDR.

`rosbags` reads MCAP of the profile ``ros2`` alone. Here is what it leaves out, with the same methods as its readers,
so that a recording is a recording. The container: https://mcap.dev/spec.
"""

from __future__ import annotations

import os
import zlib
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from rosbags.rosbag2 import ReaderError

from feature_gs_ros.io.streams.rosbag_limits import MAX_UNPACKED, unpacked_lz4, unpacked_zstd

MAGIC = b"\x89MCAP0\r\n"
_HEADER, _FOOTER, _SCHEMA, _CHANNEL, _MESSAGE, _CHUNK = range(1, 7)
_MAX_RECORD = 1 << 30  # bytes


@dataclass(frozen=True)
class ScanConnection:
    """A channel: what `rosbags` calls a connection."""

    id: int
    topic: str
    msgtype: str  # the schema's name
    encoding: str  # of its messages: json, protobuf, cdr, …
    msgcount: int = 0


class McapScan:
    """Reads all records in their order; chunks are unpacked within limits (`limit_rosbags`)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.connections: list[ScanConnection] = []
        self.start_time, self.end_time = 0, 0

    def __enter__(self) -> McapScan:
        counts: Counter[int] = Counter()
        channels: dict[int, ScanConnection] = {}
        stamps: list[int] = []
        for channel, stamp, _ in self._messages(channels):
            counts[channel] += 1
            stamps = [min(stamps[0], stamp), max(stamps[1], stamp)] if stamps else [stamp, stamp]
        self.connections = [
            ScanConnection(entry.id, entry.topic, entry.msgtype, entry.encoding, counts[entry.id])
            for entry in channels.values()
        ]
        if stamps:
            self.start_time, self.end_time = stamps[0], stamps[1] + 1
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def messages(
        self, connections: Collection[ScanConnection] = (), start: int | None = None
    ) -> Iterator[tuple[ScanConnection, int, bytes]]:
        """Connection, stamp [ns] and bytes of the connections' messages, from a stamp on.

        Raises:
            ReaderError: the file is damaged.
        """
        wanted = {connection.id: connection for connection in connections}
        for channel, stamp, data in self._messages({}):
            if channel in wanted and (start is None or stamp >= start):
                yield wanted[channel], stamp, data

    def _messages(self, channels: dict[int, ScanConnection]) -> Iterator[tuple[int, int, bytes]]:
        """Channel, stamp and bytes of every message; channels are noted on the way."""
        schemas: dict[int, str] = {}
        with self.path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if file.read(len(MAGIC)) != MAGIC:
                raise ReaderError("it is no MCAP")
            for kind, content in _records(file, size):
                if kind == _FOOTER:
                    return
                inner = _unpacked(content) if kind == _CHUNK else [(kind, content)]
                for kind_within, record in inner:
                    if kind_within == _SCHEMA:
                        schemas[_uint(record, 0, 2)] = _text(record, 2)[0]
                    elif kind_within == _CHANNEL:
                        entry = _channel(record, schemas)
                        channels[entry.id] = entry
                    elif kind_within == _MESSAGE:
                        yield _uint(record, 0, 2), _uint(record, 6, 8), record[22:]
        raise ReaderError("it has no end: its recorder was killed")


def profile_of(path: Path) -> str | None:
    """The profile that an MCAP names; None for a file that is none."""
    with path.open("rb") as file:
        start = file.read(1 << 12)
    if not start.startswith(MAGIC) or len(start) < 21 or start[8] != _HEADER:
        return None
    length = int.from_bytes(start[17:21], "little")
    return start[21 : 21 + length].decode("utf-8", "replace")


def _records(file: BinaryIO, size: int) -> Iterator[tuple[int, bytes]]:
    while head := file.read(9):
        length = int.from_bytes(head[1:], "little")
        if len(head) < 9 or length > min(size - file.tell(), _MAX_RECORD):
            raise ReaderError(f"a record of {length} bytes doesn't fit into {size}")
        yield head[0], file.read(length)


def _unpacked(chunk: bytes) -> Iterator[tuple[int, bytes]]:
    """The records of a chunk."""
    size, crc = _uint(chunk, 16, 8), _uint(chunk, 24, 4)
    compression, at = _text(chunk, 28)
    length = _uint(chunk, at, 8)
    packed = chunk[at + 8 : at + 8 + length]
    data = _decompressed(packed, compression, size)
    if len(data) != size or (crc and zlib.crc32(data) != crc):
        raise ReaderError(f"a chunk of {size} bytes is damaged")
    at = 0
    while at + 9 <= len(data):
        end = at + 9 + _uint(data, at + 1, 8)
        if end > len(data):
            raise ReaderError("a record reaches beyond its chunk")
        yield data[at], data[at + 9 : end]
        at = end


def _decompressed(packed: bytes, compression: str, size: int) -> bytes:
    limit = min(size, MAX_UNPACKED)
    if compression == "zstd":
        return unpacked_zstd(packed, limit)
    if compression == "lz4":
        return unpacked_lz4(packed, limit)
    if compression:
        raise ReaderError(f"chunks are compressed by '{compression[:40]}', only zstd and lz4 are read")
    return packed


def _channel(record: bytes, schemas: dict[int, str]) -> ScanConnection:
    topic, at = _text(record, 4)
    return ScanConnection(_uint(record, 0, 2), topic, schemas.get(_uint(record, 2, 2), ""), _text(record, at)[0])


def _uint(data: bytes, at: int, size: int) -> int:
    part = data[at : at + size]
    if len(part) < size:
        raise ReaderError(f"a record ends after {len(data)} bytes")
    return int.from_bytes(part, "little")


def _text(data: bytes, at: int) -> tuple[str, int]:
    """A string with its length before it, and where it ends."""
    end = at + 4 + _uint(data, at, 4)
    if end > len(data):
        raise ReaderError(f"a record ends after {len(data)} bytes")
    try:
        return data[at + 4 : end].decode(), end
    except UnicodeDecodeError as error:
        raise ReaderError(f"a name in it is not UTF-8: {error}") from error
