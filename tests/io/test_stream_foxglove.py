"""MCAP with Foxglove's schemas: the same poses and images as of a ROS recording."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from feature_gs_ros.io.streams.registry import open_stream
from tests.errors import raises
from tests.foxglove_recordings import content, time, write_mcap
from tests.recordings import (
    HEIGHT,
    START,
    STEP,
    STORE,
    WIDTH,
    camera_from_map,
    camera_info,
    image,
    picture,
    tf_message,
)  # fmt: skip


@pytest.mark.parametrize(("encoding", "compression"), [("json", ""), ("protobuf", "lz4")])
def test_poses_cameras_and_images(encoding: str, compression: str, tmp_path: Path) -> None:
    stream = open_stream(write_mcap(tmp_path / "a.mcap", content(), encoding, compression))
    assert stream.names() == [str(START + index * STEP) for index in range(3)]
    for index, frame in enumerate(stream.frames()):
        np.testing.assert_allclose(frame.camera_from_world, camera_from_map(START + index * STEP), atol=1e-9)
        np.testing.assert_array_equal(frame.image, picture(index))
        assert (frame.camera.fx, frame.camera.cy) == (30.0, 12.0)


def test_raw_images(tmp_path: Path) -> None:
    pixels = picture(0)
    fields = {
        "timestamp": time(START), "frame_id": "camera_optical", "width": WIDTH, "height": HEIGHT, "encoding": "rgb8",
        "step": 3 * WIDTH, "data": pixels.tobytes(),
    }  # fmt: skip
    kept = [message for message in content(1) if "Image" not in message[1]]
    messages = [*kept, ("/camera/image", "foxglove.RawImage", START, fields)]
    (frame,) = open_stream(write_mcap(tmp_path / "a.mcap", messages, "protobuf")).frames()
    np.testing.assert_array_equal(frame.image, pixels)


def test_ros_messages_of_another_profile(tmp_path: Path) -> None:
    """As Foxglove's tools write recordings of ROS 2 anew."""

    def cdr(message: Any) -> dict[str, Any]:
        return {"cdr": bytes(STORE.serialize_cdr(message, message.__msgtype__))}

    messages = [
        ("/camera/camera_info", "sensor_msgs/msg/CameraInfo", START, cdr(camera_info(START))),
        ("/tf", "tf2_msgs/msg/TFMessage", START, cdr(tf_message(("map", "camera_optical", START, np.eye(4))))),
        ("/camera/image_raw", "sensor_msgs/msg/Image", START, cdr(image(picture(0), START))),
    ]
    (frame,) = open_stream(write_mcap(tmp_path / "a.mcap", messages, "cdr")).frames()
    np.testing.assert_array_equal(frame.image, picture(0))


def test_damaged_messages_cost_themselves(tmp_path: Path) -> None:
    messages = content(3)
    messages[-2][3]["data"] = b""
    messages[-1][3]["timestamp"] = {"sec": 10**400, "nsec": -1}
    stream = open_stream(write_mcap(tmp_path / "a.mcap", messages))
    assert stream.names() == [str(START)]
    assert sum(stream.skipped.values()) == 2


@pytest.mark.parametrize("cut", [30, 200, -20])
def test_files_that_end_early_are_errors(cut: int, tmp_path: Path) -> None:
    whole = write_mcap(tmp_path / "a.mcap", content()).read_bytes()
    (tmp_path / "a.mcap").write_bytes(whole[:cut])
    with raises("stream.unreadable", "a.mcap"):
        open_stream(tmp_path / "a.mcap")
