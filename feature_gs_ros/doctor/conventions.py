"""Poses of another convention than camera_from_map with OpenCV axes: the usual ones, each tried."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from feature_gs_ros.core.geometry import Sim3, quat_wxyz_from_rotation, rigid_inverse, rotation_from_quat_wxyz
from feature_gs_ros.doctor.evidence import Evidence, PoseChange
from feature_gs_ros.doctor.explanations import Explanation, with_poses
from feature_gs_ros.doctor.scale import UNITS
from feature_gs_ros.frames.reprojection import posed_cameras
from feature_gs_ros.frames.umeyama import Array

FLIP_YZ = np.diag([1.0, -1, -1, 1])
LINK_FROM_OPTICAL = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])


def convention_explanations(evidence: Evidence) -> list[Explanation]:
    """The stream by every usual convention of poses, and by the usual mistakes with an alignment."""
    found = [Explanation(code, with_poses(evidence, change), what, advice) for code, change, what, advice in _CHANGES]
    alignment = evidence.splat_from_map
    if not np.allclose(alignment.matrix, np.eye(4)):
        found.append(
            Explanation(
                "alignment.inverse",
                posed_cameras(evidence.frames, alignment.inverse()),
                "the alignment is map_from_splat where splat_from_map is expected",
                "Invert the transform in the alignment file",
            )
        )
        found.append(
            Explanation(
                "alignment.needless",
                posed_cameras(evidence.frames, Sim3.identity()),
                "the poses are in the splat's frame already, and the alignment is applied on top",
                "Leave out --alignment",
            )
        )
    return found


def with_units(evidence: Evidence) -> list[Explanation]:
    """The likeliest conventions together with another unit: two mistakes at once."""
    found = []
    for code, change, what, advice in _CHANGES:
        for factor, unit in UNITS.items() if code in _LIKELIEST else ():

            def both(pose: Array, change: PoseChange = change, factor: float = factor) -> Array:
                changed = change(_pose(pose[:3, :3], pose[:3, 3] / factor))
                return np.asarray(changed)

            found.append(
                Explanation(
                    code, with_poses(evidence, both), f"{what}; and positions are {factor:g} times too large ({unit})",
                    f"{advice}, and divide the positions by {factor:g}", 0, {"factor": factor},
                )
            )  # fmt: skip
    return found


def _pose(rotation: Array, translation: Array) -> Array:
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, translation
    return pose


def _left_handed(axis: int) -> PoseChange:
    mirror = np.eye(4)
    mirror[axis, axis] = -1
    return lambda pose: np.asarray(mirror @ pose @ mirror)


def _left_handed_world(axis: int) -> PoseChange:
    """One axis of the world mirrored, and the image's x with it to keep the rotation proper."""
    mirror = np.eye(4)
    mirror[axis, axis] = -1
    flip = np.diag([1.0, -1, 1, 1])
    return lambda pose: np.asarray(flip @ pose @ mirror)


def _turned_world(axis: str, degrees: float) -> PoseChange:
    turn = _pose(Rotation.from_euler(axis, degrees, degrees=True).as_matrix(), np.zeros(3))
    return lambda pose: np.asarray(pose @ turn)


def _reordered(pose: Array, order: list[int], of_camera: bool) -> Array:
    """The pose whose quaternion was read in another order of its components."""
    inverse = rigid_inverse(pose)
    rotation = pose[:3, :3] if of_camera else inverse[:3, :3]
    turned = rotation_from_quat_wxyz(quat_wxyz_from_rotation(rotation)[order])
    if of_camera:
        return _pose(turned, pose[:3, 3])
    return rigid_inverse(_pose(turned, inverse[:3, 3]))


