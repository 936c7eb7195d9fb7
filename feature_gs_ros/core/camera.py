"""Camera and Frame: where an image was taken from, and with what lens; undistortion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import cv2
import numpy as np
from numpy.polynomial import Polynomial
from numpy.typing import NDArray

from feature_gs_ros.core.errors import CameraError

Image = NDArray[np.uint8]  # [H, W, 3] RGB
DistortionModel = Literal["plumb_bob", "rational_polynomial", "equidistant"]
MAX_INTRINSIC = 1e9  # pixels: beyond it single precision tells nothing apart
MIN_FOCAL = 1e-9  # pixels: of less, single precision may leave nothing
NEGLIGIBLE = 1e-200  # of a polynomial: a leading coefficient below it is none, and would be divided by
MAX_COEFFICIENT = 1e6  # of a lens: real ones are below 1000, and a few powers more overflow what is made of them
COEFFICIENT_COUNTS: dict[DistortionModel, tuple[int, ...]] = {
    "plumb_bob": (4, 5),
    "rational_polynomial": (8, 12, 14),
    "equidistant": (4,),
}


@dataclass(frozen=True)
class Distortion:
    """A lens as CameraInfo describes it: the model's name and its coefficients in ROS order.

    ``plumb_bob``: k1 k2 p1 p2 [k3]; ``rational_polynomial``: k1 k2 p1 p2 k3 k4 k5 k6
    [s1 s2 s3 s4 [τx τy]], OpenCV's thin prism and tilted sensor;
    ``equidistant``: k1 k2 k3 k4 (a fisheye lens even where all four are zero).

    Raises:
        CameraError: the model is unknown, or its coefficients are too few, too many, not finite or beyond 1e6.
    """

    model: DistortionModel
    coefficients: tuple[float, ...]

    def __post_init__(self) -> None:
        counts = COEFFICIENT_COUNTS.get(self.model) if isinstance(self.model, str) else None  # a file may say anything
        if counts is None:
            raise CameraError(
                f"distortion model '{self.model}' is unknown; known are {', '.join(COEFFICIENT_COUNTS)}",
                code="camera.unknown",
            )
        if len(self.coefficients) not in counts:
            wanted = " or ".join(str(count) for count in counts)
            raise CameraError(
                f"'{self.model}' takes {wanted} coefficients, got {len(self.coefficients)}", code="camera.shape"
            )
        if not np.isfinite(self.coefficients).all():
            raise CameraError(
                f"coefficients of '{self.model}' are not finite: {self.coefficients}; calibrate again",
                code="camera.not-finite",
            )
        if np.abs(self.coefficients).max(initial=0.0) > MAX_COEFFICIENT:
            raise CameraError(
                f"coefficients of '{self.model}' are beyond {MAX_COEFFICIENT:g}: {self.coefficients}; calibrate again",
                code="camera.range",
            )


@dataclass(frozen=True)
class Camera:
    """Pinhole intrinsics in pixels; OpenCV axes (x right, y down, z forward).

    ``cx, cy`` count from the image's corner: the centre of the top left pixel is (0.5, 0.5).

    Raises:
        CameraError: a value is not finite or beyond 1e9 pixels, the size or a focal length is not positive or next to
            nothing.
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
            raise CameraError(f"image size {self.width}×{self.height} is not positive", code="camera.range")
        for name in ("fx", "fy", "cx", "cy"):
            if not np.isfinite(getattr(self, name)):
                raise CameraError(
                    f"{name}={getattr(self, name)} is not finite; calibrate the camera", code="camera.not-finite"
                )
            if abs(getattr(self, name)) > MAX_INTRINSIC:
                raise CameraError(
                    f"{name}={getattr(self, name):g} is beyond {MAX_INTRINSIC:g} pixels; calibrate the camera",
                    code="camera.range",
                )
        for name in ("fx", "fy"):
            if getattr(self, name) <= 0:
                raise CameraError(
                    f"focal length {name}={getattr(self, name)} is not positive; "
                    "give the camera's calibration (a driver that publishes none yet has 0)",
                    code="camera.range",
                )
            if getattr(self, name) < MIN_FOCAL:
                raise CameraError(
                    f"focal length {name}={getattr(self, name):g} is below {MIN_FOCAL:g} pixels; calibrate the camera",
                    code="camera.range",
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
            ImageError: the image can't be decoded, or its size is not the camera's.
        """
        return self.load_image()


def check_pose(camera_from_world: NDArray[np.float64], source: str) -> NDArray[np.float64]:
    """A rigid [4, 4] float64 pose, or a CameraError that says what is wrong with it."""
    pose = np.asarray(camera_from_world, dtype=np.float64)
    if pose.shape != (4, 4):
        raise CameraError(f"pose of {source} has shape {pose.shape}, expected (4, 4)", code="camera.shape")
    if not np.isfinite(pose).all():
        raise CameraError(f"pose of {source} holds NaN or Inf", code="camera.not-finite")
    if not np.allclose(pose[3], [0, 0, 0, 1]):
        raise CameraError(
            f"last row of the pose of {source} is {pose[3]}, expected 0 0 0 1; is it transposed?", code="camera.pose"
        )
    # Written so that what overflows is refused, too.
    rigid = np.abs(pose[:3, :3]).max() < 2 and np.abs(pose[:3, :3] @ pose[:3, :3].T - np.eye(3)).max() <= 1e-3
    if not rigid or np.linalg.det(pose[:3, :3]) < 0:
        raise CameraError(
            f"pose of {source} is not rigid: its rotation is scaled, sheared or mirrored", code="camera.pose"
        )
    return pose


def rectified(image: Image, camera: Camera) -> tuple[Image, Camera, NDArray[np.bool_]]:
    """The image without its lens's distortion, seen by the same K.

    Args:
        image: [H, W, 3] as the camera took it.
        camera: of that image; without distortion the image comes back as it is.

    Returns:
        The image [H, W, 3]; the camera with the same K and no distortion; valid [H, W], False where a
        pixel is outside the source image after undistortion. The array of `valid` is read-only.

    Raises:
        CameraError: the image's size is not the camera's.
    """
    if image.shape[:2] != (camera.height, camera.width):
        raise CameraError(
            f"the image is {image.shape[1]}×{image.shape[0]} pixels, its camera {camera.width}×{camera.height}",
            code="camera.size",
        )
    straight = replace(camera, distortion=None)
    if camera.distortion is None:
        return image, straight, np.ones(image.shape[:2], dtype=np.bool_)
    source_x, source_y, valid = _undistortion_maps(camera)
    pixels = cv2.remap(image, source_x, source_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(pixels, dtype=np.uint8), straight, valid


def distorted_pixels(camera: Camera) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Where each rectified pixel lies in the image as taken: x and y [H, W], OpenCV's pixels (centres at integers)."""
    source_x, source_y, _ = _undistortion_maps(camera)
    return source_x, source_y


def rectified_labels(
    labels: NDArray[np.integer],  # [H, W] as the camera took them
    camera: Camera,
    outside: int,
) -> NDArray[np.integer]:
    """Labels [H, W] as `rectified` moves the image, without mixing them; ``outside`` outside the source image."""
    if camera.distortion is None:
        return labels
    source_x, source_y, valid = _undistortion_maps(camera)
    columns = np.clip(np.rint(source_x), 0, camera.width - 1).astype(np.int64)
    rows = np.clip(np.rint(source_y), 0, camera.height - 1).astype(np.int64)
    return np.where(valid, labels[rows, columns], outside)


@lru_cache(maxsize=8)
def _undistortion_maps(
    camera: Camera,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """Where each straight pixel lies in the distorted image, x and y [H, W], and whether that is inside."""
    lens = camera.distortion
    assert lens is not None
    centred = camera.matrix  # OpenCV counts from the centre of the top left pixel
    centred[:2, 2] -= 0.5
    size = (camera.width, camera.height)
    coefficients = np.array(lens.coefficients, dtype=np.float64)
    straighten = cv2.fisheye.initUndistortRectifyMap if lens.model == "equidistant" else cv2.initUndistortRectifyMap
    maps = straighten(centred, coefficients, np.eye(3), centred, size, cv2.CV_32FC1)
    source_x, source_y = (np.asarray(values, dtype=np.float32) for values in maps)

    inside = (source_x >= -0.5) & (source_x <= camera.width - 0.5)
    inside &= (source_y >= -0.5) & (source_y <= camera.height - 0.5)
    x = (np.arange(camera.width) + 0.5 - camera.cx) / camera.fx
    y = (np.arange(camera.height) + 0.5 - camera.cy) / camera.fy
    # Beyond this radius the polynomial turns back and shows the middle of the image again.
    valid = inside & (np.hypot(x[None, :], y[:, None]) < turning_radius(lens))
    valid.setflags(write=False)
    return source_x, source_y, valid


def turning_radius(lens: Distortion) -> float:
    """The smallest radius, on the plane at unit depth, at which a larger one isn't imaged further out."""
    k = lens.coefficients
    if lens.model == "equidistant":
        angle = _smallest_root(Polynomial([0, 1, 0, k[0], 0, k[1], 0, k[2], 0, k[3]]).deriv())
        return float(np.tan(angle)) if angle < np.pi / 2 else np.inf
    k1, k2, k3 = k[0], k[1], (k[4] if len(k) > 4 else 0.0)
    k4, k5, k6 = k[5:8] if len(k) >= 8 else (0.0, 0.0, 0.0)
    above = Polynomial([0, 1, 0, k1, 0, k2, 0, k3])
    below = Polynomial([1, 0, k4, 0, k5, 0, k6])
    slope = above.deriv() * below - above * below.deriv()
    return min(_smallest_root(slope), _smallest_root(below))


def _smallest_root(polynomial: Polynomial) -> float:
    """Smallest positive real root, infinite where there is none."""
    roots = polynomial.trim(NEGLIGIBLE).roots()
    real = roots.real[(np.abs(roots.imag) < 1e-9 * (1 + np.abs(roots))) & (roots.real > 0)]
    return float(real.min()) if len(real) else np.inf
