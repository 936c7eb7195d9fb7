"""~/status and /diagnostics: what was taken in, what was left out and why, how much of the map was seen."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from feature_gs_ros.io.messages.feature_grid import fill_extractor
from feature_gs_ros.live.health import Health, Level, Sample
from feature_gs_ros.live.pose_check import LivePoseCheck
from feature_gs_ros.msg import Count, Status
from feature_gs_ros.numerics.simd import reason_for_scalars
from feature_gs_ros.ros.convert.answers import header_message
from feature_gs_ros.ros.nodes.session import Session


def status_message(session: Session, stamp: Any) -> Any:
    """A report of the session so far; rates count from the last one. Nothing of it waits for the device."""
    report, field = session.statistics.report(), session.field
    message = Status(header=header_message(session.settings.map_frame, stamp))
    message.frames_seen, message.frames_used = report.seen, report.used
    message.frames_skipped = [Count(reason=reason, count=count) for reason, count in sorted(report.skipped.items())]
    message.messages_refused = report.refused
    message.rate_seen, message.rate_used, message.latency = report.rate_seen, report.rate_used, report.latency
    message.gaussians, message.views, message.coverage = len(field.gaussians), field.views, field.coverage()
    message.field_bytes, message.process_bytes = field.memory(), resident_bytes()
    card = field.measured.card
    message.backend, message.device = field.backend.name, card.name
    message.card_bytes, message.card_free_bytes = card.total, card.free
    fill_extractor(message.extractor, field.map.extractor.identity)
    return message


def diagnostics_message(status: Any, name: str, health: Health, pose_check: LivePoseCheck) -> Any:
    """The same for a diagnostic aggregator, with the last period's level: see `Health.judge`.

    Images that show the map from elsewhere than tf says raise it: ERROR where most do, WARN where some do.
    """
    skipped = {count.reason: count.count for count in status.frames_skipped}
    level, text = health.judge(
        Sample(
            time.monotonic(),
            status.frames_seen,
            status.frames_used,
            skipped,
            status.latency,
            status.views,
            status.coverage,
        )
    )
    for finding in pose_check.findings:
        found = Level.ERROR if finding.severity == "error" else Level.WARN
        if found > level:
            level, text = found, f"{finding.what}: record and run feature-gs doctor"
    entry = DiagnosticStatus(level=bytes([level]), name=name, hardware_id="none", message=text)
    values = {
        "frames seen": status.frames_seen,
        "frames used": status.frames_used,
        "rate used [Hz]": round(status.rate_used, 2),
        "latency p95 [s]": round(status.latency, 3),
        "coverage": round(status.coverage, 4),
        **pose_check.counts,
        **{f"skipped: {reason}": count for reason, count in skipped.items()},
        **_backend_values(status),
    }
    entry.values = [KeyValue(key=key, value=str(content)) for key, content in values.items()]
    return DiagnosticArray(header=status.header, status=[entry])


def _backend_values(status: Any) -> dict[str, object]:
    """What rasterises, and the memory of its card if it has one."""
    values: dict[str, object] = {"rasterizer": status.backend, "device": status.device}
    values["vector instructions"] = reason_for_scalars() or "yes"
    if status.card_bytes > 0:
        values["card memory free [GB]"] = round(status.card_free_bytes / 1e9, 2)
        values["card memory [GB]"] = round(status.card_bytes / 1e9, 2)
    return values


def resident_bytes() -> int:
    """Memory of this process, 0 where the kernel doesn't say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * 4096
