"""What commands share: opening a field with its map and extractor, progress bars, Ctrl-C, JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from feature_gs_ros.backprojection.field import FeatureField
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.core.geometry import Sim3
from feature_gs_ros.core.progress import note
from feature_gs_ros.io.alignment import load_alignment

if TYPE_CHECKING:
    from feature_gs_ros.io.streams.registry import Stream

CloudFrame = Literal["splat", "map"]


def alignment_or_identity(path: Path | None) -> Sim3:
    return Sim3.identity() if path is None else load_alignment(path)


def length_unit(splat_from_map: Sim3) -> str:
    """Of lengths in the map frame: metres where an alignment was given, else those of the map, which may be any."""
    return "map units" if np.array_equal(splat_from_map.matrix, np.eye(4)) else "m"


def alignment_of_view(
    path: Path | None, field: FeatureField, gaussians: GaussianMap, stream: Stream, names: Sequence[str]
) -> Sim3:
    """The transform for looking at a field from frames of a stream: the file's, or the one by which they see the map.

    Raises:
        CameraError: no file is given, and the frames see nothing of the map.
    """
    from feature_gs_ros.backprojection.pose_check import fitting_alignment  # with the rasteriser, for few commands

    if path is not None:
        return load_alignment(path)
    own = field.provenance.splat_from_map
    fitting = fitting_alignment(gaussians, own, stream, names)
    if fitting is not own:
        note(f"the poses of '{stream.source}' are in the map's frame: the field's own alignment is left out")
    return fitting


def in_frame(part: GaussianMap, frame: CloudFrame, splat_from_map: Sim3) -> GaussianMap:
    """Gaussians of a map as a cloud: in the frame of the map's file, or where boxes and regions are."""
    from feature_gs_ros.core.placing import transformed

    return transformed(part, splat_from_map.inverse()) if frame == "map" else part


def print_json(content: Mapping[str, object]) -> None:
    """One object on stdout and nothing else there; numbers that JSON hasn't (NaN, infinity) are null."""
    print(json.dumps(_finite(content), allow_nan=False))


def _finite(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
