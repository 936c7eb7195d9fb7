"""sensor_msgs/Image and CompressedImage to arrays."""

from __future__ import annotations

import struct
import zlib
from array import array
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from rosbags.typesys import Stores, get_typestore

from feature_gs_ros.core.camera import Camera
from feature_gs_ros.core.errors import ImageError
from feature_gs_ros.io.messages.image import decode_image, image_dimensions, image_kind
from tests.errors import raises

TYPES = get_typestore(Stores.ROS2_HUMBLE).types
PICTURE = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
GREY = PICTURE[:, :, 0]
ALPHA = np.full((6, 8, 1), 77, np.uint8)


def header() -> Any:
    stamp = TYPES["builtin_interfaces/msg/Time"](sec=1, nanosec=2)
    return TYPES["std_msgs/msg/Header"](stamp=stamp, frame_id="camera")


def raw(
    encoding: str, rows: NDArray[Any], width: int, height: int, *, padding: int = 0, is_bigendian: bool = False
) -> Any:
    """A message of `rows`, any array whose first axis is the rows of data."""
    data = np.ascontiguousarray(rows).view(np.uint8).reshape(len(rows), -1)
    padded = np.pad(data, ((0, 0), (0, padding)), constant_values=255)
    return TYPES["sensor_msgs/msg/Image"](
        header=header(),
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=int(is_bigendian),
        step=padded.shape[1],
        data=padded.reshape(-1),
    )


def compressed(image_format: str, data: bytes) -> Any:
    return TYPES["sensor_msgs/msg/CompressedImage"](
        header=header(), format=image_format, data=np.frombuffer(data, np.uint8)
    )


