"""What a view projects: the plain equations in float64 find the same Gaussians, whatever is skipped on the way."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import random_camera, random_map
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from feature_gs_ros.core.camera import Camera
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.core.geometry import rotations_from_quats_wxyz
from feature_gs_ros.numerics import runtime as kernels
from feature_gs_ros.numerics.simd import SIZE
from feature_gs_ros.rasterizer.cpu.arrays import Geometry
from feature_gs_ros.rasterizer.cpu.order import spatial_order
from feature_gs_ros.rasterizer.cpu.projection import Projection, blocks_in_view, project, project_arrays

Doubles = NDArray[np.float64]


def along_curve(gaussians: GaussianMap, camera: Camera, pose: Doubles) -> Projection:
    """The map's Gaussians in the order of its curve, none skipped."""
    curve = spatial_order(gaussians)
    return project_arrays(Geometry(curve.means, curve.quats_wxyz, curve.scales, curve.opacities), camera, pose)


def footprints(gaussians: GaussianMap, camera: Camera, pose: Doubles) -> tuple[Doubles, Doubles, Doubles, Doubles]:
    """In float64, of every row: depth, mean [N, 2], covariance [N, 2, 2] and where α = 1/255, [N, 2] px around it."""
    points = gaussians.means.double().numpy() @ pose[:3, :3].T + pose[:3, 3]
    z, focal = points[:, 2], np.array([camera.fx, camera.fy])
    centre, size = np.array([camera.cx, camera.cy]), np.array([camera.width, camera.height])
    tangents = points[:, :2] / z[:, None]
    clamped = tangents.clip(-(centre + 0.15 * size) / focal, (size - centre + 0.15 * size) / focal)
    jacobian = np.zeros((len(z), 2, 3))
    jacobian[:, [0, 1], [0, 1]] = focal / z[:, None]
    jacobian[:, :, 2] = -focal * clamped / z[:, None]
    axes = (
        rotations_from_quats_wxyz(gaussians.quats_wxyz.double()).numpy() * gaussians.scales.double().numpy()[:, None, :]
    )
    half = jacobian @ pose[:3, :3] @ axes
    covariance = half @ half.transpose(0, 2, 1) + 0.3 * np.eye(2)
    extent = np.sqrt(2 * np.log(np.maximum(255 * gaussians.opacities.double().numpy(), 1)))
    radius = extent[:, None] * np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    return z, tangents * focal + centre, covariance, radius


def check_against_definition(gaussians: GaussianMap, camera: Camera, pose: Doubles) -> Projection:
    """The projection holds what touches the image and nothing else, but for what only grazes it."""
    found = project(gaussians, camera, pose)
    with np.errstate(all="ignore"):  # behind the camera
        z, mean, _, radius = footprints(gaussians, camera, pose)
        size = np.array([camera.width, camera.height])
        inside = np.minimum(mean + radius, size - mean + radius).min(axis=1)  # px by which it reaches into the image
        drawn = (z >= 0.01) & (gaussians.opacities.numpy() >= np.float32(1 / 255))
        grazing = np.maximum(0.01, 1e-3 * radius.max(axis=1)) + 1e-4 * np.abs(mean).max(axis=1)
        near = np.abs(z - 0.01) < 1e-5
    there = np.zeros(len(gaussians), bool)
    there[found.rows] = True
    assert not (drawn & (inside > grazing) & ~near & ~there).any()
    assert not (there & ~near & ~(drawn & (inside > -grazing))).any()
    return found


def anywhere(seed: int, gaussians: GaussianMap) -> tuple[Camera, Doubles]:
    """A camera within the cloud or around it, of any lens: wide or narrow, fx ≠ fy, the centre outside the image."""
    rng = np.random.default_rng(seed)
    width, height = (int(n) for n in rng.integers(1, [200, 120]))
    fx, fy = np.exp(rng.uniform(np.log(0.1), np.log(8), 2)) * width
    camera = Camera(width, height, fx, fy, *(rng.uniform(-0.5, 1.5, 2) * [width, height]))
    _, pose = random_camera(seed)
    eye = gaussians.means[int(rng.integers(len(gaussians)))].double().numpy() + rng.normal(0, 1, 3) * rng.choice([0, 3])
    pose[:3, 3] = -pose[:3, :3] @ eye
    return camera, pose


