"""A mask that a round brush paints and erases, stroke by stroke."""

from __future__ import annotations

from collections import deque

import cv2
import numpy as np
from numpy.typing import NDArray

Pixel = tuple[float, float]  # u, v from the image's corner

MAX_UNDO = 50  # strokes that can be taken back
FRACTION_BITS = 4  # of a pixel, of where the brush is


class Drawing:
    """A mask [H, W] over an image; what it takes is bounded, however much is painted."""

    def __init__(self, height: int, width: int) -> None:
        self._mask: NDArray[np.uint8] = np.zeros((height, width), np.uint8)
        self._before: deque[NDArray[np.uint8]] = deque(maxlen=MAX_UNDO)  # packed masks

    @property
    def mask(self) -> NDArray[np.bool_]:
        """[H, W], a copy."""
        return self._mask > 0

    @property
    def pixels(self) -> int:
        """That are painted."""
        return int(np.count_nonzero(self._mask))

    def begin(self) -> None:
        """A stroke begins: `undo` comes back to here."""
        self._before.append(np.packbits(self._mask))

    def stroke(self, start: Pixel, end: Pixel, radius: float, erase: bool = False) -> None:
        """Paint, or erase, what lies within ``radius`` pixels of the line from ``start`` to ``end``."""
        value = 0 if erase else 1
        first, last = _fixed(start), _fixed(end)
        cv2.line(self._mask, first, last, value, max(1, round(2 * radius)), cv2.LINE_8, FRACTION_BITS)
        for point in (first, last):  # a line's ends are round, but not those of a short one
            cv2.circle(self._mask, point, round(radius * 2**FRACTION_BITS), value, -1, cv2.LINE_8, FRACTION_BITS)

    def undo(self) -> bool:
        """Take the last stroke back; whether there was one."""
        if not self._before:
            return False
        packed = self._before.pop()
        self._mask = np.unpackbits(packed, count=self._mask.size).reshape(self._mask.shape)
        return True

    def clear(self) -> None:
        """Erase everything, which can be taken back, too."""
        self.begin()
        self._mask = np.zeros_like(self._mask)


def _fixed(pixel: Pixel) -> tuple[int, int]:
    """Of OpenCV's fixed point, whose pixels' centres are whole."""
    scale = 2**FRACTION_BITS
    return round((pixel[0] - 0.5) * scale), round((pixel[1] - 0.5) * scale)
