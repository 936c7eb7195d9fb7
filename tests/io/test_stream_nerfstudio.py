"""nerfstudio's and Blender's transforms.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from feature_gs_ros.core.camera import Camera, Distortion
from feature_gs_ros.io.streams.registry import open_stream
from tests.errors import raises

INTRINSICS = {"w": 40, "h": 30, "fl_x": 50.0, "fl_y": 51.0, "cx": 20.5, "cy": 14.5}
BACK_FIVE = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 5], [0, 0, 0, 1]]  # at z = 5, looking along −z, y up


def write(folder: Path, content: dict[str, Any], images: tuple[str, ...] = ("images/1.png",)) -> Path:
    for name in images:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), np.zeros((30, 40, 3), np.uint8))
    (folder / "transforms.json").write_text(json.dumps(content))
    return folder


def frame(path: str = "images/1.png", matrix: Any = BACK_FIVE, **values: Any) -> dict[str, Any]:
    return {"file_path": path, "transform_matrix": matrix, **values}


def test_axes_turn_from_opengl_to_opencv(tmp_path: Path) -> None:
    (only,) = open_stream(write(tmp_path, {**INTRINSICS, "frames": [frame()]})).frames()
    assert only.name == "1"
    assert only.camera == Camera(40, 30, 50.0, 51.0, 20.5, 14.5)
    assert only.camera_from_world @ [0, 0, 0, 1] == pytest.approx([0, 0, 5, 1])  # 5 in front
    assert only.camera_from_world @ [1, 2, 0, 1] == pytest.approx([1, -2, 5, 1])  # up in the world, up in the image
    assert only.image.shape == (30, 40, 3)


def rigid(seed: int) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(rng.normal(size=3)).as_matrix()
    matrix[:3, 3] = rng.normal(size=3)
    return matrix


@pytest.mark.parametrize("scale", [None, 0.25])
def test_the_applied_transform_is_undone(tmp_path: Path, scale: float | None) -> None:
    # As ns-process-data does it: a COLMAP pose to OpenGL axes, then x y z → x z −y.
    camera_from_colmap = rigid(1)
    applied = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0]])
    world_from_camera = np.vstack([applied, [0, 0, 0, 1]]) @ np.linalg.inv(camera_from_colmap)
    world_from_camera[:3, 3] *= scale or 1.0
    world_from_camera[:, 1:3] *= -1
    content = {
        **INTRINSICS,
        "applied_transform": applied.tolist(),
        "frames": [frame(matrix=world_from_camera.tolist())],
    }
    if scale is not None:
        content["applied_scale"] = scale
    (only,) = open_stream(write(tmp_path, content)).frames()
    assert only.camera_from_world == pytest.approx(camera_from_colmap, abs=1e-12)


def test_three_rows_do(tmp_path: Path) -> None:
    (only,) = open_stream(write(tmp_path, {**INTRINSICS, "frames": [frame(matrix=BACK_FIVE[:3])]})).frames()
    assert only.camera_from_world[2, 3] == 5


def test_blenders_angle_and_names(tmp_path: Path) -> None:
    content = {"camera_angle_x": np.pi / 2, "frames": [frame("./train/r_0"), frame("./train/r_1")]}
    stream = open_stream(write(tmp_path, content, ("train/r_0.png", "train/r_1.png")) / "transforms.json")
    assert stream.names() == ["r_0", "r_1"]
    camera = next(stream.frames()).camera
    assert (camera.fx, camera.fy) == pytest.approx((20.0, 20.0))  # 40 / 2 / tan 45°
    assert (camera.width, camera.height, camera.cx, camera.cy) == (40, 30, 20.0, 15.0)


def test_blender_images_that_are_missing_are_counted(tmp_path: Path) -> None:
    content = {"camera_angle_x": 1.0, "frames": [frame("./train/r_0"), frame("./train/r_1")]}
    stream = open_stream(write(tmp_path, content, ("train/r_1.png",)))
    assert stream.names() == ["r_1"]
    assert sum(stream.skipped.values()) == 1


def test_each_frame_may_have_its_own_camera(tmp_path: Path) -> None:
    own = {"fl_x": 99.0, "k1": 0.1, "camera_angle_y": 1.0}
    content = {**INTRINSICS, "frames": [frame(), frame("images/2.png", **own)]}
    first, second = open_stream(write(tmp_path, content, ("images/1.png", "images/2.png"))).frames()
    assert first.camera.fx == 50.0
    assert second.camera == Camera(40, 30, 99.0, 51.0, 20.5, 14.5, Distortion("plumb_bob", (0.1, 0.0, 0.0, 0.0, 0.0)))


LENS = {"k1": 0.1, "k2": 0.2, "k3": 0.3, "p1": 0.01, "p2": 0.02}


@pytest.mark.parametrize(
    ("values", "lens"),
    [
        ({}, None),
        ({"camera_model": "PINHOLE"}, None),
        ({"camera_model": "OPENCV", "k1": 0, "p2": 0.0}, None),
        ({"camera_model": "OPENCV", **LENS}, Distortion("plumb_bob", (0.1, 0.2, 0.01, 0.02, 0.3))),
        (
            {"camera_model": "OPENCV_FISHEYE", "k1": 0.1, "k2": 0.2, "k3": 0.3, "k4": 0.4},
            Distortion("equidistant", (0.1, 0.2, 0.3, 0.4)),
        ),
        ({"camera_model": "OPENCV_FISHEYE"}, Distortion("equidistant", (0.0, 0.0, 0.0, 0.0))),
    ],
)
def test_lenses(tmp_path: Path, values: dict[str, Any], lens: Distortion | None) -> None:
    (only,) = open_stream(write(tmp_path, {**INTRINSICS, **values, "frames": [frame()]})).frames()
    assert only.camera.distortion == lens


def test_a_folder_of_reduced_images(tmp_path: Path) -> None:
    write(tmp_path, {**INTRINSICS, "frames": [frame()]})
    (tmp_path / "images_2").mkdir()
    cv2.imwrite(str(tmp_path / "images_2" / "1.png"), np.zeros((15, 20, 3), np.uint8))
    (only,) = open_stream(tmp_path, images="images_2").frames()
    assert only.camera == Camera(20, 15, 25.0, 25.5, 10.25, 7.25)
    with raises("stream.missing"):
        open_stream(tmp_path, images="images_4")


@pytest.mark.parametrize(
    "matrix",
    [
        [[float("nan"), 0, 0, 0], *BACK_FIVE[1:]],
        [[float("inf"), 0, 0, 0], *BACK_FIVE[1:]],
        np.zeros((4, 4)).tolist(),
        np.diag([2.0, 2.0, 2.0, 1.0]).tolist(),
        np.diag([1e200, 1.0, 1.0, 1.0]).tolist(),
    ],
)
def test_a_pose_that_is_none_is_counted(tmp_path: Path, matrix: Any) -> None:
    content = {**INTRINSICS, "frames": [frame(matrix=matrix), frame("images/2.png")]}
    stream = open_stream(write(tmp_path, content, ("images/1.png", "images/2.png")))
    assert stream.names() == ["2"]
    assert stream.skipped == {"pose is not finite and rigid": 1}


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ({}, ("stream.value",)),
        ({"frames": [3]}, ("stream.value",)),
        ({**INTRINSICS, "frames": []}, ("stream.empty",)),
        ({**INTRINSICS, "frames": [{"transform_matrix": BACK_FIVE}]}, ("stream.value",)),
        ({**INTRINSICS, "frames": [{"file_path": "images/1.png"}]}, ("stream.value",)),
        ({**INTRINSICS, "frames": [frame(matrix=[[1, 2], [3, 4]])]}, ("stream.value",)),
        ({**INTRINSICS, "frames": [frame(matrix=[[1, 2], [3]])]}, ("stream.value",)),
        ({**INTRINSICS, "frames": [frame(matrix="unit")]}, ("stream.value",)),
        ({**INTRINSICS, "frames": [frame(), frame()]}, ("stream.duplicate",)),
        (
            {**INTRINSICS, "applied_transform": [[1, 2]], "frames": [frame()]},
            ("stream.value",),
        ),
        ({**INTRINSICS, "applied_scale": 0, "frames": [frame()]}, ("stream.value",)),
        ({"w": 40, "h": 30, "frames": [frame()]}, ("camera.missing",)),
        ({**INTRINSICS, "fl_x": 0, "frames": [frame()]}, ("camera.range", "fx=0")),
        ({**INTRINSICS, "fl_x": "long", "frames": [frame()]}, ("camera.value", "'fl_x'")),
        ({**INTRINSICS, "fl_x": 10**400, "frames": [frame()]}, ("camera.value", "'fl_x'")),
        ({**INTRINSICS, "w": 40.5, "frames": [frame()]}, ("camera.value",)),
        ({"camera_angle_x": 4.0, "frames": [frame()]}, ("camera.value", "3.14159")),
        ({**INTRINSICS, "camera_model": "EQUIRECTANGULAR", "frames": [frame()]}, ("camera.value",)),
        ({**INTRINSICS, "k4": 0.1, "frames": [frame()]}, ("camera.unsupported", "k4=0")),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(tmp_path: Path, content: dict[str, Any], fault: tuple[str, ...]) -> None:
    with raises(*fault):
        open_stream(write(tmp_path, content))
