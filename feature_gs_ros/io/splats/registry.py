"""Splat files of every kind that is read, and the PLY that is written."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

from feature_gs_ros.core.errors import MapError
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.io.atomic import finish_interrupted
from feature_gs_ros.io.files import open_regular
from feature_gs_ros.io.splats.antimatter import load_antimatter_splat
from feature_gs_ros.io.splats.checkpoints import load_checkpoint
from feature_gs_ros.io.splats.compressed import is_compressed_ply, load_compressed_ply
from feature_gs_ros.io.splats.gaussian_ply import load_gaussian_ply, save_ply
from feature_gs_ros.io.splats.ply import open_ply
from feature_gs_ros.io.splats.ply_rows import copy_ply_rows

__all__ = ["copy_ply_rows", "load_map", "save_ply"]

FORMATS = "3DGS PLY, PlayCanvas compressed PLY, .splat, or a checkpoint of gsplat, nerfstudio or Inria"

_OTHER_SPLATS = {".spz", ".sog", ".ksplat", ".lcc"}

log = logging.getLogger(__name__)


def load_map(path: str | Path) -> GaussianMap:
    """Read a pretrained splat map; the format is told by the file's first bytes, for ``.splat`` by its suffix.

    Gaussians that can't be rasterised are left out, counted in ``dropped`` and logged as a warning.

    Raises:
        MapError: the file is missing, damaged, of another format, or holds no usable Gaussian.
    """
    path = Path(path)
    if "\0" in str(path):
        raise MapError(f"{str(path)!r} holds a null byte and can't name a file")
    try:
        if path.is_dir():
            raise MapError(f"'{path}' is a folder; name the file of the map in it ({FORMATS})")
        with contextlib.suppress(OSError):  # a folder that can't be written: what is there is read
            finish_interrupted(path)
        gaussians = _load(path)
    except OSError as error:
        raise MapError(f"can't read the map '{path}': {error.strerror or error}") from error
    if gaussians.dropped.total:
        log.warning("%s: of %d Gaussians %s", path, len(gaussians) + gaussians.dropped.total, gaussians.dropped)
    return gaussians


def _load(path: Path) -> GaussianMap:
    with open_regular(path) as file:
        start = file.read(4)
    if start in (b"ply\n", b"ply\r"):
        ply = open_ply(path)
        return load_compressed_ply(ply) if is_compressed_ply(ply) else load_gaussian_ply(ply)
    if path.suffix.lower() == ".splat" and start:
        return load_antimatter_splat(path)
    if path.suffix.lower() in _OTHER_SPLATS:
        raise MapError(
            f"'{path}': files '{path.suffix}' aren't read; convert it to PLY, as PlayCanvas' splat-transform does"
        )
    if start == b"PK\x03\x04":
        return load_checkpoint(path)
    if path.suffix.lower() in (".pt", ".pth", ".ckpt"):
        raise MapError(
            f"'{path}' begins with {start!r}, not as torch's zip format: damaged, or saved by torch < 1.6; "
            "save the checkpoint again, or export the map as PLY"
        )
    raise MapError(f"'{path}' begins with {start!r} and is no splat file; expected {FORMATS}")
