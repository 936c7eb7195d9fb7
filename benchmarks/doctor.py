"""How often `feature-gs doctor` names a fault first, and how often it is alarmed by nothing.

``python -m benchmarks doctor [--draws N] [--first SEED] [--faults NAME…] [--record FILE] [--folder FOLDER]``: faults of
random size are put into synthetic recordings of several scenes, straight and through a lens, and into the recorded
tabletop where FEATURE_GS_TABLETOP names it. Each draw is one line of the record; what stands there isn't run again.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from argparse import ArgumentParser
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np

from feature_gs_ros.core.camera import Frame, Image
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.core.geometry import Sim3
from feature_gs_ros.doctor.diagnosis import diagnose
from feature_gs_ros.io.alignment import load_alignment
from feature_gs_ros.io.splats.registry import load_map
from feature_gs_ros.io.streams.registry import Stream, open_stream
from feature_gs_ros.io.streams.rosbag import RosbagStream
from feature_gs_ros.synthetic import record, tabletop
from feature_gs_ros.synthetic.faults import FAULTS, AlteredStream, Fault, GappyStream, LateStream, mildly_noisy
from feature_gs_ros.synthetic.scene import Scene
from feature_gs_ros.synthetic.tabletops import mugs, objects_grid

MIN_FRAMES = 8  # of a draw's part of a recording
GOOD = "nothing"
NOISY = "mild noise"


@dataclass(frozen=True, eq=False)
class Recording:
    """A map, and one good recording of it."""

    name: str
    folder: Path
    stream_name: str = "stream"

    @cached_property
    def gaussians(self) -> GaussianMap:
        return load_map(self.folder / "map.ply")

    @cached_property
    def splat_from_map(self) -> Sim3:
        return load_alignment(self.folder / "alignment.yaml")

    @cached_property
    def stream(self) -> Stream:
        return open_stream(self.folder / self.stream_name)

    @cached_property
    def frames(self) -> list[Frame]:
        return list(self.stream.frames())


Case = Callable[[Recording, Recording, int], tuple[Stream, tuple[str, ...]]]  # stream, and codes that name it first


def command(words: Sequence[str]) -> int:
    """Run the draws that aren't on record, and print the table of all that are."""
    parser = ArgumentParser(prog="python -m benchmarks doctor", description=__doc__)
    parser.add_argument("--draws", type=int, default=5, help="of each fault")
    parser.add_argument("--first", type=int, default=0, help="seed of the first draw")
    parser.add_argument("--faults", nargs="*", help="only these")
    parser.add_argument("--record", type=Path, default=None, help="lines of JSON, one per draw")
    parser.add_argument("--folder", type=Path, default=None, help="where the synthetic recordings are kept")
    given = parser.parse_args(words)
    folder = given.folder or Path(tempfile.mkdtemp(prefix="doctor_"))
    results = [] if given.record is None or not given.record.exists() else _read(given.record)
    known = {(result["fault"], result["seed"]) for result in results}
    recordings = make_recordings(folder)
    listed = cases()
    for seed in range(given.first, given.first + given.draws):
        # All kinds get their draws early, in another order each time: an interrupted run says something of each.
        for name in np.random.default_rng(seed).permutation(list(listed)):
            if (name, seed) in known or (given.faults and name not in given.faults):
                continue
            result = drawn(str(name), listed[str(name)], recordings, seed)
            results.append(result)
            print(f"{name:<44}{result['recording']:<14}{seed:>4} {result['first']:<34}{result['seconds']:6.1f} s"
                  f"{'' if result['right'] else '   WRONG'}", flush=True)  # fmt: skip
            if given.record is not None:
                with given.record.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(result) + "\n")
    print(table([result for result in results if not given.faults or result["fault"] in given.faults]))
    return 0


def _read(record: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()]


def make_recordings(folder: Path) -> list[Recording]:
    """Three synthetic scenes of 20 to 60 views, two of them also through a lens, and the recorded tabletop."""
    _make(folder / "table", tabletop(), 20, 320, 25_000, seed=0, distorted=True)
    _make(folder / "mugs", mugs(), 24, 480, 40_000, seed=1, distorted=True)
    _make(folder / "grid", objects_grid(80, seed=3), 60, 320, 30_000, seed=2, distorted=False)
    made = [
        Recording("table", folder / "table"),
        Recording("mugs, lens", folder / "mugs", "stream_distorted"),
        Recording("grid", folder / "grid"),
        Recording("table, lens", folder / "table", "stream_distorted"),
        Recording("mugs", folder / "mugs"),
    ]
    if os.environ.get("FEATURE_GS_TABLETOP"):
        made.append(Recording("recorded", Path(os.environ["FEATURE_GS_TABLETOP"])))
    return made


def _make(folder: Path, scene: Scene, views: int, width: int, gaussians: int, seed: int, distorted: bool) -> None:
    if not (folder / "map.ply").exists():
        record(
            folder, scene, views, width, width * 3 // 4, gaussians=gaussians, distorted=distorted, seed=seed
        )  # fmt: skip


def cases() -> Mapping[str, Case]:
    """Every fault, and what is none."""
    listed: dict[str, Case] = {GOOD: _good, NOISY: _noisy}
    listed |= {name: _faulty(fault) for name, fault in FAULTS.items()}
    return listed | {
        "clocks 80 to 400 ms apart": _late,
        "gap in tf": _gappy,
        "images of another recording": _other_recording,
        "images of another recording, in half": _half_other,
    }


