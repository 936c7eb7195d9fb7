"""LiveSegmenter: questions in words to the accumulators themselves, without a copy of the field."""

from __future__ import annotations

import torch
from torch import Tensor

from feature_gs_ros.backprojection.field import FeatureField, expected_features
from feature_gs_ros.backprojection.projector import BackProjector
from feature_gs_ros.extractors.base import Extractor, needed_directions
from feature_gs_ros.numerics.device import in_torch
from feature_gs_ros.numerics.products import affine_products
from feature_gs_ros.numerics.streams import OrderedLock
from feature_gs_ros.query.masks_3d import Segmenter
from feature_gs_ros.query.smoothing import GaussianGraph

BLOCK = 4096  # rows divided by their weight at once, so that they are still in the cache when they are scored
LARGE_BLOCK = 1 << 16  # the same on a card, and where sums are scored as they are: every block costs a thread barrier


class Accumulated:
    """A projector's sums behind a lock, and what the extractor prepares of each row, kept until a view changes it.

    All of it lies where the sums lie.
    """

    def __init__(self, projector: BackProjector, extractor: Extractor, lock: OrderedLock) -> None:
        self.lock = lock  # held while a view is added, and while sums are read
        self.projector = projector
        self._extractor = extractor
        self._as_sums = getattr(extractor, "scale_invariant", False) and projector.codec is None
        self._device = projector.backend.device
        self._prepared = torch.zeros(len(projector.gaussians), device=self._device)
        self._stale = torch.ones(len(projector.gaussians), dtype=torch.bool, device=self._device)

    def changed(self, rows: Tensor) -> None:
        """What was prepared of these rows [V] holds no longer; call it with the lock held."""
        self._stale[rows.to(self._device)] = True

    def scores(self, embeddings: Tensor) -> Tensor:
        """The extractor's scores [N, P] of all whole views so far, where the sums lie; call it with the lock held."""
        scores, embeddings = self._prepared.new_empty(len(self._stale), len(embeddings)), embeddings.to(self._device)
        large = self._as_sums or in_torch(self._device)
        codec = self.projector.codec
        directions = needed_directions(self._extractor, embeddings) if codec else None
        for rows, sums in self.projector.blocks(LARGE_BLOCK if large else BLOCK):
            features = sums.numerator if self._as_sums else expected_features(sums.numerator, sums.weight)
            if bool(self._stale[rows].any()):
                self._prepared[rows] = self._extractor.prepare(self._decoded(features))
            if codec is not None and directions is not None:
                along = affine_products(features, *codec.along(directions))
                scores[rows] = self._extractor.scores(along, embeddings @ directions, self._prepared[rows])
            else:
                scores[rows] = self._extractor.scores(self._decoded(features), embeddings, self._prepared[rows])
        self._stale[:] = False
        return scores

    def _decoded(self, features: Tensor) -> Tensor:
        return self.projector.codec.decode(features) if self.projector.codec else features


class LiveSegmenter(Segmenter):
    """Answers one question in words by the accumulators; the lock is held while they are read, not while they think.

    Its field says what was seen and where it comes from. The features themselves are nowhere but in the accumulators,
    so questions by example need a `LiveField.snapshot`.
    """

    def __init__(self, accumulated: Accumulated, extractor: Extractor, graph: GaussianGraph | None) -> None:
        """Take in the views so far; call it with the lock held."""
        super().__init__(accumulated.projector.gaussians, _seen_so_far(accumulated.projector), extractor, graph)
        self._accumulated = accumulated

    def _text_scores(self, embeddings: Tensor) -> Tensor:
        with self._accumulated.lock:  # what was seen is of the same views as the scores
            self.field = _seen_so_far(self._accumulated.projector)
            return self._accumulated.scores(embeddings)

    def _competitors_scores(self, rows: Tensor, competitors: Tensor) -> Tensor:
        with self._accumulated.lock:
            features = self._accumulated.projector.rows(rows)
        return self.extractor.scores(features, competitors)


def _seen_so_far(projector: BackProjector) -> FeatureField:
    """A field without features: what was seen, and by which views."""
    projector.flush()
    nowhere = torch.empty(len(projector.gaussians), projector.stored, device="meta")
    return FeatureField(
        nowhere,
        nowhere[:, 0],
        projector.view_count(),
        projector.extractor,
        projector.provenance,
        projector.codec,
        projector.looks,
    )
