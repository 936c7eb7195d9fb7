"""``make soak``: ten thousand frames, a hundred kills and a full disk; minutes to an hour, so not among the tests.

    python -m tests.soak [--frames 10000] [--kills 100] [--seed 0]

Nothing may grow, nothing may be lost, nothing may be left behind.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from feature_gs_ros import rasterizer
from feature_gs_ros.affordance.library import Library
from feature_gs_ros.backprojection.field import FeatureField, Provenance
from feature_gs_ros.backprojection.ingest import extract, pinhole_view
from feature_gs_ros.backprojection.projector import BackProjector
from feature_gs_ros.core.errors import FieldError
from feature_gs_ros.core.geometry import Sim3
from feature_gs_ros.editing import EditStack
from feature_gs_ros.extractors import make_extractor
from feature_gs_ros.io.atomic import finish_interrupted
from feature_gs_ros.io.splats.registry import load_map
from feature_gs_ros.io.streams.registry import open_stream
from tests.disk import largest_file
from tests.little_scene import write_scene

COMMAND = [sys.executable, "-c", "from feature_gs_ros.cli import main; main()"]
WARM = 500  # frames after which caches and pools are as large as they get
GROWTH = 64  # MB that the process may grow afterwards


def resident_megabytes() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def many_frames(folder: Path, count: int) -> None:
    """A field of many views: memory stays, and the mean of the same views is the same."""
    gaussians, extractor = load_map(folder / "map.ply"), make_extractor("color")
    frames = list(open_stream(folder).frames())
    projector = BackProjector(
        gaussians, extractor.identity, extractor.dimension, provenance=Provenance(gaussians.checksum)
    )
    count = max(1, count // len(frames)) * len(frames)  # each view as often as the others
    once, after_warm, began = None, 0.0, time.monotonic()
    for number in range(count):
        frame = frames[number % len(frames)]
        pinhole = pinhole_view(frame, Sim3.identity())
        view = rasterizer.view(gaussians, pinhole.camera, pinhole.camera_from_splat, projector.backend)
        projector.add(view, extract(extractor, pinhole.image, frame), pinhole.valid)
        if number + 1 == len(frames):
            once = projector.field().features
        if number == WARM:
            after_warm = resident_megabytes()
    field = projector.field()
    assert once is not None
    assert int(field.view_count.max()) == count
    assert float((field.features - once).abs().max()) < 1e-2 * float(once.abs().max())
    grown = resident_megabytes() - after_warm if count > WARM else 0.0
    assert grown < GROWTH, f"the process grew by {grown:.0f} MB over {count - WARM} frames"
    print(f"{count} frames in {time.monotonic() - began:.0f} s; grown by {grown:.1f} MB after the first {WARM}")


def kills(folder: Path, count: int, rng: random.Random) -> None:
    """Commands killed at any moment: what stands there is whole, pairs agree, the next run leaves nothing behind."""
    field, edited, library = folder / "field", folder / "edited.ply", folder / "library"
    colors = ["--extractor", "color"]
    picture, mask = folder / "images" / "0000.png", folder / "masks" / "0000.png"
    commands: tuple[list[object], ...] = (
        ["backproject", folder / "map.ply", folder, *colors, "--out", field],
        ["edit", field, "--delete", "@0.2,0.0,0.0", "--out", edited],
        ["edit", field, "--undo", "--out", edited],
        ["affordance", "add", picture, mask, *colors, "--library", library, "--force", "--affordance", "grip"],
    )
    seconds = {number: time_of(command) for number, command in enumerate(commands)}
    killed = 0
    while killed < count:
        number, began = rng.randrange(len(commands)), time.monotonic()
        process = subprocess.Popen(
            [*COMMAND, *map(str, commands[number])], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            process.wait(rng.uniform(0.6, 1.0) * seconds[number])  # most of it is starting
            seconds[number] = time.monotonic() - began  # it was quicker than thought
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            killed += 1
        check_whole(folder, field, edited, library)
    for command in commands:
        subprocess.run([*COMMAND, *map(str, command)], check=False, capture_output=True)
    left = [path.name for path in folder.iterdir() if path.name.startswith(".")]
    assert not left, left
    print(f"{killed} commands killed; everything whole, nothing left behind")


def time_of(command: list[object]) -> float:
    """Seconds that a command takes; it may end in an error."""
    began = time.monotonic()
    subprocess.run([*COMMAND, *map(str, command)], check=False, capture_output=True)
    return time.monotonic() - began


def check_whole(folder: Path, field: Path, edited: Path, library: Path) -> None:
    gaussians = load_map(folder / "map.ply")
    FeatureField.load(field).check_map(gaussians)
    if library.exists():
        assert len(Library.load(library)) == 1
    finish_interrupted(edited)
    remembered = edited.with_name(f"{edited.name}.edits")
    assert edited.exists() == remembered.exists()
    if edited.exists():
        shown = EditStack.load(remembered, gaussians).edited()
        assert len(load_map(edited)) == int(shown.present.sum())


def full_disk(folder: Path) -> None:
    """Writes that fail leave the old file, and nothing beside it."""
    path = folder / "field"
    field = FeatureField.load(path)
    large = replace(field, features=field.features.repeat(1, 500))
    before, names = path.read_bytes(), sorted(folder.iterdir())
    for size in (0, 100, 4096, 10_000):
        with largest_file(size):
            try:
                large.save(path)
            except FieldError:
                pass
            else:
                raise AssertionError(f"{size} bytes were enough")
        assert path.read_bytes() == before
        assert sorted(folder.iterdir()) == names
    print("a full disk loses nothing")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="feature-gs-soak-"))
    write_scene(folder)
    many_frames(folder, options.frames)
    kills(folder, options.kills, random.Random(options.seed))
    full_disk(folder)
    shutil.rmtree(folder)
    print(json.dumps({"frames": options.frames, "kills": options.kills, "numpy": np.__version__}))


if __name__ == "__main__":
    main()
