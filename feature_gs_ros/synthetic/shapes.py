"""Four shapes from which the props are built: sphere, rounded box, solid of revolution, bent tube.

Lengths in metres. Each knows its bounds and packs itself for the kernels in `distance`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike

from feature_gs_ros.synthetic.distance import BOX, LATHE, MAX_POINTS, SPHERE, TUBE, Floats


class PackedShape(NamedTuple):
    """A shape as the kernels read it: see `distance.SOLID`."""

    kind: int
    numbers: Floats  # [6]
    points: Floats  # [M, 4], M up to MAX_POINTS


class Shape(Protocol):
    """A solid around its own origin."""

    def bounds(self) -> tuple[Floats, Floats]:
        """Low and high corner [3] of a box that holds the shape."""
        ...

    def pack(self) -> PackedShape: ...


@dataclass(frozen=True)
class Sphere:
    radius: float

    def bounds(self) -> tuple[Floats, Floats]:
        return np.full(3, -self.radius), np.full(3, self.radius)

    def pack(self) -> PackedShape:
        return PackedShape(SPHERE, _numbers(self.radius), _NO_POINTS)


@dataclass(frozen=True)
class Box:
    """Half extents along x, y, z; the edges are rounded within them."""

    half_extents: tuple[float, float, float]
    rounding: float = 0.0

    def bounds(self) -> tuple[Floats, Floats]:
        return -np.array(self.half_extents), np.array(self.half_extents)

    def pack(self) -> PackedShape:
        return PackedShape(BOX, _numbers(*self.half_extents, self.rounding), _NO_POINTS)


@dataclass(frozen=True, eq=False)
class Lathe:
    """Solid of revolution about z: ``profile`` [M, 2] is a closed polygon of (radius ≥ 0, z).

    ``flutes`` grooves of ``flute_depth`` run along z over the range ``fluted``.
    """

    profile: Floats  # [M, 2]
    flutes: int = 0
    flute_depth: float = 0.0
    fluted: tuple[float, float] = (0.0, 0.0)

    def bounds(self) -> tuple[Floats, Floats]:
        radius, low, high = self.profile[:, 0].max(), self.profile[:, 1].min(), self.profile[:, 1].max()
        return np.array([-radius, -radius, low]), np.array([radius, radius, high])

    def pack(self) -> PackedShape:
        slope = 0.0
        if self.flute_depth > 0:
            z = self.profile[:, 1]
            radii = self.profile[(z >= self.fluted[0]) & (z <= self.fluted[1]) & (self.profile[:, 0] > 0), 0]
            slope = 0.5 * self.flute_depth * self.flutes / (radii.min() - self.flute_depth)
        safe = 1.0 / (np.hypot(1.0, slope) + (1 / 6 if slope else 0.0))
        numbers = _numbers(self.flutes, self.flute_depth, *self.fluted, safe=safe)
        return PackedShape(LATHE, numbers, _with_edges(self.profile, np.zeros(len(self.profile))))


@dataclass(frozen=True, eq=False)
class Tube:
    """Balls swept along the polyline ``spine`` [M, 2] of (x, z), with ``radii`` [M] at its vertices.

    The cross section is squeezed along y by ``flatten`` ≤ 1 and may have ``ridges`` that stand out by
    ``ridge_height`` times the radius: a banana is a pentagon.
    """

    spine: Floats  # [M, 2]
    radii: Floats  # [M]
    flatten: float = 1.0
    ridges: int = 0
    ridge_height: float = 0.0

    def bounds(self) -> tuple[Floats, Floats]:
        reach = self.radii * (1 + self.ridge_height)
        low, high = (self.spine - reach[:, None]).min(axis=0), (self.spine + reach[:, None]).max(axis=0)
        side = reach.max() * self.flatten
        return np.array([low[0], -side, low[1]]), np.array([high[0], side, high[1]])

    def pack(self) -> PackedShape:
        safe = self.flatten / np.hypot(1.0, 1.5 * self.ridges * self.ridge_height)
        numbers = _numbers(self.flatten, self.ridges, self.ridge_height, safe=safe)
        return PackedShape(TUBE, numbers, _with_edges(self.spine, self.radii))


def rounded_curve(points: ArrayLike, per_piece: int = 6) -> Floats:
    """Centripetal Catmull-Rom curve [(M − 1)·per_piece + 1, C] through ``points`` [M, C]."""
    control = np.asarray(points, dtype=np.float64)
    padded = np.vstack([2 * control[0] - control[1], control, 2 * control[-1] - control[-2]])
    pieces = []
    for a, b, c, d in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        ta, tb, tc = (np.sqrt(np.linalg.norm(q - p)) for p, q in ((a, b), (b, c), (c, d)))
        # Tangents at b and c in units of the piece's own parameter.
        tangent_b = c - b + tb * ((b - a) / ta - (c - a) / (ta + tb))
        tangent_c = c - b + tb * ((d - c) / tc - (d - b) / (tb + tc))
        t = np.linspace(0, 1, per_piece, endpoint=False)[:, None]
        pieces.append(
            (2 * t**3 - 3 * t**2 + 1) * b
            + (t**3 - 2 * t**2 + t) * tangent_b
            + (3 * t**2 - 2 * t**3) * c
            + (t**3 - t**2) * tangent_c
        )
    return np.vstack([*pieces, control[-1:]])


_NO_POINTS = np.zeros((0, 4))


def _numbers(*values: float, safe: float = 1.0) -> Floats:
    numbers = np.zeros(6)
    numbers[: len(values)], numbers[5] = values, safe
    return numbers


def _with_edges(points: Floats, radii: Floats) -> Floats:
    """Rows (a, z, radius, 1 / squared length of the edge from the point before)."""
    if len(points) > MAX_POINTS:
        raise ValueError(f"a profile or spine of {len(points)} points, at most {MAX_POINTS} fit")
    squared = ((points - np.roll(points, 1, axis=0)) ** 2).sum(axis=1)
    return np.column_stack([points, radii, 1.0 / np.maximum(squared, 1e-16)])
