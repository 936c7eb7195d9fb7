"""Colours of the surfaces, compiled: noise, the materials' patterns, and the room around the table."""

from __future__ import annotations

import math
from typing import Any

from feature_gs_ros.synthetic.distance import Floats, kernel

# The values of scene.Pattern: kernels read module constants, not enumerations.
_WOOD, _PEEL, _PULP, _BANANA, _PRINT, _BANDS, _SPECKLES, _WEAVE = range(1, 9)

RGB = tuple[float, float, float]


@kernel
def lattice(i: int, j: int, k: int) -> float:
    """A fixed pseudo-random number in [0, 1) for each lattice point."""
    h = (i * 374761393 + j * 668265263 + k * 2147483647) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 1274126177) & 0xFFFFFFFF
    h = ((h ^ (h >> 16)) * 2246822519) & 0xFFFFFFFF
    return float((h ^ (h >> 15)) & 0xFFFFFF) / 16777216.0


@kernel
def noise(x: float, y: float, z: float) -> float:
    """Smooth value noise in [0, 1] on the unit lattice."""
    fx, fy, fz = math.floor(x), math.floor(y), math.floor(z)
    i, j, k = int(fx), int(fy), int(fz)
    u, v, w = x - fx, y - fy, z - fz
    u, v, w = u * u * (3.0 - 2.0 * u), v * v * (3.0 - 2.0 * v), w * w * (3.0 - 2.0 * w)
    total = 0.0
    for corner in range(8):
        a, b, c = corner & 1, (corner >> 1) & 1, corner >> 2
        weight = (u if a else 1.0 - u) * (v if b else 1.0 - v) * (w if c else 1.0 - w)
        total += weight * lattice(i + a, j + b, k + c)
    return total


@kernel
def layered_noise(x: float, y: float, z: float, layers: int) -> float:
    """Noise at doubling frequencies and halving strength, in [0, 1]."""
    total, strength, norm = 0.0, 1.0, 0.0
    for _ in range(layers):
        total += strength * noise(x, y, z)
        norm += strength
        x, y, z, strength = 2.03 * x + 7.1, 2.03 * y + 3.7, 2.03 * z + 1.3, 0.5 * strength
    return total / norm


@kernel
def ramp(low: float, high: float, value: float) -> float:
    """0 below ``low``, 1 above ``high``, smooth between."""
    t = min(max((value - low) / (high - low), 0.0), 1.0)
    return t * t * (3.0 - 2.0 * t)


@kernel
def mixed(a: RGB, b: RGB, fraction: float) -> RGB:
    return (a[0] + (b[0] - a[0]) * fraction, a[1] + (b[1] - a[1]) * fraction, a[2] + (b[2] - a[2]) * fraction)


@kernel
def scaled(a: RGB, factor: float) -> RGB:
    return a[0] * factor, a[1] * factor, a[2] * factor


@kernel
def paint(solid: Any, x: float, y: float, z: float) -> tuple[RGB, float]:
    """Linear RGB and gloss of a SOLID at a point of its frame."""
    if solid.pattern == _PRINT:
        return _print(solid, x, y, z)
    return _pattern(solid, x, y, z), solid.gloss


