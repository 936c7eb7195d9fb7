"""docs/extending.md, step by step, as far as it needs no ROS; services are in tests/ros/test_own_service.py.

Packages of the documents' examples, found by their entry points, are in tests/extractors/test_extractor_registry.py and
tests/io/test_splat_registry.py; examples/own_extractor.py runs in tests/test_public_names.py.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import run

import feature_gs_ros as fgs
from feature_gs_ros.backprojection.field import FeatureField
from feature_gs_ros.backprojection.shards import merge_fields
from feature_gs_ros.core.camera import Image
from feature_gs_ros.extractors import extractor_of
from feature_gs_ros.extractors.base import Extractor, ExtractorIdentity, FeatureGrid, ScoringRule
from feature_gs_ros.extractors.color import ColorExtractor
from feature_gs_ros.extractors.scoring import cosine
from tests.document_packages import install
from tests.errors import raises

ROOT = Path(__file__).resolve().parents[1]


class Mean(Extractor):
    """The image's mean colour in so many cells; remembers the images, and gives one of them a feature that is NaN."""

    dimension = 3
    text_rule = example_rule = ScoringRule(threshold=0.5)

    def __init__(self, cells: int = 2, broken: int = -1) -> None:
        self.identity = ExtractorIdentity("mean", preprocessing={"cells": cells})
        self.seen: list[Image] = []
        self._cells, self._broken = cells, broken

    def extract(self, image: Image, name: str = "") -> FeatureGrid:  # noqa: ARG002
        mean = torch.from_numpy(image.mean(axis=(0, 1))).float()
        if len(self.seen) == self._broken:
            mean[0] = torch.nan
        self.seen.append(image)
        return FeatureGrid(mean.expand(self._cells, self._cells, 3).clone())

    def scores(self, features: torch.Tensor, embeddings: torch.Tensor, prepared: torch.Tensor | None = None):
        return cosine(features, embeddings, prepared)

    def similarities(self, features: torch.Tensor, examples: torch.Tensor) -> torch.Tensor:
        return cosine(features, examples)


def back_projected(scene: Path, extractor: Extractor, stream: str = "stream", every: int = 4) -> FeatureField:
    return fgs.back_project(
        fgs.load_map(scene / "map.ply"),
        fgs.open_stream(scene / stream),
        extractor,
        splat_from_map=fgs.load_alignment(scene / "alignment.yaml"),
        every=every,
    )


def test_a_packaged_extractor_is_an_option_of_commands_and_its_field_is_asked_again(
    small_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "extractors.md", "Edges", "feature_gs_ros.extractors", monkeypatch)
    field = tmp_path / "field"
    run(
        "backproject", small_scene / "map.ply", small_scene / "stream", "--alignment", small_scene / "alignment.yaml",
        "--extractor", "edges", "--every", "4", "--out", field,
    )  # fmt: skip
    assert FeatureField.load(field).extractor == ExtractorIdentity("edges", preprocessing={"cell": 1})
    assert run("query", field, "mug", code=2).error_code == "prompt.unknown"  # it takes no words, and says so


def test_fields_of_equal_identities_are_merged_and_others_are_not(small_scene: Path) -> None:
    first, same, other = (back_projected(small_scene, Mean(cells)) for cells in (2, 2, 3))
    merged = merge_fields([first, same])
    torch.testing.assert_close(merged.weight, 2 * first.weight)
    torch.testing.assert_close(merged.features, first.features)
    with raises("field.mismatch"):
        merge_fields([first, other])


def test_options_in_the_identity_are_given_again() -> None:
    identity = ColorExtractor(space="rgb", cell=5).identity
    assert extractor_of(identity).identity == identity


def test_images_are_rgb_and_undistorted(small_scene: Path) -> None:
    straight, through_lens = Mean(), Mean()
    back_projected(small_scene, straight)
    back_projected(small_scene, through_lens, "stream_distorted")
    for ours, expected in zip(through_lens.seen, straight.seen, strict=True):
        assert ours.dtype == np.uint8
        assert ours.shape == expected.shape == (180, 240, 3)
        assert np.abs(ours.astype(float) - expected).mean(axis=(0, 1)).max() < 10  # colour by colour


def test_views_whose_features_are_not_finite_are_left_out(small_scene: Path) -> None:
    extractor = Mean(broken=1)
    field = back_projected(small_scene, extractor)
    assert len(extractor.seen) == 2
    assert len(field.provenance.frames) == 1
    assert bool(torch.isfinite(field.features).all())


def test_a_packaged_format_is_read_by_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "extending.md", "Spheres", "feature_gs_ros.splat_formats", monkeypatch)
    (tmp_path / "map.spheres").write_text("0 0 1 0.1 1 0 0\n0 0 2 0.2 0 1 0\n")
    assert re.search(r"gaussians +2\n", run("info", tmp_path / "map.spheres").stdout)
    (tmp_path / "map.spheres").write_text("0 0 1 red 1 0 0\n")
    assert run("info", tmp_path / "map.spheres", code=2).error_code == "map.damaged"


def test_services_of_this_package_are_found_by_cmake_and_their_fields_explained() -> None:
    (interfaces,) = re.findall(r"file\(GLOB interfaces [^)]*\)", (ROOT / "CMakeLists.txt").read_text())
    assert '"srv/*.srv"' in interfaces
    assert "CONFIGURE_DEPENDS" in interfaces
