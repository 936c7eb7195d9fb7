"""The parts of the public protocols against hand-worked cases and second code: scores, polygons, masks, labels."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from feature_gs_ros.core.feature_grid import FeatureGrid, upsample
from feature_gs_ros.evaluation.protocols.lerf_ovs import read_polygons
from feature_gs_ros.evaluation.protocols.prediction import read_mask, resized
from feature_gs_ros.evaluation.protocols.replica import frequent_iou
from feature_gs_ros.evaluation.protocols.scoring import PromptScores, summarised
from tests.errors import raises


def gaussian_grouping(gt: NDArray[np.bool_], dt: NDArray[np.bool_]) -> tuple[float, float]:
    """In plain numpy: a pixel is in the band if the square of 2d + 1 around it leaves the mask."""
    distance = max(1, round(0.02 * float(np.hypot(*gt.shape))))
    bands = []
    for mask in (gt, dt):
        padded = np.pad(mask, distance)
        inner = np.ones_like(mask)
        for dy in range(2 * distance + 1):
            for dx in range(2 * distance + 1):
                inner &= padded[dy : dy + mask.shape[0], dx : dx + mask.shape[1]]
        bands.append(mask & ~inner)
    ratio = (bands[0] & bands[1]).sum() / (bands[0] | bands[1]).sum()
    return float((gt & dt).sum() / (gt | dt).sum()), float(ratio)


def test_scores_are_those_of_a_second_implementation() -> None:
    rng = np.random.default_rng(0)
    scores, by_prompt = PromptScores(), {"a": [], "b": []}  # type: ignore[var-annotated]
    for prompt in ("a", "a", "b"):
        true = cv2.GaussianBlur(rng.random((60, 80)), (0, 0), 5) > 0.5
        predicted = cv2.GaussianBlur(true.astype(np.float64), (0, 0), 2) > 0.55
        scores.add(prompt, predicted, true)
        by_prompt[prompt].append(gaussian_grouping(true, predicted))
    for prompt, pairs in by_prompt.items():
        assert scores.iou()[prompt] == pytest.approx(np.mean([pair[0] for pair in pairs]))
        assert scores.boundary()[prompt] == pytest.approx(np.mean([pair[1] for pair in pairs]))


def test_iou_by_hand() -> None:
    """A 4×4 square against the same moved by one column: 12 of 20 pixels."""
    true, predicted = np.zeros((100, 100), np.bool_), np.zeros((100, 100), np.bool_)
    true[10:14, 10:14], predicted[10:14, 11:15] = True, True
    scores = PromptScores()
    scores.add("x", predicted, true)
    assert scores.iou()["x"] == pytest.approx(12 / 20)
    assert scores.boundary()["x"] == pytest.approx(12 / 20)  # a band of 3 pixels fills the square
    with raises("evaluation.size"):
        scores.add("x", predicted[:5], true)


def test_images_where_a_prompt_is_neither_there_nor_predicted_do_not_count() -> None:
    empty, half = np.zeros((20, 20), np.bool_), np.zeros((20, 20), np.bool_)
    half[:, :10] = True
    scores = PromptScores()
    scores.add("a", half, half)
    scores.add("a", empty, empty)
    scores.add("b", empty, half)
    scores.add("c", empty, empty)
    result = summarised("p", "s", scores, 4, {}, ["a", "b", "c"])
    assert (result.prompts["a"]["mIoU"], result.prompts["a"]["mBIoU"]) == (1.0, 1.0)
    assert result.prompts["b"]["mIoU"] == 0.0
    assert np.isnan(result.prompts["c"]["mIoU"])
    assert result.metrics["mIoU"] == 0.5


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ([], ("evaluation.value",)),
        ({"imageWidth": 10**6, "imageHeight": 10**6, "shapes": []}, ("evaluation.range",)),
        ({"imageWidth": 8, "imageHeight": 8, "shapes": []}, ("evaluation.empty",)),
        (
            {"imageWidth": 8, "imageHeight": 8, "shapes": [{"label": "a", "points": [[0, 0], [1, 1]]}]},
            ("evaluation.value",),
        ),
        (
            {"imageWidth": 8, "imageHeight": 8, "shapes": [{"label": 3, "points": [[0, 0], [1, 1], [2, 0]]}]},
            ("evaluation.value",),
        ),
    ],
)
def test_damaged_polygons(content: object, fault: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "frame_1.json"
    path.write_text(json.dumps(content))
    with raises(*fault):
        read_polygons(path)


def test_polygons_of_one_category_add_up(tmp_path: Path) -> None:
    shapes = [
        {"label": "a", "points": [[0, 0], [2, 0], [2, 2], [0, 2]]},
        {"label": "a", "points": [[5, 5], [7, 5], [7, 7]]},
    ]
    (tmp_path / "f.json").write_text(json.dumps({"imageWidth": 8, "imageHeight": 8, "shapes": shapes}))
    mask = read_polygons(tmp_path / "f.json")["a"]
    assert mask[:3, :3].all()
    assert mask.sum() == 9 + 6


def test_replica_counts_the_seven_most_frequent_labels() -> None:
    """By hand: label 0 has 3 of 5, label 1 has 1 of 4, label 9 has 0 of 1; where two count the last drops."""
    extractor, student = np.array([0, 0, 0, 0, 1, 1, 1]), np.array([0, 0, 0, 1, 1, 0, 9])
    assert frequent_iou(extractor, student, 2) == pytest.approx((3 / 5 + 1 / 4) / 2)
    assert frequent_iou(extractor, student) == pytest.approx((3 / 5 + 1 / 4 + 0) / 3)
    assert frequent_iou(np.array([255, 300]), np.array([255, 300])) == 1.0


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_upsampling_is_the_operators_own(interpolation: str) -> None:
    """Against torch's interpolation for a grid that covers the image."""
    values = torch.rand(5, 7, 3, generator=torch.Generator().manual_seed(2))
    mode = "nearest-exact" if interpolation == "nearest" else interpolation
    expected = torch.nn.functional.interpolate(values.permute(2, 0, 1)[None], size=(48, 64), mode=mode)
    grid = FeatureGrid(values, interpolation=interpolation)  # type: ignore[arg-type]
    torch.testing.assert_close(upsample(grid, 48, 64), expected[0].permute(1, 2, 0), atol=1e-5, rtol=0)


def test_masks_of_other_kinds(tmp_path: Path) -> None:
    path = tmp_path / "m.png"
    cv2.imwrite(str(path), np.array([[0, 128, 129, 255]], np.uint8))
    assert read_mask(path).tolist() == [[False, False, True, True]]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(8) + (2**31 - 1).to_bytes(4, "big") * 2 + bytes(20))
    with raises("evaluation.mask"):
        read_mask(path)
    path.write_bytes(b"")
    with raises("evaluation.mask"):
        read_mask(path)
    with raises("evaluation.mask"):
        read_mask(tmp_path / "none.png")
    small = np.array([[True, False], [False, True]])
    assert (resized(small, (4, 4)) == np.kron(small, np.ones((2, 2), np.bool_))).all()
