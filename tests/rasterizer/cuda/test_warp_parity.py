"""The GPU's kernels against the CPU backend at real sizes; where they differ, float64 shows a threshold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from feature_gs_ros import rasterizer
from feature_gs_ros.core.camera import Camera
from feature_gs_ros.core.feature_grid import FeatureGrid, upsample
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.core.geometry import rotations_from_quats_wxyz
from feature_gs_ros.io.alignment import load_alignment
from feature_gs_ros.io.splats.registry import load_map
from feature_gs_ros.io.streams.registry import open_stream
from feature_gs_ros.rasterizer.conventions import ALPHA_MAX, ALPHA_MIN, EPS2D, TANGENT_MARGIN, TRANSMITTANCE_MIN

pytest.importorskip("warp")
pytestmark = pytest.mark.slow

CLOSE = 1e-4  # of the largest entry
FLIPS = 1e-3  # of the entries may differ by more: those where an alpha or a transmittance lies on a threshold
ON_THRESHOLD = 1e-3  # relative: what float32 makes of an alpha or a transmittance
SAME_DEPTH = 1e-6  # relative: float32 may draw these in either order


def scene(folder: Path) -> tuple[GaussianMap, Camera, NDArray[np.float64]]:
    gaussians = load_map(folder / "map.ply")
    frame = next(iter(open_stream(folder / "stream").frames()))
    pose = load_alignment(folder / "alignment.yaml").camera_from_splat(frame.camera_from_world)
    return gaussians, frame.camera.resized(640, 480), pose


def relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


def off(ours: Tensor, theirs: Tensor) -> Tensor:
    """Rows or pixels in which any entry differs by more than `CLOSE`."""
    return (ours - theirs).abs().amax(dim=-1) > CLOSE * theirs.abs().max()


def check_parity(gaussians: GaussianMap, camera: Camera, pose: NDArray[np.float64]) -> None:
    card, cpu = (rasterizer.view(gaussians, camera, pose, name) for name in ("warp-cpu", "cpu"))
    assert len(set(card.visible.tolist()) ^ set(cpu.visible.tolist())) <= 1e-4 * len(cpu.visible)
    values = torch.randn(len(gaussians), 3, generator=torch.Generator().manual_seed(0))
    pairs = [(card.render(values), cpu.render(values)), (card.render_color(), cpu.render_color())]
    pairs.append((card.render_depth(), cpu.render_depth()))
    flipped = torch.zeros(camera.height, camera.width, dtype=torch.bool)
    for ours, theirs in pairs:
        assert relative(ours, theirs) <= 1e-3
        flipped |= off(ours, theirs)
    assert flipped.float().mean() <= FLIPS
    assert_on_threshold(gaussians, camera, pose, cpu.visible, flipped)
    for cell in (16, 4):
        grid = FeatureGrid(torch.randn(480 // cell, 640 // cell, 8, generator=torch.Generator().manual_seed(cell)))
        (ours, weight), (theirs, expected) = card.backproject(grid), cpu.backproject(grid)
        assert relative(ours, theirs) <= 1e-3
        assert relative(weight, expected) <= 1e-3
        assert off(ours, theirs).float().mean() <= FLIPS
        assert off(weight[:, None], expected[:, None]).float().mean() <= FLIPS
        v = torch.randn(len(gaussians), 8, generator=torch.Generator().manual_seed(1))
        resampled = upsample(grid, camera.height, camera.width)
        size = (card.render(v.abs()).double() * resampled.abs().double()).sum()
        gap = (card.render(v).double() * resampled.double()).sum() - (v.double() * ours.double()).sum()
        assert abs(gap) < 1e-5 * size


def assert_on_threshold(
    gaussians: GaussianMap, camera: Camera, pose: NDArray[np.float64], visible: Tensor, flipped: Tensor
) -> None:
    """In float64, each of these pixels has an alpha or a transmittance on its threshold, or two of equal depth."""
    mean, conic, opacity, depth = splats(gaussians.select(visible), camera, pose)
    for y, x in flipped.nonzero().tolist():
        offset = torch.tensor([x + 0.5, y + 0.5], dtype=torch.float64) - mean
        sigma = 0.5 * torch.einsum("ni,nij,nj->n", offset, conic, offset)
        alpha = (opacity * torch.exp(-sigma)).clamp(max=float(ALPHA_MAX))
        drawn = torch.where(alpha >= float(ALPHA_MIN), alpha, torch.zeros_like(alpha))
        left = torch.cumprod(1 - drawn, dim=0)
        before = left > 0.9 * float(TRANSMITTANCE_MIN)
        skipped = (alpha / float(ALPHA_MIN) - 1).abs()[before].min()
        ended = (left / float(TRANSMITTANCE_MIN) - 1).abs().min()
        behind = depth[(drawn > 0) & before]
        apart = (behind.diff() / behind[1:]).min()
        assert min(float(skipped), float(ended)) < ON_THRESHOLD or apart < SAME_DEPTH, (
            f"pixel {x}, {y} differs: alphas are {skipped:g} from their threshold, transmittances {ended:g}, depths "
            f"{apart:g} from each other"
        )


def splats(gaussians: GaussianMap, camera: Camera, pose: NDArray[np.float64]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Means [V, 2], conics [V, 2, 2], opacities and depths [V] front to back, in float64 from the definitions."""
    rotation, shift = torch.from_numpy(pose[:3, :3]), torch.from_numpy(pose[:3, 3])
    x, y, z = (gaussians.means.double() @ rotation.T + shift).unbind(1)
    margin_x, margin_y = TANGENT_MARGIN * camera.width, TANGENT_MARGIN * camera.height
    tangents = (
        (x / z).clamp(-(camera.cx + margin_x) / camera.fx, (camera.width - camera.cx + margin_x) / camera.fx),
        (y / z).clamp(-(camera.cy + margin_y) / camera.fy, (camera.height - camera.cy + margin_y) / camera.fy),
    )
    jacobian = torch.zeros(len(z), 2, 3, dtype=torch.float64)
    jacobian[:, 0, 0], jacobian[:, 1, 1] = camera.fx / z, camera.fy / z
    jacobian[:, 0, 2], jacobian[:, 1, 2] = -camera.fx / z * tangents[0], -camera.fy / z * tangents[1]
    axes = rotations_from_quats_wxyz(gaussians.quats_wxyz.double()) * gaussians.scales.double()[:, None, :]
    half = jacobian @ rotation @ axes
    covariance = half @ half.transpose(1, 2) + float(EPS2D) * torch.eye(2, dtype=torch.float64)
    mean = torch.stack([camera.fx * x / z + camera.cx, camera.fy * y / z + camera.cy], 1)
    order = torch.argsort(z, stable=True)
    return mean[order], torch.linalg.inv(covariance)[order], gaussians.opacities.double()[order], z[order]


