"""``python -m benchmarks scale``: how time and memory grow with views, Gaussians, channels, threads and processes.

    python -m benchmarks scale [--full] [--svg FILE] [--json FILE]    five minutes; --full: an hour, 30 GB
    python -m benchmarks scale --merge                                             sixteen shards beside a plain copy
    python -m benchmarks scale --larger-than-memory [--gaussians 10000000] [--memory 8GiB] [--folder DIR]

Each point is a process of its own, so that its largest resident size is its own. Times of one thread are processor
times: other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

BASE = {"views": 16, "gaussians": 100_000, "channels": 64, "threads": 1}
QUICK = {
    "views": (10, 30, 100, 300),
    "gaussians": (10_000, 100_000, 1_000_000),
    "channels": (64, 256, 1024),
}
FULL = {
    "views": (10, 30, 100, 300, 1000),
    "gaussians": (10_000, 100_000, 1_000_000, 10_000_000),
    "channels": (64, 128, 256, 512, 1024),
}
BUILDING_GAUSSIANS, BUILDING_VIEWS, BUILDING_CHANNELS = 100_000_000, 100_000, 256
BOUNDED_VIEW = 1_000_000  # Gaussians of the room whose views stand for those of a building
CELL = 16  # pixels
WARMUP_VIEWS = 2
PANEL, MARGIN = 260, 45  # of the picture, in pixels


@dataclass(frozen=True)
class Point:
    """What is measured: a room of Gaussians, seen from so many poses, with so many channels."""

    views: int = BASE["views"]
    gaussians: int = BASE["gaussians"]
    channels: int = BASE["channels"]
    threads: int = BASE["threads"]


@dataclass(frozen=True)
class Cost:
    """Of back-projecting a point's views, without the program's start."""

    wall: float  # s
    processor: float  # s, of all threads
    megabytes: float  # by which the process's largest resident size grew


def command(words: Sequence[str]) -> int:
    """Measure, print tables, fits and the extrapolation; or a map larger than memory."""
    parser = argparse.ArgumentParser("python -m benchmarks scale", description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--svg", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--merge", action="store_true")
    parser.add_argument("--larger-than-memory", action="store_true")
    parser.add_argument("--gaussians", type=int, default=10_000_000)
    parser.add_argument("--memory", default="8GiB")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--point", help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.point:
        print(json.dumps(asdict(_measured(Point(**json.loads(options.point))))))
        return 0
    if options.merge:
        return _merge_speed(options.folder)
    if options.larger_than_memory:
        return _larger_than_memory(options.gaussians, options.memory, options.folder)
    sizes = FULL if options.full else QUICK
    results: dict[str, list[tuple[float, Cost]]] = {}
    exponents: dict[str, tuple[float, float]] = {}
    for name, values in sizes.items():
        print(f"\n{name:>12}{'wall s':>9}{'proc. s':>9}{'MB':>9}", flush=True)
        results[name] = []
        for value in values:
            cost = _in_process(replace(Point(), **{name: value}))
            results[name].append((value, cost))
            print(f"{value:>12}{cost.wall:>9.2f}{cost.processor:>9.2f}{cost.megabytes:>9.0f}", flush=True)
        exponents[name] = (
            exponent(results[name], lambda cost: cost.processor),
            exponent(results[name], lambda cost: cost.megabytes),
        )
        print(f"{'exponent':>12}{'':>9}{exponents[name][0]:>9.2f}{exponents[name][1]:>9.2f}")
    views = results["views"]
    per_view = [cost.processor / count for count, cost in views]
    print(f"\nprocessor time per view, most over least number of views: {per_view[-1] / per_view[0]:.2f}")
    _side_by_side()
    _extrapolate(results, exponents)
    if options.svg:
        options.svg.write_text(picture(results))
        print(f"wrote {options.svg}")
    if options.json:
        found = {name: [{name: value, **asdict(cost)} for value, cost in rows] for name, rows in results.items()}
        options.json.write_text(json.dumps({"points": found, "exponents": exponents}, indent=1) + "\n")
    return 0


def exponent(rows, of) -> float:  # type: ignore[no-untyped-def]
    """The slope b of ``cost = a · xᵇ``, by least squares of the logarithms."""
    x = np.log([value for value, _ in rows])
    y = np.log([max(of(cost), 1e-3) for _, cost in rows])
    return float(np.polyfit(x, y, 1)[0])


def _in_process(point: Point) -> Cost:
    return Cost(**json.loads(_started(point).communicate()[0]))


def _started(point: Point) -> subprocess.Popen[str]:
    environment = {**os.environ, "FEATURE_GS_THREADS": str(point.threads), "OMP_NUM_THREADS": str(point.threads)}
    words = [sys.executable, "-m", "benchmarks", "scale", "--point", json.dumps(asdict(point))]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment)


def _measured(point: Point) -> Cost:
    """In this process."""
    from benchmarks.scenes import CAMERA, grid_of_cells, room
    from feature_gs_ros.backprojection.projector import BackProjector
    from feature_gs_ros.core.memory import keep_freed_memory
    from feature_gs_ros.extractors.base import ExtractorIdentity
    from feature_gs_ros.rasterizer import get_backend, view

    keep_freed_memory()
    backend, identity = get_backend("cpu"), ExtractorIdentity("random")
    gaussians, grid = room(point.gaussians), grid_of_cells(CELL, point.channels)

    def run(views: int, projector: BackProjector) -> None:
        for index in range(views):
            projector.add(view(projector.gaussians, CAMERA, _pose(index), backend), grid, name=str(index))
        projector.flush()

    run(WARMUP_VIEWS, BackProjector(room(2000), identity, point.channels, backend=backend))
    before = resource.getrusage(resource.RUSAGE_SELF)
    start = time.perf_counter()
    projector = BackProjector(gaussians, identity, point.channels, backend=backend)
    run(point.views, projector)
    projector.field()
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(wall, processor, (after.ru_maxrss - before.ru_maxrss) / 1024)


def _pose(index: int) -> np.ndarray:
    """From the middle of the room, in another direction each."""
    angle = 2.4 * index
    pose = np.eye(4)
    pose[:3, :3] = [[np.cos(angle), 0, -np.sin(angle)], [0, 1, 0], [np.sin(angle), 0, np.cos(angle)]]
    pose[:3, 3] = [0.1, 0.0, 0.2]
    return pose


def _side_by_side() -> None:
    """One thread and two, one process and two: wall times, of the same work."""
    point = Point(views=64, channels=256)
    one = _in_process(point)
    two_threads = _in_process(replace(point, threads=2))
    half = replace(point, views=point.views // 2)
    halves = [Cost(**json.loads(process.communicate()[0])) for process in [_started(half), _started(half)]]
    slower = max(cost.wall for cost in halves)
    print(
        f"\n{point.views} views × {point.channels} channels: one thread {one.wall:.2f} s, two {two_threads.wall:.2f} s",
        end="",
    )
    print(f" ({one.wall / two_threads.wall:.2f}x), two processes {slower:.2f} s ({one.wall / slower:.2f}x)")


def _extrapolate(results: dict[str, list[tuple[float, Cost]]], exponents: dict[str, tuple[float, float]]) -> None:
    """To a building, by the fitted powers: whether its views see a bounded part of it, or as much as the room's do."""
    channels = dict(results["channels"])
    base = (
        channels[BASE["channels"]].processor
        / BASE["views"]
        * (BUILDING_CHANNELS / BASE["channels"]) ** exponents["channels"][0]
    )
    growth = exponents["gaussians"][0]
    largest, cost = results["gaussians"][-1]
    same_part = base * (BUILDING_GAUSSIANS / BASE["gaussians"]) ** growth
    bounded = base * (BOUNDED_VIEW / BASE["gaussians"]) ** growth
    print(
        f"\nEXTRAPOLATION, not measured: {BUILDING_GAUSSIANS / 1e6:.0f}M Gaussians, {BUILDING_VIEWS} views, "
        f"{BUILDING_CHANNELS} channels, without the extractor, on one thread:\n"
        f"  a view sees no more than one of a room of {BOUNDED_VIEW / 1e6:.0f}M: "
        f"{BUILDING_VIEWS * bounded / 3600:.0f} h\n"
        f"  a view sees the part of the map that it sees of the room: {BUILDING_VIEWS * same_part / 3600:.0f} h\n"
        f"  sums and field: {8 * BUILDING_GAUSSIANS * BUILDING_CHANNELS / 1e9:.0f} GB on disk "
        f"(largest measured: {largest:.0f} Gaussians, {cost.megabytes:.0f} MB)"
    )