def round_map(seed: int, count: int) -> GaussianMap:
    """Round, opaque, of all sizes, on a few sheets and lines: every bound is reached, and blocks are short."""
    rng = np.random.default_rng(seed)
    means = rng.uniform(-3, 3, (count, 3))
    means[: count // 2, 0], means[count // 3 : count // 2, 1] = 1.0, rng.choice([-2, 0, 2])
    scales = np.exp(rng.uniform(np.log(1e-3), np.log(1), (count, 1))).repeat(3, axis=1)
    return GaussianMap.from_tensors(
        torch.from_numpy(means),
        torch.from_numpy(rng.normal(size=(count, 4))),
        torch.from_numpy(scales),
        torch.ones(count),
        torch.zeros(count, 1, 3),
    )


@settings(deadline=None, max_examples=150)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 700), opaque=st.booleans())
@example(seed=0, count=1, opaque=True)
@example(seed=0, count=SIZE, opaque=True)
@example(seed=0, count=SIZE + 1, opaque=False)
def test_every_gaussian_that_touches_the_image_is_found(seed: int, count: int, opaque: bool) -> None:
    gaussians = round_map(seed, count) if opaque else random_map(seed, count)
    camera, pose = anywhere(seed, gaussians)
    found = check_against_definition(gaussians, camera, pose)
    same_bits(found, along_curve(gaussians, camera, pose))


def same_bits(found: Projection, plain: Projection) -> None:
    for name in ("indices", "splats", "depths", "order"):
        np.testing.assert_array_equal(getattr(found, name), getattr(plain, name), name)


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10**6), distance=st.sampled_from([1e4, 1e7, 1e8]))
def test_nothing_is_lost_far_from_the_origin(seed: int, distance: float) -> None:
    """Where float32 hardly tells places apart, the bounds of blocks don't either."""
    near = round_map(seed, 500)
    shift = np.random.default_rng(seed).normal(size=3) * distance
    gaussians = GaussianMap.from_tensors(
        near.means + torch.from_numpy(shift).float(), near.quats_wxyz, near.scales, near.opacities, near.sh
    )
    camera, pose = anywhere(seed, gaussians)
    same_bits(project(gaussians, camera, pose), along_curve(gaussians, camera, pose))


def test_blocks_outside_the_view_are_skipped_and_no_others() -> None:
    """A long wall, of which a camera sees a tenth."""
    rng = np.random.default_rng(0)
    count = 16_000
    means = np.column_stack([rng.uniform(-10, 10, count), rng.uniform(-1, 1, count), np.zeros(count)])
    gaussians = GaussianMap.from_tensors(
        torch.from_numpy(means),
        torch.tensor([[1.0, 0, 0, 0]]).expand(count, 4),
        torch.full((count, 3), 0.002),
        torch.full((count,), 0.9),
        torch.zeros(count, 1, 3),
    )
    pose = np.eye(4)
    pose[2, 3] = 1.0
    camera = Camera(100, 100, 50, 50, 50, 50)  # sees |x| < 1
    blocks = spatial_order(gaussians).blocks
    seen = blocks_in_view(blocks, camera, pose)
    middle = np.abs((blocks.low + blocks.high)[:, 0] / 2) < 1
    assert set(np.flatnonzero(middle)) <= set(seen.tolist())
    assert len(seen) < 1.3 * middle.sum()
    assert len(check_against_definition(gaussians, camera, pose)) > 1500
    behind = pose.copy()
    behind[2, 3] = -1.0
    assert len(blocks_in_view(blocks, camera, behind)) == 0


