"""The PLY container: a header that is checked against the file's size, and its rows in blocks.

No number of a header is believed before the file was seen to hold that many bytes.
"""

from __future__ import annotations

import io
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from feature_gs_ros.core.errors import MapError

BLOCK_ROWS = 4096  # a block of the widest usual rows, 62 floats, stays in a second-level cache
HEADER_LIMIT = 1 << 20  # bytes

_BYTE_ORDERS = {"ascii": "=", "binary_little_endian": "<", "binary_big_endian": ">"}
_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1",
    "short": "i2", "int16": "i2", "ushort": "u2", "uint16": "u2",
    "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4",
    "float": "f4", "float32": "f4", "double": "f8", "float64": "f8",
}  # fmt: skip

_LIST = "list"

Rows = NDArray[np.void]  # [rows] one record per row, packed, in the file's byte order


@dataclass(frozen=True)
class PlyElement:
    """A table of the file, as its header declares it."""

    name: str
    count: int
    dtype: np.dtype[np.void]  # one row, packed, in the file's byte order; without the list properties
    lists: tuple[str, ...] = ()  # list properties: rows have no fixed size then
    offset: int | None = None  # byte at which the rows begin; None where only reading the file would tell

    @property
    def names(self) -> tuple[str, ...]:
        """Its properties, in the file's order."""
        return self.dtype.names or ()


@dataclass(frozen=True)
class PlyFile:
    """A PLY whose header was read, and whose rows of fixed size are there."""

    path: Path
    encoding: str  # ascii, binary_little_endian or binary_big_endian
    header: bytes  # up to and with the line end_header
    elements: tuple[PlyElement, ...]

    def element(self, name: str) -> PlyElement:
        """The table of that name; an empty one where the file has none."""
        empty = PlyElement(name, 0, np.dtype([]))
        return next((element for element in self.elements if element.name == name), empty)

    def blocks(self, name: str) -> Iterator[Rows]:
        """The rows of a table in order, at most `BLOCK_ROWS` at a time.

        Raises:
            MapError: the table holds lists or follows one that does; text is not numbers, or too short.
        """
        element = self.element(name)
        if element.lists or not element.names:
            _refuse(self.path, f"its element '{name}' holds lists or nothing; a splat's rows are plain numbers")
        if self.encoding == "ascii":
            return self._text_blocks(element)
        if element.offset is None:
            _refuse(self.path, f"its element '{name}' follows one with lists; put '{name}' first")
        return self._binary_blocks(element, element.offset)

    def columns(self, name: str, groups: Mapping[str, Sequence[str]]) -> dict[str, NDArray[np.float32]]:
        """Properties of a table side by side, one array [count, len(names)] for each group, in one pass.

        Raises:
            MapError: as `blocks`; a property is missing.
        """
        element = self.element(name)
        blocks = self.column_blocks(name, groups)
        columns = {group: np.empty((element.count, len(names)), np.float32) for group, names in groups.items()}
        start = 0
        for block in blocks:
            stop = start + len(next(iter(block.values())))
            for group, values in block.items():
                columns[group][start:stop] = values
            start = stop
        return columns

    def column_blocks(self, name: str, groups: Mapping[str, Sequence[str]]) -> Iterator[dict[str, NDArray[np.float32]]]:
        """As `columns`, a block of rows at a time.

        Raises:
            MapError: as `columns`.
        """
        self.require(name, [name for names in groups.values() for name in names])
        return (_columns_of(block, groups) for block in self.blocks(name))

    def require(self, name: str, properties: Sequence[str]) -> None:
        """Raises MapError, naming what is there, unless the table has these properties."""
        present = self.element(name).names
        missing = [wanted for wanted in properties if wanted not in present]
        if missing:
            _refuse(
                self.path,
                f"its element '{name}' lacks {_some(missing)} and has {_some(present)}; "
                "export it as a 3D Gaussian-splat PLY",
            )

    def _binary_blocks(self, element: PlyElement, offset: int) -> Iterator[Rows]:
        with self.path.open("rb") as file:
            file.seek(offset)
            for start in range(0, element.count, BLOCK_ROWS):
                rows = min(BLOCK_ROWS, element.count - start)
                block = np.fromfile(file, element.dtype, rows)
                if len(block) < rows:
                    _refuse(self.path, f"it shrank while it was read, to {start + len(block)} rows of '{element.name}'")
                yield block

    def _text_blocks(self, element: PlyElement) -> Iterator[Rows]:
        before = sum(other.count for other in self.elements[: self.elements.index(element)])
        with self.path.open("rb") as file:
            file.seek(len(self.header))
            text = io.TextIOWrapper(file, encoding="latin-1")  # never fails: numbers are looked for, not letters
            lines = (line for line in text if not line.isspace())
            deque(islice(lines, before), maxlen=0)
            for start in range(0, element.count, BLOCK_ROWS):
                stop = min(start + BLOCK_ROWS, element.count)
                rows = list(islice(lines, stop - start))
                if len(rows) < stop - start:
                    there = start + len(rows)
                    _refuse(
                        self.path, f"it is truncated: {there} of {element.count} rows of '{element.name}' are there"
                    )
                try:
                    block = np.loadtxt(rows, dtype=element.dtype, comments=None, ndmin=1)
                except (ValueError, OverflowError) as error:
                    _refuse(self.path, f"in the rows from {start} to {stop - 1} of '{element.name}': {error}")
                yield block


