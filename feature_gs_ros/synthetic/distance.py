"""Signed distances of the scene's solids, compiled: four shapes, how they combine, and the records they read.

All lengths in metres, float64. Distances are negative inside and never overestimate (1-Lipschitz), so that
spheres can be traced.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from feature_gs_ros.numerics import runtime as kernels

SPHERE, BOX, LATHE, TUBE = range(4)  # kinds of shapes
UNION, SUBTRACTION = range(2)  # how a solid joins those before it
FAR = 1e9  # beyond everything, yet finite: kernels know no infinities
MAX_POINTS = 32  # of a profile or spine

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Records = NDArray[np.void]
Vector = tuple[float, float, float]

# One object: solids that move together, its pose and what bounds it.
OBJECT = np.dtype(
    [
        ("turn", np.float64, (3, 3)),  # object from world
        ("origin", np.float64, (3,)),  # of the object in the world
        ("low", np.float64, (3,)),  # bounding box in the object's frame
        ("high", np.float64, (3,)),
        ("ball", np.float64, (3,)),  # centre of the bounding ball in the world
        ("ball_radius", np.float64),
        ("convex", np.int64),  # 1: never shades itself
        ("first", np.int64),  # solids first : end
        ("end", np.int64),
    ]
)
# One solid: a shape in its object's frame, how it joins the solids before it, and its material (see scene.Material).
SOLID = np.dtype(
    [
        ("turn", np.float64, (3, 3)),  # solid from object
        ("origin", np.float64, (3,)),  # of the solid in the object's frame
        ("low", np.float64, (3,)),  # bounding box in the solid's frame
        ("high", np.float64, (3,)),
        ("kind", np.int64),  # SPHERE, BOX, LATHE or TUBE
        ("operation", np.int64),  # UNION or SUBTRACTION
        ("blend", np.float64),  # width of the smooth transition, 0 for a sharp edge
        ("numbers", np.float64, (6,)),  # the shape's own parameters; the last one makes its distance 1-Lipschitz
        ("points", np.float64, (MAX_POINTS, 4)),  # profile (radius, z) or spine (x, z, radius); 1 / squared edge length
        ("count", np.int64),  # of points
        ("colours", np.float64, (3, 3)),  # linear RGB
        ("scale", np.float64),
        ("gloss", np.float64),
        ("metalness", np.float64),
        ("bump", np.float64),
        ("pattern", np.int64),
    ]
)


_Function = TypeVar("_Function", bound=Callable[..., object])


def kernel(function: _Function) -> _Function:
    """`kernels.kernel`, with the function's own types kept."""
    compiled: _Function = kernels.kernel(function)  # type: ignore[assignment]
    return compiled


@kernel
def sphere_distance(x: float, y: float, z: float, radius: float) -> float:
    return math.sqrt(x * x + y * y + z * z) - radius


@kernel
def box_distance(x: float, y: float, z: float, hx: float, hy: float, hz: float, rounding: float) -> float:
    """Box of half extents (hx, hy, hz) whose edges are rounded within them."""
    dx, dy, dz = abs(x) - hx + rounding, abs(y) - hy + rounding, abs(z) - hz + rounding
    ox, oy, oz = max(dx, 0.0), max(dy, 0.0), max(dz, 0.0)
    return math.sqrt(ox * ox + oy * oy + oz * oz) + min(max(dx, dy, dz), 0.0) - rounding


