"""IoU and boundary IoU of binary masks by prompt, averaged as Gaussian Grouping does; tables of the result."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from feature_gs_ros.core.errors import EvaluationError
from feature_gs_ros.evaluation.metrics import boundary_iou
from feature_gs_ros.evaluation.protocols.published import PublishedRow

Mask = NDArray[np.bool_]


class PromptScores:
    """Collects one pair of masks after another: the mean over a prompt's images, then over the prompts."""

    def __init__(self) -> None:
        self._iou: dict[str, list[float]] = defaultdict(list)
        self._boundary: dict[str, list[float]] = defaultdict(list)

    def add(self, prompt: str, predicted: Mask, true: Mask) -> None:
        """Count one image's masks [H, W].

        Raises:
            EvaluationError: the sizes differ.
        """
        if predicted.shape != true.shape:
            raise EvaluationError(
                f"prediction is {predicted.shape}, truth {true.shape}: not the same size", code="evaluation.size"
            )
        union = int((predicted | true).sum())
        self._iou[prompt].append(float((predicted & true).sum() / union) if union else float("nan"))
        self._boundary[prompt].append(boundary_iou(predicted, true))

    def iou(self) -> dict[str, float]:
        """Mean over the images, by prompt; images where the prompt is neither there nor predicted don't count."""
        return {prompt: _mean(values) for prompt, values in self._iou.items()}

    def boundary(self) -> dict[str, float]:
        """The same of the boundary IoU."""
        return {prompt: _mean(values) for prompt, values in self._boundary.items()}


@dataclass(frozen=True)
class ProtocolResult:
    """One scene's figures in one protocol."""

    protocol: str
    scene: str
    metrics: dict[str, float]  # by name, in 0..1
    prompts: dict[str, dict[str, float]]  # metrics by prompt
    views: int
    asked: int  # prompts that the scene has in this protocol
    scored: int  # of these; with fewer the figures are not what others publish of the scene
    skipped: dict[str, str] = field(default_factory=dict)  # what was left out: why

    @property
    def complete(self) -> bool:
        """Every prompt was scored, as in published figures."""
        return self.scored == self.asked

    def as_json(self) -> dict[str, object]:
        return {
            "protocol": self.protocol,
            "scene": self.scene,
            "metrics": _rounded(self.metrics),
            "prompts": {prompt: _rounded(metrics) for prompt, metrics in self.prompts.items()},
            "views": self.views,
            "prompts_asked": self.asked,
            "prompts_scored": self.scored,
            "comparable": self.complete,
            "skipped": self.skipped,
        }

    def table(self, published: Sequence[PublishedRow] = ()) -> str:
        """Figures by prompt, then the means in percent beside the published ones."""
        names = list(self.metrics)
        width = max([len(prompt) for prompt in self.prompts] + [len(row.method) + 12 for row in published] + [12])
        lines = [f"{self.protocol}, {self.scene}, {self.views} views"]
        lines.append(f"{'':<{width}}" + "".join(f"{name:>10}" for name in names))
        rows = [*self.prompts.items(), ("this map", self.metrics)]
        lines += [
            f"{label:<{width}}" + "".join(f"{100 * metrics.get(name, np.nan):>10.1f}" for name in names)
            for label, metrics in rows
        ]
        if not self.complete:
            lines[-1] += f"  {self.scored} of {self.asked} prompts were scored: not comparable with published figures"
        for row in published:
            figures = [row.figures.get(f"{self.scene} {name}", row.figures.get(name, np.nan)) for name in names]
            if np.isfinite(figures).any():
                cells = "".join(f"{value:>10.1f}" if np.isfinite(value) else f"{'-':>10}" for value in figures)
                lines.append(f"{row.method + ' (published)':<{width}}{cells}  {row.source}")
        lines += [f"left out: {name} ({why})" for name, why in self.skipped.items()]
        return "\n".join(lines)


def summarised(
    protocol: str, scene: str, scores: PromptScores, views: int, skipped: Mapping[str, str], asked: Collection[str]
) -> ProtocolResult:
    """Means over the prompts.

    Args:
        asked: every prompt of the scene, scored or not.

    Raises:
        EvaluationError: nothing was scored.
    """
    iou, boundary = scores.iou(), scores.boundary()
    if not iou:
        reasons = "; ".join(f"{name}: {why}" for name, why in list(skipped.items())[:3])
        raise EvaluationError(
            f"nothing of '{scene}' could be evaluated ({reasons or 'no masks'})", code="evaluation.empty"
        )
    return ProtocolResult(
        protocol,
        scene,
        {"mIoU": _mean(list(iou.values())), "mBIoU": _mean(list(boundary.values()))},
        {prompt: {"mIoU": iou[prompt], "mBIoU": boundary[prompt]} for prompt in sorted(iou)},
        views,
        len(set(asked)),
        len(iou),
        dict(skipped),
    )


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else float("nan")


def _rounded(metrics: Mapping[str, float]) -> dict[str, float | None]:
    return {name: round(value, 6) if np.isfinite(value) else None for name, value in metrics.items()}
