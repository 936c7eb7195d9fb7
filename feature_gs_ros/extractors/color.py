"""The extractor `color`: mean colour of a cell; no network, for tests, and for workplaces where colour tells enough."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feature_gs_ros.core.camera import Image
from feature_gs_ros.core.errors import ExtractorError
from feature_gs_ros.core.feature_grid import FeatureGrid
from feature_gs_ros.extractors.base import Extractor, ExtractorIdentity, ScoringRule
from feature_gs_ros.extractors.words import WordList

COLORS: dict[
    str, tuple[int, int, int]
] = {  # 8-bit sRGB: the colour of objects that the word is used for, not the pure primary
    "black": (25, 25, 25),
    "white": (240, 240, 240),
    "grey": (128, 128, 128),
    "gray": (128, 128, 128),
    "red": (200, 30, 30),
    "orange": (235, 130, 30),
    "yellow": (235, 215, 40),
    "green": (40, 150, 60),
    "teal": (30, 140, 140),
    "blue": (35, 75, 190),
    "purple": (120, 50, 150),
    "pink": (235, 130, 170),
    "brown": (115, 70, 40),
}
MAX_DISTANCE = 100.0  # ΔE at which a score reaches 0: black to white


class ColorExtractor(Extractor):
    """Features are CIE L*a*b* of the mean colour, or sRGB in 0 … 1; scores fall linearly with the distance.

    In Lab a score of 0.75 is a ΔE of 25: another shade of the same colour passes, another colour does not.
    """

    dimension = 3
    text_rule = ScoringRule(threshold=0.7)
    example_rule = ScoringRule(threshold=0.8)

    def __init__(self, space: str = "lab", cell: int = 8) -> None:
        """
        Args:
            space: "lab" or "rgb".
            cell: image pixels a cell, about.

        Raises:
            ExtractorError: another space, or a cell below one pixel.
        """
        if space not in ("lab", "rgb"):
            raise ExtractorError(f"space '{space}' is unknown; choose lab or rgb", code="extractor.unknown")
        if cell < 1:
            raise ExtractorError(f"cell={cell} pixels is out of range; choose 1 or more", code="extractor.range")
        self._space, self._cell = space, cell
        self._max_distance = MAX_DISTANCE if space == "lab" else 1.0
        self._words = WordList([[name] for name in COLORS], "color")
        self.identity = ExtractorIdentity(name="color", preprocessing={"space": space, "cell": cell})

    def extract(self, image: Image, name: str = "") -> FeatureGrid:  # noqa: ARG002
        """[H, W, 3] uint8 to [rows, columns, 3] float32."""
        rows, columns = (max(1, round(side / self._cell)) for side in image.shape[:2])
        mean = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA)
        return FeatureGrid(torch.from_numpy(self._features(np.asarray(mean, dtype=np.uint8))))

    def embed(self, prompts: Sequence[str]) -> Tensor:
        """[P, 3]; knows a dozen colour words and ``#rrggbb``.

        Raises:
            UnknownPromptError: the prompt is neither.
        """
        colors = np.array([self._color(prompt) for prompt in prompts], dtype=np.uint8).reshape(-1, 1, 3)
        return torch.from_numpy(self._features(colors)[:, 0])

    def prepare(self, features: Tensor) -> Tensor:
        """Nothing is worth keeping: zeros, [M]."""
        return torch.zeros(len(features), device=features.device)

    def scores(self, features: Tensor, embeddings: Tensor, prepared: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """1 − distance / farthest, not below 0: [M, 3] × [P, 3] -> [M, P]."""
        return (1 - torch.cdist(features.float(), embeddings.float()) / self._max_distance).clamp_min(0.0)

    def similarities(self, features: Tensor, examples: Tensor) -> Tensor:
        """As `scores`."""
        return self.scores(features, examples)

    def _features(self, colors: Image) -> NDArray[np.float32]:  # [rows, columns, 3]
        unit = colors.astype(np.float32) / 255.0
        return np.asarray(cv2.cvtColor(unit, cv2.COLOR_RGB2Lab) if self._space == "lab" else unit, dtype=np.float32)

    def _color(self, prompt: str) -> tuple[int, int, int]:
        code = prompt.strip().lower()
        if len(code) == 7 and code.startswith("#") and set(code[1:]) <= set("0123456789abcdef"):
            return int(code[1:3], 16), int(code[3:5], 16), int(code[5:7], 16)
        (index,) = self._words.classes(prompt)
        return list(COLORS.values())[index]
