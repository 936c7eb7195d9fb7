"""From annotated views to a field: every object's code back-projected onto the Gaussians it is made of."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse
import torch
from numpy.typing import NDArray
from torch import Tensor

from feature_gs_ros.backprojection.field import FeatureField, Provenance, expected_features
from feature_gs_ros.backprojection.least_squares import Target, solve_features
from feature_gs_ros.core.errors import IdentityError, OutOfMemoryError
from feature_gs_ros.core.feature_grid import FeatureGrid
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.core.memory import memory_errors
from feature_gs_ros.extractors.codes import IdentityExtractor
from feature_gs_ros.identity.codes import CodeBook
from feature_gs_ros.query.masks_2d import render_similarities
from feature_gs_ros.query.smoothing import GaussianGraph
from feature_gs_ros.rasterizer import View

BACKGROUND = 0
IGNORE = 255
SMOOTHING_RATE = 0.3  # rate of the walk that gives what was hardly seen the code of its like neighbours
ANCHOR = 0.15  # of a Gaussian's unoccluded weight, of the pull towards the smoothed code
ITERATIONS = 4


@dataclass(frozen=True, eq=False)
class Annotation:
    """One annotated view."""

    name: str
    view: View
    labels: NDArray[np.integer]  # [H, W] pixel values; 255 doesn't count


@dataclass(frozen=True)
class ObjectReport:
    """How an object was annotated, and how far the annotations agree."""

    name: str
    views: tuple[str, ...]  # in which it was annotated
    pixels: int
    disagreement: float  # fraction of its Gaussians' weight that annotations give to other classes
    agreement: float  # IoU of the annotations with the field rendered into their views; NaN where it isn't there
    worst_view: str  # that agrees least


@dataclass(frozen=True)
class Encoding:
    """A field of identity codes and what became of the annotations."""

    field: FeatureField
    objects: dict[int, ObjectReport]  # by pixel value, background left out; none where there was no memory for them
    seconds: dict[str, float]
    stopped_by: OutOfMemoryError | None = None  # what ended it early: the codes are those reached before

    def table(self) -> str:
        """Objects with their views, pixels and agreement."""
        width = max([len(entry.name) for entry in self.objects.values()] + [6])
        lines = [f"{'object':<{width}}  {'views':>5}  {'pixels':>9}  {'IoU':>6}  {'disagreeing':>11}  worst view"]
        for entry in self.objects.values():
            lines.append(
                f"{entry.name:<{width}}  {len(entry.views):>5}  {entry.pixels:>9}  {entry.agreement:>6.3f}  "
                f"{entry.disagreement:>11.1%}  {entry.worst_view or '-'}"
            )
        return "\n".join(lines)


def encode_identities(
    gaussians: GaussianMap,
    annotations: Sequence[Annotation],
    names: Mapping[int, str],
    book: CodeBook,
    *,
    refine: bool = True,
    graph: GaussianGraph | None = None,
    provenance: Provenance | None = None,
) -> Encoding:
    """Back-project codes (Eq. 4) and, by default, refine them.

    Eq. 4 leaves two errors. A Gaussian that is barely visible, through or behind an object, gets the object's code in
    full: so codes are first smoothed over neighbours of similar colour (`GaussianGraph.smooth`), each Gaussian weighted
    by its visibility, ``Wᵀ1`` divided by its value without occluders. Gaussians at object borders get mixtures: so the
    codes then minimise ``Σ ‖W f − F‖² + Σ anchor ‖f − smoothed‖²`` over the annotated views. If memory runs
    out during refinement, the codes reached so far are kept.

    Args:
        names: by pixel value, background 0 among them, as many as the book has codes: `class_names` makes them.
        refine: False for Eq. 4 alone: a field that merges with others of the same codes.
        graph: of this map, if there is one already.

    Raises:
        IdentityError: no annotation, a pixel value without a name, or another number of codes than names.
    """
    _check(annotations, names, book)
    seconds: dict[str, float] = {}
    start = time.perf_counter()
    values = sorted(names)
    by_class = scipy.sparse.csr_matrix((len(gaussians), len(book)), dtype=np.float32)  # Σ_v Wᵀ M L
    unoccluded, views = torch.zeros(len(gaussians)), torch.zeros(len(gaussians), dtype=torch.int32)
    for annotation in annotations:
        shown = annotation.view.backproject_labels(_classes(annotation, values), len(book))
        by_class = by_class + shown
        views += torch.from_numpy(np.diff(shown.indptr) > 0).to(torch.int32)
        unoccluded += annotation.view.unoccluded_weight()
    weight = torch.from_numpy(np.asarray(by_class.sum(axis=1), np.float32)[:, 0])
    codes = expected_features(torch.from_numpy(by_class @ book.codes.numpy()), weight)
    seconds["back-projection"] = time.perf_counter() - start
    stopped_by = None
    if refine:
        try:
            with memory_errors():
                start = time.perf_counter()
                graph = graph or GaussianGraph.of(gaussians)
                trust = (weight / unoccluded.clamp_min(1e-6)).clamp(0.0, 1.0)
                codes = graph.smooth(codes, SMOOTHING_RATE, views > 0, trust)
                seconds["spreading"] = time.perf_counter() - start
                start = time.perf_counter()
                targets = [_target(annotation, values, book) for annotation in annotations]
                solved = solve_features(targets, codes, ANCHOR * unoccluded, iterations=ITERATIONS)
                codes, stopped_by = solved.features, solved.stopped_by
                seconds["solving"] = time.perf_counter() - start
        except OutOfMemoryError as error:
            stopped_by = error
    extractor = IdentityExtractor({str(value): names[value] for value in values}, book.kind, book.dimension)
    provenance = provenance or Provenance(gaussians.checksum, map_notes=gaussians.notes)
    result = FeatureField(
        codes,
        weight,
        views,
        extractor.identity,
        replace(provenance, frames=tuple(annotation.name for annotation in annotations)),
        book.codec(),
    )
    start, objects = time.perf_counter(), {}
    try:
        with memory_errors():
            objects = _reports(result, extractor, annotations, values)
    except OutOfMemoryError as error:
        stopped_by = error
    seconds["report"] = time.perf_counter() - start
    return Encoding(result, objects, seconds, stopped_by)


def class_names(labels: Mapping[int, str]) -> dict[int, str]:
    """Names by pixel value with background 0 among them, 255 left out.

    Raises:
        IdentityError: no object is named.
    """
    names = {value: name for value, name in sorted(labels.items()) if value != IGNORE}
    names.setdefault(BACKGROUND, "background")
    if len(names) < 2:
        raise IdentityError(
            "no object is named beside background 0; name the pixel values of the masks", code="identity.missing"
        )
    return dict(sorted(names.items()))


def numbered_names(annotations: Iterable[NDArray[np.integer]]) -> dict[int, str]:
    """Names ``object 1``, … for all pixel values of label images that nobody named."""
    found: set[int] = set()
    for labels in annotations:
        found.update(int(value) for value in np.unique(labels))
    return class_names({value: f"object {value}" for value in sorted(found - {BACKGROUND, IGNORE})})


def _check(annotations: Sequence[Annotation], names: Mapping[int, str], book: CodeBook) -> None:
    if not annotations:
        raise IdentityError("no annotated view is left to take identities from", code="identity.empty")
    if len(names) != len(book):
        raise IdentityError(
            f"{len(book)} codes don't fit {len(names)} classes (background counts as one)", code="identity.shape"
        )
    for annotation in annotations:
        unknown = unnamed_values(annotation.labels, names)
        if unknown:
            raise IdentityError(
                f"the mask of '{annotation.name}' holds {', '.join(map(str, unknown[:5]))}, which has no name; "
                f"named are {', '.join(map(str, sorted(names)))}",
                code="identity.label",
            )


def unnamed_values(labels: NDArray[np.integer], names: Mapping[int, str]) -> list[int]:
    """Pixel values of a label image that have no name, 255 left out."""
    return sorted({int(value) for value in np.unique(labels)} - set(names) - {IGNORE})


def _classes(annotation: Annotation, values: Sequence[int]) -> NDArray[np.int32]:
    """A class [H, W] for each pixel, −1 where it doesn't count."""
    channel = np.full(65536, -1, np.int32)
    channel[list(values)] = np.arange(len(values))
    classes = channel[annotation.labels.astype(np.int64)]
    classes[annotation.labels == IGNORE] = -1
    return classes


