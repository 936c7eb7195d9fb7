"""The extractor `identity`: names of annotated objects, asked of a field of identity codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from feature_gs_ros.core.camera import Image
from feature_gs_ros.core.errors import ExtractorError
from feature_gs_ros.core.feature_grid import FeatureGrid
from feature_gs_ros.extractors.base import Extractor, ExtractorIdentity, ScoringRule
from feature_gs_ros.extractors.scoring import cosine
from feature_gs_ros.extractors.words import WordList


class IdentityExtractor(Extractor):
    """Features are class fractions (one-hot and orthogonal codes) or a classifier's logits (contrastive codes).

    A score is ``½ + ½ (own − best other)`` of the class fractions: over ½ where the class is the likeliest, so a
    question needs no other classes as negatives. Fields come from masks, not from images.
    """

    text_rule = ScoringRule(threshold=0.5)
    example_rule = ScoringRule(threshold=0.8)

    def __init__(self, classes: Mapping[str, str], codes: str, dimension: int) -> None:
        """
        Args:
            classes: names by pixel value, background 0 among them; channel k is the k-th value in order.
            codes: "orthogonal" or "contrastive".
            dimension: d of the codes.

        Raises:
            ExtractorError: no class, or a value that is not a number.
        """
        if not classes or not all(key.isdigit() for key in classes):
            raise ExtractorError(f"classes {dict(classes)} are not names by pixel value", code="extractor.value")
        self.names = {int(key): name for key, name in sorted(classes.items(), key=lambda item: int(item[0]))}
        self.values = tuple(self.names)
        self.dimension = len(self.values)
        self.logits = codes == "contrastive"
        self._words = WordList([[name] for name in self.names.values()], "identity")
        self.identity = ExtractorIdentity(
            name="identity",
            preprocessing={
                "classes": {str(value): name for value, name in self.names.items()},
                "codes": codes,
                "dimension": dimension,
            },
        )

    def extract(self, image: Image, name: str = "") -> FeatureGrid:  # noqa: ARG002 - the contract's
        """Refused: a field of identities is made of masks.

        Raises:
            ExtractorError: always.
        """
        raise ExtractorError(
            "identities come from masks, not from images: use feature-gs identity MAP STREAM --masks …",
            code="extractor.missing",
        )

    def embed(self, prompts: Sequence[str]) -> Tensor:
        """[P, classes], 1 at the class of the prompt's name.

        Raises:
            UnknownPromptError: no class has this name.
        """
        embeddings = torch.zeros(len(prompts), self.dimension)
        for row, prompt in enumerate(prompts):
            embeddings[row, list(self._words.classes(prompt))] = 1.0
        return embeddings

    def known_words(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self._words.known()

    def prepare(self, features: Tensor) -> Tensor:
        """Shared by all questions: largest fraction, second largest and normaliser, [M, 3]."""
        features = features.to(torch.float32)
        if self.logits:
            normaliser = features.logsumexp(dim=1)
            normaliser[(features == 0).all(dim=1)] = float("inf")  # nothing was seen: all fractions are 0
        else:
            normaliser = features.clamp_min(0.0).sum(dim=1).clamp_min(torch.finfo(torch.float32).tiny)
        best = features.amax(dim=1, keepdim=True)
        second = features.scatter(1, features.argmax(dim=1, keepdim=True), float("-inf")).amax(dim=1, keepdim=True)
        leading = self._normalised(torch.cat([best, second], dim=1), normaliser)
        return torch.cat([leading, normaliser.unsqueeze(1)], dim=1)

    def scores(self, features: Tensor, embeddings: Tensor, prepared: Tensor | None = None) -> Tensor:
        """``½ + ½ (own fraction − best other fraction)``: [M, classes] × [P, classes] -> [M, P]."""
        best, second, normaliser = (self.prepare(features) if prepared is None else prepared).split(1, dim=1)  # type: ignore[no-untyped-call]
        own = self._normalised(features.to(torch.float32)[:, embeddings.argmax(dim=1)], normaliser[:, 0])
        return 0.5 + 0.5 * (own - torch.where(own >= best, second, best))  # the likeliest competes with the second

    def _normalised(self, features: Tensor, normaliser: Tensor) -> Tensor:
        """Fractions [M, K] of some columns of features."""
        if self.logits:
            return (features - normaliser.unsqueeze(1)).exp()
        return features.clamp_min(0.0) / normaliser.unsqueeze(1)

    def similarities(self, features: Tensor, examples: Tensor) -> Tensor:
        """Cosine of the fractions, [M, P]."""
        return cosine(self.fractions(features), self.fractions(examples))

    def fractions(self, features: Tensor) -> Tensor:
        """Fraction of each class [M, classes], summing to 1; 0 in all where the features are 0: nothing was seen."""
        features = features.to(torch.float32)
        known = (features != 0).any(dim=1, keepdim=True)
        if self.logits:
            return functional.softmax(features, dim=1) * known
        positive = features.clamp_min(0.0)
        return positive / positive.sum(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
