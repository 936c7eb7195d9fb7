"""Splat files for the tests, written without the package's own readers and writers."""

from __future__ import annotations

import gzip
import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from plyfile import PlyData, PlyElement

from feature_gs_ros.core.gaussians import GaussianMap

C0 = 0.5 / math.sqrt(math.pi)
REST_COUNTS = (0, 9, 24, 45)
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Parameters:
    """What trainers optimise; every value is a float32 as it goes into the files."""

    means: Floats  # [N, 3]
    quats: Floats  # [N, 4] wxyz, not normalised
    log_scales: Floats  # [N, 3]
    logits: Floats  # [N]
    sh: Floats  # [N, K, 3]

    @property
    def unit_quats(self) -> Floats:
        return self.quats / np.linalg.norm(self.quats, axis=1, keepdims=True)

    @property
    def opacities(self) -> Floats:
        return 1 / (1 + np.exp(-self.logits))

    def columns(self) -> dict[str, Floats]:
        """By property name in Inria's order; f_rest is channel-major."""
        rest = self.sh[:, 1:].transpose(0, 2, 1).reshape(len(self.means), -1)
        columns = {name: self.means[:, k] for k, name in enumerate("xyz")}
        columns |= {name: np.zeros(len(self.means), np.float32) for name in ("nx", "ny", "nz")}
        columns |= {f"f_dc_{k}": self.sh[:, 0, k] for k in range(3)}
        columns |= {f"f_rest_{k}": rest[:, k] for k in range(rest.shape[1])}
        columns |= {"opacity": self.logits}
        columns |= {f"scale_{k}": self.log_scales[:, k] for k in range(3)}
        return columns | {f"rot_{k}": self.quats[:, k] for k in range(4)}


def random_parameters(count: int = 20, degree: int = 1, seed: int = 0) -> Parameters:
    draw = np.random.default_rng(seed)
    return Parameters(
        draw.normal(0, 2, (count, 3)).astype(np.float32),
        draw.normal(0, 1, (count, 4)).astype(np.float32),
        draw.uniform(-6, -2, (count, 3)).astype(np.float32),
        draw.normal(0, 3, count).astype(np.float32),
        draw.normal(0, 0.5, (count, (degree + 1) ** 2, 3)).astype(np.float32),
    )


def assert_holds(gaussians: GaussianMap, expected: Parameters) -> None:
    """The map's values are those of the file, made linear."""
    np.testing.assert_array_equal(gaussians.means.numpy(), expected.means)
    np.testing.assert_allclose(gaussians.quats_wxyz.numpy(), expected.unit_quats, rtol=0, atol=2e-7)
    np.testing.assert_allclose(gaussians.scales.numpy(), np.exp(expected.log_scales), rtol=3e-7)
    np.testing.assert_allclose(gaussians.opacities.numpy(), expected.opacities, rtol=3e-7)
    np.testing.assert_array_equal(gaussians.sh.numpy(), expected.sh)


def write_ply(
    path: Path, columns: dict[str, NDArray], *, text: bool = False, byte_order: str = "<", more: tuple = ()
) -> Path:
    """By plyfile, with the columns in the order given; ``more`` elements follow."""
    count = len(next(iter(columns.values())))
    rows = np.empty(count, [(name, values.dtype.str[1:]) for name, values in columns.items()])
    for name, values in columns.items():
        rows[name] = values
    PlyData([PlyElement.describe(rows, "vertex"), *more], text=text, byte_order=byte_order).write(str(path))
    return path


