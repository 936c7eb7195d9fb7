"""Poses: tf as it comes in, asked without waiting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.time import Time
from tf2_ros import Buffer, TransformException, TransformListener

from feature_gs_ros.core.errors import NoTransformError
from feature_gs_ros.io.messages.transform import matrix_from_transform, stamp_ns
from feature_gs_ros.live.tf_times import TfTimes

Matrix = NDArray[np.float64]  # [4, 4]
GAP = "transform.gap"  # the code of a pose that would be interpolated across a silence
UNIT_TOLERANCE = 0.01  # tf2's own, of a quaternion's squared length


class TimedBuffer(Buffer):
    """tf2's buffer, which also notes when each transform came, as tf2 doesn't tell between which it interpolates."""

    def __init__(self, times: TfTimes, on_static_change: Callable[[str], None]) -> None:
        super().__init__()
        self._times, self._on_static_change = times, on_static_change

    def set_transform(self, transform: Any, authority: str) -> None:
        """A transform that moves."""
        if _is_taken(transform):
            self._times.add(*_frames(transform), stamp_ns(transform.header.stamp))
        super().set_transform(transform, authority)

    def set_transform_static(self, transform: Any, authority: str) -> None:
        """A transform that doesn't."""
        parent, child = _frames(transform)
        if _is_taken(transform) and self._times.add_static(parent, child, _values(transform)):
            self._on_static_change(child)
        super().set_transform_static(transform, authority)


class Poses:
    """A tf buffer and its subscriptions.

    tf2's own waiting sleeps on the system clock, so nothing here waits: a frame without tf is asked for again.
    """

    def __init__(self, node: Any, map_frame: str) -> None:
        self.map_frame = map_frame
        self._log = node.get_logger()
        self._times = TfTimes()
        self._buffer = TimedBuffer(self._times, self._static_changed)
        self._listener = TransformListener(self._buffer, node)

    def camera_from_map(self, frame: str, stamp_ns: int, max_gap: float) -> Matrix:
        """Pose [4, 4] of a camera, by its optical frame, at a stamp; interpolated, never extrapolated.

        Args:
            frame: of the camera.
            stamp_ns: of the image.
            max_gap: s of silence that is interpolated across; see `TfTimes.gap`.

        Raises:
            NoTransformError: not known yet, or never; with the code `GAP`: never.
        """
        pose = self.lookup(frame, self.map_frame, stamp_ns)
        silent = self._times.gap(frame.lstrip("/"), self.map_frame.lstrip("/"), stamp_ns, max_gap)
        if silent is not None:
            raise NoTransformError(f"tf of '{silent}' was silent for longer than tf_max_gap", code=GAP)
        return pose

    def lookup(self, target: str, source: str, stamp_ns: int) -> Matrix:
        """``target_from_source`` [4, 4] at a stamp; 0 is the newest that both have.

        Raises:
            NoTransformError: a frame is unknown, the two aren't connected, or tf doesn't reach the stamp.
        """
        try:
            stamped = self._buffer.lookup_transform(target.lstrip("/"), source.lstrip("/"), Time(nanoseconds=stamp_ns))
        except TransformException as error:
            raise NoTransformError(f"no tf from '{source}' to '{target}': {error}", code="transform.lookup") from error
        return matrix_from_transform(stamped.transform)

    def clear(self) -> None:
        """Forget what moved: after a time jump. Static transforms stay."""
        self._buffer.clear()
        self._times.clear()

    def close(self) -> None:
        self._listener.unregister()

    def _static_changed(self, child: str) -> None:
        self._log.warning(
            f"the static transform of '{child}' changed while running; views from before keep the poses that they had"
        )


def _frames(transform: Any) -> tuple[str, str]:
    """Parent and child of a TransformStamped, as tf2 knows them."""
    return transform.header.frame_id.lstrip("/"), transform.child_frame_id.lstrip("/")


def _values(transform: Any) -> NDArray[np.float64]:
    """Translation and quaternion x y z w [7] of a TransformStamped."""
    position, turn = transform.transform.translation, transform.transform.rotation
    return np.array([position.x, position.y, position.z, turn.x, turn.y, turn.z, turn.w])


def _is_taken(transform: Any) -> bool:
    """Whether tf2 takes a transform; of one that it refuses it says so in the log, and it fills no silence."""
    parent, child = _frames(transform)
    values = _values(transform)
    is_unit = abs(float(values[3:] @ values[3:]) - 1.0) < UNIT_TOLERANCE
    return bool(parent and child and parent != child and np.isfinite(values).all() and is_unit)
