"""The tf tree of a recording: transforms by stamp, interpolated edge by edge and composed along the tree."""

from __future__ import annotations

from array import array

import numpy as np
from numpy.typing import NDArray

from feature_gs_ros.core.errors import NoTransformError
from feature_gs_ros.core.geometry import rigid_inverse, rigid_pose, slerp

Matrix = NDArray[np.float64]  # [4, 4]

SAME_POSITION = 1e-6  # metres, within which two transforms of one stamp are the same one sent twice
SAME_TURN = 1e-9  # 1 − |q · q'|: 0.005 degrees


class TfTree:
    """Every frame has one parent, as in tf2; `/tf` wins over `/tf_static` where both name a child.

    A sample takes 66 bytes: an hour of 20 edges at 100 Hz is half a gigabyte.
    """

    def __init__(self) -> None:
        self._static: dict[str, tuple[str, Matrix]] = {}  # child -> parent, parent_from_child
        self._moving: dict[str, _Edge] = {}  # child -> samples
        self._static_conflicts: dict[str, int] = {}
        self._frames: set[str] = set()

    def add_static(self, parent: str, child: str, xyz: NDArray[np.float64], quat_wxyz: NDArray[np.float64]) -> None:
        """A transform that holds at every stamp; the last one of a child counts. xyz [3] metres, quat [4] unit."""
        parent, child = self._note(parent, child)
        pose = rigid_pose(xyz, quat_wxyz)
        before_parent, before = self._static.get(child, (parent, pose))
        if before_parent != parent or np.abs(pose - before).max() > SAME_POSITION:
            self._static_conflicts[child] = self._static_conflicts.get(child, 0) + 1
        self._static[child] = (parent, pose)

    def add_moving(
        self, parent: str, child: str, stamp_ns: int, xyz: NDArray[np.float64], quat_wxyz: NDArray[np.float64]
    ) -> None:
        """A transform at a stamp; of two at the same one the first counts. xyz [3] metres, quat [4] unit."""
        parent, child = self._note(parent, child)
        self._moving.setdefault(child, _Edge(child)).add(parent, stamp_ns, xyz, quat_wxyz)

    def hold_singles(self) -> None:
        """Let transforms of which there is one sample hold at every stamp: for recordings that mark none as static."""
        for child, edge in list(self._moving.items()):
            single = edge.single()
            if single is not None:
                self._static[child] = single
                del self._moving[child]

    def frames(self) -> list[str]:
        """Names of all frames, sorted."""
        return sorted(self._frames)

    def conflicts(self) -> dict[str, int]:
        """How many transforms contradict another one of the same child and stamp (static: of the same child)."""
        moving = {child: edge.conflicts() for child, edge in self._moving.items()}
        every = {child: moving.get(child, 0) + self._static_conflicts.get(child, 0) for child in self._frames}
        return {child: count for child, count in sorted(every.items()) if count}

    def __contains__(self, frame: object) -> bool:
        return isinstance(frame, str) and frame.lstrip("/") in self._frames

    def lookup(self, target: str, source: str, stamp_ns: int) -> Matrix:
        """``target_from_source`` [4, 4] at a stamp.

        Each edge between them is interpolated on its own (straight in translation, slerp in rotation);
        nothing is extrapolated.

        Raises:
            NoTransformError: a frame is unknown, the two aren't connected, or an edge has no samples on both
                sides of the stamp.
        """
        above_target, above_source, common = self._chains(target, source, stamp_ns)
        common_from_target = self._climb(above_target, common, stamp_ns)
        common_from_source = self._climb(above_source, common, stamp_ns)
        target_from_source: Matrix = rigid_inverse(common_from_target) @ common_from_source
        return target_from_source

    def gap(self, target: str, source: str, stamp_ns: int) -> int:
        """The longest time in ns between two samples that `lookup` interpolates from; 0 where it has one at the stamp.

        Raises:
            NoTransformError: as `lookup`.
        """
        above_target, above_source, common = self._chains(target, source, stamp_ns)
        children = above_target[: above_target.index(common)] + above_source[: above_source.index(common)]
        edges = [self._moving[child] for child in children if child in self._moving]
        return max((edge.gap(stamp_ns) for edge in edges), default=0)

    def _chains(self, target: str, source: str, stamp_ns: int) -> tuple[list[str], list[str], str]:
        """The ancestors of both frames, and the first that they share."""
        target, source = target.lstrip("/"), source.lstrip("/")
        for frame in (target, source):
            if frame not in self._frames:
                raise NoTransformError(f"frame '{frame}' is not in tf", code="transform.frame")
        above_target = self._ancestors(target, stamp_ns)
        above_source = self._ancestors(source, stamp_ns)
        common = next((frame for frame in above_source if frame in above_target), None)
        if common is None:
            raise NoTransformError(f"tf doesn't connect '{source}' with '{target}'", code="transform.disconnected")
        return above_target, above_source, common

    def _note(self, parent: str, child: str) -> tuple[str, str]:
        names = parent.lstrip("/"), child.lstrip("/")
        self._frames.update(names)
        return names

    def _ancestors(self, frame: str, stamp_ns: int) -> list[str]:
        """The frame, its parent at the stamp, and so on to the root."""
        chain = [frame]
        while True:
            child = chain[-1]
            if child in self._moving:
                parent = self._moving[child].parent(stamp_ns)
            elif child in self._static:
                parent = self._static[child][0]
            else:
                return chain
            if parent in chain:
                raise NoTransformError(f"tf runs in a circle at '{parent}'", code="transform.circle")
            chain.append(parent)

    def _climb(self, chain: list[str], common: str, stamp_ns: int) -> Matrix:
        """``common_from_first`` of a chain of ancestors."""
        matrix = np.eye(4)
        for child in chain[: chain.index(common)]:
            edge = self._moving.get(child)
            matrix = (self._static[child][1] if edge is None else edge.at(stamp_ns)) @ matrix
        return matrix


