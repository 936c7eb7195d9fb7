"""Keys of streams' files: those that change the geometry are read, refused or reported, never passed over."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from feature_gs_ros.core.camera import Distortion
from feature_gs_ros.io.streams.registry import Stream, open_stream
from tests.errors import raises

POSE = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 5], [0, 0, 0, 1]]
LENS = {"k1": 0.1, "k2": 0.02, "k3": 0.003, "k4": 0.0004}


def nerfstudio(folder: Path, values: dict[str, Any], frame: dict[str, Any] | None = None) -> Stream:
    (folder / "images").mkdir()
    cv2.imwrite(str(folder / "images/1.png"), np.zeros((30, 40, 3), np.uint8))
    entry = {"file_path": "images/1.png", "transform_matrix": POSE} | (frame or {})
    content = {"w": 40, "h": 30, "fl_x": 50.0, "cx": 20.0, "cy": 15.0} | values | {"frames": [entry]}
    (folder / "transforms.json").write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
    return open_stream(folder)


def only_camera(stream: Stream) -> Any:
    return next(iter(stream.frames())).camera


@pytest.mark.parametrize("model", [None, "OPENCV", "OPENCV_FISHEYE"])
def test_instant_ngps_fisheye_flag_is_an_equidistant_lens(tmp_path: Path, model: str | None) -> None:
    camera = only_camera(nerfstudio(tmp_path, {"is_fisheye": True, "camera_model": model, **LENS}))
    assert camera.distortion == Distortion("equidistant", (0.1, 0.02, 0.003, 0.0004))


def test_a_flag_and_a_model_that_disagree_are_refused(tmp_path: Path) -> None:
    with raises("camera.conflict"):
        nerfstudio(tmp_path, {"is_fisheye": False, "camera_model": "OPENCV_FISHEYE"})


@pytest.mark.parametrize(("key", "value"), [("ftheta_p0", 0.3), ("latlong", True), ("b1", 1.5), ("k5", 0.01)])
@pytest.mark.parametrize("in_frame", [False, True])
def test_lenses_without_a_counterpart_are_refused_by_name(
    tmp_path: Path, key: str, value: object, in_frame: bool
) -> None:
    with raises("camera.lens", key):
        nerfstudio(tmp_path, {} if in_frame else {key: value}, {key: value} if in_frame else {})


def test_their_neutral_values_do_no_harm(tmp_path: Path) -> None:
    assert only_camera(nerfstudio(tmp_path, {"b1": 0, "latlong": False, "k5": 0.0})).distortion is None


def test_a_field_of_view_in_degrees(tmp_path: Path) -> None:
    camera = only_camera(nerfstudio(tmp_path, {"fl_x": None, "x_fov": 90.0}))
    assert camera.fx == pytest.approx(20)
    assert camera.fy == pytest.approx(20)


def test_other_keys_are_reported_once_and_usual_ones_are_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        nerfstudio(tmp_path, {"aabb_scale": 16, "rolling_shutter": [0, 0, 0.03]}, {"sharpness": 3.0, "timestmap": 1})
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert "'rolling_shutter'" in told[0]
    assert "'timestmap' (is timestamp meant?)" in told[1]


def test_paths_of_windows(tmp_path: Path) -> None:
    assert nerfstudio(tmp_path, {}, {"file_path": "images\\1.png"}).names() == ["1"]


def cameras_json(folder: Path, **changes: Any) -> Stream:
    cv2.imwrite(str(folder / "1.png"), np.zeros((30, 40, 3), np.uint8))
    entry = {"image": "1.png", "width": 40, "height": 30, "fx": 50, "fy": 50, "cx": 20, "cy": 15}
    entry |= {"camera_from_world": np.eye(4).tolist()} | changes
    (folder / "cameras.json").write_text(json.dumps({"frames": [entry]}))
    return open_stream(folder)


def test_a_misspelt_key_of_cameras_json_is_refused(tmp_path: Path) -> None:
    with raises("stream.key", "'distorsion'", "'distortion'"):
        cameras_json(tmp_path, distorsion={"model": "plumb_bob", "coefficients": [0.1, 0, 0, 0]})


def test_a_foreign_key_of_cameras_json_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert cameras_json(tmp_path, exposure_ms=4).names() == ["1"]
    assert "'exposure_ms'" in caplog.text
