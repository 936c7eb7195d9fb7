"""From any map to a chunked one, in bounded memory: an external sort along the Z-curve.

Rows are read twice. The first time tells the bounds and a sample, whose codes part the curve into buckets of about
equal size; the second time each row goes to its bucket's file. A bucket fits into memory and is sorted there.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feature_gs_ros.core.errors import BudgetError, MapError
from feature_gs_ros.core.gaussians import (
    BLUR,
    CURVE_BLOCK,
    CurveBlocks,
    DroppedGaussians,
    GaussianMap,
    checksum_of,
    largest_scale,
    usable_rows,
)
from feature_gs_ros.core.memory import MemoryLimit, gigabytes
from feature_gs_ros.io.splats.chunked import COLUMNS, FORMAT
from feature_gs_ros.io.splats.gaussian_ply import PlyReading
from feature_gs_ros.io.splats.ply import open_ply
from feature_gs_ros.io.splats.registry import load_map, plain_ply
from feature_gs_ros.io.tensors import TensorBlocks, write_tensor_file

SAMPLE = 1 << 20  # rows by which a file's variant is told, and the curve is parted
BITS = 21  # of a coordinate in a code
SORT_COPIES = 4  # of a bucket's rows, while it is sorted
BASE_BYTES = 400 << 20  # of the program itself
MAX_BUCKETS = 500  # files that are open at once
ROW_BLOCK = 1 << 16  # of a map that was loaded as a whole

Rows = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]  # means, quaternions, scales, opacities, SH of some rows
Progress = Callable[[int, int], object]  # rows done, rows in all


@dataclass(frozen=True)
class ChunkReport:
    """What became of a map's rows."""

    gaussians: int
    dropped: DroppedGaussians
    notes: tuple[str, ...]
    buckets: int


@dataclass(frozen=True)
class _Source:
    """A map to be read in blocks, more than once."""

    count: int
    coefficients: int  # K of the SH
    blocks: Callable[[], Iterator[Rows]]
    sample: NDArray[np.float32]  # [S, 3] means
    notes: tuple[str, ...]
    antialiased: bool
    blur: float
    largest: float | None  # scale that a Gaussian may have
    dropped: DroppedGaussians = field(default_factory=DroppedGaussians)


