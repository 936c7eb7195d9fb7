"""How much a browser may ask for, and who may be a browser at all."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

MAX_PROMPTS = 12  # at once
MAX_NEGATIVES = 50
MAX_SOURCES = 200  # of a library that a browser adds to
MAX_CLICKS = 50  # of one query by example
MAX_NAME_CHARACTERS = 100  # of a file or an affordance
MAX_BROWSERS = 16  # at once

LOCAL = "127.0.0.1"


def is_local(host: str) -> bool:
    """Whether only this machine reaches a server that listens there."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def may_connect(listening: str, host: str | None, origin: str | None) -> bool:
    """Whether a connection comes from the page itself.

    Any site that a browser shows may open a connection to this machine; browsers tell which site it was. A server for
    this machine alone answers only to its local names, so that no foreign name can be made to lead here.

    Args:
        listening: the host that the server listens on.
        host: header ``Host`` of the connection.
        origin: header ``Origin``; programs that are no browser send none.
    """
    if host is None or (is_local(listening) and not is_local(_name(f"//{host}"))):
        return False
    return origin is None or urlsplit(origin).netloc == host


def _name(address: str) -> str:
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""
