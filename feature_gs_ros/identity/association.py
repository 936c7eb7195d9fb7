"""Instance masks whose ids don't agree between views: which of them are the same object, by back-projected overlap."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feature_gs_ros.core.errors import IdentityError
from feature_gs_ros.identity.encoding import BACKGROUND, IGNORE, Annotation
from feature_gs_ros.io.mask_shapes import mask_numbers

MERGE_THRESHOLD = 0.1  # overlap from which on two masks are one object: a false join is worse than a lost sliver
CLEAR = 0.75  # fraction of its weight in a view that a Gaussian must have in one mask to speak for it
DOUBT = 40.0  # pixels of weight that are added to the union: slivers, whose overlap is chance, merge last or not
MIN_WEIGHT = 4.0  # pixels of weight that two masks must share: a few shared pixels are chance

Node = tuple[int, int]  # (view, value in that view's label image)


@dataclass(frozen=True, eq=False)
class Association:
    """Which masks are one object."""

    annotations: tuple[Annotation, ...]  # relabelled: the same value is the same object in every view
    objects: dict[int, tuple[Node, ...]]  # masks of each object, by its new value from 1; largest first
    masks: int
    single: tuple[Node, ...]  # masks that no other view confirms: objects of one view only
    contested: int  # merges refused as both sides hold a mask of the same view

    def message(self) -> str:
        """For a person."""
        return (
            f"{self.masks} masks in {len(self.annotations)} views are {len(self.objects)} objects; "
            f"{len(self.single)} masks are of one view only, {self.contested} merges were refused for holding two "
            "masks of one view"
        )


def associate(annotations: Sequence[Annotation], threshold: float = MERGE_THRESHOLD) -> Association:
    """Cluster the masks of all views into objects, each of at most one mask a view.

    Two masks overlap in the Gaussians that both of their views see: each view gives a Gaussian to the mask that holds
    most of its weight there, and it counts with the smaller of its two weights. What one view can't see of an object
    so counts neither for nor against. Clusters merge in the order of their overlap, the shared weight over that of the
    union and `DOUBT`, both summed over the pairs of views.

    Args:
        annotations: pixel value 0 is not an instance, 255 doesn't count.
        threshold: of the overlap, in (0, 1].

    Raises:
        IdentityError: no mask, or a threshold out of range.
    """
    if not 0 < threshold <= 1:
        raise IdentityError(
            f"the merge threshold {threshold} is not in (0, 1]; the default is {MERGE_THRESHOLD}", code="identity.range"
        )
    values = [
        [int(value) for value in np.unique(annotation.labels) if value not in (BACKGROUND, IGNORE)]
        for annotation in annotations
    ]
    nodes = [(row, value) for row, found in enumerate(values) for value in found]
    if not nodes:
        raise IdentityError("no view holds an instance mask; there is nothing to associate", code="identity.empty")
    memberships = [memberships_of(annotation, found) for annotation, found in zip(annotations, values, strict=True)]
    overlaps = pairwise_overlaps(memberships, values)
    clusters, contested = merged_nodes(nodes, overlaps, threshold)
    areas = {
        (row, int(value)): int(count)
        for row, annotation in enumerate(annotations)
        for value, count in zip(*np.unique(annotation.labels, return_counts=True), strict=True)
    }
    clusters.sort(key=lambda members: -sum(areas[node] for node in members))
    objects = {number: tuple(sorted(members)) for number, members in zip(mask_numbers(), clusters, strict=False)}
    return Association(
        _relabelled(annotations, objects),
        objects,
        len(nodes),
        tuple(members[0] for members in objects.values() if len(members) == 1),
        contested,
    )


def memberships_of(
    annotation: Annotation, values: Sequence[int]
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """Rows of Gaussians that one mask (or no mask) holds clearly, their weight, and that mask's index; −1 is none."""
    channel = np.zeros(65536, np.int32)  # 0 is not a mask
    channel[list(values)] = np.arange(1, len(values) + 1)
    channel[IGNORE] = -1
    weights = annotation.view.backproject_labels(channel[annotation.labels.astype(np.int64)], len(values) + 1)
    total = np.asarray(weights.sum(axis=1))[:, 0]
    entries = weights.tocoo()
    order = np.lexsort((entries.data, entries.row))  # a row's heaviest label comes last
    order = order[entries.col[order] > 0]
    best, index = np.zeros(len(total), np.float32), np.full(len(total), -1)
    best[entries.row[order]], index[entries.row[order]] = entries.data[order], entries.col[order] - 1
    index[best <= CLEAR * total] = -1
    rows = np.flatnonzero(total > 0)
    return rows, total[rows], index[rows]