def encoded(suffix: str, rgb: NDArray[Any]) -> bytes:
    pixels = rgb if rgb.ndim == 2 else rgb[:, :, ::-1]
    return cv2.imencode(suffix, pixels, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize(
    ("encoding", "rows"),
    [
        ("rgb8", PICTURE),
        ("bgr8", PICTURE[:, :, ::-1]),
        ("8UC3", PICTURE[:, :, ::-1]),
        ("rgba8", np.concatenate([PICTURE, ALPHA], axis=2)),
        ("bgra8", np.concatenate([PICTURE[:, :, ::-1], ALPHA], axis=2)),
        ("8UC4", np.concatenate([PICTURE[:, :, ::-1], ALPHA], axis=2)),
    ],
)
def test_packed_colours(encoding: str, rows: NDArray[np.uint8], padding: int) -> None:
    message = raw(encoding, rows, 8, 6, padding=padding)
    image = decode_image(message, "it")
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert image.flags.writeable  # an array of its own, not a view of the message
    assert (image == PICTURE).all()
    assert image_kind(message) == "colour"
    assert image_dimensions(message, "it") == (8, 6)


@pytest.mark.parametrize("encoding", ["mono8", "8UC1"])
def test_grey_becomes_rgb(encoding: str) -> None:
    message = raw(encoding, GREY, 8, 6, padding=3)
    assert (decode_image(message, "it") == GREY[:, :, None]).all()
    assert image_kind(message) == "mono"


@pytest.mark.parametrize("is_bigendian", [False, True])
def test_sixteen_bits_become_eight(is_bigendian: bool) -> None:
    order = ">u2" if is_bigendian else "<u2"
    # 255 is 65535; with something in between, the two bytes differ, so that their order counts.
    deep = (PICTURE.astype(np.int64) * 257 + 100).clip(0, 65535).astype(order)
    for encoding, rows in (("rgb16", deep), ("bgr16", deep[:, :, ::-1])):
        message = raw(encoding, rows.astype(order), 8, 6, padding=2, is_bigendian=is_bigendian)
        assert (decode_image(message, "it") == PICTURE).all()
    message = raw("mono16", deep[:, :, 0].astype(order), 8, 6, is_bigendian=is_bigendian)
    assert (decode_image(message, "it") == GREY[:, :, None]).all()


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
@pytest.mark.parametrize("bits", [8, 16])
def test_bayer_patterns(pattern: str, bits: int) -> None:
    colour = np.array([200, 120, 40])
    tile = np.array([colour["rgb".index(letter)] for letter in pattern]).reshape(2, 2)
    mosaic = np.tile(tile, (4, 5)).astype(np.uint8)
    rows = mosaic if bits == 8 else mosaic.astype("<u2") * 257
    image = decode_image(raw(f"bayer_{pattern}{bits}", rows, 10, 8, padding=6), "it")
    assert (image == colour).all()


# BT.601 with limited range: Y, U, V and the RGB that the standard gives for it
YUV_COLOURS = [((82, 90, 240), (255, 0, 0)), ((41, 240, 110), (0, 0, 255)), ((126, 128, 128), (128, 128, 128))]


@pytest.mark.parametrize(("yuv", "rgb"), YUV_COLOURS)
@pytest.mark.parametrize("encoding", ["uyvy", "yuv422", "yuyv", "yuv422_yuy2", "nv12", "nv21"])
def test_yuv(encoding: str, yuv: tuple[int, int, int], rgb: tuple[int, int, int]) -> None:
    y, u, v = yuv
    if encoding in ("nv12", "nv21"):
        chroma = [u, v] if encoding == "nv12" else [v, u]
        rows = np.concatenate([np.full((4, 6), y), np.tile(chroma, (2, 3))]).astype(np.uint8)
    else:
        pair = [u, y, v, y] if encoding in ("uyvy", "yuv422") else [y, u, y, v]
        rows = np.tile(pair, (4, 3)).astype(np.uint8)
    image = decode_image(raw(encoding, rows, 6, 4, padding=4), "it")
    assert image.shape == (4, 6, 3)
    assert np.abs(image.astype(int) - rgb).max() <= 3


@pytest.mark.parametrize("image_format", ["png", "rgb8; png compressed bgr8", "bgr8; png compressed bgr8"])
def test_compressed_png_is_exact(image_format: str) -> None:
    message = compressed(image_format, encoded(".png", PICTURE))
    assert (decode_image(message, "it") == PICTURE).all()
    assert image_kind(message) == "colour"
    assert image_dimensions(message, "it") == (8, 6)


@pytest.mark.parametrize(
    "image_format", ["jpeg", "JPEG", "jpg", "", "rgb8; jpeg compressed bgr8", "8UC3; jpeg compressed bgr8"]
)
def test_compressed_jpeg(image_format: str) -> None:
    smooth = cv2.resize(PICTURE[:2, :2], (64, 40), interpolation=cv2.INTER_LINEAR)
    message = compressed(image_format, encoded(".jpg", smooth))
    assert np.abs(decode_image(message, "it").astype(int) - smooth).max() <= 6
    assert image_dimensions(message, "it") == (64, 40)


def test_compressed_grey_and_sixteen_bits() -> None:
    message = compressed("mono8; png compressed mono8", encoded(".png", GREY))
    assert (decode_image(message, "it") == GREY[:, :, None]).all()
    assert image_kind(message) == "mono"
    deep = encoded(".png", PICTURE.astype(np.uint16) * 257)
    assert (decode_image(compressed("rgb16; png compressed bgr16", deep), "it") == PICTURE).all()


def test_an_exif_orientation_is_not_applied() -> None:
    plain = encoded(".jpg", np.zeros((40, 64, 3), np.uint8))
    tiff = b"II*\0\x08\0\0\0" + struct.pack("<H", 1) + struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0) + b"\0" * 4
    exif = b"Exif\0\0" + tiff
    turned = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + plain[2:]
    assert cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR).shape == (64, 40, 3)  # OpenCV would
    message = compressed("jpeg", turned)
    assert decode_image(message, "it").shape == (40, 64, 3)
    assert image_dimensions(message, "it") == (64, 40)


def test_fill_bytes_before_a_jpegs_markers() -> None:
    plain = encoded(".jpg", np.zeros((40, 64, 3), np.uint8))
    filled = plain[:2] + b"\xff\xff" + plain[2:]
    assert image_dimensions(compressed("jpeg", filled), "it") == (64, 40)
    assert decode_image(compressed("jpeg", filled), "it").shape == (40, 64, 3)


def test_messages_of_rclpy_hold_array_arrays() -> None:
    # rosidl's Python classes give uint8[] as array.array('B')
    message = SimpleNamespace(
        height=6, width=8, encoding="rgb8", is_bigendian=0, step=24, data=array("B", PICTURE.tobytes())
    )
    assert (decode_image(message, "it") == PICTURE).all()
    message = SimpleNamespace(format="png", data=array("B", encoded(".png", PICTURE)))
    assert (decode_image(message, "it") == PICTURE).all()


