"""What commands share: opening a field with its map and extractor, progress bars, Ctrl-C, JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import tyro

from feature_gs_ros.backprojection.field import FeatureField
from feature_gs_ros.core.errors import ExtractorError, FieldError
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.core.geometry import Sim3
from feature_gs_ros.core.progress import note
from feature_gs_ros.extractors import extractor_of
from feature_gs_ros.io.alignment import load_alignment
from feature_gs_ros.io.splats.registry import load_map
from feature_gs_ros.io.streams.options import BagOptions
from feature_gs_ros.io.structured import parse_yaml
from feature_gs_ros.query.masks_3d import Segmenter

if TYPE_CHECKING:
    from feature_gs_ros.io.streams.registry import Stream

# Every command that reads a stream takes the options of a recording, each by its own name: --map-frame, ….
RecordingOptions = Annotated[BagOptions, tyro.conf.arg(name=""), tyro.conf.UseAppendAction]
NO_OPTIONS = BagOptions()
CloudFrame = Literal["splat", "map"]


def open_field(path: Path, map_path: Path | None) -> tuple[FeatureField, GaussianMap]:
    """A field and the map it remembers, or the one given instead.

    Raises:
        FieldError: the field is damaged, its map isn't where it was, or is another one.
        MapError: the map can't be read.
    """
    field = FeatureField.load(path)
    gaussians = load_map(find_map(path, field, map_path))
    field.check_map(gaussians)
    return field, gaussians


def find_map(path: Path, field: FeatureField, map_path: Path | None) -> Path:
    """The file of the map of a field that was read from ``path``: the one given, the one remembered, or one beside.

    Raises:
        FieldError: it isn't there.
    """
    source = map_path or Path(field.provenance.map_path)
    if map_path is None and not source.is_file():
        # Fields and maps move together: look beside the field too.
        beside = path.parent / source.name
        if not beside.is_file():
            raise FieldError(
                f"the map '{source}' of the field '{path}' is not there any more; give it with --map FILE",
                code="field.missing",
            )
        source = beside
    return source


def open_segmenter(
    path: Path, map_path: Path | None, weights: Path | None = None, options: Sequence[str] = ()
) -> Segmenter:
    """A field ready for queries: with its map, and its extractor made again.

    Args:
        options: ``KEY=VALUE`` for the extractor, beside those that the field remembers.

    Raises:
        ExtractorError: the extractor's weights are not here, or it doesn't take an option.
        FieldError: another extractor's weights, or an option that makes another extractor of it.
    """
    field, gaussians = open_field(path, map_path)
    return Segmenter(gaussians, field, extractor_of(field.extractor, weights, extractor_options(options)))


def extractor_options(texts: Sequence[str]) -> dict[str, object]:
    """``KEY=VALUE`` words as keyword arguments of an extractor; values are YAML: 3 is a number, [a, b] a list.

    Raises:
        ExtractorError: no =, no key, the same key twice, or a value that is no YAML.
    """
    options: dict[str, object] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.isidentifier():
            raise ExtractorError(f"--option '{text}' is not KEY=VALUE, e.g. model=vitb14", code="extractor.value")
        if key in options:
            raise ExtractorError(f"--option {key} is given twice; give it once", code="extractor.duplicate")
        try:
            options[key] = parse_yaml(value, f"--option '{text}'", ExtractorError)
        except ExtractorError as error:
            raise ExtractorError(f"{error}; quote it, e.g. {key}='\"…\"'", code="extractor.option") from error
    return options


def alignment_or_identity(path: Path | None) -> Sim3:
    return Sim3.identity() if path is None else load_alignment(path)


def length_unit(splat_from_map: Sim3) -> str:
    """Of lengths in the map frame: metres where an alignment was given, else those of the map, which may be any."""
    return "map units" if np.array_equal(splat_from_map.matrix, np.eye(4)) else "m"


def alignment_of_view(
    path: Path | None, field: FeatureField, gaussians: GaussianMap, stream: Stream, names: Sequence[str]
) -> Sim3:
    """The transform for looking at a field from frames of a stream: the file's, or the one by which they see the map.

    Raises:
        CameraError: no file is given, and the frames see nothing of the map.
    """
    from feature_gs_ros.backprojection.pose_check import fitting_alignment  # with the rasteriser, for few commands

    if path is not None:
        return load_alignment(path)
    own = field.provenance.splat_from_map
    fitting = fitting_alignment(gaussians, own, stream, names)
    if fitting is not own:
        note(f"the poses of '{stream.source}' are in the map's frame: the field's own alignment is left out")
    return fitting


def in_frame(part: GaussianMap, frame: CloudFrame, splat_from_map: Sim3) -> GaussianMap:
    """Gaussians of a map as a cloud: in the frame of the map's file, or where boxes and regions are."""
    from feature_gs_ros.core.placing import transformed

    return transformed(part, splat_from_map.inverse()) if frame == "map" else part


def print_json(content: Mapping[str, object]) -> None:
    """One object on stdout and nothing else there; numbers that JSON hasn't (NaN, infinity) are null."""
    print(json.dumps(_finite(content), allow_nan=False))


def _finite(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