class _Edge:
    """Samples of one child's pose in its parent, which may change over time."""

    def __init__(self, child: str) -> None:
        self.child = child
        self._parents: list[str] = []  # names, by the indices below
        self._parent_indices = array("H")
        self._stamps = array("q")
        self._values = array("d")  # 7 per sample: xyz, quat_wxyz
        self._conflicts = 0  # samples at a stamp that has another transform already, as of the last sorting
        self._sorted: tuple[NDArray[np.int64], NDArray[np.uint16], NDArray[np.float64]] | None = None

    def add(self, parent: str, stamp_ns: int, xyz: NDArray[np.float64], quat_wxyz: NDArray[np.float64]) -> None:
        self._sorted = None  # before the arrays grow: it holds views of them
        if parent not in self._parents:
            self._parents.append(parent)
        self._parent_indices.append(self._parents.index(parent))
        self._stamps.append(stamp_ns)
        self._values.extend((*xyz, *quat_wxyz))

    def single(self) -> tuple[str, Matrix] | None:
        """Parent and ``parent_from_child`` [4, 4], where there is one sample."""
        stamps, parents, values = self._samples()
        return (self._parents[int(parents[0])], rigid_pose(values[0, :3], values[0, 3:])) if len(stamps) == 1 else None

    def parent(self, stamp_ns: int) -> str:
        """The parent at a stamp; outside the samples that of the nearest one, so that a chain can be named."""
        stamps, parents, _ = self._samples()
        before = int(np.searchsorted(stamps, stamp_ns, side="right")) - 1
        return self._parents[int(parents[max(before, 0)])]

    def at(self, stamp_ns: int) -> Matrix:
        """``parent_from_child`` [4, 4]; between samples of two different parents the earlier one's, as in tf2."""
        stamps, parents, values = self._samples()
        before = int(np.searchsorted(stamps, stamp_ns, side="right")) - 1
        if before < 0 or (before + 1 == len(stamps) and stamps[before] != stamp_ns):
            raise NoTransformError(f"no tf of '{self.child}' at its stamp", code="transform.stamp")
        here = values[before]
        if stamps[before] == stamp_ns or parents[before + 1] != parents[before]:
            return rigid_pose(here[:3], here[3:])
        after = values[before + 1]
        fraction = (stamp_ns - int(stamps[before])) / (int(stamps[before + 1]) - int(stamps[before]))
        return rigid_pose((1 - fraction) * here[:3] + fraction * after[:3], slerp(here[3:], after[3:], fraction))

    def conflicts(self) -> int:
        """How many samples contradict an earlier one of the same stamp."""
        self._samples()
        return self._conflicts

    def gap(self, stamp_ns: int) -> int:
        """Time in ns between the samples around a stamp; 0 at a sample and outside of all."""
        stamps, _, _ = self._samples()
        after = int(np.searchsorted(stamps, stamp_ns, side="left"))
        if after in (0, len(stamps)) or stamps[after] == stamp_ns:
            return 0
        return int(stamps[after]) - int(stamps[after - 1])

    def _samples(self) -> tuple[NDArray[np.int64], NDArray[np.uint16], NDArray[np.float64]]:
        """Stamps [S] ascending and unique, parents [S], values [S, 7]."""
        if self._sorted is None:
            stamps = np.frombuffer(self._stamps, dtype=np.int64)
            parents = np.frombuffer(self._parent_indices, dtype=np.uint16)
            values = np.frombuffer(self._values, dtype=np.float64).reshape(-1, 7)
            if (np.diff(stamps) <= 0).any():
                unique, first, index_of = np.unique(stamps, return_index=True, return_inverse=True)
                differs = (parents != parents[first][index_of]) | _differ(values, values[first][index_of])
                self._conflicts = int(differs.sum())
                stamps, parents, values = unique, parents[first], values[first]
            self._sorted = stamps, parents, values
        return self._sorted


def _differ(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether poses xyz, quat_wxyz [S, 7] differ by more than rounding in a message, [S]; q and −q are one rotation."""
    turned = 1 - np.abs((a[:, 3:] * b[:, 3:]).sum(axis=1))
    far: NDArray[np.bool_] = (np.abs(a[:, :3] - b[:, :3]).max(axis=1) > SAME_POSITION) | (turned > SAME_TURN)
    return far
