"""Quality of service of each kind of topic."""

from __future__ import annotations

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

MIN_IMAGE_QUEUE = 10  # of an image queue

# For who comes late: RViz, a planner. A subscriber may still ask for less.
LATCHED = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
# What octomap's updaters subscribe is best effort and volatile; a reliable offer serves both.
EVENT = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
)
# Feature grids are megabytes, of which best effort loses some.
GRIDS = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=10, reliability=ReliabilityPolicy.RELIABLE)
STATUS = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=10, reliability=ReliabilityPolicy.RELIABLE)
# Requests wait their turn: with the usual depth of ten, of forty at once the last ones are never answered.
SERVICES = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=1000,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
)


def image_qos(reliability: str, depth: int) -> QoSProfile:
    """Of images: a "best_effort" subscription takes those of every publisher, a "reliable" one of reliable ones.

    What a reader's queue drops is reported to nobody, so it must be no shorter than the queue behind it.
    """
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=max(depth, MIN_IMAGE_QUEUE),
        reliability=ReliabilityPolicy[reliability.upper()],
        durability=DurabilityPolicy.VOLATILE,
    )
