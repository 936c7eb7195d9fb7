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

    @property
    def pending(self) -> bool:
        """Whether the job was asked for again since it began: what it would do last may be left out."""
        with self._guard:
            return self._again

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
