"""Names of frames: made unique, and checked when someone asks for them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import PurePosixPath

from feature_gs_ros.core.errors import StreamError

_SHOWN = 5


def unique_names(paths: Sequence[str]) -> list[str]:
    """A name for each image path: its stem; where stems repeat, the path with ``_`` for ``/``, in all of them.

    Raises:
        StreamError: a path occurs twice.
    """
    flat = [PurePosixPath(path.replace("\\", "/").lstrip("/")) for path in paths]
    for names in (
        [path.stem for path in flat],
        ["_".join((*path.parts[:-1], path.stem)) for path in flat],
        ["_".join(path.parts) for path in flat],
    ):
        if len(set(names)) == len(names):
            return names
    repeated = next(path for path in flat if flat.count(path) > 1)
    raise StreamError(f"image '{repeated}' occurs twice; remove one of its two poses", code="stream.duplicate")


def check_names(wanted: Collection[str], existing: Collection[str], source: str) -> None:
    """Every wanted name must exist.

    Raises:
        StreamError: one doesn't; the message lists some that do.
    """
    missing = sorted(set(wanted) - set(existing))
    if missing:
        raise StreamError(
            f"'{source}' has no posed frame named {listed_names(missing)}; it has {listed_names(existing)}",
            code="stream.missing",
        )


def check_not_empty(posed: int, skipped: Mapping[str, int], source: str, hint: str = "") -> None:
    """A stream without a single posed frame is an error that says what became of its images, and ``hint``.

    Raises:
        StreamError: nothing is posed.
    """
    if posed == 0:
        reasons = "; ".join(f"{count} × {reason}" for reason, count in skipped.items()) or "it holds no images"
        raise StreamError(f"'{source}' has no posed image: {reasons}{hint}", code="stream.empty")


def listed_names(names: Collection[str]) -> str:
    """Some of the names for a message, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(f"'{name}'" for name in list(names)[:_SHOWN]) + more