@kernel
def lathe_distance(solid: Any, x: float, y: float, z: float) -> float:
    """Solid of revolution about z whose half section is a closed polygon; between low and high it may be fluted."""
    r = math.sqrt(x * x + y * y)
    points, count = solid.points, solid.count
    nearest, inside = FAR, False
    ar, az = points[count - 1, 0], points[count - 1, 1]
    for i in range(count):
        br, bz = points[i, 0], points[i, 1]
        er, ez, wr, wz = ar - br, az - bz, r - br, z - bz
        if (az > z) != (bz > z) and (wr * ez < er * wz) == (ez > 0.0):
            inside = not inside
        if ar > 0.0 or br > 0.0:  # an edge on the axis is not a surface
            t = min(max((wr * er + wz * ez) * points[i, 3], 0.0), 1.0)
            dr, dz = wr - t * er, wz - t * ez
            nearest = min(nearest, dr * dr + dz * dz)
        ar, az = br, bz
    distance = -math.sqrt(nearest) if inside else math.sqrt(nearest)
    flutes, depth, low, high = solid.numbers[0], solid.numbers[1], solid.numbers[2], solid.numbers[3]
    safe: float = solid.numbers[5]
    if depth > 0.0:
        fade = min(max((z - low) / (6.0 * depth), 0.0), 1.0) * min(max((high - z) / (6.0 * depth), 0.0), 1.0)
        distance += depth * fade * (0.5 - 0.5 * math.cos(flutes * math.atan2(y, x)))
    return distance * safe


@kernel
def tube_distance(solid: Any, x: float, y: float, z: float) -> float:
    """Balls swept along a polyline in the xz plane, a radius at each vertex; squeezed along y, ridged lengthwise."""
    points, flatten, ridges, height = solid.points, solid.numbers[0], solid.numbers[1], solid.numbers[2]
    safe: float = solid.numbers[5]
    y /= flatten
    distance, at, apart, side = FAR, 1, FAR, 0.0
    for i in range(1, solid.count):
        bx, bz = points[i, 0], points[i, 1]
        ex, ez, wx, wz = points[i - 1, 0] - bx, points[i - 1, 1] - bz, x - bx, z - bz
        t = min(max((wx * ex + wz * ez) * points[i, 3], 0.0), 1.0)
        dx, dz = wx - t * ex, wz - t * ez
        squared = dx * dx + dz * dz
        if squared < apart:
            apart, side = squared, dx * ez - dz * ex
        ball = math.sqrt(squared + y * y) - points[i, 2] - t * (points[i - 1, 2] - points[i, 2])
        if ball < distance:
            distance, at = ball, i
    # Where the radius changes, the nearest ball is not the one across: it may belong to the edge before or after.
    for i in range(max(at - 1, 1), min(at + 2, solid.count)):
        distance = min(distance, _cone_distance(points, i, x, y, z))
    if height > 0.0:
        radius, off = math.sqrt(apart + y * y) - distance, math.sqrt(apart)
        distance -= height * radius * math.cos(ridges * math.atan2(y, off if side > 0.0 else -off))
    return distance * safe


@kernel
def _cone_distance(points: Floats, i: int, x: float, y: float, z: float) -> float:
    """Distance of the hull of the balls at the ends of edge ``i - 1, i``."""
    bx, bz, radius = points[i, 0], points[i, 1], points[i, 2]
    ex, ez, growth = points[i - 1, 0] - bx, points[i - 1, 1] - bz, points[i - 1, 2] - radius
    wx, wz = x - bx, z - bz
    t = (wx * ex + wz * ez) * points[i, 3]
    dx, dz = wx - t * ex, wz - t * ez
    # The normal of a cone leans towards its tip: the ball that it comes from lies nearer the thick end.
    lean = growth * growth * points[i, 3]
    t += growth * points[i, 3] * math.sqrt((dx * dx + dz * dz + y * y) / (1.0 - min(lean, 0.9)))
    t = min(max(t, 0.0), 1.0)
    dx, dz = wx - t * ex, wz - t * ez
    distance: float = math.sqrt(dx * dx + dz * dz + y * y) - radius - t * growth
    return distance


@kernel
def into_frame(placed: Any, x: float, y: float, z: float) -> Vector:
    """A point of the outer frame in the frame of ``placed``, an OBJECT or a SOLID."""
    return turned_into(placed, x - placed.origin[0], y - placed.origin[1], z - placed.origin[2])


