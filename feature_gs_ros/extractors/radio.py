"""The extractor `radio`: C-RADIO (Ranzinger et al. 2024, Heinrich et al. 2025), whose heads speak SigLIP 2 or CLIP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from feature_gs_ros.core.camera import Image
from feature_gs_ros.core.errors import ExtractorError
from feature_gs_ros.core.feature_grid import FeatureGrid
from feature_gs_ros.extractors import templates as sentences
from feature_gs_ros.extractors.base import ExtractorIdentity, Judgement, Requirements, ScoringRule
from feature_gs_ros.extractors.network import NetworkExtractor, input_size, normalised, resized
from feature_gs_ros.extractors.open_clip_text import PACKAGE, OpenClipText
from feature_gs_ros.extractors.open_vocabulary import beside_generic, judge_by_words
from feature_gs_ros.extractors.radio_network import Attention, RadioHead, RadioNetwork, RadioShape
from feature_gs_ros.extractors.scoring import cosine
from feature_gs_ros.extractors.text import PromptEncoder
from feature_gs_ros.extractors.weights import (
    WeightsFile,
    as_floats,
    checkpoint_arguments,
    fill_network,
    find_weights,
    load_state,
    sha256_of,
)
from feature_gs_ros.io.structured import read_mapping

LICENCE = "NVIDIA Open Model License (commercial use allowed)"
DEFAULT_MODEL = "c-radio_v3-b"
JUDGED_SIDE = 512  # pixels of the square that a whole image is resized to, at which the models were trained
CLIP_MEAN, CLIP_DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_HUB = "https://huggingface.co"


def _file(repository: str, name: str, megabytes: int) -> WeightsFile:
    return WeightsFile(name, f"{_HUB}/nvidia/{repository}/resolve/main/{name}", megabytes, LICENCE)


MODELS = {  # megabytes of the image network in half precision; the heads come on top
    "c-radio_v3-b": _file("C-RADIOv3-B", "c-radio_v3-b_half.pth.tar", 196),
    "c-radio_v3-l": _file("C-RADIOv3-L", "c-radio-v3_l_half.pth.tar", 640),
    "c-radio_v3-h": _file("C-RADIOv3-H", "c-radio_v3-h_half.pth.tar", 1303),
    "c-radio_v4-so400m": _file("C-RADIOv4-SO400M", "c-radio_v4-so400m_half.pth.tar", 862),
    "c-radio_v4-h": _file("C-RADIOv4-H", "c-radio_v4-h_half.pth.tar", 1303),
}


@dataclass(frozen=True)
class TextModel:
    """Whose words a head of RADIO speaks."""

    name: str  # open_clip's
    file: WeightsFile
    templates: tuple[str, ...]


ADAPTORS = {
    "siglip2-g": TextModel(
        "ViT-gopt-16-SigLIP2-384",
        WeightsFile(
            "ViT-gopt-16-SigLIP2-384.safetensors",
            f"{_HUB}/timm/ViT-gopt-16-SigLIP2-384/resolve/main/open_clip_model.safetensors",
            7488,
            "Apache-2.0",
        ),
        sentences.SIGLIP,
    ),
    "clip": TextModel(
        "ViT-H-14-378-quickgelu",
        WeightsFile(
            "DFN5B-CLIP-ViT-H-14-378.bin",
            f"{_HUB}/apple/DFN5B-CLIP-ViT-H-14-378/resolve/main/open_clip_pytorch_model.bin",
            3947,
            "Apple's, see its page",
        ),
        sentences.CLIP,
    ),
}


class RadioExtractor(NetworkExtractor):
    """Features are RADIO's patch tokens, by a teacher's head in the space of its words.

    That head is trained on class tokens; on patch tokens it gives language features, as RayFronts and RADSeg found.
    What is kept of a cell:

    - "unit": its vector in the space of words, of unit length.
    - "linear": what the head's last linear layer starts from. It is affine and commutes with back-projection,
      ``Wᵀ(H A + 1 bᵀ) = (Wᵀ H) A + (Wᵀ 1) bᵀ``, so `scores` applies it to the Gaussians.
    - "backbone": RADIO's own token; `scores` applies all of the head to the Gaussians' means, as RayFronts does to its
      voxels'. That does not commute, but the field is smaller, and serves words and examples.
    """

    SCORES: ClassVar[Mapping[str, ScoringRule]] = {
        "softmax": ScoringRule(threshold=0.5),
        "cosine": ScoringRule(threshold=0.0, other="other"),
    }
    example_rule = ScoringRule(threshold=0.7)

    def __init__(
        self,
        weights: str | Path | None = None,
        model: str | None = None,
        adaptor: str = "siglip2-g",
        attention: str | None = None,
        features: str = "unit",
        pixels: int = 640 * 480,
        templates: Sequence[str] | None = None,
        score: str = "softmax",
        text_weights: str | Path | None = None,
        tokenizer: str | Path | None = None,
        precision: str = "float32",
        device: str = "auto",
    ) -> None:
        """
        Args:
            weights: NVIDIA's checkpoint (``.pth.tar``), or ``model.safetensors`` with its ``config.json`` beside it.
            model: c-radio_v3-b, -l, -h, c-radio_v4-so400m or -h; by default told by the name of ``weights``.
            adaptor: "siglip2-g", "clip" (v3 only) or "none" (RADIO's own features, no words).
            attention: of the last block: "kk" (keys with keys and a Gaussian window, NACLIP's; RayFronts), or
                "self-correlation" (RADSeg), or "plain"; by default "kk" for words, "plain" for none.
            features: "unit", "linear" or "backbone", see the class.
            pixels: area of the network's input; images are resized to it, aspect kept, to multiples of 16.
            templates: sentences with {} for the prompt; by default those of the text model's makers.
            score: "softmax" (beside generic words, at the text model's temperature) or "cosine".
            text_weights: file of the adaptor's text model, as open_clip publishes it; needed to ask only.
            tokenizer: folder of its tokenizer's files; by default that of ``text_weights``.

        Raises:
            ExtractorError: the weights are missing or another model's, have no such head, or an option is unknown.
        """
        super().__init__(device, precision)
        chosen = _model_name(model, weights)
        for option, value, known in (
            ("adaptor", adaptor, (*ADAPTORS, "none")),
            ("attention", attention, (None, "kk", "self-correlation", "plain")),
            ("features", features, ("unit", "linear", "backbone")),
            ("score", score, tuple(self.SCORES)),
        ):
            if value not in known:
                names = ", ".join(str(name) for name in known if name)
                raise ExtractorError(
                    f"{option} '{value}' of RADIO is unknown; choose {names}", code="extractor.unknown"
                )
        input_size(1, 1, pixels, 16)
        self._adaptor, self._pixels = adaptor, pixels
        self._attention = cast("Attention", attention or ("plain" if adaptor == "none" else "kk"))
        self._features = "backbone" if adaptor == "none" else features
        self._score, self._text_weights, self._tokenizer = score, text_weights, tokenizer
        self.text_rule = self.candidate_rule = self.SCORES[score]
        self.scale_invariant = self._features == "unit" or adaptor == "none"
        self._path = find_weights(MODELS[chosen], weights)
        self._shape = self._shape_of_weights()
        input_size(1, 1, pixels, self._shape.patch)
        self.can_judge = adaptor != "none"  # a whole image is judged by its words
        spoken = ADAPTORS.get(adaptor)
        chosen_templates = tuple(templates) if templates else spoken.templates if spoken else sentences.BARE
        self._prompts = PromptEncoder(self.encode_text, chosen_templates)
        self._judged_words = PromptEncoder(self.encode_text, chosen_templates[:1])
        self.dimension = {
            "backbone": self._shape.width,
            "linear": 0 if adaptor == "none" else self._head.fc1.out_features,
            "unit": 0 if adaptor == "none" else self._outputs,
        }[self._features]
        preprocessing: dict[str, Any] = {
            "model": chosen,
            "adaptor": adaptor,
            "attention": self._attention,
            "features": self._features,
            "pixels": pixels,
            "multiple": self._shape.patch,
            "interpolation": "bilinear",
            "precision": precision,
        }
        if adaptor != "none":
            preprocessing |= {"templates": list(chosen_templates), "score": score}
        self.identity = ExtractorIdentity(name="radio", weights=sha256_of(self._path), preprocessing=preprocessing)

    @staticmethod
    def requirements() -> Requirements:
        return Requirements(
            "C-RADIO's features in the space of SigLIP 2 or CLIP, for any word, examples and affordances",
            "1536, or 768 to 1280 (backbone)",
            text=True,
            libraries=(("open_clip", PACKAGE), ("torchvision", "torchvision"), ("transformers", "transformers")),
            weights=tuple(MODELS.values()),
            words_weights=tuple(text.file for text in ADAPTORS.values()),
        )

    @cached_property
    def network(self) -> RadioNetwork:
        """The image network with its weights, made on first use.

        Raises:
            ExtractorError: the weights are another model's.
        """
        network = RadioNetwork(self._shape)
        fill_network(network, self._image_state(), self._path, "RADIO's image network")
        return network.eval().requires_grad_(False).to(self.device, self.dtype)

    @cached_property
    def _head(self) -> RadioHead:
        """The adaptor's head for class tokens, float32 on the CPU.

        Raises:
            ExtractorError: the weights have none of this name, or it is of another kind.
        """
        index, _ = self._teacher
        beginnings = [f"radio_model.adaptors.{self._adaptor}.head_mlp.", f"_heads.{self._adaptor}.", f"_heads.{index}."]
        state = load_state(self._path, tuple(beginnings))
        for beginning in beginnings:
            own = {key.removeprefix(beginning): value for key, value in state.items() if key.startswith(beginning)}
            if own:
                try:
                    head = RadioHead.for_state(own)
                except KeyError as error:
                    raise ExtractorError(
                        f"the head '{self._adaptor}' in '{self._path}' has no {error}; use the published file",
                        code="extractor.weights",
                    ) from error
                fill_network(head, as_floats(own), self._path, f"RADIO's head '{self._adaptor}'")
                return head.eval().requires_grad_(False)
        raise ExtractorError(
            f"'{self._path}' has no head '{self._adaptor}'; use the published file, or adaptor=none",
            code="extractor.weights",
        )

    @property
    def _outputs(self) -> int:
        last: Any = self._head.final[2]
        return int(last.out_features)

    @cached_property
    def _teacher(self) -> tuple[int, int]:
        """Number of the adaptor among the teachers, and of its class token.

        Raises:
            ExtractorError: it is no teacher of this model, or nothing says which it is.
        """
        config = self._path.with_name("config.json")
        arguments = checkpoint_arguments(self._path)
        stored: Mapping[str, Any] = _config(config) if config.is_file() else {}
        arguments = arguments or dict(stored.get("args") or {})
        teachers = cast("Sequence[Mapping[str, Any]]", arguments.get("teachers") or [])
        names = [str(teacher.get("name")) for teacher in teachers]
        if not names:
            raise ExtractorError(
                f"nothing says which of the heads in '{self._path}' is '{self._adaptor}': use NVIDIA's .pth.tar as it "
                "is, or put the config.json of the same page beside the safetensors",
                code="extractor.weights",
            )
        if self._adaptor not in names:
            raise ExtractorError(
                f"the model of '{self._path}' has no head '{self._adaptor}', only {', '.join(names)}",
                code="extractor.unknown",
            )
        index = names.index(self._adaptor)
        told = (stored.get("adaptor_configs") or {}).get(self._adaptor, {}).get("head_idx")
        slot = teachers[index].get("token_slot", index) if arguments.get("cls_token_per_teacher", True) else 0
        return index, int(slot if told is None else told)

    @cached_property
    def _text(self) -> OpenClipText:
        text = ADAPTORS.get(self._adaptor)
        if text is None:
            raise ExtractorError(
                "RADIO knows no words without a head: use adaptor=siglip2-g, or ask by point or example",
                code="extractor.unsupported",
            )
        return OpenClipText(text.name, text.file, self._text_weights, self._tokenizer)

    def encode_text(self, texts: list[str]) -> Tensor:
        """Texts as they are, without a template, to the text model's embeddings [T, D]."""
        return self._text(texts)

    def embed(self, prompts: Sequence[str]) -> Tensor:
        """[P, outputs of the head] of unit length; any text is known.

        Raises:
            UnknownPromptError: adaptor=none.
            ExtractorError: open_clip or the text model's weights are missing.
        """
        return super().embed(prompts) if self._adaptor == "none" else self._prompts(prompts)

    def prepare(self, features: Tensor) -> Tensor:
        """Norms in the space of words, [M]; with adaptor=none of the features."""
        norms: Tensor = torch.linalg.vector_norm(self.in_text_space(features), dim=1)
        return norms

    def scores(self, features: Tensor, embeddings: Tensor, prepared: Tensor | None = None) -> Tensor:
        """[M, dimension] × [P, D] -> [M, P]: probability beside the generic words, or cosine, in the space of words."""
        spoken = self.in_text_space(features)
        cosines = cosine(spoken, embeddings.float(), prepared)
        if self._score == "cosine":
            return cosines
        return beside_generic(
            cosines, cosine(spoken, self._prompts(sentences.GENERIC_WORDS), prepared), self._text.scale
        )

    def similarities(self, features: Tensor, examples: Tensor) -> Tensor:
        """Cosine of the features, [M, dimension] × [P, dimension] -> [M, P]; "linear" ones in the space of words."""
        if self._features == "linear":
            return cosine(self.in_text_space(features), self.in_text_space(examples))
        return cosine(features.float(), examples.float())

    def judge(self, images: Sequence[Image], prompt: str) -> Judgement:
        """The prompt against everyday objects in whole images, by the adaptor's class token through its head."""
        return judge_by_words(self.embed_images, self._judged_words, self._text.scale, images, prompt)

    def embed_images(self, images: Sequence[Image]) -> Tensor:
        """Unit embeddings [B, D] of images of any size."""
        _, slot = self._teacher
        with torch.inference_mode():
            squares = [resized([np.ascontiguousarray(image)], JUDGED_SIDE, JUDGED_SIDE, "bilinear") for image in images]
            tokens = self.network(self._conditioned(torch.cat(squares)), "plain")[:, slot]
            return functional.normalize(self._head(tokens.float().cpu()), dim=1).clone()

    def in_text_space(self, features: Tensor) -> Tensor:
        """Features [M, dimension] as vectors [M, D] that embeddings of words are compared with."""
        if self._features == "unit" or self._adaptor == "none":
            return features.float()
        with torch.inference_mode():
            spoken = (
                self._head.final[2](features.float()) if self._features == "linear" else self._head(features.float())
            )
        return cast("Tensor", spoken).clone()

    def _cells(self, images: Sequence[Image]) -> list[FeatureGrid]:
        patch = self._shape.patch
        height, width = input_size(images[0].shape[0], images[0].shape[1], self._pixels, patch)
        pixels = self._conditioned(resized(images, height, width, "bilinear"))
        tokens = self.network(pixels, self._attention)[:, self._shape.tokens :]
        tokens = self._normalised_features(tokens)
        if self._features != "backbone":
            head = self._head_there
            tokens = head.hidden(tokens) if self._features == "linear" else functional.normalize(head(tokens), dim=2)
        return [FeatureGrid(cells.reshape(height // patch, width // patch, -1)) for cells in tokens]

    @cached_property
    def _head_there(self) -> RadioHead:
        """The head on the network's device, in its precision."""
        head = RadioHead.for_state(self._head.state_dict())
        head.load_state_dict(self._head.state_dict())
        return head.eval().requires_grad_(False).to(self.device, self.dtype)

    def _conditioned(self, pixels: Tensor) -> Tensor:
        mean, deviation = self._statistics
        return normalised(pixels, mean, deviation).to(self.device, self.dtype)

    @cached_property
    def _statistics(self) -> tuple[list[float], list[float]]:
        """Mean and deviation of the channels that the weights hold; CLIP's where they hold none."""
        state = load_state(self._path, ("input_conditioner.", "radio_model.input_conditioner."))
        held = {key.rsplit(".", 1)[1]: value.float().flatten().tolist() for key, value in state.items()}
        return held.get("norm_mean", list(CLIP_MEAN)), held.get("norm_std", list(CLIP_DEVIATION))

    def _normalised_features(self, tokens: Tensor) -> Tensor:
        """``(x − mean) Tᵀ``, where the weights hold such a step of the patch tokens."""
        if not self._normaliser:
            return tokens
        return (tokens - self._normaliser["mean"].to(tokens)) @ self._normaliser["tx"].to(tokens).T

    @cached_property
    def _normaliser(self) -> dict[str, Tensor]:
        state = load_state(self._path, ("_feature_normalizer.", "radio_model.feature_normalizer."))
        return {key.rsplit(".", 1)[1]: value.float() for key, value in state.items()}

    def _shape_of_weights(self) -> RadioShape:
        try:
            return RadioShape.of(self._image_state())
        except (KeyError, ValueError, IndexError) as error:
            raise ExtractorError(
                f"'{self._path}' is no checkpoint of a RADIO vision transformer: {error} is missing or misshapen",
                code="extractor.weights",
            ) from error

    def _image_state(self) -> dict[str, Tensor]:
        """The image network's tensors by their names there, float32."""
        beginnings = ("base_model.", "radio_model.model.")
        state: dict[str, Tensor] = {}
        for key, value in load_state(self._path, beginnings).items():
            name = key.removeprefix(beginnings[0]).removeprefix(beginnings[1]).replace(".grandma", ".gamma")
            if ".parametrizations." in name:
                raise ExtractorError(
                    f"'{self._path}' holds weights as they were reparametrised in training ('{key}'); use the "
                    "model.safetensors of the model's page with its config.json",
                    code="extractor.weights",
                )
            if name.startswith(("patch_generator.", "blocks.", "norm.")):
                state[name] = value
        return as_floats(state)


def _config(path: Path) -> Mapping[str, Any]:
    return {str(key): value for key, value in read_mapping(path, ExtractorError).items()}


def _model_name(model: str | None, weights: str | Path | None) -> str:
    """The model that is asked for, or else that of the file's name.

    Raises:
        ExtractorError: there is none of this name.
    """
    if model is None:
        file = "" if weights is None else Path(weights).name
        named = [name for name, wanted in MODELS.items() if file.startswith((name, wanted.name.split("_half")[0]))]
        return named[0] if named else DEFAULT_MODEL
    if model not in MODELS:
        raise ExtractorError(
            f"model '{model}' of RADIO is unknown; choose {', '.join(MODELS)}", code="extractor.unknown"
        )
    return model
