"""Ids that stay with an object over answers, and the covariance of its Gaussians."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.core.geometry import Sim3

MIN_OVERLAP = 0.3  # intersection over union of two sets of Gaussians that are one object: masks grow with the field
REMEMBERED = 300  # objects; of more, those that weren't found for longest are forgotten

Rows = NDArray[np.int64]


@dataclass
class _Known:
    rows: Rows  # ascending
    label: str


class ObjectIds:
    """Gives each set of Gaussians the id of the known set that it overlaps most, or a new one; for several threads."""

    def __init__(self, of_any_label: bool = True) -> None:
        """
        Args:
            of_any_label: an object keeps its id when it is found by another word; else words are kept apart.
        """
        self._of_any_label = of_any_label
        self._lock = threading.Lock()
        self._known: dict[int, _Known] = {}  # by id; the last found last
        self._next = 1

    def match(self, found: Sequence[Rows], labels: Sequence[str]) -> list[str]:
        """The ids of what one answer found, all different.

        Args:
            found: rows of the map, of each object.
            labels: what each is called.
        """
        with self._lock:
            rows = [np.unique(members) for members in found]
            pairs = [
                (overlap, index, number)
                for index, members in enumerate(rows)
                for number, known in self._known.items()
                if self._of_any_label or known.label == labels[index]
                if (overlap := _overlap(members, known.rows)) >= MIN_OVERLAP
            ]
            ids: dict[int, int] = {}
            for _, index, number in sorted(pairs, key=lambda pair: (-pair[0], pair[2])):
                if index not in ids and number not in ids.values():
                    ids[index] = number
            for index, members in enumerate(rows):
                if index not in ids:
                    ids[index], self._next = self._next, self._next + 1
                self._known.pop(ids[index], None)
                self._known[ids[index]] = _Known(members, labels[index])
            while len(self._known) > REMEMBERED:
                del self._known[next(iter(self._known))]
            return [str(ids[index]) for index in range(len(rows))]


def position_covariance(gaussians: GaussianMap, rows: Rows, map_from_splat: Sim3) -> NDArray[np.float64]:
    """Covariance [3, 3] in m² of some Gaussians' centres in the map frame, weighted by opacity."""
    points = map_from_splat.apply(gaussians.means[rows].double().numpy())
    weights = gaussians.opacities[rows].double().numpy()
    apart = points - np.average(points, axis=0, weights=weights)
    covariance: NDArray[np.float64] = (apart * weights[:, None]).T @ apart / weights.sum()
    return covariance


def _overlap(one: Rows, other: Rows) -> float:
    """Intersection over union of ascending rows."""
    if one[-1] < other[0] or other[-1] < one[0] or min(len(one), len(other)) < MIN_OVERLAP * max(len(one), len(other)):
        return 0.0
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / (len(one) + len(other) - shared)
