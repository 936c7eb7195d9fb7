"""Findings: what is wrong with a stream, how sure that is, in which frames, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from feature_gs_ros.io.structured import Table

Severity = Literal["error", "warning", "note"]  # certainly wrong; probably wrong; worth knowing

MAX_LISTED = 8
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """One fault, or something worth knowing."""

    code: str  # stable, e.g. "poses.inverse"
    severity: Severity
    confidence: float  # 0..1
    what: str
    advice: str
    frames: tuple[str, ...] = ()  # names; empty where it is all of them
    values: Mapping[str, float] = field(default_factory=dict)  # measured, with the unit in the name

    def __str__(self) -> str:
        listed = ", ".join(self.frames[:MAX_LISTED]) + (" …" if len(self.frames) > MAX_LISTED else "")
        where = f" [{listed}]" if self.frames else ""
        return f"{self.severity}: {self.what}{where} ({self.code}, {self.confidence:.0%} sure). {self.advice}"

    def as_json(self) -> dict[str, object]:
        return {
            "code": self.code,
            "severity": self.severity,
            "confidence": round(self.confidence, 3),
            "what": self.what,
            "advice": self.advice,
            "frames": list(self.frames),
            "values": {name: float(value) for name, value in self.values.items()},
        }

    @staticmethod
    def from_table(content: Table) -> Finding:
        """What `as_json` gave.

        Raises:
            FeatureGsError: the table's error: it didn't.
        """
        values = content.table("values")
        return Finding(
            content.text("code"),
            content.choice("severity", SEVERITIES),
            content.number("confidence"),
            content.text("what"),
            content.text("advice"),
            content.texts("frames"),
            {name: values.number(name) for name in values},
        )


def ranked(findings: list[Finding]) -> tuple[Finding, ...]:
    """The gravest and surest first."""
    return tuple(sorted(findings, key=lambda finding: (SEVERITIES.index(finding.severity), -finding.confidence)))
