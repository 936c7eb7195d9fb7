"""PlayCanvas' SOG bundles (``.sog``), versions 1 and 2, through ``gsply``: images in WebP, tables in meta.json.

gsply indexes tables by what the images hold; their lengths, and the images' sizes, are checked here before that.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

from feature_gs_ros.core.errors import MapError
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.io.splats.extras import need
from feature_gs_ros.io.splats.spz import from_gsply
from feature_gs_ros.io.structured import MAX_JSON, Table, parse_json

_TABLE = 256  # values of a codebook: bytes point into it
_MAX_POINTS = 1 << 28  # more don't fit into an image that WebP can hold
_PALETTE = 64 * 15 * 1024  # pixels of the largest palette of spherical harmonics
_HEADER = 30  # bytes of a WebP that hold its size
_RATIO = 8  # of unpacked to packed bytes; WebP doesn't get smaller in a zip


class Sog:
    """See `SplatFormat`."""

    name = "SOG"

    def matches(self, path: Path, start: bytes) -> bool:
        return start[:4] == b"PK\x03\x04" and path.suffix.lower() == ".sog"

    def load(self, path: Path) -> GaussianMap:
        need("imagecodecs", f"'{path}', a SOG,")
        reader = need("gsply.sog_reader", f"'{path}', a SOG,")
        try:
            _check_bundle(path)
            data = reader.sogread(path)
        except MapError:
            raise
        except OSError:
            raise
        except Exception as error:  # of zipfile, imagecodecs and gsply, which share no base class
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise MapError(f"'{path}' can't be read as SOG: {reason}; export it again", code="map.format") from error
        return from_gsply(data, f"'{path}'")


def _check_bundle(path: Path) -> None:
    with zipfile.ZipFile(path) as bundle:
        entries = {entry.filename: entry for entry in bundle.infolist()}
        packed = path.stat().st_size
        if sum(entry.file_size for entry in entries.values()) > _RATIO * packed + MAX_JSON:
            raise MapError(
                f"'{path}' unpacks to more than {_RATIO} times its {packed} bytes: damaged; export it again",
                code="map.damaged",
            )
        if "meta.json" not in entries:
            raise MapError(f"'{path}' holds no meta.json: it is not a SOG bundle", code="map.format")
        if entries["meta.json"].file_size > MAX_JSON:
            raise MapError(
                f"meta.json in '{path}' has {entries['meta.json'].file_size} bytes, at most {MAX_JSON}",
                code="map.range",
            )
        meta = Table(parse_json(bundle.read("meta.json"), f"meta.json in '{path}'", MapError), f"'{path}'", MapError)
        count = _check_tables(meta)
        for key in ("means", "quats", "scales", "sh0", *(["shN"] if "shN" in meta else [])):
            for name in meta.table(key).texts("files"):
                if name not in entries:
                    raise MapError(
                        f"'{path}' lacks '{name}', which its meta.json names; copy it again", code="map.damaged"
                    )
                with bundle.open(name) as file:
                    width, height = _webp_size(file.read(_HEADER), f"'{name}' in '{path}'")
                if width * height > 2 * count + _PALETTE:
                    raise MapError(
                        f"'{name}' in '{path}' is {width}×{height} pixels for {count} Gaussians: damaged",
                        code="map.damaged",
                    )


def _check_tables(meta: Table) -> int:
    """The count of Gaussians, where all tables are as long as bytes need them."""
    is_first = meta.get("version") is None
    means = meta.table("means")
    for key in ("mins", "maxs"):
        means.numbers(key, 3)
    if not is_first:
        for key in ("scales", "sh0"):
            meta.table(key).numbers("codebook", _TABLE)
        if "shN" in meta:
            rest = meta.table("shN")
            rest.numbers("codebook", _TABLE)
            rest.whole("bands", least=1, most=3)
            rest.whole("count", least=1, most=1 << 16)
        return meta.whole("count", least=1, most=_MAX_POINTS)
    for key, numbers in (("scales", 3), ("sh0", 4)):
        for end in ("mins", "maxs"):
            meta.table(key).numbers(end, numbers)
    shape = means.numbers("shape")
    if not shape or not 1 <= shape[0] <= _MAX_POINTS or shape[0] != int(shape[0]):
        raise MapError(f"'shape' of {means.source} is {shape}, expected a count of Gaussians first", code="map.value")
    return int(shape[0])


def _webp_size(start: bytes, source: str) -> tuple[int, int]:
    """(width, height) by the header of a lossless WebP."""
    if len(start) == _HEADER and start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        if start[12:16] == b"VP8L" and start[20] == 0x2F:
            bits = int.from_bytes(start[21:25], "little")
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        if start[12:16] == b"VP8X":
            return int.from_bytes(start[24:27], "little") + 1, int.from_bytes(start[27:30], "little") + 1
    raise MapError(f"{source} is not a lossless WebP: damaged; export it again", code="map.damaged")
