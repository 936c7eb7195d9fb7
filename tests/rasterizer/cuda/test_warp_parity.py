"""The GPU's kernels against the CPU backend at real sizes; where they differ, float64 shows a threshold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from exact_weights import ExactSplats, exact_splats, open_decisions, weight_and_doubt
from numpy.typing import NDArray
from torch import Tensor

from feature_gs_ros import rasterizer
from feature_gs_ros.core.camera import Camera
from feature_gs_ros.core.feature_grid import FeatureGrid, upsample
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.io.alignment import load_alignment
from feature_gs_ros.io.splats.registry import load_map
from feature_gs_ros.io.streams.registry import open_stream

pytest.importorskip("warp")
pytestmark = pytest.mark.slow

CLOSE = 1e-4  # of the largest entry
FLIPS = 1e-3  # of the entries may differ by more: those where an alpha or a transmittance lies on a threshold
LOOKED_AT = 12  # rows in float64: those that differ most, and as many others
MAX_PIXELS = 4000  # of a row that is looked at


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
    splats = exact_splats(gaussians, cpu.visible, camera, pose)
    pixels = flipped.nonzero()[:, [1, 0]].double() + 0.5
    for pixel, decision in zip(pixels, open_decisions(splats, pixels), strict=True):
        assert decision, f"the pixel at {pixel.tolist()} differs, and float64 shows no threshold there"
    for cell in (16, 4):
        grid = FeatureGrid(torch.randn(480 // cell, 640 // cell, 8, generator=torch.Generator().manual_seed(cell)))
        (ours, weight), (theirs, expected) = card.backproject(grid), cpu.backproject(grid)
        assert relative(ours, theirs) <= 1e-3
        assert relative(weight, expected) <= 1e-3
        assert off(ours, theirs).float().mean() <= FLIPS
        assert off(weight[:, None], expected[:, None]).float().mean() <= FLIPS
        assert_explained(splats, (weight, expected), (ours, theirs), float(grid.values.abs().max()))
        v = torch.randn(len(gaussians), 8, generator=torch.Generator().manual_seed(1))
        resampled = upsample(grid, camera.height, camera.width)
        size = (card.render(v.abs()).double() * resampled.abs().double()).sum()
        gap = (card.render(v).double() * resampled.double()).sum() - (v.double() * ours.double()).sum()
        assert abs(gap) < 1e-5 * size


def assert_explained(
    splats: ExactSplats, weight: tuple[Tensor, Tensor], numerator: tuple[Tensor, Tensor], largest: float
) -> None:
    """Rows that differ by more than `CLOSE` of themselves do so within what float32 leaves open, by float64.

    All can't be looked at; those with the greatest differences are, and some others.
    """
    card, cpu = (side[splats.rows].double() for side in weight)
    differ = (card - cpu).abs()
    rows = (differ > CLOSE * cpu + 1e-6).nonzero()[:, 0]
    assert len(rows) <= 0.02 * len(splats.rows)
    chance = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    chosen = {*rows[differ[rows].argsort(descending=True)][:LOOKED_AT].tolist(), *rows[chance][:LOOKED_AT].tolist()}
    doubts = []
    for index in chosen:
        if len(splats.pixels_of(index)) > MAX_PIXELS:
            continue
        exact, doubt = weight_and_doubt(splats, index)
        assert abs(float(card[index]) - exact) <= doubt, f"row {splats.rows[index]}: {card[index]}, exactly {exact}"
        assert abs(float(cpu[index]) - exact) <= doubt, f"row {splats.rows[index]}: {cpu[index]}, exactly {exact}"
        row = splats.rows[index]
        assert float((numerator[0][row] - numerator[1][row]).abs().max()) <= 2 * doubt * largest
        doubts.append(doubt / exact)
    assert float(np.median(doubts)) < 2e-3  # the explanation is none of differences of a percent


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
