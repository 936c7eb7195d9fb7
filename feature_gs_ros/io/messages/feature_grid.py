"""feature_gs_ros/FeatureGrid ⇄ FeatureGrid and ExtractorIdentity; no ROS import."""

from __future__ import annotations

import array
import json
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from feature_gs_ros.core.errors import GridError
from feature_gs_ros.core.extractor_identity import ExtractorIdentity
from feature_gs_ros.core.feature_grid import FeatureGrid, Interpolation
from feature_gs_ros.io.messages.buffers import byte_array

INTERPOLATIONS: tuple[Interpolation, ...] = ("bilinear", "nearest")  # by the message's constants


class ExtractorMessage(Protocol):
    """feature_gs_ros/Extractor"""

    name: str
    weights: str
    preprocessing: str


class GridMessage(Protocol):
    """feature_gs_ros/FeatureGrid"""

    rows: int
    columns: int
    dimension: int
    left: float
    top: float
    right: float
    bottom: float
    interpolation: int
    data: NDArray[np.uint8]

    @property
    def extractor(self) -> ExtractorMessage: ...


def fill_extractor(message: Any, identity: ExtractorIdentity) -> None:
    """Write an extractor's identity into a message."""
    message.name, message.weights = identity.name, identity.weights
    message.preprocessing = json.dumps(dict(identity.preprocessing), sort_keys=True)


def fill_grid(message: Any, grid: FeatureGrid, identity: ExtractorIdentity) -> None:
    """Write a grid into a message, its values as float16.

    Raises:
        GridError: values beyond float16's range.
    """
    values = grid.values.to("cpu", torch.float16).contiguous()
    if not bool(torch.isfinite(values).all()):
        raise GridError(
            f"the grid of the extractor '{identity.name}' holds values that float16 can't", code="grid.not-finite"
        )
    message.rows, message.columns, message.dimension = grid.rows, grid.columns, grid.dimension
    message.left, message.top, message.right, message.bottom = grid.left, grid.top, grid.right, grid.bottom
    message.interpolation = INTERPOLATIONS.index(grid.interpolation)
    fill_extractor(message.extractor, identity)
    message.data = array.array("B", values.numpy().astype("<f2", copy=False).tobytes())


def grid_from_message(message: GridMessage, identity: ExtractorIdentity) -> FeatureGrid:
    """The grid [rows, columns, D] in a message.

    Raises:
        GridError: another extractor's, or sizes that don't fit the bytes.
    """
    expected = (identity.name, identity.weights, json.dumps(dict(identity.preprocessing), sort_keys=True))
    extractor = message.extractor
    if (extractor.name, extractor.weights, extractor.preprocessing) != expected:
        raise GridError(
            f"grid of the extractor '{extractor.name}' with other weights or preprocessing than '{expected[0]}'",
            code="grid.mismatch",
        )
    shape = (int(message.rows), int(message.columns), int(message.dimension))
    data = byte_array(message.data, "the grid", GridError)
    if min(shape) < 1 or 2 * shape[0] * shape[1] * shape[2] != len(data):
        raise GridError(
            f"grid of {shape[0]}×{shape[1]} cells × {shape[2]} channels holds {len(data)} bytes", code="grid.value"
        )
    if message.interpolation >= len(INTERPOLATIONS):
        raise GridError(f"grid has the unknown interpolation {message.interpolation}", code="grid.unknown")
    values = torch.from_numpy(data.view("<f2").astype(np.float16).reshape(shape))
    return FeatureGrid(
        values, message.left, message.top, message.right, message.bottom, INTERPOLATIONS[message.interpolation]
    )
