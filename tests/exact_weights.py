"""W of a view in float64 from its definitions, and how far float32 may be from each entry: by rounding, or by decisions
that rounding may turn, where an alpha or a transmittance lies on its threshold or two Gaussians have one depth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from feature_gs_ros.core.camera import Camera
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.core.geometry import rotations_from_quats_wxyz
from feature_gs_ros.rasterizer.conventions import (
    ALPHA_MAX,
    ALPHA_MIN,
    NEAR_PLANE,
    TANGENT_MARGIN,
    TRANSMITTANCE_MIN,
)

CELL = 16  # px: an entry is a Gaussian's weight in one cell, Wᵀ L of a label image with a label per cell
EPS = 2.0**-24  # float32's relative rounding
ROUNDINGS = 32 * EPS  # of a splat's conic, and of the terms of σ
EXP = 4e-6  # relative, what exp(−σ) may be off: the CPU's polynomial
MAX_DET = 1e37

Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]
_compiled: Any = numba.njit(nogil=True)


@dataclass(frozen=True, eq=False)
class ExactWeights:
    """Entries of W summed over cells, by cell and there front to back; and where single pixels are undecided."""

    rows: Ints  # [E] of the map
    cells: Ints  # [E] row by row
    weight: Doubles  # [E] Σ_p w
    rounding: Doubles  # [E] how far rounding alone may move it
    hanging: Doubles  # [E] how much of it hangs on decisions that rounding may turn
    undecided: NDArray[np.bool_]  # [H, W] pixels with such decisions

    @property
    def doubt(self) -> Doubles:
        return self.rounding + self.hanging


def cell_labels(camera: Camera) -> NDArray[np.int32]:
    """The label image [H, W] of the cells."""
    y, x = np.mgrid[: camera.height, : camera.width] // CELL
    return np.asarray(y * -(-camera.width // CELL) + x, np.int32)


def exact_weights(gaussians: GaussianMap, camera: Camera, pose: Doubles) -> ExactWeights:
    rows, splats, depths = _splats(gaussians, camera, pose)
    columns, lines = -(-camera.width // CELL), -(-camera.height // CELL)
    low = np.floor((splats[:, :2] - splats[:, 14:16]) / CELL).astype(np.int64).clip(0)
    high = np.minimum(np.floor((splats[:, :2] + splats[:, 14:16]) / CELL).astype(np.int64), (columns - 1, lines - 1))
    shape = (high - low + 1).clip(0)
    counts = shape[:, 0] * shape[:, 1]
    splat = np.repeat(np.arange(len(rows)), counts)
    inside = np.arange(len(splat)) - np.repeat(counts.cumsum() - counts, counts)
    across = shape[splat, 0]
    cells = (low[splat, 1] + inside // across) * columns + low[splat, 0] + inside % across
    order = np.argsort(cells, kind="stable")  # splats are front to back already
    splat, cells = splat[order], cells[order]
    begins = np.searchsorted(cells, np.arange(columns * lines + 1))
    sums = np.zeros((len(splat), 3))
    undecided = np.zeros((camera.height, camera.width), np.bool_)
    _walk(begins, splat, splats, depths, columns, sums, undecided)
    return ExactWeights(rows[splat], cells, *sums.T, undecided)


def _splats(gaussians: GaussianMap, camera: Camera, pose: Doubles) -> tuple[Ints, Doubles, Doubles]:
    """Rows, splats [V, 16] and depths, front to back, of the Gaussians that can touch the image.

    Columns: mean; conic a, b, c; opacity; |J₀|, |J₁| and |s|, which bound the entries of the matrix J R S that rounding
    moves; that matrix's roundings; relative rounding of its determinant and of the opacity; √Σ_xx √Σ_yy … (unused: 0);
    reach on the image.
    """
    columns = (gaussians.means, gaussians.scales, gaussians.opacities)
    means, scales, opacities = (column.double().numpy() for column in columns)
    turns = rotations_from_quats_wxyz(gaussians.quats_wxyz.double()).numpy()
    terms = np.abs(means) @ np.abs(pose[:3, :3]).T + np.abs(pose[:3, 3])
    x, y, z = (means @ pose[:3, :3].T + pose[:3, 3]).T
    front = (z >= float(NEAR_PLANE)) & (opacities >= float(ALPHA_MIN))
    z = np.where(front, z, 1.0)
    jacobian = np.zeros((len(z), 2, 3))
    lens = ((x, camera.fx, camera.cx, camera.width), (y, camera.fy, camera.cy, camera.height))
    for axis, (along, focal, centre, size) in enumerate(lens):
        margin = TANGENT_MARGIN * size
        jacobian[:, axis, axis] = focal / z
        tangent = np.clip(along / z, (-centre - margin) / focal, (size - centre + margin) / focal)
        jacobian[:, axis, 2] = -focal / z * tangent
    half = jacobian @ pose[:3, :3] @ turns * scales[:, None, :]
    sharp = half @ half.transpose(0, 2, 1)
    covariance = sharp + gaussians.blur * np.eye(2)
    determinant, flat = np.linalg.det(covariance), np.linalg.det(sharp).clip(0.0)
    product = np.sqrt(sharp[:, 0, 0] * sharp[:, 1, 1])
    if gaussians.antialiased:
        opacities = opacities * np.sqrt(flat / determinant)
    visible = opacities >= float(ALPHA_MIN)
    reach = np.sqrt(2 * np.log(np.maximum(opacities / float(ALPHA_MIN), 1.0)))[:, None] * np.sqrt(
        np.diagonal(covariance, axis1=1, axis2=2)
    )
    splats = np.zeros((len(z), 16))
    splats[:, 0], splats[:, 1] = camera.fx * x / z + camera.cx, camera.fy * y / z + camera.cy
    inverse = np.linalg.inv(covariance)
    splats[:, 2], splats[:, 3], splats[:, 4] = inverse[:, 0, 0], inverse[:, 0, 1], inverse[:, 1, 1]
    splats[:, 5] = opacities
    splats[:, 6:8] = np.linalg.norm(jacobian, axis=2)
    splats[:, 8] = np.linalg.norm(scales, axis=1)
    splats[:, 9] = ROUNDINGS + 4 * EPS * terms[:, 2] / z  # the pose's roundings, and those of z
    splats[:, 10] = ROUNDINGS * (1 + product * np.sqrt(flat) / determinant)  # |u × v|² of nearly parallel u, v cancels
    if gaussians.antialiased:
        splats[:, 11] = ROUNDINGS * product / np.sqrt(flat).clip(1e-30)
    splats[:, 12:14] = np.diagonal(sharp, axis1=1, axis2=2)
    splats[:, 14:16] = reach + 0.01
    size = np.array([camera.width, camera.height])
    touches = (splats[:, :2] + splats[:, 14:16] > 0) & (splats[:, :2] - splats[:, 14:16] < size)
    kept = np.flatnonzero(front & visible & touches.all(axis=1))
    kept = kept[np.argsort(z[kept], kind="stable")]
    return kept, np.ascontiguousarray(splats[kept]), z[kept]


@_compiled
def _alpha(splats: Any, i: int, x: float, y: float) -> Any:
    """α before its threshold; by how much, relative, float32 may be off; whether its σ < 0 may say that there is none.

    An error E of J R S, of entries ≤ k (|J₀|, |J₁|) |s|, moves σ by ≤ k (|J₀| |q_x| + |J₁| |q_y|) |s| √(2σ), q = Σ⁻¹ d.
    """
    dx, dy = x - splats[i, 0], y - splats[i, 1]
    a, b, c = splats[i, 2], splats[i, 3], splats[i, 4]
    squares, mixed = 0.5 * (a * dx * dx + c * dy * dy), b * dx * dy
    sigma = squares + mixed
    q_x, q_y = abs(a * dx + b * dy), abs(b * dx + c * dy)
    moved = splats[i, 9] * (splats[i, 6] * q_x + splats[i, 7] * q_y) * splats[i, 8] * np.sqrt(2 * max(sigma, 0.0))
    moved += sigma * splats[i, 10] + ROUNDINGS * (squares + abs(mixed))
    moved += EPS * (abs(splats[i, 0]) * q_x + abs(splats[i, 1]) * q_y)  # means are rounded once
    alpha = splats[i, 5] * np.exp(-sigma)
    return min(alpha, float(ALPHA_MAX)), moved + splats[i, 11] + EXP, sigma < ROUNDINGS * (squares + abs(mixed))


@_compiled
def _tied(splats: Any, depths: Any, listed: Any, entry: int, begin: int, end: int, x: float, y: float) -> float:
    """Σ α / (1 − α) of the others that float32 may draw before or after an entry."""
    depth, total = depths[listed[entry]], 0.0
    for step in (-1, 1):
        k = entry + step
        while begin <= k < end and abs(depths[listed[k]] - depth) <= 4 * EPS * depth:
            alpha, _, _ = _alpha(splats, listed[k], x, y)
            if alpha >= 0.99 * float(ALPHA_MIN):
                total += alpha / (1 - alpha)
            k += step
    return total


@_compiled
def _walk(begins: Any, listed: Any, splats: Any, depths: Any, columns: int, sums: Any, undecided: Any) -> None:
    """Each cell's pixels, front to back, as the rays of `conventions` go; adds up weight, rounding and what hangs.

    ``lives``: the exact ray is not at its end; ``may_live``, ``may_be_over``: what float32 may think of it.
    """
    least, threshold = float(ALPHA_MIN), float(TRANSMITTANCE_MIN)
    for cell in range(len(begins) - 1):
        begin, end = begins[cell], begins[cell + 1]
        y0, x0 = cell // columns * CELL, cell % columns * CELL
        for row in range(y0, min(y0 + CELL, undecided.shape[0])):
            for column in range(x0, min(x0 + CELL, undecided.shape[1])):
                x, y, left, drift, hangs = column + 0.5, row + 0.5, 1.0, 0.0, 0.0
                lives, may_live, may_be_over = True, True, False
                for entry in range(begin, end):
                    if not (lives or may_live):
                        break
                    i = listed[entry]
                    if abs(x - splats[i, 0]) > splats[i, 14] or abs(y - splats[i, 1]) > splats[i, 15]:
                        continue
                    alpha, off, no_sign = _alpha(splats, i, x, y)
                    if alpha < least * (1 - off):
                        continue
                    turns = alpha < least * (1 + off) or no_sign
                    drawn = alpha >= least
                    mine, after, odds = alpha * left, left * (1 - alpha), alpha / (1 - alpha)
                    tie = _tied(splats, depths, listed, entry, begin, end, x, y)
                    margin = drift + hangs + off * odds + tie + 4 * EPS
                    height = np.log(after / threshold)
                    open_end = abs(height) <= margin
                    ends = drawn and after <= threshold
                    if lives and drawn and not ends:
                        sums[entry, 0] += mine
                    if height >= -margin or turns:
                        sums[entry, 1] += mine * (off + drift + 16 * EPS)
                        if turns or open_end or may_be_over or not lives:
                            sums[entry, 2] += mine
                        else:
                            sums[entry, 2] += mine * min(hangs + tie, 1.0)
                    undecided[row, column] |= turns or open_end or tie > 0
                    may_be_over |= height < margin and (drawn or turns)
                    if ends:
                        lives = False
                        may_live &= open_end or turns
                    if turns:
                        hangs += odds
                    if drawn:
                        drift += off * odds + EPS
                        if not (ends and turns):
                            left = after
