"""Label images by frame name, and the names of their classes."""

from __future__ import annotations

import logging
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from feature_gs_ros.core.camera import Camera
from feature_gs_ros.core.errors import EvaluationError, ImageError
from feature_gs_ros.core.text import shown
from feature_gs_ros.io.colour_tables import ColourTable
from feature_gs_ros.io.images import MAX_PIXELS, decode_compressed, decode_stored, read_image
from feature_gs_ros.io.streams.frame_names import listed_names
from feature_gs_ros.io.structured import read_mapping

_PNG = b"\x89PNG\r\n\x1a\n"
_GREY, _RGB, _PALETTE = 0, 2, 3  # PNG's colour types
IGNORED = 255  # a label that doesn't count
_LOOKED_AT = 16  # masks of a folder, for whether all are binary

log = logging.getLogger(__name__)


class MaskFolder:
    """Label images ``<folder>/<frame name>.png``: a pixel's value is its class.

    Of one channel, with a palette, whose indices are the classes, or in colours: those of CVAT's ``labelmap.txt`` in
    the folder or beside it, numbered in its order with the background as 0, or else PASCAL VOC's. Where all masks hold
    0 and 255 alone they are binary, and 255 is class 1; else 255 is what doesn't count.

    Raises:
        EvaluationError: the folder is missing or holds no PNG.
    """

    kind = "label images"

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise EvaluationError(f"'{self.folder}' is not a folder of masks", code="evaluation.unreadable")
        self._names = sorted(path.stem for path in self.folder.glob("*.png"))
        if not self._names:
            raise EvaluationError(f"'{self.folder}' holds no masks; expected <frame name>.png", code="evaluation.empty")
        self._is_binary: bool | None = None  # None: not looked at yet
        self._table: ColourTable | None = None

    @property
    def labels(self) -> dict[int, str]:
        """Names by value, with 0 for the background, where a table of colours has them; else none.

        Raises:
            EvaluationError: that table is damaged.
        """
        names = ColourTable.of(self.folder).names
        return {0: "background", **names} if names else {}

    def names(self) -> list[str]:
        """Names of the frames that have a mask, sorted."""
        return list(self._names)

    def load(self, name: str, camera: Camera | None = None) -> NDArray[np.uint16]:
        """Labels [H, W] of a frame.

        Args:
            name: of the frame.
            camera: of the frame, to check the size by.

        Raises:
            EvaluationError: no such mask, not one channel of 8 or 16 bits, damaged, or not the camera's size.
        """
        path = self.folder / f"{name}.png"
        if name not in self._names:
            raise EvaluationError(f"no mask '{path}'; there are {listed_names(self._names)}", code="evaluation.missing")
        try:
            data = read_image(path)
        except ImageError as error:
            raise EvaluationError(str(error), code="evaluation.mask") from error
        width, height = _check_header(data, path)
        if camera is not None and (width, height) != (camera.width, camera.height):
            raise EvaluationError(
                f"mask '{path}' is {width}×{height} pixels, its frame {camera.width}×{camera.height}; "
                "resize it to the frame with nearest neighbours",
                code="evaluation.size",
            )
        if self._is_binary is None:
            self._is_binary = self._all_binary()
        labels = self._labels(data, path)
        if not self._is_binary:
            return labels
        if not _binary(labels):
            raise EvaluationError(
                f"mask '{path}' holds other values than 0 and 255, which others of '{self.folder}' are limited to: "
                "binary masks and labels don't mix; write the object of binary masks as 1",
                code="evaluation.label",
            )
        return (labels > 0).astype(np.uint16)

    def _labels(self, data: bytes, path: Path) -> NDArray[np.uint16]:
        if data[25] != _RGB:
            return _decoded(data, path)
        if self._table is None:
            self._table = ColourTable.of(self.folder)
            log.warning("masks of '%s' are in colours: read %s", self.folder, self._table.source)
        try:
            return self._table.labels(decode_compressed(data, str(path)), str(path))
        except ImageError as error:
            raise EvaluationError(f"the mask can't be used: {error}", code="evaluation.mask") from error

    def _all_binary(self) -> bool:
        """Whether a few masks over the whole folder hold 0 and 255 alone, and both; said in a line."""
        values: set[int] = set()
        for name in self._names[:: -(-len(self._names) // _LOOKED_AT)]:
            path = self.folder / f"{name}.png"
            try:
                data = read_image(path)
                _check_header(data, path)
                values |= {int(value) for value in np.unique(self._labels(data, path))}
            except (ImageError, EvaluationError):  # it is reported where it is used
                continue
        if values != {0, IGNORED}:
            return False
        log.warning("masks of '%s' hold 0 and 255 alone: read as binary, 255 is class 1", self.folder)
        return True


def load_labels(path: str | Path) -> dict[int, str]:
    """Names of the classes by pixel value, from a YAML file of either ``1: mug`` or ``mug: 1`` lines.

    Raises:
        EvaluationError: the file is missing or damaged, a value is no number from 0 to 65535 or no name, or
            occurs twice.
    """
    path = Path(path)
    labels: dict[int, str] = {}
    names: set[str] = set()
    for key, value in read_mapping(path, EvaluationError).items():
        label, name = (key, value) if isinstance(key, int) else (value, key)
        if isinstance(label, bool) or not isinstance(label, int) or not isinstance(name, str):
            raise EvaluationError(
                f"'{path}' holds {shown({key: value})}, expected a number and a name", code="evaluation.value"
            )
        if not 0 <= label <= 65535:
            raise EvaluationError(
                f"'{path}' gives {shown(name)} the value {shown(label)}, masks hold 0 to 65535", code="evaluation.label"
            )
        if label in labels or name in names:
            raise EvaluationError(
                f"'{path}' holds {shown({key: value})} beside another line with that name or value",
                code="evaluation.duplicate",
            )
        labels[label] = name
        names.add(name)
    if not labels:
        raise EvaluationError(f"'{path}' names no classes", code="evaluation.empty")
    return labels


def _decoded(data: bytes, path: Path) -> NDArray[np.uint16]:
    """Labels [H, W] of a PNG whose header was checked."""
    depth, is_palette = data[24], data[25] == _PALETTE
    try:
        labels = decode_stored(_as_grey(data) if is_palette else data, str(path)).astype(np.uint16)
    except ImageError as error:
        raise EvaluationError(f"the mask can't be used: {error}", code="evaluation.mask") from error
    # Greys of fewer bits are spread to 8 as they are read.
    return labels // np.uint16(255 // ((1 << depth) - 1)) if is_palette and depth < 8 else labels


def _as_grey(data: bytes) -> bytes:
    """A PNG with a palette as greys: its pixels are stored alike, and its indices are the labels."""
    header = data[12:25] + bytes((_GREY,)) + data[26:29]
    kept = [data[: len(_PNG)], data[8:12], header, struct.pack(">I", zlib.crc32(header))]
    offset = 33
    while offset + 12 <= len(data):
        end = offset + 12 + int.from_bytes(data[offset : offset + 4], "big")
        if data[offset + 4 : offset + 8] not in (b"PLTE", b"tRNS"):
            kept.append(data[offset:end])
        offset = end
    return b"".join(kept)


def _binary(labels: NDArray[np.uint16]) -> bool:
    return bool(np.isin(labels, (0, IGNORED)).all())


def _check_header(data: bytes, path: Path) -> tuple[int, int]:
    """(width, height) of a PNG with one channel of 8 or 16 bits."""
    if not data.startswith(_PNG) or len(data) < 26:
        raise EvaluationError(f"mask '{path}' is not a PNG, or damaged", code="evaluation.damaged")
    width, height = (int.from_bytes(data[start : start + 4], "big") for start in (16, 20))
    depth, colour_type = data[24], data[25]
    known = (colour_type == _GREY and depth in (8, 16)) or colour_type == _PALETTE or (colour_type, depth) == (_RGB, 8)
    if not known:
        kind = {2: "16-bit RGB", 4: "grey with alpha", 6: "RGBA"}.get(colour_type, f"{depth}-bit grey")
        raise EvaluationError(
            f"mask '{path}' is a {kind} image; save the labels as one channel of 8 or 16 bits, or with a palette",
            code="evaluation.format",
        )
    if not 0 < width * height <= MAX_PIXELS:
        raise EvaluationError(
            f"the header of mask '{path}' names {width}×{height} pixels, at most {MAX_PIXELS} are read",
            code="evaluation.range",
        )
    return width, height