def _target(annotation: Annotation, values: Sequence[int], book: CodeBook) -> Target:
    classes = torch.from_numpy(_classes(annotation, values)).long()
    valid = classes >= 0
    image = book.codes[classes.clamp_min(0)]  # [H, W, d]
    return Target(annotation.view, FeatureGrid(image, interpolation="nearest"), None if valid.all() else valid)


def _reports(
    result: FeatureField, extractor: IdentityExtractor, annotations: Sequence[Annotation], values: Sequence[int]
) -> dict[int, ObjectReport]:
    own = class_indices(result, extractor)
    count = len(values)
    pixels, overlap, union = (np.zeros((len(annotations), count), np.int64) for _ in range(3))
    total, right = np.zeros(count), np.zeros(count)
    for row, annotation in enumerate(annotations):
        labels = _classes(annotation, values)
        predicted = rendered_classes(result, extractor, annotation.view).numpy()
        counted = labels >= 0
        table = np.bincount(labels[counted] * count + predicted[counted], minlength=count**2).reshape(count, count)
        pixels[row], overlap[row] = table.sum(axis=1), np.diag(table)
        union[row] = table.sum(axis=0) + table.sum(axis=1) - np.diag(table)
        annotated, agreeing = _annotated_weight(annotation.view, own.numpy(), labels, count)
        total += annotated
        right += agreeing
    reports = {}
    for index, value in enumerate(values):
        if value == BACKGROUND:
            continue
        shown = [row for row in range(len(annotations)) if pixels[row, index]]
        iou = {row: overlap[row, index] / max(union[row, index], 1) for row in shown}
        reports[value] = ObjectReport(
            extractor.names[value],
            tuple(annotations[row].name for row in shown),
            int(pixels[:, index].sum()),
            float(1.0 - right[index] / total[index]) if total[index] > 0 else float("nan"),
            float(overlap[:, index].sum() / union[:, index].sum()) if union[:, index].any() else float("nan"),
            annotations[min(iou, key=lambda row: iou[row])].name if iou else "",
        )
    return reports


