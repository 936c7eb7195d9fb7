"""Clicks: pixels and points to Gaussians and features; masks to features. Against W itself and hand-worked numbers."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import random_camera, random_map

from feature_gs_ros.backprojection.field import FeatureField, Provenance
from feature_gs_ros.core.camera import Camera, Distortion
from feature_gs_ros.core.feature_grid import FeatureGrid
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.extractors import make_extractor
from feature_gs_ros.extractors.base import ExtractorIdentity
from feature_gs_ros.io.streams.registry import open_stream
from feature_gs_ros.query.clicks import (
    feature_of,
    feature_under_mask,
    picture_example,
    point_of_pixel,
    straight_pixel,
    weights_near,
    weights_of_pixel,
)
from feature_gs_ros.rasterizer import view
from tests.errors import raises

PINHOLE = Camera(64, 48, fx=50.0, fy=50.0, cx=32.0, cy=24.0)


def plates(depths: tuple[float, ...], opacity: float = 0.9) -> GaussianMap:
    """Plates of Gaussians across the optical axis, one behind the other."""
    side = torch.linspace(-1, 1, 41)
    flat = torch.stack(torch.meshgrid(side, side, indexing="ij"), -1).reshape(-1, 2)
    means = torch.cat([torch.cat([flat, torch.full((len(flat), 1), depth)], 1) for depth in depths])
    count = len(means)
    quats = torch.tensor([[1.0, 0, 0, 0]]).expand(count, 4)
    scales = torch.tensor([[0.03, 0.03, 0.003]]).expand(count, 3)
    return GaussianMap.from_tensors(means, quats, scales, torch.full((count,), opacity), torch.zeros(count, 1, 3))


def field_of(gaussians: GaussianMap, features: torch.Tensor, seen: torch.Tensor) -> FeatureField:
    counts = seen.to(torch.int32)
    return FeatureField(features, counts.float(), counts, ExtractorIdentity("test"), Provenance(gaussians.checksum))


def test_a_pixels_weights_are_its_row_of_w():
    gaussians = random_map(0)
    camera, pose = random_camera(0)
    seen = view(gaussians, camera, pose)
    values = torch.randn(len(gaussians), 3, generator=torch.Generator().manual_seed(0))
    image = seen.render(values)
    for u, v in ((30.5, 20.5), (0.1, 0.1), (69.9, 44.9)):
        weights = weights_of_pixel(seen, u, v)
        torch.testing.assert_close(weights @ values, image[int(v), int(u)], atol=1e-4, rtol=1e-4)


def test_a_ray_meets_the_first_plate_that_hides_the_rest():
    seen = view(plates((2.0, 3.0)), PINHOLE, np.eye(4))
    for u, v in ((32.0, 24.0), (40.2, 17.7)):
        at = point_of_pixel(seen, weights_of_pixel(seen, u, v), u, v)
        np.testing.assert_allclose(at, [2 * (u - 32) / 50, 2 * (v - 24) / 50, 2.0], atol=1e-6)


@pytest.mark.parametrize(("nearer", "depth"), [(0.52, 2.0), (0.48, 3.0)])
def test_a_ray_that_two_things_share_meets_the_one_of_more_weight(nearer: float, depth: float) -> None:
    gaussians = plates((2.0, 3.0))
    weights = torch.zeros(len(gaussians))
    weights[[5, 1681 + 5]] = torch.tensor([nearer, 1 - nearer])  # a Gaussian of each plate
    at = point_of_pixel(view(gaussians, PINHOLE, np.eye(4)), weights, 32.0, 24.0)
    np.testing.assert_allclose(at, [0, 0, depth], atol=1e-6)


def test_a_ray_beside_the_map_meets_nothing():
    seen = view(plates((20.0,)), PINHOLE, np.eye(4))
    assert point_of_pixel(seen, weights_of_pixel(seen, 1.5, 1.5), 1.5, 1.5) is None


@pytest.mark.parametrize("pixel", [(-0.1, 3), (64, 3), (3, 48), (np.nan, 3), (3, np.inf)])
def test_a_pixel_outside_the_image_is_refused(pixel):
    with raises("prompt.outside"):
        weights_of_pixel(view(plates((2.0,)), PINHOLE, np.eye(4)), *pixel)
    with raises("prompt.outside"):
        straight_pixel(PINHOLE, *pixel)


def bent(lens: Distortion, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The lens's formula: points (x, y, 1) to where they lie on the plane at unit depth once imaged."""
    k, r2 = lens.coefficients, x * x + y * y
    if lens.model == "equidistant":
        angle = np.arctan(np.sqrt(r2))
        scale = angle * (1 + sum(k[i] * angle ** (2 * i + 2) for i in range(4))) / np.sqrt(np.maximum(r2, 1e-30))
        return x * scale, y * scale
    k1, k2, p1, p2, k3, k4, k5, k6 = (*k, *[0.0] * (8 - len(k)))
    scale = (1 + k1 * r2 + k2 * r2**2 + k3 * r2**3) / (1 + k4 * r2 + k5 * r2**2 + k6 * r2**3)
    return (
        x * scale + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
        y * scale + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
    )


