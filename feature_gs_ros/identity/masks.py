"""Annotations in: label images, COCO files with RLE or polygons, and one JSON of masks a frame as SAM writes them."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from feature_gs_ros.core.camera import Camera
from feature_gs_ros.core.errors import EvaluationError
from feature_gs_ros.core.text import shown
from feature_gs_ros.identity.encoding import IGNORE
from feature_gs_ros.io.images import MAX_PIXELS
from feature_gs_ros.io.masks import MaskFolder
from feature_gs_ros.io.structured import Table, read_structured, read_table

MAX_MASKS = 65000  # of one image: labels are 16 bit and 255 is taken
MAX_MASK_PIXELS = 1 << 34  # of all masks of one image together: 1,400 of twelve megapixels
MAX_LABEL = 65535  # labels are 16 bit


class Masks(Protocol):
    """Label images by frame name."""

    def names(self) -> list[str]: ...
    def load(self, name: str, camera: Camera | None = None) -> NDArray[np.uint16]: ...


class CocoMasks:
    """A COCO annotation file: an image's name is the stem of its file name.

    Raises:
        EvaluationError: not a COCO file, or nothing is annotated.
    """

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
        self.labels = {
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
        size = _size([image.get("height"), image.get("width")], f"image '{name}' of '{self.path}'")
        _check_size(size, camera, f"image '{name}' of '{self.path}'")
        annotations = self._annotations[name]
        values = [
            number if self._instances else annotation.whole("category_id", least=0, most=MAX_LABEL)
            for number, annotation in zip(mask_numbers(), annotations, strict=False)
        ]
        masks = [annotation.get("segmentation") for annotation in annotations]
        return stacked(masks, values, size, f"image '{name}' of '{self.path}'")


class SamMasks:
    """A folder of ``<frame name>.json``, each a list of masks with a ``segmentation`` in RLE: SAM's automatic masks."""

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
            raise EvaluationError(f"'{path}' is no list of masks", code="evaluation.format")
        masks, size = [], None
        for entry in entries:
            rle = entry.get("segmentation") if isinstance(entry, Mapping) else None
            given = rle.get("size") if isinstance(rle, Mapping) else None
            size = size or _size(given, f"'{path}'")
            _check_size(size, camera, f"'{path}'")
            masks.append(rle)
        assert size is not None
        return stacked(masks, list(itertools.islice(mask_numbers(), len(masks))), size, f"'{path}'")


def open_masks(path: str | Path, instances: bool = False) -> Masks:
    """A folder of label images or of SAM's JSON files, or a COCO file.

    Raises:
        EvaluationError: nothing of the kind.
    """
    path = Path(path)
    if path.is_file():
        return CocoMasks(path, instances)
    if path.is_dir() and not any(path.glob("*.png")):
        coco = path / "annotations.json"
        return CocoMasks(coco, instances) if coco.is_file() else SamMasks(path)
    return MaskFolder(path)


def _id(table: Table, key: str) -> int | str:
    """COCO's ids are whole numbers; some tools write texts."""
    return table.text(key) if isinstance(table.get(key), str) else table.whole(key)


def mask_numbers() -> Iterator[int]:
    """1, 2, … without 255, which stands for pixels that don't count."""
    return (number + (number >= IGNORE) for number in itertools.count(1))


def stacked(masks: Sequence[object], values: Sequence[int], size: tuple[int, int], source: str) -> NDArray[np.uint16]:
    """Labels [H, W] of masks in RLE or polygons that may overlap: the smaller one is on top.

    They are decoded twice, one at a time: a few bytes of each stand for a whole image.

    Raises:
        EvaluationError: one is damaged, or there are too many.
    """
    if len(masks) > MAX_MASKS or len(masks) * size[0] * size[1] > MAX_MASK_PIXELS:
        raise EvaluationError(
            f"{source} has {len(masks)} masks, at most {min(MAX_MASKS, MAX_MASK_PIXELS // (size[0] * size[1]))} of "
            f"{size[1]}×{size[0]} pixels are read",
            code="evaluation.range",
        )
    areas = [int(np.count_nonzero(_decoded(mask, size, source))) for mask in masks]
    labels = np.zeros(size, np.uint16)
    for index in sorted(range(len(masks)), key=lambda index: -areas[index]):
        labels[_decoded(masks[index], size, source)] = values[index]
    return labels


