"""The file that holds the transform between the splat's frame and the robot's map frame."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from feature_gs_ros.core.errors import AlignmentError
from feature_gs_ros.core.geometry import Sim3
from feature_gs_ros.io.structured import number, numbers, read_structured

MIN_SCALE, MAX_SCALE = 1e-9, 1e9  # of a file or parameters: what is beyond can't be meant
_KEYS = ("scale", "rotation_wxyz", "translation")


def load_alignment(path: str | Path) -> Sim3:
    """Read ``splat_from_map`` from a YAML file, or a nerfstudio ``dataparser_transforms.json``.

    The YAML holds ``splat_from_map: {scale, rotation_wxyz, translation}``; nerfstudio's file holds
    ``transform`` [3, 4] and ``scale`` with ``x_splat = scale · (transform · x)``.

    Raises:
        AlignmentError: the file is missing or says something else.
    """
    path = Path(path)
    content = read_structured(path, AlignmentError)
    if isinstance(content, Mapping) and "transform" in content and "scale" in content:
        return _from_dataparser(content, path)
    if isinstance(content, Mapping) and isinstance(content.get("splat_from_map"), Mapping):
        return sim3_from_mapping(content["splat_from_map"], str(path))
    raise AlignmentError(
        f"'{path}' holds no alignment; expected splat_from_map: {{scale, rotation_wxyz, translation}} "
        "or nerfstudio's dataparser_transforms.json"
    )


def sim3_from_mapping(values: Mapping[str, object], source: str) -> Sim3:
    """``{scale, rotation_wxyz, translation}`` as a Sim3; the scale is 1 by default.

    Raises:
        AlignmentError: a value is missing, not a number, or out of range, or a key is unknown.
    """
    named = f"splat_from_map in '{source}'"
    unknown = [str(key) for key in values if key not in _KEYS]
    if unknown:
        raise AlignmentError(f"{named} holds {', '.join(unknown)}; it takes {', '.join(_KEYS)}")
    scale = number(values, "scale", named, AlignmentError) if "scale" in values else 1.0
    quat = np.array(numbers(values.get("rotation_wxyz"), f"rotation_wxyz of {named}", AlignmentError))
    translation = np.array(numbers(values.get("translation"), f"translation of {named}", AlignmentError))
    if quat.shape != (4,) or translation.shape != (3,):
        raise AlignmentError(
            f"{named} needs 4 numbers in rotation_wxyz and 3 in translation, got {len(quat)} and {len(translation)}"
        )
    _check_scale(scale, named)
    norm = float(np.linalg.norm(quat))
    if abs(norm - 1) > 1e-2:
        raise AlignmentError(f"rotation_wxyz in '{source}' has length {norm:.4g}, expected 1; the order is w x y z")
    return Sim3(scale, quat / norm, translation)


def _from_dataparser(content: Mapping[str, object], path: Path) -> Sim3:
    transform = numbers(content["transform"], f"transform of '{path}'", AlignmentError)
    if len(transform) not in (12, 16):
        raise AlignmentError(f"transform of '{path}' has {len(transform)} numbers, expected 3×4")
    scale = number(content, "scale", f"'{path}'", AlignmentError)
    _check_scale(scale, f"'{path}'")
    try:
        rigid = Sim3.from_matrix(np.reshape(transform, (-1, 4)))
    except AlignmentError as error:
        raise AlignmentError(f"'{path}': {error}") from error
    return Sim3(scale * rigid.scale, rigid.quat_wxyz, scale * rigid.translation)


def _check_scale(scale: float, source: str) -> None:
    if scale <= 0:
        raise AlignmentError(f"scale of {source} is {scale}, expected a positive number")
    if not MIN_SCALE <= scale <= MAX_SCALE:
        raise AlignmentError(
            f"scale of {source} is {scale:g}, expected {MIN_SCALE:g} to {MAX_SCALE:g} splat units a metre"
        )
