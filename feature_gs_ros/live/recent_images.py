"""RecentImages: the last live images with their poses, small, for whoever wants to look at them again."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import replace

import cv2
import numpy as np

from feature_gs_ros.core.camera import Frame
from feature_gs_ros.frames.features import small_camera

KEPT = 24  # images
SIZE = 640  # px of the longer side: a megabyte each


class RecentImages:
    """Takes every frame that was used; may be read from another thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._frames: deque[Frame] = deque(maxlen=KEPT)

    def keep(self, frame: Frame) -> None:
        """Keep a reduced copy of its image.

        Raises:
            ImageError: it can't be decoded.
        """
        camera = small_camera(frame.camera, SIZE)
        size = (camera.width, camera.height)
        small = np.asarray(cv2.resize(frame.image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
        with self._lock:
            self._frames.append(replace(frame, camera=camera, load_image=lambda: small))

    def frames(self) -> list[Frame]:
        """Oldest first."""
        with self._lock:
            return list(self._frames)

    def clear(self) -> None:
        """Forget them: time jumped, or poses are of another place."""
        with self._lock:
            self._frames.clear()
