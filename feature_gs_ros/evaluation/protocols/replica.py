"""Replica as Feature 3DGS uses it: labels from rendered features against labels from the teacher on the image.

Every 8th frame from the third on is a test view. A view's IoU is the mean over the seven labels that cover most of its
pixels in both maps together; its accuracy is the fraction of equal pixels; both are averaged over the views.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from feature_gs_ros import rasterizer
from feature_gs_ros.backprojection.ingest import extract
from feature_gs_ros.core.camera import Frame, rectified, rectified_labels
from feature_gs_ros.core.errors import EvaluationError
from feature_gs_ros.core.feature_grid import upsample
from feature_gs_ros.evaluation.metrics import IGNORE, Confusion
from feature_gs_ros.evaluation.protocols.prediction import known_prompts, predict, scene_stream
from feature_gs_ros.evaluation.protocols.scoring import ProtocolResult
from feature_gs_ros.io.masks import MaskFolder
from feature_gs_ros.io.streams.registry import Stream
from feature_gs_ros.query.masks_3d import Segmenter

FIRST_TEST, TEST_EVERY = 2, 8
LABELS_COUNTED = 7
MERGED = {"television": "door", "rug": "floor", "pillow": "cushion"}  # by their script, before counting

Labels = NDArray[np.int64]


def evaluate_replica(
    segmenter: Segmenter,
    folder: str | Path,
    classes: Mapping[int, str],
    *,
    truth: MaskFolder | None = None,
    stream: Stream | None = None,
    backend: rasterizer.BackendChoice = "auto",
) -> ProtocolResult:
    """Score one scene.

    Args:
        folder: with the scene's images and cameras.
        classes: the prompts by label value; a pixel goes to the likeliest.
        truth: label images by frame name instead of the teacher's answers, with the classes' values.
        stream: where the cameras are; the folder's own by default.

    Raises:
        EvaluationError: fewer than three frames, or no class that the teacher knows.
    """
    folder = Path(folder)
    stream = stream or scene_stream(folder)
    skipped: dict[str, str] = {}
    names = replica_tests(stream)
    if not names:
        raise EvaluationError(
            f"'{stream.source}' has {len(stream.names())} frames; the third is the first test view",
            code="evaluation.too-few",
        )
    asked = known_prompts(segmenter, [classes[value] for value in sorted(classes)], skipped)
    if not asked:
        raise EvaluationError(
            f"the teacher knows none of the classes {', '.join(classes.values())}", code="evaluation.unknown"
        )
    index = {name: position for position, name in enumerate(asked)}
    merged = np.array([index.get(MERGED.get(name, name), index[name]) for name in asked])
    ious, accuracies = [], []
    for frame in stream.frames(names):
        student = merged[predict(segmenter, frame, asked, backend).similarities.argmax(dim=2).numpy()]
        try:
            if truth is None:
                labels, counted = teacher_labels(segmenter, frame, asked)
                teacher = merged[labels]
            else:
                teacher, counted = _true_labels(truth, frame, classes, index, merged)
        except EvaluationError as error:
            skipped[frame.name] = str(error)
            continue
        ious.append(frequent_iou(teacher[counted], student[counted]))
        accuracies.append(float((teacher[counted] == student[counted]).mean()))
    if not ious:
        raise EvaluationError(f"no test view of '{folder}' could be evaluated: {skipped}", code="evaluation.empty")
    metrics = {"mIoU": float(np.mean(ious)), "accuracy": float(np.mean(accuracies))}
    return ProtocolResult("Replica", folder.name, metrics, {}, len(ious), len(classes), len(asked), skipped)


def replica_tests(stream: Stream) -> list[str]:
    """The test views: every 8th frame from the third on."""
    return sorted(stream.names())[FIRST_TEST::TEST_EVERY]


def frequent_iou(teacher: Labels, student: Labels, labels: int = LABELS_COUNTED) -> float:
    """Mean IoU over the labels that are most frequent in both maps taken together."""
    if teacher.size == 0:
        return float("nan")
    # Compact numbers that leave out 255, which a Confusion ignores.
    found, numbers = np.unique(np.concatenate([teacher.ravel(), student.ravel()]), return_inverse=True)
    numbers = numbers.ravel() + (numbers.ravel() >= IGNORE)
    confusion = Confusion(len(found) + 1)
    confusion.add(numbers[teacher.size :], numbers[: teacher.size])
    frequency = confusion.counts.sum(axis=0) + confusion.counts.sum(axis=1)
    order = np.argsort(-frequency, kind="stable")[:labels]
    return float(np.nanmean(confusion.iou()[order[frequency[order] > 0]]))


def teacher_labels(segmenter: Segmenter, frame: Frame, prompts: Sequence[str]) -> tuple[Labels, NDArray[np.bool_]]:
    """The teacher's own answer on a frame's image, [H, W]: features brought to the pixels, then the best prompt.

    And the pixels that count: those that the lens shows.
    """
    extractor = segmenter.extractor
    image, _, valid = rectified(frame.image, frame.camera)
    features = upsample(extract(extractor, image, frame), image.shape[0], image.shape[1])
    embeddings = extractor.embed(prompts)
    rows = [extractor.scores(row, embeddings, extractor.prepare(row)).argmax(dim=1) for row in features]
    labels: Labels = torch.stack(rows).numpy()
    return labels, valid


def _true_labels(
    truth: MaskFolder, frame: Frame, classes: Mapping[int, str], index: Mapping[str, int], merged: Labels
) -> tuple[Labels, NDArray[np.bool_]]:
    """Label image in the prompts' numbers; and where it counts: pixels of classes that were asked for."""
    labels = rectified_labels(truth.load(frame.name, frame.camera), frame.camera, outside=255).astype(np.int64)
    table = np.full(65536, -1, np.int64)
    for value, name in classes.items():
        if name in index:
            table[value] = merged[index[name]]
    mapped = table[labels]
    return np.maximum(mapped, 0), mapped >= 0
