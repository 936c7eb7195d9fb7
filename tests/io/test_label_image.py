"""A detector's label images in messages: encodings, padding, byte order, names; what can't be used is named."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from feature_gs_ros.core.errors import ImageError
from feature_gs_ros.io.masks import IGNORED
from feature_gs_ros.io.messages.label_image import decode_labels, names_of_values, with_classes

LABELS = np.array([[0, 1, 2], [200, 7, 0]], np.uint16)


def message(encoding: str, samples: np.ndarray, padding: int = 0, bigendian: int = 0) -> Any:
    rows = np.ascontiguousarray(samples).view(np.uint8).reshape(len(samples), -1)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=99)
    height, width = samples.shape
    return SimpleNamespace(
        height=height, width=width, encoding=encoding, is_bigendian=bigendian, step=rows.shape[1], data=rows.ravel()
    )


@pytest.mark.parametrize("padding", [0, 4])
@pytest.mark.parametrize(
    ("encoding", "kind", "bigendian"),
    [
        ("mono8", "u1", 0), ("8UC1", "u1", 0), ("mono16", "<u2", 0), ("mono16", ">u2", 1),
        ("16UC1", "<u2", 0), ("32SC1", "<i4", 0), ("32SC1", ">i4", 1),
    ],
)  # fmt: skip
def test_values_are_read_from_every_encoding(encoding: str, kind: str, bigendian: int, padding: int) -> None:
    found = decode_labels(message(encoding, LABELS.astype(kind), padding, bigendian), "/labels")
    assert found.dtype == np.uint16
    assert (found == LABELS).all()


def test_what_is_no_label_image_is_named() -> None:
    cut = message("mono16", LABELS)
    cut.data = cut.data[:-3]
    negative = message("32SC1", np.full((2, 2), -1, np.int32))
    for wrong, said in (
        (message("rgb8", np.zeros((2, 6), np.uint8)), "encoding 'rgb8'.*mono16"),
        (cut, "holds 9 bytes"),
        (message("32SC1", np.full((2, 2), 1 << 16, np.int32)), "aren't 0 to 65535"),
        (negative, "aren't 0 to 65535"),
    ):
        with pytest.raises(ImageError, match=said):
            decode_labels(wrong, "/labels")


def test_names_are_a_label_infos_or_the_likeliest_of_each_detection() -> None:
    entries = [SimpleNamespace(class_id=3, class_name="mug"), SimpleNamespace(class_id=7, class_name="pen")]
    assert names_of_values(SimpleNamespace(class_map=entries)) == {3: "mug", 7: "pen"}

    def detection(number: str, *claims: tuple[str, float]) -> Any:
        hypotheses = [SimpleNamespace(class_id=name, score=score) for name, score in claims]
        return SimpleNamespace(id=number, results=[SimpleNamespace(hypothesis=entry) for entry in hypotheses])

    detections = [detection("5", ("cup", 0.2), ("mug", 0.7)), detection("track-9", ("pen", 1.0)), detection("6")]
    assert names_of_values(SimpleNamespace(detections=detections)) == {5: "mug"}


def test_values_become_the_classes_by_their_names() -> None:
    labels = np.array([[3, 7, 0, 9]], np.uint16)
    names = {3: "mug", 7: "pen", 9: "hand"}
    assert with_classes(labels, names, {0: "background", 1: "pen", 2: "mug"}).tolist() == [[2, 1, 0, 0]]
    assert with_classes(labels, names, {1: "pen", 2: "mug"}).tolist() == [[2, 1, IGNORED, IGNORED]]
