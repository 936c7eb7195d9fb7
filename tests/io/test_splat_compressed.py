"""PlayCanvas' compressed PLY and antimatter15's .splat, against hand-worked words and the float originals."""

from __future__ import annotations

import math
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.lib.recfunctions import repack_fields
from plyfile import PlyData, PlyElement
from splat_samples import C0, random_parameters, write_antimatter, write_compressed, write_ply

from feature_gs_ros.io.splats.registry import load_map, save_map
from tests.errors import raises

BOUNDS = {"min_x": -1, "min_y": 10, "min_z": 0, "max_x": 1, "max_y": 20, "max_z": 2047}
BOUNDS |= {"min_scale_x": -4, "min_scale_y": -4, "min_scale_z": -4}
BOUNDS |= {"max_scale_x": 0, "max_scale_y": -2, "max_scale_z": -4}
COLORS = {"min_r": -0.5, "min_g": 0, "min_b": 0, "max_r": 1.5, "max_g": 1, "max_b": 0}
W_LARGEST, X_LARGEST, Y_LARGEST, Z_LARGEST = 0 << 30, 1 << 30, 2 << 30, 3 << 30
HIGH = 1023  # the stored component √½


def packed(
    path: Path, words: list[tuple[int, int, int, int]], bounds: dict[str, float], sh: np.ndarray | None = None
) -> Path:
    """A file of one chunk with these words (position, rotation, scale, color)."""
    chunk = np.array([tuple(bounds.values())], [(name, "f4") for name in bounds])
    names = ("packed_position", "packed_rotation", "packed_scale", "packed_color")
    elements = [PlyElement.describe(chunk, "chunk")]
    elements.append(PlyElement.describe(np.array(words, [(name, "u4") for name in names]), "vertex"))
    if sh is not None:
        table = np.array([tuple(row) for row in sh], [(f"f_rest_{k}", sh.dtype) for k in range(sh.shape[1])])
        elements.append(PlyElement.describe(table, "sh"))
    PlyData(elements, byte_order="<").write(str(path))
    return path


def test_hand_worked_words(tmp_path: Path) -> None:
    words = [
        (0, X_LARGEST | HIGH << 20, 0, 0),
        (0xFFFFFFFF, X_LARGEST | HIGH << 20, 0xFFFFFFFF, 0xFFFFFFFF),
        (2047 << 21, X_LARGEST | HIGH << 20, 1023 << 11, 51 << 24 | 102 << 16 | 153 << 8 | 204),
        (7, X_LARGEST | HIGH << 20, 2047 << 21, 255),
    ]
    gaussians = load_map(packed(tmp_path / "map.ply", words, BOUNDS))
    expected = torch.tensor([[-1.0, 10, 0], [1, 20, 2047], [1, 10, 0], [-1, 10, 7]])
    torch.testing.assert_close(gaussians.means, expected)
    logs = torch.tensor([[-4.0, -4, -4], [0, -2, -4], [-4, -2, -4], [0, -4, -4]])
    torch.testing.assert_close(gaussians.scales, logs.exp())
    torch.testing.assert_close(gaussians.opacities, torch.tensor([0, 1, 0.8, 1]))
    colours = gaussians.sh[:, 0] * C0 + 0.5
    torch.testing.assert_close(
        colours, torch.tensor([[0, 0, 0], [1, 1, 1], [0.2, 0.4, 0.6], [0, 0, 0]]), rtol=0, atol=1e-6
    )
    assert gaussians.sh_degree == 0


