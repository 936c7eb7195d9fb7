"""The page of a map or a field: every browser has its own questions, clicks and edits."""

from __future__ import annotations

import contextlib
import threading

from feature_gs_ros.core.errors import FeatureGsError
from feature_gs_ros.core.memory import give_back_freed_memory
from feature_gs_ros.extractors.base import known_words
from feature_gs_ros.page.content import Content
from feature_gs_ros.page.panels.affordances import AffordancePanel
from feature_gs_ros.page.panels.ask import AskPanel
from feature_gs_ros.page.panels.click import ClickPanel
from feature_gs_ros.page.panels.edit import EditPanel
from feature_gs_ros.page.panels.export import ExportPanel
from feature_gs_ros.page.panels.show import ShowPanel
from feature_gs_ros.page.scene import look_from_start
from feature_gs_ros.page.server import PageServer
from feature_gs_ros.page.session import Session
from feature_gs_ros.page.splats import COARSE


def show(content: Content, server: PageServer[PageSession]) -> None:
    """Let browsers in to this map, and prepare what the first question would wait for."""
    server.begin(lambda client, software: PageSession(content, client, software))
    threading.Thread(target=_warm_up, args=(content,), name="page-warm-up", daemon=True).start()


def _warm_up(content: Content) -> None:
    """The graph of neighbours, and the features' norms."""
    segmenter = content.segmenter
    if segmenter is None:
        return
    words = known_words(segmenter.extractor)
    with content.asking, contextlib.suppress(FeatureGsError):
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
        ExportPanel(self)
        self.view.add_ground()
        show.load_all()
        self.say(show.told())
        self.view.add_cameras(click.frustum_clicked, self.closed)
