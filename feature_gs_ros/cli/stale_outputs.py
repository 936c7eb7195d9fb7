"""Stale outputs of earlier runs are deleted, so that they are not taken for answers of this one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from feature_gs_ros.cli.checks import check_outputs
from feature_gs_ros.core.errors import OptionError
from feature_gs_ros.core.progress import note


def check_own_files(folder: Path, names: Iterable[str], inputs: Iterable[Path | None]) -> None:
    """None of the files that a command calls its own in its folder is one that it reads.

    Raises:
        OptionError: one is.
    """
    read = [path for path in inputs if path is not None and not path.is_dir()]
    for name in names:
        check_outputs({"--out": folder / name}, read)


def remove_stale_outputs(folder: Path, names: Iterable[str]) -> None:
    """Remove these files of an earlier run, where they are there, and say so.

    Raises:
        OptionError: one can't be removed.
    """
    removed = []
    for name in names:
        path = folder / name
        if not path.is_file():
            continue
        try:
            path.unlink()
        except OSError as error:
            raise OptionError(
                f"can't remove '{path}' of an earlier run: {error.strerror or error}; choose another folder",
                code="option.unwritable",
            ) from error
        removed.append(name)
    if removed:
        note(f"removed {', '.join(removed)} of an earlier run from {folder}")
