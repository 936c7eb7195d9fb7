"""Clusters and boxes with known answers, in metres, in the map frame."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree
from sklearn.cluster import DBSCAN

from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.core.geometry import Sim3, rotation_from_quat_wxyz
from feature_gs_ros.numerics.point_grid import dbscan, hull_candidates, weighted_quantiles
from feature_gs_ros.query.objects import cluster, find_objects, oriented_box, spacing
from tests.errors import raises

SPLAT_FROM_MAP = Sim3(10.0, np.array([0.5, 0.5, -0.5, 0.5]), np.array([1.0, 2.0, -3.0]))


def filled_box(rng: np.random.Generator, size: tuple[float, float, float], count: int) -> np.ndarray:
    return (rng.random((count, 3)) - 0.5) * size


def turned(yaw: float) -> np.ndarray:
    return np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1.0]])


def map_of(points: np.ndarray, opacities: np.ndarray | float = 0.8) -> GaussianMap:
    """Gaussians whose means are these points of the map frame."""
    count = len(points)
    return GaussianMap.from_tensors(
        torch.from_numpy(SPLAT_FROM_MAP.apply(points)),
        torch.tensor([[1.0, 0, 0, 0]]).expand(count, 4),
        torch.full((count, 3), 0.01),
        torch.from_numpy(np.broadcast_to(opacities, count).copy()),
        torch.zeros(count, 1, 3),
    )


@settings(max_examples=15, deadline=None)
@given(yaw=st.floats(-3, 3), seed=st.integers(0, 100))
def test_an_upright_box_is_found_again(yaw: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    size, center = (0.20, 0.08, 0.05), np.array([0.5, -0.2, 0.1])
    points = filled_box(rng, size, 3000) @ turned(yaw).T + center
    box = oriented_box(points, np.ones(3000))
    assert np.linalg.norm(box.center - center) < 0.004
    assert np.sort(box.size) == pytest.approx(np.sort(size), rel=0.06)
    axes = rotation_from_quat_wxyz(box.quat_wxyz)
    assert np.linalg.det(axes) == pytest.approx(1.0)
    long_axis = axes[:, int(np.argmax(box.size))]
    assert abs(long_axis @ turned(yaw)[:, 0]) > 0.999
    inside = np.abs((points - box.center) @ axes) <= box.size / 2
    assert inside.all(axis=1).mean() > 0.9


def test_a_tilted_stick_gets_a_tilted_box() -> None:
    rng = np.random.default_rng(0)
    direction = np.array([1.0, 1.0, 1.0]) / np.sqrt(3)
    points = np.outer(rng.random(2000) - 0.5, direction) * 0.3 + 0.002 * rng.normal(size=(2000, 3))
    box = oriented_box(points, np.ones(2000))
    assert box.size.max() == pytest.approx(0.3, rel=0.05)
    assert np.sort(box.size)[:2].max() < 0.03
    axes = rotation_from_quat_wxyz(box.quat_wxyz)
    assert abs(axes[:, int(np.argmax(box.size))] @ direction) > 0.999


def test_two_objects_and_some_floaters() -> None:
    rng = np.random.default_rng(1)
    first = filled_box(rng, (0.1, 0.1, 0.1), 800) + [0.0, 0.0, 0.05]
    second = filled_box(rng, (0.05, 0.05, 0.2), 500) + [0.5, 0.3, 0.1]
    floaters = rng.random((6, 3)) * 3 + 2
    points = np.concatenate([first, second, floaters, first + [5.0, 0, 0]])
    gaussians = map_of(points)
    mask = torch.zeros(len(points), dtype=torch.bool)
    mask[:1306] = True
    similarity = torch.cat([torch.full((800,), 0.9), torch.full((500,), 0.6), torch.zeros(806)])
    found = find_objects(gaussians, mask, similarity, SPLAT_FROM_MAP.inverse())
    assert [len(item.rows) for item in found] == [800, 500]
    assert np.linalg.norm(found[0].box.center - [0, 0, 0.05]) < 0.005
    assert np.linalg.norm(found[1].box.center - [0.5, 0.3, 0.1]) < 0.005
    assert np.sort(found[1].box.size) == pytest.approx([0.05, 0.05, 0.2], rel=0.12)
    assert [item.score for item in found] == pytest.approx([0.9, 0.6])
    assert set(found[1].rows) == set(range(800, 1300))


def leaning(degrees: float) -> np.ndarray:
    """Points of an upright box of 20 × 8 × 5 cm, tilted about y."""
    angle = np.radians(degrees)
    tilt = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    return filled_box(np.random.default_rng(4), (0.20, 0.08, 0.05), 4000) @ tilt.T


@pytest.mark.parametrize(("degrees", "upright"), [(2.0, True), (25.0, False)])
def test_a_box_stands_upright_unless_tilting_gains_much(degrees: float, upright: bool) -> None:
    """Leaning by 2° the upright box is an eighth larger than the tilted one, by 25° more than twice."""
    box = oriented_box(leaning(degrees), np.ones(4000))
    axes = rotation_from_quat_wxyz(box.quat_wxyz)
    assert (np.abs(axes[2]).max() > 1 - 1e-9) == upright
    if not upright:
        assert np.sort(box.size) == pytest.approx([0.05, 0.08, 0.20], rel=0.06)


@pytest.mark.parametrize(("count", "weight"), [(25, 1.0), (400, 0.05)])
def test_floaters_that_weigh_little_do_not_widen_a_box(count: int, weight: float) -> None:
    """On one side, of less than 1% of the opacity: few opaque ones, or many that are hardly there."""
    rng = np.random.default_rng(5)
    size = (0.20, 0.08, 0.05)
    points = np.concatenate([filled_box(rng, size, 3000), [0.6, 0.0, 0.0] + 0.1 * rng.random((count, 3))])
    box = oriented_box(points, np.concatenate([np.ones(3000), np.full(count, weight)]))
    assert np.sort(box.size) == pytest.approx(np.sort(size), rel=0.06)
    assert np.linalg.norm(box.center) < 0.005


def test_opacity_decides_what_is_an_object_which_comes_first_and_how_similar_it_is() -> None:
    rng = np.random.default_rng(6)
    many, opaque, faint = (filled_box(rng, (0.1, 0.1, 0.1), count) for count in (900, 400, 300))
    points = np.concatenate([many, opaque + [0.6, 0, 0], faint + [1.2, 0, 0]])
    opacities = np.concatenate([np.full(900, 0.2), np.full(400, 0.9), np.full(300, 0.01)])  # in all 180, 360 and 3
    opacities[:300] = 0.6  # of the first one third, which is the more similar: 300 in all
    similarity = torch.full((1600,), 0.5)
    similarity[:300] = 0.9
    everything = torch.ones(1600, dtype=torch.bool)
    found = find_objects(map_of(points, opacities), everything, similarity, SPLAT_FROM_MAP.inverse(), radius=0.05)
    assert [item.rows.min() for item in found] == [900, 0]
    assert [item.opacity for item in found] == pytest.approx([360.0, 300.0], rel=1e-5)
    assert [item.score for item in found] == pytest.approx([0.5, (180 * 0.9 + 120 * 0.5) / 300], rel=1e-5)


def test_a_reach_of_many_spacings_costs_no_pairs_of_all_points() -> None:
    """Three dense balls in a row, gaps of 7 and 15 cm: 10 cm join the first two. All pairs would be 900 million."""
    rng = np.random.default_rng(3)
    directions = rng.normal(size=(30_000, 3))
    ball = 0.05 * directions / np.linalg.norm(directions, axis=1, keepdims=True) * rng.random((30_000, 1)) ** (1 / 3)
    which = np.arange(30_000) % 3
    points = ball + np.array([[0.0, 0, 0], [0.17, 0, 0], [0.42, 0, 0]])[which]
    labels = cluster(points, np.full(30_000, 0.5), radius=0.1)
    assert [len(np.unique(labels[which == k])) for k in range(3)] == [1, 1, 1]
    first, second, third = (int(labels[which == k][0]) for k in range(3))
    assert first == second != third
    assert labels.min() >= 0


def test_nothing_one_point_and_a_bad_reach() -> None:
    gaussians = map_of(np.array([[0.1, 0.2, 0.3], [1.0, 1.0, 1.0]]))
    none = torch.zeros(2, dtype=torch.bool)
    assert find_objects(gaussians, none, torch.zeros(2), SPLAT_FROM_MAP.inverse()) == []
    one = torch.tensor([True, False])
    (found,) = find_objects(gaussians, one, torch.ones(2), SPLAT_FROM_MAP.inverse())
    assert found.box.center == pytest.approx([0.1, 0.2, 0.3], abs=1e-5)
    assert found.box.size == pytest.approx([0, 0, 0])
    with raises("prompt.range"):
        find_objects(gaussians, one, torch.ones(2), SPLAT_FROM_MAP.inverse(), radius=-1)


def clouds(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Balls, a wall, a line, floaters and points that coincide, with weights."""
    rng = np.random.default_rng(seed)
    ball = rng.normal(size=(count, 3)) * 0.05 + rng.uniform(-0.5, 0.5, (3, 3))[rng.integers(0, 3, count)]
    wall = rng.random((count, 3)) * [1.0, 1.0, 0.0] + [2.0, 0, 0]
    line = rng.random((count // 4 + 1, 1)) * [0.3, 0.2, 0.1] + [0.0, 1.0, 0]
    points = np.concatenate([ball, wall, line, line[:2], rng.uniform(-3, 3, (5, 3))])
    return rng.permutation(points), rng.beta(2, 1, len(points))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 400), stretch=st.floats(0.3, 8), least=st.integers(1, 6))
