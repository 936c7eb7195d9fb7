"""SPZ, SOG, glTF and OpenUSD, written here by their descriptions; libraries come with the extra ``formats``."""

from __future__ import annotations

import json
import struct
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from splat_samples import Parameters, assert_holds, random_parameters, write_gltf, write_ply, write_spz

from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.io.splats.registry import load_map, save_spz
from tests.errors import raises
from tests.memory_use import peak_megabytes

SAMPLE = replace(random_parameters(30, 3), sh=np.clip(random_parameters(30, 3).sh, -0.9, 0.9))


def assert_close(gaussians: GaussianMap, expected: Parameters, sh: float = 0.03) -> None:
    """Within an eighth of a bit of 8-bit formats."""
    np.testing.assert_allclose(gaussians.means, expected.means, atol=2e-3)
    np.testing.assert_allclose(gaussians.scales.log(), expected.log_scales, atol=0.04)
    np.testing.assert_allclose(gaussians.opacities, expected.opacities, atol=0.003)
    np.testing.assert_allclose(gaussians.sh, expected.sh, atol=sh)
    overlap = np.abs((gaussians.quats_wxyz.numpy() * expected.unit_quats).sum(axis=1))
    assert overlap.min() > 0.999


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("degree", [0, 2, 3])
def test_spz(tmp_path: Path, version: int, degree: int) -> None:
    pytest.importorskip("gsply")
    sample = replace(SAMPLE, sh=SAMPLE.sh[:, : (degree + 1) ** 2])
    assert_close(load_map(write_spz(tmp_path / "map.spz", sample, version=version)), sample)


def test_spz_version_4_and_writing(tmp_path: Path) -> None:
    gsply, _ = pytest.importorskip("gsply"), pytest.importorskip("zstandard")
    gaussians = load_map(write_ply(tmp_path / "map.ply", SAMPLE.columns()))
    save_spz(gaussians, tmp_path / "out.spz")
    assert_close(load_map(tmp_path / "out.spz"), SAMPLE)
    gsply.write_spz(tmp_path / "four.spz", gsply.read_spz(tmp_path / "out.spz"), version=4)
    assert_close(load_map(tmp_path / "four.spz"), SAMPLE)


def test_spz_says_when_it_was_trained_with_antialiasing(tmp_path: Path) -> None:
    pytest.importorskip("gsply")
    assert "antialiasing" in load_map(write_spz(tmp_path / "map.spz", SAMPLE, flags=1)).notes[0]


def test_an_spz_that_promises_or_unpacks_too_much_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("gsply")
    import gzip

    path = write_spz(tmp_path / "map.spz", SAMPLE)
    content = gzip.decompress(path.read_bytes())
    for damaged, fault in (
        (content[:8] + struct.pack("<I", 1 << 31) + content[12:], ("map.damaged", "2147483648")),
        (content[:8] + struct.pack("<I", 31) + content[12:], ("map.format",)),
        (content + bytes(64 << 20), ("map.damaged",)),
        (content[:12] + b"\4" + content[13:], ("map.unsupported",)),
    ):
        path.write_bytes(gzip.compress(damaged))
        with raises(*fault):
            load_map(path)


@pytest.mark.slow
def test_a_stream_of_an_spz_that_unpacks_to_gigabytes_is_refused_unread(tmp_path: Path) -> None:
    pytest.importorskip("gsply")
    zstandard = pytest.importorskip("zstandard")
    packer, sizes = zstandard.ZstdCompressor(level=1), (9, 1, 3, 3, 4)
    bomb = zstandard.ZstdCompressor(level=1).compressobj(size=1 << 30)
    streams = [b"".join([*(bomb.compress(bytes(1 << 20)) for _ in range(1 << 10)), bomb.flush()])]
    streams += [packer.compress(bytes(size)) for size in sizes[1:]]
    head = struct.pack("<4sIIBBBBI", b"NGSP", 4, 1, 0, 12, 0, len(sizes), 32).ljust(32, b"\0")
    table = b"".join(struct.pack("<QQ", len(data), size) for data, size in zip(streams, sizes, strict=True))
    (tmp_path / "map.spz").write_bytes(head + table + b"".join(streams))
    setup = "from feature_gs_ros.io.splats.registry import load_map"
    grown, outcome = peak_megabytes(setup, f"load_map({str(tmp_path / 'map.spz')!r})")
    assert outcome == "map.damaged"
    assert grown < 200


def test_a_missing_library_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gsply", None)
    with raises("map.extra", "[formats]") as raised:
        load_map(write_spz(tmp_path / "map.spz", SAMPLE))
    assert raised.value.code == "map.extra"


@pytest.mark.parametrize("suffix", [".glb", ".gltf"])
@pytest.mark.parametrize("degree", [0, 3])
def test_gltf_holds_the_values(tmp_path: Path, suffix: str, degree: int) -> None:
    sample = replace(SAMPLE, sh=SAMPLE.sh[:, : (degree + 1) ** 2])
    assert_holds(load_map(write_gltf(tmp_path / f"map{suffix}", sample)), sample)


