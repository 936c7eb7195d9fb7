"""The text tower of an open_clip model alone, for extractors whose image network is another's."""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from feature_gs_ros.core.errors import ExtractorError
from feature_gs_ros.extractors.libraries import import_library
from feature_gs_ros.extractors.text import hub_tokenizer
from feature_gs_ros.extractors.weights import WeightsFile, fill_network, find_weights, load_state, sha256_of

PACKAGE = "open_clip_torch"
# As a CLIP that is no "custom text" one keeps its text tower: beside the image tower, without a prefix.
_BARE_KEYS = ("positional_embedding", "token_embedding.", "transformer.", "ln_final.", "text_projection")


class OpenClipText:
    """Texts to embeddings [T, D], not normalised, by the text tower of an open_clip model; loaded on first use."""

    def __init__(
        self, model: str, file: WeightsFile, weights: str | Path | None = None, tokenizer: str | Path | None = None
    ) -> None:
        """
        Args:
            model: open_clip's name.
            file: of the whole model, as open_clip publishes it.
            weights: the file, or its folder.
            tokenizer: folder of the tokenizer's files, where they come from the hub; by default the weights' folder.

        Raises:
            ExtractorError: open_clip or the weights are missing.
        """
        self._open_clip = import_library("open_clip", PACKAGE)
        self._config = self._open_clip.get_model_config(model)
        if self._config is None:
            raise ExtractorError(
                f"model '{model}' is unknown to the installed open_clip; pip install -U {PACKAGE}",
                code="extractor.unknown",
            )
        self._model, self._tokenizer = model, tokenizer
        self.path = find_weights(file, weights)
        self.dimension = int(self._config["embed_dim"])

    @property
    def digest(self) -> str:
        """SHA-256 of the weights."""
        return sha256_of(self.path)

    def __call__(self, texts: list[str]) -> Tensor:
        """[T, D] on the CPU."""
        with torch.inference_mode():
            embeddings: Tensor = self._tower(self._tokenize(texts))
        return embeddings.float()

    @cached_property
    def scale(self) -> float:
        """The temperature that the model was trained with."""
        logit = load_state(self.path, ("logit_scale",)).get("logit_scale")
        if logit is None:
            raise ExtractorError(
                f"'{self.path}' has no logit_scale; use the whole model's file", code="extractor.weights"
            )
        return math.exp(float(logit.float().reshape(-1)[0]))

    @cached_property
    def _tower(self) -> nn.Module:
        library: Any = import_library("open_clip.model", PACKAGE)
        tower: nn.Module = library._build_text_tower(
            self.dimension, dict(self._config["text_cfg"]), bool(self._config.get("quick_gelu"))
        )
        state = load_state(self.path, ("text.", *_BARE_KEYS))
        nested = {key.removeprefix("text."): value for key, value in state.items() if key.startswith("text.")}
        chosen = {key: value.float() for key, value in (nested or state).items()}
        fill_network(tower, chosen, self.path, f"open_clip's {self._model}, its text tower")
        return tower.eval().requires_grad_(False)

    @cached_property
    def _tokenize(self) -> Any:
        return model_tokenizer(self._open_clip, self._model, self._tokenizer or self.path.parent)


def model_tokenizer(open_clip: Any, model: str, folder: str | Path) -> Any:
    """The tokenizer of an open_clip model; where it is one of the hub, its files are looked for in ``folder`` first."""
    text = open_clip.get_model_config(model)["text_cfg"]
    if "hf_tokenizer_name" not in text:
        return open_clip.get_tokenizer(model)
    library: Any = import_library("open_clip.tokenizer", PACKAGE)
    clean = library.get_clean_fn(text.get("tokenizer_kwargs", {}).get("clean", "whitespace"))
    return hub_tokenizer(text["hf_tokenizer_name"], folder, int(text.get("context_length", 77)), clean)
