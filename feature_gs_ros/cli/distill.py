"""``feature-gs distill``: a teacher's features into a map by least squares or by training (Feature 3DGS)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from feature_gs_ros.backprojection.field import FeatureField, Provenance
from feature_gs_ros.backprojection.ingest import choose_frames, sample_cells
from feature_gs_ros.cli.checks import check_number, check_outputs, files_of
from feature_gs_ros.cli.common import alignment_or_identity, print_json
from feature_gs_ros.cli.recording import NO_OPTIONS, RecordingOptions
from feature_gs_ros.cli.stream_check import checked
from feature_gs_ros.core.codec import Codec, fit_pca
from feature_gs_ros.core.errors import FieldError, TrainingError
from feature_gs_ros.core.progress import ProgressBar, say
from feature_gs_ros.distillation import (
    Decoder,
    DistillationTarget,
    JointOptions,
    distillation_targets,
    field_of,
    rendered_cosine,
)
from feature_gs_ros.distillation.methods import DistillJob, DistillResult, solve, train, train_jointly
from feature_gs_ros.extractors import DEFAULT_EXTRACTOR, make_extractor
from feature_gs_ros.extractors.options import parse_options
from feature_gs_ros.io.atomic import atomic_files
from feature_gs_ros.io.locks import locked
from feature_gs_ros.io.splats.gaussian_ply import save_ply
from feature_gs_ros.io.splats.registry import load_map
from feature_gs_ros.io.streams.registry import open_stream
from feature_gs_ros.rasterizer import training_backend


def distill(
    map: Path,  # noqa: A002 - the word of the command line
    stream: Path,
    /,
    *,
    out: Path,
    method: Literal["solve", "train"] = "solve",
    joint: bool = False,
    frozen_by_features: bool = False,
    dims: int | None = None,
    gamma: float = JointOptions.gamma,
    start: Path | None = None,
    iterations: int | None = None,
    extractor: str = DEFAULT_EXTRACTOR,
    weights: Path | None = None,
    option: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    alignment: Path | None = None,
    hold_out: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    skip: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    every: int = 1,
    size: int = 640,
    trust_poses: bool = False,
    backend: str = "auto",
    rasterizer: Literal["own", "gsplat"] = "own",
    json: bool = False,
    bag: RecordingOptions = NO_OPTIONS,
) -> int:
    """Distil a teacher's features into the map, and save them as a field.

    Args:
        map: splat map.
        stream: rosbag2 folder or file, COLMAP folder, nerfstudio folder, or folder with cameras.json.
        out: the field to write; with --joint its map is written beside it as .ply.
        method: solve: least squares over frozen geometry, a few passes; train: steps, as the paper does.
        joint: train colours and geometry, too; takes --method train.
        frozen_by_features: with --joint, stop the feature loss's gradients at the geometry.
        dims: channels stored per Gaussian and rendered; a decoder lifts them to the teacher's dimension.
        gamma: weight of the feature loss relative to the colour loss.
        start: field to continue from, with its decoder.
        iterations: passes over all views (solve; by default as many as gain on views left out for a trial, at
            most 4), or steps over one view (train, 2000; joint, 1000).
        extractor: teacher.
        weights: the teacher's weights, if not in their usual folder.
        option: KEY=VALUE for the teacher, e.g. model=vitb14; may be repeated.
        alignment: splat_from_map file, if the stream's poses are not in the map's frame.
        hold_out: name of a frame to leave out and to measure on; may be repeated.
        skip: name of a frame to leave out; may be repeated.
        every: take every n-th frame.
        size: pixels of the images' longer side, with --joint.
        trust_poses: go on even if the images show that the poses are wrong.
        backend: rasteriser: auto, cpu, cuda (cuda:1: the second card), warp-cpu or reference.
        rasterizer: own, or gsplat (installed, on a card) for each step's image and gradients; takes --joint.
        json: print one JSON object.
        bag: options for reading a rosbag2 recording.
    """
    if joint and method != "train":
        raise TrainingError(
            "--joint changes the geometry, which least squares can't: add --method train", code="training.conflict"
        )
    if frozen_by_features and not joint:
        raise TrainingError(
            "--frozen-by-features goes with --joint; without it the geometry is frozen anyway", code="training.conflict"
        )
    check_number("--iterations", iterations, 0 if method == "solve" else 1)
    check_number("--gamma", gamma, 0, 1e6)
    check_number("--size", size, 16)
    if rasterizer != "own" and not joint:
        raise TrainingError(
            f"--rasterizer {rasterizer} goes with --joint; with frozen geometry nothing is rendered",
            code="training.conflict",
        )
    renders = training_backend(backend, rasterizer)
    check_outputs({"--out": out}, [])
    trained_map = {"the map beside --out": _map_beside(out)} if joint else {}
    check_outputs({"--out": out, **trained_map}, [map, stream, weights, alignment, *files_of(option)])
    options = parse_options(option) | ({} if weights is None else {"weights": weights})
    teacher = make_extractor(extractor, **options)
    if dims is not None and not 1 <= dims <= teacher.dimension:
        raise FieldError(
            f"--dims {dims}: the teacher has {teacher.dimension} dimensions, give 1 to as many", code="field.range"
        )
    gaussians, source = load_map(map), open_stream(stream, bag=bag)
    names = choose_frames(source, every, (*hold_out, *skip))
    pose = alignment_or_identity(alignment)
    findings = checked(source, names, gaussians, pose, trust_poses)
    provenance = Provenance(
        gaussians.checksum,
        str(map.resolve()),
        str(stream.resolve()),
        pose,
        findings=findings,
        map_notes=gaussians.notes,
    )
    work = DistillJob(gaussians, source, names, teacher, provenance, json, renders)
    with locked(out):  # --start may be the same file
        earlier = _earlier(start, work)
        codec = _codec(dims, work, earlier)
        began = time.perf_counter()
        encoded = codec if method == "solve" else None
        with ProgressBar("teacher", "view", quiet=json, keep_partial=False).running() as bar:
            targets = distillation_targets(source, names, teacher, gaussians, provenance, encoded, bar, backend)
        ready = time.perf_counter()
        if method == "solve":
            result = solve(work, targets, codec, earlier, iterations)
        elif joint:
            chosen = JointOptions(
                iterations=JointOptions.iterations if iterations is None else iterations,
                gamma=gamma,
                shaped_by_features=not frozen_by_features,
            )
            result = train_jointly(work, targets, codec, earlier, chosen, size)
        else:
            result = train(work, targets, codec, earlier, iterations)
        done = time.perf_counter()
        field = _save(result, work, targets, out)
    held = distillation_targets(source, hold_out, teacher, result.gaussians, field.provenance) if hold_out else []
    _tell(field, result, held, (ready - began, done - ready), out, json)
    return 0 if result.finished else 130


def _earlier(path: Path | None, work: DistillJob) -> FeatureField | None:
    if path is None:
        return None
    field = FeatureField.load(path)
    field.check_map(work.gaussians)
    if field.codec is not None:
        Decoder.of_codec(field.codec).check(work.teacher.dimension)
    field.check_extractor(work.teacher.identity)
    return field


def _codec(dims: int | None, work: DistillJob, earlier: FeatureField | None) -> Codec | None:
    if earlier is not None:
        stored = earlier.features.shape[1]
        if dims is not None and dims != stored:
            raise FieldError(
                f"--dims {dims}: the field to go on from stores {stored} channels; leave out --dims",
                code="field.conflict",
            )
        return earlier.codec
    return None if dims is None else fit_pca(sample_cells(work.stream, work.names, work.teacher), dims)


def _save(result: DistillResult, work: DistillJob, targets: Sequence[DistillationTarget], out: Path) -> FeatureField:
    provenance = work.provenance
    if result.gaussians is not work.gaussians:
        beside = _map_beside(out)
        with atomic_files(out, beside) as (field_file, map_file):
            save_ply(result.gaussians, map_file)
            # Read back: the file's logarithms and logits decide the last bits that a field is checked by.
            written = load_map(map_file)
            provenance = Provenance(
                written.checksum, str(beside.resolve()), work.provenance.stream, work.provenance.splat_from_map
            )
            names = [target.name for target in targets]
            targets = distillation_targets(work.stream, names, work.teacher, written, provenance)
            field = field_of(result.features, targets, work.teacher, work.stream, provenance, result.codec)
            field.save(field_file)
        return field
    field = field_of(result.features, targets, work.teacher, work.stream, provenance, result.codec)
    field.save(out)
    return field


def _map_beside(out: Path) -> Path:
    """Where the trained map of a field stands."""
    return out.with_suffix(".ply")


def _tell(
    field: FeatureField,
    result: DistillResult,
    held: Sequence[DistillationTarget],
    seconds: tuple[float, float],
    out: Path,
    json: bool,
) -> None:
    decode = field.codec.decode if field.codec else None
    cosine = rendered_cosine(field.features, held, decode) if held else None
    costs = _cost_of_decoder(field, held) if held and field.codec else None
    if json:
        print_json(
            {
                "field": str(out),
                "stored": field.features.shape[1],
                "dimension": field.dimension,
                "views": len(field.provenance.frames),
                "products": result.products,
                "seconds": {"teacher": round(seconds[0], 3), "distillation": round(seconds[1], 3)},
                "held_out_cosine": cosine,
                "best_cosine_of_the_code": costs,
                "finished": result.finished,
                "findings": [finding.as_json() for finding in field.provenance.findings],
            }
        )
        return
    say(f"teacher and operators {seconds[0]:.1f} s, distillation {seconds[1]:.1f} s, {result.products} products")
    if cosine is not None:
        say(f"rendered features on the held-out frames: cosine {cosine:.4f} with the teacher")
    if costs is not None:
        say(f"the teacher's own features through {field.features.shape[1]} channels and back: cosine {costs:.4f}")
    say(f"wrote {out}" + ("" if result.finished else " (stopped early; go on with --start)"))


def _cost_of_decoder(field: FeatureField, held: Sequence[DistillationTarget]) -> float:
    """Cosine of the teacher's features with themselves after the codec: what the shortcut loses at best."""
    assert field.codec is not None
    wanted = torch.cat([target.wanted for target in held])
    back = field.codec.decode(field.codec.encode(wanted))
    return float(torch.nn.functional.cosine_similarity(back, wanted, dim=1).mean())
