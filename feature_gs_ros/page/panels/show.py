"""What is shown: colours, how many Gaussians, cameras, ground, what was not observed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from feature_gs_ros.page.browser import set_value
from feature_gs_ros.page.colors import CHANGE, legend, modes
from feature_gs_ros.page.latest import Latest
from feature_gs_ros.page.session import Session
from feature_gs_ros.page.splats import COARSE, SOFTWARE_GAUSSIANS

if TYPE_CHECKING:
    import viser


class ShowPanel:
    """Controls of the view."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._progress = session.client.gui.add_progress_bar(0.0, animated=True)
        self._resize = Latest(self._resized)
        total = len(session.content.gaussians)
        self._first = min(total, SOFTWARE_GAUSSIANS) if session.software else total  # Gaussians shown at first

    def add_controls(self) -> None:
        """Colours, how many Gaussians, and what is shown around them."""
        session = self._session
        gui = session.client.gui
        total = len(session.content.gaussians)
        with session.tabs.add_tab("Show"):
            mode = gui.add_dropdown("colour by", modes(session.content))
            cameras_named = session.view.camera_names
            self._against = gui.add_dropdown(
                "image of", cameras_named or ("none",), visible=False, hint="what the map is compared with"
            )
            self._legend = gui.add_html("")
            self._count = gui.add_slider(
                "Gaussians", min(1000, total), total, max(1, total // 100), self._first,
                hint="the most visible ones first",
            )  # fmt: skip
            cameras = gui.add_checkbox("cameras", bool(session.content.views))
            ground = gui.add_checkbox("axes and ground", True)
            dim = gui.add_checkbox("dim the rest", True, hint="while something is found")
            if session.content.segmenter is not None:
                unobserved = gui.add_checkbox("not observed", False, hint="paint what no camera saw")
                unobserved.on_update(session.guarded(lambda _: self._set("unobserved", unobserved.value)))
        mode.on_update(session.guarded(lambda _: self._colour_by(mode.value)))
        self._against.on_update(session.guarded(lambda _: self._colour_by(CHANGE)))
        dim.on_update(session.guarded(lambda _: self._set("dim", dim.value)))
        cameras.on_update(session.guarded(lambda _: session.view.switch("cameras", cameras.value)))
        ground.on_update(session.guarded(lambda _: session.view.switch("ground", ground.value)))
        self._count.on_update(session.guarded(self._count_moved))

    def load_coarse(self) -> None:
        """Send the most visible splats."""
        self._session.load(COARSE, self._advance)
        self._session.client.flush()

    def load_all(self) -> None:
        """Send the others, in chunks, with a progress bar; the browser draws between them."""
        session = self._session
        while not session.closed.is_set() and session.layer.shown < self._first:
            session.load(self._first, lambda done, total: self._advance(done, total) or True)
            session.client.flush()
            session.closed.wait(0.05)
        self._progress.visible = False

    def told(self) -> str:
        """What is shown, in words."""
        content = self._session.content
        total = len(content.gaussians)
        if self._first < total:
            return f"{self._first} of {total} Gaussians of {content.source.name}: this browser draws without a GPU"
        return f"{total} Gaussians of {content.source.name}"

    def _advance(self, done: int, _: int) -> bool:
        set_value(self._progress, 100.0 * done / self._first)
        return self._session.closed.is_set()

    def _colour_by(self, mode: str) -> None:
        session = self._session
        with session.lock:
            session.mode = mode
            self._against.visible = mode == CHANGE
            if mode == CHANGE:
                session.against = session.view.frusta[session.view.camera_names.index(self._against.value)].known
            self._legend.content = legend(mode)
        session.repaint()

    def _set(self, what: str, value: object) -> None:
        with self._session.lock:
            setattr(self._session, what, value)
        self._session.repaint()

    def _count_moved(self, event: viser.GuiEvent[Any]) -> None:
        if event.client is not None:
            self._resize()

    def _resized(self) -> None:
        self._session.load(int(self._count.value))
