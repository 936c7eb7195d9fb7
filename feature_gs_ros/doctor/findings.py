"""Findings: what is wrong with a stream, how sure that is, in which frames, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Severity = Literal["error", "warning", "note"]  # certainly wrong; probably wrong; worth knowing

MAX_LISTED = 8
_RANK = {"error": 0, "warning": 1, "note": 2}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or worth knowing."""

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
    def from_json(content: Mapping[str, object]) -> Finding:
        """What `as_json` gave.

        Raises:
            KeyError, TypeError, ValueError: it didn't.
        """
        severity = str(content["severity"])
        if severity not in _RANK:
            raise ValueError(f"severity '{severity}'; expected {', '.join(_RANK)}")
        frames, values = content.get("frames", ()), content.get("values", {})
        if not isinstance(frames, (list, tuple)) or not isinstance(values, Mapping):
            raise TypeError("frames and values of a finding are a list and a mapping")
        return Finding(
            str(content["code"]),
            "error" if severity == "error" else "warning" if severity == "warning" else "note",
            float(str(content["confidence"])),
            str(content["what"]),
            str(content["advice"]),
            tuple(str(name) for name in frames),
            {str(name): float(value) for name, value in values.items()},
        )


def ranked(findings: list[Finding]) -> tuple[Finding, ...]:
    """The gravest and surest first."""
    return tuple(sorted(findings, key=lambda finding: (_RANK[finding.severity], -finding.confidence)))
