"""The extractor `clip`: dense features of any CLIP that open_clip knows, for any word (MaskCLIP, Zhou et al. 2022)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from feature_gs_ros.core.camera import Image
from feature_gs_ros.core.errors import ExtractorError
from feature_gs_ros.core.feature_grid import FeatureGrid
from feature_gs_ros.extractors.base import ExtractorIdentity, Requirements, ScoringRule
from feature_gs_ros.extractors.clip_dense import cell_size, dense_features
from feature_gs_ros.extractors.libraries import import_library
from feature_gs_ros.extractors.network import NetworkExtractor, input_size, normalised, resized
from feature_gs_ros.extractors.text import PromptEncoder
from feature_gs_ros.extractors.weights import WeightsFile, find_weights, load_state, sha256_of

PACKAGE = "open_clip_torch"
DEFAULT_MODEL = "ViT-B-16-quickgelu"
TEMPLATES = (  # of the seven that CLIP's authors name as the best few, those that suit things on a table
    "a photo of a {}.",
    "itap of a {}.",
    "a bad photo of the {}.",
    "a photo of the large {}.",
    "a photo of the small {}.",
)
GENERIC_WORDS = ("object", "things", "stuff", "texture")  # the negatives of language fields, as LERF has them
DEFAULT_WEIGHTS = WeightsFile(
    "vit_base_patch16_clip_224.openai.safetensors",
    "https://huggingface.co/timm/vit_base_patch16_clip_224.openai/resolve/main/open_clip_model.safetensors",
    599,
    "MIT",
)


class ClipExtractor(NetworkExtractor):
    """Features are patch tokens in the space of image and text, each of unit length."""

    # Cosines of image and text are small and close together; the highest of the prompts and "other" is the answer.
    COSINE_RULE = ScoringRule(threshold=0.0, other="other")
    # A prompt passes where it is likelier than the generic words together.
    SOFTMAX_RULE = ScoringRule(threshold=0.5)
    IMPLIED_OPTIONS: ClassVar[Mapping[str, object]] = {"score": "cosine"}  # of fields from before there was a choice
    example_rule = ScoringRule(threshold=0.8)

    def __init__(
        self,
        weights: str | Path | None = None,
        model: str = DEFAULT_MODEL,
        pretrained: str | None = None,
        path: str = "value",
        pixels: int = 640 * 480,
        templates: Sequence[str] = TEMPLATES,
        score: str = "softmax",
        precision: str = "float32",
        device: str = "auto",
    ) -> None:
        """
        Args:
            weights: state dict or safetensors, or its folder; by default looked for and downloaded.
            model: open_clip's name of the architecture.
            pretrained: open_clip's tag of the weights, which the normalisation of images goes by; openai by default,
                where there is such a tag.
            path: "value" (the last block's value path: what a cell says itself) or "plain" (the whole last block).
            pixels: area of the network's input; images are resized to it, aspect kept.
            templates: sentences with {} for the prompt; embeddings are averaged.
            score: "softmax" (a prompt's probability beside generic words, at the model's own temperature) or "cosine".

        Raises:
            ExtractorError: open_clip is missing, model, tag or path are unknown, or the weights are missing.
        """
        super().__init__(device, precision)
        if path not in ("value", "plain"):
            raise ExtractorError(f"path '{path}' is unknown; choose value or plain", code="extractor.unknown")
        if score not in ("softmax", "cosine"):
            raise ExtractorError(f"score '{score}' is unknown; choose softmax or cosine", code="extractor.unknown")
        self._softmax = score == "softmax"
        self.text_rule = self.SOFTMAX_RULE if self._softmax else self.COSINE_RULE
        input_size(1, 1, pixels, 64)
        self._open_clip = import_library("open_clip", PACKAGE)
        config = self._open_clip.get_model_config(model)
        if config is None:
            raise ExtractorError(
                f"model '{model}' is unknown to open_clip; some are {', '.join(self._some_models())}",
                code="extractor.unknown",
            )
        self._model, self._value, self._pixels = model, path == "value", pixels
        self._preprocessing = self._pretrained_config(pretrained)
        self._path = find_weights(self._weights_file(), weights)
        self._prompts = PromptEncoder(self._encode_text, templates)
        self.dimension = int(config["embed_dim"])
        self.identity = ExtractorIdentity(
            name="clip",
            weights=sha256_of(self._path),
            preprocessing={
                "model": model,
                "pretrained": self._tag,
                "path": path,
                "pixels": pixels,
                "interpolation": "bicubic",
                "templates": list(templates),
                "precision": precision,
            }
            | ({"score": score} if self._softmax else {}),
        )

    @staticmethod
    def requirements() -> Requirements:
        return Requirements(
            "dense features of CLIP and its kin, for any word",
            "512 (by the model)",
            text=True,
            libraries=(("open_clip", PACKAGE), ("torchvision", "torchvision")),
            weights=(DEFAULT_WEIGHTS,),
        )

    @cached_property
    def network(self) -> nn.Module:
        """open_clip's model with its weights, made on first use.

        Raises:
            ExtractorError: the weights are another model's.
        """
        load_state(self._path)  # refuses what isn't plain weights, before open_clip opens it
        network = self._empty_network("cpu")
        try:
            self._open_clip.load_checkpoint(network, str(self._path))
        except (RuntimeError, KeyError, ValueError) as error:
            first = " ".join(str(error).split())[:300]
            raise ExtractorError(
                f"'{self._path}' is no file of open_clip's {self._model}: {first}", code="extractor.format"
            ) from error
        return network.eval().requires_grad_(False).to(self.device, self.dtype)

    @cached_property
    def _tokenize(self) -> Any:
        return self._open_clip.get_tokenizer(self._model)

    def embed(self, prompts: Sequence[str]) -> Tensor:
        """[P, dimension] of unit length, the mean over templates and synonyms ("mug | cup"); any text is known."""
        return self._prompts(prompts)

    def scores(self, features: Tensor, embeddings: Tensor, prepared: Tensor | None = None) -> Tensor:
        """[M, D] × [P, D] -> [M, P]: each prompt's probability beside `GENERIC_WORDS`, or its cosine.

        ``exp(t c) / (exp(t c) + Σ_g exp(t c_g))`` with cosines c of the prompt and c_g of the generic words, and the
        temperature t that the model was trained with. Prompts don't change each other's probabilities, so that one
        asked alone and one asked among others score alike; which of them a Gaussian goes to is the highest's.
        """
        prepared = self.prepare(features) if prepared is None else prepared
        cosines = super().scores(features, embeddings, prepared)
        if not self._softmax:
            return cosines
        scale, generic = self._generic
        others = torch.logsumexp(scale * super().scores(features, generic, prepared), dim=1, keepdim=True)
        return torch.sigmoid(scale * cosines - others)

    @cached_property
    def _generic(self) -> tuple[float, Tensor]:
        """The model's temperature, and the embeddings [G, D] of the generic words."""
        network: Any = self.network
        return float(network.logit_scale.detach().float().exp()), self.embed(GENERIC_WORDS)

    def _cells(self, images: Sequence[Image]) -> list[FeatureGrid]:
        visual: Any = self.network.visual
        height, width = input_size(images[0].shape[0], images[0].shape[1], self._pixels, cell_size(visual))
        mean, deviation = self._preprocessing["mean"], self._preprocessing["std"]
        pixels = normalised(resized(images, height, width, "bicubic"), mean, deviation)
        cells = dense_features(visual, pixels.to(self.device, self.dtype), self._value)  # [B, rows, columns, D]
        return [FeatureGrid(functional.normalize(grid, dim=2)) for grid in cells]

    def _encode_text(self, texts: list[str]) -> Tensor:  # -> [T, D]
        network: Any = self.network
        embeddings: Tensor = network.encode_text(self._tokenize(texts).to(self.device))
        return embeddings

    def _pretrained_config(self, tag: str | None) -> dict[str, Any]:
        tags = self._open_clip.list_pretrained_tags_by_model(self._model)
        if tag and tag not in tags:
            known = ", ".join(tags) or "none"
            raise ExtractorError(
                f"open_clip has no weights '{tag}' of {self._model}; choose {known}", code="extractor.range"
            )
        self._tag = tag or ("openai" if "openai" in tags else next(iter(tags), ""))
        defaults = {"mean": self._open_clip.OPENAI_DATASET_MEAN, "std": self._open_clip.OPENAI_DATASET_STD}
        return {**defaults, **(self._open_clip.get_pretrained_cfg(self._model, self._tag) or {})}

    def _weights_file(self) -> WeightsFile:
        repository = str(self._preprocessing.get("hf_hub", "")).strip("/")
        if not repository:
            page = str(self._preprocessing.get("url") or "https://github.com/mlfoundations/open_clip")
            return WeightsFile(f"{self._model}-{self._tag}.safetensors", page, self._megabytes(), "see its page", False)
        source = f"https://huggingface.co/{repository}/resolve/main/open_clip_model.safetensors"
        if source == DEFAULT_WEIGHTS.source:
            return DEFAULT_WEIGHTS
        return WeightsFile(f"{repository.split('/')[-1]}.safetensors", source, self._megabytes(), "see its page")

    def _megabytes(self) -> int:
        """Of the weights in float32."""
        return round(sum(parameter.numel() for parameter in self._empty_network("meta").parameters()) * 4 / 1e6)

    def _empty_network(self, device: str) -> nn.Module:
        root = logging.getLogger()
        root.addFilter(_no_random_weights)
        try:
            with torch.device(device):
                network: nn.Module = self._open_clip.create_model(self._model, pretrained=None, device=device)
            return network
        finally:
            root.removeFilter(_no_random_weights)

    def _some_models(self) -> list[str]:
        return [name for name in self._open_clip.list_models() if name.startswith(("ViT-B", "ViT-L"))][:20]


def _no_random_weights(record: logging.LogRecord) -> bool:
    """open_clip warns of random weights; they are replaced at once."""
    return "initialized randomly" not in record.getMessage()
