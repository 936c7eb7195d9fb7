"""Annotations in: label images, COCO files with RLE or polygons, and one JSON of masks a frame as SAM writes them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from feature_gs_ros.core.camera import Camera
from feature_gs_ros.core.errors import EvaluationError
from feature_gs_ros.identity.encoding import IGNORE
from feature_gs_ros.io.detections import DetectionMasks, names_objects
from feature_gs_ros.io.mask_shapes import check_mask_size, mask_numbers, mask_size, stacked
from feature_gs_ros.io.masks import MaskFolder
from feature_gs_ros.io.object_masks import ObjectMasks, has_object_folders
from feature_gs_ros.io.structured import Table, read_structured, read_table

MAX_LABEL = 65535  # labels are 16 bit


class Masks(Protocol):
    """Label images by frame name."""

    kind: str  # for people

    @property
    def labels(self) -> Mapping[int, str]:
        """Names by value, where the files hold them."""
        ...

    def names(self) -> list[str]: ...
    def load(self, name: str, camera: Camera | None = None) -> NDArray[np.uint16]: ...


class CocoMasks:
    """A COCO annotation file: an image's name is the stem of its file name.

    Raises:
        EvaluationError: not a COCO file, or nothing is annotated.
    """

    kind = "COCO annotations"

    def __init__(self, path: str | Path, instances: bool = False) -> None:
        """``instances``: number each image's annotations from 1, instead of labels by category."""
        self.path = Path(path)
        self._instances = instances
        content = read_table(self.path, EvaluationError)
        self._images: dict[str, Table] = {}
        by_id: dict[int | str, str] = {}
        for image in content.tables("images"):
            name = Path(image.text("file_name")).stem
            by_id[_id(image, "id")], self._images[name] = name, image
        self._annotations: dict[str, list[Table]] = {name: [] for name in self._images}
        for annotation in content.tables("annotations"):
            name_of_image = by_id.get(_id(annotation, "image_id"))
            if name_of_image is None:
                raise EvaluationError(f"{annotation.source} belongs to no image", code="evaluation.value")
            if not instances and annotation.get("category_id") == IGNORE:
                raise EvaluationError(
                    f"'{path}' uses the category {IGNORE}, which stands for pixels that don't count; renumber it",
                    code="evaluation.label",
                )
            self._annotations[name_of_image].append(annotation)
        self.labels: Mapping[int, str] = {
            category.whole("id", least=0, most=MAX_LABEL): category.text("name")
            for category in (content.tables("categories") if "categories" in content else ())
        }
        if not any(self._annotations.values()):
            raise EvaluationError(f"'{path}' annotates nothing", code="evaluation.empty")

    def names(self) -> list[str]:
        """Frames that have annotations, sorted."""
        return sorted(name for name, annotations in self._annotations.items() if annotations)

    def load(self, name: str, camera: Camera | None = None) -> NDArray[np.uint16]:
        """Labels [H, W]; where masks overlap the smaller one is on top.

        Raises:
            EvaluationError: no such frame, another size than the camera's, or a damaged mask.
        """
        if name not in self._images:
            raise EvaluationError(f"'{self.path}' holds no image '{name}'", code="evaluation.missing")
        image = self._images[name]
        size = mask_size([image.get("height"), image.get("width")], f"image '{name}' of '{self.path}'")
        check_mask_size(size, camera, f"image '{name}' of '{self.path}'")
        annotations = self._annotations[name]
        values = [
            number if self._instances else annotation.whole("category_id", least=0, most=MAX_LABEL)
            for number, annotation in zip(mask_numbers(), annotations, strict=False)
        ]
        masks = [annotation.get("segmentation") for annotation in annotations]
        return stacked(masks, values, size, f"image '{name}' of '{self.path}'")


class SamMasks:
    """A folder of ``<frame name>.json``, each a list of masks with a ``segmentation`` in RLE: SAM's automatic masks."""

    kind = "masks of SAM"
    labels: Mapping[int, str] = {}

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._names = sorted(path.stem for path in self.folder.glob("*.json"))
        if not self._names:
            raise EvaluationError(
                f"'{folder}' holds no masks: neither <frame name>.png nor <frame name>.json", code="evaluation.empty"
            )

    def names(self) -> list[str]:
        """Frames that have masks, sorted."""
        return list(self._names)

    def load(self, name: str, camera: Camera | None = None) -> NDArray[np.uint16]:
        """Labels [H, W], masks numbered in the file's order; where they overlap the smaller one is on top.

        Raises:
            EvaluationError: no such file, another size than the camera's, or a damaged mask.
        """
        if name not in self._names:
            raise EvaluationError(f"'{self.folder}' holds no masks of '{name}'", code="evaluation.empty")
        path = self.folder / f"{name}.json"
        content = read_structured(path, EvaluationError)
        entries = content.get("annotations") if isinstance(content, Mapping) else content
        if not isinstance(entries, list) or not entries:
            raise EvaluationError(f"'{path}' is not a list of masks", code="evaluation.format")
        masks, size = [], None
        for entry in entries:
            rle = entry.get("segmentation") if isinstance(entry, Mapping) else None
            given = rle.get("size") if isinstance(rle, Mapping) else None
            size = size or mask_size(given, f"'{path}'")
            check_mask_size(size, camera, f"'{path}'")
            masks.append(rle)
        assert size is not None
        return stacked(masks, list(itertools.islice(mask_numbers(), len(masks))), size, f"'{path}'")


def open_masks(
    path: str | Path, instances: bool = False, frames: Sequence[str] = (), labels: Mapping[int, str] | None = None
) -> Masks:
    """A folder of label images, of a detector's, LabelMe's or SAM's JSON files, of one file per object, or a COCO file.

    Args:
        instances: the ids of different images don't agree: number each image's masks.
        frames: names of the frames that the masks belong to, by which folders of frames and of objects are told apart.
        labels: names by value, for files that hold names and no values.

    Raises:
        EvaluationError: nothing of the kind.
    """
    path = Path(path)
    if path.is_file():
        return CocoMasks(path, instances)
    if has_object_folders(path):
        return ObjectMasks(path, instances, labels, frames)
    if names_objects(path):
        return DetectionMasks(path, instances, labels)
    if path.is_dir() and not any(path.glob("*.png")):
        coco = path / "annotations.json"
        return CocoMasks(coco, instances) if coco.is_file() else SamMasks(path)
    return MaskFolder(path)


def understood(masks: Masks) -> str:
    """How masks were read, in a line for people."""
    names = [f"{value} {name}" for value, name in masks.labels.items()]
    more = f", … ({len(names)} in all)" if len(names) > 8 else ""
    return f"{len(masks.names())} frames with {masks.kind}" + (f": {', '.join(names[:8])}{more}" if names else "")


def _id(table: Table, key: str) -> int | str:
    """COCO's ids are whole numbers; some tools write texts."""
    return table.text(key) if isinstance(table.get(key), str) else table.whole(key)
