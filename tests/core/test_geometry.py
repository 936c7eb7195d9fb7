"""Rotations, poses and weighted quantiles: the axioms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_gs_ros.core.geometry import (
    Sim3,
    camera_centre,
    quat_wxyz_from_rotation,
    quats_after,
    rigid_inverse,
    rigid_pose,
    rotated,
    rotation_from_quat_wxyz,
    rotations_from_quats_wxyz,
)
from feature_gs_ros.numerics.point_grid import weighted_quantiles

SEEDS = st.integers(0, 10_000)
QUARTER_ABOUT_Z = [np.sqrt(0.5), 0, 0, np.sqrt(0.5)]


def quats(seed: int, count: int = 5) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(count, 4))
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def test_a_quarter_turn_about_z_brings_x_to_y() -> None:
    wanted = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    assert np.allclose(rotation_from_quat_wxyz(QUARTER_ABOUT_Z), wanted)
    assert torch.allclose(rotations_from_quats_wxyz(torch.tensor([QUARTER_ABOUT_Z]))[0], torch.tensor(wanted).double())
    turned = rotated(torch.tensor([QUARTER_ABOUT_Z]) * 3, torch.tensor([[1.0, 0, 0]]).double())
    assert torch.allclose(turned, torch.tensor([[0.0, 1, 0]]).double())


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS)
def test_one_rotation_in_every_form(seed: int) -> None:
    given_quats = quats(seed)
    matrices = np.stack([rotation_from_quat_wxyz(quat) for quat in given_quats])
    batch = torch.from_numpy(given_quats)
    assert np.allclose(rotations_from_quats_wxyz(batch).numpy(), matrices)
    vectors = torch.from_numpy(np.random.default_rng(seed + 1).normal(size=(5, 3)))
    assert torch.allclose(rotated(batch, vectors), torch.einsum("nij,nj->ni", torch.from_numpy(matrices), vectors))
    for quat, matrix in zip(given_quats, matrices, strict=True):
        assert np.allclose(matrix @ matrix.T, np.eye(3))
        assert np.linalg.det(matrix) == pytest.approx(1)
        back = quat_wxyz_from_rotation(matrix)
        assert np.allclose(back, quat if quat[0] >= 0 else -quat, atol=1e-9)
    after = quats_after(given_quats[0], batch)
    products = torch.from_numpy(matrices[0] @ matrices)
    assert torch.allclose(rotations_from_quats_wxyz(after.double()), products, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS)
def test_poses_and_their_inverses(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pose = rigid_pose(rng.normal(size=3), quats(seed)[0] * 2)
    assert np.allclose(pose @ rigid_inverse(pose), np.eye(4))
    assert np.allclose(rigid_inverse(pose), np.linalg.inv(pose))
    # The camera's centre is what the pose brings to its origin.
    assert np.allclose(pose @ [*camera_centre(pose), 1], [0, 0, 0, 1])
    a = Sim3(float(rng.uniform(0.1, 5)), quats(seed + 1)[0], rng.normal(size=3))
    b = Sim3(float(rng.uniform(0.1, 5)), quats(seed + 2)[0], rng.normal(size=3))
    points = rng.normal(size=(7, 3))
    assert np.allclose((a @ a.inverse()).matrix, np.eye(4))
    assert np.allclose((a @ b).apply(points), a.apply(b.apply(points)))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(-50, 50), st.integers(1, 5)), min_size=1, max_size=30), st.floats(0.01, 0.99))
def test_a_weighted_quantile_is_that_of_repeated_values(entries: list[tuple[int, int]], fraction: float) -> None:
    values, weights = (np.array(column, dtype=np.float64) for column in zip(*entries, strict=True))
    repeated = np.sort(np.repeat(values, weights.astype(int)))
    at = fraction * len(repeated)
    if abs(at - round(at)) < 1e-6:
        return  # between two values: rounding decides
    assert weighted_quantiles(values, weights, [fraction])[0] == repeated[int(np.ceil(at)) - 1]
