"""Sim3 by its axioms, and the two kinds of alignment files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from feature_gs_ros.core.geometry import Sim3, quat_wxyz_from_rotation, rotation_from_quat_wxyz
from feature_gs_ros.io.alignment import load_alignment, save_alignment, sim3_from_mapping
from tests.errors import raises

coordinates = st.floats(-100, 100)
vectors = st.tuples(coordinates, coordinates, coordinates).map(np.array)
unit = st.floats(-1, 1)
quaternions = (
    st.tuples(unit, unit, unit, unit)
    .map(np.array)
    .filter(lambda quat: np.linalg.norm(quat) > 1e-2)
    .map(lambda quat: quat / np.linalg.norm(quat))
)
similarities = st.builds(Sim3, st.floats(1e-2, 1e2), quaternions, vectors)


def close(a: NDArray[np.float64], b: NDArray[np.float64], size: float = 1.0) -> bool:
    return bool(np.abs(np.asarray(a) - np.asarray(b)).max() <= 1e-9 * (1 + size))


@given(similarities, similarities, vectors)
def test_composition_is_application_in_turn(b_from_a: Sim3, a_from_c: Sim3, point: NDArray[np.float64]) -> None:
    in_turn = b_from_a.apply(a_from_c.apply(point))
    assert close((b_from_a @ a_from_c).apply(point), in_turn, size=1e6)


@given(similarities, vectors)
def test_the_inverse_takes_back(b_from_a: Sim3, point: NDArray[np.float64]) -> None:
    assert close(b_from_a.inverse().apply(b_from_a.apply(point)), point, size=1e4)
    round_trip = b_from_a @ b_from_a.inverse()
    assert close(round_trip.matrix, np.eye(4), size=1e4)


@given(similarities, vectors)
def test_the_matrix_says_the_same(b_from_a: Sim3, point: NDArray[np.float64]) -> None:
    assert close((b_from_a.matrix @ [*point, 1.0])[:3], b_from_a.apply(point), size=1e4)
    again = Sim3.from_matrix(b_from_a.matrix)
    assert close(again.matrix, b_from_a.matrix, size=1e2)
    assert again.scale == pytest.approx(b_from_a.scale)


@given(similarities, vectors, vectors)
def test_distances_scale(b_from_a: Sim3, first: NDArray[np.float64], second: NDArray[np.float64]) -> None:
    moved = np.linalg.norm(b_from_a.apply(first) - b_from_a.apply(second))
    assert moved == pytest.approx(b_from_a.scale * np.linalg.norm(first - second), rel=1e-9, abs=1e-6)


@given(quaternions)
def test_rotations_agree_with_scipy(quat: NDArray[np.float64]) -> None:
    w, x, y, z = quat
    rotation = Rotation.from_quat([x, y, z, w]).as_matrix()
    assert close(rotation_from_quat_wxyz(quat), rotation)
    back = quat_wxyz_from_rotation(rotation)
    assert back[0] >= 0
    assert close(rotation_from_quat_wxyz(back), rotation)


def test_points_come_in_any_shape() -> None:
    points = np.arange(24.0).reshape(2, 4, 3)
    moved = Sim3(2.0, np.array([0.0, 0.0, 0.0, 1.0]), np.array([1.0, 0.0, 0.0])).apply(points)  # half a turn about z
    assert moved == pytest.approx(points * [-2, -2, 2] + [1, 0, 0])


def test_a_quarter_turn_about_z_takes_x_to_y() -> None:
    half = np.sqrt(0.5)
    b_from_a = Sim3(10.0, np.array([half, 0, 0, half]), np.array([0.0, 0.0, 1.0]))
    assert b_from_a.apply([1.0, 0.0, 0.0]) == pytest.approx([0.0, 10.0, 1.0])


@given(similarities, quaternions, vectors, vectors)
def test_a_camera_sees_the_same_in_either_frame(
    splat_from_map: Sim3, quat: NDArray[np.float64], origin: NDArray[np.float64], point: NDArray[np.float64]
) -> None:
    camera_from_map = np.eye(4)
    camera_from_map[:3, :3] = rotation_from_quat_wxyz(quat)
    camera_from_map[:3, 3] = origin
    camera_from_splat = splat_from_map.camera_from_splat(camera_from_map)
    in_metres = (camera_from_map @ [*point, 1.0])[:3]
    in_splat_units = (camera_from_splat @ [*splat_from_map.apply(point), 1.0])[:3]
    assert close(in_splat_units, splat_from_map.scale * in_metres, size=1e5)
    assert close(camera_from_splat[:3, :3] @ camera_from_splat[:3, :3].T, np.eye(3))


@pytest.mark.parametrize(
    ("matrix", "fault"),
    [
        (np.eye(3), ("alignment.shape",)),
        (np.full((4, 4), np.nan), ("alignment.shape",)),
        (np.diag([1.0, 1.0, -1.0, 1.0]), ("alignment.similarity",)),
        (np.zeros((4, 4)), ("alignment.similarity",)),
        (np.diag([1.0, 2.0, 1.0, 1.0]), ("alignment.similarity",)),
    ],
)
def test_a_matrix_that_is_no_similarity_is_refused(matrix: NDArray[np.float64], fault: tuple[str, ...]) -> None:
    with raises(*fault):
        Sim3.from_matrix(matrix)


def test_the_yaml_file(tmp_path: Path) -> None:
    file = tmp_path / "alignment.yaml"
    file.write_text("splat_from_map:\n  scale: 2\n  rotation_wxyz: [0, 0, 0, 1]\n  translation: [1, 1e-05, 3]\n")
    splat_from_map = load_alignment(file)
    assert splat_from_map.apply([1.0, 2.0, 3.0]) == pytest.approx([-1.0, -4.0 + 1e-5, 9.0])


def test_quaternions_come_in_either_order_by_name_and_go_in_that_of_ros(tmp_path: Path) -> None:
    turn = Sim3(1.0, np.array([0.5, 0.5, -0.5, 0.5]), np.array([1.0, 2.0, 3.0]))
    for name, values in (("rotation_wxyz", [0.5, 0.5, -0.5, 0.5]), ("rotation_xyzw", [0.5, -0.5, 0.5, 0.5])):
        read = sim3_from_mapping({name: values, "translation": [1, 2, 3]}, "it")
        np.testing.assert_allclose(read.quat_wxyz, turn.quat_wxyz)
    both = {"rotation_wxyz": [1, 0, 0, 0], "rotation_xyzw": [0, 0, 0, 1], "translation": [0, 0, 0]}
    with raises("alignment.conflict"):
        sim3_from_mapping(both, "it")
    save_alignment(turn, tmp_path / "alignment.yaml")
    content = yaml.safe_load((tmp_path / "alignment.yaml").read_text())
    assert content["splat_from_map"]["rotation_xyzw"] == [0.5, -0.5, 0.5, 0.5]
    np.testing.assert_allclose(load_alignment(tmp_path / "alignment.yaml").quat_wxyz, turn.quat_wxyz)


def test_nerfstudios_file(tmp_path: Path) -> None:
    # nerfstudio multiplies the transformed point by the scale, its translation included.
    file = tmp_path / "dataparser_transforms.json"
    transform = [[0, -1, 0, 5.0], [1, 0, 0, -1e-17], [0, 0, 1, 7.0]]
    file.write_text(json.dumps({"transform": transform, "scale": 0.5}))
    splat_from_map = load_alignment(file)
    assert splat_from_map.apply([2.0, 4.0, 6.0]) == pytest.approx([0.5 * (-4 + 5), 0.5 * 2, 0.5 * (6 + 7)])


GOOD = "scale: 1, rotation_wxyz: [1, 0, 0, 0], translation: [0, 0, 0]"


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("a.yaml", "{", ("alignment.syntax",)),
        ("a.yaml", "a: 2001-99-99", ("alignment.syntax",)),
        ("a.yaml", "[1, 2]", ("alignment.format",)),
        ("a.yaml", "other: 1", ("alignment.format",)),
        ("a.json", "{", ("alignment.syntax",)),
        ("a.json", "[" * 100_000, ("alignment.syntax",)),
        ("a.json", '{"transform": [[1, 2], [3, 4]], "scale": 1}', ("alignment.value",)),
        ("a.json", '{"transform": "x", "scale": 1}', ("alignment.value",)),
        ("a.json", '{"transform": [[1,0,0,0],[0,1,0,0],[0,0,1,0]], "scale": 0}', ("alignment.range", "0.0")),
        ("a.json", '{"transform": [[1,0,0,0],[0,1,0,0],[0,0,1,0]], "scale": 1e-12}', ("alignment.value", "1e-12")),
        ("a.json", '{"transform": [[1,0,0,0],[0,1,0,0],[0,0,1,NaN]], "scale": 1}', ("alignment.value",)),
        ("a.json", '{"transform": [[1,0,0,0],[0,1,0,0],[0,0,-1,0]], "scale": 1}', ("alignment.similarity", "a.json")),
        ("a.yaml", "splat_from_map: {scale: 1}", ("alignment.value",)),
        ("a.yaml", f"splat_from_map: {{{GOOD}}}".replace("scale: 1", "scale: -1"), ("alignment.range",)),
        (
            "a.yaml",
            f"splat_from_map: {{{GOOD}}}".replace("scale: 1", "scale: 1e-10"),
            ("alignment.value", "1e-10", "1e-09"),
        ),
        (
            "a.yaml",
            f"splat_from_map: {{{GOOD}}}".replace("scale: 1", "scale: 2e9"),
            ("alignment.value", "2e+09", "1e+09"),
        ),
        (
            "a.yaml",
            f"splat_from_map: {{{GOOD}}}".replace("scale: 1", "scael: 3.7, 2: x"),
            ("alignment.value",),
        ),
        ("a.yaml", f"splat_from_map: {{{GOOD},\n scale: 2}}", ("alignment.syntax", "'scale'")),
        ("a.yaml", f"splat_from_map: {{{GOOD}}}\nsplat_from_map: {{{GOOD}}}", ("alignment.syntax", "'splat_from_map'")),
        ("a.yaml", f"splat_from_map: {{{GOOD}}}".replace("scale: 1", "scale: .inf"), ("alignment.value",)),
        ("a.yaml", f"splat_from_map: {{{GOOD}}}".replace("[1, 0, 0, 0]", "[1, 0, 0]"), ("alignment.value",)),
        ("a.yaml", f"splat_from_map: {{{GOOD}}}".replace("[1, 0, 0, 0]", "[0, 0, 0, 0]"), ("alignment.value",)),
        ("a.yaml", f"splat_from_map: {{{GOOD}}}".replace("[0, 0, 0]", "[0, .nan, 0]"), ("alignment.value",)),
        ("a.yaml", f"splat_from_map: {{{GOOD}}}".replace("[0, 0, 0]", "[0, north, 0]"), ("alignment.value", "'north'")),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, name: str, content: str, fault: tuple[str, ...]) -> None:
    file = tmp_path / name
    file.write_text(content)
    with raises(*fault):
        load_alignment(file)


def test_aliases_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "alignment.yaml"
    file.write_text(f"usual: &usual {{{GOOD}}}\nsplat_from_map: {{<<: *usual, scale: 2}}")
    with raises("alignment.syntax") as caught:
        load_alignment(file)
    assert caught.value.code == "alignment.syntax"


def test_a_missing_or_binary_file_is_refused(tmp_path: Path) -> None:
    with raises("alignment.unreadable"):
        load_alignment(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x81")
    with raises("alignment.syntax"):
        load_alignment(tmp_path / "binary.yaml")


def test_a_quaternion_within_rounding_is_normalised() -> None:
    sim3 = sim3_from_mapping({"rotation_wxyz": [1.001, 0, 0, 0], "translation": [0, 0, 0]}, "it")
    assert np.linalg.norm(sim3.quat_wxyz) == pytest.approx(1.0)
    assert sim3.scale == 1.0
