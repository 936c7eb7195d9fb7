"""LERF-OVS labels (LangSplat): ``label/<scene>/frame_00041.json`` with polygons by category.

LangSplat's release has ``info`` and ``objects``; files saved by LabelMe have ``shapes``, ``imageWidth`` and
``imageHeight``. Both are read.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from feature_gs_ros import rasterizer
from feature_gs_ros.core.errors import EvaluationError
from feature_gs_ros.evaluation.protocols.lerf_mask import prompts_of, score_prompt_masks
from feature_gs_ros.evaluation.protocols.prediction import Mask, scene_stream
from feature_gs_ros.evaluation.protocols.scoring import ProtocolResult, summarised
from feature_gs_ros.io.images import MAX_PIXELS
from feature_gs_ros.io.streams.registry import Stream
from feature_gs_ros.io.structured import read_table
from feature_gs_ros.query.masks_3d import Segmenter


def evaluate_lerf_ovs(
    segmenter: Segmenter,
    folder: str | Path,
    *,
    labels: str | Path | None = None,
    stream: Stream | None = None,
    backend: rasterizer.BackendChoice = "auto",
) -> ProtocolResult:
    """Score one scene of LERF-OVS; prompts of a view may overlap.

    Args:
        folder: the scene's images and cameras, e.g. ``lerf_ovs/figurines``.
        labels: folder of its JSON files; ``../label/<scene>`` or the scene's own folder by default.

    Raises:
        EvaluationError: no labels, or none that can be evaluated.
    """
    folder = Path(folder)
    stream = stream or scene_stream(folder)
    source = _labels_of(folder, labels)
    truth: dict[str, dict[str, Mask]] = {}
    skipped: dict[str, str] = {}
    for path in sorted(source.glob("*.json")):
        try:
            truth[path.stem] = read_polygons(path)
        except EvaluationError as error:
            skipped[path.name] = str(error)
    if not truth:
        raise EvaluationError(
            f"'{source}' holds no labels (frame_*.json) that can be read; {skipped or 'it is empty'}",
            code="evaluation.empty",
        )
    frames = {}
    for name in truth:
        if name in stream.names():
            frames[name] = name
        else:
            skipped[name] = f"no frame of '{stream.source}' has this name"
    scores, views = score_prompt_masks(segmenter, stream, truth, frames, skipped, backend=backend)
    return summarised("LERF-OVS", folder.name, scores, views, skipped, prompts_of(truth))


def lerf_ovs_views(folder: str | Path, stream: Stream, labels: str | Path | None = None) -> list[str]:
    """Frames that are scored, so that a field may be made without them."""
    labelled = {path.stem for path in _labels_of(Path(folder), labels).glob("*.json")}
    return sorted(labelled & set(stream.names()))


def _labels_of(folder: Path, labels: str | Path | None) -> Path:
    """The folder of a scene's JSON files."""
    source = Path(labels) if labels is not None else folder.parent / "label" / folder.name
    return source if source.is_dir() else folder


def read_polygons(path: Path) -> dict[str, Mask]:
    """Masks [H, W] by category; the polygons of one category add up.

    Raises:
        EvaluationError: damaged, or without a polygon.
    """
    content = read_table(path, EvaluationError)
    if "info" in content:
        info = content.table("info")
        height, width = (info.whole(key, least=1, most=MAX_PIXELS) for key in ("height", "width"))
        names, polygons, entries = "category", "segmentation", content.tables("objects")
    else:
        height, width = (content.whole(key, least=1, most=MAX_PIXELS) for key in ("imageHeight", "imageWidth"))
        names, polygons, entries = "label", "points", content.tables("shapes")
    if height * width > MAX_PIXELS:
        raise EvaluationError(
            f"'{path}' gives the image size {width}×{height}, at most {MAX_PIXELS} pixels are read",
            code="evaluation.range",
        )
    masks: dict[str, Mask] = {}
    for entry in entries:
        outline, name = _outline(entry.get(polygons)), entry.text(names)
        if outline is None:
            raise EvaluationError(
                f"'{polygons}' of {entry.source} is not a polygon of three points or more", code="evaluation.value"
            )
        filled = np.zeros((height, width), np.uint8)
        cv2.fillPoly(filled, [outline], 1)
        before = masks.get(name)
        masks[name] = filled.astype(np.bool_) if before is None else before | filled.astype(np.bool_)
    if not masks:
        raise EvaluationError(f"'{path}' holds no polygon", code="evaluation.empty")
    return masks


def _outline(points: object) -> NDArray[np.int32] | None:
    try:
        outline = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    except (TypeError, ValueError, OverflowError):
        return None
    if len(outline) < 3 or not np.isfinite(outline).all() or np.abs(outline).max() > 1e6:
        return None
    return outline.astype(np.int32)  # LangSplat cuts the fractions off, too
