"""Looks: a bounded number of images, those that show most, which follow their views."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import random_map
from safetensors.torch import save_file

from feature_gs_ros import rasterizer
from feature_gs_ros.backprojection.field import FeatureField
from feature_gs_ros.backprojection.looks import LookLimits, Looks, take_look
from feature_gs_ros.backprojection.projector import BackProjector
from feature_gs_ros.backprojection.shards import merge_fields
from feature_gs_ros.core.camera import Camera
from feature_gs_ros.core.feature_grid import FeatureGrid
from feature_gs_ros.extractors.base import ExtractorIdentity
from feature_gs_ros.io.tensors import load_tensors
from feature_gs_ros.rasterizer import View
from tests.errors import raises

MAP = random_map(5, 150)
CAMERA = Camera(64, 48, 60.0, 60.0, 32.0, 24.0)


def view_from(angle: float) -> View:
    """From two units away, turned about y by ``angle`` degrees."""
    turn = np.radians(angle)
    pose = np.eye(4)
    pose[:3, :3] = [[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]]
    pose[2, 3] = 2.0
    return rasterizer.view(MAP, CAMERA, pose)


def image_of(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def some_looks(count: int, limits: LookLimits | None = None) -> Looks:
    looks = Looks(limits or LookLimits())
    for index in range(count):
        looks = looks.with_view(view_from(40.0 * index), image_of(index), f"view {index}")
    return looks


def test_a_look_is_the_image_within_the_compression() -> None:
    smooth = np.broadcast_to(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], (48, 64, 3)).copy()
    look = take_look(view_from(0), smooth, "a")
    assert np.abs(look.image.astype(int) - smooth).max() < 12
    small = take_look(view_from(0), smooth, "a", side=32)
    assert small.image.shape == (24, 32, 3)
    assert small.camera == CAMERA.resized(32, 24)
    with raises("image.shape", "48"):
        take_look(view_from(0), smooth[:40], "a")


def test_of_too_many_those_go_that_show_what_others_do() -> None:
    looks = Looks(LookLimits(count=3))
    for index, angle in enumerate((0.0, 0.5, 1.0, 90.0, 180.0, 0.2)):
        looks = looks.with_view(view_from(angle), image_of(index), str(angle))
    kept = {look.name for look in looks}
    assert len(looks) == 3
    assert {"90.0", "180.0"} <= kept


@pytest.mark.parametrize("limits", [LookLimits(count=0), LookLimits(total_bytes=0)])
def test_none_are_kept_where_none_may_be(limits: LookLimits) -> None:
    assert len(some_looks(2, limits)) == 0


def test_bytes_are_bounded() -> None:
    one = some_looks(1).nbytes
    looks = some_looks(5, LookLimits(total_bytes=int(2.5 * one)))
    assert 1 <= len(looks) <= 2
    assert looks.nbytes <= 2.5 * one
    with raises("field.range", "side=8"):
        LookLimits(side=8)


def projector_with(names: str, limits: LookLimits | None = None) -> BackProjector:
    projector = BackProjector(MAP, ExtractorIdentity("x"), 2, looks=Looks(limits or LookLimits()))
    for index, name in enumerate(names):
        grid = FeatureGrid(torch.rand(3, 4, 2))
        projector.add(view_from(30.0 * index), grid, name=name, image=image_of(index))
    return projector


def names_of(field: FeatureField) -> list[str]:
    return [look.name for look in field.looks]


def test_looks_follow_their_views(tmp_path: Path) -> None:
    projector = projector_with("abc")
    grid = FeatureGrid(torch.rand(3, 4, 2))
    projector.subtract(view_from(30.0), grid, name="b")
    field = projector.field()
    assert names_of(field) == ["a", "c"]
    field.save(tmp_path / "field")
    loaded = FeatureField.load(tmp_path / "field")
    assert names_of(loaded) == ["a", "c"]
    for ours, theirs in zip(field.looks, loaded.looks, strict=True):
        assert ours.jpeg == theirs.jpeg
        assert ours.camera == theirs.camera
        assert np.allclose(ours.camera_from_splat, theirs.camera_from_splat)
        assert np.array_equal(ours.footprint, theirs.footprint)
    assert loaded.looks.limits == field.looks.limits
    resumed = BackProjector.resume(MAP, loaded)
    resumed.add(view_from(0.0), grid, name="d", image=image_of(9))
    assert names_of(resumed.field()) == ["a", "c", "d"]
    merged = merge_fields([loaded, projector_with("ef").field()])
    assert names_of(merged) == ["a", "c", "e", "f"]
    assert len(merge_fields([replace(loaded, looks=loaded.looks.within(LookLimits(count=1))), merged]).looks) == 1


def test_a_field_without_images_says_so(tmp_path: Path) -> None:
    field = projector_with("ab", LookLimits(count=0)).field()
    field.save(tmp_path / "field")
    assert "looks" not in load_tensors(tmp_path / "field")[0]
    assert len(FeatureField.load(tmp_path / "field").looks) == 0


def test_damaged_looks_are_told(tmp_path: Path) -> None:
    field = projector_with("ab").field()
    cut = replace(field.looks.kept[0], jpeg=field.looks.kept[0].jpeg[:-20])
    with raises("image.damaged", "'a'"):
        _ = cut.image
    field.save(tmp_path / "field")
    tensors, metadata = load_tensors(tmp_path / "field")
    save_file({**tensors, "looks": tensors["looks"][:-1].clone()}, tmp_path / "short", metadata=metadata)
    with raises("field.value"):
        FeatureField.load(tmp_path / "short")
