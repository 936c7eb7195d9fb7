"""The registry of map formats: which one a file is, and which ones are written."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import cast

from torch import Tensor

from feature_gs_ros.core.errors import MapError
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.io.atomic import finish_interrupted
from feature_gs_ros.io.files import open_regular
from feature_gs_ros.io.images import LFS_POINTER
from feature_gs_ros.io.splats.antimatter import AntimatterSplat
from feature_gs_ros.io.splats.base import START_BYTES, SplatFormat
from feature_gs_ros.io.splats.checkpoints import load_checkpoint
from feature_gs_ros.io.splats.chunked import Chunked
from feature_gs_ros.io.splats.compressed import is_compressed_ply, load_compressed_ply
from feature_gs_ros.io.splats.compressed_writing import save_compressed_ply
from feature_gs_ros.io.splats.extras import need
from feature_gs_ros.io.splats.gaussian_ply import load_gaussian_ply, save_ply
from feature_gs_ros.io.splats.gltf import Gltf
from feature_gs_ros.io.splats.ply import open_ply
from feature_gs_ros.io.splats.ply_rows import copy_ply_rows
from feature_gs_ros.io.splats.sog import Sog
from feature_gs_ros.io.splats.spz import Spz, save_spz
from feature_gs_ros.io.splats.usd import Usd

__all__ = [
    "WRITTEN", "check_written", "copy_ply_rows", "format_names", "load_map", "plain_ply", "save_map", "save_ply",
    "save_spz", "suffix_of",
]  # fmt: skip

ENTRY_POINT_GROUP = "feature_gs_ros.splat_formats"
# Formats that are written, by suffix; the first that a name ends with counts.
WRITTEN: dict[str, Callable[[GaussianMap, Path], None]] = {
    ".compressed.ply": save_compressed_ply,
    ".ply": save_ply,
    ".spz": save_spz,
}

log = logging.getLogger(__name__)


def load_map(path: str | Path) -> GaussianMap:
    """Read a pretrained splat map; the format is recognised by the file's first bytes or its suffix.

    Gaussians that can't be rasterised are left out, counted in ``dropped`` and logged as a warning.

    Args:
        path: .ply, .splat, .spz, .sog, .glb, .gltf, .usd*, or a checkpoint; docs/formats.md has the list.

    Returns:
        N Gaussians in the file's own frame and scale; ``notes`` says what was concluded or not kept.

    Raises:
        MapError: the file is missing, damaged, of another format, or holds no usable Gaussian.
    """
    path = Path(path)
    if "\0" in str(path):
        raise MapError(f"{str(path)!r} holds a null byte and can't name a file", code="map.name")
    try:
        if path.is_dir():
            raise MapError(
                f"'{path}' is a folder; name the file of the map in it ({', '.join(format_names())})",
                code="map.unreadable",
            )
        with contextlib.suppress(OSError):  # a folder that can't be written: what is there is read
            finish_interrupted(path)
        gaussians = _load(path)
    except OSError as error:
        raise MapError(f"can't read the map '{path}': {error.strerror or error}", code="map.unreadable") from error
    if gaussians.dropped.total:
        log.warning("%s: of %d Gaussians %s", path, len(gaussians) + gaussians.dropped.total, gaussians.dropped)
    for note in gaussians.notes:
        log.warning("%s: %s", path, note)
    return gaussians


def format_names() -> list[str]:
    """Names of all formats that are read, built in and third-party ones."""
    return [form.name for form in _formats()]


def suffix_of(path: str | Path) -> str | None:
    """The suffix of `WRITTEN` that a name ends with; ``.ply`` for a name without any, None for another format's."""
    name = Path(path).name.lower()
    found = next((suffix for suffix in WRITTEN if name.endswith(suffix)), None)
    return ".ply" if found is None and not Path(name).suffix else found


def check_written(path: str | Path) -> str:
    """The suffix of a map to be written, if it can be written here.

    Raises:
        MapError: its name is of another format, or a library that writing needs isn't installed.
    """
    suffix = suffix_of(path)
    if suffix is None:
        raise MapError(
            f"'{path}': maps are written as {', '.join(WRITTEN)}; name it so, or convert it with splat-transform",
            code="map.suffix",
        )
    if suffix == ".spz":
        need("gsply", "writing SPZ")
    return suffix


