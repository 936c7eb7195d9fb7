"""Chunked maps: the source's Gaussians along a Z-curve, in bounded memory, and nothing damaged is taken."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import random_map
from hypothesis import given
from hypothesis import strategies as st

from feature_gs_ros.core.gaussians import CURVE_BLOCK, CurveBlocks, GaussianMap
from feature_gs_ros.core.memory import MemoryLimit
from feature_gs_ros.io.splats import chunking
from feature_gs_ros.io.splats.chunking import chunk_map, z_codes
from feature_gs_ros.io.splats.registry import load_map, save_ply
from feature_gs_ros.io.tensors import load_tensors
from feature_gs_ros.numerics.simd import SIZE
from tests.command_line import run
from tests.errors import raises

PLENTY = MemoryLimit(4 << 30)


@pytest.fixture
def source(tmp_path: Path) -> tuple[Path, GaussianMap]:
    """A PLY of 5,000 Gaussians with view-dependent colour, one of them far away and three that can't be used."""
    gaussians = random_map(3, 5000, degree=2)
    gaussians.means[17] += 300
    gaussians.scales[40] = 1e6
    gaussians.means[50, 1] = np.nan
    gaussians.quats_wxyz[60] = 0
    save_ply(gaussians, tmp_path / "map.ply")
    return tmp_path / "map.ply", load_map(tmp_path / "map.ply")


@pytest.mark.parametrize("buckets", [1, 7])
def test_the_same_gaussians_in_the_curves_order(
    source: tuple[Path, GaussianMap], buckets: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, whole = source
    out = path.with_name("map.chunked")
    row_bytes = 4 * (11 + 27 + 2)
    limit = chunking.BASE_BYTES + chunking.SORT_COPIES * row_bytes * -(-5000 // buckets)
    monkeypatch.setattr(chunking, "SAMPLE", 1000)
    report = chunk_map(path, out, MemoryLimit(limit))
    chunked = load_map(out)
    assert report.buckets == buckets
    assert report.dropped == whole.dropped
    assert report.dropped.total == 3
    rows = load_tensors(out)[0]["source_rows"]
    order = torch.argsort(whole.file_rows)
    own = order[torch.searchsorted(whole.file_rows[order], rows)]
    assert torch.equal(whole.file_rows[own], rows)
    for name in ("means", "quats_wxyz", "scales", "opacities", "sh"):
        assert torch.equal(getattr(chunked, name), getattr(whole, name)[own])
    assert chunked.checksum == whole.select(own).checksum
    assert chunked.curve is not None
    exact = CurveBlocks.of(chunked.means.numpy(), chunked.scales.numpy())
    assert np.array_equal(chunked.curve.low, exact.low)
    assert np.array_equal(chunked.curve.high, exact.high)
    assert np.array_equal(chunked.curve.scale, exact.scale)
    assert not list(path.parent.glob(".*"))


def test_neighbours_on_the_curve_are_neighbours_in_space(source: tuple[Path, GaussianMap]) -> None:
    path, whole = source
    chunk_map(path, path.with_name("map.chunked"), PLENTY)
    chunked = load_map(path.with_name("map.chunked"))
    near, any_two = (
        (gaussians.means[1:] - gaussians.means[:-1]).norm(dim=1).median() for gaussians in (chunked, whole)
    )
    assert near < 0.25 * any_two


@given(st.lists(st.tuples(*[st.integers(0, 2**21 - 1)] * 3), min_size=1, max_size=20))
def test_codes_interleave_bits(points: list[tuple[int, int, int]]) -> None:
    codes = z_codes(np.array(points, np.float64), np.zeros(3), 1.0)
    expected = [
        sum(((p[axis] >> bit) & 1) << (3 * bit + axis) for axis in range(3) for bit in range(21)) for p in points
    ]
    assert codes.tolist() == expected


def test_blocks_are_those_of_the_kernels() -> None:
    assert CURVE_BLOCK == SIZE


def test_a_map_of_another_format_is_chunked_too(tmp_path: Path, source: tuple[Path, GaussianMap]) -> None:
    chunk_map(source[0], tmp_path / "once", PLENTY)
    report = chunk_map(tmp_path / "once", tmp_path / "twice", PLENTY)
    assert report.gaussians == len(source[1])
    assert load_map(tmp_path / "twice").checksum == load_map(tmp_path / "once").checksum


def test_too_little_memory_names_limit_and_fix(source: tuple[Path, GaussianMap]) -> None:
    with raises("budget", "5000 Gaussians", "--memory"):
        chunk_map(source[0], source[0].with_name("out"), MemoryLimit(chunking.BASE_BYTES))
    assert not source[0].with_name("out").exists()


@pytest.mark.parametrize("what", ["means", "low", "opacities", "scales", "source checksum"])
def test_a_damaged_file_is_an_error(source: tuple[Path, GaussianMap], what: str) -> None:
    path = source[0].with_name("map.chunked")
    chunk_map(source[0], path, PLENTY)
    data = bytearray(path.read_bytes())
    length = int.from_bytes(data[:8], "little")
    if what == "source checksum":
        at = data.index(b"checksum") + len(b'checksum\\":\\"') + 5
        data[at] = ord("0") if data[at] != ord("0") else ord("1")
    else:
        at = 8 + length + json.loads(data[8 : 8 + length])[what]["data_offsets"][0] + 4 * 6 + 3
        data[at] ^= 0x7F
    path.write_bytes(data)
    with raises("map.damaged", path):
        load_map(path)


def test_a_copy_with_other_values_has_no_bounds(source: tuple[Path, GaussianMap]) -> None:
    from dataclasses import replace

    chunk_map(source[0], source[0].with_name("map.chunked"), PLENTY)
    chunked = load_map(source[0].with_name("map.chunked"))
    moved = replace(chunked, means=chunked.means + 1)
    assert moved.curve is None
    assert moved.checksum != chunked.checksum


def test_the_command_says_what_it_wrote(source: tuple[Path, GaussianMap]) -> None:
    out = source[0].with_name("map.chunked")
    told = json.loads(run("chunk", source[0], "--out", out, "--memory", "1GiB", "--json").stdout)
    assert (told["gaussians"], told["dropped"]) == (4997, 3)
    assert run("chunk", source[0], "--out", out.with_name("other.ply"), code=2).error_code == "map.suffix"
    assert run("chunk", source[0], "--out", out, "--memory", "some", code=2).error_code == "option.value"
    assert json.loads(run("info", out, "--json").stdout)["gaussians"] == 4997
