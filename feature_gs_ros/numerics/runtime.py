"""How kernels are compiled and spread over threads.

numba's own parallel loops are not used: its built-in threading layer ends the process when two Python
threads enter parallel kernels. Kernels here release the GIL and take a range; `parallel_for` hands ranges
to one pool of plain threads, so queries may run beside ingestion, and no result depends on their number.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numba

from feature_gs_ros.core.cache_folder import cache_folder
from feature_gs_ros.core.errors import OptionError
from feature_gs_ros.numerics.cache import compiled_in

SIMD = Path(__file__).parent / "simd"  # pieces of kernels in all folders

_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None
_threads: int | None = None  # None: as the environment says
_variant = ""  # of the vectors that kernels are compiled with


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile for the CPU: no GIL, fused and reassociated float arithmetic, cached where the user can write."""
    settings: Any = numba.config
    base = Path(settings.CACHE_DIR or cache_folder("numba"))
    folder = str(base / _folder_version(_source_folder(Path(function.__code__.co_filename)), _variant))

    def compile_cached(cached: bool) -> Any:
        return numba.njit(function, nogil=True, fastmath=True, cache=cached)

    compiled: Callable[..., Any] = compiled_in(folder, compile_cached)
    return compiled


def inline(function: Callable[..., Any]) -> Callable[..., Any]:
    """A piece of a kernel that is compiled into each kernel that calls it."""
    compiled: Callable[..., Any] = numba.njit(function, fastmath=True, inline="always")
    return compiled


def name_variant(name: str) -> None:
    """Keep kernels that are made from now on apart, in the cache, from those made with other vectors."""
    global _variant
    _variant = name


def thread_count() -> int:
    """How many threads kernels use.

    Raises:
        OptionError: FEATURE_GS_THREADS is no such number.
    """
    global _threads
    if _threads is None:
        _threads = _threads_of_environment() or len(os.sched_getaffinity(0))
    return _threads


def _threads_of_environment() -> int:
    """0 where the variable doesn't say; read on first use, so that a bad value is an error of a command."""
    text = os.environ.get("FEATURE_GS_THREADS", "").strip() or "0"
    if not (text.isascii() and text.isdigit() and len(text) < 5):
        raise OptionError(
            f"FEATURE_GS_THREADS={text} is no number of threads; give 1 or more, or unset it", code="option.range"
        )
    return int(text)


def set_thread_count(count: int | None) -> None:
    """How many threads kernels use from now on; None: FEATURE_GS_THREADS or the cores of this process, the default."""
    global _threads, _pool
    if count is not None and count < 1:
        raise ValueError(f"thread count {count} is below 1")
    with _lock:
        _threads, _pool = count, None


def parallel_for(total: int, step: int, body: Callable[[int, int], object], first: int = 0) -> None:
    """Call ``body(start, stop)`` for consecutive ranges of ``step`` from ``first`` to ``total``, on all threads; each
    range exactly once."""
    ranges = [(start, min(start + step, total)) for start in range(first, total, step)]
    threads = thread_count()
    if threads == 1 or len(ranges) <= 1:
        for start, stop in ranges:
            body(start, stop)
        return
    pending = iter(ranges)
    taking = threading.Lock()

    def work() -> None:
        while True:
            with taking:
                item = next(pending, None)
            if item is None:
                return
            body(*item)

    # The caller works too, so a pool that is busy with another caller's ranges never blocks it.
    helpers = [_shared_pool().submit(work) for _ in range(min(threads, len(ranges)) - 1)]
    try:
        work()
    finally:
        for helper in helpers:
            if not helper.cancel():
                helper.result()


def _shared_pool() -> ThreadPoolExecutor:
    global _pool
    with _lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(max(1, thread_count() - 1), thread_name_prefix="feature-gs")
        return _pool


def stamps_of(folder: Path) -> list[tuple[str, int, int]]:
    """Name, time [ns] and size of the sources in a folder, or of one file: they change when it is edited."""
    files = sorted(folder.rglob("*.py")) if folder.is_dir() else [folder]
    return [(str(file), status.st_mtime_ns, status.st_size) for file in files for status in [file.stat()]]


def _source_folder(source: Path) -> Path:
    """The top-level folder of the package that a kernel's file lies in; the file itself outside of the package."""
    package = Path(__file__).parents[1]
    return package / source.relative_to(package).parts[0] if source.is_relative_to(package) else source


@cache  # a folder has dozens of kernels
def _folder_version(folder: Path, variant: str) -> str:
    """Changes with any file of the kernels' top-level folder, and with the vectors: numba only looks at a kernel's own
    file, not at the pieces that it calls."""
    stamps = [variant, *stamps_of(folder), *stamps_of(SIMD)]
    return f"{folder.stem}-{hashlib.sha256(repr(stamps).encode()).hexdigest()[:16]}"
