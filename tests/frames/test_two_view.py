"""Matches between two images and epipolar geometry: known answers with points in space, no images."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from feature_gs_ros.core.camera import Camera, Distortion
from feature_gs_ros.frames.features import Features
from feature_gs_ros.frames.reprojection import PosedCamera, project
from feature_gs_ros.frames.two_view import ViewPair, match_pair, matched_pairs, pair_support, paired_rows

STRAIGHT = Camera(320, 240, 300.0, 305.0, 161.0, 118.0)
BARREL = Camera(320, 240, 300.0, 305.0, 161.0, 118.0, Distortion("plumb_bob", (-0.25, 0.06, 0.0, 0.0)))
COUNT = 60
MIRROR = np.diag([-1.0, 1, 1, 1])


def moved(seed: int, metres: float = 0.1, degrees: float = 6.0) -> np.ndarray:
    """camera_from_world near the identity."""
    rng = np.random.default_rng(seed)
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_rotvec(np.radians(degrees) * rng.normal(size=3) / 2).as_matrix()
    shift = rng.normal(size=3) * [1, 1, 0.4]
    pose[:3, 3] = metres * shift / np.linalg.norm(shift)
    return pose


def pair_of(camera: Camera, seed: int) -> tuple[ViewPair, PosedCamera, PosedCamera]:
    """What two cameras see of random points."""
    rng = np.random.default_rng(seed)
    points = np.column_stack([rng.uniform(-0.4, 0.4, (COUNT, 2)), rng.uniform(0.8, 2.0, COUNT)])
    first, second = PosedCamera(camera, np.eye(4)), PosedCamera(camera, moved(seed))
    seen = points @ second.camera_from_splat[:3, :3].T + second.camera_from_splat[:3, 3]
    return ViewPair(0, 1, project(camera, points), project(camera, seen), COUNT), first, second


@pytest.mark.parametrize("camera", [STRAIGHT, BARREL])
@given(seed=st.integers(0, 10_000))
def test_right_poses_explain_all_and_wrong_ones_little(camera: Camera, seed: int) -> None:
    pair, first, second = pair_of(camera, seed)
    assert pair_support(pair, first, second) > 0.99 * COUNT
    # A transform that both share, and the unit of length, change nothing.
    world = moved(seed + 1, 3.0, 70.0)
    unit = np.diag([7.0, 7, 7, 1])

    def elsewhere(posed: PosedCamera) -> PosedCamera:
        pose = posed.camera_from_splat @ world
        pose[:3, 3] = unit[:3, :3] @ pose[:3, 3]
        return PosedCamera(camera, pose)

    assert pair_support(pair, elsewhere(first), elsewhere(second)) > 0.99 * COUNT
    back = PosedCamera(camera, second.camera_from_splat.copy())
    back.camera_from_splat[:3, 3] *= -1  # on the same epipolar lines, but behind the cameras
    assert pair_support(pair, first, back) < 0.2 * COUNT
    turned = PosedCamera(camera, moved(seed + 2, 0.1, 40.0))
    assert pair_support(pair, first, turned) < 0.6 * COUNT


def test_mirrored_images_fit_mirrored_motion_only() -> None:
    given_right = given_mirrored = 0.0
    for seed in range(6):
        pair, _, second = pair_of(STRAIGHT, seed)
        flipped = ViewPair(
            0, 1, *([320, 0] + pixels * [-1, 1] for pixels in (pair.first_pixels, pair.second_pixels)), COUNT
        )
        centred = Camera(320, 240, 300.0, 305.0, 320 - 161.0, 118.0)
        mirrored = PosedCamera(centred, MIRROR @ second.camera_from_splat @ MIRROR)
        given_mirrored += pair_support(flipped, PosedCamera(centred, np.eye(4)), mirrored)
        given_right += pair_support(
            flipped, PosedCamera(centred, np.eye(4)), PosedCamera(centred, second.camera_from_splat)
        )
    assert given_mirrored > 0.99 * 6 * COUNT
    assert given_right < 0.5 * 6 * COUNT


def test_poses_that_stand_explain_images_that_stand() -> None:
    pair, first, _ = pair_of(STRAIGHT, 3)
    assert pair_support(pair, first, first) < 0.2 * COUNT
    still = ViewPair(0, 1, pair.first_pixels, pair.first_pixels, COUNT)
    assert pair_support(still, first, first) == pytest.approx(COUNT)


def test_pairs_are_neighbours_and_further_apart_where_little_moves() -> None:
    assert paired_rows(0, 4) == paired_rows(1, 4) == []
    assert paired_rows(3, 8) == [0, 1, 2]
    rows = paired_rows(1000, 4)
    assert {0, 1, 4, 16, 998, 999} <= set(rows)
    rng = np.random.default_rng(0)
    descriptors = rng.uniform(0, 1, (80, 128)).astype(np.float32) ** 4
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    points = np.column_stack([rng.uniform(-0.4, 0.4, (80, 2)), rng.uniform(0.8, 2.0, 80)])

    def features(step: float) -> Features:
        return Features(project(STRAIGHT, points + [step, 0, 0]), descriptors)

    views = {row: features(0.002 * row) for row in (0, 1, 4, 16)}
    found = matched_pairs(400, views, dict.fromkeys(views, STRAIGHT))
    assert (found[0].first, found[0].second) == (0, 16)  # 0.6 px from one to the next, 10 to the sixteenth
    assert found[0].reached > 70


def test_too_few_matches_say_nothing() -> None:
    empty = Features(np.empty((0, 2)), np.empty((0, 128), np.float32))
    assert match_pair(0, 1, empty, empty, (STRAIGHT, STRAIGHT)) is None
