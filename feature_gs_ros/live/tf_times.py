"""When each transform of tf came: gaps across which nothing should be interpolated, static ones that changed."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

MEMORY_NS = 10_000_000_000  # as tf2's own buffer
USUAL_OF = 5  # samples from which on a transform has a usual period
PERIODS = 3.0  # usual ones that are no gap, however long they are
STATIC_TOLERANCE = 1e-6  # m, and of a quaternion's components


class TfTimes:
    """Stamps of the moving transforms by their child frame, and what the static ones say; for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._parents: dict[str, str] = {}
        self._stamps: dict[str, list[int]] = {}  # ns, ascending
        self._static: dict[str, NDArray[np.float64]] = {}

    def add(self, parent: str, child: str, stamp_ns: int) -> None:
        """A moving transform came."""
        with self._lock:
            self._parents[child] = parent
            stamps = self._stamps.setdefault(child, [])
            at = bisect_left(stamps, stamp_ns)
            if at == len(stamps) or stamps[at] != stamp_ns:
                stamps.insert(at, stamp_ns)
            del stamps[: bisect_left(stamps, stamps[-1] - MEMORY_NS)]

    def add_static(self, parent: str, child: str, values: NDArray[np.float64]) -> bool:
        """A static transform came, ``values`` [7] of translation and quaternion; whether it said something else before.

        A quaternion and its negative are the same rotation.
        """
        with self._lock:
            before, self._static[child] = self._static.get(child), values
            changed_parent = self._parents.get(child, parent) != parent
            self._parents[child] = parent
            self._stamps.pop(child, None)
        if before is None:
            return changed_parent
        turned = np.concatenate([values[:3], -values[3:]])
        same = any(np.allclose(before, other, rtol=0, atol=STATIC_TOLERANCE) for other in (values, turned))
        return changed_parent or not same

    def clear(self) -> None:
        """Forget what moved: after a time jump."""
        with self._lock:
            for child in self._stamps:
                self._parents.pop(child, None)
            self._stamps.clear()

    def gap(self, target: str, source: str, stamp_ns: int, max_gap: float) -> str | None:
        """The child frame of a transform between two frames that was silent around a stamp; None where none was.

        Args:
            target: frame.
            source: frame.
            stamp_ns: at which a transform is interpolated.
            max_gap: s between the samples before and after; of a transform that is usually slower, three periods.
        """
        with self._lock:
            one, other = list(self._up(target)), list(self._up(source))
            for child in set(one) ^ set(other):  # what both share lies above where they meet
                stamps = self._stamps.get(child, [])
                at = bisect_left(stamps, stamp_ns)
                if not 0 < at < len(stamps) or stamps[at] == stamp_ns:
                    continue
                usual = float(np.median(np.diff(stamps))) if len(stamps) >= USUAL_OF else 0.0
                if stamps[at] - stamps[at - 1] > max(1e9 * max_gap, PERIODS * usual):
                    return child
        return None

    def _up(self, frame: str) -> Iterator[str]:
        """The frame and those above it, without the root."""
        seen: set[str] = set()
        while frame in self._parents and frame not in seen:
            seen.add(frame)
            yield frame
            frame = self._parents[frame]
