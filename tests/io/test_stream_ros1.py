"""Bags of ROS 1, written by rosbags' own writer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recordings import (
    START,
    STEP,
    base_in_map,
    camera_from_map,
    camera_info,
    image,
    optical_in_base,
    picture,
    tf_message,
)
from rosbags.rosbag1 import Writer
from rosbags.typesys import Stores, get_typestore

from feature_gs_ros.core.errors import StreamError
from feature_gs_ros.io.streams.registry import open_stream
from feature_gs_ros.io.streams.rosbag_file import Bag

TYPES = get_typestore(Stores.ROS2_HUMBLE)  # the same fields in the same order; `cdr_to_ros1` puts them as ROS 1 does


def record(path: Path, compression: str | None = None, *, tf_type: str = "tf2_msgs/msg/TFMessage") -> Path:
    writer = Writer(path)
    if compression:
        writer.set_compression(Writer.CompressionFormat[compression])
    messages = [("/tf_static", tf_message(("base_link", "camera_optical", 0, optical_in_base())), START)]
    for stamp in (START - STEP, START + 5 * STEP):
        messages.append(("/tf", tf_message(("/map", "base_link", stamp, base_in_map(stamp))), START))
    messages.append(("/camera/camera_info", camera_info(START), START))
    for index in range(3):
        stamp = START + index * STEP
        messages.append(("/camera/image_raw", image(picture(index), stamp), stamp))
    with writer:
        connections: dict[str, Any] = {}
        for topic, message, stamp in messages:
            kind = tf_type if topic == "/tf" else message.__msgtype__
            if topic not in connections:
                definition, checksum = TYPES.generate_msgdef(message.__msgtype__, ros_version=1)
                connections[topic] = writer.add_connection(topic, kind, msgdef=definition, md5sum=checksum)
            cdr = TYPES.serialize_cdr(message, message.__msgtype__)
            writer.write(connections[topic], stamp, TYPES.cdr_to_ros1(cdr, message.__msgtype__))
    return path


@pytest.mark.parametrize("compression", [None, "BZ2", "LZ4"])
def test_a_bag_of_ros1_is_a_stream(tmp_path: Path, compression: str | None) -> None:
    frames = list(open_stream(record(tmp_path / "robot.bag", compression)).frames())
    assert [frame.stamp_ns for frame in frames] == [START + index * STEP for index in range(3)]
    for index, frame in enumerate(frames):
        np.testing.assert_array_equal(frame.image, picture(index))
        assert (frame.camera.fx, frame.camera.cx) == (30.0, 16.0)
    assert frames[0].camera_from_world[:3, 3] == pytest.approx(camera_from_map(START)[:3, 3], abs=0.02)


def test_the_first_package_of_tf_is_read_too(tmp_path: Path) -> None:
    assert len(open_stream(record(tmp_path / "old.bag", tf_type="tf/msg/tfMessage")).names()) == 3


def test_its_messages_as_cdr_are_those_of_ros2(tmp_path: Path) -> None:
    humble = get_typestore(Stores.ROS2_HUMBLE)
    images = [
        data for topic, _, data in Bag(record(tmp_path / "robot.bag")).serialised() if topic.name == "/camera/image_raw"
    ]
    message = humble.deserialize_cdr(images[1], "sensor_msgs/msg/Image")
    assert message.header.frame_id == "camera_optical"
    np.testing.assert_array_equal(message.data, picture(1).reshape(-1))


def test_a_bag_cut_off_is_a_stream_error(tmp_path: Path) -> None:
    content = record(tmp_path / "robot.bag").read_bytes()
    for size in (13, 60, 4_100, len(content) // 2, len(content) - 10):
        (tmp_path / "cut.bag").write_bytes(content[:size])
        with pytest.raises(StreamError):
            open_stream(tmp_path / "cut.bag").names()
