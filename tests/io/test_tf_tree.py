"""Transforms by message and by stamp, against scipy's rotations."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation, Slerp

from feature_gs_ros.core.geometry import slerp
from feature_gs_ros.io.messages.transform import matrix_from_transform, stamp_ns
from feature_gs_ros.io.streams.tf_tree import TfTree
from tests.errors import raises

unit = st.floats(-1, 1)
quaternions = (
    st.tuples(unit, unit, unit, unit)
    .map(np.array)
    .filter(lambda quat: np.linalg.norm(quat) > 1e-2)
    .map(lambda quat: quat / np.linalg.norm(quat))
)
vectors = st.tuples(*[st.floats(-50, 50)] * 3).map(np.array)
STILL = np.array([1.0, 0.0, 0.0, 0.0])


def matrix(xyz: NDArray[np.float64], quat_wxyz: NDArray[np.float64]) -> NDArray[np.float64]:
    result = np.eye(4)
    result[:3, :3] = Rotation.from_quat(np.roll(quat_wxyz, -1)).as_matrix()
    result[:3, 3] = xyz
    return result


def transform(x: float, y: float, z: float, qx: float, qy: float, qz: float, qw: float) -> SimpleNamespace:
    return SimpleNamespace(translation=SimpleNamespace(x=x, y=y, z=z), rotation=SimpleNamespace(x=qx, y=qy, z=qz, w=qw))


def test_a_stamp_in_nanoseconds_is_exact() -> None:
    assert stamp_ns(SimpleNamespace(sec=1_700_000_000, nanosec=123_456_789)) == 1_700_000_000_123_456_789


def test_a_transform_message_with_a_long_quaternion() -> None:
    # Twice the quarter turn about z: x goes to y.
    assert matrix_from_transform(transform(1, 2, 3, 0, 0, 2, 2)) @ [1, 0, 0, 1] == pytest.approx([1, 3, 3, 1])


@pytest.mark.parametrize("bad", [(np.nan, 0, 0, 0, 0, 0, 1), (0, 0, 0, 0, np.inf, 0, 1), (1, 2, 3, 0, 0, 0, 0)])
def test_a_transform_message_that_is_none_is_refused(bad: tuple[float, ...]) -> None:
    with raises("transform.not-finite"):
        matrix_from_transform(transform(*bad))


@given(quaternions, quaternions, st.floats(0, 1))
def test_slerp_agrees_with_scipy(start: NDArray[np.float64], end: NDArray[np.float64], share: float) -> None:
    between = slerp(start, end, share)
    ends = Rotation.from_quat(np.roll(np.stack([start, end]), -1, axis=1))
    turn = ends[0].inv() * ends[1]
    if turn.magnitude() > np.pi - 1e-6:
        return  # both arcs are as short
    expected = Slerp([0.0, 1.0], ends)(share).as_matrix()
    assert Rotation.from_quat(np.roll(between, -1)).as_matrix() == pytest.approx(expected, abs=1e-7)


@given(*[st.tuples(vectors, quaternions)] * 3)
def test_transforms_compose_along_the_tree(
    map_from_base: tuple[NDArray[np.float64], NDArray[np.float64]],
    base_from_camera: tuple[NDArray[np.float64], NDArray[np.float64]],
    map_from_table: tuple[NDArray[np.float64], NDArray[np.float64]],
) -> None:
    tree = TfTree()
    tree.add_static("map", "base", *map_from_base)
    tree.add_moving("base", "camera", 7, *base_from_camera)
    tree.add_static("map", "table", *map_from_table)
    expected = np.linalg.inv(matrix(*map_from_table)) @ matrix(*map_from_base) @ matrix(*base_from_camera)
    assert tree.lookup("table", "camera", 7) == pytest.approx(expected, abs=1e-8)
    assert tree.lookup("camera", "table", 7) == pytest.approx(np.linalg.inv(expected), abs=1e-8)
    assert tree.lookup("camera", "camera", 0) == pytest.approx(np.eye(4))


def test_each_edge_is_interpolated_on_its_own() -> None:
    # A joint turns by 90° while the base moves: half way, the tool is on the circle, not on its chord.
    tree = TfTree()
    quarter = np.array([np.sqrt(0.5), 0, 0, np.sqrt(0.5)])
    tree.add_moving("map", "base", 0, np.zeros(3), STILL)
    tree.add_moving("map", "base", 100, np.array([10.0, 0, 0]), STILL)
    tree.add_moving("base", "joint", 0, np.zeros(3), STILL)
    tree.add_moving("base", "joint", 100, np.zeros(3), quarter)
    tree.add_static("joint", "tool", np.array([1.0, 0, 0]), STILL)
    half = np.sqrt(0.5)
    assert tree.lookup("map", "tool", 50)[:3, 3] == pytest.approx([5 + half, half, 0])
    assert tree.lookup("map", "tool", 100)[:3, 3] == pytest.approx([10, 1, 0])


def test_stamps_of_this_century_keep_their_nanoseconds() -> None:
    tree = TfTree()
    start = 1_700_000_000_000_000_000
    tree.add_moving("map", "camera", start, np.zeros(3), STILL)
    tree.add_moving("map", "camera", start + 4, np.array([4.0, 0, 0]), STILL)
    assert tree.lookup("map", "camera", start + 1)[0, 3] == pytest.approx(1.0)


def test_samples_may_come_out_of_order_and_twice() -> None:
    tree = TfTree()
    for stamp, x in [(30, 3.0), (10, 1.0), (20, 2.0), (20, 99.0), (40, 4.0)]:
        tree.add_moving("map", "camera", stamp, np.array([x, 0, 0]), STILL)
        tree.lookup("map", "camera", stamp)  # looking up between samples must not freeze the tree
    for stamp in range(10, 41):
        assert tree.lookup("map", "camera", stamp)[0, 3] == pytest.approx(stamp / 10)


def test_nothing_is_extrapolated() -> None:
    tree = TfTree()
    tree.add_moving("map", "camera", 10, np.zeros(3), STILL)
    assert tree.lookup("map", "camera", 10) == pytest.approx(np.eye(4))
    for stamp in (9, 11):
        with raises("transform.stamp", "'camera'"):
            tree.lookup("map", "camera", stamp)


def test_only_the_edges_in_between_need_samples() -> None:
    tree = TfTree()
    tree.add_moving("odom", "base", 10, np.zeros(3), STILL)  # localisation that has ended long ago
    tree.add_static("base", "camera", np.array([0, 0, 1.0]), STILL)
    assert tree.lookup("base", "camera", 99)[2, 3] == 1.0


def test_a_frame_may_change_its_parent() -> None:
    tree = TfTree()
    tree.add_static("map", "left", np.array([0, 5.0, 0]), STILL)
    tree.add_static("map", "right", np.array([0, -5.0, 0]), STILL)
    tree.add_moving("left", "cup", 0, np.zeros(3), STILL)
    tree.add_moving("left", "cup", 10, np.array([1.0, 0, 0]), STILL)
    tree.add_moving("right", "cup", 20, np.array([2.0, 0, 0]), STILL)
    assert tree.lookup("map", "cup", 5)[:3, 3] == pytest.approx([0.5, 5, 0])
    assert tree.lookup("map", "cup", 15)[:3, 3] == pytest.approx([1, 5, 0])  # still in the left hand
    assert tree.lookup("map", "cup", 20)[:3, 3] == pytest.approx([2, -5, 0])


def test_what_is_not_there_is_named() -> None:
    tree = TfTree()
    tree.add_static("/map", "base", np.zeros(3), STILL)
    tree.add_static("world", "other", np.zeros(3), STILL)
    assert tree.frames() == ["base", "map", "other", "world"]
    assert "map" in tree
    assert "/map" in tree
    assert "camera" not in tree
    with raises("transform.frame", "'camera'"):
        tree.lookup("map", "camera", 0)
    with raises("transform.disconnected", "'t connect '", "' with '"):
        tree.lookup("map", "other", 0)


def test_a_circle_is_refused() -> None:
    tree = TfTree()
    tree.add_static("a", "b", np.zeros(3), STILL)
    tree.add_static("b", "a", np.zeros(3), STILL)
    tree.add_static("map", "base", np.zeros(3), STILL)
    with raises("transform.circle"):
        tree.lookup("map", "a", 0)


def test_moving_wins_over_static_and_the_last_static_counts() -> None:
    tree = TfTree()
    tree.add_static("map", "camera", np.array([9.0, 0, 0]), STILL)
    tree.add_static("map", "camera", np.array([8.0, 0, 0]), STILL)
    assert tree.lookup("map", "camera", 0)[0, 3] == 8
    tree.add_moving("map", "camera", 0, np.array([1.0, 0, 0]), STILL)
    assert tree.lookup("map", "camera", 0)[0, 3] == 1


def test_transforms_that_contradict_each_other_at_one_stamp_are_counted() -> None:
    tree = TfTree()
    identity, turned = np.array([1.0, 0, 0, 0]), np.array([0.8, 0.6, 0, 0])
    for stamp in range(5):
        tree.add_moving("map", "base", stamp, np.array([stamp, 0.0, 0.0]), identity)
        tree.add_moving("map", "twice", stamp, np.zeros(3), identity)
        tree.add_moving("map", "twice", stamp, np.zeros(3), -identity)  # the same rotation
    tree.add_moving("map", "base", 2, np.array([9.0, 0.0, 0.0]), identity)
    tree.add_moving("map", "base", 3, np.array([3.0, 0.0, 0.0]), turned)
    for xyz in (np.zeros(3), np.zeros(3), np.ones(3)):
        tree.add_static("base", "camera", xyz, identity)
    assert tree.conflicts() == {"base": 2, "camera": 1}
    assert tree.lookup("map", "base", 2)[0, 3] == 2  # the first one counts
