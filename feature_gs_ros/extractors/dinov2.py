"""The extractor `dinov2`: patch tokens of DINOv2 (Oquab et al. 2023), for examples; words by a text head."""

from __future__ import annotations

import os
import urllib.error
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from feature_gs_ros.core.camera import Image
from feature_gs_ros.core.errors import ExtractorError
from feature_gs_ros.core.feature_grid import FeatureGrid
from feature_gs_ros.extractors import templates as sentences
from feature_gs_ros.extractors.base import ExtractorIdentity, Requirements, ScoringRule
from feature_gs_ros.extractors.network import (
    IMAGENET_DEVIATION,
    IMAGENET_MEAN,
    NetworkExtractor,
    input_size,
    normalised,
    resized,
)
from feature_gs_ros.extractors.text import PromptEncoder
from feature_gs_ros.extractors.text_head import CLIP_WEIGHTS, TextHead
from feature_gs_ros.extractors.weights import WeightsFile, fill_network, find_weights, load_state, sha256_of
from feature_gs_ros.numerics.streams import upload

REPOSITORY = "facebookresearch/dinov2"
COMMIT = "b8931f7bf91576930313be2c6d6af376033b35f0"  # the hub code that the parity tests ran
CLONE_VARIABLE = "FEATURE_GS_DINOV2"  # folder of a clone, where `hub` isn't given
PATCH = 14  # input pixels a cell
DEFAULT_MODEL = "vits14"
DIMENSIONS = {"vits14": 384, "vitb14": 768, "vitl14": 1024, "vitg14": 1536}
MODELS = tuple(f"{size}{registers}" for size in DIMENSIONS for registers in ("", "_reg"))
_MEGABYTES = {"vits14": 88, "vitb14": 346, "vitl14": 1218, "vitg14": 4546}


