"""Label images by frame name, and label files."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from feature_gs_ros.core.camera import Camera
from feature_gs_ros.core.errors import EvaluationError
from feature_gs_ros.io.masks import MaskFolder, load_labels

LABELS = np.array([[0, 1, 2], [255, 7, 6]], np.uint8)
CAMERA = Camera(3, 2, 5.0, 5.0, 1.5, 1.0)


def test_masks_of_both_depths_by_name(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "1700000000500000000.png"), LABELS)
    cv2.imwrite(str(tmp_path / "12.png"), LABELS.astype(np.uint16) * 200)
    (tmp_path / "notes.txt").write_text("not a mask")
    masks = MaskFolder(tmp_path)
    assert masks.names() == ["12", "1700000000500000000"]
    assert (masks.load("1700000000500000000", CAMERA) == LABELS).all()
    deep = masks.load("12")
    assert deep.dtype == np.uint16
    assert (deep == LABELS.astype(np.uint16) * 200).all()


def test_a_mask_that_is_none_is_refused(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "good.png"), LABELS)
    cv2.imwrite(str(tmp_path / "colour.png"), np.zeros((2, 3, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "alpha.png"), np.zeros((2, 3, 4), np.uint8))
    whole = (tmp_path / "good.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[:45])
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "palette.png").write_bytes(whole[:25] + b"\3" + whole[26:])
    size = struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + size + struct.pack(">I", zlib.crc32(b"IHDR" + size))
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk)
    masks = MaskFolder(tmp_path)
    for name, message in {
        "colour": "is a RGB image",
        "alpha": "is a RGBA image",
        "palette": "is a palette image",
        "cut": "ends too early",
        "text": "no PNG",
        "bomb": "2147483647×2147483647",
        "none": "no mask .*none.png'; there are 'alpha', 'bomb'",
    }.items():
        with pytest.raises(EvaluationError, match=message):
            masks.load(name)
    with pytest.raises(EvaluationError, match="is 3×2 pixels, its frame 640×480"):
        masks.load("good", Camera(640, 480, 5.0, 5.0, 1.5, 1.0))
    (tmp_path / "good.png").unlink()
    with pytest.raises(EvaluationError, match="can't read"):
        masks.load("good")


def test_a_folder_without_masks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="is not a folder"):
        MaskFolder(tmp_path / "none")
    with pytest.raises(EvaluationError, match="holds no masks"):
        MaskFolder(tmp_path)


@pytest.mark.parametrize("text", ["0: background\n1: water bottle\n", "background: 0\nwater bottle: 1\n"])
def test_labels_either_way_round(tmp_path: Path, text: str) -> None:
    file = tmp_path / "labels.yaml"
    file.write_text("# pixel values\n" + text)
    assert load_labels(file) == {0: "background", 1: "water bottle"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no key: value pairs"),
        ("{}", "names no classes"),
        ("- mug\n- cup\n", "no key: value pairs"),
        ("1: [mug]", "expected a number and a name"),
        ("mug: cup", "expected a number and a name"),
        ("1: 2", "expected a number and a name"),
        ("yes: 2", "expected a number and a name"),
        ("1: mug\ncup: 1", "beside another line"),
        ("1: mug\n2: mug", "beside another line"),
        ("65536: mug", "masks hold 0 to 65535"),
        ("-1: mug", "masks hold 0 to 65535"),
        ("{", "is not YAML"),
    ],
)
def test_labels_that_are_none_are_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "labels.yaml"
    file.write_text(text)
    with pytest.raises(EvaluationError, match=message):
        load_labels(file)


def test_the_tabletops_masks_fit_its_views(tabletop: Path) -> None:
    masks = MaskFolder(tabletop / "masks")
    labels = load_labels(tabletop / "labels.yaml")
    assert masks.names() == ["0", "12", "4", "7"]
    camera = Camera(1280, 720, 900.0, 900.0, 640.0, 360.0)
    for name in masks.names():
        assert set(np.unique(masks.load(name, camera))) <= set(labels)
