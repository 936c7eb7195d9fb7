"""The UMD part-affordance layout, on a small look-alike."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.io import savemat

from feature_gs_ros.affordance import Library, make_source
from feature_gs_ros.affordance.umd import UMD_AFFORDANCES, load_umd_labels, umd_items
from feature_gs_ros.core.errors import AffordanceError
from feature_gs_ros.extractors import make_extractor
from tests.errors import raises


def look_alike(folder: Path, tool: str = "mug_01", frame: int = 1) -> Path:
    """An image with its depth, label and rank files, as the data set names them."""
    base = folder / "tools" / tool
    base.mkdir(parents=True, exist_ok=True)
    labels = np.zeros((48, 64), np.uint8)
    labels[10:40, 30:50] = 4  # contain
    labels[20:30, 50:60] = 1  # grasp
    image = np.where(labels[:, :, None] > 0, labels[:, :, None] * 40, 128).astype(np.uint8).repeat(3, axis=2)
    stem = f"{tool}_{frame:08d}"
    cv2.imwrite(str(base / f"{stem}_rgb.jpg"), image)
    cv2.imwrite(str(base / f"{stem}_depth.png"), np.zeros((48, 64), np.uint16))
    savemat(base / f"{stem}_label.mat", {"gt_label": labels})
    savemat(base / f"{stem}_label_rank.mat", {"gt_label": np.zeros((48, 64, 7), np.uint8)})
    return base / f"{stem}_label.mat"


def test_items_become_sources(tmp_path: Path) -> None:
    look_alike(tmp_path)
    look_alike(tmp_path, frame=2)
    look_alike(tmp_path, "bowl_12")
    items = list(umd_items(tmp_path))
    assert [(item.name, item.object) for item in items] == [
        ("bowl_12_00000001", "bowl"), ("mug_01_00000001", "mug"), ("mug_01_00000002", "mug"),
    ]  # fmt: skip
    labels = items[1].labels()
    assert np.bincount(labels.ravel()).tolist() == [48 * 64 - 700, 100, 0, 0, 600]
    color = make_extractor("color")
    source = make_source(
        items[1].image(), labels, UMD_AFFORDANCES, color, name=items[1].name, object_word=items[1].object
    )
    assert source.affordances == ("grasp", "contain")
    assert Library.of(color).add(source).affordances == ("grasp", "contain")


def test_bad_folders_and_files(tmp_path: Path) -> None:
    with raises("affordance.format"):
        list(umd_items(tmp_path / "missing"))
    path = look_alike(tmp_path)
    whole = path.read_bytes()
    for keep in (0, 60, 140, len(whole) // 2):
        path.write_bytes(whole[:keep])
        with raises("affordance.damaged|affordance.unreadable"):
            load_umd_labels(path)
    path.write_bytes(b"MATLAB 7.3 MAT-file" + bytes(200))
    with pytest.raises(AffordanceError):
        load_umd_labels(path)
    with raises("affordance.unreadable"):
        load_umd_labels(tmp_path / "missing.mat")
    savemat(path, {"other": np.zeros((4, 4))})
    with raises("affordance.format"):
        load_umd_labels(path)
    savemat(path, {"gt_label": np.full((4, 4), 9)})
    with raises("affordance.label"):
        load_umd_labels(path)
