"""Segmentation of views that were left out: back-projection, solving, distillation frozen and joint, colours alone.

2D: mIoU and accuracy of the prompts' masks on held-out views. 3D: mIoU over the Gaussians against their true objects.
``python -m benchmarks novel_views``, minutes: each way is the command that a user runs, in a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from feature_gs_ros import rasterizer
from feature_gs_ros.backprojection.field import FeatureField
from feature_gs_ros.backprojection.ingest import pinhole_view
from feature_gs_ros.evaluation.metrics import psnr
from feature_gs_ros.io.masks import load_labels
from feature_gs_ros.io.splats.registry import load_map
from feature_gs_ros.io.streams.registry import open_stream
from feature_gs_ros.query.opening import open_segmenter
from feature_gs_ros.training.losses import ssim

VIEWS, HELD_OUT = 16, 4
ENTRY = "import sys; from feature_gs_ros.cli import main; main(sys.argv[1:])"
WAYS: dict[str, tuple[str, ...]] = {
    "back-projection": ("backproject",),
    "solving": ("distill",),
    "distillation, frozen": ("distill", "--method", "train"),
    "joint, 64 channels": ("distill", "--method", "train", "--joint", "--dims", "64", "--iterations", "400"),
    "colours alone": ("distill", "--method", "train", "--joint", "--dims", "64", "--iterations", "400", "--gamma", "0"),
}


@dataclass(frozen=True)
class Cost:
    """Of a process."""

    seconds: float
    gigabytes: float  # at its peak


def main() -> dict[str, float]:
    """Print the table; return the mIoU in 2D by way."""
    with tempfile.TemporaryDirectory() as name:
        scene = Path(name) / "scene"
        size = ("--views", VIEWS, "--width", 480, "--height", 360, "--gaussians", 20_000)
        feature_gs("synth", scene, *size)
        names = open_stream(scene / "stream").names()
        held = names[2 :: len(names) // HELD_OUT][:HELD_OUT]
        print(f"{VIEWS - HELD_OUT} views, judged on {HELD_OUT} others; extractor imagenet")
        print(f"{'way':<22}{'mIoU 2D':>8}{'accuracy':>9}{'mIoU 3D':>8}{'PSNR':>7}{'SSIM':>7}{'seconds':>9}{'GB':>6}")
        results = {}
        for way, words in WAYS.items():
            field = Path(name) / f"{way}.safetensors"
            leave_out = [
                word for frame in held for word in ("--skip" if words[0] == "backproject" else "--hold-out", frame)
            ]
            alignment = ("--alignment", scene / "alignment.yaml")
            cost = feature_gs(
                words[0], scene / "map.ply", scene / "stream", "--out", field, *alignment, *leave_out, *words[1:]
            )
            miou, accuracy = (float("nan"),) * 2 if way == "colours alone" else in_views(scene, field, held)
            solid = float("nan") if way == "colours alone" else on_gaussians(scene, field)
            likeness = of_colors(scene, field, held)
            print(
                f"{way:<22}{miou:>8.3f}{accuracy:>9.3f}{solid:>8.3f}{likeness[0]:>7.2f}{likeness[1]:>7.3f}"
                f"{cost.seconds:>9.1f}{cost.gigabytes:>6.1f}",
                flush=True,
            )
            results[f"{way}, miou of held-out views"] = miou
    return results


def feature_gs(*words: object) -> Cost:
    """Run the command, and say what it took."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", ENTRY, *map(str, words)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    said = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"feature-gs {' '.join(map(str, words))}: {said[-500:]}")
    return Cost(time.perf_counter() - start, usage.ru_maxrss / 1e6)


def in_views(scene: Path, field: Path, held: list[str]) -> tuple[float, float]:
    """mIoU and accuracy on the held-out views."""
    words = ["evaluate", "segmentation", field, "--stream", scene / "stream", "--masks", scene / "masks"]
    words += ["--labels", scene / "labels.yaml", "--prompt", "mug=coffee mug", "--json"]
    words += [word for frame in held for word in ("--view", frame)]
    done = subprocess.run([sys.executable, "-c", ENTRY, *map(str, words)], capture_output=True, check=True)
    result = json.loads(done.stdout)
    return result["miou"], result["accuracy"]


def on_gaussians(scene: Path, field: Path) -> float:
    """mIoU over the seen Gaussians: the prompts' answers against the objects that they were sampled from."""
    segmenter = open_segmenter(field, None)
    truth = load_file(scene / "ground_truth.safetensors")["object_labels"].long()
    names = {value: name for value, name in load_labels(scene / "labels.yaml").items() if value}
    prompts = ["coffee mug" if name == "mug" else name for name in names.values()]
    answers = segmenter.ask(prompts)
    rows = segmenter.field.seen
    found = []
    for value, answer in zip(names, answers, strict=True):
        true = (truth == value) & rows
        found.append(float((answer.mask & true).sum()) / max(float((answer.mask | true).sum()), 1.0))
    return float(np.mean(found))


def of_colors(scene: Path, field: Path, held: list[str]) -> tuple[float, float]:
    """Mean PSNR and SSIM of the field's map on the held-out views."""
    stored = FeatureField.load(field)
    gaussians = load_map(stored.provenance.map_path)
    values = []
    for frame in open_stream(scene / "stream").frames(held):
        pinhole = pinhole_view(frame, stored.provenance.splat_from_map)
        drawn = rasterizer.view(gaussians, pinhole.camera, pinhole.camera_from_splat).render_color().clamp(0, 1)
        image = torch.from_numpy(pinhole.image).float() / 255
        values.append((psnr(drawn, image), float(ssim(drawn, image))))
    return tuple(float(value) for value in np.mean(values, axis=0))  # type: ignore[return-value]


if __name__ == "__main__":
    main()
