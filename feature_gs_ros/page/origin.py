"""Only the page's own site connects: the one place that looks behind viser's interface, which has no seam for it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from feature_gs_ros.core.errors import OptionError
from feature_gs_ros.page.limits import may_connect

log = logging.getLogger(__name__)

POLICY_VIOLATION = 1008  # status of a web socket that is closed for who opened it


def only_own_pages(server: Any, host: str) -> dict[int, str]:
    """Turn away connections that another site's page opened, before anything is sent to them.

    A connection whose headers can't be seen is turned away, too.

    Args:
        server: a viser.ViserServer.
        host: that it listens on.

    Returns:
        The path of the page that a browser comes from, by its client_id, as they come.

    Raises:
        OptionError: this version of viser doesn't show who connects.
    """
    socket = getattr(server, "_websock_server", None)
    connections = getattr(socket, "_live_connections", None)
    if not isinstance(connections, Mapping) or not callable(getattr(socket, "on_client_connect", None)):
        import viser

        raise OptionError(
            f"viser {viser.__version__} doesn't show which site connects, so the page could not turn other sites "
            "away; install another one: pip install 'viser==1.1.1'",
            code="option.unsupported",
        )
    assert socket is not None
    paths: dict[int, str] = {}

    async def check(connection: Any) -> None:
        live = connections[connection.client_id]  # an error ends the connection
        headers = live.request.headers
        if not may_connect(host, headers.get("Host"), headers.get("Origin")):
            log.warning("a page of %s asked for this one and was turned away", headers.get("Origin"))
            await live.close(POLICY_VIOLATION, "not from this page")
        else:
            paths[connection.client_id] = live.request.path

    socket.on_client_connect(check)
    return paths