def pairwise_overlaps(
    memberships: Sequence[tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]],
    values: Sequence[Sequence[int]],
) -> dict[tuple[Node, Node], tuple[float, float]]:
    """Shared weight and weight of the union, over what both views see, of all pairs of masks that share any."""
    found: dict[tuple[Node, Node], tuple[float, float]] = {}
    for a in range(len(memberships)):
        for b in range(a + 1, len(memberships)):
            common, at_a, at_b = np.intersect1d(
                memberships[a][0], memberships[b][0], assume_unique=True, return_indices=True
            )
            if not len(common):
                continue
            weight = np.minimum(memberships[a][1][at_a], memberships[b][1][at_b]).astype(np.float64)
            rows, columns = len(values[a]) + 1, len(values[b]) + 1
            pairs = (memberships[a][2][at_a] + 1) * columns + memberships[b][2][at_b] + 1
            table = np.bincount(pairs, weight, minlength=rows * columns).reshape(rows, columns)
            by_a, by_b = table.sum(axis=1), table.sum(axis=0)
            for i, j in zip(*np.nonzero(table[1:, 1:]), strict=True):
                shared = float(table[i + 1, j + 1])
                if shared >= MIN_WEIGHT:
                    nodes = ((a, values[a][i]), (b, values[b][j]))
                    found[nodes] = (shared, float(by_a[i + 1] + by_b[j + 1]) - shared)
    return found


def merged_nodes(
    nodes: Sequence[Node], overlaps: dict[tuple[Node, Node], tuple[float, float]], threshold: float
) -> tuple[list[list[Node]], int]:
    """Agglomerative clustering by summed overlap; clusters that share a view never merge."""
    number = {node: index for index, node in enumerate(nodes)}
    members: dict[int, list[Node]] = {index: [node] for node, index in number.items()}
    links: dict[int, dict[int, tuple[float, float]]] = defaultdict(dict)
    for (a, b), evidence in overlaps.items():
        links[number[a]][number[b]] = links[number[b]][number[a]] = evidence
    heap = [
        (-s / (u + DOUBT), min(i, j), max(i, j), s, u)
        for i, near in links.items()
        for j, (s, u) in near.items()
        if i < j
    ]
    heapq.heapify(heap)
    contested, following = 0, len(nodes)
    while heap:
        negative, i, j, shared, union = heapq.heappop(heap)
        if -negative < threshold:
            break
        if i not in members or j not in members or links[i].get(j) != (shared, union):
            continue  # merged, or grown, since this was put on the heap
        if {view for view, _ in members[i]} & {view for view, _ in members[j]}:
            contested += 1
            continue
        members[following] = members.pop(i) + members.pop(j)
        near: dict[int, tuple[float, float]] = {}
        for old in (i, j):
            for other, (s, u) in links.pop(old).items():
                if other in (i, j):
                    continue
                links[other].pop(old)
                before = near.get(other, (0.0, 0.0))
                near[other] = (before[0] + s, before[1] + u)
        for other, (s, u) in near.items():
            links[other][following] = (s, u)
            heapq.heappush(heap, (-s / (u + DOUBT), min(other, following), max(other, following), s, u))
        links[following] = near
        following += 1
    return list(members.values()), contested


def _relabelled(annotations: Sequence[Annotation], objects: dict[int, tuple[Node, ...]]) -> tuple[Annotation, ...]:
    tables: list[Tensor] = [torch.zeros(65536, dtype=torch.int64) for _ in annotations]
    for number, members in objects.items():
        for row, value in members:
            tables[row][value] = number
    result = []
    for annotation, table in zip(annotations, tables, strict=True):
        table[IGNORE] = IGNORE
        labels = table[torch.from_numpy(annotation.labels.astype(np.int64))].numpy().astype(np.uint16)
        result.append(Annotation(annotation.name, annotation.view, labels))
    return tuple(result)
