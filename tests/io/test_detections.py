"""A detector's files: names, scores, RLE, polygons and PNGs of ids; as labels, as instances, and as a segmented map."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from feature_gs_ros.core.camera import Camera
from feature_gs_ros.extractors import extractor_of, make_extractor
from feature_gs_ros.identity.masks import open_masks
from feature_gs_ros.io.detections import DetectionMasks, names_objects, open_labels
from feature_gs_ros.io.masks import MaskFolder
from feature_gs_ros.pictures import save_png
from tests.errors import raises

SIZE = (6, 8)


def rle(mask: np.ndarray) -> dict[str, object]:
    """COCO's run lengths, column by column, from zeros on."""
    flat, counts, value = mask.T.ravel().astype(int), [0], 0
    for pixel in flat:
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return {"size": list(mask.shape), "counts": counts}


def box(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[top:bottom, left:right] = True
    return mask


def write(folder: Path, name: str, detections: list[dict[str, object]], **more: object) -> Path:
    (folder / f"{name}.json").write_text(json.dumps({"detections": detections, **more}))
    return folder


def test_classes_are_numbered_by_name_and_the_surer_object_is_on_top(tmp_path: Path) -> None:
    write(
        tmp_path,
        "0",
        [
            {"name": "mug", "score": 0.9, "segmentation": rle(box(0, 0, 4, 4))},
            {"name": "bottle", "score": 0.5, "segmentation": rle(box(2, 2, 8, 6))},
        ],
    )
    write(tmp_path, "1", [{"name": "apple", "segmentation": [[0, 0, 3, 0, 3, 2, 0, 2]]}], size=list(SIZE))
    write(tmp_path, "2", [], size=list(SIZE))  # it was looked at, and nothing is there
    masks = DetectionMasks(tmp_path)
    assert masks.names() == ["0", "1", "2"]
    assert masks.labels == {0: "background", 1: "apple", 2: "bottle", 3: "mug"}
    expected = np.where(box(0, 0, 4, 4), 3, np.where(box(2, 2, 8, 6), 2, 0))
    assert (masks.load("0") == expected).all()
    assert (masks.load("1") == np.where(box(0, 0, 4, 3), 1, 0)).all()
    assert not masks.load("2").any()
    sure = DetectionMasks(tmp_path, min_score=0.6)
    assert "bottle" not in sure.labels.values()
    assert (sure.load("0") == np.where(box(0, 0, 4, 4), 2, 0)).all()


def test_instances_are_numbered_per_image(tmp_path: Path) -> None:
    boxes = [box(0, 0, 2, 2), box(4, 0, 6, 2)]
    write(tmp_path, "0", [{"name": "mug", "segmentation": rle(mask)} for mask in boxes])
    masks = open_masks(tmp_path, instances=True)
    assert (masks.load("0") == boxes[0] + 2 * boxes[1].astype(int)).all()
    by_class = open_masks(tmp_path)
    assert isinstance(by_class, DetectionMasks)
    assert (by_class.load("0") == (boxes[0] | boxes[1])).all()


def test_ids_are_those_of_the_png_beside(tmp_path: Path) -> None:
    save_png((box(0, 0, 3, 3) * 7 + box(5, 3, 8, 6) * 9).astype(np.uint8), tmp_path / "a.png")
    write(tmp_path, "a", [{"name": "mug", "id": 7}, {"name": "pen", "id": 9, "score": 0.4}])
    masks = open_labels(tmp_path)
    assert isinstance(masks, DetectionMasks)
    assert (masks.load("a") == np.where(box(0, 0, 3, 3), 1, np.where(box(5, 3, 8, 6), 2, 0))).all()


def test_grounded_sam_2s_files_are_read_as_they_are(tmp_path: Path) -> None:
    content = {
        "image_path": "x.jpg",
        "annotations": [
            {"class_name": "car", "bbox": [0, 0, 4, 4], "segmentation": rle(box(0, 0, 4, 4)), "score": [0.8]}
        ],
        "box_format": "xyxy",
        "img_width": SIZE[1],
        "img_height": SIZE[0],
    }
    (tmp_path / "x.json").write_text(json.dumps(content))
    assert (DetectionMasks(tmp_path).load("x") == box(0, 0, 4, 4)).all()


def test_what_has_no_names_is_no_detectors_folder(tmp_path: Path) -> None:
    (tmp_path / "0.json").write_text(json.dumps([{"segmentation": rle(box(0, 0, 2, 2))}]))
    assert not names_objects(tmp_path)
    assert not names_objects(tmp_path / "0.json")
    save_png(np.zeros(SIZE, np.uint8), tmp_path / "0.png")
    assert isinstance(open_labels(tmp_path), MaskFolder)


def test_a_detectors_files_are_enough_for_the_extractor_labels(tmp_path: Path) -> None:
    write(tmp_path, "0", [{"name": "mug", "segmentation": rle(box(0, 0, 4, 6))}])
    write(tmp_path, "1", [{"name": "coffee pot", "segmentation": rle(box(4, 0, 8, 6))}])
    extractor = make_extractor("labels", masks=tmp_path)
    assert extractor.known_words() == ("background", "coffee pot", "mug")
    grid = extractor.extract(np.zeros((*SIZE, 3), np.uint8), "0")
    assert (grid.values.argmax(dim=2).numpy() == np.where(box(0, 0, 4, 6), 2, 0)).all()
    features = grid.values.flatten(0, 1).float()
    assert extractor.scores(features, extractor.embed(["mug"]))[:, 0].sum() == 24
    assert extractor_of(extractor.identity).identity == extractor.identity
    # Names of one's own: what is not among them is background.
    (tmp_path / "labels.yaml").write_text("{0: background, 5: mug}")
    chosen = make_extractor("labels", masks=tmp_path, labels=tmp_path / "labels.yaml")
    assert chosen.extract(np.zeros((*SIZE, 3), np.uint8), "1").values[:, :, 0].all()


@pytest.mark.parametrize(
    ("detection", "fault"),
    [
        ({"segmentation": rle(box(0, 0, 2, 2))}, ("evaluation.value",)),
        ({"name": "mug", "score": 2, "segmentation": rle(box(0, 0, 2, 2))}, ("evaluation.value", "2", "0", "1")),
        ({"name": "mug"}, ("evaluation.missing",)),
        ({"name": "mug", "id": -1}, ("evaluation.value",)),
        ({"name": "mug", "segmentation": {"size": list(SIZE), "counts": [1, 2]}}, ("evaluation.damaged",)),
        ({"name": "mug", "segmentation": {"size": [3, 3], "counts": [9]}}, ("evaluation.size",)),
        ({"name": "mug", "id": 1}, ("evaluation.empty",)),
    ],
)
def test_damage_is_named_with_its_file(tmp_path: Path, detection: dict[str, object], fault: tuple[str, ...]) -> None:
    write(tmp_path, "0", [detection], size=list(SIZE))
    with raises(*fault):
        DetectionMasks(tmp_path).load("0")


def test_another_size_than_the_frames_is_named(tmp_path: Path) -> None:
    write(tmp_path, "0", [{"name": "mug", "segmentation": rle(box(0, 0, 2, 2))}])
    with raises("evaluation.size", "8×6", "16×12"):
        DetectionMasks(tmp_path).load("0", Camera(16, 12, 9.0, 9.0, 8.0, 6.0))
    with raises("evaluation.missing"):
        DetectionMasks(tmp_path).load("7")
    (tmp_path / "void").mkdir()
    with raises("evaluation.empty"):
        DetectionMasks(tmp_path / "void")
    write(tmp_path / "void", "0", [{"name": "mug", "segmentation": [[0, 0, 3, 0, 3, 2]]}])
    with raises("evaluation.missing"):
        DetectionMasks(tmp_path / "void").load("0")