def write_compressed(path: Path, parameters: Parameters, *, chunk_colors: bool = True, with_sh: bool = True) -> Path:
    """PlayCanvas' format, packed one Gaussian at a time as its description reads."""
    count = len(parameters.means)
    colors = parameters.sh[:, 0] * C0 + 0.5 if chunk_colors else np.clip(parameters.sh[:, 0] * C0 + 0.5, 0, 1)
    axes = [("", "xyz", parameters.means), ("scale_", "xyz", parameters.log_scales)]
    axes += [("", "rgb", colors)] if chunk_colors else []
    chunks = []
    words = np.zeros(count, [(f"packed_{name}", "u4") for name in ("position", "rotation", "scale", "color")])
    for start in range(0, count, 256):
        rows = slice(start, start + 256)
        bounds = [np.concatenate([values[rows].min(0), values[rows].max(0)]) for _, _, values in axes]
        chunks.append(np.concatenate(bounds))
        for row in range(start, min(start + 256, count)):
            units = [
                (values[row] - low_high[:3]) / np.maximum(low_high[3:] - low_high[:3], 1e-9)
                for (_, _, values), low_high in zip(axes, bounds, strict=True)
            ]
            color = units[2] if chunk_colors else colors[row]
            words["packed_position"][row] = _pack_bits(units[0], (11, 10, 11))
            words["packed_scale"][row] = _pack_bits(units[1], (11, 10, 11))
            words["packed_color"][row] = _pack_bits([*color, parameters.opacities[row]], (8, 8, 8, 8))
            words["packed_rotation"][row] = _pack_rotation(parameters.unit_quats[row])
    names = [f"{end}_{kind}{axis}" for kind, letters, _ in axes for end in ("min", "max") for axis in letters]
    table = np.array([tuple(chunk) for chunk in chunks], [(name, "f4") for name in names])
    elements = [PlyElement.describe(table, "chunk"), PlyElement.describe(words, "vertex")]
    rest = parameters.sh[:, 1:].transpose(0, 2, 1).reshape(count, -1)
    if with_sh and rest.shape[1]:
        levels = np.clip(np.trunc((rest / 8 + 0.5) * 256), 0, 255).astype(np.uint8)
        table = np.array([tuple(row) for row in levels], [(f"f_rest_{k}", "u1") for k in range(rest.shape[1])])
        elements.append(PlyElement.describe(table, "sh"))
    PlyData(elements, byte_order="<").write(str(path))
    return path


def write_antimatter(path: Path, parameters: Parameters) -> Path:
    rgba = np.concatenate([parameters.sh[:, 0] * C0 + 0.5, parameters.opacities[:, None]], axis=1)
    with path.open("wb") as file:
        for row in range(len(parameters.means)):
            file.write(np.concatenate([parameters.means[row], np.exp(parameters.log_scales[row])]).astype("<f4"))
            file.write(np.clip(np.round(rgba[row] * 255), 0, 255).astype(np.uint8))
            file.write(np.clip(np.round(parameters.unit_quats[row] * 128 + 128), 0, 255).astype(np.uint8))
    return path


def write_gltf(path: Path, parameters: Parameters, **node: object) -> Path:
    """KHR_gaussian_splatting, uncompressed: ``.glb``, or ``.gltf`` with its buffer beside it; ``node`` places it."""
    degree = math.isqrt(parameters.sh.shape[1]) - 1
    bands = [(n, k) for n in range(degree + 1) for k in range(2 * n + 1)]
    named = {
        "POSITION": parameters.means,
        "KHR_gaussian_splatting:ROTATION": parameters.unit_quats[:, [1, 2, 3, 0]],
        "KHR_gaussian_splatting:SCALE": np.exp(parameters.log_scales),
        "KHR_gaussian_splatting:OPACITY": parameters.opacities[:, None],
    } | {f"KHR_gaussian_splatting:SH_DEGREE_{n}_COEF_{k}": parameters.sh[:, n * n + k] for n, k in bands}
    data, views, accessors = b"", [], []
    for values in named.values():
        raw = np.ascontiguousarray(values, "<f4").tobytes()
        kind = {1: "SCALAR", 3: "VEC3", 4: "VEC4"}[values.shape[1]]
        views.append({"buffer": 0, "byteOffset": len(data), "byteLength": len(raw)})
        accessors.append({"bufferView": len(accessors), "componentType": 5126, "count": len(values), "type": kind})
        data += raw
    primitive = {
        "mode": 0,
        "attributes": {name: index for index, name in enumerate(named)},
        "extensions": {"KHR_gaussian_splatting": {"kernel": "ellipse", "colorSpace": "srgb_rec709_display"}},
    }
    content = {
        "asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": [0]}], "nodes": [{"mesh": 0, **node}],
        "meshes": [{"primitives": [primitive]}], "accessors": accessors, "bufferViews": views,
        "buffers": [{"byteLength": len(data)}],
    }  # fmt: skip
    if path.suffix == ".gltf":
        path.with_suffix(".bin").write_bytes(data)
        content["buffers"] = [{"byteLength": len(data), "uri": path.with_suffix(".bin").name}]
        path.write_text(json.dumps(content))
        return path
    text = json.dumps(content).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(data), b"BIN\0") + data
    path.write_bytes(struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks)
    return path


