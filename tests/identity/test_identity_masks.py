"""Masks as files: run lengths by hand, COCO's and SAM's layouts, numbers that no mask may have."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from feature_gs_ros.core.camera import Camera
from feature_gs_ros.identity.masks import SamMasks, open_masks
from feature_gs_ros.io.mask_shapes import decode_rle
from tests.errors import raises
from tests.memory_use import peak_megabytes

CAMERA = Camera(120, 90, 110.0, 110.0, 60.0, 45.0)


def test_rle_by_hand_and_back() -> None:
    """COCO's columns first; its string form worked by hand."""
    mask = np.array([[0, 1, 1], [0, 1, 0]], np.bool_)
    assert (decode_rle([2, 3, 1], (2, 3), "here") == mask).all()
    assert (decode_rle("231", (2, 3), "here") == mask).all()
    # 40, 2, 57, 1: 40 is 01000 with more and 1, 57 is 11001 with more and 1, the fourth run is 1 − 2 = −1: 11111.
    expected = np.zeros(100, np.bool_)
    expected[[40, 41, 99]] = True
    assert (decode_rle("X12i1O", (10, 10), "here") == expected.reshape(10, 10).T).all()
    for counts in ([2, 3], "2", "23", [-1, 7], "\x01"):
        with raises("evaluation.damaged"):
            decode_rle(counts, (2, 3), "here")


@pytest.mark.parametrize("kind", ["coco", "sam"])
def test_no_mask_is_numbered_as_what_does_not_count(kind: str, tmp_path: Path) -> None:
    """300 masks of a pixel each: all of them are there, and none is 255."""
    masks = [{"segmentation": {"size": [1, 300], "counts": [n, 1, 299 - n]}} for n in range(300)]
    path = tmp_path / "7.json"
    if kind == "coco":
        annotations = [mask | {"image_id": 1, "category_id": 3} for mask in masks]
        image = {"id": 1, "file_name": "7.png", "height": 1, "width": 300}
        path.write_text(json.dumps({"images": [image], "annotations": annotations}))
    else:
        path.write_text(json.dumps(masks))
    labels = open_masks(path if kind == "coco" else tmp_path, instances=True).load("7")
    assert labels.ravel().tolist() == [*range(1, 255), *range(256, 302)]


def test_a_coco_category_that_does_not_count_is_refused(tmp_path: Path) -> None:
    rle = {"size": [2, 3], "counts": [2, 3, 1]}
    content = {
        "images": [{"id": 1, "file_name": "7.png", "height": 2, "width": 3}],
        "annotations": [{"image_id": 1, "category_id": 255, "segmentation": rle}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(content))
    with raises("evaluation.label", "255"):
        open_masks(tmp_path / "coco.json")
    assert open_masks(tmp_path / "coco.json", instances=True).load("7").max() == 1


def test_coco_and_sam_files(tmp_path: Path) -> None:
    rle = {"size": [2, 3], "counts": [2, 3, 1]}
    coco = {
        "images": [{"id": 4, "file_name": "a/12.jpg", "height": 2, "width": 3}],
        "annotations": [
            {"image_id": 4, "category_id": 9, "segmentation": rle},
            {"image_id": 4, "category_id": 3, "segmentation": {"size": [2, 3], "counts": [5, 1]}},
        ],
        "categories": [{"id": 9, "name": "mug"}, {"id": 3, "name": "lid"}],
    }
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(coco))
    masks = open_masks(path)
    assert masks.names() == ["12"]
    assert masks.load("12").tolist() == [[0, 9, 9], [0, 9, 3]]
    assert open_masks(tmp_path, instances=True).load("12").tolist() == [[0, 1, 1], [0, 1, 2]]
    with raises("evaluation.size", "3×2", "120×90"):
        masks.load("12", CAMERA)
    coco["annotations"][0]["segmentation"] = {"size": [2, 3], "counts": "###"}  # type: ignore[index]
    path.write_text(json.dumps(coco))
    with raises("evaluation.damaged"):
        open_masks(path).load("12")
    path.write_text("[]")
    with raises("evaluation.value"):
        open_masks(path)
    folder = tmp_path / "sam"
    folder.mkdir()
    (folder / "7.json").write_text(
        json.dumps([{"segmentation": rle}, {"segmentation": {"size": [2, 3], "counts": "5100000"}}])
    )
    with raises("evaluation.damaged"):
        SamMasks(folder).load("7")
    (folder / "7.json").write_text(json.dumps([{"segmentation": rle}]))
    assert open_masks(folder).load("7").tolist() == [[0, 1, 1], [0, 1, 0]]
    with raises("evaluation.empty"):
        open_masks(tmp_path / "empty" if (tmp_path / "empty").mkdir() is None else tmp_path)


@pytest.mark.slow
def test_many_masks_of_one_image_take_the_memory_of_one(tmp_path: Path) -> None:
    """A hundred bytes of run lengths stand for a whole image each."""
    height, width = 1500, 2000
    rle = {"size": [height, width], "counts": [0, height * width]}
    annotation = {"image_id": 1, "category_id": 1, "segmentation": rle}
    image = {"id": 1, "file_name": "7.png", "height": height, "width": width}
    (tmp_path / "coco.json").write_text(json.dumps({"images": [image], "annotations": [annotation] * 100}))
    setup = "from feature_gs_ros.identity.masks import open_masks"
    grown, outcome = peak_megabytes(setup, f"open_masks({str(tmp_path / 'coco.json')!r}).load('7')")
    assert outcome == "done"
    assert grown < 120  # all at once: 300


def test_more_masks_than_can_be_looked_at_are_refused(tmp_path: Path) -> None:
    side = 8000
    masks = [{"segmentation": {"size": [side, side], "counts": [0, side * side]}}] * 300
    (tmp_path / "7.json").write_text(json.dumps(masks))
    with raises("evaluation.range", "300 masks"):
        open_masks(tmp_path).load("7")
