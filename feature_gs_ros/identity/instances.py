"""Objects without any annotation: features and places of Gaussians cluster into instances with ids."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.spatial import cKDTree
from sklearn.cluster import HDBSCAN
from torch import Tensor
from torch.nn import functional

from feature_gs_ros.errors import IdentityError
from feature_gs_ros.field import FeatureField
from feature_gs_ros.gaussians import GaussianMap
from feature_gs_ros.rasterizer import FeatureGrid, View

SAMPLES = 8000
SMALLEST = 25  # samples of a cluster
PLACE = 1.0  # how much places count beside features
COMPONENTS = 8


def find_instances(
    gaussians: GaussianMap,
    field: FeatureField,
    views: Sequence[View],
    *,
    samples: int = SAMPLES,
    smallest: int = SMALLEST,
    place: float = PLACE,
    seed: int = 0,
) -> Tensor:
    """Instance id [N] int32 of every Gaussian from 1, 0 where none fits.

    HDBSCAN clusters a sample, drawn by opacity from what was seen, on the features' principal components and places.
    Then the operator spreads the sample's ids: rendered into the views each pixel takes the id of most weight, and
    back-projected each Gaussian takes the id of most pixels (``argmax Wᵀ argmax W``); what no view shows follows its
    nearest sample.

    Args:
        views: of the map, to spread the ids by; none: the nearest sample decides everywhere.
        samples: Gaussians that are clustered.
        smallest: samples of the smallest cluster.
        place: how much places count beside features.

    Raises:
        IdentityError: nothing was seen, or too little to cluster.
        FieldError: the field belongs to another map.
    """
    field.check_map(gaussians)
    rows = (field.seen & (gaussians.opacities > 0)).nonzero()[:, 0]
    if len(rows) < 2 * smallest:
        raise IdentityError(
            f"{len(rows)} Gaussians were seen, too few for clusters of {smallest}; back-project more views"
        )
    generator = torch.Generator().manual_seed(seed)
    if len(rows) > samples:
        rows = rows[torch.multinomial(gaussians.opacities[rows].double(), samples, generator=generator)]
    found = HDBSCAN(min_cluster_size=smallest, copy=True).fit_predict(
        _coordinates(gaussians, field, rows, place).numpy()
    )
    clusters = int(found.max()) + 1
    if clusters == 0:
        return torch.zeros(len(gaussians), dtype=torch.int32)
    ids = torch.from_numpy(found.astype(np.int64))
    labels = _of_nearest(gaussians, rows[ids >= 0], ids[ids >= 0])
    votes = torch.zeros(len(gaussians), clusters)
    carriers = torch.zeros(len(gaussians), clusters)
    carriers[rows[ids >= 0], ids[ids >= 0]] = 1.0
    for view in views:
        image = view.render(carriers)
        weight, winner = image.max(dim=2)
        grid = functional.one_hot(winner, clusters).float() * (weight > 0).unsqueeze(2)
        votes += view.backproject(FeatureGrid(grid, interpolation="nearest"))[0]
    told = votes.amax(dim=1) > 0
    return torch.where(told, votes.argmax(dim=1), labels).add(1).to(torch.int32)


def _coordinates(gaussians: GaussianMap, field: FeatureField, rows: Tensor, place: float) -> Tensor:
    """[S, C + 3]: the leading components of unit features, of standard deviation 1 together, and places likewise."""
    features = functional.normalize(field.decoded(rows), dim=1)
    centred = features - features.mean(dim=0)
    width = min(COMPONENTS, *centred.shape)
    _, _, axes = torch.linalg.svd(centred, full_matrices=False)
    components = centred @ axes[:width].T
    components = components / components.norm(dim=1).pow(2).mean().sqrt().clamp_min(1e-9)
    means = gaussians.means[rows]
    offsets = means - means.median(dim=0).values
    spread = offsets.norm(dim=1).median().clamp_min(1e-9)
    return torch.cat([components, place * offsets / spread], dim=1)


def _of_nearest(gaussians: GaussianMap, rows: Tensor, ids: Tensor) -> Tensor:
    _, nearest = cKDTree(gaussians.means[rows].numpy()).query(gaussians.means.numpy())
    return ids[torch.from_numpy(nearest)]
