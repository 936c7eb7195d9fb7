"""3D-OVS: ``segmentations/classes.txt`` and ``segmentations/<view number>/<class>.png``; every pixel has one class."""

from __future__ import annotations

from pathlib import Path

from feature_gs_ros import rasterizer
from feature_gs_ros.core.errors import EvaluationError
from feature_gs_ros.evaluation.protocols.lerf_mask import read_prompt_folders, score_prompt_masks
from feature_gs_ros.evaluation.protocols.prediction import frame_by_index, scene_stream
from feature_gs_ros.evaluation.protocols.scoring import ProtocolResult, summarised
from feature_gs_ros.io.streams.registry import Stream
from feature_gs_ros.query.masks_3d import Segmenter


def evaluate_three_d_ovs(
    segmenter: Segmenter,
    folder: str | Path,
    *,
    stream: Stream | None = None,
    backend: rasterizer.BackendChoice = "auto",
) -> ProtocolResult:
    """Score one scene of 3D-OVS: a folder's number is the index of its image among the sorted images.

    A view that lacks the mask of a class of ``classes.txt`` is scored on those it has, and reported.

    Args:
        folder: the scene's, e.g. ``3d_ovs/bed``.
        stream: where the cameras are; the folder's own COLMAP model by default.

    Raises:
        EvaluationError: no class list, no masks, or none that can be evaluated.
    """
    folder = Path(folder)
    stream = stream or scene_stream(folder)
    classes = read_classes(folder / "segmentations" / "classes.txt")
    found, skipped = read_prompt_folders(folder / "segmentations")
    truth, frames = {}, {}
    for name, masks in found.items():
        frame = _frame_of(stream, name)
        if frame is None:
            skipped[name] = f"no frame of '{stream.source}' has this number"
            continue
        frames[name] = frame
        truth[name] = {label: masks[label] for label in classes if label in masks}
        missing = [label for label in classes if label not in masks]
        if missing:
            skipped[f"view {name}"] = f"has no mask of {', '.join(missing)}"
    scores, views = score_prompt_masks(segmenter, stream, truth, frames, skipped, competing=classes, backend=backend)
    return summarised("3D-OVS", folder.name, scores, views, skipped, classes)


def three_d_ovs_views(folder: str | Path, stream: Stream) -> list[str]:
    """Frames that are scored, so that a field may be made without them."""
    found, _ = read_prompt_folders(Path(folder) / "segmentations")
    return sorted({frame for name in found if (frame := _frame_of(stream, name)) is not None})


def _frame_of(stream: Stream, folder: str) -> str | None:
    """The frame that a folder's name or number means."""
    if folder in stream.names():
        return folder
    return frame_by_index(stream, int(folder)) if folder.isdigit() else None


def read_classes(path: Path) -> list[str]:
    """The class names, one a line.

    Raises:
        EvaluationError: missing or empty.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationError(f"can't read the class list '{path}': {error}", code="evaluation.unreadable") from error
    classes = [line.strip() for line in lines if line.strip()]
    if not classes:
        raise EvaluationError(f"'{path}' names no class", code="evaluation.empty")
    return classes
