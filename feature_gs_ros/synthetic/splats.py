"""The splat map of a scene: flat Gaussians spread evenly over its surfaces, with its light baked in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from feature_gs_ros.core.errors import MapError
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.core.geometry import Sim3
from feature_gs_ros.numerics.runtime import parallel_for
from feature_gs_ros.synthetic.distance import Floats, Integers
from feature_gs_ros.synthetic.scene import Labels, Scene
from feature_gs_ros.synthetic.surface_points import bake, bake_walls, normals_at, settle, thin_out

# The map keeps a frame and scale of its own, as maps from structure-from-motion do.
SPLAT_FROM_MAP = Sim3(
    scale=3.7,
    quat_wxyz=np.array([0.8, -0.4, 0.2, 0.4]),
    translation=np.array([1.3, -0.7, 2.1]),
)

MAX_GAUSSIANS = 5_000_000  # about 1 KB each while they are made
OPACITY = 0.97
SPREAD = 0.65  # standard deviation along the surface, in spacings: neighbours close the gaps between them
WALL_SPREAD = 0.85  # likewise in the room, whose light is smooth
FLATNESS = 0.12  # standard deviation across the surface, in those along it
CURVATURE_LIMIT = 0.35  # standard deviation along the surface, at most, in radii of curvature
SHELL = 1e-3  # metres around the surface in which candidates are drawn
CANDIDATES = 8  # for each Gaussian kept
PROBE, BLOCK = 4000, 400_000  # tries to tell an object's area, and at once
FOOTPRINT_REACH = 0.5  # of the samples whose mean is a Gaussian's colour, in standard deviations
RIDGE = 0.1  # pulls the view-dependent coefficients to 0 where few views face a Gaussian

_SH_0, _SH_1 = 0.28209479177387814, 0.4886025119029199


class LabelledMap(NamedTuple):
    """A splat map and its ground truth."""

    gaussians: GaussianMap
    object_labels: Labels  # [N]
    part_labels: Labels  # [N]


def sample_gaussians(scene: Scene, count: int = 60_000, seed: int = 0) -> LabelledMap:
    """``count`` Gaussians, or a few less, that look like the scene, in the splat's frame (see `SPLAT_FROM_MAP`).

    Raises:
        MapError: ``count`` is out of range.
    """
    if not len(scene.objects) < count <= MAX_GAUSSIANS:
        raise MapError(f"{count} Gaussians; choose {len(scene.objects) + 1} to {MAX_GAUSSIANS}", code="map.range")
    rng = np.random.default_rng(seed)
    patches = [_Patch.drawn(scene, o, rng, PROBE) for o in range(len(scene.objects))]
    weights = np.array([patch.area * obj.splat_density for patch, obj in zip(patches, scene.objects, strict=True)])
    fractions = (1 - scene.room_splat_fraction) * count * weights / weights.sum()
    objects = [
        _object_splats(scene, o, patch.filled(scene, o, rng, fraction).thinned(round(fraction), obj.splat_stretch))
        for o, (patch, fraction, obj) in enumerate(zip(patches, fractions, scene.objects, strict=True))
    ]
    room = _room_splats(scene, rng, round(scene.room_splat_fraction * count))
    splats = _Splats(*(np.concatenate(columns) for columns in zip(*objects, room, strict=True)))
    return LabelledMap(_in_splat_frame(splats), splats.object_labels, splats.part_labels)


class _Splats(NamedTuple):
    """Gaussians of one surface, map frame."""

    means: Floats  # [N, 3]
    axes: Floats  # [N, 3, 3] columns: two along the surface, the normal
    scales: Floats  # [N, 3] metres
    sh: Floats  # [N, 4, 3] for directions of the splat's frame
    object_labels: Labels  # [N]
    part_labels: Labels  # [N]


@dataclass(frozen=True, eq=False)
class _Patch:
    """Points spread evenly, but at random, over one surface; map frame."""

    points: Floats  # [N, 3]
    normals: Floats  # [N, 3]
    sources: Integers  # [N] solid, or wall of the room
    area: float  # square metres

    @staticmethod
    def drawn(scene: Scene, o: int, rng: np.random.Generator, tries: int) -> _Patch:
        """Points on object ``o`` from a thin shell around it, out of ``tries`` points of its bounding box."""
        obj = scene.packed.objects[o]
        low, high = obj["low"] - SHELL, obj["high"] + SHELL
        points, chances = rng.uniform(low, high, (tries, 3)), rng.uniform(size=tries)
        normals, sources = np.empty((tries, 3)), np.empty(tries, np.int64)
        objects, solids, _ = scene.packed
        parallel_for(
            tries, 8192, lambda i, j: settle(objects, solids, i, j, o, points, chances, SHELL, normals, sources)
        )
        kept = sources >= 0
        area = float(kept.mean() * np.prod(high - low) / (2 * SHELL))
        return _Patch(points[kept], normals[kept], sources[kept], area)

    def filled(self, scene: Scene, o: int, rng: np.random.Generator, count: float) -> _Patch:
        """About `CANDIDATES` × ``count`` points; this patch tells how many tries a point takes."""
        tries = int(CANDIDATES * count * PROBE / max(len(self.points), 1)) + PROBE
        blocks = [min(BLOCK, tries - start) for start in range(0, tries, BLOCK)]
        patches = [_Patch.drawn(scene, o, rng, block) for block in blocks]
        return _Patch(
            np.concatenate([patch.points for patch in patches]),
            np.concatenate([patch.normals for patch in patches]),
            np.concatenate([patch.sources for patch in patches]),
            float(np.average([patch.area for patch in patches], weights=blocks)),
        )

    def thinned(self, count: int, stretch: float = 1.0) -> _Patch:
        """``count`` points, none close to another: dart throwing with a shrinking radius, ``stretch``ed along x."""
        squeezed = self.points * np.array([stretch**-0.5, stretch**0.5, stretch**0.5])
        kept = np.zeros(len(self.points), np.bool_)
        heads = np.empty(1 << max(count, 1).bit_length(), np.int64)
        following = np.empty(len(self.points), np.int64)
        spacing = np.sqrt(self.area / max(count, 1))
        for shrink in (0.9, 0.86, 0.83, 0.8, 0.76, 0.7, 0.6, 0.4, 0.2):
            if thin_out(squeezed, self.normals, shrink * spacing, count, kept, heads, following) >= count:
                break
        return _Patch(self.points[kept], self.normals[kept], self.sources[kept], self.area)

    @property
    def spacing(self) -> float:
        """Root of the area of a point, metres."""
        return float(np.sqrt(self.area / max(len(self.points), 1)))


def _object_splats(scene: Scene, o: int, patch: _Patch) -> _Splats:
    axes, scales = _footprints(scene, o, patch)
    offsets = np.array([(1, 1), (1, -1), (-1, 1), (-1, -1)]) * FOOTPRINT_REACH
    samples = patch.points[:, None] + np.einsum("sk,nk,nck->nsc", offsets, scales[:, :2], axes[:, :, :2])
    sh = _baked(scene, o, np.ascontiguousarray(samples))
    labels = np.full(len(patch.points), scene.object_labels[o], np.uint16)
    return _Splats(patch.points, axes, scales, sh, labels, scene.solid_parts[patch.sources])


def _footprints(scene: Scene, o: int, patch: _Patch) -> tuple[Floats, Floats]:
    """Axes [N, 3, 3] along the principal curvatures, and standard deviations [N, 3] that don't overshoot the bends."""
    count, step = len(patch.points), 0.5 * patch.spacing
    first = np.cross(patch.normals, np.where(np.abs(patch.normals[:, :1]) < 0.6, [1.0, 0, 0], [0, 1.0, 0]))
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    tangents = np.stack([first, np.cross(patch.normals, first)], axis=1)  # [N, 2, 3]
    ends = np.stack([patch.points[:, None] + step * tangents, patch.points[:, None] - step * tangents])  # [2, N, 2, 3]
    flat = np.ascontiguousarray(ends.reshape(-1, 3))
    turned = np.empty_like(flat)
    parallel_for(
        len(flat), 8192, lambda i, j: normals_at(*scene.packed[:2], i, j, o, flat, 0.2 * patch.spacing, turned)
    )
    normals = turned.reshape(2, count, 2, 3)
    bend = np.einsum("nac,nbc->nab", tangents, normals[0] - normals[1]) / (2 * step)  # the shape operator
    curvature, directions = np.linalg.eigh((bend + bend.transpose(0, 2, 1)) / 2)
    along = np.einsum("nak,nac->nck", directions, tangents)  # [N, 3, 2]
    across = np.cross(along[:, :, 0], along[:, :, 1])
    spread = np.minimum(SPREAD * patch.spacing, CURVATURE_LIMIT / np.maximum(np.abs(curvature), 1e-9))
    stretch = scene.objects[o].splat_stretch
    spread *= stretch ** (along[:, 0] ** 2 - 0.5)
    scales = np.column_stack([spread, FLATNESS * spread.min(axis=1)])
    return np.concatenate([along, across[:, :, None]], axis=2), scales


