"""Images of 16 bits of which a sensor fills 12: brought to full brightness by the stream as a whole, and reported."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from recordings import HEIGHT, START, STEP, WIDTH, Recorder, camera_info, header, image, new, write_tf

from feature_gs_ros.io.streams.registry import open_stream

LEVELS = np.arange(WIDTH * HEIGHT, dtype=np.uint16).reshape(HEIGHT, WIDTH) % 256


def deep(bits: int, fraction: float = 1.0) -> NDArray[np.uint16]:
    """All of `LEVELS`, spread over so many bits."""
    return (LEVELS * fraction * ((1 << bits) - 1) / 255).round().astype(np.uint16)


def record(folder: Path, images: Sequence[NDArray[np.uint16]], encoding: str = "mono16") -> Path:
    with Recorder(folder) as recorder:
        write_tf(recorder)
        recorder.write("/camera/camera_info", camera_info(START), START)
        for index, pixels in enumerate(images):
            stamp = START + index * STEP
            message = image(pixels[:, :, None], stamp, encoding=encoding)
            if encoding.endswith("png"):
                data = np.asarray(cv2.imencode(".png", pixels)[1], dtype=np.uint8)
                message = new("sensor_msgs/msg/CompressedImage", header=header(stamp), format=encoding, data=data)
            recorder.write("/camera/image_raw", message, stamp)
    return folder


@pytest.mark.parametrize("encoding", ["mono16", "mono16; png"])
def test_twelve_bits_in_a_recording(tmp_path: Path, caplog: pytest.LogCaptureFixture, encoding: str) -> None:
    # The brightest image comes late: the first alone would be taken for 10 bits.
    stream = open_stream(record(tmp_path / "bag", [deep(12, 0.2)] * 4 + [deep(12)], encoding))
    last = list(stream.frames())[-1]
    assert np.abs(last.image[:, :, 0].astype(int) - LEVELS).max() <= 1
    assert "taken for 12 bits" in caplog.text


def test_bayer_images_are_scaled_too(tmp_path: Path) -> None:
    stream = open_stream(record(tmp_path / "bag", [np.full_like(LEVELS, 4095)] * 2, "bayer_rggb16"))
    assert next(iter(stream.frames())).image.min() == 255


@pytest.mark.parametrize("values", [deep(16), np.zeros_like(LEVELS)])
def test_sixteen_bits_and_black_images_stay(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, values: NDArray[np.uint16]
) -> None:
    stream = open_stream(record(tmp_path / "bag", [values] * 2))
    assert np.abs(next(iter(stream.frames())).image[:, :, 0] - (values // 257).astype(int)).max() == 0
    assert "bits" not in caplog.text


def test_twelve_bits_in_a_folder_of_pngs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    entries = []
    for name, fraction in (("1.png", 0.1), ("2.png", 1.0)):
        cv2.imwrite(str(tmp_path / name), np.repeat(deep(12, fraction)[:, :, None], 3, 2))
        entry = {"image": name, "width": WIDTH, "height": HEIGHT, "fx": 30, "fy": 30, "cx": 16, "cy": 12}
        entries.append(entry | {"camera_from_world": np.eye(4).tolist()})
    (tmp_path / "cameras.json").write_text(json.dumps(entries))
    dark, bright = (frame.image for frame in open_stream(tmp_path).frames())
    assert np.abs(bright - LEVELS[:, :, None].astype(int)).max() <= 1
    assert dark.max() in (25, 26)
    assert "taken for 12 bits" in caplog.text
