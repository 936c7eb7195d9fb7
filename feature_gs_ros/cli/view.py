"""``feature-gs view``: a map in the browser: query, click, edit."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated

import tyro

from feature_gs_ros.backprojection.field import FORMAT, FeatureField
from feature_gs_ros.backprojection.opening import find_map
from feature_gs_ros.cli.common import NO_OPTIONS, RecordingOptions, alignment_or_identity
from feature_gs_ros.core.errors import OptionError, StreamError
from feature_gs_ros.core.progress import note
from feature_gs_ros.identity.answers import Identities
from feature_gs_ros.io.data_folder import DataFolder
from feature_gs_ros.io.formats import format_of
from feature_gs_ros.io.splats.registry import load_map
from feature_gs_ros.io.streams.options import BagOptions
from feature_gs_ros.io.streams.registry import Stream, open_stream
from feature_gs_ros.page.content import Content
from feature_gs_ros.query.masks_3d import Segmenter
from feature_gs_ros.query.opening import open_segmenter


def view(
    source: Path,
    /,
    *,
    port: int = 8080,
    host: str = "localhost",
    folder: Path = Path(),
    identity: Path | None = None,
    stream: Path | None = None,
    alignment: Path | None = None,
    map: Path | None = None,  # noqa: A002 - the word of the command line
    weights: Path | None = None,
    option: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    bag: RecordingOptions = NO_OPTIONS,
) -> int:
    """Serve a web page that shows the map and answers text queries and clicks, with edits and downloads.

    Args:
        source: a field, written by feature-gs backproject or feature-gs identity; or a splat map, for viewing only.
        port: to listen on; 0 for any free one.
        host: address to listen on; any other than localhost lets others connect and edit.
        folder: the only folder that the page writes to.
        identity: a field of identities of the same map, so that a click names its object.
        stream: recording whose images the cameras show; by default the field's own.
        alignment: splat_from_map file of a map without a field.
        map: the map file, if it has moved since the field was made.
        weights: the extractor's weights, if not in their usual folder.
        option: KEY=VALUE for the extractor, e.g. embeddings=FILE for 'precomputed'; may be repeated.
        bag: options for reading a rosbag2 recording.
    """
    if importlib.util.find_spec("viser") is None:
        raise OptionError(
            "the page needs viser, which is not installed: pip install 'feature_gs_ros[viewer]'", code="option.package"
        )
    from feature_gs_ros.page.app import serve  # viser, which is optional

    content = open_content(source, folder, identity, stream, alignment, map, weights, option, bag)
    serve(content, host, port)
    return 0


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
        return Content(source, gaussians, alignment_or_identity(alignment), data, map_path=source)
    if alignment is not None:
        raise OptionError(f"the field '{source}' has its own alignment; leave out --alignment", code="option.conflict")
    segmenter = open_segmenter(source, map_path, weights, option)
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
