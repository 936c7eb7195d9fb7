"""Health: whether a stream is well, judged by the last period and not by all time."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from feature_gs_ros.live.keyframes import NOT_A_KEYFRAME

MIN_VIEWS = 5  # after which a map without a single seen Gaussian means that the frames don't agree
MIN_COVERAGE = 1e-4


class Level(IntEnum):
    """As in diagnostic_msgs/DiagnosticStatus."""

    OK = 0
    WARN = 1
    ERROR = 2


@dataclass(frozen=True)
class HealthLimits:
    """What is still well."""

    period: float = 5.0  # s that are judged
    max_dropped: float = 0.2  # fraction of the frames, those of a still camera aside
    max_latency: float = 2.0  # s


@dataclass(frozen=True)
class Sample:
    """Counts since activation at a time, and what the field is like."""

    time: float  # s, monotonic
    seen: int
    used: int
    skipped: Mapping[str, int]
    latency: float  # s; NaN where no frame was used lately
    views: int
    coverage: float


class Health:
    """Takes a sample now and then, and compares each with the one a period earlier."""

    def __init__(self, limits: HealthLimits) -> None:
        self.limits = limits
        self._samples: deque[Sample] = deque()

    def judge(self, now: Sample) -> tuple[Level, str]:
        """The level and a line for a person.

        ERROR: frames came in the period and none was used, or all views see nothing of the map.
        WARN: more frames than ``max_dropped`` were dropped, the latency is over ``max_latency``, or frames stopped.
        """
        self._samples.append(now)
        while len(self._samples) > 2 and self._samples[1].time <= now.time - self.limits.period:
            self._samples.popleft()
        before = self._samples[0]
        seen, used = now.seen - before.seen, now.used - before.used
        skipped = {reason: count - before.skipped.get(reason, 0) for reason, count in now.skipped.items()}
        still = sum(skipped.get(reason, 0) for reason in NOT_A_KEYFRAME)
        dropped = {reason: count for reason, count in skipped.items() if count > 0 and reason not in NOT_A_KEYFRAME}
        lost, span = sum(dropped.values()), f"the last {now.time - before.time:.0f} s"
        most = max(dropped, key=lambda reason: dropped[reason], default="")
        if now.views >= MIN_VIEWS and now.coverage < MIN_COVERAGE:
            return (
                Level.ERROR,
                "the cameras see nothing of the map: check map_frame, alignment and the images' frame_id",
            )
        if lost and not used:
            return Level.ERROR, f"no frame of {span} was used: {most}"
        if lost > self.limits.max_dropped * (lost + used):
            return Level.WARN, f"{lost / (lost + used):.0%} of the frames of {span} were dropped: {most}"
        if used and not math.isnan(now.latency) and now.latency > self.limits.max_latency:
            return Level.WARN, f"{now.latency:.1f} s from stamp to map, more than {self.limits.max_latency:g} s"
        if now.seen and not seen and now.time - before.time >= self.limits.period:
            return Level.WARN, f"no frame came in {span}"
        what = f"{now.views} views, {now.coverage:.0%} of the map seen"
        return Level.OK, f"{what}; the camera stands still" if still and not used else what
