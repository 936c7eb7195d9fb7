"""What a node says of its health, gaps of tf, static transforms that change, and the kernels compiled beforehand."""

from __future__ import annotations

import numpy as np
import pytest

from feature_gs_ros.live.health import Health, HealthLimits, Level, Sample
from feature_gs_ros.live.keyframes import STILL
from feature_gs_ros.live.tf_times import TfTimes
from feature_gs_ros.live.warmup import warm_up

MS = 1_000_000


def run(*seconds: dict[str, int], latency: float = 0.1, views: int = 3, coverage: float = 0.5) -> Level:
    """The level after some seconds; in each so many frames were used, or skipped by reason."""
    health, level = Health(HealthLimits()), Level.OK
    used, skipped = 0, {}
    health.judge(Sample(0.0, 0, 0, {}, float("nan"), views, coverage))
    for time, counts in enumerate(seconds, start=1):
        for reason, count in counts.items():
            if reason == "used":
                used += count
            else:
                skipped[reason] = skipped.get(reason, 0) + count
        seen = used + sum(skipped.values())
        level, _ = health.judge(Sample(float(time), seen, used, dict(skipped), latency, views, coverage))
    return level


WELL, LOST, SLOW = {"used": 10}, {"no tf": 10}, {"used": 7, "queue was full": 3}


def test_the_last_period_counts_and_not_all_time():
    assert run(*60 * [WELL]) == Level.OK
    assert run(*600 * [WELL], *6 * [LOST]) == Level.ERROR
    assert run(*600 * [WELL], *6 * [LOST], *6 * [WELL]) == Level.OK
    assert run(*600 * [WELL], *6 * [SLOW]) == Level.WARN
    assert run(*600 * [WELL], *6 * [{}]) == Level.WARN, "the camera's driver died"
    assert run(*10 * [{}]) == Level.OK, "no camera is there yet"
    assert run(*10 * [WELL], latency=25.0) == Level.WARN


def test_a_camera_that_stands_still_is_well():
    assert run(*10 * [{STILL: 30}]) == Level.OK
    assert run(*10 * [{STILL: 30, "used": 1}]) == Level.OK


def test_views_that_see_nothing_are_an_error_and_no_views_none():
    assert run(*10 * [WELL], views=10, coverage=0.0) == Level.ERROR
    assert run(*10 * [WELL], views=0, coverage=0.0) == Level.OK, "after a reset"


def test_poses_are_not_interpolated_across_a_silence_of_a_link_between_the_frames():
    times = TfTimes()
    for stamp in [*range(1000, 2000, 20), *range(6000, 7000, 20)]:
        times.add("odom", "base", stamp * MS)
        times.add("map", "odom", stamp * MS)
    for stamp in range(1000, 7000, 20):
        times.add("base", "arm", stamp * MS)
    times.add_static("base", "camera", np.array([0, 0, 1, 0, 0, 0, 1.0]))
    assert times.gap("camera", "map", 1550 * MS, 0.2) is None
    assert times.gap("camera", "map", 4000 * MS, 0.2) in ("base", "odom")
    assert times.gap("camera", "map", 4000 * MS, 5.0) is None
    assert times.gap("camera", "map", 6000 * MS, 0.2) is None, "at a sample nothing is interpolated"
    assert times.gap("camera", "arm", 4000 * MS, 0.2) is None, "only links between the two count"
    times.clear()
    assert times.gap("camera", "map", 4000 * MS, 0.2) is None


def test_a_transform_that_is_always_slow_has_no_gaps():
    times = TfTimes()
    for stamp in range(0, 9000, 1000):
        times.add("map", "odom", stamp * MS)
    assert times.gap("odom", "map", 4500 * MS, 0.2) is None
    times.add("map", "odom", 13_000 * MS)
    assert times.gap("odom", "map", 10_000 * MS, 0.2) == "odom"


@pytest.mark.parametrize(
    ("values", "changed"),
    [
        ([0, 0, 1, 0, 0, 0, 1], False),
        ([0, 0, 1, 0, 0, 0, -1], False),  # the same rotation
        ([0, 0, 1.01, 0, 0, 0, 1], True),
        ([0, 0, 1, 0, 0, 1, 0], True),
    ],
)
def test_a_static_transform_that_changes_is_noticed(values, changed):
    times = TfTimes()
    assert not times.add_static("base", "camera", np.array([0, 0, 1, 0, 0, 0, 1.0]))
    assert times.add_static("base", "camera", np.array(values, float)) is changed


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_the_work_in_miniature_is_done_by_every_backend(backend):
    assert warm_up(backend) > 0
