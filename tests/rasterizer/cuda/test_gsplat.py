"""Projection and spherical harmonics against gsplat's own torch reference, which runs without a card."""

from __future__ import annotations

import pytest
import torch
from conftest import random_camera, random_map

from feature_gs_ros import rasterizer

pytestmark = pytest.mark.slow

reference = pytest.importorskip("gsplat.cuda._torch_impl")
view_module = pytest.importorskip("feature_gs_ros.rasterizer.cuda.view", exc_type=ImportError)


@pytest.mark.parametrize("seed", range(4))
def test_splats_are_those_of_gsplat(seed: int) -> None:
    gaussians, (camera, pose) = random_map(seed, 500), random_camera(seed)
    view = rasterizer.view(gaussians, camera, pose, "warp-cpu")
    assert isinstance(view, view_module.CudaView)
    covariances, _ = reference._quat_scale_to_covar_preci(gaussians.quats_wxyz, gaussians.scales, compute_preci=False)
    view_matrix, intrinsics = torch.from_numpy(pose).float()[None], torch.from_numpy(camera.matrix).float()[None]
    radii, means, depths, conics, _ = reference._fully_fused_projection(
        gaussians.means, covariances, view_matrix, intrinsics, camera.width, camera.height
    )
    rows, splats = view.visible, view.projection.splats
    assert (radii[0, rows] > 0).all()  # ours are tighter, by opacity: what we draw, gsplat draws
    assert torch.allclose(splats[:, :2], means[0, rows], rtol=1e-4, atol=2e-3)
    scale = conics[0, rows].abs().amax(dim=1, keepdim=True)
    assert ((splats[:, 2:5] - conics[0, rows]).abs() <= 2e-3 * scale).all()
    assert torch.allclose(view.projection.depths, depths[0, rows], rtol=1e-5)


@pytest.mark.parametrize("degree", range(4))
def test_colours_are_those_of_gsplat(degree: int) -> None:
    gaussians, (camera, pose) = random_map(degree, 100, degree), random_camera(degree)
    drawn = rasterizer.view(gaussians, camera, pose, "warp-cpu").render_color()
    eye = torch.from_numpy(-pose[:3, :3].T @ pose[:3, 3]).float()
    colors = reference._spherical_harmonics(degree, gaussians.means - eye, gaussians.sh) + 0.5
    expected = rasterizer.view(gaussians, camera, pose, "warp-cpu").render(colors.clamp_min(0.0))
    assert torch.allclose(drawn, expected, atol=1e-4)
