"""Cameras, poses and undistortion."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from feature_gs_ros.core.camera import Camera, Distortion, check_pose, rectified, rectified_labels, turning_radius
from feature_gs_ros.core.errors import CameraError
from tests.errors import raises

PLUMB_BOB = Distortion("plumb_bob", (-0.28, 0.07, 1.2e-3, -8e-4, 0.01))
SHORT_PLUMB_BOB = Distortion("plumb_bob", (-0.2, 0.05, 1e-3, 2e-3))
RATIONAL = Distortion("rational_polynomial", (0.45, -2.6, 7e-4, -3e-4, 1.5, 0.33, -2.4, 1.43))
FISHEYE = Distortion("equidistant", (-0.02, 0.008, -0.004, 0.0007))
LENSES = [PLUMB_BOB, SHORT_PLUMB_BOB, RATIONAL, FISHEYE]


def distorted(lens: Distortion, x: float, y: float) -> tuple[float, float]:
    """OpenCV's documented models, on the plane at unit depth."""
    k = lens.coefficients
    r2 = x * x + y * y
    if lens.model == "equidistant":
        r = np.sqrt(r2)
        angle = np.arctan(r)
        scale = angle * (1 + k[0] * angle**2 + k[1] * angle**4 + k[2] * angle**6 + k[3] * angle**8) / r
        return x * scale, y * scale
    k1, k2, p1, p2, k3, k4, k5, k6 = (*k, *(0.0,) * (8 - len(k)))
    radial = (1 + k1 * r2 + k2 * r2**2 + k3 * r2**3) / (1 + k4 * r2 + k5 * r2**2 + k6 * r2**3)
    return (
        x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
        y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
    )


def camera_with(lens: Distortion | None) -> Camera:
    return Camera(320, 240, 190.0, 195.0, 150.0, 128.0, lens)


@pytest.mark.parametrize("lens", LENSES, ids=lambda lens: f"{lens.model}{len(lens.coefficients)}")
@pytest.mark.parametrize(("column", "row"), [(30, 40), (290, 20), (160, 120), (40, 200), (285, 215)])
def test_a_straight_pixel_shows_where_its_ray_hit_the_distorted_image(lens: Distortion, column: int, row: int) -> None:
    camera = camera_with(lens)
    x, y = distorted(lens, (column + 0.5 - camera.cx) / camera.fx, (row + 0.5 - camera.cy) / camera.fy)
    # Index of the source pixel's centre: half a pixel less than its distance from the corner.
    source_column, source_row = x * camera.fx + camera.cx - 0.5, y * camera.fy + camera.cy - 0.5
    rows, columns = np.mgrid[0 : camera.height, 0 : camera.width]
    steep = np.stack([columns - source_column, rows - source_row, np.zeros_like(rows)], axis=-1)
    image = np.clip(128 + 40 * steep, 0, 255).round().astype(np.uint8)

    straight, straight_camera, valid = rectified(image, camera)

    assert straight.dtype == np.uint8
    assert straight.shape == image.shape
    assert valid[row, column]
    # OpenCV places samples to 1/32 pixel: 40 levels a pixel are 1.25. Half a pixel of shift would be 20 levels.
    assert np.abs(straight[row, column, :2].astype(float) - 128).max() <= 2
    assert straight_camera == camera_with(None)


@pytest.mark.parametrize("lens", LENSES, ids=lambda lens: f"{lens.model}{len(lens.coefficients)}")
def test_valid_marks_the_pixels_whose_source_is_inside(lens: Distortion) -> None:
    camera = camera_with(lens)
    _, _, valid = rectified(np.zeros((240, 320, 3), np.uint8), camera)
    for row in range(0, 240, 13):
        for column in range(0, 320, 17):
            x, y = distorted(lens, (column + 0.5 - camera.cx) / camera.fx, (row + 0.5 - camera.cy) / camera.fy)
            u, v = x * camera.fx + camera.cx, y * camera.fy + camera.cy
            margin = min(u, camera.width - u, v, camera.height - v)
            if abs(margin) > 1e-2:
                assert valid[row, column] == (margin > 0), (row, column)
    assert valid.any()