def _baked(scene: Scene, o: int, samples: Floats) -> Floats:
    """Spherical harmonics [N, 4, 3] that fit what samples [N, S, 3] look like from around the table."""
    count, views = len(samples), _directions()
    colours, facing = np.empty((count, len(views), 3)), np.empty((count, len(views)))
    parallel_for(count, 512, lambda i, j: bake(*scene.packed, i, j, o, samples, views, colours, facing))
    weights = np.where(facing.sum(axis=1, keepdims=True) > 0, facing, 1.0)
    weights /= weights.sum(axis=1, keepdims=True)
    x, y, z = (views @ SPLAT_FROM_MAP.rotation.T).T
    basis = np.stack([np.full_like(x, _SH_0), -_SH_1 * y, _SH_1 * z, -_SH_1 * x], axis=1)  # [V, 4]
    normal_matrix = np.einsum("nv,va,vb->nab", weights, basis, basis) + RIDGE * np.diag([0.0, 1.0, 1.0, 1.0])
    return np.linalg.solve(normal_matrix, np.einsum("nv,va,nvc->nac", weights, basis, colours - 0.5))


def _directions() -> Floats:
    """Unit directions [V, 3] from eyes around and above the table."""
    rings = [(np.radians(elevation), count) for elevation, count in ((20, 8), (45, 8), (72, 4))]
    return np.array(
        [
            (-np.cos(e) * np.cos(a), -np.cos(e) * np.sin(a), -np.sin(e))
            for e, count in rings
            for a in np.arange(count) * 2 * np.pi / count
        ]
    )


