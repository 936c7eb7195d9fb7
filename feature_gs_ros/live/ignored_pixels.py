"""Pixels that don't count, such as those of the robot's own arm, and those whose feature is mixed of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from feature_gs_ros.core.feature_grid import FeatureGrid, pixel_weights

TOUCHED = 0.02  # fraction of a cell from which its feature is taken for one of what is ignored


def counted_pixels(ignored: NDArray[np.bool_], grid: FeatureGrid) -> NDArray[np.bool_]:
    """True [H, W] where a pixel isn't ignored [H, W], nor are any of the cells that U mixes its feature of.

    A cell that the arm covers in part has some of the arm's feature; its neighbours' pixels would bring that onto what
    is beside the arm.
    """
    height, width = ignored.shape
    mixed_columns, mixed_rows = (axis.dense() > 0 for axis in pixel_weights(grid, width, height))
    columns, rows = (axis.dense() for axis in pixel_weights(replace(grid, interpolation="nearest"), width, height))
    pixels = np.maximum(rows.sum(axis=0)[:, None] * columns.sum(axis=0)[None, :], 1)
    touched = rows.T @ ignored.astype(np.float32) @ columns > TOUCHED * pixels  # [rows, columns]
    mixed = mixed_rows.astype(np.float32) @ touched.astype(np.float32) @ mixed_columns.T.astype(np.float32) > 0
    counted: NDArray[np.bool_] = ~ignored & ~mixed
    return counted
