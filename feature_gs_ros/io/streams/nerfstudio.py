"""A nerfstudio or Blender ``transforms.json`` as a stream.

Its poses are camera → world with y up and z back. nerfstudio writes them after an ``applied_transform`` of
its own; that is undone here, so that the world is the original (COLMAP's) frame: the one from which
``dataparser_transforms.json`` leads to a map that nerfstudio trained.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from feature_gs_ros.core.camera import Camera, Distortion
from feature_gs_ros.core.errors import AlignmentError, CameraError, ImageError, StreamError
from feature_gs_ros.core.geometry import Sim3, rigid_inverse
from feature_gs_ros.io.images import image_file_size
from feature_gs_ros.io.streams.frame_names import unique_names
from feature_gs_ros.io.streams.posed_images import PosedImage, PosedImageStream
from feature_gs_ros.io.structured import number, numbers, read_mapping, whole_number

Values = Mapping[str, object]
_OPENGL_FROM_OPENCV = np.diag([1.0, -1.0, -1.0])
_SUFFIXES = (".png", ".jpg", ".jpeg", ".PNG", ".JPG", ".JPEG")  # tried where file_path has none, as Blender's
_PERSPECTIVE = ("PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV")


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
    content = {str(key): value for key, value in read_mapping(file, StreamError).items()}
    listed = content.get("frames")
    if not isinstance(listed, list) or not all(isinstance(entry, Mapping) for entry in listed):
        raise StreamError(f"'{file}' has no list of frames")
    entries: list[Values] = [{str(key): value for key, value in entry.items()} for entry in listed]
    paths = [_file_path(entry, file) for entry in entries]
    original_from_world = _applied_transform(content, file).inverse()
    posed = []
    for name, listed_path, entry in zip(unique_names(paths), paths, entries, strict=True):
        image = _image_file(file.parent, listed_path, images)
        camera = _camera({**content, **entry}, f"'{listed_path}' in '{file}'", image)
        pose = original_from_world.camera_from_splat(_camera_from_world(entry, file))
        posed.append(PosedImage(name, image, camera, pose))
    return PosedImageStream(str(path), posed)


def _file_path(entry: Values, file: Path) -> str:
    listed = entry.get("file_path")
    if not isinstance(listed, str) or not listed:
        raise StreamError(f"a frame in '{file}' has no file_path")
    return listed


def _image_file(folder: Path, listed_path: str, images: str | Path | None) -> Path:
    path = folder / listed_path if images is None else folder / images / Path(listed_path).name
    if path.is_file():
        return path
    return next((found for suffix in _SUFFIXES if (found := Path(f"{path}{suffix}")).is_file()), path)


def _applied_transform(content: Values, file: Path) -> Sim3:
    """``world_from_original``: what nerfstudio did to the poses before it wrote them."""
    scale = number(content, "applied_scale", f"'{file}'", StreamError) if "applied_scale" in content else 1.0
    transform = np.eye(4)[:3]
    if "applied_transform" in content:
        values = numbers(content["applied_transform"], f"applied_transform in '{file}'", StreamError)
        if len(values) not in (12, 16):
            raise StreamError(f"applied_transform in '{file}' has {len(values)} numbers, expected 3×4")
        transform = np.reshape(values, (-1, 4))[:3]
    try:
        return Sim3.from_matrix(scale * transform)
    except AlignmentError as error:
        raise StreamError(f"applied_transform or applied_scale in '{file}' can't be used: {error}") from error


def _camera_from_world(entry: Values, file: Path) -> NDArray[np.float64]:
    """Pose [4, 4] in OpenCV axes, in the frame of the file; as rigid as the file's, NaN where that isn't finite."""
    try:
        world_from_camera = np.asarray(entry.get("transform_matrix"), dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise StreamError(f"a transform_matrix in '{file}' is not numbers: {error}") from error
    if world_from_camera.shape not in ((3, 4), (4, 4)):
        raise StreamError(f"a transform_matrix in '{file}' has shape {world_from_camera.shape}, expected (4, 4)")
    if not np.isfinite(world_from_camera).all():
        return np.full((4, 4), np.nan)
    rotation = world_from_camera[:3, :3] @ _OPENGL_FROM_OPENCV
    return rigid_inverse(np.column_stack([rotation, world_from_camera[:3, 3]]))


def _camera(values: Values, source: str, image: Path) -> Camera | None:
    """A frame's camera; None where it takes the image's size and that can't be read."""
    if "w" in values and "h" in values:
        width, height = (whole_number(values, key, source, CameraError) for key in ("w", "h"))
    else:
        try:
            width, height = image_file_size(image)
        except ImageError:
            return None
    fx = _focal_length(values, "x", width, source)
    if fx is None:
        raise CameraError(f"{source} lacks fl_x or camera_angle_x")
    fy = _focal_length(values, "y", height, source)
    cx, cy = (
        number(values, key, source, CameraError) if key in values else size / 2
        for key, size in (("cx", width), ("cy", height))
    )
    try:
        return Camera(width, height, fx, fx if fy is None else fy, cx, cy, _distortion(values, source))
    except CameraError as error:
        raise CameraError(f"{source}: {error}") from error


def _focal_length(values: Values, axis: str, size: int, source: str) -> float | None:
    if f"fl_{axis}" in values:
        return number(values, f"fl_{axis}", source, CameraError)
    if f"camera_angle_{axis}" not in values:
        return None
    angle = number(values, f"camera_angle_{axis}", source, CameraError)
    if not 0 < angle < math.pi:
        raise CameraError(f"camera_angle_{axis} of {source} is {angle}, expected radians between 0 and π")
    return size / (2 * math.tan(angle / 2))


def _distortion(values: Values, source: str) -> Distortion | None:
    model = values.get("camera_model", "OPENCV")
    k1, k2, k3, k4, p1, p2 = (
        number(values, key, source, CameraError) if key in values else 0.0
        for key in ("k1", "k2", "k3", "k4", "p1", "p2")
    )
    if model == "OPENCV_FISHEYE":
        return Distortion("equidistant", (k1, k2, k3, k4))
    if model not in _PERSPECTIVE:
        known = ", ".join((*_PERSPECTIVE, "OPENCV_FISHEYE"))
        raise CameraError(f"camera_model {model!r} is not supported; {known} are")
    if k4 != 0:
        raise CameraError(f"k4={k4} with camera_model {model!r}: only OPENCV_FISHEYE has four radial coefficients here")
    return Distortion("plumb_bob", (k1, k2, p1, p2, k3)) if any((k1, k2, k3, p1, p2)) else None
