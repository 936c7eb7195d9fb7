"""SAM's masks: of points and boxes on an embedding, also one rendered from a field; and of everything in an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feature_gs_ros.core.camera import Image
from feature_gs_ros.core.errors import ExtractorError, PromptError
from feature_gs_ros.extractors.sam import CELLS, DIMENSION, SIDE, SamExtractor, fitted

_POINTS_AT_ONCE = 16  # three full-size masks each
_SHIFT = 1.0  # of the threshold on the logits


@dataclass(frozen=True, eq=False)
class PromptedMasks:
    """The decoder's answers to one prompt, as many as it was asked for (1 or 3)."""

    logits: Tensor  # [K, H, W] float32; a pixel over 0 is in the mask
    quality: Tensor  # [K] intersection over union that the network expects of its own mask


def prompted_masks(
    sam: SamExtractor,
    embedding: Tensor,  # [64, 64, 256]
    size: tuple[int, int],
    points: NDArray[np.floating] | None = None,
    labels: Sequence[int] | None = None,
    box: Sequence[float] | None = None,
    several: bool = True,
) -> PromptedMasks:
    """Masks for a prompt on an embedding: the encoder's, or one rendered from a field (see `padded`).

    Args:
        size: height and width of the image that the prompt and the masks are in.
        points: [P, 2] x and y in pixels from the image's corner; labels [P], 1 in the object, 0 outside it.
        box: x0, y0, x1, y1 in pixels.
        several: three masks for a prompt that may mean a part or the whole; one otherwise.

    Raises:
        PromptError: neither points nor box, or they don't fit.
        ExtractorError: the embedding has another shape.
    """
    if tuple(embedding.shape) != (CELLS, CELLS, DIMENSION):
        raise ExtractorError(
            f"an embedding has shape {(CELLS, CELLS, DIMENSION)}, got {tuple(embedding.shape)}; see `padded`",
            code="extractor.shape",
        )
    prompt, corners = _prompt(points, labels, box, _scale(size))
    logits, quality = _decoded(sam, embedding, size, prompt, corners, several)
    return PromptedMasks(logits[0], quality[0])


def instance_map(
    sam: SamExtractor,
    image: Image,
    points_per_side: int = 32,
    quality: float = 0.88,
    stability: float = 0.95,
    overlap: float = 0.7,
) -> NDArray[np.int32]:
    """Masks of everything in an image as an instance map [H, W]: 0 for none, else 1 … n, small masks on top of large.

    As segment-anything's automatic masks do it, without crops: a grid of points is asked for, three masks each; kept
    are masks that the network trusts, that a shift of the threshold hardly changes, and that overlap no better one.

    Args:
        image: [H, W, 3] uint8.
        points_per_side: of the grid.
        quality: least intersection over union that the network expects of its mask.
        stability: least intersection over union of the masks at the thresholds +1 and −1.
        overlap: largest intersection over union of two masks' boxes.
    """
    height, width = image.shape[:2]
    embedding = sam.extract(image).values
    along = (torch.arange(points_per_side) + 0.5) / points_per_side
    points = torch.cartesian_prod(along, along).flip(1) * torch.tensor([width, height])
    parts = [
        _trusted(sam, embedding, (height, width), points[first : first + _POINTS_AT_ONCE], quality, stability)
        for first in range(0, len(points), _POINTS_AT_ONCE)
    ]
    masks, scores = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
    kept = masks[suppress_overlaps(_boxes(masks), scores, overlap)]
    instances = np.zeros((height, width), dtype=np.int32)
    for number, index in enumerate(kept.sum(dim=(1, 2)).argsort(descending=True, stable=True).tolist(), start=1):
        instances[kept[index].numpy()] = number
    return instances


def suppress_overlaps(boxes: Tensor, scores: Tensor, overlap: float) -> Tensor:
    """Greedy suppression: indices of the boxes that overlap no better one by more than the threshold, best first.

    Args:
        boxes: boxes [K, 4], x0 y0 x1 y1.
        scores: [K], larger is better.
        overlap: intersection over union above which the lesser box goes.
    """
    order = torch.argsort(scores, descending=True, stable=True)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept = []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(best)
        low = torch.maximum(boxes[best, :2], boxes[order, :2])
        high = torch.minimum(boxes[best, 2:], boxes[order, 2:])
        shared = (high - low).clamp_min(0).prod(dim=1)
        order = order[shared <= overlap * (areas[best] + areas[order] - shared)]
    return torch.stack(kept) if kept else torch.zeros(0, dtype=torch.int64, device=boxes.device)


def padded(rendered: Tensor, padding: Tensor | None = None) -> Tensor:
    """A rendered feature image [rows, columns, 256] as an embedding [64, 64, 256] that `prompted_masks` takes.

    Args:
        rendered: one pixel a cell, e.g. 36×64 for 16:9; see `rendered_size`.
        padding: [64, 64, 256], an encoder's embedding of any image of this aspect, whose padded cells are taken over;
            zeros otherwise.

    Raises:
        ExtractorError: more than 64 rows or columns, or another dimension.
    """
    rows, columns, dimension = rendered.shape
    if max(rows, columns) > CELLS or dimension != DIMENSION:
        raise ExtractorError(
            f"rendered features have shape {tuple(rendered.shape)}, SAM takes up to (64, 64, 256)",
            code="extractor.shape",
        )
    embedding = torch.zeros(CELLS, CELLS, DIMENSION) if padding is None else padding.float().clone()
    embedding[:rows, :columns] = rendered.float()
    return embedding


