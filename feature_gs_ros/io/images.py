"""Image files and compressed bytes, PNG and JPEG: their size from the header, their pixels.

Others are refused by name. What isn't checked here is decoded by a library that believes it: a few bytes of a header
make it allocate gigabytes. So the bytes are walked first, chunk by chunk, and only what belongs to the image is handed
on.
"""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path
from typing import Any, BinaryIO, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from feature_gs_ros.core.camera import Camera, Image
from feature_gs_ros.core.errors import ImageError
from feature_gs_ros.core.text import shown
from feature_gs_ros.io.files import open_regular, read_regular

Format = Literal["PNG", "JPEG"]

MAX_PIXELS = 1 << 27  # of a header that is believed where no camera says what to expect: 400 MB as RGB
MAX_FILE = 1 << 30  # bytes of an image file
MAX_SCANS = 100  # of a progressive JPEG: each takes as long as a whole image
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_DRAWN = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")  # chunks that pixels depend on; others may hold anything
_JPEG = b"\xff\xd8\xff"
_JPEG_END = b"\xff\xd9"
_JPEG_SCAN = 0xDA
_JPEG_BARE = frozenset((0x00, 0x01, *range(0xD0, 0xDA)))  # that no length follows: none belongs before the first scan
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # the segments that hold the size
_OTHERS = {
    b"II*\0": "TIFF", b"MM\0*": "TIFF", b"II+\0": "TIFF", b"MM\0+": "TIFF", b"BM": "BMP", b"GIF8": "GIF",
    b"RIFF": "WebP", b"v/1\x01": "OpenEXR", b"\0\0\0\x0cjP": "JPEG 2000", b"\xff\x4f\xff\x51": "JPEG 2000",
    b"#?R": "Radiance HDR",
    **{b"P%d" % kind: "PNM" for kind in range(1, 8)},
}  # fmt: skip
LFS_POINTER = b"version https://git-lfs.github.com/spec/"  # what git checks out where LFS isn't installed
_BAND = 256  # rows whose channels are swapped at a time: a second image is never held


def load_image(path: str | Path, camera: Camera | None = None, bits: int = 16) -> Image:
    """Pixels [H, W, 3] of an image file, in the order they are stored: an EXIF orientation is not applied.

    Args:
        bits: of the 16 of a PNG that has as many, how many hold the image; see `bits_in_use`.

    Raises:
        ImageError: the file is missing, damaged, or not of the camera's size.
    """
    return decode_compressed(read_image(path), str(path), camera, bits)


def read_image(path: str | Path) -> bytes:
    """The bytes of an image file, not looked at yet.

    Raises:
        ImageError: the file is missing, too large or no file.
    """
    try:
        return read_regular(path, MAX_FILE)
    except (OSError, ValueError) as error:
        raise ImageError(f"can't read the image '{path}': {_reason(error)}", code="image.unreadable") from error


def bits_in_use(brightest: int) -> int:
    """How many of 16 bits a stream's images use, by their brightest value: sensors give 10, 12 or 14."""
    return next(bits for bits in (10, 12, 14, 16) if brightest < 1 << bits)


