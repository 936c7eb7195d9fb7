"""A nerfstudio, instant-ngp or Blender ``transforms.json`` as a stream.

Its poses are camera → world with y up and z back. nerfstudio writes them after an ``applied_transform`` of
its own; that is undone here, so that the world is the original (COLMAP's) frame: the one from which
``dataparser_transforms.json`` leads to a map that nerfstudio trained.
"""

from __future__ import annotations

import math
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from feature_gs_ros.core.camera import Camera, Distortion
from feature_gs_ros.core.errors import AlignmentError, CameraError, ImageError, StreamError
from feature_gs_ros.core.geometry import Sim3, rigid_inverse
from feature_gs_ros.io.files import is_file
from feature_gs_ros.io.images import image_file_size
from feature_gs_ros.io.messages.camera_info import MAX_SIDE
from feature_gs_ros.io.streams.frame_names import unique_names
from feature_gs_ros.io.streams.keys import report_unknown_keys
from feature_gs_ros.io.streams.posed_images import PosedImage, PosedImageStream, images_folder
from feature_gs_ros.io.structured import Table, read_table

_OPENGL_FROM_OPENCV = np.diag([1.0, -1.0, -1.0])
_SUFFIXES = (".png", ".jpg", ".jpeg", ".PNG", ".JPG", ".JPEG")  # tried where file_path has none, as Blender's
# Keys that lead to a camera or pose here; all may stand in the file or in each frame.
_READ = (
    "w", "h", "fl_x", "fl_y", "cx", "cy", "camera_angle_x", "camera_angle_y", "x_fov", "y_fov",
    "camera_model", "is_fisheye", "k1", "k2", "k3", "k4", "p1", "p2",
    "frames", "file_path", "transform_matrix", "applied_transform", "applied_scale",
)  # fmt: skip
# Keys of instant-ngp, nerfstudio, Polycam, Record3D, agi2nerf and Blender's add-ons that change no camera and no pose.
_UNNEEDED = (
    "aabb_scale", "scale", "offset", "from_na", "aabb", "render_aabb", "up", "white_transparent", "black_transparent",
    "fix_premult", "n_extra_learnable_dims", "enable_ray_loading", "enable_depth_loading", "integer_depth_scale",
    "sharpness", "sharpen", "depth_path", "depth_file_path", "depth_unit_scale_factor", "semantics_path",
    "semantic_file_path", "normal_file_path", "colmap_im_id", "colmap_id", "ply_file_path", "timestamp", "time",
    "rotation", "blur_score", "train_filenames", "val_filenames", "test_filenames", "orientation_override",
    "auto_scale_poses_override", "camera_label", "camera_id", "image_id", "exposure", "light", "id", "near", "far",
    "frame_count", "trainingpoints",
)  # fmt: skip
# Keys of lenses and cameras that have no counterpart here, with the values under which they change nothing.
_REFUSED = (
    "ftheta_p0", "ftheta_p1", "ftheta_p2", "ftheta_p3", "ftheta_p4", "latlong", "equirectangular", "distortion_params",
    "k5", "k6", "p3", "p4", "b1", "b2", "skew", "s1", "s2", "s3", "s4", "fisheye_crop_radius",
)  # fmt: skip
_NEUTRAL: tuple[object, ...] = (None, False, 0, [], "")
_FISHEYE_FLAG = "is_fisheye"
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
    report_unknown_keys([content], (*_READ, *_UNNEEDED, *_REFUSED))
    report_unknown_keys(entries, (*_READ, *_UNNEEDED, *_REFUSED))
    posed = []
    for name, listed_path, entry in zip(unique_names(paths), paths, entries, strict=True):
        image = _image_file(file.parent, listed_path, images)
        camera = _camera(entry.over(content).raising(CameraError, f"'{listed_path}' in '{file}'"), image)
        pose = original_from_world.camera_from_splat(_camera_from_world(entry))
        posed.append(PosedImage(name, image, camera, pose))
    return PosedImageStream(str(path), posed)


def _image_file(folder: Path, listed_path: str, images: str | Path | None) -> Path:
    parts = listed_path.replace("\\", "/")  # of Windows
    path = folder / parts if images is None else images_folder(folder, images) / PurePosixPath(parts).name
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
        raise StreamError(
            f"applied_transform or applied_scale in {content.source} can't be used: {error}", code="stream.value"
        ) from error


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
        raise CameraError(f"{values.source} lacks fl_x or camera_angle_x", code="camera.missing")
    fy = _focal_length(values, "y", height)
    cx, cy = values.number("cx", width / 2), values.number("cy", height / 2)
    lens = _distortion(values)
    try:
        return Camera(width, height, fx, fx if fy is None else fy, cx, cy, lens)
    except CameraError as error:
        raise CameraError(f"{values.source}: {error}", code=error.code) from error


def _focal_length(values: Table, axis: str, size: int) -> float | None:
    """In pixels; of the keys that say it the first counts, as for instant-ngp and nerfstudio."""
    if f"fl_{axis}" in values:
        return values.number(f"fl_{axis}")
    for key, unit, half_circle in ((f"camera_angle_{axis}", "radians", math.pi), (f"{axis}_fov", "degrees", 180.0)):
        if key in values:
            angle = values.number(key)
            if not 0 < angle < half_circle:
                raise CameraError(
                    f"{key} of {values.source} is {angle}, expected {unit} between 0 and {half_circle:g}",
                    code="camera.value",
                )
            return size / (2 * math.tan(math.pi * angle / half_circle / 2))
    return None


def _distortion(values: Table) -> Distortion | None:
    refused = [key for key in _REFUSED if key in values and values.get(key) not in _NEUTRAL]
    if refused:
        raise CameraError(
            f"{values.source} has {', '.join(refused)}, lenses without a counterpart here: undistort the images first "
            "(colmap image_undistorter, or the program that calibrated them)",
            code="camera.lens",
        )
    k1, k2, k3, k4, p1, p2 = (values.number(key, 0.0) for key in ("k1", "k2", "k3", "k4", "p1", "p2"))
    if _is_fisheye(values):
        if p1 or p2:
            raise CameraError(
                f"{values.source} is a fisheye with p1={p1}, p2={p2}, which that model hasn't",
                code="camera.unsupported",
            )
        return Distortion("equidistant", (k1, k2, k3, k4))
    if k4 != 0:
        raise CameraError(
            f"{values.source} has k4={k4} without being a fisheye: only {_FISHEYE} has four here",
            code="camera.unsupported",
        )
    return Distortion("plumb_bob", (k1, k2, p1, p2, k3)) if any((k1, k2, k3, p1, p2)) else None


def _is_fisheye(values: Table) -> bool:
    """nerfstudio names the model, instant-ngp sets a flag."""
    flag = values.boolean(_FISHEYE_FLAG) if _FISHEYE_FLAG in values else None
    if "camera_model" not in values:
        return bool(flag)
    model = values.choice("camera_model", (*_PERSPECTIVE, _FISHEYE))
    if flag is not None and flag != (model == _FISHEYE) and not (flag and model == "OPENCV"):
        raise CameraError(
            f"{values.source} has camera_model {model} and {_FISHEYE_FLAG} {flag}: correct one of them",
            code="camera.conflict",
        )
    return model == _FISHEYE or bool(flag)
