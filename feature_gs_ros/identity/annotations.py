"""Masks of a stream's frames as annotated views of the map."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from feature_gs_ros import rasterizer
from feature_gs_ros.backprojection.ingest import Progress, counted, some
from feature_gs_ros.backprojection.pose_check import PoseSanityCheck
from feature_gs_ros.core.camera import Frame, rectified_labels
from feature_gs_ros.core.errors import EvaluationError, IdentityError, OutOfMemoryError, StoppedError
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.core.geometry import Sim3
from feature_gs_ros.core.memory import memory_errors
from feature_gs_ros.identity.encoding import IGNORE, Annotation, unnamed_values
from feature_gs_ros.identity.masks import Masks
from feature_gs_ros.io.streams.registry import Stream


@dataclass(frozen=True, eq=False)
class Annotated:
    """Views with their label images, and the masks that were left out, by reason."""

    annotations: tuple[Annotation, ...]
    skipped: Counter[str]
    complete: bool = True  # False: memory ended before the last


def read_annotations(
    gaussians: GaussianMap,
    stream: Stream,
    masks: Masks,
    splat_from_map: Sim3,
    names: Mapping[int, str] | None = None,
    *,
    backend: rasterizer.BackendChoice = "auto",
    progress: Progress | None = None,
) -> Annotated:
    """Every frame of the stream that has a mask; frames without one are not needed.

    Masks that can't be used (another size, damaged, a value without a name) are left out and counted by reason; so is
    the one at which memory ended, and those after it aren't read.

    Args:
        names: of the pixel values; any value will do where it isn't given.
        progress: called with the views read, all, and a name; True stops.

    Raises:
        StoppedError: ``progress`` stopped it.
        IdentityError: no frame has a mask that can be used.
        OutOfMemoryError: there is none for the first.
        CameraError: the views see almost nothing of the map.
    """
    known = set(masks.names())
    chosen = [name for name in stream.names() if name in known]
    if not chosen:
        raise IdentityError(
            f"no frame of '{stream.source}' has a mask of its name: "
            f"frames {some(stream.names(), 5)}; masks {some(sorted(known), 5)}",
            code="identity.missing",
        )
    found: list[Annotation] = []
    skipped: Counter[str] = Counter()
    pose_check, complete = PoseSanityCheck(stream.source), True
    for done, frame in enumerate(stream.frames(chosen), start=1):
        try:
            with memory_errors():
                labels = _labels(masks, frame, names)
                pose = splat_from_map.camera_from_splat(frame.camera_from_world)
                view = rasterizer.view(gaussians, replace(frame.camera, distortion=None), pose, backend)
                pose_check.check(view)
                found.append(Annotation(frame.name, view, labels))
        except EvaluationError as error:
            skipped[str(error)] += 1
        except OutOfMemoryError as error:
            if not found:
                raise
            skipped[str(error)] += 1
            complete = False
            break
        if progress is not None and progress(done, len(chosen), frame.name):
            raise StoppedError(f"stopped after the masks of {done} of {len(chosen)} views")
    pose_check.finish()
    if not found:
        raise IdentityError(f"no mask can be used: {counted(skipped)}", code="identity.empty")
    for name in sorted(known - set(chosen)):
        skipped[f"mask '{name}' has no frame"] += 1
    return Annotated(tuple(found), skipped, complete)


def _labels(masks: Masks, frame: Frame, names: Mapping[int, str] | None) -> NDArray[np.integer]:
    """Labels [H, W] of a frame's rectified image.

    Raises:
        EvaluationError: the mask can't be used.
    """
    labels = rectified_labels(masks.load(frame.name, frame.camera), frame.camera, outside=IGNORE)
    unknown = unnamed_values(labels, names) if names is not None else []
    if unknown:
        raise EvaluationError(
            f"mask '{frame.name}' holds the value {unknown[0]}, which has no name; add it to the labels",
            code="evaluation.label",
        )
    return labels
