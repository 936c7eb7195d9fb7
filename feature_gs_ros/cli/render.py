"""``feature-gs render``: render a map and its field from a frame of a stream."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro

from feature_gs_ros import rasterizer
from feature_gs_ros.backprojection.field import FeatureField
from feature_gs_ros.backprojection.ingest import pinhole_view
from feature_gs_ros.backprojection.opening import find_map, open_field
from feature_gs_ros.cli.checks import check_outputs
from feature_gs_ros.cli.common import alignment_of_view
from feature_gs_ros.cli.recording import NO_OPTIONS, RecordingOptions
from feature_gs_ros.cli.stale_outputs import check_own_files, remove_stale_outputs
from feature_gs_ros.core.camera import Image
from feature_gs_ros.core.errors import FieldError
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.core.progress import say
from feature_gs_ros.extractors import extractor_of
from feature_gs_ros.extractors.options import parse_options
from feature_gs_ros.extractors.sam import SamExtractor
from feature_gs_ros.io.streams.registry import open_stream
from feature_gs_ros.pictures import depth_image, heat, label_image, overlay_mask, principal_colors, save_png, to_image
from feature_gs_ros.query.masks_2d import mask_labels, render_similarities, segment_view
from feature_gs_ros.query.masks_3d import Segmenter
from feature_gs_ros.query.prompt import TextPrompts, parse_pixels
from feature_gs_ros.query.sam import segment_rendered_view
from feature_gs_ros.rasterizer import View

ALWAYS = ("image", "color", "depth", "features")
ASKED = ("similarity", "mask", "overlay", "labels", "sam_mask", "sam_overlay")


def render(
    field: Path,
    /,
    *,
    stream: Path,
    index: str,
    out: Path,
    query: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    sam_point: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    sam_not: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    sam_box: str | None = None,
    threshold: float | None = None,
    alignment: Path | None = None,
    map: Path | None = None,  # noqa: A002 - the word of the command line
    weights: Path | None = None,
    option: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    backend: str = "auto",
    bag: RecordingOptions = NO_OPTIONS,
) -> int:
    """Render a frame's view: image, colour, depth, features as colours; with a query also similarity and mask.

    Pictures of an earlier query in the same folder are deleted if this run doesn't draw them.

    Args:
        field: a field, written by feature-gs backproject.
        stream: the frame's stream; any one in the field's map frame.
        index: the frame's name: the image's stem, or the stamp in nanoseconds in a bag.
        out: folder for the pictures.
        query: what to look for; if repeated, a label map with a legend is drawn, too.
        sam_point: U,V in pixels of the frame, on the object: SAM's mask of it, from a field of the extractor 'sam'.
        sam_not: U,V off the object; both may be repeated.
        sam_box: U0,V0,U1,V1 around the object.
        threshold: minimum similarity; the extractor's own by default.
        alignment: splat_from_map file; by default the field's own, or none if the frames see the map without it.
        map: the map file, if it has moved since the field was made.
        weights: the extractor's weights, if not in their usual folder.
        option: KEY=VALUE for the extractor, e.g. embeddings=FILE for 'precomputed'; may be repeated.
        backend: auto, cpu, cuda (cuda:1: the second card), warp-cpu or reference.
        bag: options for reading a rosbag2 recording.
    """
    check_outputs({}, [field, stream, map, alignment, weights], folders={"--out": out})
    features, gaussians = open_field(field, map)
    own_map = find_map(field, features, map)
    check_own_files(out, [f"{name}.png" for name in (*ALWAYS, *ASKED)], [own_map, field, stream, alignment, weights])
    source = open_stream(stream, bag=bag)
    frame = next(iter(source.frames([index])))
    splat_from_map = alignment_of_view(alignment, features, gaussians, source, [index])
    pinhole = pinhole_view(frame, splat_from_map)
    camera = replace(pinhole.camera, distortion=None)
    view = rasterizer.view(gaussians, camera, pinhole.camera_from_splat, backend)
    pictures = {
        "image": pinhole.image,
        "color": to_image(view.render_color()),
        "depth": depth_image(view.render_depth()),
    }
    colors = principal_colors(features.features, features.weight)
    rendered, coverage = render_similarities(view, colors, features.seen)
    pictures["features"] = to_image(rendered * (coverage > 0.5).unsqueeze(2))
    if query:
        segmenter = Segmenter(gaussians, features, extractor_of(features.extractor, weights, parse_options(option)))
        pictures |= _answers(segmenter, view, query, threshold, pinhole.image)
    if sam_point or sam_not or sam_box:
        pictures |= _sam_answers(gaussians, features, view, (sam_point, sam_not, sam_box), weights, pinhole.image)
    used_before = all((out / f"{name}.png").is_file() for name in ALWAYS)
    for name, image in pictures.items():
        save_png(image, out / f"{name}.png")
    if used_before:
        remove_stale_outputs(out, [f"{name}.png" for name in ASKED if name not in pictures])
    say(f"wrote {', '.join(f'{name}.png' for name in pictures)} to {out}")
    return 0


def _answers(
    segmenter: Segmenter, view: View, queries: tuple[str, ...], threshold: float | None, image: Image
) -> dict[str, Image]:
    """Similarity and mask of the first query; with several, which pixel is which."""
    question = TextPrompts.of(segmenter.extractor.text_rule, queries, threshold=threshold)
    similarities, _ = segment_view(segmenter, view, question.texts)
    labels = mask_labels(similarities, question.threshold, len(question.asked)).numpy()
    mask = labels == 1
    pictures = {
        "similarity": heat(_unit(similarities[:, :, 0])),
        "mask": (mask * np.uint8(255)).astype(np.uint8),
        "overlay": overlay_mask(image, mask),
    }
    if len(question.asked) > 1:
        pictures["labels"] = label_image(labels, dict(enumerate(question.asked, start=1)), image)
    return pictures


def _sam_answers(
    gaussians: GaussianMap,
    field: FeatureField,
    view: View,
    prompts: tuple[tuple[str, ...], tuple[str, ...], str | None],
    weights: Path | None,
    image: Image,
) -> dict[str, Image]:
    """SAM's best mask of points on and beside the object, and a box, on the rendered embedding."""
    sam = extractor_of(field.extractor, weights) if field.extractor.name == "sam" else None
    if not isinstance(sam, SamExtractor):
        raise FieldError(
            f"--sam-point and --sam-box need a field of 'sam', this is of '{field.extractor.name}'",
            code="field.mismatch",
        )
    inside, outside, box = prompts
    points = [parse_pixels(text, 2) for text in (*inside, *outside)]
    masks = segment_rendered_view(
        sam,
        gaussians,
        field,
        view.camera,
        view.camera_from_splat,
        np.array(points) if points else None,
        [1] * len(inside) + [0] * len(outside) if points else None,
        parse_pixels(box, 4) if box else None,
    )
    best = (masks.logits[0] > 0).numpy()
    say(f"SAM's mask: {best.mean():.1%} of the image, expected IoU {float(masks.quality[0]):.2f}")
    return {"sam_mask": (best * np.uint8(255)).astype(np.uint8), "sam_overlay": overlay_mask(image, best)}


def _unit(values: torch.Tensor) -> torch.Tensor:
    """Similarities as they are where they fill 0..1, else stretched: one extractor's cosines hardly vary."""
    low, high = float(values.min()), float(values.max())
    return values if low >= 0 and high > 0.3 else (values - low) / max(high - low, 1e-9)
