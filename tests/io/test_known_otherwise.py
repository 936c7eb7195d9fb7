"""Folders and files of other programs: read, or named with what makes a stream of them."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from feature_gs_ros.core.camera import Distortion
from feature_gs_ros.io.messages.camera_info import camera_from_info, load_calibration
from feature_gs_ros.io.streams.registry import open_stream
from tests.errors import raises

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("transforms_train.json", ("stream.format", "transforms_train.json")),
        ("keyframes/corrected_cameras/1.json", ("stream.format", "Polycam")),
        ("keyframes/cameras/1.json", ("stream.format", "Polycam")),
        ("rgbd/0.jpg", ("stream.format", "Record3D")),
        ("scan.r3d", ("stream.format", "Record3D")),
        ("frame_00000.json", ("stream.format", "ARKit")),
        ("ARposes.txt", ("stream.format", "ARKit")),
        ("lowres_wide.traj", ("stream.format", "ARKitScenes")),
    ],
)
def test_exports_are_named(tmp_path: Path, name: str, fault: tuple[str, ...]) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("{}")
    with raises(*fault):
        open_stream(tmp_path)


def test_inrias_cameras_are_named(tmp_path: Path) -> None:
    entry = {"id": 0, "img_name": "1", "width": 4, "height": 3, "position": [0, 0, 0], "rotation": np.eye(3).tolist()}
    (tmp_path / "cameras.json").write_text(json.dumps([entry | {"fy": 5.0, "fx": 5.0}]))
    with raises("stream.inria"):
        open_stream(tmp_path)


def cameras(folder: Path, *images: str) -> Path:
    entry = {"width": 40, "height": 30, "fx": 50, "fy": 50, "cx": 20, "cy": 15, "camera_from_world": np.eye(4).tolist()}
    (folder / "cameras.json").write_text(json.dumps([{"image": image, **entry} for image in images]))
    cv2.imwrite(str(folder / "good.png"), np.zeros((30, 40, 3), np.uint8))
    return folder


def test_images_that_are_left_out_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "pointer.png").write_text(POINTER)
    cv2.imwrite(str(tmp_path / "turned.png"), np.zeros((40, 30, 3), np.uint8))
    stream = open_stream(cameras(tmp_path, "good.png", "pointer.png", "turned.png", "absent.png"))
    assert stream.names() == ["good"]
    assert "3 images" in caplog.text
    assert all(f"'{name}.png'" in caplog.text for name in ("pointer", "turned", "absent"))
    assert {reason.partition(":")[0] for reason in stream.skipped} == {
        "image file is a pointer of git LFS",
        "image has its camera's sides swapped",
        f"image file is missing in '{tmp_path}'",
    }


OPENCV = """%YAML:1.0
---
image_width: 640
image_height: 480
{matrix}: !!opencv-matrix
   rows: 3
   cols: 3
   dt: d
   data: [ 5.0e+02, 0., 3.195e+02, 0., 5.1e+02, 2.395e+02, 0., 0., 1. ]
{lens}: !!opencv-matrix
   rows: 1
   cols: 5
   dt: d
   data: [ 0.1, -0.2, 0.001, 0.002, 0.03 ]
"""


@pytest.mark.parametrize(
    ("matrix", "lens"), [("camera_matrix", "distortion_coefficients"), ("cameraMatrix", "distCoeffs"), ("K", "D")]
)
def test_opencvs_calibrations(tmp_path: Path, matrix: str, lens: str) -> None:
    (tmp_path / "lens.yml").write_text(OPENCV.format(matrix=matrix, lens=lens))
    camera = camera_from_info(load_calibration(tmp_path / "lens.yml"), 640, 480)
    assert (camera.fx, camera.fy, camera.cx, camera.cy) == (500, 510, 320, 240)
    assert camera.distortion == Distortion("plumb_bob", (0.1, -0.2, 0.001, 0.002, 0.03))
