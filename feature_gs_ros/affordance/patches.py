"""Patches of an annotated image: a feature each, and which fraction of it each affordance covers."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_opening, binary_propagation, distance_transform_edt
from torch import Tensor

from feature_gs_ros.core.camera import Image
from feature_gs_ros.core.errors import AffordanceError
from feature_gs_ros.core.feature_grid import FeatureGrid, sample
from feature_gs_ros.extractors.base import Extractor

IGNORE = 255  # pixels of this label count for nothing
TURNS = 4  # copies of the image, each turned on by 90°, that a patch's feature is the mean of
MAX_SIDE = 1280  # larger images are reduced to it: about the size at which the map's own views were seen
MAX_PATCHES = 20_000  # of one source, about
MIN_STEP = 2  # pixels between patches
MARGIN = 6  # steps around an ignored area within which features are of what is ignored, too
NEAR = 8  # steps around what is marked within which no patch is left out

Labels = NDArray[np.integer]  # [H, W]


@dataclass(frozen=True, eq=False)
class Patches:
    """M squares of an image."""

    features: Tensor  # [M, D] float32
    fractions: Tensor  # [M, A] float32, the fraction of the square's area that is of affordance 1, 2, …


def make_patches(
    image: Image, labels: Labels, affordances: int, extractor: Extractor, frame: str = "", turns: int = TURNS
) -> Patches:
    """Features and fractions of the patches of an image with labels 0 (none), 1 … ``affordances``, or 255 (ignored).

    A feature field is the mean over many views, so that its features neither lie on one extractor's grid nor know which
    side was up. A source has one view only. Its features are made alike: the mean over turned copies of the image,
    taken by U at points half a cell apart; thin objects then keep a feature of their own. Unmarked patches are the
    negatives; far from what is marked they are thinned out.

    Args:
        frame: the image's name, for extractors that read files by name.
        turns: 1 to 4 copies; 1 for extractors that don't look at the image.

    Raises:
        AffordanceError: ``turns`` is out of range, or the features are not finite.
        ExtractorError: the extractor can't take the image.
    """
    if not 1 <= turns <= 4:
        raise AffordanceError(f"turns={turns} copies of the image; choose 1 to 4", code="affordance.range")
    # Reduced in proportion; the labels' fractions need no reduced labels.
    height, width = image.shape[:2]
    reduction = min(1.0, MAX_SIDE / max(height, width))
    if reduction < 1:
        size = (max(1, round(width * reduction)), max(1, round(height * reduction)))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    grids = [_turned_back(extractor.extract(_turned(image, turn), frame), turn) for turn in range(turns)]
    rows, columns = _lattice(grids[0], image.shape[1], image.shape[0])
    fractions, counted = _covered_fractions(labels, affordances, rows, columns)
    kept = _thinned(fractions, counted & ~_beside_ignored(fractions, counted))
    y, x = (torch.from_numpy(indices.astype(np.float64)) for indices in kept)
    features = torch.stack([_patch_means(grid, x, y, rows, columns) for grid in grids]).mean(dim=0)
    if not bool(torch.isfinite(features).all()):
        raise AffordanceError(
            f"the extractor '{extractor.identity.name}' gives NaN or Inf for this image; it is left out",
            code="affordance.not-finite",
        )
    return Patches(features, torch.from_numpy(fractions[kept]))


def _patch_means(grid: FeatureGrid, x: Tensor, y: Tensor, rows: int, columns: int) -> Tensor:
    """Features [M, D] of the patches in columns x and rows y [M] of the lattice: U at its centre, or at several
    points where cells are smaller than a patch."""
    points = max(
        math.ceil((1 / columns) / ((grid.right - grid.left) / grid.columns) - 1e-6),
        math.ceil((1 / rows) / ((grid.bottom - grid.top) / grid.rows) - 1e-6),
    )
    total = torch.zeros(len(x), grid.dimension)
    for i, j in itertools.product(range(points), repeat=2):
        total += sample(grid, (x + (i + 0.5) / points) / columns, (y + (j + 0.5) / points) / rows)
    return total / points**2


def _turned(image: Image, turn: int) -> Image:
    return np.ascontiguousarray(np.rot90(image, turn))


def _turned_back(grid: FeatureGrid, turn: int) -> FeatureGrid:
    """The grid of an image that `_turned` turned, as one of the image itself."""
    left, top, right, bottom = grid.left, grid.top, grid.right, grid.bottom
    for _ in range(turn):
        left, top, right, bottom = 1 - bottom, left, 1 - top, right
    return replace(grid, values=torch.rot90(grid.values, -turn, (0, 1)), left=left, top=top, right=right, bottom=bottom)


def _lattice(grid: FeatureGrid, width: int, height: int) -> tuple[int, int]:
    """Rows and columns of patches, about half a cell each."""
    cell = min((grid.right - grid.left) * width / grid.columns, (grid.bottom - grid.top) * height / grid.rows)
    step = max(float(MIN_STEP), cell / 2)
    return max(1, round(height / step)), max(1, round(width / step))


def _covered_fractions(
    labels: Labels, affordances: int, rows: int, columns: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Fraction [rows, columns, A] of each patch's pixels, and whether at least half of them count, [rows, columns]."""

    def fraction(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
        reduced = cv2.resize(mask.astype(np.float32), (columns, rows), interpolation=cv2.INTER_AREA)
        return np.asarray(reduced, dtype=np.float32)

    counted = fraction(labels != IGNORE)
    covered = np.stack([fraction(labels == 1 + index) for index in range(affordances)], axis=-1)
    return np.clip(covered / np.maximum(counted, 1e-6)[:, :, None], 0.0, 1.0), counted >= 0.5


def _beside_ignored(
    fractions: NDArray[np.float32],  # [rows, columns, A]
    counted: NDArray[np.bool_],  # [rows, columns]
) -> NDArray[np.bool_]:
    """Unmarked patches [rows, columns] within `MARGIN` of an ignored area; the thin line around an object is none.

    A second mug in the picture, left unmarked, would speak against every handle; ignored, its surroundings still would.
    """
    ignored = np.pad(~counted, 2, mode="edge")
    # Whatever hangs on a broad part is of the area, down to its thin handle.
    areas = binary_propagation(binary_opening(ignored, iterations=2), mask=ignored)[2:-2, 2:-2]
    if not areas.any():
        return np.zeros_like(counted)
    beside: NDArray[np.bool_] = (distance_transform_edt(~areas) <= MARGIN) & ~(fractions > 0).any(axis=2)
    return beside


def _thinned(
    fractions: NDArray[np.float32],  # [rows, columns, A]
    counted: NDArray[np.bool_],  # [rows, columns]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns of the patches that are kept: all near what is marked, then others, evenly spread."""
    near = counted & (distance_transform_edt(~(fractions > 0).any(axis=2)) <= NEAR)
    far = counted & ~near
    # Ranks of a low-discrepancy sequence: those below any fraction are that fraction of the patches, evenly spread.
    row, column = np.indices(near.shape)
    rank = (row * 0.7548776662466927 + column * 0.5698402909980532) % 1.0
    kept = near & (rank * np.count_nonzero(near) < MAX_PATCHES)
    kept |= far & (rank * np.count_nonzero(far) < MAX_PATCHES - np.count_nonzero(kept))
    rows, columns = np.nonzero(kept)
    return rows, columns
