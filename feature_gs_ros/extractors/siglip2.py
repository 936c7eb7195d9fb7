"""The extractor `siglip2`: dense features of SigLIP 2 (Tschannen et al. 2025) by open_clip, words of any language."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from feature_gs_ros.extractors import templates as sentences
from feature_gs_ros.extractors.base import Requirements, ScoringRule
from feature_gs_ros.extractors.clip import ClipExtractor
from feature_gs_ros.extractors.clip_dense import last_values
from feature_gs_ros.extractors.network import NetworkExtractor
from feature_gs_ros.extractors.open_clip_text import PACKAGE
from feature_gs_ros.extractors.weights import WeightsFile

DEFAULT_MODEL = "ViT-B-16-SigLIP2-256"
DEFAULT_WEIGHTS = WeightsFile(
    f"{DEFAULT_MODEL}.safetensors",
    f"https://huggingface.co/timm/{DEFAULT_MODEL}/resolve/main/open_clip_model.safetensors",
    1501,
    "Apache-2.0",
)


class Siglip2Extractor(ClipExtractor):
    """Features are patch tokens through the head that pools by attention, each as if it were alone, of unit length.

    SigLIP is trained by a sigmoid: image and text fit with probability ``σ(t c + b)`` for cosine c, temperature t and
    bias b. Beside generic words b cancels.
    """

    NAME: ClassVar[str] = "siglip2"
    SCORES: ClassVar[Mapping[str, ScoringRule]] = {**ClipExtractor.SCORES, "sigmoid": ScoringRule(threshold=0.5)}
    IMPLIED_OPTIONS: ClassVar[Mapping[str, object]] = {}

    def __init__(
        self,
        weights: str | Path | None = None,
        model: str = DEFAULT_MODEL,
        pretrained: str | None = None,
        path: str = "value",
        pixels: int = 640 * 480,
        templates: Sequence[str] = sentences.SIGLIP,
        score: str = "softmax",
        tokenizer: str | Path | None = None,
        precision: str = "float32",
        device: str = "auto",
    ) -> None:
        """
        Args:
            weights: state dict or safetensors, or its folder; by default looked for and downloaded.
            model: open_clip's name of the architecture.
            pretrained: open_clip's tag of the weights.
            path: "value" (the last block's values, then the pooling head) or "plain" (the whole last block, then it).
            pixels: area of the network's input; images are resized to it, aspect kept.
            templates: sentences with {} for the prompt; embeddings are averaged. ``["{}"]`` for other languages.
            score: "softmax" (beside generic words), "sigmoid" (at the model's temperature and bias) or "cosine".
            tokenizer: folder of the tokenizer's files; by default the weights' folder, where they lie there, else they
                are fetched from the hub.

        Raises:
            ExtractorError: open_clip is missing, model, tag, path or score are unknown, or the weights are missing.
        """
        super().__init__(weights, model, pretrained, path, pixels, templates, score, tokenizer, precision, device)

    @staticmethod
    def requirements() -> Requirements:
        return Requirements(
            "dense features of SigLIP 2, for words of any language",
            "768 (by the model)",
            text=True,
            libraries=(("open_clip", PACKAGE), ("torchvision", "torchvision"), ("transformers", "transformers")),
            weights=(DEFAULT_WEIGHTS,),
        )

    def scores(self, features: Tensor, embeddings: Tensor, prepared: Tensor | None = None) -> Tensor:
        """[M, D] × [P, D] -> [M, P]: as `ClipExtractor.scores`, or ``σ(t c + b)``."""
        if self._score != "sigmoid":
            return super().scores(features, embeddings, prepared)
        cosines = NetworkExtractor.scores(self, features, embeddings, prepared)
        return torch.sigmoid(self._scale * cosines + self._bias)

    @cached_property
    def _bias(self) -> float:
        network: Any = self.network
        return 0.0 if network.logit_bias is None else float(network.logit_bias.detach().float())

    def _dense(self, visual: Any, pixels: Tensor) -> Tensor:
        return last_values(visual, pixels) if self._value else super()._dense(visual, pixels)
