"""Selections of an edit by text, by a point, or by an image of the object."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from feature_gs_ros.core.errors import EditError
from feature_gs_ros.editing.operations import EditedMap
from feature_gs_ros.editing.selection import Selection, select_example, select_text
from feature_gs_ros.io.images import load_image
from feature_gs_ros.query.clicks import CLICK_RADIUS, feature_of, picture_example, weights_near
from feature_gs_ros.query.masks_3d import Segmenter


def select(
    segmenter: Segmenter,
    edited: EditedMap,
    prompt: str,
    negatives: Sequence[str] = (),
    threshold: float | None = None,
    soft_edge: float = 0.0,
) -> Selection:
    """The Gaussians that a prompt selects: text, ``@x,y,z`` (metres, map frame), or ``@image.png`` of the object.

    Args:
        edited: the map with its edits so far; deleted Gaussians are not selected.
        negatives: competing text; for a text prompt only.
        threshold, soft_edge: as `select_text`.

    Raises:
        EditError: nothing is found, negatives with a point or an image, or ``soft_edge`` is not in 0..1.
        ImageError: the image can't be read.
        PromptError: as `Segmenter.ask`.
    """
    if not prompt.startswith("@"):
        return select_text(segmenter, prompt, negatives, threshold, soft_edge, edited.present)
    if negatives:
        raise EditError("negatives go with text; leave them out for a point or an image", code="edit.conflict")
    with contextlib.suppress(ValueError):
        point = [float(word) for word in prompt[1:].split(",")]
        splat_from_map = segmenter.field.provenance.splat_from_map
        if len(point) != 3:
            raise EditError(
                f"point '{prompt}' has {len(point)} numbers, expected @X,Y,Z in metres of the map frame",
                code="edit.value",
            )
        at = splat_from_map.apply(np.array(point))
        near = weights_near(edited.gaussians, at, CLICK_RADIUS * splat_from_map.scale) * edited.present
        feature = feature_of(near, segmenter.field) if bool(near.any()) else None
        if feature is None:
            raise EditError(
                f"nothing that a camera has seen is within {CLICK_RADIUS} m of {prompt[1:]}", code="edit.empty"
            )
        return select_example(segmenter, feature[None], prompt, threshold, soft_edge, edited.present)
    example, alike = picture_example(segmenter.extractor, load_image(prompt[1:]), name=Path(prompt[1:]).stem)
    threshold = alike if threshold is None else threshold
    return select_example(segmenter, example[None], prompt, threshold, soft_edge, edited.present)