def part_of(recording: Recording, seed: int, with_noise: bool = True) -> list[Frame]:
    """A stretch of a recording, or every second frame; with mild noise in about every other draw."""
    rng = np.random.default_rng((seed, 1))
    frames, count, noisy = recording.frames, len(recording.frames), rng.uniform() < 0.5
    if rng.uniform() < 0.6:
        length = int(rng.integers(min(max(MIN_FRAMES, 0.6 * count), count), count + 1))
        first = int(rng.integers(0, count - length + 1))
        frames = frames[first : first + length]
    elif count >= 3 * MIN_FRAMES:
        frames = frames[int(rng.integers(0, 2)) :: 2]
    return list(mildly_noisy(frames, seed).frames()) if noisy and with_noise else frames


def _good(recording: Recording, other: Recording, seed: int) -> tuple[Stream, tuple[str, ...]]:  # noqa: ARG001
    return (recording.stream if seed < 6 else AlteredStream("part", part_of(recording, seed, with_noise=False))), ()


def _noisy(recording: Recording, other: Recording, seed: int) -> tuple[Stream, tuple[str, ...]]:  # noqa: ARG001
    """Dropped frames, five views only, a stretch, or all."""
    rng = np.random.default_rng((seed, 2))
    count = len(recording.frames)
    kept = [np.arange(count), np.flatnonzero(rng.uniform(size=count) < 0.7), rng.choice(count, 5, replace=False)][
        (seed + seed // 6) % 3
    ]
    return mildly_noisy([recording.frames[k] for k in np.sort(kept)], seed), ()


def _faulty(fault: Fault) -> Case:
    return lambda recording, other, seed: (fault.apply(part_of(recording, seed), seed), fault.codes)  # noqa: ARG005


def _late(recording: Recording, other: Recording, seed: int) -> tuple[Stream, tuple[str, ...]]:  # noqa: ARG001
    rng = np.random.default_rng((seed, 3))
    seconds = float(rng.choice([-1, 1]) * rng.uniform(0.08, 0.4))
    assert isinstance(recording.stream, RosbagStream)
    return LateStream(recording.stream, seconds, part_of(recording, seed, with_noise=False)), (
        "time.offset",
        "poses.shifted",
    )


def _gappy(recording: Recording, other: Recording, seed: int) -> tuple[Stream, tuple[str, ...]]:  # noqa: ARG001
    """Over a quarter of the frames."""
    frames = part_of(recording, seed)
    rng = np.random.default_rng((seed, 4))
    count = max(3, len(frames) // 4)
    first = int(rng.integers(1, len(frames) - count - 1))
    return GappyStream(frames, first, count), ("poses.gap", "poses.jump")


def _other_recording(recording: Recording, other: Recording, seed: int) -> tuple[Stream, tuple[str, ...]]:
    frames = part_of(recording, seed)
    images = [frame.image for frame in other.frames[: len(frames)]]

    def image_of(k: int, width: int, height: int) -> Image:
        return np.asarray(cv2.resize(images[k % len(images)], (width, height), interpolation=cv2.INTER_AREA), np.uint8)

    altered = [
        Frame(**{**frame.__dict__, "load_image": lambda k=k, c=frame.camera: image_of(k, c.width, c.height)})
        for k, frame in enumerate(frames)
    ]
    return AlteredStream("other", altered), ("scene.other",)


def _half_other(recording: Recording, other: Recording, seed: int) -> tuple[Stream, tuple[str, ...]]:
    stream, codes = _other_recording(recording, other, seed)
    frames = part_of(recording, seed)
    first = int(len(frames) * np.random.default_rng((seed, 5)).uniform(0.3, 0.7))
    return AlteredStream("half other", [*frames[:first], *list(stream.frames())[first:]]), codes


def drawn(name: str, case: Case, recordings: Sequence[Recording], seed: int) -> dict[str, object]:
    """One draw, examined."""
    recording = recordings[seed % len(recordings)]
    family = recording.folder.name
    # Synthetic scenes share their table's wood: another scene is the recorded one, and the other way round.
    others = [entry for entry in recordings if (entry.name == "recorded") != (recording.name == "recorded")]
    stream, codes = case(recording, others[seed % len(others)] if others else recording, seed)
    start = time.process_time()
    diagnosis = diagnose(stream, recording.gaussians, recording.splat_from_map)
    seconds = time.process_time() - start
    listed = [finding.code for finding in diagnosis.findings if codes or finding.severity != "note"]
    first = listed[0] if listed else "-"
    return {
        "fault": name, "seed": seed, "recording": recording.name, "family": family, "first": first, "all": listed,
        "right": (first in codes) if codes else not listed, "seconds": round(seconds, 2), "frames": diagnosis.frames,
        "given": diagnosis.supported, "best": diagnosis.best, "what": str(diagnosis),
    }  # fmt: skip


def table(results: Sequence[Mapping[str, object]]) -> str:
    """Fault × named first / draws × time, as docs/frames.md has it."""
    by_fault: dict[str, list[Mapping[str, object]]] = defaultdict(list)
    for result in results:
        by_fault[str(result["fault"])].append(result)
    lines = ["| fault put in | named first | s | other first findings |", "|---|---|---|---|"]
    for name in (name for name in cases() if name in by_fault):
        lines.append(_row(name, by_fault[name]))
    return "\n".join(lines)


def _row(name: str, results: Sequence[Mapping[str, object]]) -> str:
    right = sum(bool(result["right"]) for result in results)
    seconds = float(np.median([float(str(result["seconds"])) for result in results]))
    wrong = ", ".join(sorted({f"`{result['first']}` ({result['recording']})" for result in _wrong(results)}))
    return f"| {name} | {right}/{len(results)} | {seconds:.1f} | {wrong} |"


def _wrong(results: Sequence[Mapping[str, object]]) -> Iterator[Mapping[str, object]]:
    return (result for result in results if not result["right"])
