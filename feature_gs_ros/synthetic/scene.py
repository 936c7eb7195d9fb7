"""Scene: named objects made of solids with materials, in the robot's map frame (metres, z up)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from feature_gs_ros.synthetic.distance import (
    OBJECT,
    SOLID,
    SUBTRACTION,
    UNION,
    Floats,
    Integers,
    Records,
    scene_distances,
)
from feature_gs_ros.synthetic.shapes import Box, Shape, Sphere

Labels = NDArray[np.uint16]
Colour = tuple[float, float, float]  # linear RGB, 0 to 1
Vector = tuple[float, float, float]
BACKGROUND = "background"
NO_PART = "none"


class Pattern(IntEnum):
    """How a material's colours are laid out over a solid; `paint` draws them."""

    PLAIN = 0
    WOOD = 1  # planks along x
    PEEL = 2  # citrus; the third colour around the stem
    PULP = 3  # citrus cut in the xy plane; scale is the radius
    BANANA = 4  # along x; scale is half the length
    PRINT = 5  # glass with labels, paper and ink, towards +y and -y; scale is their height, they begin at 0.57 of it
    BANDS = 6  # rings about z
    SPECKLES = 7
    WEAVE = 8  # chequered cloth


@dataclass(frozen=True)
class Material:
    """What a surface looks like; ``scale`` [m] and the meaning of the second and third colour are the pattern's."""

    colour: Colour
    second: Colour = (0.0, 0.0, 0.0)
    third: Colour = (0.0, 0.0, 0.0)
    pattern: Pattern = Pattern.PLAIN
    scale: float = 0.01
    gloss: float = 0.3  # 0 matt to 1 mirror-like
    metalness: float = 0.0
    bump: float = 0.0


@dataclass(frozen=True, eq=False)
class Solid:
    """A shape in its object's frame, joined to the solids before it."""

    shape: Shape
    material: Material
    position: Vector = (0.0, 0.0, 0.0)
    rotation: Floats = field(default_factory=lambda: np.eye(3))  # [3, 3] object from solid
    part: str = ""  # the name of a part, e.g. "mug_handle"
    hollow: bool = False  # cut away instead of added
    blend: float = 0.0  # width of the smooth transition


@dataclass(frozen=True, eq=False)
class SceneObject:
    """Solids that move together. Without a name it is background."""

    solids: tuple[Solid, ...]
    name: str = ""
    position: Vector = (0.0, 0.0, 0.0)
    rotation: Floats = field(default_factory=lambda: np.eye(3))  # [3, 3] world from object
    splat_density: float = 1.0  # Gaussians per area, relative to the other objects
    splat_stretch: float = 1.0  # length of its Gaussians along the map's x over their width, where textures run so


class PackedScene(NamedTuple):
    """A scene as the kernels read it."""

    objects: Records  # [O] distance.OBJECT
    solids: Records  # [S] distance.SOLID
    room: Floats  # [6] low and high corner


@dataclass(frozen=True, eq=False)
class Scene:
    """Objects in a room. Labels and parts are numbered by first appearance from 1; 0 is background, or no part."""

    objects: tuple[SceneObject, ...]
    room_low: Vector = (-2.4, -2.4, -0.75)
    room_high: Vector = (2.4, 2.4, 1.9)
    room_splat_fraction: float = 0.12  # of all Gaussians

    @cached_property
    def labels(self) -> dict[int, str]:
        """Names of the object labels, 0 = background."""
        return _numbered(BACKGROUND, (obj.name for obj in self.objects))

    @cached_property
    def parts(self) -> dict[int, str]:
        """Names of the part labels, 0 = none."""
        return _numbered(NO_PART, (solid.part for obj in self.objects for solid in obj.solids))

    @cached_property
    def object_labels(self) -> Labels:
        """Label [O] of each object."""
        numbers = {name: number for number, name in self.labels.items()}
        return np.array([numbers[obj.name or BACKGROUND] for obj in self.objects], dtype=np.uint16)

    @cached_property
    def solid_parts(self) -> Labels:
        """Part label [S] of each solid, in the order of `packed`."""
        numbers = {name: number for number, name in self.parts.items()}
        parts = [numbers[solid.part or NO_PART] for obj in self.objects for solid in obj.solids]
        return np.array(parts, dtype=np.uint16)

    @cached_property
    def packed(self) -> PackedScene:
        return _pack(self)

    def distance(self, points: Floats) -> Floats:
        """Signed distance [N] of ``points`` [N, 3] from the nearest object, negative inside; no walls."""
        return self._nearest(points)[0]

    def labels_at(self, points: Floats) -> tuple[Labels, Labels]:
        """Object and part label [N] of the surface nearest to each of ``points`` [N, 3]; the room does not count."""
        _, objects, solids = self._nearest(points)
        return self.object_labels[objects], self.solid_parts[solids]

    def _nearest(self, points: Floats) -> tuple[Floats, Integers, Integers]:
        points = np.ascontiguousarray(points, dtype=np.float64)
        distances = np.empty(len(points))
        objects, solids = np.empty(len(points), np.int64), np.empty(len(points), np.int64)
        scene_distances(self.packed.objects, self.packed.solids, points, distances, objects, solids)
        return distances, objects, solids