def test_far_outliers_hide_nothing() -> None:
    gaussians = random_map(3, 400)
    means = gaussians.means.clone()
    means[::40] *= 1e30
    wild = GaussianMap.from_tensors(means, gaussians.quats_wxyz, gaussians.scales, gaussians.opacities, gaussians.sh)
    camera, pose = random_camera(3)
    found = project(wild, camera, pose)
    same_bits(found, along_curve(wild, camera, pose))
    tame = set(project(gaussians, camera, pose).rows.tolist()) - set(range(0, 400, 40))
    assert tame <= set(found.rows.tolist())
    assert len(tame) > 100


@pytest.mark.parametrize("seed", range(4))
def test_splats_are_the_equations(seed: int) -> None:
    gaussians, (camera, pose) = random_map(seed, 500), random_camera(seed)
    found = project(gaussians, camera, pose)
    z, mean, covariance, radius = (array[found.rows] for array in footprints(gaussians, camera, pose))
    conic = np.linalg.inv(covariance)
    np.testing.assert_allclose(found.depths, z, rtol=1e-5)
    np.testing.assert_allclose(found.splats[:, :2], mean, rtol=1e-4, atol=1e-3)
    largest = np.abs(conic).max(axis=(1, 2))[:, None]
    np.testing.assert_allclose(found.splats[:, 2:5] / largest, conic.reshape(-1, 4)[:, [0, 1, 3]] / largest, atol=2e-3)
    np.testing.assert_array_equal(found.splats[:, 5], gaussians.opacities.numpy()[found.rows])
    np.testing.assert_allclose(found.splats[:, 6:], radius, rtol=2e-4, atol=2e-3)
    assert (found.splats[:, 6:] >= radius * (1 - 1e-6)).all()  # only the alpha test decides
    assert (np.diff(found.indices) > 0).all()
    assert (np.diff(found.depths[found.order]) >= 0).all()


def test_thin_slanted_gaussians_keep_their_shape() -> None:
    """A needle along the image's diagonal: its covariance is all but singular."""
    gaussians = GaussianMap.from_tensors(
        torch.tensor([[0.0, 0.0, 1.0]]),
        torch.tensor([[np.cos(np.pi / 8), 0, 0, np.sin(np.pi / 8)]]),
        torch.tensor([[1.0, 1e-4, 1e-4]]),
        torch.tensor([0.9]),
        torch.zeros(1, 1, 3),
    )
    camera = Camera(400, 400, 400, 400, 200, 200)
    found = project(gaussians, camera, np.eye(4))
    a, b, c = found.splats[0, 2:5].astype(np.float64)
    assert a == pytest.approx(1 / (2 * 0.3), rel=0.02)  # across the needle lies the dilation alone
    assert b == pytest.approx(-a, rel=1e-3)
    assert c == pytest.approx(a, rel=1e-3)


def test_no_gaussians_and_a_huge_one() -> None:
    camera, pose = Camera(3, 2, 2, 2, 1, 1), np.eye(4)
    nothing = [np.zeros(shape, np.float32) for shape in ((0, 3), (0, 4), (0, 3), (0,))]
    assert len(project_arrays(Geometry(*nothing), camera, pose)) == 0
    huge = [np.array(values, np.float32) for values in ([[0, 0, 1]], [[1, 0, 0, 0]], [[1e12] * 3], [1.0])]
    found = project_arrays(Geometry(*huge), camera, pose)
    assert len(found) == 1
    assert np.isfinite(found.splats).all()
    assert np.abs(found.splats[:, 2:5]).max() < 1e-12  # flat over the whole image


def test_threads_place_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("feature_gs_ros.rasterizer.cpu.projection.RANGE", 3)
    gaussians, (camera, pose) = random_map(2, 1000), random_camera(2)
    before, results = kernels.thread_count(), []
    try:
        for threads in (1, 2, 7):
            kernels.set_thread_count(threads)
            results.append(project(gaussians, camera, pose))
    finally:
        kernels.set_thread_count(before)
    for other in results[1:]:
        same_bits(results[0], other)
