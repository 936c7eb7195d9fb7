"""From a part of an object, which is all that a coarse feature may select, to the whole: what stands free around it."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.query.objects import cluster

Extent = Literal["part", "object"]
Array = NDArray[np.float64]

MAX_OBJECTS = 3  # that are grown
MIN_SIZE = 0.2  # of the largest object's opacity, from which another is grown
SURROUNDINGS = 3.0  # longest sides of the part around its centre, in which the whole must lie
MIN_OPACITY = 0.3  # of a Gaussian that belongs to a surface
MIN_SUPPORT = 0.2  # fraction of the surroundings' opacity that makes a plane the support
PLANE_TRIALS = 200
PLANE_SAMPLE = 2000  # points that a trial counts
PLANE_SIDES = (0.1, 0.2)  # longest sides of the part, on both sides of the plane, that belong to it: both must agree
MIN_AGREEMENT = 0.7  # intersection over union of the objects found with the two
MIN_CONTAINED = 0.7  # fraction of the part that the whole must contain
MAX_GROWTH = 6.0  # opacity of the whole in those of the part
MIN_POINTS = 8
WHOLE = 0.8  # fraction of the whole from which the part is left as it is
TRIM = 0.02  # of the points beyond each face of a box


def whole_objects(gaussians: GaussianMap, mask: Tensor) -> Tensor:
    """The objects of which a mask [N] bool holds parts: `whole_object` of each of its larger clusters, and the mask."""
    rows = mask.nonzero()[:, 0]
    opacities = gaussians.opacities[rows].double().numpy()
    labels = cluster(gaussians.means[rows].double().numpy(), opacities)
    sizes = np.bincount(labels[labels >= 0], opacities[labels >= 0], minlength=1)
    grown = mask.clone()
    for index in np.argsort(-sizes)[:MAX_OBJECTS].tolist():
        if sizes[index] >= max(MIN_SIZE * sizes.max(), 1.0):
            part = torch.zeros_like(mask)
            part[rows[torch.from_numpy(labels == index)]] = True
            grown |= whole_object(gaussians, part)
    return grown


def whole_object(gaussians: GaussianMap, part: Tensor, seed: int = 0) -> Tensor:
    """Grow a part to the object that holds it together, if there is one that stands free.

    In the part's surroundings the support (a plane that bears much of the opacity) is taken away, and what remains is
    clustered by nearness. The cluster that contains most of the part is the object if it is compact: it ends within the
    surroundings, and is not many times the part. Else the part stays as it is.

    Args:
        part: [N] bool, one connected selection.

    Returns:
        [N] bool, the part and whatever else of the object there is.
    """
    chosen = gaussians.means[part].double().numpy()
    if len(chosen) < MIN_POINTS:
        return part
    low, high = np.quantile(chosen, [TRIM, 1 - TRIM], axis=0)
    side = float((high - low).max())
    centre = (low + high) / 2
    rows = _surroundings(gaussians, centre, SURROUNDINGS * side)
    if len(rows) < MIN_POINTS:
        return part
    points, weights = gaussians.means[rows].double().numpy(), gaussians.opacities[rows].double().numpy()
    chosen_here = part[rows].numpy()
    supports = _supports(points, weights, tuple(fraction * side for fraction in PLANE_SIDES), seed)
    found = []
    for support in supports:
        own = _cluster_of(points, weights, chosen_here, ~support)
        if own is None:
            return part
        ends = np.quantile(points[own], [TRIM, 1 - TRIM], axis=0)
        if bool((np.abs(ends - centre) >= 0.9 * SURROUNDINGS * side).any()):
            return part  # it goes on beyond what was looked at
        found.append(own)
    common, either = found[0] & found[1], found[0] | found[1]
    if weights[common].sum() < MIN_AGREEMENT * weights[either].sum():
        return part
    total, contained = weights[found[0]].sum(), weights[found[0] & chosen_here].sum()
    if total > MAX_GROWTH * contained or contained > WHOLE * total:
        return part
    grown = part.clone()
    grown[rows[torch.from_numpy(found[0])]] = True
    return grown


def _cluster_of(
    points: Array, weights: Array, part: NDArray[np.bool_], standing: NDArray[np.bool_]
) -> NDArray[np.bool_] | None:
    """[M] bool, the cluster of the ``standing`` points that contains most of the part; None where none does."""
    if standing.sum() < MIN_POINTS:
        return None
    labels = np.full(len(points), -1)
    labels[standing] = cluster(points[standing], weights[standing])
    voting = part & (labels >= 0)
    votes = np.bincount(labels[voting], weights[voting], minlength=1)
    if votes.max() <= 0 or votes.max() < MIN_CONTAINED * weights[part & standing].sum():
        return None
    return np.asarray(labels == int(votes.argmax()))


def _surroundings(gaussians: GaussianMap, centre: Array, half_side: float) -> Tensor:
    """Rows [M] of the Gaussians of a surface in the cube of this half side [splat units] around a point [3]."""
    apart = (gaussians.means - torch.from_numpy(centre).float()).abs_()
    near = (apart < half_side).all(dim=1) & (gaussians.opacities >= MIN_OPACITY)
    return near.nonzero()[:, 0]


def _supports(points: Array, weights: Array, tolerances: tuple[float, ...], seed: int) -> list[NDArray[np.bool_]]:
    """Per tolerance the points [M] within it of the plane that bears most weight so, or none if that is little.

    Planes through three points each are tried on a sample; all of them at once, as products of matrices.
    """
    rng = np.random.default_rng(seed)
    sample = rng.permutation(len(points))[:PLANE_SAMPLE]
    tried, borne_by = points[sample], weights[sample]
    first, second, third = np.moveaxis(tried[rng.integers(0, len(tried), (PLANE_TRIALS, 3))], 1, 0)  # [P, 3] each
    normals = np.cross(second - first, third - first)
    lengths = np.linalg.norm(normals, axis=1)
    usable = lengths > 0
    if not usable.any():
        return [np.zeros(len(points), np.bool_) for _ in tolerances]
    normals, first = normals[usable] / lengths[usable, None], first[usable]
    offsets = (first * normals).sum(axis=1)
    distances = np.abs(tried @ normals.T - offsets)  # [S, P]
    supports = []
    for tolerance in tolerances:
        borne = borne_by @ (distances < tolerance)
        best = int(borne.argmax())
        if borne[best] <= MIN_SUPPORT * borne_by.sum():
            supports.append(np.zeros(len(points), np.bool_))
        else:
            supports.append(np.abs((points - first[best]) @ normals[best]) < tolerance)
    return supports
