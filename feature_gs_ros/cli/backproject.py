"""``feature-gs backproject``: features of a recorded stream onto a map."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, cast

import numpy as np
import tyro

from feature_gs_ros.backprojection.build import field_with_views, save_with_views
from feature_gs_ros.backprojection.field import FeatureField, Provenance
from feature_gs_ros.backprojection.ingest import (
    Progress,
    Report,
    choose_frames,
    counted,
    ingest,
    sample_cells,
)
from feature_gs_ros.backprojection.looks import MAX_LOOKS, LookLimits
from feature_gs_ros.backprojection.projector import PROGRAM_BYTES, BackProjector, memory_needed
from feature_gs_ros.backprojection.ranks import Launcher, Ranks, joined
from feature_gs_ros.backprojection.shards import Shard
from feature_gs_ros.cli.checks import check_number, check_outputs, files_of
from feature_gs_ros.cli.common import alignment_or_identity, print_json
from feature_gs_ros.cli.recording import NO_OPTIONS, RecordingOptions
from feature_gs_ros.cli.stream_check import checked
from feature_gs_ros.core.codec import Codec, fit_pca, parse_codec, random_projection
from feature_gs_ros.core.errors import ExtractorError, FieldError, StreamError
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.core.memory import FREE_FRACTION, MemoryLimit, available_bytes, gigabytes
from feature_gs_ros.core.progress import ProgressBar, note, say
from feature_gs_ros.extractors import DEFAULT_EXTRACTOR, make_extractor
from feature_gs_ros.extractors.base import Extractor
from feature_gs_ros.extractors.cache import CachedExtractor
from feature_gs_ros.extractors.options import parse_options
from feature_gs_ros.frames.refined_stream import RefinedStream
from feature_gs_ros.io.alignment import load_alignment
from feature_gs_ros.io.detections import Labelled, names_objects, open_labels
from feature_gs_ros.io.locks import locked
from feature_gs_ros.io.splats.registry import load_map
from feature_gs_ros.io.streams.registry import Stream, open_stream
from feature_gs_ros.rasterizer import Paging, get_backend


def backproject(
    map: Path,  # noqa: A002 - the word of the command line
    stream: Path,
    /,
    *,
    out: Path,
    extractor: str | None = None,
    weights: Path | None = None,
    option: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    alignment: Path | None = None,
    masks: Path | None = None,
    labels: Path | None = None,
    every: int = 1,
    skip: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    shard: str | None = None,
    launcher: Launcher = "none",
    checkpoint: int = 0,
    resume: bool = False,
    codec: str | None = None,
    cache: Path | None = None,
    looks: int = MAX_LOOKS,
    trust_poses: bool = False,
    refine_poses: bool = False,
    memory: str | None = None,
    backend: str = "auto",
    json: bool = False,
    bag: RecordingOptions = NO_OPTIONS,
) -> int:
    """Back-project an extractor's features of every posed image onto the map, and save them as a field.

    Args:
        map: splat map: .ply, .splat, a checkpoint of gsplat, nerfstudio or Inria's code, or a chunked map (feature-gs
            chunk).
        stream: rosbag2 folder or file, COLMAP folder, nerfstudio folder, or folder with cameras.json.
        out: the field to write.
        extractor: name of the extractor; by default imagenet, or labels if masks are given.
        weights: the extractor's weights, if not in their usual folder.
        option: KEY=VALUE for the extractor, e.g. model=vitb14, precision=float16, pixels=800000; may be repeated.
        alignment: splat_from_map file, if the stream's poses are not in the map's frame.
        masks: label images by frame name, or a detector's <frame name>.json, for the extractor 'labels'.
        labels: names of the labels' values, YAML; a detector's files name their own.
        every: take every n-th frame.
        skip: name of a frame to leave out; may be repeated.
        shard: back-project only a part of the views, e.g. 3/16 for the third of sixteen; see feature-gs merge.
        launcher: torchrun distributes the views over its processes (torchrun --nproc-per-node N --no-python feature-gs
            backproject … --launcher torchrun); each keeps its part beside --out until all are added up.
        checkpoint: save every N views, so that a killed run can continue with --resume; 0: only at the end.
        resume: continue the field at --out, with this recording or another one.
        codec: store fewer channels: pca:K or random:K.
        cache: folder for the network's output, so that a second run over the stream skips the network.
        looks: how many small images of its most informative views the field keeps, to verify what queries find; 0 for
            none.
        trust_poses: go on even if the images show that the poses are wrong.
        refine_poses: correct each view's pose by up to 5% of its depth and 3 degrees if its image supports it.
        memory: stay within this much memory, e.g. 8GiB: what doesn't fit is kept on the disk of --out; by default most
            of the free memory, for a chunked map.
        backend: auto, cpu, cuda (cuda:1: the second card), warp-cpu or reference.
        json: print one JSON object.
        bag: options for reading a rosbag2 recording.
    """
    get_backend(backend)
    limit = None if memory is None else MemoryLimit.parse(memory)
    inputs = [map, stream, weights, alignment, masks, labels, *files_of(option)]
    check_outputs({"--out": out}, inputs, folders={"--cache": cache})
    model = _make_extractor(extractor, parse_options(option), weights, masks, labels)
    if cache is not None:
        model = cast("Extractor", CachedExtractor(model, cache))  # it only reads what the contract names
    gaussians = load_map(map)
    source = open_stream(stream, bag=bag)
    names = choose_frames(source, every, skip)
    if masks is not None:
        names = _with_mask(names, open_labels(masks, frames=source.names()), source)
    all_names = names
    if shard is not None:
        names = _part(shard, names, source)
    check_number("--checkpoint", checkpoint, 0)
    with joined(launcher) as ranks, locked(ranks.file(out)):  # with --resume it is read and written back
        names, target = ranks.shard.of(names), ranks.file(out)
        if resume and target.exists():
            projector = _resumed(target, gaussians, model, str(stream.resolve()), alignment, codec, backend, limit)
            taken = set(projector.provenance.taken_from(projector.provenance.stream))
            names = [name for name in names if name not in taken]
            note(f"resuming '{target}' after {len(projector.provenance.frames)} views, {len(names)} to go")
        else:
            provenance = Provenance(
                gaussians.checksum,
                str(map.resolve()),
                str(stream.resolve()),
                alignment_or_identity(alignment),
                map_notes=gaussians.notes,
            )
            chosen = _fit_codec(codec, source, all_names, model)  # the same for every shard
            stored = chosen.dimension if chosen else model.dimension
            projector = BackProjector(
                gaussians,
                model.identity,
                model.dimension,
                codec=chosen,
                provenance=provenance,
                backend=backend,
                paging=_paging(gaussians, stored, backend, limit, target),
            )
        projector.looks = projector.looks.within(LookLimits(count=looks))
        # Of all ranks' frames, so that all decide the same.
        found = checked(source, all_names, gaussians, projector.provenance.splat_from_map, trust_poses)
        projector.provenance = projector.provenance.with_findings(found)
        posed = RefinedStream(source, gaussians, projector.provenance.splat_from_map) if refine_poses else source
        note(_announcement(projector))
        with ProgressBar("back-projecting", "view", quiet=json or not ranks.leads).running() as progress:
            report = ingest(posed, names, model, projector, progress=_saving(progress, projector, target, checkpoint))
        if report.doubt:
            note(report.doubt)
        if isinstance(posed, RefinedStream):
            note(posed.summary())
            report.corrections = {name: asdict(correction) for name, correction in posed.corrections.items()}
        projector.flush()
        if projector.provenance.frames:
            with report.stage("save"):
                field = save_with_views(projector, posed, report.used, target)
        elif ranks.size > 1:
            field = field_with_views(projector, posed, report.used)
        else:
            raise StreamError(
                f"no image of '{stream}' could be used: {counted(report.skipped) or 'cancelled'}", code="stream.empty"
            )
        if ranks.size > 1:
            field = _of_all_ranks(ranks, field, report, out)
    if ranks.leads:
        _tell(field, gaussians, report, out, json)
    return 130 if report.cancelled else 0


def _saving(progress: Progress, projector: BackProjector, target: Path, every: int) -> Progress:
    """The progress of a run that also saves what is done after every so many views."""
    if every == 0:
        return progress

    def step(done: int, total: int, name: str) -> bool | None:
        if done % every == 0 and done < total:
            projector.save(target)
        return progress(done, total, name)

    return step


def _paging(
    gaussians: GaussianMap, stored: int, backend: str, limit: MemoryLimit | None, target: Path
) -> Paging | None:
    """Where the sums are kept on disk: if a limit is given, or the map is chunked, and they don't fit into memory."""
    chosen = get_backend(backend)
    if chosen.device.type != "cpu" or (limit is None and gaussians.curve is None):
        return None
    if limit is None:
        free = available_bytes()
        if free is None:
            return None
        limit = MemoryLimit(int(free * FREE_FRACTION))
    if memory_needed(len(gaussians), stored, chosen) + PROGRAM_BYTES <= limit.limit:
        return None
    target.parent.mkdir(parents=True, exist_ok=True)
    return Paging(target.parent, limit)


