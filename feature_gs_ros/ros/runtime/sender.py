"""Sender: large messages are published from a thread of their own, so that a slow subscriber holds up nothing else."""

from __future__ import annotations

import threading
from typing import Any


class Sender:
    """For each publisher the newest message waits; one that wasn't sent yet is replaced."""

    def __init__(self) -> None:
        self._waiting: dict[Any, Any] = {}  # publisher -> message
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="sender", daemon=True)
        self._thread.start()

    def send(self, publisher: Any, message: Any) -> None:
        """Publish soon."""
        with self._changed:
            self._waiting[publisher] = message
            self._changed.notify()

    def stop(self, patience: float = 2.0) -> None:
        """Send what waits, and end; a subscriber that blocks the thread is waited for no longer than ``patience`` s."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(patience)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._stopping)
                if not self._waiting:
                    return
                publisher = next(iter(self._waiting))
                message = self._waiting.pop(publisher)
            publisher.publish(message)
