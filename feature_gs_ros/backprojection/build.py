"""From a map and a stream to a field in one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from feature_gs_ros.backprojection.field import FeatureField, Provenance
from feature_gs_ros.backprojection.ingest import Progress, choose_frames, counted, evenly_spaced, ingest, known_views
from feature_gs_ros.backprojection.projector import BackProjector
from feature_gs_ros.core.codec import Codec
from feature_gs_ros.core.errors import StreamError
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.core.geometry import Sim3
from feature_gs_ros.extractors import DEFAULT_EXTRACTOR, make_extractor
from feature_gs_ros.extractors.base import Extractor
from feature_gs_ros.io.streams.registry import Stream
from feature_gs_ros.rasterizer import BackendChoice


def back_project(
    gaussians: GaussianMap,
    stream: Stream,
    extractor: Extractor | str = DEFAULT_EXTRACTOR,
    *,
    splat_from_map: Sim3 | None = None,
    every: int = 1,
    skip: Sequence[str] = (),
    codec: Codec | None = None,
    backend: BackendChoice = "auto",
    progress: Progress | None = None,
) -> FeatureField:
    """Expected back-projection, Eq. 4 of Joseph et al.: a feature for every Gaussian from a stream's posed images.

    Args:
        gaussians: the pretrained map, N Gaussians in its own frame and scale.
        stream: posed images; see `open_stream`.
        extractor: the 2D model, or its name.
        splat_from_map: from the stream's world frame to the map's own; the same frame by default.
        every: take every n-th frame.
        skip: names of frames to leave out.
        codec: store K channels instead of the extractor's D.
        progress: called with the views done, all views and the frame's name; returns True to stop early.

    Returns:
        Features [N, D or K] float32, with weights, view counts and cameras to draw images from.

    Raises:
        StreamError: the stream is damaged, or none of its images can be used.
        CameraError: the views see almost nothing of the map.
        BudgetError: the field does not fit into memory.
    """
    model = make_extractor(extractor) if isinstance(extractor, str) else extractor
    names = choose_frames(stream, every, skip)
    provenance = Provenance(
        gaussians.checksum,
        stream=stream.source,
        splat_from_map=splat_from_map or Sim3.identity(),
        map_notes=gaussians.notes,
    )
    projector = BackProjector(
        gaussians, model.identity, model.dimension, codec=codec, provenance=provenance, backend=backend
    )
    report = ingest(stream, names, model, projector, progress=progress)
    if not report.used:
        raise StreamError(
            f"no image of '{stream.source}' could be used: {counted(report.skipped) or 'stopped early'}",
            code="stream.empty",
        )
    return field_with_views(projector, stream, report.used)


def field_with_views(projector: BackProjector, stream: Stream, used: Sequence[str]) -> FeatureField:
    """The field so far, with some of the cameras of the named frames, so that images of it need no stream."""
    _remember_views(projector, stream, used)
    return projector.field()


def save_with_views(projector: BackProjector, stream: Stream, used: Sequence[str], path: Path) -> FeatureField:
    """As `field_with_views`, written to a file; see `BackProjector.save`.

    Raises:
        FieldError: it can't be written.
    """
    _remember_views(projector, stream, used)
    return projector.save(path)


def _remember_views(projector: BackProjector, stream: Stream, used: Sequence[str]) -> None:
    projector.flush()
    known = projector.provenance
    added = known_views(stream, used, known.splat_from_map)
    projector.provenance = replace(known, views=evenly_spaced((*known.views, *added)))
