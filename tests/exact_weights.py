"""W in float64 from its definitions, and how far float32 may be from it: what rounding and thresholds leave open."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feature_gs_ros.core.camera import Camera
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.core.geometry import rotations_from_quats_wxyz
from feature_gs_ros.rasterizer.conventions import ALPHA_MAX, ALPHA_MIN, EPS2D, TANGENT_MARGIN, TRANSMITTANCE_MIN

SAME_DEPTH = 1e-6  # relative: float32 may draw these in either order
ROUNDING = 2.0**-19  # of the terms of σ: some thirty roundings
SHIFT = 1e-4  # px by which float32 may misplace a mean
ON_TRANSMITTANCE = 1e-3  # relative: what float32 makes of a product of many factors
STEP = 1 << 21  # pixels × Gaussians at once


@dataclass(frozen=True, eq=False)
class ExactSplats:
    """The splats of some rows of a map, front to back, in float64."""

    rows: Tensor  # [V] of the map
    mean: Tensor  # [V, 2] px
    conic: Tensor  # [V, 2, 2]
    opacity: Tensor  # [V]
    depth: Tensor  # [V]
    reach: Tensor  # [V, 2] px around the mean: beyond it α < 1/255
    size: tuple[int, int]  # of the image, width and height

    def pixels_of(self, index: int) -> Tensor:
        """Centres [P, 2] of the image's pixels that a splat can touch."""
        first = (self.mean[index] - self.reach[index]).floor().long().clamp_min(0).tolist()
        end = torch.minimum((self.mean[index] + self.reach[index]).ceil().long(), torch.tensor(self.size)).tolist()
        rows, columns = torch.meshgrid(
            torch.arange(first[1], max(first[1], end[1])), torch.arange(first[0], max(first[0], end[0])), indexing="ij"
        )
        return torch.stack([columns, rows], dim=-1).reshape(-1, 2).double() + 0.5


def exact_splats(gaussians: GaussianMap, rows: Tensor, camera: Camera, pose: NDArray[np.float64]) -> ExactSplats:
    chosen = gaussians.select(rows)
    rotation, shift = torch.from_numpy(pose[:3, :3]), torch.from_numpy(pose[:3, 3])
    x, y, z = (chosen.means.double() @ rotation.T + shift).unbind(1)
    margin_x, margin_y = TANGENT_MARGIN * camera.width, TANGENT_MARGIN * camera.height
    tangents = (
        (x / z).clamp(-(camera.cx + margin_x) / camera.fx, (camera.width - camera.cx + margin_x) / camera.fx),
        (y / z).clamp(-(camera.cy + margin_y) / camera.fy, (camera.height - camera.cy + margin_y) / camera.fy),
    )
    jacobian = torch.zeros(len(z), 2, 3, dtype=torch.float64)
    jacobian[:, 0, 0], jacobian[:, 1, 1] = camera.fx / z, camera.fy / z
    jacobian[:, 0, 2], jacobian[:, 1, 2] = -camera.fx / z * tangents[0], -camera.fy / z * tangents[1]
    axes = rotations_from_quats_wxyz(chosen.quats_wxyz.double()) * chosen.scales.double()[:, None, :]
    half = jacobian @ rotation @ axes
    covariance = half @ half.transpose(1, 2) + float(EPS2D) * torch.eye(2, dtype=torch.float64)
    opacity = chosen.opacities.double()
    reach = (2 * torch.log((opacity / float(ALPHA_MIN)).clamp_min(1))).sqrt()[:, None] * covariance.diagonal(
        dim1=1, dim2=2
    ).sqrt()
    mean = torch.stack([camera.fx * x / z + camera.cx, camera.fy * y / z + camera.cy], 1)
    order = torch.argsort(z, stable=True)
    columns = (rows, mean, torch.linalg.inv(covariance), opacity, z, reach + 0.01)
    return ExactSplats(*(column[order] for column in columns), (camera.width, camera.height))