def _room_splats(scene: Scene, rng: np.random.Generator, count: int) -> _Splats:
    low, high = np.array(scene.room_low), np.array(scene.room_high)
    size = high - low
    areas = np.repeat([size[1] * size[2], size[0] * size[2], size[0] * size[1]], 2)
    walls = rng.choice(6, CANDIDATES * count, p=areas / areas.sum())
    points, normals = rng.uniform(low, high, (len(walls), 3)), np.zeros((len(walls), 3))
    rows, axis, side = np.arange(len(walls)), walls // 2, walls % 2
    points[rows, axis] = np.where(side == 1, high[axis], low[axis])
    normals[rows, axis] = 1.0 - 2.0 * side
    patch = _Patch(points, normals, walls, float(areas.sum())).thinned(count)
    spread = WALL_SPREAD * patch.spacing
    first = np.roll(patch.normals, 1, axis=1)
    axes = np.stack([first, np.cross(patch.normals, first), patch.normals], axis=2)
    scales = np.tile([spread, spread, FLATNESS * spread], (len(patch.points), 1))
    colours = np.empty((len(patch.points), 3))
    bake_walls(scene.packed.room, patch.sources, patch.points, colours)
    sh = np.zeros((len(patch.points), 4, 3))
    sh[:, 0] = (colours - 0.5) / _SH_0
    nothing = np.zeros(len(patch.points), np.uint16)
    return _Splats(patch.points, axes, scales, sh, nothing, nothing)


def _in_splat_frame(splats: _Splats) -> GaussianMap:
    quats_xyzw = Rotation.from_matrix(SPLAT_FROM_MAP.rotation @ splats.axes).as_quat()
    return GaussianMap.from_tensors(
        means=torch.from_numpy(SPLAT_FROM_MAP.apply(splats.means)),
        quats_wxyz=torch.from_numpy(np.roll(quats_xyzw, 1, axis=1)),
        scales=torch.from_numpy(SPLAT_FROM_MAP.scale * splats.scales),
        opacities=torch.full((len(splats.means),), OPACITY),
        sh=torch.from_numpy(splats.sh),
        source="the synthetic scene",
    )
