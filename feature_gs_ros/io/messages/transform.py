"""Stamps and geometry_msgs/Transform → nanoseconds and matrices; no ROS import."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from feature_gs_ros.core.errors import NoTransformError
from feature_gs_ros.core.geometry import rotation_from_quat_wxyz


class Stamp(Protocol):
    """builtin_interfaces/Time"""

    sec: int
    nanosec: int


class Vector3(Protocol):
    """geometry_msgs/Vector3"""

    x: float
    y: float
    z: float


class Quaternion(Protocol):
    """geometry_msgs/Quaternion"""

    x: float
    y: float
    z: float
    w: float


class Transform(Protocol):
    """geometry_msgs/Transform"""

    @property
    def translation(self) -> Vector3: ...
    @property
    def rotation(self) -> Quaternion: ...


def stamp_ns(stamp: Stamp) -> int:
    """A header's stamp in nanoseconds."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def pose_from_transform(transform: Transform) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Translation [3] and unit quaternion wxyz [4].

    Raises:
        NoTransformError: a value is not finite, or the quaternion is zero.
    """
    translation, rotation = transform.translation, transform.rotation
    xyz = np.array([translation.x, translation.y, translation.z], dtype=np.float64)
    quat_wxyz = np.array([rotation.w, rotation.x, rotation.y, rotation.z], dtype=np.float64)
    with np.errstate(over="ignore"):  # an infinite length is refused below
        norm = np.linalg.norm(quat_wxyz)
    if not (np.isfinite(xyz).all() and np.isfinite(norm) and norm > 1e-6):
        raise NoTransformError("a transform holds NaN, Inf or a zero quaternion", code="transform.not-finite")
    return xyz, quat_wxyz / norm


def matrix_from_transform(transform: Transform) -> NDArray[np.float64]:
    """Matrix [4, 4]; of a TransformStamped's it is ``frame_id`` from ``child_frame_id``.

    Raises:
        NoTransformError: a value is not finite, or the quaternion is zero.
    """
    xyz, quat_wxyz = pose_from_transform(transform)
    matrix = np.eye(4)
    matrix[:3, :3] = rotation_from_quat_wxyz(quat_wxyz)
    matrix[:3, 3] = xyz
    return matrix
