"""A prepared query against reading the features from memory once, and memory against what was announced."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from benchmarks.scenes import CAMERA, POSE, grid_of_cells, room, seconds
from feature_gs_ros.backprojection.field import FeatureField, Provenance
from feature_gs_ros.backprojection.projector import BackProjector, memory_needed
from feature_gs_ros.core.memory import gigabytes
from feature_gs_ros.extractors.base import ExtractorIdentity
from feature_gs_ros.extractors.precomputed import PrecomputedExtractor
from feature_gs_ros.query.masks_3d import Segmenter
from feature_gs_ros.rasterizer import view


def main() -> dict[str, float]:
    """Print and return the ratios."""
    gaussians = room(1_000_000)
    count = torch.ones(len(gaussians), dtype=torch.int32)
    with tempfile.TemporaryDirectory() as folder:
        embeddings = Path(folder) / "words.safetensors"
        save_file({"mug": torch.randn(512)}, embeddings)
        extractor = PrecomputedExtractor(embeddings=embeddings, dimension=512)
    features = torch.randn(len(gaussians), 512)
    field = FeatureField(features, count.float(), count, extractor.identity, Provenance(gaussians.checksum))
    segmenter = Segmenter(gaussians, field, extractor)
    # In turns: on a shared machine the memory's speed changes from one second to the next.
    turns = [(seconds(lambda: features.sum(), 1), seconds(lambda: segmenter.ask(["mug"]), 1)) for _ in range(15)]
    reading, asking = (statistics.median(times) for times in zip(*turns, strict=True))
    print(f"query of 1M x 512 {1e3 * asking:.0f} ms, reading it once {1e3 * reading:.0f} ms: {asking / reading:.2f}x")
    share = float(subprocess.run(
        [sys.executable, "-m", "benchmarks.queries", "memory"], capture_output=True, text=True, check=True
    ).stdout.split()[-1])  # fmt: skip
    print(f"memory taken over memory announced, 500k Gaussians x 768: {share:.2f}")
    return {"query over reading": asking / reading, "memory taken over announced": share}


def memory_share() -> float:
    """Peak memory of back-projecting a few views over what `memory_needed` says, in a process of its own."""
    gaussians = room(500_000)
    grid = grid_of_cells(16, 768)
    view(gaussians, CAMERA, POSE).backproject(grid_of_cells(16, 4))  # compiled and warm
    before = _resident()
    projector = BackProjector(gaussians, ExtractorIdentity("benchmark"), 768)
    for _ in range(4):
        projector.add(view(gaussians, CAMERA, POSE), grid)
    projector.merge(projector)  # rows that no view touched are the kernel's zero page until then
    projector.field()
    peak = _resident("VmHWM") - before  # ru_maxrss would begin with the parent's
    announced = memory_needed(500_000, 768)
    print(f"taken {gigabytes(peak)}, announced {gigabytes(announced)}")
    return peak / announced


def _resident(what: str = "VmRSS") -> int:
    """Bytes of memory that this process has, or had at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))


if __name__ == "__main__":
    print(memory_share() if sys.argv[1:] == ["memory"] else main())