_LIKELIEST = ("poses.inverse", "poses.opengl", "poses.inverse-opengl")
_WRITE = "Write camera_from_world with OpenCV axes (x right, y down, z forward)"
_CHANGES: list[tuple[str, PoseChange, str, str]] = [
    (
        "poses.inverse",
        lambda pose: rigid_inverse(pose),
        "the poses are world_from_camera, given as camera_from_world",
        "Invert them",
    ),
    (
        "poses.opengl",
        lambda pose: np.asarray(FLIP_YZ @ pose),
        "the cameras have OpenGL axes (y up, z backward)",
        "Flip the camera's y and z axes: diag(1, -1, -1) · camera_from_world",
    ),
    (
        "poses.inverse-opengl",
        lambda pose: np.asarray(FLIP_YZ @ rigid_inverse(pose)),
        "the poses are world_from_camera with OpenGL axes, given as camera_from_world",
        "Invert them and flip the camera's y and z axes",
    ),
    (
        "poses.opengl-world",
        lambda pose: np.asarray(pose @ FLIP_YZ),
        "the world's y and z axes are flipped",
        "Flip the world's y and z axes, or align anew: feature-gs align images",
    ),
    (
        "poses.body-axes",
        lambda pose: np.asarray(rigid_inverse(LINK_FROM_OPTICAL) @ pose),
        "the poses are those of the camera's body frame (x forward, z up), not of its optical frame",
        "Give the images the frame_id of the optical frame",
    ),
    (
        "poses.body-axes-twice",
        lambda pose: np.asarray(LINK_FROM_OPTICAL @ pose),
        "the turn from body to optical axes is applied twice",
        "Give the images the frame_id of the frame that tf has the optical axes for",
    ),
    (
        "poses.y-up",
        _turned_world("x", 90),
        "the world is y-up where the map's frame is z-up",
        "Turn the world by 90° about x, or align anew: feature-gs align images",
    ),
    (
        "poses.z-up",
        _turned_world("x", -90),
        "the world is z-up where the map's frame is y-up",
        "Turn the world by -90° about x, or align anew: feature-gs align images",
    ),
    ("poses.left-handed", _left_handed(1), "the poses are left-handed (y mirrored)", _WRITE),
    ("poses.left-handed-x", _left_handed(0), "the poses are left-handed (x mirrored)", _WRITE),
    ("poses.left-handed-z", _left_handed(2), "the poses are left-handed (z mirrored)", _WRITE),
    ("poses.left-handed-world-x", _left_handed_world(0), "the world is left-handed (x mirrored)", _WRITE),
    ("poses.left-handed-world-y", _left_handed_world(1), "the world is left-handed (y mirrored)", _WRITE),
    ("poses.left-handed-world-z", _left_handed_world(2), "the world is left-handed (z mirrored)", _WRITE),
    (
        "poses.transposed-rotation",
        lambda pose: _pose(pose[:3, :3].T, pose[:3, 3]),
        "the rotations are transposed, the translations aren't",
        _WRITE,
    ),
    (
        "poses.transposed-rotation-of-centre",
        lambda pose: _pose(pose[:3, :3].T, pose[:3, :3].T @ pose[:3, :3].T @ pose[:3, 3]),
        "the rotations are transposed, the cameras' centres are right",
        _WRITE,
    ),
    (
        "poses.centre-as-translation",
        lambda pose: _pose(pose[:3, :3], -pose[:3, :3] @ pose[:3, 3]),
        "the translations are the cameras' centres",
        "The translation of camera_from_world is -R · centre",
    ),
    (
        "poses.translation-as-centre",
        lambda pose: _pose(pose[:3, :3], -pose[:3, :3].T @ pose[:3, 3]),
        "the cameras' centres are the translations of camera_from_world",
        "A camera's centre is -Rᵀ · translation",
    ),
    (
        "poses.quaternion-order",
        lambda pose: _reordered(pose, [1, 2, 3, 0], of_camera=False),
        "quaternions are read in the wrong order (w x y z for x y z w)",
        "COLMAP and this package write w x y z, ROS and TUM x y z w",
    ),
    (
        "poses.quaternion-order",
        lambda pose: _reordered(pose, [3, 0, 1, 2], of_camera=False),
        "quaternions are read in the wrong order (x y z w for w x y z)",
        "COLMAP and this package write w x y z, ROS and TUM x y z w",
    ),
    (
        "poses.quaternion-order",
        lambda pose: _reordered(pose, [1, 2, 3, 0], of_camera=True),
        "quaternions of camera_from_world are read in the wrong order (w x y z for x y z w)",
        "COLMAP and this package write w x y z, ROS and TUM x y z w",
    ),
    (
        "poses.quaternion-order",
        lambda pose: _reordered(pose, [3, 0, 1, 2], of_camera=True),
        "quaternions of camera_from_world are read in the wrong order (x y z w for w x y z)",
        "COLMAP and this package write w x y z, ROS and TUM x y z w",
    ),
]
