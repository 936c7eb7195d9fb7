"""What commands check before any work: that no input is written over, and that numbers are in their range."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from feature_gs_ros.errors import OptionError

MOST_SEED = 2**63 - 1


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
    raise OptionError(f"{option} {value} is out of range; choose {lower}{upper}")


def check_seed(seed: int) -> None:
    """Raise an OptionError unless random generators take the seed."""
    check_number("--seed", seed, 0, MOST_SEED)


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
    read = {path.resolve() for path in inputs if path is not None}
    written: dict[Path, str] = {}
    for option, path in {**files, **(folders or {})}.items():
        if path is None:
            continue
        target = path.resolve()
        if target in read:
            raise OptionError(f"{option} '{path}' is read by this command and would be lost; choose another name")
        if target in written:
            raise OptionError(f"{option} and {written[target]} would both be written to '{path}'; choose another name")
        if option in files and target.is_dir():
            raise OptionError(f"{option} '{path}' is a folder; choose another name, or one in it")
        if option not in files and target.exists() and not target.is_dir():
            raise OptionError(f"{option} '{path}' is a file, where a folder is wanted; choose another name")
        written[target] = option
