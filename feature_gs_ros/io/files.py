"""Files to read: regular ones only, and their names, which may come from anyone."""

from __future__ import annotations

import errno
import os
import re
import stat
from pathlib import Path
from typing import BinaryIO

MAX_NAME = 200  # bytes of a file name that was made here: suffixes and the names of temporary files still fit

_OTHERS = re.compile(r"[^\w .+@=-]")  # than letters and digits of any language, and a few signs


def open_regular(path: str | Path) -> BinaryIO:
    """Open a file to read; a pipe, socket or device is refused, where a plain ``open`` would wait or never end.

    Raises:
        OSError: it can't be opened, or is none.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # of a pipe, without waiting for its writer
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "it is a pipe or a device; write it to a file first", str(path))
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def is_file(path: Path) -> bool:
    """Whether there is a regular file of this name; not, for names that no file can have or folders closed to us."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long, a null byte
        return False


def read_regular(path: str | Path, limit: int | None = None) -> bytes:
    """The bytes of a regular file.

    Args:
        limit: bytes; a larger file isn't read.

    Raises:
        OSError: it can't be read, isn't a regular file, or is larger than ``limit``.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if limit is not None and size > limit:
            raise OSError(errno.EFBIG, f"it has {size} bytes, at most {limit} are read", str(path))
        return file.read()


def file_name_of(name: str) -> str:
    """A file name (no folder) for a name that comes from a file or message: a frame's, a topic's, an object's.

    Whatever the name holds, the result names a file in the folder that it is joined to, is neither hidden nor an
    option, and is no longer than file systems take. One made of letters, digits, spaces and ``_ . + @ = -`` is kept.
    Different names may become one: callers that write several files check that.
    """
    plain = _OTHERS.sub("_", name).strip()
    if plain[:1] in ("", ".", "-"):
        plain = f"_{plain}"
    return plain.encode("utf-8", "replace")[:MAX_NAME].decode("utf-8", "ignore")