def _annotated_weight(
    view: View,
    own: NDArray[np.int64],  # [N] class of each Gaussian
    labels: NDArray[np.int32],  # [H, W] annotated class, -1 where a pixel doesn't count
    count: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weight [classes] of each class's Gaussians in the pixels that count, and in those annotated as that class."""
    entries = view.backproject_labels(labels, count).tocoo()
    annotated, right = np.zeros(count), np.zeros(count)
    np.add.at(annotated, own[entries.row], entries.data)
    agreeing = own[entries.row] == entries.col
    np.add.at(right, entries.col[agreeing], entries.data[agreeing])
    return annotated, right


def class_indices(result: FeatureField, extractor: IdentityExtractor) -> Tensor:
    """Channel [N] of each Gaussian's likeliest class, int64."""
    chunks = [
        extractor.fractions(result.decoded(rows)).argmax(dim=1)
        for rows in torch.split(torch.arange(len(result)), 16384)
    ]
    return torch.cat(chunks)


def rendered_classes(result: FeatureField, extractor: IdentityExtractor, view: View) -> Tensor:
    """Channel [H, W] of each pixel's class: the classifier on rendered codes; background where nothing was seen."""
    rendered, _ = render_similarities(view, result.stored(), result.seen)
    height, width, _ = rendered.shape
    background = extractor.values.index(BACKGROUND)
    chunks = []
    for band in torch.split(rendered.reshape(height * width, -1), 65536):
        decoded = result.codec.decode(band) if result.codec else band
        fractions = extractor.fractions(decoded)
        chunks.append(torch.where(fractions.sum(dim=1) > 0, fractions.argmax(dim=1), background))
    return torch.cat(chunks).reshape(height, width)
