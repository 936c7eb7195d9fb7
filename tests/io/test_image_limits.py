"""A few bytes that claim a large image never take the memory that they claim."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from feature_gs_ros.core.camera import Camera
from feature_gs_ros.core.errors import ImageError
from feature_gs_ros.io.images import MAX_PIXELS, MAX_SCANS, decode_compressed, image_file_size, load_image
from tests.memory_use import peak_megabytes

SIGNATURE = b"\x89PNG\r\n\x1a\n"
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
SETUP = "from feature_gs_ros.io.images import decode_compressed, load_image; import cv2, numpy as np"


def chunk(kind: bytes, data: bytes, claimed: int | None = None) -> bytes:
    length = len(data) if claimed is None else claimed
    return struct.pack(">I", length) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def header(width: int, height: int) -> bytes:
    return SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))


def png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels[..., ::-1])[1].tobytes()


@pytest.mark.parametrize("kind", [b"IDAT", b"tEXt", b"PLTE", b"eXIf", b"fdAT"])
def test_a_chunk_that_claims_gigabytes_is_refused_unread(kind: bytes, tmp_path: Path) -> None:
    bomb = header(8, 6) + chunk(kind, b"", claimed=0xFFFFFFF0)
    (tmp_path / "bomb.png").write_bytes(bomb)
    grown, outcome = peak_megabytes(SETUP, f"load_image({str(tmp_path / 'bomb.png')!r})")
    assert outcome == "image.damaged"
    assert grown < 50


def test_what_does_not_draw_is_not_given_to_the_decoder() -> None:
    whole = png(PIXELS)
    text = b"Comment\0\0" + zlib.compress(bytes(1 << 24), 9)
    animation = chunk(b"acTL", struct.pack(">II", 1 << 31, 0))
    loaded = whole[:33] + chunk(b"zTXt", text) + animation + chunk(b"iCCP", b"p" * 100) + whole[33:]
    assert (decode_compressed(loaded, "it") == PIXELS).all()


@pytest.mark.slow
def test_formats_that_hide_their_size_are_refused_unread(tmp_path: Path) -> None:
    large = np.zeros((12_000, 12_000), np.uint8)  # a few kilobytes as a TIFF
    cv2.imwrite(str(tmp_path / "large.tiff"), large, [cv2.IMWRITE_TIFF_COMPRESSION, 8])
    assert (tmp_path / "large.tiff").stat().st_size < 1 << 20
    grown, outcome = peak_megabytes(SETUP, f"load_image({str(tmp_path / 'large.tiff')!r})")
    assert outcome == "image.format"
    assert grown < 50
    with pytest.raises(ImageError) as caught:
        image_file_size(tmp_path / "large.tiff")
    assert caught.value.code == "image.format"


@pytest.mark.slow
def test_the_most_pixels_take_their_own_memory_once(tmp_path: Path) -> None:
    side = 4096
    (tmp_path / "large.png").write_bytes(png(np.zeros((side, side, 3), np.uint8)))
    grown, outcome = peak_megabytes(SETUP, f"load_image({str(tmp_path / 'large.png')!r})")
    assert outcome == "done"
    assert grown < 1.5 * 3 * side * side / 2**20


def test_more_pixels_than_the_limit_or_the_camera_are_refused_by_the_header() -> None:
    side = int(MAX_PIXELS**0.5) + 1
    for bomb in (header(side, side), header(1 << 31, 1 << 31), header(0, 6)):
        with pytest.raises(ImageError) as caught:
            decode_compressed(bomb + chunk(b"IDAT", b"") + chunk(b"IEND", b""), "it")
        assert caught.value.code == "image.size"
    with pytest.raises(ImageError) as caught:
        decode_compressed(header(9000, 9000) + chunk(b"IEND", b""), "it", Camera(8, 6, 10.0, 10.0, 4.0, 3.0))
    assert caught.value.code == "image.size"


def test_a_jpeg_of_endless_scans_is_refused() -> None:
    whole = cv2.imencode(".jpg", PIXELS, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    assert decode_compressed(whole, "it").shape == PIXELS.shape
    start = whole.index(b"\xff\xda")
    scan = whole[start : whole.index(b"\xff", start + 2)]
    with pytest.raises(ImageError) as caught:
        decode_compressed(whole[:-2] + scan * (MAX_SCANS + 1) + whole[-2:], "it")
    assert caught.value.code == "image.size"


@pytest.mark.parametrize("read", [load_image, image_file_size])
def test_pipes_devices_and_folders_are_no_images(read: object, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", Path("/dev/zero"), tmp_path, tmp_path / "none.png", Path("a\0b.png")):
        with pytest.raises(ImageError):
            read(path)  # type: ignore[operator]


@pytest.mark.parametrize("marker", [0x00, 0x01, 0xD0, 0xD7, 0xD9])
def test_a_jpeg_has_one_size_for_us_and_for_the_decoder(marker: int) -> None:
    """A bare marker has no length: who believes the bytes behind it to be one skips to a size that isn't decoded."""
    small = cv2.imencode(".jpg", PIXELS)[1].tobytes()
    large = bytearray(cv2.imencode(".jpg", np.zeros((16, 16, 3), np.uint8))[1].tobytes()[2:])
    at = large.index(b"\xff\xc0")
    large[at + 5 : at + 9] = struct.pack(">HH", 8000, 8000)
    skipped = 4 + int.from_bytes(large[:2], "big")
    data = bytes((0xFF, 0xD8, 0xFF, marker)) + bytes(large)
    bomb = data + bytes(max(0, skipped - len(data))) + small[2:]
    with pytest.raises(ImageError):
        decode_compressed(bomb, "it", Camera(8, 6, 9.0, 9.0, 4.0, 3.0))
    with pytest.raises(ImageError) as caught:
        decode_compressed(bomb, "it")
    assert caught.value.code == "image.damaged"
