"""The contract in extractors/base.py: light to import, and complete with its defaults."""

from __future__ import annotations

import subprocess
import sys

import torch
from torch import Tensor

from feature_gs_ros.core.camera import Image
from feature_gs_ros.extractors.base import Extractor, ExtractorIdentity, FeatureGrid, ScoringRule, reads_files
from tests.errors import raises

HEAVY = ("numba", "llvmlite", "feature_gs_ros.numerics", "feature_gs_ros.rasterizer")


class Smallest(Extractor):
    """No more than what has no default."""

    identity, dimension = ExtractorIdentity("smallest"), 1
    text_rule = example_rule = ScoringRule(threshold=0.5)

    def extract(self, image: Image, name: str = "") -> FeatureGrid:  # noqa: ARG002
        return FeatureGrid(torch.from_numpy(image).float().mean(dim=2, keepdim=True))

    def scores(self, features: Tensor, embeddings: Tensor, prepared: Tensor | None = None) -> Tensor:  # noqa: ARG002
        return features @ embeddings.T

    def similarities(self, features: Tensor, examples: Tensor) -> Tensor:
        return self.scores(features, examples)


def test_the_contract_loads_neither_kernels_nor_a_rasteriser() -> None:
    code = (
        "import sys; import feature_gs_ros.extractors.base, feature_gs_ros.io.messages.feature_grid; "
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


def test_what_is_optional_has_a_default() -> None:
    extractor = Smallest()
    assert not reads_files(extractor)
    assert extractor.prepare(torch.ones(3, 1)).shape == (3,)
    with raises("prompt.unknown", "'smallest'"):
        extractor.embed(["mug"])
