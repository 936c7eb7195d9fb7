"""How exact `feature-gs align images` is, and whether it says so: random starts and random parts of recordings.

``python -m benchmarks align [--draws N] [--first SEED] [--search] [--folder FOLDER]``: scenes as in ``doctor``. Each
draw starts 10 cm and 10° off, or with --search in a frame of its own, of any turn and unit.
"""

from __future__ import annotations

import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from benchmarks.doctor import Recording, make_recordings
from feature_gs_ros.core.errors import AlignmentError
from feature_gs_ros.core.geometry import Sim3, quat_wxyz_from_rotation
from feature_gs_ros.frames.relocalise import align_images

MIDDLE = np.array([0.0, 0.0, 0.05])  # of the table, m
METRES, DEGREES = 0.1, 10.0
ASKED = (3.0, 0.3)  # mm, degrees


def command(words: Sequence[str]) -> int:
    """Print each draw's errors and stated uncertainty, and what they come to."""
    parser = ArgumentParser(prog="python -m benchmarks align", description=__doc__)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="seed of the first draw")
    parser.add_argument("--search", action="store_true", help="without a start")
    parser.add_argument("--folder", type=Path, default=None, help="where the synthetic recordings are kept")
    given = parser.parse_args(words)
    recordings = make_recordings(given.folder or Path(tempfile.mkdtemp(prefix="align_")))
    rows = []
    for seed in range(given.first, given.first + given.draws):
        row = drawn(recordings[seed % len(recordings)], seed, given.search)
        rows.append(row)
        print(
            f"{seed:>4} {recordings[seed % len(recordings)].name:<14}"
            + ("not found" if row is None else "  ".join(f"{value:8.3f}" for value in row)),
            flush=True,
        )
    found = np.array([row for row in rows if row is not None])
    within = int(((found[:, 0] < ASKED[0]) & (found[:, 1] < ASKED[1])).sum()) if len(found) else 0
    print("columns: mm, degrees, scale % off, its stated sigma %, degrees' stated sigma, s")
    print(f"{within} of {len(rows)} within {ASKED[0]:g} mm and {ASKED[1]:g}°")
    if len(found):
        print(f"scale: error over stated sigma {np.sqrt(np.mean((found[:, 2] / found[:, 3]) ** 2)):.2f} rms, "
              f"rotation: {np.sqrt(np.mean((found[:, 1] / found[:, 4]) ** 2)):.2f} rms (1 is honest)")  # fmt: skip
    return 0


def drawn(recording: Recording, seed: int, search: bool) -> tuple[float, ...] | None:
    """mm at the middle, degrees, % of scale, and what is stated of the last two; None where nothing is found."""
    rng = np.random.default_rng((seed, 9))
    frames = recording.frames
    kept = np.sort(rng.choice(len(frames), max(8, round(len(frames) * rng.uniform(0.5, 1))), replace=False))
    chosen, truth = [frames[k] for k in kept], recording.splat_from_map
    middle = MIDDLE if recording.name != "recorded" else np.median(_targets(recording), axis=0)
    start: Sim3 | None = truth @ _off(rng, middle)
    if search:
        turn = quat_wxyz_from_rotation(Rotation.random(random_state=seed).as_matrix())
        own_from_map = Sim3(float(np.exp(rng.uniform(-2, 2))), turn, rng.normal(0, 3, 3))
        chosen = [
            replace(frame, camera_from_world=own_from_map.camera_from_splat(frame.camera_from_world))
            for frame in chosen
        ]  # fmt: skip
        start = None
    begin = time.process_time()
    try:
        report = align_images(recording.gaussians, chosen, start)
    except AlignmentError:
        return None
    seconds = time.process_time() - begin
    found = report.splat_from_map @ own_from_map if search else report.splat_from_map
    change = truth.inverse() @ found
    degrees = float(np.degrees(Rotation.from_matrix(change.rotation).magnitude()))
    millimetres = 1000 * float(np.linalg.norm(change.apply(middle) - middle))
    percent = 100 * abs(change.scale - 1)
    return millimetres, degrees, percent, 100 * report.scale_sigma, report.rotation_sigma, seconds


def _off(rng: np.random.Generator, middle: np.ndarray) -> Sim3:
    """A change of the map frame that turns and moves its middle."""
    axis, direction = (vector / np.linalg.norm(vector) for vector in rng.normal(size=(2, 3)))
    turn = quat_wxyz_from_rotation(Rotation.from_rotvec(np.radians(DEGREES) * axis).as_matrix())
    return Sim3(1.0, turn, middle - Sim3(1.0, turn, np.zeros(3)).apply(middle) + METRES * direction)


def _targets(recording: Recording) -> np.ndarray:
    """Half a metre before each camera [N, 3]."""
    poses = [np.linalg.inv(frame.camera_from_world) for frame in recording.frames]
    return np.array([pose[:3, 3] + 0.5 * pose[:3, 2] for pose in poses])
