"""Maps and sums larger than memory: chunked maps and paged sums give what the same gives in memory."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import random_camera, random_map

from feature_gs_ros.backprojection import projector as projecting
from feature_gs_ros.backprojection.field import FeatureField
from feature_gs_ros.backprojection.ingest import pinhole_view
from feature_gs_ros.backprojection.projector import BackProjector
from feature_gs_ros.core.camera import Camera, Distortion, Frame
from feature_gs_ros.core.feature_grid import FeatureGrid
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.core.geometry import Sim3
from feature_gs_ros.core.memory import MemoryLimit
from feature_gs_ros.extractors.base import ExtractorIdentity
from feature_gs_ros.io.splats.chunking import chunk_map
from feature_gs_ros.io.splats.registry import load_map, save_ply
from feature_gs_ros.io.tensors import load_tensors
from feature_gs_ros.rasterizer import AccumulatorState, Paging, get_backend, view
from feature_gs_ros.synthetic.hall import Hall, write_hall
from tests.errors import raises

COUNT = 9000  # more than four of the kernels' chunks
NO_MEMORY = MemoryLimit(1)  # pages are given back at every opportunity, and the segments are as short as can be
ENOUGH = MemoryLimit(2 << 30)


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> tuple[GaussianMap, GaussianMap, torch.Tensor]:
    """A map, the same in chunks, and the rows of the first that those of the second are."""
    folder = tmp_path_factory.mktemp("maps")
    dense = random_map(5, COUNT)  # thinned, so that views see most of it
    save_ply(replace(dense, scales=0.1 * dense.scales, opacities=0.5 * dense.opacities), folder / "map.ply")
    chunk_map(folder / "map.ply", folder / "map.chunked", ENOUGH)
    return (
        load_map(folder / "map.ply"),
        load_map(folder / "map.chunked"),
        load_tensors(folder / "map.chunked")[0]["source_rows"],
    )


def distorted_view() -> tuple[Camera, np.ndarray, torch.Tensor | None]:
    """A pinhole camera, pose and mask as they come of an image with a lens."""
    camera, pose = random_camera(7)
    lens = replace(camera, distortion=Distortion("plumb_bob", (-0.2, 0.05, 0.001, -0.002, 0.0)))
    frame = Frame("one", lens, pose, lambda: np.zeros((lens.height, lens.width, 3), np.uint8))
    pinhole = pinhole_view(frame, Sim3.identity())
    return pinhole.camera, pinhole.camera_from_splat, pinhole.valid


def summed(gaussians: GaussianMap, rows: int, columns: int, channels: int, paging: Paging | None) -> AccumulatorState:
    """Sums of four views of random cells, one of them through a lens."""
    backend = get_backend("cpu")
    accumulator = backend.accumulator(gaussians, channels, paging)
    generator = torch.Generator().manual_seed(rows)
    views = [(*random_camera(seed), None) for seed in range(3)] + [distorted_view()]
    for first in (0, 2):
        batch = views[first : first + 2]
        made = [view(gaussians, camera, pose, backend) for camera, pose, _ in batch]
        sizes = [(rows or camera.height, columns or camera.width, channels) for camera, _, _ in batch]
        grids = [FeatureGrid(torch.randn(*size, generator=generator)) for size in sizes]
        accumulator.add(made, grids, [valid for _, _, valid in batch])
    return accumulator.state()


# Cells wider than a tile, of a tile, of a few pixels; and one per pixel, with few channels and with many.
@pytest.mark.parametrize(("rows", "columns", "channels"), [(1, 2, 5), (3, 5, 40), (11, 17, 7), (0, 0, 3), (0, 0, 30)])
def test_chunks_and_pages_change_nothing(
    maps: tuple[GaussianMap, GaussianMap, torch.Tensor], rows: int, columns: int, channels: int, tmp_path: Path
) -> None:
    plain, chunked, source_rows = maps
    paged = summed(chunked, rows, columns, channels, Paging(tmp_path, NO_MEMORY))
    in_memory = summed(replace(chunked), rows, columns, channels, None)  # the copy is no chunked map
    original = summed(plain, rows, columns, channels, None)
    assert chunked.curve is not None
    assert float((paged.view_count > 0).float().mean()) > 0.2
    assert torch.equal(paged.view_count, original.view_count[source_rows])
    for own, other in ((in_memory, paged), (replace_rows(original, source_rows), paged)):
        assert torch.equal(own.view_count, other.view_count)
        torch.testing.assert_close(own.weight, other.weight, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(own.numerator, other.numerator, rtol=1e-4, atol=1e-4)
    assert list(tmp_path.iterdir()) == []  # nobody is left with a file of sums


def replace_rows(state: AccumulatorState, rows: torch.Tensor) -> AccumulatorState:
    return AccumulatorState(state.numerator[rows], state.weight[rows], state.view_count[rows])


def test_pages_of_a_map_in_any_order(maps: tuple[GaussianMap, GaussianMap, torch.Tensor], tmp_path: Path) -> None:
    paged, in_memory = (summed(maps[0], 3, 5, 8, paging) for paging in (Paging(tmp_path, NO_MEMORY), None))
    assert torch.equal(paged.numerator, in_memory.numerator)
    assert torch.equal(paged.weight, in_memory.weight)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_paged_field_is_saved_continued_and_equal(
    maps: tuple[GaussianMap, GaussianMap, torch.Tensor], chunked: bool, tmp_path: Path
) -> None:
    gaussians = maps[int(chunked)]
    identity = ExtractorIdentity("any")
    grids = [FeatureGrid(torch.randn(3, 5, 6)) for _ in range(4)]

    def add(projector: BackProjector, which: range) -> None:
        for k in which:
            projector.add(view(gaussians, *random_camera(k), projector.backend), grids[k], name=f"{k}")

    whole = BackProjector(gaussians, identity, 6, backend="cpu")
    add(whole, range(4))
    paging = Paging(tmp_path, ENOUGH)
    first = BackProjector(gaussians, identity, 6, backend="cpu", paging=paging)
    add(first, range(2))
    first.save(tmp_path / "half.field")
    second = BackProjector.resume(gaussians, FeatureField.load(tmp_path / "half.field"), backend="cpu", paging=paging)
    add(second, range(2, 4))
    saved = second.save(tmp_path / "field")
    expected = whole.field()
    for field in (saved, FeatureField.load(tmp_path / "field")):
        assert torch.equal(field.view_count, expected.view_count)
        torch.testing.assert_close(field.weight, expected.weight)
        torch.testing.assert_close(field.features, expected.features, rtol=1e-4, atol=1e-4)
        assert field.provenance.frames == ("0", "1", "2", "3")


def test_limits_are_named(
    maps: tuple[GaussianMap, GaussianMap, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gaussians, identity = maps[1], ExtractorIdentity("any")
    with raises("budget", f"{COUNT} Gaussians", "--memory"):
        BackProjector(gaussians, identity, 6, backend="cpu", paging=Paging(tmp_path, MemoryLimit(1 << 20)))
    with raises("backend.unsupported", "reference"):
        BackProjector(gaussians, identity, 6, backend="reference", paging=Paging(tmp_path, ENOUGH))
    with raises("budget", "on the disk"):
        BackProjector(gaussians, identity, 1 << 40, backend="cpu", paging=Paging(tmp_path, ENOUGH))
    projector = BackProjector(gaussians, identity, 6, backend="cpu", paging=Paging(tmp_path, ENOUGH))
    monkeypatch.setattr(projecting, "VIEW_BYTES", 1 << 30)
    with raises("budget", "--memory", "--skip"):
        projector.add(view(gaussians, *random_camera(1), projector.backend), FeatureGrid(torch.ones(3, 5, 6)), name="a")
    assert projector.provenance.frames == ()


@pytest.mark.parametrize(
    ("text", "limit"),
    [("8GiB", 8 << 30), ("8g", 8 << 30), ("1.5GB", 1_500_000_000), ("512 MiB", 512 << 20), ("99", 99)],
)
def test_amounts_of_memory(text: str, limit: int) -> None:
    assert MemoryLimit.parse(text).limit == limit


@pytest.mark.parametrize("text", ["", "GiB", "-1GB", "0", "8 apples", "1e9", "nan"])
def test_what_is_no_amount_of_memory(text: str) -> None:
    with raises("option.value", "--memory"):
        MemoryLimit.parse(text)


@pytest.fixture(scope="module")
def hall(tmp_path_factory: pytest.TempPathFactory) -> Hall:
    return write_hall(tmp_path_factory.mktemp("hall"), 300_000, views=3, channels=256)


@pytest.mark.slow
def test_a_field_larger_than_the_limit_is_made_and_asked_within_it(hall: Hall, tmp_path: Path) -> None:
    """300,000 Gaussians of 256 channels need 1.2 GB in memory; they are given 1 GB, and the field is the same."""
    run_within(1.0, "chunk", hall.map, "--out", tmp_path / "map.chunked", "--memory", "1GB")
    words = [tmp_path / "map.chunked", hall.stream, "--extractor", "precomputed", "--option", f"folder={hall.features}"]
    told = run_within(1.0, "backproject", *words, "--out", tmp_path / "field", "--memory", "1GB")
    assert "kept on the disk" in told.stderr
    asked = ["--negative", "floor", "--option", f"embeddings={hall.words}", "--memory", "1GB", "--json"]
    answer = json.loads(run_within(1.0, "query", tmp_path / "field", "crate", *asked).stdout)
    assert answer["state"] == "found"
    assert np.allclose(answer["objects"][0]["center"][:2], hall.crates[0], atol=0.1)
    chunked = load_map(tmp_path / "map.chunked")
    backend = get_backend("cpu")
    whole = BackProjector(chunked, ExtractorIdentity("any"), 256, backend=backend)
    cameras = json.loads((hall.stream / "cameras.json").read_text())["frames"]
    for index, entry in enumerate(cameras):
        camera = Camera(*(entry[key] for key in ("width", "height", "fx", "fy", "cx", "cy")))
        grid = FeatureGrid(torch.from_numpy(np.load(hall.features / f"{index:05d}.npy")))
        whole.add(view(whole.gaussians, camera, np.array(entry["camera_from_world"]), backend), grid)
    field, expected = FeatureField.load(tmp_path / "field"), whole.field()
    assert torch.equal(field.view_count, expected.view_count)
    assert torch.equal(field.features, expected.features)


def run_within(gigabytes: float, *words: object) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, whose largest resident size stays below the limit."""
    program = (
        "import sys; from pathlib import Path; from feature_gs_ros.cli import main\n"
        "try: main(sys.argv[1:])\n"
        # VmHWM, not ru_maxrss: the latter begins with the peak of the process that started this one
        "finally: print(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0], file=sys.stderr)"
    )
    told = subprocess.run(
        [sys.executable, "-c", program, *map(str, words)], capture_output=True, text=True, timeout=300, check=False
    )
    assert told.returncode == 0, told.stderr
    peak = int(told.stderr.split()[-1]) * 1024
    assert peak < gigabytes * 1e9, told.stderr
    return told
