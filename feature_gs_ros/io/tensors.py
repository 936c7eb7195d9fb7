"""This package's own files: safetensors with the name of their format and a JSON of what isn't tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from feature_gs_ros.core.errors import FeatureGsError
from feature_gs_ros.core.text import shown
from feature_gs_ros.io.atomic import atomic_path
from feature_gs_ros.io.files import open_regular
from feature_gs_ros.io.structured import Table, parse_json

# That torch computes with everywhere; of float8 and the like it can't even tell whether they are finite.
TYPES = (
    torch.float16, torch.bfloat16, torch.float32, torch.float64,
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
)  # fmt: skip


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
    path: str | Path, format_name: str, tensors: Mapping[str, Tensor], content: Mapping[str, object]
) -> None:
    """Write such a file; it appears whole or not at all.

    Raises:
        OSError: it can't be written.
    """
    metadata = {"format": format_name, "content": json.dumps(content)}
    with atomic_path(path) as temporary:
        save_file(_apart(tensors), temporary, metadata=metadata)


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors of which no two share memory, as safetensors wants them."""
    apart: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, tensor in tensors.items():
        own = tensor.contiguous()
        storage = own.untyped_storage().data_ptr()
        apart[name] = own.clone() if storage in taken else own
        taken.add(storage)
    return apart