def _announcement(projector: BackProjector) -> str:
    """What memory the work takes, for a person."""
    count, stored = len(projector.gaussians), projector.stored
    if projector.paging is None:
        needed = gigabytes(memory_needed(count, stored, projector.backend))
        return f"{count} Gaussians × {stored} channels need {needed}"
    on_disk, limit = gigabytes(4 * count * stored), gigabytes(projector.paging.memory.limit)
    return (
        f"{count} Gaussians × {stored} channels: {on_disk} of sums are kept on the disk of "
        f"'{projector.paging.folder}', at most {limit} in memory"
    )


def _of_all_ranks(ranks: Ranks, own: FeatureField, report: Report, out: Path) -> FeatureField:
    """The field of all ranks' views, written by the first of them; the others' own one elsewhere."""
    who = f"rank {ranks.rank} of {ranks.size}"
    note(f"{who}: {len(report.used)} views" + (f", skipped: {counted(report.skipped)}" if report.skipped else ""))
    ranks.meet("before adding up")
    if ranks.leads:
        own = ranks.add_up(out)
        own.save(out)
        note(f"all ranks: {len(own.provenance.frames)} views")
    ranks.meet("for the output")
    ranks.clear(out)
    return own


def _make_extractor(
    name: str | None, options: dict[str, object], weights: Path | None, masks: Path | None, labels: Path | None
) -> Extractor:
    name = name or ("labels" if masks is not None else DEFAULT_EXTRACTOR)
    if weights is not None:
        options["weights"] = weights
    if name == "labels":
        if masks is None or (labels is None and not names_objects(masks)):
            raise ExtractorError("the extractor 'labels' needs --masks DIR and --labels YAML", code="extractor.missing")
        options |= {"masks": masks} | ({} if labels is None else {"labels": labels})
    elif masks is not None or labels is not None:
        raise ExtractorError(
            f"--masks and --labels are for the extractor 'labels', not for '{name}'; leave them out",
            code="extractor.conflict",
        )
    return make_extractor(name, **options)


