"""``splat_from_map`` from named pairs of 3D points."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from feature_gs_ros.core.errors import AlignmentError
from feature_gs_ros.frames.report import AlignmentReport, ViewResidual
from feature_gs_ros.frames.umeyama import Array, fit_points
from feature_gs_ros.io.structured import Table, read_mapping


def align_points(names: tuple[str, ...], in_map: Array, in_splat: Array) -> AlignmentReport:
    """The similarity that takes points [N, 3] of the map frame (metres) to the splat's, wrong pairs left out.

    Raises:
        AlignmentError: fewer than three pairs, or all on a line.
    """
    fit = fit_points(in_map, in_splat)
    transform = fit.target_from_source
    distances = np.linalg.norm(transform.apply(in_map) - in_splat, axis=1) / transform.scale
    warnings: tuple[str, ...] = ()
    if len(names) == 3:
        warnings = ("three pairs of points fit whatever they are, but for their triangle's shape: give four or more",)
    return AlignmentReport(
        transform,
        "point pairs",
        tuple(
            ViewResidual(name, 1000 * float(distance), is_outlier=not inlier)
            for name, distance, inlier in zip(names, distances, fit.inliers, strict=True)
        ),
        fit.covariance,
        warnings=warnings,
    )


def load_point_pairs(path: str | Path) -> tuple[tuple[str, ...], Array, Array]:
    """Names and points [N, 3] in both frames of a YAML file of ``points: {NAME: {map: [x, y, z], splat: [x, y, z]}}``.

    Raises:
        AlignmentError: the file says something else.
    """
    path = Path(path)
    content = read_mapping(path, AlignmentError)
    table = Table(content if "points" in content else {"points": content}, f"'{path}'", AlignmentError)
    if isinstance(table.get("points"), list):
        points = {entry.text("name", str(k)): entry for k, entry in enumerate(table.tables("points"), start=1)}
    else:
        points = table.named_tables("points")
    sides = {side: [entry.numbers(side, 3) for entry in points.values()] for side in ("map", "splat")}
    return tuple(points), np.array(sides["map"]), np.array(sides["splat"])
