"""``feature-gs evaluate``: a field against label images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from feature_gs_ros.backprojection.ranks import Launcher, joined
from feature_gs_ros.cli.common import alignment_of_view, print_json
from feature_gs_ros.cli.recording import NO_OPTIONS, RecordingOptions
from feature_gs_ros.core.errors import EvaluationError
from feature_gs_ros.core.progress import say
from feature_gs_ros.evaluation.metrics import evaluate_segmentation, evaluated_views
from feature_gs_ros.io.detections import open_labels
from feature_gs_ros.io.masks import load_labels
from feature_gs_ros.io.streams.registry import open_stream
from feature_gs_ros.query.opening import open_segmenter
from feature_gs_ros.rasterizer import get_backend


def segmentation(
    field: Path,
    /,
    *,
    stream: Path,
    masks: Path,
    labels: Path,
    prompt: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    view: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    threshold: float | None = None,
    alignment: Path | None = None,
    map: Path | None = None,  # noqa: A002 - the word of the command line
    weights: Path | None = None,
    option: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    launcher: Launcher = "none",
    backend: str = "auto",
    json: bool = False,
    bag: RecordingOptions = NO_OPTIONS,
) -> int:
    """Mean IoU of the masks that the field predicts, against label images of a stream's frames.

    Args:
        field: a field, written by feature-gs backproject.
        stream: whose frames the masks belong to.
        masks: label images by frame name (255 is ignored), or what else --masks of feature-gs backproject takes.
        labels: names of the labels' values, YAML.
        prompt: CLASS=TEXT, the text to query a class by; its name by default. May be repeated.
        view: frame to evaluate, by default all that have a mask; may be repeated.
        threshold: minimum similarity; the extractor's own by default.
        alignment: splat_from_map file; by default the field's own, or none if the frames see the map without it.
        map: the map file, if it has moved since the field was made.
        weights: the extractor's weights, if not in their usual folder.
        option: KEY=VALUE for the extractor, e.g. embeddings=FILE for 'precomputed'; may be repeated.
        launcher: torchrun distributes the views over its processes, as for backproject.
        backend: auto, cpu, cuda (cuda:1: the second card), warp-cpu or reference.
        json: print one JSON object.
        bag: options for reading a rosbag2 recording.
    """
    segmenter = open_segmenter(field, map, weights, option, get_backend(backend).device)
    named = load_labels(labels)
    source = open_stream(stream, bag=bag)
    folder = open_labels(masks, named, frames=source.names())
    names = evaluated_views(source, folder, view or None)
    with joined(launcher) as ranks:
        result = evaluate_segmentation(
            segmenter,
            source,
            folder,
            named,
            prompts=dict(_split(entry) for entry in prompt),
            threshold=threshold,
            views=names,
            splat_from_map=alignment_of_view(alignment, segmenter.field, segmenter.gaussians, source, names),
            backend=backend,
            ranks=ranks,
        )
    if not ranks.leads:
        return 0
    if json:
        print_json(result.as_json())
    else:
        say(result.table())
    return 0


def _split(entry: str) -> tuple[str, str]:
    name, separator, text = entry.partition("=")
    if not (name.strip() and separator and text.strip()):
        raise EvaluationError(f"--prompt '{entry}' is not CLASS=TEXT, e.g. mug='coffee mug'", code="evaluation.value")
    return name.strip(), text.strip()