@kernel
def turned_into(placed: Any, x: float, y: float, z: float) -> Vector:
    """A direction of the outer frame in the frame of ``placed``."""
    turn: Floats = placed.turn
    return (
        turn[0, 0] * x + turn[0, 1] * y + turn[0, 2] * z,
        turn[1, 0] * x + turn[1, 1] * y + turn[1, 2] * z,
        turn[2, 0] * x + turn[2, 1] * y + turn[2, 2] * z,
    )


@kernel
def turned_out(placed: Any, x: float, y: float, z: float) -> Vector:
    """A direction in the frame of ``placed`` as one of the outer frame."""
    turn: Floats = placed.turn
    return (
        turn[0, 0] * x + turn[1, 0] * y + turn[2, 0] * z,
        turn[0, 1] * x + turn[1, 1] * y + turn[2, 1] * z,
        turn[0, 2] * x + turn[1, 2] * y + turn[2, 2] * z,
    )


@kernel
def beyond_box(bounded: Any, x: float, y: float, z: float) -> float:
    """How far a point in the frame of ``bounded`` lies out of its bounding box, along one axis; negative inside."""
    low: Floats = bounded.low
    high: Floats = bounded.high
    beyond: float = max(low[0] - x, x - high[0], low[1] - y, y - high[1], low[2] - z, z - high[2])
    return beyond


@kernel
def object_distance(objects: Records, solids: Records, o: int, x: float, y: float, z: float) -> tuple[float, int]:
    """Distance of object ``o`` at a point of its own frame, and the solid whose surface that is."""
    first, end = objects[o].first, objects[o].end
    distance, nearest = FAR, first
    for s in range(first, end):
        solid = solids[s]
        k, adds = solid.blend, solid.operation == UNION
        px, py, pz = into_frame(solid, x, y, z)
        # A lower bound of the solid's distance tells when it can't matter.
        bound = beyond_box(solid, px, py, pz) * solid.numbers[5]
        if bound > (distance + k if adds else k - distance):
            continue
        if solid.kind == SPHERE:
            d = sphere_distance(px, py, pz, solid.numbers[0])
        elif solid.kind == BOX:
            d = box_distance(px, py, pz, solid.numbers[0], solid.numbers[1], solid.numbers[2], solid.numbers[3])
        elif solid.kind == LATHE:
            d = lathe_distance(solid, px, py, pz)
        else:
            d = tube_distance(solid, px, py, pz)
        d = d if adds else -d
        if (d < distance) == adds:
            nearest = s
        gap = max(k - abs(distance - d), 0.0)
        swell = gap * gap / (4.0 * k) if gap > 0.0 else 0.0
        distance = min(distance, d) - swell if adds else max(distance, d) + swell
    return distance, nearest


@kernel
def scene_distance(
    objects: Records, solids: Records, x: float, y: float, z: float, reach: float
) -> tuple[float, int, int]:
    """Distance from a point of the world to the objects within ``reach``, object, solid; (reach, -1, -1) if none."""
    best, best_object, best_solid = reach, -1, -1
    for o in range(objects.shape[0]):
        obj = objects[o]
        cx, cy, cz = x - obj.ball[0], y - obj.ball[1], z - obj.ball[2]
        limit = best + obj.ball_radius
        if limit < 0.0 or cx * cx + cy * cy + cz * cz > limit * limit:
            continue
        px, py, pz = into_frame(obj, x, y, z)
        if beyond_box(obj, px, py, pz) < best:
            d, s = object_distance(objects, solids, o, px, py, pz)
            if d < best:
                best, best_object, best_solid = d, o, s
    return best, best_object, best_solid


@kernel
def scene_distances(
    objects: Records, solids: Records, points: Floats, distances: Floats, nearest: Integers, nearest_solid: Integers
) -> None:
    """`scene_distance` at each of ``points`` [N, 3] with unlimited reach; written into the last three, [N] each."""
    for i in range(points.shape[0]):
        distances[i], nearest[i], nearest_solid[i] = scene_distance(
            objects, solids, points[i, 0], points[i, 1], points[i, 2], FAR
        )
