"""What serves a page: it listens, lets its own site's browsers in, and gives each a session that ends with it.

It imports nothing large, so that browsers load their part while the map is still being opened.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, TypeVar

import viser
from typing_extensions import Self

from feature_gs_ros.core.errors import FeatureGsError, OptionError
from feature_gs_ros.page.browser import BrowserSession
from feature_gs_ros.page.client import SOFTWARE_PAGE, write_client
from feature_gs_ros.page.limits import MAX_BROWSERS, is_local
from feature_gs_ros.page.origin import only_own_pages

log = logging.getLogger(__name__)

Session = TypeVar("Session", bound=BrowserSession)

TOO_MANY = f"{MAX_BROWSERS} browsers look at this page; close one and reload."


class _Viser(viser.ViserServer):
    """viser's server with our page's head, and without its public tunnel, which any browser could open otherwise."""

    def __init__(self, host: str, port: int, client: Path) -> None:
        self._client_folder = client
        super().__init__(host=host, port=port, verbose=False)

    def __setattr__(self, name: str, value: Any) -> None:
        # viser has no option for it: the socket server takes the folder when it starts, after it was given to us.
        if name == "_websock_server" and hasattr(value, "_http_server_root"):
            value._http_server_root = self._client_folder
        super().__setattr__(name, value)

    def request_share_url(self, verbose: bool = True) -> str | None:  # noqa: ARG002
        return None


class PageServer(Generic[Session]):
    """A running server. Browsers that come before `begin` are told to wait; `close` ends it with all its sessions."""

    def __init__(self, host: str, port: int) -> None:
        """
        Raises:
            OptionError: the host or port can't be listened on.
        """
        self.host = host
        self._make: Callable[[viser.ClientHandle, bool], Session] | None = None
        self._begun = threading.Event()
        self._sessions: dict[int, Session] = {}
        self._waiting = 0  # browsers that came too early
        self._guard = threading.Lock()
        self._folder = tempfile.TemporaryDirectory(prefix="feature-gs-page-")
        try:
            self._server = _listen(host, port, Path(self._folder.name))
        except BaseException:
            self._folder.cleanup()
            raise
        try:
            self._paths = only_own_pages(self._server, host)
        except OptionError:
            self.close()
            raise
        self._server.gui.configure_theme(show_logo=False, show_share_button=False, control_width="large")
        self._server.gui.set_panel_label("feature-gs")
        self._server.on_client_connect(self._came)
        self._server.on_client_disconnect(self._went)

    def begin(self, make_session: Callable[[viser.ClientHandle, bool], Session]) -> None:
        """Let browsers in.

        Args:
            make_session: for a browser that came, and whether it draws without a GPU; its `start` fills the page.
        """
        self._make = make_session
        self._begun.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def port(self) -> int:
        return self._server.get_port()

    @property
    def address(self) -> str:
        """What to open in a browser."""
        return f"http://{'localhost' if is_local(self.host) else self.host}:{self.port}"

    @property
    def sessions(self) -> tuple[Session, ...]:
        """Of the browsers that are there."""
        with self._guard:
            return tuple(self._sessions.values())

    def close(self) -> None:
        """End all sessions and the server."""
        with self._guard:
            sessions = list(self._sessions.values())
            self._sessions.clear()
            self._make = None
        self._begun.set()
        for session in sessions:
            session.close()
        with _quiet():
            self._server.stop()
        self._folder.cleanup()

    def _came(self, client: viser.ClientHandle) -> None:
        if not self._wait(client):
            return
        software = self._paths.pop(client.client_id, "").strip("/") == SOFTWARE_PAGE
        with self._guard:
            if len(self._sessions) >= MAX_BROWSERS:
                client.gui.add_markdown(TOO_MANY)
                return
            if self._make is None:
                return
            session = self._sessions[client.client_id] = self._make(client, software)
        try:
            session.start()
        except FeatureGsError as error:
            session.say(str(error), "error")
        except Exception:
            if not session.closed.is_set():  # the browser that went away meanwhile is no error
                log.exception("the page could not be shown")
                session.say("the page could not be shown; the terminal of the server says why", "error")

    def _wait(self, client: viser.ClientHandle) -> bool:
        """Until there is something to show; False: for one browser too many."""
        if self._begun.is_set():
            return True
        with self._guard:
            if self._waiting >= MAX_BROWSERS:
                client.gui.add_markdown(TOO_MANY)
                return False
            self._waiting += 1
        line = client.gui.add_html('<div data-status="busy" style="padding:0.4em 1em">opening the map …</div>')
        self._begun.wait()
        with self._guard:
            self._waiting -= 1
        line.remove()
        return True

    def _went(self, client: viser.ClientHandle) -> None:
        with self._guard:
            session = self._sessions.pop(client.client_id, None)
        if session is not None:
            session.close()


def _listen(host: str, port: int, folder: Path) -> viser.ViserServer:
    if not 0 <= port <= 65535:
        raise OptionError(
            f"port {port} is out of range; choose 1024 to 65535, or 0 for any that is free", code="option.range"
        )
    _check_free(host, port)
    with _quiet():
        return _Viser(host, port, write_client(folder))


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
            f"can't listen on host {host}, port {port}: {error.strerror or error}; choose another port, or 0",
            code="option.listen",
        ) from error


def _quiet() -> contextlib.AbstractContextManager[object]:
    """viser announces itself on stdout; the command says what is to be said."""
    return contextlib.redirect_stdout(io.StringIO())
