"""Regions: from transferred labels to connected parts with a pose for a gripper, in the map frame, in metres."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from feature_gs_ros.affordance.grasps import TRIM, Surroundings, choose_grasp, unit
from feature_gs_ros.affordance.transfer import Transfer
from feature_gs_ros.backprojection.field import FeatureField
from feature_gs_ros.core.errors import PromptError
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.core.geometry import (
    camera_centre,
    quat_wxyz_from_rotation,
    rotations_from_quats_wxyz,
)
from feature_gs_ros.numerics.point_grid import weighted_quantiles
from feature_gs_ros.query.masks_3d import MIN_SUMMED_OPACITY
from feature_gs_ros.query.objects import cluster

Array = NDArray[np.float64]

NEARBY = 0.1  # m around a region in which the map may be in a gripper's way
UP = np.array([0.0, 0.0, 1.0])  # of the map frame: outward where no camera is known


@dataclass(frozen=True, eq=False)
class Region:
    """A connected part of one affordance. Directions are unit vectors, everything is in the map frame."""

    affordance: str
    label: int  # 1 + its index among the affordances transferred: the cloud's ``affordance_id``
    rows: NDArray[np.int64]  # rows of the map
    center: Array  # [3] m, middle of the extent along the principal axes
    centroid: Array  # [3] m, opacity-weighted mean
    quat_wxyz: Array  # [4] map from region: x along the major principal axis, z the minor one, facing outward
    extent: Array  # [3] m, along these axes
    normal: Array  # [3] mean outward normal
    approach: Array  # [3] the way a gripper comes, at right angles to the major axis; see `choose_grasp`
    closing: Array  # [3] the way its fingers close: across the major axis and the approach
    gripper_width: float  # m, extent along ``closing``
    similarity: float  # opacity-weighted mean of the best cosines
    probability: float  # opacity-weighted mean of the votes
    coverage: float  # opacity-weighted fraction of the Gaussians in the region's box that were seen
    opacity: float  # summed

    @property
    def gripper_quat_wxyz(self) -> Array:
        """[4] map from gripper: z is the approach, y the closing direction."""
        return quat_wxyz_from_rotation(
            np.stack([np.cross(self.closing, self.approach), self.closing, self.approach], axis=1)
        )


def find_regions(
    gaussians: GaussianMap,
    field: FeatureField,
    transferred: Transfer,
    radius: float | None = None,
    smallest_opacity: float = MIN_SUMMED_OPACITY,
) -> list[Region]:
    """Connected components of each affordance; by affordance, the most opaque first. None is an answer: [].

    Args:
        radius: metres within which Gaussians belong together; three times their own spacing by default.
        smallest_opacity: summed; components with less are left out.

    Raises:
        PromptError: ``radius`` is not positive.
        FieldError: the field belongs to another map.
    """
    if radius is not None and not radius > 0:
        raise PromptError(f"the regions' radius is {radius} m, expected a positive length", code="prompt.range")
    field.check_map(gaussians)
    map_from_splat = field.provenance.splat_from_map.inverse()
    everything = map_from_splat.apply(gaussians.means.numpy())
    cameras = camera_centers(field)
    labels = transferred.label.numpy()
    found = []
    for label, affordance in enumerate(transferred.affordances, start=1):
        rows = np.flatnonzero(labels == label)
        if len(rows) == 0:
            continue
        opacities = gaussians.opacities[rows].numpy().astype(np.float64)
        components = cluster(everything[rows], opacities, radius)
        regions = []
        for component in range(components.max() + 1):
            members = components == component
            if opacities[members].sum() >= smallest_opacity:
                regions.append(
                    _region(gaussians, field, transferred, everything, cameras, affordance, label, rows[members])
                )
        found += sorted(regions, key=lambda region: -region.opacity)
    return found


def camera_centers(field: FeatureField) -> Array:
    """Centres [V, 3] m, in the map frame, of the cameras that the field remembers."""
    map_from_splat = field.provenance.splat_from_map.inverse()
    poses = [view.camera_from_splat for view in field.provenance.views]
    centers = np.array([camera_centre(pose) for pose in poses]).reshape(-1, 3)
    return map_from_splat.apply(centers)


def gaussian_normals(gaussians: GaussianMap, rows: NDArray[np.int64]) -> tuple[Array, Array]:
    """Direction [M, 3] of each Gaussian's shortest axis, splat frame, either way; and how flat it is, [M] in 0..1."""
    quats = gaussians.quats_wxyz[rows].double()
    scales = gaussians.scales[rows].double()
    columns = rotations_from_quats_wxyz(quats).transpose(1, 2)  # [M, axis, 3]
    ordered, order = scales.sort(dim=1)
    normals = columns[torch.arange(len(quats)), order[:, 0]]
    flatness = 1 - ordered[:, 0] / ordered[:, 1].clamp_min(1e-300)
    return normals.numpy(), flatness.numpy()