def test_newer_files_bound_their_colours(tmp_path: Path) -> None:
    words = [(0, HIGH << 20, 0, 0), (1, HIGH << 20, 0, 0xFFFFFF00), (2, HIGH << 20, 0, 51 << 24)]
    gaussians = load_map(packed(tmp_path / "map.ply", words, BOUNDS | COLORS))
    colours = gaussians.sh[:, 0] * C0 + 0.5
    torch.testing.assert_close(colours, torch.tensor([[-0.5, 0, 0], [1.5, 1, 0], [-0.1, 0, 0]]), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("word", "quat_wxyz"),
    [
        (W_LARGEST | HIGH << 20 | 512 << 10 | 512, (1, 1, 0, 0)),
        (W_LARGEST | 0 << 20 | 512 << 10 | 512, (1, -1, 0, 0)),
        (X_LARGEST | HIGH << 20 | 512 << 10 | 512, (1, 1, 0, 0)),
        (Y_LARGEST | 512 << 20 | HIGH << 10 | 512, (0, 1, 1, 0)),
        (Y_LARGEST | 512 << 20 | 512 << 10 | 0, (0, 0, 1, -1)),
        (Z_LARGEST | HIGH << 20 | 512 << 10 | 512, (1, 0, 0, 1)),
        (Z_LARGEST | 512 << 20 | 512 << 10 | 512, (0, 0, 0, 1)),
        (W_LARGEST | HIGH << 20 | HIGH << 10 | HIGH, (0, 1, 1, 1)),  # no room is left for w
    ],
)
def test_rotations_leave_out_the_largest_component(tmp_path: Path, word: int, quat_wxyz: tuple[int, ...]) -> None:
    gaussians = load_map(packed(tmp_path / "map.ply", [(0, word, 0, 0)], BOUNDS))
    expected = torch.tensor(quat_wxyz, dtype=torch.float32)
    torch.testing.assert_close(gaussians.quats_wxyz[0], expected / expected.norm(), rtol=0, atol=2e-3)


