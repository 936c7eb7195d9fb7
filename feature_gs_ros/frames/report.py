"""What an alignment says about itself: residuals per view, outliers by name, uncertainty, warnings."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from feature_gs_ros.core.geometry import Sim3
from feature_gs_ros.frames.umeyama import Array
from feature_gs_ros.io.alignment import sim3_as_mapping

MAX_LISTED = 12  # views in a table for people


@dataclass(frozen=True)
class ViewResidual:
    """How far one view (or point) is off after alignment."""

    name: str
    millimetres: float  # in the map frame
    degrees: float = float("nan")
    pixels: float = float("nan")
    is_outlier: bool = False


@dataclass(frozen=True, eq=False)
class AlignmentReport:
    """An estimated ``splat_from_map``, and how good it is."""

    splat_from_map: Sim3
    method: str
    views: tuple[ViewResidual, ...]
    covariance: Array  # [7, 7] of (log scale, rotation vector in rad, translation in splat units), Cramér–Rao
    time_offset: float | None = None  # s to add to the stream's stamps to get the reference's
    flange_from_camera: Array | None = None  # [4, 4] metres
    flange_from_camera_sigma: tuple[float, float] | None = None  # degrees, millimetres
    warnings: tuple[str, ...] = field(default=())

    @property
    def outliers(self) -> tuple[str, ...]:
        return tuple(view.name for view in self.views if view.is_outlier)

    @property
    def rms_millimetres(self) -> float:
        """Of the views that aren't outliers."""
        return self._rms("millimetres")

    @property
    def rms_degrees(self) -> float:
        """Of the views that aren't outliers."""
        return self._rms("degrees")

    @property
    def rms_pixels(self) -> float:
        """Of the views that aren't outliers."""
        return self._rms("pixels")

    @property
    def scale_sigma(self) -> float:
        """One standard deviation of the scale, relative."""
        return float(np.sqrt(max(0.0, self.covariance[0, 0])))

    @property
    def rotation_sigma(self) -> float:
        """One standard deviation of the rotation, degrees (root of the sum over the axes)."""
        return float(np.degrees(np.sqrt(max(0.0, np.trace(self.covariance[1:4, 1:4])))))

    def as_json(self) -> dict[str, object]:
        """Plain values, as ``feature-gs align --json`` prints them."""
        content: dict[str, object] = {
            "splat_from_map": sim3_as_mapping(self.splat_from_map),
            "method": self.method,
            "views_used": len(self.views) - len(self.outliers),
            "outliers": list(self.outliers),
            "rms_mm": self.rms_millimetres,
            "rms_deg": self.rms_degrees,
            "rms_px": self.rms_pixels,
            "scale_sigma": self.scale_sigma,
            "rotation_sigma_deg": self.rotation_sigma,
            "time_offset_s": self.time_offset,
            "warnings": list(self.warnings),
            "views": [
                {"name": view.name, "mm": view.millimetres, "deg": view.degrees, "px": view.pixels,
                 "outlier": view.is_outlier}
                for view in self.views
            ],
        }  # fmt: skip
        if self.flange_from_camera is not None:
            content["flange_from_camera"] = self.flange_from_camera.tolist()
            degrees, millimetres = self.flange_from_camera_sigma or (float("nan"), float("nan"))
            content["flange_from_camera_sigma"] = {"deg": degrees, "mm": millimetres}
        return content

    def table(self) -> str:
        """For people: the worst views, then the sums."""
        lines = [f"{'view':<24}{'mm':>10}{'deg':>9}{'px':>8}"]
        ranked = sorted(self.views, key=lambda view: (not view.is_outlier, -_shown(view.millimetres)))
        for view in ranked[:MAX_LISTED]:
            mark = "  outlier" if view.is_outlier else ""
            columns = f"{_text(view.millimetres, 2):>10}{_text(view.degrees, 3):>9}{_text(view.pixels, 2):>8}"
            lines.append(f"{view.name[:23]:<24}{columns}{mark}")
        if len(ranked) > MAX_LISTED:
            lines.append(f"… and {len(ranked) - MAX_LISTED} better ones")
        lines.append(self.summary())
        return "\n".join(lines)

    def summary(self) -> str:
        """One line."""
        parts = [f"{self.method}: {len(self.views) - len(self.outliers)} of {len(self.views)} used"]
        for value, digits, unit in (
            (self.rms_millimetres, 2, "mm"), (self.rms_degrees, 3, "deg"), (self.rms_pixels, 2, "px"),
        ):  # fmt: skip
            if np.isfinite(value):
                parts.append(f"{value:.{digits}f} {unit} rms")
        parts.append(f"scale {self.splat_from_map.scale:.6g} ± {100 * self.scale_sigma:.2g}%")
        if self.time_offset is not None:
            parts.append(f"time offset {1000 * self.time_offset:.1f} ms")
        if self.outliers:
            parts.append(f"outliers: {', '.join(self.outliers[:MAX_LISTED])}")
        return ", ".join(parts)

    def _rms(self, quantity: str) -> float:
        values = np.array([getattr(view, quantity) for view in self.views if not view.is_outlier], dtype=np.float64)
        values = values[np.isfinite(values)]
        return float(np.sqrt((values**2).mean())) if len(values) else float("nan")


def _shown(value: float) -> float:
    return value if np.isfinite(value) else 0.0


def _text(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if np.isfinite(value) else "-"