@kernel
def _pattern(solid: Any, x: float, y: float, z: float) -> RGB:
    table, scale, pattern = solid.colours, solid.scale, solid.pattern
    first, second, third = (
        (table[0, 0], table[0, 1], table[0, 2]),
        (table[1, 0], table[1, 1], table[1, 2]),
        (table[2, 0], table[2, 1], table[2, 2]),
    )
    if pattern == _WOOD:
        return _wood(first, second, scale, x, y, z)
    if pattern == _PEEL:
        blotch = layered_noise(x / scale, y / scale, z / scale, 3)
        pores = ramp(0.62, 0.8, noise(x * 520.0, y * 520.0, z * 520.0))
        skin = scaled(mixed(first, second, ramp(0.35, 0.75, blotch)), 1.0 - 0.22 * pores)
        # Where the stem was, at the top of the solid, the skin is green.
        return mixed(skin, third, 0.75 * ramp(0.011, 0.004, math.sqrt(x * x + y * y)) if z > 0.0 else 0.0)
    if pattern == _PULP:
        return _pulp(first, second, third, scale, x, y)
    if pattern == _BANANA:
        return _banana(first, second, third, scale, x, y, z)
    if pattern == _BANDS:
        phase = (z / scale) - math.floor(z / scale)
        return first if phase < 0.5 else second
    if pattern == _SPECKLES:
        return mixed(first, second, ramp(0.62, 0.7, noise(x / scale, y / scale, z / scale)))
    if pattern == _WEAVE:
        across = 0.5 + 0.5 * math.sin(math.pi * x / scale) * math.sin(math.pi * y / scale)
        thread = 0.9 + 0.1 * math.sin(x * 2500.0) * math.sin(y * 2500.0)
        return scaled(mixed(first, second, ramp(0.35, 0.65, across)), thread)
    return first


@kernel
def _wood(light: RGB, dark: RGB, width: float, x: float, y: float, z: float) -> RGB:
    plank = math.floor(y / width)
    own = lattice(int(plank), 17, 5)
    along, across = x * 3.0 + 40.0 * own, (y - plank * width) * 55.0
    bend = layered_noise(along * 0.7, across * 0.12, own * 9.0 + z * 8.0, 3)
    rings = 0.5 + 0.5 * math.sin((across + 9.0 * bend) * 2.2)
    fibre = layered_noise(along * 9.0, across * 7.0, own * 30.0, 2)
    wood = mixed(light, dark, 0.12 + 0.5 * rings * rings + 0.45 * (fibre - 0.5))
    edge = abs(y - plank * width - 0.5 * width)
    groove = 1.0 - 0.6 * ramp(0.5 * width - 0.0022, 0.5 * width - 0.0006, edge)
    return scaled(wood, (0.82 + 0.3 * own) * groove)


@kernel
def _pulp(flesh: RGB, pith: RGB, juice: RGB, radius: float, x: float, y: float) -> RGB:
    """A cut citrus fruit: ten segments of drop-shaped cells between pale skins."""
    r, turns = math.sqrt(x * x + y * y) / radius, math.atan2(y, x) * 10.0 / 6.2832
    across = abs(turns - math.floor(turns) - 0.5)  # 0 in the middle of a segment, 0.5 at its skin
    skin = ramp(0.05, 0.02, (0.5 - across) * r) + ramp(0.84, 0.88, r) + ramp(0.12, 0.07, r)
    cells = noise(r * 9.0, turns * 4.0, math.floor(turns) * 7.3)
    return mixed(mixed(flesh, juice, ramp(0.3, 0.8, cells)), pith, min(skin, 1.0))


@kernel
def _banana(ripe: RGB, green: RGB, brown: RGB, half: float, x: float, y: float, z: float) -> RGB:
    along = x / half
    skin = mixed(ripe, green, 0.75 * ramp(0.72, 0.93, along) + 0.25 * ramp(-0.75, -0.95, along))
    streak = layered_noise(x * 55.0, y * 260.0, z * 260.0, 3)
    freckles = ramp(0.68, 0.78, noise(x * 420.0, y * 420.0, z * 420.0))
    worn = 0.5 * ramp(0.6, 0.85, streak) + 0.45 * freckles * ramp(0.45, 0.6, noise(x * 60.0, y * 60.0, z * 60.0))
    tips = max(ramp(-0.955, -0.985, along), 0.9 * ramp(0.965, 0.99, along))
    return mixed(skin, brown, max(0.55 * worn, tips))


