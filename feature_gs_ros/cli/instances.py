"""``feature-gs instances``: objects of a map that nobody annotated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from feature_gs_ros import rasterizer
from feature_gs_ros.backprojection.opening import find_map, open_field
from feature_gs_ros.cli.checks import check_outputs, check_seed
from feature_gs_ros.cli.common import length_unit, print_json
from feature_gs_ros.cli.identity import object_as_json, object_line
from feature_gs_ros.core.progress import say
from feature_gs_ros.identity.answers import Identities
from feature_gs_ros.identity.instances import MAX_FRACTION, MIN_SAMPLES, PLACE, SAMPLES, find_instances, instance_field
from feature_gs_ros.io.files import file_name_of


def instances(
    field: Path,
    /,
    *,
    out: Path,
    samples: int = SAMPLES,
    smallest: int = MIN_SAMPLES,
    largest: float = MAX_FRACTION,
    place: float = PLACE,
    extract: Path | None = None,
    map: Path | None = None,  # noqa: A002 - the word of the command line
    seed: int = 0,
    backend: str = "auto",
    json: bool = False,
) -> int:
    """Split a map into objects without words or masks: cluster its features and positions.

    Args:
        field: of any extractor, written by feature-gs backproject.
        out: the field of identities to write; feature-gs query OUT "object 3" shows one.
        samples: Gaussians that are clustered; the others get their ids by rendering and back-projecting the sample's.
        smallest: samples of the smallest object.
        largest: fraction of the samples that one object may hold; larger clusters are split.
        place: weight of positions beside features.
        extract: folder to write every object into as a PLY.
        map: the map file, if it has moved since the field was made.
        seed: random seed of the sample.
        backend: auto, cpu, cuda (cuda:1: the second card), warp-cpu or reference.
        json: print one JSON object.
    """
    check_seed(seed)
    check_outputs({"--out": out}, [field, map], folders={"--extract": extract})
    features, gaussians = open_field(field, map)
    own = find_map(field, features, map)
    check_outputs({"--out": out}, [own])
    views = [
        rasterizer.view(gaussians, known.camera.resized(known.camera.width // 4, known.camera.height // 4),
                        known.camera_from_splat, backend)
        for known in features.provenance.views
        if min(known.camera.width, known.camera.height) >= 8
    ]  # fmt: skip
    ids = find_instances(
        gaussians, features, views, samples=samples, smallest=smallest, largest=largest, place=place, seed=seed
    )
    found = instance_field(features, ids)
    if map is not None:
        found = replace(found, provenance=replace(found.provenance, map_path=str(map.resolve())))
    found.save(out)
    identities = Identities(gaussians, found)
    objects = identities.objects()
    if extract is not None:
        for entry in objects:
            file = extract / f"{file_name_of(entry.name)}.ply"
            check_outputs({"--extract": file}, [own])
            identities.extract(entry.value, file)
    if json:
        print_json({"field": str(out), "objects": [object_as_json(entry) for entry in objects]})
        return 0
    for entry in objects:
        say(object_line(entry, length_unit(found.provenance.splat_from_map)))
    say(f"{len(objects)} objects; wrote {out}")
    return 0
