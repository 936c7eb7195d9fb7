"""Writes MCAP with Foxglove's schemas, in JSON and protobuf, byte by byte from their descriptions."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import lz4.frame
import numpy as np
from scipy.spatial.transform import Rotation

from tests.recordings import HEIGHT, START, STEP, WIDTH, K, base_in_map, compressed, optical_in_base, picture

Message = tuple[str, str, int, dict[str, Any]]  # topic, schema, stamp, fields


def edge(parent: str, child: str, stamp: int, matrix: np.ndarray) -> dict[str, Any]:
    x, y, z, w = map(float, Rotation.from_matrix(matrix[:3, :3]).as_quat())
    return {
        "timestamp": time(stamp), "parent_frame_id": parent, "child_frame_id": child,
        "translation": dict(zip("xyz", map(float, matrix[:3, 3]), strict=True)),
        "rotation": {"x": x, "y": y, "z": z, "w": w},
    }  # fmt: skip


def time(stamp: int) -> dict[str, int]:
    return {"sec": stamp // 10**9, "nsec": stamp % 10**9}


def content(count: int = 3) -> list[Message]:
    """A camera on a base that drives; its place on the base is published once."""
    messages: list[Message] = [
        ("/camera/camera_info", "foxglove.CameraCalibration", START, {
            "timestamp": time(START), "width": WIDTH, "height": HEIGHT, "distortion_model": "plumb_bob",
            "D": [0.0] * 5, "K": list(K), "R": [], "P": [], "frame_id": "camera_optical",
        }),
        ("/tf", "foxglove.FrameTransform", START, edge("base_link", "camera_optical", START, optical_in_base())),
    ]  # fmt: skip
    for index in range(-1, count + 1):
        stamp = START + index * STEP
        moving = {"transforms": [edge("map", "base_link", stamp, base_in_map(stamp))]}
        messages.append(("/tfs", "foxglove.FrameTransforms", stamp, moving))
    for index in range(count):
        stamp = START + index * STEP
        data = bytes(compressed(picture(index), stamp).data)
        fields = {"timestamp": time(stamp), "frame_id": "camera_optical", "data": data, "format": "png"}
        messages.append(("/camera/image_rect_compressed", "foxglove.CompressedImage", stamp, fields))
    return messages


NUMBERS = {
    "foxglove.CameraCalibration": "timestamp width height distortion_model D K R P frame_id",
    "foxglove.FrameTransform": "timestamp parent_frame_id child_frame_id translation rotation",
    "foxglove.FrameTransforms": "transforms",
    "foxglove.CompressedImage": "timestamp data format frame_id",
    "foxglove.RawImage": "timestamp width height encoding step data frame_id",
}


def protobuf(fields: dict[str, Any], names: list[str]) -> bytes:
    """Fields in the order of their numbers, as proto3 writes them."""
    parts = []
    for number, name in enumerate(names, start=1):
        value = fields.get(name)
        if not value and not isinstance(value, dict):
            continue
        if name in ("width", "height", "step"):
            parts.append(varint(number << 3 | 5) + struct.pack("<I", value))
        elif name in ("sec", "nsec"):
            parts.append(varint(number << 3) + varint(value))
        elif isinstance(value, float):
            parts.append(varint(number << 3 | 1) + struct.pack("<d", value))
        else:
            for one in value if name == "transforms" else [value]:
                inner = nested(name, one)
                parts.append(varint(number << 3 | 2) + varint(len(inner)) + inner)
    return b"".join(parts)


def nested(name: str, value: Any) -> bytes:
    if name == "timestamp":
        return protobuf(value, ["sec", "nsec"])
    if name in ("translation", "rotation"):
        return protobuf(value, ["x", "y", "z", "w"])
    if name == "transforms":
        return protobuf(value, NUMBERS["foxglove.FrameTransform"].split())
    if isinstance(value, list):
        return struct.pack(f"<{len(value)}d", *value)
    return value.encode() if isinstance(value, str) else value


def varint(value: int) -> bytes:
    data = b""
    while value >= 0x80:
        data += bytes([value & 0x7F | 0x80])
        value >>= 7
    return data + bytes([value])


def encoded(schema: str, fields: dict[str, Any], encoding: str) -> bytes:
    if encoding == "protobuf":
        return protobuf(fields, NUMBERS[schema].split())
    texts = {
        key: base64.b64encode(value).decode() if isinstance(value, bytes) else value for key, value in fields.items()
    }
    return json.dumps(texts).encode()


def record(kind: int, body: bytes) -> bytes:
    return bytes([kind]) + struct.pack("<Q", len(body)) + body


def text(value: str) -> bytes:
    return struct.pack("<I", len(value)) + value.encode()


def write_mcap(
    path: Path, messages: list[Message], encoding: str = "json", compression: str = "", profile: str = ""
) -> Path:
    records, channels = [], {}
    for topic, schema, stamp, fields in messages:
        if topic not in channels:
            channels[topic] = len(channels) + 1
            number = struct.pack("<H", channels[topic])
            records.append(record(3, number + text(schema) + text("jsonschema") + text("{}")))
            records.append(record(4, number + number + text(topic) + text(encoding) + struct.pack("<I", 0)))
        data = fields["cdr"] if encoding == "cdr" else encoded(schema, fields, encoding)
        records.append(record(5, struct.pack("<HIQQ", channels[topic], 0, stamp, stamp) + data))
    body = b"".join(records)
    packed = lz4.frame.compress(body) if compression == "lz4" else body
    chunk = struct.pack("<QQQI", START, START, len(body), zlib.crc32(body)) + text(compression)
    chunk += struct.pack("<Q", len(packed)) + packed
    magic = b"\x89MCAP0\r\n"
    end = record(15, struct.pack("<I", 0)) + record(2, struct.pack("<QQI", 0, 0, 0)) + magic
    path.write_bytes(magic + record(1, text(profile) + text("test")) + record(6, chunk) + end)
    return path
