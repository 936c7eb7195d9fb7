"""SAM's masks from a rendered embedding against the naive way: render the colours, encode, decode.

Needs segment-anything; random weights, since time doesn't depend on them.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks.scenes import CAMERA, HEIGHT, POSE, WIDTH, room, seconds
from feature_gs_ros import rasterizer
from feature_gs_ros.backprojection.field import FeatureField, Provenance
from feature_gs_ros.extractors.libraries import import_library, installed
from feature_gs_ros.extractors.sam import SamExtractor, weights_file
from feature_gs_ros.extractors.sam_masks import prompted_masks
from feature_gs_ros.pictures import to_image
from feature_gs_ros.query.sam import segment_rendered_view


def main() -> dict[str, float]:
    """Print and return the ratio."""
    if not installed("segment_anything"):
        print("skipped: segment-anything is not installed")
        return {}
    library = import_library("segment_anything", "segment-anything")
    gaussians = room(100_000)
    count = torch.ones(len(gaussians), dtype=torch.int32)
    point = np.array([[WIDTH / 2, HEIGHT / 2]])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / weights_file("vit_b").name
        torch.save(library.sam_model_registry["vit_b"]().state_dict(), path)
        sam = SamExtractor(weights=path)
        features = torch.randn(len(gaussians), 256)
        field = FeatureField(features, count.float(), count, sam.identity, Provenance(gaussians.checksum))
        assert sam.network is not None  # loaded while the file is there

    def naively() -> None:
        image = to_image(rasterizer.view(gaussians, CAMERA, POSE).render_color())
        prompted_masks(sam, sam.extract(image).values, (HEIGHT, WIDTH), point)

    rendered = seconds(lambda: segment_rendered_view(sam, gaussians, field, CAMERA, POSE, point), 3)
    naive = seconds(naively, 1)
    print(
        f"SAM ViT-B, 100k Gaussians, {WIDTH}x{HEIGHT}: rendered embedding {rendered:.2f} s, naive {naive:.2f} s: ",
        end="",
    )
    print(f"{naive / rendered:.1f}x")
    return {"SAM's mask, naive over rendered embedding": naive / rendered}


if __name__ == "__main__":
    main()
