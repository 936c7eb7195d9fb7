"""The file that holds the transform between the splat's frame and the robot's map frame."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import yaml

from feature_gs_ros.core.errors import AlignmentError
from feature_gs_ros.core.geometry import Sim3
from feature_gs_ros.io.atomic import atomic_path
from feature_gs_ros.io.structured import Table, read_structured

MIN_SCALE, MAX_SCALE = 1e-9, 1e9  # of a file or parameters: what is beyond can't be meant
_KEYS = ("scale", "rotation_xyzw", "rotation_wxyz", "translation")


def load_alignment(path: str | Path) -> Sim3:
    """Read ``splat_from_map`` from a YAML file, or a nerfstudio ``dataparser_transforms.json``.

    The YAML holds ``splat_from_map: {scale, rotation_xyzw, translation}``, or ``rotation_wxyz`` in place of the second.
    Nerfstudio's file holds ``transform`` [3, 4] and ``scale`` with ``x_splat = scale · (transform · x)``.

    Returns:
        ``splat_from_map``: from the map frame (metres) to the splat's frame and units.

    Raises:
        AlignmentError: the file is missing or says something else.
    """
    path = Path(path)
    content = read_structured(path, AlignmentError)
    if isinstance(content, Mapping) and "transform" in content and "scale" in content:
        return _from_dataparser(Table(content, f"'{path}'", AlignmentError))
    if isinstance(content, Mapping) and "splat_from_map" in content:
        return sim3_from_mapping(content["splat_from_map"], str(path))
    raise AlignmentError(
        f"'{path}' holds no alignment; expected splat_from_map: {{scale, rotation_xyzw, translation}} "
        "or nerfstudio's dataparser_transforms.json",
        code="alignment.format",
    )


def save_alignment(splat_from_map: Sim3, path: str | Path, comment: str = "", **extra: object) -> None:
    """Write what `load_alignment` reads; the file appears whole or not at all.

    Args:
        comment: lines for people, put in front.
        extra: further keys, which readers skip.

    Raises:
        AlignmentError: the file can't be written.
    """
    content = {"splat_from_map": sim3_as_mapping(splat_from_map), **extra}
    lines = ["x_splat = scale * R(rotation_xyzw) @ x_map + translation", *comment.splitlines()]
    text = "".join(f"# {line}\n" for line in lines)
    try:
        with atomic_path(path) as temporary:
            temporary.write_text(text + yaml.safe_dump(content, sort_keys=False, default_flow_style=None))
    except OSError as cause:
        raise AlignmentError(
            f"can't write the alignment '{path}': {cause.strerror or cause}", code="alignment.unwritable"
        ) from cause


def sim3_as_mapping(transform: Sim3) -> dict[str, object]:
    """``{scale, rotation_xyzw, translation}``, as files hold it: quaternions in ROS's order."""
    return {
        "scale": float(transform.scale),
        "rotation_xyzw": [float(value) for value in np.roll(transform.quat_wxyz, -1)],
        "translation": [float(value) for value in transform.translation],
    }


def sim3_from_mapping(values: object, source: str) -> Sim3:
    """``{scale, rotation_xyzw, translation}``, or ``rotation_wxyz`` in its place, as a Sim3; the scale is 1 by default.

    Raises:
        AlignmentError: a value is missing, not a number, or out of range, or a key is unknown.
    """
    named = f"splat_from_map in '{source}'"
    table = Table(values, named, AlignmentError).only(_KEYS)
    scale = table.number("scale", 1.0)
    key = "rotation_wxyz" if "rotation_wxyz" in table else "rotation_xyzw"
    if key == "rotation_wxyz" and "rotation_xyzw" in table:
        raise AlignmentError(
            f"{named} gives rotation_xyzw and rotation_wxyz; leave one of them out", code="alignment.conflict"
        )
    quat = np.roll(table.numbers(key, 4), 0 if key == "rotation_wxyz" else 1)  # w first
    translation = np.array(table.numbers("translation", 3))
    _check_scale(scale, named)
    norm = float(np.linalg.norm(quat))
    if abs(norm - 1) > 1e-2:
        order = " ".join(key.removeprefix("rotation_"))
        raise AlignmentError(
            f"{key} in '{source}' has length {norm:.4g}, expected 1; the order is {order}", code="alignment.value"
        )
    return Sim3(scale, quat / norm, translation)


def _from_dataparser(content: Table) -> Sim3:
    transform = content.numbers("transform", 12, 16)
    scale = content.number("scale")
    _check_scale(scale, content.source)
    try:
        rigid = Sim3.from_matrix(np.reshape(transform, (-1, 4)))
    except AlignmentError as error:
        raise AlignmentError(f"{content.source}: {error}", code=error.code) from error
    return Sim3(scale * rigid.scale, rigid.quat_wxyz, scale * rigid.translation)


def _check_scale(scale: float, source: str) -> None:
    if scale <= 0:
        raise AlignmentError(f"scale of {source} is {scale}, expected a positive number", code="alignment.range")
    if not MIN_SCALE <= scale <= MAX_SCALE:
        raise AlignmentError(
            f"scale of {source} is {scale:g}, expected {MIN_SCALE:g} to {MAX_SCALE:g} splat units per metre",
            code="alignment.value",
        )
