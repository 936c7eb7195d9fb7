"""The page of a running robot without ROS: its cloud becomes a map, answers' points become its rows."""

from __future__ import annotations

import numpy as np
import torch

from feature_gs_ros.core.gaussians import SH_C0
from feature_gs_ros.core.geometry import Sim3
from feature_gs_ros.core.placing import transformed
from feature_gs_ros.io.messages.point_cloud import CloudBytes, gaussian_cloud
from feature_gs_ros.page.live import map_of_cloud, rows_of_points
from tests.conftest import random_map

MAP_FROM_SPLAT = Sim3(0.4, np.array([0.8, 0.2, -0.5, 0.27]) / np.linalg.norm([0.8, 0.2, -0.5, 0.27]), np.ones(3))


def fields_of(cloud: CloudBytes) -> dict[str, np.ndarray]:
    values = np.frombuffer(cloud.data, np.float32).reshape(cloud.width, len(cloud.fields))
    return {name: values[:, column].copy() for column, name in enumerate(cloud.fields)}


def test_the_nodes_cloud_is_its_map_again_without_what_depends_on_the_view() -> None:
    gaussians = random_map(5, 300)
    shown = map_of_cloud(fields_of(gaussian_cloud(gaussians, MAP_FROM_SPLAT)))
    assert shown is not None
    moved = transformed(gaussians, MAP_FROM_SPLAT)
    torch.testing.assert_close(shown.means, moved.means, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(shown.scales, moved.scales, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(shown.opacities, moved.opacities)
    alike = (shown.quats_wxyz * moved.quats_wxyz).sum(dim=1).abs()
    torch.testing.assert_close(alike, torch.ones_like(alike), atol=1e-4, rtol=0)
    colors = (gaussians.sh[:, 0] * SH_C0 + 0.5).clamp(0, 1)
    torch.testing.assert_close(shown.sh[:, 0] * SH_C0 + 0.5, colors, atol=0.51 / 255, rtol=0)
    assert map_of_cloud(fields_of(gaussian_cloud(gaussians, MAP_FROM_SPLAT, rows=torch.zeros(0).long()))) is None


def test_an_answers_points_are_rows_of_the_map_that_is_shown() -> None:
    gaussians = random_map(6, 300)
    kept = torch.arange(0, 300, 2)  # the others were deleted
    shown = map_of_cloud(fields_of(gaussian_cloud(gaussians, MAP_FROM_SPLAT, rows=kept)))
    assert shown is not None
    asked = torch.tensor([4, 10, 11, 200])  # 11 isn't shown
    found = fields_of(gaussian_cloud(gaussians, MAP_FROM_SPLAT, rows=asked))
    mask = rows_of_points(shown, np.stack([found[name] for name in ("x", "y", "z")], axis=1))
    assert torch.nonzero(mask)[:, 0].tolist() == [2, 5, 100]
    assert not bool(rows_of_points(shown, np.empty((0, 3), np.float32)).any())
