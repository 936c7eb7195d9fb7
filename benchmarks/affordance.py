"""Affordance transfer: 2D-3D against 2D-2D-3D on the same features in one run, and neighbours against the bare product.

``python benchmarks/affordance.py [--gaussians 1000000] [--patches 10000] [--dimension 384] [--views 16]``
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from feature_gs_ros import rasterizer
from feature_gs_ros.affordance import Library, Transfer, make_source, render_affordances, transfer, transfer_by_views
from feature_gs_ros.affordance.nearest import COLUMNS, ROWS, nearest_patches
from feature_gs_ros.affordance.patches import IGNORE
from feature_gs_ros.backprojection.field import Provenance
from feature_gs_ros.backprojection.projector import BackProjector
from feature_gs_ros.core.feature_grid import FeatureGrid
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.evaluation.metrics import Confusion
from feature_gs_ros.extractors import make_extractor
from feature_gs_ros.rasterizer import View
from feature_gs_ros.synthetic import (
    SPLAT_FROM_MAP,
    PosedView,
    SyntheticView,
    held_out_views,
    mugs,
    recorded_views,
    render_view,
    sample_gaussians,
    tabletop_camera,
)

CAMERA = tabletop_camera(640, 480)
NEIGHBOURS = 5


@dataclass(frozen=True, eq=False)
class Shot:
    """A view of the map, and the image that a camera takes there, with the truth."""

    posed: PosedView
    view: View
    recorded: SyntheticView


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Both parts, the neighbours at a tenth of the full size unless asked for more."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gaussians", type=int, default=100_000)
    parser.add_argument("--patches", type=int, default=10_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--views", type=int, default=16)
    parser.add_argument("--only", choices=("neighbours", "methods"), default=None)
    options = parser.parse_args(arguments or [])
    results: dict[str, float] = {}
    if options.only != "methods":
        results |= neighbours(options.gaussians, options.patches, options.dimension)
    if options.only != "neighbours":
        results |= methods(options.views)
    return results


def neighbours(count: int, patches: int, dimension: int) -> dict[str, float]:
    """The k nearest patches of every feature, against the products alone in the same blocks."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(count, dimension, generator=generator, dtype=torch.float32)
    others = torch.randn(patches, dimension, generator=generator)
    nearest_patches(
        lambda rows: features[rows], min(count, 2 * ROWS), others, NEIGHBOURS
    )  # compiles, and holds its block
    before = _peak_bytes()
    start = time.perf_counter()
    nearest_patches(lambda rows: features[rows], count, others, NEIGHBOURS)
    whole = time.perf_counter() - start
    more = _peak_bytes() - before
    bare = _bare_product(features, others)
    answer = count * NEIGHBOURS * 12
    print(
        f"{NEIGHBOURS} neighbours of {count} Gaussians among {patches} patches, {dimension}-d: {whole:.2f} s; "
        f"the bare blocked product {bare:.2f} s ({whole / bare:.2f} ×, {2e-9 * count * patches * dimension / bare:.0f} "
        f"GFLOP/s)\nbeside a block of {4e-6 * ROWS * COLUMNS:.0f} MB, peak memory grew by {more / 1e6:.0f} MB, "
        f"{answer / 1e6:.0f} MB of it the answer; "
        f"all products together would be {4e-6 * count * patches:.0f} MB"
    )
    return {
        "affordance.neighbours": whole,
        "affordance.bare product": bare,
        "affordance.neighbours ratio": whole / bare,
    }


