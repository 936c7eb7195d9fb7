"""``splat_from_map`` from named pairs of 3D points."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from feature_gs_ros.core.errors import AlignmentError
from feature_gs_ros.frames.report import AlignmentReport, ViewResidual
from feature_gs_ros.frames.umeyama import Array, fit_points
from feature_gs_ros.io.structured import numbers, read_mapping


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
    points = content.get("points", content)
    if isinstance(points, list):
        points = {str(_of(entry).get("name", index)): entry for index, entry in enumerate(points, start=1)}
    if not isinstance(points, Mapping) or not points:
        raise AlignmentError(
            f"'{path}' holds no points; expected points: {{NAME: {{map: [x, y, z], splat: [x, y, z]}}}}"
        )
    sides: dict[str, list[tuple[float, ...]]] = {"map": [], "splat": []}
    for name, entry in points.items():
        for side, values in sides.items():
            value = numbers(_of(entry).get(side), f"'{side}' of point '{name}' in '{path}'", AlignmentError)
            if len(value) != 3:
                raise AlignmentError(f"'{side}' of point '{name}' in '{path}' has {len(value)} numbers, expected 3")
            values.append(value)
    return tuple(str(name) for name in points), np.array(sides["map"]), np.array(sides["splat"])


def _of(entry: object) -> Mapping[str, object]:
    return entry if isinstance(entry, Mapping) else {}
