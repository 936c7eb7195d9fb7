"""The synthetic tabletop: distances and views against closed forms, lenses against OpenCV, sampled Gaussians."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from feature_gs_ros import kernels, rasterizer
from feature_gs_ros.cameras import Camera, Distortion
from feature_gs_ros.errors import CameraError
from feature_gs_ros.extractors.imagenet import ImageNetExtractor
from feature_gs_ros.synthetic import (
    BARREL,
    SPLAT_FROM_MAP,
    Box,
    LabelledMap,
    Lathe,
    Material,
    Scene,
    SceneObject,
    Solid,
    Sphere,
    Tube,
    held_out_views,
    looking_at,
    mugs,
    objects_grid,
    recorded_views,
    render_view,
    sample_gaussians,
    tabletop,
    tabletop_camera,
    turned,
)
from feature_gs_ros.synthetic.lens import distorted, pixel_rays

GREY = Material((0.4, 0.4, 0.4))
TABLETOP = tabletop()
SMALL = tabletop_camera(160, 120)


def alone(shape: Sphere | Box | Lathe | Tube, name: str = "thing", **pose: object) -> Scene:
    """A scene of one solid."""
    return Scene((SceneObject((Solid(shape, GREY),), name, **pose),))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def splats() -> LabelledMap:
    return sample_gaussians(TABLETOP, 30_000)


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


def test_distance_never_exceeds_the_way_to_the_surface(splats: LabelledMap) -> None:
    surface = SPLAT_FROM_MAP.inverse().apply(splats.gaussians.means.numpy())[splats.object_labels > 0]
    points = np.random.default_rng(1).uniform((-0.3, -0.25, 0.02), (0.3, 0.25, 0.35), (300, 3))
    to_samples, _ = cKDTree(surface).query(points)
    distance = TABLETOP.distance(points)
    assert (distance <= to_samples + 1e-6).all()
    assert (distance[to_samples > 0.1] > 0.02).all()  # and is of use to tracing: no shape shrinks it to nothing


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


def test_a_pose_that_is_not_rigid_is_refused() -> None:
    with pytest.raises(CameraError, match="not rigid"):
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
    with pytest.raises(CameraError, match="folds over"):
        pixel_rays(tabletop_camera(64, 48, Distortion("plumb_bob", (-3.0, 0.0, 0.0, 0.0, 0.0))))


def test_an_unknown_lens_is_refused() -> None:
    with pytest.raises(CameraError, match="'thin_prism' is unknown"):
        distorted(np.zeros((1, 2)), Distortion("thin_prism", (0.1,)))  # type: ignore[arg-type]


# Gaussians


def test_gaussians_lie_on_surfaces_and_carry_their_labels(splats: LabelledMap) -> None:
    means = SPLAT_FROM_MAP.inverse().apply(splats.gaussians.means.numpy())
    room = (np.abs(means - TABLETOP.room_low) < 1e-4).any(axis=1) | (np.abs(means - TABLETOP.room_high) < 1e-4).any(
        axis=1
    )
    assert (splats.object_labels[room] == 0).all()
    assert np.abs(TABLETOP.distance(means[~room])).max() < 5e-5
    objects, parts = TABLETOP.labels_at(means[~room])
    np.testing.assert_array_equal(objects, splats.object_labels[~room])
    np.testing.assert_array_equal(parts, splats.part_labels[~room])
    assert set(splats.object_labels) == set(TABLETOP.labels)
    assert set(splats.part_labels) == set(TABLETOP.parts)


def test_gaussians_are_flat_on_the_surface_and_evenly_spread(splats: LabelledMap) -> None:
    gaussians = splats.gaussians
    assert gaussians.dropped.total == 0
    assert 0.99 * 30_000 <= len(gaussians) <= 30_000
    scales = gaussians.scales.numpy()
    assert (scales[:, 2] < 0.5 * scales[:, :2].min(axis=1)).all()
    assert gaussians.opacities.min() >= 0.9
    # The third axis is the surface's normal: the distance rises along it by the way.
    map_from_splat = SPLAT_FROM_MAP.inverse()
    w, x, y, z = gaussians.quats_wxyz.double().numpy().T
    third = np.column_stack([2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)])
    normals, means = third @ map_from_splat.rotation.T, map_from_splat.apply(gaussians.means.numpy())
    oranges = splats.object_labels == 3
    rise = TABLETOP.distance(means[oranges] + 1e-3 * normals[oranges])
    assert np.median(np.abs(rise)) == pytest.approx(1e-3, rel=0.05)
    # Even: on the mug no gap is wider than a few spacings, and no two Gaussians coincide.
    mug = means[splats.object_labels == 1]
    nearest = cKDTree(mug).query(mug, k=2)[0][:, 1]
    assert nearest.max() < 4 * np.median(nearest)
    assert np.percentile(nearest, 5) > 0.5 * np.median(nearest)


def test_gaussians_look_like_the_ray_marched_views(splats: LabelledMap) -> None:
    for posed in held_out_views(3):
        view = render_view(TABLETOP, SMALL, posed.camera_from_map)
        camera_from_splat = SPLAT_FROM_MAP.camera_from_splat(posed.camera_from_map)
        drawn = rasterizer.view(splats.gaussians, SMALL, camera_from_splat)
        difference = drawn.render_color().numpy().clip(0, 1) - view.image / 255.0
        assert -10 * np.log10((difference**2).mean()) > 22.0
        # W applied to labels agrees with the ray-marched labels: geometry, occlusion and conventions are one.
        one_hot = torch.from_numpy(np.eye(len(TABLETOP.labels), dtype=np.float32)[splats.object_labels])
        labels = drawn.render(one_hot).argmax(dim=2).numpy()
        cell = np.ones((3, 3), np.uint8)
        settled = cv2.erode(view.object_labels, cell) == cv2.dilate(view.object_labels, cell)  # not at an outline
        assert (labels == view.object_labels)[settled].mean() > 0.995
        on_things = view.object_labels > 0
        sums = drawn.render_depth().numpy()[on_things]
        depth = sums[:, 0] / sums[:, 1] / SPLAT_FROM_MAP.scale
        assert np.median(np.abs(depth - view.depth[on_things])) < 5e-3


def test_the_same_seed_gives_the_same_gaussians() -> None:
    first, again, other = (sample_gaussians(TABLETOP, 800, seed) for seed in (3, 3, 4))
    assert first.gaussians.checksum == again.gaussians.checksum
    assert torch.equal(first.gaussians.sh, again.gaussians.sh)
    assert first.gaussians.checksum != other.gaussians.checksum


# Scenes


def test_three_mugs_have_a_handle_each() -> None:
    scene = mugs()
    truth = sample_gaussians(scene, 6000)
    labels = {name: number for number, name in scene.labels.items()}
    parts = {name: number for number, name in scene.parts.items()}
    for mug in ("mug_red", "mug_blue", "mug_stone"):
        handle = truth.part_labels == parts[f"{mug}_handle"]
        assert handle.sum() > 20
        assert (truth.object_labels[handle] == labels[mug]).all()
        assert handle.sum() < 0.4 * (truth.object_labels == labels[mug]).sum()


def test_every_object_of_the_grid_is_seen_and_sampled() -> None:
    scene = objects_grid(200)
    assert len(scene.labels) == 201
    truth = sample_gaussians(scene, 12_000)
    assert (np.bincount(truth.object_labels, minlength=201) > 0).all()
    seen = np.zeros(201, np.int64)
    for posed in recorded_views(2):
        view = render_view(scene, tabletop_camera(240, 180), posed.camera_from_map)
        seen += np.bincount(view.object_labels.ravel(), minlength=201)
    assert (seen > 0).mean() > 0.98


@pytest.mark.parametrize("count", [0, 255])
def test_a_grid_that_masks_can_not_label_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match="choose 1 to 254"):
        objects_grid(count)


def test_a_teacher_trained_on_photographs_knows_the_things_on_the_table() -> None:
    extractor = ImageNetExtractor(pixels=640 * 480)
    camera = tabletop_camera()
    logits: dict[str, list[torch.Tensor]] = {}
    for posed in (recorded_views(24)[3], recorded_views(24)[15]):
        view = render_view(TABLETOP, camera, posed.camera_from_map)
        grid = extractor.extract(view.image).values
        for number, name in TABLETOP.labels.items():
            share = cv2.resize(
                (view.object_labels == number).astype(np.float32),
                (grid.shape[1], grid.shape[0]),
                interpolation=cv2.INTER_AREA,
            )
            cells = grid[torch.from_numpy(share) > 0.5 * share.max()]
            logits.setdefault(name, []).append(cells.mean(dim=0))
    words = {
        "mug": "coffee mug",
        "bottle": "wine bottle",
        "orange": "orange",
        "banana": "banana",
        "screwdriver": "screwdriver",
    }
    embeddings = extractor.embed([*words.values(), "toaster"])
    things = torch.stack([torch.stack(logits[name]).mean(dim=0) for name in words])
    scores = extractor.scores(things, embeddings)
    assert scores.argmax(dim=0)[:-1].tolist() == list(range(len(words)))  # each word finds its thing
    assert (scores.diagonal() > 0.1).all()
    assert (scores[:, -1] < 0.05).all()
