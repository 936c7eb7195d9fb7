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
    means, opacities = gaussians.means.double().numpy(), gaussians.opacities.double().numpy()
    near = (np.abs(means - centre) < SURROUNDINGS * side).all(axis=1) & (opacities >= MIN_OPACITY)
    rows = np.nonzero(near)[0]
    if len(rows) < MIN_POINTS:
        return part
    points, weights = means[rows], opacities[rows]
    found = []
    for tolerance in PLANE_SIDES:
        standing = ~_support(points, weights, tolerance * side, seed)
        own = _cluster_of(points, weights, part.numpy()[rows], standing)
        if own is None:
            return part
        ends = np.quantile(points[own], [TRIM, 1 - TRIM], axis=0)
        if bool((np.abs(ends - centre) >= 0.9 * SURROUNDINGS * side).any()):
            return part  # it goes on beyond what was looked at
        found.append(own)
    common, either = found[0] & found[1], found[0] | found[1]
    if weights[common].sum() < MIN_AGREEMENT * weights[either].sum():
        return part
    total, contained = weights[found[0]].sum(), weights[found[0] & part.numpy()[rows]].sum()
    if total > MAX_GROWTH * contained or contained > WHOLE * total:
        return part
    grown = part.clone()
    grown[torch.from_numpy(rows[found[0]])] = True
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


def _support(points: Array, weights: Array, tolerance: float, seed: int) -> NDArray[np.bool_]:
    """The points [M] within ``tolerance`` of the plane that bears most weight, or none if that is little."""
    rng = np.random.default_rng(seed)
    sample = rng.permutation(len(points))[:PLANE_SAMPLE]
    tried, borne_by = points[sample], weights[sample]
    best, plane = MIN_SUPPORT * borne_by.sum(), None
    for first, second, third in tried[rng.integers(0, len(tried), (PLANE_TRIALS, 3))]:
        normal = np.cross(second - first, third - first)
        length = float(np.linalg.norm(normal))
        if length == 0:
            continue
        borne = float(borne_by[np.abs((tried - first) @ (normal / length)) < tolerance].sum())
        if borne > best:
            best, plane = borne, (first, normal / length)
    if plane is None:
        return np.zeros(len(points), np.bool_)
    return np.asarray(np.abs((points - plane[0]) @ plane[1]) < tolerance)
