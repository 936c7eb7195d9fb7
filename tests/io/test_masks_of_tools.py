"""Masks as annotation tools write them: LabelMe's JSON, colours by CVAT's table and PASCAL VOC's, a file per object."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from feature_gs_ros.core.camera import Camera
from feature_gs_ros.core.errors import EvaluationError
from feature_gs_ros.identity.masks import open_masks, understood
from feature_gs_ros.io.colour_tables import voc_colours
from feature_gs_ros.io.detections import open_labels
from feature_gs_ros.io.masks import MaskFolder
from feature_gs_ros.pictures import save_png
from tests.errors import raises

CAMERA = Camera(8, 6, 9.0, 9.0, 4.0, 3.0)


def labelme(*shapes: dict[str, object]) -> str:
    return json.dumps({"version": "5.5.0", "imageHeight": 6, "imageWidth": 8, "imagePath": "7.png", "shapes": shapes})


def shape(label: str, kind: str, points: list[list[float]], **more: object) -> dict[str, object]:
    return {"label": label, "shape_type": kind, "points": points, **more}


def test_labelme(tmp_path: Path) -> None:
    crop = cv2.imencode(".png", np.full((2, 2), 255, np.uint8))[1].tobytes()
    (tmp_path / "7.json").write_text(
        labelme(
            shape("mug", "rectangle", [[0, 0], [3, 2]]),
            shape("bowl", "polygon", [[2, 0], [7, 0], [7, 1], [2, 1]]),
            shape("bowl", "circle", [[4, 4], [4, 4.4]]),
            shape("spoon", "mask", [[6, 4], [7, 5]], mask=base64.b64encode(crop).decode()),
            shape("note", "linestrip", [[0, 0], [5, 5]]),
        )
    )
    masks = open_masks(tmp_path)
    assert masks.labels == {0: "background", 1: "bowl", 2: "mug", 3: "spoon"}
    expected = [
        [2, 2, 1, 1, 1, 1, 1, 1],
        [2, 2, 1, 1, 1, 1, 1, 1],
        [2, 2, 2, 2, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 1, 0, 3, 3],
        [0, 0, 0, 0, 0, 0, 3, 3],
    ]
    assert masks.load("7", CAMERA).tolist() == expected
    assert open_masks(tmp_path, instances=True).load("7").max() == 4
    given = open_labels(tmp_path, {5: "spoon"}).load("7")
    assert sorted(np.unique(given)) == [0, 5]


@pytest.mark.parametrize(
    "wrong",
    [
        shape("a", "polygon", [[0, 0], [1, 1]]),
        shape("a", "cuboid", [[0, 0], [1, 1]]),
        shape("a", "circle", [[0, 0], [float("nan"), 1]]),
        shape("a", "mask", [[0, 0], [1, 1]], mask="!"),
        shape("a", "mask", [[0, 0], [1, 1]], mask=base64.b64encode(b"no image").decode()),
        shape("a", "mask", [[1e300, 0], [1, 1]], mask=""),
        shape("a", "polygon", []),
    ],
)
def test_shapes_that_are_none(wrong: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "7.json").write_text(labelme(wrong))
    with pytest.raises(EvaluationError):
        open_masks(tmp_path).load("7", CAMERA)


def test_a_mask_beyond_its_image_is_cut_off(tmp_path: Path) -> None:
    crop = cv2.imencode(".png", np.full((3, 3), 255, np.uint8))[1].tobytes()
    corners = [shape("a", "mask", [[x, y], [x + 2, y + 2]], mask=base64.b64encode(crop).decode())
               for x, y in ((-2, -2), (6, 4), (100, 100), (-9, 0))]  # fmt: skip
    (tmp_path / "7.json").write_text(labelme(*corners))
    labels = open_masks(tmp_path).load("7")
    assert np.argwhere(labels > 0).tolist() == [[0, 0], [4, 6], [4, 7], [5, 6], [5, 7]]


def test_colours_by_cvat_s_table(tmp_path: Path) -> None:
    (tmp_path / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\nmug:10,20,30::\nbowl:9,9,9::\n"
    )
    image = np.zeros((6, 8, 3), np.uint8)
    image[0, 0], image[5, 7] = (10, 20, 30), (9, 9, 9)
    save_png(image, tmp_path / "masks" / "7.png")
    masks = open_masks(tmp_path / "masks")
    assert masks.labels == {0: "background", 1: "mug", 2: "bowl"}
    labels = masks.load("7", CAMERA)
    assert (labels[0, 0], labels[5, 7], int(labels.sum())) == (1, 2, 3)
    assert "1 mug, 2 bowl" in understood(masks)
    image[1, 1] = (1, 2, 3)
    save_png(image, tmp_path / "masks" / "8.png")
    with raises("evaluation.label", "1, 2, 3"):
        MaskFolder(tmp_path / "masks").load("8")


def test_colours_of_pascal_voc(tmp_path: Path) -> None:
    colours = voc_colours()
    assert [tuple(colours[k]) for k in (0, 1, 2, 15, 20, 255)] == [
        (0, 0, 0), (128, 0, 0), (0, 128, 0), (192, 128, 128), (0, 64, 128), (224, 224, 192),
    ]  # fmt: skip
    assert len({tuple(colour) for colour in colours}) == 256
    save_png(colours[np.arange(48).reshape(6, 8)], tmp_path / "7.png")
    assert MaskFolder(tmp_path).load("7").tolist() == np.arange(48).reshape(6, 8).tolist()


@pytest.mark.parametrize("table", ["", "mug 1,2,3", "mug:1,2::", "mug:1,2,300::", "a:1,1,1::\nb:1,1,1::", "a:-1,0,0::"])
def test_tables_that_are_none(table: str, tmp_path: Path) -> None:
    (tmp_path / "labelmap.txt").write_text(table)
    save_png(np.zeros((6, 8, 3), np.uint8), tmp_path / "7.png")
    with pytest.raises(EvaluationError):
        MaskFolder(tmp_path).load("7")


@pytest.mark.parametrize("by_frame", [True, False])
def test_a_file_per_object(by_frame: bool, tmp_path: Path) -> None:
    large, small = np.zeros((6, 8), np.uint8), np.zeros((6, 8), np.uint8)
    large[:3], small[:2, :2] = 255, 1
    for frame in ("7", "8"):
        for name, mask in (("table", large), ("cup", small)):
            inner = tmp_path / (f"{frame}/{name}.png" if by_frame else f"{name}/{frame}.png")
            save_png(mask, inner)
    masks = open_masks(tmp_path, frames=["7", "8", "9"])
    assert masks.names() == ["7", "8"]
    assert masks.labels == {0: "background", 1: "cup", 2: "table"}
    labels = masks.load("8", CAMERA)
    assert labels[0].tolist() == [1, 1, 2, 2, 2, 2, 2, 2]
    assert int((labels == 2).sum()) == 20
    assert open_masks(tmp_path, True, ["7"]).load("7").max() == 2
    assert open_masks(tmp_path, False, ["7"], {9: "table"}).load("7")[2].tolist() == [9] * 8
    with raises("evaluation.missing", "9"):
        masks.load("9")
    with raises("evaluation.size", "640"):
        masks.load("7", Camera(640, 480, 5.0, 5.0, 1.5, 1.0))
