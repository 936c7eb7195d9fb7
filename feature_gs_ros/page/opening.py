"""Open what a page shows: a map, or a field with its map, extractor and recording."""

from __future__ import annotations

from pathlib import Path

from feature_gs_ros.backprojection.field import FORMAT, FeatureField
from feature_gs_ros.backprojection.opening import find_map
from feature_gs_ros.core.errors import OptionError, StreamError
from feature_gs_ros.core.geometry import Sim3
from feature_gs_ros.core.progress import note
from feature_gs_ros.identity.answers import Identities
from feature_gs_ros.io.alignment import load_alignment
from feature_gs_ros.io.data_folder import DataFolder
from feature_gs_ros.io.formats import format_of
from feature_gs_ros.io.splats.registry import load_map
from feature_gs_ros.io.streams.options import BagOptions
from feature_gs_ros.io.streams.registry import Stream, open_stream
from feature_gs_ros.page.content import Content
from feature_gs_ros.query.masks_3d import Segmenter
from feature_gs_ros.query.opening import open_segmenter
from feature_gs_ros.rasterizer import get_backend

NO_OPTIONS = BagOptions()


def open_content(
    source: Path,
    folder: Path,
    identity: Path | None = None,
    stream: Path | None = None,
    alignment: Path | None = None,
    map_path: Path | None = None,
    weights: Path | None = None,
    option: tuple[str, ...] = (),
    bag: BagOptions = NO_OPTIONS,
    backend: str = "auto",
) -> Content:
    """What the page of these arguments shows.

    Raises:
        FeatureGsError: a file is missing, damaged, or of another map.
    """
    data = DataFolder(str(folder))
    if format_of(source) != FORMAT:
        if identity is not None or map_path is not None:
            raise OptionError(
                f"--identity and --map go with a field, '{source}' is none; leave them out", code="option.conflict"
            )
        gaussians = load_map(source)
        splat_from_map = Sim3.identity() if alignment is None else load_alignment(alignment)
        return Content(source, gaussians, splat_from_map, data, map_path=source)
    if alignment is not None:
        raise OptionError(f"the field '{source}' has its own alignment; leave out --alignment", code="option.conflict")
    segmenter = open_segmenter(source, map_path, weights, option, get_backend(backend).device)
    field, gaussians = segmenter.field, segmenter.gaussians
    return Content(
        source,
        gaussians,
        field.provenance.splat_from_map,
        data,
        map_path=find_map(source, field, map_path),
        segmenter=segmenter,
        identities=_identities(segmenter, identity),
        stream=_stream(field, stream, bag),
        command_options=_command_options(map_path, weights, option),
    )


def _identities(segmenter: Segmenter, path: Path | None) -> Identities | None:
    if path is not None:
        return Identities(segmenter.gaussians, FeatureField.load(path))
    named = segmenter.field.extractor.name == "identity"
    return Identities(segmenter.gaussians, segmenter.field) if named else None


def _stream(field: FeatureField, path: Path | None, bag: BagOptions) -> Stream | None:
    """The recording given, or the one remembered where it still is."""
    if path is not None:
        return open_stream(path, bag=bag)
    remembered = field.provenance.stream
    if not remembered or not Path(remembered).exists():
        return None
    try:
        return open_stream(remembered, bag=bag)
    except StreamError as error:
        note(f"the cameras show the map instead of images: {error}")
        return None


def _command_options(map_path: Path | None, weights: Path | None, option: tuple[str, ...]) -> tuple[str, ...]:
    words: list[str] = []
    for name, value in (("--map", map_path), ("--weights", weights)):
        words += [name, str(value)] if value is not None else []
    for entry in option:
        words += ["--option", entry]
    return tuple(words)