def test_gltf_nodes_place_the_gaussians(tmp_path: Path) -> None:
    turn = Rotation.from_rotvec([0.3, -1.0, 0.5])
    node = {"rotation": turn.as_quat().tolist(), "scale": [2, 2, 2], "translation": [1, 2, 3]}
    placed, plain = (
        load_map(write_gltf(tmp_path / "a.glb", SAMPLE, **node)),
        load_map(write_gltf(tmp_path / "b.glb", SAMPLE)),
    )
    np.testing.assert_allclose(placed.means, 2 * turn.apply(SAMPLE.means) + [1, 2, 3], atol=1e-5)
    np.testing.assert_allclose(placed.scales, 2 * plain.scales, rtol=1e-6)
    assert "nodes place" in placed.notes[0]
    assert not torch.allclose(placed.sh, plain.sh, atol=1e-2)  # colours turn along
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = 2 * turn.as_matrix(), [1, 2, 3]
    again = load_map(write_gltf(tmp_path / "c.glb", SAMPLE, matrix=matrix.T.ravel().tolist()))
    np.testing.assert_allclose(again.means, placed.means, atol=1e-5)


@pytest.mark.parametrize(
    ("node", "fault"), [({"scale": [1, 2, 1]}, ("map.unsupported",)), ({"scale": [1, 1, -1]}, ("map.unsupported",))]
)
def test_gltf_nodes_that_shear_are_refused(tmp_path: Path, node: dict[str, Any], fault: tuple[str, ...]) -> None:
    with raises(*fault):
        load_map(write_gltf(tmp_path / "map.glb", SAMPLE, **node))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda c: c["accessors"][0].update(count=10**9), ("map.damaged",)),
        (lambda c: c["bufferViews"][0].update(byteLength=8), ("map.damaged",)),
        (lambda c: c["accessors"][0].update(bufferView=99), ("map.value",)),
        (lambda c: c["accessors"][1].update(count=29), ("map.damaged",)),
        (lambda c: c["nodes"][0].update(children=[0]), ("map.damaged",)),
        (lambda c: c["nodes"][0].update(mesh=4), ("map.damaged",)),
        (lambda c: c["meshes"][0]["primitives"][0].pop("extensions"), ("map.format",)),
        (lambda c: c["meshes"][0]["primitives"][0]["attributes"].pop("POSITION"), ("map.missing",)),
        (lambda c: c["buffers"][0].update(uri="../secret.bin"), ("map.name",)),
        (lambda c: c["buffers"][0].update(uri="http://example.org/a.bin"), ("map.name",)),
        (lambda c: c["buffers"][0].update(uri="none.bin"), ("map.unreadable",)),
    ],
)
def test_damaged_gltf(tmp_path: Path, change: Any, fault: tuple[str, ...]) -> None:
    path = write_gltf(tmp_path / "map.gltf", SAMPLE)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with raises(*fault):
        load_map(path)


def test_gltf_whose_nodes_place_a_mesh_over_and_over_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_gltf(tmp_path / "map.gltf", SAMPLE)
    content = json.loads(path.read_text())
    content |= {"nodes": [{"mesh": 0}] * 500, "scenes": [{"nodes": list(range(500))}]}
    path.write_text(json.dumps(content))
    monkeypatch.setattr("feature_gs_ros.core.memory.available_bytes", lambda: 2_000_000)
    with raises("budget", "nodes place"):
        load_map(path)


def test_gltf_with_logits_is_refused(tmp_path: Path) -> None:
    class Logits(Parameters):
        @property
        def opacities(self) -> NDArray[np.float32]:
            return self.logits

    wrong = Logits(SAMPLE.means, SAMPLE.quats, SAMPLE.log_scales, SAMPLE.logits, SAMPLE.sh)
    with raises("map.format"):
        load_map(write_gltf(tmp_path / "map.glb", wrong))


def write_usd(path: Path, sample: Parameters, **more: object) -> Path:
    vectors = lambda rows: "[" + ", ".join(f"({', '.join(map(repr, map(float, row)))})" for row in rows) + "]"  # noqa: E731
    attributes = {
        "point3f[] positions": vectors(sample.means),
        "quatf[] orientations": vectors(sample.unit_quats),
        "float3[] scales": vectors(np.exp(sample.log_scales)),
        "float[] opacities": str([float(value) for value in sample.opacities]),
        "float3[] radiance:sphericalHarmonicsCoefficients": vectors(sample.sh.reshape(-1, 3)),
        "uniform int radiance:sphericalHarmonicsDegree": int(np.sqrt(sample.sh.shape[1])) - 1,
        **more,
    }
    lines = "\n".join(f"    {name} = {value}" for name, value in attributes.items())
    path.write_text(
        f'#usda 1.0\ndef Xform "world" {{\n  def ParticleField3DGaussianSplat "map" {{\n{lines}\n  }}\n}}\n'
    )
    return path


