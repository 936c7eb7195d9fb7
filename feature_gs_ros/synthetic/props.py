"""Things that stand on tables, each in its own frame: on z = 0 where it would stand, metres, true to size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from feature_gs_ros.synthetic.distance import Floats
from feature_gs_ros.synthetic.scene import Colour, Material, Pattern, SceneObject, Solid, Vector, turned
from feature_gs_ros.synthetic.shapes import Box, Lathe, Shape, Sphere, Tube, rounded_curve

WHITE_GLAZE = Material((0.80, 0.78, 0.73), gloss=0.55)


def table(size: tuple[float, float] = (0.96, 0.72)) -> SceneObject:
    """A wooden table top; its surface is z = 0. Background."""
    wood = Material((0.40, 0.235, 0.115), (0.17, 0.085, 0.035), pattern=Pattern.WOOD, scale=0.095, gloss=0.18)
    half = (size[0] / 2, size[1] / 2, 0.016)
    return SceneObject(
        (Solid(Box(half, 0.004), wood, position=(0.0, 0.0, -0.016)),), splat_density=0.5, splat_stretch=3.0
    )


def mug(
    name: str = "mug",
    position: Vector = (0.0, 0.0, 0.0),
    heading: float = 0.0,
    glaze: Material | None = None,
    radius: float = 0.041,
    height: float = 0.095,
    lying: bool = False,
) -> SceneObject:
    """A mug; its handle, part ``<name>_handle``, points along ``heading`` (degrees), which rises where it is lying."""
    glaze = glaze or Material((0.52, 0.035, 0.03), gloss=0.55)
    foot = 0.86 * radius
    outside = np.array(
        [
            *[(0.0, 0.001), (foot - 0.004, 0.001), (foot - 0.003, 0.0), (foot, 0.0)],
            *[(radius - 0.002, 0.006), (radius, 0.014), (radius, height - 0.002)],
            *[(radius - 0.0006, height - 0.0006), (radius - 0.002, height), (0.0, height)],
        ]
    )
    inner = radius - 0.0042
    cavity = np.array(
        [
            *[(0.0, 0.006), (inner - 0.008, 0.0065), (inner - 0.003, 0.009), (inner, 0.015)],
            *[(inner, height - 0.003), (inner + 0.0006, height - 0.0012), (inner + 0.002, height + 0.0002)],
            (0.0, height + 0.0002),
        ]
    )
    reach = 0.80 * radius
    control = [(-0.002, 0.83), (0.35, 0.87), (0.82, 0.76), (1.0, 0.54), (0.86, 0.33), (0.40, 0.19), (-0.002, 0.17)]
    spine = np.array([(radius + reach * x, height * z) for x, z in control])
    curve = rounded_curve(spine, per_piece=5)
    thick = 0.13 * radius
    radii = thick * (1.0 + 0.25 * np.linspace(-1, 1, len(curve)) ** 4)
    return SceneObject(
        (
            Solid(Lathe(outside), glaze),
            Solid(Tube(curve, radii), glaze, part=f"{name}_handle", blend=0.005),
            Solid(Lathe(cavity), WHITE_GLAZE, hollow=True),
        ),
        name,
        (position[0], position[1], position[2] + (radius if lying else 0.0)),
        turned(x=90.0 if lying else 0.0) @ turned(z=heading),
        splat_density=2.0,
    )


def wine_bottle(name: str = "bottle", position: Vector = (0.0, 0.0, 0.0), heading: float = 0.0) -> SceneObject:
    """A Bordeaux bottle with labels towards ±y and a foil over its neck, part ``<name>_neck``."""
    foil = Material((0.02, 0.02, 0.022), gloss=0.6, metalness=0.2)
    glass = Material(
        (0.010, 0.028, 0.010), (0.72, 0.66, 0.52), (0.11, 0.03, 0.03), pattern=Pattern.PRINT, scale=0.092, gloss=0.9
    )
    shoulder = rounded_curve([(0.0368, 0.178), (0.0352, 0.194), (0.0285, 0.209), (0.0195, 0.222), (0.0150, 0.236)], 5)
    body = np.array(
        [
            (0.0, 0.012),
            (0.02, 0.006),
            (0.030, 0.0),
            (0.034, 0.0),
            (0.0363, 0.003),
            (0.0368, 0.008),
            *shoulder,
            (0.0143, 0.27),
            (0.0, 0.27),
        ]
    )
    cap = np.array(
        [
            (0.0, 0.236),
            (0.0152, 0.236),
            (0.0148, 0.268),
            (0.0162, 0.270),
            (0.0162, 0.282),
            (0.0150, 0.284),
            (0.0146, 0.2945),
            (0.0135, 0.2955),
            (0.0, 0.2955),
        ]
    )
    return SceneObject(
        (
            Solid(Lathe(body), glass),
            Solid(Lathe(cap), foil, part=f"{name}_neck"),
        ),
        name,
        position,
        turned(z=heading),
        splat_density=1.4,
    )


ORANGE_PEEL = Material((0.86, 0.20, 0.006), (0.88, 0.27, 0.01), (0.30, 0.27, 0.04), Pattern.PEEL, 0.03, 0.35, bump=0.22)


def orange(
    name: str = "orange", position: Vector = (0.0, 0.0, 0.0), tilt: float = 0.0, radius: float = 0.038
) -> SceneObject:
    """An orange, its stem tilted by degrees from the vertical."""
    angle = np.radians(np.linspace(-90, 90, 27))
    dimple = 0.0035 * np.exp(-(((90 - np.degrees(angle)) / 11) ** 2))
    profile = np.column_stack([radius * np.cos(angle), (0.95 * radius - dimple) * np.sin(angle)])
    profile[0, 0] = profile[-1, 0] = 0.0
    button = Material((0.16, 0.15, 0.05), gloss=0.1)
    solids = (
        Solid(Lathe(profile), ORANGE_PEEL),
        Solid(Sphere(0.0030), button, position=(0.0, 0.0, 0.95 * radius - 0.0038)),
    )
    centre = (position[0], position[1], position[2] + 0.955 * radius)
    return SceneObject(solids, name, centre, turned(x=tilt), splat_density=1.6)


def half_orange(
    name: str = "orange",
    position: Vector = (0.0, 0.0, 0.0),
    tilt: float = 0.0,
    heading: float = 0.0,
    radius: float = 0.037,
) -> SceneObject:
    """Half an orange on its peel; the cut face looks up, tilted by degrees towards -y of ``heading``."""
    angle = np.radians(np.linspace(-90, 0, 15))
    bowl = np.column_stack([radius * np.cos(angle), radius * np.sin(angle)])
    bowl[0, 0] = 0.0
    face = np.array([(0.0, -0.004), (0.955 * radius, -0.004), (0.955 * radius, 0.0004), (0.0, 0.0004)])
    pulp = Material((0.92, 0.33, 0.02), (0.88, 0.62, 0.28), (0.95, 0.45, 0.05), Pattern.PULP, 0.955 * radius, gloss=0.5)
    solids = (Solid(Lathe(np.vstack([bowl, (0.0, 0.0)])), ORANGE_PEEL), Solid(Lathe(face), pulp))
    centre = (position[0], position[1], position[2] + radius)
    return SceneObject(solids, name, centre, turned(x=tilt, z=heading), splat_density=1.8)


def banana(name: str = "banana", position: Vector = (0.0, 0.0, 0.0), heading: float = 0.0) -> SceneObject:
    """A banana that lies on its side."""
    angle = np.linspace(-0.92, 0.92, 29)
    bow = 0.098
    spine = np.column_stack([bow * np.sin(angle), bow * (np.cos(angle) - 0.8)])
    u = angle / 0.92
    body = 0.0178 * np.sqrt(np.clip(1 - np.abs(u) ** 4, 0, 1)) * (1 - 0.12 * u)
    stem = np.where(u > 0, 0.0055, 0.0042)
    radii = np.maximum(body, stem)
    tail = spine[-1] + (spine[-1] - spine[-2]) / np.linalg.norm(spine[-1] - spine[-2]) * np.array([[0.009], [0.019]])
    spine, radii = np.vstack([spine, tail]), np.append(radii, [0.0048, 0.0058])
    half = float(np.abs(spine[:, 0]).max())
    skin = Material((0.83, 0.55, 0.045), (0.46, 0.47, 0.07), (0.10, 0.055, 0.02), Pattern.BANANA, half, gloss=0.3)
    return SceneObject(
        (Solid(Tube(spine, _smoothed(radii), ridges=5, ridge_height=0.045), skin, rotation=turned(x=90)),),
        name,
        (position[0], position[1], position[2] + 0.0182),
        turned(z=heading),
        splat_density=1.6,
    )


def screwdriver(
    name: str = "screwdriver",
    position: Vector = (0.0, 0.0, 0.0),
    heading: float = 0.0,
    colour: Colour = (0.62, 0.05, 0.02),
) -> SceneObject:
    """A screwdriver that lies along ``heading``, its blade in front; the grip is part ``<name>_handle``."""
    plastic = Material(colour, gloss=0.5)
    dark = Material((0.02, 0.02, 0.022), gloss=0.35)
    steel = Material((0.56, 0.57, 0.58), gloss=0.75, metalness=1.0)
    grip = rounded_curve(
        [
            (0.0115, 0.002),
            (0.0148, 0.010),
            (0.0152, 0.030),
            (0.0148, 0.058),
            (0.0118, 0.074),
            (0.0105, 0.083),
            (0.0135, 0.091),
            (0.0125, 0.098),
        ],
        3,
    )
    grip = np.vstack([(0.0, 0.0), (0.008, 0.0), grip, (0.006, 0.102), (0.0, 0.102)])
    cap = np.array([(0.0, -0.004), (0.007, -0.0035), (0.0105, -0.001), (0.0122, 0.004), (0.0122, 0.006), (0.0, 0.006)])
    shaft = np.array([(0.0, 0.09), (0.0032, 0.09), (0.0032, 0.198), (0.0, 0.198)])
    blade = Tube(
        np.array([(0.0, 0.190), (0.0, 0.197), (0.0, 0.206), (0.0, 0.212)]),
        np.array([0.0026, 0.0034, 0.0044, 0.0040]),
        flatten=0.28,
    )
    along = turned(y=90)
    handle = f"{name}_handle"
    return SceneObject(
        (
            Solid(Lathe(grip, 6, 0.0034, (0.010, 0.070)), plastic, rotation=along, part=handle),
            Solid(Lathe(cap), dark, rotation=along, part=handle),
            Solid(Lathe(shaft), steel, rotation=along),
            Solid(blade, steel, rotation=along),
        ),
        name,
        (position[0], position[1], position[2] + 0.0152),
        turned(z=heading),
        splat_density=2.2,
    )


def small_solid(name: str, position: Vector, radius: float, rng: np.random.Generator) -> SceneObject:
    """A ball, block, cylinder, cone or ring of random colours and heading that stands within ``radius``."""
    pattern = (Pattern.PLAIN, Pattern.BANDS, Pattern.SPECKLES)[rng.integers(3)]
    scale, gloss = radius * rng.uniform(0.25, 0.5), rng.uniform(0.1, 0.7)
    paint = Material(_any_colour(rng), _any_colour(rng), pattern=pattern, scale=scale, gloss=gloss)
    height = radius * rng.uniform(0.6, 1.4)
    shapes: tuple[tuple[Shape, float], ...] = (
        (Sphere(0.9 * radius), 0.9 * radius),
        (Box((0.8 * radius, 0.55 * radius, height), 0.1 * radius), height),
        (Lathe(np.array([(0, -1), (0.8, -1), (0.8, 1), (0, 1)]) * (radius, height)), height),
        (Lathe(np.array([(0, -1), (0.9, -1), (0.1, 1), (0, 1)]) * (radius, height)), height),
        (Lathe(0.3 * radius * _circle(12) + (0.6 * radius, 0.0)), 0.3 * radius),
    )
    shape, lift = shapes[rng.integers(len(shapes))]
    centre = (position[0], position[1], position[2] + lift)
    return SceneObject((Solid(shape, paint),), name, centre, turned(z=rng.uniform(0, 360)), splat_density=1.6)


def _any_colour(rng: np.random.Generator) -> Colour:
    red, green, blue = 0.02 + 0.8 * rng.uniform(0, 1, 3) ** 2
    return float(red), float(green), float(blue)


def _circle(count: int) -> Floats:
    angle = np.arange(count) * 2 * np.pi / count
    return np.column_stack([np.cos(angle), np.sin(angle)])


def _smoothed(values: Floats) -> Floats:
    padded: Sequence[float] | Floats = np.pad(values, 1, mode="edge")
    return np.convolve(padded, [0.25, 0.5, 0.25], mode="valid")
