"""LivePoseCheck: whether live images show the map where tf says, looked at now and then."""

from __future__ import annotations

import threading
from collections import deque

from feature_gs_ros.core.camera import Frame
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.core.geometry import Sim3
from feature_gs_ros.doctor.findings import Finding
from feature_gs_ros.doctor.quick import ViewVerdict, check_view, findings_of

FIRST = 4  # frames that are looked at in any case
EVERY = 250  # frames between two looks afterwards: four per thousand
KEPT = 8  # looks that are judged


class LivePoseCheck:
    """Takes every frame, and looks at few of them; may be read from another thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._verdicts: deque[ViewVerdict] = deque(maxlen=KEPT)
        self._frames = self._looks = self._elsewhere = 0

    def look(self, gaussians: GaussianMap, frame: Frame, splat_from_map: Sim3) -> None:
        """Count a frame, and look at it if it is its turn.

        Raises:
            ImageError: its image can't be decoded.
        """
        with self._lock:
            self._frames += 1
            if self._frames > FIRST and self._frames % EVERY:
                return
        verdict = check_view(gaussians, frame, splat_from_map)
        with self._lock:
            self._verdicts.append(verdict)
            self._looks += 1
            self._elsewhere += verdict.state == "elsewhere"

    @property
    def findings(self) -> tuple[Finding, ...]:
        """By the last looks."""
        with self._lock:
            verdicts = list(self._verdicts)
        return findings_of(verdicts)

    @property
    def counts(self) -> dict[str, int]:
        """Since the start."""
        with self._lock:
            return {"images compared with the map": self._looks, "images elsewhere than tf says": self._elsewhere}
