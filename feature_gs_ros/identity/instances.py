"""Objects without any annotation: features and positions of Gaussians are clustered into instances with ids."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import scipy.sparse
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from sklearn.cluster import HDBSCAN
from torch import Tensor
from torch.nn import functional

from feature_gs_ros.backprojection.field import FeatureField
from feature_gs_ros.core.errors import IdentityError
from feature_gs_ros.core.gaussians import GaussianMap
from feature_gs_ros.extractors.codes import IdentityExtractor
from feature_gs_ros.identity.codes import make_codes
from feature_gs_ros.identity.encoding import BACKGROUND, numbered_names
from feature_gs_ros.io.mask_shapes import mask_numbers
from feature_gs_ros.query.smoothing import GaussianGraph
from feature_gs_ros.rasterizer import View

Winners = NDArray[np.int64]

SAMPLES = 8000
CHUNK = 16384
MIN_SAMPLES = 40  # samples of a cluster
DENSITY = 10  # neighbours that make a sample the core of a cluster
MAX_FRACTION = 0.3  # of the samples: else the table with all that stands on it is the most stable cluster
PLACE = 1.0  # weight of positions beside features
SPACINGS = 8.0  # distances to the eighth neighbour that count like the features' standard deviation
SMOOTHING_RATE = (
    0.02  # rate of the walk over like neighbours that features take first: coarse grids end beyond outlines
)
COMPONENTS = 8
MAX_ORTHOGONAL = 64
CHANNELS = 64  # clusters that are rendered at once
MAX_PLACE = 1e6  # largest weight of positions


def find_instances(
    gaussians: GaussianMap,
    field: FeatureField,
    views: Sequence[View],
    *,
    samples: int = SAMPLES,
    smallest: int = MIN_SAMPLES,
    largest: float = MAX_FRACTION,
    place: float = PLACE,
    seed: int = 0,
    graph: GaussianGraph | None = None,
) -> Tensor:
    """Instance id [N] int32 of every Gaussian, one of `mask_numbers`; 0 where nothing was seen or there is no cluster.

    HDBSCAN clusters a sample, drawn by opacity from what was seen, on positions and the features' principal components,
    smoothed over like-coloured neighbours. What it calls noise joins the nearest cluster. Then the operator spreads the
    sample's ids: rendered into the views each pixel takes the id of most weight, and back-projected each Gaussian takes
    the id of most pixels (``argmax Wᵀ argmax W``); what was seen, but in none of these views, follows its nearest
    sample.

    Args:
        views: of the map, to spread the ids by; none: the nearest sample decides everywhere.
        samples: Gaussians that are clustered.
        smallest: samples of the smallest cluster.
        largest: fraction of the samples that one cluster may hold; what is larger comes in parts.
        place: weight of positions beside features.
        graph: of this map, if there is one already.

    Raises:
        IdentityError: a number out of range, nothing was seen, or too little to cluster.
        FieldError: the field belongs to another map.
    """
    _check(samples, smallest, largest, place)
    field.check_map(gaussians)
    rows = (field.seen & (gaussians.opacities > 0)).nonzero()[:, 0]
    if len(rows) < max(2 * smallest, DENSITY):
        raise IdentityError(
            f"{len(rows)} Gaussians were seen, too few for clusters of {smallest}; back-project more views",
            code="identity.too-few",
        )
    generator = torch.Generator().manual_seed(seed)
    if len(rows) > samples:
        rows = rows[torch.multinomial(gaussians.opacities[rows].double(), samples, generator=generator)]
    coordinates = _coordinates(gaussians, field, rows, place, graph or GaussianGraph.of(gaussians)).numpy()
    found = HDBSCAN(
        min_cluster_size=smallest,
        min_samples=DENSITY,
        max_cluster_size=max(smallest, int(largest * len(rows))),
        copy=True,
    ).fit_predict(coordinates)
    clusters = int(found.max()) + 1
    if clusters == 0:
        return torch.zeros(len(gaussians), dtype=torch.int32)
    _, nearest = cKDTree(coordinates[found >= 0]).query(coordinates)
    ids = torch.from_numpy(found[found >= 0][nearest].astype(np.int64))
    labels = _of_nearest(gaussians, rows, ids)
    votes = scipy.sparse.csr_matrix((len(gaussians), clusters), dtype=np.float32)
    for view, winners in zip(views, winning_clusters(views, len(gaussians), rows, ids, clusters), strict=True):
        votes = votes + view.backproject_labels(winners, clusters)
    voted = torch.from_numpy(votes.max(axis=1).toarray()[:, 0] > 0)
    most = torch.from_numpy(np.asarray(votes.argmax(axis=1)).ravel())
    numbers = torch.tensor(list(itertools.islice(mask_numbers(), clusters)))
    return torch.where(field.seen, numbers[torch.where(voted, most, labels)], BACKGROUND).to(torch.int32)


def instance_field(field: FeatureField, ids: Tensor) -> FeatureField:
    """A field of identity codes for ids [N] from `find_instances`, so that `Identities` and queries answer by them.

    Objects are called ``object 1`` …; codes are orthogonal up to `MAX_ORTHOGONAL` classes, contrastive beyond;
    they are 0 where nothing was seen.

    Raises:
        IdentityError: no instance was found.
    """
    if not bool((ids > 0).any()):
        raise IdentityError(
            "the features fall into no clusters; ask for smaller ones, or back-project more views",
            code="identity.no-clusters",
        )
    names = numbered_names([ids.numpy()])
    values = torch.tensor(sorted(names))
    book = make_codes("orthogonal" if len(names) <= MAX_ORTHOGONAL else "contrastive", len(names))
    extractor = IdentityExtractor({str(value): names[value] for value in sorted(names)}, book.kind, book.dimension)
    codes = book.codes[torch.searchsorted(values, ids.to(torch.int64))] * field.seen.unsqueeze(1)
    return replace(field, features=codes, extractor=extractor.identity, codec=book.codec())


def _check(samples: int, smallest: int, largest: float, place: float) -> None:
    if smallest < 2:
        raise IdentityError(f"smallest={smallest}: a cluster has at least 2 samples", code="identity.too-few")
    if samples < max(2 * smallest, DENSITY):
        raise IdentityError(
            f"samples={samples} are too few for clusters of {smallest}; choose {max(2 * smallest, DENSITY)} or more",
            code="identity.too-few",
        )
    if not 0 < largest <= 1:
        raise IdentityError(
            f"largest={largest} is not a fraction of the samples; choose more than 0, up to 1", code="identity.range"
        )
    if not 0 <= place <= MAX_PLACE:
        raise IdentityError(
            f"place={place} is out of range; choose 0 (features alone) to {MAX_PLACE:g}", code="identity.range"
        )


def winning_clusters(views: Sequence[View], count: int, rows: Tensor, ids: Tensor, clusters: int) -> list[Winners]:
    """The cluster [H, W] of most weight at each pixel of each view, −1 where there is none.

    Args:
        count: Gaussians of the map.
        rows: of the samples, [S].
        ids: their clusters, [S].
    """
    sizes = [(view.camera.height, view.camera.width) for view in views]
    weights = [torch.zeros(size) for size in sizes]
    winners = [torch.full(size, -1) for size in sizes]
    for first in range(0, clusters, CHANNELS):  # never a row of all clusters for each Gaussian
        some = (ids >= first) & (ids < first + CHANNELS)
        carriers = torch.zeros(count, min(CHANNELS, clusters - first))
        carriers[rows[some], ids[some] - first] = 1.0
        for view, weight, winner in zip(views, weights, winners, strict=True):
            most, index = view.render(carriers).max(dim=2)
            better = most > weight
            weight[better], winner[better] = most[better], index[better] + first
    return [winner.numpy() for winner in winners]


def _coordinates(
    gaussians: GaussianMap, field: FeatureField, rows: Tensor, place: float, graph: GaussianGraph
) -> Tensor:
    """[S, C + 3]: the leading components of unit features, of standard deviation 1 together, and scaled positions."""
    sample = functional.normalize(field.decoded(rows), dim=1)
    mean = sample.mean(dim=0)
    _, _, axes = torch.linalg.svd(sample - mean, full_matrices=False)
    chunks = torch.split(torch.arange(len(field)), CHUNK)
    components = torch.cat(
        [(functional.normalize(field.decoded(chunk), dim=1) - mean) @ axes[:COMPONENTS].T for chunk in chunks]
    )
    components = graph.smooth(components, SMOOTHING_RATE, field.seen)[rows]
    components = components / components.norm(dim=1).pow(2).mean().sqrt().clamp_min(1e-9)
    means = gaussians.means[rows].double().numpy()
    distances, _ = cKDTree(means).query(means, k=min(8, len(means)))
    spacing = max(float(np.median(distances[:, -1])), 1e-9)
    offsets = torch.from_numpy((means - np.median(means, axis=0)) / (SPACINGS * spacing)).float()
    return torch.cat([components, place * offsets], dim=1)


def _of_nearest(gaussians: GaussianMap, rows: Tensor, ids: Tensor) -> Tensor:
    _, nearest = cKDTree(gaussians.means[rows].numpy()).query(gaussians.means.numpy())
    return ids[torch.from_numpy(nearest)]
