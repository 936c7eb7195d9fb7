"""sensor_msgs/Image and CompressedImage → RGB arrays.

Nothing of ROS is imported: rclpy's messages and those of `rosbags` both fit. cv_bridge isn't used, as it
breaks under numpy 2.
"""

from __future__ import annotations

import io
import re
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import cv2
import numpy as np
from numpy.typing import NDArray

from feature_gs_ros.core.camera import Camera, Image
from feature_gs_ros.core.errors import ImageError
from feature_gs_ros.core.text import shown
from feature_gs_ros.io.images import (
    check_size,
    decode_compressed,
    decode_stored,
    eight_bits,
    has_16_bits,
    image_format,
    image_size,
)
from feature_gs_ros.io.messages.buffers import byte_array

ImageKind = Literal["colour", "mono"]


class RawImage(Protocol):
    """sensor_msgs/Image; `data` is anything with a buffer of bytes."""

    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: NDArray[np.uint8]


@runtime_checkable
class CompressedImage(Protocol):
    """sensor_msgs/CompressedImage; `data` is anything with a buffer of bytes."""

    format: str
    data: NDArray[np.uint8]


def decode_image(
    message: RawImage | CompressedImage, source: str, camera: Camera | None = None, bits: int = 16
) -> Image:
    """The image [H, W, 3], uint8 RGB, in an array of its own.

    Greys become RGB, alpha is left out, 16 bits become 8 (65535 → 255), a Bayer pattern is interpolated.

    Args:
        message: raw or compressed.
        source: its topic and stamp, for the error message.
        camera: whose size the image must have.
        bits: of an encoding of 16 bits, how many hold the image; see `bits_in_use`.

    Raises:
        ImageError: an encoding that is not an image, damaged bytes, bytes of another format than the message says, or
            not the camera's size.
    """
    image_kind(message)
    if isinstance(message, CompressedImage):
        data = _bytes(message, source)
        _check_format(message, data, source)
        return decode_compressed(data, source, camera, bits)
    if camera is not None:
        check_size((message.width, message.height), camera, source)
    layout = _LAYOUTS[message.encoding]
    samples = _samples(message, layout, source)
    narrow = eight_bits(samples, bits) if samples.dtype.itemsize == 2 else samples
    pixels = np.array(narrow, dtype=np.uint8, order="C")
    return pixels if layout.to_rgb is None else np.asarray(cv2.cvtColor(pixels, layout.to_rgb), dtype=np.uint8)


def image_kind(message: RawImage | CompressedImage) -> ImageKind:
    """Whether a message holds colours or greys.

    Raises:
        ImageError: neither: a depth map, or an encoding that is not known here.
    """
    if isinstance(message, CompressedImage):
        encoding, _, transport = (part.strip() for part in message.format.partition(";"))
        known = encoding in _LAYOUTS or encoding.lower().removeprefix("image/").lstrip(".") in _FILE_FORMATS
        is_image = known and "compressedDepth" not in transport
    else:
        encoding, is_image = message.encoding, message.encoding in _LAYOUTS
    if not is_image:
        raise ImageError(
            f"encoding {shown(encoding)} is not an image that can be read",  # short, to count by
            code="image.encoding",
        )
    return "mono" if encoding in _LAYOUTS and _LAYOUTS[encoding].to_rgb == cv2.COLOR_GRAY2RGB else "colour"


def brightest_of_16_bits(message: RawImage | CompressedImage, source: str) -> int | None:
    """The largest value of an image of 16 bits, None for one of 8.

    Raises:
        ImageError: as `decode_image`.
    """
    image_kind(message)
    if isinstance(message, CompressedImage):
        data = _bytes(message, source)
        return int(decode_stored(data, source).max()) if has_16_bits(data) else None
    layout = _LAYOUTS[message.encoding]
    return int(_samples(message, layout, source).max()) if layout.sample_bytes == 2 else None


def image_dimensions(message: RawImage | CompressedImage, source: str) -> tuple[int, int]:
    """(width, height) of the image in a message; nothing is decoded for it.

    Raises:
        ImageError: compressed bytes are damaged, or of another format than the message says.
    """
    if not isinstance(message, CompressedImage):
        return int(message.width), int(message.height)
    data = _bytes(message, source)
    _check_format(message, data, source)
    return image_size(io.BytesIO(data), source)


class _Layout(NamedTuple):
    """How an encoding's pixels lie in a row, and cv2's code that turns them into RGB."""

    samples: int  # a pixel
    sample_bytes: int
    to_rgb: int | None  # None: it is RGB
    half_rows: int = 2  # of data, for each row of the image


