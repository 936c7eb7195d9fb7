"""What was found good is not read through again; what changed is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from feature_gs_ros.io import checked_once
from feature_gs_ros.io.checked_once import mark_of, remember

CHECK = "a check 1"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of a few bytes that counts as large, and as settled."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(checked_once, "MIN_BYTES", 4)
    monkeypatch.setattr(checked_once, "SETTLED_NS", 0)
    path = tmp_path / "field"
    path.write_bytes(b"good file")
    return path


def known(path: Path, what: str = CHECK) -> bool:
    mark = mark_of(path, what)
    return mark is not None and mark.exists()


def test_a_good_file_is_remembered_until_it_changes(file: Path) -> None:
    assert not known(file)
    remember(file, CHECK, mark_of(file, CHECK))
    assert known(file)
    assert not known(file, "a check 2")
    os.utime(file, ns=(0, 10**18))
    assert not known(file)
    remember(file, CHECK, mark_of(file, CHECK))
    file.write_bytes(b"another file")
    assert not known(file)


def test_a_file_that_changed_while_it_was_read_is_not_remembered(file: Path) -> None:
    before = mark_of(file, CHECK)
    file.write_bytes(b"other file")
    remember(file, CHECK, before)
    assert not known(file)


def test_a_file_that_was_changed_a_moment_ago_is_not_remembered(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checked_once, "SETTLED_NS", 10**12)
    remember(file, CHECK, mark_of(file, CHECK))
    assert not known(file)


def test_small_and_missing_files_are_always_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checked_once, "MIN_BYTES", 100)
    assert mark_of(file, CHECK) is None
    remember(file, CHECK, None)
    assert mark_of(file.with_name("nothing"), CHECK) is None


def test_a_cache_that_cannot_be_written_costs_only_time(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = mark_of(file, CHECK)
    monkeypatch.setattr(Path, "touch", lambda *_, **__: (_ for _ in ()).throw(PermissionError("closed")))
    remember(file, CHECK, mark)
    assert not known(file)
