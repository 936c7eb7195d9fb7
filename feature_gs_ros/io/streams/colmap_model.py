"""COLMAP's sparse models, text and binary: cameras, images and points3D.

The formats: https://colmap.github.io/format.html. Counts in a binary file are checked against the bytes
that are there before anything is read by them.
"""

from __future__ import annotations

import logging
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray

from feature_gs_ros.core.camera import Camera, Distortion
from feature_gs_ros.core.errors import CameraError, StreamError
from feature_gs_ros.core.geometry import rotation_from_quat_wxyz

# Name and number of parameters; the position is COLMAP's model id.
MODELS = (
    ("SIMPLE_PINHOLE", 3),
    ("PINHOLE", 4),
    ("SIMPLE_RADIAL", 4),
    ("RADIAL", 5),
    ("OPENCV", 8),
    ("OPENCV_FISHEYE", 8),
    ("FULL_OPENCV", 12),
    ("FOV", 5),
    ("SIMPLE_RADIAL_FISHEYE", 4),
    ("RADIAL_FISHEYE", 5),
    ("THIN_PRISM_FISHEYE", 12),
    ("RAD_TAN_THIN_PRISM_FISHEYE", 16),
)
_SUFFIXES = (".bin", ".txt")  # COLMAP takes the binary file where both exist
_Record = TypeVar("_Record")

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ColmapImage:
    """One registered image."""

    path: str  # below the images folder
    camera_id: int
    camera_from_world: NDArray[np.float64]  # [4, 4]; NaN where the quaternion is zero


def is_model(folder: Path) -> bool:
    """Whether a folder holds a sparse model's cameras and images."""
    return any(all((folder / f"{part}{suffix}").is_file() for part in ("cameras", "images")) for suffix in _SUFFIXES)


def read_cameras(model: Path) -> dict[int, Camera]:
    """Cameras by id; COLMAP's cx, cy count from the image's corner, as ours do.

    Raises:
        StreamError: the file is missing or damaged.
        CameraError: a camera model that has no counterpart here, or values out of range.
    """
    return dict(_read(model, "cameras", _text_cameras, _binary_cameras))


def read_images(model: Path) -> list[ColmapImage]:
    """Images sorted by path: their order in the file means nothing.

    Raises:
        StreamError: the file is missing or damaged.
    """
    return sorted(_read(model, "images", _text_images, _binary_images), key=lambda image: image.path)


def count_images(model: Path) -> int:
    """How many images a model holds; of a binary one by its header.

    Raises:
        StreamError: the file is missing or damaged.
    """
    path = model / "images.bin"
    if not path.is_file():
        return len(read_images(model))
    try:
        with path.open("rb") as file:
            return _Binary(file, path).count(73)
    except OSError as error:
        raise StreamError(f"can't read '{path}': {error.strerror}", code="stream.unreadable") from error


def read_points(model: Path) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Positions [N, 3] in the model's frame and colours [N, 3] RGB of points3D.

    Raises:
        StreamError: the file is missing or damaged, or holds values out of range.
    """
    rows = np.array(_read(model, "points3D", _text_points, _binary_points), dtype=np.float64).reshape(-1, 6)
    xyz, rgb = rows[:, :3], rows[:, 3:]
    if not np.isfinite(rows).all() or ((rgb < 0) | (rgb > 255)).any():
        raise StreamError(
            f"points3D in '{model}' holds positions that are not finite, or colours beyond 0 … 255",
            code="stream.not-finite",
        )
    return xyz.copy(), rgb.astype(np.uint8)


def camera_from_colmap(model: str, width: int, height: int, parameters: Sequence[float]) -> Camera:
    """The camera of one line of cameras.txt.

    Raises:
        CameraError: the model has no counterpart here, or a value is out of range.
    """
    p = tuple(parameters)
    lens: Distortion | None = None
    if model in ("SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE"):
        fx, fy, cx, cy, k = p[0], p[0], p[1], p[2], p[3:]
    elif model in ("PINHOLE", "OPENCV", "OPENCV_FISHEYE", "FULL_OPENCV"):
        fx, fy, cx, cy, k = p[0], p[1], p[2], p[3], p[4:]
    else:
        supported = ", ".join(name for name, _ in MODELS if name not in _UNSUPPORTED)
        raise CameraError(
            f"COLMAP's camera model {model} is not supported ({supported} are); run colmap image_undistorter first",
            code="camera.unsupported",
        )
    if model.endswith("FISHEYE"):
        lens = Distortion("equidistant", k + (0.0,) * (4 - len(k)))
    elif any(k):
        # RADIAL's k1 k2 and OPENCV's k1 k2 p1 p2 k3 … are OpenCV's own order, cut short.
        lens = Distortion("rational_polynomial" if len(k) == 8 else "plumb_bob", k + (0.0,) * (4 - len(k)))
    return Camera(width, height, fx, fy, cx, cy, lens)


_UNSUPPORTED = ("FOV", "THIN_PRISM_FISHEYE", "RAD_TAN_THIN_PRISM_FISHEYE")


class _Binary:
    """A binary file that knows how many bytes are left."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self.file = file
        self.path = path
        self.size = os.fstat(file.fileno()).st_size

    def unpack(self, form: str) -> tuple[int | float, ...]:
        size = struct.calcsize("<" + form)
        data = self.file.read(size)
        if len(data) < size:
            raise StreamError(
                f"'{self.path}' ends after {self.size} bytes in the middle of a record; export it again",
                code="stream.damaged",
            )
        return struct.unpack("<" + form, data)

    def count(self, record_bytes: int) -> int:
        """A count of records of at least so many bytes each."""
        (count,) = self.unpack("Q")
        left = self.size - self.file.tell()
        if count * record_bytes > left:
            raise StreamError(
                f"'{self.path}' promises {count} records, but {left} bytes are left; export it again",
                code="stream.damaged",
            )
        return int(count)

    def skip(self, size: int) -> None:
        self.file.seek(size, os.SEEK_CUR)

    def text(self) -> str:
        """A string up to its zero byte."""
        data = bytearray()
        while (byte := self.file.read(1)) != b"\0":
            if not byte:
                raise StreamError(
                    f"'{self.path}' ends in the middle of an image's name; export it again", code="stream.damaged"
                )
            data += byte
        return os.fsdecode(bytes(data))  # as the system has it, UTF-8 or not


