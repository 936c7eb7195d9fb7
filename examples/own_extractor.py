"""An extractor of one's own: what it must have, and how it is used before it is packaged.

    python examples/own_extractor.py MAP STREAM ALIGNMENT

Here: the hue of each 8-px cell as a point on the unit circle. It knows the names of six colours.
"""

import colorsys
import sys

import numpy as np
import torch

import feature_gs_ros as fgs
from feature_gs_ros.core.errors import UnknownPromptError
from feature_gs_ros.extractors.base import ExtractorIdentity, ScoringRule
from feature_gs_ros.extractors.scoring import cosine

CELL = 8  # px
HUES = {"red": 0, "yellow": 60, "green": 120, "cyan": 180, "blue": 240, "magenta": 300}  # degrees


class Hue:
    dimension = 2
    identity = ExtractorIdentity("hue", preprocessing={"cell": CELL})
    text_rule = example_rule = ScoringRule(threshold=0.9)

    def extract(self, image, name=""):  # noqa: ARG002 - a name is for extractors that read files
        # [H, W, 3] uint8 -> [H / 8, W / 8, 2]
        rows, columns = image.shape[0] // CELL, image.shape[1] // CELL
        cells = image[: rows * CELL, : columns * CELL].reshape(rows, CELL, columns, CELL, 3).mean(axis=(1, 3)) / 255
        hsv = np.apply_along_axis(lambda rgb: colorsys.rgb_to_hsv(*rgb), 2, cells)
        angle, saturation = 2 * np.pi * hsv[:, :, 0], hsv[:, :, 1]
        values = np.stack([np.cos(angle) * saturation, np.sin(angle) * saturation], axis=2)
        return fgs.FeatureGrid(torch.from_numpy(values).float())

    def embed(self, prompts):  # -> [P, 2]
        unknown = [prompt for prompt in prompts if prompt not in HUES]
        if unknown:
            raise UnknownPromptError(f"'{unknown[0]}' is no hue; known are {', '.join(HUES)}")
        angles = torch.tensor([HUES[prompt] for prompt in prompts]).deg2rad()
        return torch.stack([angles.cos(), angles.sin()], dim=1)

    def prepare(self, features):
        return torch.linalg.vector_norm(features, dim=1)

    def scores(self, features, embeddings, prepared=None):
        return cosine(features, embeddings, prepared)

    def similarities(self, features, examples):
        return cosine(features, examples)


map_file, stream, alignment = sys.argv[1:]
gaussians = fgs.load_map(map_file)
field = fgs.back_project(
    gaussians, fgs.open_stream(stream), Hue(), splat_from_map=fgs.load_alignment(alignment), every=4
)
for answer in fgs.Segmenter(gaussians, field, Hue()).ask(["red", "blue"]):
    print(answer.message)
