"""Damaged files of every format: each loads as a usable map or raises MapError, and nothing else."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from splat_samples import (
    gsplat_checkpoint,
    inria_checkpoint,
    nerfstudio_checkpoint,
    random_parameters,
    write_antimatter,
    write_compressed,
    write_gltf,
    write_ply,
    write_spz,
)

from feature_gs_ros.core.errors import MapError
from feature_gs_ros.io.splats.registry import load_map

pytestmark = pytest.mark.slow

SAMPLE = random_parameters(6, 1)


def checkpoint(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


WRITERS: dict[str, Callable[[Path], Path]] = {
    "little.ply": lambda path: write_ply(path, SAMPLE.columns()),
    "big.ply": lambda path: write_ply(path, SAMPLE.columns(), byte_order=">"),
    "text.ply": lambda path: write_ply(path, SAMPLE.columns(), text=True),
    "compressed.ply": lambda path: write_compressed(path, SAMPLE),
    "antimatter.splat": lambda path: write_antimatter(path, SAMPLE),
    "scene.glb": lambda path: write_gltf(path, SAMPLE),
    "niantic.spz": lambda path: write_spz(path, SAMPLE),
    "gsplat.pt": lambda path: checkpoint(path, gsplat_checkpoint(SAMPLE)),
    "nerfstudio.ckpt": lambda path: checkpoint(path, nerfstudio_checkpoint(SAMPLE)),
    "inria.pth": lambda path: checkpoint(path, inria_checkpoint(SAMPLE)),
}


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, bytes]]:
    """The path to damage, and the sound content, by file name."""
    pytest.importorskip("gsply", exc_type=ImportError)
    folder = tmp_path_factory.mktemp("fuzz")
    return {name: (folder / name, write(folder / name).read_bytes()) for name, write in WRITERS.items()}


def load_damaged(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        gaussians = load_map(path)
    except MapError:
        return
    assert len(gaussians) > 0
    for tensor in (gaussians.means, gaussians.quats_wxyz, gaussians.scales, gaussians.opacities, gaussians.sh):
        assert torch.isfinite(tensor).all()
    assert (gaussians.scales > 0).all()


FUZZ = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("name", WRITERS)
def test_the_samples_are_sound(samples: dict[str, tuple[Path, bytes]], name: str) -> None:
    path, content = samples[name]
    path.write_bytes(content)
    assert len(load_map(path)) == 6


@pytest.mark.parametrize("name", WRITERS)
@FUZZ
@given(data=st.data())
def test_truncation(samples: dict[str, tuple[Path, bytes]], name: str, data: st.DataObject) -> None:
    path, content = samples[name]
    load_damaged(path, content[: data.draw(st.integers(0, len(content) - 1))])


@pytest.mark.parametrize("name", WRITERS)
@FUZZ
@given(data=st.data())
def test_flipped_bytes(samples: dict[str, tuple[Path, bytes]], name: str, data: st.DataObject) -> None:
    path, content = samples[name]
    flips = st.tuples(st.integers(0, len(content) - 1), st.integers(1, 255))
    damaged = bytearray(content)
    for at, difference in data.draw(st.lists(flips, min_size=1, max_size=8)):
        damaged[at] ^= difference
    load_damaged(path, bytes(damaged))


@pytest.mark.parametrize("name", [name for name in WRITERS if name.endswith("ply")])
@FUZZ
@given(data=st.data())
def test_flipped_bytes_of_a_header(samples: dict[str, tuple[Path, bytes]], name: str, data: st.DataObject) -> None:
    path, content = samples[name]
    damaged = bytearray(content)
    end = content.index(b"end_header")
    for at in data.draw(st.lists(st.integers(4, end), min_size=1, max_size=3)):
        damaged[at] = data.draw(st.sampled_from(b"0123456789 \nabxyz_-\xff\x00\r"))
    load_damaged(path, bytes(damaged))


@pytest.mark.parametrize("name", WRITERS)
@FUZZ
@given(data=st.data())
def test_blocks_cut_out_put_in_or_repeated(
    samples: dict[str, tuple[Path, bytes]], name: str, data: st.DataObject
) -> None:
    path, content = samples[name]
    place = st.integers(0, len(content))
    start, stop = sorted((data.draw(place), data.draw(place)))
    filling = data.draw(st.one_of(st.binary(max_size=64), st.just(content[start:stop] * 2)))
    load_damaged(path, content[:start] + filling + content[stop:])


@pytest.mark.parametrize("name", ["gsplat.pt", "nerfstudio.ckpt", "inria.pth"])
@FUZZ
@given(data=st.data())
def test_flipped_bytes_of_a_pickle_whose_checksum_fits(
    samples: dict[str, tuple[Path, bytes]], name: str, data: st.DataObject
) -> None:
    path, content = samples[name]
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = {info.filename: bytearray(archive.read(info)) for info in archive.infolist()}
    program = next(entry for entry_name, entry in entries.items() if entry_name.endswith("/data.pkl"))
    flips = st.tuples(st.integers(0, len(program) - 1), st.integers(1, 255))
    for at, difference in data.draw(st.lists(flips, min_size=1, max_size=4)):
        program[at] ^= difference
    changed = io.BytesIO()
    with zipfile.ZipFile(changed, "w") as archive:
        for entry_name, entry in entries.items():
            archive.writestr(entry_name, bytes(entry))
    load_damaged(path, changed.getvalue())


@FUZZ
@given(suffix=st.sampled_from([".ply", ".splat", ".pt", ".ckpt", ".pth", ""]), content=st.binary(max_size=200))
def test_noise(samples: dict[str, tuple[Path, bytes]], suffix: str, content: bytes) -> None:
    load_damaged(samples["gsplat.pt"][0].with_name("noise" + suffix), content)
