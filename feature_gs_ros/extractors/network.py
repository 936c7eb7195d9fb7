"""What the extractors with a large network share: device, precision, batches, input sizes and cosine scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from feature_gs_ros.core.camera import Image
from feature_gs_ros.core.errors import ExtractorError, UnknownPromptError
from feature_gs_ros.core.feature_grid import FeatureGrid
from feature_gs_ros.extractors.base import Extractor, ExtractorIdentity, ScoringRule
from feature_gs_ros.extractors.scoring import cosine

IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of channels in 0 … 1
MAX_PIXELS = 4096**2  # of an input; attention over more patches would need hundreds of GB
_PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

Interpolation = Literal["bilinear", "bicubic"]


class NetworkExtractor(Extractor, ABC):
    """Base of an extractor whose features are compared by cosine; it adds `_cells`, and `embed` if it knows words."""

    identity: ExtractorIdentity
    dimension: int
    scale_invariant = True
    text_rule = ScoringRule(threshold=0.0)
    example_rule = ScoringRule(threshold=0.6)

    def __init__(self, device: str, precision: str) -> None:
        """
        Args:
            device: "auto" (CUDA where there is one), "cpu", "cuda" or "cuda:1".
            precision: "float32", "float16" or "bfloat16", of weights, passes and features.

        Raises:
            ExtractorError: there is no such device or precision.
        """
        if precision not in _PRECISIONS:
            raise ExtractorError(
                f"precision '{precision}' is unknown; choose {', '.join(_PRECISIONS)}", code="extractor.unknown"
            )
        self.dtype = _PRECISIONS[precision]
        self.device = _device(device)

    @abstractmethod
    def _cells(self, images: Sequence[Image]) -> list[FeatureGrid]:
        """Grids of images of one size [H, W, 3], by one pass of the network."""

    def extract(self, image: Image, name: str = "") -> FeatureGrid:  # noqa: ARG002
        """[H, W, 3] uint8 to a grid [rows, columns, dimension] in the extractor's precision."""
        return self.extract_batch([image])[0]

    def extract_batch(self, images: Sequence[Image]) -> list[FeatureGrid]:
        """As `extract`, for several images of one size at once.

        Raises:
            ExtractorError: sizes differ, or the device has too little memory.
        """
        if len({image.shape for image in images}) > 1:
            raise ExtractorError(
                "a batch holds images of different sizes; give those of one size together", code="extractor.size"
            )
        try:
            with torch.inference_mode():
                grids = self._cells(images)
            # An inference tensor could not be changed in place by those who get it.
            return [FeatureGrid(g.values.clone(), g.left, g.top, g.right, g.bottom) for g in grids]
        except torch.cuda.OutOfMemoryError as error:
            raise ExtractorError(
                f"{self.device} has too little memory for {len(images)} images of {images[0].shape[1]}×"
                f"{images[0].shape[0]}; use fewer pixels, precision=float16 or device=cpu",
                code="extractor.memory",
            ) from error

    def embed(self, prompts: Sequence[str]) -> Tensor:
        """An extractor without text knows no words.

        Raises:
            UnknownPromptError: always.
        """
        raise UnknownPromptError(
            f"the extractor '{self.identity.name}' does not take text, so not '{', '.join(prompts)}'; "
            "ask by point or example, or use the extractor clip, lseg or imagenet"
        )

    def prepare(self, features: Tensor) -> Tensor:
        """Norms, [M]."""
        norms: Tensor = torch.linalg.vector_norm(features.float(), dim=1)
        return norms

    def scores(self, features: Tensor, embeddings: Tensor, prepared: Tensor | None = None) -> Tensor:
        """Cosine, [M, D] × [P, D] -> [M, P]."""
        return cosine(features.float(), embeddings.float(), prepared)

    def similarities(self, features: Tensor, examples: Tensor) -> Tensor:
        """Cosine, [M, D] × [P, D] -> [M, P]."""
        return cosine(features.float(), examples.float())


def input_size(height: int, width: int, pixels: int, multiple: int, most: int = MAX_PIXELS) -> tuple[int, int]:
    """Height and width of about ``pixels`` in area at the image's aspect, multiples of ``multiple``.

    Raises:
        ExtractorError: ``pixels`` is out of range.
    """
    if not multiple**2 <= pixels <= most:
        raise ExtractorError(f"pixels={pixels} is out of range; choose {multiple**2} to {most}", code="extractor.range")
    scale = (pixels / (height * width)) ** 0.5
    rows, columns = (max(1, round(side * scale / multiple)) for side in (height, width))
    return rows * multiple, columns * multiple


def resized(images: Sequence[Image], height: int, width: int, interpolation: Interpolation) -> Tensor:
    """Images [H, W, 3] uint8, resized with an anti-aliasing filter: [B, 3, height, width] in 0 … 255, float32.

    Resized as uint8, as Pillow does, by which the published models were fed: bilinear is the same to one level of 255,
    bicubic to two.
    """
    pixels = torch.stack([torch.from_numpy(np.ascontiguousarray(image)) for image in images]).permute(0, 3, 1, 2)
    if (height, width) != tuple(pixels.shape[2:]):
        pixels = functional.interpolate(pixels, (height, width), mode=interpolation, antialias=True)
    return pixels.float().contiguous()


def normalised(pixels: Tensor, mean: Sequence[float], deviation: Sequence[float]) -> Tensor:
    """``(pixels / 255 − mean) / deviation`` by channel; [B, 3, H, W] in 0 … 255."""
    shift, scale = (torch.tensor(values, dtype=torch.float32).view(3, 1, 1) * 255 for values in (mean, deviation))
    return (pixels - shift) / scale


def resized_positions(positions: Tensor, rows: int, columns: int, mode: Interpolation, antialias: bool) -> Tensor:
    """Embeddings [1 + s·s, D] of a class token and an s × s grid, resized to [1 + rows·columns, D].

    Raises:
        ExtractorError: the grid isn't square.
    """
    side = int((len(positions) - 1) ** 0.5)
    if side * side != len(positions) - 1:
        raise ExtractorError(
            f"the network's {len(positions) - 1} positions are not a square grid; use another model",
            code="extractor.unsupported",
        )
    if (rows, columns) == (side, side):
        return positions
    grid = positions[1:].float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
    grid = functional.interpolate(grid, (rows, columns), mode=mode, antialias=antialias, align_corners=False)
    return torch.cat([positions[:1], grid.flatten(2)[0].T.to(positions.dtype)])


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ExtractorError(
            f"device '{name}' is unknown; choose auto, cpu or cuda", code="extractor.unknown"
        ) from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ExtractorError(f"device '{name}' is not on this machine; choose auto or cpu", code="extractor.unusable")
    return device
