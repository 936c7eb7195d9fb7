"""Files appear whole or not at all: write under a temporary name beside the target, then rename."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError


@contextmanager
def atomic_path(target: str | Path) -> Iterator[Path]:
    """A temporary path in the target's folder; renamed to ``target`` when the block ends well, removed when not.

    A process killed in between leaves the old file whole. A link stays, and what it leads to is replaced; a file that
    is there keeps its mode. Where safetensors fails to write, on a full disk say, that
    is an OSError as any other.
    """
    target = Path(os.path.realpath(target))
    if target.exists() and not target.is_file():
        raise OSError(errno.EINVAL, "it is a folder, a device or a pipe, no file to replace", str(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    # Of a long name only the start: with what is added it would be too long.
    handle, name = tempfile.mkstemp(prefix=f".{target.name[:40]}.", suffix=".part", dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(_mode(target))
        temporary.replace(target)
    except SafetensorError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(str(error)) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _mode(target: Path) -> int:
    """The file's mode, or the one that open() would give a new one; mkstemp's are private."""
    try:
        return stat.S_IMODE(target.stat().st_mode)
    except FileNotFoundError:
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask
