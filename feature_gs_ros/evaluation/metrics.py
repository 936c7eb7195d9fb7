"""Masks → IoU: one confusion matrix over all evaluated views, one definition for all protocols.

IoU = TP / (TP + FP + FN); `miou` is over the named classes without background 0; 255 is ignored; classes that
are left out count as background.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from feature_gs_ros import rasterizer
from feature_gs_ros.backprojection.ranks import Ranks
from feature_gs_ros.core.camera import Frame, rectified_labels
from feature_gs_ros.core.errors import EvaluationError, UnknownPromptError
from feature_gs_ros.core.geometry import Sim3
from feature_gs_ros.io.detections import Labelled
from feature_gs_ros.io.streams.registry import Stream
from feature_gs_ros.query.masks_2d import mask_labels, segment_view
from feature_gs_ros.query.masks_3d import Segmenter
from feature_gs_ros.query.prompt import TextPrompts

IGNORE = 255
BACKGROUND = 0

Labels = NDArray[np.integer]  # [H, W]


class Confusion:
    """Counts of pixels by true class (row) and predicted class (column)."""

    def __init__(self, classes: int) -> None:
        """``classes`` counts background."""
        self.counts = np.zeros((classes, classes), np.int64)

    def add(self, predicted: Labels, true: Labels) -> None:
        """Count a view's pixels; those whose true label is 255 are ignored.

        Raises:
            EvaluationError: the sizes differ, or a label is beyond the classes.
        """
        if predicted.shape != true.shape:
            raise EvaluationError(
                f"prediction is {predicted.shape}, truth {true.shape}: not the same size", code="evaluation.size"
            )
        counted = true != IGNORE
        p, t = predicted[counted].astype(np.int64), true[counted].astype(np.int64)
        classes = len(self.counts)
        for what, labels in (("predicted", p), ("true", t)):
            if labels.size and not 0 <= labels.min() <= labels.max() < classes:
                raise EvaluationError(
                    f"{what} label {labels.max()} is beyond the {classes} classes", code="evaluation.range"
                )
        self.counts += np.bincount(t * classes + p, minlength=classes**2).reshape(classes, classes)

    def iou(self) -> NDArray[np.float64]:
        """[classes], NaN where a class is neither there nor predicted."""
        hit = np.diag(self.counts).astype(np.float64)
        union = self.counts.sum(axis=0) + self.counts.sum(axis=1) - hit
        return _ratio(hit, union)

    def recall(self) -> NDArray[np.float64]:
        """TP / (TP + FN) [classes], NaN where a class is not there."""
        hit, true = np.diag(self.counts).astype(np.float64), self.counts.sum(axis=1).astype(np.float64)
        return _ratio(hit, true)

    def accuracy(self) -> float:
        """Fraction of the counted pixels that are right, background included."""
        total = int(self.counts.sum())
        return float(np.diag(self.counts).sum() / total) if total else float("nan")


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate_segmentation` found."""

    iou: dict[str, float]  # by class; classes that are neither there nor predicted have none
    recall: dict[str, float]
    miou: float
    accuracy: float
    views: int
    left_out: dict[str, str] = field(default_factory=dict)  # class: why

    def as_json(self) -> dict[str, object]:
        return {
            "iou": {name: round(value, 6) for name, value in self.iou.items()},
            "miou": round(self.miou, 6),
            "accuracy": round(self.accuracy, 6),
            "views": self.views,
            "left_out": self.left_out,
        }

    def table(self) -> str:
        width = max([len(name) for name in self.iou] + [5])
        lines = [f"{'class':<{width}}  {'IoU':>6}  {'recall':>6}"]
        lines += [f"{k:<{width}}  {v:>6.3f}  {self.recall.get(k, float('nan')):>6.3f}" for k, v in self.iou.items()]
        lines.append(f"{'mean':<{width}}  {self.miou:>6.3f}   accuracy {self.accuracy:.3f}, {self.views} views")
        lines += [f"left out: {name} ({why})" for name, why in self.left_out.items()]
        return "\n".join(lines)


def evaluate_segmentation(
    segmenter: Segmenter,
    stream: Stream,
    masks: Labelled,
    labels: Mapping[int, str],
    *,
    prompts: Mapping[str, str] | None = None,
    threshold: float | None = None,
    views: Sequence[str] | None = None,
    splat_from_map: Sim3 | None = None,
    backend: rasterizer.BackendChoice = "auto",
    ranks: Ranks | None = None,
) -> Evaluation:
    """Compare masks predicted on rendered views (Eq. 7) with label images, view by view.

    Args:
        prompts: text to ask for a class by, where it isn't the class's name.
        views: frames to evaluate; by default all that have a mask.
        splat_from_map: the stream's alignment; the field's by default.
        ranks: evaluate this process's part of the views; all processes get the result of all.

    Raises:
        DistributedError: another process ended.
        EvaluationError: no frame has a mask, an unknown class or view is named, or sizes don't fit.
    """
    asked, left_out = known_classes(segmenter, labels, prompts or {})
    names = evaluated_views(stream, masks, views)
    alignment = splat_from_map or segmenter.field.provenance.splat_from_map
    values = list(asked)
    question = TextPrompts.of(segmenter.extractor.text_rule, [asked[value] for value in asked], threshold=threshold)
    confusion = Confusion(len(values) + 1)
    ranks = ranks or Ranks()
    for frame in stream.frames(ranks.shard.of(names)):
        true = relabelled(true_labels(frame, masks), values)
        view = rasterizer.view(
            segmenter.gaussians,
            replace(frame.camera, distortion=None),
            alignment.camera_from_splat(frame.camera_from_world),
            backend,
        )
        similarities, _ = segment_view(segmenter, view, question.texts)
        confusion.add(mask_labels(similarities, question.threshold, len(values)).numpy(), true)
    confusion.counts = ranks.total(confusion.counts)
    return summary(confusion, [labels[value] for value in values], len(names), left_out)


