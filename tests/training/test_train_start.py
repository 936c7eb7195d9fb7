"""What surrounds a scene before training: beyond the points for who sees it, and nothing before a camera."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from feature_gs_ros.core.camera import Camera
from feature_gs_ros.training.start import BEHIND, StartOptions, nearest_allowed, start_from_points, thinned_points
from feature_gs_ros.training.views import TrainingView
from tests.errors import raises

COUNT = 400


def arc(count: int, radius: float, color: float) -> list[TrainingView]:
    """Cameras on a short arc that look slightly down at the origin."""
    views = []
    for angle in np.linspace(0, np.pi / 6, count):
        eye = radius * np.array([np.cos(angle), np.sin(angle), 0.5])
        forward = -eye / np.linalg.norm(eye)
        right = np.cross(forward, [0, 0, 1])
        right /= np.linalg.norm(right)
        pose = np.eye(4)
        pose[:3, :3] = np.stack([right, np.cross(forward, right), forward])
        pose[:3, 3] = -pose[:3, :3] @ eye
        image = torch.full((48, 64, 3), color)
        views.append(TrainingView(f"{angle:.1f}", image, Camera(64, 48, 50.0, 50.0, 32.0, 24.0), pose))
    return views


def test_shells_are_behind_the_points_and_around_the_cameras() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(0, 0.5, (300, 3))
    views = arc(8, 3.0, 0.25)
    start = start_from_points(
        points,
        rng.integers(0, 255, (300, 3)).astype(np.uint8),
        views,
        0,
        StartOptions(stereo=0, background_sphere=COUNT),
    )
    inner, outer = start.means.detach()[300:-COUNT], start.means.detach()[-COUNT:]
    assert float((outer - outer.mean(0)).norm(dim=1).min()) > 3.3  # the cameras are 3.35 away
    assert 10 < len(inner) < COUNT
    seen = torch.zeros(len(inner), dtype=torch.bool)
    for view in views:
        pose = torch.from_numpy(view.camera_from_splat).float()
        local = inner @ pose[:3, :3].T + pose[:3, 3]
        pixel = local[:, :2] / local[:, 2:] * 50 + torch.tensor([32.0, 24.0])
        inside = (local[:, 2] > 0) & ((pixel > 0) & (pixel < torch.tensor([64.0, 48.0]))).all(1)
        seen |= inside
        depths = points @ view.camera_from_splat[2, :3] + view.camera_from_splat[2, 3]
        assert bool((local[inside, 2] > np.percentile(depths, BEHIND) - 0.3).all())
    assert bool(seen.all())
    assert torch.allclose(start.sh_dc.detach()[300:], torch.tensor(-0.25 / 0.28209479), atol=1e-4)


def test_stereo_adds_nothing_to_views_without_neighbours() -> None:
    """A single view, and two of the same place: no other view, or none at a useful angle."""
    rng = np.random.default_rng(1)
    points, colors = rng.normal(0, 0.5, (300, 3)), rng.integers(0, 255, (300, 3)).astype(np.uint8)
    (view,) = arc(1, 3.0, 0.25)
    for views in ([view], [view, view]):
        start = start_from_points(points, colors, views, 0, StartOptions(stereo=1000, background_sphere=0))
        assert torch.equal(start.means.detach(), torch.from_numpy(points).float())


@pytest.mark.parametrize("stereo", [0, 1000])
def test_points_that_no_view_sees_are_nothing_to_start_from(stereo: int) -> None:
    points = np.random.default_rng(1).normal(0, 0.5, (300, 3)) + [0, 0, 1000]
    with raises("training.elsewhere", "300", "--init"):
        start_from_points(points, np.zeros((300, 3), np.uint8), arc(1, 3.0, 0.25), 0, StartOptions(stereo=stereo))


def test_points_in_one_place_are_nothing_to_start_from() -> None:
    with raises("training.degenerate", "300", "--init"):
        start_from_points(np.full((300, 3), 0.1), np.zeros((300, 3), np.uint8), arc(1, 3.0, 0.25), 0)


def test_nothing_may_be_nearer_than_a_share_of_the_nearest_points() -> None:
    """Points at 10, 11, … 110 in front of one camera, and some that it doesn't see."""
    view = TrainingView("a", torch.zeros(48, 64, 3), Camera(64, 48, 50.0, 50.0, 32.0, 24.0), np.eye(4))
    ahead = np.stack([np.zeros(101), np.zeros(101), np.arange(10.0, 111.0)], axis=1)
    unseen = np.array([[0.0, 0, -1], [5, 0, 1], [0, 3, 1]])
    assert nearest_allowed(np.concatenate([ahead, unseen]), [view]) == pytest.approx(0.3 * 15)
    assert nearest_allowed(unseen, [view]) == 0.0


def test_stereo_is_thinned_to_the_means_of_cells_that_two_points_fill() -> None:
    """Three clumps of four and a point alone: one pixel's word is too little."""
    rng = np.random.default_rng(2)
    clumps = np.repeat([[0.05, 0.05, 0.05], [1.05, 0.05, 0.05], [0.05, 2.05, 0.05]], 4, axis=0)
    points = np.concatenate([clumps + rng.uniform(-1e-3, 1e-3, (12, 3)), [[5.05, 5.05, 5.05]]])
    colors = rng.random((13, 3))
    places, looks = thinned_points(points, colors, most=4)
    order = np.lexsort(places.T)
    expected = [points[:12].reshape(3, 4, 3).mean(axis=1), colors[:12].reshape(3, 4, 3).mean(axis=1)]
    np.testing.assert_allclose(places[order], expected[0][np.lexsort(expected[0].T)], atol=1e-9)
    np.testing.assert_allclose(looks[order], expected[1][np.lexsort(expected[0].T)], atol=1e-9)
