"""The extractor `sam`: the image embedding of Segment Anything (Kirillov et al. 2023); its masks: sam_masks.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from feature_gs_ros.core.camera import Image
from feature_gs_ros.core.errors import ExtractorError
from feature_gs_ros.core.feature_grid import FeatureGrid
from feature_gs_ros.extractors.base import ExtractorIdentity, Requirements, ScoringRule
from feature_gs_ros.extractors.libraries import import_library
from feature_gs_ros.extractors.network import NetworkExtractor, resized
from feature_gs_ros.extractors.weights import WeightsFile, fill_network, find_weights, load_state, sha256_of
from feature_gs_ros.numerics.streams import upload

SIDE = 1024  # pixels of the padded square that the network sees
CELLS = 64  # of the embedding, a side
DIMENSION = 256
DEFAULT_MODEL = "vit_b"
_WIDTHS = {"vit_b": 768, "vit_l": 1024, "vit_h": 1280}  # of the image encoder
_FILES = {"vit_b": ("01ec64", 375), "vit_l": ("0b3195", 1250), "vit_h": ("4b8939", 2564)}  # mark in the name, 1e6 bytes


class SamExtractor(NetworkExtractor):
    """Features are the 64×64 cells [256] of the image padded to a square: at 16:9 only 64×36 of them show the image."""

    dimension = DIMENSION
    example_rule = ScoringRule(threshold=0.8)

    def __init__(
        self,
        weights: str | Path | None = None,
        model: str | None = None,
        precision: str = "float32",
        device: str = "auto",
    ) -> None:
        """
        Args:
            weights: file, or its folder; by default looked for and downloaded.
            model: vit_b, vit_l or vit_h; by default that of ``weights``.
            precision: of the image encoder; the mask decoder keeps float32.

        Raises:
            ExtractorError: the weights are missing or another model's, or an option is unknown.
        """
        super().__init__(device, precision)
        if model is None:
            is_file = weights is not None and Path(weights).expanduser().is_file()
            model = model_of(load_state(Path(weights).expanduser())) if is_file and weights else DEFAULT_MODEL
        if model not in _WIDTHS:
            raise ExtractorError(
                f"model '{model}' of SAM is unknown; choose {', '.join(_WIDTHS)}", code="extractor.unknown"
            )
        self._model = model
        self._path = find_weights(weights_file(model), weights)
        self.identity = ExtractorIdentity(
            name="sam",
            weights=sha256_of(self._path),
            preprocessing={"model": model, "side": SIDE, "interpolation": "bilinear", "precision": precision},
        )

    @staticmethod
    def requirements() -> Requirements:
        return Requirements(
            "image embedding of Segment Anything, for points, boxes and instances",
            "256",
            text=False,
            libraries=(("segment_anything", "segment-anything"), ("torchvision", "torchvision")),
            weights=tuple(weights_file(model) for model in _WIDTHS),
        )

    @cached_property
    def network(self) -> Any:
        """The published network with its weights, made on first use.

        Raises:
            ExtractorError: segment-anything is missing or broken, or the weights are another model's.
        """
        library = import_library("segment_anything", "segment-anything")
        network = library.sam_model_registry[self._model]()
        fill_network(network, load_state(self._path), self._path, f"SAM {self._model}")
        network = network.eval().requires_grad_(False).to(self.device)
        encoder = network.image_encoder.to(self.dtype)
        # Whoever calls the encoder, also segment-anything's own automatic masks, gives and gets float32.
        encoder.register_forward_pre_hook(lambda _, inputs: (inputs[0].to(self.dtype),))
        encoder.register_forward_hook(lambda _module, _inputs, output: output.float())
        return network

    def _cells(self, images: Sequence[Image]) -> list[FeatureGrid]:
        height, width = fitted(*images[0].shape[:2])
        network = self.network
        pixels = upload(resized(images, height, width, "bilinear"), self.device)
        embedding = network.image_encoder(network.preprocess(pixels))  # [B, 256, 64, 64]
        cells = embedding.permute(0, 2, 3, 1).to(self.dtype)
        return [FeatureGrid(grid, right=SIDE / width, bottom=SIDE / height) for grid in cells]


def weights_file(model: str) -> WeightsFile:
    """The published file of a model."""
    mark, megabytes = _FILES[model]
    name = f"sam_{model}_{mark}.pth"
    return WeightsFile(name, f"https://dl.fbaipublicfiles.com/segment_anything/{name}", megabytes, "Apache-2.0")


def model_of(state: Mapping[str, Tensor]) -> str:
    """The model that a state dict is of.

    Raises:
        ExtractorError: none of them.
    """
    positions = state.get("image_encoder.pos_embed")
    for model, width in _WIDTHS.items():
        if positions is not None and tuple(positions.shape) == (1, CELLS, CELLS, width):
            return model
    raise ExtractorError(
        "the weights are no state dict of SAM: there is no image_encoder.pos_embed of a known size",
        code="extractor.format",
    )


def fitted(height: int, width: int) -> tuple[int, int]:
    """Height and width with the longer side at 1024."""
    scale = SIDE / max(height, width)
    return int(height * scale + 0.5), int(width * scale + 0.5)
