"""Words for features that know none: a head that puts CLIP's text embeddings into their space (Talk2DINO)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from feature_gs_ros.core.errors import ExtractorError
from feature_gs_ros.extractors.open_clip_text import OpenClipText
from feature_gs_ros.extractors.weights import WeightsFile, as_floats, load_state

TEXT_MODEL = "ViT-B-16-quickgelu"  # whose words the published heads start from
CLIP_WEIGHTS = WeightsFile(
    "vit_base_patch16_clip_224.openai.safetensors",
    "https://huggingface.co/timm/vit_base_patch16_clip_224.openai/resolve/main/open_clip_model.safetensors",
    599,
    "MIT",
)


class TextHead:
    """Texts to embeddings [T, D] in the space of another model's features: ``W₂ tanh(W₁ e + b₁) + b₂`` of CLIP's e.

    The layers are those in the file, in order: ``linear_layer``, then ``hidden_layers.0``, ``hidden_layers.1`` … (or
    ``linear_layer2``, as older files call it), each a ``weight`` [out, in] and a ``bias`` [out]. One layer is a linear
    head. Talk2DINO's published files are such.
    """

    def __init__(self, file: str | Path, dimension: int, text_weights: str | Path | None = None) -> None:
        """
        Args:
            file: safetensors, or a state dict as torch saves it.
            dimension: D of the features.
            text_weights: file of CLIP ViT-B/16, as open_clip publishes it.

        Raises:
            ExtractorError: the file can't be used, or leads from or to another number of channels.
        """
        self.path = Path(file).expanduser()
        self._layers = _layers(as_floats(load_state(self.path)), self.path)
        outputs = self._layers[-1][0].shape[0]
        if outputs != dimension:
            raise ExtractorError(
                f"the text head '{self.path}' gives {outputs} channels, the features have {dimension}: it is for "
                "another model",
                code="extractor.shape",
            )
        self._text_weights = text_weights
        self._text: OpenClipText | None = None

    def __call__(self, texts: list[str]) -> Tensor:
        """[T, D], not normalised."""
        if self._text is None:
            text = OpenClipText(TEXT_MODEL, CLIP_WEIGHTS, self._text_weights)
            inputs = self._layers[0][0].shape[1]
            if text.dimension != inputs:
                raise ExtractorError(
                    f"the text head '{self.path}' takes {inputs} channels, CLIP ViT-B/16 gives {text.dimension}",
                    code="extractor.shape",
                )
            self._text = text
        return self.project(self._text(texts))

    def project(self, embeddings: Tensor) -> Tensor:
        """CLIP's embeddings [T, inputs] to [T, D]."""
        (weight, bias), *others = self._layers
        x = functional.linear(embeddings, weight, bias)
        for weight, bias in others:
            x = functional.linear(torch.tanh(x), weight, bias)
        return x


def _layers(state: Mapping[str, Tensor], path: Path) -> list[tuple[Tensor, Tensor]]:
    hidden = sorted({int(key.split(".")[1]) for key in state if key.startswith("hidden_layers.")})
    names = ["linear_layer", *(["linear_layer2"] if "linear_layer2.weight" in state else [])]
    names += [f"hidden_layers.{number}" for number in hidden]
    wanted = {f"{name}.{part}" for name in names for part in ("weight", "bias")}
    if set(state) != wanted:
        extra, missing = sorted(set(state) - wanted), sorted(wanted - set(state))
        raise ExtractorError(
            f"'{path}' is no text head: {', '.join(missing[:3]) or 'nothing'} is missing and "
            f"{', '.join(extra[:3]) or 'nothing'} is left over; it holds linear_layer, hidden_layers.0 …",
            code="extractor.weights",
        )
    layers = [(state[f"{name}.weight"], state[f"{name}.bias"]) for name in names]
    sizes = [weight.shape for weight, _ in layers]
    fits = all(before[0] == after[1] for before, after in pairwise(sizes))
    if not fits or any(bias.shape != weight.shape[:1] for weight, bias in layers):
        raise ExtractorError(f"the layers of the text head '{path}' don't fit: {sizes}", code="extractor.shape")
    return layers