def _read(
    model: Path,
    part: str,
    parse_text: Callable[[Iterable[str]], Iterator[_Record]],
    parse_binary: Callable[[_Binary], Iterator[_Record]],
) -> list[_Record]:
    for path in (model / f"{part}{suffix}" for suffix in _SUFFIXES):
        if not path.is_file():
            continue
        try:
            if path.suffix == ".bin":
                with path.open("rb") as binary:
                    return list(parse_binary(_Binary(binary, path)))
            with path.open(encoding="utf-8", errors="surrogateescape") as text:
                return list(parse_text(text))
        except OSError as error:
            raise StreamError(f"can't read '{path}': {error.strerror}", code="stream.unreadable") from error
        except CameraError as error:
            raise CameraError(f"'{path}': {error}", code=error.code) from error
        except (ValueError, IndexError) as error:
            raise StreamError(f"'{path}' is damaged: {error}; export it again", code="stream.damaged") from error
    raise StreamError(f"'{model}' lacks {part}.bin or {part}.txt", code="stream.missing")


def _content(lines: Iterable[str]) -> Iterator[str]:
    return (line for line in lines if line.strip() and not line.startswith("#"))


def _text_cameras(lines: Iterable[str]) -> Iterator[tuple[int, Camera]]:
    counts = dict(MODELS)
    for line in _content(lines):
        camera_id, model, width, height, *parameters = line.split()
        values = [float(x) for x in parameters]
        count = counts.get(model, len(values))
        if len(values) < count or any(values[count:]):
            raise ValueError(f"{model} takes {count} parameters, got {len(values)}")
        if len(values) > count:
            log.warning("camera %s is a %s with %d zeros too many: left out", camera_id, model, len(values) - count)
        yield int(camera_id), camera_from_colmap(model, int(width), int(height), values[:count])


def _binary_cameras(binary: _Binary) -> Iterator[tuple[int, Camera]]:
    for _ in range(binary.count(24)):
        camera_id, model_id, width, height = (int(value) for value in binary.unpack("IiQQ"))
        if not 0 <= model_id < len(MODELS):
            raise StreamError(
                f"'{binary.path}' has the unknown camera model id {model_id}; damaged, or too new",
                code="stream.unsupported",
            )
        name, count = MODELS[model_id]
        yield camera_id, camera_from_colmap(name, width, height, binary.unpack("d" * count))


def _text_images(lines: Iterable[str]) -> Iterator[ColmapImage]:
    """An image's line, and a second one with its points in 2D, which may be empty; tools leave it out altogether."""
    for line in _content(lines):
        values = line.split(maxsplit=9)
        if _holds_points(line, values):
            continue
        if len(values) < 10:
            raise ValueError(f"'{line.strip()[:80]}' is neither an image (ten values) nor its points (in threes)")
        pose = _pose([float(value) for value in values[1:8]])
        yield ColmapImage(values[9].rstrip("\r\n"), int(values[8]), pose)


def _holds_points(line: str, start: Sequence[str]) -> bool:
    """Whether a line holds x, y and a point's id over and over; an image's line has its name as the tenth value."""
    if len(start) > 9:
        try:
            float(start[9].split(maxsplit=1)[0])
        except ValueError:
            return False
    return len(line.split()) % 3 == 0


def _binary_images(binary: _Binary) -> Iterator[ColmapImage]:
    for _ in range(binary.count(73)):
        _, *pose, camera_id = binary.unpack("I7dI")
        path = binary.text()
        binary.skip(24 * binary.count(24))
        yield ColmapImage(path, int(camera_id), _pose(pose))


def _text_points(lines: Iterable[str]) -> Iterator[tuple[float, ...]]:
    for line in _content(lines):
        values = tuple(float(value) for value in line.split(maxsplit=7)[1:7])
        if len(values) < 6:
            raise ValueError(f"a point has {len(values)} of 6 values")
        yield values


def _binary_points(binary: _Binary) -> Iterator[tuple[int | float, ...]]:
    for _ in range(binary.count(51)):
        values = binary.unpack("Q3d3Bd")
        binary.skip(8 * binary.count(8))
        yield values[1:7]


def _pose(values: Sequence[float]) -> NDArray[np.float64]:
    """Matrix [4, 4] of qw qx qy qz tx ty tz, world to camera."""
    pose = np.eye(4)
    usable = bool(np.isfinite(values[:4]).all()) and any(values[:4])
    pose[:3, :3] = rotation_from_quat_wxyz(values[:4]) if usable else np.nan
    pose[:3, 3] = values[4:7]
    return pose
