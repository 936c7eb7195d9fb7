"""Transferred affordances against annotated views: class probabilities rendered, one confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from feature_gs_ros import rasterizer
from feature_gs_ros.affordance.transfer import Transfer
from feature_gs_ros.core.errors import EvaluationError
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.core.geometry import Sim3
from feature_gs_ros.evaluation.metrics import (
    BACKGROUND,
    IGNORE,
    Confusion,
    Evaluation,
    evaluated_views,
    relabelled,
    summary,
    true_labels,
)
from feature_gs_ros.io.detections import Labelled
from feature_gs_ros.io.streams.registry import Stream
from feature_gs_ros.query.masks_2d import render_similarities


def render_affordances(view: rasterizer.View, transferred: Transfer) -> Tensor:
    """Label of each pixel [H, W]: 0 none, k affordances[k − 1].

    The label of highest probability, rendered over the seen; none where nothing was seen.
    """
    rendered, coverage = render_similarities(view, transferred.probability, transferred.asked)
    return torch.where(coverage > 0, rendered.argmax(dim=2), 0)


def evaluate_affordances(
    gaussians: GaussianMap,
    transferred: Transfer,
    stream: Stream,
    masks: Labelled,
    labels: Mapping[int, str],
    *,
    splat_from_map: Sim3,
    views: Sequence[str] | None = None,
    backend: rasterizer.BackendChoice = "auto",
) -> Evaluation:
    """IoU and recall of the rendered regions, over all annotated views, by the package's one definition.

    Classes of the labels that the library doesn't hold are left out: they count as background.

    Args:
        views: frames to evaluate; by default all that have a mask.

    Raises:
        EvaluationError: no frame has a mask, no class was transferred, or sizes don't fit.
    """
    values = [
        value for value, name in labels.items() if value not in (BACKGROUND, IGNORE) and name in transferred.affordances
    ]
    if not values:
        raise EvaluationError(
            f"none of the classes {', '.join(labels.values())} is an affordance of the library "
            f"({', '.join(transferred.affordances)}); name them alike",
            code="evaluation.unknown",
        )
    left_out = {
        name: "the library has no such affordance"
        for value, name in labels.items()
        if value not in (BACKGROUND, IGNORE, *values)
    }
    # From an affordance's label to the class's index; affordances that are not a class are background.
    class_of = torch.zeros(1 + len(transferred.affordances), dtype=torch.int64)
    for index, value in enumerate(values):
        class_of[1 + transferred.affordances.index(labels[value])] = 1 + index
    names = evaluated_views(stream, masks, views)
    confusion = Confusion(len(values) + 1)
    for frame in stream.frames(names):
        view = rasterizer.view(
            gaussians,
            replace(frame.camera, distortion=None),
            splat_from_map.camera_from_splat(frame.camera_from_world),
            backend,
        )
        predicted = class_of[render_affordances(view, transferred)]
        confusion.add(predicted.numpy(), relabelled(true_labels(frame, masks), values))
    return summary(confusion, [labels[value] for value in values], len(names), left_out)
