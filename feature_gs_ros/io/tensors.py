"""This package's own files: safetensors with the name of their format and a JSON of what isn't tensors."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from feature_gs_ros.core.errors import FeatureGsError
from feature_gs_ros.core.text import shown
from feature_gs_ros.io.atomic import atomic_path
from feature_gs_ros.io.files import open_regular
from feature_gs_ros.io.structured import Table, parse_json

# That torch computes with everywhere, by their names in a file; of float8 and the like it can't even tell whether they
# are finite.
TYPES = {
    torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32", torch.float64: "F64",
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.int16: "I16", torch.int32: "I32", torch.int64: "I64",
}  # fmt: skip
MAPPED_BYTES = 1 << 24  # of a file whose pages can be given back (`release_mapped`); of a smaller one it isn't worth it
_LENGTH_BYTES = 8  # before the header


@dataclass(frozen=True)
class TensorBlocks:
    """A tensor to be written that comes in blocks of its rows: it need not be in memory as a whole."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    blocks: Iterable[Tensor]  # of [R, …], in order

    @property
    def nbytes(self) -> int:
        """Of all rows."""
        return self.dtype.itemsize * math.prod(self.shape)


def zeros_on_disk(shape: tuple[int, ...], folder: Path) -> Tensor:
    """Zeros float32 in a file of the folder that nobody else sees, and that is gone when the tensor is.

    Raises:
        OSError: the folder's disk has no room for it, or can't be written.
    """
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        count = math.prod(shape)
        os.posix_fallocate(file.fileno(), 0, 4 * count)  # a page that has no room later would end the process
        return torch.from_file(file.name, shared=True, size=count, dtype=torch.float32).reshape(shape)


def load_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of any safetensors file.

    Raises:
        OSError: it can't be read, or is a pipe or device.
        SafetensorError: it is damaged or none.
        ValueError: a tensor's type isn't one of `TYPES`.
    """
    with open_regular(path) as opened:
        # By its number, where the system has that: safetensors takes no names but those in UTF-8.
        link = f"/proc/self/fd/{opened.fileno()}"
        with safe_open(link if Path(link).exists() else str(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in list(file.keys())}
            metadata: dict[str, str] = file.metadata() or {}
        if os.fstat(opened.fileno()).st_size >= MAPPED_BYTES and Path(link).exists():
            tensors |= _mapped(link, tensors)
    for name, tensor in tensors.items():
        if tensor.dtype not in TYPES:
            raise ValueError(f"'{shown(name)}' holds {tensor.dtype}, which isn't read")
    return tensors, metadata


def read_tensor_file(
    path: str | Path, format_name: str, error: type[FeatureGsError], remedy: str
) -> tuple[dict[str, Tensor], Table]:
    """Tensors and content of a file of one of this package's formats.

    Args:
        format_name: of the format, with its version.
        error: the class to raise.
        remedy: ends the messages: what to do instead.

    Raises:
        error: missing, damaged, or of another format.
    """
    try:
        tensors, metadata = load_tensors(path)
    except (SafetensorError, OSError, ValueError, UnicodeError) as cause:
        reason = (cause.strerror if isinstance(cause, OSError) else None) or str(cause)
        raise error(
            f"'{path}' can't be read as '{format_name}': {reason}; {remedy}", code=f"{error.code}.unreadable"
        ) from cause
    if metadata.get("format") != format_name:
        raise error(
            f"'{path}' holds format {shown(metadata.get('format'))}, expected '{format_name}'; {remedy}",
            code=f"{error.code}.format",
        )
    return tensors, Table(parse_json(metadata.get("content", ""), f"'{path}'", error), f"'{path}'", error)


def write_tensor_file(
    path: str | Path, format_name: str, tensors: Mapping[str, Tensor | TensorBlocks], content: Mapping[str, object]
) -> None:
    """Write such a file in one pass, without a copy of it; it appears whole or not at all.

    Raises:
        OSError: it can't be written.
    """
    header: dict[str, object] = {"__metadata__": {"format": format_name, "content": json.dumps(content)}}
    # The widest types first: each tensor then begins at a whole number of its own values.
    ordered = sorted(tensors.items(), key=lambda item: -item[1].dtype.itemsize)
    end = 0
    for name, tensor in ordered:
        start, end = end, end + tensor.nbytes
        shape = list(tensor.shape)
        header[name] = {"dtype": TYPES[tensor.dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _LENGTH_BYTES)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(len(text).to_bytes(_LENGTH_BYTES, "little") + text)
        for _, tensor in ordered:
            for block in tensor.blocks if isinstance(tensor, TensorBlocks) else (tensor,):
                file.write(block.contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _mapped(path: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors of a safetensors file that was checked, in a map of torch's own: its pages can be given back."""
    with Path(path).open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        header = json.loads(file.read(length))
        size = os.fstat(file.fileno()).st_size
    storage = cast("torch.UntypedStorage", torch.UntypedStorage.from_file(path, shared=False, nbytes=size))
    mapped = {}
    for name, tensor in tensors.items():
        first = _LENGTH_BYTES + length + header[name]["data_offsets"][0]
        if tensor.numel() and first % tensor.dtype.itemsize == 0:
            empty = torch.empty(0, dtype=tensor.dtype)
            mapped[name] = empty.set_(storage, first // tensor.dtype.itemsize, tensor.shape, tensor.stride())
    return mapped
