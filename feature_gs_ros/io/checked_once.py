"""Large files that were read through and found good: as long as they stay as they are, that isn't done again.

A memory-mapped field of gigabytes opens in the time of its header. A file counts as the same while its place, inode,
size and times of change are; one that was changed a moment ago isn't remembered, since another change within the same
tick of the file system's clock would go unnoticed.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from pathlib import Path

from feature_gs_ros.core.cache_folder import cache_folder

MIN_BYTES = 1 << 24  # of a file that is remembered; smaller ones are read in a few milliseconds
SETTLED_NS = 2_000_000_000  # since the last change
MAX_REMEMBERED = 5000  # files; then all are forgotten


def mark_of(path: Path, what: str) -> Path | None:
    """Where it is kept that this file, as it is now, was found good; None for a small file, or none.

    Args:
        what: is checked, with the version of the check.
    """
    with contextlib.suppress(OSError):
        status = path.stat()
        if status.st_size >= MIN_BYTES:
            numbers = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            digest = hashlib.sha256(f"{what}\n{path.resolve()} {numbers}".encode(errors="surrogateescape"))
            return cache_folder("checked") / digest.hexdigest()
    return None


def remember(path: Path, what: str, mark: Path | None) -> None:
    """The file was found good; ``mark`` is `mark_of` it from before it was read. Failing costs only time."""
    with contextlib.suppress(OSError):
        status = path.stat()
        settled = time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) >= SETTLED_NS
        if mark is None or not settled or mark_of(path, what) != mark:
            return
        others = list(mark.parent.iterdir())
        for old in others if len(others) >= MAX_REMEMBERED else []:
            old.unlink(missing_ok=True)
        mark.touch(mode=0o600)
