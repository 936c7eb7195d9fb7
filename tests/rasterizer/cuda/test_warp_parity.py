"""The GPU's kernels against the CPU backend at real sizes; where they differ, float64 shows a threshold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from exact_weights import ExactWeights, cell_labels, exact_weights
from numpy.typing import NDArray
from torch import Tensor

from feature_gs_ros import rasterizer
from feature_gs_ros.core.camera import Camera
from feature_gs_ros.core.feature_grid import FeatureGrid, upsample
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.io.alignment import load_alignment
from feature_gs_ros.io.splats.registry import load_map
from feature_gs_ros.io.streams.registry import open_stream
from feature_gs_ros.rasterizer import View

pytest.importorskip("warp")
pytestmark = pytest.mark.slow

CLOSE = 1e-4  # relative, for all but `FLIPS` of the entries
FLIPS = 1e-3


def scene(folder: Path) -> tuple[GaussianMap, Camera, NDArray[np.float64]]:
    gaussians = load_map(folder / "map.ply")
    frame = next(iter(open_stream(folder / "stream").frames()))
    pose = load_alignment(folder / "alignment.yaml").camera_from_splat(frame.camera_from_world)
    return gaussians, frame.camera.resized(640, 480), pose


def relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


def off(ours: Tensor, theirs: Tensor) -> Tensor:
    """Which entries differ by more than `CLOSE` of themselves."""
    return (ours - theirs).abs() > CLOSE * torch.maximum(ours.abs(), theirs.abs())


def check_parity(gaussians: GaussianMap, camera: Camera, pose: NDArray[np.float64]) -> None:
    card, cpu = (rasterizer.view(gaussians, camera, pose, name) for name in ("warp-cpu", "cpu"))
    assert set(card.visible.tolist()) == set(cpu.visible.tolist())
    exact = exact_weights(gaussians, camera, pose)
    check_entries(exact, card, cpu)
    undecided = torch.from_numpy(exact.undecided)
    for ours, theirs in ((card.render_color(), cpu.render_color()), (card.render_depth(), cpu.render_depth())):
        assert relative(ours, theirs) <= 1e-3
        assert off(ours, theirs).float().mean() <= FLIPS
        flipped = ((ours - theirs).abs() > CLOSE * theirs.abs().max()).any(dim=-1)
        assert not bool((flipped & ~undecided).any())
    values = torch.randn(len(gaussians), 8, generator=torch.Generator().manual_seed(1))
    assert relative(card.render(values), cpu.render(values)) <= 1e-3
    for cell in (16, 4):
        grid = FeatureGrid(torch.randn(480 // cell, 640 // cell, 8, generator=torch.Generator().manual_seed(cell)))
        (ours, weight), (theirs, expected) = card.backproject(grid), cpu.backproject(grid)
        assert relative(ours, theirs) <= 1e-3
        assert relative(weight, expected) <= 1e-3
        assert off(weight, expected).float().mean() <= FLIPS
        resampled = upsample(grid, camera.height, camera.width)
        size = (card.render(values.abs()).double() * resampled.abs().double()).sum()
        gap = (card.render(values).double() * resampled.double()).sum() - (values.double() * ours.double()).sum()
        assert abs(gap) < 1e-5 * size


def check_entries(exact: ExactWeights, card: View, cpu: View) -> None:
    """Every Gaussian's weight in every cell: within `CLOSE` of itself but for `FLIPS`; and each of them, those too,
    within what float64 says that rounding and undecided thresholds leave open."""
    found = {name: entries(exact, view) for name, view in (("card", card), ("cpu", cpu))}
    seen = torch.maximum(*found.values()) > 0
    assert off(*found.values())[seen].double().mean() <= FLIPS
    weight, doubt = torch.from_numpy(exact.weight), torch.from_numpy(exact.doubt)
    for name, ours in found.items():
        wrong = ((ours - weight).abs() > doubt).nonzero()[:, 0]
        assert len(wrong) == 0, (
            f"{name}: rows {exact.rows[wrong[:5]]} have {ours[wrong[:5]]}, exactly {weight[wrong[:5]]}"
        )
    # The explanation is none: it is narrow, and holds for few.
    assert float((doubt / weight)[weight > 0].median()) < 5e-4
    assert float((exact.hanging > CLOSE * exact.weight)[exact.weight > 0].mean()) < 0.05


def entries(exact: ExactWeights, view: View) -> Tensor:
    """A view's weights [E] at the exact ones' places; there are no others."""
    labels = cell_labels(view.camera)
    count = int(labels.max()) + 1
    places = exact.rows * count + exact.cells
    order = np.argsort(places)
    ours = view.backproject_labels(labels, count).tocoo()
    kept = ours.data > 0
    wanted = ours.row[kept].astype(np.int64) * count + ours.col[kept]
    index = order[np.searchsorted(places, wanted, sorter=order).clip(max=len(order) - 1)]
    assert (places[index] == wanted).all()
    return torch.zeros(len(places), dtype=torch.float64).index_add_(
        0, torch.from_numpy(index), torch.from_numpy(ours.data[kept].astype(np.float64))
    )


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
