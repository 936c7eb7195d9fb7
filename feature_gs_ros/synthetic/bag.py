"""A rosbag2 recording (MCAP) of posed images: compressed images, camera_info, tf and tf_static."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Final

import cv2
import numpy as np
from rosbags.interfaces import Connection, Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from feature_gs_ros.core.camera import Camera, Image
from feature_gs_ros.core.geometry import quat_wxyz_from_rotation, rotation_from_quat_wxyz
from feature_gs_ros.synthetic.distance import Floats

IMAGE_TOPIC = "/camera/color/image_raw/compressed"
INFO_TOPIC = "/camera/color/camera_info"
OPTICAL_FRAME = "camera_color_optical_frame"
JPEG_QUALITY = 95
BAG_VERSION: Final = 8  # of the metadata: Humble's rosbag2 does not read 9

_UNUSED = QosTime(2147483647, 4294967295)


class BagWriter:
    """Writes one recording; use it as a context manager.

    The tree of frames is map → base_link → camera_link → camera_color_optical_frame, the middle one moving.
    """

    def __init__(self, folder: Path, map_from_base: Floats, camera: Camera) -> None:
        """
        Args:
            folder: does not exist yet.
            map_from_base: [4, 4], where the robot stands.
            camera: its distortion goes into camera_info.
        """
        self._writer = Writer(folder, version=BAG_VERSION, storage_plugin=StoragePlugin.MCAP)
        self._types = get_typestore(Stores.ROS2_HUMBLE)
        self._base_from_map = np.linalg.inv(map_from_base)
        self._camera = camera
        self._map_from_base = map_from_base

    def __enter__(self) -> BagWriter:
        self._writer.open()
        self._images = self._topic(IMAGE_TOPIC, "sensor_msgs/msg/CompressedImage")
        self._infos = self._topic(INFO_TOPIC, "sensor_msgs/msg/CameraInfo")
        self._tf = self._topic("/tf", "tf2_msgs/msg/TFMessage")
        self._tf_static = self._topic("/tf_static", "tf2_msgs/msg/TFMessage", latched=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

    def write_static(self, stamp_ns: int) -> None:
        """Where the robot stands, and the camera's optical axes."""
        transforms = [
            self._transform(stamp_ns, "map", "base_link", self._map_from_base),
            self._transform(stamp_ns, "camera_link", OPTICAL_FRAME, LINK_FROM_OPTICAL),
        ]
        self._write(self._tf_static, stamp_ns, self._types.types["tf2_msgs/msg/TFMessage"](transforms))

    def write_pose(self, stamp_ns: int, camera_from_map: Floats) -> None:
        """One sample of tf: where the camera (optical frame) is in the map, [4, 4]."""
        base_from_link = self._base_from_map @ np.linalg.inv(camera_from_map) @ np.linalg.inv(LINK_FROM_OPTICAL)
        transforms = [self._transform(stamp_ns, "base_link", "camera_link", base_from_link)]
        self._write(self._tf, stamp_ns, self._types.types["tf2_msgs/msg/TFMessage"](transforms))

    def write_image(self, stamp_ns: int, image: Image) -> None:
        """One image [H, W, 3] with its camera_info."""
        types = self._types.types
        _, data = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        header = self._header(stamp_ns, OPTICAL_FRAME)
        message = types["sensor_msgs/msg/CompressedImage"](header, "rgb8; jpeg compressed bgr8", data.reshape(-1))
        self._write(self._images, stamp_ns, message)
        self._write(self._infos, stamp_ns, self._camera_info(header))

    def _camera_info(self, header: Any) -> Any:
        types, camera = self._types.types, self._camera
        k = camera.matrix - np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])  # ROS counts from the pixel's centre
        model = camera.distortion.model if camera.distortion else "plumb_bob"
        return types["sensor_msgs/msg/CameraInfo"](
            header=header,
            height=camera.height,
            width=camera.width,
            distortion_model=model,
            d=np.array(camera.distortion.coefficients if camera.distortion else np.zeros(5)),
            k=k.ravel(),
            r=np.eye(3).ravel(),
            p=np.hstack([k, np.zeros((3, 1))]).ravel(),
            binning_x=0,
            binning_y=0,
            roi=types["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False),
        )

    def _transform(self, stamp_ns: int, parent: str, child: str, parent_from_child: Floats) -> Any:
        types = self._types.types
        w, x, y, z = quat_wxyz_from_rotation(parent_from_child[:3, :3])
        return types["geometry_msgs/msg/TransformStamped"](
            self._header(stamp_ns, parent),
            child,
            types["geometry_msgs/msg/Transform"](
                types["geometry_msgs/msg/Vector3"](*parent_from_child[:3, 3]),
                types["geometry_msgs/msg/Quaternion"](x, y, z, w),
            ),
        )

    def _header(self, stamp_ns: int, frame: str) -> Any:
        types = self._types.types
        stamp = types["builtin_interfaces/msg/Time"](stamp_ns // 1_000_000_000, stamp_ns % 1_000_000_000)
        return types["std_msgs/msg/Header"](stamp, frame)

    def _topic(self, name: str, kind: str, latched: bool = False) -> Connection:
        qos = Qos(
            history=QosHistory.KEEP_LAST,
            depth=1 if latched else 100,
            reliability=QosReliability.RELIABLE,
            durability=QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
            deadline=_UNUSED,
            lifespan=_UNUSED,
            liveliness=QosLiveliness.AUTOMATIC,
            liveliness_lease_duration=_UNUSED,
            avoid_ros_namespace_conventions=False,
        )
        return self._writer.add_connection(name, kind, typestore=self._types, offered_qos_profiles=[qos])

    def _write(self, topic: Connection, stamp_ns: int, message: Any) -> None:
        self._writer.write(topic, stamp_ns, self._types.serialize_cdr(message, topic.msgtype))


def _optical() -> Floats:
    """``link_from_optical`` [4, 4]: a link looks along x with z up, its optical frame along z with y down."""
    pose = np.eye(4)
    pose[:3, :3] = rotation_from_quat_wxyz([0.5, -0.5, 0.5, -0.5])
    return pose


LINK_FROM_OPTICAL = _optical()
