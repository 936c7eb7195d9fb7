"""IoU by hand-worked cases and against scikit-learn's own definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, jaccard_score, recall_score

from feature_gs_ros.evaluation.metrics import Confusion, boundary_iou, psnr, relabelled, summary
from tests.errors import raises


def test_a_hand_worked_case() -> None:
    true = np.array([[0, 1, 1, 255], [2, 2, 0, 255]])
    predicted = np.array([[0, 1, 0, 1], [2, 1, 0, 0]])
    confusion = Confusion(4)
    confusion.add(predicted, true)
    # class 1: TP 1, FP 1, FN 1; class 2: TP 1, FN 1; class 3 is neither there nor predicted
    result = summary(confusion, ["a", "b", "c"], 1, {"d": "no word"})
    assert result.iou == pytest.approx({"a": 1 / 3, "b": 1 / 2})
    assert result.recall == pytest.approx({"a": 1 / 2, "b": 1 / 2})
    assert result.miou == pytest.approx(5 / 12)
    assert result.accuracy == pytest.approx(4 / 6)
    assert result.as_json()["left_out"] == {"d": "no word"}
    assert "left out: d (no word)" in result.table()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), classes=st.integers(2, 6))
def test_like_scikit_learn(seed: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    confusion = Confusion(classes)
    views = [(rng.integers(0, classes, (6, 7)), rng.integers(0, classes, (6, 7))) for _ in range(3)]
    for predicted, true in views:
        confusion.add(predicted, true)
    p = np.concatenate([view[0].ravel() for view in views])
    t = np.concatenate([view[1].ravel() for view in views])
    expected = jaccard_score(t, p, labels=range(classes), average=None)
    assert confusion.iou() == pytest.approx(expected)
    assert confusion.recall() == pytest.approx(recall_score(t, p, labels=range(classes), average=None))
    assert confusion.accuracy() == pytest.approx(accuracy_score(t, p))


def test_left_out_classes_count_as_background() -> None:
    labels = np.array([[0, 3, 7], [255, 5, 3]])
    assert relabelled(labels, [3, 5]).tolist() == [[0, 1, 0], [255, 2, 1]]


def test_what_does_not_fit_is_named() -> None:
    confusion = Confusion(2)
    with raises("evaluation.size"):
        confusion.add(np.zeros((2, 2), int), np.zeros((2, 3), int))
    with raises("evaluation.range"):
        confusion.add(np.zeros((1, 2), int), np.array([[0, 4]]))
    assert confusion.counts.sum() == 0


def test_boundary_iou() -> None:
    square = np.zeros((100, 100), bool)
    square[20:60, 20:60] = True
    assert boundary_iou(square, square) == 1.0
    moved = np.roll(square, 3, axis=1)
    # Bands of 3 px (2% of the 141-px diagonal): two frames of 40² − 34² pixels, shifted by 3.
    band = np.zeros_like(square)
    band[20:60, 20:60] = True
    band[23:57, 23:57] = False
    shifted = np.roll(band, 3, axis=1)
    expected = (band & shifted).sum() / (band | shifted).sum()
    assert boundary_iou(moved, square) == pytest.approx(expected)
    assert np.isnan(boundary_iou(np.zeros((5, 5), bool), np.zeros((5, 5), bool)))


def test_psnr() -> None:
    import torch

    image = torch.zeros(4, 4, 3)
    assert psnr(image, image) == float("inf")
    assert psnr(image + 0.1, image) == pytest.approx(20.0, abs=1e-4)
