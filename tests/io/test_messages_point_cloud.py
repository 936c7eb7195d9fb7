"""Gaussians as PointCloud2's bytes: fields in the frame asked for, against numbers worked out the long way."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import random_map

from feature_gs_ros.core.gaussians import SH_C0
from feature_gs_ros.core.geometry import Sim3, quat_wxyz_from_rotation, rotation_from_quat_wxyz
from feature_gs_ros.io.messages.point_cloud import BLOCK, FIELDS, CloudBytes, gaussian_cloud

MAP_FROM_SPLAT = Sim3(0.5, np.array([0.6, 0.0, 0.8, 0.0]), np.array([1.0, -2.0, 3.0]))


def columns(cloud: CloudBytes) -> dict[str, np.ndarray]:
    table = np.frombuffer(cloud.data, np.float32).reshape(cloud.width, -1)
    return dict(zip(cloud.fields, table.T, strict=True))


def test_positions_scales_and_rotations_are_those_of_the_frame():
    gaussians = random_map(0)
    cloud = gaussian_cloud(gaussians, MAP_FROM_SPLAT)
    read = columns(cloud)
    assert cloud.fields == FIELDS
    assert cloud.point_step == 4 * len(FIELDS)
    places = MAP_FROM_SPLAT.apply(gaussians.means.numpy())
    np.testing.assert_allclose(np.stack([read["x"], read["y"], read["z"]], 1), places, rtol=1e-5, atol=1e-5)
    scales = np.stack([read["scale_x"], read["scale_y"], read["scale_z"]], 1)
    np.testing.assert_allclose(scales, 0.5 * gaussians.scales.numpy(), rtol=1e-6)
    np.testing.assert_allclose(read["opacity"], gaussians.opacities.numpy())
    assert not read["similarity"].any()
    for k in (0, 7, len(gaussians) - 1):
        expected = MAP_FROM_SPLAT.rotation @ rotation_from_quat_wxyz(gaussians.quats_wxyz[k].numpy())
        written = np.array([read[f"rot_{axis}"][k] for axis in "wxyz"])
        assert np.linalg.norm(written) == pytest.approx(1, abs=1e-5)
        np.testing.assert_allclose(rotation_from_quat_wxyz(written), expected, atol=1e-5)
        assert abs(written @ quat_wxyz_from_rotation(expected)) == pytest.approx(1, abs=1e-5)


def test_colour_is_packed_as_pcl_does():
    gaussians = random_map(1)
    levels = (SH_C0 * gaussians.sh[:, 0].double() + 0.5).clamp(0, 1)
    red, green, blue = (levels * 255 + 0.5).long().T.numpy()
    packed = columns(gaussian_cloud(gaussians, MAP_FROM_SPLAT))["rgb"].copy().view(np.uint32).astype(np.int64)
    for shift, channel in ((16, red), (8, green), (0, blue)):
        assert np.abs((packed >> shift & 255) - channel).max() <= 1
    assert packed.max() < 1 << 24


@pytest.mark.parametrize("count", [1, BLOCK, BLOCK + 1, 2 * BLOCK + 5])
def test_rows_similarity_and_further_fields_stay_together(count):
    gaussians = random_map(2, count=300)
    rows = torch.from_numpy(np.random.default_rng(0).integers(0, 300, count))
    similarity, label = torch.rand(300), torch.arange(300, dtype=torch.float32)
    read = columns(gaussian_cloud(gaussians, Sim3.identity(), similarity, rows, {"label": label}))
    np.testing.assert_array_equal(read["label"], rows.numpy())
    np.testing.assert_array_equal(read["similarity"], similarity[rows].numpy())
    np.testing.assert_allclose(read["y"], gaussians.means[rows, 1].numpy(), rtol=1e-6)


def test_no_rows_make_an_empty_cloud_with_its_fields():
    cloud = gaussian_cloud(random_map(3), Sim3.identity(), rows=torch.zeros(0, dtype=torch.int64))
    assert (cloud.width, len(cloud.data), cloud.fields) == (0, 0, FIELDS)