class Dinov2Extractor(NetworkExtractor):
    """Features are the last layer's normalised patch tokens, one a cell of 14×14 pixels of the network's input.

    The network is the hub's own code, so that the resizing of its positions is, too.
    """

    example_rule = ScoringRule(threshold=0.6)
    plain_cosines = True

    def __init__(
        self,
        weights: str | Path | None = None,
        model: str | None = None,
        pixels: int = 644 * 476,
        hub: str | Path | None = None,
        text_head: str | Path | None = None,
        text_weights: str | Path | None = None,
        precision: str = "float32",
        device: str = "auto",
    ) -> None:
        """
        Args:
            weights: file, or its folder; by default looked for and downloaded, see `find_weights`.
            model: vits14, vitb14, vitl14 or vitg14, with ``_reg`` for registers; by default that of ``weights``.
            pixels: area of the network's input; images are resized to it, aspect kept, to multiples of 14.
            hub: clone of the DINOv2 repository, where there is no network; also the variable FEATURE_GS_DINOV2.
            text_head: a head that gives words, also to a field which exists already, see `text_head.TextHead`.
            text_weights: file of CLIP's text tower, for ``text_head``.

        Raises:
            ExtractorError: the weights are missing or another model's, or an option is out of range.
        """
        super().__init__(device, precision)
        if model is None:
            is_file = weights is not None and Path(weights).expanduser().is_file()
            model = model_of(load_state(Path(weights).expanduser())) if is_file and weights else DEFAULT_MODEL
        if model not in MODELS:
            raise ExtractorError(
                f"model '{model}' of DINOv2 is unknown; choose {', '.join(MODELS)}", code="extractor.unknown"
            )
        input_size(1, 1, pixels, PATCH)
        self._model, self._pixels = model, pixels
        self._clone = hub or os.environ.get(CLONE_VARIABLE)
        self._path = find_weights(weights_file(model), weights)
        self.dimension = DIMENSIONS[model.removesuffix("_reg")]
        self._words: PromptEncoder | None = None
        if text_head is not None:
            self._words = PromptEncoder(TextHead(text_head, self.dimension, text_weights), sentences.CLIP)
            self.text_rule = ScoringRule(threshold=0.0, other="other")
        self.identity = ExtractorIdentity(
            name="dinov2",
            weights=sha256_of(self._path),
            preprocessing={
                "model": model,
                "pixels": pixels,
                "multiple": PATCH,
                "interpolation": "bicubic",
                "precision": precision,
            },
        )

    @staticmethod
    def requirements() -> Requirements:
        return Requirements(
            "patch tokens of DINOv2, for examples and affordances",
            "384, 768, 1024 or 1536",
            text=False,
            weights=tuple(weights_file(model) for model in MODELS),
            words_weights=(CLIP_WEIGHTS,),
        )

    @cached_property
    def network(self) -> nn.Module:
        """The hub's network with its weights, made on first use.

        Raises:
            ExtractorError: the hub's code can't be had, or the weights are another model's.
        """
        network = hub_network(self._model, self._clone)
        fill_network(network, load_state(self._path), self._path, f"DINOv2 {self._model}")
        return network.eval().requires_grad_(False).to(self.device, self.dtype)

    def embed(self, prompts: Sequence[str]) -> Tensor:
        """[P, dimension] of unit length, where a text head gives words.

        Raises:
            UnknownPromptError: none does.
        """
        return super().embed(prompts) if self._words is None else self._words(prompts)

    def _cells(self, images: Sequence[Image]) -> list[FeatureGrid]:
        height, width = input_size(images[0].shape[0], images[0].shape[1], self._pixels, PATCH)
        pixels = normalised(resized(images, height, width, "bicubic"), IMAGENET_MEAN, IMAGENET_DEVIATION)
        output = self.network.forward_features(upload(pixels, self.device, self.dtype))  # type: ignore[operator]
        tokens: Tensor = output["x_norm_patchtokens"]  # [B, rows · columns, D]
        return [FeatureGrid(cells.reshape(height // PATCH, width // PATCH, -1)) for cells in tokens]


def weights_file(model: str) -> WeightsFile:
    """The published file of a model."""
    base = model.removesuffix("_reg")
    name = f"dinov2_{base}{'_reg4' if base != model else ''}_pretrain.pth"
    source = f"https://dl.fbaipublicfiles.com/dinov2/dinov2_{base}/{name}"
    return WeightsFile(name, source, _MEGABYTES[base], "Apache-2.0")


def model_of(state: Mapping[str, Tensor]) -> str:
    """The model that a state dict is of.

    Raises:
        ExtractorError: none of them.
    """
    token = state.get("cls_token")
    for model, dimension in DIMENSIONS.items():
        if token is not None and tuple(token.shape) == (1, 1, dimension):
            return f"{model}_reg" if "register_tokens" in state else model
    raise ExtractorError(
        "the weights are no state dict of DINOv2: there is no cls_token of a known size", code="extractor.format"
    )


def hub_network(model: str, clone: str | Path | None) -> nn.Module:
    """The network without weights, from a clone or from the hub at the pinned commit."""
    load: Callable[..., nn.Module] = torch.hub.load
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="xFormers")
            if clone is not None:
                network = load(str(Path(clone).expanduser()), f"dinov2_{model}", source="local", pretrained=False)
            else:
                # torch.hub can't validate a commit that is neither branch nor tag; it needs no validation either.
                network = load(
                    f"{REPOSITORY}:{COMMIT}",
                    f"dinov2_{model}",
                    pretrained=False,
                    trust_repo=True,
                    skip_validation=True,
                    verbose=False,
                )
    except (urllib.error.URLError, OSError, ImportError, RuntimeError, TypeError) as error:
        where = f"the clone '{clone}'" if clone is not None else f"github.com/{REPOSITORY}"
        raise ExtractorError(
            f"can't get DINOv2's code from {where}: {str(error).splitlines()[0]}; without a network, "
            f"git clone https://github.com/{REPOSITORY} (at {COMMIT[:7]}), then hub=FOLDER or {CLONE_VARIABLE}=FOLDER",
            code="extractor.unreadable",
        ) from error
    return network
