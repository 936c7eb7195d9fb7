"""numba's compiled kernels, kept between processes.

A compiled kernel is machine code that is run as soon as it is read. Entries of numba's cache therefore carry a
checksum, and are read only from files of ours (or root's); what is damaged is compiled again and replaced. A folder
that can't be written costs the cache and one line, never the command.
"""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import IndexDataCacheFile, NullCache

_DIGEST_BYTES = 32
# What a pickle raises that was whole when it was written, but by another version of its classes.
_UNREADABLE = (
    OSError, pickle.UnpicklingError, ValueError, TypeError, LookupError, AttributeError, ImportError, EOFError,
)  # fmt: skip
log = logging.getLogger(__name__)
_said = False


def compiled_in(folder: str, compile_cached: Callable[[bool], Any]) -> Any:
    """A kernel of numba's whose cache lies in a folder and is checked.

    Args:
        folder: made if it isn't there.
        compile_cached: compiles with numba's cache, or without.
    """
    settings: Any = numba.config
    before, settings.CACHE_DIR = settings.CACHE_DIR, folder
    try:
        compiled = compile_cached(True)
    except (OSError, RuntimeError) as error:  # RuntimeError: numba finds no folder that it can write
        _say_once(f"can't keep compiled kernels in '{folder}' ({error}); each process compiles them anew")
        return compile_cached(False)
    finally:
        settings.CACHE_DIR = before
    if not _lies_in(compiled, folder):  # else numba took the package's own folder
        _say_once(f"can't keep compiled kernels in '{folder}'; each process compiles them anew")
        compiled._cache = NullCache()
        return compiled
    own = compiled._cache._cache_file
    compiled._cache._cache_file = _CheckedFiles(own._cache_path, own._index_name[: -len(".nbi")], own._source_stamp)
    return compiled


def _lies_in(compiled: Any, folder: str) -> bool:
    return Path(compiled._cache.cache_path).is_relative_to(Path(folder).absolute())


class _CheckedFiles(IndexDataCacheFile):
    """numba's index and data files, each behind the SHA-256 of its bytes."""

    def save(self, key: object, data: object) -> None:
        try:
            super().save(key, (self._index_name, self._source_stamp, key, data))
        except OSError as error:
            _say_once(f"can't keep compiled kernels in '{self._cache_path}': {error.strerror}; they are compiled anew")

    def load(self, key: object) -> Any:
        name = self._load_index().get(key)
        if name is None:
            return None
        match self._read(Path(self._cache_path, name)):
            # Index and data are two files. A process killed between them, or two that compile at once, leave an entry
            # that leads to another kernel: each says which one it is. The key alone doesn't: numba makes it of the
            # bytecode, which is the same for kernels that differ in a constant.
            case (self._index_name, self._source_stamp, own, data) if own == key:
                return data
        return None

    def _load_index(self) -> dict[object, str]:
        match self._read(Path(self._index_path)):
            case (self._version, self._source_stamp, dict() as names):
                return names
        return {}

    def _save_index(self, overloads: dict[object, str]) -> None:
        self._write(Path(self._index_path), (self._version, self._source_stamp, overloads))

    def _save_data(self, name: str, data: object) -> None:
        self._write(Path(self._cache_path, name), data)

    def _read(self, path: Path) -> Any:
        """What was written, None where there is nothing, or nothing that can be trusted."""
        try:
            with path.open("rb") as file:
                trusted = os.fstat(file.fileno()).st_uid in (os.getuid(), 0)
                digest, data = file.read(_DIGEST_BYTES), file.read()
            if trusted and hashlib.sha256(data).digest() == digest:
                return pickle.loads(data)
        except _UNREADABLE:
            pass
        return None

    def _write(self, path: Path, content: object) -> None:
        data = self._dump(content)
        with self._open_for_write(str(path)) as file:
            file.write(hashlib.sha256(data).digest() + data)


def _say_once(text: str) -> None:
    """A warning, unless there was one: a command has dozens of kernels."""
    global _said
    if not _said:
        log.warning("%s", text)
    _said = True
