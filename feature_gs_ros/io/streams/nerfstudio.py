"""A nerfstudio or Blender ``transforms.json`` as a stream.

Its poses are camera → world with y up and z back. nerfstudio writes them after an ``applied_transform`` of
its own; that is undone here, so that the world is the original (COLMAP's) frame: the one from which
``dataparser_transforms.json`` leads to a map that nerfstudio trained.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from feature_gs_ros.core.camera import Camera, Distortion
from feature_gs_ros.core.errors import AlignmentError, CameraError, ImageError, StreamError
from feature_gs_ros.core.geometry import Sim3, rigid_inverse
from feature_gs_ros.io.files import is_file
from feature_gs_ros.io.images import image_file_size
from feature_gs_ros.io.messages.camera_info import MAX_SIDE
from feature_gs_ros.io.streams.frame_names import unique_names
from feature_gs_ros.io.streams.posed_images import PosedImage, PosedImageStream
from feature_gs_ros.io.structured import Table, read_table

_OPENGL_FROM_OPENCV = np.diag([1.0, -1.0, -1.0])
_SUFFIXES = (".png", ".jpg", ".jpeg", ".PNG", ".JPG", ".JPEG")  # tried where file_path has none, as Blender's
_PERSPECTIVE = ("PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV")
_FISHEYE = "OPENCV_FISHEYE"


def open_nerfstudio(path: str | Path, images: str | Path | None = None) -> PosedImageStream:
    """Posed images in the file's order.

    Args:
        path: the JSON file, or a folder with ``transforms.json``.
        images: folder that replaces the one of each ``file_path``, relative to the JSON file's; reduced
            copies (``images_2``) do.

    Raises:
        StreamError: a damaged file, no image with a pose.
        CameraError: a camera model without a counterpart here, or values out of range.
    """
    path = Path(path)
    file = path / "transforms.json" if path.is_dir() else path
    content = read_table(file, StreamError)
    entries = content.tables("frames")
    paths = [entry.text("file_path", empty=False) for entry in entries]
    original_from_world = _applied_transform(content).inverse()
    posed = []
    for name, listed_path, entry in zip(unique_names(paths), paths, entries, strict=True):
        image = _image_file(file.parent, listed_path, images)
        camera = _camera(entry.over(content).raising(CameraError, f"'{listed_path}' in '{file}'"), image)
        pose = original_from_world.camera_from_splat(_camera_from_world(entry))
        posed.append(PosedImage(name, image, camera, pose))
    return PosedImageStream(str(path), posed)


def _image_file(folder: Path, listed_path: str, images: str | Path | None) -> Path:
    path = folder / listed_path if images is None else folder / images / Path(listed_path).name
    if is_file(path):
        return path
    return next((found for suffix in _SUFFIXES if is_file(found := Path(f"{path}{suffix}"))), path)


def _applied_transform(content: Table) -> Sim3:
    """``world_from_original``: what nerfstudio did to the poses before it wrote them."""
    scale = content.number("applied_scale", 1.0)
    transform = np.eye(4)[:3]
    if "applied_transform" in content:
        transform = np.reshape(content.numbers("applied_transform", 12, 16), (-1, 4))[:3]
    try:
        return Sim3.from_matrix(scale * transform)
    except AlignmentError as error:
        raise StreamError(f"applied_transform or applied_scale in {content.source} can't be used: {error}") from error


def _camera_from_world(entry: Table) -> NDArray[np.float64]:
    """Pose [4, 4] in OpenCV axes, in the frame of the file; as rigid as the file's, NaN where that isn't finite."""
    world_from_camera = entry.array("transform_matrix", (3, 4), (4, 4))
    if not np.isfinite(world_from_camera).all():
        return np.full((4, 4), np.nan)
    rotation = world_from_camera[:3, :3] @ _OPENGL_FROM_OPENCV
    return rigid_inverse(np.column_stack([rotation, world_from_camera[:3, 3]]))


def _camera(values: Table, image: Path) -> Camera | None:
    """A frame's camera; None where it takes the image's size and that can't be read."""
    if "w" in values and "h" in values:
        width, height = (values.whole(key, least=1, most=MAX_SIDE) for key in ("w", "h"))
    else:
        try:
            width, height = image_file_size(image)
        except ImageError:
            return None
    fx = _focal_length(values, "x", width)
    if fx is None:
        raise CameraError(f"{values.source} lacks fl_x or camera_angle_x")
    fy = _focal_length(values, "y", height)
    cx, cy = values.number("cx", width / 2), values.number("cy", height / 2)
    lens = _distortion(values)
    try:
        return Camera(width, height, fx, fx if fy is None else fy, cx, cy, lens)
    except CameraError as error:
        raise CameraError(f"{values.source}: {error}", code=error.code) from error


def _focal_length(values: Table, axis: str, size: int) -> float | None:
    if f"fl_{axis}" in values:
        return values.number(f"fl_{axis}")
    if f"camera_angle_{axis}" not in values:
        return None
    angle = values.number(f"camera_angle_{axis}")
    if not 0 < angle < math.pi:
        raise CameraError(f"camera_angle_{axis} of {values.source} is {angle}, expected radians between 0 and π")
    return size / (2 * math.tan(angle / 2))


def _distortion(values: Table) -> Distortion | None:
    k1, k2, k3, k4, p1, p2 = (values.number(key, 0.0) for key in ("k1", "k2", "k3", "k4", "p1", "p2"))
    model = values.choice("camera_model", (*_PERSPECTIVE, _FISHEYE)) if "camera_model" in values else "OPENCV"
    if model == _FISHEYE:
        return Distortion("equidistant", (k1, k2, k3, k4))
    if k4 != 0:
        raise CameraError(f"{values.source} has k4={k4} with camera_model {model}: only {_FISHEYE} has four here")
    return Distortion("plumb_bob", (k1, k2, p1, p2, k3)) if any((k1, k2, k3, p1, p2)) else None