def save_map(gaussians: GaussianMap, path: str | Path, extra: Mapping[str, Tensor] | None = None) -> None:
    """Write a map in the format that its name says: 3DGS PLY, compressed PLY or SPZ (these two are lossy).

    Args:
        extra: further values by name, [N] each; only the 3DGS PLY has a place for them.

    Raises:
        MapError: as `check_written`; the map is empty; or the file can't be written.
    """
    suffix = check_written(path)
    if suffix == ".ply":
        save_ply(gaussians, path, extra)
    else:
        WRITTEN[suffix](gaussians, Path(path))


def plain_ply(path: str | Path) -> Path | None:
    """The file of a map, where `copy_ply_rows` can carry its rows over byte by byte; else None."""
    path = Path(path)
    if path.suffix.lower() != ".ply":
        return None
    with contextlib.suppress(MapError, OSError):
        return None if is_compressed_ply(open_ply(path)) else path
    return None


def _load(path: Path) -> GaussianMap:
    with open_regular(path) as file:
        start = file.read(START_BYTES)
    for form in _formats():
        if form.matches(path, start):
            return form.load(path)
    raise MapError(
        f"'{path}' begins with {start[:4]!r} and is not a splat file; expected {', '.join(format_names())}",
        code="map.format",
    )


class _Ply:
    name = "3DGS PLY"

    def matches(self, path: Path, start: bytes) -> bool:  # noqa: ARG002
        return start[:4] in (b"ply\n", b"ply\r")

    def load(self, path: Path) -> GaussianMap:
        ply = open_ply(path)
        return load_compressed_ply(ply) if is_compressed_ply(ply) else load_gaussian_ply(ply)


class _Checkpoint:
    name = "checkpoints of gsplat, nerfstudio or Inria's code"

    def matches(self, path: Path, start: bytes) -> bool:
        return start[:4] == b"PK\x03\x04" or path.suffix.lower() in (".pt", ".pth", ".ckpt")

    def load(self, path: Path) -> GaussianMap:
        with open_regular(path) as file:
            start = file.read(4)
        if start != b"PK\x03\x04":
            raise MapError(
                f"'{path}' begins with {start!r}, not as torch's zip format: damaged, or saved by torch < 1.6; "
                "save the checkpoint again, or export the map as PLY",
                code="map.damaged",
            )
        return load_checkpoint(path)


class _Compressed:
    """Named for messages; `_Ply` reads it."""

    name = "PlayCanvas compressed PLY"

    def matches(self, path: Path, start: bytes) -> bool:  # noqa: ARG002
        return False

    def load(self, path: Path) -> GaussianMap:
        return _Ply().load(path)


class _NotRead:
    """Files that are named, not read."""

    name = "PLY of splat-transform for .ksplat and .lcc"

    def matches(self, path: Path, start: bytes) -> bool:
        return start.startswith(LFS_POINTER) or path.suffix.lower() in (".ksplat", ".lcc", ".lcc2")

    def load(self, path: Path) -> GaussianMap:
        with open_regular(path) as file:
            if file.read(len(LFS_POINTER)) == LFS_POINTER:
                raise MapError(
                    f"'{path}' is a pointer of git LFS, not the file itself: run git lfs pull in its repository",
                    code="map.pointer",
                )
        raise MapError(
            f"'{path}': files '{path.suffix}' aren't read; convert it: splat-transform {path.name} map.ply "
            "(npm install -g @playcanvas/splat-transform)",
            code="map.format",
        )


_BUILT_IN: tuple[SplatFormat, ...] = (
    _Ply(),
    _Compressed(),
    _NotRead(),
    AntimatterSplat(),
    Spz(),
    Sog(),
    Gltf(),
    Usd(),
    Chunked(),
    _Checkpoint(),
)


def _formats() -> list[SplatFormat]:
    """Third-party formats first: whoever installs one means it."""
    third_party = []
    for point in entry_points(group=ENTRY_POINT_GROUP):
        try:
            third_party.append(cast("SplatFormat", point.load()()))
        except Exception as error:  # whatever is wrong with it, the other formats are read
            log.warning("the map format '%s' of another package can't be loaded: %s", point.name, error)
    return [*third_party, *_BUILT_IN]
