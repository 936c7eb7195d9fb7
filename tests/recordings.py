"""Writes small rosbag2 recordings of the kind that robots make, for the tests of streams."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from scipy.spatial.transform import Rotation

STORE = get_typestore(Stores.ROS2_HUMBLE)
START = 1_700_000_000_000_000_000
STEP = 100_000_000  # nanoseconds between images
WIDTH, HEIGHT = 32, 24
K = (30.0, 0, 15.5, 0, 31.0, 11.5, 0, 0, 1)  # corner-based centre (16, 12)


class Recorder:
    """A bag being written; leaves a folder behind."""

    def __init__(self, folder: Path, storage: str = "mcap", compression: str = "none") -> None:
        self.folder = folder
        self._writer = Writer(folder, version=8, storage_plugin=StoragePlugin[storage.upper()])
        if compression != "none":
            self._writer.set_compression(CompressionMode[compression.upper()], CompressionFormat.ZSTD)
        self._writer.open()
        self._connections: dict[str, Any] = {}

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def write(self, topic: str, message: Any, stamp: int) -> None:
        self.write_bytes(topic, message.__msgtype__, STORE.serialize_cdr(message, message.__msgtype__), stamp)

    def write_bytes(self, topic: str, msgtype: str, data: bytes | memoryview, stamp: int) -> None:
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(topic, msgtype, typestore=STORE)
        self._writer.write(self._connections[topic], stamp, data)


def new(name: str, **fields: Any) -> Any:
    return STORE.types[name](**fields)


def header(stamp: int, frame_id: str = "camera_optical") -> Any:
    time = new("builtin_interfaces/msg/Time", sec=stamp // 10**9, nanosec=stamp % 10**9)
    return new("std_msgs/msg/Header", stamp=time, frame_id=frame_id)


def picture(index: int) -> NDArray[np.uint8]:
    """A different image [HEIGHT, WIDTH, 3] for each index."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.stack([columns * 8, rows * 10, np.full_like(rows, (index * 37) % 256)], axis=-1).astype(np.uint8)


def image(rgb: NDArray[np.uint8], stamp: int, frame_id: str = "camera_optical", encoding: str = "rgb8") -> Any:
    rows = rgb.reshape(rgb.shape[0], -1)
    return new(
        "sensor_msgs/msg/Image",
        header=header(stamp, frame_id),
        height=rgb.shape[0],
        width=rgb.shape[1],
        encoding=encoding,
        is_bigendian=0,
        step=rows.view(np.uint8).shape[1],
        data=np.ascontiguousarray(rows).view(np.uint8).reshape(-1),
    )


def compressed(rgb: NDArray[np.uint8], stamp: int, frame_id: str = "camera_optical", suffix: str = ".png") -> Any:
    data = np.asarray(cv2.imencode(suffix, rgb[:, :, ::-1])[1], dtype=np.uint8)
    return new("sensor_msgs/msg/CompressedImage", header=header(stamp, frame_id), format=suffix[1:], data=data)


def camera_info(stamp: int, frame_id: str = "camera_optical", **values: Any) -> Any:
    fields: dict[str, Any] = {
        "height": HEIGHT,
        "width": WIDTH,
        "distortion_model": "plumb_bob",
        "d": np.zeros(5),
        "k": np.array(K, dtype=np.float64),
        "r": np.eye(3).reshape(-1),
        "p": np.array([25.0, 0, 14.5, 0, 0, 26.0, 10.5, 0, 0, 0, 1, 0]),
        "binning_x": 0,
        "binning_y": 0,
        **values,
    }
    roi = new("sensor_msgs/msg/RegionOfInterest", x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
    return new("sensor_msgs/msg/CameraInfo", header=header(stamp, frame_id), roi=roi, **fields)


def tf_message(*edges: tuple[str, str, int, NDArray[np.float64]]) -> Any:
    """Of (parent, child, stamp, parent_from_child [4, 4])."""
    transforms = []
    for parent, child, stamp, matrix in edges:
        x, y, z, w = Rotation.from_matrix(matrix[:3, :3]).as_quat()
        tx, ty, tz = matrix[:3, 3]
        transform = new(
            "geometry_msgs/msg/Transform",
            translation=new("geometry_msgs/msg/Vector3", x=float(tx), y=float(ty), z=float(tz)),
            rotation=new("geometry_msgs/msg/Quaternion", x=float(x), y=float(y), z=float(z), w=float(w)),
        )
        transforms.append(
            new(
                "geometry_msgs/msg/TransformStamped",
                header=header(stamp, parent),
                child_frame_id=child,
                transform=transform,
            )
        )
    return new("tf2_msgs/msg/TFMessage", transforms=transforms)


def base_in_map(stamp: int) -> NDArray[np.float64]:
    """A base that drives along x at 1 m/s and turns at 0.4 rad/s: exact under lerp and slerp."""
    seconds = (stamp - START) / 1e9
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec([0, 0, 0.4 * seconds]).as_matrix()
    matrix[:3, 3] = [seconds, 2.0, 0.0]
    return matrix


def optical_in_base() -> NDArray[np.float64]:
    """A camera 1 m up that looks along the base's x axis."""
    matrix = np.eye(4)
    matrix[:3, :3] = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]
    matrix[:3, 3] = [0.2, 0.0, 1.0]
    return matrix


def camera_from_map(stamp: int) -> NDArray[np.float64]:
    return np.linalg.inv(base_in_map(stamp) @ optical_in_base())


def write_tf(recorder: Recorder, first: int = START - STEP, last: int = START + 10 * STEP) -> None:
    """The static edge, and the moving one every 30 ms, off the images' stamps."""
    recorder.write("/tf_static", tf_message(("base_link", "camera_optical", 0, optical_in_base())), START)
    for stamp in range(first - 1_234, last + 30_000_000, 30_000_000):
        recorder.write("/tf", tf_message(("map", "base_link", stamp, base_in_map(stamp))), max(stamp, START))


def record(
    folder: Path, storage: str = "mcap", count: int = 5, topics: Sequence[str] = ("/camera/image_raw",), **kind: str
) -> list[int]:
    """A plain bag: tf, and for each image topic a camera_info beside it and images; returns the stamps."""
    stamps = [START + index * STEP for index in range(count)]
    with Recorder(folder, storage, **kind) as recorder:
        write_tf(recorder)
        for topic in topics:
            recorder.write(f"{topic.rpartition('/')[0]}/camera_info", camera_info(START), START)
        for index, stamp in enumerate(stamps):
            for topic in topics:
                recorder.write(topic, image(picture(index), stamp), stamp)
    return stamps
