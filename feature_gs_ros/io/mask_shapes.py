"""Shapes of masks in JSON, COCO's run lengths and polygons, to label images."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from feature_gs_ros.core.camera import Camera
from feature_gs_ros.core.errors import EvaluationError
from feature_gs_ros.core.text import shown
from feature_gs_ros.io.images import MAX_PIXELS
from feature_gs_ros.io.masks import IGNORED

MAX_MASKS = 65000  # of one image: labels are 16 bit and 255 is taken
MAX_MASK_PIXELS = 1 << 34  # of all masks of one image together: 1,400 of twelve megapixels


def mask_numbers() -> Iterator[int]:
    """1, 2, … without 255, which stands for pixels that don't count."""
    return (number + (number >= IGNORED) for number in itertools.count(1))


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
    areas = [int(np.count_nonzero(decoded_shape(mask, size, source))) for mask in masks]
    labels = np.zeros(size, np.uint16)
    for index in sorted(range(len(masks)), key=lambda index: -areas[index]):
        labels[decoded_shape(masks[index], size, source)] = values[index]
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


def decoded_shape(segmentation: object, size: tuple[int, int], source: str) -> NDArray[np.bool_]:
    """A mask [H, W] from RLE or polygons.

    Raises:
        EvaluationError: it is neither, damaged, or of another size.
    """
    if isinstance(segmentation, Mapping) and isinstance(segmentation.get("counts"), (str, list)):
        if "size" in segmentation and mask_size(segmentation["size"], source) != size:
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


def mask_size(given: object, source: str) -> tuple[int, int]:
    """(height, width) of a mask, from [height, width] in a file.

    Raises:
        EvaluationError: it is no such size, or too large.
    """
    if isinstance(given, list | tuple) and len(given) == 2 and all(type(side) is int for side in given):
        height, width = int(given[0]), int(given[1])
        if 0 < height * width <= MAX_PIXELS and height > 0:
            return height, width
    raise EvaluationError(
        f"the size {shown(given)} of {source} is not [height, width] of at most {MAX_PIXELS} pixels",
        code="evaluation.range",
    )


def check_mask_size(size: tuple[int, int], camera: Camera | None, source: str) -> None:
    """
    Raises:
        EvaluationError: a mask is of another size (height, width) than its frame.
    """
    if camera is not None and size != (camera.height, camera.width):
        raise EvaluationError(
            f"{source} is {size[1]}×{size[0]} pixels, its frame {camera.width}×{camera.height}; resize it",
            code="evaluation.size",
        )
