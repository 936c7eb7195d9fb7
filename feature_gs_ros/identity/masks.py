"""Annotations in: all that `io.detections.open_labels` reads, and one JSON of masks per frame as SAM writes them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from feature_gs_ros.core.camera import Camera
from feature_gs_ros.core.errors import EvaluationError
from feature_gs_ros.io.coco_masks import CocoMasks, coco_file
from feature_gs_ros.io.detections import DetectionMasks, names_objects
from feature_gs_ros.io.mask_shapes import check_mask_size, mask_numbers, mask_size, stacked
from feature_gs_ros.io.masks import MaskFolder
from feature_gs_ros.io.object_masks import ObjectMasks, has_object_folders
from feature_gs_ros.io.structured import read_structured


class Masks(Protocol):
    """Label images by frame name."""

    kind: str  # for people

    @property
    def labels(self) -> Mapping[int, str]:
        """Names by value, where the files hold them."""
        ...

    def names(self) -> list[str]: ...
    def load(self, name: str, camera: Camera | None = None) -> NDArray[np.uint16]: ...


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
    coco = coco_file(path)
    if coco is not None:
        return CocoMasks(coco, instances, labels)
    if has_object_folders(path):
        return ObjectMasks(path, instances, labels, frames)
    if names_objects(path):
        return DetectionMasks(path, instances, labels)
    return SamMasks(path) if path.is_dir() and not any(path.glob("*.png")) else MaskFolder(path)


def understood(masks: Masks) -> str:
    """How masks were read, in a line for people."""
    names = [f"{value} {name}" for value, name in masks.labels.items()]
    more = f", … ({len(names)} in all)" if len(names) > 8 else ""
    return f"{len(masks.names())} frames with {masks.kind}" + (f": {', '.join(names[:8])}{more}" if names else "")