def alphas(splats: ExactSplats, chosen: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """α [P, M] of the chosen splats at pixels, before the cut at 1/255; and by how much, relative, float32 may be off.

    The latter is what rounding makes of the terms of σ, which cancel for slanted splats, and of the mean.
    """
    away = pixels[:, None] - splats.mean[chosen]
    conic = splats.conic[chosen]
    a, b, c = conic[:, 0, 0], conic[:, 0, 1], conic[:, 1, 1]
    dx, dy = away.unbind(-1)
    squares, mixed = 0.5 * (a * dx * dx + c * dy * dy), b * dx * dy
    slope = ((a * dx + b * dy) ** 2 + (b * dx + c * dy) ** 2).sqrt()
    alpha = (splats.opacity[chosen] * torch.exp(-squares - mixed)).clamp(max=float(ALPHA_MAX))
    return alpha, ROUNDING * (squares + mixed.abs() + 1) + SHIFT * slope


def weight_and_doubt(splats: ExactSplats, index: int) -> tuple[float, float]:
    """Σ_p w(p) of a splat, and by how much float32 may be off.

    Rounding alone moves each weight a little. Where an alpha or a transmittance lies on its threshold, or two splats
    have the same depth, float32 may decide either way, and the weight is off by all that hangs on it.
    """
    pixels = splats.pixels_of(index)
    if len(pixels) == 0:
        return 0.0, 0.0
    low, high = pixels.amin(0) - 0.5, pixels.amax(0) + 0.5
    overlaps = ((splats.mean + splats.reach > low) & (splats.mean - splats.reach < high)).all(dim=1)
    depth = splats.depth[index]
    chosen = (overlaps & (splats.depth <= depth * (1 + SAME_DEPTH))).nonzero()[:, 0]
    own = int((chosen == index).nonzero()[0, 0])
    level = (splats.depth[chosen] - depth).abs() <= SAME_DEPTH * depth
    others = torch.arange(len(chosen)) != own
    weight = doubt = 0.0
    for part in pixels.split(max(1, STEP // len(chosen))):
        alpha, off = alphas(splats, chosen, part)
        drawn = alpha * (alpha >= float(ALPHA_MIN))
        left = torch.cumprod(1 - drawn, dim=1)
        before = torch.cat([torch.ones(len(part), 1, dtype=torch.float64), left[:, :-1]], dim=1)
        mine = alpha[:, own] * before[:, own]  # as if no threshold were there
        lives = before > 0.9 * float(TRANSMITTANCE_MIN)
        weights = mine * (drawn[:, own] > 0) * (left[:, own] > float(TRANSMITTANCE_MIN))
        on_edge = torch.log(alpha / float(ALPHA_MIN)).abs() < off
        ends = ((left / float(TRANSMITTANCE_MIN) - 1).abs() < ON_TRANSMITTANCE).any(dim=1)
        hanging = torch.zeros_like(mine)
        hanging += on_edge[:, own] | ends
        hanging += (on_edge * alpha * lives * others).sum(dim=1) + (drawn / (1 - drawn) * level * others).sum(dim=1)
        smooth = off[:, own] + (drawn / (1 - drawn) * off * others).sum(dim=1)
        weight += float(weights.sum())
        doubt += float(((hanging + smooth) * mine * lives[:, own]).sum())
    return weight, doubt


def open_decisions(splats: ExactSplats, pixels: Tensor) -> list[str]:
    """What float32 may decide either way at each of some pixels: an alpha, a transmittance, an order; "" where nothing.

    Only splats that a ray can still meet count.
    """
    found = []
    every = torch.arange(len(splats.rows))
    for pixel in pixels:
        alpha, off = (column[0] for column in alphas(splats, every, pixel[None]))
        drawn = alpha * (alpha >= float(ALPHA_MIN))
        left = torch.cumprod(1 - drawn, dim=0)
        lives = left > 0.9 * float(TRANSMITTANCE_MIN)
        depth = splats.depth[(drawn > 0) & lives]
        reasons = {
            "alpha": bool(((torch.log(alpha / float(ALPHA_MIN)).abs() < off) & lives).any()),
            "transmittance": bool(((left / float(TRANSMITTANCE_MIN) - 1).abs() < ON_TRANSMITTANCE).any()),
            "order": bool((depth.diff() <= SAME_DEPTH * depth[1:]).any()),
        }
        found.append(" ".join(name for name, there in reasons.items() if there))
    return found
