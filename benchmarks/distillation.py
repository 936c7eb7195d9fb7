"""Least squares against training at frozen geometry, by the products that each takes; and what a decoder saves."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feature_gs_ros.backprojection.ingest import pinhole_view
from feature_gs_ros.backprojection.least_squares import solve_cells
from feature_gs_ros.core.codec import Codec, fit_pca
from feature_gs_ros.core.feature_grid import FeatureGrid
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.distillation import Decoder, DistillationTarget, FeatureTrainer, FrozenOptions, rendered_cosine
from feature_gs_ros.evaluation.metrics import Confusion
from feature_gs_ros.io.alignment import load_alignment
from feature_gs_ros.io.masks import MaskFolder, load_labels
from feature_gs_ros.io.splats.registry import load_map
from feature_gs_ros.io.streams.registry import open_stream
from feature_gs_ros.rasterizer import View, view
from feature_gs_ros.synthetic import record, tabletop

DIMENSION, NARROW_CHANNELS, CELL = 512, 64, 8  # of the teacher, of the codes; pixels per cell
NOISE = 0.5  # of a feature, relative to an embedding's length: what a network adds from cell to cell
VIEWS, WIDTH, HEIGHT, GAUSSIANS = 24, 640, 480, 20_000
PLATEAU, PLATEAU_EPOCHS = 1e-3, 3  # gain of the cosine over so many epochs under which training stands still
WITHIN = 0.005
PASSES = 4  # of solving at most, the command's default
BAND = 32  # rows of an image whose features are held at once


@dataclass(frozen=True, eq=False)
class _Scene:
    """The synthetic tabletop as a 512-d teacher sees it; every fourth view is left out."""

    gaussians: GaussianMap
    embeddings: Tensor  # [classes, D] unit
    targets: list[DistillationTarget]
    held: list[DistillationTarget]
    held_views: list[View]
    truth: list[NDArray[np.uint16]]


def main() -> dict[str, float]:
    """Print and return the ratios."""
    with tempfile.TemporaryDirectory() as folder:
        scene = _scene(Path(folder))
    nonzeros = sum(target.operator.nonzeros for target in scene.targets)
    print(
        f"{len(scene.gaussians)} Gaussians, {len(scene.targets)} views of {WIDTH}×{HEIGHT}, {CELL}-px cells, ", end=""
    )
    print(f"{DIMENSION}-d; {nonzeros / len(scene.targets) / 1e6:.2f} million entries a view")
    solved, results = _solving_against_training(scene)
    return results | _decoder(scene, solved)


def _scene(folder: Path) -> _Scene:
    record(folder, tabletop(), views=VIEWS, width=WIDTH, height=HEIGHT, gaussians=GAUSSIANS)
    gaussians, stream = load_map(folder / "map.ply"), open_stream(folder / "stream")
    alignment, masks = load_alignment(folder / "alignment.yaml"), MaskFolder(folder / "masks")
    generator = torch.Generator().manual_seed(0)
    classes = len(load_labels(folder / "labels.yaml"))
    embeddings = torch.nn.functional.normalize(torch.randn(classes, DIMENSION, generator=generator), dim=1)
    targets, views, truth = [], [], []
    for frame in stream.frames():
        pinhole = pinhole_view(frame, alignment)
        labels = masks.load(frame.name, frame.camera)
        one_hot = torch.nn.functional.one_hot(torch.from_numpy(labels.astype(np.int64)), classes).float()
        cells = one_hot.reshape(HEIGHT // CELL, CELL, WIDTH // CELL, CELL, classes).mean(dim=(1, 3))
        noise = torch.randn(*cells.shape[:2], DIMENSION, generator=generator) * NOISE / DIMENSION**0.5
        grid = FeatureGrid(cells @ embeddings + noise)
        drawn = view(gaussians, pinhole.camera, pinhole.camera_from_splat)
        operator = drawn.cell_operator(grid)
        targets.append(DistillationTarget(frame.name, operator, operator.target(grid)))
        views.append(drawn)
        truth.append(labels)
    left_out = range(2, VIEWS, 4)
    return _Scene(
        gaussians,
        embeddings,
        [target for k, target in enumerate(targets) if k not in left_out],
        [targets[k] for k in left_out],
        [views[k] for k in left_out],
        [truth[k] for k in left_out],
    )


def _solving_against_training(scene: _Scene) -> tuple[Tensor, dict[str, float]]:
    """Products with A or Aᵀ of one view until Adam's first plateau, and until solving is as good."""
    trainer = FeatureTrainer(scene.targets, FrozenOptions(iterations=10**9))
    start, epochs = time.perf_counter(), [0.0]
    while len(epochs) <= PLATEAU_EPOCHS or epochs[-1] - epochs[-1 - PLATEAU_EPOCHS] > PLATEAU:
        for _ in scene.targets:
            trainer.step()
        epochs.append(rendered_cosine(trainer.features, scene.held))
    adam_seconds, adam = time.perf_counter() - start, max(epochs)
    adam_products = _products(scene.targets)
    print(f"  training: cosine {adam:.4f} on views left out at the first plateau, {adam_products} products, ", end="")
    print(f"{adam_seconds:.1f} s ({len(epochs) - 1} epochs)")
    reached: tuple[int, float, float] | None = None  # products, seconds, cosine
    for passes in range(PASSES + 1):
        before, start = _products(scene.targets), time.perf_counter()
        features = solve_cells(
            [(target.operator, target.wanted) for target in scene.targets], iterations=passes
        ).features
        seconds = time.perf_counter() - start
        products, cosine = _products(scene.targets) - before, rendered_cosine(features, scene.held)
        print(f"  solving, {passes} passes: cosine {cosine:.4f}, {products} products, {seconds:.1f} s")
        if reached is None and cosine >= adam - WITHIN:
            reached = products, seconds, cosine
    if reached is None:
        raise RuntimeError(f"solving did not come within {WITHIN} of training's cosine {adam:.4f}")
    products, seconds, cosine = reached
    ratio = adam_products / products
    print(f"  training takes {ratio:.1f}x the products and {adam_seconds / seconds:.1f}x the seconds")
    return features, {
        "cosine of solving less that of training": cosine - adam,
        "products of training over those of solving": ratio,
        "seconds of training over those of solving": adam_seconds / seconds,
    }


