"""glTF with KHR_gaussian_splatting, uncompressed: ``.glb``, or ``.gltf`` with buffers inside or beside it.

The extension: https://github.com/KhronosGroup/glTF/tree/main/extensions/2.0/Khronos/KHR_gaussian_splatting. Scales are
linear, opacities after the logistic, quaternions xyzw. The map is in the frame of the glTF's scene, y up: nodes that
place a mesh are applied to it.
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

import numpy as np
import torch
from numpy.typing import NDArray

from feature_gs_ros.core.errors import AlignmentError, MapError
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.core.geometry import Sim3, rotation_from_quat_wxyz
from feature_gs_ros.core.memory import check_budget
from feature_gs_ros.core.placing import transformed
from feature_gs_ros.io.files import open_regular, read_regular
from feature_gs_ros.io.splats.extras import check_linear
from feature_gs_ros.io.structured import MAX_JSON, Table, parse_json

EXTENSION = "KHR_gaussian_splatting"
MAX_BUFFER = 1 << 36  # bytes
_GLB = b"glTF"
_COMPRESSED = ("KHR_gaussian_splatting_compression_spz", "KHR_gaussian_splatting_compression_spz_2")
_TYPES = {5120: "i1", 5121: "u1", 5122: "i2", 5123: "u2", 5125: "u4", 5126: "f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}
_MAX_NODES = 1000
_COPIES = 3  # of a map's values while several meshes are put together
_KERNELS = (None, "ellipse")

Floats = NDArray[np.float32]


class Gltf:
    """See `SplatFormat`."""

    name = f"glTF with {EXTENSION}"

    def matches(self, path: Path, start: bytes) -> bool:
        return start[:4] == _GLB or path.suffix.lower() == ".gltf"

    def load(self, path: Path) -> GaussianMap:
        document = _Document(path)
        parts = list(document.splats())
        if not parts:
            raise MapError(
                f"'{path}' is a glTF without Gaussians: no primitive of a mesh in its scene has {EXTENSION}",
                code="map.format",
            )
        whole = parts[0] if len(parts) == 1 else _together(parts, f"'{path}'")
        moved = any(part.notes for part in parts)
        note = "its nodes place the Gaussians in the scene's frame (y up); poses have to be in that frame"
        return replace(whole, notes=(note,) if moved else ())


class _Document:
    """The JSON part, and its buffers, which are read when an accessor asks for them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = path.stat().st_size
        self._binary: tuple[int, int] | None = None  # offset and length of a .glb's own buffer
        self._placed = 0  # bytes of Gaussians so far
        self._buffers: dict[int, bytes | NDArray[np.uint8]] = {}
        self.content = Table(parse_json(self._json(), f"'{path}'", MapError), f"'{path}'", MapError)

    def splats(self) -> Iterator[GaussianMap]:
        """The Gaussians of every primitive in the scene, placed by its nodes."""
        meshes = self._tables("meshes")
        for index, placement in self._placed_meshes():
            if not 0 <= index < len(meshes):
                raise MapError(
                    f"a node of '{self.path}' names mesh {index} of {len(meshes)}: damaged; export it again",
                    code="map.damaged",
                )
            for primitive in meshes[index].tables("primitives"):
                if "extensions" in primitive and EXTENSION in primitive.table("extensions"):
                    yield self._gaussians(primitive, placement)

    def _json(self) -> bytes:
        with open_regular(self.path) as file:
            start = file.read(12)
            if start[:4] != _GLB:
                if self.size > MAX_JSON:
                    raise MapError(
                        f"'{self.path}' has {self.size} bytes of JSON, at most {MAX_JSON} are read; use .glb",
                        code="map.range",
                    )
                return start + file.read()
            json, offset = b"", 12
            while header := file.read(8):
                if len(header) < 8:
                    raise self._damaged("it ends within a chunk's header")
                length, kind = struct.unpack("<I4s", header)
                offset += 8
                if offset + length > self.size:
                    raise self._damaged(f"a chunk of {length} bytes begins at {offset}, the file has {self.size}")
                if kind == b"JSON" and not json:
                    if length > MAX_JSON:
                        raise self._damaged(f"its JSON has {length} bytes, at most {MAX_JSON} are read")
                    json = file.read(length)
                elif kind == b"BIN\0" and self._binary is None:
                    self._binary = (offset, length)
                offset += length
                file.seek(offset)
        return json

    def _placed_meshes(self) -> Iterator[tuple[int, NDArray[np.float64]]]:
        """Mesh and transform [4, 4] into the scene's frame of every node that has one."""
        nodes, scenes = self._tables("nodes"), self._tables("scenes")
        if scenes:
            chosen = self.content.whole("scene", 0, least=0, most=len(scenes) - 1)
            scene = scenes[chosen]
            roots = [int(index) for index in scene.numbers("nodes")] if "nodes" in scene else []
        else:
            roots = list(range(len(nodes)))
        waiting = [(root, np.eye(4)) for root in roots]
        visited = 0
        while waiting:
            index, above = waiting.pop(0)
            visited += 1
            if not 0 <= index < len(nodes) or visited > _MAX_NODES:
                raise self._damaged(f"node {index} of {len(nodes)} is not there, or more than {_MAX_NODES} are visited")
            node = nodes[index]
            placement = above @ _matrix(node)
            if "mesh" in node:
                yield node.whole("mesh"), placement
            if "children" in node and scenes:
                waiting += [(int(child), placement) for child in node.numbers("children")]

    def _gaussians(self, primitive: Table, placement: NDArray[np.float64]) -> GaussianMap:
        extension = primitive.table("extensions").table(EXTENSION)
        inner = extension.table("extensions") if "extensions" in extension else None
        if inner is not None and any(key in inner for key in _COMPRESSED):
            raise MapError(
                f"'{self.path}' holds its Gaussians compressed as SPZ within glTF, which isn't read; convert it: "
                "splat-transform FILE map.ply",
                code="map.format",
            )
        if extension.get("kernel") not in _KERNELS:
            raise MapError(
                f"'{self.path}' has the kernel {extension.get('kernel')!r}, only ellipses are Gaussians",
                code="map.format",
            )
        attributes = primitive.table("attributes")
        degree = max((n for n in range(1, 4) if f"{EXTENSION}:SH_DEGREE_{n}_COEF_0" in attributes), default=0)
        bands = [(n, k) for n in range(degree + 1) for k in range(2 * n + 1)]
        means = self._values(attributes, "POSITION", 3)
        turns = self._values(attributes, f"{EXTENSION}:ROTATION", 4)
        scales = self._values(attributes, f"{EXTENSION}:SCALE", 3)
        opacities = self._values(attributes, f"{EXTENSION}:OPACITY", 1)
        sh = [self._values(attributes, f"{EXTENSION}:SH_DEGREE_{n}_COEF_{k}", 3) for n, k in bands]
        if len({len(values) for values in (means, turns, scales, opacities, *sh)}) != 1:
            raise self._damaged("its attributes differ in length")
        # Many nodes may place one mesh: the file doesn't limit what comes of it.
        self._placed += sum(values.nbytes for values in (means, turns, scales, opacities, *sh))
        check_budget(_COPIES * self._placed, None, f"'{self.path}' with all that its nodes place", "export fewer nodes")
        check_linear(scales, opacities, f"'{self.path}'")
        gaussians = GaussianMap.from_tensors(
            torch.from_numpy(means),
            torch.from_numpy(turns[:, [3, 0, 1, 2]].copy()),
            torch.from_numpy(scales),
            torch.from_numpy(opacities[:, 0].copy()),
            torch.from_numpy(np.stack(sh, axis=1)),
            f"'{self.path}'",
        )
        if np.allclose(placement, np.eye(4), atol=1e-9):
            return gaussians
        try:
            placed = transformed(gaussians, Sim3.from_matrix(placement))
        except AlignmentError as error:
            raise MapError(
                f"a node of '{self.path}' has a transform that Gaussians can't take: {error}",
                code="map.unsupported",
            ) from error
        return replace(placed, notes=("placed",))

    def _values(self, attributes: Table, name: str, width: int) -> Floats:
        """Values [N, width] of an attribute, normalised integers as floats."""
        accessors, views = self._tables("accessors"), self._tables("bufferViews")
        if name not in attributes:
            raise MapError(f"'{self.path}' has Gaussians without {name}; export it again", code="map.missing")
        index = attributes.whole(name, least=0, most=len(accessors) - 1)
        accessor = accessors[index]
        if "sparse" in accessor or "bufferView" not in accessor:
            raise MapError(
                f"{accessor.source} is sparse or empty, which isn't read; export it again", code="map.format"
            )
        if _WIDTHS.get(accessor.text("type")) != width:
            raise self._damaged(f"{name} is of type {accessor.text('type')}, expected {width} values")
        kind = np.dtype(_TYPES[accessor.choice("componentType", tuple(_TYPES))]).newbyteorder("<")
        count = accessor.whole("count", least=1, most=1 << 40)
        view = views[accessor.whole("bufferView", least=0, most=len(views) - 1)]
        data = self._buffer(view.whole("buffer", 0, least=0))
        row = width * kind.itemsize
        stride = view.whole("byteStride", row, least=row, most=252) if "byteStride" in view else row
        inside = accessor.whole("byteOffset", 0, least=0)
        first, length = view.whole("byteOffset", 0, least=0) + inside, view.whole("byteLength", least=0) - inside
        needed = (count - 1) * stride + row
        if needed > length or first + needed > len(data):
            raise self._damaged(f"{name} takes {needed} bytes of {min(length, len(data) - first)}")
        raw = np.frombuffer(data, np.uint8, needed, first)
        rows = np.lib.stride_tricks.as_strided(raw, (count, row), (stride, 1), writeable=False)
        values = np.ascontiguousarray(rows).view(kind).astype(np.float32)
        if kind.kind in "iu" and accessor.boolean("normalized", False):
            values = np.maximum(values / np.float32(np.iinfo(kind).max), np.float32(-1))
        return np.asarray(values, dtype=np.float32)

    def _buffer(self, index: int) -> bytes | NDArray[np.uint8]:
        if index not in self._buffers:
            buffers = self._tables("buffers")
            if not 0 <= index < len(buffers):
                raise self._damaged(f"buffer {index} of {len(buffers)} is asked for")
            self._buffers[index] = self._read_buffer(buffers[index], is_first=index == 0)
        return self._buffers[index]

    def _read_buffer(self, buffer: Table, *, is_first: bool) -> bytes | NDArray[np.uint8]:
        if "uri" not in buffer:
            if not is_first or self._binary is None:
                raise self._damaged("a buffer has neither a uri nor a binary chunk")
            offset, length = self._binary
            return np.fromfile(self.path, np.uint8, length, offset=offset)
        uri = buffer.text("uri")
        if uri.startswith("data:"):
            try:
                return base64.b64decode(uri.partition(",")[2], validate=True)
            except (binascii.Error, ValueError) as error:
                raise self._damaged(f"a buffer within it is not base64: {error}") from error
        name = unquote(uri)
        if "://" in name or "\0" in name or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise MapError(
                f"'{self.path}' names the buffer {uri[:80]!r}, which isn't a file beside or below it", code="map.name"
            )
        beside = self.path.parent / name
        try:
            return read_regular(beside, MAX_BUFFER)
        except OSError as error:
            raise MapError(
                f"can't read the buffer '{beside}' of '{self.path}': {error.strerror or error}", code="map.unreadable"
            ) from error

    def _tables(self, key: str) -> list[Table]:
        return self.content.tables(key) if key in self.content else []

    def _damaged(self, reason: str) -> MapError:
        return MapError(f"'{self.path}' is a damaged glTF: {reason}; export it again", code="map.damaged")


