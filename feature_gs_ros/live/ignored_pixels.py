"""Pixels that don't count, such as those of the robot's own arm, and those whose feature is mixed of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from feature_gs_ros.core.feature_grid import FeatureGrid

TOUCHED = 0.02  # share of a cell from which its feature is taken for one of what is ignored

Array = NDArray[np.float64]


def counted_pixels(ignored: NDArray[np.bool_], grid: FeatureGrid) -> NDArray[np.bool_]:
    """True [H, W] where a pixel isn't ignored [H, W], nor are any of the cells that U mixes its feature of.

    A cell that the arm covers in part has some of the arm's feature; its neighbours' pixels would bring that onto what
    is beside the arm.
    """
    height, width = ignored.shape
    rows, of_rows = _axis(height, grid.rows, grid.top, grid.bottom, grid.interpolation == "nearest")
    columns, of_columns = _axis(width, grid.columns, grid.left, grid.right, grid.interpolation == "nearest")
    pixels = np.maximum(rows.sum(axis=0)[:, None] * columns.sum(axis=0)[None, :], 1)
    touched = rows.T @ ignored.astype(np.float64) @ columns > TOUCHED * pixels  # [rows, columns]
    mixed = of_rows @ touched.astype(np.float64) @ of_columns.T > 0
    counted: NDArray[np.bool_] = ~ignored & ~mixed
    return counted


def _axis(pixels: int, cells: int, low: float, high: float, nearest: bool) -> tuple[Array, Array]:
    """Of one axis, [pixels, cells]: 1 where a pixel lies in a cell, 1 where it takes some of the cell's feature."""
    at = ((np.arange(pixels) + 0.5) / pixels - low) / (high - low) * cells
    inside, mixing = np.zeros((pixels, cells)), np.zeros((pixels, cells))
    every = np.arange(pixels)
    inside[every, np.clip(np.floor(at), 0, cells - 1).astype(np.int64)] = 1
    if nearest:
        return inside, inside
    place = np.clip(at - 0.5, 0, cells - 1)
    for neighbour in (np.floor(place), np.ceil(place)):
        mixing[every, neighbour.astype(np.int64)] = 1
    return inside, mixing
