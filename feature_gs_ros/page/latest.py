"""Latest: of calls that come faster than they are served, the last one counts."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Latest:
    """Runs a job in the thread that asks for it; what is asked meanwhile is one more run, not many."""

    def __init__(self, job: Callable[[], None]) -> None:
        self._job = job
        self._guard = threading.Lock()
        self._running = False
        self._again = False

    def __call__(self) -> None:
        """Run the job, now or, where it runs already, once more after it."""
        with self._guard:
            self._again = True
            if self._running:
                return
            self._running = True
        try:
            while self._next():
                self._job()
        finally:
            with self._guard:
                self._running = False

    def _next(self) -> bool:
        with self._guard:
            again, self._again = self._again, False
            self._running = again
            return again


class Paused:
    """Runs a job, on a thread of its own, once it hasn't been asked for during a pause."""

    def __init__(self, job: Callable[[], None], pause: float) -> None:
        self._run = Latest(job)
        self._pause = pause  # s
        self._guard = threading.Lock()
        self._timer: threading.Timer | None = None

    def __call__(self) -> None:
        """Ask for the job, and put off what was asked for before."""
        with self._guard:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = threading.Timer(self._pause, self._run)
            self._timer.daemon = True
            self._timer.start()