def test_a_lens_that_turns_back_shows_nothing_beyond_the_turn() -> None:
    lens = Distortion("plumb_bob", (-0.5, 0.0, 0.0, 0.0))  # r (1 − r²/2) falls from r = √(2/3) on
    camera = Camera(200, 200, 60.0, 60.0, 100.0, 100.0, lens)
    _, _, valid = rectified(np.zeros((200, 200, 3), np.uint8), camera)
    centres = np.arange(200) + 0.5 - 100.0
    radius = np.hypot(centres[None, :], centres[:, None]) / 60.0
    turn = np.sqrt(2 / 3)
    assert not valid[radius > turn + 1e-6].any()
    assert valid[radius < turn - 1e-6].all()


def test_a_fisheye_that_turns_back_ends_at_the_turns_angle() -> None:
    lens = Distortion("equidistant", (-0.5, 0.0, 0.0, 0.0))  # θ (1 − θ²/2) falls from θ = √(2/3) on, 47° off the axis
    assert turning_radius(lens) == pytest.approx(np.tan(np.sqrt(2 / 3)), rel=1e-9)
    assert turning_radius(Distortion("equidistant", (0.1, 0.0, 0.0, 0.0))) == np.inf


def test_labels_are_those_of_the_nearest_pixel_as_taken() -> None:
    """Every pixel has a label of its own; the lens's formula says which pixel a straight one shows."""
    camera = camera_with(PLUMB_BOB)
    labels = np.arange(1, 320 * 240 + 1).reshape(240, 320)
    straight = rectified_labels(labels, camera, outside=0)
    _, _, valid = rectified(np.zeros((240, 320, 3), np.uint8), camera)
    assert (straight[~valid] == 0).all()
    for row, column in ((40, 30), (20, 290), (120, 160), (200, 40), (215, 285)):
        x, y = distorted(PLUMB_BOB, (column + 0.5 - camera.cx) / camera.fx, (row + 0.5 - camera.cy) / camera.fy)
        u, v = x * camera.fx + camera.cx, y * camera.fy + camera.cy  # from the corner: pixel k covers k to k + 1
        assert straight[row, column] == labels[int(v), int(u)]
    assert rectified_labels(labels, camera_with(None), outside=0) is labels


def test_a_rational_lens_ends_at_its_pole() -> None:
    lens = Distortion("rational_polynomial", (0.0, 0.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0))  # r / (1 − r²)
    camera = Camera(400, 400, 100.0, 100.0, 200.0, 200.0, lens)
    _, _, valid = rectified(np.zeros((400, 400, 3), np.uint8), camera)
    centres = np.arange(400) + 0.5 - 200.0
    radius = np.hypot(centres[None, :], centres[:, None]) / 100.0
    assert not valid[radius > 1].any()


def test_an_image_without_distortion_comes_back_as_it_is() -> None:
    image = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    same, camera, valid = rectified(image, camera_with(None))
    assert same is image
    assert camera == camera_with(None)
    assert valid.all()


def test_undistortion_wants_the_cameras_size() -> None:
    with raises("camera.size", "10×5"):
        rectified(np.zeros((5, 10, 3), np.uint8), camera_with(PLUMB_BOB))


