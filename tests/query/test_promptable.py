"""SAM on rendered embeddings: the cells lie where the encoder's would, and what was back-projected comes out again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from feature_gs_ros import rasterizer
from feature_gs_ros.backprojection.field import FeatureField, Provenance
from feature_gs_ros.backprojection.projector import BackProjector
from feature_gs_ros.core.camera import Camera
from feature_gs_ros.core.feature_grid import FeatureGrid
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.extractors.base import ExtractorIdentity
from feature_gs_ros.extractors.libraries import installed
from feature_gs_ros.extractors.sam import SamExtractor, fitted, weights_file
from feature_gs_ros.extractors.sam_masks import prompted_masks
from feature_gs_ros.query.sam import camera_of_cells, rendered_embedding, segment_rendered_view
from tests.command_line import run
from tests.errors import raises
from tests.extractor_weights import published_shapes, seeded_state

CAMERA = Camera(640, 360, 500.0, 510.0, 330.0, 170.0)
POSE = np.eye(4)


def wall(distance: float = 2.0, step: float = 0.02) -> GaussianMap:
    """An opaque wall across the whole view; a little rough, since at equal depths the order would shift the image."""
    x, y = np.meshgrid(np.arange(-1.6, 1.6, step), np.arange(-1.0, 1.0, step))
    z = np.random.default_rng(0).normal(distance, 1e-3, x.size)
    means = torch.from_numpy(np.stack([x.ravel(), y.ravel(), z], axis=1))
    count = len(means)
    return GaussianMap.from_tensors(
        means, torch.tensor([[1.0, 0, 0, 0]]).repeat(count, 1), torch.full((count, 3), step * 0.7),
        torch.full((count,), 0.95), torch.zeros(count, 1, 3),
    )  # fmt: skip


def smooth_grid() -> torch.Tensor:
    """[36, 64, 256] that changes little from cell to cell."""
    coarse = torch.randn(1, 256, 5, 8, generator=torch.Generator().manual_seed(3))
    return torch.nn.functional.interpolate(coarse, (36, 64), mode="bicubic")[0].permute(1, 2, 0)


def lifted(identity: ExtractorIdentity) -> tuple[GaussianMap, FeatureField, torch.Tensor]:
    gaussians, cells = wall(), smooth_grid()
    embedding = torch.zeros(64, 64, 256)
    embedding[:36] = cells
    height, width = fitted(CAMERA.height, CAMERA.width)
    grid = FeatureGrid(embedding, right=1024 / width, bottom=1024 / height)
    projector = BackProjector(gaussians, identity, 256, provenance=Provenance(gaussians.checksum))
    projector.add(rasterizer.view(gaussians, CAMERA, POSE), grid)
    return gaussians, projector.field(), cells


def test_a_cell_is_sixteen_pixels_of_the_fitted_image() -> None:
    cells = camera_of_cells(CAMERA)
    assert (cells.width, cells.height) == (64, 36)
    point = np.array([0.3, -0.1, 1.7])
    u, v = (CAMERA.fx * point[0] / point[2] + CAMERA.cx, CAMERA.fy * point[1] / point[2] + CAMERA.cy)
    column, row = (cells.fx * point[0] / point[2] + cells.cx, cells.fy * point[1] / point[2] + cells.cy)
    assert (column * 16 * 640 / 1024, row * 16 * 640 / 1024) == pytest.approx((u, v))
    tall = camera_of_cells(Camera(300, 401, 300.0, 300.0, 150.0, 200.0))
    assert (tall.width, tall.height) == (48, 64)


def test_what_was_back_projected_is_rendered_again() -> None:
    gaussians, field, cells = lifted(ExtractorIdentity("sam"))
    embedding = rendered_embedding(gaussians, field, CAMERA, POSE)
    assert embedding.shape == (64, 64, 256)
    assert not bool(embedding[36:].any())  # the padding

    def error(shifted: torch.Tensor) -> float:
        return float((embedding[2:34, 2:62] - shifted[2:34, 2:62]).norm() / cells[2:34, 2:62].norm())

    assert error(cells) < 0.12  # the cells' and the Gaussians' own blur
    for rows, columns in ((0, 1), (1, 0), (0, -1), (-1, 0)):  # a cell off
        assert error(cells.roll((rows, columns), (0, 1))) > 2 * error(cells)


def test_fields_of_other_extractors_are_refused(small_scene: Path, tmp_path: Path) -> None:
    gaussians, field, _ = lifted(ExtractorIdentity("other"))
    with raises("field.mismatch", "--extractor sam"):
        rendered_embedding(gaussians, field, CAMERA, POSE)
    out, scene = tmp_path / "field", small_scene
    run("backproject", scene / "map.ply", scene / "stream", "--out", out, "--alignment", scene / "alignment.yaml",
        "--extractor", "color", "--every", 8)  # fmt: skip
    name = FeatureField.load(out).provenance.frames[0]
    words = ("render", out, "--stream", scene / "stream", "--index", name, "--out", tmp_path / "pictures")
    assert "need a field of 'sam'" in run(*words, "--sam-point", "10,10", code=2).stderr


@pytest.fixture(scope="module")
def sam(tmp_path_factory: pytest.TempPathFactory) -> Any:
    if not installed("segment_anything"):
        pytest.skip("segment-anything is not installed")
    path = tmp_path_factory.mktemp("sam") / weights_file("vit_b").name
    torch.save(seeded_state(published_shapes("sam_vit_b"), 7), path)
    return SamExtractor(weights=path, device="cpu")


def test_masks_of_a_rendered_view(sam: SamExtractor) -> None:
    """The decoder gets the rendered embedding, and its masks come best first."""
    gaussians, field, _ = lifted(sam.identity)
    points, labels = np.array([[200.0, 100.0], [500.0, 300.0]]), [1, 0]
    masks = segment_rendered_view(sam, gaussians, field, CAMERA, POSE, points, labels)
    assert masks.logits.shape == (3, 360, 640)
    assert masks.quality.tolist() == sorted(masks.quality.tolist(), reverse=True)
    embedding = rendered_embedding(gaussians, field, CAMERA, POSE)
    direct = prompted_masks(sam, embedding, (360, 640), points, labels)
    best = int(direct.quality.argmax())
    assert torch.equal(masks.logits[0], direct.logits[best])
    boxed = segment_rendered_view(sam, gaussians, field, CAMERA, POSE, box=[100, 80, 300, 200])
    assert not torch.equal(boxed.logits, masks.logits)