def _part(shard: str, names: list[str], stream: Stream) -> list[str]:
    part = Shard.parse(shard).of(names)
    if not part:
        raise StreamError(
            f"shard {shard} of the {len(names)} frames of '{stream.source}' is empty: use at most {len(names)} shards",
            code="stream.shard",
        )
    return part


def _with_mask(names: list[str], masks: Labelled, stream: Stream) -> list[str]:
    annotated = [name for name in names if name in set(masks.names())]
    if not annotated:
        raise StreamError(
            f"no frame of '{stream.source}' has a mask of its name in '{masks.folder}' "
            f"(frames {', '.join(names[:5])} …, masks {', '.join(masks.names()[:5])} …)",
            code="stream.missing",
        )
    return annotated


def _resumed(
    out: Path,
    gaussians: GaussianMap,
    extractor: Extractor,
    stream: str,
    alignment: Path | None,
    codec: str | None,
    backend: str,
    limit: MemoryLimit | None,
) -> BackProjector:
    """The field at ``out`` as accumulators that go on with a stream: the same recording, or one more."""
    field = FeatureField.load(out)
    field.check_map(gaussians)
    field.check_extractor(extractor.identity)
    own = field.provenance.splat_from_map
    if alignment is not None and not np.allclose(load_alignment(alignment).matrix, own.matrix):
        raise FieldError(
            f"--alignment '{alignment}' is another transform than that of the field '{out}' (scale {own.scale:g}); "
            "leave it out to go on with the field's, or write another field",
            code="field.conflict",
        )
    stored = f"{field.codec.kind}:{field.codec.dimension}" if field.codec else "all numbers"
    if codec is not None and (field.codec is None or parse_codec(codec) != (field.codec.kind, field.codec.dimension)):
        raise FieldError(
            f"--codec {codec}: the field '{out}' stores {stored}; leave it out, or write another field",
            code="field.conflict",
        )
    paging = _paging(gaussians, field.features.shape[1], backend, limit, out)
    projector = BackProjector.resume(gaussians, field, backend=backend, paging=paging)
    projector.provenance = projector.provenance.going_on_with(stream)
    return projector


def _fit_codec(text: str | None, stream: Stream, names: list[str], extractor: Extractor) -> Codec | None:
    if text is None:
        return None
    kind, dimension = parse_codec(text)
    if dimension > extractor.dimension:
        raise FieldError(
            f"codec '{text}' stores more channels than the extractor's {extractor.dimension}", code="field.value"
        )
    if kind == "random":
        return random_projection(extractor.dimension, dimension)
    return fit_pca(sample_cells(stream, names, extractor), dimension)


def _tell(field: FeatureField, gaussians: GaussianMap, report: Report, out: Path, json: bool) -> None:
    seen = int(field.seen.sum())
    coverage = field.coverage(gaussians)
    if json:
        print_json(
            {
                "field": str(out),
                "gaussians": len(gaussians),
                "dropped": gaussians.dropped.total,
                "seen": seen,
                "coverage": round(coverage, 6),
                "dimension": field.dimension,
                "stored": field.features.shape[1],
                "teacher": field.extractor.name,
                "views": len(report.used),
                "looks": len(field.looks),
                "look_bytes": field.looks.nbytes,
                "skipped": dict(Counter(report.skipped)),
                "seconds": {stage: round(seconds, 3) for stage, seconds in report.seconds.items()},
                "cancelled": report.cancelled,
                "pose_corrections": report.corrections,
                "findings": [finding.as_json() for finding in field.provenance.findings],
            }
        )
        return
    say(report.table())
    if report.skipped:
        say(f"skipped: {counted(report.skipped)}")
    say(f"{len(report.used)} views, {seen} of {len(gaussians)} Gaussians seen ({coverage:.0%} of the opacity)")
    if len(field.looks):
        say(f"{len(field.looks)} images kept for a second look, {field.looks.nbytes / 1e6:.1f} MB (--looks 0: none)")
    say(f"wrote {out}" + (" (stopped early; go on with --resume)" if report.cancelled else ""))