def turned(x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Floats:
    """Rotation matrix [3, 3]: degrees about x, then y, then z, all axes fixed."""
    matrix = np.eye(3)
    for axis, degrees in enumerate((x, y, z)):
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        step = np.eye(3)
        i, j = (axis + 1) % 3, (axis + 2) % 3
        step[i, i], step[i, j], step[j, i], step[j, j] = c, -s, s, c
        matrix = step @ matrix
    return matrix


def object_bounds(solids: Sequence[Solid]) -> tuple[Floats, Floats]:
    """Low and high corner [3] of a box, in the object's frame, that holds the solids that are added."""
    corners = []
    for solid in solids:
        if not solid.hollow:
            low, high = solid.shape.bounds()
            box = np.stack(np.meshgrid(*zip(low, high, strict=True), indexing="ij"), axis=-1).reshape(-1, 3)
            # A smooth transition swells the surface by at most a quarter of its width.
            grown = box @ solid.rotation.T + np.array(solid.position)
            corners += [grown - solid.blend / 4, grown + solid.blend / 4]
    stacked = np.concatenate(corners)
    return stacked.min(axis=0), stacked.max(axis=0)


def _numbered(zero: str, names: Iterator[str]) -> dict[int, str]:
    return dict(enumerate([zero, *dict.fromkeys(name for name in names if name)]))


def _pack(scene: Scene) -> PackedScene:
    objects = np.zeros(len(scene.objects), OBJECT)
    solids = np.zeros(sum(len(obj.solids) for obj in scene.objects), SOLID)
    first = 0
    for row, obj in zip(objects, scene.objects, strict=True):
        end = first + len(obj.solids)
        low, high = object_bounds(obj.solids)
        row["turn"], row["origin"], row["low"], row["high"] = obj.rotation.T, obj.position, low, high
        row["ball"] = obj.rotation @ (low + high) / 2 + np.array(obj.position)
        row["ball_radius"] = np.linalg.norm(high - low) / 2
        row["convex"] = len(obj.solids) == 1 and isinstance(obj.solids[0].shape, (Sphere, Box))
        row["first"], row["end"] = first, end
        for solid_row, solid in zip(solids[first:end], obj.solids, strict=True):
            _pack_solid(solid_row, solid)
        first = end
    return PackedScene(objects, solids, np.array([*scene.room_low, *scene.room_high], dtype=np.float64))


def _pack_solid(row: Any, solid: Solid) -> None:
    shape, material = solid.shape.pack(), solid.material
    row["turn"], row["origin"] = solid.rotation.T, solid.position
    row["low"], row["high"] = solid.shape.bounds()
    row["kind"], row["numbers"], row["count"] = shape.kind, shape.numbers, len(shape.points)
    row["points"][: len(shape.points)] = shape.points
    row["operation"], row["blend"] = SUBTRACTION if solid.hollow else UNION, solid.blend
    row["colours"] = material.colour, material.second, material.third
    row["scale"], row["gloss"], row["metalness"] = material.scale, material.gloss, material.metalness
    row["bump"], row["pattern"] = material.bump, material.pattern
