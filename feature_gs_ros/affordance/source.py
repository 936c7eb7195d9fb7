"""An annotated image as a source of affordances: what is marked on it, and its patches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feature_gs_ros.affordance.patches import IGNORE, TURNS, Labels, make_patches
from feature_gs_ros.core.camera import Image
from feature_gs_ros.core.errors import AffordanceError
from feature_gs_ros.extractors.base import Extractor, reads_files
from feature_gs_ros.io.images import decode_compressed

MAX_NAME_CHARACTERS = 100  # characters
MAX_AFFORDANCES = 254  # of one source: labels have 8 bits, 0 and 255 are taken


@dataclass(frozen=True, eq=False)
class Source:
    """An image with one or more affordances marked, and its patches. Build one by `make_source`."""

    name: str
    affordances: tuple[str, ...]
    object: str  # name of the marked object, empty if none was given
    image: Tensor  # PNG as bytes [B] uint8, for pictures
    labels: Tensor  # PNG as bytes [B] uint8: 0 unmarked, k affordances[k − 1], 255 ignored
    features: Tensor  # [M, D] float16
    fractions: Tensor  # [M, A] float16, the fraction of each patch that each affordance covers

    def decoded_image(self) -> Image:
        """[H, W, 3] RGB."""
        return decode_compressed(self.image.numpy().tobytes(), f"the image of the source '{self.name}'")

    def decoded_labels(self) -> NDArray[np.uint8]:
        """[H, W]."""
        labels = decode_compressed(self.labels.numpy().tobytes(), f"the labels of the source '{self.name}'")
        return np.ascontiguousarray(labels[:, :, 0])


def make_source(
    image: Image,
    labels: Labels,
    affordances: Mapping[int, str],
    extractor: Extractor,
    *,
    name: str,
    object_word: str = "",
    frame: str = "",
    turns: int | None = None,
) -> Source:
    """A source from an image and its annotation.

    Args:
        image: [H, W, 3] uint8 RGB, rectified.
        labels: [H, W], a value of ``affordances`` where one is marked, 255 where a pixel counts for nothing; any
            other value is unmarked. A bool mask has the value 1.
        affordances: names of the label values; 0 is none, whatever it is called.
        extractor: the extractor that also made the fields to transfer to.
        name: unique in a library, no path.
        object_word: the marked object, e.g. "coffee mug"; a text query may limit the transfer to it.
        frame: as for `make_patches`.
        turns: as for `make_patches`; by default `TURNS`, or 1 where the extractor reads files instead of the image.

    Raises:
        AffordanceError: image and labels differ in size, nothing is marked, a name can't be used, or the features
            are not finite.
        ExtractorError: the extractor can't take the image.
    """
    check_name(name, "source")
    if labels.ndim != 2 or labels.shape != image.shape[:2]:
        raise AffordanceError(
            f"the mask of '{name}' is {_size(labels)}, its image {_size(image)}: mark the image at its own size",
            code="affordance.size",
        )
    names = {value: check_name(word, "affordance") for value, word in affordances.items() if value not in (0, IGNORE)}
    marked = [value for value in sorted(names) if bool((labels == value).any())]
    if not marked:
        known = ", ".join(f"{value} ({word})" for value, word in sorted(names.items())) or "none"
        raise AffordanceError(
            f"the mask of '{name}' marks nothing: no pixel has a value that is named; named: {known}",
            code="affordance.empty",
        )
    if len(marked) > MAX_AFFORDANCES:
        raise AffordanceError(
            f"'{name}' marks {len(marked)} affordances, at most {MAX_AFFORDANCES} are taken", code="affordance.range"
        )
    compact = np.where(labels == IGNORE, IGNORE, 0).astype(np.uint8)
    for index, value in enumerate(marked):
        compact[labels == value] = index + 1
    if turns is None:
        turns = 1 if reads_files(extractor) else TURNS
    patches = make_patches(image, compact, len(marked), extractor, frame, turns)
    if not bool((patches.fractions.sum(dim=0) > 0).all()):
        raise AffordanceError(
            f"what '{name}' marks is smaller than a patch, or ignored; mark more of it", code="affordance.empty"
        )
    return Source(
        name,
        tuple(names[value] for value in marked),
        object_word.strip(),
        _png(np.ascontiguousarray(image[:, :, ::-1])),
        _png(compact),
        patches.features.to(torch.float16),
        patches.fractions.to(torch.float16),
    )


def box_labels(height: int, width: int, box: Sequence[float]) -> NDArray[np.uint8]:
    """Labels [H, W] that are 1 inside a box (left, top, right, bottom) in pixels from the image's corner.

    Raises:
        AffordanceError: the box is not finite, empty, or outside the image.
    """
    if len(box) != 4 or not np.isfinite(box).all():
        raise AffordanceError(
            f"box {tuple(box)} is not four finite numbers left, top, right, bottom", code="affordance.value"
        )
    left, right = (int(np.clip(round(value), 0, width)) for value in (box[0], box[2]))
    top, bottom = (int(np.clip(round(value), 0, height)) for value in (box[1], box[3]))
    if right <= left or bottom <= top:
        raise AffordanceError(
            f"box {tuple(box)} holds no pixel of the image of {width}×{height}", code="affordance.empty"
        )
    labels = np.zeros((height, width), np.uint8)
    labels[top:bottom, left:right] = 1
    return labels


def check_name(name: str, what: str) -> str:
    """A name that may stand in a file name.

    Raises:
        AffordanceError: empty, too long, a path or part of one, or not printable.
    """
    if not name.strip() or len(name) > MAX_NAME_CHARACTERS:
        raise AffordanceError(
            f"the {what}'s name has {len(name.strip())} characters, choose 1 to {MAX_NAME_CHARACTERS}",
            code="affordance.range",
        )
    if any(part in name for part in "/\\:") or name.startswith(".") or not name.isprintable():
        raise AffordanceError(
            f"the {what}'s name {name!r} can't be part of a file name; use letters, digits, _ and -",
            code="affordance.name",
        )
    return name


def _size(array: NDArray[Any]) -> str:
    return f"{array.shape[1]}×{array.shape[0]}" if array.ndim >= 2 else str(array.shape)


def _png(pixels: NDArray[np.uint8]) -> Tensor:
    _, data = cv2.imencode(".png", pixels)
    return torch.from_numpy(data.ravel().copy())
