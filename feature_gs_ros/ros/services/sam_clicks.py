"""Clicks into a camera's image where the extractor is SAM: its mask on the rendered embedding, lifted by voting."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from feature_gs_ros.extractors.sam import SamExtractor
from feature_gs_ros.identity.voting import vote
from feature_gs_ros.live.live_field import Snapshot
from feature_gs_ros.query.clicks import straight_pixel
from feature_gs_ros.query.masks_3d import Answer, State, decide
from feature_gs_ros.query.sam import segment_rendered_view
from feature_gs_ros.ros.nodes.session import Session
from feature_gs_ros.ros.services.pointing import camera_view

CERTAIN = 0.5  # of a Gaussian's weight must lie in the mask


def asks_sam(session: Session, request: Any) -> bool:
    """Whether the points are pixels, and the field can be decoded to masks."""
    return bool(request.camera) and isinstance(session.field.map.extractor, SamExtractor)


def sam_answer(session: Session, snapshot: Snapshot, request: Any) -> Answer:
    """The Gaussians under SAM's best mask of the request's points, ``Wᵀ M > Wᵀ (1 − M)`` in the view clicked into.

    Raises:
        FeatureGsError: a pixel is outside the image, or nothing was heard of the camera yet.
    """
    start = time.perf_counter()
    sam, shown, field = session.field.map.extractor, snapshot.shown, snapshot.segmenter.field
    assert isinstance(sam, SamExtractor)
    camera, view = camera_view(session, shown, request)
    clicked = [*request.points, *request.negatives]
    points = np.array([straight_pixel(camera, point.x + 0.5, point.y + 0.5) for point in clicked])
    labels = [1] * len(request.points) + [0] * len(request.negatives)
    masks = segment_rendered_view(
        sam, shown.gaussians, shown.field(field), view.camera, view.camera_from_splat, points, labels
    )
    votes = vote([(view, (masks.logits[0] > 0).numpy())])
    mask = shown.only(votes.selected & field.seen)
    coverage = field.coverage(shown.gaussians)
    state = decide(float(shown.gaussians.opacities[mask].sum()), coverage)
    count, expected = int(mask.sum()), float(masks.quality[0])
    message = f"SAM's mask of {len(points)} points, expected IoU {expected:.2f}: {count} Gaussians"
    if state is not State.FOUND:
        message = f"{message}, too few"
    seconds = time.perf_counter() - start
    return Answer("what was clicked", state, mask, votes.confidence, coverage, CERTAIN, seconds, message)
