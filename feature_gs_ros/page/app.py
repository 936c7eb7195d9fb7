"""The page of a map or a field: every browser has its own questions, clicks and edits."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

from feature_gs_ros.core.errors import FeatureGsError
from feature_gs_ros.core.memory import give_back_freed_memory
from feature_gs_ros.core.progress import note
from feature_gs_ros.extractors.base import known_words
from feature_gs_ros.page.content import Content
from feature_gs_ros.page.limits import LOCAL, is_local
from feature_gs_ros.page.panels.affordances import AffordancePanel
from feature_gs_ros.page.panels.ask import AskPanel
from feature_gs_ros.page.panels.click import ClickPanel
from feature_gs_ros.page.panels.edit import EditPanel
from feature_gs_ros.page.panels.show import ShowPanel
from feature_gs_ros.page.panels.take_away import TakeAwayPanel
from feature_gs_ros.page.scene import look_from_start
from feature_gs_ros.page.server import PageServer
from feature_gs_ros.page.session import Session
from feature_gs_ros.page.splats import COARSE

if TYPE_CHECKING:
    import viser


class Page:
    """A running page; `close` ends it."""

    def __init__(self, content: Content, host: str = LOCAL, port: int = 8080) -> None:
        """
        Raises:
            OptionError: the host or port can't be listened on.
        """
        self.content = content
        self._server = PageServer(host, port, self._session)
        threading.Thread(target=self._warm_up, name="page-warm-up", daemon=True).start()

    @property
    def port(self) -> int:
        return self._server.port

    @property
    def address(self) -> str:
        """What to open in a browser."""
        return self._server.address

    @property
    def sessions(self) -> int:
        """Browsers that are there."""
        return len(self._server.sessions)

    def close(self) -> None:
        """End all sessions and the server."""
        self._server.close()

    def _session(self, client: viser.ClientHandle) -> Session:
        return PageSession(self.content, client)

    def _warm_up(self) -> None:
        """What the first question would wait for: the graph of neighbours, and the features' norms."""
        segmenter = self.content.segmenter
        if segmenter is None:
            return
        words = known_words(segmenter.extractor)
        with self.content.asking, contextlib.suppress(FeatureGsError):
            segmenter.similarities_of_text([words[0]] if words else ["object"])
        give_back_freed_memory()


class PageSession(Session):
    """A session with all its panels."""

    def start(self) -> None:
        """Splats first, then what stands around them."""
        client, content = self.client, self.content
        look_from_start(client, content)
        show = ShowPanel(self)
        show.load_coarse()
        self.say(f"the first {min(COARSE, len(content.gaussians))} of {len(content.gaussians)} Gaussians …", "busy")
        if content.segmenter is not None:
            AskPanel(self)
        show.add_controls()
        click = ClickPanel(self)
        if content.segmenter is not None:
            AffordancePanel(self)
        EditPanel(self)
        TakeAwayPanel(self)
        self.view.add_ground()
        show.load_all()
        self.say(f"{len(content.gaussians)} Gaussians of {content.source.name}")
        self.view.add_cameras(click.frustum_clicked, self.closed)


def serve(content: Content, host: str, port: int) -> None:
    """Show the page until Ctrl-C.

    Raises:
        OptionError: the host or port can't be listened on.
    """
    page = Page(content, host, port)
    if not is_local(host):
        note(f"--host {host}: anybody who reaches port {page.port} of this machine sees the map, asks, and may write "
             f"files into {content.folder.path}")  # fmt: skip
    print(f"open {page.address} in a browser; Ctrl-C ends it", flush=True)
    try:
        threading.Event().wait()
    finally:
        page.close()
