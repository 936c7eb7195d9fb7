"""``feature-gs evaluate lerf-mask | 3d-ovs | lerf-ovs | replica``: the papers' public protocols."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from feature_gs_ros.backprojection.ingest import counted, ingest
from feature_gs_ros.backprojection.projector import BackProjector
from feature_gs_ros.cli.common import print_json
from feature_gs_ros.core.errors import EvaluationError
from feature_gs_ros.core.progress import ProgressBar, say
from feature_gs_ros.evaluation.protocols.lerf_mask import evaluate_lerf_mask, lerf_mask_views
from feature_gs_ros.evaluation.protocols.lerf_ovs import evaluate_lerf_ovs, lerf_ovs_views
from feature_gs_ros.evaluation.protocols.prediction import scene_stream
from feature_gs_ros.evaluation.protocols.published import LERF_MASK, REPLICA, PublishedRow
from feature_gs_ros.evaluation.protocols.replica import evaluate_replica, replica_tests
from feature_gs_ros.evaluation.protocols.scoring import ProtocolResult
from feature_gs_ros.evaluation.protocols.three_d_ovs import evaluate_three_d_ovs, three_d_ovs_views
from feature_gs_ros.extractors import DEFAULT_EXTRACTOR, make_extractor
from feature_gs_ros.extractors.options import parse_options
from feature_gs_ros.io.masks import MaskFolder, load_labels
from feature_gs_ros.io.splats.registry import load_map
from feature_gs_ros.io.streams.registry import Stream, open_stream
from feature_gs_ros.query.masks_3d import Segmenter
from feature_gs_ros.query.opening import open_segmenter
from feature_gs_ros.rasterizer import get_backend


def lerf_mask(
    directory: Path,
    /,
    *,
    field: Path | None = None,
    map: Path | None = None,  # noqa: A002 - the word of the command line
    stream: Path | None = None,
    extractor: str | None = None,
    weights: Path | None = None,
    option: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    backend: str = "auto",
    json: bool = False,
) -> int:
    """LERF-Mask of Gaussian Grouping: mIoU and boundary IoU of test_mask/<view>/<prompt>.png.

    Args:
        directory: one scene, e.g. lerf_mask/figurines.
        field: of that scene; if not given, it is made from the images without the test views.
        map: the scene's splat map; needed unless the field remembers where it is.
        stream: the cameras, if they are not in the directory.
        extractor: extractor that makes the field; imagenet by default.
        weights: the extractor's weights, if not in their usual folder.
        option: KEY=VALUE for the extractor, e.g. embeddings=FILE for 'precomputed'; may be repeated.
        backend: auto, cpu, cuda (cuda:1: the second card), warp-cpu or reference.
        json: print one JSON object.
    """
    cameras = open_stream(stream) if stream is not None else scene_stream(directory)
    segmenter = protocol_segmenter(
        cameras, lerf_mask_views(directory, cameras), field, map, extractor, weights, backend, option
    )
    return _tell(evaluate_lerf_mask(segmenter, directory, stream=cameras, backend=backend), LERF_MASK, json)


def three_d_ovs(
    directory: Path,
    /,
    *,
    field: Path | None = None,
    map: Path | None = None,  # noqa: A002 - the word of the command line
    stream: Path | None = None,
    extractor: str | None = None,
    weights: Path | None = None,
    option: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    backend: str = "auto",
    json: bool = False,
) -> int:
    """3D-OVS: mIoU and boundary IoU of segmentations/<view>/<class>.png, each pixel of one class.

    Args:
        directory: one scene, e.g. 3d_ovs/bed.
        field: of that scene; if not given, it is made from the images without the test views.
        map: the scene's splat map; needed unless the field remembers where it is.
        stream: the cameras, if they are not in the directory.
        extractor: extractor that makes the field; imagenet by default.
        weights: the extractor's weights, if not in their usual folder.
        option: KEY=VALUE for the extractor, e.g. embeddings=FILE for 'precomputed'; may be repeated.
        backend: auto, cpu, cuda (cuda:1: the second card), warp-cpu or reference.
        json: print one JSON object.
    """
    cameras = open_stream(stream) if stream is not None else scene_stream(directory)
    segmenter = protocol_segmenter(
        cameras, three_d_ovs_views(directory, cameras), field, map, extractor, weights, backend, option
    )
    return _tell(evaluate_three_d_ovs(segmenter, directory, stream=cameras, backend=backend), (), json)


def lerf_ovs(
    directory: Path,
    /,
    *,
    field: Path | None = None,
    labels: Path | None = None,
    map: Path | None = None,  # noqa: A002 - the word of the command line
    stream: Path | None = None,
    extractor: str | None = None,
    weights: Path | None = None,
    option: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    backend: str = "auto",
    json: bool = False,
) -> int:
    """LERF-OVS of LangSplat: mIoU of label/<scene>/frame_*.json, polygons by category.

    Args:
        directory: one scene, e.g. lerf_ovs/figurines.
        field: of that scene; if not given, it is made from the images without the test views.
        labels: folder of its JSON files; ../label/<scene> by default.
        map: the scene's splat map; needed unless the field remembers where it is.
        stream: the cameras, if they are not in the directory.
        extractor: extractor that makes the field; imagenet by default.
        weights: the extractor's weights, if not in their usual folder.
        option: KEY=VALUE for the extractor, e.g. embeddings=FILE for 'precomputed'; may be repeated.
        backend: auto, cpu, cuda (cuda:1: the second card), warp-cpu or reference.
        json: print one JSON object.
    """
    cameras = open_stream(stream) if stream is not None else scene_stream(directory)
    tests = lerf_ovs_views(directory, cameras, labels)
    segmenter = protocol_segmenter(cameras, tests, field, map, extractor, weights, backend, option)
    result = evaluate_lerf_ovs(segmenter, directory, labels=labels, stream=cameras, backend=backend)
    return _tell(result, (), json)


def replica(
    directory: Path,
    /,
    *,
    field: Path | None = None,
    classes: Path,
    truth: Path | None = None,
    map: Path | None = None,  # noqa: A002 - the word of the command line
    stream: Path | None = None,
    extractor: str | None = None,
    weights: Path | None = None,
    option: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    backend: str = "auto",
    json: bool = False,
) -> int:
    """Replica as Feature 3DGS uses it: rendered features' labels against the extractor's on the test images.

    Args:
        directory: one scene with its images and cameras.
        field: of that scene; if not given, it is made from the images without the test views.
        classes: names by value, YAML: the prompts.
        truth: label images by frame name to compare with instead of the extractor's answers.
        map: the scene's splat map; needed unless the field remembers where it is.
        stream: the cameras, if they are not in the directory.
        extractor: extractor that makes the field; imagenet by default.
        weights: the extractor's weights, if not in their usual folder.
        option: KEY=VALUE for the extractor, e.g. embeddings=FILE for 'precomputed'; may be repeated.
        backend: auto, cpu, cuda (cuda:1: the second card), warp-cpu or reference.
        json: print one JSON object.
    """
    cameras = open_stream(stream) if stream is not None else scene_stream(directory)
    segmenter = protocol_segmenter(cameras, replica_tests(cameras), field, map, extractor, weights, backend, option)
    masks = MaskFolder(truth) if truth is not None else None
    result = evaluate_replica(segmenter, directory, load_labels(classes), truth=masks, stream=cameras, backend=backend)
    return _tell(result, REPLICA, json)


def protocol_segmenter(
    stream: Stream,
    test_views: Sequence[str],
    field: Path | None,
    map_path: Path | None,
    extractor: str | None,
    weights: Path | None,
    backend: str,
    option: Sequence[str] = (),
) -> Segmenter:
    """The field given, or one made of all frames but the test views."""
    if field is not None:
        if extractor is not None:
            raise EvaluationError(
                f"the field '{field}' knows its extractor: leave out --extractor '{extractor}'",
                code="evaluation.conflict",
            )
        return open_segmenter(field, map_path, weights, option, get_backend(backend).device)
    if map_path is None:
        raise EvaluationError(
            "neither a field nor a map is given; give --map FILE, and --field FILE if there is one",
            code="evaluation.conflict",
        )
    gaussians = load_map(map_path)
    given = {"weights": weights} if weights else {}
    model = make_extractor(extractor or DEFAULT_EXTRACTOR, **{**parse_options(option), **given})
    names = [name for name in stream.names() if name not in set(test_views)]
    if not names:
        raise EvaluationError(
            f"every frame of '{stream.source}' is a test view, none is left for a field; give --field",
            code="evaluation.missing",
        )
    projector = BackProjector(gaussians, model.identity, model.dimension, backend=backend)
    with ProgressBar("back-projecting", "view", keep_partial=False).running() as progress:
        report = ingest(stream, names, model, projector, progress=progress)
    if not report.used:
        raise EvaluationError(
            f"no image of '{stream.source}' could be used: {counted(report.skipped)}", code="evaluation.empty"
        )
    return Segmenter(gaussians, projector.field(), model)


def _tell(result: ProtocolResult, published: tuple[PublishedRow, ...], json: bool) -> int:
    if json:
        print_json(result.as_json())
    else:
        say(result.table(published))
    return 0
