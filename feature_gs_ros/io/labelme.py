"""LabelMe's shapes: polygons, rectangles, circles and masks, by their points in pixels."""

from __future__ import annotations

import base64
import binascii
import io
import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from feature_gs_ros.core.errors import EvaluationError, ImageError
from feature_gs_ros.io.images import MAX_PIXELS, decode_grey, image_size
from feature_gs_ros.io.structured import Table

WITHOUT_AREA = ("point", "points", "line", "linestrip")
CORNERS = 64  # of the polygon that stands for a circle

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Crop:
    """A mask that is stored as a PNG of its own rectangle."""

    left: int
    top: int
    png: bytes

    def mask(self, size: tuple[int, int], source: str) -> NDArray[np.bool_]:
        """The mask in an image of a size (height, width); what reaches beyond is cut off.

        Raises:
            EvaluationError: it is damaged, or larger than an image can be.
        """
        try:
            width, height = image_size(io.BytesIO(self.png), source)
            if width * height > min(MAX_PIXELS, 4 * size[0] * size[1]):
                raise EvaluationError(f"a mask of {source} is {width}×{height} pixels", code="evaluation.range")
            part = decode_grey(self.png, source) > 0
        except ImageError as error:
            raise EvaluationError(f"a mask of {source} is no image: {error}", code="evaluation.mask") from error
        whole = np.zeros(size, np.bool_)
        top, left = max(self.top, 0), max(self.left, 0)
        part = part[top - self.top :, left - self.left :][: max(size[0] - top, 0), : max(size[1] - left, 0)]
        whole[top : top + part.shape[0], left : left + part.shape[1]] = part
        return whole


def has_area(entry: Table) -> bool:
    """Whether a shape covers pixels; for one that doesn't, a warning. Other entries than LabelMe's do."""
    kind = entry.get("shape_type")
    if "points" in entry and kind in WITHOUT_AREA:
        log.warning("%s is a %s, which covers no pixels: left out", entry.source, kind)
        return False
    return True


def shape_of(entry: Table) -> object:
    """Polygons [[x, y, …]] as COCO has them, or a `Crop`.

    Raises:
        EvaluationError: another kind of shape, or points that make none.
    """
    kind, values = entry.text("shape_type", "polygon"), entry.numbers("points")
    points = np.array(values[: len(values) // 2 * 2]).reshape(-1, 2)
    if kind == "polygon" and len(points) >= 3:
        return [points.reshape(-1).tolist()]
    if len(points) == 2 and kind in ("rectangle", "circle", "mask"):
        (x0, y0), (x1, y1) = points.tolist()
        if kind == "rectangle":
            return [[x0, y0, x1, y0, x1, y1, x0, y1]]
        if kind == "circle":  # its centre, and a point on it
            angles = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
            radius = float(np.hypot(x1 - x0, y1 - y0))
            around = np.stack([x0 + radius * np.cos(angles), y0 + radius * np.sin(angles)], axis=1)
            return [around.reshape(-1).tolist()]
        try:
            png = base64.b64decode(entry.text("mask"), validate=True)
        except binascii.Error as error:
            raise EvaluationError(
                f"'mask' of {entry.source} is no base64: {error}", code="evaluation.damaged"
            ) from error
        if max(abs(x0), abs(y0)) < 1e6:
            return Crop(round(x0), round(y0), png)
    raise EvaluationError(
        f"{entry.source} is a {kind!r} of {len(points)} points; polygons, rectangles, circles and masks are read",
        code="evaluation.format",
    )