@pytest.mark.parametrize(
    ("lens", "focal"),
    [
        (Distortion("plumb_bob", (-0.2, 0.03, 0.001, 0.0)), 500.0),
        (Distortion("plumb_bob", (-0.4, 0.15, 0.0, 0.0, 0.0)), 300.0),
        (Distortion("plumb_bob", (-0.35, 0.15, 0.001, -0.001, -0.03)), 380.0),
        (Distortion("plumb_bob", (0.3, 0.1, 0.0, 0.0, 0.0)), 400.0),
        (Distortion("rational_polynomial", (0.5, 0.1, 0.0, 0.0, 0.01, 0.8, 0.2, 0.02)), 300.0),
        (Distortion("equidistant", (0.05, -0.01, 0.002, 0.0)), 300.0),
    ],
)
def test_a_pixel_of_a_distorted_image_is_straightened(lens: Distortion, focal: float) -> None:
    """Forward by the lens's formula, back by ours, from the middle to the corners and a little beyond."""
    camera = Camera(640, 480, focal, 1.02 * focal, 321.0, 238.0, lens)
    columns, rows = np.meshgrid(np.append(np.linspace(-40, 680, 13), 321.0), np.append(np.linspace(-30, 510, 9), 238.0))
    x, y = bent(lens, (columns - camera.cx) / camera.fx, (rows - camera.cy) / camera.fy)
    u, v = camera.fx * x + camera.cx, camera.fy * y + camera.cy
    inside = (u >= 0) & (u < 640) & (v >= 0) & (v < 480)
    assert inside.sum() > 60
    found = [straight_pixel(camera, *pixel) for pixel in zip(u[inside], v[inside], strict=True)]
    np.testing.assert_allclose(found, np.stack([columns[inside], rows[inside]], axis=1), atol=1e-3)


@pytest.mark.parametrize(
    "lens", [Distortion("plumb_bob", (-0.6, 0.0, 0.0, 0.0)), Distortion("equidistant", (0.0, 0.0, 0.0, 0.0))]
)
def test_a_pixel_that_the_lens_shows_nothing_at_is_refused(lens: Distortion) -> None:
    """Beyond the largest radius that the polynomial reaches, or 90° from where the camera looks."""
    camera = Camera(640, 480, 180.0, 180.0, 320.0, 240.0, lens)
    for pixel in ((1.0, 1.0), (639.0, 240.0), (1.0, 479.0)):
        with raises("prompt.lens"):
            straight_pixel(camera, *pixel)
    assert straight_pixel(camera, 320.0, 240.0) == pytest.approx((320.0, 240.0))


def test_the_gaussians_beside_a_point():
    gaussians = plates((2.0,))
    weights = weights_near(gaussians, [0.501, 0.498, 2.0], radius=0.1)
    nearest = int(weights.argmax())
    np.testing.assert_allclose(gaussians.means[nearest], [0.5, 0.5, 2.0], atol=1e-6)
    assert int((weights > 0).sum()) == 8
    assert not weights_near(gaussians, [0.5, 0.5, 2.2], radius=0.1).any()
    with raises("prompt.not-finite"):
        weights_near(gaussians, [np.nan, 0, 0], radius=0.1)


def test_the_feature_of_what_was_clicked_is_that_of_the_seen():
    gaussians = plates((2.0,))
    features = torch.zeros(len(gaussians), 2)
    features[:2] = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    seen = torch.ones(len(gaussians), dtype=torch.bool)
    weights = torch.zeros(len(gaussians))
    weights[:3] = torch.tensor([3.0, 1.0, 1.0])
    seen[2] = False
    torch.testing.assert_close(feature_of(weights, field_of(gaussians, features, seen)), torch.tensor([0.75, 0.25]))
    seen[0] = False
    assert feature_of(weights, field_of(gaussians, features, seen)) is None
    assert feature_of(torch.zeros(len(gaussians)), field_of(gaussians, features, seen)) is None