@pytest.mark.parametrize(("count", "rest"), [(1, 9), (2, 24), (3, 45)])
def test_sh_levels_are_channel_major_and_cover_4(tmp_path: Path, count: int, rest: int) -> None:
    levels = np.arange(count * rest, dtype=np.uint8).reshape(count, rest)
    levels[0, :3] = 0, 255, 128
    gaussians = load_map(packed(tmp_path / "map.ply", [(0, 0, 0, 0)] * count, BOUNDS, levels))
    values = (levels + 0.5) / 256 * 8 - 4
    values[0, :2] = -4, 4
    expected = values.reshape(count, 3, rest // 3).transpose(0, 2, 1)
    np.testing.assert_allclose(gaussians.sh[:, 1:], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("chunk_colors", [True, False])
@pytest.mark.parametrize("degree", [0, 3])
def test_a_packed_map_comes_back_to_within_its_bits(tmp_path: Path, degree: int, chunk_colors: bool) -> None:
    parameters = random_parameters(700, degree)  # three chunks, the last one short
    gaussians = load_map(write_compressed(tmp_path / "map.ply", parameters, chunk_colors=chunk_colors))
    assert (len(gaussians), gaussians.sh_degree) == (700, degree)
    for start in range(0, 700, 256):
        rows = slice(start, start + 256)
        for given, read, what in (
            (parameters.means, gaussians.means.numpy(), "means"),
            (parameters.log_scales, gaussians.scales.log().numpy(), "scales"),
        ):
            step = np.ptp(given[rows], axis=0) / (2047, 1023, 2047)
            assert (np.abs(given[rows] - read[rows]) <= 0.51 * step + 1e-6).all(), what
    dots = (gaussians.quats_wxyz.numpy() * parameters.unit_quats).sum(axis=1)
    assert (np.abs(dots) > 1 - 5e-6).all()
    np.testing.assert_allclose(gaussians.opacities, parameters.opacities, rtol=0, atol=0.51 / 255)
    colours = parameters.sh[:, 0] * C0 + 0.5
    colours, span = (colours, np.ptp(colours)) if chunk_colors else (colours.clip(0, 1), 1)
    np.testing.assert_allclose(gaussians.sh[:, 0] * C0 + 0.5, colours, rtol=0, atol=0.51 / 255 * span)
    np.testing.assert_allclose(gaussians.sh[:, 1:], parameters.sh[:, 1:], rtol=0, atol=8 / 256)


def test_rows_read_in_blocks_keep_their_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_compressed(tmp_path / "map.ply", random_parameters(700, 1))
    whole = load_map(path)
    monkeypatch.setattr("feature_gs_ros.io.splats.ply.BLOCK_ROWS", 100)
    in_blocks = load_map(path)
    assert in_blocks.checksum == whole.checksum
    assert torch.equal(in_blocks.sh, whole.sh)


def test_bounds_that_are_not_finite_drop_their_gaussians(tmp_path: Path) -> None:
    words = [(0, 0, 0, 0), (5 << 21, 0, 0, 0)]
    with raises("map.empty"):
        load_map(packed(tmp_path / "map.ply", words, BOUNDS | {"max_x": math.inf}))


def rewrite(path: Path, **changes: PlyElement | None) -> Path:
    """A compressed file with elements exchanged (or left out), under a new name."""
    elements = [changes.get(element.name, element) for element in PlyData.read(str(path))]
    target = path.with_name("changed.ply")
    PlyData([element for element in elements if element is not None], byte_order="<").write(str(target))
    return target


def test_damaged_elements_are_named(tmp_path: Path) -> None:
    path = write_compressed(tmp_path / "map.ply", random_parameters(300, 1))
    ply = {element.name: element.data for element in PlyData.read(str(path))}
    with raises("map.value", "300", "256"):
        load_map(rewrite(path, chunk=None))
    with raises("map.value", "300"):
        load_map(rewrite(path, chunk=PlyElement.describe(ply["chunk"][:1], "chunk")))
    with raises("map.value", "299", "300"):
        load_map(rewrite(path, sh=PlyElement.describe(ply["sh"][:299], "sh")))
    floats = ply["sh"].astype([(name, "f4") for name in ply["sh"].dtype.names])
    with raises("map.format", "'uchar'"):
        load_map(rewrite(path, sh=PlyElement.describe(floats, "sh")))
    fewer = repack_fields(ply["sh"][[f"f_rest_{k}" for k in range(8)]])
    with raises("map.value"):
        load_map(rewrite(path, sh=PlyElement.describe(fewer, "sh")))
    shorter = ply["vertex"].astype([(name, "u2") for name in ply["vertex"].dtype.names])
    with raises("map.format", "'uint'"):
        load_map(rewrite(path, vertex=PlyElement.describe(shorter, "vertex")))
    without = repack_fields(ply["vertex"][["packed_position", "packed_rotation", "packed_color"]])
    with raises("map.unreadable"):
        load_map(rewrite(path, vertex=PlyElement.describe(without, "vertex")))
    without = repack_fields(ply["chunk"][[name for name in ply["chunk"].dtype.names if name != "max_b"]])
    with raises("map.unreadable", "'chunk'"):
        load_map(rewrite(path, chunk=PlyElement.describe(without, "chunk")))
    path.write_bytes(path.read_bytes()[:-1])
    with raises("map.unreadable", "300", "'sh'", "299"):
        load_map(path)


def test_a_hand_made_splat(tmp_path: Path) -> None:
    row = struct.pack("<6f8B", 1, 2, 3, 0.5, 0.25, 0.125, 255, 0, 51, 204, 128, 128, 192, 64)
    (tmp_path / "map.splat").write_bytes(row * 2)
    gaussians = load_map(tmp_path / "map.splat")
    assert (len(gaussians), gaussians.sh_degree) == (2, 0)
    assert gaussians.means[1].tolist() == [1, 2, 3]
    assert gaussians.scales[1].tolist() == [0.5, 0.25, 0.125]
    torch.testing.assert_close(gaussians.opacities[1], torch.tensor(0.8))
    half = math.sqrt(0.5)
    torch.testing.assert_close(gaussians.quats_wxyz[1], torch.tensor([0, 0, half, -half]))
    torch.testing.assert_close(gaussians.sh[1, 0] * C0 + 0.5, torch.tensor([1, 0, 0.2]), rtol=0, atol=1e-6)


def test_a_splat_comes_back_to_within_its_bits(tmp_path: Path) -> None:
    parameters = random_parameters(300, 0)
    gaussians = load_map(write_antimatter(tmp_path / "map.splat", parameters))
    np.testing.assert_array_equal(gaussians.means, parameters.means)
    np.testing.assert_allclose(gaussians.scales, np.exp(parameters.log_scales), rtol=1e-6)
    np.testing.assert_allclose(gaussians.opacities, parameters.opacities, rtol=0, atol=0.51 / 255)
    np.testing.assert_allclose(gaussians.quats_wxyz, parameters.unit_quats, rtol=0, atol=0.02)
    colours = np.clip(parameters.sh[:, 0] * C0 + 0.5, 0, 1)
    np.testing.assert_allclose(gaussians.sh[:, 0] * C0 + 0.5, colours, rtol=0, atol=0.51 / 255)


def test_a_splat_cut_off_within_a_gaussian(tmp_path: Path) -> None:
    path = write_antimatter(tmp_path / "map.splat", random_parameters(5))
    path.write_bytes(path.read_bytes()[:-7])
    with raises("map.damaged", "153", "32"):
        load_map(path)


def test_splats_that_cant_be_drawn_are_dropped(tmp_path: Path) -> None:
    good = struct.pack("<6f8B", 1, 2, 3, 0.5, 0.25, 0.125, 255, 0, 51, 204, 255, 128, 128, 128)
    flat = struct.pack("<6f8B", 1, 2, 3, 0.5, 0.25, 0, 255, 0, 51, 204, 255, 128, 128, 128)
    unturned = struct.pack("<6f8B", 1, 2, 3, 0.5, 0.25, 0.125, 255, 0, 51, 204, 128, 128, 128, 128)
    lost = struct.pack("<6f8B", math.nan, 2, 3, 0.5, 0.25, 0.125, 255, 0, 51, 204, 255, 128, 128, 128)
    (tmp_path / "map.splat").write_bytes(flat + good + unturned + lost)
    gaussians = load_map(tmp_path / "map.splat")
    assert gaussians.file_rows.tolist() == [1]
    dropped = gaussians.dropped
    assert (dropped.not_finite, dropped.zero_quaternion, dropped.absurd_scale) == (1, 1, 1)


@pytest.mark.parametrize("degree", [0, 1, 3])
def test_what_is_written_is_read_within_its_bits(tmp_path: Path, degree: int) -> None:
    sample = replace(random_parameters(600, 3), sh=np.clip(random_parameters(600, 3).sh[:, : (degree + 1) ** 2], -3, 3))
    gaussians = load_map(write_ply(tmp_path / "map.ply", sample.columns()))
    save_map(gaussians, tmp_path / "out.compressed.ply")
    read = load_map(tmp_path / "out.compressed.ply")
    # The order is not kept: each is compared with the nearest one.
    distances = torch.cdist(read.means, gaussians.means)
    nearest = distances.argmin(dim=1)
    assert sorted(nearest.tolist()) == list(range(600))
    size = float((gaussians.means.amax(0) - gaussians.means.amin(0)).max())
    assert float(distances.amin(dim=1).max()) < size / 1023
    given = gaussians.select(nearest)
    assert float((read.scales.log() - given.scales.log()).abs().max()) < 0.02
    assert float((read.opacities - given.opacities).abs().max()) <= 0.5 / 255 + 1e-6
    assert float((read.sh - given.sh).abs().max()) < 0.05
    assert float((read.quats_wxyz * given.quats_wxyz).sum(dim=1).abs().min()) > 0.9999
    assert (tmp_path / "out.compressed.ply").stat().st_size < 0.45 * (tmp_path / "map.ply").stat().st_size


def test_a_single_gaussian_is_written(tmp_path: Path) -> None:
    gaussians = load_map(write_ply(tmp_path / "map.ply", random_parameters(1, 0).columns()))
    save_map(gaussians, tmp_path / "out.compressed.ply")
    read = load_map(tmp_path / "out.compressed.ply")
    torch.testing.assert_close(read.means, gaussians.means)
    torch.testing.assert_close(read.scales, gaussians.scales)


@pytest.mark.parametrize("suffix", [".ply", ".compressed.ply", ".spz"])
def test_how_a_map_was_trained_is_written_with_it(tmp_path: Path, suffix: str) -> None:
    if suffix == ".spz":
        pytest.importorskip("gsply")
    gaussians = load_map(write_ply(tmp_path / "map.ply", random_parameters(30, 1).columns()))
    for antialiased in (False, True):
        save_map(replace(gaussians, antialiased=antialiased), tmp_path / f"out{suffix}")
        read = load_map(tmp_path / f"out{suffix}")
        assert read.antialiased is antialiased
        assert len(read.notes) == antialiased
        assert read.select(torch.arange(3)).antialiased is antialiased
    assert replace(gaussians, antialiased=True).checksum != gaussians.checksum


def test_other_names_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    gaussians = load_map(write_ply(tmp_path / "map.ply", random_parameters(3, 0).columns()))
    with raises("map.suffix", "out.glb"):
        save_map(gaussians, tmp_path / "out.glb")
    assert not (tmp_path / "out.glb").exists()
