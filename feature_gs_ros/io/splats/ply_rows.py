"""Rows of a 3DGS PLY carried into another file byte by byte: an edit leaves what it doesn't touch as it was."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feature_gs_ros.core.errors import MapError
from feature_gs_ros.core.gaussians import SH_C0, GaussianMap
from feature_gs_ros.io.atomic import atomic_path
from feature_gs_ros.io.splats.compressed import is_compressed_ply
from feature_gs_ros.io.splats.gaussian_ply import (
    FILTER_3D,
    MEANS,
    NORMALS,
    OPACITY,
    RGB,
    SCALES,
    SH_DC,
    holds_plain_colors,
    linear_values,
    property_names,
    property_values,
)
from feature_gs_ros.io.splats.ply import PlyFile, open_ply

_NOT_EDITED = -1


def copy_ply_rows(
    source: str | Path,
    target: str | Path,
    keep: Tensor,  # [N] bool over the file's rows, or row indices
    edited: GaussianMap | None = None,  # M Gaussians with new values
    edited_rows: Tensor | None = None,  # [M] int64 rows of the file that they replace
) -> None:
    """Write the rows of ``source`` that are kept to ``target``, in the file's order.

    Header lines, further properties and elements, and every row that is not edited keep their bytes; an edited row
    takes its Gaussian's values and keeps what a GaussianMap doesn't know. A map's `file_rows` says which rows it holds.
    Source and target may be the same file.

    Raises:
        MapError: the source is not a 3DGS PLY, a row is out of range, the edited Gaussians don't fit its properties,
            nothing is kept, or the target can't be written.
    """
    source, target = Path(source), Path(target)
    try:
        ply = open_ply(source)
        _check_source(ply)
        count = ply.element("vertex").count
        kept = np.zeros(count, np.bool_)
        kept[_row_indices(keep, count, source)] = True
        if not kept.any():
            raise MapError(
                f"none of the {count} Gaussians of '{source}' is kept; a splat file can't be empty", code="map.empty"
            )
        edit = _Edit(ply, edited, edited_rows)
        with atomic_path(target) as temporary, temporary.open("wb") as file:
            file.write(re.sub(rb"(?m)^(\s*element\s+vertex\s+)[0-9]+", rb"\g<1>%d" % kept.sum(), ply.header, count=1))
            for chunk in _text(ply, kept, edit) if ply.encoding == "ascii" else _binary(ply, kept, edit):
                file.write(chunk)
    except OSError as error:
        raise MapError(f"can't copy '{source}' to '{target}': {error.strerror}", code="map.unwritable") from error


class _Edit:
    """Which rows of the file get which values."""

    def __init__(self, ply: PlyFile, edited: GaussianMap | None, rows: Tensor | None) -> None:
        vertex = ply.element("vertex")
        self.gaussian_of_row = np.full(vertex.count, _NOT_EDITED, np.int64)
        self.names: Sequence[str] = ()
        self.rgb: list[np.dtype] = []  # of red, green and blue, where the file holds them in place of SH
        self.edited = edited
        if (edited is None) != (rows is None):
            raise MapError("edited Gaussians and their rows go together; give both or none", code="map.conflict")
        if edited is None or rows is None:
            return
        indices = _row_indices(rows, vertex.count, ply.path)
        if len(indices) != len(edited) or len(np.unique(indices)) != len(edited):
            raise MapError(
                f"{len(edited)} edited Gaussians need as many different rows, got {len(indices)}", code="map.value"
            )
        self.gaussian_of_row[indices] = np.arange(len(edited))
        self.names = property_names(edited)
        _check_values(ply)
        self.rgb = [vertex.dtype[name] for name in RGB] if holds_plain_colors(vertex.names) else []
        left_out = (*NORMALS, *SH_DC) if self.rgb else NORMALS
        ply.require("vertex", [name for name in self.names if name not in left_out])
        if f"f_rest_{3 * (edited.sh.shape[1] - 1)}" in vertex.names:
            raise MapError(
                f"the edited Gaussians have SH of degree {edited.sh_degree}, '{ply.path}' has a higher one",
                code="map.unsupported",
            )

    def values(self, start: int, stop: int) -> tuple[NDArray[np.int64], dict[str, NDArray[np.number]]]:
        """Edited rows, counted from ``start``, and their new values by property."""
        rows = np.flatnonzero(self.gaussian_of_row[start:stop] != _NOT_EDITED)
        if self.edited is None or len(rows) == 0:
            return rows, {}
        gaussians = self.edited.select(torch.from_numpy(self.gaussian_of_row[start:stop][rows]))
        table = property_values(gaussians)
        columns: dict[str, NDArray[np.number]] = {name: table[:, k] for k, name in enumerate(self.names)}
        for name, dc, kind in zip(RGB, SH_DC, self.rgb, strict=False):  # none, or all three
            columns[name] = _plain_color(columns.pop(dc), kind)
        return rows, {name: column for name, column in columns.items() if name not in NORMALS}


def _binary(ply: PlyFile, kept: NDArray[np.bool_], edit: _Edit) -> Iterator[bytes]:
    """The file after its header, in chunks."""
    vertex = ply.element("vertex")
    first = vertex.offset or 0  # known: elements with lists were refused
    with ply.path.open("rb") as file:
        file.seek(len(ply.header))
        yield file.read(first - len(ply.header))
    start = 0
    for block in ply.blocks("vertex"):
        stop = start + len(block)
        rows, values = edit.values(start, stop)
        for name, column in values.items():
            block[name][rows] = column
        yield block[kept[start:stop]].tobytes()
        start = stop
    with ply.path.open("rb") as file:
        file.seek(first + vertex.count * vertex.dtype.itemsize)
        while chunk := file.read(1 << 20):
            yield chunk


def _text(ply: PlyFile, kept: NDArray[np.bool_], edit: _Edit) -> Iterator[bytes]:
    """The file after its header, line by line."""
    vertex = ply.element("vertex")
    column_of = {name: column for column, name in enumerate(vertex.names)}
    with ply.path.open("rb") as file:
        file.seek(len(ply.header))
        lines = (line for line in file if not line.isspace())
        yield from islice(lines, sum(element.count for element in ply.elements[: ply.elements.index(vertex)]))
        row = -1
        for row, line in enumerate(islice(lines, vertex.count)):
            touched, values = edit.values(row, row + 1)
            if len(touched):
                words = line.split()
                if len(words) != len(column_of):
                    raise MapError(
                        f"row {row} of '{ply.path}' has {len(words)} values, expected {len(column_of)}",
                        code="map.damaged",
                    )
                for name, column in values.items():
                    words[column_of[name]] = b"%.9g" % column[0]
                line = b" ".join(words) + b"\n"
            if kept[row]:
                yield line
        if row + 1 < vertex.count:
            raise MapError(
                f"'{ply.path}' is truncated: {row + 1} of {vertex.count} rows of 'vertex' are there", code="map.damaged"
            )
        yield from lines


def _plain_color(dc: NDArray[np.number], kind: np.dtype) -> NDArray[np.number]:
    """Colours 0 to 255 of the first SH coefficients, rounded and bounded where the file holds whole numbers."""
    color = 255 * (SH_C0 * dc.astype(np.float64) + 0.5)
    return np.clip(np.rint(color), 0, 255).astype(kind) if kind.kind in "iu" else color.astype(kind)


def _check_source(ply: PlyFile) -> None:
    if is_compressed_ply(ply):
        raise MapError(
            f"'{ply.path}' is compressed by chunks of rows, which can't be taken apart; use save_ply",
            code="map.unsupported",
        )
    ply.require("vertex", ("x", "y", "z"))
    lists = [element.name for element in ply.elements if element.lists]
    if lists:
        raise MapError(
            f"'{ply.path}' has lists in {', '.join(lists)} that may point at rows; use save_ply", code="map.unsupported"
        )


def _check_values(ply: PlyFile) -> None:
    """Raise a MapError where edited values, logarithms and logits, would not mean what the file's other rows do."""
    ply.require("vertex", (*MEANS, *SCALES, *OPACITY))
    columns = ply.columns("vertex", {"means": MEANS, "scales": SCALES, "opacity": OPACITY})
    if FILTER_3D[0] in ply.element("vertex").names or any(linear_values(*columns.values())):
        raise MapError(
            f"rows of '{ply.path}' can't be edited in place: its scales or opacities are linear or carry a filter_3D; "
            "write the edited map to a new file (save_ply)",
            code="map.unsupported",
        )


def _row_indices(rows: Tensor, count: int, source: Path) -> NDArray[np.int64]:
    """Row indices from a mask [N] bool, or indices, that fit the file."""
    values = rows.detach().cpu().numpy()
    if values.dtype == np.bool_:
        if values.shape != (count,):
            raise MapError(
                f"a mask of shape {values.shape} doesn't fit the {count} rows of '{source}'", code="map.shape"
            )
        values = np.flatnonzero(values)
    if values.ndim != 1 or values.dtype.kind not in "iu" or ((values < 0) | (values >= count)).any():
        raise MapError(
            f"rows to keep or edit must be indices from 0 to {count - 1}, the rows of '{source}'", code="map.value"
        )
    return values.astype(np.int64)