@kernel
def _print(solid: Any, x: float, y: float, z: float) -> tuple[RGB, float]:
    """Glass with a matt label on either side, towards +y and -y: a border, a name in capitals, lines of small print."""
    table, height = solid.colours, solid.scale
    angle = math.atan2(y, x)
    u = abs(abs(angle) - 1.5708)  # radians from the middle of a label
    v = z / height - 1.07  # -0.5 to 0.5 over it
    if u > 1.05 or abs(v) > 0.5:
        return (table[0, 0], table[0, 1], table[0, 2]), solid.gloss
    letters, words, lines = angle * 9.0, angle * 22.0, v * 14.0
    if abs(v) > 0.46 or u > 1.0:
        inked = 1.0
    elif abs(v) > 0.43 or u > 0.96:
        inked = 0.0
    elif abs(v - 0.2) < 0.09 and u < 0.62:
        strokes = lattice(math.floor(letters), 3, int(v * 40.0)) > 0.25
        inked = 1.0 if strokes and letters - math.floor(letters) < 0.62 else 0.0
    elif v < 0.0 and u < 0.7:
        word = lattice(math.floor(words), math.floor(lines), 8) > 0.3
        inked = 0.75 if word and lines - math.floor(lines) < 0.42 else 0.0
    else:
        inked = 0.0
    paper, ink = (table[1, 0], table[1, 1], table[1, 2]), (table[2, 0], table[2, 1], table[2, 2])
    return mixed(paper, ink, inked), 0.12


@kernel
def room_light(room: Floats, x: float, y: float, z: float, dx: float, dy: float, dz: float) -> tuple[float, RGB]:
    """Where a ray from inside meets the room, as a distance, and the light that comes from there.

    Everything in the room is soft, as behind a lens that is focused on the table.
    """
    travel, wall = 1e9, 0
    for axis in range(3):
        start, step = (x, dx) if axis == 0 else ((y, dy) if axis == 1 else (z, dz))
        if step > 1e-12:
            t = (room[3 + axis] - start) / step
            if t < travel:
                travel, wall = t, 2 * axis + 1
        elif step < -1e-12:
            t = (room[axis] - start) / step
            if t < travel:
                travel, wall = t, 2 * axis
    return travel, wall_light(room, wall, x + travel * dx, y + travel * dy, z + travel * dz)


@kernel
def wall_light(room: Floats, wall: int, x: float, y: float, z: float) -> RGB:
    """Light from a point of the room: walls 0, 1 at low and high x, 2, 3 at y, 4 the floor, 5 the ceiling."""
    low, high = room[2], room[5]
    if wall == 4:  # the floor
        tone = layered_noise(x * 1.7, y * 1.7, 0.0, 3)
        near = ramp(0.4, 1.6, math.sqrt(x * x + y * y))  # the table's shade
        return scaled((0.30, 0.255, 0.215), (0.7 + 0.6 * tone) * (0.45 + 0.55 * near))
    if wall == 5:  # the ceiling with a lamp
        lamp = ramp(1.15, 0.85, abs(x)) * ramp(0.75, 0.45, abs(y))
        return mixed((0.62, 0.60, 0.57), (5.0, 4.8, 4.4), lamp)
    height = (z - low) / (high - low)
    side = y if wall < 2 else x
    plaster = scaled((0.63, 0.60, 0.56), 0.72 + 0.3 * height + 0.1 * layered_noise(side, z, float(wall), 2))
    if wall == 0 or wall == 3:  # windows to the left and at the back
        pane = ramp(1.35, 1.1, abs(side)) * ramp(0.5, 0.6, height) * ramp(0.97, 0.9, height)
        cross = ramp(0.02, 0.07, abs(side)) * ramp(0.015, 0.03, abs(height - 0.75))
        return mixed(plaster, (4.2, 4.6, 5.2), pane * (0.25 + 0.75 * cross))
    accent = (0.30, 0.36, 0.40) if wall == 1 else (0.55, 0.42, 0.30)
    board = ramp(0.34, 0.28, height)
    cupboard = ramp(0.7, 0.6, abs(side - 0.9)) * ramp(0.72, 0.68, height)
    return mixed(mixed(plaster, accent, board), (0.38, 0.28, 0.19), 0.8 * cupboard)