def chunk_map(path: Path, out: Path, limit: MemoryLimit, progress: Progress | None = None) -> ChunkReport:
    """Write a map's Gaussians along a Z-curve, as `load_map` maps them into memory.

    A binary or text 3DGS PLY is streamed; other formats are loaded as a whole first.

    Args:
        limit: the memory to stay within.
        progress: called with the rows done and all rows.

    Raises:
        MapError: the map can't be read, nothing in it can be used, or the file can't be written.
        BudgetError: the limit is below what the program itself and one bucket take.
    """
    source = _source_of(path)
    row_bytes = 4 * (sum(COLUMNS.values()) + 3 * source.coefficients + 2)
    room = limit.limit - BASE_BYTES
    per_bucket = max(0, room) // (SORT_COPIES * row_bytes)
    buckets = -(-source.count // per_bucket) if per_bucket else MAX_BUCKETS + 1
    if buckets > MAX_BUCKETS:
        needed = BASE_BYTES + source.count * row_bytes * SORT_COPIES // MAX_BUCKETS
        raise BudgetError(
            f"sorting {source.count} Gaussians needs {gigabytes(needed)}, the limit is {gigabytes(limit.limit)}: "
            "raise --memory"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{out.name[:40]}.", suffix=".sorting", dir=out.parent) as folder:
            return _sorted_into(out, source, buckets, Path(folder), path, progress)
    except OSError as error:
        raise MapError(f"can't write '{out}': {error.strerror or error}", code="map.unwritable") from error


def _source_of(path: Path) -> _Source:
    ply_path = plain_ply(path)
    if ply_path is None:
        return _loaded(load_map(path))
    ply = open_ply(ply_path)
    reading = PlyReading.of(ply)
    if reading.count == 0:
        raise MapError(f"'{path}' holds no Gaussians; export the map again", code="map.empty")
    step = -(-reading.count // SAMPLE)
    kept: dict[str, list[NDArray[np.float32]]] = {group: [] for group in reading.groups}
    for columns in ply.column_blocks("vertex", reading.groups):
        for group, values in columns.items():
            kept[group].append(values[::step])
    sample = {group: np.concatenate(parts) for group, parts in kept.items()}
    reading = reading.judged(sample)
    rows = reading.tensors(sample)
    usable, _, _ = usable_rows(*rows)
    return _Source(
        reading.count,
        rows[4].shape[1],
        lambda: (reading.tensors(columns) for columns in ply.column_blocks("vertex", reading.groups)),
        rows[0][usable].numpy(),
        reading.notes,
        reading.blur is not None,
        BLUR if reading.blur is None else reading.blur,
        largest_scale(rows[0][usable]),
    )


def _loaded(gaussians: GaussianMap) -> _Source:
    """A map that other formats hold; its rows were checked as it was loaded."""
    names = ("means", "quats_wxyz", "scales", "opacities", "sh")
    return _Source(
        len(gaussians),
        gaussians.sh.shape[1],
        lambda: zip(*(getattr(gaussians, name).split(ROW_BLOCK) for name in names), strict=True),
        gaussians.means[:: -(-len(gaussians) // SAMPLE)].numpy(),
        gaussians.notes,
        gaussians.antialiased,
        gaussians.blur,
        None,
        gaussians.dropped,
    )


def _sorted_into(
    out: Path, source: _Source, buckets: int, folder: Path, path: Path, progress: Progress | None
) -> ChunkReport:
    low, scale = _frame_of(source)
    codes = np.sort(z_codes(source.sample, low, scale))
    borders = codes[np.arange(1, buckets) * len(codes) // buckets] if len(codes) else codes
    files = [folder / f"{index}.rows" for index in range(len(borders) + 1)]
    counts, dropped = _distribute(source, files, borders, low, scale, progress)
    total = sum(counts)
    if total == 0:
        raise MapError(
            f"none of the {source.count} Gaussians of '{path}' can be used; export the map again", code="map.empty"
        )
    parts = [part for part in zip(files, counts, strict=True) if part[1]]
    blocks = _sort_buckets(parts, source.coefficients, low, scale)
    sizes = [count for _, count in parts]

    def blocks_of(name: str) -> Iterator[Tensor]:
        for file, count in parts:
            yield _read_part(file, count, source.coefficients, name)

    checksum = checksum_of(blocks_of, source.antialiased, source.blur)
    tensors: dict[str, Tensor | TensorBlocks] = {
        name: TensorBlocks(torch.float32, (total,) if width == 1 else (total, width), blocks_of(name))
        for name, width in COLUMNS.items()
    }
    tensors["sh"] = TensorBlocks(torch.float32, (total, source.coefficients, 3), blocks_of("sh"))
    tensors["source_rows"] = TensorBlocks(torch.int64, (total,), blocks_of("source_rows"))
    bounds = {"low": blocks.low, "high": blocks.high, "largest": blocks.scale}
    tensors |= {name: torch.from_numpy(values) for name, values in bounds.items()}
    content: dict[str, object] = {"checksum": checksum, "notes": source.notes, "source": str(path)}
    content |= {"antialiased": source.antialiased, "blur": source.blur}
    write_tensor_file(out, FORMAT, tensors, content)
    return ChunkReport(total, dropped, source.notes, len(sizes))


def _frame_of(source: _Source) -> tuple[NDArray[np.float64], float]:
    """The corner [3] and the codes' steps per unit of the sample's cube; what lies outside takes its border's code."""
    if len(source.sample) == 0:
        return np.zeros(3), 1.0
    low = source.sample.min(axis=0).astype(np.float64)
    size = max(float((source.sample.max(axis=0) - low).max()), 1e-12)
    return low, ((1 << BITS) - 1) / size


def _distribute(
    source: _Source,
    files: list[Path],
    borders: NDArray[np.uint64],
    low: NDArray[np.float64],
    scale: float,
    progress: Progress | None,
) -> tuple[list[int], DroppedGaussians]:
    """Append each usable row to its bucket's file; how many each has, and what was dropped."""
    counts, dropped, first = [0] * len(files), source.dropped, 0
    with ExitStack() as stack:
        opened = [stack.enter_context(file.open("wb")) for file in files]
        for rows in source.blocks():
            keep, norms, gone = usable_rows(*rows, largest=source.largest or np.inf)
            dropped += gone
            means, quats, scales, opacities, sh = (values[keep] for values in rows)
            quats = (quats / norms[keep].unsqueeze(1)).float()
            numbers = first + keep.nonzero()[:, 0]
            first += len(keep)
            columns = (means, quats, scales, opacities.clamp(0.0, 1.0)[:, None], sh.flatten(1))
            table = np.concatenate([*(column.numpy() for column in columns), numbers[:, None].numpy().view("<f4")], 1)
            owner = np.searchsorted(borders, z_codes(means.numpy(), low, scale), side="right")
            order = np.argsort(owner, kind="stable")
            ends = np.cumsum(np.bincount(owner, minlength=len(files)))
            for bucket, part in enumerate(np.split(table[order], ends[:-1])):
                if len(part):
                    opened[bucket].write(np.ascontiguousarray(part, "<f4").data)
                    counts[bucket] += len(part)
            if progress is not None:
                progress(first, source.count)
    return counts, dropped


def _sort_buckets(
    parts: Iterable[tuple[Path, int]], coefficients: int, low: NDArray[np.float64], scale: float
) -> CurveBlocks:
    """Sort each bucket along the curve and write it back, one tensor after the other; the bounds of all blocks."""
    bounds: list[CurveBlocks] = []
    means, scales = np.empty((0, 3), np.float32), np.empty((0, 3), np.float32)  # of a block that isn't whole yet
    for file, count in parts:
        table = np.fromfile(file, "<f4").reshape(count, -1)
        order = np.argsort(z_codes(table[:, :3], low, scale), kind="stable")
        with file.open("wb") as written:
            for first, last in _columns(coefficients).values():
                written.write(np.ascontiguousarray(table[order, first:last]).data)
        means = np.concatenate([means, table[order, 0:3]])
        scales = np.concatenate([scales, table[order, 7:10]])
        whole = len(means) // CURVE_BLOCK * CURVE_BLOCK
        if whole:
            bounds.append(CurveBlocks.of(means[:whole], scales[:whole]))
        means, scales = means[whole:], scales[whole:]
    if len(means):
        bounds.append(CurveBlocks.of(means, scales))
    return CurveBlocks(*(np.concatenate([getattr(one, name) for one in bounds]) for name in ("low", "high", "scale")))


def _columns(coefficients: int) -> dict[str, tuple[int, int]]:
    """First and last column of each tensor in a bucket's table."""
    widths = {**COLUMNS, "sh": 3 * coefficients, "source_rows": 2}
    ends = np.cumsum(list(widths.values())).tolist()
    return {name: (end - width, end) for (name, width), end in zip(widths.items(), ends, strict=True)}


def _read_part(file: Path, count: int, coefficients: int, name: str) -> Tensor:
    """One tensor of a sorted bucket."""
    first, last = _columns(coefficients)[name]
    values = torch.from_numpy(np.fromfile(file, "<f4", count * (last - first), offset=4 * count * first))
    if name == "source_rows":
        return values.view(torch.int64)
    if name == "sh":
        return values.reshape(count, coefficients, 3)
    return values if last - first == 1 else values.reshape(count, last - first)


def z_codes(points: NDArray[np.float32], low: NDArray[np.float64], scale: float) -> NDArray[np.uint64]:
    """Codes [N] of points [N, 3] along a Z-curve: `BITS` bits of each coordinate of ``(points − low) · scale``."""
    steps = np.clip((points - low) * scale, 0, (1 << BITS) - 1).astype(np.uint64)
    codes = np.zeros(len(points), np.uint64)
    for axis in range(3):
        bits = steps[:, axis]
        for shift, mask in (
            (32, 0x1F00000000FFFF), (16, 0x1F0000FF0000FF), (8, 0x100F00F00F00F00F),
            (4, 0x10C30C30C30C30C3), (2, 0x1249249249249249),
        ):  # fmt: skip
            bits = (bits | (bits << np.uint64(shift))) & np.uint64(mask)
        codes |= bits << np.uint64(axis)
    return codes
