"""A recording: MCAP or sqlite3 of ROS 2, a bag of ROS 1, MCAP of Foxglove's schemas; damage is a StreamError."""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rosbags import rosbag1
from rosbags.rosbag2 import Reader, ReaderError
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore

from feature_gs_ros.core.errors import StreamError
from feature_gs_ros.core.text import shown
from feature_gs_ros.io.files import is_file
from feature_gs_ros.io.streams import foxglove
from feature_gs_ros.io.streams.mcap_scan import McapScan, profile_of
from feature_gs_ros.io.streams.rosbag_limits import limit_rosbags, unpack_file
from feature_gs_ros.io.structured import read_table

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
TF = "tf2_msgs/msg/TFMessage"
_ROS1 = b"#ROSBAG V"
_PACKED = (".zstd", ".zst")  # of a storage file that is compressed as a whole
_MESSAGE_DAMAGE = (SerdeError, StreamError, struct.error, ValueError, IndexError, AssertionError)
_READ_TYPES = (IMAGE, COMPRESSED_IMAGE, CAMERA_INFO, TF)


@dataclass(frozen=True)
class Topic:
    """A topic with messages of a type that is read here."""

    name: str
    type: str


class Bag:
    """A recording's folder, or its only ``.mcap`` or ``.db3`` file (or one of them as ``.zstd``), or a ROS 1 ``.bag``.

    The four message types read here are the same in every distribution since Foxy, so that definitions
    stored in the bag aren't needed, and broken ones of other topics do no harm.

    Raises:
        StreamError: missing, damaged, or not closed by its recorder.
    """

    def __init__(self, path: str | Path) -> None:
        limit_rosbags()
        with _reading(Path(path)):
            self.path = _storage(Path(path))
        if self.path.is_dir():
            _check_metadata(self.path)
        self._is_ros1 = self.path.is_file() and _start(self.path).startswith(_ROS1)
        self._opened = self.path
        if self.path.is_file() and self.path.suffix in _PACKED:
            self._unpacked = TemporaryDirectory(prefix="feature_gs_ros-")  # goes with this object
            self._opened = Path(self._unpacked.name, self.path.stem)
            with _reading(self.path):
                unpack_file(self.path, self._opened)
        # Of another profile than rosbags reads: Foxglove's schemas, or ROS 2's written by its tools.
        self.is_foxglove = self._opened.is_file() and profile_of(self._opened) not in (None, "ros2")
        with self._open() as reader:
            counts = {(entry.topic, _type_of(entry)): entry.msgcount for entry in reader.connections}
            self.all_topics = sorted({topic for topic, _ in counts})
            self.topics = [Topic(*key) for key, count in sorted(counts.items()) if count > 0 and key[1] in _READ_TYPES]

    def names(self, *types: str) -> list[str]:
        """Names of the topics of some types, sorted."""
        return [topic.name for topic in self.topics if topic.type in types]

    def messages(self, topics: Collection[str]) -> Iterator[tuple[str, Any]]:
        """Topic and message, in the order of recording; None for a message whose bytes are damaged.

        Only the topics asked for are deserialised, and one message at a time is held.

        Raises:
            StreamError: the storage is damaged.
        """
        with self._open() as reader:
            connections = _connections(reader, topics)
            for connection, _, data in reader.messages(connections) if connections else ():
                yield connection.topic, self._deserialised(data, connection)

    def serialised(self) -> Iterator[tuple[Topic, int, bytes]]:
        """Topic, recording stamp [ns] and CDR bytes of the messages of `topics`, in the order of recording.

        Raises:
            StreamError: the storage is damaged.
        """
        with self._open() as reader:
            connections = _connections(reader, [topic.name for topic in self.topics])
            for connection, stamp, data in reader.messages(connections) if connections else ():
                with suppress(*_MESSAGE_DAMAGE):
                    cdr = self._cdr(data, connection)
                    yield Topic(connection.topic, _type_of(connection)), stamp, bytes(cdr)

    def first_messages(self, topics: Collection[str]) -> dict[str, Any]:
        """The first message of each topic.

        Raises:
            StreamError: the storage is damaged.
        """
        first: dict[str, Any] = {}
        with self._open() as reader:
            for connection in _connections(reader, topics):
                for _, _, data in reader.messages([connection]):
                    first.setdefault(connection.topic, self._deserialised(data, connection))
                    break
        return first

    def spread_messages(self, topic: str, count: int) -> Iterator[Any]:
        """Up to so many messages of a topic, spread over the time of the recording.

        Raises:
            StreamError: the storage is damaged.
        """
        with self._open() as reader:
            connections = _connections(reader, [topic])
            start, duration = reader.start_time, reader.end_time - reader.start_time
            last = None
            for step in range(count if connections else 0):
                for connection, stamp, data in reader.messages(connections, start=start + step * duration // count):
                    if stamp != last:
                        yield self._deserialised(data, connection)
                    last = stamp
                    break

    @contextmanager
    def _open(self) -> Iterator[Any]:
        """The reader of `rosbags` for this recording; both kinds have the same methods."""
        with _reading(self.path):
            if self._is_ros1:
                reader: Any = rosbag1.Reader(self._opened)
            else:
                reader = McapScan(self._opened) if self.is_foxglove else Reader(self._opened)
            with reader as opened:
                yield opened

    def _cdr(self, data: bytes, connection: Any) -> bytes | memoryview:
        if connection.msgtype in foxglove.ROS_TYPES:
            message = foxglove.ros_message(connection.msgtype, connection.encoding, data, _typestore())
            return _typestore().serialize_cdr(message, _type_of(connection))
        return _typestore().ros1_to_cdr(data, _type_of(connection)) if self._is_ros1 else data

    def _deserialised(self, data: bytes, connection: Any) -> Any:
        """The message, None where its bytes are damaged. ROS 1 sends the same values in the same order, unaligned."""
        try:
            if connection.msgtype in foxglove.ROS_TYPES:
                return foxglove.ros_message(connection.msgtype, connection.encoding, data, _typestore())
            cdr = _typestore().ros1_to_cdr(data, _type_of(connection)) if self._is_ros1 else data
            return _typestore().deserialize_cdr(cdr, _type_of(connection))
        except _MESSAGE_DAMAGE:
            return None


def is_bag(path: Path) -> bool:
    """Whether a folder or file looks like a rosbag2 recording."""
    if path.is_dir():
        metadata = path / "metadata.yaml"
        described = metadata.is_file() and b"rosbag2_bagfile_information" in metadata.read_bytes()
        return described or bool(_storage_files(path))
    if path.is_file() and _is_storage(path) and path.suffix in _PACKED:
        return True
    return path.is_file() and _start(path).startswith((b"\x89MCAP", b"SQLite format 3", _ROS1))


def _storage(path: Path) -> Path:
    """What `rosbags` opens: the folder, or the only file of one without metadata.yaml."""
    if not path.exists():
        raise StreamError(f"there is no recording '{path}'", code="stream.unreadable")
    files = _storage_files(path) if path.is_dir() else [path]
    for file in files:
        log = file.with_name(file.name + "-wal")
        if log.is_file() and log.stat().st_size > 0:
            raise StreamError(
                f"'{file}' was not closed by its recorder: '{log.name}' holds messages that aren't in it yet; "
                f"run sqlite3 '{file}' 'PRAGMA wal_checkpoint(TRUNCATE)'",
                code="stream.unfinished",
            )
    if path.is_dir() and not (path / "metadata.yaml").is_file():
        if len(files) != 1:
            raise StreamError(
                f"'{path}' has {len(files)} storage files and no metadata.yaml; run ros2 bag reindex",
                code="stream.unfinished",
            )
        return files[0]
    if path.is_file() and not _is_storage(path) and not _start(path).startswith(_ROS1):
        raise StreamError(
            f"'{path}' must end in .mcap or .db3 (or .mcap.zstd, .db3.zstd) to be read as a recording; rename it",
            code="stream.format",
        )
    return path


def _check_metadata(folder: Path) -> None:
    """Raise a StreamError unless metadata.yaml holds what `rosbags` takes from it, which looks at the kinds of few."""
    try:
        content = read_table(folder / "metadata.yaml", StreamError).table("rosbag2_bagfile_information")
        content.whole("version", least=1)
        content.text("storage_identifier")
        for name in content.texts("relative_file_paths"):
            if (folder / name).exists() and not is_file(folder / name):  # opened, a pipe would wait for its writer
                raise StreamError(f"'{shown(name)}' in it is no regular file", code="stream.unreadable")
        content.whole("message_count", least=0)
        for key in ("compression_format", "compression_mode"):
            if content.get(key) is not None:
                content.text(key)
        if content.get("files") is not None:
            content.tables("files")
        for entry in content.tables("topics_with_message_count"):
            entry.whole("message_count", least=0)
            topic = entry.table("topic_metadata")
            for key in ("name", "type", "serialization_format"):
                topic.text(key)
    except StreamError as error:
        raise StreamError(
            f"can't read the recording '{folder}': {error}; run ros2 bag reindex on the folder", code=error.code
        ) from error


def _start(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(16)


def _storage_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if _is_storage(file) and file.is_file())


def _is_storage(path: Path) -> bool:
    suffixes = path.suffixes[-2:] if path.suffix in _PACKED else path.suffixes[-1:]
    return suffixes[:1] in ([".mcap"], [".db3"])


def _connections(reader: Any, topics: Collection[str]) -> list[Any]:
    return [
        connection
        for connection in reader.connections
        if connection.topic in topics and _type_of(connection) in _READ_TYPES
    ]


def _type_of(connection: Any) -> str:
    """The message's type in ROS; ROS 1's first package of tf had one of its own, with the same content."""
    if connection.msgtype in foxglove.ROS_TYPES:
        return foxglove.ROS_TYPES[connection.msgtype]
    return TF if connection.msgtype == "tf/msg/tfMessage" else connection.msgtype


@lru_cache(maxsize=1)
def _typestore() -> Typestore:
    return get_typestore(Stores.ROS2_HUMBLE)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except _damage() as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        mended = (
            "rosbag reindex" if path.suffix == ".bag" else "mcap recover on the file or ros2 bag reindex on the folder"
        )
        raise StreamError(
            f"can't read the recording '{path}': {reason}; if its recorder was killed, run {mended}",
            code="stream.unreadable",
        ) from error


@lru_cache(maxsize=1)
def _damage() -> tuple[type[Exception], ...]:
    """What `rosbags` and the decoders below it raise on damaged bytes: they share no base class."""
    kinds: list[type[Exception]] = [
        ReaderError,
        rosbag1.ReaderError,
        OSError,
        EOFError,
        LookupError,
        ValueError,
        TypeError,
    ]
    kinds += [AssertionError, AttributeError, RuntimeError, MemoryError, OverflowError, struct.error]
    for module, name in (
        ("apsw", "Error"),
        ("sqlite3", "Error"),
        ("zstandard", "ZstdError"),
        ("backports.zstd", "ZstdError"),
        ("compression.zstd", "ZstdError"),
    ):
        with suppress(ImportError):  # which of them is there depends on the version of rosbags
            kinds.append(getattr(import_module(module), name))
    return tuple(kinds)
