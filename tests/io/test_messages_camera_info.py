"""sensor_msgs/CameraInfo and calibration files to cameras."""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rosbags.typesys import Stores, get_typestore

from feature_gs_ros.core.camera import Camera, Distortion
from feature_gs_ros.io.messages.camera_info import camera_from_info, distortion_from_ros, load_calibration
from tests.errors import raises

TYPES = get_typestore(Stores.ROS2_HUMBLE).types
K = np.array([500.0, 0, 319.5, 0, 510.0, 239.5, 0, 0, 1])
P = np.array([450.0, 0, 310.5, -45.0, 0, 460.0, 230.5, 0, 0, 0, 1, 0])
REGION = {"x_offset": 0, "y_offset": 0, "height": 0, "width": 0, "do_rectify": False}


def info(*, roi: dict[str, int] | None = None, **values: Any) -> Any:
    given = {
        "height": 480,
        "width": 640,
        "distortion_model": "plumb_bob",
        "d": np.zeros(5),
        "k": K,
        "r": np.eye(3).reshape(-1),
        "p": P,
        "binning_x": 0,
        "binning_y": 0,
        **values,
    }
    stamp = TYPES["builtin_interfaces/msg/Time"](sec=1, nanosec=2)
    region = TYPES["sensor_msgs/msg/RegionOfInterest"](**{**REGION, **(roi or {})})
    return TYPES["sensor_msgs/msg/CameraInfo"](
        header=TYPES["std_msgs/msg/Header"](stamp=stamp, frame_id="camera"), roi=region, **given
    )


def test_k_puts_the_first_pixels_centre_at_zero_and_a_camera_at_a_half() -> None:
    assert camera_from_info(info(), 640, 480) == Camera(640, 480, 500.0, 510.0, 320.0, 240.0)
    as_rclpy = info(d=array("d", [0.1, 0, 0, 0, 0]))  # numpy arrays for k and p, array.array for d
    assert camera_from_info(as_rclpy, 640, 480).distortion == Distortion("plumb_bob", (0.1, 0, 0, 0, 0))


def test_a_rectified_image_is_seen_by_p_without_a_lens() -> None:
    camera = camera_from_info(info(d=np.full(5, 0.1)), 640, 480, is_rectified=True)
    assert camera == Camera(640, 480, 450.0, 460.0, 311.0, 231.0)


def test_a_region_and_binning_keep_the_ray_of_a_place_on_the_sensor() -> None:
    # Cut 100 pixels on the left and 40 above, then average 2 × 4 pixels into one.
    cut = {"x_offset": 100, "y_offset": 40, "width": 400, "height": 320}
    camera = camera_from_info(info(roi=cut, binning_x=2, binning_y=4), 200, 80)
    assert (camera.width, camera.height) == (200, 80)
    full = camera_from_info(info(), 640, 480)
    for corner_x, corner_y in [(100, 40), (500, 360), (217.3, 99.1)]:  # on the sensor, from its corner
        ray = (corner_x - full.cx) / full.fx, (corner_y - full.cy) / full.fy
        assert ray[0] * camera.fx + camera.cx == pytest.approx((corner_x - 100) / 2)
        assert ray[1] * camera.fy + camera.cy == pytest.approx((corner_y - 40) / 4)


def test_an_odd_size_loses_its_last_column_to_binning() -> None:
    camera = camera_from_info(info(width=641, height=481, binning_x=2, binning_y=2), 320, 240)
    assert (camera.fx, camera.cx) == (250.0, 160.0)


def test_an_image_smaller_by_a_whole_factor_scales_the_camera() -> None:
    assert camera_from_info(info(), 320, 240) == Camera(320, 240, 250.0, 255.0, 160.0, 120.0)


@pytest.mark.parametrize(("width", "height"), [(640, 360), (320, 480), (1280, 960), (480, 360), (0, 0), (639, 479)])
def test_an_image_of_another_size_is_refused(width: int, height: int) -> None:
    with raises("camera.size", "640×480", f"{width}×{height}"):
        camera_from_info(info(), width, height)


@pytest.mark.parametrize(
    ("values", "is_rectified", "fault"),
    [
        ({"k": np.zeros(9), "p": np.zeros(12)}, False, ("camera.missing",)),
        ({"k": np.zeros(9)}, False, ("camera.rectified", "--rectified")),
        ({"p": np.zeros(12)}, True, ("camera.missing",)),
        ({"width": 0, "height": 0}, False, ("camera.size", "0×0")),
        ({"k": np.array([np.nan, *K[1:]])}, False, ("camera.not-finite", "fx=nan")),
        ({"k": np.array([-1.0, *K[1:]])}, False, ("camera.range",)),
        ({"distortion_model": "kannala", "d": np.ones(4)}, False, ("camera.unknown", "'kannala'")),
        ({"d": np.full(3, 0.1)}, False, ("camera.shape",)),
        ({"roi": {"width": 640, "height": 480, "do_rectify": True}}, True, ("camera.unsupported",)),
        ({"roi": {"width": 640, "height": 480, "x_offset": 1}}, False, ("camera.size", "reaches out")),
    ],
)
def test_a_calibration_that_is_none_is_refused(
    values: dict[str, Any], is_rectified: bool, fault: tuple[str, ...]
) -> None:
    with raises(*fault):
        camera_from_info(info(**values), 640, 480, is_rectified=is_rectified)


