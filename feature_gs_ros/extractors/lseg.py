"""The extractor `lseg`: per-pixel features in CLIP's text space (Li et al. 2022), for any word."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from feature_gs_ros.core.camera import Image
from feature_gs_ros.core.errors import ExtractorError
from feature_gs_ros.core.feature_grid import FeatureGrid
from feature_gs_ros.extractors.base import ExtractorIdentity, Requirements, ScoringRule
from feature_gs_ros.extractors.libraries import import_library
from feature_gs_ros.extractors.lseg_network import MULTIPLE, LSegNetwork, Shape, doubled
from feature_gs_ros.extractors.network import NetworkExtractor, input_size, normalised, resized
from feature_gs_ros.extractors.scoring import cosine
from feature_gs_ros.extractors.text import PromptEncoder
from feature_gs_ros.extractors.weights import (
    WeightsFile,
    as_floats,
    fill_network,
    find_weights,
    load_state,
    sha256_of,
)
from feature_gs_ros.numerics.streams import upload

WEIGHTS = WeightsFile(
    "demo_e200.ckpt",
    "https://drive.google.com/file/d/1FTuHY1xPUkM-5gaDtMfgCl3D0gR89WV7/view, linked from https://github.com/isl-org/lang-seg",
    1680,  # the weights alone; what the training kept comes on top
    "MIT",
    direct=False,
)
TEXT_MODEL = "ViT-B-32-quickgelu"
MEAN = DEVIATION = (0.5, 0.5, 0.5)
_IMAGE_KEYS = ("pretrained.", "scratch.")
# Of the published ViT: what follows its last tap, which the head doesn't use.
_UNUSED = ("pretrained.model.norm.", "pretrained.model.head.")
_TEXT_KEYS = ("token_embedding.", "positional_embedding", "transformer.", "ln_final.", "text_projection")


class LSegExtractor(NetworkExtractor):
    """Features are CLIP-like vectors [512] at half the input's resolution, each of unit length.

    With ``features="linear"`` they are the 256 channels at a quarter of the resolution that the head's affine stages
    start from; `scores` applies these to the Gaussians' features, ``Wᵀ(F A + 1 bᵀ) = (Wᵀ F) A + (Wᵀ 1) bᵀ``. That is
    an eighth of the values per view and half of them per Gaussian. It is another mean: long vectors count more.
    """

    # "other" stands for all that wasn't asked for, as in the paper's zero-shot setting.
    scale_invariant = False  # "linear" features have an offset to come
    text_rule = ScoringRule(threshold=0.0, other="other")
    example_rule = ScoringRule(threshold=0.8)

    def __init__(
        self,
        weights: str | Path | None = None,
        features: str = "unit",
        pixels: int = 640 * 480,
        template: str = "{}",
        precision: str = "float32",
        device: str = "auto",
    ) -> None:
        """
        Args:
            weights: checkpoint of lang-seg (``net.`` before its keys) or of lseg-minimal, or its folder.
            features: "unit" (512, normalised per cell) or "linear" (256, see the class).
            pixels: area of the network's input; images are resized to it, aspect kept, to multiples of 32.
            template: sentence with {} for the prompt; LSeg was trained on bare labels.

        Raises:
            ExtractorError: the weights are missing, or an option is out of range.
        """
        super().__init__(device, precision)
        if features not in ("unit", "linear"):
            raise ExtractorError(
                f"features '{features}' of LSeg are unknown; choose unit or linear", code="extractor.unknown"
            )
        input_size(1, 1, pixels, MULTIPLE)
        self._unit, self._pixels = features == "unit", pixels
        self.unit_features = self._unit
        self._path = find_weights(WEIGHTS, weights)
        self._prompts = PromptEncoder(self.encode_text, [template])
        self._shape = self._shape_of_weights()
        self.dimension = self._shape.outputs if self._unit else self._shape.features
        self.identity = ExtractorIdentity(
            name="lseg",
            weights=sha256_of(self._path),
            preprocessing={
                "features": features,
                "pixels": pixels,
                "multiple": MULTIPLE,
                "interpolation": "bilinear",
                "template": template,
                "precision": precision,
            },
        )

    @staticmethod
    def requirements() -> Requirements:
        return Requirements(
            "per-pixel features in CLIP's text space, for any word",
            "512, or 256 (linear)",
            text=True,
            libraries=(("open_clip", "open_clip_torch"), ("torchvision", "torchvision")),
            weights=(WEIGHTS,),
        )

    @cached_property
    def network(self) -> LSegNetwork:
        """The image network with its weights, made on first use."""
        network = LSegNetwork(self._shape)
        state = {key: value for key, value in self._state(_IMAGE_KEYS).items() if not key.startswith(_UNUSED)}
        fill_network(network, as_floats(state), self._path, "LSeg (ViT-L/16)")
        return network.eval().requires_grad_(False).to(self.device, self.dtype)

    @cached_property
    def affine(self) -> tuple[Tensor, Tensor]:
        """A [256, 512] and b [512] of the head's last stages, float32 on the CPU."""
        weight, bias = self.network.affine()
        return weight.float().cpu(), bias.float().cpu()

    def embed(self, prompts: Sequence[str]) -> Tensor:
        """[P, 512] of unit length; with "linear" features, too. Any text is known.

        Raises:
            ExtractorError: open_clip is missing or broken, or the checkpoint has no text tower.
        """
        return self._prompts(prompts)

    def prepare(self, features: Tensor) -> Tensor:
        """Norms in CLIP's space, [M]."""
        norms: Tensor = torch.linalg.vector_norm(self.in_text_space(features), dim=1)
        return norms

    def scores(self, features: Tensor, embeddings: Tensor, prepared: Tensor | None = None) -> Tensor:
        """Cosine in CLIP's space: [M, dimension] × [P, 512] -> [M, P]."""
        return cosine(self.in_text_space(features), embeddings.float(), prepared)

    def similarities(self, features: Tensor, examples: Tensor) -> Tensor:
        """Cosine in CLIP's space: [M, dimension] × [P, dimension] -> [M, P]."""
        return cosine(self.in_text_space(features), self.in_text_space(examples))

    def in_text_space(self, features: Tensor) -> Tensor:
        """Features [M, dimension] as vectors [M, 512] that embeddings of words are compared with."""
        if self._unit:
            return features.float()
        weight, bias = self.affine
        return features.float() @ weight + bias

    def _cells(self, images: Sequence[Image]) -> list[FeatureGrid]:
        height, width = input_size(images[0].shape[0], images[0].shape[1], self._pixels, MULTIPLE)
        pixels = normalised(resized(images, height, width, "bilinear"), MEAN, DEVIATION)
        maps = self.network(upload(pixels, self.device, self.dtype))  # [B, 256, H/4, W/4]
        if self._unit:
            weight, bias = self.network.affine()
            maps = functional.conv2d(maps, weight.T[:, :, None, None], bias)
            maps = functional.normalize(doubled(maps), dim=1)  # [B, 512, H/2, W/2]
        # The published code doubles with corners on corners, so cells lie on the outer pixels' centres.
        return [FeatureGrid.corner_aligned(cells, width, height) for cells in maps.permute(0, 2, 3, 1)]

    def _shape_of_weights(self) -> Shape:
        try:
            return Shape.of(self._state(_IMAGE_KEYS))
        except (KeyError, ValueError, IndexError) as error:
            raise ExtractorError(
                f"'{self._path}' is not a checkpoint of LSeg: {error} is missing or misshapen", code="extractor.format"
            ) from error

    def _state(self, prefixes: tuple[str, ...]) -> dict[str, Tensor]:
        """The checkpoint's tensors whose keys, less the Lightning module's ``net.``, begin so."""
        state = load_state(self._path)
        bare = {key.removeprefix("net."): value for key, value in state.items()}
        return {key: value for key, value in bare.items() if key.startswith(prefixes)}

    @cached_property
    def _text_tower(self) -> tuple[torch.nn.Module, Any]:
        """CLIP's text tower with the checkpoint's weights, and its tokenizer."""
        open_clip = import_library("open_clip", "open_clip_torch")
        sizes = open_clip.get_model_config(TEXT_MODEL)
        transformer = import_library("open_clip.transformer", "open_clip_torch")
        tower = transformer.TextTransformer(
            **sizes["text_cfg"], output_dim=sizes["embed_dim"], act_layer=transformer.QuickGELU
        )
        prefix = "clip_pretrained."
        state = {key.removeprefix(prefix): value for key, value in self._state((prefix,)).items()}
        text = {key: value for key, value in state.items() if key.startswith(_TEXT_KEYS)}
        fill_network(tower, as_floats(text), self._path, "LSeg's text tower (CLIP ViT-B/32)")
        return tower.eval().requires_grad_(False), open_clip.get_tokenizer(TEXT_MODEL)

    def encode_text(self, texts: list[str]) -> Tensor:
        """Texts as they are, without a template, to the text model's embeddings [T, 512]."""
        tower, tokenize = self._text_tower
        embeddings: Tensor = tower(tokenize(texts))
        return embeddings
