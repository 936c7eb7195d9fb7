"""Recordings of a few kilobytes that could have no end: what SQLite computes, what zstd unpacks, pipes."""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from feature_gs_ros.core.errors import StreamError
from feature_gs_ros.io.streams.registry import open_stream
from tests.errors import raises
from tests.recordings import record

if sys.version_info >= (3, 14):
    from compression import zstd as _zstd
else:
    from backports import zstd as _zstd

ENDLESS = "WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n)"


@contextmanager
def changed(folder: Path) -> Iterator[sqlite3.Connection]:
    record(folder, "sqlite3", count=2)
    (file,) = folder.glob("*.db3")
    with closing(sqlite3.connect(file)) as database:
        yield database
        database.commit()


def test_a_view_without_end_is_not_asked(tmp_path: Path) -> None:
    with changed(tmp_path / "bag") as database:
        database.execute("DROP TABLE message_definitions")
        database.execute(
            f"CREATE VIEW message_definitions AS {ENDLESS} SELECT id, 'a' AS topic_type, 'ros2msg' AS encoding, "
            "hex(zeroblob(1000000)) AS encoded_message_definition, '' AS type_description_hash FROM n"
        )
    with raises("stream.unreadable", "message_definitions"):
        open_stream(tmp_path / "bag")


def test_a_view_that_says_it_is_a_table_is_none(tmp_path: Path) -> None:
    with changed(tmp_path / "bag") as database:
        database.execute("DROP TABLE message_definitions")
        database.execute(f"CREATE VIEW message_definitions AS {ENDLESS} SELECT id FROM n")
        database.execute("PRAGMA writable_schema = ON")
        database.execute("UPDATE sqlite_master SET type = 'table' WHERE name = 'message_definitions'")
    with raises("stream.unreadable"):
        open_stream(tmp_path / "bag")


@pytest.mark.parametrize("kind", ["VIRTUAL", "STORED"])
def test_computed_columns_are_not_read(kind: str, tmp_path: Path) -> None:
    with changed(tmp_path / "bag") as database:
        database.execute("ALTER TABLE messages RENAME TO before")
        size = 500_000_000 if kind == "VIRTUAL" else 5
        database.execute(
            "CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER, timestamp INTEGER, "
            f"data BLOB GENERATED ALWAYS AS (zeroblob({size})) {kind})"
        )
        database.execute("INSERT INTO messages(id, topic_id, timestamp) SELECT id, topic_id, timestamp FROM before")
        database.execute("DROP TABLE before")
    with raises("stream.unreadable", "messages"):
        open_stream(tmp_path / "bag")


def test_names_that_sqlite_reads_otherwise_are_named(tmp_path: Path) -> None:
    record(tmp_path / "bag", "sqlite3", count=2)
    (tmp_path / "bag").rename(tmp_path / "50% #1?")
    with raises("stream.unreadable", "rename"):
        open_stream(tmp_path / "50% #1?")


def test_what_recorders_write_is_read(tmp_path: Path) -> None:
    record(tmp_path / "bag", "sqlite3", count=2)
    assert len(open_stream(tmp_path / "bag").names()) == 2


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_file_compressed_as_a_whole_is_read(storage: str, tmp_path: Path) -> None:
    record(tmp_path / "bag", storage, count=2)
    (file,) = (tmp_path / "bag").glob("*.[md][cb]*")
    packed = tmp_path / f"{file.name}.zstd"
    packed.write_bytes(_zstd.compress(file.read_bytes()))
    stream = open_stream(packed)
    assert stream.source == str(packed)
    assert [frame.name for frame in stream.frames()] == open_stream(tmp_path / "bag").names()
    packed.write_bytes(packed.read_bytes()[:-50])
    with raises("stream.unreadable", packed):
        open_stream(packed)


@pytest.mark.parametrize("whole", [True, False])
def test_a_file_is_unpacked_as_far_as_the_disk_has_room(
    whole: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(tmp_path / "bag", "mcap", count=2)
    (file,) = (tmp_path / "bag").glob("*.mcap")
    packed = file.with_name(f"{file.name}.zstd")
    packed.write_bytes(_zstd.compress(file.read_bytes()) + _zstd.compress(bytes(1 << 24)))
    if not whole:
        file.unlink()
        text = (tmp_path / "bag" / "metadata.yaml").read_text()
        text = text.replace(file.name, packed.name)
        text = text.replace("compression_format: ''", "compression_format: zstd")
        text = text.replace("compression_mode: ''", "compression_mode: file")
        (tmp_path / "bag" / "metadata.yaml").write_text(text)
    usage = SimpleNamespace(free=1 << 23)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with raises("stream.unreadable", "TMPDIR"):
        open_stream(packed if whole else tmp_path / "bag")


def test_pipes_are_not_opened(tmp_path: Path) -> None:
    record(tmp_path / "bag", "mcap", count=2)
    (file,) = (tmp_path / "bag").glob("*.mcap")
    file.unlink()
    os.mkfifo(file)
    with raises("stream.unreadable", file.name):
        open_stream(tmp_path / "bag")
    (tmp_path / "bag" / "metadata.yaml").unlink()
    for path in (tmp_path / "bag", file, tmp_path / "cameras.json", tmp_path / "a.mcap.zstd"):
        if not path.exists():
            os.mkfifo(path)
        with pytest.raises(StreamError):
            open_stream(path)
