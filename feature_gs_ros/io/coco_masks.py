"""Masks of a COCO file, in RLE or as polygons."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from feature_gs_ros.core.camera import Camera
from feature_gs_ros.core.errors import EvaluationError
from feature_gs_ros.io.mask_shapes import check_mask_size, mask_numbers, mask_size, stacked
from feature_gs_ros.io.masks import IGNORED
from feature_gs_ros.io.structured import Table, read_table

MAX_LABEL = 65535  # labels are 16 bit


class CocoMasks:
    """A COCO annotation file: an image's name is the stem of its file name.

    Raises:
        EvaluationError: not a COCO file, or nothing is annotated.
    """

    kind = "COCO annotations"

    def __init__(self, path: str | Path, instances: bool = False, labels: Mapping[int, str] | None = None) -> None:
        """
        Args:
            path: of the file.
            instances: number each image's annotations from 1, instead of labels by category.
            labels: names by value. Where they name any of the categories these get their values, and the others count
                as background; else they are names for the categories' own ids.
        """
        self.path = self.folder = Path(path)  # the other kinds have a folder, which messages name
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
            if not instances and labels is None and annotation.get("category_id") == IGNORED:
                raise EvaluationError(
                    f"'{path}' uses the category {IGNORED}, which stands for pixels that don't count; renumber it",
                    code="evaluation.label",
                )
            self._annotations[name_of_image].append(annotation)
        categories = {
            category.whole("id", least=0, most=MAX_LABEL): category.text("name")
            for category in (content.tables("categories") if "categories" in content else ())
        }
        self.labels: Mapping[int, str] = categories if labels is None else dict(labels)
        by_name = {name: value for value, name in (labels or {}).items()}
        known = set(by_name) & set(categories.values())
        self._values = {number: by_name.get(name, 0) if known else number for number, name in categories.items()}
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
            number if self._instances else self._value(annotation)
            for number, annotation in zip(mask_numbers(), annotations, strict=False)
        ]
        masks = [annotation.get("segmentation") for annotation in annotations]
        return stacked(masks, values, size, f"image '{name}' of '{self.path}'")

    def _value(self, annotation: Table) -> int:
        category = annotation.whole("category_id", least=0, most=MAX_LABEL)
        return self._values.get(category, category)


def coco_file(path: Path) -> Path | None:
    """The COCO file that a path is or holds."""
    if path.is_file():
        return path
    file = path / "annotations.json"
    return file if file.is_file() and not any(path.glob("*.png")) else None


def _id(table: Table, key: str) -> int | str:
    """COCO's ids are whole numbers; some tools write texts."""
    return table.text(key) if isinstance(table.get(key), str) else table.whole(key)
