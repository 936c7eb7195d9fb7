"""Label images by frame name, and label files."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from feature_gs_ros.core.camera import Camera
from feature_gs_ros.io.masks import MaskFolder, load_labels
from tests.errors import raises

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
    cv2.imwrite(str(tmp_path / "colour.png"), np.full((2, 3, 3), 77, np.uint8))
    cv2.imwrite(str(tmp_path / "alpha.png"), np.zeros((2, 3, 4), np.uint8))
    whole = (tmp_path / "good.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[:45])
    (tmp_path / "text.png").write_text("no image")
    size = struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + size + struct.pack(">I", zlib.crc32(b"IHDR" + size))
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk)
    masks = MaskFolder(tmp_path)
    for name, fault in {
        "colour": ("evaluation.label", "77, 77, 77"),
        "alpha": ("evaluation.format", "RGBA"),
        "cut": ("evaluation.mask",),
        "text": ("evaluation.damaged",),
        "bomb": ("evaluation.range", "2147483647×2147483647"),
        "none": ("evaluation.missing", "none.png", "'alpha', 'bomb'"),
    }.items():
        with raises(*fault):
            masks.load(name)
    with raises("evaluation.size", "3×2", "640×480"):
        masks.load("good", Camera(640, 480, 5.0, 5.0, 1.5, 1.0))
    (tmp_path / "good.png").unlink()
    with raises("evaluation.mask|evaluation.unreadable", "good.png"):
        masks.load("good")


def test_a_folder_without_masks_is_refused(tmp_path: Path) -> None:
    with raises("evaluation.unreadable"):
        MaskFolder(tmp_path / "none")
    with raises("evaluation.empty"):
        MaskFolder(tmp_path)


@pytest.mark.parametrize("text", ["0: background\n1: water bottle\n", "background: 0\nwater bottle: 1\n"])
def test_labels_either_way_round(tmp_path: Path, text: str) -> None:
    file = tmp_path / "labels.yaml"
    file.write_text("# pixel values\n" + text)
    assert load_labels(file) == {0: "background", 1: "water bottle"}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", ("evaluation.value",)),
        ("{}", ("evaluation.empty",)),
        ("- mug\n- cup\n", ("evaluation.value",)),
        ("1: [mug]", ("evaluation.value",)),
        ("mug: cup", ("evaluation.value",)),
        ("1: 2", ("evaluation.value",)),
        ("yes: 2", ("evaluation.value",)),
        ("1: mug\ncup: 1", ("evaluation.duplicate",)),
        ("1: mug\n2: mug", ("evaluation.duplicate",)),
        ("65536: mug", ("evaluation.label", "65535")),
        ("-1: mug", ("evaluation.label", "65535")),
        ("{", ("evaluation.syntax",)),
    ],
)
def test_labels_that_are_none_are_refused(tmp_path: Path, text: str, fault: tuple[str, ...]) -> None:
    file = tmp_path / "labels.yaml"
    file.write_text(text)
    with raises(*fault):
        load_labels(file)


def test_the_tabletops_masks_fit_its_views(tabletop: Path) -> None:
    masks = MaskFolder(tabletop / "masks")
    labels = load_labels(tabletop / "labels.yaml")
    assert masks.names() == ["0", "12", "4", "7"]
    camera = Camera(1280, 720, 900.0, 900.0, 640.0, 360.0)
    for name in masks.names():
        assert set(np.unique(masks.load(name, camera))) <= set(labels)


def write_palette(path: Path, labels: Any, depth: int = 8) -> None:
    """A PNG with a palette, by its description."""
    height, width = labels.shape
    per_byte = 8 // depth
    rows = b""
    for row in labels:
        padded = np.concatenate([row, np.zeros(-width % per_byte, np.uint8)]).reshape(-1, per_byte)
        packed = sum(padded[:, k].astype(int) << (8 - depth * (k + 1)) for k in range(per_byte))
        rows += b"\0" + np.asarray(packed).astype(np.uint8).tobytes()
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 3, 0, 0, 0)),
        (b"PLTE", np.random.default_rng(0).integers(0, 256, 3 << depth, dtype=np.uint8).tobytes()),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    data = b"\x89PNG\r\n\x1a\n"
    for kind, body in chunks:
        data += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    path.write_bytes(data)


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_the_indices_of_a_palette_are_the_labels(tmp_path: Path, depth: int) -> None:
    labels = np.random.default_rng(depth).integers(0, 1 << depth, (5, 7)).astype(np.uint8)
    write_palette(tmp_path / "1.png", labels, depth)
    np.testing.assert_array_equal(MaskFolder(tmp_path).load("1"), labels)


def test_masks_of_0_and_255_alone_are_binary(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    binary = np.array([[0, 255], [255, 0]], np.uint8)
    for name in ("1", "2"):
        cv2.imwrite(str(tmp_path / f"{name}.png"), binary)
    np.testing.assert_array_equal(MaskFolder(tmp_path).load("1"), binary // 255)
    assert "255 is class 1" in caplog.text


def test_where_another_class_is_there_255_does_not_count(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "1.png"), np.array([[0, 255]], np.uint8))
    cv2.imwrite(str(tmp_path / "2.png"), np.array([[0, 3]], np.uint8))
    assert MaskFolder(tmp_path).load("1").tolist() == [[0, 255]]


def test_a_label_among_binary_masks_is_refused(tmp_path: Path) -> None:
    for index in range(40):
        cv2.imwrite(str(tmp_path / f"{index:02}.png"), np.array([[0, 4 if index == 20 else 255]], np.uint8))
    folder = MaskFolder(tmp_path)
    if folder.load("00").tolist() == [[0, 1]]:  # 20 isn't among those looked at
        with raises("evaluation.label"):
            folder.load("20")
