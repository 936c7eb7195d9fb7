"""Named poses of a camera or a flange, from a stream or from files of poses alone, and between their stamps."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation, Slerp

from feature_gs_ros.core.camera import check_pose
from feature_gs_ros.core.errors import AlignmentError, CameraError
from feature_gs_ros.core.geometry import rotation_from_quat_wxyz
from feature_gs_ros.io.streams.options import BagOptions
from feature_gs_ros.io.streams.registry import Stream, open_stream

Array = NDArray[np.float64]

MIN_STAMP = 1e8  # a numeric name at least as large is a stamp in seconds, or in a smaller unit
_NUMBERED = re.compile(r"(\d+)")


@dataclass(frozen=True, eq=False)
class Poses:
    """Rigid poses of a body in one world frame, in the order of recording."""

    names: tuple[str, ...]
    world_from_body: Array  # [N, 4, 4]
    stamps: Array | None = None  # [N] seconds, ascending or not; None where they are unknown
    source: str = ""

    def __len__(self) -> int:
        return len(self.names)

    @property
    def rotations(self) -> Array:
        """[N, 3, 3]."""
        return self.world_from_body[:, :3, :3]

    @property
    def positions(self) -> Array:
        """[N, 3] in the world's units."""
        return self.world_from_body[:, :3, 3]

    def subset(self, rows: Collection[int]) -> Poses:
        index = np.array(list(rows), dtype=np.int64)
        return Poses(
            tuple(self.names[row] for row in index),
            self.world_from_body[index],
            None if self.stamps is None else self.stamps[index],
            self.source,
        )

    def at(self, stamps: Array) -> tuple[Array, NDArray[np.bool_]]:
        """Interpolated poses [M, 4, 4] at stamps [M], and which of them lie between two of these poses [M]."""
        assert self.stamps is not None
        order = np.argsort(self.stamps, kind="stable")
        known, first = np.unique(self.stamps[order], return_index=True)
        rows = order[first]
        within = (stamps >= known[0]) & (stamps <= known[-1])
        clipped = np.clip(stamps, known[0], known[-1])
        poses = np.tile(np.eye(4), (len(stamps), 1, 1))
        if len(known) == 1:
            poses[:] = self.world_from_body[rows[0]]
            return poses, within
        poses[:, :3, :3] = Slerp(known, Rotation.from_matrix(self.rotations[rows]))(clipped).as_matrix()
        for axis in range(3):
            poses[:, axis, 3] = np.interp(clipped, known, self.positions[rows, axis])
        return poses, within


def poses_of_stream(stream: Stream, names: Collection[str] | None = None) -> Poses:
    """Camera poses of a stream's frames; no image is decoded."""
    frames = list(stream.frames(names))
    stamps = [None if frame.stamp_ns is None else frame.stamp_ns * 1e-9 for frame in frames]
    known = np.array(stamps, dtype=np.float64) if frames and None not in stamps else None
    listed = tuple(frame.name for frame in frames)
    poses = np.stack([np.linalg.inv(frame.camera_from_world) for frame in frames]).astype(np.float64)
    return Poses(listed, poses, stamps_of_names(listed) if known is None else known, stream.source)


def load_poses(path: str | Path, bag: BagOptions | None = None) -> Poses:
    """Poses of a stream, of a folder of ``NAME.npy``, or of a trajectory file of the TUM benchmark.

    Each ``.npy`` holds ``world_from_body`` [4, 4] and is named like its image. A line of a TUM file is ``stamp tx ty
    tz qx qy qz qw``, the stamp in seconds.

    Raises:
        AlignmentError: a file is damaged, or a pose isn't rigid.
        StreamError: it is none of these.
    """
    path = Path(path)
    if path.is_dir() and (files := list(path.glob("*.npy"))):
        return _numpy_poses(path, files)
    if path.is_file() and path.suffix in (".tum", ".txt"):
        return _tum_poses(path)
    return poses_of_stream(open_stream(path, bag=bag))


def stamps_of_names(names: Collection[str]) -> Array | None:
    """Seconds [N] where every name is a time stamp in s, ms, µs or ns, else None."""
    try:
        values = np.array([float(name) for name in names])
    except ValueError:
        return None
    if len(values) == 0 or not np.isfinite(values).all() or values.min() < MIN_STAMP:
        return None
    unit = next((unit for limit, unit in ((1e17, 1e-9), (1e14, 1e-6), (1e11, 1e-3)) if values.min() > limit), 1.0)
    return values * unit


def _numpy_poses(folder: Path, files: list[Path]) -> Poses:
    files = sorted(
        files, key=lambda file: [int(part) if part.isdigit() else part for part in _NUMBERED.split(file.stem)]
    )
    poses = []
    for file in files:
        try:
            poses.append(check_pose(np.load(file, allow_pickle=False), f"'{file}'"))
        except (OSError, ValueError) as cause:
            raise AlignmentError(f"'{file}' is not an array of numbers: {cause}", code="alignment.format") from cause
        except CameraError as cause:
            raise AlignmentError(
                f"{cause}; expected world_from_body [4, 4] in metres", code="alignment.value"
            ) from cause
    names = tuple(file.stem for file in files)
    return Poses(names, np.stack(poses), stamps_of_names(names), str(folder))


def _tum_poses(path: Path) -> Poses:
    try:
        rows = np.loadtxt(path, ndmin=2)
    except (OSError, ValueError) as cause:
        raise AlignmentError(f"can't read '{path}': {cause}", code="alignment.unreadable") from cause
    if rows.size == 0 or rows.shape[1] != 8 or not np.isfinite(rows).all() or not rows[:, 4:].any(axis=1).all():
        raise AlignmentError(
            f"'{path}' is not a trajectory: expected lines of 'stamp tx ty tz qx qy qz qw'", code="alignment.format"
        )
    poses = np.tile(np.eye(4), (len(rows), 1, 1))
    for pose, row in zip(poses, rows, strict=True):
        pose[:3, :3] = rotation_from_quat_wxyz(row[[7, 4, 5, 6]])
        pose[:3, 3] = row[1:4]
    names = tuple(line.split()[0] for line in path.read_text().splitlines() if line.strip() and line.strip()[0] != "#")
    return Poses(names, poses, rows[:, 0], str(path))