@pytest.mark.parametrize("encoding", ["16UC1", "32FC1", "64FC1", "8UC2", "nonsense", "", "RGB8"])
def test_an_encoding_that_is_no_picture_is_named(encoding: str) -> None:
    message = raw(encoding, np.zeros((6, 32), np.uint8), 8, 6)
    for read in (lambda: decode_image(message, "it"), lambda: image_kind(message)):
        with raises("image.encoding", f"'{encoding}'") as caught:
            read()
        assert caught.value.code == "image.encoding"


@pytest.mark.parametrize(
    "image_format", ["16UC1; compressedDepth png", "16UC1; png compressed ", "32FC1; png", "h264", "tiff"]
)
def test_compressed_depth_video_and_other_files_are_no_images(image_format: str) -> None:
    with pytest.raises(ImageError) as caught:
        image_kind(compressed(image_format, encoded(".png", GREY)))
    assert caught.value.code == "image.encoding"


@pytest.mark.parametrize(
    ("image_format", "suffix"),
    [("jpeg", ".png"), ("png", ".jpg"), ("rgb8; jpeg compressed bgr8", ".png"), ("JPG", ".png")],
)
def test_bytes_of_another_format_than_the_message_says(image_format: str, suffix: str) -> None:
    message = compressed(image_format, encoded(suffix, PICTURE))
    for read in (lambda: decode_image(message, "it"), lambda: image_dimensions(message, "it")):
        with pytest.raises(ImageError) as caught:
            read()
        assert caught.value.code == "image.format"


@pytest.mark.parametrize("suffix", [".webp", ".bmp", ".tiff", ".pgm"])
def test_formats_without_a_checked_header_are_refused_by_name(suffix: str) -> None:
    message = compressed("", encoded(suffix, PICTURE if suffix != ".pgm" else GREY))
    for read in (lambda: decode_image(message, "it"), lambda: image_dimensions(message, "it")):
        with raises("image.format") as caught:
            read()
        assert caught.value.code == "image.format"


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"step": 23}, ("image.damaged", "23")),
        ({"step": 0}, ("image.damaged",)),
        ({"height": 7}, ("image.damaged", "24")),
        ({"height": 2**31 - 1}, ("image.damaged", "2147483647")),
        ({"width": 2**31 - 1}, ("image.damaged", "6442450941")),
        ({"height": 0}, ("image.size", "8×0")),
        ({"encoding": "nv12", "height": 5}, ("image.size", "8×5")),
        ({"encoding": "uyvy", "width": 7}, ("image.size", "7×6")),
        ({"encoding": "rgb16"}, ("image.damaged", "48")),
    ],
)
def test_a_message_that_contradicts_itself_is_refused(change: dict[str, Any], fault: tuple[str, ...]) -> None:
    values = {"height": 6, "width": 8, "encoding": "rgb8", "is_bigendian": 0, "step": 24, **change}
    with raises(*fault):
        decode_image(SimpleNamespace(data=PICTURE.reshape(-1), **values), "it")


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.97])
def test_compressed_bytes_that_end_too_early_are_refused(suffix: str, share: float) -> None:
    whole = encoded(suffix, np.random.default_rng(1).integers(0, 256, (40, 64, 3), dtype=np.uint8))
    with raises("image.damaged", "'it'"):
        decode_image(compressed("", whole[: int(share * len(whole))]), "it")


def test_the_end_of_an_embedded_thumbnail_is_not_the_end() -> None:
    plain = encoded(".jpg", np.random.default_rng(1).integers(0, 256, (40, 64, 3), dtype=np.uint8))
    thumbnail = b"Exif\0\0 a thumbnail \xff\xd8 that ends \xff\xd9"
    carrier = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail + plain[2:]
    assert decode_image(compressed("jpeg", carrier), "it").shape == (40, 64, 3)
    with raises("image.damaged"):
        decode_image(compressed("jpeg", carrier[:-200]), "it")


def test_a_header_that_promises_too_much_allocates_nothing() -> None:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    size = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    with raises("image.size", "60000×60000"):
        decode_image(compressed("png", bomb), "it")


def test_the_size_must_be_the_cameras() -> None:
    camera = Camera(9, 6, 10.0, 10.0, 4.5, 3.0)
    for message in (raw("rgb8", PICTURE, 8, 6), compressed("png", encoded(".png", PICTURE))):
        with raises("image.size", "8×6", "9×6"):
            decode_image(message, "it", camera)
