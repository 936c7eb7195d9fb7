"""``feature-gs identity``: objects annotated in some views, found in the whole map."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from feature_gs_ros import rasterizer
from feature_gs_ros.backprojection.field import Provenance
from feature_gs_ros.backprojection.ingest import counted, known_views
from feature_gs_ros.cli.checks import check_number, check_outputs, check_seed
from feature_gs_ros.cli.common import alignment_or_identity, length_unit, print_json
from feature_gs_ros.cli.recording import NO_OPTIONS, RecordingOptions
from feature_gs_ros.cli.stream_check import checked
from feature_gs_ros.core.errors import IdentityError, OutOfMemoryError
from feature_gs_ros.core.memory import memory_errors
from feature_gs_ros.core.progress import ProgressBar, note, say
from feature_gs_ros.identity.annotations import Annotated, read_annotations
from feature_gs_ros.identity.answers import IdentifiedObject, Identities
from feature_gs_ros.identity.association import MERGE_THRESHOLD, Association, associate
from feature_gs_ros.identity.codes import CodeBook, make_codes
from feature_gs_ros.identity.encoding import Encoding, class_names, encode_identities, numbered_names
from feature_gs_ros.identity.masks import open_masks, understood
from feature_gs_ros.io.files import file_name_of
from feature_gs_ros.io.masks import load_labels
from feature_gs_ros.io.splats.registry import load_map
from feature_gs_ros.io.streams.registry import open_stream


def identity(
    map: Path,  # noqa: A002 - the word of the command line
    stream: Path,
    /,
    *,
    masks: Path,
    out: Path,
    labels: Path | None = None,
    codes: Literal["orthogonal", "contrastive"] = "orthogonal",
    dimension: int | None = None,
    instances: bool = False,
    merge_threshold: float = MERGE_THRESHOLD,
    no_refine: bool = False,
    extract: Path | None = None,
    alignment: Path | None = None,
    trust_poses: bool = False,
    seed: int = 0,
    backend: str = "auto",
    json: bool = False,
    bag: RecordingOptions = NO_OPTIONS,
) -> int:
    """Assign every Gaussian to an object, from masks of some views.

    Args:
        map: splat map.
        stream: rosbag2, COLMAP, nerfstudio, or folder with cameras.json.
        masks: folder of label images <frame name>.png, of a detector's or SAM's <frame name>.json, or a COCO file.
        out: the field to write; ask it with feature-gs query and evaluate segmentation.
        labels: names of the labels' values, YAML; COCO files, LabelMe's and folders per object hold their own,
            instances are numbered.
        codes: orthogonal (one channel per class) or contrastive (16 channels for any number of classes).
        dimension: channels per code; by default one per class for orthogonal codes, 16 for contrastive ones.
        instances: mask ids don't agree between views: associate them first.
        merge_threshold: overlap above which masks of two views are the same object.
        no_refine: stop at the expected back-projection, so that fields of several sessions can be merged.
        extract: folder to write every object into as a PLY.
        alignment: splat_from_map file, if the stream's poses are not in the map's frame.
        trust_poses: go on even if the images show that the poses are wrong.
        seed: random seed of the codes.
        backend: auto, cpu, cuda (cuda:1: the second card), warp-cpu or reference.
        json: print one JSON object.
        bag: options for reading a rosbag2 recording.
    """
    rasterizer.get_backend(backend)
    check_seed(seed)
    check_number("--merge-threshold", merge_threshold, 0, 1, above=True)
    if instances and labels is not None:
        raise IdentityError("--instances numbers the objects by itself; leave out --labels", code="identity.conflict")
    check_outputs({"--out": out}, [map, stream, masks, labels, alignment], folders={"--extract": extract})
    gaussians, source = load_map(map), open_stream(stream, bag=bag)
    names = class_names(load_labels(labels)) if labels is not None else None
    annotated = open_masks(masks, instances, source.names(), names)
    if not json:
        note(understood(annotated))
    if names is None and not instances and annotated.labels:
        names = class_names(annotated.labels)
    pose = alignment_or_identity(alignment)
    findings = checked(source, source.names(), gaussians, pose, trust_poses)
    with ProgressBar("reading masks", "view", quiet=json, keep_partial=False).running() as progress:
        read = read_annotations(gaussians, source, annotated, pose, names, backend=backend, progress=progress)
    association = associate(read.annotations, merge_threshold) if instances else None
    annotations = association.annotations if association else read.annotations
    if names is None:
        names = numbered_names(annotation.labels for annotation in annotations)
    book = make_codes(codes, len(names), dimension, seed=seed)
    if not json:
        note(f"{len(names)} classes, {book.kind} codes of {book.dimension}: {_separation(book)}")
    provenance = Provenance(
        gaussians.checksum,
        str(map.resolve()),
        str(stream.resolve()),
        pose,
        findings=findings,
        map_notes=gaussians.notes,
    )
    encoding = encode_identities(gaussians, annotations, names, book, refine=not no_refine, provenance=provenance)
    views = known_views(source, source.names(), pose)
    field = replace(encoding.field, provenance=replace(encoding.field.provenance, views=views))
    field.save(out)
    if encoding.stopped_by is not None:
        note(f"{encoding.stopped_by}; wrote '{out}' with the codes as they were, less refined than others")
    objects: list[IdentifiedObject] = []
    whole = read.complete and encoding.stopped_by is None
    try:
        with memory_errors():
            identities = Identities(gaussians, field)
            objects = identities.objects()
            for found in objects if extract is not None else ():
                file = Path(extract or "") / f"{file_name_of(f'{found.value} {found.name}')}.ply"
                check_outputs({"--extract": file}, [map])
                identities.extract(found.value, file)
    except OutOfMemoryError as error:
        note(f"{error}; wrote '{out}', and not all of what follows from it")
        whole = False
    _tell(encoding, read, association, book, objects, out, json)
    return 0 if whole else 130


def _separation(book: CodeBook) -> str:
    return f"smallest angle {book.smallest_angle:.1f}°, classifier's margin {book.margin:.2f}"


def _tell(
    encoding: Encoding,
    read: Annotated,
    association: Association | None,
    book: CodeBook,
    objects: list[IdentifiedObject],
    out: Path,
    json: bool,
) -> None:
    if json:
        print_json(
            {
                "field": str(out),
                "codes": book.kind,
                "dimension": book.dimension,
                "smallest_angle": round(book.smallest_angle, 3),
                "margin": round(book.margin, 4),
                "views": list(encoding.field.provenance.frames),
                "skipped": dict(read.skipped),
                "findings": [finding.as_json() for finding in encoding.field.provenance.findings],
                "seconds": {stage: round(seconds, 3) for stage, seconds in encoding.seconds.items()},
                "association": association.message() if association else None,
                "annotated": {
                    entry.name: {
                        "views": list(entry.views),
                        "pixels": entry.pixels,
                        "agreement": _rounded(entry.agreement),
                        "disagreement": _rounded(entry.disagreement),
                    }
                    for entry in encoding.objects.values()
                },
                "objects": [object_as_json(found) for found in objects],
            }
        )
        return
    if read.skipped:
        say(f"skipped: {counted(read.skipped)}")
    if association:
        say(association.message())
    say(encoding.table())
    for entry in encoding.objects.values():
        if len(entry.views) == 1:
            say(f"'{entry.name}' is annotated in view '{entry.views[0]}' only: its back is a guess")
        elif not entry.views:
            say(f"'{entry.name}' is annotated in no view")
    for found in objects:
        say(object_line(found, length_unit(encoding.field.provenance.splat_from_map)))
    say(f"wrote {out}")


def object_line(found: IdentifiedObject, unit: str) -> str:
    """An object for a person."""
    size = " × ".join(f"{side:.3f}" for side in found.box.size) + f" {unit}" if found.box else "no extent"
    return (
        f"  {found.value} {found.name}: {found.gaussians} Gaussians, confidence {found.confidence:.2f}, {size}, "
        f"in {len(found.views)} views"
    )


def object_as_json(found: IdentifiedObject) -> dict[str, object]:
    return {
        "id": found.value,
        "name": found.name,
        "gaussians": found.gaussians,
        "confidence": round(found.confidence, 4),
        "center": found.box.center.round(6).tolist() if found.box else None,
        "quat_wxyz": found.box.quat_wxyz.round(6).tolist() if found.box else None,
        "size": found.box.size.round(6).tolist() if found.box else None,
        "views": list(found.views),
    }


def _rounded(value: float) -> float | None:
    return round(value, 4) if value == value else None
