"""Ranks and merges that are killed at random moments: nothing that was checkpointed is lost, no file is damaged.

    python -m tests.soak_shards [--kills 20] [--seed 0] [--only ranks|merge]

A part of ``make soak``; a run takes minutes, so not among the tests.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from feature_gs_ros.backprojection.field import FeatureField
from tests.little_scene import write_scene

COMMAND = [sys.executable, "-m", "feature_gs_ros.cli"]
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
FRAMES = tuple(f"{index:04d}" for index in range(24))  # more would look past the map
RANKS = 2


def kill_ranks(folder: Path, count: int, rng: random.Random) -> None:
    """A run of two ranks, one of which is killed again and again; each run goes on from the one before."""
    out = folder / "ranks.field"
    words = ["backproject", folder / "map.ply", folder, "--extractor", "color", "--trust-poses", "--out", out]
    words = [str(word) for word in words]
    whole = folder / "whole.field"
    subprocess.run([*COMMAND, *words[:-1], str(whole)], check=True, capture_output=True)
    ranks = ["--launcher", "torchrun", "--checkpoint", "1", "--resume"]
    command = [*LAUNCH, "feature_gs_ros.cli", *words, *ranks]
    began = time.monotonic()
    killed, rounds = 0, 0
    seconds = _until_first_part(command, out)
    held: dict[Path, set[str]] = {}
    while killed < count:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.5, 1.3) * seconds)
        rank = _one_rank(process.pid, rng)
        if rank is not None:
            os.kill(rank, signal.SIGKILL)
            killed += 1
        code = process.wait()
        rounds += 1
        if code == 0:  # all was done: it begins anew
            _check_whole(out, whole)
            out.unlink()
            held = {}
            continue
        held = _check_parts(out, held)
    subprocess.run(command, check=True, capture_output=True)
    _check_whole(out, whole)
    left = [path.name for path in folder.iterdir() if ".rank" in path.name or path.name.startswith(".")]
    assert not [name for name in left if not name.endswith(".lock")], left
    print(f"{killed} ranks killed in {rounds} runs, {time.monotonic() - began:.0f} s: no checkpoint lost or damaged")


def _until_first_part(command: list[str], out: Path) -> float:
    """Seconds that a run takes to its first checkpoint; it is killed there."""
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not any(_part(out, rank).exists() for rank in range(RANKS)):
        time.sleep(0.05)
    seconds = time.monotonic() - began
    rank = _one_rank(process.pid, random.Random(0))
    if rank is not None:
        os.kill(rank, signal.SIGKILL)
    process.wait()
    return seconds


def _part(out: Path, rank: int) -> Path:
    return out.with_name(f"{out.name}.rank{rank + 1}of{RANKS}")


def _one_rank(launcher: int, rng: random.Random) -> int | None:
    """A process that torchrun started, at random."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue
        if parent == launcher:
            found.append(int(status.parent.name))
    return rng.choice(sorted(found)) if found else None


def _check_parts(out: Path, held: dict[Path, set[str]]) -> dict[Path, set[str]]:
    """Every part is whole and holds at least what it held before."""
    now = {}
    for path in (_part(out, rank) for rank in range(RANKS)):
        if path.exists():
            now[path] = set(FeatureField.load(path).provenance.frames)
    for path, frames in held.items():
        assert path in now or out.exists(), f"{path} is gone"
        assert path not in now or now[path] >= frames, f"{path} lost {frames - now[path]}"
    return now


def _check_whole(out: Path, whole: Path) -> None:
    field, expected = FeatureField.load(out), FeatureField.load(whole)
    assert sorted(field.provenance.frames) == sorted(expected.provenance.frames)
    assert torch.equal(field.view_count, expected.view_count)
    torch.testing.assert_close(field.accumulated(), expected.accumulated(), rtol=1e-4, atol=1e-3)


def kill_merges(folder: Path, count: int, rng: random.Random) -> None:
    """A merge of four shards, killed at any moment: at its output stands the old field or the new one, whole."""
    words = ["backproject", folder / "map.ply", folder, "--extractor", "color", "--trust-poses", "--looks", "0"]
    whole, out, parts = folder / "whole.field", folder / "merged.field", []
    subprocess.run([*COMMAND, *map(str, words), "--out", str(whole)], check=True, capture_output=True)
    for number in range(1, 5):
        parts.append(str(folder / f"{number}.part"))
        shard = ["--shard", f"{number}/4", "--out", parts[-1]]
        subprocess.run([*COMMAND, *map(str, words), *shard], check=True, capture_output=True)
    command = [*COMMAND, "merge", *parts, "--out", str(out), "--resume"]
    first = [*COMMAND, "merge", *parts[:2], "--out", str(out)]
    began = time.monotonic()
    subprocess.run(first, check=True, capture_output=True)
    seconds = time.monotonic() - began
    old = set(FeatureField.load(out).provenance.frames)
    killed = 0
    while killed < count:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(rng.uniform(0.3, 1.1) * seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            killed += 1
        frames = set(FeatureField.load(out).provenance.frames)
        assert frames == old or frames == set(FRAMES), frames
        if frames != old:
            subprocess.run(first, check=True, capture_output=True)
    subprocess.run(command, check=True, capture_output=True)
    _check_whole(out, whole)
    print(f"{killed} merges killed, {time.monotonic() - began:.0f} s: the old field or the new one, whole")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=("ranks", "merge"))
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="feature-gs-soak-shards-"))
    write_scene(folder, FRAMES)
    if options.only != "merge":
        kill_ranks(folder, options.kills, random.Random(options.seed))
    if options.only != "ranks":
        kill_merges(folder, options.kills, random.Random(options.seed))
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
