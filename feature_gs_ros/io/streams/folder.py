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

from feature_gs_ros.core.camera import COEFFICIENT_COUNTS, Camera, Distortion
from feature_gs_ros.core.errors import CameraError, StreamError
from feature_gs_ros.io.messages.camera_info import MAX_SIDE
from feature_gs_ros.io.streams.frame_names import unique_names
from feature_gs_ros.io.streams.keys import report_unknown_keys
from feature_gs_ros.io.streams.posed_images import PosedImage, PosedImageStream, images_folder
from feature_gs_ros.io.structured import Table, read_structured

_FRAME_KEYS = ("image", "name", "width", "height", "fx", "fy", "cx", "cy", "distortion", "camera_from_world")


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
    content = read_structured(file, StreamError)
    frames = content if isinstance(content, Mapping) else {"frames": content}
    whole = Table(frames, f"'{file}'", StreamError)
    entries = whole.tables("frames")
    if entries and "img_name" in entries[0]:
        raise StreamError(
            f"'{file}' is the cameras.json of a map trained by Inria's code, which names no image files: give the data "
            "set that it was trained on",
            code="stream.inria",
        )
    report_unknown_keys([whole], ("frames",), refuse_misspelt=True)
    report_unknown_keys(entries, _FRAME_KEYS, refuse_misspelt=True)
    listed = [entry.text("image", empty=False) for entry in entries]
    posed = []
    for stem, image, entry in zip(unique_names(listed), listed, entries, strict=True):
        named = entry.raising(StreamError, f"'{image}' in '{file}'")
        file_path = file.parent / image if images is None else images_folder(file.parent, images) / Path(image).name
        pose = named.array("camera_from_world", (4, 4))
        posed.append(PosedImage(entry.text("name", stem), file_path, _camera(named.raising(CameraError)), pose))
    return PosedImageStream(str(path), posed)


def _camera(entry: Table) -> Camera:
    width, height = (entry.whole(key, least=1, most=MAX_SIDE) for key in ("width", "height"))
    fx, fy, cx, cy = (entry.number(key) for key in ("fx", "fy", "cx", "cy"))
    lens = None if entry.get("distortion") is None else entry.table("distortion").only(("model", "coefficients"))
    model = None if lens is None else lens.choice("model", tuple(COEFFICIENT_COUNTS))
    coefficients = () if lens is None else lens.numbers("coefficients")
    try:
        return Camera(width, height, fx, fy, cx, cy, None if model is None else Distortion(model, coefficients))
    except CameraError as error:
        raise CameraError(f"{entry.source}: {error}", code=error.code) from error