_LAYOUTS = {
    "rgb8": _Layout(3, 1, None),
    "bgr8": _Layout(3, 1, cv2.COLOR_BGR2RGB),
    "8UC3": _Layout(3, 1, cv2.COLOR_BGR2RGB),  # OpenCV's type, so OpenCV's order
    "rgba8": _Layout(4, 1, cv2.COLOR_RGBA2RGB),
    "bgra8": _Layout(4, 1, cv2.COLOR_BGRA2RGB),
    "8UC4": _Layout(4, 1, cv2.COLOR_BGRA2RGB),
    "mono8": _Layout(1, 1, cv2.COLOR_GRAY2RGB),
    "8UC1": _Layout(1, 1, cv2.COLOR_GRAY2RGB),
    "mono16": _Layout(1, 2, cv2.COLOR_GRAY2RGB),  # 16UC1 is depth in millimetres, and not here
    "rgb16": _Layout(3, 2, None),
    "bgr16": _Layout(3, 2, cv2.COLOR_BGR2RGB),
    "rgba16": _Layout(4, 2, cv2.COLOR_RGBA2RGB),
    "bgra16": _Layout(4, 2, cv2.COLOR_BGRA2RGB),
    "bayer_rggb8": _Layout(1, 1, cv2.COLOR_BayerRGGB2RGB),
    "bayer_bggr8": _Layout(1, 1, cv2.COLOR_BayerBGGR2RGB),
    "bayer_gbrg8": _Layout(1, 1, cv2.COLOR_BayerGBRG2RGB),
    "bayer_grbg8": _Layout(1, 1, cv2.COLOR_BayerGRBG2RGB),
    "bayer_rggb16": _Layout(1, 2, cv2.COLOR_BayerRGGB2RGB),
    "bayer_bggr16": _Layout(1, 2, cv2.COLOR_BayerBGGR2RGB),
    "bayer_gbrg16": _Layout(1, 2, cv2.COLOR_BayerGBRG2RGB),
    "bayer_grbg16": _Layout(1, 2, cv2.COLOR_BayerGRBG2RGB),
    "uyvy": _Layout(2, 1, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422": _Layout(2, 1, cv2.COLOR_YUV2RGB_UYVY),
    "yuyv": _Layout(2, 1, cv2.COLOR_YUV2RGB_YUY2),
    "yuv422_yuy2": _Layout(2, 1, cv2.COLOR_YUV2RGB_YUY2),
    "nv12": _Layout(1, 1, cv2.COLOR_YUV2RGB_NV12, half_rows=3),
    "nv21": _Layout(1, 1, cv2.COLOR_YUV2RGB_NV21, half_rows=3),
}
_FILE_FORMATS = {"jpeg": "JPEG", "jpg": "JPEG", "png": "PNG", "": None}  # of drivers that name no encoding
_SAID = re.compile(r"\b(jpeg|jpg|png)\b", re.IGNORECASE)


def _check_format(message: CompressedImage, data: bytes, source: str) -> None:
    """Raise an ImageError unless the bytes are what the message's ``format`` says, where it names a format."""
    said = _SAID.search(message.format)
    found = image_format(data[:16], source)
    if said is not None and _FILE_FORMATS[said.group().lower()] != found:
        raise ImageError(
            f"'{source}' says {shown(message.format)}, but its bytes are a {found}; correct the publisher's format",
            code="image.format",
        )


def _samples(message: RawImage, layout: _Layout, source: str) -> NDArray[np.integer[Any]]:
    """The samples [rows, width, samples], a view into the message; the padding behind each row is left out."""
    width, height, step = int(message.width), int(message.height), int(message.step)
    odd = width % 2 or height % 2
    if width <= 0 or height <= 0 or (odd and (layout.half_rows == 3 or layout.samples == 2)):
        raise ImageError(
            f"'{source}' is {width}×{height} pixels, which '{message.encoding}' can't be",
            code="image.size",
        )
    rows, row_bytes = height * layout.half_rows // 2, width * layout.samples * layout.sample_bytes
    data = byte_array(message.data, source)
    if step < row_bytes or len(data) < (rows - 1) * step + row_bytes:
        raise ImageError(
            f"'{source}' holds {len(data)} bytes in rows of {step}, but {width}×{height} pixels of "
            f"'{message.encoding}' take {rows} rows of {row_bytes}",
            code="image.damaged",
        )
    packed = np.lib.stride_tricks.as_strided(data, (rows, row_bytes), (step, 1), writeable=False)
    if layout.sample_bytes == 2:
        order = ">u2" if message.is_bigendian else "<u2"
        samples = np.ascontiguousarray(packed).view(order)
        return samples.reshape(rows, width, layout.samples)
    return packed.reshape(rows, width, layout.samples)


def _bytes(message: CompressedImage, source: str) -> bytes:
    return byte_array(message.data, source).tobytes()