def test_a_resized_camera_projects_to_the_same_place_in_the_image() -> None:
    camera = camera_with(None)
    half = camera.resized(160, 60)
    point = np.array([0.3, -0.2, 1.0])
    u, v, _ = camera.matrix @ point
    assert half.matrix @ point == pytest.approx([u * 160 / 320, v * 60 / 240, 1.0])


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"width": 0}, ("camera.range", "0×240")),
        ({"height": -3}, ("camera.range", "320×-3")),
        ({"fx": 0.0}, ("camera.range", "fx=0")),
        ({"fy": -1.0}, ("camera.range", "fy=-1")),
        ({"fx": float("nan")}, ("camera.not-finite", "fx=nan")),
        ({"cy": float("inf")}, ("camera.not-finite", "cy=inf")),
        ({"fx": 1e300}, ("camera.range", "fx=1e+300", "1e+09")),
        ({"fx": 1e-300}, ("camera.range", "fx=1e-300", "1e-09")),
        ({"fy": 2e9}, ("camera.range", "fy=2e+09")),
        ({"cx": -2e9}, ("camera.range", "cx=-2e+09")),
        ({"cy": 2e9}, ("camera.range", "cy=2e+09")),
    ],
)
def test_a_camera_refuses_intrinsics_that_are_none(change: dict[str, float], fault: tuple[str, ...]) -> None:
    values = {"width": 320, "height": 240, "fx": 190.0, "fy": 195.0, "cx": 150.0, "cy": 128.0, **change}
    with raises(*fault):
        Camera(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("model", "coefficients", "fault"),
    [
        ("omni", (0.0,) * 4, ("camera.unknown", "'omni'")),
        ("plumb_bob", (0.1,) * 3, ("camera.shape",)),
        ("rational_polynomial", (0.1,) * 5, ("camera.shape",)),
        ("equidistant", (), ("camera.shape",)),
        ("plumb_bob", (0.1, float("nan"), 0.0, 0.0), ("camera.not-finite",)),
    ],
)
def test_a_lens_refuses_what_it_is_not(model: str, coefficients: tuple[float, ...], fault: tuple[str, ...]) -> None:
    with raises(*fault):
        Distortion(model, coefficients)  # type: ignore[arg-type]


def turned(angle: float) -> NDArray[np.float64]:
    pose = np.eye(4)
    pose[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    pose[:3, 3] = [1.0, -2.0, 3.0]
    return pose


def test_a_rigid_pose_passes() -> None:
    assert (check_pose(turned(0.3).astype(np.float32), "it") == turned(0.3).astype(np.float32)).all()


@pytest.mark.parametrize(
    ("pose", "fault"),
    [
        (np.eye(3), ("camera.shape",)),
        (np.full((4, 4), np.nan), ("camera.not-finite",)),
        (turned(0.3).T, ("camera.pose",)),
        (np.diag([2.0, 2.0, 2.0, 1.0]), ("camera.pose",)),
        (np.diag([1.0, 1.0, -1.0, 1.0]), ("camera.pose",)),
        (np.diag([1e200, 1e200, 1e200, 1.0]), ("camera.pose",)),
    ],
)
def test_a_pose_that_is_none_is_refused(pose: NDArray[np.float64], fault: tuple[str, ...]) -> None:
    with raises(*fault):
        check_pose(pose, "it")


@given(
    st.sampled_from(("plumb_bob", "rational_polynomial", "equidistant")),
    st.lists(
        st.sampled_from([0.0, 0.1, -0.3, 5e-324, 1e-300, 1e6, -1e6, 1e9, 1e155, 1e308]) | st.floats(),
        min_size=4,
        max_size=8,
    ),
    st.sampled_from([1e-9, 20.0, 1e9]),
)
@settings(max_examples=60, deadline=None)
def test_any_lens_straightens_an_image_or_is_refused(model: str, coefficients: list[float], focal: float) -> None:
    """Whatever a calibration file says: polynomials without roots, and coefficients that overflow."""
    try:
        camera = Camera(16, 12, focal, focal, 8.0, 6.0, Distortion(model, tuple(coefficients)))  # type: ignore[arg-type]
    except CameraError:
        return
    image, _, valid = rectified(np.zeros((12, 16, 3), np.uint8), camera)
    assert image.shape == (12, 16, 3)
    assert valid.shape == (12, 16)
