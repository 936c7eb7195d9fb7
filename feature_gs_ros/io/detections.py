"""Masks with names, a JSON file per frame: SAM 3's, Grounded-SAM's, YOLO's, LabelMe's, as labels or instances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from feature_gs_ros.core.camera import Camera
from feature_gs_ros.core.errors import EvaluationError
from feature_gs_ros.io.coco_masks import CocoMasks, coco_file
from feature_gs_ros.io.labelme import Crop, has_area, shape_of
from feature_gs_ros.io.mask_shapes import check_mask_size, decoded_shape, mask_numbers, mask_size
from feature_gs_ros.io.masks import MaskFolder
from feature_gs_ros.io.object_masks import ObjectMasks, has_object_folders
from feature_gs_ros.io.streams.frame_names import listed_names
from feature_gs_ros.io.structured import Table, read_table

LISTS = ("detections", "annotations", "shapes")  # the key of the list, ours, Grounded-SAM 2's or LabelMe's
NAMES = ("name", "class_name", "label")
MAX_NAMES = 65000  # of a folder: labels are 16 bit
BACKGROUND = "background"  # value 0: where nothing was detected


@dataclass(frozen=True)
class Detection:
    """One object in one image."""

    name: str
    score: float  # 1 where the file has none
    shape: object  # COCO's RLE or polygons; None where the mask is in the PNG
    number: int | None  # its value in the PNG beside the file


class DetectionMasks:
    """A folder of ``<frame name>.json``, each with ``detections``: a list of named objects with their masks.

    ``{"size": [height, width], "detections": [{"name": "mug", "score": 0.9, "segmentation": {…}}]}``: a segmentation is
    COCO's RLE or polygons; with ``"id": 3`` instead the mask is where ``<frame name>.png`` has the value 3.
    Grounded-SAM 2's files are read as they are: ``annotations`` with ``class_name``, ``img_height`` and ``img_width``;
    so are LabelMe's: ``shapes`` with ``label``, ``points`` and ``shape_type``, of which polygons, rectangles, circles
    and masks have an area, and others are left out.

    Labels are the classes' in alphabetical order from 1 (255 left out), 0 where nothing was detected. Where objects
    overlap the one of the higher score is on top.
    """

    kind = "named masks in JSON"

    def __init__(
        self,
        folder: str | Path,
        instances: bool = False,
        labels: Mapping[int, str] | None = None,
        min_score: float = 0.0,
    ) -> None:
        """
        Args:
            folder: of the files.
            instances: number each image's objects from 1, instead of labels by class.
            labels: names by value, where they are not to be numbered; classes not among them count as background.
            min_score: objects of a lower one are left out.

        Raises:
            EvaluationError: the folder holds no such files.
        """
        self.folder = Path(folder)
        self._instances, self._given, self._min_score = instances, labels, min_score
        self._names = sorted(path.stem for path in self.folder.glob("*.json"))
        if not self._names:
            raise EvaluationError(f"'{folder}' holds no detections, <frame name>.json", code="evaluation.empty")

    def names(self) -> list[str]:
        """Names of the frames that were looked at, sorted."""
        return list(self._names)

    @cached_property
    def labels(self) -> dict[int, str]:
        """Names of the classes by value, with 0 for the background; every file is read for it.

        Raises:
            EvaluationError: a file is damaged, or there are too many classes.
        """
        if self._given is not None:
            return dict(self._given)
        found = {detection.name for name in self._names for detection in self._read(name)[0]} - {BACKGROUND}
        if not 0 < len(found) <= MAX_NAMES:
            raise EvaluationError(
                f"the files of '{self.folder}' name {len(found)} classes with a score of {self._min_score:g} or more, "
                f"expected 1 to {MAX_NAMES}",
                code="evaluation.empty",
            )
        return {0: BACKGROUND, **dict(zip(mask_numbers(), sorted(found), strict=False))}

    def load(self, name: str, camera: Camera | None = None) -> NDArray[np.uint16]:
        """Labels [H, W] of a frame.

        Raises:
            EvaluationError: no such file, a damaged one, or of another size than the camera's.
        """
        if name not in self._names:
            raise EvaluationError(
                f"no detections '{self.folder / name}.json'; there are {listed_names(self._names)}",
                code="evaluation.missing",
            )
        detections, size = self._read(name)
        numbers: NDArray[np.uint16] | None = None
        if any(detection.shape is None for detection in detections):
            numbers = MaskFolder(self.folder).load(name)
            size = size or (numbers.shape[0], numbers.shape[1])
            if numbers.shape != size:
                raise EvaluationError(
                    f"'{name}.png' in '{self.folder}' is {numbers.shape[1]}×{numbers.shape[0]} pixels, its JSON says "
                    f"{size[1]}×{size[0]}",
                    code="evaluation.size",
                )
        source = f"'{self.folder / name}.json'"
        size = size or (None if camera is None else (camera.height, camera.width))
        if size is None:
            raise EvaluationError(f'{source} has no size; write "size": [height, width]', code="evaluation.missing")
        check_mask_size(size, camera, source)
        values = self._values(detections)
        labels = np.zeros(size, np.uint16)
        for index in sorted(range(len(detections)), key=lambda index: detections[index].score):
            detection = detections[index]
            if isinstance(detection.shape, Crop):
                mask = detection.shape.mask(size, source)
            elif detection.shape is not None:
                mask = decoded_shape(detection.shape, size, source)
            else:
                assert numbers is not None
                mask = numbers == detection.number
            labels[mask] = values[index]
        return labels

    def _values(self, detections: Sequence[Detection]) -> list[int]:
        if self._instances:
            return [number for number, _ in zip(mask_numbers(), detections, strict=False)]
        by_name = {name: value for value, name in self.labels.items()}
        return [by_name.get(detection.name, 0) for detection in detections]

    def _read(self, name: str) -> tuple[list[Detection], tuple[int, int] | None]:
        """The objects of a frame, and the size (height, width) that its file states."""
        content = read_table(self.folder / f"{name}.json", EvaluationError)
        size: object = None
        if "size" in content:
            size = content.get("size")
        for height, width in (("img_height", "img_width"), ("imageHeight", "imageWidth")):
            if height in content and width in content:
                size = [content.whole(height, least=1), content.whole(width, least=1)]
        key = next((key for key in LISTS if key in content), LISTS[0])
        entries = [_detection(entry) for entry in content.tables(key) if has_area(entry)]
        detections = [entry for entry in entries if entry.score >= self._min_score]
        if size is None:  # COCO's RLE has it
            shapes = (entry.shape for entry in entries)
            size = next((shape["size"] for shape in shapes if isinstance(shape, Mapping) and "size" in shape), None)
        return detections, None if size is None else mask_size(size, f"'{self.folder / name}.json'")


def names_objects(path: Path) -> bool:
    """Whether a folder holds a detector's files: JSON whose objects have names."""
    if not path.is_dir():
        return False
    for file in sorted(path.glob("*.json"))[:16]:
        try:
            content = read_table(file, EvaluationError)
            key = next((key for key in LISTS if key in content), "")
            entries = content.tables(key) if key and "images" not in content else []
        except EvaluationError:
            return False
        if entries:
            return any(name in entries[0] for name in NAMES)
    return False


