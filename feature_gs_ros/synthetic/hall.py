"""A hall of any number of Gaussians with crates in it, written to disk in blocks: for tests of size.

A chequered floor at one density, so that the hall grows with the number of Gaussians and a view's part of it shrinks;
posed images and feature maps for the extractor ``precomputed`` are ray cast.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from feature_gs_ros.core.gaussians import SH_C0
from feature_gs_ros.pictures import save_png

WIDTH, HEIGHT, FOCAL, CELL = 640, 480, 512.0, 16  # pixels
SPACING = 0.02  # m between Gaussians
CRATE = 1.0  # m, its sides
CRATE_EVERY = 10.0  # m
EYE = 3.0  # m above the floor
PITCH = np.deg2rad(25)  # of the cameras, downwards
BLOCK = 1 << 18  # Gaussians written at once
OPACITY_LOGIT = 3.0
COLORS = np.array([[0.25, 0.25, 0.28], [0.6, 0.58, 0.55], [0.75, 0.35, 0.1]])  # dark floor, light floor, crate
WORDS = ("floor", "crate")

Array = NDArray[np.float64]
_PROPERTIES = (
    "x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity", "scale_0", "scale_1", "scale_2",
    "rot_0", "rot_1", "rot_2", "rot_3",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Hall:
    """Where everything lies; lengths in metres, z up, the floor at 0."""

    map: Path  # 3DGS PLY
    stream: Path  # folder with cameras.json
    features: Path  # one .npy per frame [rows, columns, channels]
    words: Path  # .npz, a vector for each of `WORDS`
    side: float
    crates: Array  # [C, 2] x, y of their centres

    @property
    def options(self) -> list[str]:
        """Words of the command line that name extractor and features."""
        return [
            "--extractor",
            "precomputed",
            "--option",
            f"folder={self.features}",
            "--option",
            f"embeddings={self.words}",
        ]


def write_hall(folder: Path, gaussians: int, views: int = 8, channels: int = 256, seed: int = 0) -> Hall:
    """Write map, stream and features; memory does not grow with the number of Gaussians."""
    rng = np.random.default_rng(seed)
    side = SPACING * float(np.sqrt(gaussians))
    per_axis = max(1, int(side / CRATE_EVERY))
    centres = (np.arange(per_axis) + 0.5) / per_axis * side
    crates = np.stack(np.meshgrid(centres, centres, indexing="ij"), axis=-1).reshape(-1, 2)
    hall = Hall(folder / "map.ply", folder / "stream", folder / "features", folder / "words.npz", side, crates)
    folder.mkdir(parents=True, exist_ok=True)
    hall.features.mkdir(exist_ok=True)
    _write_map(hall, gaussians, rng)
    vectors = rng.normal(size=(len(WORDS), channels)).astype(np.float32)
    np.savez(hall.words, **dict(zip(WORDS, vectors, strict=True)))
    entries = []
    for index, pose in enumerate(_poses(side, views)):
        name = f"{index:05d}"
        _, colors = _seen(hall, pose, 1)
        save_png((255 * colors).astype(np.uint8), hall.stream / "images" / f"{name}.png")
        kinds, _ = _seen(hall, pose, CELL)
        grid = np.where((kinds >= 0)[..., None], vectors[np.maximum(kinds, 0)], np.float32(0))
        np.save(hall.features / f"{name}.npy", grid)
        entries.append(
            {
                "image": f"images/{name}.png", "width": WIDTH, "height": HEIGHT, "fx": FOCAL, "fy": FOCAL,
                "cx": WIDTH / 2, "cy": HEIGHT / 2, "camera_from_world": pose.tolist(),
            }
        )  # fmt: skip
    (hall.stream / "cameras.json").write_text(json.dumps({"frames": entries}))
    return hall


def _write_map(hall: Hall, gaussians: int, rng: np.random.Generator) -> None:
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {gaussians}"]
    header += [*(f"property float {name}" for name in _PROPERTIES), "end_header", ""]
    on_crates = min(gaussians // 2, int(len(hall.crates) * 5 * (CRATE / SPACING) ** 2))
    with hall.map.open("wb") as file:
        file.write("\n".join(header).encode())
        for first in range(0, gaussians, BLOCK):
            count = min(BLOCK, gaussians - first)
            rows = np.arange(first, first + count)
            points = np.column_stack([rng.uniform(0, hall.side, (count, 2)), np.zeros(count)])
            crate = rng.random(count) < on_crates / gaussians
            points[crate] = _on_crates(hall, int(crate.sum()), rng)
            table = np.zeros((count, len(_PROPERTIES)), "<f4")
            table[:, :3] = points
            table[:, 3:6] = (_color(points, np.where(crate, 1, 0)) - 0.5) / SH_C0
            table[:, 6] = OPACITY_LOGIT
            table[:, 7:10] = np.log(0.6 * SPACING) + rng.normal(0, 0.2, (len(rows), 3))
            table[:, 10:] = rng.normal(size=(count, 4))
            file.write(table.tobytes())


def _on_crates(hall: Hall, count: int, rng: np.random.Generator) -> Array:
    """Points [N, 3] on the top and the four walls of crates."""
    local = rng.uniform(-0.5, 0.5, (count, 3))
    face = rng.integers(0, 5, count)
    axis, end = np.array([0, 0, 1, 1, 2])[face], np.array([-0.5, 0.5, -0.5, 0.5, 0.5])[face]
    local[np.arange(count), axis] = end
    local = CRATE * (local + [0, 0, 0.5])
    local[:, :2] += hall.crates[rng.integers(0, len(hall.crates), count)]
    return np.asarray(local)


def _color(points: Array, kinds: NDArray[np.int64]) -> Array:
    """Of points [..., 3] of kinds [...], floor 0 or crate 1: the floor is chequered by metres, crates by half ones."""
    light = np.floor(points[..., :2]).sum(axis=-1) % 2
    shade = 1 - 0.3 * (np.floor(2 * points).sum(axis=-1) % 2)
    crate, floor = COLORS[2] * shade[..., None], COLORS[light.astype(np.int64)]
    return np.asarray(np.where((kinds == 1)[..., None], crate, floor))


def _poses(side: float, views: int) -> list[Array]:
    """camera_from_world [4, 4]: from places on a circle around the middle, looking across it."""
    poses = []
    for angle in 2 * np.pi * (np.arange(views) + 0.3) / views:
        outward = np.array([np.cos(angle), np.sin(angle), 0.0])
        eye = np.array([side / 2, side / 2, EYE]) + 0.45 * side * outward
        forward = -np.cos(PITCH) * outward - np.sin(PITCH) * np.array([0.0, 0.0, 1.0])
        right = np.cross(forward, [0.0, 0.0, 1.0])
        right /= np.linalg.norm(right)
        rotation = np.stack([right, np.cross(forward, right), forward])
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = rotation, -rotation @ eye
        poses.append(pose)
    return poses


def _seen(hall: Hall, pose: Array, step: int) -> tuple[NDArray[np.int64], Array]:
    """Kinds [rows, columns] (−1 nothing, 0 floor, 1 crate) and colours [rows, columns, 3] at every step-th pixel."""
    x, y = np.meshgrid(np.arange(step / 2, WIDTH, step), np.arange(step / 2, HEIGHT, step))
    directions = np.stack([(x - WIDTH / 2) / FOCAL, (y - HEIGHT / 2) / FOCAL, np.ones_like(x)], axis=-1) @ pose[:3, :3]
    eye = -pose[:3, :3].T @ pose[:3, 3]
    with np.errstate(divide="ignore", invalid="ignore"):
        floor = -eye[2] / directions[..., 2]
        ends = eye + floor[..., None] * directions
        inside = (floor > 0) & ((ends[..., :2] >= 0) & (ends[..., :2] <= hall.side)).all(axis=-1)
        distance = np.where(inside, floor, np.inf)
        kinds = np.where(inside, 0, -1)
        for centre in hall.crates:
            low = np.array([*(centre - CRATE / 2), 0.0])
            first, last = (low - eye) / directions, (low + CRATE - eye) / directions
            near = np.minimum(first, last).max(axis=-1)
            hit = (near <= np.maximum(first, last).min(axis=-1)) & (near > 0) & (near < distance)
            distance, kinds = np.where(hit, near, distance), np.where(hit, 1, kinds)
        points = eye + np.where(np.isfinite(distance), distance, 0)[..., None] * directions
    return kinds, np.where((kinds >= 0)[..., None], _color(points, kinds), 0.0)
