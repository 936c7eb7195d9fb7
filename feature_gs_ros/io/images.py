"""Image files and compressed bytes: their size from the header, their pixels as RGB."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np

from feature_gs_ros.core.camera import Camera, Image
from feature_gs_ros.core.errors import ImageError

MAX_PIXELS = 1 << 28  # of a header that is believed: 16384 × 16384
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_JPEG_END = b"\xff\xd9"
_JPEG_SCAN = 0xDA
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # the segments that hold the size


def load_image(path: str | Path, camera: Camera | None = None) -> Image:
    """Pixels [H, W, 3] of an image file, in the order they are stored: an EXIF orientation is not applied.

    Raises:
        ImageError: the file is missing, damaged, or not of the camera's size.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ImageError(f"can't read the image '{path}': {error.strerror}") from error
    return decode_compressed(data, str(path), camera)


def decode_compressed(data: bytes, source: str, camera: Camera | None = None) -> Image:
    """Pixels [H, W, 3] of JPEG, PNG or whatever else OpenCV reads; grey becomes RGB, alpha is left out.

    Raises:
        ImageError: the bytes are no image, end too early, or are not of the camera's size.
    """
    size = image_size(io.BytesIO(data), source)
    if camera is not None and size is not None:
        check_size(size, camera, source)  # before anything is allocated
    if data.startswith(_JPEG) and data.find(_JPEG_END, _scan_start(data)) < 0:
        raise ImageError(f"'{source}' is a JPEG that ends too early ({len(data)} bytes); copy or record it again")
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error as error:
        raise ImageError(f"'{source}' can't be decoded: {error.err}") from error
    if pixels is None:
        raise ImageError(f"'{source}' can't be decoded: damaged, or no image ({len(data)} bytes)")
    if camera is not None:
        check_size((pixels.shape[1], pixels.shape[0]), camera, source)
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def check_size(size: tuple[int, int], camera: Camera, source: str) -> None:
    """Compare an image's (width, height) with its camera's.

    Raises:
        ImageError: they differ.
    """
    if size != (camera.width, camera.height):
        raise ImageError(f"'{source}' is {size[0]}×{size[1]} pixels, its camera {camera.width}×{camera.height}")


def image_file_size(path: Path) -> tuple[int, int]:
    """(width, height) of an image file; only JPEG and PNG spare the decoding.

    Raises:
        ImageError: the file is missing or no image.
    """
    try:
        with path.open("rb") as file:
            size = image_size(file, str(path))
    except OSError as error:
        raise ImageError(f"can't read the image '{path}': {error.strerror}") from error
    if size is not None:
        return size
    pixels = load_image(path)
    return pixels.shape[1], pixels.shape[0]


def image_size(file: BinaryIO, source: str) -> tuple[int, int] | None:
    """(width, height) from the header of a JPEG or PNG, None for other formats.

    Raises:
        ImageError: the header is damaged, or names more than `MAX_PIXELS`.
    """
    start = file.read(24)
    if start.startswith(_PNG) and len(start) == 24:
        width, height = struct.unpack(">II", start[16:24])
    elif start.startswith(_JPEG):
        file.seek(2)
        width, height = _jpeg_size(file, source)
    else:
        return None
    if not 0 < width * height <= MAX_PIXELS:
        raise ImageError(f"the header of '{source}' names {width}×{height} pixels, at most {MAX_PIXELS} are read")
    return width, height


def _jpeg_size(file: BinaryIO, source: str) -> tuple[int, int]:
    while True:
        segment = file.read(4)
        if len(segment) < 4 or segment[0] != 0xFF or segment[1] == _JPEG_SCAN:
            raise ImageError(f"'{source}' is a JPEG without a size in its header; copy or record it again")
        if segment[1] == 0xFF:  # a fill byte before the marker
            file.seek(-3, io.SEEK_CUR)
            continue
        (length,) = struct.unpack(">H", segment[2:])
        if segment[1] in _JPEG_FRAMES:
            frame = file.read(5)
            if len(frame) == 5:
                height, width = struct.unpack(">xHH", frame)
                return width, height
        file.seek(length - 2, io.SEEK_CUR)


def _scan_start(data: bytes) -> int:
    """Offset of a JPEG's first scan, behind the segments: an embedded thumbnail has an end marker too."""
    offset = 2
    while offset + 4 <= len(data) and data[offset] == 0xFF and data[offset + 1] != _JPEG_SCAN:
        if data[offset + 1] == 0xFF:
            offset += 1
            continue
        offset += 2 + int.from_bytes(data[offset + 2 : offset + 4], "big")
    return offset
