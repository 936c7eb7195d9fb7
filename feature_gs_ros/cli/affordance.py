"""``feature-gs affordance transfer``: find on the map what is marked on a library's images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import tyro

from feature_gs_ros import rasterizer
from feature_gs_ros.affordance import Library, Settings, find_regions
from feature_gs_ros.affordance.transfer import Vote, only
from feature_gs_ros.affordance.transfer import transfer as transfer_affordances
from feature_gs_ros.backprojection.opening import find_map, open_field
from feature_gs_ros.cli.affordance_files import OWN, Found, Photographed, as_json, numbers, write_files
from feature_gs_ros.cli.checks import check_outputs
from feature_gs_ros.cli.common import CloudFrame, length_unit, print_json
from feature_gs_ros.cli.recording import NO_OPTIONS, RecordingOptions
from feature_gs_ros.cli.stale_outputs import check_own_files
from feature_gs_ros.core.errors import OptionError
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.core.progress import ProgressBar, note, say
from feature_gs_ros.io.streams.registry import open_stream
from feature_gs_ros.query.masks_3d import Answer, State
from feature_gs_ros.query.opening import open_segmenter


def transfer(
    field: Path,
    /,
    *,
    library: Path,
    out: Path,
    object: str = "",  # noqa: A002 - the word of the command line
    object_field: Path | None = None,
    affordance: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    k: int = 5,
    vote: Vote = "majority",
    floor: float | None = None,
    spread: float = 0.3,
    stream: Path | None = None,
    index: str | None = None,
    alignment: Path | None = None,
    cloud_frame: CloudFrame = "splat",
    map: Path | None = None,  # noqa: A002 - the word of the command line
    weights: Path | None = None,
    option: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    backend: str = "auto",
    json: bool = False,
    bag: RecordingOptions = NO_OPTIONS,
) -> int:
    """Find a library's affordances on a map: regions with poses in the map frame, a cloud, pictures.

    Args:
        field: a field, written by feature-gs backproject with the library's extractor.
        library: a library, written by feature-gs affordance add.
        out: folder for regions.json, affordances.ply and the pictures.
        object: search only on this object, found by text.
        object_field: field of the same map whose extractor takes text, for --object; FIELD by default.
        affordance: only this affordance; may be repeated.
        k: number of nearest patches that vote for a Gaussian.
        vote: majority, or weighted by distance.
        floor: cosine under which a Gaussian abstains; the extractor's own by default.
        spread: rate at which votes are regularised over neighbouring Gaussians; 0 turns it off.
        stream: also draw the regions on a real view of it.
        index: name of that view; by default, of a few views the one that shows most of the regions.
        alignment: splat_from_map file of that stream; by default the field's own, or none if its frames see the map
            without it.
        cloud_frame: of affordances.ply: splat (as in the map's file, so that the cloud lies on the map) or map (where
            the regions are, in metres).
        map: the map file, if it has moved since the field was made.
        weights: the weights of the extractor of --object-field, if not in their usual folder.
        option: KEY=VALUE for that extractor, what asking needs: embeddings=FILE for 'precomputed'. May be repeated.
        backend: auto, cpu, cuda (cuda:1: the second card), warp-cpu or reference.
        json: print one JSON object.
        bag: options for reading a rosbag2 recording.
    """
    device = rasterizer.get_backend(backend).device
    settings = Settings(k, vote, floor, spread)
    check_outputs({}, [field, object_field, library, stream, alignment, map, weights], folders={"--out": out})
    if stream is None and (index is not None or alignment is not None):
        raise OptionError(
            "--index and --alignment are those of a stream to draw on; give it with --stream", code="option.conflict"
        )
    sources = Library.load(library)
    features, gaussians = open_field(field, map)
    own_map = find_map(field, features, map)
    check_own_files(out, OWN, [own_map, field, object_field, library, stream, alignment, weights])
    photographed = None
    if stream is not None:
        photographed = Photographed.of(open_stream(stream, bag=bag), index, alignment, features, gaussians)
    found_object = _answer_of(object, object_field or field, map, (weights, option), gaussians) if object else None
    known = object.lower() in {source.object.lower() for source in sources.sources}
    with ProgressBar("transferring", "Gaussian", quiet=json, keep_partial=False).running() as progress:
        transferred = transfer_affordances(
            gaussians,
            features.on(device),
            sources,
            settings,
            among=found_object.mask if found_object else None,
            object_word=object if known else "",
            progress=progress,
        )
    if found_object and found_object.state is not State.FOUND:  # the parts of what isn't there aren't either
        transferred = replace(transferred, coverage=found_object.coverage)
    if affordance:
        transferred = only(transferred, affordance)
    unit = length_unit(features.provenance.splat_from_map)
    if unit != "m":
        note("the field was made without --alignment: grasps take the map's units for metres")
    regions = find_regions(gaussians, features, transferred)
    found = Found(gaussians, features, transferred, tuple(regions))
    written = write_files(out, found, sources, photographed, backend, cloud_frame)
    if transferred.stopped_by is not None:
        note(f"{transferred.stopped_by}; the votes are as counted, not regularised over neighbours")
    code = 0 if transferred.stopped_by is None else 130
    if json:
        print_json(as_json(found))
        return code
    say(transferred.message(gaussians))
    for region in regions:
        say(
            f"  {region.affordance}: centre ({numbers(region.center)}) {unit}, "
            f"extent ({numbers(region.extent)}) {unit}, approach ({numbers(region.approach)}), "
            f"gripper {region.gripper_width:.3f} {unit}, similarity {region.similarity:.2f}, "
            f"{len(region.rows)} Gaussians"
        )
    say(f"wrote {', '.join(written)} to {out} ({transferred.seconds:.1f} s)")
    return code


def _answer_of(
    word: str,
    path: Path,
    map_path: Path | None,
    extractor: tuple[Path | None, tuple[str, ...]],  # its weights and options
    gaussians: GaussianMap,
) -> Answer:
    """Of a text query for the object."""
    segmenter = open_segmenter(path, map_path, *extractor)
    segmenter.field.check_map(gaussians)
    answer = segmenter.ask([word])[0]
    if answer.state is not State.FOUND:
        note(answer.message)
    return answer