def write_spz(path: Path, parameters: Parameters, *, version: int = 3, flags: int = 0) -> Path:
    """SPZ by its description: versions 2 and 3 within gzip, degree 0 to 3."""
    count = len(parameters.means)
    fixed = np.round(parameters.means * 4096).astype("<i4").view(np.uint8).reshape(count, 3, 4)[:, :, :3]
    quats = parameters.unit_quats * np.where(parameters.unit_quats[:, :1] < 0, -1, 1)
    turns = np.clip(np.round(quats[:, 1:] * 127.5 + 127.5), 0, 255).astype(np.uint8).tobytes()
    if version >= 3:
        turns = b"".join(_spz_rotation(quat[[1, 2, 3, 0]]) for quat in parameters.unit_quats)
    bytes_of = lambda values: np.clip(np.round(values), 0, 255).astype(np.uint8).tobytes()  # noqa: E731
    degree = math.isqrt(parameters.sh.shape[1]) - 1
    sections = [
        struct.pack("<4sIIBBBB", b"NGSP", version, count, degree, 12, flags, 0),
        fixed.tobytes(),
        bytes_of(parameters.opacities * 255),
        bytes_of(parameters.sh[:, 0] * 0.15 * 255 + 127.5),
        bytes_of((parameters.log_scales + 10) * 16),
        turns,
        bytes_of(parameters.sh[:, 1:] * 128 + 128),
    ]
    path.write_bytes(gzip.compress(b"".join(sections)))
    return path


def _spz_rotation(xyzw: Floats) -> bytes:
    largest = int(np.abs(xyzw).argmax())
    sign = -1 if xyzw[largest] < 0 else 1
    word = largest
    for axis in range(4):
        if axis != largest:
            value = xyzw[axis] * sign
            word = word << 10 | (512 if value < 0 else 0) | round(abs(float(value)) * math.sqrt(2) * 511)
    return struct.pack("<I", word)


def gsplat_checkpoint(parameters: Parameters) -> dict:
    """As examples/simple_trainer.py saves it."""
    sh = torch.from_numpy(parameters.sh)
    splats = {
        "means": torch.from_numpy(parameters.means),
        "quats": torch.from_numpy(parameters.quats),
        "scales": torch.from_numpy(parameters.log_scales),
        "opacities": torch.from_numpy(parameters.logits),
        "sh0": sh[:, :1].clone(),
        "shN": sh[:, 1:].clone(),
    }
    return {"step": 29999, "splats": splats}


def nerfstudio_checkpoint(parameters: Parameters, prefix: str = "_model.gauss_params.") -> dict:
    """As the trainer saves splatfacto, with an optimiser's state and a scheduler's NumPy learning rate."""
    sh = torch.from_numpy(parameters.sh)
    tensors = {
        "means": torch.from_numpy(parameters.means),
        "scales": torch.from_numpy(parameters.log_scales),
        "quats": torch.from_numpy(parameters.quats),
        "features_dc": sh[:, 0].clone(),
        "features_rest": sh[:, 1:].clone(),
        "opacities": torch.from_numpy(parameters.logits)[:, None],
    }
    pipeline = {prefix + name: value for name, value in tensors.items()}
    pipeline["_model.camera_optimizer.pose_adjustment"] = torch.zeros(2, 6)
    moments = {"state": {0: {"step": torch.tensor(1.0), "exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-3}]}
    schedulers = {"means": {"last_epoch": 7, "_last_lr": [np.float64(1.6e-6)]}}
    return {"step": 7, "pipeline": pipeline, "optimizers": {"means": moments}, "schedulers": schedulers}


def inria_checkpoint(parameters: Parameters) -> tuple:
    """As GaussianModel.capture and train.py save it: parameters, and a NumPy spatial_lr_scale."""
    sh, count = torch.from_numpy(parameters.sh), len(parameters.means)
    optimiser = torch.optim.Adam([torch.nn.Parameter(torch.zeros(2))], lr=1e-3)
    model = (
        1,
        torch.nn.Parameter(torch.from_numpy(parameters.means)),
        torch.nn.Parameter(sh[:, :1].clone()),
        torch.nn.Parameter(sh[:, 1:].clone()),
        torch.nn.Parameter(torch.from_numpy(parameters.log_scales)),
        torch.nn.Parameter(torch.from_numpy(parameters.quats)),
        torch.nn.Parameter(torch.from_numpy(parameters.logits)[:, None]),
        torch.zeros(count),
        torch.zeros(count, 1),
        torch.zeros(count, 1),
        optimiser.state_dict(),
        np.float32(3.7),
    )
    return (model, 30000)


def _pack_bits(units: NDArray | list, bits: tuple[int, ...]) -> int:
    word = 0
    for unit, width in zip(units, bits, strict=True):
        largest = 2**width - 1
        word = word << width | min(largest, max(0, math.floor(float(unit) * largest + 0.5)))
    return word


def _pack_rotation(quat_wxyz: Floats) -> int:
    largest = int(np.abs(quat_wxyz).argmax())
    quat = quat_wxyz * (1 if quat_wxyz[largest] >= 0 else -1)
    others = [quat[k] * math.sqrt(0.5) + 0.5 for k in range(4) if k != largest]
    return largest << 30 | _pack_bits(others, (10, 10, 10))