def decode_rle(counts: str | Sequence[int], size: tuple[int, int], source: str) -> NDArray[np.bool_]:
    """COCO's run lengths, column by column and beginning with zeros, as numbers or in its string form, to [H, W].

    Raises:
        EvaluationError: they don't add up to the size.
    """
    height, width = size
    if len(counts) > 16 * (height * width + 1):
        raise EvaluationError(f"a mask of {source} has more run lengths than pixels", code="evaluation.damaged")
    runs = _from_string(counts, source) if isinstance(counts, str) else [_run(run, source) for run in counts]
    if any(run < 0 for run in runs) or sum(runs) != height * width:
        raise EvaluationError(
            f"a mask's run lengths of {source} don't add up to {width}×{height} pixels", code="evaluation.damaged"
        )
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return np.ascontiguousarray(flat.reshape(width, height).T)


def _run(value: object, source: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:  # NaN, too
        raise EvaluationError(
            f"a mask's run lengths of {source} hold {shown(value)}, expected whole numbers", code="evaluation.damaged"
        )
    return int(min(max(value, -1), MAX_PIXELS + 1))  # beyond that it can't be right anyway


def _from_string(text: str, source: str) -> list[int]:
    """Five bits a character from '0' on, least first, a sixth if more follow; differences from the fourth run on."""
    runs: list[int] = []
    position = 0
    while position < len(text):
        value, shift, more = 0, 0, True
        while more:
            if position >= len(text) or not 48 <= ord(text[position]) < 112 or shift > 40:
                raise EvaluationError(f"a mask's run lengths of {source} are damaged", code="evaluation.damaged")
            bits = ord(text[position]) - 48
            value |= (bits & 0x1F) << shift
            more = bool(bits & 0x20)
            position, shift = position + 1, shift + 5
            if not more and bits & 0x10:
                value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
    return runs


def _decoded(segmentation: object, size: tuple[int, int], source: str) -> NDArray[np.bool_]:
    """A mask [H, W] from RLE or polygons."""
    if isinstance(segmentation, Mapping) and isinstance(segmentation.get("counts"), (str, list)):
        if "size" in segmentation and _size(segmentation["size"], source) != size:
            raise EvaluationError(
                f"a mask of {source} has another size than {size[1]}×{size[0]}", code="evaluation.size"
            )
        return decode_rle(segmentation["counts"], size, source)
    if isinstance(segmentation, list) and segmentation:
        mask = np.zeros(size, np.uint8)
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            polygons = [np.array(polygon, np.float64).reshape(-1, 2) for polygon in segmentation]
            if all(len(p) and np.isfinite(p).all() and np.abs(p).max() < 1e6 for p in polygons):
                cv2.fillPoly(mask, [np.rint(polygon).astype(np.int32) for polygon in polygons], 1)
                return mask.astype(np.bool_)
    raise EvaluationError(f"a mask of {source} is neither RLE nor polygons", code="evaluation.format")


def _size(given: object, source: str) -> tuple[int, int]:
    """(height, width)."""
    if isinstance(given, list | tuple) and len(given) == 2 and all(type(side) is int for side in given):
        height, width = int(given[0]), int(given[1])
        if 0 < height * width <= MAX_PIXELS and height > 0:
            return height, width
    raise EvaluationError(
        f"the size {shown(given)} of {source} is not [height, width] of at most {MAX_PIXELS} pixels",
        code="evaluation.range",
    )


def _check_size(size: tuple[int, int], camera: Camera | None, source: str) -> None:
    if camera is not None and size != (camera.height, camera.width):
        raise EvaluationError(
            f"{source} is {size[1]}×{size[0]} pixels, its frame {camera.width}×{camera.height}; resize it",
            code="evaluation.size",
        )
