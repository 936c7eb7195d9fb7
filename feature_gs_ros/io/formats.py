"""Which of this package's files one is, by its first bytes: before it is replaced, without reading it."""

from __future__ import annotations

import json
from pathlib import Path

MAX_HEADER_BYTES = 100_000_000  # bytes, as of safetensors itself


def format_of(path: str | Path) -> str | None:
    """The format that a safetensors file of this package names in its header, also where what follows is damaged.

    None where there is nothing; empty where something else stands there, or what can't be read.
    """
    path = Path(path)
    try:
        path.stat()
    except (OSError, ValueError):  # or no file can have this name
        return None
    try:
        if not path.is_file():
            return ""
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if length <= MAX_HEADER_BYTES else {}
        named = header["__metadata__"]["format"]
    except (OSError, ValueError, RecursionError, LookupError, TypeError):
        return ""
    return named if isinstance(named, str) else ""