def test_clusters_are_those_of_scikit_learn(seed: int, count: int, stretch: float, least: int) -> None:
    points, weights = clouds(seed, count)
    radius = stretch * spacing(points)
    expected = DBSCAN(eps=radius, min_samples=least).fit_predict(points, sample_weight=weights)
    np.testing.assert_array_equal(dbscan(points, weights, radius, least), expected)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 400))
def test_the_spacing_is_the_median_distance_to_the_eighth_neighbour(seed: int, count: int) -> None:
    points, _ = clouds(seed, count)
    distances, _ = cKDTree(points).query(points, min(9, len(points)))
    assert spacing(points) == pytest.approx(np.median(distances[:, -1]))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(3, 3000))
def test_quantiles_and_hulls_are_those_of_sorting_and_of_all_points(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    values, weights = rng.normal(size=count) * rng.integers(0, 2, count), rng.random(count)
    fractions = np.array([0.01, 0.5, 0.99, 1.0])
    found = weighted_quantiles(values, weights, fractions)
    order = np.argsort(values)
    reached = np.searchsorted(np.cumsum(weights[order]), fractions * weights.sum() * (1 - 1e-12))
    np.testing.assert_array_equal(found, values[order[np.minimum(reached, count - 1)]])
    points = rng.normal(size=(count, 2)) * [1.0, 0.1] @ np.array([[0.8, 0.6], [-0.6, 0.8]])
    hull = cv2.convexHull(points.astype(np.float32))[:, 0]
    kept = points[hull_candidates(points)].astype(np.float32)
    assert {tuple(vertex) for vertex in hull} <= {tuple(point) for point in kept}
    assert count < 1000 or len(kept) < count / 2
