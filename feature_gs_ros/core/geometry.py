"""Similarities, rigid poses, rotations and quaternions: frames and how they lie to each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from feature_gs_ros.core.errors import AlignmentError

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Sim3:
    """Similarity ``x_b = scale · R(quat_wxyz) · x_a + translation`` from frame a to frame b.

    Name instances ``b_from_a``; then ``c_from_b @ b_from_a`` reads like the frames cancel.
    """

    scale: float
    quat_wxyz: Array  # [4], unit
    translation: Array  # [3], in units of frame b

    @staticmethod
    def identity() -> Sim3:
        return Sim3(1.0, np.array([1.0, 0.0, 0.0, 0.0]), np.zeros(3))

    @staticmethod
    def from_matrix(matrix: ArrayLike) -> Sim3:
        """From a [3, 4] or [4, 4] matrix ``[s R | t]``.

        Raises:
            AlignmentError: the left block is not a positive multiple of a rotation.
        """
        values = np.asarray(matrix, dtype=np.float64)
        if values.shape not in ((3, 4), (4, 4)) or not np.isfinite(values).all():
            raise AlignmentError(
                f"a transform needs a finite 3×4 or 4×4 matrix, got shape {values.shape}", code="alignment.shape"
            )
        block = values[:3, :3]
        determinant = float(np.linalg.det(block))
        if determinant <= 0:
            raise AlignmentError(
                f"determinant {determinant:.3g} of the transform: mirrored or flat, not a similarity",
                code="alignment.similarity",
            )
        scale = determinant ** (1 / 3)
        rotation = block / scale
        error = float(np.abs(rotation @ rotation.T - np.eye(3)).max())
        if error > 1e-3:
            raise AlignmentError(
                f"the transform is not a similarity: R Rᵀ differs from 1 by {error:.2g}", code="alignment.similarity"
            )
        return Sim3(scale, quat_wxyz_from_rotation(rotation), values[:3, 3].copy())

    @property
    def rotation(self) -> Array:
        """Rotation matrix [3, 3]."""
        return rotation_from_quat_wxyz(self.quat_wxyz)

    @property
    def matrix(self) -> Array:
        """Homogeneous matrix [4, 4]."""
        matrix = np.eye(4)
        matrix[:3, :3] = self.scale * self.rotation
        matrix[:3, 3] = self.translation
        return matrix

    def __matmul__(self, other: Sim3) -> Sim3:
        return Sim3(
            self.scale * other.scale,
            quat_wxyz_from_rotation(self.rotation @ other.rotation),
            self.apply(other.translation),
        )

    def apply(self, points: ArrayLike) -> Array:
        """Points [..., 3] of frame a in frame b."""
        moved: Array = self.scale * (np.asarray(points, dtype=np.float64) @ self.rotation.T) + self.translation
        return moved

    def inverse(self) -> Sim3:
        """``a_from_b`` of this ``b_from_a``."""
        w, x, y, z = self.quat_wxyz
        inverse_rotation = self.rotation.T
        return Sim3(
            1.0 / self.scale,
            np.array([w, -x, -y, -z]),
            -(inverse_rotation @ self.translation) / self.scale,
        )

    def camera_from_splat(self, camera_from_map: Array) -> Array:
        """Rigid pose [4, 4] of a camera in a's frame, from its pose [4, 4] in b's; read as ``splat_from_map``.

        Called on ``splat_from_map``: the camera's units become the splat's, so that depth is in splat units.
        """
        map_from_splat = self.inverse()
        pose = np.eye(4)
        pose[:3, :3] = camera_from_map[:3, :3] @ map_from_splat.rotation
        pose[:3, 3] = self.scale * (camera_from_map[:3, :3] @ map_from_splat.translation + camera_from_map[:3, 3])
        return pose


def rotation_from_quat_wxyz(quat_wxyz: ArrayLike) -> Array:
    """Rotation matrix [3, 3] of a quaternion [4] of any length but zero."""
    quat = np.asarray(quat_wxyz, dtype=np.float64)
    w, x, y, z = quat / np.linalg.norm(quat)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def quat_wxyz_from_rotation(rotation: ArrayLike) -> Array:
    """Unit quaternion [4] with w ≥ 0 of a rotation matrix [3, 3]."""
    m = np.asarray(rotation, dtype=np.float64)
    # The largest of the four squares is at least 1/4: dividing by it never loses digits.
    squares = np.array(
        [
            1 + m[0, 0] + m[1, 1] + m[2, 2],
            1 + m[0, 0] - m[1, 1] - m[2, 2],
            1 - m[0, 0] + m[1, 1] - m[2, 2],
            1 - m[0, 0] - m[1, 1] + m[2, 2],
        ]
    )
    products = np.array(
        [
            [squares[0], m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]],
            [m[2, 1] - m[1, 2], squares[1], m[1, 0] + m[0, 1], m[0, 2] + m[2, 0]],
            [m[0, 2] - m[2, 0], m[1, 0] + m[0, 1], squares[2], m[2, 1] + m[1, 2]],
            [m[1, 0] - m[0, 1], m[0, 2] + m[2, 0], m[2, 1] + m[1, 2], squares[3]],
        ]
    )
    row = products[int(squares.argmax())]
    quat: Array = row / np.linalg.norm(row)
    return quat if quat[0] >= 0 else -quat


def rigid_pose(xyz: ArrayLike, quat_wxyz: ArrayLike) -> Array:
    """Matrix [4, 4] of a translation [3] and a quaternion [4] of any length but zero."""
    pose = np.eye(4)
    pose[:3, :3] = rotation_from_quat_wxyz(quat_wxyz)
    pose[:3, 3] = xyz
    return pose


def rigid_inverse(pose: Array) -> Array:
    """Inverse [4, 4] of a rigid pose [4, 4]: ``Rᵀ, −Rᵀ t``."""
    inverse = np.eye(4)
    inverse[:3, :3] = pose[:3, :3].T
    inverse[:3, 3] = camera_centre(pose)
    return inverse


def camera_centre(camera_from_world: Array) -> Array:
    """Where a camera is, [3] in its world's frame, from its rigid pose [4, 4] or [3, 4]: ``−Rᵀ t``."""
    centre: Array = -camera_from_world[:3, :3].T @ camera_from_world[:3, 3]
    return centre