def test_openusd(tmp_path: Path) -> None:
    pytest.importorskip("pxr")
    assert_holds(load_map(write_usd(tmp_path / "map.usda", SAMPLE)), SAMPLE)
    moved = write_usd(tmp_path / "moved.usda", SAMPLE, **{"double3 xformOp:translate": "(1, 2, 3)"})
    assert "xformOps" in load_map(moved).notes[0]


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("ParticleField3DGaussianSplat", "Points", ("map.format",)),
        ("#usda 1.0", "#usda 1.0\n)", ("map.format",)),
        ("opacities", "opacity", ("map.missing",)),
        ("Degree = 3", "Degree = 2", ("map.value", "30")),
    ],
)
def test_damaged_openusd(tmp_path: Path, old: str, new: str, fault: tuple[str, ...]) -> None:
    pytest.importorskip("pxr")
    path = write_usd(tmp_path / "map.usda", SAMPLE)
    path.write_text(path.read_text().replace(old, new, 1))
    with raises(*fault):
        load_map(path)


def test_openusd_as_deep_as_it_likes(tmp_path: Path) -> None:
    pytest.importorskip("pxr")
    depth = 3000
    (tmp_path / "map.usda").write_text("#usda 1.0\n" + 'def "x" {\n' * depth + "}\n" * depth)
    with raises("map.format", "0 prims"):
        load_map(tmp_path / "map.usda")


def write_sog(path: Path, sample: Parameters, **changes: Any) -> Path:
    """Version 2, degree 0: 16-bit logarithmic positions, codebooks of 256 for scales and colours."""
    import imagecodecs

    side, count = 8, len(sample.means)
    logs = np.sign(sample.means) * np.log1p(np.abs(sample.means))
    low, high = logs.min(axis=0), logs.max(axis=0)
    words = np.round((logs - low) / (high - low) * 65535).astype(np.uint16)
    books = {
        "scales": np.linspace(sample.log_scales.min(), sample.log_scales.max(), 256),
        "sh0": np.linspace(sample.sh[:, 0].min(), sample.sh[:, 0].max(), 256),
    }
    nearest = lambda book, values: np.abs(values[..., None] - book).argmin(axis=-1)  # noqa: E731
    quats = np.empty((count, 4), np.uint8)
    for row, quat in enumerate(sample.unit_quats):
        largest = int(np.abs(quat).argmax())
        others = np.delete(quat, largest) * np.sign(quat[largest]) * np.sqrt(2)
        quats[row] = [*np.round((others + 1) / 2 * 255).astype(int), 252 + largest]
    alpha = np.round(sample.opacities * 255).astype(int)[:, None]
    images = {
        "means_l.webp": words & 255, "means_u.webp": words >> 8, "quats.webp": quats,
        "scales.webp": nearest(books["scales"], sample.log_scales),
        "sh0.webp": np.column_stack([nearest(books["sh0"], sample.sh[:, 0]), alpha]),
    }  # fmt: skip
    meta: dict[str, Any] = {
        "version": 2, "count": count, "quats": {"files": ["quats.webp"]},
        "means": {"mins": low.tolist(), "maxs": high.tolist(), "files": ["means_l.webp", "means_u.webp"]},
        **{key: {"codebook": book.tolist(), "files": [f"{key}.webp"]} for key, book in books.items()},
    }  # fmt: skip
    for key, value in changes.items():
        meta[key] = meta[key] | value if isinstance(value, dict) else value
    with zipfile.ZipFile(path, "w") as bundle:
        bundle.writestr("meta.json", json.dumps(meta))
        for name, values in images.items():
            pixels = np.full((side * side, 4), 255, np.uint8)
            pixels[:count, : values.shape[1]] = values
            bundle.writestr(name, imagecodecs.webp_encode(pixels.reshape(side, side, 4), lossless=True))
    return path


def test_sog(tmp_path: Path) -> None:
    pytest.importorskip("gsply"), pytest.importorskip("imagecodecs")
    sample = replace(SAMPLE, sh=SAMPLE.sh[:, :1])
    assert_close(load_map(write_sog(tmp_path / "map.sog", sample)), sample)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"count": 65}, ("map.damaged|map.format",)),
        ({"count": 0}, ("map.value", "'count'")),
        ({"scales": {"codebook": [0.0] * 255}}, ("map.value", "255", "256")),
        ({"quats": {"files": ["other.webp"]}}, ("map.damaged", "other.webp")),
        ({"quats": {"files": ["meta.json"]}}, ("map.damaged", "meta.json")),
        ({"version": 7}, ("map.format|map.value",)),
    ],
)
def test_damaged_sog(tmp_path: Path, changes: dict[str, Any], fault: tuple[str, ...]) -> None:
    pytest.importorskip("gsply"), pytest.importorskip("imagecodecs")
    with raises(*fault):
        load_map(write_sog(tmp_path / "map.sog", SAMPLE, **changes))
