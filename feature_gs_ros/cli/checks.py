"""What commands check before any work: that no input is written over."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from feature_gs_ros.errors import OptionError


def check_outputs(outputs: Mapping[str, Path | None], inputs: Iterable[Path | None]) -> None:
    """No file to write may be one that is read, nor may two be the same; links are followed.

    Args:
        outputs: files, or folders, by the option that names them.
        inputs: files and folders that are read.

    Raises:
        OptionError: one is.
    """
    read = {path.resolve() for path in inputs if path is not None}
    written: dict[Path, str] = {}
    for option, path in outputs.items():
        if path is None:
            continue
        target = path.resolve()
        if target in read:
            raise OptionError(f"{option} '{path}' is read by this command and would be lost; choose another name")
        if target in written:
            raise OptionError(f"{option} and {written[target]} would both be written to '{path}'; choose another name")
        written[target] = option