def slerp(start: Array, end: Array, fraction: float) -> Array:
    """Unit quaternion [4] on the shorter arc from start (fraction 0) to end (fraction 1); both [4] and unit."""
    cosine = float(start @ end)
    if cosine < 0:
        end, cosine = -end, -cosine
    angle = np.arccos(min(1.0, cosine))
    if angle < 1e-6:  # the sines vanish, and the chord is the arc
        between = (1 - fraction) * start + fraction * end
    else:
        between = (np.sin((1 - fraction) * angle) * start + np.sin(fraction * angle) * end) / np.sin(angle)
    quat: Array = between / np.linalg.norm(between)
    return quat


def rotations_from_quats_wxyz(quats_wxyz: Tensor) -> Tensor:
    """Rotation matrices [N, 3, 3] of unit quaternions [N, 4], differentiable."""
    w, x, y, z = quats_wxyz.unbind(1)
    return torch.stack(
        [
            torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], 1),
            torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], 1),
            torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], 1),
        ],
        1,
    )


def rotated(quats_wxyz: Tensor, vectors: Tensor) -> Tensor:
    """Vectors [N, 3] turned by quaternions [N, 4] of any length but zero, one each."""
    unit = torch.nn.functional.normalize(quats_wxyz, dim=1)
    w, axis = unit[:, :1], unit[:, 1:]
    twice = 2 * torch.linalg.cross(axis, vectors)
    turned: Tensor = vectors + w * twice + torch.linalg.cross(axis, twice)
    return turned


def quats_after(quat_wxyz: ArrayLike, quats_wxyz: Tensor) -> Tensor:
    """The rotation ``quat_wxyz`` [4] after each of ``quats_wxyz`` [N, 4]: Hamilton products, unit, [N, 4] float32."""
    w, x, y, z = (float(value) for value in np.asarray(quat_wxyz))
    left = torch.tensor([[w, -x, -y, -z], [x, w, -z, y], [y, z, w, -x], [z, -y, x, w]], dtype=torch.float64)
    return torch.nn.functional.normalize(quats_wxyz.double() @ left.T, dim=1).float()
