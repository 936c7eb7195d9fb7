"""The page's server: every browser that comes gets its own `Session`, and takes it along when it goes."""

from __future__ import annotations

import contextlib
import io
import logging
import threading
from typing import Any

import viser

from feature_gs_ros.core.errors import FeatureGsError, OptionError
from feature_gs_ros.core.progress import note
from feature_gs_ros.extractors.base import known_words
from feature_gs_ros.page.content import Content
from feature_gs_ros.page.limits import LOCAL, MAX_BROWSERS, is_local, may_connect
from feature_gs_ros.page.panels.ask import AskPanel
from feature_gs_ros.page.panels.click import ClickPanel
from feature_gs_ros.page.panels.edit import EditPanel
from feature_gs_ros.page.panels.show import ShowPanel
from feature_gs_ros.page.panels.take_away import TakeAwayPanel
from feature_gs_ros.page.session import Session

log = logging.getLogger(__name__)


class _Server(viser.ViserServer):
    """viser's server without its public tunnel, which any browser could open otherwise."""

    def request_share_url(self, verbose: bool = True) -> str | None:  # noqa: ARG002
        return None


class Page:
    """A running page; `close` ends it."""

    def __init__(self, content: Content, host: str = LOCAL, port: int = 8080) -> None:
        """
        Raises:
            OptionError: the host or port can't be listened on.
        """
        self.content = content
        self.host = host
        self._sessions: dict[int, Session] = {}
        self._guard = threading.Lock()
        self._server = _listen(host, port)
        self._only_own_pages()
        self._server.gui.configure_theme(show_logo=False, show_share_button=False, control_width="large")
        self._server.gui.set_panel_label("feature-gs")
        self._server.on_client_connect(self._came)
        self._server.on_client_disconnect(self._went)
        threading.Thread(target=self._warm_up, name="page-warm-up", daemon=True).start()

    @property
    def port(self) -> int:
        return self._server.get_port()

    @property
    def address(self) -> str:
        """What to open in a browser."""
        return f"http://{'localhost' if is_local(self.host) else self.host}:{self.port}"

    @property
    def sessions(self) -> int:
        """Browsers that are there."""
        with self._guard:
            return len(self._sessions)

    def close(self) -> None:
        """End all sessions and the server."""
        with self._guard:
            sessions = list(self._sessions.values())
            self._sessions.clear()
        for session in sessions:
            session.close()
        with _quiet():
            self._server.stop()

    def _came(self, client: viser.ClientHandle) -> None:
        with self._guard:
            if len(self._sessions) >= MAX_BROWSERS:
                client.gui.add_markdown(f"{MAX_BROWSERS} browsers look at this page; close one and reload.")
                return
            session = self._sessions[client.client_id] = Session(self.content, client)
        try:
            start(session)
        except FeatureGsError as error:
            session.say(str(error), "error")
        except Exception:
            if not session.closed.is_set():  # the browser that went away meanwhile is not an error
                log.exception("the page could not be shown")
                session.say("the page could not be shown; the terminal of feature-gs view says why", "error")

    def _went(self, client: viser.ClientHandle) -> None:
        with self._guard:
            session = self._sessions.pop(client.client_id, None)
        if session is not None:
            session.close()

    def _only_own_pages(self) -> None:
        """Turn away connections that another site's page opened, before anything is sent to them."""
        socket = self._server._websock_server

        async def check(connection: Any) -> None:
            live = socket._live_connections[connection.client_id]
            headers = live.request.headers if live.request is not None else {}
            if not may_connect(self.host, headers.get("Host"), headers.get("Origin")):
                log.warning("rejected a connection from a page of %s", headers.get("Origin"))
                await live.close(1008, "not from this page")

        socket.on_client_connect(check)

    def _warm_up(self) -> None:
        """What the first question would wait for: the graph of neighbours, and the features' norms."""
        segmenter = self.content.segmenter
        if segmenter is None:
            return
        words = known_words(segmenter.extractor)
        with self.content.asking, contextlib.suppress(FeatureGsError):
            segmenter.similarities_of_text([words[0]] if words else ["object"])


def start(session: Session) -> None:
    """Fill a new browser's page: splats first, then what stands around them."""
    client, content = session.client, session.content
    position, looked_at, fov = session.view.start_camera()
    with client.atomic():
        client.camera.position = position
        client.camera.look_at = looked_at
        client.camera.fov = fov
    show = ShowPanel(session)
    show.load_coarse()
    if content.segmenter is not None:
        AskPanel(session)
    click = ClickPanel(session)
    show.add_controls()
    EditPanel(session)
    TakeAwayPanel(session)
    session.view.add_ground()
    show.load_all()
    session.say(f"{len(content.gaussians)} Gaussians of {content.source.name}")
    session.view.add_cameras(click.frustum_clicked, session.closed)


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


def _listen(host: str, port: int) -> viser.ViserServer:
    if not 0 <= port <= 65535:
        raise OptionError(
            f"--port {port} is out of range; choose 1024 to 65535, or 0 for any that is free", code="option.range"
        )
    _check_free(host, port)
    with _quiet():
        return _Server(host=host, port=port, verbose=False)


def _check_free(host: str, port: int) -> None:
    """viser takes the next free port silently; here the one asked for is meant."""
    import socket

    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise OptionError(
            f"can't listen on --host {host} --port {port}: {error.strerror or error}; choose another --port, or 0",
            code="option.listen",
        ) from error


def _quiet() -> contextlib.AbstractContextManager[object]:
    """viser announces itself on stdout; the command says what is to be said."""
    return contextlib.redirect_stdout(io.StringIO())