def methods(views: int) -> dict[str, float]:
    """A handle marked on one of three synthetic mugs, transferred by both methods; judged on views not seen before."""
    scene = mugs()
    gaussians = sample_gaussians(scene, 40_000).gaussians
    recorded = [_shot(gaussians, posed) for posed in recorded_views(views)]
    start = time.perf_counter()
    extractor = make_extractor("imagenet-parts")
    grids = [extractor.extract(shot.recorded.image, shot.posed.name) for shot in recorded]
    extracting = time.perf_counter() - start
    start = time.perf_counter()
    provenance = Provenance(gaussians.checksum, splat_from_map=SPLAT_FROM_MAP)
    projector = BackProjector(gaussians, extractor.identity, extractor.dimension, provenance=provenance)
    for shot, grid in zip(recorded, grids, strict=True):
        projector.add(shot.view, grid, name=shot.posed.name)
    field = projector.field()
    lifting = time.perf_counter() - start
    clearest = max(recorded, key=lambda shot: np.count_nonzero(_marks(shot.recorded) == 1))
    start = time.perf_counter()
    source = make_source(clearest.recorded.image, _marks(clearest.recorded), {1: "handle"}, extractor, name="red mug")
    library = Library.of(extractor).add(source)
    adding = time.perf_counter() - start

    def with_grids() -> Iterator[tuple[View, FeatureGrid, None]]:
        for shot, grid in zip(recorded, grids, strict=True):
            yield shot.view, grid, None

    found = {
        "2D-3D": transfer(gaussians, field, library),
        "2D-2D-3D": transfer_by_views(gaussians, field, library, with_grids()),
    }
    hidden = [_shot(gaussians, posed) for posed in held_out_views(4)]
    features = {"2D-3D": extracting + lifting + adding, "2D-2D-3D": extracting + adding}
    results: dict[str, float] = {}
    print(
        f"{len(gaussians)} Gaussians, {views} views of {CAMERA.width}×{CAMERA.height}, {len(source.features)} patches; "
        f"features {extracting:.1f} s, lifting them {lifting:.1f} s, the source {adding:.1f} s"
    )
    print(f"{'method':<10}{'IoU':>7}{'recall':>8}{'transfer':>11}{'with features':>15}")
    for method, transferred in found.items():
        iou, recall = _judged(transferred, hidden)
        total = transferred.seconds + features[method]
        print(f"{method:<10}{iou:>7.3f}{recall:>8.3f}{transferred.seconds:>9.2f} s{total:>13.2f} s")
        results |= {f"affordance.{method} IoU": iou, f"affordance.{method} seconds": transferred.seconds}
    return results


def _shot(gaussians: GaussianMap, posed: PosedView) -> Shot:
    view = rasterizer.view(gaussians, CAMERA, SPLAT_FROM_MAP.camera_from_splat(posed.camera_from_map))
    return Shot(posed, view, render_view(mugs(), CAMERA, posed.camera_from_map))


def _marks(recorded: SyntheticView) -> NDArray[np.uint8]:
    """The red mug's handle; the other two mugs count for nothing."""
    labels: NDArray[np.uint8] = (recorded.part_labels == 1).astype(np.uint8)
    labels[np.isin(recorded.object_labels, [2, 3])] = IGNORE
    return labels


def _judged(transferred: Transfer, hidden: list[Shot]) -> tuple[float, float]:
    """IoU and recall over the handles of all three mugs."""
    confusion = Confusion(2)
    for shot in hidden:
        true = np.isin(shot.recorded.part_labels, [1, 2, 3]).astype(np.int64)
        confusion.add(render_affordances(shot.view, transferred).numpy(), true)
    return float(confusion.iou()[1]), float(confusion.recall()[1])


def _bare_product(features: torch.Tensor, others: torch.Tensor) -> float:
    """Seconds of the same blocked product, its results thrown away."""
    blocks = [block.T.contiguous() for block in torch.split(others, COLUMNS)]
    space = torch.empty(ROWS * COLUMNS)
    start = time.perf_counter()
    for first in range(0, len(features), ROWS):
        rows = features[first : first + ROWS]
        for block in blocks:
            torch.mm(rows, block, out=space[: len(rows) * block.shape[1]].view(len(rows), block.shape[1]))
    return time.perf_counter() - start


def _peak_bytes() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
