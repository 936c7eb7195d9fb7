"""What commands check before any work: that no input is written over, and that numbers are in their range."""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from feature_gs_ros.core.errors import OptionError

MAX_SEED = 2**63 - 1
# What recordings, COLMAP and nerfstudio folders, masks and arrays consist of.
READ_IN_FOLDERS = (
    ".mcap", ".db3", ".yaml", ".yml", ".json", ".txt", ".bin", ".png", ".jpg", ".jpeg", ".npy", ".npz",
)  # fmt: skip


def check_number(
    option: str, value: float | None, least: float, most: float = math.inf, *, above: bool = False
) -> None:
    """A number from ``least`` (or above it) to ``most``, finite; None is an option that wasn't given.

    Raises:
        OptionError: it isn't.
    """
    if value is None:
        return
    # Compared, not converted: a whole number may be beyond any float.
    if (value > least if above else value >= least) and value <= most and abs(value) != math.inf:
        return
    lower = f"more than {least:g}" if above else f"{least:g} or more"
    upper = "" if most == math.inf else f", up to {most:g}"
    raise OptionError(f"{option} {value} is out of range; choose {lower}{upper}", code="option.range")


def check_seed(seed: int) -> None:
    """Raise an OptionError unless random generators take the seed."""
    check_number("--seed", seed, 0, MAX_SEED)


def check_kind(option: str, path: Path | None, suffix: str) -> None:
    """What is written is of one kind, and named so: programs tell files by their names.

    Raises:
        OptionError: the name ends as another kind's does.
    """
    if path is not None and path.name and path.suffix.lower() not in ("", suffix):
        raise OptionError(
            f"{option} '{path}': a {suffix} file is written; name it '{path.with_suffix(suffix).name}'",
            code="option.suffix",
        )


def files_of(options: Iterable[str]) -> list[Path]:
    """Files and folders that an extractor's KEY=VALUE options name, among what else they may say."""
    found = []
    for option in options:
        path = Path(option.partition("=")[2])
        with contextlib.suppress(OSError, ValueError):  # no name at all, or one that no file can have
            if path.name and path.exists():
                found.append(path)
    return found


def check_outputs(
    files: Mapping[str, Path | None],
    inputs: Iterable[Path | None],
    *,
    folders: Mapping[str, Path | None] | None = None,
) -> None:
    """What is written may not be read as well, nor twice; files may not be folders, nor folders files.

    Args:
        files: to write, by the option that names them.
        inputs: files and folders that are read; links are followed.
        folders: to write into, by option.

    Raises:
        OptionError: one can't be written, or something would be lost by it.
    """
    read = {_resolved("the input", path) for path in inputs if path is not None}
    for source in read:
        if source.exists() and not (source.is_file() or source.is_dir()):
            raise OptionError(
                f"'{source}' is a pipe or a device; write it to a file and name that", code="option.format"
            )
    written: dict[Path, str] = {}
    for option, path in {**files, **(folders or {})}.items():
        if path is None:
            continue
        if option in files and not path.name:  # "." or "/"
            raise OptionError(
                f"{option} '{path}' is a folder; choose another name, or one in it", code="option.file-kind"
            )
        target = _resolved(option, path)
        if target in read:
            raise OptionError(
                f"{option} '{path}' is read by this command and would be lost; choose another name",
                code="option.exists",
            )
        if target in written:
            raise OptionError(
                f"{option} and {written[target]} would both be written to '{path}'; choose another name",
                code="option.exists",
            )
        if option in files and target.is_dir():
            raise OptionError(
                f"{option} '{path}' is a folder; choose another name, or one in it", code="option.file-kind"
            )
        if option in files and target.exists() and not target.is_file():
            raise OptionError(
                f"{option} '{path}' is a device or a pipe, no file; choose another name", code="option.file-kind"
            )
        if option not in files and target.exists() and not target.is_dir():
            raise OptionError(
                f"{option} '{path}' is a file, where a folder is wanted; choose another name", code="option.file-kind"
            )
        if target.is_file() and target.suffix.lower() in READ_IN_FOLDERS and read & set(target.parents):
            raise OptionError(
                f"{option} '{path}' is of a folder that this command reads; choose another name", code="option.exists"
            )
        _check_place(option, path, target)
        written[target] = option


def _resolved(option: str, path: Path) -> Path:
    """Where links lead.

    Raises:
        OptionError: in a circle, or no file can have this name.
    """
    try:
        return path.resolve()
    except (RuntimeError, ValueError) as error:  # a loop of links; a null byte
        raise OptionError(f"{option} '{path}' can't name a file: {error}", code="option.name") from error


def _check_place(option: str, path: Path, target: Path) -> None:
    """Something can be written there: better said now than after an hour of work."""
    folder = target if target.is_dir() else target.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise OptionError(
            f"{option} '{path}' can't be written: '{folder}' is a file, no folder; choose another name",
            code="option.file-kind",
        )
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OptionError(
            f"{option} '{path}' can't be written in '{folder}': {error.strerror or error}; choose another folder",
            code="option.unwritable",
        ) from error