def picture(results: dict[str, list[tuple[float, Cost]]]) -> str:
    """An SVG of processor time (line) and memory (dashed) against each size, on logarithmic axes."""
    width, height = len(results) * (PANEL + MARGIN) + MARGIN, PANEL + 2 * MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" '
        f'font-size="11"><rect width="{width}" height="{height}" fill="white"/>'
    ]
    for panel, (name, rows) in enumerate(results.items()):
        left = MARGIN + panel * (PANEL + MARGIN)
        parts.append(f'<rect x="{left}" y="{MARGIN}" width="{PANEL}" height="{PANEL}" fill="none" stroke="#999"/>')
        parts.append(f'<text x="{left + PANEL / 2}" y="{MARGIN - 12}" text-anchor="middle">{name}</text>')
        x = _scaled(np.log([value for value, _ in rows]), left + 12, left + PANEL - 12)
        lines = (("#06c", "", "s", lambda cost: cost.processor), ("#c60", "5,4", "MB", lambda cost: cost.megabytes))
        for color, dash, unit, of in lines:
            values = [max(of(cost), 1e-3) for _, cost in rows]
            y = _scaled(np.log(values), MARGIN + PANEL - 20, MARGIN + 20)
            points = " ".join(f"{px:.1f},{py:.1f}" for px, py in zip(x, y, strict=True))
            parts.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-dasharray="{dash}"/>')
            for px, py, value in zip(x, y, values, strict=True):
                shift = -6 if unit == "s" else 14
                parts.append(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="2.5" fill="{color}"/>')
                parts.append(
                    f'<text x="{px:.1f}" y="{py + shift:.1f}" fill="{color}" text-anchor="middle" font-size="9">'
                    f"{value:.3g} {unit}</text>"
                )
        for px, (value, _) in zip(x, rows, strict=True):
            parts.append(f'<text x="{px:.1f}" y="{MARGIN + PANEL + 14}" text-anchor="middle">{value:,.0f}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _scaled(values: np.ndarray, start: float, end: float) -> np.ndarray:
    span = values.max() - values.min()
    return start + (end - start) * (values - values.min()) / (span if span > 0 else 1.0)


def _merge_speed(folder: Path | None) -> int:
    """Sixteen fields added up to a file, and the same bytes read and written by plain copies, in turn."""
    import torch

    from feature_gs_ros.backprojection.field import FeatureField, Provenance
    from feature_gs_ros.backprojection.shards import merge_fields
    from feature_gs_ros.extractors.base import ExtractorIdentity

    rows, channels, shards = 50_000, 256, 16
    with tempfile.TemporaryDirectory(dir=folder) as name:
        place, identity = Path(name), ExtractorIdentity("random")
        paths = [place / f"{number}.field" for number in range(shards)]
        for number, path in enumerate(paths):
            provenance = Provenance("0" * 64, stream="one", frames=(f"{number}",))
            count = torch.ones(rows, dtype=torch.int32)
            FeatureField(torch.randn(rows, channels), torch.rand(rows), count, identity, provenance).save(path)
        bytes_read = sum(path.stat().st_size for path in paths)
        target = torch.empty(rows, channels)
        ratios = []
        for _ in range(5):
            start = time.perf_counter()
            fields = [FeatureField.load(path, values_are_known=True) for path in paths]
            merge_fields(fields).save(place / "merged")
            merged = time.perf_counter() - start
            fields = [FeatureField.load(path, values_are_known=True) for path in paths]
            start = time.perf_counter()
            for field in fields:
                target.copy_(field.features)
            copied = time.perf_counter() - start
            start = time.perf_counter()
            shutil.copyfile(paths[0], place / "copy")
            with (place / "copy").open("rb+") as file:
                os.fsync(file.fileno())
            copied += time.perf_counter() - start
            ratios.append(copied / merged)
            speeds = f"merge {bytes_read / merged / 1e9:.2f} GB/s, copy {bytes_read / copied / 1e9:.2f}"
            print(f"{speeds}: {copied / merged:.0%}")
    print(f"merge of {shards} × {rows} × {channels} at {sorted(ratios)[2]:.0%} of a copy's speed (median)")
    return 0


def _larger_than_memory(gaussians: int, memory: str, folder: Path | None) -> int:
    """A hall that is chunked, back-projected and asked within a limit: what each command took at most."""
    from feature_gs_ros.core.memory import MemoryLimit
    from feature_gs_ros.synthetic.hall import write_hall

    limit = MemoryLimit.parse(memory)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        place = Path(name)
        hall = write_hall(place, gaussians)
        chunked, field = place / "map.chunked", place / "map.field"
        features = ["--extractor", "precomputed", "--option", f"folder={hall.features}"]
        asked = ["--negative", "floor", "--option", f"embeddings={hall.words}"]
        over = 0
        for words in (
            ["chunk", hall.map, "--out", chunked, "--memory", memory],
            ["backproject", chunked, hall.stream, *features, "--out", field, "--memory", memory],
            ["query", field, "crate", *asked, "--memory", memory, "--json"],
        ):
            program = (
                "import resource, sys\nfrom feature_gs_ros.cli import main\ntry: main(sys.argv[1:])\nfinally:\n"
                "  used = resource.getrusage(resource.RUSAGE_SELF)\n"
                "  print('peak', used.ru_maxrss, used.ru_utime + used.ru_stime, file=sys.stderr)"
            )
            told = subprocess.run(
                [sys.executable, "-c", program, *map(str, words)], capture_output=True, text=True, check=True
            )
            peak, seconds = told.stderr.rpartition("peak")[2].split()
            over += int(peak) * 1024 > limit.limit
            print(f"{words[0]:<12} {int(peak) * 1024 / 1e9:.2f} GB at most, {float(seconds):.0f} s of processor time")
            if words[0] == "query":
                answer = json.loads(told.stdout)
                print(f"  {answer['message']}; {len(answer['objects'])} objects, {len(hall.crates)} crates")
        print(
            f"field {field.stat().st_size / 1e9:.1f} GB; {shutil.disk_usage(place).free / 1e9:.0f} GB of disk are left"
        )
    return 1 if over else 0
