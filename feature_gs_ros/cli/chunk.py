"""``feature-gs chunk``: a map in chunks, for maps that are larger than the memory."""

from __future__ import annotations

from pathlib import Path

from feature_gs_ros.cli.checks import check_outputs
from feature_gs_ros.cli.common import print_json
from feature_gs_ros.core.errors import MapError
from feature_gs_ros.core.memory import FREE_FRACTION, MemoryLimit, available_bytes, gigabytes
from feature_gs_ros.core.progress import ProgressBar, note, say
from feature_gs_ros.io.locks import locked
from feature_gs_ros.io.splats.chunking import chunk_map

DEFAULT_MEMORY = 4 << 30  # or most of what is free


def chunk(
    map: Path,  # noqa: A002 - the word of the command line
    /,
    *,
    out: Path,
    memory: str | None = None,
    json: bool = False,
) -> int:
    """Write a splat map in chunks along a Z-curve, for maps that are larger than the memory.

    All commands read it as any other map; backproject and query then read only what they need. Its rows have another
    order than the source's, so fields belong to one of the two.

    Args:
        map: splat map; a 3DGS PLY is streamed, others are loaded as a whole.
        out: the chunked map to write.
        memory: stay within this much memory, e.g. 2GiB; by default 4 GiB, or most of what is free.
        json: print one JSON object.
    """
    check_outputs({"--out": out}, [map])
    if out.suffix.lower() in (".ply", ".splat", ".spz"):
        raise MapError(f"--out '{out}': a chunked map is no {out.suffix}; name it e.g. map.chunked", code="map.suffix")
    limit = MemoryLimit(_default()) if memory is None else MemoryLimit.parse(memory)
    note(f"sorting '{map}' within {gigabytes(limit.limit)}")
    with locked(out), ProgressBar("sorting", "Gaussian", quiet=json, keep_partial=False).running() as progress:
        report = chunk_map(map, out, limit, progress)
    if json:
        print_json(
            {
                "map": str(out),
                "gaussians": report.gaussians,
                "dropped": report.dropped.total,
                "notes": list(report.notes),
                "buckets": report.buckets,
            }
        )
        return 0
    if report.dropped.total:
        note(f"of {report.gaussians + report.dropped.total} Gaussians {report.dropped}")
    for line in report.notes:
        note(line)
    say(f"wrote {out}: {report.gaussians} Gaussians, sorted in {report.buckets} parts")
    return 0


def _default() -> int:
    free = available_bytes()
    return DEFAULT_MEMORY if free is None else min(DEFAULT_MEMORY, int(FREE_FRACTION * free))