def rendered_size(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the embedding's cells that show an image; at this size its features are rendered."""
    rows, columns = (-(-side * CELLS // SIDE) for side in fitted(height, width))
    return rows, columns


def _decoded(
    sam: SamExtractor,
    embedding: Tensor,  # [64, 64, 256]
    size: tuple[int, int],
    points: tuple[Tensor, Tensor] | None,  # [B, P, 2] and [B, P], in pixels of the network's input
    boxes: Tensor | None,  # [B, 4]
    several: bool,
) -> tuple[Tensor, Tensor]:
    """Logits [B, K, H, W] and expected qualities [B, K] of B prompts, on the CPU."""
    network = sam.network
    with torch.inference_mode():
        sparse, dense = network.prompt_encoder(
            points=None if points is None else tuple(part.to(sam.device) for part in points),
            boxes=None if boxes is None else boxes.to(sam.device),
            masks=None,
        )
        small, quality = network.mask_decoder(
            image_embeddings=embedding.to(sam.device, torch.float32).permute(2, 0, 1).unsqueeze(0),
            image_pe=network.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=several,
        )
        logits = network.postprocess_masks(small, fitted(*size), size)
    return logits.cpu().clone(), quality.cpu().clone()


def _trusted(
    sam: SamExtractor,
    embedding: Tensor,
    size: tuple[int, int],
    points: Tensor,  # [B, 2] in pixels of the image
    quality: float,
    stability: float,
) -> tuple[Tensor, Tensor]:
    """Masks [K, H, W] bool and qualities [K] of those prompts' masks that can be trusted."""
    prompt = ((points * _scale(size))[:, None], torch.ones(len(points), 1, dtype=torch.int64))
    logits, qualities = _decoded(sam, embedding, size, prompt, None, several=True)
    trusted = qualities.flatten() > quality
    logits, qualities = logits.flatten(0, 1)[trusted], qualities.flatten()[trusted]
    inner, outer = ((logits > shift).sum(dim=(1, 2)) for shift in (_SHIFT, -_SHIFT))
    # Written so that an empty mask, 0 of 0, is not trusted.
    stable = (inner >= stability * outer) & (outer > 0)
    return logits[stable] > 0, qualities[stable]


def _boxes(masks: Tensor) -> Tensor:  # [K, H, W] -> [K, 4] x0 y0 x1 y1, indices of the outer pixels
    edges = []
    for axis in (1, 2):
        occupied = masks.any(dim=axis).int()
        last = occupied.shape[1] - 1 - occupied.flip(1).argmax(dim=1)
        edges += [occupied.argmax(dim=1), last]
    return torch.stack([edges[0], edges[2], edges[1], edges[3]], dim=1).float()


def _scale(size: tuple[int, int]) -> Tensor:
    """Pixels of the network's input a pixel of the image, along x and y: [2]."""
    height, width = fitted(*size)
    return torch.tensor([width / size[1], height / size[0]])


def _prompt(
    points: NDArray[np.floating] | None,  # [P, 2]
    labels: Sequence[int] | None,
    box: Sequence[float] | None,
    scale: Tensor,  # [2]
) -> tuple[tuple[Tensor, Tensor] | None, Tensor | None]:
    """Points with labels [1, P, 2], [1, P] and box [1, 4] in pixels of the network's input."""
    if points is None and box is None:
        raise PromptError("SAM needs points or a box to prompt it", code="prompt.missing")
    prompt = corners = None
    if points is not None:
        at = torch.as_tensor(np.asarray(points), dtype=torch.float32)
        marks = torch.as_tensor(labels if labels is not None else [1] * len(at), dtype=torch.int64)
        if at.dim() != 2 or at.shape[1] != 2 or marks.shape != (len(at),) or not len(at):
            raise PromptError(
                f"points have shape {tuple(at.shape)} and labels {tuple(marks.shape)}, expected (P, 2), (P,)",
                code="prompt.shape",
            )
        if not bool(torch.isfinite(at).all()) or not set(marks.tolist()) <= {0, 1}:
            raise PromptError("a point is not finite, or a label is neither 0 nor 1", code="prompt.not-finite")
        prompt = ((at * scale)[None], marks[None])
    if box is not None:
        edges = torch.as_tensor(box, dtype=torch.float32)
        if edges.shape != (4,) or not bool((edges[2:] > edges[:2]).all()):
            raise PromptError(f"box {list(box)} is not x0, y0, x1, y1 with x0 < x1 and y0 < y1", code="prompt.value")
        corners = (edges.view(2, 2) * scale).view(1, 4)
    return prompt, corners