def open_labels(
    path: str | Path,
    labels: Mapping[int, str] | None = None,
    min_score: float = 0.0,
    frames: Sequence[str] = (),
) -> Labelled:
    """A folder of label images, of a detector's or LabelMe's JSON files, of one file per object, or a COCO file.

    Args:
        labels: names by value, for files that hold names and no values.
        min_score: of a detector's objects, from which they count.
        frames: names of the frames that the masks belong to, by which folders of frames and of objects are told apart.

    Raises:
        EvaluationError: nothing of the kind.
    """
    folder = Path(path)
    coco = coco_file(folder)
    if coco is not None:
        return CocoMasks(coco, labels=labels)
    if has_object_folders(folder):
        return ObjectMasks(folder, labels=labels, frames=frames)
    return DetectionMasks(folder, labels=labels, min_score=min_score) if names_objects(folder) else MaskFolder(folder)


def load_marks(
    path: Path, frame: str, labels: Mapping[int, str] | None = None
) -> tuple[NDArray[np.uint16], dict[int, str]]:
    """One image's labels [H, W] and their names, if the file has any, of whatever `open_labels` reads.

    Args:
        path: a label image, a detector's or LabelMe's file of one image, a COCO file, or a folder of masks by frame.
        frame: the image's name, where the path is of more than one image.
        labels: names by value, for files that hold names and no values.

    Raises:
        EvaluationError: nothing of the kind, or nothing of this image.
    """
    if path.suffix.lower() == ".png":
        return MaskFolder(path.parent).load(path.stem), {}
    is_of_image = path.is_file() and "images" not in read_table(path, EvaluationError)
    masks = DetectionMasks(path.parent, labels=labels) if is_of_image else open_labels(path, labels, frames=[frame])
    names = {value: name for value, name in masks.labels.items() if value != 0}
    return masks.load(path.stem if is_of_image else frame), names


Labelled = MaskFolder | DetectionMasks | ObjectMasks | CocoMasks


def _detection(entry: Table) -> Detection:
    name = entry.text(next((key for key in NAMES if key in entry), NAMES[0]), empty=False)
    score = entry.get("score") if "score" in entry else 1.0
    if isinstance(score, list) and len(score) == 1:  # as Grounded-SAM 2 writes it
        score = score[0]
    if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
        raise EvaluationError(f"{entry.source}: the score {score!r} is not from 0 to 1", code="evaluation.value")
    if "points" in entry:
        return Detection(name, float(score), shape_of(entry), None)
    if "segmentation" in entry:
        return Detection(name, float(score), entry.get("segmentation"), None)
    if "id" not in entry:
        raise EvaluationError(
            f"{entry.source} has neither a segmentation nor the id of its pixels in the PNG", code="evaluation.missing"
        )
    return Detection(name, float(score), None, entry.whole("id", least=1, most=65535))