def eight_bits(samples: NDArray[np.integer[Any]], bits: int = 16) -> NDArray[np.uint8]:
    """Values of which ``bits`` are in use, as 8 bits: the largest becomes 255, what is beyond it too."""
    if bits == 16:
        return np.asarray(samples // np.uint16(257), dtype=np.uint8)
    largest = (1 << bits) - 1
    return np.asarray(np.minimum(samples, largest).astype(np.uint32) * 255 // largest, dtype=np.uint8)


def has_16_bits(data: bytes) -> bool:
    """Whether these are the first bytes of a PNG of 16 bits per channel."""
    return len(data) > 24 and data.startswith(_PNG) and data[24] == 16


def decode_compressed(data: bytes, source: str, camera: Camera | None = None, bits: int = 16) -> Image:
    """Pixels [H, W, 3] RGB of JPEG or PNG; grey becomes RGB, alpha is left out.

    Takes the memory of the pixels once, and twice for progressive JPEG.

    Args:
        bits: of the 16 of a PNG that has as many, how many hold the image; see `bits_in_use`.

    Raises:
        ImageError: another format, the bytes end too early, or are not of the camera's size.
    """
    if bits < 16 and has_16_bits(data):
        deep = _decoded(data, source, camera, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
        return np.ascontiguousarray(eight_bits(deep[:, :, ::-1], bits))
    pixels = _decoded(data, source, camera, cv2.IMREAD_COLOR)
    for start in range(0, len(pixels), _BAND):
        band = pixels[start : start + _BAND]
        band[:] = cv2.cvtColor(band, cv2.COLOR_BGR2RGB)
    return np.asarray(pixels, dtype=np.uint8)


def decode_grey(data: bytes, source: str) -> NDArray[np.uint8]:
    """Pixels [H, W] of JPEG or PNG as greys of 8 bits.

    Raises:
        ImageError: as of `decode_compressed`.
    """
    return np.asarray(_decoded(data, source, None, cv2.IMREAD_GRAYSCALE), dtype=np.uint8)


def decode_stored(data: bytes, source: str) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Pixels [H, W] or [H, W, channels] of JPEG or PNG with the values that are stored, 8 or 16 bits.

    Raises:
        ImageError: as of `decode_compressed`.
    """
    return _decoded(data, source, None, cv2.IMREAD_UNCHANGED)


def check_size(size: tuple[int, int], camera: Camera, source: str) -> None:
    """Compare an image's (width, height) with its camera's.

    Raises:
        ImageError: they differ.
    """
    if size != (camera.width, camera.height):
        raise ImageError(
            f"'{source}' is {size[0]}×{size[1]} pixels, its camera {camera.width}×{camera.height}", code="image.size"
        )


def image_file_size(path: Path) -> tuple[int, int]:
    """(width, height) of an image file by its header; nothing is decoded.

    Raises:
        ImageError: the file is missing or no JPEG or PNG.
    """
    try:
        with open_regular(path) as file:
            return image_size(file, str(path))
    except (OSError, ValueError) as error:
        raise ImageError(f"can't read the image '{path}': {_reason(error)}", code="image.unreadable") from error


def image_format(start: bytes, source: str) -> Format:
    """Which format the first bytes of an image are.

    Raises:
        ImageError: neither PNG nor JPEG; the message names what it is instead.
    """
    if start.startswith(_PNG):
        return "PNG"
    if start.startswith(_JPEG):
        return "JPEG"
    if start.startswith(LFS_POINTER[: len(start)]) and start:
        raise ImageError(
            f"'{source}' is a pointer of git LFS, not the image: run git lfs pull in its repository",
            code="image.pointer",
        )
    other = next((name for magic, name in _OTHERS.items() if start.startswith(magic)), None)
    if other is not None:
        raise ImageError(f"'{source}' is a {other} image; only PNG and JPEG are read: convert it", code="image.format")
    raise ImageError(f"'{source}' is not an image, or damaged: it begins with {shown(start[:8])}", code="image.damaged")


def image_size(file: BinaryIO, source: str) -> tuple[int, int]:
    """(width, height) from the header of a JPEG or PNG.

    Raises:
        ImageError: another format, the header is damaged, or names more than `MAX_PIXELS`.
    """
    start = file.read(26)
    if image_format(start, source) == "PNG":
        if len(start) < 26 or start[8:16] != b"\0\0\0\rIHDR":
            raise ImageError(f"'{source}' is a PNG without a size in its header; copy it again", code="image.damaged")
        width, height = struct.unpack(">II", start[16:24])
    else:
        file.seek(2)
        width, height = _jpeg_size(file, source)
    if not 0 < width * height <= MAX_PIXELS:
        raise ImageError(
            f"the header of '{source}' names {width}×{height} pixels, 1 to {MAX_PIXELS} are read", code="image.size"
        )
    return width, height


def _decoded(data: bytes, source: str, camera: Camera | None, flags: int) -> NDArray[Any]:
    """cv2's array of what the checks let through, in its order of channels (BGR)."""
    size = image_size(io.BytesIO(data), source)
    if camera is not None:
        check_size(size, camera, source)  # before anything is allocated
    if image_format(data, source) == "PNG":
        data = _png_drawn(data, source)
    else:
        _check_jpeg(data, source)
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise ImageError(f"'{source}' can't be decoded: {error.err}", code="image.damaged") from error
    if pixels is None:
        raise ImageError(f"'{source}' can't be decoded: it is damaged ({len(data)} bytes)", code="image.damaged")
    if (pixels.shape[1], pixels.shape[0]) != size:
        raise ImageError(
            f"'{source}' is {pixels.shape[1]}×{pixels.shape[0]} pixels, its header says {size[0]}×{size[1]}",
            code="image.damaged",
        )
    return pixels


def _png_drawn(data: bytes, source: str) -> bytes:
    """The PNG without chunks that don't change its pixels (texts, profiles, animations).

    Raises:
        ImageError: a chunk claims more bytes than there are, or the last one is missing.
    """
    kept = [data[: len(_PNG)]]
    offset, kind = len(_PNG), b""
    while kind != b"IEND":
        length, kind = int.from_bytes(data[offset : offset + 4], "big"), data[offset + 4 : offset + 8]
        end = offset + 12 + length
        if len(kind) < 4 or end > len(data):
            raise ImageError(
                f"'{source}' is a PNG that ends too early ({len(data)} bytes); copy or record it again",
                code="image.damaged",
            )
        if kind in _PNG_DRAWN:
            kept.append(data[offset:end])
        offset = end
    return b"".join(kept)


def _check_jpeg(data: bytes, source: str) -> None:
    if data.find(_JPEG_END, _scan_start(data)) < 0:
        raise ImageError(
            f"'{source}' is a JPEG that ends too early ({len(data)} bytes); copy or record it again",
            code="image.damaged",
        )
    scans = data.count(bytes((0xFF, _JPEG_SCAN)))
    if scans > MAX_SCANS:
        raise ImageError(f"'{source}' is a JPEG of {scans} scans, at most {MAX_SCANS} are read", code="image.size")


def _jpeg_size(file: BinaryIO, source: str) -> tuple[int, int]:
    while True:
        segment = file.read(4)
        if len(segment) < 4 or segment[0] != 0xFF or segment[1] == _JPEG_SCAN or segment[1] in _JPEG_BARE:
            # The decoder goes on behind a bare marker, or behind bytes that are none: it would find another size.
            raise ImageError(
                f"'{source}' is a JPEG without a size in its header; copy or record it again", code="image.damaged"
            )
        if segment[1] == 0xFF:  # a fill byte before the marker
            file.seek(-3, os.SEEK_CUR)
            continue
        (length,) = struct.unpack(">H", segment[2:])
        if segment[1] in _JPEG_FRAMES:
            frame = file.read(5)
            if len(frame) == 5:
                height, width = struct.unpack(">xHH", frame)
                return width, height
        file.seek(max(0, length - 2), os.SEEK_CUR)


def _scan_start(data: bytes) -> int:
    """Offset of a JPEG's first scan, behind the segments: an embedded thumbnail has an end marker too."""
    offset = 2
    while offset + 4 <= len(data) and data[offset] == 0xFF and data[offset + 1] != _JPEG_SCAN:
        if data[offset + 1] == 0xFF:
            offset += 1
            continue
        offset += 2 + int.from_bytes(data[offset + 2 : offset + 4], "big")
    return offset


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
