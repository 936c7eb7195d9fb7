"""The way a robot's camera takes around the table, smooth in time, and the views on it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from feature_gs_ros.core.camera import Camera, Distortion
from feature_gs_ros.synthetic.distance import Floats

START_NS = 1_700_000_000_000_000_000
SWEEP_NS = 12_000_000_000  # once around the table
TF_PERIOD_NS = 20_000_000
VIEW_OFFSET_NS = 7_300_000  # images never coincide with the samples of tf
BARREL = Distortion("plumb_bob", (-0.28, 0.09, 0.0008, -0.0006, -0.012))

_SWEEP = np.radians(345.0)  # around the table in one recording
_SWEEP_START = np.radians(-165.0)
_TARGET_HEIGHT = 0.055


class PosedView(NamedTuple):
    """Where the camera is when it takes one image."""

    stamp_ns: int
    camera_from_map: Floats  # [4, 4] rigid, metres

    @property
    def name(self) -> str:
        """The frame's name in a bag."""
        return str(self.stamp_ns)


def tabletop_camera(width: int = 640, height: int = 480, distortion: Distortion | None = None) -> Camera:
    """A lens of 55° across whose pixels are not quite square and whose axis is not quite in the middle."""
    return Camera(
        width,
        height,
        fx=0.968 * width,
        fy=0.972 * width,
        cx=width * (0.5 + 0.005),
        cy=height * (0.5 - 0.004),
        distortion=distortion,
    )


def recorded_views(count: int = 24) -> list[PosedView]:
    """The views of a recording of ``count`` images on one sweep around the table, evenly spaced in time."""
    steps = max(SWEEP_NS // (TF_PERIOD_NS * max(count, 1)), 1)
    stamps = [START_NS + VIEW_OFFSET_NS + k * steps * TF_PERIOD_NS for k in range(count)]
    return [PosedView(stamp_ns, pose_at(stamp_ns)) for stamp_ns in stamps]


def held_out_views(count: int = 6) -> list[PosedView]:
    """Views that no recording holds: from nearer and further, between its directions, stamped after it."""
    return [
        PosedView(
            START_NS + 100 * SWEEP_NS + k * TF_PERIOD_NS,
            pose_on_sweep((k + 0.37) / count, nearer=0.93 if k % 2 else 1.07),
        )
        for k in range(count)
    ]


def pose_at(stamp_ns: int) -> Floats:
    """``camera_from_map`` [4, 4] at any time of a recording."""
    return pose_on_sweep((stamp_ns - START_NS) / SWEEP_NS)


def pose_on_sweep(fraction: float, nearer: float = 1.0) -> Floats:
    """``camera_from_map`` [4, 4] after a fraction (0 to 1) of the sweep; rises, falls and comes closer on its way."""
    azimuth = _SWEEP_START + _SWEEP * fraction
    radius = nearer * (0.60 + 0.06 * np.sin(2 * np.pi * (2.0 * fraction + 0.1)))
    height = nearer * (0.40 + 0.10 * np.sin(2 * np.pi * (3.0 * fraction + 0.35)))
    target = np.array([0.03 * np.cos(5.0 * fraction), 0.025 * np.sin(7.0 * fraction), _TARGET_HEIGHT])
    eye = np.array([radius * np.cos(azimuth), radius * np.sin(azimuth), height])
    return looking_at(eye, target, roll=np.radians(3.0) * np.sin(2 * np.pi * fraction))


def looking_at(eye: Floats, target: Floats, roll: float = 0.0) -> Floats:
    """``camera_from_map`` [4, 4] of a camera at ``eye`` [3] that looks at ``target`` [3], turned by ``roll`` (rad)."""
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    c, s = np.cos(roll), np.sin(roll)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([c * right + s * down, c * down - s * right, forward])
    pose[:3, 3] = -pose[:3, :3] @ eye
    return pose
