"""How much memory work will take, and how much there is: large work is announced, or refused, before it begins."""

from __future__ import annotations

import ctypes
from pathlib import Path

from feature_gs_ros.core.errors import BudgetError

CGROUP = Path("/sys/fs/cgroup")
SHARE = 0.8  # of the free memory that work may take unless told otherwise
KEPT = 512 << 20  # bytes that a program of ours keeps of what it has freed
MAX_KEPT_ARRAY_BYTES = 32 << 20  # bytes of one array; more than that glibc doesn't keep
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt


def keep_freed_memory() -> None:
    """Let this process reuse what it frees: else the system takes each view's arrays back and clears their pages anew.

    For programs of our own (the command line, the nodes), not for those that import this package. Does nothing where
    the C library isn't glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(M_MMAP_THRESHOLD, MAX_KEPT_ARRAY_BYTES)
    mallopt(M_TRIM_THRESHOLD, KEPT)


def available_bytes(cgroup: Path = CGROUP) -> int | None:
    """Memory that this process may still take, by the kernel and the container's limit; None where neither says."""
    found = [free for free in (_free_of_machine(), _free_of_container(cgroup)) if free is not None]
    return min(found) if found else None


def _free_of_machine() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return None


def _free_of_container(cgroup: Path) -> int | None:
    """Of a folder of cgroup v2. Files that were read count as used, but the kernel gives what isn't active back."""
    try:
        limit = int((cgroup / "memory.max").read_text())  # "max" where there is none
        used = int((cgroup / "memory.current").read_text())
    except (OSError, ValueError):
        return None
    return max(0, limit - used + _inactive_files(cgroup))


def _inactive_files(cgroup: Path) -> int:
    try:
        for line in (cgroup / "memory.stat").read_text().splitlines():
            if line.startswith("inactive_file "):
                return int(line.split()[1])
    except (OSError, ValueError):
        pass
    return 0


def check_budget(needed: int, budget: int | None, work: str, mend: str, already_allocated: int = 0) -> None:
    """Refuse work over its budget (bytes; None: `SHARE` of what is free).

    Args:
        already_allocated: bytes of the need that this process has taken already: they are no more free.

    Raises:
        BudgetError: names the need, the limit and the fix.
    """
    limit = budget
    if limit is None:
        free = available_bytes()
        if free is None:
            return
        limit = int((free + already_allocated) * SHARE)
    if needed > limit:
        raise BudgetError(f"{work} needs {gigabytes(needed)}, the limit is {gigabytes(limit)}: {mend}")


def gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.2f} MB"
