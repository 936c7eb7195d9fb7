"""Files appear whole or not at all: write in a private folder beside the target, then rename."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

ABANDONED = 60.0  # s without a change after which what no lock can tell of is nobody's any more
_SUFFIX = ".part"
_BEGUN = re.compile(r"\..*\.[a-z0-9_]{8}" + re.escape(_SUFFIX), re.DOTALL)  # as tempfile names them


@contextmanager
def atomic_path(target: str | Path) -> Iterator[Path]:
    """A path to write to, in a folder of its own beside the target; the file is renamed when the block ends well.

    The folder goes either way, with what a library may have left in it: safetensors, for one, writes a temporary
    file of its own. A process killed in between leaves the old file whole, and the folder to `remove_abandoned`.
    A link stays, and what it leads to is replaced; a file that is there keeps its mode. Where safetensors fails to
    write, on a full disk say, that is an OSError as any other.
    """
    target = Path(os.path.realpath(target))
    if target.exists() and not target.is_file():
        raise OSError(errno.EINVAL, "it is a folder, a device or a pipe, no file to replace", str(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    with _private_folder(target) as folder:
        temporary = folder / f"new{_SUFFIX}"
        try:
            yield temporary
        except SafetensorError as error:
            raise OSError(str(error)) from error
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(_mode(target))
        temporary.replace(target)


def remove_abandoned(folder: Path) -> None:
    """Remove what writers that were killed left of any target in a folder; what others are writing stays."""
    found: list[Path] = []
    with contextlib.suppress(OSError):  # no such folder
        found = list(folder.glob(f".*{_SUFFIX}"))
    for begun in found:
        if _BEGUN.fullmatch(begun.name):
            with contextlib.suppress(OSError):  # another one was faster, or it isn't ours to remove
                _remove_abandoned(begun)


def _remove_abandoned(begun: Path) -> None:
    status = begun.lstat()
    if stat.S_ISREG(status.st_mode) and _is_old(begun):  # earlier versions wrote files instead of folders
        begun.unlink()
    if not stat.S_ISDIR(status.st_mode):
        return
    with _opened(begun) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        except OSError:  # a file system without locks
            if not all(map(_is_old, (begun, *begun.iterdir()))):
                return
        for file in begun.iterdir():
            file.unlink()
        begun.rmdir()


def _is_old(path: Path) -> bool:
    return time.time() - path.lstat().st_mtime > ABANDONED


@contextmanager
def _private_folder(target: Path) -> Iterator[Path]:
    """A new folder beside the target, locked as long as its writer lives."""
    while True:
        # Of a long name only the start: with what is added it would be too long.
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name[:40]}.", suffix=_SUFFIX, dir=target.parent))
        try:
            with _opened(folder) as lock:
                with contextlib.suppress(OSError):  # a file system without locks
                    fcntl.flock(lock, fcntl.LOCK_EX)
                if folder.exists():  # or `remove_abandoned` came before the lock
                    yield folder
                    return
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield handle
    finally:
        os.close(handle)


def _mode(target: Path) -> int:
    """The file's mode, or the one that open() would give a new one; a library's temporary file may be private."""
    try:
        return stat.S_IMODE(target.stat().st_mode)
    except FileNotFoundError:
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask
