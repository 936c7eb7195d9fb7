"""How surfaces answer the light, compiled: normals, soft shadows, occlusion, gloss that mirrors the room."""

from __future__ import annotations

import math
from typing import Any

from feature_gs_ros.synthetic.distance import (
    FAR,
    Floats,
    Records,
    Vector,
    beyond_box,
    into_frame,
    kernel,
    object_distance,
    turned_into,
    turned_out,
)
from feature_gs_ros.synthetic.paint import RGB, mixed, noise, paint, room_light

# Direction towards the sun behind the windows (unit), and its colour.
_SUN_X, _SUN_Y, _SUN_Z = -0.4867, 0.3129, 0.8156
_SUN: RGB = (1.75, 1.62, 1.42)
_SUN_SHARPNESS = 9.0  # 1 / tangent of the penumbra
_LIFT = 1.5e-3  # metres
_SKY: RGB = (0.62, 0.64, 0.68)  # from above
_GROUND: RGB = (0.26, 0.22, 0.18)  # reflected by table and floor


@kernel
def surface_normal(objects: Records, solids: Records, o: int, x: float, y: float, z: float, step: float) -> Vector:
    """Unit normal [world] of object ``o`` at a point of the world: the gradient over a tetrahedron of size ``step``."""
    x, y, z = into_frame(objects[o], x, y, z)
    a = object_distance(objects, solids, o, x + step, y - step, z - step)[0]
    b = object_distance(objects, solids, o, x - step, y - step, z + step)[0]
    c = object_distance(objects, solids, o, x - step, y + step, z - step)[0]
    d = object_distance(objects, solids, o, x + step, y + step, z + step)[0]
    nx, ny, nz = a - b - c + d, -a - b + c + d, -a + b - c + d
    length = max(math.sqrt(nx * nx + ny * ny + nz * nz), 1e-12)
    return turned_out(objects[o], nx / length, ny / length, nz / length)


@kernel
def bumped(normal: Vector, bump: float, x: float, y: float, z: float) -> Vector:
    """The normal tilted by the slope of a fine noise over the solid."""
    f, e = 400.0, 0.3
    here = noise(x * f, y * f, z * f)
    gx = noise(x * f + e, y * f, z * f) - here
    gy = noise(x * f, y * f + e, z * f) - here
    gz = noise(x * f, y * f, z * f + e) - here
    nx, ny, nz = normal[0] - bump * gx, normal[1] - bump * gy, normal[2] - bump * gz
    length = math.sqrt(nx * nx + ny * ny + nz * nz)
    return nx / length, ny / length, nz / length


@kernel
def sun_visibility(objects: Records, solids: Records, own: int, x: float, y: float, z: float) -> float:
    """Fraction of the sun, 0 to 1, seen from a point on object ``own``: soft shadows from the narrowest gap."""
    visible = 1.0
    for o in range(objects.shape[0]):
        obj = objects[o]
        if o == own and obj.convex:
            continue
        cx, cy, cz = obj.ball[0] - x, obj.ball[1] - y, obj.ball[2] - z
        ahead = cx * _SUN_X + cy * _SUN_Y + cz * _SUN_Z
        softness = max(ahead, 0.0) / _SUN_SHARPNESS
        reach = obj.ball_radius + softness
        if ahead < -reach or cx * cx + cy * cy + cz * cz - ahead * ahead > reach * reach:
            continue
        px, py, pz = into_frame(obj, x, y, z)
        dx, dy, dz = turned_into(obj, _SUN_X, _SUN_Y, _SUN_Z)
        near, far = box_span(obj, px, py, pz, dx, dy, dz, softness)
        if far > max(near, 0.0):
            visible = min(visible, _gap(objects, solids, o, px, py, pz, dx, dy, dz, max(near, 0.0), far))
        if visible < 0.01:
            return 0.0
    return visible * visible * (3.0 - 2.0 * visible)


@kernel
def box_span(
    bounded: Any, x: float, y: float, z: float, dx: float, dy: float, dz: float, margin: float
) -> tuple[float, float]:
    """Where a ray in the frame of ``bounded`` is in its box widened by ``margin``: from, to; from > to if never."""
    low, high = bounded.low, bounded.high
    near, far = -FAR, FAR
    for axis in range(3):
        start, step = (x, dx) if axis == 0 else ((y, dy) if axis == 1 else (z, dz))
        if abs(step) < 1e-12:
            step = 1e-12
        a, b = (low[axis] - margin - start) / step, (high[axis] + margin - start) / step
        near, far = max(near, min(a, b)), min(far, max(a, b))
    return near, far


@kernel
def _gap(
    objects: Records,
    solids: Records,
    o: int,
    x: float,
    y: float,
    z: float,
    dx: float,
    dy: float,
    dz: float,
    start: float,
    end: float,
) -> float:
    """Smallest ratio of distance from object ``o`` to distance gone, times the sharpness, along a ray in its frame."""
    t, gap, before = start, 1.0, FAR
    for _ in range(64):
        d = object_distance(objects, solids, o, x + t * dx, y + t * dy, z + t * dz)[0]
        if d < 1e-5:
            return 0.0
        # The closest approach lies between two steps: estimate it from both distances.
        back = d * d / (2.0 * before)
        gap = min(gap, _SUN_SHARPNESS * math.sqrt(max(d * d - back * back, 0.0)) / max(t - back, 1e-4))
        before = d
        t += max(0.7 * d, 4e-4)
        if t > end or gap < 0.01:
            break
    return gap


@kernel
def openness(objects: Records, solids: Records, own: int, x: float, y: float, z: float, normal: Vector) -> float:
    """Fraction of the surroundings' light, 0 to 1, at a point of object ``own``: ambient occlusion along the normal."""
    closed, weight = 0.0, 1.0
    for step in (0.007, 0.03, 0.09):
        px, py, pz = x + step * normal[0], y + step * normal[1], z + step * normal[2]
        d = step
        for o in range(objects.shape[0]):
            obj = objects[o]
            if o == own and obj.convex:
                continue
            cx, cy, cz = px - obj.ball[0], py - obj.ball[1], pz - obj.ball[2]
            limit = d + obj.ball_radius
            if limit > 0.0 and cx * cx + cy * cy + cz * cz < limit * limit:
                ox, oy, oz = into_frame(obj, px, py, pz)
                if beyond_box(obj, ox, oy, oz) < d:
                    d = min(d, object_distance(objects, solids, o, ox, oy, oz)[0])
        closed += weight * (step - max(d, 0.0)) / step
        weight *= 0.75
    return 1.0 / (1.0 + 0.6 * closed + 0.25 * closed * closed)


@kernel
def outgoing(
    room: Floats,
    colour: RGB,
    gloss: float,
    metal: float,
    normal: Vector,
    view: Vector,
    visible: float,
    unoccluded: float,
) -> RGB:
    """Linear RGB that leaves a surface against ``view`` (unit, from the eye): diffuse, highlight, mirrored room."""
    facing = max(-(normal[0] * view[0] + normal[1] * view[1] + normal[2] * view[2]), 0.0)
    lit = max(normal[0] * _SUN_X + normal[1] * _SUN_Y + normal[2] * _SUN_Z, 0.0) * visible
    up = 0.5 + 0.5 * normal[2]
    around = mixed(_GROUND, _SKY, up)
    # Schlick's approximation of the mirrored fraction.
    grazing = (1.0 - facing) ** 5
    fraction = 0.04 + 0.96 * grazing * gloss
    tint: RGB = mixed((fraction, fraction, fraction), mixed(colour, (1.0, 1.0, 1.0), grazing), metal)
    rx, ry, rz = (
        view[0] + 2.0 * facing * normal[0],
        view[1] + 2.0 * facing * normal[1],
        view[2] + 2.0 * facing * normal[2],
    )
    mirrored = mixed(around, _reflected(room, rx, ry, rz), gloss)
    shine = 2.0 ** (2.0 + 8.0 * gloss)
    towards_sun = max(rx * _SUN_X + ry * _SUN_Y + rz * _SUN_Z, 0.0)
    spot = (shine + 2.0) / 8.0 * towards_sun**shine * visible * gloss
    # Occlusion dims what a rough surface mirrors as much as what it scatters, and a smooth one less.
    open_mirror = unoccluded + (1.0 - unoccluded) * 0.3 * gloss
    red = colour[0] * (1.0 - metal) * (_SUN[0] * lit + around[0] * _bounced(unoccluded, colour[0]))
    green = colour[1] * (1.0 - metal) * (_SUN[1] * lit + around[1] * _bounced(unoccluded, colour[1]))
    blue = colour[2] * (1.0 - metal) * (_SUN[2] * lit + around[2] * _bounced(unoccluded, colour[2]))
    return (
        red + tint[0] * (mirrored[0] * open_mirror + _SUN[0] * spot),
        green + tint[1] * (mirrored[1] * open_mirror + _SUN[1] * spot),
        blue + tint[2] * (mirrored[2] * open_mirror + _SUN[2] * spot),
    )


@kernel
def _bounced(unoccluded: float, colour: float) -> float:
    """Light that reaches a hollow after bouncing within it: a pale one is brighter inside than a dark one."""
    return unoccluded / (1.0 - 0.8 * colour * (1.0 - unoccluded))


@kernel
def _reflected(room: Floats, dx: float, dy: float, dz: float) -> RGB:
    """What a small mirror on the table sees: the room above, the table below."""
    table: RGB = (0.42, 0.31, 0.21)
    if dz < -0.1:
        return table
    above = room_light(room, 0.0, 0.0, 0.05, dx, dy, max(dz, 0.0))[1]
    return mixed(table, above, min((dz + 0.1) * 5.0, 1.0))


@kernel
def displayed(light: RGB) -> RGB:
    """Linear light as display values in [0, 1]: highlights rolled off, then the sRGB curve."""
    return _shown(light[0]), _shown(light[1]), _shown(light[2])


@kernel
def _shown(light: float) -> float:
    knee = 0.6
    over = max(light - knee, 0.0)
    rolled = min(light, knee) + (1.0 - knee) * over / (over + 1.0 - knee)
    return 12.92 * rolled if rolled < 0.0031308 else 1.055 * rolled ** (1.0 / 2.4) - 0.055


@kernel
def lit_surface(
    objects: Records, solids: Records, o: int, s: int, x: float, y: float, z: float
) -> tuple[RGB, float, Vector, float, float]:
    """View-independent values at a surface point: colour, gloss, normal, visible fractions of sun and surroundings."""
    solid = solids[s]
    ox, oy, oz = into_frame(objects[o], x, y, z)
    px, py, pz = into_frame(solid, ox, oy, oz)
    colour, gloss = paint(solid, px, py, pz)
    normal = surface_normal(objects, solids, o, x, y, z, 3e-4)
    unoccluded = openness(objects, solids, o, x, y, z, normal)
    # Shadow rays start a little off the surface, or they would meet it at once.
    lx, ly, lz = x + _LIFT * normal[0], y + _LIFT * normal[1], z + _LIFT * normal[2]
    if solid.bump > 0.0:
        normal = bumped(normal, solid.bump, px, py, pz)
    towards = normal[0] * _SUN_X + normal[1] * _SUN_Y + normal[2] * _SUN_Z
    visible = sun_visibility(objects, solids, o, lx, ly, lz) if towards > 0.0 else 0.0
    return colour, gloss, normal, visible, unoccluded
