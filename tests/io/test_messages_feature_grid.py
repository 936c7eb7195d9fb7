"""Feature grids as messages: a round trip, and messages that lie."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from feature_gs_ros.core.feature_grid import FeatureGrid
from feature_gs_ros.extractors.base import ExtractorIdentity
from feature_gs_ros.io.messages.feature_grid import fill_grid, grid_from_message
from tests.errors import raises

EXTRACTOR = ExtractorIdentity("color", "abc", {"space": "lab", "cell": 8})


@dataclass
class Extractor:
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
    extractor: Extractor = field(default_factory=Extractor)
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
    ("name", "value", "fault"),
    [
        ("rows", 3, ("grid.value", "3×3", "48")),
        ("columns", 0, ("grid.value", "2×0")),
        ("dimension", 1 << 31, ("grid.value", "48")),
        ("data", b"", ("grid.value", "2×3")),
        ("interpolation", 2, ("grid.unknown",)),
        ("right", -1.0, ("grid.empty",)),
        ("bottom", float("nan"), ("grid.empty",)),
    ],
)
def test_sizes_that_do_not_fit_are_refused_before_anything_is_allocated(name, value, fault):
    lying = message()
    setattr(lying, name, value)
    with raises(*fault):
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
    with raises("grid.mismatch", "'color'"):
        grid_from_message(message(), other)


def test_values_beyond_float16_are_refused():
    with raises("grid.not-finite", "16"):
        fill_grid(Message(), FeatureGrid(torch.full((1, 1, 1), 1e6)), EXTRACTOR)
