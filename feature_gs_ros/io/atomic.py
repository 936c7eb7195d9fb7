"""Files appear whole or not at all, and sets of files in one step: write in a private folder beside, then rename."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from safetensors import SafetensorError

ABANDONED = 60.0  # s without a change after which what no lock can tell of is nobody's any more
_SUFFIX = ".part"
_LIST = "files.json"  # of a set: the names of its files
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
    _prepare(target)
    with _private_folder(target) as folder:
        temporary = folder / f"new{_SUFFIX}"
        with _safetensors_errors():
            yield temporary
        _finish(temporary, target)
        temporary.replace(target)


@contextmanager
def atomic_files(first: str | Path, *others: str | Path) -> Iterator[list[Path]]:
    """Paths to write to, one per target, in a folder of their own; all targets are replaced in one step.

    For files that say something about one another. The step is the renaming of that folder: a process killed before it
    leaves all old files, one killed after it leaves the new ones to `finish_interrupted`, which readers and writers of
    ``first`` call. The names of the others must begin with the first's stem and a dot, as in map.ply, map.ply.edits.
    Where links lead them to different folders there is no such step: they are replaced one by one, ``first`` last.
    """
    targets = [Path(os.path.realpath(target)) for target in (first, *others)]
    if any(target.parent != targets[0].parent or not _belongs(target.name, targets[0].name) for target in targets):
        with ExitStack() as stack:
            yield [stack.enter_context(atomic_path(target)) for target in targets]
        return
    finish_interrupted(targets[0])
    for target in targets:
        _prepare(target)
    with _private_folder(targets[0]) as folder:
        with _safetensors_errors():
            yield [folder / target.name for target in targets]
        for target in targets:
            _finish(folder / target.name, target)
        (folder / _LIST).write_text(json.dumps([target.name for target in targets]), encoding="utf-8")
        for path in (folder / _LIST, folder):
            _sync(path)
        complete = _complete(targets[0])
        folder.rename(complete)
        _move_into_place(complete)


def finish_interrupted(first: str | Path) -> None:
    """Put into place what an `atomic_files` of this first target wrote completely, if it was killed while it did so.

    Raises:
        OSError: a file can't be replaced.
    """
    first = Path(os.path.realpath(first))
    complete = _complete(first)
    try:
        with _opened(complete) as lock:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(lock, fcntl.LOCK_EX)  # a writer that lives is about to be done
            names = json.loads((complete / _LIST).read_text(encoding="utf-8"))
            # The folder may have come with a stranger's data: it replaces nothing but what belongs to the first file.
            if isinstance(names, list) and all(isinstance(name, str) and _belongs(name, first.name) for name in names):
                _move_into_place(complete)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return


def _belongs(name: str, first: str) -> bool:
    return (name == first or name.startswith(f"{Path(first).stem}.")) and "/" not in name and "\0" not in name


def _move_into_place(complete: Path) -> None:
    for name in json.loads((complete / _LIST).read_text(encoding="utf-8")):
        with contextlib.suppress(FileNotFoundError):  # moved before the process was killed
            (complete / name).replace(complete.parent / name)
    (complete / _LIST).unlink()
    complete.rmdir()


def _complete(first: Path) -> Path:
    """The folder of a whole set that isn't in its place yet."""
    digest = hashlib.sha256(os.fsencode(first.name)).hexdigest()[:8]
    return first.with_name(f".{first.name[:40]}.{digest}.complete")


def _prepare(target: Path) -> None:
    """The folder of a target is there, and holds nothing of writers of it that were killed.

    Raises:
        OSError: the target is not a file.
    """
    if target.exists() and not target.is_file():
        raise OSError(errno.EINVAL, "it is a folder, a device or a pipe, no file to replace", str(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    start = f".{target.name[:40]}."
    with os.scandir(target.parent) as entries:
        begun = [Path(entry.path) for entry in entries if entry.name.startswith(start)]
    for path in begun:
        if _BEGUN.fullmatch(path.name) and len(path.name) == len(start) + len("abcdefgh") + len(_SUFFIX):
            with contextlib.suppress(OSError):
                _remove_abandoned(path)


@contextmanager
def _safetensors_errors() -> Iterator[None]:
    try:
        yield
    except SafetensorError as error:
        raise OSError(str(error)) from error


def _finish(temporary: Path, target: Path) -> None:
    _sync(temporary)
    temporary.chmod(_mode(target))


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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
        shutil.rmtree(begun)


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