def _columns_of(block: Rows, groups: Mapping[str, Sequence[str]]) -> dict[str, NDArray[np.float32]]:
    columns = {group: np.empty((len(block), len(names)), np.float32) for group, names in groups.items()}
    with np.errstate(over="ignore", invalid="ignore"):  # a double beyond float32 becomes Inf, and is dropped
        for group, names in groups.items():
            for column, property_name in enumerate(names):
                columns[group][:, column] = block[property_name]
    return columns


def open_ply(path: Path) -> PlyFile:
    """Read the header and compare what it declares with the file's size; no row is read.

    Raises:
        MapError: no header, an unknown or contradictory line, or fewer bytes than declared.
        OSError: the file can't be read.
    """
    with path.open("rb") as file:
        start = file.read(HEADER_LIMIT)
    end = re.search(rb"^end_header[ \t]*\r?\n", start, re.MULTILINE)
    if not re.match(rb"ply\s*\n", start) or end is None:
        _refuse(path, f"its first {len(start)} bytes hold no PLY header from 'ply' to 'end_header'; copy it again")
    header = start[: end.end()]
    encoding, elements = _parse_header(path, header)
    if encoding == "ascii":
        _check_text_size(path, len(header), elements)
        return PlyFile(path, encoding, header, tuple(elements))
    return PlyFile(path, encoding, header, tuple(_place(path, len(header), elements)))


def _parse_header(path: Path, header: bytes) -> tuple[str, list[PlyElement]]:
    encoding = ""
    counts: dict[str, int] = {}
    tables: dict[str, dict[str, str]] = {}  # by element: numpy's type of each property without the byte order, or LIST
    last: dict[str, str] | None = None
    offset = 0
    for raw in header.split(b"\n"):
        match _words(path, raw, offset):
            case [] | ["ply"] | ["end_header"] | ["comment" | "obj_info", *_]:
                pass
            case ["format", named, "1.0"] if named in _BYTE_ORDERS and not encoding:
                encoding = named
            case ["element", name, count] if re.fullmatch("[0-9]{1,18}", count) and name not in tables:
                counts[name], last = int(count), tables.setdefault(name, {})
            case ["property", kind, name] if kind in _TYPES and last is not None and name not in last:
                last[name] = _TYPES[kind]
            case ["property", "list", length, kind, name] if (
                length in _TYPES and kind in _TYPES and last is not None and name not in last
            ):
                last[name] = _LIST
            case words:
                line = " ".join(words)[:80]
                _refuse(path, f"header line '{line}' at byte {offset} is unknown, repeated or in the wrong order")
        offset += len(raw) + 1
    if not encoding:
        _refuse(path, "its header has no line 'format ascii|binary_little_endian|binary_big_endian 1.0'")
    return encoding, [_element(name, counts[name], kinds, _BYTE_ORDERS[encoding]) for name, kinds in tables.items()]


def _element(name: str, count: int, kinds: Mapping[str, str], order: str) -> PlyElement:
    numbers = [(key, order + kind) for key, kind in kinds.items() if kind != _LIST]
    return PlyElement(name, count, np.dtype(numbers), tuple(key for key, kind in kinds.items() if kind == _LIST))


def _words(path: Path, raw: bytes, offset: int) -> list[str]:
    try:
        return raw.decode("utf-8").split()
    except UnicodeDecodeError as error:
        _refuse(path, f"byte {offset + error.start} of its header, 0x{raw[error.start]:02x}, is not text")


def _place(path: Path, header_size: int, elements: Sequence[PlyElement]) -> Iterator[PlyElement]:
    """Binary elements with their offsets, as far as these can be known."""
    size = path.stat().st_size
    offset: int | None = header_size
    for element in elements:
        yield replace(element, offset=offset)
        if offset is None or (element.lists and element.count):
            offset = None
            continue
        row = element.dtype.itemsize
        if offset + element.count * row > size:
            _refuse(
                path,
                f"it is truncated: {element.count} rows of '{element.name}' with {row} bytes each end at byte "
                f"{offset + element.count * row}, the file has {size} ({(size - offset) // row} whole rows); "
                "copy or export it again",
            )
        offset += element.count * row


def _check_text_size(path: Path, header_size: int, elements: Sequence[PlyElement]) -> None:
    """A value in text takes a digit and a separator, a row at least its line's end."""
    present = path.stat().st_size - header_size
    needed = sum(element.count * max(2 * len(element.names), 1) for element in elements)
    if needed > present + 1:  # the last line may lack its end
        rows = _some([f"{element.count} of '{element.name}'" for element in elements])
        _refuse(
            path,
            f"it is truncated: rows {rows} need {needed} bytes of text or more, {present} are there; copy it again",
        )


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:12])
    return f"{shown}, … ({len(names)} in all)" if len(names) > 12 else shown or "nothing"


def _refuse(path: Path, reason: str) -> NoReturn:
    raise MapError(f"'{path}' can't be read: {reason}", code="map.unreadable")
