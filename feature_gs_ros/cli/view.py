"""``feature-gs view``: a map in the browser: query, click, edit."""

from __future__ import annotations

import importlib.util
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from feature_gs_ros.cli.recording import NO_OPTIONS, RecordingOptions
from feature_gs_ros.core.errors import OptionError
from feature_gs_ros.core.progress import note

if TYPE_CHECKING:
    from feature_gs_ros.page.app import PageSession
    from feature_gs_ros.page.server import PageServer


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
    backend: str = "auto",
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
        backend: where questions are worked out: auto, cpu, cuda (cuda:1: the second card), warp-cpu or reference.
        bag: options for reading a rosbag2 recording.
    """
    if importlib.util.find_spec("viser") is None:
        raise OptionError(
            "the page needs viser, which is not installed: pip install 'feature_gs_ros[viewer]'", code="option.package"
        )
    # viser, which is optional; it listens first, so that browsers load their part while the map is opened
    from feature_gs_ros.page.limits import is_local
    from feature_gs_ros.page.server import PageServer

    server: PageServer[PageSession] = PageServer(host, port)
    with server:
        if not is_local(host):
            note(f"--host {host}: anybody who reaches port {server.port} of this machine sees the map, asks, and may "
                 f"write files into {folder.resolve()}")  # fmt: skip
        print(f"open {server.address} in a browser; Ctrl-C ends it", flush=True)
        from feature_gs_ros.page.app import show
        from feature_gs_ros.page.opening import open_content

        content = open_content(source, folder, identity, stream, alignment, map, weights, option, bag, backend)
        show(content, server)
        threading.Event().wait()
    return 0
