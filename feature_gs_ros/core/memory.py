"""How much memory work will take, and how much there is: large work is announced, or refused, before it begins."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from feature_gs_ros.core.errors import BudgetError, OptionError, OutOfMemoryError

if TYPE_CHECKING:
    from torch import Tensor

CGROUP = Path("/sys/fs/cgroup")
PROCESS = Path("/proc/self")
# How allocators of torch, OpenCV, LLVM and C++ say that there is no memory left, where it isn't a MemoryError.
_REFUSALS = (
    "can't allocate memory", "cannot allocate memory", "not enough memory", "insufficient memory", "bad_alloc",
    "failed to map segment",  # of a library that is being loaded
)  # fmt: skip
FREE_FRACTION = 0.8  # of the free memory that work may take by default
RELIEF = 0.7  # of a limit, from which mapped pages are given back
_UNITS = {"": 1, "b": 1} | {
    f"{letter}{end}": base**power
    for power, letter in enumerate("kmgt", start=1)
    for end, base in (("b", 1000), ("", 1024), ("ib", 1024))
}
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


def give_back_freed_memory() -> None:
    """Return what this process has freed to the system: for a server after work that needed much for a moment.

    Does nothing where the C library isn't glibc.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def available_bytes(cgroup: Path = CGROUP, process: Path = PROCESS) -> int | None:
    """Memory that this process may still take, by everything that limits it; None where nothing says.

    The machine's free memory, the limits of the process's control groups (of a container or a systemd service, and of
    all groups around it), and the process's own limits (``ulimit -v``, ``-d``).
    """
    found = [_free_of_machine(), *map(_free_of_group, _groups(cgroup, process)), *_free_of_limits(process)]
    known = [free for free in found if free is not None]
    return min(known) if known else None


def _free_of_machine() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return None


def _groups(root: Path, process: Path) -> list[Path]:
    """Folders of the control groups that the process is in, from its own to the root.

    Within a container's own namespace the path is ``/``; a service without one is told its path on the machine.
    """
    folders = [root]
    try:
        lines = (process / "cgroup").read_text().splitlines()
    except OSError:
        return folders
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, name = rest.partition(":")
        if number == "0" or "memory" in controllers.split(","):
            base = root if number == "0" else root / "memory"
            parts = [part for part in name.split("/") if part not in ("", "..")]
            folders += [base.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1)]
    return list(dict.fromkeys(folders))


def _free_of_group(folder: Path) -> int | None:
    """Of cgroup v2 or v1. Files that were read count as used, but the kernel gives what isn't active back."""
    for limit_name, used_name in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
        try:
            limit = int((folder / limit_name).read_text())  # "max" where there is none
            used = int((folder / used_name).read_text())
        except (OSError, ValueError):
            continue
        return max(0, limit - used + _inactive_files(folder))
    return None


def _free_of_limits(process: Path) -> list[int]:
    """Of RLIMIT_AS and RLIMIT_DATA, where they are set: beyond them an allocation fails."""
    try:
        pages = [int(word) for word in (process / "statm").read_text().split()]
        total, data = pages[0] * resource.getpagesize(), pages[5] * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        return []
    limits = ((resource.RLIMIT_AS, total), (resource.RLIMIT_DATA, data))
    soft = [(resource.getrlimit(which)[0], used) for which, used in limits]
    return [max(0, limit - used) for limit, used in soft if limit != resource.RLIM_INFINITY]


def _inactive_files(cgroup: Path) -> int:
    try:
        for line in (cgroup / "memory.stat").read_text().splitlines():
            if line.startswith("inactive_file "):
                return int(line.split()[1])
    except (OSError, ValueError):
        pass
    return 0


def check_budget(needed: int, budget: int | None, work: str, remedy: str, already_allocated: int = 0) -> None:
    """Refuse work over its budget (bytes; None: `FREE_FRACTION` of what is free).

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
        limit = int((free + already_allocated) * FREE_FRACTION)
    if needed > limit:
        raise BudgetError(f"{work} needs {gigabytes(needed)}, the limit is {gigabytes(limit)}: {remedy}")


def gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.2f} MB"


@dataclass(frozen=True)
class MemoryLimit:
    """How many bytes this process may hold. Pages of mapped files are given back before it is reached.

    They stay in the system's cache as long as it has room, so that reading them again costs little.
    """

    limit: int

    @staticmethod
    def parse(text: str, option: str = "--memory") -> MemoryLimit:
        """Of ``8GiB``, ``8G`` (the same), ``8GB`` (of 10⁹), ``512MiB`` or a number of bytes.

        Raises:
            OptionError: it is none of these.
        """
        match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,6})?) ?([a-z]{0,3})", text.strip().lower())
        if match is None or match[2] not in _UNITS or float(match[1]) <= 0:
            raise OptionError(f"{option} '{text}' is no amount of memory; give e.g. 8GiB or 500MB", code="option.value")
        return MemoryLimit(int(float(match[1]) * _UNITS[match[2]]))

    def relieve(self, *tensors: Tensor) -> None:
        """Give back the pages of tensors of mapped files, if this process holds more than most of its limit."""
        held = resident_bytes()
        if held is not None and held > RELIEF * self.limit:
            for tensor in tensors:
                release_mapped(tensor)


def resident_bytes() -> int | None:
    """Bytes of memory that this process holds now, those of mapped files with them; None where nothing says."""
    try:
        return int((PROCESS / "statm").read_text().split()[1]) * mmap.PAGESIZE
    except (OSError, ValueError, IndexError):
        return None


def release_mapped(tensor: Tensor) -> None:
    """Give the pages of a tensor's mapped file back to the system; nothing is lost, and nothing happens to others.

    Only tensors that torch mapped itself (``from_file``) are known to be of a file.
    """
    storage = tensor.untyped_storage()
    if getattr(storage, "filename", None) is None or storage.nbytes() == 0 or not hasattr(mmap, "MADV_DONTNEED"):
        return
    with contextlib.suppress(OSError, AttributeError):
        madvise = ctypes.CDLL(None).madvise
        madvise(ctypes.c_void_p(storage.data_ptr()), ctypes.c_size_t(storage.nbytes()), mmap.MADV_DONTNEED)


def memory_error(error: BaseException) -> OutOfMemoryError | None:
    """An allocation's failure as an error of ours, whichever library it comes from; None for any other error."""
    if isinstance(error, OutOfMemoryError):
        return error
    words = str(error).lower()
    refused = isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    if not refused and not (isinstance(error, Exception) and any(word in words for word in _REFUSALS)):
        return None
    first = (str(error).splitlines() or ["an allocation failed"])[0]
    return OutOfMemoryError(
        f"there is no more memory ({first}); give the process more, or ask for less: fewer channels (--codec), "
        "smaller images, a smaller map"
    )


@contextmanager
def memory_errors() -> Iterator[None]:
    """Raise a failed allocation of the block as an `OutOfMemoryError`, whichever library it comes from.

    Who catches that keeps what was done before, and says so.
    """
    try:
        yield
    except Exception as error:
        short = memory_error(error)
        if short is None or short is error:
            raise
        raise short from error
