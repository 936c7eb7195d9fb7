"""Static transforms from a file, for recordings without /tf_static: a YAML list, or the fixed joints of a URDF.

::

    - {parent: base_link, child: camera_optical, translation: [0.2, 0, 1.0], rotation_xyzw: [-0.5, 0.5, -0.5, 0.5]}
    - {parent: base_link, child: lidar, translation: [0, 0, 0.5], rpy: [0, 0, 1.57]}
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from feature_gs_ros.core.errors import StreamError
from feature_gs_ros.io.files import read_regular
from feature_gs_ros.io.structured import Table, read_structured

MAX_URDF = 16 << 20  # bytes
_XML = (".urdf", ".xml", ".xacro")


class StaticTransform(NamedTuple):
    """``parent_from_child``: translation [3] in metres, unit quaternion wxyz [4]."""

    parent: str
    child: str
    xyz: NDArray[np.float64]
    quat_wxyz: NDArray[np.float64]


def load_static_transforms(path: str | Path) -> list[StaticTransform]:
    """The transforms of a YAML or JSON list (see above), or of a URDF's joints of type fixed.

    Raises:
        StreamError: the file is missing, damaged, or holds none.
    """
    path = Path(path)
    is_urdf = path.suffix.lower() in _XML
    found = list(_from_urdf(path) if is_urdf else _from_list(path))
    if not found:
        raise StreamError(
            f"'{path}' holds no {'fixed joint' if is_urdf else 'transform'}, expected one at least", code="stream.range"
        )
    return found


def _from_list(path: Path) -> Iterator[StaticTransform]:
    content = read_structured(path, StreamError)
    whole = {"transforms": content} if isinstance(content, list) else content
    for entry in Table(whole, f"'{path}'", StreamError).only(("transforms",)).tables("transforms"):
        entry.only(("parent", "child", "translation", "rotation_xyzw", "rpy"))
        if ("rotation_xyzw" in entry) == ("rpy" in entry):
            raise StreamError(f"{entry.source} takes one of rotation_xyzw and rpy [rad]", code="stream.conflict")
        if "rpy" in entry:
            quat = quat_from_rpy(*entry.numbers("rpy", 3))
        else:
            x, y, z, w = entry.numbers("rotation_xyzw", 4)
            quat = np.array([w, x, y, z])
        norm = float(np.linalg.norm(quat))
        if not 0.99 < norm < 1.01:
            raise StreamError(
                f"rotation_xyzw of {entry.source} has length {norm:.3g}, expected a unit quaternion",
                code="stream.value",
            )
        xyz = np.array(entry.numbers("translation", 3))
        yield StaticTransform(entry.text("parent", empty=False), entry.text("child", empty=False), xyz, quat / norm)


def _from_urdf(path: Path) -> Iterator[StaticTransform]:
    try:
        text = read_regular(path, MAX_URDF)
    except OSError as error:
        raise StreamError(f"can't read '{path}': {error.strerror or error}", code="stream.unreadable") from error
    if b"<!DOCTYPE" in text or b"<!ENTITY" in text:
        raise StreamError(
            f"'{path}' declares entities, which a URDF doesn't need: leave them out", code="stream.unsafe"
        )
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise StreamError(f"'{path}' is not XML: {error}", code="stream.format") from error
    for joint in root.iter("joint"):
        parent, child, origin = joint.find("parent"), joint.find("child"), joint.find("origin")
        if joint.get("type") != "fixed" or parent is None or child is None:
            continue
        values = {} if origin is None else origin.attrib
        source = f"joint '{joint.get('name')}' in '{path}'"
        xyz, rpy = (_three(values.get(key, "0 0 0"), f"{key} of {source}") for key in ("xyz", "rpy"))
        yield StaticTransform(parent.get("link", ""), child.get("link", ""), xyz, quat_from_rpy(*rpy))


def _three(text: str, source: str) -> NDArray[np.float64]:
    try:
        values = np.array([float(word) for word in text.split()])
    except ValueError:
        values = np.empty(0)
    if values.shape != (3,) or not np.isfinite(values).all():
        raise StreamError(
            f"{source} is '{text[:80]}', expected three numbers; run xacro on the file first", code="stream.value"
        )
    return values


def quat_from_rpy(roll: float, pitch: float, yaw: float) -> NDArray[np.float64]:
    """Quaternion wxyz of URDF's fixed-axis angles [rad]: about x, then y, then z."""
    (cr, sr), (cp, sp), (cy, sy) = ((math.cos(angle / 2), math.sin(angle / 2)) for angle in (roll, pitch, yaw))
    return np.array(
        [
            cr * cp * cy + sr * sp * sy,
            sr * cp * cy - cr * sp * sy,
            cr * sp * cy + sr * cp * sy,
            cr * cp * sy - sr * sp * cy,
        ]
    )
