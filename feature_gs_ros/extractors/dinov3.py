"""The extractor `dinov3`: patch tokens of DINOv3 (Siméoni et al. 2025), with words by dino.txt or a text head."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from feature_gs_ros.core.camera import Image
from feature_gs_ros.core.errors import ExtractorError
from feature_gs_ros.core.feature_grid import FeatureGrid
from feature_gs_ros.extractors import templates as sentences
from feature_gs_ros.extractors.base import ExtractorIdentity, Judgement, Requirements, ScoringRule
from feature_gs_ros.extractors.dinov3_network import DinoTxtHead, DinoTxtText, Dinov3Network, Dinov3Shape
from feature_gs_ros.extractors.libraries import import_library
from feature_gs_ros.extractors.network import (
    IMAGENET_DEVIATION,
    IMAGENET_MEAN,
    NetworkExtractor,
    input_size,
    normalised,
    resized,
)
from feature_gs_ros.extractors.open_clip_text import PACKAGE
from feature_gs_ros.extractors.open_vocabulary import beside_generic, judge_by_words
from feature_gs_ros.extractors.text import PromptEncoder
from feature_gs_ros.extractors.text_head import CLIP_WEIGHTS, TextHead
from feature_gs_ros.extractors.weights import (
    WeightsFile,
    as_floats,
    fill_network,
    find_weights,
    load_state,
    sha256_of,
)

PAGE = "https://ai.meta.com/resources/models-and-libraries/dinov3-downloads, after a registration"
LICENCE = "DINOv3 License"
Made = TypeVar("Made")
DEFAULT_MODEL = "vitb16"
JUDGED_SIDE = 224  # pixels of the square that a whole image is resized to, as dino.txt was trained
_FILES = {  # the hash in the file's name, megabytes
    "vits16": ("08c60483", 86),
    "vits16plus": ("4057cbaa", 115),
    "vitb16": ("73cec8be", 343),
    "vitl16": ("8aa4cbdd", 1213),
    "vith16plus": ("7c1da9a5", 3362),
    "vit7b16": ("a955f4ea", 26864),
}
MODELS = {
    name: WeightsFile(f"dinov3_{name}_pretrain_lvd1689m-{digest}.pth", PAGE, megabytes, LICENCE, False, digest)
    for name, (digest, megabytes) in _FILES.items()
}
DINO_TXT = WeightsFile(
    "dinov3_vitl16_dinotxt_vision_head_and_text_encoder-a442d8f5.pth", PAGE, 2254, LICENCE, False, "a442d8f5"
)


class Dinov3Extractor(NetworkExtractor):
    """Features are the last layer's normalised patch tokens; with ``words="dinotxt"`` those of its head for words.

    dino.txt compares a whole image's class token and mean patch token with a text's two halves; of a patch, the second.
    """

    SOFTMAX_RULE: ClassVar[ScoringRule] = ScoringRule(threshold=0.5)
    COSINE_RULE: ClassVar[ScoringRule] = ScoringRule(threshold=0.0, other="other")
    example_rule = ScoringRule(threshold=0.6)

    def __init__(
        self,
        weights: str | Path | None = None,
        model: str | None = None,
        words: str = "none",
        pixels: int = 640 * 480,
        templates: Sequence[str] = sentences.CLIP,
        words_weights: str | Path | None = None,
        text_head: str | Path | None = None,
        text_weights: str | Path | None = None,
        precision: str = "float32",
        device: str = "auto",
    ) -> None:
        """
        Args:
            weights: file in torch.hub's layout or in timm's, or its folder.
            model: vits16, vits16plus, vitb16, vitl16, vith16plus or vit7b16; by default told by ``weights``.
            words: "none", or "dinotxt" (vitl16 alone): features of another space, for any word.
            pixels: area of the network's input; images are resized to it, aspect kept, to multiples of 16.
            templates: sentences with {} for the prompt; embeddings are averaged.
            words_weights: dino.txt's file, or its folder.
            text_head: a head that gives words to a field of ``words="none"``, see `text_head.TextHead`.
            text_weights: file of CLIP's text tower, for ``text_head``.

        Raises:
            ExtractorError: the weights are missing or another model's, or an option is out of range.
        """
        super().__init__(device, precision)
        if words not in ("none", "dinotxt"):
            raise ExtractorError(
                f"words '{words}' of DINOv3 are unknown; choose none or dinotxt", code="extractor.unknown"
            )
        if model is not None and model not in MODELS:
            raise ExtractorError(
                f"model '{model}' of DINOv3 is unknown; choose {', '.join(MODELS)}", code="extractor.unknown"
            )
        if words == "dinotxt" and text_head is not None:
            raise ExtractorError("dino.txt has its own words; leave text_head out", code="extractor.conflict")
        wanted = model or ("vitl16" if words == "dinotxt" else DEFAULT_MODEL)
        self._path = find_weights(MODELS[wanted], weights)
        self._shape = self._shape_of_weights()
        input_size(1, 1, pixels, self._shape.patch)
        self._pixels, self._dinotxt = pixels, words == "dinotxt"
        self.dimension = self._shape.width
        self.can_judge = self._dinotxt
        if self._dinotxt:
            self._words_path = find_weights(DINO_TXT, words_weights)
        self._text_head = None if text_head is None else TextHead(text_head, self.dimension, text_weights)
        self.text_rule = self.candidate_rule = self.SOFTMAX_RULE if self._dinotxt else self.COSINE_RULE
        encode = self._text_head or self.encode_text
        self._prompts = PromptEncoder(encode, templates)
        self._judged_words = PromptEncoder(encode, templates[:1])
        preprocessing: dict[str, Any] = {
            "model": _named(self._shape) if model is None else model,
            "pixels": pixels,
            "multiple": self._shape.patch,
            "interpolation": "bicubic",
            "precision": precision,
        }
        if self._dinotxt:
            preprocessing |= {"words": words, "words_sha256": sha256_of(self._words_path)}
        self.identity = ExtractorIdentity(name="dinov3", weights=sha256_of(self._path), preprocessing=preprocessing)

    @staticmethod
    def requirements() -> Requirements:
        return Requirements(
            "patch tokens of DINOv3, for examples and affordances; words by dino.txt or a text head",
            "384, 768, 1024, 1280 or 4096",
            text=False,
            weights=(MODELS[DEFAULT_MODEL], *(file for name, file in MODELS.items() if name != DEFAULT_MODEL)),
            words_weights=(DINO_TXT, CLIP_WEIGHTS),
        )

    @cached_property
    def network(self) -> Dinov3Network:
        """The network with its weights, made on first use.

        Raises:
            ExtractorError: the weights are another model's.
        """
        network = Dinov3Network(self._shape)
        fill_network(network, self._state(), self._path, f"DINOv3 {self._shape}")
        return network.eval().requires_grad_(False).to(self.device, self.dtype)

    def embed(self, prompts: Sequence[str]) -> Tensor:
        """[P, dimension] of unit length, where dino.txt or a text head gives words.

        Raises:
            UnknownPromptError: neither does.
        """
        if not self._dinotxt:
            return super().embed(prompts) if self._text_head is None else self._prompts(prompts)
        return functional.normalize(self._prompts(prompts)[:, -self.dimension :], dim=1)

    def scores(self, features: Tensor, embeddings: Tensor, prepared: Tensor | None = None) -> Tensor:
        """[M, D] × [P, D] -> [M, P]: probability beside generic words by dino.txt's temperature; else cosine."""
        prepared = self.prepare(features) if prepared is None else prepared
        cosines = super().scores(features, embeddings, prepared)
        if not self._dinotxt:
            return cosines
        return beside_generic(
            cosines, super().scores(features, self.embed(sentences.GENERIC_WORDS), prepared), self._scale
        )

    def judge(self, images: Sequence[Image], prompt: str) -> Judgement:
        """The prompt against everyday objects in whole images, by dino.txt's class and mean patch token."""
        return judge_by_words(self.embed_images, self._judged_words, self._scale, images, prompt)

    def embed_images(self, images: Sequence[Image]) -> Tensor:
        """Unit embeddings [B, 2 · dimension] of images of any size."""
        with torch.inference_mode():
            squares = [resized([np.ascontiguousarray(image)], JUDGED_SIDE, JUDGED_SIDE, "bicubic") for image in images]
            pixels = normalised(torch.cat(squares), IMAGENET_MEAN, IMAGENET_DEVIATION)
            tokens = self._head(self.network(pixels.to(self.device, self.dtype))).float().cpu()
            cells = tokens[:, 1 + self._shape.registers :]
            return functional.normalize(torch.cat([tokens[:, 0], cells.mean(dim=1)], dim=1), dim=1).clone()

    def _cells(self, images: Sequence[Image]) -> list[FeatureGrid]:
        patch = self._shape.patch
        height, width = input_size(images[0].shape[0], images[0].shape[1], self._pixels, patch)
        pixels = normalised(resized(images, height, width, "bicubic"), IMAGENET_MEAN, IMAGENET_DEVIATION)
        tokens = self.network(pixels.to(self.device, self.dtype))
        if self._dinotxt:
            tokens = self._head(tokens)
        cells = tokens[:, 1 + self._shape.registers :]
        return [FeatureGrid(grid.reshape(height // patch, width // patch, -1)) for grid in cells]

    @cached_property
    def _head(self) -> DinoTxtHead:
        state = self._words_state("visual_model.head.")
        head: DinoTxtHead = self._of_words(DinoTxtHead.for_state, state)
        if head.ln_final.normalized_shape != (self.dimension,):
            raise ExtractorError(
                f"dino.txt's head in '{self._words_path}' is for {head.ln_final.normalized_shape[0]} channels, the "
                f"network gives {self.dimension}; use vitl16",
                code="extractor.shape",
            )
        fill_network(head, state, self._words_path, "dino.txt's image head")
        return head.eval().requires_grad_(False).to(self.device, self.dtype)

    @cached_property
    def _tower(self) -> DinoTxtText:
        state = self._words_state("text_model.")
        tower: DinoTxtText = self._of_words(DinoTxtText.for_state, state)
        fill_network(tower, state, self._words_path, "dino.txt's text tower")
        return tower.eval().requires_grad_(False)

    @cached_property
    def tokenize(self) -> Any:
        """From texts to the text model's tokens [T, length]."""
        return import_library("open_clip", PACKAGE).get_tokenizer("ViT-B-32")  # CLIP's own, as dino.txt's

    def encode_text(self, texts: list[str]) -> Tensor:
        """Texts as they are, without a template, to the text model's embeddings [T, 2 · dimension]."""
        embeddings: Tensor = self._tower(self.tokenize(texts))
        return embeddings

    @cached_property
    def _scale(self) -> float:
        return math.exp(float(self._words_state("logit_scale")[""].reshape(-1)[0]))

    def _words_state(self, prefix: str) -> dict[str, Tensor]:
        state = load_state(self._words_path, (prefix,))
        return as_floats({key.removeprefix(prefix): value for key, value in state.items()})

    def _of_words(self, make: Callable[[Mapping[str, Tensor]], Made], state: Mapping[str, Tensor]) -> Made:
        try:
            return make(state)
        except (KeyError, ValueError) as error:
            raise ExtractorError(
                f"'{self._words_path}' is no file of dino.txt: {error} is missing or misshapen",
                code="extractor.weights",
            ) from error

    def _shape_of_weights(self) -> Dinov3Shape:
        try:
            return Dinov3Shape.of(self._state())
        except (KeyError, ValueError) as error:
            raise ExtractorError(
                f"'{self._path}' is no state dict of DINOv3 in torch.hub's or timm's layout: {error} is missing or "
                "misshapen",
                code="extractor.weights",
            ) from error

    def _state(self) -> dict[str, Tensor]:
        """The tensors in torch.hub's layout, biases of keys zero, without what training alone needs."""
        return hub_layout(as_floats(load_state(self._path)))


def hub_layout(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors in torch.hub's layout, from there or from timm's; each block's ``qkv`` gets a bias, that of keys zero."""
    names = {"reg_token": "storage_tokens", ".gamma_1": ".ls1.gamma", ".gamma_2": ".ls2.gamma"}
    names |= {".mlp.fc1_g.": ".mlp.w1.", ".mlp.fc1_x.": ".mlp.w2."}
    gated = {key.split(".mlp.")[0] for key in state if ".mlp.fc1_g." in key}
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        if key.endswith((".bias_mask", ".periods", ".q_bias", ".v_bias")) or key == "mask_token":
            continue
        if key.startswith(("local_cls_norm.", "head.")):
            continue
        name = key
        for old, new in names.items():
            name = name.replace(old, new)
        block = key.split(".mlp.")[0]
        found[name.replace(".mlp.fc2.", ".mlp.w3.") if block in gated else name] = value
    for key in [key for key in found if key.endswith(".attn.qkv.weight")]:
        attention = key.removesuffix(".qkv.weight")
        width = found[key].shape[1]
        if f"{attention}.q_bias" in state:
            zero = torch.zeros(width)
            bias = torch.cat([state[f"{attention}.q_bias"], zero, state[f"{attention}.v_bias"]])
        else:
            bias = found.get(f"{attention}.qkv.bias", torch.zeros(3 * width)).clone()
            bias[width : 2 * width] = 0
        found[f"{attention}.qkv.bias"] = bias
    return found


def _named(shape: Dinov3Shape) -> str:
    widths = {384: "vits16", 768: "vitb16", 1024: "vitl16", 1280: "vith16", 4096: "vit7b16"}
    name = widths.get(shape.width, DEFAULT_MODEL)
    return name + "plus" if shape.swiglu and f"{name}plus" in MODELS else name
