"""Statistics: what became of each frame, so that none is lost without a word."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from dataclasses import dataclass

import numpy as np

MAX_REASONS = 50  # kept apart: a hostile publisher can't grow the table
LATENCIES = 100  # of the last used frames


@dataclass(frozen=True)
class Report:
    """A copy of the counts, and what came since the last report."""

    seen: int
    used: int
    skipped: dict[str, int]
    refused: int
    rate_seen: float  # Hz
    rate_used: float  # Hz
    latency: float  # s, 95th percentile of the last frames used; NaN before the first


class Statistics:
    """Counts from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen = self._used = self._refused = 0
        self._skipped: Counter[str] = Counter()
        self._latencies: deque[float] = deque(maxlen=LATENCIES)
        self._reported = (time.monotonic(), 0, 0)

    def see(self, count: int = 1) -> None:
        """Frames came in."""
        with self._lock:
            self._seen += count

    def use(self, latency: float) -> None:
        """A frame was accumulated, ``latency`` seconds after its stamp."""
        with self._lock:
            self._used += 1
            self._latencies.append(latency)

    def skip(self, reason: str, count: int = 1) -> None:
        """Frames were left out."""
        if count == 0:
            return
        with self._lock:
            known = reason in self._skipped or len(self._skipped) < MAX_REASONS
            self._skipped[reason if known else "other reasons"] += count

    def refuse(self) -> None:
        """A message without a frame, such as a camera_info or a mask, can't be used."""
        with self._lock:
            self._refused += 1

    def report(self) -> Report:
        """The counts; the rates are those since the last report."""
        with self._lock:
            now = time.monotonic()
            then, seen, used = self._reported
            period = max(now - then, 1e-9)
            self._reported = (now, self._seen, self._used)
            latency = float(np.percentile(list(self._latencies), 95)) if self._latencies else float("nan")
            return Report(
                self._seen,
                self._used,
                dict(self._skipped),
                self._refused,
                (self._seen - seen) / period,
                (self._used - used) / period,
                latency,
            )
