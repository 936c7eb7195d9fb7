"""KeyframeGate: which frames of a camera are worth the extractor's time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

JUMP_NS = 1_000_000_000  # a stamp that is earlier by more is a recording that began again
TOO_SOON = "sooner than keyframe.min_interval"
STILL = "camera moved less than keyframe.translation and keyframe.rotation"
NOT_A_KEYFRAME = (TOO_SOON, STILL)  # reasons to leave a frame out that are as wished


@dataclass(frozen=True)
class KeyframeLimits:
    """A frame is taken when the camera moved or turned enough, or stood still for long."""

    translation: float  # m
    rotation: float  # rad
    min_interval: float  # s
    max_interval: float  # s; 0: a still camera gives nothing new


class KeyframeGate:
    """Compares each frame of one camera with the last one taken."""

    def __init__(self) -> None:
        self._last: tuple[int, NDArray[np.float64]] | None = None

    def reset(self) -> None:
        """Take the next frame, whatever it is: after a time jump."""
        self._last = None

    def refusal(self, stamp_ns: int, camera_from_map: NDArray[np.float64], limits: KeyframeLimits) -> str | None:
        """Why a frame with this pose [4, 4] isn't worth it, None where it is, and where time jumped back."""
        if self._last is None:
            return None
        last_stamp, last_pose = self._last
        if last_stamp - stamp_ns > JUMP_NS:
            return None
        elapsed = (stamp_ns - last_stamp) * 1e-9
        if elapsed < limits.min_interval:
            return TOO_SOON
        if 0 < limits.max_interval <= elapsed:
            return None
        motion = camera_from_map @ np.linalg.inv(last_pose)
        angle = np.arccos(np.clip((np.trace(motion[:3, :3]) - 1) / 2, -1, 1))
        if np.linalg.norm(motion[:3, 3]) >= limits.translation or angle >= limits.rotation:
            return None
        return STILL

    def take(self, stamp_ns: int, camera_from_map: NDArray[np.float64]) -> None:
        """Remember a frame that was taken."""
        self._last = (stamp_ns, camera_from_map)
