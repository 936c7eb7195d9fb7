"""The synthetic tabletop: distances and ray-marched views against closed forms, lenses against OpenCV."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_gs_ros.core.camera import Camera, Distortion
from feature_gs_ros.core.lens import distorted, pixel_rays
from feature_gs_ros.numerics import runtime as kernels
from feature_gs_ros.synthetic import (
    BARREL,
    Box,
    Lathe,
    Material,
    Scene,
    SceneObject,
    Solid,
    Sphere,
    Tube,
    looking_at,
    recorded_views,
    render_view,
    tabletop,
    tabletop_camera,
    turned,
)
from tests.errors import raises

GREY = Material((0.4, 0.4, 0.4))
TABLETOP = tabletop()
SMALL = tabletop_camera(160, 120)


def alone(shape: Sphere | Box | Lathe | Tube, name: str = "thing", **pose: object) -> Scene:
    """A scene of one solid."""
    return Scene((SceneObject((Solid(shape, GREY),), name, **pose),))  # type: ignore[arg-type]


points_near = st.lists(st.floats(-0.3, 0.3), min_size=3, max_size=3).map(lambda p: np.array([p]))


# Distances


def test_distances_of_simple_shapes_have_closed_forms() -> None:
    points = np.random.default_rng(0).uniform(-0.2, 0.2, (500, 3))
    radial = np.hypot(points[:, 0], points[:, 1])
    cylinder = Lathe(np.array([(0.0, -0.05), (0.08, -0.05), (0.08, 0.05), (0.0, 0.05)]))
    out = np.stack([radial - 0.08, np.abs(points[:, 2]) - 0.05])
    expected = np.linalg.norm(np.maximum(out, 0), axis=0) + np.minimum(out.max(axis=0), 0)
    np.testing.assert_allclose(alone(cylinder).distance(points), expected, atol=1e-12)

    capsule = Tube(np.array([(-0.06, 0.0), (0.06, 0.0)]), np.array([0.03, 0.03]))
    on_spine = np.column_stack([np.clip(points[:, 0], -0.06, 0.06), np.zeros((500, 2))])
    expected = np.linalg.norm(points - on_spine, axis=1) - 0.03
    np.testing.assert_allclose(alone(capsule).distance(points), expected, atol=1e-12)

    t = np.linspace(0, 1, 4001)[:, None]
    spine, radii = np.array([(-0.06, 0.0), (0.04, 0.0), (0.09, 0.05)]), np.array([0.03, 0.015, 0.02])
    balls = np.concatenate([(1 - t) * spine[i] + t * spine[i + 1] for i in (0, 1)])
    sizes = np.concatenate([(1 - t[:, 0]) * radii[i] + t[:, 0] * radii[i + 1] for i in (0, 1)])
    to_balls = np.linalg.norm(points[:, None, [0, 2]] - balls[None], axis=2)
    expected = (np.hypot(to_balls, points[:, 1:2]) - sizes).min(axis=1)
    np.testing.assert_allclose(alone(Tube(spine, radii)).distance(points), expected, atol=1e-6)

    expected = np.linalg.norm(points - [0.01, -0.02, 0.03], axis=1) - 0.07
    np.testing.assert_allclose(alone(Sphere(0.07), position=(0.01, -0.02, 0.03)).distance(points), expected, atol=1e-12)

    rotation = turned(x=20.0, y=-35.0, z=50.0)
    inside = np.abs(points @ rotation) - [0.05, 0.08, 0.02]
    expected = np.linalg.norm(np.maximum(inside, 0), axis=1) + np.minimum(inside.max(axis=1), 0)
    np.testing.assert_allclose(alone(Box((0.05, 0.08, 0.02)), rotation=rotation).distance(points), expected, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(points_near, points_near, st.integers(0, len(TABLETOP.objects) - 1))
def test_distance_of_each_prop_changes_no_faster_than_the_way(a: np.ndarray, b: np.ndarray, index: int) -> None:
    thing = TABLETOP.objects[index]
    prop = Scene((thing,))
    centre = np.array(thing.position)
    difference = abs(float(prop.distance(centre + a)[0] - prop.distance(centre + b)[0]))
    assert difference <= np.linalg.norm(a - b) * (1 + 1e-6) + 1e-12


def test_inside_is_negative_and_a_mug_is_hollow() -> None:
    mug = Scene((TABLETOP.objects[1],))
    (x, y, _), heading = TABLETOP.objects[1].position, np.radians(-35.0)
    axis, outwards = np.array([x, y, 0.0]), np.array([np.cos(heading), np.sin(heading), 0.0])
    wall, cavity, handle_hole = axis + 0.039 * outwards, axis, axis + 0.056 * outwards
    height = np.array([0.0, 0.0, 0.05])
    assert mug.distance(np.array([wall + height]))[0] < 0
    assert mug.distance(np.array([cavity + height]))[0] == pytest.approx(0.041 - 0.0042, abs=1e-6)
    assert mug.distance(np.array([handle_hole + height]))[0] > 0.003
    assert mug.labels_at(np.array([axis + 0.074 * outwards + height]))[1][0] == 1  # the handle
    assert mug.labels_at(np.array([wall + height]))[1][0] == 0


# Views


def test_depth_of_a_ball_is_the_closed_form() -> None:
    camera = Camera(80, 60, 90.0, 91.0, 41.3, 28.9)
    pose = looking_at(np.array([0.4, -0.3, 0.5]), np.array([0.0, 0.02, 0.1]), roll=0.2)
    centre = pose[:3, :3] @ np.array([0.03, 0.0, 0.12]) + pose[:3, 3]
    view = render_view(alone(Sphere(0.11), position=(0.03, 0.0, 0.12)), camera, pose)
    rays = np.concatenate([pixel_rays(camera), np.ones((60, 80, 1))], axis=2)
    a, b, c = (rays**2).sum(axis=2), rays @ centre, centre @ centre - 0.11**2
    discriminant = b * b - a * c
    hit = discriminant > 0
    assert (view.object_labels == 1)[np.abs(discriminant) > 1e-4].tolist() == hit[np.abs(discriminant) > 1e-4].tolist()
    expected = ((b - np.sqrt(np.maximum(discriminant, 0))) / a)[discriminant > 1e-3]
    np.testing.assert_allclose(view.depth[discriminant > 1e-3], expected, atol=3e-4)


def test_depth_of_table_and_walls_are_planes() -> None:
    pose = recorded_views(24)[3].camera_from_map
    camera = tabletop_camera(96, 72)
    view = render_view(Scene((TABLETOP.objects[0],)), camera, pose)
    rays = np.concatenate([pixel_rays(camera), np.ones((72, 96, 1))], axis=2)
    eye = -pose[:3, :3].T @ pose[:3, 3]
    points = eye + (rays * view.depth[:, :, None]) @ pose[:3, :3]
    on_table = (np.abs(points[:, :, :2]) < [0.47, 0.35]).all(axis=2) & (view.depth < 1.2)
    assert on_table.sum() > 1500
    np.testing.assert_allclose(points[on_table][:, 2], 0.0, atol=1e-4)
    room = np.array([TABLETOP.room_low, TABLETOP.room_high])
    beyond = (np.abs(points[:, :, :2]) > 0.6).any(axis=2)
    assert beyond.sum() > 300
    assert np.abs(points[beyond][:, None] - room[None]).min(axis=(1, 2)).max() < 1e-4


def test_labels_of_a_view_are_those_of_the_nearest_surface() -> None:
    posed = recorded_views(24)[10]
    view = render_view(TABLETOP, SMALL, posed.camera_from_map)
    rays = np.concatenate([pixel_rays(SMALL), np.ones((120, 160, 1))], axis=2)
    eye = -posed.camera_from_map[:3, :3].T @ posed.camera_from_map[:3, 3]
    points = eye + (rays * view.depth[:, :, None]) @ posed.camera_from_map[:3, :3]
    near = view.depth < 1.2
    objects, parts = TABLETOP.labels_at(points[near])
    assert set(np.unique(objects)) == set(TABLETOP.labels)  # everything is in this view
    assert (objects == view.object_labels[near]).mean() > 0.995
    assert (parts == view.part_labels[near]).mean() > 0.995


def test_a_view_does_not_depend_on_the_number_of_threads() -> None:
    threads = kernels.thread_count()
    pose = recorded_views(24)[0].camera_from_map
    views = []
    try:
        for count in (1, 3):
            kernels.set_thread_count(count)
            views.append(render_view(TABLETOP, SMALL, pose))
    finally:
        kernels.set_thread_count(threads)
    for name in ("image", "object_labels", "part_labels", "depth"):
        np.testing.assert_array_equal(getattr(views[0], name), getattr(views[1], name))


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 9), (9, 1)])
def test_a_view_may_be_one_pixel_wide(width: int, height: int) -> None:
    view = render_view(TABLETOP, tabletop_camera(width, height), recorded_views(24)[0].camera_from_map)
    assert view.image.shape == (height, width, 3)
    assert np.isfinite(view.depth).all()


def test_a_pose_that_is_not_rigid_is_refused() -> None:
    with raises("camera.pose"):
        render_view(TABLETOP, SMALL, np.diag([2.0, 2.0, 2.0, 1.0]))


# Lenses


@pytest.mark.parametrize(
    "lens",
    [
        BARREL,
        Distortion("rational_polynomial", (0.4, -0.2, 0.001, -0.002, 0.01, 0.65, -0.1, 0.02)),
        Distortion("equidistant", (0.08, -0.02, 0.004, -0.0005)),
    ],
)
def test_rays_through_a_lens_come_back_to_their_pixels_by_opencv(lens: Distortion) -> None:
    camera = tabletop_camera(64, 48, lens)
    rays = np.concatenate([pixel_rays(camera), np.ones((48, 64, 1))], axis=2).reshape(-1, 1, 3)
    project = cv2.fisheye.projectPoints if lens.model == "equidistant" else cv2.projectPoints
    pixels, _ = project(rays, np.zeros(3), np.zeros(3), camera.matrix, np.array(lens.coefficients))
    x, y = np.meshgrid(np.arange(64) + 0.5, np.arange(48) + 0.5)
    np.testing.assert_allclose(pixels[:, 0], np.column_stack([x.ravel(), y.ravel()]), atol=1e-5)


def test_a_lens_that_folds_over_is_refused() -> None:
    with raises("camera.lens"):
        pixel_rays(tabletop_camera(64, 48, Distortion("plumb_bob", (-3.0, 0.0, 0.0, 0.0, 0.0))))


def test_an_unknown_lens_is_refused() -> None:
    with raises("camera.unknown", "'thin_prism'"):
        distorted(np.zeros((1, 2)), Distortion("thin_prism", (0.1,)))  # type: ignore[arg-type]
