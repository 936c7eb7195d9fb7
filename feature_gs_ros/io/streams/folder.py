"""A plain folder of images with one ``cameras.json`` as a stream: the format for whoever has none.

::

    {"frames": [{"image": "images/0001.png",
                 "width": 640, "height": 480, "fx": 525.0, "fy": 525.0, "cx": 320.0, "cy": 240.0,
                 "camera_from_world": [[…], […], […], [0, 0, 0, 1]],
                 "name": "0001",
                 "distortion": {"model": "plumb_bob", "coefficients": [k1, k2, p1, p2, k3]}}, …]}

A list of frames without the ``frames`` around it does, too. ``image`` is relative to the JSON file. ``cx``
and ``cy`` count from the image's corner. The pose is world → camera, OpenCV axes, row after row. ``name``
and ``distortion`` may be left out: the image's stem, and none.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from feature_gs_ros.core.camera import Camera, Distortion
from feature_gs_ros.core.errors import CameraError, StreamError
from feature_gs_ros.io.streams.frame_names import unique_names
from feature_gs_ros.io.streams.posed_images import PosedImage, PosedImageStream
from feature_gs_ros.io.structured import number, numbers, read_structured, whole_number

Values = Mapping[str, object]


def open_folder(path: str | Path, images: str | Path | None = None) -> PosedImageStream:
    """Posed images in the file's order.

    Args:
        path: the folder with ``cameras.json``, or that file.
        images: folder that replaces the one of each ``image``, relative to the JSON file's.

    Raises:
        StreamError: a damaged file, no image with a pose.
        CameraError: intrinsics out of range.
    """
    path = Path(path)
    file = path / "cameras.json" if path.is_dir() else path
    entries = _entries(read_structured(file, StreamError), file)
    listed = [str(entry.get("image", "")) for entry in entries]
    if "" in listed:
        raise StreamError(f"frame {listed.index('')} in '{file}' has no image")
    posed = []
    for stem, image, entry in zip(unique_names(listed), listed, entries, strict=True):
        source = f"'{image}' in '{file}'"
        file_path = file.parent / image if images is None else file.parent / images / Path(image).name
        name = str(entry.get("name", stem))
        posed.append(PosedImage(name, file_path, _camera(entry, source), _pose(entry, source)))
    return PosedImageStream(str(path), posed)


def _entries(content: object, file: Path) -> list[Values]:
    listed = content.get("frames") if isinstance(content, Mapping) else content
    if not isinstance(listed, list) or not all(isinstance(entry, Mapping) for entry in listed):
        raise StreamError(f"'{file}' has no list of frames")
    return listed


def _camera(entry: Values, source: str) -> Camera:
    width, height = (whole_number(entry, key, source, CameraError) for key in ("width", "height"))
    fx, fy, cx, cy = (number(entry, key, source, CameraError) for key in ("fx", "fy", "cx", "cy"))
    try:
        return Camera(width, height, fx, fy, cx, cy, _distortion(entry.get("distortion"), source))
    except CameraError as error:
        raise CameraError(f"{source}: {error}") from error


def _distortion(values: object, source: str) -> Distortion | None:
    if values is None:
        return None
    if not isinstance(values, Mapping) or "model" not in values:
        raise CameraError(f"distortion of {source} needs a model and coefficients")
    coefficients = numbers(values.get("coefficients"), f"distortion of {source}", CameraError)
    return Distortion(values["model"], coefficients)


def _pose(entry: Values, source: str) -> np.ndarray:
    try:
        pose = np.asarray(entry.get("camera_from_world"), dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise StreamError(f"camera_from_world of {source} is not numbers: {error}") from error
    if pose.shape != (4, 4):
        raise StreamError(f"camera_from_world of {source} has shape {pose.shape}, expected (4, 4)")
    return pose
