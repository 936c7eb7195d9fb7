"""The extractor `labels`: label images as one-hot features, so that 2D annotations become a segmented map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feature_gs_ros.core.camera import Image
from feature_gs_ros.core.errors import EvaluationError, ExtractorError
from feature_gs_ros.core.feature_grid import FeatureGrid
from feature_gs_ros.extractors.base import Extractor, ExtractorIdentity, ScoringRule
from feature_gs_ros.extractors.scoring import cosine
from feature_gs_ros.extractors.words import WordList
from feature_gs_ros.io.detections import open_labels
from feature_gs_ros.io.masks import load_labels

IGNORED = 255  # pixels of this value count for no class
MAX_CLASSES = 256


class LabelsExtractor(Extractor):
    """Channel k is 1 where a pixel has class ``classes[k]``; a pixel to ignore, or of no named class, is 0 in all.

    A Gaussian's score for a class is the class's fraction of the sum over classes: after back-projection exactly the
    fraction of its weight, without ignored pixels.
    """

    reads_files = True  # of the image as it was taken, not as it is rectified
    # A few annotated views leave gaps and mixed borders; a short walk over like neighbours mends both.
    text_rule = ScoringRule(threshold=0.5, smoothing_rate=0.3)
    example_rule = ScoringRule(threshold=0.8)

    def __init__(
        self,
        masks: str | Path | None = None,
        labels: str | Path | None = None,
        classes: Mapping[str, str] | None = None,
        min_score: float = 0.0,
    ) -> None:
        """
        Args:
            masks: folder or file of the masks, whatever `io.detections.open_labels` reads; only `extract` needs it.
            labels: YAML file of the classes' names by value; files that name their own need none.
            classes: the names by value instead of a file, as the identity holds them.
            min_score: of a detector's objects, from which they count.

        Raises:
            EvaluationError: folder or file is missing or damaged.
            ExtractorError: classes are given by neither or both, or there are too many.
        """
        if labels is None and classes is None and masks is not None:
            detected = open_labels(masks, min_score=min_score)
            classes = {str(value): name for value, name in detected.labels.items()} or None
        if (labels is None) == (classes is None):
            raise ExtractorError(
                "the extractor 'labels' needs either labels=YAML or classes={value: name}", code="extractor.conflict"
            )
        names = load_labels(labels) if labels is not None else _by_value(classes or {})
        self.names = {value: name for value, name in sorted(names.items()) if value != IGNORED}
        if not 0 < len(self.names) <= MAX_CLASSES:
            raise ExtractorError(
                f"{len(self.names)} classes are named, the extractor 'labels' takes 1 to {MAX_CLASSES}",
                code="extractor.range",
            )
        self._masks = None if masks is None else open_labels(masks, self.names, min_score)
        self.classes = tuple(self.names)
        self.dimension = len(self.classes)
        self._words = WordList([[name] for name in self.names.values()], "labels")
        self.identity = ExtractorIdentity(
            name="labels", preprocessing={"classes": {str(value): name for value, name in self.names.items()}}
        )

    def extract(self, image: Image, name: str = "") -> FeatureGrid:
        """The label image of frame ``name``, at its own resolution: [H, W, classes] float16, nearest.

        Raises:
            ExtractorError: the frame has no label image, it is damaged or has another aspect than the frame, or no
                folder was given.
        """
        if self._masks is None:
            raise ExtractorError("the extractor 'labels' has no masks; pass masks=DIR", code="extractor.missing")
        try:
            labels = self._masks.load(name)
        except EvaluationError as error:  # as every extractor says it, so that this frame alone is left out
            raise ExtractorError(str(error), code="extractor.mask") from error
        return self.grid(labels, image.shape[0], image.shape[1], name)

    def grid(self, labels: NDArray[np.uint16], height: int, width: int, name: str) -> FeatureGrid:
        """Labels [h, w] by value, of an image of height × width, as features [h, w, classes].

        Raises:
            ExtractorError: they have another aspect than the image.
        """
        if abs(labels.shape[1] * height - labels.shape[0] * width) > max(height, width):
            raise ExtractorError(
                f"label image '{name}' is {labels.shape[1]}×{labels.shape[0]}, its frame {width}×{height}: "
                "another crop; make it from the frame",
                code="extractor.size",
            )
        one_hot = labels[:, :, None] == np.array(self.classes, dtype=np.uint16)
        return FeatureGrid(torch.from_numpy(one_hot).to(torch.float16), interpolation="nearest")

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
        """Fraction of the weight that any class has, [M]: less than 1 where pixels to ignore were seen."""
        return features.float().sum(dim=1)

    def scores(self, features: Tensor, embeddings: Tensor, prepared: Tensor | None = None) -> Tensor:
        """Fraction of the classes: [M, classes] × [P, classes] -> [M, P]; 0 where only ignored pixels were seen."""
        total = self.prepare(features) if prepared is None else prepared
        fractions = features.float() / total.clamp_min(torch.finfo(torch.float32).tiny).unsqueeze(1)
        return torch.where((total > 0).unsqueeze(1), fractions, 0.0) @ embeddings.T

    def similarities(self, features: Tensor, examples: Tensor) -> Tensor:
        """Cosine of the fractions, [M, P]."""
        return cosine(features.float(), examples.float())


def _by_value(classes: Mapping[str, str]) -> dict[int, str]:
    try:
        return {int(value): name for value, name in classes.items()}
    except (TypeError, ValueError) as error:
        raise ExtractorError(
            f"the classes of the extractor 'labels' need a number for each name: {error}", code="extractor.value"
        ) from error
