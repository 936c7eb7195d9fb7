"""Scores that several extractors share."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from feature_gs_ros.numerics.products import inner_products

_MIN_NORM = 1e-12


def cosine(features: Tensor, others: Tensor, norms: Tensor | None = None) -> Tensor:  # [M, D], [P, D] -> [M, P]
    """Cosine similarity, Eq. 6; a zero vector is similar to nothing. ``norms`` [M] of the features, where known.

    The features may lie on a card; so do the cosines then.
    """
    others = others.to(features.device)
    norms = torch.linalg.vector_norm(features, dim=1) if norms is None else norms
    return inner_products(features, functional.normalize(others, dim=1)) / norms.clamp_min(_MIN_NORM).unsqueeze(1)
