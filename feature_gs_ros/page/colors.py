"""What the splats' colours say: the picture, similarity, features, identity, view counts, coverage; answers on top."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feature_gs_ros.core.gaussians import SH_C0, GaussianMap
from feature_gs_ros.page.content import Content
from feature_gs_ros.pictures import LABEL_COLORS, heat, principal_colors
from feature_gs_ros.query.masks_3d import Answer

Colors = NDArray[np.uint8]  # [N, 3]

PICTURE, SIMILARITY, FEATURES, IDENTITY = "picture", "similarity", "features (PCA)", "identity"
VIEW_COUNT, COVERAGE = "view count", "coverage"
GREY = np.array([110, 110, 110], np.uint8)  # of what has no value
SEEN, UNOBSERVED = np.array([70, 160, 90], np.uint8), np.array([245, 150, 30], np.uint8)
TINT = 0.7  # of an answer's colour over the picture's
DIMMED = 0.55  # brightness of what was not found, while something is


def modes(content: Content) -> tuple[str, ...]:
    """What this content can be coloured by."""
    if content.segmenter is None:
        return (PICTURE,)
    identity = (IDENTITY,) if content.identities is not None else ()
    return (PICTURE, SIMILARITY, FEATURES, *identity, VIEW_COUNT, COVERAGE)


def base_colors(content: Content, gaussians: GaussianMap, mode: str, answer: Answer | None) -> Colors:
    """Colours [N, 3] of all Gaussians.

    Args:
        gaussians: the map with its edits; it has the content's rows.
        answer: whose similarity is drawn.
    """
    segmenter = content.segmenter
    if mode == SIMILARITY and answer is not None:
        return _heat(answer.similarity)
    if mode == FEATURES and segmenter is not None:
        field = segmenter.field
        components = principal_colors(field.features.cpu(), field.weight * field.seen)
        return _either(field.seen.numpy(), _bytes(components), GREY)
    if mode == IDENTITY and content.identities is not None:
        labels = content.identities.labels.numpy().astype(np.int64)
        return _either(labels > 0, LABEL_COLORS[(labels - 1) % len(LABEL_COLORS)], GREY)
    if mode == VIEW_COUNT and segmenter is not None:
        counts = segmenter.field.view_count.float()
        return _either(segmenter.field.seen.numpy(), _heat(counts / counts.max().clamp_min(1)), GREY)
    if mode == COVERAGE and segmenter is not None:
        return _either(segmenter.field.seen.numpy(), SEEN, UNOBSERVED)
    return _bytes(gaussians.sh[:, 0] * SH_C0 + 0.5)


@dataclass(frozen=True, eq=False)
class Overlay:
    """What lies over the base colours."""

    answers: Sequence[Answer] = ()  # each in the label colour of its index
    unobserved: Tensor | None = None  # [N] bool, painted in its own colour
    dim: bool = True  # what no answer holds is a little darker

    def over(self, base: Colors) -> Colors:
        """The base colours [N, 3] with this on top."""
        colors = base.astype(np.float32)
        masks = [answer.mask.numpy() for answer in self.answers]
        if self.dim and any(mask.any() for mask in masks):
            colors *= DIMMED
        if self.unobserved is not None:
            colors[self.unobserved.numpy()] = UNOBSERVED
        for index, mask in enumerate(masks):
            color = np.array(answer_color(index), np.float32)
            colors[mask] = (1 - TINT) * base[mask].astype(np.float32) + TINT * color
        return colors.astype(np.uint8)


def answer_color(index: int) -> tuple[int, int, int]:
    """RGB of the answer to the prompt of this index: the same in the map, its boxes and the legend."""
    red, green, blue = LABEL_COLORS[index % len(LABEL_COLORS)].tolist()
    return red, green, blue


def opacity_bytes(opacities: Tensor, present: Tensor) -> NDArray[np.uint8]:
    """Opacities [N] as bytes; what was deleted has none."""
    return ((opacities * present).clamp(0, 1) * 255 + 0.5).to(torch.uint8).numpy()


def _bytes(colors: Tensor) -> Colors:
    values: Colors = (colors.clamp(0, 1) * 255 + 0.5).to(torch.uint8).numpy()
    return values


def _heat(values: Tensor) -> Colors:
    """Colours [N, 3] of values [N] in 0..1."""
    colors: Colors = heat(values.unsqueeze(0))[0]
    return colors


def _either(mask: NDArray[np.bool_], colors: Colors, others: Colors) -> Colors:
    """``colors`` ([N, 3] or [3]) where the mask [N] says so, else ``others``."""
    chosen: Colors = np.where(mask[:, None], colors, others)
    return chosen
