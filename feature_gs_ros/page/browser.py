"""BrowserSession: one browser on a page, with a line that tells it what happens. It ends with the browser."""

from __future__ import annotations

import functools
import html
import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from feature_gs_ros.core.errors import FeatureGsError

if TYPE_CHECKING:
    import viser

log = logging.getLogger(__name__)

Job = Callable[[Any], None]


class BrowserSession(ABC):
    """What every page's sessions share."""

    def __init__(self, client: viser.ClientHandle) -> None:
        self.client = client
        self.closed = threading.Event()
        self.lock = threading.RLock()  # of what a session holds
        self.status = client.gui.add_html("")

    @abstractmethod
    def start(self) -> None:
        """Fill the new browser's page."""

    def say(self, text: str, kind: str = "info") -> None:
        """A line for the person at the browser; kinds are info, busy and error."""
        color = {"error": "#c62828", "busy": "#8a6d00"}.get(kind, "#2e7d32")
        self.status.content = (
            f'<div data-status="{kind}" style="padding:0.4em 1em;color:{color};font-size:0.85em">'
            f"{html.escape(text)}</div>"
        )

    def guarded(self, job: Job) -> Job:
        """A callback that ends with its browser and shows its errors to the user."""

        @functools.wraps(job)
        def run(event: Any) -> None:
            if self.closed.is_set():
                return
            try:
                job(event)
            except (FeatureGsError, OSError) as error:
                self.say(str(error), "error")
            except Exception:
                if self.closed.is_set():  # what a browser asked before it went away
                    return
                log.exception("the page's %s failed", job.__name__)
                self.say("that failed; the terminal of the server says why", "error")

        return run

    def close(self) -> None:
        """Nothing more is done for this browser."""
        self.closed.set()


def set_value(control: Any, value: object) -> None:
    """Give a control a value; its callbacks hear of it, with no browser as its cause."""
    control.value = value
