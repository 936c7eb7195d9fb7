"""One reading of masks everywhere: every kind of file, by every command that takes masks, gives the same labels."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image as PillowImage

from feature_gs_ros.extractors.labels import LabelsExtractor
from feature_gs_ros.identity.masks import open_masks
from feature_gs_ros.io.colour_tables import voc_colours
from feature_gs_ros.io.detections import load_marks, open_labels
from feature_gs_ros.pictures import save_png

NAMES = {1: "bowl", 2: "mug"}
FRAMES = ("7", "8", "9")  # more than there are objects
HEIGHT, WIDTH = 6, 8

Labels = NDArray[np.uint8]
Truth = dict[str, Labels]


def grey(folder: Path, truth: Truth, depth: type = np.uint8) -> Path:
    for name, labels in truth.items():
        save_png(labels.astype(depth), folder / f"{name}.png")
    return folder


def palette(folder: Path, truth: Truth) -> Path:
    for name, labels in truth.items():
        image = PillowImage.fromarray(labels, mode="P")
        image.putpalette(np.asarray(voc_colours(), np.uint8).reshape(-1).tolist())
        image.save(folder / f"{name}.png")
    return folder


def colours(folder: Path, truth: Truth) -> Path:
    table = np.array([[0, 0, 0], [200, 30, 10], [5, 90, 250]], np.uint8)
    lines = [f"{name}:{','.join(map(str, table[value]))}::" for value, name in {0: "background", **NAMES}.items()]
    (folder / "labelmap.txt").write_text("# label:color_rgb:parts:actions\n" + "\n".join(lines))
    for name, labels in truth.items():
        save_png(table[labels], folder / f"{name}.png")
    return folder


def crop_of(mask: NDArray[np.bool_]) -> str:
    return base64.b64encode(cv2.imencode(".png", mask.astype(np.uint8))[1].tobytes()).decode()


def labelme(folder: Path, truth: Truth) -> Path:
    for name, labels in truth.items():
        corners = [[0, 0], [WIDTH - 1, HEIGHT - 1]]
        shapes = [
            {"label": named, "shape_type": "mask", "points": corners, "mask": crop_of(labels == value)}
            for value, named in NAMES.items()
        ]
        content = {"imageHeight": HEIGHT, "imageWidth": WIDTH, "shapes": shapes}
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def rle(mask: NDArray[np.bool_]) -> dict[str, object]:
    """COCO's runs, by columns, from the background on."""
    flat = mask.T.reshape(-1)
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *edges, flat.size]).tolist()
    return {"size": [HEIGHT, WIDTH], "counts": [0, *runs] if flat[0] else runs}


def detector(folder: Path, truth: Truth) -> Path:
    for name, labels in truth.items():
        found = [{"name": named, "segmentation": rle(labels == value)} for value, named in NAMES.items()]
        (folder / f"{name}.json").write_text(json.dumps({"size": [HEIGHT, WIDTH], "detections": found}))
    return folder


def objects(folder: Path, truth: Truth, by_frame: bool = True) -> Path:
    for name, labels in truth.items():
        for value, named in NAMES.items():
            path = folder / (f"{name}/{named}.png" if by_frame else f"{named}/{name}.png")
            path.parent.mkdir(exist_ok=True)
            save_png((labels == value).astype(np.uint8) * 255, path)
    return folder


def coco(folder: Path, truth: Truth) -> Path:
    content = {
        "images": [{"id": i, "file_name": f"{n}.png", "height": HEIGHT, "width": WIDTH} for i, n in enumerate(truth)],
        "categories": [{"id": value, "name": named} for value, named in NAMES.items()],
        "annotations": [
            {"image_id": i, "category_id": value, "segmentation": rle(labels == value)}
            for i, labels in enumerate(truth.values())
            for value in NAMES
        ],
    }
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder


KINDS: dict[str, Callable[[Path, Truth], Path]] = {
    "8 bits": grey,
    "16 bits": lambda folder, truth: grey(folder, truth, np.uint16),
    "palette": palette,
    "colours": colours,
    "LabelMe": labelme,
    "detector": detector,
    "frames of objects": objects,
    "objects of frames": lambda folder, truth: objects(folder, truth, by_frame=False),
    "COCO folder": coco,
    "COCO file": lambda folder, truth: coco(folder, truth) / "annotations.json",
}


def by_identity(path: Path, name: str) -> Labels:
    return open_masks(path, frames=FRAMES, labels=NAMES).load(name).astype(np.uint8)


def by_evaluation(path: Path, name: str) -> Labels:
    return open_labels(path, NAMES, frames=FRAMES).load(name).astype(np.uint8)


def by_extractor(path: Path, name: str) -> Labels:
    names = path.parent / f"{path.stem}-names.yaml"
    names.write_text(yaml.safe_dump(NAMES))
    grid = LabelsExtractor(masks=path, labels=names).extract(np.zeros((HEIGHT, WIDTH, 3), np.uint8), name)
    values = grid.values.float().numpy() @ np.array(list(NAMES), np.float32)
    return values.astype(np.uint8)


def by_affordance(path: Path, name: str) -> Labels:
    of_image = [path / f"{name}.png", path / f"{name}.json"]
    own = next((file for file in of_image if file.is_file()), path)
    return load_marks(own, name, NAMES)[0].astype(np.uint8)


CONSUMERS = (by_identity, by_evaluation, by_extractor, by_affordance)
labels_of_images = st.lists(
    st.lists(st.integers(0, 2), min_size=HEIGHT * WIDTH, max_size=HEIGHT * WIDTH), min_size=3, max_size=3
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("consumer", CONSUMERS, ids=lambda consumer: consumer.__name__)
@settings(max_examples=5)
@given(images=labels_of_images)
def test_every_kind_is_read_alike_by_everyone(
    kind: str,
    consumer: Callable[[Path, str], Labels],
    images: list[list[int]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    truth = {
        name: np.array(values, np.uint8).reshape(HEIGHT, WIDTH) for name, values in zip(FRAMES, images, strict=True)
    }
    path = KINDS[kind](tmp_path_factory.mktemp("masks"), truth)
    for name, labels in truth.items():
        assert consumer(path, name).tolist() == labels.tolist()


@pytest.mark.parametrize("consumer", CONSUMERS, ids=lambda consumer: consumer.__name__)
def test_black_and_white_masks_are_the_first_class_for_everyone(
    consumer: Callable[[Path, str], Labels], tmp_path: Path
) -> None:
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[2:4, 3:6] = 255
    path = grey(tmp_path, dict.fromkeys(FRAMES, labels))
    assert consumer(path, "7").tolist() == (labels > 0).astype(int).tolist()


@pytest.mark.parametrize("kind", ["colours", "LabelMe", "detector", "frames of objects", "COCO file"])
def test_files_that_hold_names_need_no_labels(kind: str, tmp_path: Path) -> None:
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[0, :3], labels[4, 2:5] = 1, 2
    path = KINDS[kind](tmp_path, dict.fromkeys(FRAMES, labels))
    named = {value: name for value, name in open_labels(path, frames=FRAMES).labels.items() if value}
    assert named == NAMES
    extractor = LabelsExtractor(masks=path)
    assert {value: name for value, name in extractor.names.items() if value} == NAMES
    own = next((file for file in (path / "7.png", path / "7.json") if file.is_file()), path)
    assert (load_marks(own, "7")[0] == labels).all()
