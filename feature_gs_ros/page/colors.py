"""What the splats' colours say: the picture, similarity, features, identity, view counts, coverage, agreement,
change; answers on top.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feature_gs_ros.backprojection.provenance import KnownView
from feature_gs_ros.core.gaussians import SH_C0, GaussianMap
from feature_gs_ros.page.change import Change, change
from feature_gs_ros.page.content import Content
from feature_gs_ros.pictures import LABEL_COLORS, heat, principal_colors
from feature_gs_ros.query.masks_3d import Answer

Colors = NDArray[np.uint8]  # [N, 3]

PICTURE, SIMILARITY, FEATURES, IDENTITY = "picture", "similarity", "features (PCA)", "identity"
VIEW_COUNT, COVERAGE = "view count", "coverage"
AGREEMENT, CHANGE = "agreement of the views", "change against an image"
GREY = np.array([110, 110, 110], np.uint8)  # of what has no value
SEEN, UNOBSERVED = np.array([70, 160, 90], np.uint8), np.array([245, 150, 30], np.uint8)
TINT = 0.7  # of an answer's colour over the picture's
LEGEND = "display:flex;align-items:center;padding:0.2em 1em;font-size:0.75em"
DIMMED = 0.55  # brightness of what was not found, while something is


def modes(content: Content) -> tuple[str, ...]:
    """What this content can be coloured by."""
    if content.segmenter is None:
        return (PICTURE,)
    identity = (IDENTITY,) if content.identities is not None else ()
    agreement = (AGREEMENT,) if content.agreement is not None else ()
    change = (CHANGE,) if content.views else ()
    return (PICTURE, SIMILARITY, FEATURES, *identity, VIEW_COUNT, COVERAGE, *agreement, *change)


def base_colors(
    content: Content,
    gaussians: GaussianMap,
    mode: str,
    answer: Answer | None = None,
    against: KnownView | None = None,
) -> Colors:
    """Colours [N, 3] of all Gaussians.

    Args:
        gaussians: the map with its edits; it has the content's rows.
        answer: whose similarity is drawn.
        against: the camera whose image the map is compared with.
    """
    segmenter = content.segmenter
    if mode == AGREEMENT and content.agreement is not None and segmenter is not None:
        return _either(segmenter.field.seen.numpy(), _heat(content.agreement), GREY)
    if mode == CHANGE and against is not None:
        found = change(gaussians, against.camera, against.camera_from_splat, content.image_of(against))
        return change_colors(found)
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


def change_colors(found: Change) -> Colors:
    """Colours [N, 3] of what an image shows otherwise."""
    return _either(found.seen.numpy(), _heat(found.amount), GREY)


def legend(mode: str) -> str:
    """What a mode's colours mean, as HTML; empty where they speak for themselves."""
    ends = {
        SIMILARITY: ("unlike", "alike"),
        VIEW_COUNT: ("1 view", "most views"),
        AGREEMENT: ("views differ", "views agree"),
        CHANGE: ("as the map", "changed"),
    }.get(mode)
    if ends is not None:
        colors = _heat(torch.linspace(0, 1, 9))
        stops = ", ".join(f"rgb({red},{green},{blue})" for red, green, blue in colors.tolist())
        bar = f'<div style="flex:1;height:0.7em;border-radius:3px;background:linear-gradient(90deg,{stops})"></div>'
        grey = _swatch(GREY, "not seen") if mode in (AGREEMENT, CHANGE, VIEW_COUNT) else ""
        return f'<div data-legend style="{LEGEND};gap:0.5em">{ends[0]}{bar}{ends[1]}{grey}</div>'
    if mode == COVERAGE:
        swatches = _swatch(SEEN, "observed") + _swatch(UNOBSERVED, "not observed")
        return f'<div data-legend style="{LEGEND}">{swatches}</div>'
    return ""


def _swatch(color: NDArray[np.uint8], text: str) -> str:
    red, green, blue = color.tolist()
    square = f"display:inline-block;width:0.8em;height:0.8em;margin:0 0.3em;background:rgb({red},{green},{blue})"
    return f'<span style="{square}"></span>{text}'


@dataclass(frozen=True, eq=False)
class Overlay:
    """What lies over the base colours."""

    masks: Sequence[Tensor] = ()  # [N] bool each, of an answer or an affordance, in the label colour of its index
    unobserved: Tensor | None = None  # [N] bool, painted in its own colour
    dim: bool = True  # what no mask holds is a little darker

    def over(self, base: Colors) -> Colors:
        """The base colours [N, 3] with this on top."""
        colors = base.astype(np.float32)
        masks = [mask.numpy() for mask in self.masks]
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
