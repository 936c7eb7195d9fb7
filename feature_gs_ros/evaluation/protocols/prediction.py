"""Masks that a field predicts for prompts in one frame, at whatever size the truth has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from feature_gs_ros import rasterizer
from feature_gs_ros.core.camera import Frame
from feature_gs_ros.core.errors import EvaluationError, ImageError, UnknownPromptError
from feature_gs_ros.io.images import decode_grey, read_image
from feature_gs_ros.io.streams.registry import Stream, open_stream
from feature_gs_ros.query.masks_2d import segment_view
from feature_gs_ros.query.masks_3d import Segmenter
from feature_gs_ros.query.prompt import TextPrompts

Mask = NDArray[np.bool_]

ON = 128  # of a mask's grey values: above it a pixel belongs to the mask
SAME_ASPECT = 0.02  # relative difference of the aspects up to which a mask is a resized one


@dataclass(frozen=True, eq=False)
class FramePrediction:
    """Answers to some prompts in one frame."""

    prompts: tuple[str, ...]
    similarities: torch.Tensor  # [H, W, P]
    threshold: float

    def one(self, prompt: str, size: tuple[int, int]) -> NDArray[np.bool_]:
        """The prompt's mask where each pixel goes to the likeliest prompt, resized by nearest neighbours."""
        return resized(self.similarities.argmax(dim=2).numpy() == self.prompts.index(prompt), size)

    def alone(self, prompt: str, size: tuple[int, int]) -> NDArray[np.bool_]:
        """The prompt's mask over the threshold, whatever the other prompts say: prompts may overlap."""
        over = self.similarities[:, :, self.prompts.index(prompt)] > self.threshold
        return resized(over.numpy(), size)


def predict(
    segmenter: Segmenter, frame: Frame, prompts: Sequence[str], backend: rasterizer.BackendChoice = "auto"
) -> FramePrediction:
    """Segment one frame's view (Eq. 7)."""
    question = TextPrompts.of(segmenter.extractor.text_rule, prompts)
    pose = segmenter.field.provenance.splat_from_map.camera_from_splat(frame.camera_from_world)
    view = rasterizer.view(segmenter.gaussians, replace(frame.camera, distortion=None), pose, backend)
    similarities, _ = segment_view(segmenter, view, question.texts)
    return FramePrediction(tuple(prompts), similarities[:, :, : len(prompts)], question.threshold)


def known_prompts(segmenter: Segmenter, prompts: Sequence[str], skipped: dict[str, str]) -> list[str]:
    """Those that the extractor can embed; the others go to ``skipped`` with the reason."""
    known = []
    for prompt in prompts:
        try:
            segmenter.extractor.embed([prompt])
            known.append(prompt)
        except UnknownPromptError as error:
            skipped[prompt] = str(error)
    return known


def scene_stream(folder: Path) -> Stream:
    """The scene's own cameras (COLMAP, nerfstudio, …).

    Raises:
        EvaluationError: the folder is missing.
    """
    if not folder.is_dir():
        raise EvaluationError(f"there is no scene folder '{folder}'", code="evaluation.unreadable")
    return open_stream(folder)


def read_mask(path: Path) -> NDArray[np.bool_]:
    """A binary mask [H, W]: grey above 128, of an image of one or three channels.

    Raises:
        EvaluationError: missing or damaged.
    """
    try:
        grey = decode_grey(read_image(path), str(path))
    except ImageError as error:
        raise EvaluationError(f"the mask can't be used: {error}", code="evaluation.mask") from error
    return np.asarray(grey > ON)


def resized(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Nearest neighbours to (height, width), sampled at the pixels' centres.

    Raises:
        EvaluationError: another aspect.
    """
    if mask.shape == size:
        return mask
    (height, width), (rows, columns) = size, mask.shape
    if abs(width * rows / (height * columns) - 1) > SAME_ASPECT:
        raise EvaluationError(
            f"a mask of {width}×{height} isn't a resized frame of {columns}×{rows}: another crop",
            code="evaluation.size",
        )
    y = np.minimum(((np.arange(height) + 0.5) * rows / height).astype(np.int64), rows - 1)
    x = np.minimum(((np.arange(width) + 0.5) * columns / width).astype(np.int64), columns - 1)
    result: NDArray[np.bool_] = mask[y[:, None], x[None, :]]
    return result


def frame_by_index(stream: Stream, index: int) -> str | None:
    """Name of the n-th frame in the order of the names, None where there are fewer."""
    names = sorted(stream.names())
    return names[index] if 0 <= index < len(names) else None
