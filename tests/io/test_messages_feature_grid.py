"""Feature grids as messages: a round trip, and messages that lie."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from feature_gs_ros.core.errors import GridError
from feature_gs_ros.core.feature_grid import FeatureGrid
from feature_gs_ros.extractors.base import ExtractorIdentity
from feature_gs_ros.io.messages.feature_grid import fill_grid, grid_from_message

EXTRACTOR = ExtractorIdentity("color", "abc", {"space": "lab", "cell": 8})


@dataclass
class Teacher:
    name: str = ""
    weights: str = ""
    preprocessing: str = ""


@dataclass
class Message:
    rows: int = 0
    columns: int = 0
    dimension: int = 0
    left: float = 0.0
    top: float = 0.0
    right: float = 0.0
    bottom: float = 0.0
    interpolation: int = 0
    teacher: Teacher = field(default_factory=Teacher)
    data: Any = b""


def message() -> Message:
    filled = Message()
    values = torch.arange(2 * 3 * 4, dtype=torch.float32).reshape(2, 3, 4) / 8
    fill_grid(filled, FeatureGrid(values, -0.25, 0.0, 1.5, 1.125, "nearest"), EXTRACTOR)
    return filled


def test_a_grid_comes_back_as_it_was():
    grid = grid_from_message(message(), EXTRACTOR)
    assert grid.values.dtype == torch.float16
    assert torch.equal(grid.values.float(), torch.arange(24).reshape(2, 3, 4) / 8)
    assert (grid.left, grid.top, grid.right, grid.bottom, grid.interpolation) == (-0.25, 0.0, 1.5, 1.125, "nearest")


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("rows", 3, "3×3 cells × 4 numbers holds 48 bytes"),
        ("columns", 0, "2×0 cells"),
        ("dimension", 1 << 31, "bytes"),
        ("data", b"", "0 bytes"),
        ("interpolation", 2, "unknown interpolation 2"),
        ("right", -1.0, "empty"),
        ("bottom", float("nan"), "empty"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_before_anything_is_allocated(name, value, complaint):
    lying = message()
    setattr(lying, name, value)
    with pytest.raises(GridError, match=complaint):
        grid_from_message(lying, EXTRACTOR)


@pytest.mark.parametrize(
    "other",
    [
        ExtractorIdentity("imagenet", "abc", {"space": "lab", "cell": 8}),
        ExtractorIdentity("color", "abd", {"space": "lab", "cell": 8}),
        ExtractorIdentity("color", "abc", {"space": "rgb", "cell": 8}),
    ],
)
def test_a_grid_of_another_extractor_is_refused(other):
    with pytest.raises(GridError, match="extractor 'color'"):
        grid_from_message(message(), other)


def test_values_beyond_float16_are_refused():
    with pytest.raises(GridError, match="float16"):
        fill_grid(Message(), FeatureGrid(torch.full((1, 1, 1), 1e6)), EXTRACTOR)
