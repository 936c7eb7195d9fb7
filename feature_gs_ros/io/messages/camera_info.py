"""sensor_msgs/CameraInfo → Camera, and the calibration file that stands in for it; no ROS import."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from feature_gs_ros.core.camera import Camera, Distortion
from feature_gs_ros.core.errors import CameraError
from feature_gs_ros.io.files import read_regular
from feature_gs_ros.io.structured import MAX_YAML, Table, parse_yaml, read_table

Numbers = Sequence[float] | NDArray[np.float64]
MAX_SIDE = 1 << 20  # pixels


class RegionOfInterest(Protocol):
    """sensor_msgs/RegionOfInterest; all zero is the whole image."""

    x_offset: int
    y_offset: int
    height: int
    width: int
    do_rectify: bool


class CameraInfo(Protocol):
    """sensor_msgs/CameraInfo"""

    height: int
    width: int
    distortion_model: str
    binning_x: int
    binning_y: int

    @property
    def d(self) -> Numbers: ...
    @property
    def k(self) -> Numbers: ...
    @property
    def p(self) -> Numbers: ...
    @property
    def roi(self) -> RegionOfInterest: ...


def camera_from_info(info: CameraInfo, width: int, height: int, *, is_rectified: bool = False) -> Camera:
    """The camera of a width × height image that a CameraInfo goes with.

    K and P are those of the full image, and put the top left pixel's centre at (0, 0); the region of
    interest and the binning are applied here, about the pixels' corners. An image that is smaller than
    described by one whole factor (resized by a node that left its CameraInfo alone) gets a camera scaled
    likewise.

    Args:
        info: the message.
        width: of the image itself, pixels.
        height: of the image itself, pixels.
        is_rectified: P counts, and there is no distortion. P's fourth column is not used: a right camera's
            images must carry its own optical frame.

    Raises:
        CameraError: no calibration, an unknown distortion model, or a size that doesn't fit.
    """
    roi, bin_x, bin_y = info.roi, max(1, int(info.binning_x)), max(1, int(info.binning_y))
    has_roi = roi.width > 0 and roi.height > 0
    if is_rectified and has_roi and roi.do_rectify:
        raise CameraError(
            "camera_info has a region of interest that is yet to be rectified: use the raw image",
            code="camera.unsupported",
        )
    if has_roi and not _is_inside(roi, int(info.width), int(info.height)):
        raise CameraError(
            f"camera_info's region of interest, {roi.width}×{roi.height} pixels at ({roi.x_offset}, {roi.y_offset}), "
            f"reaches out of its image of {info.width}×{info.height}; correct what the driver publishes",
            code="camera.size",
        )
    name, values = ("P", info.p) if is_rectified else ("K", info.k)
    if not is_rectified and not np.any(info.k) and np.any(info.p):
        raise CameraError(
            "camera_info has no K but a P, as for rectified images: pass --rectified if these are, else calibrate",
            code="camera.rectified",
        )
    fx, cx, fy, cy = _intrinsics(values, name)
    described_width = int(roi.width if has_roi else info.width) // bin_x
    described_height = int(roi.height if has_roi else info.height) // bin_y
    factor = described_width // max(1, width)
    if factor < 1 or (described_width, described_height) != (factor * width, factor * height):
        raise CameraError(
            f"camera_info describes {described_width}×{described_height}, the image is {width}×{height}",
            code="camera.size",
        )
    camera = Camera(
        width=described_width,
        height=described_height,
        fx=fx / bin_x,
        fy=fy / bin_y,
        cx=(cx + 0.5 - (roi.x_offset if has_roi else 0)) / bin_x,
        cy=(cy + 0.5 - (roi.y_offset if has_roi else 0)) / bin_y,
        distortion=None if is_rectified else distortion_from_ros(info.distortion_model, info.d),
    )
    return camera.resized(width, height)


def _is_inside(roi: RegionOfInterest, width: int, height: int) -> bool:
    """Whether a region lies in the full image; one of 0×0 is taken for a size that the driver leaves out."""
    if not width or not height:
        return True
    return int(roi.x_offset) + int(roi.width) <= width and int(roi.y_offset) + int(roi.height) <= height


def distortion_from_ros(model: str, d: Numbers) -> Distortion | None:
    """A CameraInfo's distortion, None where it has none.

    Raises:
        CameraError: the model is unknown, or its coefficients don't fit it.
    """
    coefficients = tuple(float(value) for value in d)
    if model.lower() in ("equidistant", "fisheye", "kannala_brandt", "kannala_brandt4"):
        fifth = (
            len(coefficients) == 5 and not coefficients[4]
        )  # of drivers that send five coefficients whatever the model
        return Distortion("equidistant", coefficients[:4] if fifth else coefficients)
    if not any(coefficients):
        return None  # whatever the model's name: none, Brown-Conrady, …
    if model not in ("plumb_bob", "rational_polynomial", "thin_prism", "tilted", ""):
        raise CameraError(
            f"distortion model '{model}' is unknown; known are plumb_bob, rational_polynomial and equidistant: "
            "rectify the images (image_proc) and pass --rectified, or calibrate for one of these",
            code="camera.unknown",
        )
    if len(coefficients) > 8 and not any(coefficients[8:]):
        coefficients = coefficients[:8]  # thin prism and tilt, unused
    # Drivers mix up the two names; OpenCV goes by the number of coefficients.
    return Distortion("plumb_bob" if len(coefficients) <= 5 else "rational_polynomial", coefficients)


@dataclass
class NoRegion:
    """The region of interest of a calibration file: the whole image."""

    x_offset: int = 0
    y_offset: int = 0
    height: int = 0
    width: int = 0
    do_rectify: bool = False


@dataclass
class Calibration:
    """What a calibration file holds, in the shape of a CameraInfo."""

    height: int
    width: int
    distortion_model: str
    d: tuple[float, ...]
    k: tuple[float, ...]  # [9]
    p: tuple[float, ...]  # [12]
    binning_x: int = 0
    binning_y: int = 0
    roi: RegionOfInterest = field(default_factory=NoRegion)


def load_calibration(path: str | Path) -> Calibration:
    """Read the YAML file that camera_calibration writes and camera_info_manager reads, or one of OpenCV's FileStorage.

    Raises:
        CameraError: the file is missing or says something else.
    """
    path = Path(path)
    content = _read_calibration(path)
    return Calibration(
        height=content.whole("image_height", least=1, most=MAX_SIDE),
        width=content.whole("image_width", least=1, most=MAX_SIDE),
        distortion_model=content.text("distortion_model", ""),
        d=_matrix(content, "distortion_coefficients") if "distortion_coefficients" in content else (),
        k=_matrix(content, "camera_matrix", 9),
        p=_matrix(content, "projection_matrix", 12) if "projection_matrix" in content else (),
    )


# OpenCV's own calibration example and its users call the same values by different names.
_OPENCV_NAMES = {
    "camera_matrix": ("camera_matrix", "Camera_Matrix", "cameraMatrix", "CameraMatrix", "K"),
    "distortion_coefficients": (
        "distortion_coefficients", "Distortion_Coefficients", "distCoeffs", "DistCoeffs", "dist_coeffs", "D",
    ),
    "image_width": ("image_width", "image_Width", "width"),
    "image_height": ("image_height", "image_Height", "height"),
}  # fmt: skip


def _read_calibration(path: Path) -> Table:
    """The file's table, with OpenCV's names as camera_calibration's."""
    try:
        text = read_regular(path, MAX_YAML).decode("utf-8-sig")
    except (OSError, ValueError) as error:  # not UTF-8, too
        raise CameraError(f"can't read '{path}': {error}", code="camera.unreadable") from error
    if not text.startswith("%YAML:"):
        return read_table(path, CameraError)
    plain = text.partition("\n")[2].replace("!!opencv-matrix", "")
    found = Table(parse_yaml(plain, f"'{path}'", CameraError), f"'{path}'", CameraError)
    named = {
        key: next((found.get(name) for name in names if name in found), None) for key, names in _OPENCV_NAMES.items()
    }
    if named["image_width"] is None and "image_size" in found:
        named["image_width"], named["image_height"] = found.numbers("image_size", 2)
    if "fisheye_model" in found and found.whole("fisheye_model"):
        named["distortion_model"] = "equidistant"
    return Table({key: value for key, value in named.items() if value is not None}, f"'{path}'", CameraError)


def _intrinsics(matrix: Numbers, name: str) -> tuple[float, float, float, float]:
    """fx, cx, fy, cy of K [9] or P [12], row-major."""
    values = np.asarray(matrix, dtype=np.float64)
    if values.size not in (9, 12) or not values.any():
        raise CameraError(
            f"camera_info has no calibration, its {name} is {'zero' if values.size in (9, 12) else 'missing'}: "
            "calibrate the camera or give a calibration file",
            code="camera.missing",
        )
    rows = values.reshape(3, -1)
    return float(rows[0, 0]), float(rows[0, 2]), float(rows[1, 1]), float(rows[1, 2])


def _matrix(content: Table, key: str, *counts: int) -> tuple[float, ...]:
    """The numbers under ``key: {rows, cols, data}``, as camera_calibration writes it."""
    return content.table(key).numbers("data", *counts)
