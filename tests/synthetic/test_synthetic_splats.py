"""The synthetic tabletop's Gaussians against its surfaces and views; other scenes; what an extractor sees there."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from feature_gs_ros import rasterizer
from feature_gs_ros.extractors.imagenet import ImageNetExtractor
from feature_gs_ros.synthetic import (
    SPLAT_FROM_MAP,
    LabelledMap,
    held_out_views,
    mugs,
    objects_grid,
    recorded_views,
    render_view,
    sample_gaussians,
    tabletop,
    tabletop_camera,
)

TABLETOP = tabletop()
SMALL = tabletop_camera(160, 120)


@pytest.fixture(scope="module")
def splats() -> LabelledMap:
    return sample_gaussians(TABLETOP, 30_000)


def test_distance_never_exceeds_the_way_to_the_surface(splats: LabelledMap) -> None:
    surface = SPLAT_FROM_MAP.inverse().apply(splats.gaussians.means.numpy())[splats.object_labels > 0]
    points = np.random.default_rng(1).uniform((-0.3, -0.25, 0.02), (0.3, 0.25, 0.35), (300, 3))
    to_samples, _ = cKDTree(surface).query(points)
    distance = TABLETOP.distance(points)
    assert (distance <= to_samples + 1e-6).all()
    assert (distance[to_samples > 0.1] > 0.02).all()  # and is of use to tracing: no shape shrinks it to nothing


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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_extractor_trained_on_photographs_knows_the_things_on_the_table() -> None:
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