@pytest.mark.parametrize(
    ("model", "d", "lens"),
    [
        ("plumb_bob", [], None),
        ("", [], None),
        ("plumb_bob", [0.0] * 5, None),
        ("rational_polynomial", [0.0] * 8, None),
        ("plumb_bob", [0.1, 0.2, 0.3, 0.4], Distortion("plumb_bob", (0.1, 0.2, 0.3, 0.4))),
        ("plumb_bob", [0.1, 0.2, 0.3, 0.4, 0.5], Distortion("plumb_bob", (0.1, 0.2, 0.3, 0.4, 0.5))),
        ("rational_polynomial", [0.1] * 8, Distortion("rational_polynomial", (0.1,) * 8)),
        ("rational_polynomial", [0.1] * 8 + [0.0] * 6, Distortion("rational_polynomial", (0.1,) * 8)),
        ("plumb_bob", [0.1] * 8, Distortion("rational_polynomial", (0.1,) * 8)),  # mislabelled by the driver
        ("rational_polynomial", [0.1] * 5, Distortion("plumb_bob", (0.1,) * 5)),
        ("equidistant", [0.1, 0.2, 0.3, 0.4], Distortion("equidistant", (0.1, 0.2, 0.3, 0.4))),
        ("equidistant", [0.0] * 4, Distortion("equidistant", (0.0,) * 4)),  # an ideal fisheye is no pinhole
        ("equidistant", [0.1, 0.2, 0.3, 0.4, 0.0], Distortion("equidistant", (0.1, 0.2, 0.3, 0.4))),
        ("rational_polynomial", [0.1] * 12, Distortion("rational_polynomial", (0.1,) * 12)),
        ("rational_polynomial", [0.1] * 12 + [0.0] * 2, Distortion("rational_polynomial", (0.1,) * 12 + (0.0, 0.0))),
        ("none", [], None),
        ("inverse_brown_conrady", [0.0] * 5, None),
        ("fisheye", [0.1, 0.2, 0.3, 0.4], Distortion("equidistant", (0.1, 0.2, 0.3, 0.4))),
    ],
)
def test_lenses(model: str, d: list[float], lens: Distortion | None) -> None:
    assert distortion_from_ros(model, d) == lens


@pytest.mark.parametrize("d", [[0.1] * 13, [0.1] * 15, [0.1] * 6])
def test_lenses_with_terms_that_are_not_known_are_refused(d: list[float]) -> None:
    with raises("camera.shape", "8 or 12 or 14", len(d)):
        distortion_from_ros("rational_polynomial", d)


CALIBRATION = """\
image_width: 640
image_height: 480
camera_name: narrow_stereo
camera_matrix:
  rows: 3
  cols: 3
  data: [500.0, 0., 319.5, 0., 510.0, 239.5, 0., 0., 1.]
distortion_model: plumb_bob
distortion_coefficients:
  rows: 1
  cols: 5
  data: [-0.1, 0.02, 1e-05, 0.0, 0.0]
rectification_matrix: {rows: 3, cols: 3, data: [1., 0., 0., 0., 1., 0., 0., 0., 1.]}
projection_matrix:
  rows: 3
  cols: 4
  data: [450.0, 0., 310.5, 0., 0., 460.0, 230.5, 0., 0., 0., 1., 0.]
"""


def test_a_calibration_file(tmp_path: Path) -> None:
    file = tmp_path / "camera.yaml"
    file.write_text(CALIBRATION)
    lens = Distortion("plumb_bob", (-0.1, 0.02, 1e-5, 0.0, 0.0))
    calibration = load_calibration(file)
    assert camera_from_info(calibration, 640, 480) == Camera(640, 480, 500.0, 510.0, 320.0, 240.0, lens)
    assert camera_from_info(calibration, 640, 480, is_rectified=True).fx == 450.0


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("image_width: 640", "", ("camera.value", "'image_width'")),
        ("image_width: 640", "image_width: 640.5", ("camera.value",)),
        ("camera_matrix:", "other_matrix:", ("camera.value", "'camera_matrix'")),
        ("[500.0, 0., 319.5", "[wide, 0., 319.5", ("camera.value", "'wide'")),
        ("1e-05", ".nan", ("camera.value",)),
        ("image_width: 640", "image_width: [", ("camera.syntax",)),
    ],
)
def test_a_damaged_calibration_file_is_refused(tmp_path: Path, old: str, new: str, fault: tuple[str, ...]) -> None:
    file = tmp_path / "camera.yaml"
    file.write_text(CALIBRATION.replace(old, new))
    with raises(*fault):
        load_calibration(file)


def test_a_file_without_p_serves_raw_images_only(tmp_path: Path) -> None:
    file = tmp_path / "camera.yaml"
    file.write_text(CALIBRATION.partition("rectification_matrix")[0])
    calibration = load_calibration(file)
    assert camera_from_info(calibration, 640, 480).fx == 500.0
    with raises("camera.missing"):
        camera_from_info(calibration, 640, 480, is_rectified=True)
