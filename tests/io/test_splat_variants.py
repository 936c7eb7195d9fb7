"""PLYs of other trainers: 2DGS, degree 4, linear values, Mip-Splatting; what was concluded is among the map's notes."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from splat_samples import Parameters, assert_holds, random_parameters, write_ply

from feature_gs_ros.io.splats.registry import copy_ply_rows, load_map, save_map, save_ply
from tests.errors import raises

SAMPLE = random_parameters(40, 1)


def with_comment(path: Path, comment: str) -> Path:
    content = path.read_bytes()
    path.write_bytes(content.replace(b"element vertex", comment.encode() + b"\nelement vertex", 1))
    return path


def test_discs_of_2dgs_are_flat_gaussians(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    columns = SAMPLE.columns()
    del columns["scale_2"]
    with caplog.at_level(logging.WARNING):
        gaussians = load_map(write_ply(tmp_path / "map.ply", columns))
    discs = np.exp(SAMPLE.log_scales[:, :2])
    np.testing.assert_allclose(gaussians.scales[:, :2], discs, rtol=1e-6)
    np.testing.assert_allclose(gaussians.scales[:, 2], discs.min(axis=1) / 100, rtol=1e-6)
    assert "2DGS" in gaussians.notes[0]
    assert "2DGS" in caplog.text


def test_degree_four_is_read_up_to_three(tmp_path: Path) -> None:
    high = random_parameters(20, 4)
    gaussians = load_map(write_ply(tmp_path / "map.ply", high.columns()))
    assert_holds(gaussians, replace(high, sh=high.sh[:, :16]))
    assert "degree 4" in gaussians.notes[0]


def test_linear_scales_and_opacities_are_seen_by_their_ranges(tmp_path: Path) -> None:
    columns = SAMPLE.columns()
    columns |= {f"scale_{k}": np.exp(SAMPLE.log_scales[:, k]) for k in range(3)} | {"opacity": SAMPLE.opacities}
    gaussians = load_map(write_ply(tmp_path / "map.ply", columns))
    assert_holds(gaussians, SAMPLE)
    assert [note.split()[1] for note in gaussians.notes] == ["scales", "opacities"]
    with raises("map.unsupported"):
        copy_ply_rows(tmp_path / "map.ply", tmp_path / "out.ply", torch.arange(40), gaussians, torch.arange(40))
    save_ply(gaussians, tmp_path / "out.ply")
    assert not load_map(tmp_path / "out.ply").notes


def grown(parameters: Parameters, units: float) -> dict[str, NDArray[np.float32]]:
    """The same map in other units: a map in millimetres has positive log scales."""
    shift = np.float32(np.log(units))
    scaled = replace(parameters, means=parameters.means * np.float32(units), log_scales=parameters.log_scales + shift)
    return scaled.columns()


@pytest.mark.parametrize("units", [1e-3, 1.0, 1e3, 1e5])
def test_usual_maps_in_any_units_are_not_taken_for_linear(tmp_path: Path, units: float) -> None:
    assert load_map(write_ply(tmp_path / "map.ply", grown(SAMPLE, units))).notes == ()


def test_the_filter_of_mip_splatting_is_applied(tmp_path: Path) -> None:
    width = np.linspace(0.01, 0.2, 40, dtype=np.float32)
    gaussians = load_map(write_ply(tmp_path / "map.ply", SAMPLE.columns() | {"filter_3D": width}))
    squares = np.exp(SAMPLE.log_scales.astype(np.float64)) ** 2
    smooth = squares + width[:, None].astype(np.float64) ** 2
    np.testing.assert_allclose(gaussians.scales, np.sqrt(smooth), rtol=1e-6)
    np.testing.assert_allclose(
        gaussians.opacities, SAMPLE.opacities * np.sqrt((squares / smooth).prod(axis=1)), rtol=2e-6
    )
    assert any("filter_3D" in note for note in gaussians.notes)
    assert any("antialiasing" in note for note in gaussians.notes)
    assert (gaussians.antialiased, gaussians.blur) == (True, 0.1)


@pytest.mark.parametrize(
    ("comment", "blur"),
    [
        ("comment SplatRenderMode mip", 0.1),
        ("comment SplatRenderMode: mip", 0.1),
        ("comment antialiased 1", 0.3),
        ("comment Antialiased: true", 0.3),
    ],
)
def test_antialiased_maps_are_named(tmp_path: Path, comment: str, blur: float) -> None:
    path = with_comment(write_ply(tmp_path / "map.ply", SAMPLE.columns()), comment)
    gaussians = load_map(path)
    assert "antialiasing" in gaussians.notes[0]
    assert f"{blur} px²" in gaussians.notes[0]
    assert (gaussians.antialiased, gaussians.blur) == (True, blur)
    for name in ("out.ply", "out.compressed.ply"):
        save_map(gaussians, tmp_path / name)
        assert load_map(tmp_path / name).blur == blur
    assert gaussians.select(torch.arange(3)).blur == blur


@pytest.mark.parametrize("comment", ["comment SplatRenderMode default", "comment antialiased 0"])
def test_others_are_not(tmp_path: Path, comment: str) -> None:
    path = with_comment(write_ply(tmp_path / "map.ply", SAMPLE.columns()), comment)
    assert load_map(path).notes == ()
