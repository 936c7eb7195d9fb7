"""Points spread evenly over the surfaces of a scene, compiled: projection, thinning and shading of samples."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from feature_gs_ros.synthetic.distance import (
    Floats,
    Integers,
    Records,
    beyond_box,
    into_frame,
    kernel,
    object_distance,
    turned_out,
)
from feature_gs_ros.synthetic.paint import wall_light
from feature_gs_ros.synthetic.shading import displayed, lit_surface, outgoing, surface_normal

_ON_SURFACE = 2e-5  # metres
_TOUCHING = 5e-4  # metres: a surface this near another object is hidden


@kernel
def slope(objects: Records, solids: Records, o: int, x: float, y: float, z: float) -> tuple[float, float, float, float]:
    """Distance of object ``o`` at a point of its frame, and its gradient there, over a tetrahedron."""
    e = 2e-5
    a = object_distance(objects, solids, o, x + e, y - e, z - e)[0]
    b = object_distance(objects, solids, o, x - e, y - e, z + e)[0]
    c = object_distance(objects, solids, o, x - e, y + e, z - e)[0]
    d = object_distance(objects, solids, o, x + e, y + e, z + e)[0]
    f = 0.25 / e
    return 0.25 * (a + b + c + d), (a - b - c + d) * f, (-a - b + c + d) * f, (-a + b - c + d) * f


@kernel
def settle(
    objects: Records,
    solids: Records,
    start: int,
    stop: int,
    o: int,
    points: Floats,  # [M, 3] object frame; moved to the world, onto the surface
    chances: Floats,  # [M] uniform in [0, 1)
    shell: float,  # metres
    normals: Floats,  # [M, 3] written, world
    nearest: Integers,  # [M] written: the solid, or -1 where the point is of no use
) -> None:
    """Keep points within a thin shell around the surface and move them onto it, for rows ``start : stop``.

    Points spread evenly over the shell's volume are then spread evenly over the surface.

    Where the distance rises by less than 1 a metre the shell is thicker; ``chances`` make up for it.
    """
    obj = objects[o]
    for i in range(start, stop):
        nearest[i] = -1
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        d, s = object_distance(objects, solids, o, x, y, z)
        if abs(d) > shell:
            continue
        rise = 0.0
        for _ in range(6):
            d, gx, gy, gz = slope(objects, solids, o, x, y, z)
            squared = max(gx * gx + gy * gy + gz * gz, 1e-6)
            rise = math.sqrt(squared)
            if abs(d) < 1e-7:
                break
            x, y, z = x - d * gx / squared, y - d * gy / squared, z - d * gz / squared
        d, s = object_distance(objects, solids, o, x, y, z)
        if abs(d) > _ON_SURFACE or chances[i] > rise:
            continue
        wx, wy, wz = turned_out(obj, x, y, z)
        wx, wy, wz = wx + obj.origin[0], wy + obj.origin[1], wz + obj.origin[2]
        normal = surface_normal(objects, solids, o, wx, wy, wz, 1e-4)
        if wz < 0.0 and normal[2] < -0.9:
            continue  # the table from below
        if not _covered(objects, solids, o, wx, wy, wz):
            nearest[i] = s
            points[i, 0], points[i, 1], points[i, 2] = wx, wy, wz
            normals[i, 0], normals[i, 1], normals[i, 2] = normal


@kernel
def _covered(objects: Records, solids: Records, own: int, x: float, y: float, z: float) -> bool:
    """Whether another object touches or holds a point of object ``own``."""
    for o in range(objects.shape[0]):
        obj = objects[o]
        px, py, pz = into_frame(obj, x, y, z)
        if (
            o != own
            and beyond_box(obj, px, py, pz) < _TOUCHING
            and object_distance(objects, solids, o, px, py, pz)[0] < _TOUCHING
        ):
            return True
    return False


@kernel
def normals_at(
    objects: Records, solids: Records, start: int, stop: int, o: int, points: Floats, step: float, normals: Floats
) -> None:
    """Unit normals [N, 3] of object ``o`` at ``points`` [N, 3] of the world, for rows ``start : stop``."""
    for i in range(start, stop):
        normal = surface_normal(objects, solids, o, points[i, 0], points[i, 1], points[i, 2], step)
        normals[i, 0], normals[i, 1], normals[i, 2] = normal


@kernel
def thin_out(
    points: Floats,  # [N, 3] candidates in random order
    normals: Floats,  # [N, 3]
    spacing: float,
    wanted: int,
    kept: NDArray[np.bool_],  # [N] read and written: those kept before stay
    heads: Integers,  # [a power of two] scratch
    following: Integers,  # [N] scratch
) -> int:
    """Keep a point if none that is kept is within ``spacing`` on the same side of the surface; how many are kept."""
    mask = heads.shape[0] - 1
    heads[:] = -1
    count = 0
    for turn in range(2):
        for i in range(points.shape[0]):
            if kept[i] != (turn == 0) or (turn == 1 and count >= wanted):
                continue
            cx, cy, cz = (
                math.floor(points[i, 0] / spacing),
                math.floor(points[i, 1] / spacing),
                math.floor(points[i, 2] / spacing),
            )
            if turn == 1 and _crowded(points, normals, i, spacing, cx, cy, cz, heads, following):
                continue
            cell = (cx * 73856093 ^ cy * 19349663 ^ cz * 83492791) & mask
            following[i], heads[cell] = heads[cell], i
            kept[i] = True
            count += 1
    return count


@kernel
def _crowded(
    points: Floats,
    normals: Floats,
    i: int,
    spacing: float,
    cx: int,
    cy: int,
    cz: int,
    heads: Integers,
    following: Integers,
) -> bool:
    mask = heads.shape[0] - 1
    for dx in range(-1, 2):
        for dy in range(-1, 2):
            for dz in range(-1, 2):
                j = heads[((cx + dx) * 73856093 ^ (cy + dy) * 19349663 ^ (cz + dz) * 83492791) & mask]
                while j >= 0:
                    x, y, z = points[i, 0] - points[j, 0], points[i, 1] - points[j, 1], points[i, 2] - points[j, 2]
                    same = normals[i, 0] * normals[j, 0] + normals[i, 1] * normals[j, 1] + normals[i, 2] * normals[j, 2]
                    if x * x + y * y + z * z < spacing * spacing and same > 0.0:
                        return True
                    j = following[j]
    return False


@kernel
def bake(
    objects: Records,
    solids: Records,
    room: Floats,
    start: int,
    stop: int,
    o: int,
    points: Floats,  # [N, S, 3] samples of each Gaussian's footprint, near the surface
    views: Floats,  # [V, 3] unit directions from the eye
    colours: Floats,  # [N, V, 3] written: display colours, mean over the samples
    facing: Floats,  # [N, V] written: cosine to the normal, 0 from behind, summed over the samples
) -> None:
    """What Gaussians ``start : stop`` look like from each of ``views``."""
    for i in range(start, stop):
        for v in range(views.shape[0]):
            facing[i, v] = 0.0
            for c in range(3):
                colours[i, v, c] = 0.0
        for k in range(points.shape[1]):
            x, y, z = points[i, k, 0], points[i, k, 1], points[i, k, 2]
            ox, oy, oz = into_frame(objects[o], x, y, z)
            s = object_distance(objects, solids, o, ox, oy, oz)[1]
            colour, gloss, normal, visible, unoccluded = lit_surface(objects, solids, o, s, x, y, z)
            for v in range(views.shape[0]):
                view = (views[v, 0], views[v, 1], views[v, 2])
                facing[i, v] += max(-(normal[0] * view[0] + normal[1] * view[1] + normal[2] * view[2]), 0.0)
                seen = displayed(outgoing(room, colour, gloss, solids[s].metalness, normal, view, visible, unoccluded))
                for c in range(3):
                    colours[i, v, c] += seen[c] / points.shape[1]


@kernel
def bake_walls(room: Floats, walls: Integers, points: Floats, colours: Floats) -> None:
    """Display colours [N, 3] of the room at ``points`` [N, 3] on its ``walls`` [N]."""
    for i in range(points.shape[0]):
        light = wall_light(room, walls[i], points[i, 0], points[i, 1], points[i, 2])
        colours[i, 0], colours[i, 1], colours[i, 2] = displayed(light)
