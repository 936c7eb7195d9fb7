"""``feature-gs evaluate affordance``: transferred regions against annotated views."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import tyro
from torch import Tensor

from feature_gs_ros import rasterizer
from feature_gs_ros.affordance import Library, Settings, evaluate_affordances, transfer, transfer_by_views
from feature_gs_ros.affordance.transfer import Vote
from feature_gs_ros.backprojection.field import FeatureField
from feature_gs_ros.backprojection.ingest import Report, extract, pinhole_view, some
from feature_gs_ros.backprojection.opening import open_field
from feature_gs_ros.cli.common import alignment_of_view, print_json
from feature_gs_ros.cli.recording import NO_OPTIONS, RecordingOptions
from feature_gs_ros.core.camera import Frame
from feature_gs_ros.core.errors import EvaluationError
from feature_gs_ros.core.feature_grid import FeatureGrid
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.core.geometry import Sim3
from feature_gs_ros.core.progress import ProgressBar, say
from feature_gs_ros.evaluation.metrics import Evaluation, evaluated_views
from feature_gs_ros.extractors import extractor_of
from feature_gs_ros.extractors.base import Extractor
from feature_gs_ros.io.detections import open_labels
from feature_gs_ros.io.masks import load_labels
from feature_gs_ros.io.streams.registry import Stream, open_stream
from feature_gs_ros.rasterizer import View


def affordance(
    field: Path,
    /,
    *,
    library: Path,
    stream: Path,
    masks: Path,
    labels: Path,
    view: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    k: int = 5,
    vote: Vote = "majority",
    floor: float | None = None,
    spread: float = 0.3,
    baseline: bool = False,
    alignment: Path | None = None,
    map: Path | None = None,  # noqa: A002 - the word of the command line
    weights: Path | None = None,
    backend: str = "auto",
    json: bool = False,
    bag: RecordingOptions = NO_OPTIONS,
) -> int:
    """Mean IoU and recall of transferred affordances, rendered, against part labels of a stream's frames.

    Args:
        field: a field, written by feature-gs backproject with the library's extractor.
        library: a library, written by feature-gs affordance add.
        stream: whose frames the masks belong to.
        masks: part labels by frame name, 8 or 16 bit PNG; 255 is ignored.
        labels: names of the labels' values, as the affordances are called, YAML.
        view: frame to evaluate, by default all that have a mask; may be repeated.
        k: number of nearest patches that vote for a Gaussian.
        vote: majority, or weighted by distance.
        floor: cosine under which a Gaussian abstains; the extractor's own by default.
        spread: rate at which votes are regularised over neighbouring Gaussians; 0 turns it off.
        baseline: also transfer to each of the field's views and vote (2D-2D-3D), and time both.
        alignment: splat_from_map file; by default the field's own, or none if the frames see the map without it.
        map: the map file, if it has moved since the field was made.
        weights: the extractor's weights for --baseline, if not in their usual folder.
        backend: auto, cpu, cuda (cuda:1: the second card), warp-cpu or reference.
        json: print one JSON object.
        bag: options for reading a rosbag2 recording.
    """
    device = rasterizer.get_backend(backend).device
    sources = Library.load(library)
    features, gaussians = open_field(field, map)
    names = load_labels(labels)
    source = open_stream(stream, bag=bag)
    annotated = open_labels(masks, names, frames=source.names())
    scored = evaluated_views(source, annotated, view or None)
    splat_from_map = alignment_of_view(alignment, features, gaussians, source, scored)
    settings = Settings(k, vote, floor, spread)
    with ProgressBar("transferring", "Gaussian", quiet=json, keep_partial=False).running() as progress:
        transfers = {"2D-3D": transfer(gaussians, features.on(device), sources, settings, progress=progress)}
    report = Report()
    if baseline:
        frames = _frames_of(features, source)
        with report.stage("features"):
            extractor = extractor_of(features.extractor, weights)
        with ProgressBar("2D-2D-3D", "view", quiet=json, keep_partial=False).running() as progress:
            views = frame_views(gaussians, source.frames(frames), extractor, splat_from_map, backend, report)
            transfers["2D-2D-3D"] = transfer_by_views(
                gaussians, features, sources, views, settings, lambda done: progress(done, len(frames))
            )
    results = {
        method: evaluate_affordances(
            gaussians,
            transferred,
            source,
            annotated,
            names,
            splat_from_map=splat_from_map,
            views=scored,
            backend=backend,
        )
        for method, transferred in transfers.items()
    }
    seconds = {method: transferred.seconds for method, transferred in transfers.items()}
    if baseline:
        seconds["2D-2D-3D"] -= report.seconds.get("features", 0.0)
        seconds["features"] = report.seconds.get("features", 0.0)
    if json:
        print_json(_as_json(field.stem, results, seconds))
        return 0
    for method, result in results.items():
        say(f"scene {field.stem}, {method}, transferred in {seconds[method]:.2f} s:")
        say(result.table())
    if baseline:
        say(f"features of {len(report.used)} views, not counted above: {seconds['features']:.2f} s")
    return 0


def mean_recall(result: Evaluation) -> float:
    """Over the classes that the ground truth holds."""
    return sum(result.recall.values()) / len(result.recall) if result.recall else float("nan")


def _frames_of(field: FeatureField, stream: Stream) -> list[str]:
    """The frames that the field was made of.

    Raises:
        EvaluationError: none of them is in the stream.
    """
    known = set(stream.names())
    frames = [name for name in field.provenance.frames if name in known]
    if not frames:
        made = some(field.provenance.frames, 3) or "none"
        raise EvaluationError(
            f"--baseline needs the field's own frames ({made}), '{stream.source}' has none of them: "
            "give the stream that the field was made of",
            code="evaluation.missing",
        )
    return frames


def frame_views(
    gaussians: GaussianMap,
    frames: Iterator[Frame],
    extractor: Extractor,
    splat_from_map: Sim3,
    backend: str,
    report: Report,
) -> Iterator[tuple[View, FeatureGrid, Tensor | None]]:
    """Frames as views, with their features made anew and the pixels that count; the time goes to ``report``."""
    for frame in frames:
        with report.stage("features"):
            pinhole = pinhole_view(frame, splat_from_map)
            grid = extract(extractor, pinhole.image, frame)
        report.used.append(frame.name)
        view = rasterizer.view(gaussians, pinhole.camera, pinhole.camera_from_splat, backend)
        yield view, grid, pinhole.valid


def _as_json(scene: str, results: dict[str, Evaluation], seconds: dict[str, float]) -> dict[str, object]:
    """The 2D-3D method's figures, and the baseline's beside them if it ran."""
    methods = {method: _figures(result) | {"seconds": round(seconds[method], 4)} for method, result in results.items()}
    content: dict[str, object] = {"scene": scene, "method": "2D-3D", **methods["2D-3D"]}
    if "2D-2D-3D" in methods:
        content |= {"baseline": methods["2D-2D-3D"], "feature_seconds": round(seconds["features"], 4)}
    return content


def _figures(result: Evaluation) -> dict[str, object]:
    return result.as_json() | {
        "recall": {name: round(value, 6) for name, value in result.recall.items()},
        "mean_recall": round(mean_recall(result), 6),
    }
