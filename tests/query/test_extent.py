"""Parts that are selected grow to the objects that stand free there, and to nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.query.extent import whole_object, whole_objects

TABLE, BOTTLE = 5000, 900


def table_with_bottle(count: int = 1, noise: float = 0.002) -> GaussianMap:
    """A square metre of table at z = 0, and bottles, 24 cm tall, that stand half a metre apart on it."""
    rng = np.random.default_rng(0)
    table = np.column_stack([rng.uniform(-0.5, 0.5, (TABLE, 2)), rng.normal(0, noise, TABLE)])
    angle, height = rng.uniform(0, 2 * np.pi, BOTTLE), rng.uniform(0, 0.24, BOTTLE)
    radius = np.where(height < 0.16, 0.04, 0.015)
    bottle = np.column_stack([radius * np.cos(angle), radius * np.sin(angle), height])
    points = np.concatenate([table, *(bottle + [0.5 * index, 0, 0] for index in range(count))])
    return GaussianMap.from_tensors(
        torch.from_numpy(points),
        torch.tensor([[1.0, 0, 0, 0]]).expand(len(points), 4),
        torch.full((len(points), 3), 0.01),
        torch.full((len(points),), 0.9),
        torch.zeros(len(points), 1, 3),
    )


def part_of(gaussians: GaussianMap, low: float, high: float, bottle: int = 0) -> torch.Tensor:
    rows = torch.arange(len(gaussians))
    own = (rows >= TABLE + bottle * BOTTLE) & (rows < TABLE + (bottle + 1) * BOTTLE)
    return own & (gaussians.means[:, 2] >= low) & (gaussians.means[:, 2] <= high)


@pytest.mark.parametrize(("low", "high"), [(0.14, 0.24), (0.04, 0.14)])
def test_a_part_grows_to_the_bottle_and_not_to_the_table(low: float, high: float) -> None:
    gaussians = table_with_bottle()
    part = part_of(gaussians, low, high)
    whole = whole_object(gaussians, part)
    assert bool(whole[part].all())
    assert int(whole[TABLE:].sum()) > 0.9 * BOTTLE
    assert int(whole[:TABLE].sum()) < 0.02 * TABLE


def test_what_is_whole_or_has_no_end_stays_as_it_is() -> None:
    gaussians = table_with_bottle()
    bottle = part_of(gaussians, -1, 1)
    assert torch.equal(whole_object(gaussians, bottle), bottle)
    patch = (torch.arange(len(gaussians)) < TABLE) & (gaussians.means[:, 0].abs() < 0.1)
    patch &= gaussians.means[:, 1] < -0.2
    assert torch.equal(whole_object(gaussians, patch), patch)
    nothing = torch.zeros_like(patch)
    assert torch.equal(whole_objects(gaussians, nothing), nothing)


def test_each_of_several_grows() -> None:
    gaussians = table_with_bottle(2)
    parts = part_of(gaussians, 0.14, 0.24) | part_of(gaussians, 0.14, 0.24, bottle=1)
    whole = whole_objects(gaussians, parts)
    assert int(whole[TABLE:].sum()) > 0.9 * 2 * BOTTLE
    assert int(whole[:TABLE].sum()) < 0.04 * TABLE
