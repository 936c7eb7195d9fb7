"""Foxglove's schemas, in JSON or protobuf, as the ROS messages that say the same.

https://docs.foxglove.dev/docs/sdk/schemas; the protobuf fields' numbers are part of the schemas and stay.
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rosbags.typesys.store import Typestore

from feature_gs_ros.core.errors import StreamError
from feature_gs_ros.io.structured import Table, parse_json

IMAGE, COMPRESSED_IMAGE = "foxglove.RawImage", "foxglove.CompressedImage"
CALIBRATION = "foxglove.CameraCalibration"
TRANSFORM, TRANSFORMS = "foxglove.FrameTransform", "foxglove.FrameTransforms"
ROS_TYPES = {
    IMAGE: "sensor_msgs/msg/Image",
    COMPRESSED_IMAGE: "sensor_msgs/msg/CompressedImage",
    CALIBRATION: "sensor_msgs/msg/CameraInfo",
    TRANSFORM: "tf2_msgs/msg/TFMessage",
    TRANSFORMS: "tf2_msgs/msg/TFMessage",
}
_TIME, _POINT = {1: "sec", 2: "nsec"}, {1: "x", 2: "y", 3: "z", 4: "w"}
_EDGE = {1: "timestamp", 2: "parent_frame_id", 3: "child_frame_id", 4: "translation", 5: "rotation"}
_FIELDS: dict[str, dict[int, str]] = {  # by number
    IMAGE: {1: "timestamp", 2: "width", 3: "height", 4: "encoding", 5: "step", 6: "data", 7: "frame_id"},
    COMPRESSED_IMAGE: {1: "timestamp", 2: "data", 3: "format", 4: "frame_id"},
    CALIBRATION: {
        1: "timestamp", 2: "width", 3: "height", 4: "distortion_model", 5: "D", 6: "K", 7: "R", 8: "P", 9: "frame_id",
    },
    TRANSFORM: _EDGE,
    TRANSFORMS: {1: "transforms"},
}  # fmt: skip
_NESTED = {"timestamp": _TIME, "translation": _POINT, "rotation": _POINT, "transforms": _EDGE}
_TEXTS = ("encoding", "frame_id", "format", "distortion_model", "parent_frame_id", "child_frame_id")
_VECTORS = ("D", "K", "R", "P")
_SOURCE = "a message"


def ros_message(schema: str, encoding: str, data: bytes, store: Typestore) -> Any:
    """A message of one of `ROS_TYPES` as ROS's.

    Raises:
        StreamError, ValueError: it is damaged, or of another encoding.
    """
    if encoding == "json":
        content: object = parse_json(data, _SOURCE, StreamError)
    elif encoding == "protobuf":
        content = _protobuf(data, _FIELDS[schema])
    else:
        raise ValueError(f"messages are encoded as {encoding}")
    return _MAKERS[schema](Table(content, _SOURCE, StreamError), store)


def _image(content: Table, store: Typestore) -> Any:
    return store.types["sensor_msgs/msg/Image"](
        header=_header(content, store),
        height=content.whole("height", 0, least=0),
        width=content.whole("width", 0, least=0),
        encoding=content.text("encoding"),
        is_bigendian=0,
        step=content.whole("step", 0, least=0),
        data=_bytes(content),
    )


def _compressed_image(content: Table, store: Typestore) -> Any:
    return store.types["sensor_msgs/msg/CompressedImage"](
        header=_header(content, store), format=content.text("format"), data=_bytes(content)
    )


def _camera_info(content: Table, store: Typestore) -> Any:
    region = store.types["sensor_msgs/msg/RegionOfInterest"](
        x_offset=0, y_offset=0, height=0, width=0, do_rectify=False
    )
    k, r, p = _vector(content, "K", 9), _vector(content, "R", 9), _vector(content, "P", 12)
    if not p.any():  # Foxglove leaves it out where the image isn't turned
        p = np.column_stack([k.reshape(3, 3), np.zeros(3)]).reshape(-1)
    return store.types["sensor_msgs/msg/CameraInfo"](
        header=_header(content, store),
        height=content.whole("height", 0, least=0),
        width=content.whole("width", 0, least=0),
        distortion_model=content.text("distortion_model", ""),
        d=_vector(content, "D"),
        k=k,
        r=r if r.any() else np.eye(3).reshape(-1),
        p=p,
        binning_x=0,
        binning_y=0,
        roi=region,
    )


def _transforms(content: Table, store: Typestore) -> Any:
    return store.types["tf2_msgs/msg/TFMessage"](
        transforms=[_edge(entry, store) for entry in (content.tables("transforms") if "transforms" in content else [])]
    )


def _transform(content: Table, store: Typestore) -> Any:
    return store.types["tf2_msgs/msg/TFMessage"](transforms=[_edge(content, store)])


def _edge(content: Table, store: Typestore) -> Any:
    shift, turn = content.get("translation") or {}, content.get("rotation") or {}
    translation, rotation = Table(shift, _SOURCE, StreamError), Table(turn, _SOURCE, StreamError)
    return store.types["geometry_msgs/msg/TransformStamped"](
        header=_header(content, store, "parent_frame_id"),
        child_frame_id=content.text("child_frame_id"),
        transform=store.types["geometry_msgs/msg/Transform"](
            translation=store.types["geometry_msgs/msg/Vector3"](
                **{axis: translation.number(axis, 0.0) for axis in ("x", "y", "z")}
            ),
            rotation=store.types["geometry_msgs/msg/Quaternion"](
                **{axis: rotation.number(axis, 0.0) for axis in ("x", "y", "z", "w")}
            ),
        ),
    )


def _header(content: Table, store: Typestore, frame: str = "frame_id") -> Any:
    time = Table(content.get("timestamp") or {}, _SOURCE, StreamError)
    stamp = store.types["builtin_interfaces/msg/Time"](
        sec=time.whole("sec", 0, least=-(2**31), most=2**31 - 1), nanosec=time.whole("nsec", 0, least=0, most=10**9 - 1)
    )
    return store.types["std_msgs/msg/Header"](stamp=stamp, frame_id=content.text(frame, ""))


def _vector(content: Table, key: str, count: int | None = None) -> NDArray[np.float64]:
    """Numbers under a key; zeros where a fixed number of them is missing, as proto3 leaves out what is empty."""
    values = content.numbers(key) if key in content else ()
    if count is not None and len(values) not in (0, count):
        raise ValueError(f"'{key}' holds {len(values)} numbers, expected {count}")
    return np.array(values or (0.0,) * (count or 0), dtype=np.float64)


def _bytes(content: Table) -> NDArray[np.uint8]:
    data = content.get("data")
    if isinstance(data, str):
        try:
            data = base64.b64decode(data, validate=True)
        except binascii.Error as error:
            raise ValueError(f"'data' is no base64: {error}") from error
    if not isinstance(data, bytes):
        raise ValueError("it has no 'data'")
    return np.frombuffer(data, np.uint8)


def _protobuf(data: bytes, fields: dict[int, str]) -> dict[str, object]:
    """The known fields of a message by name: nested messages as tables, repeated ones and packed doubles as lists."""
    content: dict[str, object] = {}
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        name, kind = fields.get(key >> 3, ""), key & 7
        value: object
        if kind == 0:
            value, at = _varint(data, at)
            value = value - (1 << 64) if value >= 1 << 63 else value
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
            value, at = struct.unpack_from("<d" if kind == 1 else "<I", data, at)[0], at + size
        elif kind == 2:
            length, at = _varint(data, at)
            value, at = _field(name, data[at : at + length], length), at + length
        else:
            raise ValueError(f"wire type {kind} of protobuf is unknown")
        if name == "transforms":
            value = [*_listed(content.get(name)), value]
        elif name in _VECTORS:
            value = [*_listed(content.get(name)), *(value if isinstance(value, list) else [value])]
        content[name] = value
    content.pop("", None)
    return content


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _field(name: str, part: bytes, length: int) -> object:
    if len(part) < length:
        raise ValueError("a field reaches beyond its message")
    if name in _NESTED:
        return _protobuf(part, _NESTED[name])
    if name in _VECTORS:
        return list(struct.unpack(f"<{length // 8}d", part[: length // 8 * 8]))
    return part.decode() if name in _TEXTS else part


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError("a number of protobuf has no end")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


_MAKERS: dict[str, Callable[[Table, Typestore], Any]] = {
    IMAGE: _image,
    COMPRESSED_IMAGE: _compressed_image,
    CALIBRATION: _camera_info,
    TRANSFORM: _transform,
    TRANSFORMS: _transforms,
}
