"""Prompts → 2D masks of any view (Eq. 7)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from feature_gs_ros.backprojection.field import FeatureField
from feature_gs_ros.numerics.device import HOST
from feature_gs_ros.query.masks_3d import CHUNK, Segmenter
from feature_gs_ros.rasterizer import View

BAND_BYTES = 64 << 20  # of rendered features held at once


def render_similarities(view: View, similarities: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Similarity of each pixel, normalised over the seen: ``Σ_seen w s / Σ_seen w``.

    Args:
        similarities: [N, P].
        seen: [N] bool.

    Returns:
        [H, W, P]; and coverage [H, W], ``Σ_seen w / Σ w``, 0 where the map is empty. Both on the host.
    """
    known = seen.to(similarities.device, torch.float32).unsqueeze(1)
    image = view.render(torch.cat([similarities * known, known, torch.ones_like(known)], dim=1))
    rendered, seen_weight, weight = image[:, :, :-2], image[:, :, -2:-1], image[:, :, -1:]
    smallest = torch.finfo(torch.float32).tiny
    coverage = (seen_weight / weight.clamp_min(smallest))[:, :, 0]
    return (rendered / seen_weight.clamp_min(smallest)).to(HOST), coverage.to(HOST)


def segment_view(segmenter: Segmenter, view: View, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Similarity [H, W, P] of each pixel to each text, and coverage [H, W].

    By Eq. 7 the score is of the rendered feature. A rule that spreads scores over neighbouring Gaussians, or takes
    them relative to their peak over the map, is one of Gaussians: then their similarities are rendered.
    """
    rule = segmenter.extractor.text_rule
    if rule.smoothing_rate > 0 or rule.relative:
        return render_similarities(view, segmenter.similarities_of_text(texts), segmenter.field.seen)
    return _score_rendered_features(segmenter, view, segmenter.extractor.embed(texts))


def _score_rendered_features(segmenter: Segmenter, view: View, embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """Eq. 7 in bands of rows: the features of a whole image are never held, those in view once.

    All is worked out where the field's features lie, but what comes out of it.
    """
    field, extractor = segmenter.field, segmenter.extractor
    values = _visible_features(field, view.visible)
    embeddings = embeddings.to(values.device)
    height, width, smallest = view.camera.height, view.camera.width, torch.finfo(torch.float32).tiny
    step = max(16, BAND_BYTES // (4 * width * max(field.dimension, values.shape[1])))
    scores, coverages = [], []
    for first in range(0, height, step):
        band = view.render_visible(values, rows=(first, min(first + step, height))).reshape(-1, values.shape[1])
        features = band[:, :-2] / band[:, -2:-1].clamp_min(smallest)
        features = field.codec.decode(features) if field.codec else features
        score = extractor.scores(features, embeddings, extractor.prepare(features))
        score[band[:, -2] <= smallest] = 0
        scores.append(score.to(HOST))
        coverages.append((band[:, -2] / band[:, -1].clamp_min(smallest)).to(HOST))
    return torch.cat(scores).reshape(height, width, -1), torch.cat(coverages).reshape(height, width)


def _visible_features(field: FeatureField, visible: Tensor) -> Tensor:
    """Stored features of some rows of a field, whether each was seen, and 1: [V, K + 2], 0 where nothing was seen.

    They lie where the field's features lie.
    """
    seen, width, there = field.seen, field.features.shape[1], field.features.device
    values = torch.ones(len(visible), width + 2, device=there)
    for part, rows in zip(torch.split(values, CHUNK), torch.split(visible, CHUNK), strict=True):
        known = seen[rows].to(there, torch.float32).unsqueeze(1)
        torch.mul(field.features[rows].to(torch.float32), known, out=part[:, :width])
        part[:, width] = known[:, 0]
    return values


def mask_labels(similarities: Tensor, threshold: float, prompts: int | None = None) -> Tensor:
    """Label [...] of similarities [..., P]: 1 + the best prompt, 0 where none passes or a negative wins."""
    prompts = similarities.shape[-1] if prompts is None else prompts
    best, index = similarities.max(dim=-1)
    return torch.where((best > threshold) & (index < prompts), index + 1, 0)
