"""Folders for what can be made again and is kept between processes; only we can write them."""

from __future__ import annotations

import os
import stat
import tempfile
from functools import lru_cache
from pathlib import Path


def cache_folder(name: str) -> Path:
    """A folder for what can be made again, below ``XDG_CACHE_HOME``; a private one where that is closed to us."""
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "feature_gs_ros"
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = base.stat()
        if status.st_uid == os.getuid() and status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            base.chmod(0o700)
        folder = base / name
        folder.mkdir(exist_ok=True)
        if status.st_uid == os.getuid() and os.access(folder, os.W_OK):
            return folder
    except (OSError, RuntimeError):  # RuntimeError: a user without a home
        pass
    return _private_folder(tempfile.gettempdir())


@lru_cache(maxsize=8)
def _private_folder(parent: str) -> Path:
    """A folder of ours in one that everybody may write; the same for all our processes unless others were there first.

    A read-only home, as in many containers, leads here.
    """
    folder = Path(parent) / f"feature_gs_ros-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        status = folder.lstat()  # of a link, not of where it leads
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
            return Path(tempfile.mkdtemp(prefix="feature_gs_ros-", dir=parent))
    return folder