def known_classes(
    segmenter: Segmenter, labels: Mapping[int, str], prompts: Mapping[str, str]
) -> tuple[dict[int, str], dict[str, str]]:
    """Text to ask each class by, and the classes that the extractor has no word for, with the reason.

    Raises:
        EvaluationError: a prompt is for a class that isn't there, or no class can be asked for.
    """
    unknown = set(prompts) - set(labels.values())
    if unknown:
        raise EvaluationError(
            f"prompt for unknown class {', '.join(sorted(unknown))}; classes: {', '.join(labels.values())}",
            code="evaluation.unknown",
        )
    asked, left_out = {}, {}
    for value, name in labels.items():
        if value in (BACKGROUND, IGNORE):
            continue
        text = prompts.get(name, name)
        try:
            segmenter.extractor.embed([text])
            asked[value] = text
        except UnknownPromptError as error:
            left_out[name] = str(error)
    if not asked:
        raise EvaluationError(
            f"the extractor knows none of the classes {', '.join(labels.values())}; give --prompt CLASS=TEXT",
            code="evaluation.unknown",
        )
    return asked, left_out


def evaluated_views(stream: Stream, masks: Labelled, views: Sequence[str] | None) -> list[str]:
    """Frames of the stream that have a mask, or the named ones.

    Raises:
        EvaluationError: there is none, or a named one has no mask or no frame.
    """
    frames, with_mask = stream.names(), set(masks.names())
    both = [name for name in frames if name in with_mask]
    if not both:
        raise EvaluationError(
            f"no mask in '{masks.folder}' ({', '.join(masks.names()[:5])} …) has the name of a frame of "
            f"'{stream.source}' ({', '.join(frames[:5])} …)",
            code="evaluation.missing",
        )
    if views is None:
        return both
    missing = [name for name in views if name not in both]
    if missing:
        raise EvaluationError(
            f"no frame with a mask is called {', '.join(missing)}; there are {', '.join(both)}",
            code="evaluation.missing",
        )
    return list(dict.fromkeys(views))  # one that is named twice is evaluated once


def true_labels(frame: Frame, masks: Labelled) -> Labels:
    """A frame's mask as the rectified camera sees it; 255 outside the source image."""
    mask = masks.load(frame.name, frame.camera)
    return rectified_labels(mask, frame.camera, outside=IGNORE)


def relabelled(labels: Labels, values: Sequence[int]) -> Labels:
    """Label 1 + k where it was values[k], 255 where it was 255, else background."""
    table = np.zeros(65536, np.int64)
    table[IGNORE] = IGNORE
    for index, value in enumerate(values):
        table[value] = index + 1
    return table[labels.astype(np.int64)]


def summary(confusion: Confusion, names: Sequence[str], views: int, left_out: Mapping[str, str]) -> Evaluation:
    """IoU and recall by name; `names` are classes 1, 2, … of the matrix."""
    iou, recall = confusion.iou()[1:], confusion.recall()[1:]
    kept = {name: float(value) for name, value in zip(names, iou, strict=True) if np.isfinite(value)}
    return Evaluation(
        iou=kept,
        recall={name: float(value) for name, value in zip(names, recall, strict=True) if np.isfinite(value)},
        miou=float(np.mean(list(kept.values()))) if kept else float("nan"),
        accuracy=confusion.accuracy(),
        views=views,
        left_out=dict(left_out),
    )


def boundary_iou(predicted: NDArray[np.bool_], true: NDArray[np.bool_], dilation_ratio: float = 0.02) -> float:
    """Boundary IoU of Cheng et al. (2021): IoU of the inner bands along both masks' outlines.

    Args:
        dilation_ratio: the band's width as a fraction of the image's diagonal.
    """
    height, width = true.shape
    distance = max(1, round(dilation_ratio * float(np.hypot(height, width))))
    bands = []
    for mask in (predicted, true):
        padded = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
        eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=distance)[1:-1, 1:-1]
        bands.append(mask & ~eroded.astype(bool))
    union = int((bands[0] | bands[1]).sum())
    return float((bands[0] & bands[1]).sum() / union) if union else float("nan")


def psnr(rendered: torch.Tensor, image: torch.Tensor, valid: torch.Tensor | None = None) -> float:
    """Peak signal-to-noise ratio in dB of colours [H, W, 3] in 0..1, over the pixels that count; NaN where none does.

    Args:
        valid: [H, W] bool, the pixels that count; all by default.
    """
    squares = (rendered.clamp(0, 1) - image) ** 2
    error = float((squares if valid is None else squares[valid]).mean())
    return float("inf") if error == 0 else -10 * float(np.log10(error))


def _ratio(hits: NDArray[np.float64], total: NDArray[np.float64]) -> NDArray[np.float64]:
    """hits / total, NaN where the total is 0."""
    ratio = np.full(len(hits), np.nan)
    np.divide(hits, total, out=ratio, where=total > 0)
    return ratio
