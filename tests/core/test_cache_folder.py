"""Folders of the cache are ours alone."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from feature_gs_ros.core.cache_folder import cache_folder


def test_a_folder_that_others_may_write_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "feature_gs_ros").mkdir()
    (tmp_path / "feature_gs_ros").chmod(0o777)
    folder = cache_folder("codes")
    assert folder == tmp_path / "feature_gs_ros" / "codes"
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
