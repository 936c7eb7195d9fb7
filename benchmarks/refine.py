"""What `backproject --refine-poses` gains on views that are held out, by noisy and by good poses.

``python -m benchmarks refine [--draws N] [--poses-only] [--folder SCENE]``: the recorded tabletop
(FEATURE_GS_TABLETOP), or a folder of ``feature-gs synth``. Features of the views without masks go onto the map (every
fifth view of a synthetic scene is left out); IoU is that of the views with masks, at their true poses.
"""

from __future__ import annotations

import os
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from feature_gs_ros.backprojection.ingest import ingest
from feature_gs_ros.backprojection.projector import BackProjector
from feature_gs_ros.backprojection.provenance import Provenance
from feature_gs_ros.core.camera import Frame
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.core.geometry import Sim3, camera_centre
from feature_gs_ros.evaluation.metrics import evaluate_segmentation
from feature_gs_ros.extractors import make_extractor
from feature_gs_ros.frames.refined_stream import RefinedStream
from feature_gs_ros.io.alignment import load_alignment
from feature_gs_ros.io.masks import MaskFolder
from feature_gs_ros.io.splats.registry import load_map
from feature_gs_ros.io.streams.registry import Stream, open_stream
from feature_gs_ros.query.masks_3d import Segmenter
from feature_gs_ros.synthetic.faults import AlteredStream

NOISE = (0.005, 0.5)  # m and degrees, length and angle rms
RECORDED = {1: "screwdriver", 3: "mug", 5: "bottle"}
SYNTHETIC = {1: "mug", 4: "orange", 5: "banana"}
PROMPTS = {"mug": "coffee mug", "bottle": "water bottle"}


def command(words: Sequence[str]) -> int:
    """Print IoU and pose errors with and without refinement, for good and for noisy poses."""
    parser = ArgumentParser(prog="python -m benchmarks refine", description=__doc__)
    parser.add_argument("--draws", type=int, default=2, help="of the noise")
    parser.add_argument("--folder", type=Path, default=None, help="a folder of feature-gs synth")
    parser.add_argument("--poses-only", action="store_true", help="errors of the poses; no features, no IoU")
    given = parser.parse_args(words)
    folder = given.folder or Path(os.environ["FEATURE_GS_TABLETOP"])
    gaussians, alignment = load_map(folder / "map.ply"), load_alignment(folder / "alignment.yaml")
    if given.folder is None:  # its bag doesn't name the images
        stream, masked, labels = _in_metres(open_stream(folder / "colmap"), alignment), ("0", "4", "7", "12"), RECORDED
    else:
        stream, labels = open_stream(folder / "stream"), SYNTHETIC
        masked = tuple(stream.names()[::5])
    learned = [frame for frame in stream.frames() if frame.name not in masked]
    print("poses                      mm rms   deg rms   moved views   miou held out")
    for seed in range(-1, given.draws):
        poses = learned if seed < 0 else noisy(learned, seed)
        for refine in (False, True):
            source: Stream = AlteredStream("learned", poses)
            refined = RefinedStream(source, gaussians, alignment)
            iou = float("nan")
            if not given.poses_only:
                iou = held_out_iou(refined if refine else source, gaussians, alignment, stream, folder, masked, labels)
            used = {frame.name: frame for frame in (refined if refine else source).frames()}
            metres, degrees = errors(used, learned)
            changed = sum(entry.metres > 0 for entry in refined.corrections.values()) if refine else 0
            name = ("good" if seed < 0 else f"noisy {seed}") + (", refined" if refine else "")
            print(f"{name:<24}{1000 * metres:9.2f}{degrees:10.3f}{changed:8} of {len(learned)}{iou:14.3f}", flush=True)
    return 0


def _in_metres(stream: Stream, alignment: Sim3) -> Stream:
    """A stream whose poses are the splat's, in the map frame."""
    map_from_splat = alignment.inverse()
    return AlteredStream(
        stream.source,
        [
            replace(frame, camera_from_world=map_from_splat.camera_from_splat(frame.camera_from_world))
            for frame in stream.frames()
        ],
    )


def noisy(frames: Sequence[Frame], seed: int) -> list[Frame]:
    """Poses off by `NOISE`."""
    rng = np.random.default_rng(seed)
    altered = []
    for frame in frames:
        change = np.eye(4)
        turn = np.radians(NOISE[1]) / np.sqrt(3) * rng.normal(size=3)
        change[:3, :3] = Rotation.from_rotvec(turn).as_matrix()
        change[:3, 3] = NOISE[0] / np.sqrt(3) * rng.normal(size=3)
        altered.append(replace(frame, camera_from_world=change @ frame.camera_from_world))
    return altered


def held_out_iou(
    stream: Stream,
    gaussians: GaussianMap,
    alignment: Sim3,
    truth: Stream,
    folder: Path,
    masked: Sequence[str],
    labels: Mapping[int, str],
) -> float:
    """Mean IoU of the words in the masked views."""
    extractor = make_extractor("imagenet")
    projector = BackProjector(
        gaussians,
        extractor.identity,
        extractor.dimension,
        provenance=Provenance(gaussians.checksum, splat_from_map=alignment),
    )
    ingest(stream, stream.names(), extractor, projector)
    segmenter = Segmenter(gaussians, projector.field(), extractor)
    held = AlteredStream("held out", list(truth.frames(masked)))
    return evaluate_segmentation(segmenter, held, MaskFolder(folder / "masks"), dict(labels), prompts=PROMPTS).miou


def errors(used: Mapping[str, Frame], truth: Sequence[Frame]) -> tuple[float, float]:
    """Root mean square distance (m) and angle (degrees) of the cameras."""
    metres, degrees = [], []
    for frame in truth:
        pose = used[frame.name].camera_from_world
        metres.append(np.linalg.norm(camera_centre(pose) - camera_centre(frame.camera_from_world)))
        turn = pose[:3, :3] @ frame.camera_from_world[:3, :3].T
        degrees.append(np.degrees(Rotation.from_matrix(turn).magnitude()))
    return float(np.sqrt(np.mean(np.square(metres)))), float(np.sqrt(np.mean(np.square(degrees))))
