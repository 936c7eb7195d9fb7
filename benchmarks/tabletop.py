"""The recorded tabletop, whole: each stage's fraction and the quality by the defaults. Needs FEATURE_GS_TABLETOP."""

from __future__ import annotations

import os
from pathlib import Path

from feature_gs_ros.backprojection.ingest import ingest
from feature_gs_ros.backprojection.projector import BackProjector
from feature_gs_ros.evaluation.metrics import evaluate_segmentation
from feature_gs_ros.extractors import make_extractor
from feature_gs_ros.io.masks import MaskFolder
from feature_gs_ros.io.splats.registry import load_map
from feature_gs_ros.io.streams.registry import open_stream
from feature_gs_ros.query.masks_3d import Segmenter

WORDS = {1: "screwdriver", 3: "mug", 5: "bottle"}
PROMPTS = {"mug": "coffee mug", "bottle": "water bottle"}


def main() -> dict[str, float]:
    """Print the stages and the IoU of three words; {} where the recording isn't here."""
    if "FEATURE_GS_TABLETOP" not in os.environ:
        print("FEATURE_GS_TABLETOP is not set: the recorded tabletop is skipped")
        return {}
    folder = Path(os.environ["FEATURE_GS_TABLETOP"])
    gaussians, stream, extractor = (
        load_map(folder / "map.ply"),
        open_stream(folder / "colmap"),
        make_extractor("imagenet"),
    )
    projector = BackProjector(gaussians, extractor.identity, extractor.dimension)
    report = ingest(stream, stream.names(), extractor, projector)
    print(report.table())
    segmenter = Segmenter(gaussians, projector.field(), extractor)
    result = evaluate_segmentation(segmenter, stream, MaskFolder(folder / "masks"), WORDS, prompts=PROMPTS)
    print(result.table())
    return {"three words, miou": result.miou}
