"""Convex hulls of few faces, by what makes one: convex, closed, around the points, outward."""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial import ConvexHull

from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.core.geometry import Sim3
from feature_gs_ros.query.hulls import DIRECTIONS, convex_hull, plane_box


def test_a_hull_is_closed_convex_outward_and_has_few_faces():
    points = np.random.default_rng(0).normal(size=(5000, 3)) * [0.05, 0.03, 0.1] + [1.0, 2.0, 0.3]
    vertices, triangles = convex_hull(points)
    assert len(vertices) <= DIRECTIONS
    assert len(triangles) == 2 * len(vertices) - 4  # Euler, of a closed surface of triangles
    a, b, c = (vertices[triangles[:, k]] for k in range(3))
    normals = np.cross(b - a, c - a)
    heights = np.einsum("fj,vfj->vf", normals, vertices[:, None] - a[None])
    assert (heights <= 1e-9).all()
    volume = np.einsum("ij,ij->i", a - vertices.mean(axis=0), normals).sum() / 6
    assert 0.6 < volume / ConvexHull(points).volume <= 1


def test_points_without_a_volume_have_no_hull():
    flat = np.random.default_rng(0).uniform(size=(100, 3)) * [1, 1, 0]
    assert convex_hull(flat) is None
    assert convex_hull(flat[:3]) is None


def test_the_box_of_a_plane_lies_on_it_in_the_map_frame():
    rng = np.random.default_rng(0)
    table = rng.uniform(-1, 1, (4000, 3)) * [0.6, 0.4, 0.0]
    heap = rng.uniform(0.1, 0.4, (1000, 3))
    count = 5000
    gaussians = GaussianMap.from_tensors(
        torch.from_numpy(np.concatenate([table, heap])),
        torch.tensor([[1.0, 0, 0, 0]]).repeat(count, 1),
        torch.full((count, 3), 0.01),
        torch.full((count,), 0.9),
        torch.zeros(count, 1, 3),
    )
    map_from_splat = Sim3(0.5, np.array([1.0, 0, 0, 0]), np.array([0.0, 0.0, 0.7]))
    box = plane_box(gaussians, np.array([0.0, 0.0, 1.0]), 0.0, map_from_splat)
    np.testing.assert_allclose(box.center, [0, 0, 0.7], atol=0.01)
    np.testing.assert_allclose(np.sort(box.size), [0.01, 0.4, 0.6], atol=0.03)