def _matrix(node: Table) -> NDArray[np.float64]:
    """A node's transform [4, 4] into its parent's frame; glTF writes matrices column after column."""
    if "matrix" in node:
        return np.reshape(np.array(node.numbers("matrix", 16), dtype=np.float64), (4, 4), order="F")
    matrix: NDArray[np.float64] = np.eye(4)
    if "rotation" in node:
        x, y, z, w = node.numbers("rotation", 4)
        matrix[:3, :3] = rotation_from_quat_wxyz([w, x, y, z]) if any((x, y, z, w)) else np.nan
    if "scale" in node:
        matrix[:3, :3] = matrix[:3, :3] * np.array(node.numbers("scale", 3))
    if "translation" in node:
        matrix[:3, 3] = node.numbers("translation", 3)
    return matrix


def _together(parts: list[GaussianMap], source: str) -> GaussianMap:
    """One map of several; of different degrees the lower ones get zeros."""
    largest = max(part.sh.shape[1] for part in parts)
    sh = [torch.nn.functional.pad(part.sh, (0, 0, 0, largest - part.sh.shape[1])) for part in parts]
    names = ("means", "quats_wxyz", "scales", "opacities")
    means, quats, scales, opacities = (torch.cat([getattr(part, name) for part in parts]) for name in names)
    return GaussianMap.from_tensors(means, quats, scales, opacities, torch.cat(sh), source)
