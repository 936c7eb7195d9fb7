"""Colours that stand for classes: CVAT's labelmap.txt, PASCAL VOC's colour map."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from feature_gs_ros.core.camera import Image
from feature_gs_ros.core.errors import EvaluationError
from feature_gs_ros.core.text import shown
from feature_gs_ros.io.files import is_file, read_regular

FILE = "labelmap.txt"
MAX_FILE = 1 << 20  # bytes
BACKGROUND = "background"
IGNORED = 255


@dataclass(frozen=True, eq=False)
class ColourTable:
    """Label and name by colour, packed as red · 65536 + green · 256 + blue."""

    colours: NDArray[np.uint32]  # [C] ascending
    values: NDArray[np.uint16]  # [C]
    source: str  # for people: "by '…/labelmap.txt': 1 mug, 2 bowl"
    names: dict[int, str]  # by label, where the table has them

    @staticmethod
    def of(folder: Path) -> ColourTable:
        """The table of a folder of masks: a `FILE` in it or beside it, else PASCAL VOC's.

        Raises:
            EvaluationError: the file is damaged.
        """
        for path in (folder / FILE, folder.parent / FILE):
            if is_file(path):
                return _of_cvat(path)
        return _of_labels(
            {tuple(colour): value for value, colour in enumerate(voc_colours().tolist())}, "by PASCAL VOC's colours"
        )

    def labels(self, image: Image, source: str) -> NDArray[np.uint16]:
        """Labels [H, W] of an image [H, W, 3] of colours.

        Raises:
            EvaluationError: one of them isn't in the table.
        """
        packed = image.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
        places = np.searchsorted(self.colours, packed).clip(max=len(self.colours) - 1)
        unknown = self.colours[places] != packed
        if unknown.any():
            red, green, blue = (int(value) for value in image[unknown][0])
            raise EvaluationError(
                f"mask '{source}' holds the colour {red}, {green}, {blue}, which has no label {self.source}: put "
                f"CVAT's {FILE} with lines name:R,G,B:: beside the masks, or save the labels as one channel",
                code="evaluation.label",
            )
        labels: NDArray[np.uint16] = self.values[places]
        return labels


def voc_colours() -> NDArray[np.uint8]:
    """PASCAL VOC's colours [256, 3] by label: its bits, spread over the highest bits of red, green and blue."""
    labels = np.arange(256)
    colours = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (((labels >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    return colours


def _of_cvat(path: Path) -> ColourTable:
    """``name:R,G,B:parts:actions`` line by line; labels are numbered in their order, the background is 0."""
    try:
        lines = read_regular(path, MAX_FILE).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationError(f"can't read '{path}': {error}", code="evaluation.unreadable") from error
    table: dict[tuple[int, ...], int] = {}
    names: list[str] = []
    for line in lines:
        name, _, rest = line.partition(":")
        if not line.strip() or line.startswith("#"):
            continue
        words = rest.split(":")[0].split(",")
        if len(words) != 3 or not all(word.strip().isascii() and word.strip().isdigit() for word in words):
            raise EvaluationError(f"'{path}' holds {shown(line)}, expected name:R,G,B::", code="evaluation.value")
        colour = tuple(int(word) for word in words)
        if max(colour) > 255 or colour in table:
            raise EvaluationError(
                f"'{path}' gives {shown(name)} the colour {shown(words)}, which is another one's or none",
                code="evaluation.duplicate",
            )
        if name.strip().lower() != BACKGROUND:
            names.append(name.strip())
        value = len(names)
        table[colour] = 0 if name.strip().lower() == BACKGROUND else value + (value >= IGNORED)
    if not names:
        raise EvaluationError(f"'{path}' names no labels", code="evaluation.empty")
    table.setdefault((0, 0, 0), 0)
    named = {number + (number >= IGNORED): name for number, name in enumerate(names, start=1)}
    told = ", ".join(f"{number} {name}" for number, name in list(named.items())[:8])
    return _of_labels(table, f"by '{path}': {told}", named)


def _of_labels(table: dict[tuple[int, ...], int], source: str, names: dict[int, str] | None = None) -> ColourTable:
    packed = np.array([colour[0] << 16 | colour[1] << 8 | colour[2] for colour in table], np.uint32)
    order = np.argsort(packed)
    return ColourTable(packed[order], np.array(list(table.values()), np.uint16)[order], source, names or {})