def test_a_synthetic_scene_at_full_size(small_scene: Path) -> None:
    check_parity(*scene(small_scene))


def test_the_recorded_tabletop_at_full_size(tabletop: Path) -> None:
    check_parity(*scene(tabletop))


def test_gradients_of_a_synthetic_scene(small_scene: Path) -> None:
    gaussians, camera, pose = scene(small_scene)
    camera = camera.resized(320, 240)
    found = []
    for name in ("warp-cpu", "cpu"):
        columns = (gaussians.means, gaussians.quats_wxyz, gaussians.scales, gaussians.opacities, gaussians.sh)
        extra = torch.randn(len(gaussians), 3, generator=torch.Generator().manual_seed(0))
        leaves = [column.clone().requires_grad_() for column in (*columns, extra)]
        means2d = torch.zeros(len(gaussians), 2, requires_grad=True)
        drawn = rasterizer.get_backend(name).render_with_gradients(*leaves[:5], camera, pose, leaves[5], means2d)
        generator = torch.Generator().manual_seed(1)
        loss = (drawn.color * torch.randn(drawn.color.shape, generator=generator)).sum()
        loss = loss + (drawn.opacity * torch.randn(drawn.opacity.shape, generator=generator)).sum()
        assert drawn.extra is not None
        (loss + (drawn.extra * torch.randn(drawn.extra.shape, generator=generator)).sum()).backward()
        found.append([leaf.grad for leaf in (*leaves, means2d)])
    for ours, theirs in zip(*found, strict=True):
        assert ours is not None
        assert theirs is not None
        assert relative(ours, theirs) < 5e-3
