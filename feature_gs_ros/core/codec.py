"""Linear codecs: fewer channels per Gaussian, encoded before accumulation, which is linear too.

A codec stores ``z = (f − mean) Bᵀ`` for the extractor's f [D] with B [K, D]; the mean is carried by the weight,
so that any sum of encoded features decodes like the features themselves: ``f ≈ z B' + mean``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from feature_gs_ros.core.errors import FieldError

CodecKind = Literal["pca", "random", "span", "decoder", "codes"]

# What a score of decoded features keeps of the score of the features themselves.
PRESERVES: dict[CodecKind, str] = {
    "pca": "logits, cosine and norm up to the variance left out",
    "random": "inner products and norms in expectation",
    "span": "logits and argmax of the given prompts exactly; not the norm, so not the cosine, and no other prompt",
    "decoder": "what its training kept",
    "codes": "which class it is; decoded they are the classifier's logits",
}


@dataclass(frozen=True, eq=False)
class Codec:
    """K channels instead of D; build one by `fit_pca`, `random_projection` or `span_of`."""

    kind: CodecKind
    encoder: Tensor  # [K, D]
    decoder: Tensor  # [K, D]
    mean: Tensor  # [D]

    @property
    def dimension(self) -> int:
        """K, the channels stored."""
        return self.encoder.shape[0]

    @property
    def feature_dimension(self) -> int:
        """D of the extractor."""
        return self.encoder.shape[1]

    @property
    def preserves(self) -> str:
        """Which scores survive, in words."""
        return PRESERVES[self.kind]

    def encode(self, features: Tensor) -> Tensor:
        """Features [..., D] to codes [..., K] float32, where the features lie."""
        there = features.device
        return (features.to(torch.float32) - self.mean.to(there)) @ self.encoder.to(there).T

    def decode(self, codes: Tensor) -> Tensor:
        """Codes [..., K] to features [..., D] float32, where the codes lie."""
        flat = codes.to(torch.float32).reshape(-1, self.dimension)
        mean, decoder = self.mean.to(codes.device), self.decoder.to(codes.device)
        return torch.addmm(mean, flat, decoder).reshape(*codes.shape[:-1], self.feature_dimension)

    def along(self, directions: Tensor) -> tuple[Tensor, Tensor]:
        """What decodes codes along ``directions`` [D, Q] alone: vectors [Q, K] and offsets [Q].

        ``codes @ vectors.T + offsets`` is ``decode(codes) @ directions``, at the cost of K and not of D.
        """
        decoder, mean = self.decoder.to(directions.device), self.mean.to(directions.device)
        return (decoder @ directions).T.contiguous(), mean @ directions

    def rescaled(self, steps: Tensor) -> Codec:
        """The same codec with codes in units of ``steps`` [K] > 0: whole numbers then lose half a step at most."""
        return Codec(self.kind, self.encoder / steps.unsqueeze(1), self.decoder * steps.unsqueeze(1), self.mean)

    def same_as(self, other: Codec | None) -> bool:
        return (
            other is not None
            and self.kind == other.kind
            and torch.equal(self.encoder, other.encoder)
            and torch.equal(self.decoder, other.decoder)
            and torch.equal(self.mean, other.mean)
        )


def fit_pca(samples: Tensor, dimension: int) -> Codec:
    """Principal components of sample features [M, D].

    Raises:
        FieldError: ``dimension`` is not in 1 … min(M, D).
    """
    samples = samples.to(torch.float32)
    most = min(samples.shape)
    if not 1 <= dimension <= most:
        raise FieldError(
            f"a PCA of {dimension} dimensions needs 1 to {most} (samples {tuple(samples.shape)})", code="field.range"
        )
    mean = samples.mean(dim=0)
    centred = samples - mean
    _, vectors = torch.linalg.eigh(centred.T @ centred)  # ascending
    basis = vectors.T.flip(0)[:dimension].contiguous()
    return Codec("pca", basis, basis, mean)


def random_projection(feature_dimension: int, dimension: int, seed: int = 0) -> Codec:
    """Orthonormal rows in random directions, scaled so that inner products are kept in expectation.

    Raises:
        FieldError: ``dimension`` is not in 1 … ``feature_dimension``.
    """
    if not 1 <= dimension <= feature_dimension:
        raise FieldError(
            f"a random projection to {dimension} dimensions needs 1 to {feature_dimension}", code="field.range"
        )
    generator = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(feature_dimension, dimension, generator=generator))
    rows = basis.T.contiguous() * (feature_dimension / dimension) ** 0.5
    return Codec("random", rows, rows, torch.zeros(feature_dimension))


def span_of(embeddings: Tensor) -> Codec:
    """The span of known prompts' embeddings [P, D]: ``q · f`` of these prompts is kept exactly.

    Raises:
        FieldError: no prompt, or more prompts than D.
    """
    if not 1 <= embeddings.shape[0] <= embeddings.shape[1]:
        raise FieldError(
            f"the span of {embeddings.shape[0]} prompts needs 1 to {embeddings.shape[1]} of them", code="field.range"
        )
    _, singular, rows = torch.linalg.svd(embeddings.to(torch.float32), full_matrices=False)
    basis = rows[singular > 1e-6 * singular[0]].contiguous()
    return Codec("span", basis, basis, torch.zeros(embeddings.shape[1]))


def parse_codec(text: str) -> tuple[CodecKind, int]:
    """``pca:64`` or ``random:128`` as the command line takes it.

    Raises:
        FieldError: anything else.
    """
    match = re.fullmatch(r"(pca|random):([1-9][0-9]{0,8})", text)
    if match is None:
        raise FieldError(f"codec '{text}' is not pca:K or random:K with K ≥ 1, e.g. pca:64", code="field.value")
    return ("pca" if match[1] == "pca" else "random"), int(match[2])
