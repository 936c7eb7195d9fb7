"""Camera and Frame: where an image was taken from, and with what lens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from feature_gs_ros.errors import CameraError

Image = NDArray[np.uint8]  # [H, W, 3] RGB
DistortionModel = Literal["plumb_bob", "rational_polynomial", "equidistant"]


@dataclass(frozen=True)
class Distortion:
    """A lens as CameraInfo describes it: the model's name and its coefficients in ROS order."""

    model: DistortionModel
    coefficients: tuple[float, ...]


@dataclass(frozen=True)
class Camera:
    """Pinhole intrinsics in pixels; OpenCV axes (x right, y down, z forward).

    ``cx, cy`` count from the image's corner: the centre of the top left pixel is (0.5, 0.5).

    Raises:
        CameraError: a value is not finite, the size or a focal length is not positive.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    distortion: Distortion | None = None  # None: the image is rectified

    def __post_init__(self) -> None:
        if self.width <= 0 or self.height <= 0:
            raise CameraError(f"image size {self.width}×{self.height} is not positive")
        for name in ("fx", "fy", "cx", "cy"):
            if not np.isfinite(getattr(self, name)):
                raise CameraError(f"{name}={getattr(self, name)} is not finite; calibrate the camera")
        for name in ("fx", "fy"):
            if getattr(self, name) <= 0:
                raise CameraError(
                    f"focal length {name}={getattr(self, name)} is not positive; "
                    "the driver publishes no calibration yet: calibrate the camera"
                )

    @property
    def matrix(self) -> NDArray[np.float64]:
        """Intrinsic matrix K [3, 3]; corner-based cx, cy."""
        return np.array([[self.fx, 0, self.cx], [0, self.fy, self.cy], [0, 0, 1]], dtype=np.float64)

    def resized(self, width: int, height: int) -> Camera:
        """The same camera after its image was resized to width × height pixels."""
        x, y = width / self.width, height / self.height
        return replace(self, width=width, height=height, fx=self.fx * x, fy=self.fy * y, cx=self.cx * x, cy=self.cy * y)


@dataclass(frozen=True, eq=False)
class Frame:
    """One posed image of a stream. The image is decoded when `image` is read, not before."""

    name: str  # image's stem, or the stamp in nanoseconds in a bag
    camera: Camera
    camera_from_world: NDArray[np.float64]  # [4, 4] rigid; world is the stream's frame
    load_image: Callable[[], Image]
    stamp_ns: int | None = None
    source: str = ""  # topic or file

    @property
    def image(self) -> Image:
        """The image [H, W, 3], uint8 RGB, decoded anew at each call.

        Raises:
            StreamError: the image can't be decoded, or its size is not the camera's.
        """
        return self.load_image()


def check_pose(camera_from_world: NDArray[np.float64], source: str) -> NDArray[np.float64]:
    """A rigid [4, 4] float64 pose, or a CameraError that says what is wrong with it."""
    pose = np.asarray(camera_from_world, dtype=np.float64)
    if pose.shape != (4, 4):
        raise CameraError(f"pose of {source} has shape {pose.shape}, expected (4, 4)")
    if not np.isfinite(pose).all():
        raise CameraError(f"pose of {source} holds NaN or Inf")
    error = float(np.abs(pose[:3, :3] @ pose[:3, :3].T - np.eye(3)).max())
    if error > 1e-3 or np.linalg.det(pose[:3, :3]) < 0:
        raise CameraError(f"pose of {source} is not rigid: R Rᵀ differs from 1 by {error:.2g}")
    return pose
