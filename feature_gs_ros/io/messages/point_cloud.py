"""Gaussians → the fields and bytes of a sensor_msgs/PointCloud2; no ROS import."""

from __future__ import annotations

import array
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from feature_gs_ros.core.gaussians import SH_C0, GaussianMap
from feature_gs_ros.core.geometry import Sim3
from feature_gs_ros.numerics.runtime import kernel, parallel_for

# All FLOAT32, in the frame's metres and linear: not the PLY names, which mean logarithms and logits.
FIELDS = (
    *("x", "y", "z", "rgb", "opacity"),
    *("scale_x", "scale_y", "scale_z"),
    *("rot_x", "rot_y", "rot_z", "rot_w"),
    "similarity",
)
FIELD_BYTES = 4
BLOCK = 65536  # points that a thread takes at a time

NOTHING = np.zeros(0, np.float32)


@dataclass(frozen=True, eq=False)
class CloudBytes:
    """A cloud of one row: its fields, one after the other in each point, and its bytes in the machine's order."""

    fields: tuple[str, ...]
    width: int  # points
    data: array.array[int]  # of typecode B: what rclpy's messages take without a copy

    @property
    def point_step(self) -> int:
        return FIELD_BYTES * len(self.fields)


def gaussian_cloud(
    gaussians: GaussianMap,
    frame_from_splat: Sim3,
    similarity: Tensor | None = None,  # [N], 0 everywhere by default
    rows: Tensor | None = None,  # [M] int64 rows of the map, all by default
    extra: Mapping[str, Tensor] | None = None,  # further fields [N], e.g. a label
) -> CloudBytes:
    """The Gaussians in a frame, with fields `FIELDS` and the extra ones.

    ``rgb`` is the colour without view dependence, packed as 0x00RRGGBB like PCL's; scales are standard deviations.
    """
    chosen = np.arange(len(gaussians)) if rows is None else np.ascontiguousarray(rows.numpy(), dtype=np.int64)
    fields = (*FIELDS, *(extra or {}))
    similar = NOTHING if similarity is None else similarity.numpy()
    columns = [values.numpy() for values in (extra or {}).values()]
    arrays = [t.numpy() for t in (gaussians.means, gaussians.quats_wxyz, gaussians.scales, gaussians.opacities)]
    base = gaussians.sh.numpy()[:, 0]
    turn = np.concatenate([frame_from_splat.quat_wxyz, frame_from_splat.scale * frame_from_splat.rotation.ravel()])
    placing = (turn, frame_from_splat.translation, frame_from_splat.scale)
    # The time goes into the array's fresh pages. Zeros without pages of their own are the cheapest to fill it with.
    data = array.array("B")
    data.frombytes(np.zeros(FIELD_BYTES * len(fields) * len(chosen), np.uint8).data)
    if len(chosen):
        points = np.frombuffer(data, np.float32).reshape(len(chosen), len(fields))
        packed = points.view(np.uint32)

        def write(start: int, stop: int) -> None:
            part = slice(start, stop)
            _write(points[part], packed[part], chosen[part], *placing, *arrays, base, similar)
            for column, values in enumerate(columns, start=len(FIELDS)):
                points[part, column] = values[chosen[part]]

        parallel_for(len(chosen), BLOCK, write)
    return CloudBytes(fields, len(chosen), data)


@kernel
def _write(points, packed, rows, turn, move, scale, means, quats, scales, opacities, base, similar):  # type: ignore[no-untyped-def]
    """Points [M, fields], and the same bytes as uint32; ``turn`` is a quaternion, then scale × rotation by rows."""
    for k in range(len(rows)):
        i = rows[k]
        x, y, z = means[i, 0], means[i, 1], means[i, 2]
        points[k, 0] = turn[4] * x + turn[5] * y + turn[6] * z + move[0]
        points[k, 1] = turn[7] * x + turn[8] * y + turn[9] * z + move[1]
        points[k, 2] = turn[10] * x + turn[11] * y + turn[12] * z + move[2]
        rgb = 0
        for c in range(3):
            level = min(max(SH_C0 * base[i, c] + 0.5, 0.0), 1.0)
            rgb = rgb * 256 + int(level * 255.0 + 0.5)
        packed[k, 3] = rgb
        points[k, 4] = opacities[i]
        for c in range(3):
            points[k, 5 + c] = scale * scales[i, c]
        aw, ax, ay, az = turn[0], turn[1], turn[2], turn[3]
        bw, bx, by, bz = quats[i, 0], quats[i, 1], quats[i, 2], quats[i, 3]
        points[k, 8] = aw * bx + ax * bw + ay * bz - az * by
        points[k, 9] = aw * by - ax * bz + ay * bw + az * bx
        points[k, 10] = aw * bz + ax * by - ay * bx + az * bw
        points[k, 11] = aw * bw - ax * bx - ay * by - az * bz
        points[k, 12] = similar[i] if len(similar) > 0 else 0.0
