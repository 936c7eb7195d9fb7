"""Graphs kept in the cache folder: found again, never for another map, made anew where a file is damaged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.query import smoothing
from feature_gs_ros.query.smoothing import GaussianGraph


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "feature_gs_ros" / "graphs"


def blob(count: int = 6000) -> GaussianMap:
    generator = torch.Generator().manual_seed(0)
    return GaussianMap.from_tensors(
        torch.rand(count, 3, generator=generator),
        torch.tensor([[1.0, 0, 0, 0]]).expand(count, 4),
        torch.full((count, 3), 0.01),
        torch.rand(count, generator=generator),
        torch.rand(count, 1, 3, generator=generator),
    )


def test_a_prepared_graph_answers_as_the_one_it_was_made_from(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gaussians = blob()
    scores = torch.rand(len(gaussians), 2)
    first = GaussianGraph.of(gaussians).smooth(scores, 1e-3)
    assert len(list(folder.iterdir())) == 1
    monkeypatch.setattr(GaussianGraph, "__init__", lambda *_: pytest.fail("the graph was prepared again"))
    torch.testing.assert_close(GaussianGraph.of(gaussians).smooth(scores, 1e-3), first, atol=0, rtol=0)


def test_another_colour_is_another_graph(folder: Path) -> None:
    gaussians = blob()
    for which in (gaussians, replace(gaussians, sh=gaussians.sh.flip(0))):
        GaussianGraph.of(which)
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("damage", ["cut", "another column", "empty"])
def test_a_damaged_file_is_made_anew(folder: Path, damage: str) -> None:
    gaussians = blob()
    scores = torch.rand(len(gaussians), 1)
    expected = GaussianGraph.of(gaussians).smooth(scores, 1e-3)
    (path,) = folder.iterdir()
    content = path.read_bytes()
    if damage == "another column":
        from safetensors import safe_open
        from safetensors.numpy import load_file, save_file

        with safe_open(path, framework="np") as file:
            metadata = file.metadata()
        arrays = load_file(path)
        arrays["0.adjacency.columns"] = arrays["0.adjacency.columns"].copy()
        arrays["0.adjacency.columns"][7] = 1 << 30
        save_file(arrays, path, metadata)
    else:
        path.write_bytes(b"" if damage == "empty" else content[: len(content) // 2])
    torch.testing.assert_close(GaussianGraph.of(gaussians).smooth(scores, 1e-3), expected, atol=0, rtol=0)
    assert path.read_bytes() == content


@pytest.mark.slow
def test_the_folder_is_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gaussians = blob()
    GaussianGraph.of(gaussians)
    (first,) = folder.iterdir()
    monkeypatch.setattr(smoothing, "MAX_CACHE_BYTES", int(1.5 * first.stat().st_size))
    GaussianGraph.of(replace(gaussians, sh=gaussians.sh.flip(0)))
    (left,) = folder.iterdir()
    assert left != first
