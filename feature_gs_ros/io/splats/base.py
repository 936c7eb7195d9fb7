"""The contract of a map format: one file each in this folder; third-party ones come by entry point."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from feature_gs_ros.core.gaussians import GaussianMap

START_BYTES = 512  # of a file, by which formats recognise their own


class SplatFormat(Protocol):
    """A kind of file that holds a splat map."""

    name: str  # as messages say it, e.g. "3DGS PLY"

    def matches(self, path: Path, start: bytes) -> bool:
        """Whether a file is of this kind, by its first `START_BYTES` (fewer in a shorter file) or its suffix."""
        ...

    def load(self, path: Path) -> GaussianMap:
        """Read it into the map's own frame and scale, linear values (`GaussianMap.from_tensors`, `from_parameters`).

        Check sizes against the file before memory is taken for them.

        Raises:
            MapError: damaged, cut off, or nothing in it can be used; it names the file and the fix.
            OSError: the file can't be read.
        """
        ...
