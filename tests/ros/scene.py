"""A small workplace for the tests: a red, a green and a blue block on a grey table, and a camera that flies over it."""

from __future__ import annotations

import numpy as np
import torch

from feature_gs_ros.core.camera import Camera, Image
from feature_gs_ros.core.gaussians import SH_C0, GaussianMap
from feature_gs_ros.core.geometry import Sim3, quat_wxyz_from_rotation
from feature_gs_ros.pictures import to_image
from feature_gs_ros.rasterizer import view

# The splat's frame is turned, shifted and twice as large, so that a forgotten alignment shows.
SPLAT_FROM_MAP = Sim3(2.0, np.array([np.cos(0.3), 0.0, 0.0, np.sin(0.3)]), np.array([0.5, -1.0, 0.25]))
CAMERA = Camera(160, 120, fx=140.0, fy=142.0, cx=79.0, cy=61.5)
BLOCKS = {  # centre and size [m] in the map frame, 8-bit colour
    "red": ((-0.15, 0.0, 0.05), (0.08, 0.08, 0.1), (200, 30, 30)),
    "green": ((0.0, 0.12, 0.03), (0.06, 0.1, 0.06), (40, 150, 60)),
    "blue": ((0.15, -0.03, 0.04), (0.1, 0.06, 0.08), (35, 75, 190)),
}
TABLE = ((0.0, 0.0, -0.01), (0.6, 0.5, 0.02), (128, 128, 128))
SPACING = 0.008  # m between Gaussians


def make_map() -> GaussianMap:
    """About 6,000 Gaussians in the splat's frame."""
    points, colors = zip(*(_surface(*solid) for solid in (*BLOCKS.values(), TABLE)), strict=True)
    means = SPLAT_FROM_MAP.apply(np.concatenate(points))
    count = len(means)
    sh = (np.concatenate(colors) / 255.0 - 0.5) / SH_C0
    return GaussianMap.from_tensors(
        torch.from_numpy(means),
        torch.from_numpy(np.tile(SPLAT_FROM_MAP.quat_wxyz, (count, 1))),
        torch.full((count, 3), 0.55 * SPACING * SPLAT_FROM_MAP.scale),
        torch.full((count,), 0.95),
        torch.from_numpy(sh[:, None]),
    )


def camera_from_map(step: float) -> np.ndarray:
    """A pose [4, 4] on a circle over the table, looking at its middle; a step of 1 goes around."""
    angle = 2 * np.pi * step
    eye = np.array([0.45 * np.cos(angle), 0.45 * np.sin(angle), 0.5])
    forward = -eye / np.linalg.norm(eye)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward])
    pose[:3, 3] = -pose[:3, :3] @ eye
    return pose


def take_picture(gaussians: GaussianMap, pose: np.ndarray, camera: Camera = CAMERA) -> Image:
    """What a camera at ``camera_from_map`` [4, 4] sees."""
    return to_image(view(gaussians, camera, SPLAT_FROM_MAP.camera_from_splat(pose)).render_color())


def transform_of(pose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Position [3] and quaternion wxyz [4] of the camera in the map frame."""
    map_from_camera = np.linalg.inv(pose)
    return map_from_camera[:3, 3], quat_wxyz_from_rotation(map_from_camera[:3, :3])


def _surface(center: tuple, size: tuple, color: tuple) -> tuple[np.ndarray, np.ndarray]:
    axes = [np.arange(-s / 2, s / 2 + 1e-9, SPACING) for s in size]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    ends = [axis[[0, -1]] for axis in axes]
    outside = np.any([np.isin(grid[:, k], ends[k]) for k in range(3)], axis=0)
    points = grid[outside] + np.array(center)
    return points, np.tile(np.array(color, float), (len(points), 1))