def _region(
    gaussians: GaussianMap,
    field: FeatureField,
    transferred: Transfer,
    everything: Array,  # [N, 3] the map's means, map frame
    cameras: Array,  # [V, 3] map frame
    affordance: str,
    label: int,
    rows: NDArray[np.int64],
) -> Region:
    points = everything[rows]
    opacities = gaussians.opacities[rows].numpy().astype(np.float64)
    weights = opacities / opacities.sum()
    centroid = weights @ points
    normals, flatness = gaussian_normals(gaussians, rows)
    normals = normals @ field.provenance.splat_from_map.inverse().rotation.T
    normal = mean_outward_normal(normals, weights * flatness, centroid, cameras)
    axes = principal_axes(points - centroid, weights, normal)
    bounds = np.array([weighted_quantiles(points @ axis, weights, [TRIM, 1 - TRIM]) for axis in axes.T])
    grasp = choose_grasp(points, opacities, axes, normal, _surroundings(gaussians, everything, rows))
    center = axes @ bounds.mean(axis=1)
    extent = bounds[:, 1] - bounds[:, 0]
    return Region(
        affordance=affordance,
        label=label,
        rows=rows,
        center=center,
        centroid=centroid,
        quat_wxyz=quat_wxyz_from_rotation(axes),
        extent=extent,
        normal=normal,
        approach=grasp.approach,
        closing=grasp.closing,
        gripper_width=grasp.width,
        similarity=float(weights @ transferred.similarity[rows].numpy()),
        probability=float(weights @ transferred.probability[rows, label].numpy()),
        coverage=_coverage(gaussians, field, everything, center, axes, extent),
        opacity=float(opacities.sum()),
    )


def principal_axes(centred: Array, weights: Array, outward: Array) -> Array:
    """Columns x, y, z of a rotation [3, 3]: axes of points [M, 3] by falling variance; z faces ``outward`` [3]."""
    _, vectors = np.linalg.eigh((centred * weights[:, None]).T @ centred)
    x, z = vectors[:, 2], vectors[:, 0]
    z = -z if z @ outward < 0 else z
    return np.stack([x, np.cross(z, x), z], axis=1)


def mean_outward_normal(normals: Array, weights: Array, centroid: Array, cameras: Array) -> Array:
    """Unit mean [3] of normals [M, 3] with weights [M], each as the cameras [V, 3] see it: ``Σ w (n·o) n``.

    o points to the cameras. A surface is seen from outside, so n·o gives a normal its sign, and its size is how much
    of the surface faces them: sides that are seen edge on, or from both sides of an object, don't tilt the mean.
    Without cameras outward is up; where no normal says anything, towards the cameras.
    """
    towards = cameras - centroid
    distances = np.linalg.norm(towards, axis=1, keepdims=True)
    outward = unit((towards / np.maximum(distances, 1e-12)).sum(axis=0), UP)
    return unit((weights * (normals @ outward)) @ normals, outward)


def _surroundings(gaussians: GaussianMap, everything: Array, rows: NDArray[np.int64]) -> Surroundings:
    """The map within `NEARBY` of a region's rows, without them."""
    low, high = everything[rows].min(axis=0) - NEARBY, everything[rows].max(axis=0) + NEARBY
    near = ((everything > low) & (everything < high)).all(axis=1)
    near[rows] = False
    return Surroundings(everything[near], gaussians.opacities[near].numpy().astype(np.float64))


def _coverage(
    gaussians: GaussianMap, field: FeatureField, everything: Array, center: Array, axes: Array, extent: Array
) -> float:
    """Fraction of the opacity inside the region's box that was seen."""
    offsets = (everything - center) @ axes
    return field.coverage(gaussians, torch.from_numpy((np.abs(offsets) <= extent / 2).all(axis=1)))
