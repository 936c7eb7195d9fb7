"""Association of masks between views: who speaks for a Gaussian, overlaps and merges, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from feature_gs_ros import rasterizer
from feature_gs_ros.core.camera import Camera
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.identity.association import (
    CLEAR,
    MERGE_THRESHOLD,
    Node,
    memberships_of,
    merged_nodes,
    pairwise_overlaps,
)
from feature_gs_ros.identity.encoding import IGNORE, Annotation

A, B, C = (0, 1), (1, 1), (2, 1)  # a mask of each of three views
Evidence = dict[tuple[Node, Node], tuple[float, float]]


@pytest.mark.parametrize("ignored", [False, True])
def test_a_mask_speaks_for_a_gaussian_that_lies_in_it_by_three_quarters(ignored: bool) -> None:
    """One wide Gaussian, cut by a mask's edge at every column; ignored pixels on the other side don't count."""
    gaussians = GaussianMap.from_tensors(
        torch.tensor([[0.0, 0, 2]]), torch.tensor([[1.0, 0, 0, 0]]), torch.full((1, 3), 0.2), torch.tensor([0.9]),
        torch.zeros(1, 1, 3),
    )  # fmt: skip
    view = rasterizer.view(gaussians, Camera(40, 30, 50.0, 50.0, 20.0, 15.0), np.eye(4))
    weights = view.render(torch.ones(1, 1))[:, :, 0].double().sum(dim=0)  # of each column
    told = []
    for edge in range(10, 31):
        labels = np.full((30, 40), IGNORE if ignored else 0, np.uint16)
        labels[:, :edge] = 7
        rows, total, index = memberships_of(Annotation("0", view, labels), [3, 7])
        assert rows.tolist() == [0]
        inside = float(weights[:edge].sum())
        assert float(total[0]) == pytest.approx(inside if ignored else float(weights.sum()), rel=1e-3)
        assert index.tolist() == [1 if ignored or inside > CLEAR * float(weights.sum()) else -1]
        told.append(int(index[0]))
    assert set(told) == ({1} if ignored else {-1, 1})


def test_overlap_is_of_what_both_views_see_by_the_smaller_weight() -> None:
    """Views with masks 4 and 7, and 5 and 6; rows, weights and the index of each row's mask, −1 for none."""
    first = np.array([0, 1, 2, 3, 4]), np.array([10, 10, 10, 10, 3], np.float32), np.array([0, 0, 1, -1, 0])
    second = np.array([1, 2, 3, 4, 9]), np.array([8, 20, 6, 2, 5], np.float32), np.array([0, 0, 0, 1, 0])
    # Row 1: 8 of 4 and 5; row 2: 10 of 7 and 5; row 3: 6 of none and 5; row 4: 2 of 4 and 6, too little to count.
    assert pairwise_overlaps([first, second], [[4, 7], [5, 6]]) == {
        ((0, 4), (1, 5)): (8.0, 8.0 + 2 + 10 + 6),
        ((0, 7), (1, 5)): (10.0, 10.0 + 8 + 6),
    }


@pytest.mark.parametrize(
    ("overlaps", "clusters"),
    [
        ({(A, B): (5.0, 6.0)}, [[A, B], [C]]),  # 5 of 6 and the 40 in doubt: 0.109
        ({(A, B): (4.2, 5.0)}, [[A], [B], [C]]),  # 0.093: a sliver
        # C has 0.09 of either, and 18 of 120 and 40 of both together: 0.1125
        ({(A, B): (100.0, 100.0), (A, C): (9.0, 60.0), (B, C): (9.0, 60.0)}, [[A, B, C]]),
        # C has 0.143 of B, but 24 of 400 and 40 of both together
        ({(A, B): (100.0, 100.0), (A, C): (4.0, 300.0), (B, C): (20.0, 100.0)}, [[A, B], [C]]),
    ],
)
def test_clusters_merge_by_the_evidence_of_all_their_masks(overlaps: Evidence, clusters: list[list[Node]]) -> None:
    found, contested = merged_nodes([A, B, C], overlaps, MERGE_THRESHOLD)
    assert sorted(sorted(members) for members in found) == clusters
    assert contested == 0


def test_of_two_masks_of_a_view_the_one_of_most_overlap_merges() -> None:
    other = (0, 2)  # beside A in the first view
    found, contested = merged_nodes([A, other, B], {(A, B): (60.0, 100.0), (other, B): (70.0, 100.0)}, MERGE_THRESHOLD)
    assert sorted(sorted(members) for members in found) == [[A], [other, B]]
    assert contested == 1