def test_the_feature_under_a_mask_is_the_mean_of_its_pixels():
    """U written out: each pixel interpolated by torch, then averaged."""
    values = torch.randn(6, 8, 5, generator=torch.Generator().manual_seed(1))
    mask = torch.rand(48, 64, generator=torch.Generator().manual_seed(2)) > 0.7
    pixels = torch.nn.functional.interpolate(
        values.permute(2, 0, 1)[None], (48, 64), mode="bilinear", align_corners=False
    )[0].permute(1, 2, 0)
    expected = pixels[mask].mean(0)
    torch.testing.assert_close(feature_under_mask(FeatureGrid(values), mask), expected, atol=1e-5, rtol=1e-4)
    nearest = values.repeat_interleave(8, 0).repeat_interleave(8, 1)[mask].mean(0)
    torch.testing.assert_close(
        feature_under_mask(FeatureGrid(values, interpolation="nearest"), mask), nearest, atol=1e-5, rtol=1e-4
    )


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 1_000_000), (1_000_000, 1), (3000, 4000)])
def test_memory_is_of_the_pixels_however_long_the_picture(shape: tuple[int, int]) -> None:
    """Pixels times cells would be terabytes."""
    image = np.full((*shape, 3), (200, 40, 20), np.uint8)
    feature, _ = picture_example(make_extractor("color"), image)
    expected, _ = picture_example(make_extractor("color"), image[:1, :1])
    torch.testing.assert_close(feature, expected, atol=1e-4, rtol=1e-4)


def test_a_point_far_away_is_beside_nothing() -> None:
    gaussians = plates((2.0,))
    assert not weights_near(gaussians, [1e300, 0, 0], radius=0.1).any()
    with raises("prompt.not-finite", "0.0"):
        weights_near(gaussians, [np.inf, 0, 0], radius=0.1)


def test_a_grid_that_reaches_beyond_the_image_is_read_where_the_image_is():
    values = torch.zeros(4, 4, 1)
    values[:, 2:] = 1.0  # right of the image
    grid = FeatureGrid(values, right=2.0, bottom=1.0, interpolation="nearest")
    torch.testing.assert_close(feature_under_mask(grid, torch.ones(10, 10)), torch.zeros(1))


def test_an_empty_mask_is_refused():
    with raises("prompt.empty"):
        feature_under_mask(FeatureGrid(torch.zeros(2, 2, 3)), torch.zeros(8, 8, dtype=torch.bool))


@pytest.mark.slow
def test_what_fills_its_picture_is_shown_as_small_as_in_a_view(small_scene: Path) -> None:
    """The mug cut out of a view is, to a network, like the mug in the view; blown up to the whole picture it isn't."""
    extractor, stream = make_extractor("imagenet"), open_stream(small_scene / "stream")
    frame = next(stream.frames())
    mask = cv2.imread(str(small_scene / "masks" / f"{frame.name}.png"), cv2.IMREAD_UNCHANGED) == 1
    rows, columns = np.nonzero(mask)
    window = slice(rows.min() - 5, rows.max() + 5), slice(columns.min() - 5, columns.max() + 5)
    in_view, asked = picture_example(extractor, frame.image, torch.from_numpy(mask))
    cut, asked_of_cut = picture_example(extractor, np.ascontiguousarray(frame.image[window]))
    blown_up = feature_under_mask(extractor.extract(frame.image[window]), torch.ones(mask[window].shape))
    assert asked == extractor.example_rule.threshold > asked_of_cut > 0.4
    like = extractor.similarities(torch.stack([cut, blown_up]), in_view[None])[:, 0]
    assert like[0] > like[1] + 0.2


def test_colours_are_the_same_at_any_size() -> None:
    extractor = make_extractor("color")
    image = np.full((30, 40, 3), (200, 40, 20), np.uint8)
    feature, threshold = picture_example(extractor, image)
    torch.testing.assert_close(feature, feature_under_mask(extractor.extract(image), torch.ones(30, 40)))
    assert threshold == extractor.example_rule.threshold
    with raises("prompt.empty"):
        picture_example(make_extractor("imagenet"), image, torch.zeros(30, 40))
