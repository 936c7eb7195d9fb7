"""Poses: tf as it comes in, asked without waiting."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.time import Time
from tf2_ros import Buffer, TransformException, TransformListener

from feature_gs_ros.core.errors import NoTransformError
from feature_gs_ros.io.messages.transform import matrix_from_transform

Matrix = NDArray[np.float64]  # [4, 4]


class Poses:
    """A tf buffer and its subscriptions.

    tf2's own waiting sleeps on the system clock, so nothing here waits: a frame without tf is asked for again.
    """

    def __init__(self, node: Any, map_frame: str) -> None:
        self.map_frame = map_frame
        self._buffer = Buffer()
        self._listener = TransformListener(self._buffer, node)

    def camera_from_map(self, frame: str, stamp_ns: int) -> Matrix:
        """Pose [4, 4] of a camera, by its optical frame, at a stamp; interpolated, never extrapolated.

        Raises:
            NoTransformError: not known yet, or never.
        """
        return self.lookup(frame, self.map_frame, stamp_ns)

    def lookup(self, target: str, source: str, stamp_ns: int) -> Matrix:
        """``target_from_source`` [4, 4] at a stamp; 0 is the newest that both have.

        Raises:
            NoTransformError: a frame is unknown, the two aren't connected, or tf doesn't reach the stamp.
        """
        try:
            stamped = self._buffer.lookup_transform(target.lstrip("/"), source.lstrip("/"), Time(nanoseconds=stamp_ns))
        except TransformException as error:
            raise NoTransformError(f"no tf from '{source}' to '{target}': {error}") from error
        return matrix_from_transform(stamped.transform)

    def clear(self) -> None:
        """Forget what moved: after a time jump. Static transforms stay."""
        self._buffer.clear()

    def close(self) -> None:
        self._listener.unregister()
