"""The extractor `clip`: dense features of any CLIP that open_clip knows, for any word (MaskCLIP, Zhou et al. 2022)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from feature_gs_ros.core.camera import Image
from feature_gs_ros.core.errors import ExtractorError
from feature_gs_ros.core.feature_grid import FeatureGrid
from feature_gs_ros.extractors import templates as sentences
from feature_gs_ros.extractors.base import ExtractorIdentity, Judgement, Requirements, ScoringRule
from feature_gs_ros.extractors.clip_dense import cell_size, dense_features
from feature_gs_ros.extractors.libraries import import_library
from feature_gs_ros.extractors.network import NetworkExtractor, input_size, normalised, resized
from feature_gs_ros.extractors.open_clip_text import PACKAGE, model_tokenizer
from feature_gs_ros.extractors.open_vocabulary import beside_generic, judge_by_words
from feature_gs_ros.extractors.text import PromptEncoder
from feature_gs_ros.extractors.weights import WeightsFile, find_weights, load_state, sha256_of
from feature_gs_ros.numerics.streams import upload

DEFAULT_MODEL = "ViT-B-16-quickgelu"
DEFAULT_WEIGHTS = WeightsFile(
    "vit_base_patch16_clip_224.openai.safetensors",
    "https://huggingface.co/timm/vit_base_patch16_clip_224.openai/resolve/main/open_clip_model.safetensors",
    599,
    "MIT",
)


class ClipExtractor(NetworkExtractor):
    """Features are patch tokens in the space of image and text, each of unit length."""

    unit_features = True
    NAME: ClassVar[str] = "clip"
    # Cosines of image and text are small and close together; the highest of the prompts and "other" is the answer.
    COSINE_RULE = ScoringRule(threshold=0.0, other="other")
    # A prompt passes where it is likelier than the generic words together.
    SOFTMAX_RULE = ScoringRule(threshold=0.5)
    SCORES: ClassVar[Mapping[str, ScoringRule]] = {"softmax": SOFTMAX_RULE, "cosine": COSINE_RULE}
    IMPLIED_OPTIONS: ClassVar[Mapping[str, object]] = {"score": "cosine"}  # of fields from before there was a choice
    example_rule = ScoringRule(threshold=0.8)

    def __init__(
        self,
        weights: str | Path | None = None,
        model: str = DEFAULT_MODEL,
        pretrained: str | None = None,
        path: str = "value",
        pixels: int = 640 * 480,
        templates: Sequence[str] = sentences.CLIP,
        score: str = "softmax",
        tokenizer: str | Path | None = None,
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
            tokenizer: folder of the tokenizer's files, for models whose tokenizer comes from the Hugging Face hub; by
                default the weights' folder, where they lie there.

        Raises:
            ExtractorError: open_clip is missing, model, tag or path are unknown, or the weights are missing.
        """
        super().__init__(device, precision)
        if path not in ("value", "plain"):
            raise ExtractorError(f"path '{path}' is unknown; choose value or plain", code="extractor.unknown")
        if score not in self.SCORES:
            raise ExtractorError(
                f"score '{score}' is unknown; choose {' or '.join(self.SCORES)}", code="extractor.unknown"
            )
        self._score = score
        self.text_rule = self.candidate_rule = self.SCORES[score]
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
        self._path, self._tokenizer = find_weights(self._weights_file(), weights), tokenizer
        self._prompts = PromptEncoder(self.encode_text, templates)
        self._judged_words = PromptEncoder(self.encode_text, templates[:1])
        self.dimension = int(config["embed_dim"])
        self.identity = ExtractorIdentity(
            name=self.NAME,
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
            | ({} if score == self.IMPLIED_OPTIONS.get("score") else {"score": score}),
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
                f"'{self._path}' is not a file of open_clip's {self._model}: {first}", code="extractor.format"
            ) from error
        return network.eval().requires_grad_(False).to(self.device, self.dtype)

    @cached_property
    def tokenize(self) -> Any:
        """From texts to the text model's tokens [T, length]."""
        return model_tokenizer(self._open_clip, self._model, self._tokenizer or self._path.parent)

    def embed(self, prompts: Sequence[str]) -> Tensor:
        """[P, dimension] of unit length, the mean over templates and synonyms ("mug | cup"); any text is known."""
        return self._prompts(prompts)

    def scores(self, features: Tensor, embeddings: Tensor, prepared: Tensor | None = None) -> Tensor:
        """[M, D] × [P, D] -> [M, P]: each prompt's probability beside the generic words, or its cosine.

        See `open_vocabulary.beside_generic`, with the temperature that the model was trained with. Prompts asked alone
        and among others score alike; which of them a Gaussian goes to is the highest's.
        """
        prepared = self.prepare(features) if prepared is None else prepared
        cosines = super().scores(features, embeddings, prepared)
        if self._score == "cosine":
            return cosines
        return beside_generic(cosines, super().scores(features, self._generic, prepared), self._scale)

    @cached_property
    def _scale(self) -> float:
        """The model's temperature, by which its logits are multiplied."""
        network: Any = self.network
        return float(network.logit_scale.detach().float().exp())

    @cached_property
    def _generic(self) -> Tensor:
        """Embeddings [G, D] of the generic words."""
        return self.embed(sentences.GENERIC_WORDS)

    def judge(self, images: Sequence[Image], prompt: str) -> Judgement:
        """The prompt against everyday objects in whole images, by the model's pooled embedding of each."""
        return judge_by_words(self.embed_images, self._judged_words, self._scale, images, prompt)

    def embed_images(self, images: Sequence[Image]) -> Tensor:
        """Unit embeddings [B, D] of images of any size, each squeezed to the square that the model was trained on."""
        network: Any = self.network
        size = network.visual.image_size
        height, width = size if isinstance(size, (tuple, list)) else (size, size)
        with torch.inference_mode():
            squares = torch.cat([resized([np.ascontiguousarray(image)], height, width, "bicubic") for image in images])
            pixels = normalised(squares, self._preprocessing["mean"], self._preprocessing["std"])
            embeddings: Tensor = network.encode_image(upload(pixels, self.device, self.dtype), normalize=True)
        return embeddings.float().cpu().clone()

    def _cells(self, images: Sequence[Image]) -> list[FeatureGrid]:
        visual: Any = self.network.visual
        height, width = input_size(images[0].shape[0], images[0].shape[1], self._pixels, cell_size(visual))
        mean, deviation = self._preprocessing["mean"], self._preprocessing["std"]
        pixels = normalised(resized(images, height, width, "bicubic"), mean, deviation)
        cells = self._dense(visual, upload(pixels, self.device, self.dtype))  # [B, rows, columns, D]
        return [FeatureGrid(functional.normalize(grid, dim=2)) for grid in cells]

    def _dense(self, visual: Any, pixels: Tensor) -> Tensor:
        return dense_features(visual, pixels, self._value)

    def encode_text(self, texts: list[str]) -> Tensor:
        """Texts as they are, without a template, to the text model's embeddings [T, D]."""
        network: Any = self.network
        embeddings: Tensor = network.encode_text(self.tokenize(texts).to(self.device))
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