def _decoder(scene: _Scene, solved: Tensor) -> dict[str, float]:
    """Rendering 64 channels and lifting them to 512 against rendering 512: seconds, and mIoU on views left out."""
    cells = torch.cat([target.wanted for target in scene.targets])
    codec = fit_pca(cells[:: max(1, len(cells) // 20_000)], NARROW_CHANNELS)
    encoded = [(target.operator, codec.encode(target.wanted)) for target in scene.targets]
    decoder = Decoder.of_codec(codec)
    trainer = FeatureTrainer(
        scene.targets, FrozenOptions(iterations=4 * len(scene.targets)), decoder, solve_cells(encoded).features
    )
    trainer.run()
    codes, trained = trainer.features.detach(), decoder.codec()
    drawn = scene.held_views[0]
    whole = _seconds(lambda: _scores(drawn, solved, None, scene.embeddings))
    few = _seconds(lambda: _scores(drawn, codes, trained, scene.embeddings))
    quality = [_miou(scene, solved, None), _miou(scene, codes, trained)]
    print(f"  rendering {DIMENSION}: {whole:.2f} s a view, mIoU {quality[0]:.3f}; ", end="")
    print(f"rendering {NARROW_CHANNELS} and decoding: {few:.2f} s, mIoU {quality[1]:.3f}: {whole / few:.2f}x faster")
    return {
        f"rendering {DIMENSION} over rendering {NARROW_CHANNELS} and decoding": whole / few,
        "mIoU of decoding less that of rendering all": quality[1] - quality[0],
    }


def _scores(drawn: View, features: Tensor, codec: Codec | None, embeddings: Tensor) -> Tensor:
    """Score [H, W, P] of every pixel for every class, a band of rows at a time: no image of 512 channels is held."""
    bands = []
    for first in range(0, HEIGHT, BAND):
        image = drawn.render(features, rows=(first, min(first + BAND, HEIGHT)))
        bands.append((codec.decode(image) if codec else image) @ embeddings.T)
    return torch.cat(bands)


def _miou(scene: _Scene, features: Tensor, codec: Codec | None) -> float:
    confusion = Confusion(len(scene.embeddings))
    for drawn, labels in zip(scene.held_views, scene.truth, strict=True):
        scores = _scores(drawn, features, codec, scene.embeddings)
        confusion.add(scores.argmax(dim=2).numpy(), labels.astype(np.int64))
    return float(np.nanmean(confusion.iou()[1:]))


def _products(targets: Sequence[DistillationTarget]) -> int:
    return sum(target.operator.products for target in targets)


def _seconds(work: Callable[[], object], repeats: int = 3) -> float:
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


if __name__ == "__main__":
    main()
