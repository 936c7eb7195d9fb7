"""Locks between processes: whoever reads a file, changes it and writes it back is the only one meanwhile."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from feature_gs_ros.core.errors import BusyError

TIMEOUT = 60.0  # s to wait for another process
_POLL = 0.1  # s
log = logging.getLogger(__name__)


@contextmanager
def locked(target: str | Path, timeout: float = TIMEOUT) -> Iterator[None]:
    """Hold the lock of a file or folder, which needn't be there yet. Waits for others, and logs that it does.

    The lock is a file ``.NAME.lock`` beside the target, through links; it goes with the block, or with the process.
    It isn't reentrant. Where the file system knows no locks, there is none.

    Raises:
        BusyError: another process holds it longer than ``timeout`` seconds.
        OSError: the folder can't be written.
    """
    target = Path(os.path.realpath(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    path = target.with_name(f".{target.name[:200]}.lock")
    handle = _acquired(path, target, timeout)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # of another user, in a sticky folder: it stays, and serves again
            path.unlink()
        os.close(handle)


def _acquired(path: Path, target: Path, timeout: float) -> int:
    deadline, warned = time.monotonic() + timeout, False
    while True:
        handle = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_still(path, handle):  # else its last holder has removed it meanwhile
                return handle
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(handle)
                raise BusyError(
                    f"another process has been changing '{target}' for {timeout:g} s; wait for it, or end it"
                ) from None
            if not warned:
                log.warning("waiting for another process that is changing '%s'", target)
                warned = True
            time.sleep(_POLL)
        except OSError:  # a file system without locks
            return handle
        os.close(handle)


def _is_still(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.lstat())
    except FileNotFoundError:
        return False
